"""The natural order of paths, and suggestions for mistyped paths."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from dynamics.descriptions import plural
from dynamics.errors import InputError, nearest, printable
from dynamics.io.locations import Location, without_secrets

_NUMBER = re.compile(r"(\d+)")
#: names of the checkpoint folders of transformers and TRL, this project, and verl
_CHECKPOINT = re.compile(r"(checkpoint|step|global_step|iter|epoch)[-_]?\d+$")
#: number of checkpoints or runs that an error message lists; of more, it lists the first and the last
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


def repeated(paths: Sequence[object]) -> list[str]:
    """Describe the checkpoints that are given more than once, also by different spellings of a path, in a line each.

    >>> repeated(["run/step_1", "run/step_2", "./run/step_1"])
    ['the same checkpoint is given 2 times: run/step_1, ./run/step_1']
    """
    by_target: dict[str, list[str]] = {}
    for path in paths:
        if isinstance(path, (str, os.PathLike)):
            by_target.setdefault(os.path.realpath(path), []).append(printable(without_secrets(os.fspath(path))))
    return [f"the same checkpoint is given {len(names)} times: {', '.join(names)}" for names in by_target.values() if len(names) > 1]


def no_such_path(path: str | os.PathLike[str], kind: str = "file or folder") -> str:
    """Build the error message for a path that does not exist, with a suggestion of a similar path."""
    if glob.has_magic(os.fspath(path)):
        count = len(expand_pattern(os.fspath(path)))
        advice = (
            f"matches {plural(count, 'path')}; leave out the quotes, so that the shell replaces it by them" if count else "matches nothing"
        )
        return f"{printable(path)}: no such {kind}; as a pattern, it {advice}"
    return f"{printable(path)}: no such {kind}{suggest_path(path)}"


def expand_pattern(path: str) -> list[str]:
    """List the paths that a pattern with ``*``, ``?`` or ``[]`` matches, in natural order; ``**`` matches any number of folders."""
    try:
        return sorted(glob.glob(path, recursive=True), key=natural_key)
    except (OSError, ValueError, re.error):
        return []


def suggest_path(path: str | os.PathLike[str]) -> str:
    """Suggest the existing path that a mistyped one resembles, as the end of an error message; empty if there is none.

    The first part of the path that does not exist is compared with the entries of its folder; the rest must exist below the suggestion.
    """
    given = Path(path)
    existing = next((folder for folder in given.parents if os.path.isdir(folder)), None)
    if existing is None:
        return ""
    first, *rest = given.parts[len(existing.parts) :] or ("",)
    try:
        with os.scandir(existing) as entries:
            names = [entry.name for entry in itertools.islice(entries, ENTRIES)]
    except OSError:
        return ""
    close = nearest(first, (name for name in names if not rest or os.path.exists(existing.joinpath(name, *rest))))
    return f"; did you mean {printable(existing.joinpath(close, *rest))}?" if close else ""


def files_under(folder: Path) -> Iterator[Path]:
    """Yield everything in a folder and its sub-folders that is not a folder: files, links, pipes, devices. Links are not followed.

    Raises
    ------
    InputError : a folder cannot be listed, so that files in it would be left out in silence.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{printable(error.filename)}: {error.strerror or error}")

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names)


def trainer_checkpoints(folder: Location) -> list[str]:
    """List the checkpoints in a trainer's output folder and its ``checkpoints/``, in natural order, as paths relative to the folder."""
    checkpoints: list[str] = []
    for parent, prefix in ((folder, ""), (folder / "checkpoints", "checkpoints/")):
        with contextlib.suppress(OSError):
            if prefix and not parent.is_dir():
                continue
            checkpoints += [f"{prefix}{entry.name}" for entry in parent.iterdir() if _CHECKPOINT.match(entry.name) and entry.is_dir()]
    return sorted(checkpoints, key=natural_key)


def run_folders(folder: Path) -> list[str]:
    """List the sub-folders that are run directories, in natural order."""
    try:
        return sorted((entry.name for entry in folder.iterdir() if (entry / "run.json").is_file()), key=natural_key)
    except OSError:
        return []


def choose_run(folder: Path, runs: Sequence[str]) -> str:
    """Build the error message for a folder of run directories, given where one run is expected."""
    count = plural(len(runs), "run directory", "run directories")
    return f"{printable(folder)}: is not a run, but holds {count}: {_listed(runs)}; name the runs, e.g. {folder / runs[0]}"


def _listed(names: Sequence[str]) -> str:
    """Join names with commas; of many, the first and the last."""
    shown = list(map(printable, names))
    if len(shown) > LISTED:
        shown = [*shown[: LISTED // 2], "...", *shown[-LISTED // 2 :]]
    return ", ".join(shown)


def choose_checkpoint(folder: Location, checkpoints: Sequence[str]) -> str:
    """Build the error message for a folder that is not a checkpoint but holds checkpoints: it lists them, and suggests a path."""
    count = plural(len(checkpoints), "checkpoint")
    listed = _listed(checkpoints)
    return f"{printable(folder)}: contains no weights itself, but {count}: {listed}; name one, e.g. {folder / checkpoints[-1]}"
