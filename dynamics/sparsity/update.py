"""The update between two checkpoints as a file of its own, from which the tuned checkpoint follows bit by bit.

A difference of floats, added to the base, does not give the tuned value back: both operations round. So an update holds the stored bits
of what is new. The file is a safetensors file. Of each tensor whose bits differ it has either

    whole/NAME       the tensor as tuned stores it; also of tensors that are new, or have another shape or dtype

or, where that takes fewer bytes, what differs::

    values/NAME      (changed,) the new elements, in the stored dtype and in row-major order
    counts/NAME      (blocks,) uint32, how many of them are in each block of BLOCK elements; the last block may be shorter
    indices/NAME     (changed,) uint16, the place of each in its block, ascending within a block

``pad/N`` aligns what follows. The metadata holds ``schema``, the digests of ``base`` and ``tuned`` (see ``checkpoints.digests``), and the
names of the tensors of the base that are ``dropped``, as JSON. A tensor that is not named is the base's.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import numpy as np

from dynamics.checkpoints import Checkpoint, Source, Tensor, open_base, open_checkpoint
from dynamics.checkpoints.digests import CHUNK, as_stored, digest_of, leaves
from dynamics.checkpoints.files import File
from dynamics.checkpoints.safetensors import DTYPES, MAX_HEADER, make_header, read_header, read_metadata
from dynamics.checkpoints.tensor import LONGEST_NAME, STORAGE, from_file
from dynamics.errors import InputError, printable
from dynamics.io.atomic import replacing
from dynamics.io.locations import location
from dynamics.io.side_files import parse_json
from dynamics.io.threads import Progress, cores, in_order

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64, Shaped

SCHEMA = "dynamics.update/1"
#: elements whose places fit into 16 bits; divides what is read at a time, see ``_spans``
BLOCK = 1 << 16
#: bytes of the description of a tensor in a header, beside its name and the digits of its shape
DESCRIPTION = 160
Result = TypeVar("Result")


@dataclass(frozen=True)
class Update:
    """What a file that ``save_update`` wrote holds.

    Attributes
    ----------
    path : of the file.
    base, tuned : digests of the weights, see ``dynamics.checkpoints.digest``.
    unchanged, sparse, whole : number of tensors of the tuned checkpoint that are the base's, bit by bit; that are stored as what differs;
        that are stored as they are.
    dropped : number of tensors of the base that the tuned checkpoint lacks.
    changed : number of elements whose bits differ, in tensors that have the same name, shape and dtype on both sides; -0.0 is not 0.0.
    size, tuned_size : bytes of the file, and of the tensors of the tuned checkpoint.
    """

    path: str
    base: str
    tuned: str
    unchanged: int
    sparse: int
    whole: int
    dropped: int
    changed: int
    size: int
    tuned_size: int


def save_update(
    base: Source, tuned: Source, path: str | os.PathLike[str], *, threads: int | None = None, progress: Progress | None = None
) -> Update:
    """Write what turns one checkpoint into another to a file, from which ``apply_update`` restores the other bit by bit.

    Both are read once, and tensors that changed a second time, one after the other. Each thread takes about 10 MiB. Tensors are paired by
    their names as stored; those that have another name are stored whole.

    Parameters
    ----------
    base, tuned : see ``dynamics.checkpoints.open_checkpoint``; neither converted on reading (GGUF) nor an adapter.
        Of quantised weights, codes and scales are taken as they are stored.
    path : of the safetensors file to write; it appears when it is complete.
    threads : number of threads; one per core if None.
    progress : called with (elements done, total elements).

    Raises
    ------
    InputError : a checkpoint that cannot be read, or whose stored bits are not what is read; a file that cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> before, after = {"w": np.zeros(1000, np.float32)}, {"w": np.r_[np.ones(1, np.float32), np.zeros(999, np.float32)]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     update = save_update(before, after, f"{folder}/update.safetensors")
    ...     applied = apply_update(before, f"{folder}/update.safetensors", f"{folder}/tuned.safetensors")
    >>> update.sparse, update.changed, applied == update.tuned
    (1, 1, True)
    """
    before, after = _exact(open_base(base)), _exact(open_checkpoint(tuned), whole=True)
    dropped = sorted(before.tensors.keys() - after.tensors.keys())
    room = 4096 + 2 * len(json.dumps(json.dumps(dropped)))
    for name, tensor in after.tensors.items():
        room += 4 * (DESCRIPTION + len(json.dumps(name)) + 22 * len(tensor.shape))
    if room > MAX_HEADER:
        raise InputError(f"{printable(after.path)}: has too many tensors for the header of one safetensors file")
    names = [*before.tensors, *(name for name in after.tensors if name not in before.tensors)]
    elements = sum((before.tensors.get(name) or after.tensors[name]).numel for name in names)
    with replacing(Path(path)) as temporary, open(temporary, "r+b") as file, _Pass(threads, progress, elements) as over:
        writer = _UpdateWriter(_Output(file, room - room % 8), over)
        for name in names:
            writer.add(name, before.tensors.get(name), after.tensors.get(name))
        digests = {"base": digest_of(before.tensors, writer.of_base), "tuned": digest_of(after.tensors, writer.of_tuned)}
        writer.output.finish({"schema": SCHEMA, **digests, "dropped": json.dumps(dropped)})
    tuned_size = sum(tensor.numel * tensor.storage.itemsize for tensor in after.tensors.values())
    counts = (writer.unchanged, writer.sparse, writer.whole, len(dropped), writer.changed)
    return Update(os.fspath(path), digests["base"], digests["tuned"], *counts, os.path.getsize(path), tuned_size)


def _exact(checkpoint: Checkpoint, whole: bool = False) -> Checkpoint:
    """Return a checkpoint with its tensors as they are stored; ``whole`` says whether all of them are needed.

    Raises
    ------
    InputError : it is an adapter, or its values are converted on reading, or some of them cannot be read.
    """
    where = printable(checkpoint.path)
    if checkpoint.adapter is not None:
        raise InputError(f"{where}: is a LoRA adapter, which is an update already; keep its folder, or merge it into the base first")
    if checkpoint.format == "gguf":
        raise InputError(f"{where}: is a GGUF file, whose values are converted on reading, so no update can be exact")
    stored = replace(checkpoint.stored or checkpoint, tensors=dict(as_stored(checkpoint)))
    if "__metadata__" in stored.tensors:
        raise InputError(f"{where}: has a tensor that is named __metadata__, which a safetensors file cannot hold")
    if unread := next((entry for entry in stored.ignored if entry.numel and whole), None):
        raise InputError(f"{where}: {printable(unread.name)} cannot be read ({unread.reason}), so no update can restore it")
    return stored


def apply_update(
    base: Source,
    update: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> str:
    """Apply an update to its base, and write the tuned checkpoint as one safetensors file.

    Everything is read and written once, and each thread takes about 10 MiB. The digests of the base and of the result are compared with
    those in the update before the file appears.

    Parameters
    ----------
    base : the checkpoint that the update was made of, in any format and any number of files.
    update : path or URL of a file that ``save_update`` wrote.
    path : of the safetensors file to write.
    threads, progress : see ``save_update``.

    Returns
    -------
    The digest of the weights, which is that of the tuned checkpoint.

    Raises
    ------
    InputError : a file that cannot be read or written, an update that is damaged, or one of another base.
    """
    before = _exact(open_base(base))
    where, changes, dropped, expected = _read_update(update, before)
    tensors = {name: changes.whole.get(name, tensor) for name, tensor in before.tensors.items() if name not in dropped} | changes.whole
    names = sorted(tensors, key=lambda name: -tensors[name].storage.itemsize)  # so that all are aligned
    try:
        header = make_header([(name, tensors[name].dtype, tensors[name].shape) for name in names], {"format": "pt"})
    except ValueError:
        raise InputError(f"{printable(before.path)}: has too many tensors for the header of one safetensors file") from None
    gone = {name: tensor for name, tensor in before.tensors.items() if tensors.get(name) is not tensor}
    of_base: dict[str, str] = {}
    of_tuned: dict[str, str] = {}
    elements = sum(tensor.numel for tensor in (*tensors.values(), *gone.values()))
    with replacing(Path(path)) as temporary, open(temporary, "r+b") as file, _Pass(threads, progress, elements) as over:
        file.write(header)
        for name in names:
            before_bits, after_bits = hashlib.sha256(), hashlib.sha256()
            for _, (stored, of_old, of_new) in over(tensors[name], changes.reader(name, tensors[name])):
                before_bits.update(of_old)
                after_bits.update(of_new)
                file.write(stored.data)
            of_base[name], of_tuned[name] = before_bits.hexdigest(), after_bits.hexdigest()
        for name, tensor in gone.items():
            of_base[name] = over.hash(tensor)
        if (found := digest_of(before.tensors, of_base)) != expected["base"]:
            raise InputError(
                f"{where}: is an update of other weights ({printable(expected['base'])}) than {printable(before.path)} ({found})"
            )
        if (found := digest_of(tensors, of_tuned)) != expected["tuned"]:
            raise InputError(f"{where}: does not give the weights that it was made from; it is damaged, fetch or save it again")
    return found


@dataclass(frozen=True)
class _Sparse:
    """The entries of a tensor that is stored as what differs, and where the changes of each block begin, ``(blocks + 1,)``."""

    values: Tensor
    indices: Tensor
    starts: Int64[np.ndarray, " blocks_and_1"]

    def put(self, where: str, start: int, stored: Shaped[np.ndarray, " n"]) -> None:
        """Put the new elements into a copy of some of the base's, which begin at a multiple of ``BLOCK``."""
        first, last = start // BLOCK, -(-(start + stored.size) // BLOCK)
        begins = self.starts[first : last + 1]
        if begins[0] == begins[-1]:
            return
        places = self.indices.stored(int(begins[0]), int(begins[-1])).astype(np.int64)
        places += np.repeat(np.arange(last - first) * BLOCK, np.diff(begins))
        if (np.diff(places) <= 0).any() or places[-1] >= stored.size:
            raise InputError(f"{where}: the indices of {printable(self.values.name)} are not ascending, or lie outside of the tensor")
        stored[places] = self.values.stored(int(begins[0]), int(begins[-1]))


@dataclass(frozen=True)
class _Changes:
    """The tensors of an update by their names in the tuned checkpoint."""

    where: str
    whole: dict[str, Tensor]
    sparse: dict[str, _Sparse]

    def reader(self, name: str, tensor: Tensor) -> Callable[[int, int], tuple[Shaped[np.ndarray, " n"], bytes, bytes]]:
        """Return what reads elements of the result, with ``leaves`` of the base's and of their own."""
        changes = self.sparse.get(name)

        def read(start: int, stop: int) -> tuple[Shaped[np.ndarray, " n"], bytes, bytes]:
            stored = np.ascontiguousarray(tensor.stored(start, stop))
            found = leaves(stored)
            if changes is None:
                return stored, found, found
            stored = stored.copy()  # what lies in memory is the caller's
            changes.put(self.where, start, stored)
            return stored, found, leaves(stored)

        return read


def _read_update(path: str | os.PathLike[str], base: Checkpoint) -> tuple[str, _Changes, set[str], dict[str, str]]:
    """Read and check all of an update but its values: how to name it, what it changes, what it drops, and the two digests."""
    file = File(location(os.fspath(path)))
    where = printable(file.path)
    metadata = read_metadata(file)
    if metadata.get("schema") != SCHEMA:
        raise InputError(f"{where}: is no update that --save-update wrote (its metadata has no schema {SCHEMA})")
    if not {"base", "tuned", "dropped"} <= metadata.keys():
        raise InputError(f"{where}: its metadata lacks base, tuned or dropped; save it again")
    dropped = parse_json(metadata["dropped"].encode(), f"{where}: dropped")
    if not isinstance(dropped, list) or not all(isinstance(name, str) and name in base.tensors for name in dropped):
        raise InputError(f"{where}: drops tensors that {printable(base.path)} does not have; it belongs to another base")
    parts: dict[str, dict[str, Tensor]] = {kind: {} for kind in ("whole", "values", "counts", "indices", "pad")}
    entries, start = read_header(file)
    for entry, (code, shape, begin) in entries.items():
        kind, _, name = entry.partition("/")
        if kind not in parts or code not in DTYPES or not name or name == "__metadata__" or len(name) > LONGEST_NAME:
            raise InputError(f"{where}: has an entry {printable(entry)} of {printable(code)}, which no update has; it is damaged")
        parts[kind][name] = from_file(name, shape, DTYPES[code], file, start + begin)
    sparse = {name: _sparse(where, name, parts, base) for name in parts["values"].keys() | parts["counts"].keys() | parts["indices"].keys()}
    if twice := (parts["whole"].keys() & sparse.keys()) | (set(dropped) & (parts["whole"].keys() | sparse.keys())):
        raise InputError(f"{where}: says two things of {printable(min(twice))}; it is damaged")
    return where, _Changes(where, parts["whole"], sparse), set(dropped), metadata


def _sparse(where: str, name: str, parts: Mapping[str, Mapping[str, Tensor]], base: Checkpoint) -> _Sparse:
    """Check the entries of a tensor that is stored as what differs."""
    values, counts, indices = (parts[kind].get(name) for kind in ("values", "counts", "indices"))
    if values is None or counts is None or indices is None:
        raise InputError(f"{where}: has not all of values, counts and indices of {printable(name)}; it is damaged")
    if (old := base.tensors.get(name)) is None or old.dtype != values.dtype:
        has = "does not have" if old is None else f"stores as {old.dtype}"
        raise InputError(
            f"{where}: changes {printable(name)} in {values.dtype}, which {printable(base.path)} {has}; it belongs to another base"
        )
    if (counts.dtype, indices.dtype) != ("uint32", "uint16") or len(values.shape) != 1 or indices.shape != values.shape:
        raise InputError(f"{where}: values, counts and indices of {printable(name)} do not fit together; it is damaged")
    if counts.shape != (-(-old.numel // BLOCK),):
        raise InputError(f"{where}: changes {printable(name)} of another size than {old.numel}; it belongs to another base")
    found = counts.stored().astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(found)])
    if found.max(initial=0) > BLOCK or starts[-1] != values.numel:
        raise InputError(f"{where}: the counts of {printable(name)} do not add up to its values; it is damaged")
    return _Sparse(values, indices, starts)


class _UpdateWriter:
    """Writes the tensors of an update one after the other, and counts them."""

    def __init__(self, output: _Output, over: _Pass):
        self.output, self.over = output, over
        self.of_base: dict[str, str] = {}
        self.of_tuned: dict[str, str] = {}
        self.unchanged = self.sparse = self.whole = self.changed = 0

    def add(self, name: str, old: Tensor | None, new: Tensor | None) -> None:
        """Add a tensor of either side."""
        if old is not None and new is not None and (old.shape, old.dtype) == (new.shape, new.dtype):
            self._add_pair(name, old, new)
            return
        if old is not None:
            self.of_base[name] = self.over.hash(old)
        if new is not None:
            self.of_tuned[name] = self._write_whole(name, new, counted=old is None)

    def _add_pair(self, name: str, old: Tensor, new: Tensor) -> None:
        """Compare two tensors of one shape and dtype; write what differs, in fewer bytes of the two ways."""
        before, after = hashlib.sha256(), hashlib.sha256()
        counts: list[int] = []

        def compared(start: int, stop: int) -> tuple[bytes, bytes, list[int]]:
            a, b = old.stored(start, stop), new.stored(start, stop)
            return leaves(a), leaves(b), [int(part.sum()) for part in np.split(_differ(a, b), range(BLOCK, stop - start, BLOCK))]

        for _, (of_old, of_new, of_blocks) in self.over(old, compared):
            before.update(of_old)
            after.update(of_new)
            counts += of_blocks
        self.of_base[name], self.of_tuned[name] = before.hexdigest(), after.hexdigest()
        changed, width = sum(counts), new.storage.itemsize
        self.changed += changed
        if not changed:
            self.unchanged += 1
        elif 4 * len(counts) + changed * (2 + width) < new.numel * width:
            self.sparse += 1
            self._write_sparse(name, old, new, np.array(counts, np.uint32))
        else:
            self._write_whole(name, new, counted=False)

    def _write_sparse(self, name: str, old: Tensor, new: Tensor, counts: Shaped[np.ndarray, " blocks"]) -> None:
        changed = int(counts.sum(dtype=np.int64))
        parts = {"values": (new.dtype, changed), "counts": ("uint32", len(counts)), "indices": ("uint16", changed)}
        places = {}
        for kind, (dtype, size) in sorted(parts.items(), key=lambda part: -STORAGE[part[1][0]].itemsize):  # so that all are aligned
            places[kind] = self.output.reserve(f"{kind}/{name}", dtype, (size,))
        self.output.align()
        self.output.write(places["counts"], counts)

        def differing(start: int, stop: int) -> tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
            b = new.stored(start, stop)
            found = np.flatnonzero(_differ(old.stored(start, stop), b))
            return (found % BLOCK).astype(np.uint16), b[found]

        written = 0
        for _, (indices, values) in self.over(old, differing, counted=False):
            written += len(values)
            if written > changed:
                break
            places["indices"] = self.output.write(places["indices"], indices)
            places["values"] = self.output.write(places["values"], values)
        if written != changed:
            raise InputError(f"{printable(name)}: changed while it was read; make the update when the files are complete")

    def _write_whole(self, name: str, tensor: Tensor, counted: bool) -> str:
        self.whole += 1
        place, bits = self.output.reserve(f"whole/{name}", tensor.dtype, tensor.shape), hashlib.sha256()
        self.output.align()

        def copied(start: int, stop: int) -> tuple[Shaped[np.ndarray, " n"], bytes]:
            stored = np.ascontiguousarray(tensor.stored(start, stop))
            return stored, leaves(stored)

        for _, (stored, found) in self.over(tensor, copied, counted):
            bits.update(found)
            place = self.output.write(place, stored)
        return bits.hexdigest()


def _differ(a: Shaped[np.ndarray, " n"], b: Shaped[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Mark the elements of one dtype whose bits differ."""
    bits = f"u{a.itemsize}"
    return np.asarray(np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits))


@dataclass
class _Output:
    """A safetensors file whose header is written last, into ``room`` bytes at its beginning."""

    file: BinaryIO
    room: int
    entries: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    end: int = 0

    def reserve(self, name: str, dtype: str, shape: tuple[int, ...]) -> int:
        """Make room for a tensor, and return its first byte in the file."""
        start = self.room + self.end
        self.entries.append((name, dtype, shape))
        self.end += math.prod(shape) * STORAGE[dtype].itemsize
        return start

    def align(self) -> None:
        """Let the next tensor begin at a multiple of 8 bytes."""
        if self.end % 8:
            self.reserve(f"pad/{len(self.entries)}", "uint8", (8 - self.end % 8,))

    def write(self, place: int, array: Shaped[np.ndarray, " n"]) -> int:
        """Write elements, and return the byte after them."""
        self.file.seek(place)
        self.file.write(np.ascontiguousarray(array).data)
        return place + array.nbytes

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header."""
        self.file.truncate(self.room + self.end)
        self.file.seek(0)
        self.file.write(make_header(self.entries, metadata, self.room))


class _Pass:
    """Does something with ranges of tensors on several threads, in order, and reports the progress.

    Ranges begin at multiples of ``BLOCK`` elements and of ``digests.LEAF`` bytes.
    """

    def __init__(self, threads: int | None, progress: Progress | None, elements: int):
        self.threads = threads or cores()
        self.progress, self.elements, self.done = progress, elements, 0
        self.pool = ThreadPoolExecutor(self.threads)

    def __enter__(self) -> _Pass:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads."""
        self.pool.shutdown()

    def __call__(self, tensor: Tensor, what: Callable[[int, int], Result], counted: bool = True) -> Iterator[tuple[int, Result]]:
        """Yield (elements, result) of each range; ``counted`` says whether they count as progress."""
        length = CHUNK // tensor.storage.itemsize
        spans = ((min(length, tensor.numel - start), start) for start in range(0, tensor.numel, length))
        for count, result in in_order(self.pool, lambda span: what(span[1], span[1] + span[0]), spans, ahead=2 * self.threads):
            if counted:
                self.done += count
                if self.progress:
                    self.progress(self.done, self.elements)
            yield count, result

    def hash(self, tensor: Tensor) -> str:
        """Return the digest of the bytes of a tensor."""
        bits = hashlib.sha256()
        for _, found in self(tensor, lambda start, stop: leaves(tensor.stored(start, stop))):
            bits.update(found)
        return bits.hexdigest()
