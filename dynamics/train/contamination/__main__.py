"""Compare what a run on the laboratory was trained on with every problem set.

python -m dynamics.train.contamination runs/selfplay
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad input raises ``InputError``."""
    from dynamics.cli.outputs import check_output, write
    from dynamics.io.json import to_json
    from dynamics.train.contamination.report import of_run
    from dynamics.train.contamination.terminal import show

    options = build_parser().parse_args(argv)
    check_output(options.json)
    report = of_run(Path(options.run))
    if options.json != "-":
        show(report)
    if options.json:
        write(options.json, to_json(report))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser

    parser = Parser(
        prog="python -m dynamics.train.contamination",
        description="Compare what a run on the laboratory was trained on with every problem set.",
        epilog="example: python -m dynamics.train.contamination runs/selfplay",
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - for standard output")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.train.contamination", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
