"""Ask each checkpoint of a run the tasks of each phase of its training.

python -m dynamics.train.crossplay runs/selfplay
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
    from dynamics.cli.outputs import check_outputs, save_figure, write
    from dynamics.cli.progress import ProgressBar
    from dynamics.errors import InputError
    from dynamics.io.json import to_json

    options = build_parser().parse_args(argv)
    check_outputs(options, [options.run])
    for name in ("tasks", "samples"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: must be at least 1")
    from dynamics.train.crossplay.report import matrices

    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    with ProgressBar("answering") as bar:
        settings = (options.player, options.tasks, options.samples, options.checkpoints, options.seed)
        found, clean, about = matrices(Path(options.run), *settings, bar)
    if options.json != "-":
        from dynamics.train.crossplay.terminal import show

        with reader_may_leave():
            show(found, clean)
    if options.json:
        write(options.json, to_json(found.to_dict() | about))
    if options.figure:
        from dynamics.train.crossplay.plot import figure

        save_figure(figure(found, clean), options.figure)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser

    parser = Parser(
        prog="python -m dynamics.train.crossplay",
        description="Cross-play: the accuracy of each checkpoint on the tasks of each phase of training, with progress and forgetting. "
        "Of seirenes the tasks are problems under the hints of the phase; of spc wrong steps, with the verdicts that the run recorded.",
        epilog="example: python -m dynamics.train.crossplay runs/selfplay --figure crossplay.png",
    )
    parser.add_argument("run", metavar="RUN", help="run directory of dynamics.train")
    parser.add_argument("--player", metavar="NAME", default="", help="player whose checkpoints answer (default: the graded one)")
    parser.add_argument("--tasks", metavar="N", type=int, default=100, help="tasks of each phase, at most (default %(default)s)")
    parser.add_argument("--samples", metavar="N", type=int, default=8, help="answers to each task (default %(default)s)")
    parser.add_argument("--checkpoints", metavar="N", type=int, default=5, help="checkpoints, at most, chosen evenly (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of tasks and answers (default %(default)s)")
    parser.add_argument("--threads", metavar="N", type=int, default=0, help="CPU threads; 0: one per core (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the matrix as JSON; - for standard output")
    parser.add_argument("--figure", metavar="FILE", help="draw the matrix to FILE, whose suffix is .png, .svg or .pdf")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.train.crossplay", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
