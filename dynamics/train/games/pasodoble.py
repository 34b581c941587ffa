"""PasoDoble (arXiv 2511.11881): a proposer writes problems with answers of its own, a solver is paid for giving the same answers.

Both are models of their own, which begin as one base. The proposer is shown a passage and writes several problems, each with the answer
that it claims; the solver answers each problem several times. The share p of answers that agree with the claim is the problem's solve rate.
The proposer is paid for hard and diverse problems, the solver for agreeing, on the problems that it solves sometimes.

Here the executor, where problems are programs, says how often the claims are right, whoever pays. Intentional differences from the
paper and its public code are listed in docs/methods/pasodoble.md; R-Zero and SPICE are presets of the same game.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from dynamics.errors import InputError
from dynamics.train import proposer_rewards as rewards
from dynamics.train.answers import answer_metrics
from dynamics.train.completions import SampledCompletion
from dynamics.train.games.buffer import BufferEntry
from dynamics.train.games.game import Game, Play, Role, Turn, role_metrics
from dynamics.train.games.pasodoble_settings import PasoDobleConfig
from dynamics.train.games.passages import LEAK, NO_CLAIM, Draft, find
from dynamics.train.games.votes import majority
from dynamics.train.player import ONLY
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import COUNT, ProbePrompts, solver_probes
from dynamics.train.rng import stream
from dynamics.train.sandbox.literals import Refused
from dynamics.train.tasks.problem import Source
from dynamics.train.tasks.prompt_formats import encode_prompts, encode_questions, language_of
from dynamics.train.update import make_player

#: number of recent problems with which new ones are compared for diversity
HISTORY = 100


@dataclass
class Answer:
    """An answer of the solver.

    Attributes
    ----------
    sampled, text : as tokens and text.
    agrees : whether it is the answer that is held to be right.
    right : whether the program gives it; None if there is no program, or it gives nothing.
    """

    sampled: SampledCompletion
    text: str
    agrees: bool = False
    right: bool | None = None


@dataclass
class Problem:
    """A problem that was proposed about a passage.

    Attributes
    ----------
    passage : index of the passage in the step.
    prompt, prompt_ids, sampled, text : what the proposer was asked, and what it wrote.
    reason : why it is not put to the solver; empty if it is.
    draft : as it was read; None if it cannot be read.
    claimed : the turn in which the answer is claimed, where this is a turn of its own.
    claim : key of the claimed answer; None if there is none.
    executed : key of the answer that the program gives; None if there is no program, or it gives nothing.
    outputs : of the program, or why there are none.
    label : the answer that is held to be right; None if there is none.
    answers : of the solver.
    rate : share of the answers that agree with the label; 0 without a label.
    diversity : share of the recent problems that differ.
    reward : of the proposer.
    usable : whether the solver is trained on it.
    """

    passage: int
    prompt: str
    prompt_ids: Int[np.ndarray, " prompt"]
    sampled: SampledCompletion
    text: str
    reason: str = ""
    draft: Draft | None = None
    claimed: tuple[Int[np.ndarray, " prompt"], SampledCompletion, str] | None = None
    claim: str | None = None
    executed: str | None = None
    outputs: tuple[Any, ...] | str = ""
    label: str | None = None
    answers: list[Answer] = field(default_factory=list)
    rate: float = 0.0
    diversity: float = 1.0
    reward: float = 0.0
    usable: bool = False

    @property
    def question(self) -> Draft:
        """The problem as it was read."""
        if self.draft is None:
            raise ValueError("the proposal could not be read")
        return self.draft


class PasoDoble(Game):
    """PasoDoble. Its state are the recent problems, the buffer of an offline round, and the place in it.

    Attributes
    ----------
    passages : what the proposer is shown, and what its problems are.
    base : the base model, which proposes, if the proposer is frozen; the only copy of it in the run.
    history : texts of the recent problems, whether they were put to the solver or not; the same for all of a step.
    buffer : problems of the round, with the answers that are held to be right, on which the solver is trained offline.
    position : number of problems of the buffer that the solver was asked in this round.
    steps_without : number of consecutive steps of the proposer in which no problem could be put to the solver.
    """

    def __init__(self, config: PasoDobleConfig, policy: Policy, source: Source):
        super().__init__(config, policy)
        self.config, self.policy, self.source = config, policy, source
        self.passages = find(config, source, language_of(policy.tokenizer))
        self.reward = rewards.find(config.proposer_reward)
        self.roles = {role: Role(config.advantage, cells="role") for role in ("proposer", "claimer", "solver")}
        self.solver, self.proposer = policy, policy
        self.names = {"proposer": ONLY, "solver": ONLY}
        if config.proposer == "frozen":
            self.base = self.proposer = policy.copy()
        elif config.players == "two":
            self.proposer = policy.copy()
            self.names = {"proposer": "proposer", "solver": "solver"}
            pair = {"proposer": self.proposer, "solver": self.solver}
            self.players, self.graded = {name: make_player(name, of, config) for name, of in pair.items()}, "solver"
        self.history: list[str] = []
        self.buffer: list[dict[str, Any]] = []
        self.position = self.steps_without = 0

    # state

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        kept = {"history": list(self.history), "buffer": list(self.buffer)}
        return kept | {"position": self.position, "steps_without": self.steps_without}

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""
        self.history, self.buffer = list(kept["history"]), list(kept["buffer"])
        self.position, self.steps_without = kept["position"], kept["steps_without"]

    def inputs(self) -> Iterable[bytes]:
        """Return the passages."""
        return self.passages.inputs()

    def metadata(self) -> dict[str, Any]:
        """Return the name of the program executor, if there are programs."""
        return {} if self.passages.executor is None else {"executor": self.passages.executor}

    def close(self) -> None:
        """Stop the processes that run programs."""
        self.passages.close()

    def player_of(self, role: str) -> str:
        """Return the name of the player that has a role; a frozen proposer is none, and is not measured."""
        return self.names["solver" if role == "solver" else "proposer"]

    def probe_prompts(self) -> ProbePrompts:
        """Return validation problems for the solver, and prompts with validation passages for a proposer that is a player."""
        probes = solver_probes(self.source, self.policy, self.config.seed, self.config.max_new_tokens)
        if self.config.proposer == "frozen":
            return probes
        rng = stream(self.config.seed, "fixed passages")
        prompts = [self.passages.prompt(rng, "validation") for _ in range(COUNT)]
        return probes | {"proposer": (encode_prompts(self.tokenizer, prompts), self.config.max_proposal_tokens)}

    # a step

    def play(self, step: int) -> Play:
        """Play a step: of both players, or offline of the one whose turn it is."""
        config = self.config
        if config.proposer == "snapshot" and step > 1 and (step - 1) % config.snapshot_every == 0:
            _take_weights(self.proposer, self.solver)
        place = (step - 1) % (config.proposer_updates + config.solver_updates)
        if config.player_schedule == "offline" and place >= config.proposer_updates:
            return self.solve_buffer(step)
        if place == 0:
            self.buffer, self.position = [], 0
        problems = self.propose(step)
        self.claim(problems, step)
        self.answer(problems, step)
        self.score(problems, step)
        skipped = self.skipped(problems)
        if config.player_schedule == "offline":
            self.buffer += [_kept(problem) for problem in problems if problem.usable]
        turns = self.turns(problems, skipped, step)
        metrics = self.proposal_metrics(problems) | {"passages/skipped": len(skipped) / config.prompts_per_step}
        metrics["proposer/barren_steps"] = self.steps_without
        return self.finished(turns, problems, metrics)

    def propose(self, step: int) -> list[Problem]:
        """Ask for problems about passages, and read them."""
        config = self.config
        rng = stream(config.seed, "pasodoble passages", step)
        prompts = [self.passages.prompt(rng) for _ in range(config.prompts_per_step)]
        ids = encode_prompts(self.tokenizer, prompts)
        purpose, limit = "pasodoble proposer problem", config.max_proposal_tokens
        groups = self.ask(self.proposer, ids, config.proposals_per_passage, purpose, step, limit)
        problems = [
            Problem(number, prompts[number], ids[number], sampled, self.text(sampled))
            for number, group in enumerate(groups)
            for sampled in group
        ]
        for number, problem in enumerate(problems):
            if problem.sampled.ended == "length":
                problem.reason = "not ended"
                continue
            try:
                problem.draft = self.passages.read(problem.text, f"problem {step}.{number}")
            except Refused as error:
                problem.reason = str(error)
        return problems

    def claim(self, problems: Sequence[Problem], step: int) -> None:
        """Find the claimed answer of each problem that can be read, and what its program gives, which no reward need depend on."""
        readable = [problem for problem in problems if problem.draft is not None]
        with self.spent.outside_model():
            for problem, outputs in zip(readable, self.passages.run([problem.question for problem in readable]), strict=True):
                problem.outputs = outputs
                problem.executed = None if isinstance(outputs, str) else self.passages.key_of(outputs)
        if self.passages.claims_apart and readable:
            ids = encode_questions(self.tokenizer, [problem.question.question for problem in readable])
            groups = self.ask(self.proposer, ids, 1, "pasodoble proposer claim", step)
            for problem, prompt_ids, (sampled,) in zip(readable, ids, groups, strict=True):
                problem.claimed = prompt_ids, sampled, self.text(sampled)
                problem.claim = None if sampled.ended == "length" else self.passages.key(problem.claimed[2])
        else:
            for problem in readable:
                problem.claim = problem.question.claim
        for problem in readable:
            problem.label = {"claim": problem.claim, "executor": problem.executed, "majority": None}[self.config.truth]
            if problem.question.leak:
                problem.reason = f"{LEAK}: {problem.question.leak}"
            elif self.config.truth == "claim" and problem.claim is None:
                problem.reason = NO_CLAIM
            elif self.config.truth == "executor" and problem.executed is None:
                problem.reason = str(problem.outputs)

    def answer(self, problems: Sequence[Problem], step: int) -> None:
        """Let the solver answer the problems that can be put to it, and compare its answers with the labels."""
        put = [problem for problem in problems if not problem.reason]
        self.steps_without = 0 if put else self.steps_without + 1
        if self.steps_without >= self.config.collapse_steps and self.config.on_collapse == "stop":
            common = Counter(problem.reason for problem in problems).most_common(1)[0][0]
            raise InputError(
                f"step {step}: no problem could be put to the solver for {self.steps_without} steps; the proposer has collapsed (most "
                f"common reason: {common}); use --on-collapse continue to go on, or a smaller --learning-rate"
            )
        if not put:
            return
        ids = encode_questions(self.tokenizer, [problem.question.question for problem in put])
        groups = self.ask(self.solver, ids, self.config.group_size, "pasodoble solver answer", step)
        with self.spent.outside_model():
            for problem, group in zip(put, groups, strict=True):
                problem.answers = [Answer(sampled, self.text(sampled)) for sampled in group]
                if self.config.truth == "majority":
                    problem.label = majority([self.passages.key(answer.text) for answer in problem.answers])
                if problem.executed is not None:
                    for answer in problem.answers:
                        answer.right = self.passages.key(answer.text) == problem.executed
            self.compare(put)
            for problem in put:
                problem.rate = float(np.mean([answer.agrees for answer in problem.answers]))

    def compare(self, problems: Sequence[Problem]) -> None:
        """Tell which answers agree with the label of their problem; without one, none does."""
        pairs = [(problem.label, answer) for problem in problems for answer in problem.answers if problem.label is not None]
        if not pairs:
            return
        found = self.passages.agree([str(label) for label, _ in pairs], [answer.text for _, answer in pairs])
        for (_, answer), agrees in zip(pairs, found, strict=True):
            answer.agrees = agrees

    def score(self, problems: Sequence[Problem], step: int) -> None:
        """Set the rewards of the proposer, and say on which problems the solver is trained: both from the same solve rates."""
        config = self.config
        readable = [problem for problem in problems if problem.draft is not None]
        rates = np.array([problem.rate for problem in readable])
        statistics = rewards.solve_rates(rates, config.group_size, [problem.question.text for problem in readable], self.history)
        put = np.array([not problem.reason for problem in readable], bool)
        diversity = statistics.diversity if config.diversity == "recent" else np.ones(len(readable))
        asked = rewards.SolveRates(rates[put], config.group_size, statistics.repetition[put], diversity[put])
        found = iter(np.asarray(self.reward(asked), float).tolist() if put.any() else [])
        for problem, value in zip(readable, statistics.diversity, strict=True):
            problem.diversity = float(value)
        for problem in problems:
            problem.reward = config.invalid_proposal_reward if problem.reason else float(next(found))
            problem.usable = not problem.reason and config.lowest_rate < problem.rate < config.highest_rate
        if not np.isfinite([problem.reward for problem in problems]).all():
            raise InputError(f"step {step}: --proposer-reward {config.proposer_reward} gave a reward that is not finite")
        self.history = [*self.history, *(problem.question.text for problem in readable)][-HISTORY:]

    def skipped(self, problems: Sequence[Problem]) -> set[int]:
        """Return the passages that train nobody: those without a usable problem, or whose problems all earn the proposer the same."""
        found = set()
        for passage in range(self.config.prompts_per_step):
            own = [problem for problem in problems if problem.passage == passage]
            equal = self.config.proposer == "trained" and len(own) > 1 and len({problem.reward for problem in own}) == 1
            if equal or not any(problem.usable for problem in own):
                found.add(passage)
        return found

    def solve_buffer(self, step: int) -> Play:
        """Train the solver on the next problems of the buffer, over and over; on none if it is empty."""
        config = self.config
        count = min(len(self.buffer), config.prompts_per_step * config.proposals_per_passage)
        rows = [self.buffer[(self.position + number) % len(self.buffer)] for number in range(count)]
        self.position += count
        problems = []
        for row in rows:
            draft = self.passages.read(row["text"], row["name"])
            executed = row["executed"]
            problems.append(
                Problem(
                    0,
                    *("", np.zeros(0, np.int64), SampledCompletion(np.zeros(0, np.int64), np.zeros(0, np.float32), "eos"), row["text"]),
                    draft=draft,
                    executed=executed,
                    label=row["label"],
                    usable=True,
                )
            )
        if problems:
            ids = encode_questions(self.tokenizer, [problem.question.question for problem in problems])
            groups = self.ask(self.solver, ids, config.group_size, "pasodoble solver buffer", step)
            with self.spent.outside_model():
                for problem, group in zip(problems, groups, strict=True):
                    problem.answers = [Answer(sampled, self.text(sampled)) for sampled in group]
                    for answer in problem.answers:
                        answer.right = None if problem.executed is None else self.passages.key(answer.text) == problem.executed
                self.compare(problems)
        turns = [turn for number, problem in enumerate(problems) for turn in self.solver_turns(problem, number, step, True)]
        return self.finished(turns, problems, {})

    # turns

    def turns(self, problems: Sequence[Problem], skipped: set[int], step: int) -> list[Turn]:
        """Make the turns of a step: the proposals, then of each problem the claim and the answers."""
        config = self.config
        learns = config.proposer == "trained"
        offline = config.player_schedule == "offline"
        turns = []
        for number, problem in enumerate(problems):
            turns.append(
                Turn(
                    *("proposer", "problem", problem.prompt, problem.prompt_ids, problem.sampled, problem.text),
                    ("passage", problem.passage),
                    problem.reward,
                    self.names["proposer"],
                    name=f"problem {step}.{number}",
                    packed=learns and problem.passage not in skipped,
                    row=self.proposal_row(problem, step),
                )
            )
        for number, problem in enumerate(problems):
            if problem.claimed is not None:
                prompt_ids, sampled, text = problem.claimed
                asked = problem.question.question
                row = {"problem": asked.id, "correct": problem.executed is not None and problem.claim == problem.executed}
                turns.append(
                    Turn(
                        *("claimer", "claim", asked.prompt, prompt_ids, sampled, text, ("claim", number)),
                        problem.reward,
                        self.names["proposer"],
                        ("passage", problem.passage),
                        name=f"claim {step}.{number}",
                        packed=learns and config.truth == "claim" and problem.passage not in skipped,
                        row=row | asked.about_program(),
                    )
                )
            turns += self.solver_turns(problem, number, step, not offline and problem.usable and problem.passage not in skipped)
        return turns

    def proposal_row(self, problem: Problem, step: int) -> dict[str, Any]:
        """Return what the rollouts say of a proposal; ``entry`` is there if the executor could run it, whoever pays."""
        row = {
            "valid": isinstance(problem.outputs, tuple),
            "reason": problem.reason or (problem.outputs if isinstance(problem.outputs, str) else ""),
            "put": not problem.reason,
            "claim": problem.claim,
            "claim_correct": None if None in (problem.claim, problem.executed) else problem.claim == problem.executed,
            "label": problem.label,
            "solve_rate": problem.rate if not problem.reason else None,
            "diversity": problem.diversity if problem.draft is not None else None,
            "usable": problem.usable,
        }
        if isinstance(problem.outputs, tuple) and problem.question.proposed is not None:
            row["entry"] = BufferEntry("deduction", problem.question.proposed, problem.outputs, step).to_json()
        return row

    def solver_turns(self, problem: Problem, number: int, step: int, packed: bool) -> list[Turn]:
        """Make the turns of the answers to a problem; ``packed`` if the solver is trained on them."""
        if not problem.answers:
            return []
        asked = problem.question.question
        (prompt_ids,) = encode_questions(self.tokenizer, [asked])
        paid = [float(answer.agrees) for answer in problem.answers]
        if self.config.solver_reward == "random":
            paid = stream(self.config.seed, "pasodoble random reward", step, number).integers(0, 2, len(paid)).astype(float).tolist()
        return [
            Turn(
                *("solver", asked.task, asked.prompt, prompt_ids, answer.sampled, answer.text, ("answer", number)),
                reward,
                self.names["solver"],
                name=asked.id,
                packed=packed,
                row={"problem": asked.id, "agrees": answer.agrees, "correct": answer.right} | asked.about_program(),
            )
            for answer, reward in zip(problem.answers, paid, strict=True)
        ]

    # metrics

    def finished(self, turns: list[Turn], problems: Sequence[Problem], metrics: dict[str, Any]) -> Play:
        """Add the metrics that every step has."""
        metrics |= role_metrics(turns)
        if "solver/reward" in metrics:
            metrics["reward"] = metrics["solver/reward"]
        answered = [(problem, answer) for problem in problems for answer in problem.answers]
        if answered:
            metrics["solver/agreement"] = float(np.mean([answer.agrees for _, answer in answered]))
            asked = [problem.question.question for problem, _ in answered]
            ids = [answer.sampled.ids for _, answer in answered]
            metrics |= answer_metrics(asked, [answer.text for _, answer in answered], ids, self.policy.token_kinds)
        if known := [answer.right for _, answer in answered if answer.right is not None]:
            metrics["solver/accuracy"] = float(np.mean(known))
        metrics["skipped"] = int(not any(turn.packed for turn in turns))
        if self.config.player_schedule == "offline":
            metrics |= {"buffer/size": len(self.buffer), "schedule/solver": int(not any(turn.role == "proposer" for turn in turns))}
        if not any(turn.packed and turn.role == "proposer" for turn in turns):
            metrics["proposals_trained"] = 0
        return Play(turns, metrics)

    def proposal_metrics(self, problems: Sequence[Problem]) -> dict[str, Any]:
        """Compute metrics of proposals and claims."""
        readable = [problem for problem in problems if problem.draft is not None]
        put = [problem for problem in problems if not problem.reason]
        usable = [problem for problem in problems if problem.usable]
        metrics: dict[str, Any] = {
            "proposer/put": len(put) / len(problems),
            "proposer/usable": len(usable) / len(problems),
            "proposer/distinct": len({problem.text for problem in problems}) / len(problems),
            "history/size": len(self.history),
        }
        for reason, number in Counter(problem.reason for problem in problems if problem.reason).items():
            metrics[f"proposer/failed/{reason[:40]}"] = number / len(problems)
        if readable:
            metrics["diversity"] = float(np.mean([problem.diversity for problem in readable]))
            metrics["claim/readable"] = float(np.mean([problem.claim is not None for problem in readable]))
        if put:
            rates = np.array([problem.rate for problem in put])
            metrics |= {"solve_rate": float(rates.mean()), "solve_rate/none": float((rates == 0).mean())}
            metrics["solve_rate/all"] = float((rates == 1).mean())
        if self.passages.executor is not None:
            metrics["proposer/valid"] = float(np.mean([isinstance(problem.outputs, tuple) for problem in problems]))
            for name, those in (("claim/accuracy", readable), ("claim/accuracy/put", put), ("claim/accuracy/usable", usable)):
                if claimed := [problem.claim == problem.executed for problem in those if problem.claim is not None]:
                    metrics[name] = float(np.mean(claimed))
            programs = [value for problem in readable if (value := self.passages.complexity(problem.question)) is not None]
            if programs:
                metrics["program/complexity"] = float(np.mean(programs))
        if self.config.truth == "majority" and put:
            metrics["majority/tied"] = float(np.mean([problem.label is None for problem in put]))
            voted = [problem.label == problem.executed for problem in put if problem.label is not None]
            if voted and self.passages.executor is not None:
                metrics["majority/right"] = float(np.mean(voted))
        return metrics


def _kept(problem: Problem) -> dict[str, Any]:
    """Return what the buffer keeps of a problem: it is read again when the solver is asked."""
    name = problem.question.question.id
    return {"text": problem.text, "name": name, "label": problem.label, "executed": problem.executed}


def _take_weights(policy: Policy, other: Policy) -> None:
    """Give a policy the weights of another one."""
    with torch.no_grad():
        for name, value in policy.masters.items():
            value.copy_(other.masters[name])
    policy.update_model()
