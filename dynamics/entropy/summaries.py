"""Summaries of traces: mean entropy with intervals, forking tokens, tokens of highest entropy, change by percentile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from dynamics.bootstrap import percentile_interval, resampled_counts
from dynamics.entropy.traces import Trace
from dynamics.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

SCHEMA = "dynamics.entropy/1"
PERCENTILES = (1, 5, 25, 50, 75, 80, 95, 99)
#: entropy in nats below which a token counts as certain, as half of the tokens of a reasoning model do (arXiv 2506.01939)
CERTAIN = 0.01
REPLICATES = 2000
#: probability outside each end of the 95 % intervals
TAIL = 0.025


@dataclass(frozen=True)
class Forking:
    """Forking tokens: the tokens of highest entropy.

    Attributes
    ----------
    mask : True for forking tokens.
    threshold : the smallest entropy of a forking token, in nats.
    ties : number of other tokens with this entropy.
    """

    mask: Bool[np.ndarray, " tokens"]
    threshold: float
    ties: int


def forking(entropy: ArrayLike, share: float = 0.2) -> Forking:
    """Select the fraction ``share`` of tokens with the highest entropy: exactly ceil(share n) of the n tokens with an entropy.

    Among tokens that tie at the threshold, the earlier ones are selected, and ``ties`` counts the others; comparing with ``>=`` would
    select all tokens if the threshold is 0. arXiv 2506.01939 trains on the top 20 %.
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


def summary(tokens: pd.DataFrame, replicates: int = REPLICATES, seed: int = 0) -> pd.DataFrame:
    """Summarise the distribution of entropy over all tokens, prompt tokens and response tokens, a row each.

    Parameters
    ----------
    tokens : of a trace.
    replicates, seed : of the bootstrap.

    Returns
    -------
    Columns part, texts, tokens (with an entropy), entropy (mean over tokens), low, high (95 %, bootstrapped over texts), certain
    (fraction below 0.01 nats), p1 ... p99, varentropy, surprisal; with a second model also entropy_b, change, kl_ab, kl_ba.

    Notes
    -----
    The mean over tokens gives long texts more weight. With a single text the interval is NaN.
    """
    import pandas as pd

    known = tokens[tokens["entropy"].notna()]
    records = []
    for part, rows in (("all", known), ("prompt", known[known["prompt"]]), ("response", known[~known["prompt"]])):
        if rows.empty or (part != "all" and len(rows) == len(known)):
            continue
        low, high = text_interval(rows["text"].to_numpy(), rows["entropy"].to_numpy(float), replicates, seed)
        record = {"part": part, "texts": rows["text"].nunique(), "tokens": len(rows), "entropy": rows["entropy"].mean()}
        record |= {"low": low, "high": high, "certain": float((rows["entropy"] < CERTAIN).mean())}
        record |= {f"p{p}": float(value) for p, value in zip(PERCENTILES, np.percentile(rows["entropy"], PERCENTILES), strict=True)}
        record |= {name: rows[name].mean() for name in ("varentropy", "surprisal") if name in rows}
        if "entropy_at_temperature" in rows:
            record["entropy_at_temperature"] = rows["entropy_at_temperature"].mean()
        if "entropy_b" in rows:
            change = (rows["entropy_b"] - rows["entropy"]).to_numpy(float)
            ends = text_interval(rows["text"].to_numpy(), change, replicates, seed)
            record |= {"entropy_b": rows["entropy_b"].mean(), "change": change.mean(), "change_low": ends[0], "change_high": ends[1]}
            record |= {name: rows[name].mean() for name in ("kl_ab", "kl_ba") if name in rows}
            ours, theirs = forking(rows["entropy"]), forking(rows["entropy_b"])
            record["forking_overlap"] = float((ours.mask & theirs.mask).sum() / ours.mask.sum())
        records.append(record)
    return pd.DataFrame(records)


def text_interval(
    texts: Shaped[np.ndarray, " tokens"], values: Float[np.ndarray, " tokens"], replicates: int = REPLICATES, seed: int = 0
) -> tuple[float, float]:
    """Estimate a 95 % interval of the mean over tokens by resampling texts; NaN for a single text.

    Parameters
    ----------
    texts : name of the text of each token.
    values : finite.
    replicates, seed : of the bootstrap.
    """
    import pandas as pd

    codes, names = pd.factorize(texts)
    if len(names) < 2:
        return math.nan, math.nan
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    drawn = resampled_counts(np.ones(len(names), np.int64), replicates, np.random.default_rng(seed))
    low, high = percentile_interval((drawn @ sums) / (drawn @ counts), TAIL)
    return float(low), float(high)


def change_by_percentile(tokens: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """Compute the mean entropy change of the second model in bins of the first model's entropy: low, high (nats), tokens, change."""
    import pandas as pd

    known = tokens.dropna(subset=["entropy", "entropy_b"]).sort_values("entropy", kind="stable")
    records = []
    for number, part in enumerate(np.array_split(np.arange(len(known)), bins)):
        if part.size:
            rows = known.iloc[part]
            change = float((rows["entropy_b"] - rows["entropy"]).mean())
            ends = {"low": float(rows["entropy"].min()), "high": float(rows["entropy"].max())}
            records.append({"percentile": 100 * (number + 1) / bins, **ends, "tokens": len(rows), "change": change})
    return pd.DataFrame(records)


def by_token(tokens: pd.DataFrame, least: int = 5) -> pd.DataFrame:
    """Average entropy by token, for tokens that occur at least ``least`` times, highest first: token_id, token, tokens, entropy.

    With a second model also ``change``, the mean difference of its entropy from that of the first.
    """
    known = tokens[tokens["entropy"].notna()]
    if "entropy_b" in known:
        known = known.assign(change=known["entropy_b"] - known["entropy"])
    measures = {"tokens": ("entropy", "size"), "entropy": ("entropy", "mean")}
    if "entropy_b" in known:
        measures["change"] = ("change", "mean")
    grouped = known.groupby(["token_id", "token"], sort=False).agg(**measures).reset_index()
    return grouped[grouped["tokens"] >= least].sort_values("entropy", ascending=False, ignore_index=True)


def to_dict(trace: Trace, model: str, against: str | None) -> dict[str, Any]:
    """Build the JSON document of schema ``dynamics.entropy/1``; undefined numbers are NaN."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "model": model,
        "against": against,
        "units": "nats",
        "estimator": "entropy of the full next-token distribution; means over tokens, intervals bootstrapped over texts",
        "forward_dtype": trace.dtype,
        "seconds": trace.seconds,
        "tokens_per_second": len(trace.tokens) / trace.seconds if trace.seconds else math.nan,
        "summary": summary(trace.tokens).to_dict("records"),
    }
    if "entropy_b" in trace.tokens:
        document["change_by_percentile"] = change_by_percentile(trace.tokens).to_dict("records")
    ranked = by_token(trace.tokens)
    document["most_uncertain_tokens"] = ranked.head(20).to_dict("records")
    document["most_certain_tokens"] = ranked.tail(20)[::-1].to_dict("records")
    return document | {"notes": trace.notes}
