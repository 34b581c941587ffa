"""Self-play after the Absolute Zero Reasoner (arXiv 2505.03335): one model proposes and solves, programs are run to judge.

A step: for every task type the proposer writes tasks, conditioned on references from the buffer; those that parse, run, are
deterministic and new are valid; the solver tries each several times; how often it succeeds makes the proposer's reward, and its
successes its own. Advantages are normalised apart for every task type and role (TRR++), and all goes into one update.

Where this differs from the public code on purpose: failures of determinism are failures; outputs are never cut; a full buffer forgets its
oldest tasks; the solver trains on this step's proposals, on the samples that measured their solve rate.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.train import dialects, fixed, objectives, programs, prompts, proposer, sandbox, tasks
from dynamics.train.batch import Batch, Fed, Method
from dynamics.train.config import SelfPlay
from dynamics.train.dialects import Draft
from dynamics.train.expressions import Expressions, Outcome, Refused, literal
from dynamics.train.policy import Policy
from dynamics.train.rlvr import judge, sample
from dynamics.train.sampling import Sampled
from dynamics.train.streams import stream
from dynamics.train.tasks import Problem, Question
from dynamics.train.tiny import reads_notation

#: proposals of late, against which a new one is compared for diversity
_LATE = 100


@dataclass(frozen=True)
class Entry:
    """A valid task in the buffer."""

    kind: str
    draft: Draft
    outputs: tuple[Any, ...]
    step: int

    def packed(self) -> dict[str, Any]:
        one = self.draft
        return {
            "kind": self.kind,
            "program": one.program,
            "inputs": repr(one.inputs),
            "message": one.message,
            "outputs": repr(self.outputs),
            "step": self.step,
        }

    @staticmethod
    def unpacked(row: dict[str, Any]) -> Entry:
        inputs, outputs = (literal(row[name], 1 << 20) for name in ("inputs", "outputs"))
        return Entry(row["kind"], Draft(row["program"], inputs, row["message"]), outputs, row["step"])

    @property
    def key(self) -> str:
        return f"{self.kind} {self.draft.program} {sorted(map(repr, self.draft.inputs))}"


class Boxes:
    """Runs proposals and answers: by walking expressions where that is the language, else in the sandbox."""

    def __init__(self, notation: bool, allow_unconfined: bool):
        self.box = None if notation else sandbox.Sandbox(allow_unconfined=allow_unconfined)
        self.walker = Expressions()
        self.by = "expressions, nothing executed" if self.box is None else self.box.confinement
        self.seconds = 0.0

    def run(self, source: str, inputs: Sequence[tuple[Any, ...]], entry: str = "f", timeout: float = 2.0) -> Outcome:
        if self.box is None:
            return self.walker.run(source, inputs, entry, timeout)
        return self.box.run(tasks.function(source), inputs, entry, timeout)

    def agree(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Each program on its inputs, under two hash seeds where that can matter."""
        if self.box is None:
            return [self.walker.run(one.program, one.inputs) for one in drafts]
        return self.box.agree_all([sandbox.Job(tasks.function(one.program), one.inputs) for one in drafts])

    def close(self) -> None:
        if self.box is not None:
            self.box.close()


@dataclass
class Proposal:
    """One attempt at a task: what was asked and written, and what came of it."""

    kind: str
    prompt: str
    ids: Any
    sampled: Sampled
    text: str
    references: list[Draft]
    reason: str = ""
    entry: Entry | None = None
    rate: float = 0.0
    reward: float = 0.0


class Game(Method):
    """Feeds a step of the game; keeps the buffer."""

    def __init__(self, config: SelfPlay, policy: Policy, source: tasks.Source):
        self.config, self.policy, self.source = config, policy, source
        notation = reads_notation(policy.tokenizer)
        self.dialect: dialects.Dialect = dialects.Notation() if notation else dialects.Words()
        self.boxes = Boxes(notation, bool(config.allow_unconfined))
        self.triplets = tasks.Triplets(plain=not notation, box=self.boxes)
        self.reward = proposer.find(config.reward)
        self.kinds = [kind for kind in tasks.KINDS if kind in config.kinds.split(",")]
        self.proposing = policy
        if config.proposer == "snapshot":
            self.proposing = Policy(copy.deepcopy(policy.model), policy.tokenizer, config.master_dtype, policy.compute)
        self.identity = Draft(self.dialect.identity, (("abc",),))
        seeds = [Entry(kind, self.identity, ("abc",), 0) for kind in ("deduction", "abduction")]
        self.buffer: deque[Entry] = deque(seeds, maxlen=config.buffer)
        self.waiting: list[Entry] = []
        self.barren = 0

    # what is kept between steps

    def state(self) -> dict[str, Any]:
        return {
            "buffer": [one.packed() for one in self.buffer],
            "waiting": [one.packed() for one in self.waiting],
            "barren": self.barren,
        }

    def load(self, kept: dict[str, Any]) -> None:
        self.buffer = deque(map(Entry.unpacked, kept["buffer"]), maxlen=self.config.buffer)
        self.waiting = list(map(Entry.unpacked, kept["waiting"]))
        self.barren = kept["barren"]

    def about(self) -> dict[str, Any]:
        return {"executor": self.boxes.by}

    def close(self) -> None:
        self.boxes.close()

    # a step

    def feed(self, step: int) -> Fed:
        begin = time.perf_counter()
        config = self.config
        if step == 1:
            self._seed()
        proposals = self.propose(step, config.prompts, "proposal")
        self.validate(proposals, step)
        valid = [one for one in proposals if one.entry is not None]
        entries = [one.entry for one in valid if one.entry is not None]
        self.barren = 0 if valid else self.barren + 1
        if self.barren >= config.collapse_steps and config.on_collapse == "stop":
            raise InputError(
                f"step {step}: no valid proposal for {self.barren} steps; the proposer has collapsed (most often: {_common(proposals)}); "
                "--on-collapse solver goes on with the buffer, a smaller --learning-rate may prevent it"
            )
        questions = [self.question(entry, number) for number, entry in enumerate(entries)]
        solved = self.solve(questions, step, "solution") if questions else []
        self.pay(valid, solved)
        for one in proposals:
            if one.entry is None:
                one.reward = config.invalid
        if config.lag or not questions:
            earlier = self.waiting if config.lag else self._old(step)
            trained = [self.question(entry, number) for number, entry in enumerate(earlier)]
            tried = self.solve(trained, step, "lagged") if trained else []
        else:
            trained, tried = questions, solved
        self.buffer.extend(entries)
        self.waiting = entries if config.lag else []
        fed = self.pack(step, proposals, trained, tried)
        fed.metrics.update(self._proposer_metrics(proposals) | self._solver_metrics(trained, tried))
        fed.metrics["time/feed"] = time.perf_counter() - begin
        fed.metrics["time/outside_model"] = self.boxes.seconds
        self.boxes.seconds = 0.0
        return fed

    def propose(self, step: int, count: int, purpose: str) -> list[Proposal]:
        """``count`` proposals of each task type by the policy of the moment, or by the snapshot."""
        config = self.config
        asked: list[tuple[str, str, list[Draft], str | None]] = []
        for kind in self.kinds:
            program: str | None = None
            rng = stream(config.seed, f"references {kind} {purpose}", step)
            for _ in range(count):
                if kind == "induction":
                    pool = [one.draft for one in self.buffer if one.kind != "induction"]
                    program = pool[int(rng.integers(len(pool)))].program
                    asked.append((kind, self.dialect.ask(kind, [], program), [], program))
                    continue
                pool = [one.draft for one in self.buffer if one.kind == kind] or [self.identity]
                if config.references:
                    references = [pool[int(place)] for place in rng.choice(len(pool), min(config.references, len(pool)), replace=False)]
                else:  # no references: always the same one, as the form needs an example
                    references = [self.identity]
                asked.append((kind, self.dialect.ask(kind, references, None), references, None))
        ids = [np.array(prompts.encode(self.policy.tokenizer, prompt), np.int64) for _, prompt, _, _ in asked]
        groups = sample(self.proposing, ids, 1, config, purpose, step, config.propose_tokens)
        made = []
        for (kind, prompt, references, program), one, group in zip(asked, ids, groups, strict=True):
            text = prompts.decode(self.policy.tokenizer, group[0].ids, self.policy.eos)
            found = Proposal(kind, prompt, one, group[0], text, references)
            if group[0].ended == "length":
                found.reason = "not ended"
            else:
                try:
                    draft = self.dialect.read(kind, text, program)
                    found.entry = Entry(kind, draft, (), step)
                except Refused as error:
                    found.reason = str(error)
            made.append(found)
        return made

    def validate(self, proposals: list[Proposal], step: int) -> None:
        """Run what could be read; those that fail, differ between runs, or are there already lose their entry and get a reason."""
        begin = time.perf_counter()
        there = {one.key for one in self.buffer}
        readable = [one for one in proposals if one.entry is not None]
        for one, outcome in zip(readable, self.boxes.agree([one.entry.draft for one in readable if one.entry]), strict=True):
            assert one.entry is not None
            entry, one.entry = one.entry, None
            if outcome.values is None:
                one.reason = (outcome.error or "no value").partition(":")[0]
            elif not all(self._fits(value) for value in (*outcome.values, *(given for each in entry.draft.inputs for given in each))):
                one.reason = "value too long"
            elif entry.key in there:
                one.reason = "duplicate"
            else:
                there.add(entry.key)
                one.entry = Entry(one.kind, entry.draft, tuple(outcome.values), step)
        self.boxes.seconds += time.perf_counter() - begin

    def _fits(self, value: Any) -> bool:
        if isinstance(self.dialect, dialects.Notation):
            return isinstance(value, (int, str, list)) and not isinstance(value, bool) and tasks.fits(value)
        return len(repr(value)) <= dialects.MAX_INPUT

    def question(self, entry: Entry, number: int) -> Question:
        draft = entry.draft
        problem = Problem(entry.kind, draft.program, draft.inputs, entry.outputs, f"proposal {entry.step}.{number} {entry.kind}")
        return self.triplets.question(problem, "training", draft.message)

    def solve(self, questions: list[Question], step: int, purpose: str) -> list[list[tuple[Sampled, str, tasks.Verdict]]]:
        """``group`` samples of each, judged."""
        ids = prompts.encoded(self.policy.tokenizer, questions)
        groups = sample(self.policy, ids, self.config.group, self.config, purpose, step)
        begin = time.perf_counter()
        found = []
        for question, group in zip(questions, groups, strict=True):
            texts = [prompts.decode(self.policy.tokenizer, one.ids, self.policy.eos) for one in group]
            found.append([(one, text, judge(question, text)) for one, text in zip(group, texts, strict=True)])
        self.boxes.seconds += time.perf_counter() - begin
        return found

    def pay(self, valid: list[Proposal], solved: list[Any]) -> None:
        """The proposer's rewards, from the solve rates and the terms that were asked for."""
        if not valid:
            return
        begin = time.perf_counter()
        config = self.config
        rate = np.array([np.mean([verdict.correct for _, _, verdict in group]) for group in solved])
        text = [one.entry.draft.program for one in valid if one.entry is not None]
        words = [frozenset(_words(program)) for program in text]
        near = np.array([[_jaccard(a, b) > 0.8 for b in words] for a in words], float)
        late = [frozenset(_words(one.draft.program)) for one in list(self.buffer)[-_LATE:]]
        diversity = np.array([np.mean([_jaccard(a, b) <= 0.8 for b in late]) if late else 1.0 for a in words])
        estimate = proposer.Estimate(rate, config.group, (near.sum(1) - 1) / len(valid), diversity)
        reward = np.asarray(self.reward(estimate), float)
        if reward.shape != rate.shape or not np.isfinite(reward).all():
            raise InputError(f"--reward {config.reward}: must give {len(rate)} finite numbers, one a proposal; got shape {reward.shape}")
        earlier = Counter(f"{type(one.outputs[0]).__name__} {one.outputs[0]!r}" for one in self.buffer)
        terms = {
            "complexity": lambda one: proposer.complexity(one.entry.draft.program),
            "edit_distance": lambda one: proposer.edit_distance(one.entry.draft.program, [other.program for other in one.references]),
            "halstead": lambda one: proposer.halstead(one.entry.draft.program),
            "answer_diversity": lambda one: proposer.surprise(one.entry.outputs[0], earlier),
        }
        wanted = [name for name in config.bonuses.split(",") if name]
        bonuses = np.array([[config.bonus_scale * terms[name](one) for name in wanted] for one in valid]).reshape(len(valid), len(wanted))
        for one, p, value in zip(valid, rate, proposer.combine(reward, bonuses, config.combine), strict=True):
            one.rate, one.reward = float(p), float(value)
        self.boxes.seconds += time.perf_counter() - begin

    def pack(self, step: int, proposals: list[Proposal], questions: list[Question], tried: list[Any]) -> Fed:
        """Both roles as one batch, advantages normalised in each cell of role and task type."""
        config = self.config
        mine: list[Proposal] = [] if config.proposer == "snapshot" else proposals
        ids = [one.ids for one in mine]
        completions = [one.sampled for one in mine]
        prompt_of = list(range(len(mine)))
        roles, kinds, names = ["proposer"] * len(mine), [one.kind for one in mine], [f"{one.kind} proposal" for one in mine]
        rewards = [one.reward for one in mine]
        rows = [_proposal_row(one) for one in proposals]
        solver_rows: list[dict[str, Any]] = []
        for question, coded, group in zip(questions, prompts.encoded(self.policy.tokenizer, questions), tried, strict=True):
            ids.append(coded)
            for number, (one, text, verdict) in enumerate(group):
                if number >= (config.solver_samples or config.group):
                    break
                reward = verdict.score if verdict.correct else config.unformed if verdict.reason in _UNFORMED else config.wrong
                completions.append(one)
                prompt_of.append(len(ids) - 1)
                roles.append("solver")
                kinds.append(question.task)
                names.append(question.id)
                rewards.append(reward)
                solver_rows.append(_solver_row(question, ids[-1], one, text, verdict, reward))
        if not completions:
            raise InputError(f"step {step}: nothing to train on; no proposal was valid and the buffer is empty")
        lengths = np.array([len(one.ids) for one in completions])
        advantages = np.zeros(len(rewards))
        cells = np.array([f"{role} {kind}" for role, kind in zip(roles, kinds, strict=True)])
        for cell in dict.fromkeys(cells.tolist()):
            inside = np.flatnonzero(cells == cell)
            value = np.array(rewards)[inside]
            advantages[inside] = objectives.advantages(config.advantage, value, np.array(prompt_of)[inside], lengths[inside])
        if config.proposer == "frozen":
            advantages[np.array(roles) == "proposer"] = 0.0
        for row, advantage in zip([*(rows if mine else []), *solver_rows], advantages, strict=True):
            row["advantage"] = float(advantage)
        for row in (*rows, *solver_rows):
            row["temperature"] = config.temperature
        batch = Batch(
            ids,
            [one.ids for one in completions],
            np.array(prompt_of),
            advantages,
            roles,
            kinds,
            names,
            [one.logprobs for one in completions],
            config.temperature,
        )
        return Fed(batch, {}, [*rows, *solver_rows])

    def _seed(self) -> None:
        """Fill the buffer from the identity program with what the base proposes, before anything is trained."""
        for round_ in range(4):
            if len(self.buffer) >= self.config.seeding:
                break
            proposals = self.propose(round_, self.config.prompts, "seeding")
            self.validate(proposals, 0)
            self.buffer.extend(one.entry for one in proposals if one.entry is not None)

    def _old(self, step: int) -> list[Entry]:
        """Tasks of the buffer for the solver, in a step without a valid proposal."""
        pool = [one for one in self.buffer if one.step or one.kind == "induction"] or list(self.buffer)
        places = stream(self.config.seed, "old tasks", step).choice(len(pool), min(len(pool), self.config.prompts), replace=False)
        return [pool[int(place)] for place in places]

    # what is recorded

    def _proposer_metrics(self, proposals: list[Proposal]) -> dict[str, Any]:
        distinct = len({one.text for one in proposals}) / len(proposals)
        found: dict[str, Any] = {"proposer/distinct": distinct, "buffer/size": len(self.buffer), "proposer/barren_steps": self.barren}
        for there, count in Counter(one.kind for one in self.buffer).items():
            found[f"buffer/{there}"] = count
        for kind in (None, *self.kinds):
            mine = [one for one in proposals if kind in (None, one.kind)]
            valid = [one for one in mine if one.entry is not None]
            tail = f"/{kind}" if kind else ""
            found[f"proposer/reward{tail}"] = float(np.mean([one.reward for one in mine]))
            found[f"proposer/valid{tail}"] = len(valid) / len(mine)
            found[f"proposer/length{tail}"] = float(np.mean([len(one.sampled.ids) for one in mine]))
            if valid:
                found[f"solve_rate{tail}"] = float(np.mean([one.rate for one in valid]))
        valid = [one for one in proposals if one.entry is not None]
        if valid:
            found["solve_rate/none"] = float(np.mean([one.rate == 0 for one in valid]))
            found["solve_rate/all"] = float(np.mean([one.rate == 1 for one in valid]))
            sources = [one.entry.draft.program for one in valid if one.entry]
            found["program/characters"] = float(np.mean([len(one) for one in sources]))
            found["program/complexity"] = float(np.mean([proposer.complexity(one) for one in sources]))
            found["program/distinct"] = len(set(sources)) / len(sources)
        for reason, count in Counter(one.reason for one in proposals if one.entry is None).items():
            found[f"proposer/failed/{reason[:40]}"] = count / len(proposals)
        return found

    def _solver_metrics(self, questions: list[Question], tried: list[Any]) -> dict[str, Any]:
        if not tried:
            return {}
        right = np.array([[verdict.correct for _, _, verdict in group] for group in tried], float)
        kinds = np.array([one.task for one in questions])
        found = {
            "reward": float(right.mean()),
            "solver/reward": float(right.mean()),
            "group/zero_std": float((right.std(1) == 0).mean()),
            "solver/length": float(np.mean([len(one.ids) for group in tried for one, _, _ in group])),
        }
        return found | {f"solver/reward/{kind}": float(right[kinds == kind].mean()) for kind in self.kinds if (kinds == kind).any()}

    def fixed(self) -> fixed.Prompts:
        """Validation problems of the run's task to solve, as other methods have them, and references of that split to propose after."""
        rng = stream(self.config.seed, "fixed references")
        asked = []
        for number in range(fixed.COUNT):
            family, program = programs.draw_of(rng, "validation")
            kind = self.kinds[number % len(self.kinds)]
            reference = Draft(program, ((family.inputs(rng, False),),))
            asked.append(self.dialect.ask(kind, [reference], tasks.function(program, self.triplets.plain)))
        coded = [np.array(prompts.encode(self.policy.tokenizer, prompt), np.int64) for prompt in asked]
        solver = fixed.of(self.source, self.policy, self.config.seed, self.config.max_new_tokens)
        return solver | {"proposer": (coded, self.config.propose_tokens)}

    def after(self, directory: RunDirectory, base: Policy) -> None:
        """``curriculum.jsonl``: proposals from four phases of the run, solved by the untouched base, so that their difficulty compares."""
        files = sorted((directory.path / "rollouts").glob("step_*.jsonl"), key=lambda path: int(path.stem[5:]))
        found: list[tuple[int, int, Entry]] = []
        for phase, part in enumerate(np.array_split(np.array(files, object), min(4, len(files)))):
            entries = [(int(file.stem[5:]), row) for file in part for row in _read(file) if row["role"] == "proposer" and row["valid"]]
            rng = stream(self.config.seed, "curriculum", phase)
            for place in rng.permutation(len(entries))[: self.config.curriculum]:
                step, row = entries[int(place)]
                found.append((phase, step, Entry.unpacked(row["entry"])))
        questions = [self.question(entry, number) for number, (_, _, entry) in enumerate(found)]
        if not questions:
            return
        keep, self.policy = self.policy, base
        try:
            tried = self.solve(questions, 0, "curriculum")
        finally:
            self.policy = keep
        rows = [
            {
                "phase": phase,
                "step": step,
                "task": entry.kind,
                "program": entry.draft.program,
                "solve_rate": float(np.mean([verdict.correct for _, _, verdict in group])),
                "samples": len(group),
                "length": float(np.mean([len(one.ids) for one, _, _ in group])),
                "characters": len(entry.draft.program),
                "complexity": proposer.complexity(entry.draft.program),
            }
            for (phase, step, entry), group in zip(found, tried, strict=True)
        ]
        directory.write_rows("curriculum.jsonl", rows)


_UNFORMED = ("empty answer", "no answer between tags", "not a literal")


def _proposal_row(one: Proposal) -> dict[str, Any]:
    row = _row(one.prompt, one.text, one.ids, one.sampled, "proposer", one.kind, one.reward) | {
        "valid": one.entry is not None,
        "reason": one.reason,
        "solve_rate": one.rate if one.entry is not None else None,
    }
    return row | ({"entry": one.entry.packed()} if one.entry is not None else {})


def _solver_row(question: Question, ids: Any, one: Sampled, text: str, verdict: tasks.Verdict, reward: float) -> dict[str, Any]:
    row = _row(question.prompt, text, ids, one, "solver", question.task, reward)
    return row | {"problem": question.id, "reason": verdict.reason, "correct": verdict.correct}


def _row(prompt: str, text: str, ids: Any, one: Sampled, role: str, task: str, reward: float) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "completion": text,
        "prompt_ids": ids.tolist(),
        "completion_ids": one.ids.tolist(),
        "role": role,
        "task": task,
        "reward": reward,
        "ended": one.ended,
    }


def _read(path: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _common(proposals: list[Proposal]) -> str:
    return Counter(one.reason for one in proposals).most_common(1)[0][0]


def _words(program: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", program)


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / max(1, len(a | b))
