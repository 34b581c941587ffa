"""The command ``python -m dynamics.games``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamics.bootstrap import LEVEL

if TYPE_CHECKING:
    import argparse

#: defaults of ``dynamics.games.comparison.PHASES`` and ``spirals.WINDOW``, which need numpy
PHASES, WINDOW = 4, 20


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad input raises ``InputError``."""
    from dynamics.cli.command import reader_may_leave
    from dynamics.cli.outputs import check_outputs, save_figure, write
    from dynamics.cli.progress import ProgressBar
    from dynamics.errors import InputError
    from dynamics.games.comparison import Report, measure_run
    from dynamics.io.csv import to_csv
    from dynamics.io.json import to_json
    from dynamics.presentation.text import short_paths
    from dynamics.runs import open_run

    options = build_parser().parse_args(argv)
    check_outputs(options, options.runs)
    if options.phases < 1:
        raise InputError(f"--phases {options.phases}: must be at least 1")
    if options.window < 4:
        raise InputError(f"--window {options.window}: must be at least 4")
    if not 0 < options.level < 1:
        raise InputError(f"--level {options.level}: must be between 0 and 1")
    names = short_paths(options.runs)
    found = []
    with ProgressBar("measuring", compiles=True) as bar:
        for number, path in enumerate(options.runs):
            found.append(measure_run(open_run(path), names[path], options.phases, options.window, options.level))
            bar(number + 1, len(options.runs))
    report = Report(found, options.level, options.phases, options.window)
    if "-" not in (options.json, options.csv):
        from dynamics.games.terminal import show

        with reader_may_leave():
            show(report)
    if options.json:
        write(options.json, to_json(report.to_dict()))
    if options.csv:
        write(options.csv, to_csv(report.table()))
    if options.html:
        from dynamics.games.page import page

        write(options.html, page(report))
    if options.figure:
        from dynamics.games.plot import figure

        save_figure(figure(report), options.figure)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser
    from dynamics.cli.outputs import add_outputs

    parser = Parser(
        prog="python -m dynamics.games",
        description="What did proposers and solvers do over training? Claims, agreement, diversity and structure, by phase and role.",
        epilog="example: python -m dynamics.games runs/selfplay --json games.json --figure games.png",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="run directory, of this project or of another trainer that keeps completions"
    )
    parser.add_argument(
        "--phases", metavar="N", type=int, default=PHASES, help="phases of training that are compared (default %(default)s)"
    )
    parser.add_argument(
        "--window", metavar="STEPS", type=int, default=WINDOW, help="steps of a window of the death-spiral indicator (default %(default)s)"
    )
    parser.add_argument("--level", type=float, default=LEVEL, help="confidence level of the intervals (default %(default)s)")
    add_outputs(parser, "every number", "the measures over training")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.games", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
