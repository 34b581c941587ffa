"""Compute the angle between the gradients of the roles of a game, after each checkpoint of a run.

python -m dynamics.train.conflict runs/selfplay
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
    from dynamics.cli.outputs import check_outputs, write
    from dynamics.cli.progress import ProgressBar
    from dynamics.io.json import to_json
    from dynamics.train.conflict.report import of_run, to_dict

    options = build_parser().parse_args(argv)
    check_outputs(options, [options.run])
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    with ProgressBar("computing gradients") as bar:
        found = of_run(Path(options.run), options.player, bar)
    if options.json != "-":
        from dynamics.train.conflict.terminal import show

        with reader_may_leave():
            show(found)
    if options.json:
        write(options.json, to_json(to_dict(found, Path(options.run), options.player)))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser

    parser = Parser(
        prog="python -m dynamics.train.conflict",
        description="Do the roles of a game pull one policy apart? Cosine, norms and shares of their gradients after each checkpoint.",
        epilog="example: python -m dynamics.train.conflict runs/selfplay",
    )
    parser.add_argument("run", metavar="RUN", help="run directory of dynamics.train")
    parser.add_argument("--player", metavar="NAME", default="", help="player whose policy is measured (default: the graded one)")
    parser.add_argument("--threads", metavar="N", type=int, default=0, help="CPU threads; 0: one per core (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers as JSON; - for standard output")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.train.conflict", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
