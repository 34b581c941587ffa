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

from collections.abc import Callable
from typing import Any

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.train.config import SelfPlayConfig
from dynamics.train.games import selfplay_metrics
from dynamics.train.games.buffer import BufferEntry, sample_to_fill
from dynamics.train.games.game import Game, Play, Role
from dynamics.train.games.taskmaking import TaskMaking
from dynamics.train.player import ONLY
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import ProbePrompts, solver_probes
from dynamics.train.tasks.problem import Source
from dynamics.train.update import make_player


class SelfPlay(Game):
    """Self-play: proposes, validates and solves tasks in each step. Its state includes the task buffer.

    Attributes
    ----------
    base : the base model, which proposes, if the proposer is a snapshot.
    tasks : makes and validates the tasks.
    delayed : tasks of this step for the solver to train on in the next step, with ``solver_delay``.
    """

    def __init__(self, config: SelfPlayConfig, policy: Policy, source: Source):
        super().__init__(config, policy)
        self.config, self.policy, self.source = config, policy, source
        self.tasks = TaskMaking(self, config, config.gate_leak)
        self.roles = {role: Role(config.advantage) for role in ("proposer", "solver")}
        self.base = policy.copy() if config.proposer == "snapshot" else None
        self.delayed: list[BufferEntry] = []
        self.proposer, self.names = self.base or policy, {"proposer": ONLY, "solver": ONLY}
        if config.players == "two":
            self.proposer, self.names = policy.copy(), {"proposer": "proposer", "solver": "solver"}
            pair = {"proposer": self.proposer, "solver": policy}
            self.players, self.graded = {name: make_player(name, of, config) for name, of in pair.items()}, "solver"

    def player_of(self, role: str) -> str:
        """Return the name of the player that has a role."""
        return self.names.get(role, self.graded)

    def state(self) -> dict[str, Any]:
        """Return the state of the task making, and the delayed tasks."""
        return self.snapshot()()

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """Return a function that gives the state as it is now."""
        tasks, delayed = self.tasks.snapshot(), self.delayed

        def kept() -> dict[str, Any]:
            state = tasks()
            return {"buffer": state.pop("buffer"), "waiting": [entry.to_json() for entry in delayed], **state}

        return kept

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""
        self.tasks.load(kept)
        self.delayed = list(map(BufferEntry.from_json, kept["waiting"]))

    def metadata(self) -> dict[str, Any]:
        """Return the name of the program executor."""
        return {"executor": self.tasks.language.executor}

    def close(self) -> None:
        """Stop the processes that run programs."""
        self.tasks.language.close()

    def play(self, step: int) -> Play:
        """Propose, validate and solve."""
        config, making = self.config, self.tasks
        proposer = self.proposer
        if step == 1:
            making.seed(proposer)
        proposals = making.propose(proposer, step, config.prompts_per_step, "proposal")
        making.validate(proposals, step)
        valid = making.count_valid(proposals, step)
        entries = [entry for _, entry in valid]
        questions = making.questions(entries)
        solved = making.solve(self.policy, questions, step, "solution")
        voting = config.solver_truth == "majority"
        making.score(valid, making.vote(questions, solved) if voting else solved)
        if config.solver_delay:
            tasks, trained = self.delayed, making.questions(self.delayed)
            solutions = making.solve(self.policy, trained, step, "lagged")
        elif not questions and config.solver_batch == "new":
            tasks = making.earlier_tasks(step)
            trained = making.questions(tasks)
            solutions = making.solve(self.policy, trained, step, "lagged")
        else:
            tasks, trained, solutions = entries, questions, solved
        if config.solver_batch == "max_new":
            key = making.language.key
            old = sample_to_fill(making.buffer, tasks, making.task_types, config.seed, step, config.prompts_per_step, key)
            added = making.questions(old, len(trained))
            trained = trained + added
            solutions = solutions + making.solve(self.policy, added, step, "fill")
        making.buffer.extend(entries)
        self.delayed = entries if config.solver_delay else []
        learns, packed = config.proposer != "frozen", config.proposer != "snapshot"
        paid = making.vote(trained, solutions) if voting else solutions
        turns = [
            making.proposal_turn(proposal, number, learns=learns, packed=packed, player=self.names["proposer"])
            for number, proposal in enumerate(proposals)
        ]
        count, measured = config.solver_samples or config.group_size, solutions if voting else None
        turns += making.solver_turns(trained, paid, count, measured, player=self.names["solver"])
        if not any(turn.packed for turn in turns):
            raise InputError(f"step {step}: nothing to train on; no proposal was valid and the buffer is empty")
        complexity, without_valid = making.language.complexity, making.steps_without_valid
        metrics = selfplay_metrics.proposer_metrics(proposals, making.buffer, making.task_types, without_valid, complexity)
        metrics |= selfplay_metrics.solver_metrics(trained, paid, making.task_types, self.policy.token_kinds)
        if voting:
            metrics |= making.vote_metrics(trained, solutions, paid)
        if config.gate_leak:
            metrics["proposer/admitted"] = sum(proposal.admitted for proposal in proposals) / len(proposals)
        metrics |= making.count_programs([proposal.entry for proposal in proposals if proposal.entry and proposal.valid])
        if config.solver_batch == "max_new" and trained:
            metrics["solver/from_buffer"] = len(added) / len(trained)
        return Play(turns, metrics)

    def probe_prompts(self) -> ProbePrompts:
        """Return validation problems for the solver, and prompts with validation programs as references for the proposer."""
        solver = solver_probes(self.source, self.policy, self.config.seed, self.config.max_new_tokens)
        return solver | self.tasks.probe_prompts()

    def on_train_end(self, directory: RunDirectory, load_base: Callable[[], Policy]) -> None:
        """Write ``curriculum.jsonl``."""
        self.tasks.write_curriculum(directory, load_base)
