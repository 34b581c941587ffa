"""Means over the tokens of a trace of two models, with intervals over texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from dynamics.entropy.kinds import KINDS, kind_of_token
from dynamics.entropy.summaries import forking, text_interval

#: column of the result -> how it is computed from the columns of a trace
MEASURES: dict[str, Callable[[pd.DataFrame], pd.Series[float]]] = {
    "entropy": lambda rows: rows["entropy"],
    "entropy_b": lambda rows: rows["entropy_b"],
    "change": lambda rows: rows["entropy_b"] - rows["entropy"],
    "surprisal": lambda rows: rows["surprisal"],
    "surprisal_b": lambda rows: rows["surprisal_b"],
    "surprisal_change": lambda rows: rows["surprisal_b"] - rows["surprisal"],
    "kl_ab": lambda rows: rows["kl_ab"],
    "kl_ba": lambda rows: rows["kl_ba"],
}


def with_kinds(tokens: pd.DataFrame) -> pd.DataFrame:
    """Add the kind of each token, and leave out the first token of each text, which has no prediction."""
    known = tokens[tokens["entropy"].notna() & tokens["entropy_b"].notna()].reset_index(drop=True)
    kinds = {token: kind_of_token(token) for token in known["token"].unique()}
    return known.assign(kind=known["token"].map(kinds))


def means(tokens: pd.DataFrame, by: str, order: Sequence[str] = (), seed: int = 0) -> pd.DataFrame:
    """Average every measure over the tokens of each value of a column.

    Parameters
    ----------
    tokens : with the columns of a trace of two models and the column ``by``.
    by : column whose values are the rows of the result.
    order : values in the order of the result; others follow.
    seed : of the bootstrap over texts.

    Returns
    -------
    A row a value: ``by``, tokens, texts, share (of all tokens), and each measure with ``_low`` and ``_high``, which are NaN for one text.
    """
    ranks = {value: rank for rank, value in enumerate(order)}
    records = []
    for value, rows in sorted(tokens.groupby(by, sort=False), key=lambda part: (ranks.get(str(part[0]), len(ranks)), str(part[0]))):
        record: dict[str, float | int | str] = {by: str(value), "tokens": len(rows), "texts": rows["text"].nunique()}
        record["share"] = len(rows) / len(tokens)
        texts = rows["text"].to_numpy()
        for name, compute in MEASURES.items():
            if not name.startswith("kl") or name in rows:
                values = compute(rows).to_numpy(float)
                low, high = text_interval(texts, values, seed=seed)
                record |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
        records.append(record)
    return pd.DataFrame(records)


def by_kind(tokens: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Average every measure by kind of token, in the order of ``KINDS``."""
    return means(tokens, "kind", list(KINDS), seed)


def forking_table(tokens: pd.DataFrame, share: float = 0.2, seed: int = 0) -> pd.DataFrame:
    """Compare the tokens of highest entropy of the first model with all others.

    Returns
    -------
    As ``means``, for ``forking`` (the ``share`` of tokens with the highest entropy of the first model) and ``others``; ``shared`` is the
    fraction that is among the same share of the second model, with its interval.
    """
    ours, theirs = forking(tokens["entropy"], share).mask, forking(tokens["entropy_b"], share).mask
    part = np.where(ours, "forking", "others")
    table = means(tokens.assign(part=part), "part", ["forking", "others"], seed)
    shared = []
    for name in table["part"]:
        mask = part == name
        low, high = text_interval(tokens["text"].to_numpy()[mask], theirs[mask].astype(float), seed=seed)
        shared.append((float(theirs[mask].mean()) if mask.any() else math.nan, low, high))
    return table.assign(**{column: [row[index] for row in shared] for index, column in enumerate(("shared", "shared_low", "shared_high"))})
