"""The command ``python -m dynamics.overlap``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamics.overlap.comparison import compare, table

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the updates and write the requested outputs."""
    from dynamics.cli.command import reader_may_leave
    from dynamics.cli.digests import refuse_in_parts
    from dynamics.cli.outputs import check_outputs, save_figure, write
    from dynamics.cli.partial import check_complete
    from dynamics.cli.progress import ProgressBar
    from dynamics.cli.series import sort_series
    from dynamics.cluster import options as cluster
    from dynamics.io.csv import to_csv
    from dynamics.io.json import to_json

    options = cluster.parse(build_parser(), argv, shows=("series",))
    checkpoints = [] if options.merge else [options.base, *options.tuned]
    check_outputs(options, options.merge or checkpoints)
    if options.series and checkpoints:
        checkpoints = sort_series("dynamics.overlap", checkpoints)
    settings = {"rtol": options.rtol, "atol": options.atol}
    if cluster.is_asked_for(options):
        from dynamics.overlap.parts import MEASURE, open_work, result

        refuse_in_parts(options, "hash")
        made = cluster.run(options, MEASURE, open_work, checkpoints, settings, result)
        if made is None:  # a part, which is written
            return
        comparison = made
    else:
        with ProgressBar("comparing", compiles=True) as bar:
            comparison = compare(checkpoints[0], checkpoints[1:], **settings, progress=bar, digest=options.hash)
    if "-" not in (options.json, options.csv):
        from dynamics.overlap.terminal import show

        with reader_may_leave():
            show(comparison, options.series)
    if options.json:
        write(options.json, to_json(comparison.to_dict()))
    if options.csv:
        write(options.csv, to_csv(table(comparison)))
    if options.html:
        from dynamics.overlap.page import page

        write(options.html, page(comparison, options.series))
    if options.figure:
        from dynamics.overlap.plot import figure

        save_figure(figure(comparison), options.figure)
    check_complete(comparison.incomplete, options)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser
    from dynamics.cli.digests import add_hash
    from dynamics.cli.outputs import add_outputs
    from dynamics.cli.partial import add_allow_partial
    from dynamics.cli.thresholds import add_thresholds
    from dynamics.cluster.options import add_cluster

    parser = Parser(
        prog="python -m dynamics.overlap",
        description="Did several runs from one base move the same weights? Compares the overlap of their updates with chance.",
        epilog="example: python -m dynamics.overlap Qwen2.5-7B run-seed-1 run-seed-2 --json overlap.json --figure overlap.png",
    )
    parser.add_argument(
        "base",
        metavar="BASE",
        help="checkpoint that all the others were trained from: a file, a folder, a Hub id or a URL (s3://, https://, ...)",
    )
    parser.add_argument(
        "tuned",
        metavar="TUNED",
        nargs="+",
        help="two or more checkpoints after training: files, folders, PEFT LoRA folders, Hub ids or URLs",
    )
    parser.add_argument(
        "--series",
        action="store_true",
        help="TUNED are checkpoints of one run: sort them by number, and count when each weight first changed",
    )
    add_outputs(parser, "every row", "overlap against chance")
    add_thresholds(parser)
    add_hash(parser)
    add_allow_partial(parser)
    add_cluster(parser, "tensors")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.overlap", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
