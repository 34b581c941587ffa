"""Making tasks: what games hold in which a player proposes tasks and programs say whether they are valid.

A proposer is asked for tasks, conditioned on references from a buffer. A proposal is valid if it can be read, runs, is deterministic and is
new. Its reward is a function of its solve rate, with bonuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.train import proposer_rewards as rewards
from dynamics.train.config import TaskMakingConfig
from dynamics.train.coverage import Coverage, unseen_mass
from dynamics.train.games import curriculum
from dynamics.train.games.buffer import BufferEntry, buffer_from_json, first_buffer, sample_earlier_tasks
from dynamics.train.games.game import Game, JudgedCompletion, Turn
from dynamics.train.games.languages import language
from dynamics.train.games.proposals import Proposal, parse, requests, validate
from dynamics.train.games.votes import majority
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import COUNT, ProbePrompts
from dynamics.train.rng import stream
from dynamics.train.tasks.problem import TASK_TYPES, Question, Verdict
from dynamics.train.tasks.prompt_formats import encode_prompts, encode_questions, language_of

#: number of recent tasks of the buffer with which new tasks are compared for diversity
_RECENT = 100


class TaskMaking:
    """The part of a game that makes tasks. Its state is that of the buffer.

    Parameters
    ----------
    game : that holds it, by which players are asked.
    config : settings.
    gate_leak : probability with which a deduction task that is not valid is taken all the same.

    Attributes
    ----------
    language : of the tasks, by what the model reads.
    buffer : the most recent valid tasks; initially only the first task of the language.
    steps_without_valid : number of consecutive steps without a valid proposal.
    coverage : the programs that were proposed; None if the run began with a version that did not keep them.
    """

    def __init__(self, game: Game, config: TaskMakingConfig, gate_leak: float = 0.0):
        self.game, self.config, self.gate_leak = game, config, gate_leak
        self.language = language(language_of(game.tokenizer), config.allow_unconfined)
        self.reward = rewards.find(config.proposer_reward)
        self.task_types: list[str] = [name for name in TASK_TYPES if name in config.task_types]
        self.buffer = first_buffer(*self.language.first, config.buffer_size)
        self.steps_without_valid = 0
        self.coverage: Coverage | None = Coverage(self.language.pool)

    # what is kept between steps

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """Return a function that gives the state as it is now; a full buffer is converted only if that is needed."""
        buffer, without_valid = list(self.buffer), self.steps_without_valid
        proposed = {} if self.coverage is None else {"proposed": self.coverage.kept()}
        return lambda: {"buffer": [entry.to_json() for entry in buffer], "steps_without_valid": without_valid, **proposed}

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""
        self.buffer = buffer_from_json(kept["buffer"], self.config.buffer_size)
        # earlier states call it "barren"
        self.steps_without_valid = kept["steps_without_valid"] if "steps_without_valid" in kept else kept["barren"]
        self.coverage = Coverage(self.language.pool, kept["proposed"]) if "proposed" in kept else None

    # proposing

    def propose(self, policy: Policy, step: int, count: int, purpose: str) -> list[Proposal]:
        """Ask a policy for ``count`` proposals of each task type; ``step`` and ``purpose`` select the random streams."""
        config = self.config
        asked = requests(self.language, self.buffer, self.task_types, count, config.num_references, config.seed, step, purpose)
        ids = encode_prompts(policy.tokenizer, [request.prompt for request in asked])
        groups = self.game.ask(policy, ids, 1, purpose, step, config.max_proposal_tokens)
        return [
            parse(self.language, request, prompt_ids, group[0], self.game.text(group[0]), step)
            for request, prompt_ids, group in zip(asked, ids, groups, strict=True)
        ]

    def validate(self, proposals: list[Proposal], step: int) -> None:
        """Run proposals, and reject those that are not valid; they earn ``invalid_proposal_reward``."""
        with self.game.spent.outside_model():
            if self.gate_leak and step:  # in the seeding the gate is tight
                validate(self.language, proposals, self.buffer, step, lambda number: self._admits(step, number))
            else:
                validate(self.language, proposals, self.buffer, step)
        for proposal in proposals:
            if proposal.entry is None:
                proposal.reward = self.config.invalid_proposal_reward

    def _admits(self, step: int, number: int) -> bool:
        return bool(stream(self.config.seed, "gate leak", step, number).random() < self.gate_leak)

    def seed(self, policy: Policy) -> None:
        """Seed the buffer with valid proposals of the base model, starting from the first task of the language."""
        for round_ in range(4):
            if len(self.buffer) >= self.config.num_seed_tasks:
                break
            proposals = self.propose(policy, round_, self.config.prompts_per_step, "seeding")
            self.validate(proposals, 0)
            self.buffer.extend(proposal.entry for proposal in proposals if proposal.entry is not None)

    def count_valid(self, proposals: list[Proposal], step: int) -> list[tuple[Proposal, BufferEntry]]:
        """Return the valid proposals with their tasks; stop the run if there were none for too many steps."""
        valid = [(proposal, proposal.entry) for proposal in proposals if proposal.entry is not None]
        self.steps_without_valid = 0 if valid else self.steps_without_valid + 1
        if self.steps_without_valid >= self.config.collapse_steps and self.config.on_collapse == "stop":
            raise InputError(
                f"step {step}: no valid proposal for {self.steps_without_valid} steps; the proposer has collapsed (most common reason: "
                f"{_most_common_reason(proposals)}); use --on-collapse solver to continue on the buffer, or a smaller --learning-rate"
            )
        return valid

    # solving

    def question(self, entry: BufferEntry, number: int) -> Question:
        """Return the question that asks to solve a task; ``number`` is its index in the step."""
        name = f"proposal {entry.step}.{number} {entry.kind}"
        if not entry.outputs:
            return self.language.unrun_question(entry.proposed, name)
        return self.language.question(entry.kind, entry.proposed, entry.outputs, name)

    def questions(self, entries: list[BufferEntry], start: int = 0) -> list[Question]:
        """Return the questions of tasks, numbered from ``start``."""
        return [self.question(entry, number) for number, entry in enumerate(entries, start)]

    def earlier_tasks(self, step: int) -> list[BufferEntry]:
        """Draw tasks of the buffer for a step without a valid proposal."""
        return sample_earlier_tasks(self.buffer, self.config.seed, step, self.config.prompts_per_step)

    def solve(self, policy: Policy, questions: list[Question], step: int, purpose: str) -> list[list[JudgedCompletion]]:
        """Sample ``group_size`` completions of each question from a policy, and grade them."""
        if not questions:
            return []
        ids = encode_questions(policy.tokenizer, questions)
        return self.game.judge(questions, self.game.ask(policy, ids, self.config.group_size, purpose, step))

    def score(self, valid: list[tuple[Proposal, BufferEntry]], solved: list[list[JudgedCompletion]]) -> None:
        """Set the rewards of valid proposals from solve rates and bonuses."""
        if not valid:
            return
        with self.game.spent.outside_model():
            config = self.config
            rates = np.array([np.mean([verdict.correct for _, _, verdict in group]) for group in solved])
            recent = [entry.proposed.program for entry in list(self.buffer)[-_RECENT:]]
            solve_rates = rewards.solve_rates(rates, config.group_size, [entry.proposed.program for _, entry in valid], recent)
            reward = np.asarray(self.reward(solve_rates), float)
            if reward.shape != rates.shape or not np.isfinite(reward).all():
                raise InputError(
                    f"--proposer-reward {config.proposer_reward}: must return {len(rates)} finite numbers, one per proposal; "
                    f"got shape {reward.shape}"
                )
            bonuses = self._bonuses(valid)
            for (proposal, _), rate, value in zip(valid, rates, rewards.combine(reward, bonuses, config.bonus_combination), strict=True):
                proposal.rate, proposal.reward = float(rate), float(value)

    def _bonuses(self, valid: list[tuple[Proposal, BufferEntry]]) -> np.ndarray[Any, Any]:
        """Return the bonus terms of valid proposals, (proposals, terms)."""
        earlier = Counter(f"{type(entry.outputs[0]).__name__} {entry.outputs[0]!r}" for entry in self.buffer if entry.outputs)
        terms: dict[str, Callable[[Proposal, BufferEntry], float]] = {
            "complexity": lambda _, entry: self.language.complexity(entry.proposed.program),
            "edit_distance": lambda proposal, entry: rewards.edit_distance(
                self.language.expression(entry.proposed.program),
                [self.language.expression(reference.program) for reference in proposal.references],
            ),
            "halstead": lambda _, entry: rewards.halstead(self.language.expression(entry.proposed.program)),
            "answer_diversity": lambda _, entry: rewards.surprise(entry.outputs[0], earlier) if entry.outputs else 0.0,
        }
        wanted = self.config.proposer_bonuses
        values = [[self.config.bonus_scale * terms[name](*pair) for name in wanted] for pair in valid]
        return np.array(values).reshape(len(valid), len(wanted))

    def solver_reward(self, verdict: Any) -> float:
        """Return the reward of an answer: its score if correct, else those of format errors and wrong answers."""
        if verdict.correct:
            return float(verdict.score)
        of_form = verdict.reason in self.language.unreadable
        return self.config.format_error_reward if of_form else self.config.wrong_answer_reward

    # turns

    def proposal_turn(self, proposal: Proposal, number: int, **more: Any) -> Turn:
        """Make the turn of a proposal, which is of the role ``proposer`` unless ``more`` says otherwise."""
        row = {
            "valid": proposal.valid,
            "reason": proposal.reason,
            "solve_rate": proposal.rate if proposal.entry is not None else None,
        } | ({"entry": proposal.entry.to_json()} if proposal.entry is not None else {})
        if proposal.admitted:
            row["admitted"] = True
        values: dict[str, Any] = {"role": "proposer", "group": ("proposal", number), "name": f"{proposal.kind} proposal", "row": row} | more
        asked = (proposal.prompt, proposal.prompt_ids, proposal.sampled, proposal.text)
        return Turn(values.pop("role"), proposal.kind, *asked, reward=proposal.reward, **values)

    def vote(self, questions: list[Question], solutions: list[list[JudgedCompletion]]) -> list[list[JudgedCompletion]]:
        """Replace the verdicts by those of the majority: right is the most frequent answer of the group, if there is one.

        An answer that cannot be read keeps its reason, and is never right.
        """
        voted = []
        for question, group in zip(questions, solutions, strict=True):
            keys = [self.language.answer_key(question.task, text) for _, text, _ in group]
            winner = majority(keys)
            verdicts = [
                Verdict.binary(key is not None and key == winner, verdict.reason if key is None else "not the majority")
                for key, (_, _, verdict) in zip(keys, group, strict=True)
            ]
            voted.append([(sampled, text, verdict) for (sampled, text, _), verdict in zip(group, verdicts, strict=True)])
        return voted

    def vote_metrics(
        self, questions: list[Question], solved: list[list[JudgedCompletion]], voted: list[list[JudgedCompletion]]
    ) -> dict[str, float]:
        """Measure how often the majority is right by the executor, and how right the solver is; ``solved`` has the executor's verdicts.

        Metrics are ``majority/tied``, ``majority/right`` (of the tasks with a majority and an executed output), and ``solver/accuracy``.
        """
        won = [[verdict.correct for _, _, verdict in group] for group in voted]
        metrics = {"majority/tied": float(np.mean([not any(group) for group in won]))} if won else {}
        right = [[verdict.correct for _, _, verdict in group] for group in solved]
        known = [number for number, question in enumerate(questions) if question.answer is not None]
        if decided := [right[number][won[number].index(True)] for number in known if any(won[number])]:
            metrics["majority/right"] = float(np.mean(decided))
        if known:
            metrics["solver/accuracy"] = float(np.mean([value for number in known for value in right[number]]))
        return metrics

    def solver_turns(
        self,
        questions: list[Question],
        solutions: list[list[JudgedCompletion]],
        count: int,
        measured: list[list[JudgedCompletion]] | None = None,
        **more: Any,
    ) -> list[Turn]:
        """Make the turns of the first ``count`` answers to each question, of the role ``solver`` unless ``more`` says otherwise.

        ``measured`` are the same answers with the verdicts of the executor, where others pay; their rows say both.
        """
        turns = []
        values: dict[str, Any] = {"role": "solver"} | more
        role = values.pop("role")
        for number, (question, prompt_ids, group) in enumerate(
            zip(questions, encode_questions(self.game.tokenizer, questions), solutions, strict=True)
        ):
            for which, (sampled, text, verdict) in enumerate(group[:count]):
                row: dict[str, Any] = {"problem": question.id, "reason": verdict.reason, "correct": verdict.correct}
                if measured is not None:
                    known = question.answer is not None  # else it has no executed output
                    row |= {"agrees": verdict.correct, "correct": measured[number][which][2].correct if known else None}
                row |= question.about_program()
                asked = (question.prompt, prompt_ids, sampled, text, ("answer", number))
                turns.append(Turn(role, question.task, *asked, reward=self.solver_reward(verdict), name=question.id, row=row, **values))
        return turns

    # measurements

    def count_programs(self, entries: list[BufferEntry]) -> dict[str, float]:
        """Count the programs of valid proposals; those of induction are from the buffer."""
        programs = [self.language.program_key(entry.proposed) for entry in entries if entry.kind != "induction"]
        metrics = {} if self.coverage is None else self.coverage.add(programs)
        return metrics | ({"coverage/unseen": unseen_mass(programs)} if programs else {})

    def probe_prompts(self) -> ProbePrompts:
        """Return prompts for the proposer, with validation programs as references."""
        rng = stream(self.config.seed, "fixed references")
        prompts = []
        for number in range(COUNT):
            reference = self.language.draw_reference(rng)
            kind = self.task_types[number % len(self.task_types)]
            prompts.append(self.language.proposal_prompt(kind, [reference], reference.program))
        return {"proposer": (encode_prompts(self.game.tokenizer, prompts), self.config.max_proposal_tokens)}

    def write_curriculum(self, directory: RunDirectory, load_base: Callable[[], Policy]) -> None:
        """Write ``curriculum.jsonl``: proposals of four phases of the run, solved by the base model."""
        proposed = curriculum.draw(directory, self.config.seed, self.config.curriculum_samples)
        questions = self.questions([entry for _, _, entry in proposed])
        if questions:
            solutions = self.solve(load_base(), questions, 0, "curriculum")
            directory.write_rows("curriculum.jsonl", curriculum.rows(proposed, solutions, self.language.complexity))


def _most_common_reason(proposals: list[Proposal]) -> str:
    return Counter(proposal.reason for proposal in proposals).most_common(1)[0][0]
