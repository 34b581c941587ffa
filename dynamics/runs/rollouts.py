"""Sampled completions of a run, as one table."""

from __future__ import annotations

import pandas as pd

from dynamics.runs.view import Run

#: columns of the table, and what stands in them
COLUMNS = {
    "step": "optimizer step",
    "prompt": "text, or the contents of its messages with their roles",
    "completion": "text",
    "reward": "total reward; NaN if there is none",
    "tokens": "number of tokens of the completion; NaN if it is not known",
    "truncated": "whether the completion was cut; None if it is not known",
    "role": "of a game, such as proposer; empty elsewhere",
    "held_out": "whether the problem is not trained on",
    "file": "where it was read",
}


def read_rollouts(run: Run, most: int = 200_000) -> tuple[pd.DataFrame, list[str]]:
    """Read the completions that a run has kept.

    Parameters
    ----------
    run : the run.
    most : number of completions; of more, whole files are left out, evenly over training, the first and the last stay.

    Returns
    -------
    table : a row per completion, with ``COLUMNS``, in the order of steps and files.
    notes : what was left out, a line each.
    """
    raise NotImplementedError
