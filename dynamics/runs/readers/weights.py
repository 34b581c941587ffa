"""The checkpoints in a run directory, and which of them are complete. Only names, sizes and headers are read."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

from dynamics.checkpoints import Checkpoint, open_checkpoint
from dynamics.errors import InputError, printable
from dynamics.io.side_files import read_bytes, read_json
from dynamics.runs.readers.looking import entries, exists, is_folder, tell
from dynamics.runs.view import SavedCheckpoint

#: middle of a note on a checkpoint that is left out, and its end if it may be that it is not yet whole
LEFT_OUT, WRITING = ": checkpoint left out: ", "; it may still be being written"
#: what the system says of what may not be read
CLOSED = os.strerror(errno.EACCES)


def numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """List the sub-folders whose names match a pattern, the first group of which is a number, by this number; tell what is no folder."""
    compiled = re.compile(pattern)
    pairs = []
    for entry in entries(folder):
        match = compiled.fullmatch(entry.name)
        if match is None or len(match[1]) >= 19:
            continue
        if is_folder(entry):
            pairs.append((int(match[1]), entry))
        elif os.path.isfile(entry):
            tell(f"{printable(entry)}: is a file, not the folder that its name says; left out")
    return sorted(pairs)


def complete(candidates: Iterable[tuple[int | None, Path]], notes: list[str]) -> list[SavedCheckpoint]:
    """Return the checkpoints that are complete, in order; see ``open_complete``."""
    return [saved for saved, _ in open_complete(candidates, notes)]


def open_complete(candidates: Iterable[tuple[int | None, Path]], notes: list[str]) -> list[tuple[SavedCheckpoint, dict[str, int]]]:
    """List the checkpoints that are complete, in order, with their number of weights by dtype; each other one becomes a note.

    A checkpoint is complete if ``open_checkpoint`` opens it: it reads the headers, and finds all files that they name, with all of their
    bytes. Several folders of one step, such as ``step_4`` and ``step_04``, are all left out: nothing says which of them is the run's.

    Parameters
    ----------
    candidates : step and folder.
    notes : receives the line of each that is left out.
    """
    opened = []
    for step, path in candidates:
        checkpoint = opened_or_fault(path)
        if isinstance(checkpoint, str):
            notes.append(f"{printable(path)}{LEFT_OUT}{checkpoint}{'' if checkpoint.endswith(CLOSED) else WRITING}")
        else:
            opened.append((SavedCheckpoint(step, path, checkpoint.adapter is not None), checkpoint.dtypes))
    folders: dict[int, list[Path]] = {}
    for saved, _ in opened:
        if saved.step is not None:
            folders.setdefault(saved.step, []).append(saved.path)
    several = {step: paths for step, paths in folders.items() if len(paths) > 1}
    for step, paths in several.items():
        listed = ", ".join(map(printable, paths))
        notes.append(f"{listed}: checkpoints left out: they are of one step, {step}; remove or rename all but that of the run")
    return [(saved, dtypes) for saved, dtypes in opened if saved.step not in several]


def opened_or_fault(path: Path) -> Checkpoint | str:
    """Open a checkpoint, or say why it cannot be opened."""
    try:
        return open_checkpoint(path)
    except InputError as error:
        where, text = printable(path), str(error)
        return text[len(where) + 1 :].strip() if text.startswith((f"{where}: ", f"{where}/")) else text


def base_of_adapter(folder: Path) -> str | None:
    """Return the base that the settings of an adapter name."""
    try:
        name = read_json(folder / "adapter_config.json", limit=1_000_000).get("base_model_name_or_path")
    except InputError as error:
        tell(str(error))
        return None
    return printable(name, 4096) if isinstance(name, str) and name.strip() else None


def base_of_config(folder: Path) -> str | None:
    """Return the path or id that ``config.json`` was loaded from, which transformers before version 5 recorded."""
    if not exists(folder / "config.json"):
        return None
    try:
        name = read_json(folder / "config.json").get("_name_or_path")
    except InputError as error:
        tell(str(error))
        return None
    return printable(name, 4096) if isinstance(name, str) and name.strip() else None


def read_pointer_number(path: Path) -> int | None:
    """Return the whole number that a small file holds, such as ``latest_checkpointed_iteration.txt``; None if it holds none."""
    if not exists(path):
        return None
    try:
        text = read_bytes(path, 100).strip()
    except InputError as error:
        tell(str(error))
        return None
    return int(text) if text.isdigit() and len(text) < 19 else None


def local_base(name: str, folder: Path | None) -> str:
    """Return the path of a base that a setting names relative to the folder a trainer was started in, if it is there; else the name."""
    if folder is None or "\0" in name or Path(name).is_absolute():
        return name
    return str(folder / name) if os.path.isdir(folder / name) else name


def shown(path: Path, folder: Path) -> str:
    """Return a path as messages name it: relative to the folder of the run if it is in it."""
    absolute = path.absolute()
    return printable(absolute.relative_to(folder.absolute()) if absolute.is_relative_to(folder.absolute()) else path)
