"""The command ``python -m dynamics.passk``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamics.bootstrap import LEVEL, REPLICATES
from dynamics.errors import InputError, printable
from dynamics.passk.comparison import UNSCORED, report

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    from dynamics import samples
    from dynamics.cli.command import reader_may_leave, tell
    from dynamics.cli.outputs import check_outputs, save_figure, write
    from dynamics.cli.progress import ProgressBar
    from dynamics.io.csv import to_csv
    from dynamics.io.json import to_json

    options = build_parser().parse_args(argv)
    check_outputs(options, options.samples)
    ks = _ks(options.k)
    with ProgressBar("reading") as bar:
        fields = {name: getattr(options, name) for name in ("problem", "correct", "sample", "model", "answer")}
        graded = samples.read(options.samples, **fields, threshold=options.threshold, progress=bar)
    for line in graded.left_out:
        tell(f"dynamics.passk: {line}")
    with ProgressBar("estimating", compiles=True) as bar:
        result = report(
            graded.table,
            ks,
            against=options.against,
            files=graded.files,
            notes=graded.notes,
            unscored=options.unscored,
            maj=options.maj,
            extrapolate=options.extrapolate,
            level=options.level,
            replicates=options.replicates,
            seed=options.seed,
            progress=bar,
        )
    if "-" not in (options.json, options.csv):
        from dynamics.passk.terminal import show

        with reader_may_leave():
            show(result)
    if options.json:
        write(options.json, to_json(result.to_dict()))
    if options.csv:
        write(options.csv, to_csv(result.table()))
    if options.html:
        from dynamics.passk.page import page

        write(options.html, page(result))
    if options.figure:
        from dynamics.passk.plot import figure

        save_figure(figure(result), options.figure)


def _ks(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        ks = sorted({int(part) for part in text.replace(",", " ").split()})
    except ValueError:
        raise InputError(f"--k {printable(text)}: expected whole numbers with commas between them, e.g. 1,8,64") from None
    if not ks or ks[0] < 1:
        raise InputError(f"--k {printable(text)}: k must be at least 1")
    return ks


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser
    from dynamics.cli.outputs import add_outputs

    parser = Parser(
        prog="python -m dynamics.passk",
        description="How much can a model solve? Unbiased pass@k of graded samples, with intervals over problems and pairwise comparisons.",
        epilog="example: python -m dynamics.passk base=base_results.jsonl rl=logs/rl.eval --figure pass.png --html pass.html",
    )
    parser.add_argument(
        "samples",
        metavar="SAMPLES",
        nargs="+",
        help="files or folders of graded samples, or run directories; NAME=PATH names the model; PATH may be a pattern such as rl-*.jsonl",
    )
    parser.add_argument("--k", metavar="LIST", help="values of k to report, with commas between them (default: powers of two up to n)")
    parser.add_argument("--against", metavar="NAME", help="model that all others are compared with (default: the first)")
    add_outputs(parser, "every number of the report", "pass@k over k with confidence bands")
    parser.add_argument("--problem", metavar="FIELD", help="field that holds the id of the problem (default: found by its usual names)")
    parser.add_argument(
        "--correct",
        metavar="FIELD",
        help="field that says whether a sample is correct; also the metric, scorer or test suite of a harness (METRIC,FILTER of "
        "lm-evaluation-harness); FIELD[] if it is a list and each entry is a sample",
    )
    parser.add_argument("--threshold", metavar="T", type=float, help="count a sample as correct if its score is at least T")
    parser.add_argument("--sample", metavar="FIELD", help="field that holds the number of the sample within its problem")
    parser.add_argument("--model", metavar="FIELD", help="field that names the model, if one file holds samples of several")
    parser.add_argument("--answer", metavar="FIELD", help="field that holds the extracted answer, which --maj needs")
    parser.add_argument("--maj", action="store_true", help="also report maj@k: whether the most frequent of k answers is correct")
    parser.add_argument(
        "--unscored",
        choices=UNSCORED,
        default="exclude",
        help="leave samples without a verdict out, or count them as wrong (default exclude)",
    )
    parser.add_argument(
        "--extrapolate", metavar="K", type=int, help="also estimate pass@k beyond n samples, up to K, by a beta-binomial model"
    )
    parser.add_argument("--level", type=float, default=LEVEL, help="confidence level of the intervals (default %(default)s)")
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="number of bootstrap replicates (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the bootstrap (default %(default)s)")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.passk", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
