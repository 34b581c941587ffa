"""Arrays of numpy: ``.npy`` files, folders of them, and ``.npz`` archives, read by offset.

A file begins with a few bytes, and the text of a Python dictionary with the dtype, the order and the shape. It is matched, not evaluated,
and arrays of objects, which are pickles, are not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from dynamics.checkpoints.archives import Archive
from dynamics.checkpoints.files import File
from dynamics.checkpoints.pickled import Strided
from dynamics.checkpoints.tensor import STORAGE, Checkpoint, Ignored, Tensor, natural_shape
from dynamics.descriptions import plural
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location
from dynamics.io.side_files import read_json

MAGIC = b"\x93NUMPY"
#: bytes of a header; that of 32 axes has less than a thousand
LONGEST_HEADER = 10_000
ENTRY = re.compile(
    r"\s*(['\"])(?P<key>descr|fortran_order|shape)\1\s*:\s*"
    r"(?:(['\"])(?P<text>[^'\"\\]{1,60})\3|(?P<flag>True|False)|\((?P<sizes>[\d\s,L]*)\)|(?P<list>\[))\s*,?"
)
DESCRIPTION = re.compile(r"(?P<order>[<>|=]?)(?P<kind>[a-zA-Z])(?P<size>\d{0,6})(\[\w*\])?")
KINDS = {"f": "float", "i": "int", "u": "uint"}
#: dtypes by their letter, and why they are not read
UNREAD = {
    "O": "an array of Python objects, which is a pickle; save its arrays of numbers alone",
    "V": "raw bytes, as numpy writes bfloat16 and float8, whose dtype it does not know; save it as float32, which holds them exactly",
}


def read_npy(path: Location) -> Checkpoint:
    """Open a ``.npy`` file, whose tensor has the name of the file without its suffix."""
    return _checkpoint(path, "npy", {path.name.removesuffix(".npy"): _whole(path)})


def read_npz(path: Location) -> Checkpoint:
    """Open a ``.npz`` file as ``numpy.savez`` writes it, without compression; its tensors have the names of its arrays."""
    file = File(path)
    archive = Archive(file, 0, file.size, "numpy.savez (not savez_compressed)")
    if sum(record.file_size for record in archive.records.values()) > file.size:
        raise InputError(f"{printable(path)}: its records overlap; it was not written by numpy.savez")
    arrays: dict[str, Tensor | Ignored] = {}
    for record in archive.records:
        if record.endswith(".npy"):
            name = record.removesuffix(".npy")
            arrays[name] = _array(name, file, *archive.body(record))
        else:
            arrays[record] = Ignored(record, "not an array of numpy")
    return _checkpoint(path, "npz", arrays)


def read_arrays(folder: Location, files: Mapping[str, Location], children: set[str]) -> Checkpoint:
    """Read a folder of ``.npy`` files, whose tensors have the names of the files, or of one ``.npz`` file."""
    arrays = [name for name in files if name.endswith(".npy")]
    archives = [name for name in files if name.endswith(".npz")]
    if len(archives) > 1 or (arrays and archives):
        held = f"{plural(len(archives), '.npz file')} and {plural(len(arrays), '.npy file')}"
        raise InputError(f"{printable(folder)}: holds {held}; name one of them")
    if archives:
        checkpoint = replace(read_npz(files[archives[0]]), path=str(folder))
    else:
        found = {name.removesuffix(".npy"): _whole(files[name]) for name in arrays}
        checkpoint = _checkpoint(folder, "npy", found)
    unread = tuple(Ignored(f"{child}/", "folder not read: arrays are taken from the folder that is named") for child in sorted(children))
    config = read_json(files["config.json"]) if "config.json" in files else None
    return replace(checkpoint, config=config, ignored=checkpoint.ignored + unread)


def _whole(path: Location) -> Tensor | Ignored:
    file = File(path)
    return _array(path.name.removesuffix(".npy"), file, 0, file.size)


def _checkpoint(path: Location, kind: str, arrays: Mapping[str, Tensor | Ignored]) -> Checkpoint:
    """Make a checkpoint of arrays, some of which are not read; refuse one without any that is."""
    tensors = {name: array for name, array in arrays.items() if isinstance(array, Tensor)}
    ignored = tuple(array for array in arrays.values() if isinstance(array, Ignored))
    if not tensors and ignored:
        raise InputError(f"{printable(path)}: holds no tensors: {printable(ignored[0].name)} is {ignored[0].reason}")
    return Checkpoint(str(path), kind, tensors, ignored=ignored)


def _array(name: str, file: File, start: int, size: int) -> Tensor | Ignored:
    """Open an array in bytes ``start:start + size`` of a file, or say why its dtype is not read."""
    where = f"{printable(file.path)}: array {printable(name)}"
    length, begin = _header(where, file, start, size)
    entries = _entries(where, file.read(start + begin, length).decode("latin1"))
    try:
        shape = natural_shape([int(entry.strip().rstrip("L")) for entry in entries["shape"].split(",") if entry.strip()])
    except ValueError:
        raise InputError(f"{where}: has a shape that no file holds ({printable(entries['shape'], 60)})") from None
    numel = math.prod(shape)
    description = DESCRIPTION.fullmatch(entries["descr"])
    if description is None:
        raise InputError(f"{where}: has an unknown dtype ({printable(entries['descr'], 60)})")
    kind, width = description["kind"], int(description["size"] or 0)
    dtype = "bool" if (kind, width) == ("b", 1) else f"{KINDS.get(kind, '')}{8 * width}"
    if dtype not in STORAGE:
        return Ignored(name, UNREAD.get(kind, f"of dtype {entries['descr']}, which has no comparison here"), numel)
    room, needed = size - begin - length, numel * width
    if room < needed:
        raise InputError(f"{where}: is cut short: {dtype} of shape {shape} takes {needed} bytes, it has {room}; fetch or save it again")
    if room > needed:
        raise InputError(f"{where}: has {room - needed} bytes after the array; save each array in a file of its own")
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if entries["fortran_order"] == "True":
        strides = [math.prod(shape[:axis]) for axis in range(len(shape))]
    tensor = Strided(file, start + begin + length, dtype, shape, tuple(strides)).tensor(name)
    return _big_endian(tensor) if description["order"] == ">" and width > 1 else tensor


def _header(where: str, file: File, start: int, size: int) -> tuple[int, int]:
    """Return the length of the text that describes an array, and its first byte after ``start``."""
    head = file.read(start, min(size, 12))
    if head[:6] != MAGIC or len(head) < 12:
        raise InputError(f"{where}: is not a file of numpy (it starts with {head[:6]!r}); fetch or save it again")
    if head[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise InputError(f"{where}: has version {head[6]}.{head[7]} of numpy's format, which is unknown")
    begin = 10 if head[6] == 1 else 12
    length = int.from_bytes(head[8:begin], "little")
    if length > LONGEST_HEADER or begin + length > size:
        raise InputError(f"{where}: its header claims {length} bytes; it is cut short or damaged, fetch or save it again")
    return length, begin


def _entries(where: str, text: str) -> dict[str, str]:
    """Return what a header says of ``descr``, ``fortran_order`` and ``shape``, as text."""
    found: dict[str, str] = {}
    body = text.strip()
    position = 1
    while body.startswith("{") and (entry := ENTRY.match(body, position)) and entry["key"] not in found:
        if entry["list"] and entry["key"] == "descr":
            raise InputError(f"{where}: has a structured dtype, of several fields; save each field as an array of its own")
        value = {"descr": entry["text"], "fortran_order": entry["flag"], "shape": entry["sizes"]}[entry["key"]]
        if value is None:
            break
        found[entry["key"]] = value
        position = entry.end()
    if len(found) < 3 or body[position:].strip() != "}":
        raise InputError(f"{where}: has a header that numpy does not write ({printable(text, 60)}); it is damaged, fetch or save it again")
    return found


def _big_endian(tensor: Tensor) -> Tensor:
    """Return a tensor whose bytes are stored in the other order."""
    source = None if tensor.source is None else ("big-endian", tensor.source)
    return replace(tensor, read=lambda start, stop, out: tensor.read(start, stop, out).byteswap(), source=source)
