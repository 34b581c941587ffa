"""Rename the metrics of trainers to the names of ``METRICS``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import pandas as pd

from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.runs.logged_names import FROM_TRAINER
from dynamics.runs.view import METRICS, metrics_table

Result = TypeVar("Result")
#: step, name and value of a metric
Scalar = tuple[int, str, float]
#: number of values that are read of a run; a run of a million steps has about as many
MOST = 2_000_000
#: step of a metric; a larger number in a log is none
LARGEST_STEP = 2**53


def common_names(rows: Sequence[Scalar], names: Mapping[str, Sequence[str]]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Rename the metrics of a trainer.

    Parameters
    ----------
    rows : the values, in the order of the files.
    names : key of ``METRICS`` -> what the trainer calls it; of several names the first one that occurs is taken.

    Returns
    -------
    table : as ``Run.metrics``. A metric with another meaning than that of its name in ``METRICS`` gets ``trainer/`` before its name.
    renamed : key of ``METRICS`` -> what the trainer calls it, for those that occur.
    """
    present = {name for _, name, _ in rows}
    renamed = {key: name for key, candidates in names.items() if (name := _first(candidates, present)) is not None}
    current = {name: f"{FROM_TRAINER}{name}" for name in METRICS} | {name: key for key, name in renamed.items()}
    return metrics_table([(step, current.get(name, name), value) for step, name, value in rows]), renamed


def check_number(rows: list[Scalar], path: object) -> None:
    """Refuse the rest of a file with too many values; ``MOST`` of them stay."""
    if len(rows) > MOST:
        del rows[MOST:]
        raise InputError(f"{printable(path)}: more than {MOST:,} values of metrics; the later ones were left out")


def drop_repeated(rows: list[Scalar], start: int, dropped: Counter[int]) -> None:
    """Drop what a resumed run made anew: values before ``rows[start:]``, a later file, of steps from that on at which its metric begins.

    Parameters
    ----------
    rows : the values, in the order of the files.
    start : where the later file begins.
    dropped : the number of values that are dropped is added to that of their step.
    """
    first: dict[str, int] = {}
    for step, name, _ in rows[start:]:
        first.setdefault(name, step)
    earlier = rows[:start]
    rows[:start] = [row for row in earlier if row[0] < first.get(row[1], LARGEST_STEP + 1)]
    dropped.update(row[0] for row in earlier if row[0] >= first.get(row[1], LARGEST_STEP + 1))


def repeated_steps(table: pd.DataFrame, dropped: Counter[int]) -> str:
    """Say which values do not count because their step was logged again later; empty if there are none.

    Parameters
    ----------
    table : as ``Run.metrics``. Of several values of a step and a metric, the last counts.
    dropped : number of values by step that a reader has dropped already.
    """
    earlier = table["step"][table.duplicated(["step", "name"], keep="last")]
    counts = dropped + Counter(earlier.tolist())
    if not counts:
        return ""
    first, last = min(counts), max(counts)
    steps = f"step {first:,}" if first == last else f"{len(counts):,} steps from {first:,} to {last:,}"
    values = plural(sum(counts.values()), "logged value")
    return f"{values} of {steps}: left out, because later lines or files log these steps again, as after a resume"


def take(read: Callable[[], None], path: object, notes: list[str]) -> None:
    """Read a file of metrics; if it cannot be read to its end, what was read stays, and a line is added to ``notes``."""
    try:
        read()
    except InputError as error:
        notes.append(str(error))
    except Exception as error:  # protobuf's DecodeError, whose class differs between its versions
        notes.append(f"{printable(path)}: is damaged ({printable(type(error).__name__)}); its metrics after this were left out")


def cut(path: object) -> InputError:
    """Return the error for a file that ends within a record."""
    return InputError(f"{printable(path)}: its last record is not complete and is left out; it may still be being written")


def or_refuse(notes: list[str] | None, read: Callable[[list[str]], Result]) -> Result:
    """Call ``read`` with the notes; without any, refuse what it notes."""
    faults: list[str] = []
    result = read(faults if notes is None else notes)
    if faults:
        raise InputError(faults[0])
    return result


def _first(candidates: Iterable[str], present: set[str]) -> str | None:
    return next((name for name in candidates if name in present), None)
