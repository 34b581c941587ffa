"""Self-play as in the Absolute Zero Reasoner (arXiv 2505.03335): one model proposes and solves tasks, graded by running programs.

A step has four parts. For each task type, the proposer writes tasks, conditioned on references from the buffer. A proposal is valid if
it parses, runs, is deterministic and is new. The solver samples several answers per valid task: its solve rate determines the proposer's
reward, and each answer is rewarded for correctness. Advantages are normalised separately for each role and task type (TRR++,
``objectives.task_relative_reinforce_plus_plus``), and both roles are trained in one update.

Intentional differences from the public code are listed in docs/methods/selfplay.md. Among them: nondeterministic programs and duplicates
are invalid; outputs are never truncated; a full buffer drops its oldest tasks; by default the solver trains on the proposals of the same
step, with the samples that measured their solve rate, and on nothing else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.train import objectives
from dynamics.train import proposer_rewards as rewards
from dynamics.train.batch import Batch
from dynamics.train.config import SelfPlayConfig
from dynamics.train.coverage import Coverage, unseen_mass
from dynamics.train.games import curriculum, selfplay_metrics
from dynamics.train.games.buffer import BufferEntry, buffer_from_json, first_buffer, sample_earlier_tasks, sample_to_fill
from dynamics.train.games.languages import language
from dynamics.train.games.proposals import Proposal, Proposer
from dynamics.train.games.selfplay_metrics import JudgedCompletion
from dynamics.train.method import Method, StepData
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import COUNT, ProbePrompts, solver_probes
from dynamics.train.rng import stream
from dynamics.train.samplers.transformers import sample
from dynamics.train.tasks.judges import judge_all
from dynamics.train.tasks.problem import TASK_TYPES, Question, Source
from dynamics.train.tasks.prompt_formats import decode, encode_prompts, encode_questions, language_of

#: number of recent tasks of the buffer with which new tasks are compared for diversity
_RECENT = 100


class SelfPlay(Method):
    """Self-play: proposes, validates and solves tasks in each step. Its state includes the task buffer.

    Attributes
    ----------
    base : the base model, which proposes, if the proposer is a snapshot.
    language : of the tasks, by what the model reads.
    proposer : samples and validates proposals.
    buffer : the most recent valid tasks; initially only the first task of the language.
    delayed : tasks of this step for the solver to train on in the next step, with ``solver_delay``.
    steps_without_valid : number of consecutive steps without a valid proposal.
    coverage : the programs that were proposed; None if the run began with a version that did not keep them.
    seconds_outside_model : time spent on running and grading programs in the current step.
    tokens_sampled : in the current step, by both roles, those of the seeding in the first step.
    """

    def __init__(self, config: SelfPlayConfig, policy: Policy, source: Source):
        self.config, self.policy, self.source = config, policy, source
        self.language = language(language_of(policy.tokenizer), config.allow_unconfined)
        self.reward = rewards.find(config.proposer_reward)
        self.task_types: list[str] = [name for name in TASK_TYPES if name in config.task_types]
        self.base = policy.copy() if config.proposer == "snapshot" else None
        self.proposer = Proposer(config, self.base or policy, self.language, self.task_types)
        self.buffer = first_buffer(*self.language.first, config.buffer_size)
        self.delayed: list[BufferEntry] = []
        self.steps_without_valid = 0
        self.coverage: Coverage | None = Coverage(self.language.pool)
        self.seconds_outside_model = 0.0
        self.tokens_sampled = 0

    # what is kept between steps

    def state(self) -> dict[str, Any]:
        """Return the buffer, the delayed tasks, the number of steps without a valid proposal, and the programs that were proposed."""
        return self.snapshot()()

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """Return a function that gives the state as it is now; a full buffer is converted only if that is needed."""
        buffer, delayed, without_valid = list(self.buffer), self.delayed, self.steps_without_valid
        proposed = {} if self.coverage is None else {"proposed": self.coverage.kept()}
        return lambda: {
            "buffer": [entry.to_json() for entry in buffer],
            "waiting": [entry.to_json() for entry in delayed],
            "steps_without_valid": without_valid,
            **proposed,
        }

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""
        self.buffer = buffer_from_json(kept["buffer"], self.config.buffer_size)
        self.delayed = list(map(BufferEntry.from_json, kept["waiting"]))
        # earlier states call it "barren"
        self.steps_without_valid = kept["steps_without_valid"] if "steps_without_valid" in kept else kept["barren"]
        self.coverage = Coverage(self.language.pool, kept["proposed"]) if "proposed" in kept else None

    def metadata(self) -> dict[str, Any]:
        """Return the name of the program executor."""
        return {"executor": self.language.executor}

    def close(self) -> None:
        """Stop the processes that run programs."""
        self.language.close()

    # a step

    def next_batch(self, step: int) -> StepData:
        """Propose, validate, solve, and pack both roles into one batch."""
        begin = time.perf_counter()
        config = self.config
        self.tokens_sampled = 0
        if step == 1:
            self._seed_buffer()
        proposals = self._propose(step, "proposal")
        self._validate(proposals, step)
        valid = [(proposal, proposal.entry) for proposal in proposals if proposal.entry is not None]
        entries = [entry for _, entry in valid]
        self.steps_without_valid = 0 if valid else self.steps_without_valid + 1
        if self.steps_without_valid >= config.collapse_steps and config.on_collapse == "stop":
            raise InputError(
                f"step {step}: no valid proposal for {self.steps_without_valid} steps; the proposer has collapsed (most common reason: "
                f"{_most_common_reason(proposals)}); use --on-collapse solver to continue on the buffer, or a smaller --learning-rate"
            )
        questions = [self.question(entry, number) for number, entry in enumerate(entries)]
        solved = self.solve(self.policy, questions, step, "solution") if questions else []
        self.score_proposals(valid, solved)
        for proposal in proposals:
            if proposal.entry is None:
                proposal.reward = config.invalid_proposal_reward
        if config.solver_delay:
            tasks, trained = self.delayed, [self.question(entry, number) for number, entry in enumerate(self.delayed)]
            solutions = self.solve(self.policy, trained, step, "lagged") if trained else []
        elif not questions and config.solver_batch == "new":
            tasks = sample_earlier_tasks(self.buffer, config.seed, step, config.prompts_per_step)
            trained = [self.question(entry, number) for number, entry in enumerate(tasks)]
            solutions = self.solve(self.policy, trained, step, "lagged") if trained else []
        else:
            tasks, trained, solutions = entries, questions, solved
        if config.solver_batch == "max_new":
            old = sample_to_fill(self.buffer, tasks, self.task_types, config.seed, step, config.prompts_per_step, self.language.key)
            added = [self.question(entry, number) for number, entry in enumerate(old, len(trained))]
            trained = trained + added
            solutions = solutions + (self.solve(self.policy, added, step, "fill") if added else [])
        self.buffer.extend(entries)
        self.delayed = entries if config.solver_delay else []
        data = self.pack(step, proposals, trained, solutions)
        complexity, without_valid = self.language.complexity, self.steps_without_valid
        data.metrics.update(selfplay_metrics.proposer_metrics(proposals, self.buffer, self.task_types, without_valid, complexity))
        data.metrics.update(selfplay_metrics.solver_metrics(trained, solutions, self.task_types, self.policy.token_kinds))
        data.metrics.update(self._coverage(entries))
        if config.solver_batch == "max_new" and trained:
            data.metrics["solver/from_buffer"] = len(added) / len(trained)
        data.metrics["tokens_sampled"] = self.tokens_sampled
        data.metrics["time/feed"] = time.perf_counter() - begin
        data.metrics["time/outside_model"] = self.seconds_outside_model
        self.seconds_outside_model = 0.0
        return data

    def _coverage(self, entries: list[BufferEntry]) -> dict[str, float]:
        """Count the programs of valid proposals; those of induction are from the buffer."""
        programs = [self.language.program_key(entry.proposed) for entry in entries if entry.kind != "induction"]
        metrics = {} if self.coverage is None else self.coverage.add(programs)
        return metrics | ({"coverage/unseen": unseen_mass(programs)} if programs else {})

    def _seed_buffer(self) -> None:
        """Seed the buffer with valid proposals of the base model, starting from the first task of the language."""
        for round_ in range(4):
            if len(self.buffer) >= self.config.num_seed_tasks:
                break
            proposals = self._propose(round_, "seeding")
            self._validate(proposals, 0)
            self.buffer.extend(proposal.entry for proposal in proposals if proposal.entry is not None)

    def _propose(self, step: int, purpose: str) -> list[Proposal]:
        proposals = self.proposer.propose(self.buffer, step, self.config.prompts_per_step, purpose)
        self.tokens_sampled += sum(len(proposal.sampled.ids) for proposal in proposals)
        return proposals

    def _validate(self, proposals: list[Proposal], step: int) -> None:
        begin = time.perf_counter()
        self.proposer.validate(proposals, self.buffer, step)
        self.seconds_outside_model += time.perf_counter() - begin

    def question(self, entry: BufferEntry, number: int) -> Question:
        """Return the question that asks to solve a task; ``number`` is its index in the step."""
        name = f"proposal {entry.step}.{number} {entry.kind}"
        return self.language.question(entry.kind, entry.proposed, entry.outputs, name)

    def solve(self, policy: Policy, questions: list[Question], step: int, purpose: str) -> list[list[JudgedCompletion]]:
        """Sample ``group_size`` completions of each question from a policy, and grade them."""
        ids = encode_questions(policy.tokenizer, questions)
        groups = sample(policy, ids, self.config.group_size, self.config, purpose, step)
        self.tokens_sampled += sum(len(sampled.ids) for group in groups for sampled in group)
        begin = time.perf_counter()
        judged = []
        for question, group in zip(questions, groups, strict=True):
            texts = [decode(policy.tokenizer, sampled.ids, policy.eos) for sampled in group]
            judged.append(list(zip(group, texts, judge_all([question] * len(texts), texts), strict=True)))
        self.seconds_outside_model += time.perf_counter() - begin
        return judged

    def score_proposals(self, valid: list[tuple[Proposal, BufferEntry]], solved: list[list[JudgedCompletion]]) -> None:
        """Set the rewards of valid proposals from solve rates and bonuses."""
        if not valid:
            return
        begin = time.perf_counter()
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
        earlier = Counter(f"{type(entry.outputs[0]).__name__} {entry.outputs[0]!r}" for entry in self.buffer)
        terms: dict[str, Callable[[Proposal, BufferEntry], float]] = {
            "complexity": lambda _, entry: self.language.complexity(entry.proposed.program),
            "edit_distance": lambda proposal, entry: rewards.edit_distance(
                self.language.expression(entry.proposed.program),
                [self.language.expression(reference.program) for reference in proposal.references],
            ),
            "halstead": lambda _, entry: rewards.halstead(self.language.expression(entry.proposed.program)),
            "answer_diversity": lambda _, entry: rewards.surprise(entry.outputs[0], earlier),
        }
        wanted = config.proposer_bonuses
        bonuses = np.array([[config.bonus_scale * terms[name](*pair) for name in wanted] for pair in valid]).reshape(
            len(valid), len(wanted)
        )
        for (proposal, _), rate, value in zip(valid, rates, rewards.combine(reward, bonuses, config.bonus_combination), strict=True):
            proposal.rate, proposal.reward = float(rate), float(value)
        self.seconds_outside_model += time.perf_counter() - begin

    def pack(self, step: int, proposals: list[Proposal], questions: list[Question], solutions: list[list[JudgedCompletion]]) -> StepData:
        """Pack both roles into one batch, with advantages normalised separately for each role and task type."""
        config = self.config
        trained: list[Proposal] = [] if config.proposer == "snapshot" else proposals
        ids = [proposal.prompt_ids for proposal in trained]
        completions = [proposal.sampled for proposal in trained]
        prompt_of = list(range(len(trained)))
        roles, kinds = ["proposer"] * len(trained), [proposal.kind for proposal in trained]
        names = [f"{kind} proposal" for kind in kinds]
        received = [proposal.reward for proposal in trained]
        rows = [selfplay_metrics.proposal_row(proposal) for proposal in proposals]
        solver_rows: list[dict[str, Any]] = []
        for question, prompt_ids, group in zip(questions, encode_questions(self.policy.tokenizer, questions), solutions, strict=True):
            ids.append(prompt_ids)
            for judged in group[: config.solver_samples or config.group_size]:
                sampled, _, verdict = judged
                reward = (
                    verdict.score
                    if verdict.correct
                    else config.format_error_reward
                    if verdict.reason in self.language.unreadable
                    else config.wrong_answer_reward
                )
                completions.append(sampled)
                prompt_of.append(len(ids) - 1)
                roles.append("solver")
                kinds.append(question.task)
                names.append(question.id)
                received.append(reward)
                solver_rows.append(selfplay_metrics.solver_row(question, prompt_ids, judged, reward))
        if not completions:
            raise InputError(f"step {step}: nothing to train on; no proposal was valid and the buffer is empty")
        lengths = np.array([len(sampled.ids) for sampled in completions])
        advantages = objectives.task_relative_reinforce_plus_plus(config.advantage, received, prompt_of, lengths, roles, kinds)
        learns = np.array(roles) != "proposer" if config.proposer == "frozen" else None
        if learns is not None:
            advantages[~learns] = 0.0
        for row, advantage in zip([*(rows if trained else []), *solver_rows], advantages, strict=True):
            row["advantage"] = float(advantage)
        for row in (*rows, *solver_rows):
            row["temperature"] = config.temperature
        batch = Batch(
            ids,
            [sampled.ids for sampled in completions],
            np.array(prompt_of),
            advantages,
            roles,
            kinds,
            names,
            [sampled.logprobs for sampled in completions],
            config.temperature,
            learns,
        )
        return StepData(batch, {}, [*rows, *solver_rows])

    # measurements

    def probe_prompts(self) -> ProbePrompts:
        """Return validation problems for the solver, and prompts with validation programs as references for the proposer."""
        rng = stream(self.config.seed, "fixed references")
        prompts = []
        for number in range(COUNT):
            reference = self.language.draw_reference(rng)
            kind = self.task_types[number % len(self.task_types)]
            prompts.append(self.language.proposal_prompt(kind, [reference], reference.program))
        ids = encode_prompts(self.policy.tokenizer, prompts)
        solver = solver_probes(self.source, self.policy, self.config.seed, self.config.max_new_tokens)
        return solver | {"proposer": (ids, self.config.max_proposal_tokens)}

    def on_train_end(self, directory: RunDirectory, load_base: Callable[[], Policy]) -> None:
        """Write ``curriculum.jsonl``."""
        proposed = curriculum.draw(directory, self.config.seed, self.config.curriculum_samples)
        questions = [self.question(entry, number) for number, (_, _, entry) in enumerate(proposed)]
        if questions:
            solutions = self.solve(load_base(), questions, 0, "curriculum")
            directory.write_rows("curriculum.jsonl", curriculum.rows(proposed, solutions, self.language.complexity))


def _most_common_reason(proposals: list[Proposal]) -> str:
    return Counter(proposal.reason for proposal in proposals).most_common(1)[0][0]
