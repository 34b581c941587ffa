"""The command ``python -m dynamics.overlap``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamics.overlap.comparison import compare, table

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the updates and write what is asked for."""
    from dynamics.cli.outputs import check_outputs, write
    from dynamics.cli.progress import ProgressBar
    from dynamics.io.json import to_json

    options = build_parser().parse_args(argv)
    check_outputs(options)
    with ProgressBar("comparing") as bar:
        comparison = compare(options.base, options.tuned, rtol=options.rtol, atol=options.atol, progress=bar)
    if "-" not in (options.json, options.csv):
        from dynamics.overlap.terminal import show

        show(comparison, options.series)
    if options.json:
        write(options.json, to_json(comparison.to_dict()))
    if options.csv:
        write(options.csv, table(comparison).to_csv(index=False))
    if options.html:
        from dynamics.overlap.page import page

        write(options.html, page(comparison, options.series))
    if options.figure:
        from dynamics.overlap.plot import figure
        from dynamics.presentation.style import save

        save(figure(comparison), options.figure)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser
    from dynamics.cli.outputs import add_outputs

    parser = Parser(
        prog="python -m dynamics.overlap",
        description="Did several updates of one base move the same weights: overlap of their masks beside its chance value.",
        epilog="example: python -m dynamics.overlap Qwen2.5-7B run-seed-1 run-seed-2 --json overlap.json --figure overlap.png",
    )
    parser.add_argument("base", metavar="BASE", help="checkpoint before: a file, folder or Hub id")
    parser.add_argument("tuned", metavar="TUNED", nargs="+", help="two or more checkpoints after; may be PEFT LoRA folders")
    parser.add_argument("--series", action="store_true", help="they are later states of one run: when each weight first changed")
    add_outputs(parser, "every row", "overlap against chance")
    parser.add_argument("--rtol", type=float, default=1e-3, help="threshold of the rule rtol (default %(default)s)")
    parser.add_argument("--atol", type=float, default=1e-5, help="threshold of the rule atol (default %(default)s)")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.overlap", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
