"""How often two completions of one prompt are the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Int

FORMULA = "sum over different texts of m (m - 1) / (n (n - 1)), for m copies of a text among n completions of a prompt in a step"


def duplicate_pairs(groups: Int[np.ndarray, " rows"], texts: Int[np.ndarray, " rows"]) -> pd.DataFrame:
    """Compute the share of pairs of completions within each group that are exact copies.

    Parameters
    ----------
    groups : group of each completion, from 0 on.
    texts : number of the text of each completion, from 0 on; equal texts have equal numbers.

    Returns
    -------
    A row per group, in the order of their numbers: size, share (NaN for a single completion).

    Notes
    -----
    For m copies of each text among n completions, the share is the sum of m (m - 1) / (n (n - 1)). It is an unbiased estimate of the
    probability that two completions of the prompt are the same, for every n of at least 2; so groups of different sizes compare, which the
    share of completions that have a copy does not.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    size = np.bincount(groups, minlength=count)
    kinds = int(texts.max()) + 1 if len(texts) else 1
    keys, copies = np.unique(groups.astype(np.int64) * kinds + texts, return_counts=True)
    equal = np.bincount(keys // kinds, copies * (copies - 1), minlength=count)
    pairs = size * (size - 1)
    return pd.DataFrame({"size": size, "share": np.where(pairs > 0, equal / np.maximum(pairs, 1), np.nan)})
