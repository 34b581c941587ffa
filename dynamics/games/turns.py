"""The turns of a game, or the completions of any trainer, as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dynamics.errors import InputError, printable
from dynamics.games.claims import read_answer
from dynamics.io.json_lines import read_json_lines
from dynamics.io.validation import converted
from dynamics.runs import read_rollouts

if TYPE_CHECKING:
    import pandas as pd

    from dynamics.runs import Run

#: columns of the table, and what stands in them; None or NaN where a trainer does not say
COLUMNS = {
    "step": "optimizer step",
    "role": "such as proposer, solver, critic; empty if there are no roles",
    "player": "who spoke; empty if there is one player",
    "task": "kind of task",
    "prompt": "text",
    "completion": "text",
    "reward": "number",
    "correct": "1 or 0: the executor's verdict on an answer; NaN for anything else",
    "answer": "what the completion answers; None if it cannot be read",
    "valid": "1 or 0 for proposals; NaN for anything else",
    "program": "text of a valid proposal's program",
    "claimed": "1 or 0: whether the executor confirms the answer that a proposal claims; NaN without a claim, or a verdict on it",
}


class _Entry(msgspec.Struct):
    """The task of a valid proposal."""

    program: str = ""


class _Row(msgspec.Struct):
    """The fields of a rollout that are read."""

    prompt: str = ""
    completion: str = ""
    role: str = ""
    player: str = ""
    task: str = ""
    reward: float | None = None
    correct: bool | None = None
    answer: str | None = None
    valid: bool | None = None
    claim_correct: bool | None = None
    entry: _Entry | None = None


def read_turns(run: Run) -> tuple[pd.DataFrame, list[str]]:
    """Read the turns that a run has kept.

    Parameters
    ----------
    run : from ``dynamics.runs.open_run``. Rollouts of ``dynamics.train`` have all columns, those of other trainers what
        ``dynamics.runs.read_rollouts`` knows; there a completion counts as right or wrong if all rewards are 0 or 1.

    Returns
    -------
    table : a row per turn, by step, with ``COLUMNS``.
    notes : what was left out, a line each.

    Raises
    ------
    InputError : the run has kept no completions, or a row of ``dynamics.train`` is damaged.
    """
    import pandas as pd

    files = [file for file in run.rollouts if not file.held_out]
    if not files:
        raise InputError(f"{printable(run.path)}: has no completions of its training; nothing of a game can be measured")
    if run.trainer.startswith("dynamics.train"):
        rows = [_own(row, where, file.step) for file in files for where, row in _read(file.path)]
        return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("step", kind="stable", ignore_index=True), []
    table, notes = read_rollouts(run)
    table = table[~table["held_out"]].assign(player="", task="", valid=float("nan"), program=None, claimed=float("nan"))
    rewards = table["reward"].to_numpy(float)
    table["correct"] = rewards if len(rewards) and set(rewards[~np.isnan(rewards)]) <= {0.0, 1.0} else float("nan")
    table["answer"] = [read_answer(text) for text in table["completion"]]
    return table[list(COLUMNS)].reset_index(drop=True), notes


def _read(path: Any) -> list[tuple[str, _Row]]:
    found = []
    for number, line in read_json_lines(path):
        where = f"{printable(path)}, line {number}"
        found.append((where, converted(line, _Row, where)))
    return found


def _own(row: _Row, where: str, step: int | None) -> tuple[Any, ...]:
    nan = float("nan")
    if row.reward is None:
        raise InputError(f"{where}: has no reward; restore the file from a copy")
    is_proposal = row.valid is not None
    correct = nan if is_proposal else float(row.correct) if row.correct is not None else row.reward if row.reward in (0, 1) else nan
    program = row.entry.program if row.entry is not None and row.valid else None
    answer = row.answer if row.answer is not None else None if is_proposal else read_answer(row.completion)
    claimed = nan if row.claim_correct is None else float(row.claim_correct)
    valid = nan if row.valid is None else float(row.valid)
    return (step, row.role, row.player, row.task, row.prompt, row.completion, row.reward, correct, answer, valid, program, claimed)
