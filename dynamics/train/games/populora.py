"""PopuLoRA (arXiv 2605.16727): populations of teachers and students, all LoRA adapters on one frozen base, play Absolute Zero's game.

In a step teachers and students are paired by their ratings; each teacher proposes tasks, and its student solves them. A teacher is paid by
the solve rate of the student that it met, so that each population is the other's curriculum. Ratings follow from solve rates against
expectation. Every few steps the lowest rated players are replaced by children of the best.

What is known of the paper is from notes, not from its code, which was not found; docs/methods/populora.md labels each choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamics.errors import InputError
from dynamics.runs.directory import RunDirectory
from dynamics.train.games import evolution, ratings, selfplay_metrics
from dynamics.train.games.buffer import BufferEntry, sample_to_fill
from dynamics.train.games.game import Game, JudgedCompletion, Play, Role, Turn
from dynamics.train.games.populora_settings import PopuLoRAConfig
from dynamics.train.games.proposals import Proposal
from dynamics.train.games.ratings import Rating
from dynamics.train.games.taskmaking import TaskMaking
from dynamics.train.lineage.tree import LINEAGE
from dynamics.train.lora import LoraPolicy, SharedBase
from dynamics.train.player import ONLY
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import ProbePrompts, solver_probes
from dynamics.train.rng import stream
from dynamics.train.tasks.problem import Question, Source
from dynamics.train.update import make_player


@dataclass
class Match:
    """A teacher's tasks and its student's answers.

    Attributes
    ----------
    teacher, student : names of the players.
    proposals : of the teacher.
    rate : share of the answers to the valid ones that are right; None if none is valid.
    """

    teacher: str
    student: str
    proposals: list[Proposal]
    rate: float | None = None


class PopuLoRA(Game):
    """Populations of adapters. The state is that of the tasks, the ratings, the lineage, and which student is graded.

    Attributes
    ----------
    base : the frozen model, which all players share.
    teachers, students : policies by the names of the players.
    ratings : of both populations, by role and name.
    lineage : a row for each adapter that there was; see docs/methods/populora.md.
    """

    def __init__(self, config: PopuLoRAConfig, policy: Policy, source: Source):
        super().__init__(config, policy)
        self.config, self.source = config, source
        self.tasks = TaskMaking(self, config)
        self.roles = {"proposer": Role(config.teacher_advantage, cells="role"), "solver": Role(config.advantage, cells="role")}
        shared, alpha = SharedBase(policy), config.lora_alpha or None
        self.base: Policy = policy

        def adapter(number: int) -> LoraPolicy:
            return LoraPolicy(shared, config.lora_rank, alpha, config.seed, number)

        self.teachers: dict[str, Policy]
        self.adapters: dict[str, LoraPolicy]
        if config.population == "one":
            agent = adapter(0)
            self.adapters = {ONLY: agent}
            self.teachers, self.students = {ONLY: agent}, {ONLY: agent}
        else:
            names = [f"teacher{number}" for number in range(1, config.teachers + 1)]
            self.students = {f"student{number}": adapter(100 + number) for number in range(1, config.students + 1)}
            if config.proposer == "snapshot":
                self.adapters = dict(self.students)
                self.teachers = dict.fromkeys(names, policy)
            else:
                taught = {name: adapter(number) for number, name in enumerate(names, 1)}
                self.adapters, self.teachers = taught | self.students, dict(taught)
            self.graded, self.graded_by_validation = "student1", True
        self.players = {name: make_player(name, adapter, config) for name, adapter in self.adapters.items()}
        self.ratings = {"teacher": dict.fromkeys(self.teachers, Rating()), "student": dict.fromkeys(self.students, Rating())}
        self.lineage: list[dict[str, Any]] = [_born(0, name, 0) for name in self.adapters]
        self.living = {name: f"{name}.0" for name in self.adapters}

    # players

    def player_of(self, role: str) -> str:
        """Return the player that is asked the probe prompts of a role: the first of its population."""
        return next(iter(self.teachers if role == "proposer" else self.students))

    def choose_graded(self, measure: Callable[[Policy], float]) -> None:
        """Choose the student that is best on validation problems, the first of equal ones."""
        self.graded = max(self.students, key=lambda name: measure(self.students[name]))

    def probe_prompts(self) -> ProbePrompts:
        """Return validation problems for the first student, and prompts for the first teacher, if it is a player."""
        solver = solver_probes(self.source, self.base, self.config.seed, self.config.max_new_tokens)
        return solver if self.config.proposer == "snapshot" else solver | self.tasks.probe_prompts()

    # state

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return self.snapshot()()

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """Return a function that gives the state as it is now."""
        tasks, lineage, living, graded = self.tasks.snapshot(), list(self.lineage), dict(self.living), self.graded
        rated = {role: {name: rating.to_json() for name, rating in of.items()} for role, of in self.ratings.items()}
        return lambda: tasks() | {"ratings": rated, "lineage": lineage, "living": living, "graded": graded}

    def load(self, kept: dict[str, Any]) -> None:
        """Restore a state."""
        self.tasks.load(kept)
        rated = {role: ratings.from_json(of) for role, of in kept["ratings"].items()}
        self.ratings = {role: {name: rated[role][name] for name in of} for role, of in self.ratings.items()}  # in the order of the players
        self.lineage, self.living, self.graded = list(kept["lineage"]), dict(kept["living"]), kept["graded"]

    def metadata(self) -> dict[str, Any]:
        """Return the name of the program executor, and the sizes of the populations."""
        sizes = {"teachers": len(self.teachers), "students": len(self.students)}
        trained = sum(value.numel() for value in next(iter(self.adapters.values())).masters.values())
        return {"executor": self.tasks.language.executor, "populations": sizes | {"parameters_each": trained}}

    def close(self) -> None:
        """Stop the processes that run programs."""
        self.tasks.language.close()

    # a step

    def play(self, step: int) -> Play:
        """Pair, propose, validate, solve, pay and rate."""
        making = self.tasks
        if step == 1:
            making.seed(self.base)
        matches = self.propose(step, self.pairs(step))
        proposals = [proposal for match in matches for proposal in match.proposals]
        making.validate(proposals, step)
        valid = making.count_valid(proposals, step)
        entries = [entry for _, entry in valid]
        assigned = self.assign(matches, entries, step)
        answered = self.solve(assigned, step)
        groups = {id(entry): group for name, asked in assigned.items() for entry, group in zip(asked, answered[name][1], strict=True)}
        making.score(valid, [groups[id(entry)] for entry in entries])
        learns, packed = self.config.proposer != "frozen", self.config.proposer != "snapshot"
        turns: list[Turn] = []
        number = 0
        for match in matches:
            for proposal in match.proposals:
                more = {"player": match.teacher, "learns": learns, "packed": packed}
                turns.append(making.proposal_turn(proposal, number, **more))
                turns[-1].row |= {"student": match.student}
                number += 1
        for name, (questions, solved) in answered.items():
            made = making.solver_turns(questions, solved, self.config.group_size, player=name)
            for turn in made:  # two students may be asked the same question
                turn.group = (name, turn.group)
            turns += made
        if not any(turn.packed for turn in turns):
            raise InputError(f"step {step}: nothing to train on; no proposal was valid and the buffer is empty")
        making.buffer.extend(entries)
        asked = [question for questions, _ in answered.values() for question in questions]
        solutions = [group for _, solved in answered.values() for group in solved]
        complexity, without_valid = making.language.complexity, making.steps_without_valid
        metrics = selfplay_metrics.proposer_metrics(proposals, making.buffer, making.task_types, without_valid, complexity)
        metrics |= selfplay_metrics.solver_metrics(asked, solutions, making.task_types, self.base.token_kinds)
        metrics |= making.count_programs(entries)
        if asked:
            metrics["solver/from_buffer"] = 1 - len(entries) / len(asked)
        if self.config.population == "separate":
            metrics |= self.rate(matches) | self.population_metrics(matches, answered)
        return Play(turns, metrics)

    def pairs(self, step: int) -> list[tuple[str, str]]:
        """Draw who meets whom."""
        if self.config.population == "one":
            return [(ONLY, ONLY)]
        rng = stream(self.config.seed, "populora pairs", step)
        return ratings.pairs(self.ratings["teacher"], self.ratings["student"], rng, uniform=self.config.pairing == "uniform")

    def propose(self, step: int, pairs: list[tuple[str, str]]) -> list[Match]:
        """Ask each teacher once, for the tasks of all its matches."""
        share = self.config.prompts_per_step // len(pairs)
        matches = [Match(teacher, student, []) for teacher, student in pairs]
        for name in dict.fromkeys(teacher for teacher, _ in pairs):
            own = [match for match in matches if match.teacher == name]
            proposals = self.tasks.propose(self.teachers[name], step, share * len(own), f"populora {name} proposal")
            for kind in self.tasks.task_types:
                of_kind = [proposal for proposal in proposals if proposal.kind == kind]
                for number, match in enumerate(own):
                    match.proposals += of_kind[number * share : (number + 1) * share]
        return matches

    def assign(self, matches: list[Match], entries: list[BufferEntry], step: int) -> dict[str, list[BufferEntry]]:
        """Give each student the valid tasks of its matches, and tasks of the buffer in the place of those that are not valid."""
        config, making = self.config, self.tasks
        share = config.prompts_per_step // len(matches)
        old = sample_to_fill(making.buffer, entries, making.task_types, config.seed, step, config.prompts_per_step, making.language.key)
        assigned: dict[str, list[BufferEntry]] = {name: [] for name in self.students}
        for match in matches:
            own = [proposal.entry for proposal in match.proposals if proposal.entry is not None]
            for kind in making.task_types:
                missing = share - sum(entry.kind == kind for entry in own)
                fill = [entry for entry in old if entry.kind == kind][:missing]
                old = [entry for entry in old if all(entry is not other for other in fill)]
                own += fill
            assigned[match.student] += own
        return {name: asked for name, asked in assigned.items() if asked}

    def solve(self, assigned: Mapping[str, list[BufferEntry]], step: int) -> dict[str, tuple[list[Question], list[list[JudgedCompletion]]]]:
        """Ask each student all its tasks at once."""
        answered: dict[str, tuple[list[Question], list[list[JudgedCompletion]]]] = {}
        start = 0
        for name, entries in assigned.items():
            questions = self.tasks.questions(entries, start)
            answered[name] = questions, self.tasks.solve(self.students[name], questions, step, f"populora {name} solution")
            start += len(questions)
        return answered

    def rate(self, matches: list[Match]) -> dict[str, float]:
        """Update the ratings, match by match; a match without a valid task says nothing. Return what was expected, and what happened."""
        teachers, students = self.ratings["teacher"], self.ratings["student"]
        expected: list[float] = []
        happened: list[float] = []
        chances = [ratings.win_probability(students[match.student], teachers[match.teacher]) for match in matches]
        for match in matches:
            rates = [proposal.rate for proposal in match.proposals if proposal.entry is not None]
            if not rates:
                continue
            match.rate = float(np.mean(rates))
            teacher, student = teachers[match.teacher], students[match.student]
            expected.append(ratings.win_probability(student, teacher))
            happened.append(match.rate)
            teachers[match.teacher], students[match.student] = ratings.after_match(teacher, student, match.rate)
        metrics = {"match/evenness": float(np.mean([chance * (1 - chance) for chance in chances]))}
        if happened:
            metrics |= {"match/expected": float(np.mean(expected)), "match/rate": float(np.mean(happened))}
            metrics["match/surprise"] = float(np.mean(np.abs(np.subtract(happened, expected))))
        return metrics

    def population_metrics(
        self, matches: list[Match], answered: Mapping[str, tuple[list[Question], list[list[JudgedCompletion]]]]
    ) -> dict[str, float]:
        """Return ratings, the best and the worst player of the step, and how many children there were."""
        metrics: dict[str, float] = {}
        for of in self.ratings.values():
            metrics |= {f"rating/{name}": rating.mu for name, rating in of.items()}
            metrics |= {f"rating/{name}/sigma": rating.sigma for name, rating in of.items()}
        right = [np.mean([verdict.correct for group in solved for _, _, verdict in group]) for _, solved in answered.values()]
        paid = [
            np.mean([proposal.reward for match in matches if match.teacher == name for proposal in match.proposals])
            for name in dict.fromkeys(match.teacher for match in matches)
        ]
        for name, values in (("students", right), ("teachers", paid)):
            if values:
                metrics |= {f"population/{name}/best": float(max(values)), f"population/{name}/worst": float(min(values))}
        metrics["population/children"] = len(self.lineage) - len(self.adapters)
        return metrics

    # evolution

    def after_update(self, step: int) -> None:
        """Replace the lowest rated by children of the best, if it is due; not after the last step, as they would not be trained."""
        every = self.config.evolve_every
        if self.config.population == "one" or not every or step % every or step == self.config.steps:
            return
        for role, of in self.ratings.items():
            names = [name for name in of if name in self.adapters]
            if len(names) > 1:
                self.evolve(role, step)

    def evolve(self, role: str, step: int) -> None:
        """Replace the lowest rated of a population; all parents are those that are kept."""
        config, rated = self.config, self.ratings[role]
        order = ratings.ranked(rated)
        count = config.replaced(len(order))
        kept, replaced = order[: len(order) - count], order[len(order) - count :]
        for name in replaced:
            rng = stream(config.seed, f"populora evolution {name}", step)
            applicable = config.applicable(len(order))
            operator = applicable[int(rng.integers(len(applicable)))]
            needed = evolution.find(operator).parents
            top = kept[: max(needed, math.ceil(config.evolved_share * len(order)))]
            parents = [top[int(index)] for index in sorted(rng.choice(len(top), needed, replace=False))]  # the better one first
            factors = evolution.child(operator, [self.adapters[parent].masters for parent in parents], rng)
            self.adapters[name].assign(factors)
            self.players[name].optimizer.state.clear()
            row = _born(step, name, int(self.living[name].rpartition(".")[2]) + 1)
            row |= {"operator": operator, "parents": [self.living[parent] for parent in parents], "replaces": self.living[name]}
            row["ratings"] = {self.living[other]: rated[other].to_json() for other in order}
            self.lineage.append(row)
            self.living[name] = row["child"]
            rated[name] = Rating(mu=float(np.mean([rated[parent].mu for parent in parents])))

    # after training

    def on_train_end(self, directory: RunDirectory, load_base: Callable[[], Policy]) -> None:
        """Write the lineage, and ``curriculum.jsonl``."""
        if self.config.population == "separate":
            directory.write_rows(LINEAGE, self.lineage)
        self.tasks.write_curriculum(directory, load_base)


def _born(step: int, player: str, generation: int) -> dict[str, Any]:
    """Make the row of an adapter in the lineage."""
    return {"step": step, "child": f"{player}.{generation}", "player": player, "parents": [], "operator": None}
