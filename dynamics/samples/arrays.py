"""Matrices of verdicts, ``.npz`` and ``.npy``: a row per problem, a column per sample; with a model axis in front, several models.

The values are 0 and 1, or scores; NaN is a sample without a verdict. Archives of scorio have such an array per task. Pickled objects are
not read.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from dynamics.errors import InputError, printable
from dynamics.io.compression import opened
from dynamics.samples.row import BATCH, MOST_SAMPLES, Batch, Batches, Columns, SourceNotes, label, listed

NAME = "matrix of verdicts"
#: arrays that hold the ids of problems and the names of models
PROBLEMS = ("problem", "problems", "problem_id", "problem_ids", "task_id", "task_ids", "ids", "questions")
MODELS = ("model", "models", "model_names", "names")
#: bytes of an array, because a damaged or hostile header can declare any size
LARGEST = 1 << 29
#: largest code point of a character
LAST_CHARACTER = 0x10FFFF


def is_npy(start: bytes) -> bool:
    """Tell whether a file with these first bytes holds one array."""
    return start.startswith(b"\x93NUMPY")


def is_npz(path: Path) -> bool:
    """Tell whether a zip file holds arrays."""
    try:
        with opened(path) as stream, zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except Exception:  # a damaged archive, which the reader of zip files will describe
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def read(path: Path, columns: Columns, notes: SourceNotes) -> tuple[str, Batches]:
    """Choose the arrays; return the name of the format and the samples."""
    where = printable(path)
    with opened(path) as stream:
        if is_npy(stream.read(6)):
            stream.seek(0)
            arrays, chosen = {"": _array(stream, "the array", where)}, [""]
        else:
            stream.seek(0)
            arrays, chosen = _members(stream, columns, where)
    for name in chosen:
        _check(arrays[name], name, where)
    axes = "problems x samples" if arrays[chosen[0]].ndim == 2 else "models x problems x samples"
    notes.fields = {"problem": "row", "correct": ", ".join(chosen) or "the array"}
    notes.remarks.append(f"the axes are taken for {axes}: {', '.join(str(arrays[name].shape) for name in chosen)}")
    return NAME, _batches(arrays, chosen, path.name.partition(".")[0], where)


def _members(stream: IO[bytes], columns: Columns, where: str) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
    """Read the arrays of an archive that are verdicts, or names of problems and models."""
    try:
        archive = zipfile.ZipFile(stream)
        names = {name.removesuffix(".npy"): name for name in archive.namelist()}
    except Exception as error:  # a damaged archive can lead to any error
        raise InputError(f"{where}: cannot be read as arrays: {printable(str(error), 80)}") from None
    chosen = _chosen(list(names), columns, where)
    arrays = {}
    for name in (*chosen, *(name for name in (*PROBLEMS, *MODELS) if name in names and name not in chosen)):
        what = f"array {printable(name, 40)!r}"
        try:
            with archive.open(names[name]) as member:
                arrays[name] = _array(member, what, where)
        except InputError:
            raise
        except Exception as error:  # a damaged or encrypted member
            raise InputError(f"{where}: {what} cannot be read: {printable(str(error), 80)}") from None
    return arrays, chosen


def _array(stream: IO[bytes], what: str, where: str) -> np.ndarray[Any, Any]:
    """Read an array after its header, which can declare any size."""
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except Exception as error:  # a damaged header can lead to any error
        raise InputError(f"{where}: {what} cannot be read: {printable(str(error), 80)}") from None
    if dtype.hasobject:
        raise InputError(f"{where}: {what} cannot be read: it holds pickled objects; save numbers or texts")
    size = math.prod(shape)
    if size > MOST_SAMPLES or size * dtype.itemsize > LARGEST or max(shape, default=0) > MOST_SAMPLES or min(shape, default=0) < 0:
        raise InputError(f"{where}: {what} has the shape {printable(shape, 60)}; over {MOST_SAMPLES:,} values are not read at once")
    if not size:
        return np.empty(shape, dtype)
    data = stream.read(size * dtype.itemsize)
    if len(data) < size * dtype.itemsize:
        raise InputError(f"{where}: {what} is cut short; copy the file again")
    codes = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder)) if dtype.kind == "U" else np.zeros(0)
    if codes.max(initial=0) > LAST_CHARACTER:
        raise InputError(f"{where}: {what} holds texts with code points that are no characters; write the file again")
    try:
        return np.frombuffer(data, dtype, size).reshape(shape, order="F" if fortran_order else "C")
    except ValueError as error:  # a type without bytes
        raise InputError(f"{where}: {what} cannot be read: {printable(str(error), 80)}") from None


def _chosen(given: list[str], columns: Columns, path: str) -> list[str]:
    """Return the names of the arrays: the one named, or all that are matrices. ``combined`` repeats the other arrays of scorio."""
    names = [name for name in given if name not in (*PROBLEMS, *MODELS)]
    if columns.correct:
        if columns.correct not in names:
            raise InputError(f"{path}: has no array {printable(columns.correct)!r}; it has {listed(given)}")
        return [columns.correct]
    if len(names) != 1:
        raise InputError(f"{path}: has several arrays; choose one with --correct: {listed(names)}")
    return names


def _check(array: np.ndarray[Any, Any], name: str, path: str) -> None:
    what = f"array {printable(name)!r}" if name else "the array"
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: {what} has values of type {array.dtype}, which are no verdicts")
    if array.ndim not in (2, 3):
        raise InputError(f"{path}: {what} has the shape {array.shape}; expected problems x samples, or models x problems x samples")


def _batches(arrays: dict[str, np.ndarray[Any, Any]], chosen: list[str], stem: str, path: str) -> Batches:
    for name in chosen:
        array = arrays[name]
        if not array.size:
            continue
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
    if arrays[found].dtype.kind not in "iufSU":
        raise InputError(f"{path}: array {printable(found)!r} has values of type {arrays[found].dtype}; expected numbers or texts")
    labels = [label(value) for value in arrays[found].tolist()] if arrays[found].ndim == 1 else []
    if len(labels) != count or len(set(labels)) != count:
        raise InputError(f"{path}: array {printable(found)!r} does not name the {count} rows of the verdicts, each once")
    return labels
