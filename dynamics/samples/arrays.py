"""Matrices of verdicts, ``.npz`` and ``.npy``: a row per problem, a column per sample; with a model axis in front, several models.

The values are 0 and 1, or scores; NaN is a sample without a verdict. Archives of scorio have such an array per task. Pickled objects are
not read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.errors import InputError, printable
from dynamics.samples.row import BATCH, Batch, Batches, Columns, SourceNotes, label

NAME = "matrix of verdicts"
#: arrays that hold the ids of problems and the names of models
PROBLEMS = ("problem", "problems", "problem_id", "problem_ids", "task_id", "task_ids", "ids", "questions")
MODELS = ("model", "models", "model_names", "names")
#: limit on the size of an array, because a damaged or hostile header can declare any size
LARGEST = 2 << 30


def is_npy(start: bytes) -> bool:
    """Tell whether a file with these first bytes holds one array."""
    return start.startswith(b"\x93NUMPY")


def is_npz(path: Path) -> bool:
    """Tell whether a zip file holds arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged archive, which the reader of zip files will describe
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def read(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Choose the arrays; return the name of the format and the samples."""
    with _loaded(path) as loaded:
        if isinstance(loaded, np.ndarray):
            arrays, chosen = {"": loaded}, [""]
        else:
            chosen = _chosen(loaded, columns, printable(path))
            wanted = {*chosen, *(name for name in (*PROBLEMS, *MODELS) if name in loaded.files)}
            arrays = {name: _array(loaded, name, path) for name in wanted}
    for name in chosen:
        _check(arrays[name], name, printable(path))
    axes = "problems x samples" if arrays[chosen[0]].ndim == 2 else "models x problems x samples"
    notes.fields = {"problem": "row", "correct": ", ".join(chosen) or "the array"}
    notes.remarks.append(f"the axes are taken for {axes}: {', '.join(str(arrays[name].shape) for name in chosen)}")
    return NAME, _batches(arrays, chosen, path.name.partition(".")[0], printable(path))


def _loaded(path: Path) -> Any:
    """Open a file of arrays as a context manager that yields an array or an archive."""
    import contextlib

    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header can lead to any error
        raise InputError(f"{printable(path)}: cannot be read as arrays: {printable(str(error), 80)}") from None
    return contextlib.nullcontext(loaded) if isinstance(loaded, np.ndarray) else loaded


def _array(archive: Any, name: str, path: Path) -> np.ndarray[Any, Any]:
    member = f"{name}.npy"
    try:
        if archive.zip.getinfo(member if member in archive.zip.NameToInfo else name).file_size > LARGEST:
            raise InputError(f"{printable(path)}: array {printable(name)!r} has more than {LARGEST >> 30} GiB; it is not read")
        return np.asarray(archive[name])
    except InputError:
        raise
    except Exception as error:  # a damaged member, or pickled objects
        raise InputError(f"{printable(path)}: array {printable(name)!r} cannot be read: {printable(str(error), 80)}") from None


def _chosen(archive: Any, columns: Columns, path: str) -> list[str]:
    """Return the names of the arrays: the one named, or all that are matrices. ``combined`` repeats the other arrays of scorio."""
    names = [name for name in archive.files if name not in (*PROBLEMS, *MODELS)]
    if columns.correct:
        if columns.correct not in names:
            raise InputError(f"{path}: has no array {printable(columns.correct)!r}; it has {', '.join(map(printable, archive.files))}")
        return [columns.correct]
    if len(names) != 1:
        raise InputError(f"{path}: has several arrays; choose one with --correct: {', '.join(map(printable, names)) or 'none'}")
    return names


def _check(array: np.ndarray[Any, Any], name: str, path: str) -> None:
    what = f"array {printable(name)!r}" if name else "the array"
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: {what} has values of type {array.dtype}, which are no verdicts")
    if array.ndim not in (2, 3):
        raise InputError(f"{path}: {what} has the shape {array.shape}; expected problems x samples, or models x problems x samples")
    if array.nbytes > LARGEST:
        raise InputError(f"{path}: {what} has more than {LARGEST >> 30} GiB; it is not read")


def _batches(arrays: dict[str, np.ndarray[Any, Any]], chosen: list[str], stem: str, path: str) -> Batches:
    for name in chosen:
        array = arrays[name]
        models = array if array.ndim == 3 else array[None]
        problems = _labels(arrays, PROBLEMS, models.shape[1], path) or [str(index) for index in range(models.shape[1])]
        names = _labels(arrays, MODELS, len(models), path) or [f"model {index + 1}" for index in range(len(models))]
        for model, matrix in zip(names, models, strict=True):
            yield from _rows(matrix, problems, f"{stem} {model}" if array.ndim == 3 else None)


def _rows(matrix: np.ndarray[Any, Any], problems: list[str], model: str | None) -> Iterator[Batch]:
    width = max(1, matrix.shape[1])
    for start in range(0, len(matrix), max(1, BATCH // width)):
        part = np.asarray(matrix[start : start + max(1, BATCH // width)], float)
        ids = [problem for problem in problems[start : start + len(part)] for _ in range(matrix.shape[1])]
        yield Batch(ids, part.ravel(), model=[model] * len(ids) if model else None)


def _labels(arrays: dict[str, np.ndarray[Any, Any]], names: tuple[str, ...], count: int, path: str) -> list[str] | None:
    """Return the labels of an axis, if the archive has them."""
    found = next((name for name in names if name in arrays), None)
    if found is None:
        return None
    labels = [label(value) for value in arrays[found].tolist()] if arrays[found].ndim == 1 else []
    if len(labels) != count or len(set(labels)) != count:
        raise InputError(f"{path}: array {printable(found)!r} does not name the {count} rows of the verdicts, each once")
    return labels
