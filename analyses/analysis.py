"""The interface of the analysis modules, and their shared functions: writing table and figure, and a command line."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analyses.runs import Run, find
from analyses.verdicts import Verdict
from dynamics.cli import command
from dynamics.extras import optional_import
from dynamics.io.csv import write_csv
from dynamics.presentation import style


class Analysis(Protocol):
    """A module that answers one question from runs.

    Attributes
    ----------
    TITLE : title of the section in the report.
    CLAIM : what the paper says.
    """

    __name__: str
    __doc__: str | None
    TITLE: str
    CLAIM: str

    def caption(self, table: pd.DataFrame, /) -> str:
        """Describe what the figure shows, with the numbers of problems and seeds."""

    def measure(self, runs: Sequence[Run], /) -> pd.DataFrame:
        """Make the table, which contains everything that is drawn or tested."""

    def headline(self, table: pd.DataFrame, /) -> str:
        """Say in one sentence what the figure shows, from the table: its title."""

    def figure(self, table: pd.DataFrame, /) -> Figure:
        """Draw the figure from the table alone."""

    def verdicts(self, table: pd.DataFrame, /) -> list[Verdict]:
        """Check the paper's claims on the table."""


def name_of(analysis: Analysis) -> str:
    """Name of an analysis and of its files, also when run with ``python -m``."""
    if analysis.__name__ == "__main__":
        return Path(str(sys.modules["__main__"].__file__)).stem
    return analysis.__name__.rpartition(".")[2]


#: characters of a title in an inch of a figure
TITLE_DENSITY = 11.5


def sampled(runs: Sequence[Run], table: pd.DataFrame) -> str:
    """Say what the runs of a table are a sample of: how many seeds, and whether they share a base."""
    known = set(table["seed"].dropna()) if "seed" in table else set()
    bases: dict[tuple[int, str], set[str]] = {}  # rounding to the dtype of the masters makes other weights of the same base
    for run in runs:
        if not known or run.seed in known:
            bases.setdefault((run.seed, str(run.document.get("master_dtype"))), set()).add(run.base_checksum)
    seeds, dtypes = ({each[place] for each in bases} for place in (0, 1))
    if len(seeds) == 1:
        return "one seed"
    different = set().union(*bases.values())
    one_each = all(len(own) == 1 for own in bases.values()) and "" not in different
    if one_each and len(different) == len(dtypes):
        return f"{len(seeds)} seeds, one base"
    return f"{len(seeds)} seeds, each with its own base" if one_each and len(different) == len(bases) else f"{len(seeds)} seeds"


def entitle(figure: Figure, text: str, sample: str, note: str = "") -> None:
    """Put a title on a figure: what it shows, and of how many seeds."""
    width = int(TITLE_DENSITY * figure.get_figwidth())
    about = ", ".join(part for part in (note, sample) if part)
    figure.suptitle(textwrap.fill(f"{text} ({about})", width), x=0.008, ha="left", fontsize=10.5, fontweight="bold")


def changes_in_words(what: str, parts: Mapping[str, tuple[float, float, float]]) -> str:
    """Say how much each of several changes by, and which of them intervals tell from 0.

    Parameters
    ----------
    what : what changes.
    parts : name -> change and the ends of its interval, NaN if there is none.
    """
    known = {name: bool(np.isfinite(low) and np.isfinite(high)) for name, (_, low, high) in parts.items()}
    told = {name: known[name] and low * high > 0 for name, (_, low, high) in parts.items()}
    numbers = {name: f"{name} {value:+.2f}" for name, (value, _, _) in parts.items()}
    if all(known.values()) and not any(told.values()):
        return f"No change is told from 0 in {what}: {', '.join(numbers.values())}"
    doubt = {name: " (not told from 0)" if known[name] and not told[name] else "" for name in parts}
    start = what if what.startswith("pass@") else what[0].upper() + what[1:]
    return f"{start}: {', '.join(numbers[name] + doubt[name] for name in parts)}"


def write(analysis: Analysis, runs: Sequence[Run], folder: Path, note: str = "") -> tuple[pd.DataFrame, list[Path]]:
    """Measure runs, and write the table as CSV and the figure as PNG and SVG.

    Parameters
    ----------
    analysis : its module.
    runs : the runs.
    folder : where the files go.
    note : what else the title says, such as that this is a demonstration.

    Returns
    -------
    The table, and the paths of the files.
    """
    name = name_of(analysis)
    table = analysis.measure(runs)
    with style.use_style():
        figure = analysis.figure(table)
        entitle(figure, analysis.headline(table), sampled(runs, table), note)
        paths = [style.save(figure, folder / f"{name}{suffix}") for suffix in (".png", ".svg")]
    write_csv(folder / f"{name}.csv", table, "%.6g")
    return table, [*paths, folder / f"{name}.csv"]


def left_out(runs: Sequence[Run], table: pd.DataFrame) -> list[str]:
    """Say which runs are in no row of a table, and what they lack; nothing of tables without labels."""
    names = [table[name].dropna().astype(str) for name in ("label", "name", "run", "a", "b") if name in table]
    if not names:
        return []
    shown = set(pd.concat(names))
    missing = {run.label: "; ".join(run.lacks) for run in runs if not any(name.startswith(run.label) for name in shown)}
    return [f"left out: {label}, with {reason or 'other than the usual settings'}" for label, reason in missing.items()]


def main(analysis: Analysis, argv: Sequence[str] | None = None) -> int:
    """Run the command line ``RUNS... --out FOLDER``; return the exit status."""
    name = f"analyses.{name_of(analysis)}"

    def measure(arguments: Sequence[str] | None) -> None:
        parser = command.Parser(
            prog=f"python -m {name}", description=analysis.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders of them")
        parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure and its table (default: figures/)")
        options = parser.parse_args(arguments)
        with optional_import(name):
            runs = find(options.runs)
            table, paths = write(analysis, runs, options.out)
        print(analysis.caption(table))
        for line in left_out(runs, table):
            print(line)
        for claim in analysis.verdicts(table):
            interval = f" [{claim.low:+.3g}, {claim.high:+.3g}]" if np.isfinite(claim.low) else ""
            measured = f"{claim.measured} {claim.effect:+.3g}{interval}, {claim.interval}; by seed {claim.by_seed}"
            print(f"{claim.finding}: {claim.verdict} ({measured})")
        for path in paths:
            print(path)

    return command.run(name, measure, argv)


def run_script() -> int:
    """Run the module that Python was started with, as ``python -m analyses.NAME RUNS... --out FOLDER`` does."""
    return main(cast(Analysis, sys.modules["__main__"]))
