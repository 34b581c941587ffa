"""Judge the claims about the laboratory from runs of SFT, RLVR and self-play, each seed with its own base.

Question: does training add anything on new programs that greedy decoding of the base has not, does it transfer, and how do answers and
proposals change on the way?

The claims (``CLAIMS``) are data. ``--fix`` writes them beside the runs, before these are made; later they are compared with what is judged.
Runs need ``--task lab --model lab``, evaluations at temperatures 1 and 0 (the default of this model), ``--validate-every N`` for what
happens during training, and ``--curriculum`` for self-play.

The figure shows what each method gains over its base, asked in the same manner, on the three test sets; the length of answers
and the share of true steps on validation problems over training; and the share of the proposals of each quarter that the base solves.
Intervals are over seeds and programs together, each for itself; the verdicts of the table hold together (Holm).

    python -m analyses.laboratory runs/lab --fix               # before the runs
    python -m analyses.laboratory runs/lab --out figures       # seconds
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import claims, statistics
from analyses.claims import Claim, Conjunct, Family, Graded, Scores, contrast
from analyses.runs import Run, find, is_of_base, read_json_lines
from analyses.statistics import Effect
from analyses.training_series import answers
from dynamics import InputError
from dynamics.cli import command, outputs
from dynamics.cli.outputs import wrote
from dynamics.descriptions import plural
from dynamics.extras import optional_import
from dynamics.io.csv import write_csv
from dynamics.presentation import methods, style, ticks
from dynamics.runs.directory import RunDirectory
from dynamics.train.lab.problems import TEST_SETS

GREEDY = "base, greedy"
#: manner of answering -> its temperature
MANNERS = {"greedy": 0.0, "T=1": 1.0}
#: proposals are solved by the base, in four quarters of the run
FIRST, LAST = "first quarter", "last quarter"
PROPOSALS, VALIDATION = "proposals", "validation"
#: margin of "the same", in points of pass@1
MARGIN = 0.05
CLAIMS = Family(
    (
        Claim("RLVR beats its greedy base on unseen programs", (Conjunct("pass@1", "rlvr, greedy", GREEDY, "test", 1),)),
        Claim("self-play beats its greedy base on unseen programs", (Conjunct("pass@1", "selfplay, greedy", GREEDY, "test", 1),)),
        Claim("RLVR's gain transfers", (Conjunct("pass@1", "rlvr, greedy", GREEDY, "transfer", 1),)),
        Claim("self-play's gain transfers", (Conjunct("pass@1", "selfplay, greedy", GREEDY, "transfer", 1),)),
        Claim("they transfer alike", (Conjunct("pass@1", "selfplay, greedy", "rlvr, greedy", "transfer", 0, MARGIN),)),
        Claim("RLVR's answers grow longer", (Conjunct("length", "rlvr, last step, T=1", "rlvr, step 0, T=1", VALIDATION, 1),)),
        Claim("RLVR's steps become truer", (Conjunct("true/written", "rlvr, last step, T=1", "rlvr, step 0, T=1", VALIDATION, 1),)),
        Claim("self-play's proposals grow harder", (Conjunct("solve_rate", f"selfplay, {LAST}", f"selfplay, {FIRST}", PROPOSALS, -1),)),
    )
)
#: what is drawn over training -> title
OVER_TRAINING = {"length": "tokens of an answer", "true/written": "share of true steps"}
#: columns of the table of curves
CURVES = ("panel", "label", "at", "value", "low", "high", "seeds", "programs")


@dataclass(frozen=True)
class Pilots:
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
            raise InputError(f"no {measured} of proposals of {name}: self-play needs --curriculum, and four steps or more")
        means = own.groupby("seed")[measured].agg(["mean", "size"])
        seeds = tuple(int(seed) for seed in means.index)
        return Scores(means[["mean"]].to_numpy(float), seeds, ("of each seed",), np.zeros(1, int), False, int(means["size"].min()))


def read(runs: Sequence[Run]) -> Pilots:
    """Read the evaluations, validations and proposals of runs."""
    return Pilots(Graded(_evaluated(runs)), Graded(_validated(runs)), _proposals(runs))


#: columns of graded samples, without which there are none
_COLUMNS = (*claims.KEYS, "correct", "length")


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
            name = model if is_of_base(samples[0]) else _name(run.label, samples[0])
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
    return row | {column: sample[column] for column in ("split", "problem", "correct")}


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


def _proposals(runs: Sequence[Run]) -> pd.DataFrame:
    """Collect the proposals of ``curriculum.jsonl``, by quarter of the run."""
    quarters = {0: FIRST, 1: "second quarter", 2: "third quarter", 3: LAST}
    rows = [
        {"name": f"{run.label}, {quarters[row['phase']]}", "label": run.label, "seed": run.seed, "quarter": row["phase"] + 1}
        | {"solve_rate": row["solve_rate"], "characters": row["characters"], "length": row["length"]}
        for run in runs
        if (run.path / "curriculum.jsonl").exists()
        for row in read_json_lines(run.path / "curriculum.jsonl", {"phase": lambda value: value in quarters})
    ]
    return pd.DataFrame(rows, columns=["name", "label", "seed", "quarter", "solve_rate", "characters", "length"])


def curves(pilots: Pilots) -> pd.DataFrame:
    """Make the table of what is drawn: ``CURVES``.

    Panels: a test set (gain over the base asked in the same manner; ``at`` is the temperature), the keys of ``OVER_TRAINING``, and
    proposals (by quarter).
    """
    return pd.DataFrame([*_gains(pilots), *_over_training(pilots), *_curriculum(pilots)], columns=list(CURVES))


def _gains(pilots: Pilots) -> Iterator[dict[str, Any]]:
    samples = pilots.evaluated.samples
    for name in samples.loc[~samples["name"].str.startswith("base, "), "name"].unique():
        label, _, manner = str(name).rpartition(", ")
        for problems in TEST_SETS:
            at = MANNERS.get(manner)
            if at is not None:
                yield from _point(pilots, Conjunct("pass@1", str(name), f"base, {manner}", problems, 1), label, at)


def _point(pilots: Pilots, conjunct: Conjunct, label: str, at: float) -> Iterator[dict[str, Any]]:
    """Yield the difference of a contrast with its interval, if it was measured."""
    try:
        first, second = (pilots.scores(conjunct.measured, name, conjunct.problems) for name in (conjunct.model, conjunct.control))
        found = contrast(first, second)
    except InputError:
        return
    yield _drawn(conjunct.problems, label, at, found, first)


def _drawn(panel: str, label: str, at: float, found: Effect, scores: Scores) -> dict[str, Any]:
    low, high = found.interval()
    ends = {"value": float(found.value), "low": float(low), "high": float(high), "seeds": found.seeds}
    return {"panel": panel, "label": label, "at": at, "programs": scores.drawn or int(scores.programs.max()) + 1} | ends


def _over_training(pilots: Pilots) -> Iterator[dict[str, Any]]:
    """Yield the means on validation problems at each step, with intervals for new seeds and programs."""
    samples = pilots.validated.samples
    names = samples["name"].str.extract(r"^(?P<label>.+), step (?P<step>\d+), T=1$").dropna().drop_duplicates()
    for label, step in sorted((str(label), int(step)) for label, step in names.to_numpy()):
        for measured in OVER_TRAINING:
            try:
                scores = pilots.scores(measured, f"{label}, step {step}, T=1", VALIDATION)
            except InputError:
                continue
            if np.isfinite(scores.values).all():
                yield _drawn(measured, label, step, statistics.effect(scores.values, scores.programs, False), scores)


def _curriculum(pilots: Pilots) -> Iterator[dict[str, Any]]:
    for _, own in pilots.proposals.groupby(["label", "quarter"], sort=False):
        scores = pilots.scores("solve_rate", str(own["name"].iloc[0]), PROPOSALS)
        yield _drawn(
            PROPOSALS, str(own["label"].iloc[0]), float(own["quarter"].iloc[0]), statistics.effect_of_seeds(scores.values[:, 0]), scores
        )


def draw(table: pd.DataFrame, ax: Axes, panel: str) -> Axes:
    """Draw what changes over training: a key of ``OVER_TRAINING``, or the proposals."""
    rows = table[table["panel"] == panel]
    for label in dict.fromkeys(rows["label"]):
        methods.line(rows[rows["label"] == label], "at", label, ax)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, 0.0), high if panel == "length" else min(high, 1.0))  # Student's interval does not know these bounds
    ticks.plain(ax.yaxis, 4)
    if panel == PROPOSALS:
        ax.set(title="proposals that the base solves", xlabel="quarter of training")
        ax.set_xticks([1, 2, 3, 4])
    else:
        ax.set(title=OVER_TRAINING[panel], xlabel="step")
    return ax


def gains(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the gain of each method over the base, by set: filled if both answer greedily, hollow if both answer at temperature 1."""
    rows = table[table["panel"].isin(TEST_SETS)]
    labels = list(dict.fromkeys(rows["label"]))
    series = [(label, at) for label in labels for at in MANNERS.values()]
    for number, (label, at) in enumerate(series):
        own = rows[(rows["label"] == label) & (rows["at"] == at)].set_index("panel").reindex(list(TEST_SETS))
        heights = np.arange(len(TEST_SETS)) + 0.8 / max(1, len(series)) * (number - (len(series) - 1) / 2)
        errors = [own["value"] - own["low"], own["high"] - own["value"]]
        marker = methods.marker_style(label) | ({"markerfacecolor": "none"} if at else {})
        ax.errorbar(own["value"], heights, xerr=errors, linestyle="none", elinewidth=1.4, label=None if at else label, **marker)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_yticks(range(len(TEST_SETS)), TEST_SETS)
    ax.set_ylim(len(TEST_SETS) - 0.5, -0.5)
    ax.set(title="pass@1 minus the base", xlabel="points")
    ticks.plain(ax.xaxis, 4, least=2)
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    drawing = style.new_figure(style.TWO_COLUMN, 4.6)
    axes = drawing.subplots(2, 2)
    gains(table, axes[0, 0])
    for ax, panel in zip((axes[0, 1], axes[1, 0], axes[1, 1]), (*OVER_TRAINING, PROPOSALS), strict=True):
        draw(table, ax, panel)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=max(1, min(4, len(labels))), fontsize=8)
    return drawing


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    seeds = plural(int(table["seeds"].max()), "seed") if len(table) else "no seeds"
    return (
        f"{seeds}, each with its own base. Top left: pass@1 minus that of the base on sets of new programs; filled: both answer "
        "greedily, hollow: both at temperature 1. Answers and steps: validation problems at temperature 1. Proposals: the share that the "
        "base solves, of the valid proposals of "
        "each quarter. Bars and bands: 95 % over seeds and programs together, for each point alone; bands are cut at 0 and at 1."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``RUNS... --out FOLDER``; return the exit status."""
    return command.run("analyses.laboratory", _judge, argv)


def build_parser() -> command.Parser:
    """Build the parser of the command line."""
    parser = command.Parser(prog="python -m analyses.laboratory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder of the run directories")
    parser.add_argument("--fix", action="store_true", help="write the claims into RUNS/claims.json and do no more")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the tables and the figure (default: figures/)")
    return parser


def _judge(arguments: Sequence[str] | None) -> None:
    options = build_parser().parse_args(arguments)
    file = options.runs / "claims.json"
    if options.fix:
        options.runs.mkdir(parents=True, exist_ok=True)
        CLAIMS.fix(file)
        wrote(file)
        return
    fixed = file.exists()
    if fixed:
        CLAIMS.fix(file)
    with optional_import("analyses.laboratory"):
        pilots = read(find([options.runs]))
        rows = claims.table(claims.judge(CLAIMS, pilots))
        drawn = curves(pilots)
        with style.use_style():
            made = figure(drawn)
            paths = [style.save(made, options.out / f"laboratory{suffix}") for suffix in (".png", ".svg")]
    told = (
        "The claims are those that were fixed in claims.json." if fixed else "These claims were not fixed before the runs: no claims.json."
    )
    notes = [*claims.notes(CLAIMS), told]
    text = claims.markdown(rows) + "\n\n" + "\n".join(notes) + "\n"
    print(text, end="")
    write_csv(options.out / "laboratory.csv", rows, "%.4g")
    write_csv(options.out / "laboratory-curves.csv", drawn, "%.6g")
    outputs.write(str(options.out / "laboratory.md"), text)
    for path in (*paths, *(options.out / f"laboratory{suffix}" for suffix in (".csv", "-curves.csv", ".md"))):
        wrote(path)


if __name__ == "__main__":
    sys.exit(main())
