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
from dynamics.io.paths import repeated
from dynamics.models import check_local_model, compare_vocabularies, load
from dynamics.rollouts.logprobs import TokenLogprobs, read_token_logprobs
from dynamics.rollouts.texts import Document

if TYPE_CHECKING:
    import pandas as pd


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    from dynamics.cli.outputs import check_outputs

    options = build_parser().parse_args(argv)
    models = [options.model, options.against, *(options.checkpoints or [])]
    check_outputs(options, [path for path in (*models, *options.texts) if path], {options.out: (".parquet",)})
    if options.temperature <= 0:
        raise InputError(f"--temperature {options.temperature}: must be above 0")
    if options.model == "logprobs":
        _report_bounds(options)
    else:
        _report_trace(options)


def _report_bounds(options: argparse.Namespace) -> None:
    """Report bounds of the mean entropy from recorded log-probabilities."""
    from dynamics.cli.command import reader_may_leave
    from dynamics.cli.outputs import write
    from dynamics.io.json import to_json

    if options.vocabulary is None:
        raise InputError("bounds from log-probabilities need --vocabulary, the number of tokens in the vocabulary")
    read = [read_token_logprobs(path) for path in options.texts]
    tokens = [token for of_file, _ in read for token in of_file]
    notes = [note for _, of_file in read for note in of_file]
    generated, prompt = [token for token in tokens if not token.prompt], [token for token in tokens if token.prompt]
    parts = [(name, _mean_bounds(part, options.vocabulary)) for name, part in (("generated", generated), ("prompt", prompt)) if part]
    if options.json != "-":
        with reader_may_leave():
            for name, part in parts:
                label = "" if name == "generated" else "prompt: "
                size = f"{part['tokens']:,} tokens with up to {part['k']} log-probabilities each"
                print(f"{label}{size}, {100 * part['mass']:.2f} % of the mass on average")
                low, high = part["mean_entropy"]["low"], part["mean_entropy"]["high"]
                print(
                    f"{label}mean entropy lies between {low:.4g} and {high:.4g} nats: bounds from the most likely tokens, not an estimate"
                )
            for note in notes:
                print(f"note  {note}")
    if options.json:
        name, first = parts[0]
        document = {"schema": SCHEMA, "kind": "bounds", "units": "nats", "tokens": first["tokens"], "k": first["k"]}
        document |= {"vocabulary": options.vocabulary, "mean_entropy": first["mean_entropy"], "mass": first["mass"]}
        if name == "prompt":
            document["part"] = "prompt"
        document |= dict(parts[1:])
        write(options.json, to_json(document | ({"notes": notes} if notes else {})))


def _mean_bounds(tokens: Sequence[TokenLogprobs], vocabulary: int) -> dict[str, Any]:
    """Bound the mean entropy of tokens, as in the JSON document."""
    width = max(len(token.values) for token in tokens)
    logprobs = np.full((len(tokens), width), np.nan)
    for index, token in enumerate(tokens):
        logprobs[index, : len(token.values)] = token.values
    found = bounds(logprobs, vocabulary, [token.ceiling for token in tokens], [token.rounding for token in tokens])
    means = {"low": float(found.low.mean()), "high": float(found.high.mean())}
    return {"tokens": len(tokens), "k": width, "mean_entropy": means, "mass": float(found.mass.mean())}


def _report_trace(options: argparse.Namespace) -> None:
    """Run the models over the texts, and write the requested outputs."""
    from dynamics.cli.command import reader_may_leave
    from dynamics.cli.outputs import save_figure, write
    from dynamics.cli.series import sort_series
    from dynamics.io.json import to_json
    from dynamics.rollouts import texts

    documents, notes = texts.read(options.texts)
    for name in (options.model, *([options.against] if options.against else []), *(options.checkpoints or [])):
        check_local_model(name)
    if options.checkpoints:
        options.checkpoints = sort_series("dynamics.entropy", options.checkpoints)
    model, tokenizer = _load(options.model, options)
    against, other = _load(options.against, options) if options.against else (None, None)
    if other is not None:
        notes += compare_vocabularies(tokenizer, other, options.against)
    settings = {
        "temperature": options.temperature,
        "top": 5 * bool(options.html) if options.top is None else options.top,
        "window": options.window,
        "vocabulary": options.vocabulary,
        "batch_tokens": options.batch_tokens,
    }
    result = _trace(options, model, tokenizer, documents, against, settings)
    result.notes.extend([*notes, *repeated([options.model, *([options.against] if options.against else []), *(options.checkpoints or [])])])
    series = _series(options, result, documents, settings) if options.checkpoints else None
    if options.out:
        _save([result.tokens], options.out)
    if options.json != "-":
        from dynamics.entropy.terminal import show

        with reader_may_leave():
            show(result, options.model, options.against, series)
    if options.json:
        document = to_dict(result, options.model, options.against)
        if series is not None:
            document["series"] = series.to_dict("records")
        write(options.json, to_json(document))
    if options.figure:
        from dynamics.entropy.plot import figure, series_figure

        save_figure(figure(result, options.model, options.against) if series is None else series_figure(series), options.figure)
    if options.html:
        from dynamics.entropy.page import page

        write(options.html, page(result, options.model, options.against, lambda token: tokenizer.decode([token])))


def _load(name: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """Load a model and its tokenizer."""
    from dynamics.cli.progress import ProgressBar

    with ProgressBar(f"loading {printable(name, 60)}"):
        return load(name, options.device, options.dtype)


def _trace(
    options: argparse.Namespace, model: Any, tokenizer: Any, documents: Sequence[Document], against: Any, settings: dict[str, Any]
) -> Trace:
    """Trace the documents; if this is interrupted, write the finished texts to a file next to --out."""
    from dynamics.cli.command import IncompleteError
    from dynamics.cli.progress import ProgressBar

    finished: list[pd.DataFrame] = []
    try:
        with ProgressBar("tracing", "tokens", compiles=True) as bar:
            result = trace(model, tokenizer, documents, against=against, progress=bar, keep=finished.append, **settings)
    except (InputError, KeyboardInterrupt) as error:
        if not (options.out and finished):
            raise
        partial = options.out.removesuffix(".parquet") + ".partial.parquet"
        _save(finished, partial)
        if isinstance(error, InputError):
            raise IncompleteError(f"{error}; the texts finished so far are in {partial}") from None
        raise
    if result.tokens["entropy"].isna().all():
        raise InputError("no text has two tokens: nothing precedes the first, so it has no distribution; give longer texts")
    return result


def _series(options: argparse.Namespace, first: Trace, documents: Sequence[Document], settings: dict[str, Any]) -> pd.DataFrame:
    """Summarise every checkpoint on the same texts, one row each; they are loaded one at a time."""
    import pandas as pd

    from dynamics.cli.progress import ProgressBar

    records = [{"model": options.model, **summary(first.tokens).iloc[0].to_dict()}]
    for name in options.checkpoints:
        model, tokenizer = _load(name, options)
        with ProgressBar(f"tracing {printable(name, 40)}", "tokens") as bar:
            result = trace(model, tokenizer, documents, progress=bar, **{**settings, "top": 0})
        if list(result.tokens["token_id"]) != list(first.tokens["token_id"]):
            raise InputError(f"{printable(name)}: its tokenizer makes other tokens of these texts than that of {printable(options.model)}")
        records.append({"model": name, **summary(result.tokens).iloc[0].to_dict()})
    return pd.DataFrame(records).drop(columns="part")


def _save(parts: Sequence[pd.DataFrame], path: str) -> None:
    import pandas as pd

    from dynamics.cli.outputs import wrote
    from dynamics.io.atomic import replacing

    with replacing(path) as temporary:
        pd.concat(list(parts), ignore_index=True).to_parquet(temporary, index=False)
    wrote(path)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser

    parser = Parser(
        prog="python -m dynamics.entropy",
        description="Where is a model unsure? Entropy of every token of texts or rollouts under one causal language model or two.",
        epilog="example: python -m dynamics.entropy Qwen2.5-7B rollouts/step_100.jsonl --against Qwen2.5-7B-RL --out traces.parquet",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="causal language model: a folder, a Hub id or smollm2; or logprobs, for bounds from the log-probabilities that TEXTS hold",
    )
    parser.add_argument(
        "texts",
        metavar="TEXTS",
        nargs="+",
        help="texts or rollouts: text, JSON lines or Parquet files, folders of them, or a run directory",
    )
    parser.add_argument("--out", metavar="FILE", help="write one row per token to FILE, whose suffix is .parquet")
    parser.add_argument("--json", metavar="FILE", help="write the report to FILE as JSON; - writes it to standard output")
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="write a page to FILE: the text coloured by entropy, a figure and tables; it needs no other file and no network",
    )
    parser.add_argument(
        "--figure",
        metavar="FILE",
        help="draw the distribution of entropy, its course over the text and the tokens to FILE, whose suffix is .png, .svg or .pdf",
    )
    parser.add_argument(
        "--against",
        metavar="MODEL_2",
        help="second model for the same tokens: report the change of entropy and the KL divergence both ways",
    )
    parser.add_argument(
        "--checkpoints",
        metavar="MODEL",
        nargs="+",
        help="later checkpoints of the run, in any order: they are sorted by number, and the entropy of each is reported",
    )
    parser.add_argument("--over", dest="checkpoints", nargs="+", help=argparse.SUPPRESS)  # the former name
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="also report the entropy at this sampling temperature (default %(default)s)"
    )
    parser.add_argument(
        "--top", type=int, help="number of most likely tokens to keep at every position (default: 5 with --html, otherwise none)"
    )
    parser.add_argument(
        "--window",
        type=int,
        help="longest sequence in one forward pass; longer texts are split into windows that overlap by half "
        "(default: the model's maximum)",
    )
    parser.add_argument(
        "--vocabulary",
        type=int,
        help="number of tokens in the vocabulary: rows of the output head beyond it are padding (default: all rows)",
    )
    parser.add_argument("--batch-tokens", type=int, default=4096, help="number of tokens in one forward pass (default %(default)s)")
    parser.add_argument("--device", help="torch device that runs the model (default: cuda if there is one, otherwise cpu)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of the forward pass (default: the dtype in which the weights are stored)",
    )
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.entropy", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
