"""Apply an update that ``dynamics.sparsity --save-update`` wrote to its base.

python -m dynamics.sparsity.apply BASE UPDATE OUT
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad input raises ``InputError``."""
    from dynamics.cli.command import tell
    from dynamics.cli.outputs import check_outputs, wrote
    from dynamics.cli.progress import ProgressBar
    from dynamics.sparsity.update import apply_update

    options = build_parser().parse_args(argv)
    check_outputs(options, [options.base, options.update], {options.out: (".safetensors",)})
    with ProgressBar("applying") as bar:
        digest = apply_update(options.base, options.update, options.out, threads=options.threads, progress=bar)
    wrote(options.out)
    tell(f"its weights are those of the tuned checkpoint, bit by bit: {digest}")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser
    from dynamics.sparsity.__main__ import add_threads

    parser = Parser(
        prog="python -m dynamics.sparsity.apply",
        description="Restore a tuned checkpoint bit by bit from its base and from the update that dynamics.sparsity --save-update wrote.",
        epilog="example: python -m dynamics.sparsity.apply Qwen2.5-7B update.safetensors tuned/model.safetensors",
    )
    parser.add_argument("base", metavar="BASE", help="the checkpoint that the update was made of; it is checked")
    parser.add_argument("update", metavar="UPDATE", help="the file of --save-update, or its URL")
    parser.add_argument("out", metavar="OUT", help="the .safetensors file to write")
    add_threads(parser, "apply the update")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.sparsity.apply", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
