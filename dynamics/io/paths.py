"""The natural order of paths, and suggestions for mistyped paths."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dynamics.descriptions import plural
from dynamics.errors import nearest, printable

_NUMBER = re.compile(r"(\d+)")
#: names of the checkpoint folders of transformers and TRL, this project, and verl
_CHECKPOINT = re.compile(r"(checkpoint|step|global_step|iter|epoch)[-_]?\d+$")
#: number of checkpoints that an error message lists; of more, it lists the first and the last
LISTED = 6
#: number of entries of a folder that are compared with a mistyped name
ENTRIES = 10_000
Name = TypeVar("Name", bound=str | os.PathLike[str])


def natural_key(name: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """Return a sort key for the natural order: numbers by value, other text alphabetically.

    >>> sorted(["checkpoint-1000", "checkpoint-50"], key=natural_key)
    ['checkpoint-50', 'checkpoint-1000']
    """
    parts = _NUMBER.split(str(name))
    return [(int(part), part) if index % 2 else (0, part) for index, part in enumerate(parts)]


def natural_order(names: Sequence[Name]) -> list[Name]:
    """Sort names that differ only in their numbers by these numbers. Other names keep their positions.

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
    """Build the error message for a path that does not exist, with a suggestion of a similar path."""
    return f"{printable(path)}: no such {kind}{suggest_path(path)}"


def suggest_path(path: str | os.PathLike[str]) -> str:
    """Suggest the existing path that a mistyped one resembles, as the end of an error message; empty if there is none.

    The first part of the path that does not exist is compared with the entries of its folder; the rest must exist below the suggestion.
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
    """List the checkpoints in a trainer's output folder and its ``checkpoints/``, in natural order, as paths relative to the folder."""
    checkpoints: list[str] = []
    for parent in (folder, folder / "checkpoints"):
        with contextlib.suppress(OSError):
            checkpoints += [
                str(entry.relative_to(folder)) for entry in parent.iterdir() if _CHECKPOINT.match(entry.name) and entry.is_dir()
            ]
    return sorted(checkpoints, key=natural_key)


def choose_checkpoint(folder: Path, checkpoints: Sequence[str]) -> str:
    """Build the error message for a folder that is not a checkpoint but holds checkpoints: it lists them, and suggests a path."""
    shown = list(map(printable, checkpoints))
    if len(shown) > LISTED:
        shown = [*shown[: LISTED // 2], "...", *shown[-LISTED // 2 :]]
    count = plural(len(checkpoints), "checkpoint")
    return f"{printable(folder)}: contains no weights itself, but {count}: {', '.join(shown)}; name one, e.g. {folder / checkpoints[-1]}"
