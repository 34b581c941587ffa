"""The checkpoints of a Trainer: ``checkpoint-N`` in the order of N, and the final model in the folder itself."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamics.checkpoints.safetensors import read_safetensors
from dynamics.errors import InputError, printable
from dynamics.io.regular import open_regular
from dynamics.runs.readers import weights
from dynamics.runs.readers.looking import entries, exists
from dynamics.runs.readers.weights import open_complete
from dynamics.runs.view import SavedCheckpoint

NAME = re.compile(r"checkpoint-(\d{1,15})")
#: what older versions of transformers call a checkpoint until it is whole
UNFINISHED = re.compile(r"tmp-checkpoint-\d+")
#: files with the weights of a model, or of an adapter
WEIGHTS = re.compile(r"((adapter_)?model|pytorch_model|consolidated)\b.*\.(safetensors|bin|pth)$")
#: two files are equal if their sizes are, and so many blocks of so many bytes, evenly over each
BLOCKS, BLOCK = 64, 1 << 16


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint.

    Attributes
    ----------
    step : of the name of its folder; None for the model in the run's own folder.
    path : its folder.
    adapter : whether it is an adapter.
    dtypes : number of weights by dtype as stored; of an adapter, of its factors.
    """

    step: int | None
    path: Path
    adapter: bool
    dtypes: dict[str, int]


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """List the folders ``checkpoint-N`` in the order of N; tell what has such a name and is none."""
    return weights.numbered(folder, NAME.pattern)


def complete(folder: Path, notes: list[str]) -> list[Saved]:
    """List the complete checkpoints in the order of their steps; a line in ``notes`` for each of the others."""
    unfinished = [path for path in entries(folder) if UNFINISHED.fullmatch(path.name)]
    notes += [f"{printable(path)}: checkpoint left out: it is still being written, or was never finished" for path in unfinished]
    return _opened(numbered(folder), notes)


def own_model(folder: Path, notes: list[str]) -> Saved | None:
    """Return the model in the folder itself; None if there is none, or, with a note, if it is not complete."""
    return next(iter(_opened([(None, folder)], notes)), None) if weight_files(folder) else None


def _opened(candidates: Sequence[tuple[int | None, Path]], notes: list[str]) -> list[Saved]:
    opened = []
    for saved, dtypes in open_complete(candidates, notes):
        factors = saved.path / "adapter_model.safetensors"
        if saved.adapter:
            dtypes = read_safetensors(factors).dtypes if exists(factors) else {}
        opened.append(Saved(saved.step, saved.path, saved.adapter, dtypes))
    return opened


def weight_files(folder: Path) -> dict[str, Path]:
    """List the files in a folder that hold weights, by name."""
    return {entry.name: entry for entry in entries(folder) if WEIGHTS.match(entry.name)}


def same_weights(first: Path, second: Path) -> bool:
    """Tell whether the files of weights of two folders are equal, by their names, sizes, and blocks of bytes evenly over each."""
    ours, theirs = weight_files(first), weight_files(second)
    return ours.keys() == theirs.keys() and all(_same(path, theirs[name]) for name, path in ours.items())


def _same(first: Path, second: Path) -> bool:
    try:
        with open(open_regular(first), "rb") as first_file, open(open_regular(second), "rb") as second_file:
            size = os.fstat(first_file.fileno()).st_size
            if size != os.fstat(second_file.fileno()).st_size:
                return False
            for part in range(BLOCKS):
                position = max(0, size - BLOCK) * part // (BLOCKS - 1)
                first_file.seek(position)
                second_file.seek(position)
                if first_file.read(BLOCK) != second_file.read(BLOCK):
                    return False
    except (OSError, InputError):  # told when they are opened
        return False
    return True


def with_own_model(saved: list[Saved], own: Saved, step: int | None, remarks: list[str]) -> list[SavedCheckpoint]:
    """Add the model in the folder itself to the checkpoints if it is none of them.

    Parameters
    ----------
    saved : the checkpoints, by step.
    own : the model in the folder itself.
    step : the step at which it was saved; None if nothing says it.
    remarks : a line is added on what became of it, unless it is the last checkpoint.
    """
    listed = [SavedCheckpoint(entry.step, entry.path, entry.adapter) for entry in saved]
    equal = next((entry for entry in reversed(saved) if same_weights(own.path, entry.path)), None)
    if equal is not None:
        if equal is not saved[-1]:
            remarks.append(f"the model in the folder itself is that of {equal.path.name}, not that of the last checkpoint")
        return listed
    if step is not None and any(entry.step == step for entry in saved):
        remarks.append(f"the model in the folder itself differs from checkpoint-{step} of the same step, by its dtype or a merge")
        return listed
    if step is None and saved:
        remarks.append("the model in the folder itself is none of the checkpoints, and no file says its step; it is taken as the last")
    listed.append(SavedCheckpoint(step, own.path, own.adapter))
    return sorted(listed, key=lambda entry: (entry.step is None, entry.step or 0))
