"""The command ``python -m dynamics.entropy``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.entropy.logprob_bounds import bounds
from dynamics.entropy.summaries import SCHEMA, summary, to_dict
from dynamics.entropy.traces import Trace, trace
from dynamics.errors import InputError, printable
from dynamics.models import load
from dynamics.rollouts.logprobs import read_logprobs
from dynamics.rollouts.texts import Document

if TYPE_CHECKING:
    import pandas as pd


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    from dynamics.cli.outputs import FIGURES, check_output

    options = build_parser().parse_args(argv)
    for path, suffixes in ((options.out, (".parquet",)), (options.json, ()), (options.html, ()), (options.figure, FIGURES)):
        check_output(path, suffixes)
    if options.temperature <= 0:
        raise InputError(f"--temperature {options.temperature}: must be above 0")
    if options.model == "logprobs":
        _report_bounds(options)
    else:
        _report_trace(options)


def _report_bounds(options: argparse.Namespace) -> None:
    """Report on log-probabilities: bounds of the mean entropy, never called entropy."""
    from dynamics.cli.outputs import write
    from dynamics.io.json import to_json

    if options.vocabulary is None:
        raise InputError("bounds from log-probabilities need --vocabulary, the number of tokens there are")
    rows = [row for path in options.texts for row in read_logprobs(path)]
    width = max(map(len, rows))
    logprobs = np.full((len(rows), width), np.nan)
    for index, row in enumerate(rows):
        logprobs[index, : len(row)] = row
    limits = bounds(logprobs, options.vocabulary)
    low, high, mass = float(limits.low.mean()), float(limits.high.mean()), float(limits.mass.mean())
    if options.json != "-":
        print(f"{len(rows):,} tokens with up to {width} log-probabilities each, {100 * mass:.2f} % of the mass on average")
        print(f"mean entropy lies between {low:.4g} and {high:.4g} nats: bounds from the likeliest tokens, no estimate")
    if options.json:
        document = {"schema": SCHEMA, "kind": "bounds", "units": "nats", "tokens": len(rows), "k": width, "vocabulary": options.vocabulary}
        write(options.json, to_json(document | {"mean_entropy": {"low": low, "high": high}, "mass": mass}))


def _report_trace(options: argparse.Namespace) -> None:
    """Run the models over the texts, and write what was asked for."""
    from dynamics.cli.outputs import write
    from dynamics.io.json import to_json
    from dynamics.rollouts import texts

    documents, notes = texts.read(options.texts)
    model, tokenizer = load(options.model, options.device, options.dtype)
    against = load(options.against, options.device, options.dtype)[0] if options.against else None
    settings = {
        "temperature": options.temperature,
        "top": 5 * bool(options.html) if options.top is None else options.top,
        "window": options.window,
        "vocabulary": options.vocabulary,
        "batch_tokens": options.batch_tokens,
    }
    result = _trace(options, model, tokenizer, documents, against, settings)
    result.notes.extend(notes)
    series = _series(options, result, documents, settings) if options.checkpoints else None
    if options.out:
        _save([result.tokens], options.out)
    if options.json != "-":
        from dynamics.entropy.terminal import show

        show(result, options.model, options.against, series)
    if options.json:
        document = to_dict(result, options.model, options.against)
        if series is not None:
            document["series"] = series.to_dict("records")
        write(options.json, to_json(document))
    if options.figure:
        from dynamics.entropy.plot import figure, series_figure
        from dynamics.presentation.style import save

        save(figure(result, options.model, options.against) if series is None else series_figure(series), options.figure)
    if options.html:
        from dynamics.entropy.page import page

        write(options.html, page(result, options.model, options.against, lambda token: tokenizer.decode([token])))


def _trace(
    options: argparse.Namespace, model: Any, tokenizer: Any, documents: Sequence[Document], against: Any, settings: dict[str, Any]
) -> Trace:
    """Trace the documents; write what was finished to a file beside --out if the work is broken off."""
    from dynamics.cli.progress import ProgressBar

    finished: list[pd.DataFrame] = []
    try:
        with ProgressBar("tracing", "tokens") as bar:
            return trace(model, tokenizer, documents, against=against, progress=bar, keep=finished.append, **settings)
    except (InputError, KeyboardInterrupt):
        if options.out and finished:
            partial = options.out.removesuffix(".parquet") + ".partial.parquet"
            _save(finished, partial)
            print(f"dynamics.entropy: what was finished is in {partial}", file=sys.stderr)
        raise


def _series(options: argparse.Namespace, first: Trace, documents: Sequence[Document], settings: dict[str, Any]) -> pd.DataFrame:
    """Sum up every checkpoint over the same texts, a row each; one model in memory at a time."""
    import pandas as pd

    from dynamics.cli.progress import ProgressBar

    records = [{"model": options.model, **summary(first.tokens).iloc[0].to_dict()}]
    for name in options.checkpoints:
        model, tokenizer = load(name, options.device, options.dtype)
        with ProgressBar(f"tracing {printable(name, 40)}", "tokens") as bar:
            result = trace(model, tokenizer, documents, progress=bar, **{**settings, "top": 0})
        if list(result.tokens["token_id"]) != list(first.tokens["token_id"]):
            raise InputError(f"{printable(name)}: its tokenizer makes other tokens of these texts than that of {printable(options.model)}")
        records.append({"model": name, **summary(result.tokens).iloc[0].to_dict()})
    return pd.DataFrame(records).drop(columns="part")


def _save(parts: Sequence[pd.DataFrame], path: str) -> None:
    import pandas as pd

    from dynamics.io.atomic import replacing

    with replacing(path) as temporary:
        pd.concat(list(parts), ignore_index=True).to_parquet(temporary, index=False)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser

    parser = Parser(
        prog="python -m dynamics.entropy",
        description="Per-token entropy of a causal language model over text or rollouts; the change and the divergence to a second model.",
        epilog="example: python -m dynamics.entropy Qwen2.5-7B rollouts/step_100.jsonl --against Qwen2.5-7B-RL --out traces.parquet",
    )
    parser.add_argument("model", metavar="MODEL", help="a transformers causal model: a folder, a hub id, or smollm2; logprobs for bounds")
    parser.add_argument("texts", metavar="TEXTS", nargs="+", help="files of texts or rollouts (text, JSON lines, Parquet), or folders")
    parser.add_argument("--out", metavar="FILE", help="write a row a token to this .parquet file")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - for standard output")
    parser.add_argument("--html", metavar="FILE", help="write a self-contained page: the text coloured by entropy, figure, tables")
    parser.add_argument("--figure", metavar="FILE", help="draw spread, course and tokens to .png, .svg or .pdf")
    parser.add_argument("--against", metavar="MODEL_2", help="a second model over the same tokens: change of entropy, divergence both ways")
    parser.add_argument("--checkpoints", metavar="MODEL", nargs="+", help="later checkpoints over the same texts: entropy over training")
    parser.add_argument("--over", dest="checkpoints", nargs="+", help=argparse.SUPPRESS)  # the former name
    parser.add_argument("--temperature", type=float, default=1.0, help="also the entropy at this temperature, beside that at 1")
    parser.add_argument("--top", type=int, help="also so many of the likeliest tokens (default: 5 for --html, else none)")
    parser.add_argument("--window", type=int, help="longest sequence in one pass (default: the model's); longer texts overlap by half")
    parser.add_argument("--vocabulary", type=int, help="rows of the output head that are tokens (default: all)")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens in one pass (default %(default)s)")
    parser.add_argument("--device", help="where the model runs (default: cuda if there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the forward pass (default: as stored)")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command, and give its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.entropy", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
