"""Draw the lineage of a run of PopuLoRA as a tree, and list its living players.

python -m dynamics.train.lineage runs/populora
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
    from dynamics.io.json import to_json
    from dynamics.train.lineage.tree import lines, of_run

    options = build_parser().parse_args(argv)
    check_outputs(options, [options.run])
    found = of_run(Path(options.run))
    if options.json != "-":
        with reader_may_leave():
            print("\n".join(lines(found)))
    if options.json:
        write(options.json, to_json(found.to_dict()))
    if options.figure:
        from dynamics.train.lineage.plot import figure

        save_figure(figure(found), options.figure)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser

    parser = Parser(
        prog="python -m dynamics.train.lineage",
        description="Which adapters a run of populora had: when each was born, of which parents, and which live at the end.",
        epilog="example: python -m dynamics.train.lineage runs/populora --figure lineage.png",
    )
    parser.add_argument("run", metavar="RUN", help="run directory of dynamics train populora, which has finished")
    parser.add_argument("--json", metavar="FILE", help="write the lineage as JSON; - for standard output")
    parser.add_argument("--figure", metavar="FILE", help="draw the tree to FILE, whose suffix is .png, .svg or .pdf")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.train.lineage", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
