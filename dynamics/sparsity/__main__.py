"""The command ``python -m dynamics.sparsity``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from dynamics.errors import InputError
from dynamics.sparsity.comparison import compare, incomplete, last_against_first, series, series_dict, table
from dynamics.sparsity.definitions import PAPERS
from dynamics.sparsity.results import Comparison, Step


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the checkpoints and write the requested outputs."""
    from dynamics.cli.command import reader_may_leave
    from dynamics.cli.digests import refuse_in_parts
    from dynamics.cli.outputs import check_outputs
    from dynamics.cli.partial import check_complete
    from dynamics.cli.progress import ProgressBar
    from dynamics.cli.series import sort_series
    from dynamics.cluster import options as cluster

    options = cluster.parse(build_parser(), argv)
    checkpoints = [] if options.merge else [options.base, options.tuned, *options.more]
    check_outputs(options, options.merge or checkpoints, {options.save_update: (".safetensors",)})
    if options.save_update and options.more:
        raise InputError("--save-update: is of two checkpoints, not of a series; name BASE and TUNED alone")
    settings = {"rtol": options.rtol, "atol": options.atol, "like": options.paper}
    if options.more:
        checkpoints = sort_series("dynamics.sparsity", checkpoints)
    steps: list[Step] = []
    if cluster.is_asked_for(options):
        from dynamics.sparsity.parts import MEASURE, open_work, result

        refuse_in_parts(options, "hash", "save_update")
        made = cluster.run(options, MEASURE, open_work, checkpoints, settings, result)
        if made is None:  # a part, which is written
            return
        comparison, steps = made
    else:
        with ProgressBar("comparing", compiles=True) as bar:
            if options.more:
                steps = series(checkpoints, **settings, threads=options.threads, progress=bar, digest=options.hash)
                comparison = last_against_first(steps)
            else:
                comparison = compare(options.base, options.tuned, **settings, threads=options.threads, progress=bar, digest=options.hash)
    if "-" not in (options.json, options.csv):
        from dynamics.sparsity.terminal import show

        with reader_may_leave():
            show(comparison, steps)
    _write(options, comparison, steps)
    if options.save_update:
        _save_update(options)
    check_complete(incomplete(comparison, steps), options)


def _write(options: Any, comparison: Comparison, steps: Sequence[Step]) -> None:
    from dynamics.cli.outputs import save_figure, write
    from dynamics.io.csv import to_csv
    from dynamics.io.json import to_json

    if options.json:
        write(options.json, to_json(series_dict(steps) if steps else comparison.to_dict()))
    if options.csv:
        write(options.csv, to_csv(table(comparison, steps)))
    if options.html:
        from dynamics.sparsity.page import page

        write(options.html, page(comparison, steps))
    if options.figure:
        from dynamics.sparsity.plot import figure

        save_figure(figure(comparison, steps), options.figure)


def _save_update(options: argparse.Namespace) -> None:
    """Write the file of ``--save-update``, and report what it holds on stderr."""
    from dynamics.cli.command import tell
    from dynamics.cli.outputs import wrote
    from dynamics.cli.progress import ProgressBar
    from dynamics.descriptions import plural
    from dynamics.sparsity.update import save_update

    with ProgressBar("writing the update") as bar:
        update = save_update(options.base, options.tuned, options.save_update, threads=options.threads, progress=bar)
    wrote(options.save_update)
    kinds = {"unchanged": update.unchanged, "sparse": update.sparse, "whole": update.whole, "dropped": update.dropped}
    parts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    sizes = f"{update.size:,} bytes for {update.tuned_size:,} of weights"
    tell(f"the update: {sizes}; {plural(update.changed, 'element')} changed in their bits; tensors: {parts or 'none'}")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser
    from dynamics.cli.digests import add_hash
    from dynamics.cli.outputs import add_outputs
    from dynamics.cli.partial import add_allow_partial
    from dynamics.cli.thresholds import add_thresholds
    from dynamics.cluster.options import add_cluster

    parser = Parser(
        prog="python -m dynamics.sparsity",
        description="Which weights moved between two checkpoints? Counts them by four rules, with norms and distances in bfloat16 steps.",
        epilog="example: python -m dynamics.sparsity Qwen2.5-7B Qwen2.5-7B-RL --json report.json --html report.html --figure heat.png",
    )
    parser.add_argument("base", metavar="BASE", help="checkpoint before training: a file, a folder, a Hub id or a URL such as s3://...")
    parser.add_argument("tuned", metavar="TUNED", help="checkpoint after training: a file, a folder, a PEFT LoRA folder, a Hub id or a URL")
    parser.add_argument(
        "more",
        metavar="MORE",
        nargs="*",
        default=[],
        help="more checkpoints of the run, in any order: names that differ only in their numbers are sorted by these, and each "
        "checkpoint is compared with the first and with the one before",
    )
    add_outputs(parser, "every row", "layer x module (a series: sparsity against step)")
    parser.add_argument(
        "--paper",
        choices=sorted(PAPERS),
        help="also count the changed weights exactly as this paper does, and print that number first: "
        + "; ".join(f"{name} is {paper.title}" for name, paper in sorted(PAPERS.items())),
    )
    parser.add_argument("--like", dest="paper", choices=sorted(PAPERS), help=argparse.SUPPRESS)
    add_thresholds(parser)
    add_hash(parser)
    parser.add_argument(
        "--save-update",
        metavar="FILE",
        help="write what turns BASE into TUNED to FILE (.safetensors); python -m dynamics.sparsity.apply restores TUNED bit by bit",
    )
    add_allow_partial(parser)
    add_cluster(parser, "tensors")
    add_threads(parser, "compare weights")
    return parser


def add_threads(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--threads``; ``what`` is done by them."""
    parser.add_argument("--threads", type=_positive, help=f"number of threads that {what} (default: one per core)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.sparsity", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
