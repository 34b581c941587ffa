"""The measures of games on the rollouts and metrics of runs, by phase of training and role."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.bootstrap import LEVEL
from dynamics.errors import InputError
from dynamics.games import claims, diversity, spirals, structure
from dynamics.games.intervals import NOTHING, Estimate, mean, share
from dynamics.games.spirals import Spiral, death_spiral
from dynamics.games.turns import read_turns

if TYPE_CHECKING:
    import pandas as pd

    from dynamics.runs import Run

SCHEMA = "dynamics.games/1"
PHASES = 4


@dataclass(frozen=True)
class Measure:
    """What a number is: title, unit of ``count``, and whether it is a share."""

    title: str
    unit: str
    is_share: bool


#: all measures of the command, in the order in which they are shown
MEASURES = {
    "valid": Measure("valid proposals", "proposals", True),
    "claim_accuracy": Measure("claim accuracy", "claims", True),
    "accuracy": Measure("accuracy", "problems", True),
    "agreement": Measure("agreement", "problems", True),
    "gap": Measure("agreement - accuracy", "problems", False),
    "label_accuracy": Measure("majority label accuracy", "problems", True),
    "similarity_nearest": Measure("similarity to nearest earlier", "tasks", True),
    "similarity_mean": Measure("similarity to earlier, mean", "tasks", True),
    "new_skeletons": Measure("skeleton not in earlier phases", "programs", True),
    "skeletons": Measure("distinct skeletons, rarefied", "programs", False),
    "cumulative_skeletons": Measure("distinct skeletons so far", "programs", False),
    "depth": Measure("depth of the syntax tree", "programs", False),
    "cyclomatic": Measure("cyclomatic number", "programs", False),
    "lines": Measure("lines of code", "programs", False),
}
#: measures that need a model, and the command that computes them
WITH_A_MODEL = {
    "cross-play matrix": "needs the checkpoints: python -m dynamics.train.crossplay RUN",
    "role conflict, gradient share of invalid proposals": "needs the checkpoints: python -m dynamics.train.conflict RUN",
    "learnable information": "needs a learner: python -m dynamics.train.learnable RUN",
    "robustness gap": "needs answers to fixed hints: dynamics.games.robustness_gap",
}


@dataclass(frozen=True)
class Row:
    """One number.

    Attributes
    ----------
    role, player, task : whose turns; the task is empty for all kinds together.
    phase, first_step, last_step : of training, from 0.
    measure : key of ``MEASURES``.
    estimate : the number with its interval.
    """

    role: str
    player: str
    task: str
    phase: int
    first_step: int
    last_step: int
    measure: str
    estimate: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object."""
        return {name: value for name, value in vars(self).items() if name != "estimate"} | self.estimate.to_dict()


@dataclass(frozen=True)
class RunMeasures:
    """The measures of one run.

    Attributes
    ----------
    name, path, trainer, method : of the run.
    turns : number of completions that were read.
    rows : the numbers.
    spirals : death-spiral indicator by (proposing role, solving role).
    missing : measure -> why it could not be computed.
    notes : what was left out of the files.
    """

    name: str
    path: str
    trainer: str
    method: str | None
    turns: int
    rows: list[Row]
    spirals: dict[tuple[str, str], Spiral]
    missing: dict[str, str]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object."""
        return {
            "name": self.name,
            "path": self.path,
            "trainer": self.trainer,
            "method": self.method,
            "turns": self.turns,
            "rows": [row.to_dict() for row in self.rows],
            "death_spirals": [{"proposer": pair[0], "solver": pair[1], **spiral.to_dict()} for pair, spiral in self.spirals.items()],
            "missing": [{"measure": name, "reason": reason} for name, reason in self.missing.items()],
            "notes": self.notes,
        }


@dataclass(frozen=True)
class Report:
    """The measures of several runs, and the settings of intervals and windows."""

    runs: list[RunMeasures]
    level: float
    phases: int
    window: int

    def __repr__(self) -> str:
        """Describe the report in one line."""
        return f"<games.Report of {len(self.runs)} runs, {sum(len(run.rows) for run in self.runs)} numbers>"

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON document of schema ``dynamics.games/1``; undefined numbers are NaN."""
        return {
            "schema": SCHEMA,
            "interval": {
                "level": self.level,
                "method": "over tasks, problems or proposals of a phase: bootstrap for shares and the gap, Student's t for the rest",
            },
            "phases": self.phases,
            "window": self.window,
            "threshold": spirals.THRESHOLD,
            "runs": [run.to_dict() for run in self.runs],
        }

    def table(self) -> pd.DataFrame:
        """Return all numbers as one tidy table."""
        import pandas as pd

        names = ["run", "role", "player", "task", "phase", "first_step", "last_step", "measure", "value", "low", "high", "count"]
        return pd.DataFrame([{"run": run.name, **row.to_dict()} for run in self.runs for row in run.rows], columns=names)


@dataclass
class _Found:
    """Rows that were computed so far, for one run."""

    rows: list[Row] = field(default_factory=list)

    def add(self, key: tuple[str, str, str], phase: tuple[int, int, int], measure: str, estimate: Estimate) -> None:
        if estimate.count:
            self.rows.append(Row(*key, *phase, measure, estimate))


def phases_of(steps: Sequence[int], count: int) -> list[tuple[int, int, int]]:
    """Cut the steps of a run into at most ``count`` phases of equally many recorded steps.

    Returns
    -------
    Number, first and last step of each.
    """
    if count < 1:
        raise InputError(f"phases={count}: must be at least 1")
    different = sorted(set(steps))
    parts = np.array_split(np.array(different, np.int64), min(count, len(different)))
    return [(number, int(part[0]), int(part[-1])) for number, part in enumerate(parts)]


def measure_run(run: Run, name: str, phases: int = PHASES, window: int = spirals.WINDOW, level: float = LEVEL) -> RunMeasures:
    """Compute what can be computed from a run's rollouts and metrics.

    Parameters
    ----------
    run : from ``dynamics.runs.open_run``.
    name : what the run is called.
    phases : number of phases of training.
    window : steps of a window of the death-spiral indicator.
    level : of the intervals.

    Raises
    ------
    InputError : the run has kept no completions.
    """
    turns, notes = read_turns(run)
    cut = phases_of(turns["step"].tolist(), phases)
    ends = np.array([last for _, _, last in cut])
    turns = turns.assign(phase=np.searchsorted(ends, turns["step"].to_numpy()))
    found = _Found()
    has_proposals = bool(turns["valid"].notna().any())
    for (role, player), part in turns.groupby(["role", "player"], sort=False):
        key = (str(role), str(player), "")
        if part["valid"].notna().any():
            _proposals(found, key, part, cut, level)
            good = part[part["valid"] == 1]
            _texts(found, key, good["completion"].tolist(), good["phase"].tolist(), cut, level)
            _programs(found, key, good[good["program"].notna()], cut, level)
            continue
        _answers(found, key, part, cut, level)
        if part["task"].nunique() > 1:
            for task, of_task in part.groupby("task", sort=True):
                _answers(found, (key[0], key[1], str(task)), of_task, cut, level)
        if not has_proposals:
            asked = part.drop_duplicates(["step", "prompt"])
            _texts(found, key, asked["prompt"].tolist(), asked["phase"].tolist(), cut, level)
    indicators, why = _spirals(run, turns, window)
    order = {measure: place for place, measure in enumerate(MEASURES)}
    rows = sorted(found.rows, key=lambda row: (row.role, row.player, row.task, order[row.measure], row.phase))
    missing = _missing(turns, {row.measure for row in rows}) | why | WITH_A_MODEL
    return RunMeasures(name, str(run.path), run.trainer, run.method, len(turns), rows, indicators, missing, notes)


def _by_phase(phases: Sequence[int], cut: Sequence[tuple[int, int, int]], values: Any) -> list[tuple[tuple[int, int, int], Any]]:
    """Return each phase with its values."""
    array, of = np.asarray(values), np.asarray(phases)
    return [(phase, array[of == phase[0]]) for phase in cut]


def _proposals(found: _Found, key: tuple[str, str, str], part: pd.DataFrame, cut: Sequence[tuple[int, int, int]], level: float) -> None:
    for measure, column in (("valid", "valid"), ("claim_accuracy", "claimed")):
        for phase, values in _by_phase(part["phase"].tolist(), cut, part[column].to_numpy(float)):
            found.add(key, phase, measure, share(values, level))


def _texts(
    found: _Found, key: tuple[str, str, str], texts: list[str], phases: list[int], cut: Sequence[tuple[int, int, int]], level: float
) -> None:
    if not texts:
        return
    pool = int(np.sum(np.asarray(phases) == min(phases)))
    nearest, average = diversity.similarity_to_earlier(texts, phases, pool)
    for measure, values in (("similarity_nearest", nearest), ("similarity_mean", average)):
        for phase, of_phase in _by_phase(phases, cut, values):
            found.add(key, phase, measure, share(of_phase, level))


def _programs(found: _Found, key: tuple[str, str, str], part: pd.DataFrame, cut: Sequence[tuple[int, int, int]], level: float) -> None:
    known = {program: structure.measure(program) for program in part["program"].unique()}
    pairs = [(known[program], phase) for program, phase in zip(part["program"], part["phase"], strict=True)]
    shapes = [(shape, int(phase)) for shape, phase in pairs if shape is not None]
    if not shapes:
        return
    phases, skeletons = [phase for _, phase in shapes], [shape.skeleton for shape, _ in shapes]
    for measure in ("depth", "cyclomatic", "lines"):
        for phase, values in _by_phase(phases, cut, [float(getattr(shape, measure)) for shape, _ in shapes]):
            found.add(key, phase, measure, mean(values, level))
    for phase, values in _by_phase(phases, cut, diversity.is_new(skeletons, phases)):
        found.add(key, phase, "new_skeletons", share(values, level))
    grown, parts = _by_phase(phases, cut, diversity.cumulative(skeletons)), _by_phase(phases, cut, skeletons)
    size = min(len(values) for _, values in parts if len(values))
    for (phase, values), (_, counts) in zip(parts, grown, strict=True):
        if len(values):
            found.add(key, phase, "skeletons", Estimate(diversity.rarefied(values.tolist(), size), math.nan, math.nan, size))
            found.add(
                key,
                phase,
                "cumulative_skeletons",
                Estimate(float(counts[-1]), math.nan, math.nan, int(np.sum(np.asarray(phases) <= phase[0]))),
            )


def _answers(found: _Found, key: tuple[str, str, str], part: pd.DataFrame, cut: Sequence[tuple[int, int, int]], level: float) -> None:
    graded = part[part["correct"].notna()]
    for phase in cut:
        of_phase = graded[graded["phase"] == phase[0]]
        groups = [group for _, group in of_phase.groupby(["step", "prompt"], sort=False)]
        if not groups:
            continue
        if not of_phase["answer"].notna().any():  # no marks: what is accuracy is known, what agrees is not
            found.add(key, phase, "accuracy", share([group["correct"].mean() for group in groups], level))
            continue
        answers = [group["answer"].tolist() for group in groups]
        verdicts = [(group["correct"] == 1).tolist() for group in groups]
        several = any(len(group) > 1 for group in answers)
        believed = claims.beliefs(answers, verdicts, level)
        for measure, estimate in vars(believed).items():
            found.add(key, phase, measure, estimate if several or measure == "accuracy" else NOTHING)


def _spirals(run: Run, turns: pd.DataFrame, window: int) -> tuple[dict[tuple[str, str], Spiral], dict[str, str]]:
    """Compute the indicator for each pair of a role with proposals and one with rewards for answers."""
    proposing = [str(role) for role, part in turns.groupby("role") if part["valid"].notna().any()]
    solving = [str(role) for role in turns["role"].unique() if role not in proposing]
    series: Callable[[str], Any] = run.series
    found: dict[tuple[str, str], Spiral] = {}
    why = (
        "the rollouts have no proposals"
        if not proposing
        else f"metrics.jsonl has not the entropy and valid share of {', '.join(proposing)}, and a reward"
    )
    for proposer in proposing:
        entropy, valid = series(f"{proposer}/entropy"), series(f"{proposer}/valid")
        for solver in solving:
            reward = series(f"{solver}/reward")
            if not (len(entropy) and len(valid) and len(reward)):
                continue
            steps = sorted({*entropy.index, *valid.index, *reward.index})
            if len(steps) < window:
                why = f"{len(steps)} steps are fewer than a window of {window}; use a smaller --window"
                continue
            columns = [one.reindex(steps).to_numpy(float) for one in (entropy, valid, reward)]
            found[proposer, solver] = death_spiral(steps, columns[0], columns[1], columns[2], window)
    return found, {} if found else {"death spiral": why}


def _missing(turns: pd.DataFrame, measured: set[str]) -> dict[str, str]:
    """Say why measures of rollouts are absent."""
    missing: dict[str, str] = {}

    def absent(names: Sequence[str], reason: str) -> None:
        lost = [MEASURES[name].title for name in names if name not in measured]
        if lost:
            missing[", ".join(lost)] = reason

    proposals = turns["valid"].notna().any()
    absent(["valid"], "the rollouts have no proposals")
    absent(["claim_accuracy"], "no proposal claims an answer" if proposals else "the rollouts have no proposals")
    unknown = "no completion has a verdict: neither 'correct' nor a reward of 0 or 1"
    no_answer = "no answer can be read: completions have neither <ans>, <answer>...</answer> nor \\boxed{...}"
    single = "every problem has one answer a step"
    graded = turns[turns["correct"].notna()]
    absent(["accuracy"], unknown)
    reason = unknown if not len(graded) else no_answer if not graded["answer"].notna().any() else single
    absent(["agreement", "gap", "label_accuracy"], reason)
    absent(["similarity_nearest", "similarity_mean"], "one phase only: there is nothing earlier")
    programs = "no valid proposal holds a program of Python" if proposals else "the rollouts have no proposals"
    absent(["new_skeletons"], programs if "depth" not in measured else "one phase only: there is nothing earlier")
    absent(["skeletons", "cumulative_skeletons", "depth", "cyclomatic", "lines"], programs)
    return missing
