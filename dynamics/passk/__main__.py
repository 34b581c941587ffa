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
    from dynamics.cli.outputs import check_outputs, write
    from dynamics.cli.progress import ProgressBar
    from dynamics.io.json import to_json

    options = build_parser().parse_args(argv)
    check_outputs(options)
    ks = _ks(options.k)
    with ProgressBar("reading") as bar:
        fields = {name: getattr(options, name) for name in ("problem", "correct", "sample", "model", "answer")}
        graded = samples.read(options.samples, **fields, threshold=options.threshold, progress=bar)
    with ProgressBar("estimating") as bar:
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

        show(result)
    if options.json:
        write(options.json, to_json(result.to_dict()))
    if options.csv:
        write(options.csv, result.table().to_csv(index=False))
    if options.html:
        from dynamics.passk.page import page

        write(options.html, page(result))
    if options.figure:
        from dynamics.passk.plot import figure
        from dynamics.presentation.style import save

        save(figure(result), options.figure)


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
        description="pass@k curves of graded samples: unbiased, with intervals over problems, compared pairwise.",
        epilog="example: python -m dynamics.passk base=base_results.jsonl rl=logs/rl.eval --figure pass.png --html pass.html",
    )
    parser.add_argument("samples", metavar="SAMPLES", nargs="+", help="files or folders of graded samples; NAME=PATH names the model")
    parser.add_argument("--k", metavar="LIST", help="the k to report, e.g. 1,8,64 (default: powers of two up to n)")
    parser.add_argument("--against", metavar="NAME", help="the model all others are compared with (default: the first)")
    add_outputs(parser, "every number of the report", "pass@k over log2 k, with bands and crossing")
    parser.add_argument("--problem", metavar="FIELD", help="field with the id of the problem, where it is not found")
    parser.add_argument("--correct", metavar="FIELD", help="field with the verdict; a harness's metric, scorer, reward or test suite")
    parser.add_argument("--threshold", metavar="T", type=float, help="a sample is correct if its score is at least T")
    parser.add_argument("--sample", metavar="FIELD", help="field with the number of the sample within its problem")
    parser.add_argument("--model", metavar="FIELD", help="field with the model, where one file holds several")
    parser.add_argument("--answer", metavar="FIELD", help="field with the extracted answer, for --maj")
    parser.add_argument("--maj", action="store_true", help="also maj@k: the most frequent answer of k is correct, ties shared")
    parser.add_argument("--unscored", choices=UNSCORED, default="exclude", help="samples without a verdict are left out, or wrong")
    parser.add_argument("--extrapolate", metavar="K", type=int, help="also what a beta-binomial model expects beyond n, up to K")
    parser.add_argument("--level", type=float, default=LEVEL, help="of the intervals (default %(default)s)")
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="of the bootstrap (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default %(default)s)")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command, and give its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.passk", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
