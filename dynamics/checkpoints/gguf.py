"""GGUF files; quantized tensors are dequantized to float32.

The header is not parsed by ``gguf.GGUFReader``, which maps the file, takes seconds for a large vocabulary and does not
terminate on a damaged length. Block sizes and dequantization come from the ``gguf`` package.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints.archives import FileRange
from dynamics.checkpoints.files import File
from dynamics.checkpoints.pickled import grouped
from dynamics.checkpoints.rotary import halves
from dynamics.checkpoints.tensor import MOST_ELEMENTS, Checkpoint, Ignored, Tensor, from_file
from dynamics.errors import InputError, printable
from dynamics.extras import optional_import
from dynamics.io.locations import Location

#: GGUF types that are plain numbers, not blocks
PLAIN = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip
#: type codes of metadata values: scalars with their ``struct`` letter, then strings and arrays
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ATTENTION = {f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"} | {"attn_output": "self_attn.o_proj"}
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
FEED_FORWARD = {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
GATED = ATTENTION | NORMS | FEED_FORWARD
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
POST_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
#: ``*`` is the number of the expert, the first axis in GGUF
EXPERTS = {f"ffn_{part}_exps": f"mlp.experts.*.{part}_proj" for part in ("gate", "up", "down")} | {"ffn_gate_inp": "mlp.gate"}
SHARED_EXPERT = {f"ffn_{part}_shexp": f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")}
MIXTRAL = {"ffn_gate_inp": "block_sparse_moe.gate"} | {
    f"ffn_{part}_exps": f"block_sparse_moe.experts.*.{name}" for part, name in {"gate": "w1", "down": "w2", "up": "w3"}.items()
}
GEMMA2 = ATTENTION | FEED_FORWARD | POST_NORMS | {"attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm"}
#: Architectures whose tensors equal those of Hugging Face under other names, apart from ``PERMUTED`` and ``SHIFTED``. For other
#: architectures the conversion changes values, so their tensors keep the GGUF names.
BLOCKS = {
    "llama": GATED | MIXTRAL,
    "granite": GATED,
    "qwen2": GATED,
    "qwen2moe": ATTENTION | NORMS | EXPERTS | SHARED_EXPERT | {"ffn_gate_inp_shexp": "mlp.shared_expert_gate"},
    "qwen3": GATED | HEAD_NORMS,
    "qwen3moe": ATTENTION | NORMS | HEAD_NORMS | EXPERTS,
    "gemma": GATED,
    "gemma2": GEMMA2,
    "gemma3": GEMMA2 | HEAD_NORMS,
    "olmo2": ATTENTION | FEED_FORWARD | POST_NORMS | HEAD_NORMS,
    "olmoe": ATTENTION | NORMS | HEAD_NORMS | EXPERTS,
    "phi3": NORMS
    | {
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    },
    "starcoder2": ATTENTION | NORMS | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
}
#: architectures in which llama.cpp stores the rows of q and k in another order, see ``rotary.halves``
PERMUTED = ("llama", "granite")
#: architectures in which llama.cpp adds 1 to the weights of norms
SHIFTED = ("gemma", "gemma2", "gemma3")
#: bytes of metadata and of the list of tensors; numbers of tensors, of fields, of values in fields, and of experts
LARGEST_HEADER, MOST_TENSORS, MOST_FIELDS, MOST_VALUES, MOST_EXPERTS = 100_000_000, 1_000_000, 100_000, 4_000_000, 65_536
#: name of a part of a checkpoint that llama-gguf-split wrote
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
ROTARY = re.compile(r"(.*\.)?(rope_freqs|rope_factors_long|rope_factors_short|attn_rot_embd)\.weight$")


if TYPE_CHECKING:
    Stream = io.BufferedReader[FileRange]


@dataclass(frozen=True)
class Entry:
    """One tensor of the header.

    Attributes
    ----------
    name, shape : as stored; slowest axis first.
    kind : GGUF's name of the type.
    offset : first byte in the file.
    block, width : elements and bytes per block.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    block: int
    width: int


def read_gguf(path: Location) -> Checkpoint:
    """Read a ``.gguf`` file, with its other parts if it is split; ``config["gguf_types"]`` counts the elements of each type as stored."""
    with optional_import(f"{printable(path)}: reading GGUF"):
        import gguf
    parts = [_open(part, gguf) for part in split_parts(path)]
    fields = parts[0][1]
    if (kind := fields.get("general.type", "model")) not in ("model", "mmproj"):
        raise InputError(f"{printable(path)}: is a GGUF file of type {printable(kind)}, not a model")
    _check_parts(path, parts)
    layout = _Layout.of(fields)
    tensors: dict[str, Tensor] = {}
    ignored: list[Ignored] = []
    kinds: Counter[str] = Counter()
    for file, _, entries in parts:
        for entry in entries:
            if ROTARY.match(entry.name):
                ignored.append(Ignored(entry.name, "a table of rotary frequencies, not a weight"))
                continue
            tensor = _tensor(file, entry, gguf)
            if tensor is None:
                reason = f"its type {entry.kind} cannot be dequantized by gguf; a newer version may"
                ignored.append(Ignored(entry.name, reason, math.prod(entry.shape)))
                continue
            for converted in layout.convert(f"{printable(file.path)}: ", tensor):
                if converted.name in tensors:
                    raise InputError(f"{printable(file.path)}: holds two tensors named {printable(entry.name)}")
                tensors[converted.name] = converted
            kinds[entry.kind] += tensor.numel
    tied = not any(entry.name == "output.weight" for _, _, entries in parts for entry in entries)
    return Checkpoint(str(path), "gguf", tensors, {"tie_word_embeddings": tied, "gguf_types": dict(kinds)}, grouped(ignored))


def split_parts(path: Location) -> list[Location]:
    """Return the paths of all parts of a split checkpoint, of which ``path`` is one; of other files, ``path`` alone."""
    match = PART.fullmatch(path.name)
    if not match:
        return [path]
    stem, number, count = match.groups()
    if not 1 <= int(number) <= int(count):
        raise InputError(f"{printable(path)}: is part {int(number)} of {int(count)} by its name")
    return [path.parent / f"{stem}-{part:05d}-of-{count}.gguf" for part in range(1, int(count) + 1)]


def _open(path: Location, gguf: Any) -> tuple[File, dict[str, Any], list[Entry]]:
    where = printable(path)
    if not path.exists():
        raise InputError(f"{where}: is missing, a part of a split checkpoint; fetch it")
    file = File(path)
    try:
        return file, *_header(file, where, gguf)
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise InputError(f"{where}: is cut short or damaged in its header ({printable(error)}); fetch it again") from None


def _check_parts(path: Location, parts: list[tuple[File, dict[str, Any], list[Entry]]]) -> None:
    """Check what the parts say about the split."""
    for number, (file, fields, _) in enumerate(parts):
        count = fields.get("split.count", 0)
        if count not in (0, 1) and len(parts) == 1 and not PART.fullmatch(path.name):
            raise InputError(
                f"{printable(path)}: is one of {printable(count)} parts; name them as llama-gguf-split does, NAME-00001-of-0000N.gguf"
            )
        if len(parts) > 1 and (count, fields.get("split.no")) != (len(parts), number):
            said = f"part {printable(fields.get('split.no'))} of {printable(count)}, counted from 0"
            raise InputError(f"{printable(file.path)}: says that it is {said}; its name says otherwise")
    total, found = parts[0][1].get("split.tensors.count"), sum(len(entries) for _, _, entries in parts)
    if len(parts) > 1 and total != found:
        raise InputError(
            f"{printable(path)}: its parts hold {found} tensors, the first says {printable(total)}; they are not of one checkpoint"
        )


@dataclass(frozen=True)
class _Layout:
    """How the tensors of an architecture are stored.

    Attributes
    ----------
    names : GGUF's name of a module in a block -> name in Hugging Face's; empty if GGUF's names are kept.
    heads : module with permuted rows -> number of heads.
    shifted : whether 1 is added to the weights of norms.
    """

    names: Mapping[str, str]
    heads: Mapping[str, int]
    shifted: bool

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> _Layout:
        """Derive the layout from the metadata."""
        kind = fields.get("general.architecture")
        if not isinstance(kind, str) or kind not in BLOCKS:
            return cls({}, {}, False)
        if kind not in PERMUTED:
            return cls(BLOCKS[kind], {}, kind in SHIFTED)
        query = fields.get(f"{kind}.attention.head_count")
        key = fields.get(f"{kind}.attention.head_count_kv", query)
        if type(query) is not int or type(key) is not int or query < 1 or key < 1:
            return cls({}, {}, False)  # without the number of heads, q and k cannot be unpermuted, so Hugging Face names would be wrong
        return cls(BLOCKS[kind], {"attn_q": query, "attn_k": key}, False)

    def convert(self, where: str, tensor: Tensor) -> Iterator[Tensor]:
        """Convert a tensor to the tensors of Hugging Face; stacked experts to one for each expert."""
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)(?:\.(\d+))?\.(weight|bias)", tensor.name)
        block, part, expert, suffix = match.groups() if match else ("", "", "", "")
        if expert:  # one file entry for each expert, as llama.cpp stored Mixtral at first
            part += "_exps"
        theirs = (TOP if block is None else self.names).get(part) if self.names else None
        if theirs is None:
            yield tensor
            return
        if part in self.heads:
            if not tensor.shape or tensor.shape[0] % (2 * self.heads[part]):
                raise InputError(f"{where}{printable(tensor.name)} {tensor.shape} does not split into {self.heads[part]} heads")
            tensor = halves(tensor, self.heads[part])
        if self.shifted and part.endswith("_norm"):
            tensor = _minus_one(tensor)
        if part == "ffn_gate_inp_shexp" and len(tensor.shape) == 1:  # llama.cpp drops axes of length 1
            tensor = replace(tensor, shape=(1, *tensor.shape))
        name = f"{theirs}.{suffix}" if block is None else f"model.layers.{block}.{theirs}.{suffix}"
        if "*" not in theirs or expert:
            yield tensor.named(name.replace("*", expert or "*"))
        elif len(tensor.shape) < 2 or not tensor.numel or tensor.shape[0] > MOST_EXPERTS:
            raise InputError(f"{where}{printable(tensor.name)} {tensor.shape} is no stack of experts; the file is damaged")
        else:
            yield from (tensor.item(index, name.replace("*", str(index))) for index in range(tensor.shape[0]))


def _header(file: File, where: str, gguf: Any) -> tuple[dict[str, Any], list[Entry]]:
    """Read metadata (scalars, strings, short arrays of numbers) and tensor entries, and check them against the file size."""
    limit = min(file.size, LARGEST_HEADER)
    stream = io.BufferedReader(FileRange(file, 0, limit), 1 << 16)
    if stream.read(4) != b"GGUF":
        raise InputError(f"{where}: is not a GGUF file (it does not start with GGUF)")
    (version,) = _unpack(stream, "I")
    if version not in (2, 3):
        kind = "big-endian" if version & 0xFFFF == 0 else f"of version {version}"
        raise InputError(f"{where}: is a GGUF file {kind}; little-endian version 2 or 3 is read: convert it again")
    count, fields_count = _unpack(stream, "QQ")
    if 24 * count + 13 * fields_count > file.size or count > MOST_TENSORS or fields_count > MOST_FIELDS:
        raise InputError(f"{where}: claims {count} tensors and {fields_count} fields in {file.size} bytes; fetch it again")
    fields = _fields(stream, fields_count, limit, where)
    entry_of: dict[str, Entry] = {}
    for _ in range(count):
        name = _string(stream, limit)
        if name in entry_of:
            raise InputError(f"{where}: holds two tensors named {printable(name)}")
        entry_of[name] = _entry(stream, name, where, gguf)
    align = fields.get("general.alignment", 32)
    if type(align) is not int or align < 1 or align & (align - 1):
        raise InputError(f"{where}: its alignment {printable(align)} is not a power of two; the file is damaged")
    start = -(-stream.tell() // align) * align
    entries = []
    room = file.size - start
    for entry in entry_of.values():
        size = math.prod(entry.shape) // entry.block * entry.width
        end = start + entry.offset + size
        if end > file.size or max(entry.shape, default=0) >= MOST_ELEMENTS:
            raise InputError(f"{where}: {printable(entry.name)} reaches to byte {end}, the file has {file.size}; fetch it again")
        room -= size
        if room < 0:
            raise InputError(f"{where}: {printable(entry.name)} overlaps another tensor; the file is damaged")
        entries.append(Entry(entry.name, entry.shape, entry.kind, start + entry.offset, entry.block, entry.width))
    return fields, entries


def _fields(stream: Stream, count: int, limit: int, where: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for _ in range(count):
        key = _string(stream, limit)
        if key in fields:
            raise InputError(f"{where}: holds the field {printable(key)} twice; the file is damaged")
        fields[key] = _value(stream, _unpack(stream, "I")[0], limit, where)
    return fields


def _entry(stream: Stream, name: str, where: str, gguf: Any) -> Entry:
    (axes,) = _unpack(stream, "I")
    if axes > 8:
        raise InputError(f"{where}: {printable(name)} claims {axes} axes; the file is damaged")
    *sizes, code, offset = _unpack(stream, f"{axes}QIQ")
    shape = tuple(reversed(sizes))  # GGUF names the fastest axis first
    try:
        kind = gguf.GGMLQuantizationType(code)
        block, width = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise InputError(f"{where}: {printable(name)} is of type {code}, unknown to this version of gguf; upgrade gguf") from None
    if (shape[-1] if shape else 1) % block:
        raise InputError(f"{where}: {printable(name)} {shape} is no whole number of {kind.name} blocks of {block}; the file is damaged")
    return Entry(name, shape, kind.name, offset, block, width)


def _value(stream: Stream, code: int, limit: int, where: str, depth: int = 0) -> Any:
    if code in SCALARS:
        return _unpack(stream, SCALARS[code])[0]
    if code == STRING:
        return _string(stream, limit)
    if code != ARRAY or depth > 4:
        raise InputError(f"{where}: has a metadata value of unknown type {code}; the file is damaged")
    inner, count = _unpack(stream, "IQ")
    if count * (struct.calcsize(SCALARS[inner]) if inner in SCALARS else 8) > limit or (inner not in SCALARS and count > MOST_VALUES):
        raise InputError(f"{where}: has an array of {count} values in a file of {limit} bytes; fetch it again")
    if inner in SCALARS and count > 4096:  # token scores and types
        _skip(stream, count * struct.calcsize(SCALARS[inner]), limit)
        return None
    if inner in SCALARS:
        return list(_unpack(stream, f"{count}{SCALARS[inner]}"))
    for _ in range(count):
        if inner == STRING:  # the vocabulary
            _skip(stream, _unpack(stream, "Q")[0], limit)
        else:
            _value(stream, inner, limit, where, depth + 1)
    return None


def _unpack(stream: Stream, letters: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{letters}", stream.read(struct.calcsize(f"<{letters}")))


def _string(stream: Stream, limit: int) -> str:
    (size,) = _unpack(stream, "Q")
    if size > limit:
        raise OverflowError(f"a text of {size} bytes")
    return stream.read(size).decode()


def _skip(stream: Stream, size: int, limit: int) -> None:
    if stream.tell() + size > limit:
        raise OverflowError(f"a value of {size} bytes")
    stream.seek(size, io.SEEK_CUR)


def _tensor(file: File, entry: Entry, gguf: Any) -> Tensor | None:
    """Make a lazy tensor; None if gguf cannot dequantize its type."""
    if entry.kind in PLAIN:
        return from_file(entry.name, entry.shape, PLAIN[entry.kind], file, entry.offset)
    kind = gguf.GGMLQuantizationType[entry.kind]
    block, width = entry.block, entry.width
    try:
        gguf.quants.dequantize(np.zeros((1, width), np.uint8), kind)
    except NotImplementedError:
        return None

    def read(start: int, stop: int, out: np.ndarray) -> np.ndarray:
        if start == stop:
            return out[:0]
        # blocks run along the last axis and fill it, so they tile the flat tensor
        first, last = start // block, -(-stop // block)
        data = np.empty((1, (last - first) * width), np.uint8)  # one row, because gguf processes rows in groups of 16, even short ones
        file.read_into(entry.offset + first * width, data)
        # a damaged scale gives infinite or NaN values, which the measures count; a warning is not needed
        with np.errstate(all="ignore"):
            values: np.ndarray = gguf.quants.dequantize(data, kind).reshape(-1)
        return values[start - first * block : stop - first * block]

    return Tensor(entry.name, entry.shape, "float32", read, (file.identity, entry.offset, entry.kind))


def _minus_one(tensor: Tensor) -> Tensor:
    """Subtract 1 from the weights of a norm. This gives the original bits unless the weight is so small that adding 1 rounded it."""
    source = None if tensor.source is None else ("minus one", tensor.source)
    read = tensor.values
    return Tensor(
        tensor.name, tensor.shape, "float32", lambda start, stop, _out: read(start, stop).astype(np.float32) - np.float32(1), source
    )
