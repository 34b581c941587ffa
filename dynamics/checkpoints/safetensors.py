"""The safetensors format: a length, a JSON header, and the data. It is parsed here because lazy reading needs only the header.

The checks are those of the format: all offsets in range, no overlaps, no gaps, and lengths that agree with dtype and shape. A header that
describes more data than the file contains indicates an interrupted download or save.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dynamics.checkpoints.files import File
from dynamics.checkpoints.tensor import MOST_AXES, MOST_ELEMENTS, STORAGE, Checkpoint, Ignored, Tensor, from_file
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location
from dynamics.io.side_files import ADVICE, parse_json

MAX_HEADER = 100_000_000  # limit of the format, in bytes

#: safetensors dtype -> dtype of ``Tensor``
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
CODES = {dtype: code for code, dtype in DTYPES.items()}

#: dtypes whose elements are not decoded to values: safetensors dtype -> bits per element
OPAQUE_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "C64": 64}


def read_safetensors(path: str | Location) -> Checkpoint:
    """Open the tensors of a ``.safetensors`` file without reading their values."""
    file = File(path)
    entries, start = read_header(file)
    tensors: dict[str, Tensor] = {}
    ignored: list[Ignored] = []
    for name, (code, shape, begin) in entries.items():
        if code in DTYPES:
            tensors[name] = from_file(name, shape, DTYPES[code], file, start + begin)
        else:
            ignored.append(Ignored(name, f"dtype {code} has no comparison here", math.prod(shape)))
    return Checkpoint(str(path), "safetensors", tensors, ignored=tuple(ignored))


def read_header(file: File) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], int]:
    """Return a mapping of name to (dtype code, shape, first byte within the data), and the offset of the data in the file."""
    where = printable(file.path)
    header, length = _header(file)
    header.pop("__metadata__", None)
    available = file.size - 8 - length
    entries = {name: _entry(name, entry, where) for name, entry in header.items()}
    end = 0
    for name, (_, _, begin, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != end:
            fault = "overlaps the tensor before it" if begin < end else f"leaves a hole of {begin - end} bytes before it"
            raise InputError(f"{where}: tensor {printable(name)} at bytes {begin}:{stop} {fault}; the header is corrupt")
        end = stop
    if end > available:
        raise InputError(f"{where}: truncated: the header promises {end} bytes of data, the file has {available}; fetch or save it again")
    if end < available:
        raise InputError(f"{where}: {available - end} bytes after the last tensor that no header entry names; the file is corrupt")
    return {name: (code, shape, begin) for name, (code, shape, begin, _) in entries.items()}, 8 + length


def _header(file: File) -> tuple[dict[str, Any], int]:
    """Return the header and its length in bytes."""
    where = printable(file.path)
    if file.size < 8:
        raise InputError(f"{where}: {file.size} bytes is too short for a safetensors file; fetch or save it again")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER:
        if text := _beginning_of_text(file.read(0, min(file.size, 64))):
            raise InputError(f"{where}: is a text file, not a safetensors file; it begins with {printable(text, 40)!r}")
        raise InputError(f"{where}: header of {length} bytes is over the format's limit of {MAX_HEADER}; not a safetensors file")
    if length + 8 > file.size:
        raise InputError(f"{where}: header says {length} bytes, the file has {file.size}; truncated, fetch or save it again")
    return _parse_json(file.read(8, length), where), length


def read_metadata(file: File) -> dict[str, str]:
    """Return the texts that a file holds beside its tensors."""
    metadata = _header(file)[0].get("__metadata__") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError(f"{printable(file.path)}: its __metadata__ is not made of texts; the header is corrupt")
    return metadata


def make_header(entries: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str], room: int | None = None) -> bytes:
    """Return what a file begins with: the length of the header, and the header, which is padded to a multiple of 8 bytes.

    Parameters
    ----------
    entries : name, dtype (see ``tensor.STORAGE``) and shape of each tensor, in the order of their data, which has no gaps.
    metadata : texts beside the tensors.
    room : bytes in all; as many as are needed if None.
    """
    described: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in entries:
        begin, end = end, end + math.prod(shape) * STORAGE[dtype].itemsize
        described[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    size = -(-len(text) // 8) * 8 if room is None else room - 8
    if not len(text) <= size <= MAX_HEADER:
        raise ValueError(f"a header of {len(text)} bytes does not fit into {min(size, MAX_HEADER)}")
    return size.to_bytes(8, "little") + text.ljust(size)


def _beginning_of_text(start: bytes) -> str:
    """Return the first line of a text file, such as an error page that was saved under the name of a checkpoint; empty for other bytes."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)  # the last character may be cut
    except UnicodeDecodeError:
        return ""
    return text.strip().partition("\n")[0].rstrip() if all(c.isprintable() or c in "\t\r\n" for c in text) else ""


def _parse_json(raw: bytes, where: str) -> dict[str, Any]:
    try:
        header = parse_json(raw, "header", unique=True)
    except InputError as error:
        fault = str(error).removeprefix("header: ").removesuffix(f"; {ADVICE}")
        raise InputError(f"{where}: header {fault}; not a safetensors file, or a corrupt one") from None
    if not isinstance(header, dict):
        raise InputError(f"{where}: header is a JSON {type(header).__name__}, not an object; not a safetensors file")
    return header


def _entry(name: str, entry: Any, where: str) -> tuple[str, tuple[int, ...], int, int]:
    """Return (dtype code, shape, first byte, last byte + 1), or raise an InputError if the entry is invalid."""

    def refuse(fault: str) -> InputError:
        return InputError(f"{where}: tensor {printable(name)}: {fault}; the header is corrupt")

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise refuse("needs dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = OPAQUE_BITS.get(code) if isinstance(code, str) else None
    if bits is None and (not isinstance(code, str) or code not in DTYPES):
        raise refuse(f"unknown dtype {printable(code, 40)}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise refuse("shape and data_offsets must be lists of whole numbers")
    numel = math.prod(shape) if len(shape) <= MOST_AXES and all(size < MOST_ELEMENTS for size in shape) else MOST_ELEMENTS
    if numel >= MOST_ELEMENTS:
        raise refuse("its shape has more elements than any file holds")
    begin, stop = offsets
    needed = (numel * (bits or 8 * STORAGE[DTYPES[code]].itemsize) + 7) // 8
    if stop - begin != needed:
        raise refuse(f"{code} of shape {tuple(shape)} takes {needed} bytes, its offsets {begin}:{stop} hold {stop - begin}")
    return code, tuple(shape), begin, stop


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value)
