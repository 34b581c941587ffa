"""Compare how much fixed hints cost the models of a run of Seirênes, and others.

python -m dynamics.train.robustness runs/seirenes runs/rlvr
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
    from dynamics.cli.command import reader_may_leave
    from dynamics.cli.outputs import check_output, write
    from dynamics.cli.progress import ProgressBar
    from dynamics.io.json import to_json
    from dynamics.train.robustness.report import of_run, to_dict

    options = build_parser().parse_args(argv)
    check_output(options.json)
    if options.models and options.threads:
        import torch

        torch.set_num_threads(options.threads)
    with ProgressBar("answering") as bar:
        found = of_run(Path(options.run), options.models, bar)
    if options.json != "-":
        from dynamics.train.robustness.terminal import show

        with reader_may_leave():
            show(found)
    if options.json:
        write(options.json, to_json(to_dict(found, Path(options.run))))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser

    parser = Parser(
        prog="python -m dynamics.train.robustness",
        description="Robustness against hints: the share of right answers without hints minus that under fixed ones, with intervals.",
        epilog="example: python -m dynamics.train.robustness runs/seirenes runs/rlvr",
    )
    parser.add_argument("run", metavar="RUN", help="finished run of seirenes, whose problems and hints are used")
    parser.add_argument(
        "models", metavar="MODEL", nargs="*", help="further models to ask: a run directory (its last checkpoint), a folder, or a Hub id"
    )
    parser.add_argument("--threads", metavar="N", type=int, default=0, help="CPU threads; 0: one per core (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the gaps as JSON; - for standard output")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.train.robustness", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
