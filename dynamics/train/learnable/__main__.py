"""Measure how much a small learner learns from the tasks of each phase of a run.

python -m dynamics.train.learnable runs/selfplay
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

LEARNERS = ("fresh", "base")
#: default learning rates
RATES = {"fresh": 3e-3, "base": 1e-3}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad input raises ``InputError``."""
    from dynamics.cli.command import reader_may_leave
    from dynamics.cli.outputs import check_outputs, write
    from dynamics.cli.progress import ProgressBar
    from dynamics.errors import InputError
    from dynamics.io.json import to_json

    options = build_parser().parse_args(argv)
    check_outputs(options, [options.run])
    for name in ("tasks", "seeds", "phases"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: must be at least 1")
    rate = RATES[options.learner] if options.learning_rate is None else options.learning_rate
    if not 0 < rate < float("inf"):
        raise InputError(f"--learning-rate {rate}: must be above 0")
    from dynamics.train.learnable.report import of_run, to_dict

    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    with ProgressBar("learning") as bar:
        found, about = of_run(Path(options.run), options.learner, options.phases, options.tasks, options.seeds, rate, bar)
    if options.json != "-":
        from dynamics.train.learnable.terminal import show

        with reader_may_leave():
            show(found, about["tokens"])
    if options.json:
        write(options.json, to_json(to_dict(found, about)))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser

    parser = Parser(
        prog="python -m dynamics.train.learnable",
        description="How much is there to learn in the tasks of each phase? Small learners are trained on them, on equally many tokens.",
        epilog="example: python -m dynamics.train.learnable runs/selfplay",
    )
    parser.add_argument("run", metavar="RUN", help="run directory of dynamics.train")
    parser.add_argument(
        "--learner", choices=LEARNERS, default="fresh", help="a small untrained model, or the base of the run (default %(default)s)"
    )
    parser.add_argument("--phases", metavar="N", type=int, default=4, help="phases of training that are compared (default %(default)s)")
    parser.add_argument("--tasks", metavar="N", type=int, default=400, help="tasks of each phase, at most (default %(default)s)")
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="learners for each phase (default %(default)s)")
    parser.add_argument("--learning-rate", metavar="RATE", type=float, help="of the learner (default 3e-3 if fresh, 1e-3 for the base)")
    parser.add_argument("--threads", metavar="N", type=int, default=0, help="CPU threads; 0: one per core (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers as JSON; - for standard output")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.train.learnable", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
