"""Paths as people type and list them: the natural order of a series, and the nearest path to a mistyped one."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dynamics.errors import nearest, printable

_NUMBER = re.compile(r"(\d+)")
#: folders that trainers save checkpoints in: transformers and TRL, this project, verl
_CHECKPOINT = re.compile(r"(checkpoint|step|global_step|iter|epoch)[-_]?\d+$")
#: checkpoints that an error message lists; of more, the first and the last ones
LISTED = 6
#: entries of a folder that are compared with a mistyped name
ENTRIES = 10_000
Name = TypeVar("Name", bound=str | os.PathLike[str])


def natural_key(name: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """Give a key by which names sort as people count: numbers by value, the text around them by letter.

    >>> sorted(["checkpoint-1000", "checkpoint-50"], key=natural_key)
    ['checkpoint-50', 'checkpoint-1000']
    """
    parts = _NUMBER.split(str(name))
    return [(int(part), part) if index % 2 else (0, part) for index, part in enumerate(parts)]


def natural_order(names: Sequence[Name]) -> list[Name]:
    """Sort names that differ only in their numbers by these numbers. Other names, which have no such order, keep their places.

    >>> natural_order(["step_10", "step_9", "final"])
    ['step_9', 'step_10', 'final']
    >>> natural_order(["sft", "rl"])
    ['sft', 'rl']
    """
    patterns = [_NUMBER.sub("0", str(name).rstrip("/")) for name in names]
    ordered = {
        pattern: iter(sorted((name for name, other in zip(names, patterns, strict=True) if other == pattern), key=natural_key))
        for pattern in patterns
    }
    return [next(ordered[pattern]) for pattern in patterns]


def no_such_path(path: str | os.PathLike[str], kind: str = "file or folder") -> str:
    """Say that a path does not exist, and which existing one it resembles."""
    return f"{printable(path)}: no such {kind}{suggest_path(path)}"


def suggest_path(path: str | os.PathLike[str]) -> str:
    """Suggest the existing path that a mistyped one resembles, as the end of an error message; empty if there is none.

    The first part of the path that does not exist is compared with what its folder holds; the rest must exist below the suggestion.
    """
    given = Path(path)
    existing = next((folder for folder in given.parents if folder.is_dir()), None)
    if existing is None:
        return ""
    first, *rest = given.parts[len(existing.parts) :] or ("",)
    try:
        with os.scandir(existing) as entries:
            names = [entry.name for entry in itertools.islice(entries, ENTRIES)]
    except OSError:
        return ""
    close = nearest(first, (name for name in names if not rest or existing.joinpath(name, *rest).exists()))
    return f"; did you mean {printable(existing.joinpath(close, *rest))}?" if close else ""


def trainer_checkpoints(folder: Path) -> list[str]:
    """List the checkpoints in a trainer's output folder in natural order, as paths below it, also those of its ``checkpoints/``."""
    found: list[str] = []
    for parent in (folder, folder / "checkpoints"):
        with contextlib.suppress(OSError):
            found += [str(entry.relative_to(folder)) for entry in parent.iterdir() if _CHECKPOINT.match(entry.name) and entry.is_dir()]
    return sorted(found, key=natural_key)


def choose_checkpoint(folder: Path, checkpoints: Sequence[str]) -> str:
    """Say that a folder holds checkpoints and is none, which they are, and what to type."""
    shown = list(map(printable, checkpoints))
    if len(shown) > LISTED:
        shown = [*shown[: LISTED // 2], "...", *shown[-LISTED // 2 :]]
    count = f"{len(checkpoints)} checkpoint{'s' * (len(checkpoints) != 1)}"
    return (
        f"{printable(folder)}: holds no weights itself but {count}: {', '.join(shown)}; name one of them, e.g. {folder / checkpoints[-1]}"
    )
