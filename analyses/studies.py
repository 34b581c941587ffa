"""What a study of our own is made of: scores from folders of runs, and a command that fixes claims before the runs and judges them after.

A study is a module such as ``analyses.laboratory``: its claims, the table of what it draws, and its figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analyses import claims
from analyses.analysis import entitle, sampled
from analyses.claims import Conjunct, Family, Graded, Scores, Source, contrast
from analyses.runs import Run, find, is_of_base, read_json_lines
from analyses.statistics import Effect
from analyses.training_series import answers
from analyses.verdicts import FAILS, HOLDS, OPEN
from dynamics import InputError
from dynamics.cli import command, outputs
from dynamics.cli.outputs import wrote
from dynamics.descriptions import plural
from dynamics.extras import optional_import
from dynamics.io.csv import write_csv
from dynamics.presentation import style
from dynamics.runs.directory import RunDirectory

#: manner of answering -> its temperature
MANNERS = {"greedy": 0.0, "T=1": 1.0}
#: proposals are solved by the base, in four quarters of the run
FIRST, LAST = "first quarter", "last quarter"
PROPOSALS, VALIDATION = "proposals", "validation"
#: what each run has one number of: the prompts of the probes, and its weights
PROMPTS, WEIGHTS = "fixed prompts", "weights"
S = TypeVar("S", bound=Source)
#: columns of the table of curves
CURVES = ("panel", "label", "at", "value", "low", "high", "seeds", "programs")


@dataclass(frozen=True)
class Recorded:
    """Scores from the runs of a folder: of evaluations, of validation during training, and of proposals.

    Attributes
    ----------
    evaluated, validated : graded samples; a model's name in the latter has its step.
    proposals : a row for each proposal: name, seed, and what was measured of it.
    """

    evaluated: Graded
    validated: Graded
    proposals: pd.DataFrame

    def scores(self, measured: str, name: str, problems: str) -> Scores:
        """Return what was measured of a model on a set, or of the proposals of a quarter; see ``claims.Source``."""
        if problems != PROPOSALS:
            source = self.validated if problems.endswith(VALIDATION) else self.evaluated
            return source.scores(measured, name, problems)
        own = self.proposals[self.proposals["name"] == name]
        if own.empty or measured not in own:
            raise InputError(f"no {measured} of proposals of {name}: self-play needs --curriculum-samples, and four steps or more")
        known = own.dropna(subset=[measured])
        if set(known["seed"]) != set(own["seed"]):
            raise InputError(f"no {measured} of proposals of {name}: curriculum.jsonl has none")
        means = known.groupby("seed")[measured].agg(["mean", "size"])
        return of_seeds({int(seed): float(mean) for seed, mean in means["mean"].items()}, int(means["size"].min()))


def of_seeds(values: Mapping[int, float], drawn: int) -> Scores:
    """Make scores of one number for each seed, which is the mean of ``drawn`` items of its own."""
    column = np.array([[value] for value in values.values()], float)
    return Scores(column, tuple(values), ("of each seed",), np.zeros(1, int), False, drawn)


@dataclass(frozen=True)
class Numbers:
    """What each run has one number of.

    Attributes
    ----------
    values : (measured, model, set) -> the number of each seed.
    items : the same -> the fewest items that a seed's number is the mean of.
    """

    values: dict[tuple[str, str, str], dict[int, float]] = field(default_factory=dict)
    items: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def add(self, key: tuple[str, str, str], seed: int, value: float, count: int) -> None:
        """Add the number of one seed, the mean of ``count`` items."""
        self.values.setdefault(key, {})[seed] = value
        self.items[key] = min(count, self.items.get(key, count))

    def scores(self, measured: str, name: str, problems: str) -> Scores:
        """Return the numbers of a model; see ``claims.Source``."""
        key = (measured, name, problems)
        if key not in self.values:
            raise InputError(f"no {measured} of {name} on {problems}")
        return of_seeds(self.values[key], self.items[key])


def base_name(run: Run, model: str) -> str:
    """Name the base that a run was compared with: of a run on a part of the laboratory, on that part, as it answered other problems."""
    task = str(run.config.get("task", ""))
    return f"base on {task}{model.removeprefix('base')}" if task.startswith("lab-") else model


def read(runs: Sequence[Run]) -> Recorded:
    """Read the evaluations, validations and proposals of runs."""
    return Recorded(Graded(_evaluated(runs)), Graded(_validated(runs)), _proposals(runs))


#: columns of graded samples, without which there are none
_COLUMNS = (*claims.KEYS, "task", "correct", "length")


def _evaluated(runs: Sequence[Run]) -> pd.DataFrame:
    """Collect the graded samples of ``evals/``; those of the base once for each seed.

    Raises
    ------
    InputError : two runs of one seed asked the base other problems, or have other bases.
    """
    rows: list[dict[str, Any]] = []
    of_base: dict[tuple[str, int], tuple[Run, list[tuple[Any, ...]]]] = {}
    for run in runs:
        own: dict[str, list[dict[str, Any]]] = {}
        for sample in run.samples():
            own.setdefault(str(sample["model"]), []).append(sample)
        for model, samples in own.items():
            name = base_name(run, model) if is_of_base(samples[0]) else _name(run.label, samples[0])
            if is_of_base(samples[0]):
                asked = [(sample["problem"], sample.get("sample"), sample["correct"]) for sample in samples]
                other, known = of_base.setdefault((name, run.seed), (run, asked))
                if other is not run:
                    if known != asked:
                        raise InputError(
                            f"{run.path / 'evals'}: the base of seed {run.seed} gave other answers than in {other.path}; methods are "
                            "compared from one base for each seed, with the same evaluation"
                        )
                    continue
            rows += [_row(sample, name, run.seed) for sample in samples]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _name(label: str, sample: dict[str, Any]) -> str:
    from dynamics.train import evaluate

    return evaluate.label(label, float(sample.get("temperature", 1.0)))


def _row(sample: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
    row = {"name": name, "seed": seed, "length": len(sample.get("completion_ids", ())), "program": sample.get("program")}
    return row | {column: sample[column] for column in ("split", "problem", "task", "correct")}


def _validated(runs: Sequence[Run]) -> pd.DataFrame:
    """Collect the graded samples of ``validation/``, by method, step and manner; those of the last step also under that name.

    Raises
    ------
    InputError : runs of one method have other last steps, as a run that was stopped has.
    """
    last: dict[str, tuple[Run, int]] = {}
    for run in runs:
        if steps := RunDirectory(run.path).step_files("validation"):
            other, known = last.setdefault(run.label, (run, max(steps)))
            if known != max(steps):
                raise InputError(
                    f"{run.path}: was validated up to step {max(steps)}, and {other.path} up to {known}; finish the shorter one"
                )
    table = answers(runs)
    ends = {label: known for label, (_, known) in last.items()}
    own = list(zip(table["label"], table["step"], table["manner"], strict=True))
    named = table.assign(name=[f"{label}, step {step}, {manner}" for label, step, manner in own])
    final = table.assign(name=[f"{label}, last step, {manner}" for label, _, manner in own])
    at_end = np.array([step == ends[label] for label, step, _ in own], bool)
    return pd.concat([named, final[at_end]]).reindex(columns=[*_COLUMNS, "written", "true"])


#: what is read of a proposal
_OF_PROPOSALS = ("solve_rate", "characters", "length", "complexity")


def _proposals(runs: Sequence[Run]) -> pd.DataFrame:
    """Collect the proposals of ``curriculum.jsonl``, by quarter of the run."""
    quarters = {0: FIRST, 1: "second quarter", 2: "third quarter", 3: LAST}
    rows = [
        {"name": f"{run.label}, {quarters[row['phase']]}", "label": run.label, "seed": run.seed, "quarter": row["phase"] + 1}
        | {name: row.get(name) for name in _OF_PROPOSALS}
        for run in runs
        if (run.path / "curriculum.jsonl").exists()
        for row in read_json_lines(run.path / "curriculum.jsonl", {"phase": lambda value: value in quarters})
    ]
    return pd.DataFrame(rows, columns=["name", "label", "seed", "quarter", *_OF_PROPOSALS])


def point(source: Source, conjunct: Conjunct, label: str, at: float) -> Iterator[dict[str, Any]]:
    """Yield the difference of a contrast with its interval, if it was measured."""
    try:
        first, second = (source.scores(conjunct.measured, name, conjunct.problems) for name in (conjunct.model, conjunct.control))
        found = contrast(first, second)
    except InputError:
        return
    yield drawn(conjunct.problems, label, at, found, first)


def drawn(panel: str, label: str, at: float, found: Effect, scores: Scores) -> dict[str, Any]:
    """Make a row of the table of curves from an effect or a mean and its 95 % interval."""
    low, high = found.interval()
    ends = {"value": float(found.value), "low": float(low), "high": float(high), "seeds": found.seeds}
    return {"panel": panel, "label": label, "at": at, "programs": scores.drawn or int(scores.programs.max()) + 1} | ends


@dataclass(frozen=True)
class Study(Generic[S]):
    """A study: what it claims, and how its runs are read and drawn.

    Attributes
    ----------
    name : of its files, and of its module.
    about : text of ``--help``.
    family : its claims.
    read : makes scores from runs.
    curves : makes the table of what is drawn.
    figure : draws that table.
    caption : describes the figure.
    notes : what else is to be said of the runs, such as what was not measured.
    fixed : file of the repository in which the claims were fixed; it counts for folders of runs without one of their own.
    """

    name: str
    about: str | None
    family: Family
    read: Callable[[Sequence[Run]], S]
    curves: Callable[[S], pd.DataFrame]
    figure: Callable[[pd.DataFrame], Figure]
    caption: Callable[[pd.DataFrame], str]
    notes: Callable[[S], Sequence[str]] = lambda _: ()
    fixed: Path | None = None

    @property
    def module(self) -> str:
        """Name of the module of the study."""
        return f"analyses.{self.name}"

    def build_parser(self) -> command.Parser:
        """Build the parser of the command line."""
        parser = command.Parser(
            prog=f"python -m {self.module}", description=self.about, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("runs", type=Path, metavar="RUNS", help="folder of the run directories")
        parser.add_argument("--fix", action="store_true", help="write the claims into RUNS/claims.json and do no more")
        parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the tables and the figure (default: figures/)")
        return parser

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command line ``RUNS --out FOLDER``; return the exit status."""
        return command.run(self.module, self._run, argv)

    def _run(self, arguments: Sequence[str] | None) -> None:
        options = self.build_parser().parse_args(arguments)
        if options.fix:
            wrote(self.fix(options.runs))
            return
        text, _, paths = self.judge(find([options.runs]), options.out, options.runs)
        print(text, end="")
        for path in paths:
            wrote(path)

    def fix(self, folder: Path) -> Path:
        """Write the claims into the folder of runs that are yet to be made; see ``Family.fix``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.family.fix(folder / "claims.json")
        return folder / "claims.json"

    def judge(self, runs: Sequence[Run], out: Path, folder: Path) -> tuple[str, pd.DataFrame, list[Path]]:
        """Judge the claims on runs, and write tables and figure.

        Parameters
        ----------
        runs : the runs.
        out : where the files go.
        folder : where the claims may have been fixed.

        Returns
        -------
        The table as Markdown, with notes; the table; and the paths of the files.
        """
        own = folder / "claims.json"
        file = own if own.exists() else self.fixed
        if file is not None:
            self.family.fix(file)
        with optional_import(self.module):
            recorded = self.read(runs)
            rows = claims.table(claims.judge(self.family, recorded))
            drawn = self.curves(recorded)
            with style.use_style():
                made = self.figure(drawn)
                entitle(made, summary(rows), sampled(runs, pd.DataFrame()))
                paths = [style.save(made, out / f"{self.name}{suffix}") for suffix in (".png", ".svg")]
        told = (
            f"The claims are those that were fixed in {file.name}."
            if file is not None
            else "These claims were not fixed before the runs: no claims.json."
        )
        said = [*claims.notes(self.family), told, f"Figure: {self.caption(drawn)}", *self.notes(recorded)]
        text = claims.markdown(rows) + "\n\n" + "\n".join(said) + "\n"
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / f"{self.name}.csv", rows, "%.4g")
        write_csv(out / f"{self.name}-curves.csv", drawn, "%.6g")
        outputs.write(str(out / f"{self.name}.md"), text)
        return text, rows, [*paths, *(out / f"{self.name}{suffix}" for suffix in (".csv", "-curves.csv", ".md"))]


def summary(rows: pd.DataFrame) -> str:
    """Count the claims of a table of ``claims.table`` by verdict, in words."""
    verdicts = rows.drop_duplicates("claim")["claim_verdict"]
    holds, fails, inconclusive = (int((verdicts == verdict).sum()) for verdict in (HOLDS, FAILS, OPEN))
    if not holds + fails:
        return f"Of {plural(len(verdicts), 'claim')} fixed in advance none is decided by these seeds"
    parts = (plural(holds, HOLDS, "hold"), plural(fails, FAILS, "do not hold"), plural(inconclusive, f"is {OPEN}", f"are {OPEN}"))
    return f"Of {plural(len(verdicts), 'claim')} fixed in advance {', '.join(parts[:2])} and {parts[2]}"
