"""Lazy tensors: name, shape and stored dtype, with values read on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints import parameter_names
from dynamics.checkpoints.files import File

if TYPE_CHECKING:  # importing jaxtyping takes longer than all other imports needed to read a checkpoint
    from jaxtyping import Float, Float32, Shaped, UInt16

#: dtype name -> numpy dtype of the stored bits. numpy has no bfloat16 or float8, so these are held as integers of the same width.
STORAGE: dict[str, np.dtype] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float8_e4m3fn": np.dtype("u1"),
    "float8_e5m2": np.dtype("u1"),
    "float8_e8m0fnu": np.dtype("u1"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint64": np.dtype("<u8"),
    "uint32": np.dtype("<u4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("u1"),
}

#: dtypes whose values are all representable in float32
FITS_FLOAT32 = frozenset([
    "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "int16", "int8", "uint16", "uint8", "bool",
])  # fmt: skip

#: those of one byte whose values bfloat16 represents exactly
FITS_BFLOAT16 = frozenset(["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "int8", "uint8", "bool"])

#: (first element, last element + 1, scratch array of the stored dtype) -> the elements, in the scratch array or another view
Reader = Callable[[int, int, np.ndarray], np.ndarray]


#: characters of a name
LONGEST_NAME = 1000
#: axes that numpy's arrays can have; elements that a file can hold
MOST_AXES, MOST_ELEMENTS = 32, 2**62


def naturals(values: Any, most: int = MOST_AXES) -> tuple[int, ...]:
    """Check the numbers of a shape, of an origin or of strides that a file states; a ValueError if they are none."""
    if not isinstance(values, (list, tuple)) or len(values) > most:
        raise ValueError("a shape or offset is not made of numbers, or of too many")
    if not all(type(value) is int and 0 <= value < MOST_ELEMENTS for value in values):
        raise ValueError("a shape or offset is not made of numbers that a file can have")
    return tuple(values)


def natural_shape(values: Any) -> tuple[int, ...]:
    """Check a shape that a file states; a ValueError if no file can hold so many elements."""
    shape = naturals(values)
    if math.prod(shape) >= MOST_ELEMENTS:
        raise ValueError(f"it claims the shape {shape}, which no file can hold")
    return shape


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint, read lazily and in row-major order.

    Attributes
    ----------
    name : as stored.
    shape : as stored.
    dtype : torch's name of the stored dtype (``"bfloat16"``, ``"float8_e4m3fn"``, ...).
    read : see ``Reader``; called from several threads at once.
    source : equal sources hold equal bytes (the same range of the same file, or the same memory); None if unknown.
    derived : how the elements follow from those of another tensor, if they do; ``read`` reads that one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Reader = field(repr=False, compare=False)
    source: Hashable | None = None
    derived: Derived | None = field(default=None, repr=False, compare=False)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def storage(self) -> np.dtype:
        """Numpy dtype of the array that ``read`` returns; see ``STORAGE``."""
        return STORAGE[self.dtype]

    def stored(self, start: int = 0, stop: int | None = None) -> Shaped[np.ndarray, " n"]:
        """Read elements ``start:stop`` of the flattened tensor as stored, ``(stop - start,)``; bfloat16 as uint16."""
        stop = self.numel if stop is None else stop
        return self.read(start, stop, np.empty(stop - start, self.storage))

    def beside(self, other: Tensor, stored: Shaped[np.ndarray, " n"], start: int) -> Shaped[np.ndarray, " n"] | None:
        """Return elements as ``stored`` would, without reading, from the same elements of another tensor; None if that is not possible.

        Parameters
        ----------
        other : the other tensor.
        stored : its elements from ``start`` on, ``(n,)``. They are returned themselves if this tensor holds the same bytes.
        """
        if other.source is None:
            return None
        if self.source == other.source:
            return stored
        of = self.derived
        return of.elements(start, stored) if of and (of.tensor.source, of.tensor.dtype) == (other.source, other.dtype) else None

    def values(self, start: int = 0, stop: int | None = None) -> Float[np.ndarray, " n"]:
        """Read elements ``start:stop`` of the flattened tensor, as float32 if that is exact, else as float64."""
        return decode(self.stored(start, stop), self.dtype)

    def rows(self, start: int, stop: int, name: str | None = None) -> Tensor:
        """Return rows ``start:stop`` of the first axis as a tensor."""
        width = math.prod(self.shape[1:])
        return self._range(start * width, stop * width, (stop - start, *self.shape[1:]), name)

    def item(self, index: int, name: str | None = None) -> Tensor:
        """Return entry ``index`` of the first axis as a tensor without that axis."""
        width = math.prod(self.shape[1:])
        return self._range(index * width, (index + 1) * width, self.shape[1:], name)

    def named(self, name: str) -> Tensor:
        """Return the same tensor with another name."""
        return replace(self, name=name)

    def _range(self, first: int, last: int, shape: tuple[int, ...], name: str | None) -> Tensor:
        whole, source = self.read, self.source
        if source is not None and (first, last) != (0, self.numel):
            source = ("range", source, first)
        return Tensor(
            self.name if name is None else name,
            shape,
            self.dtype,
            lambda start, stop, out: whole(first + start, first + stop, out),
            source,
        )


@dataclass(frozen=True)
class Derived:
    """How the elements of a tensor follow from those of another one with as many elements.

    Attributes
    ----------
    tensor : the other one.
    elements : (first element, elements of the other one as stored, ``(n,)``) -> the same elements of this one, in another array.
    """

    tensor: Tensor
    elements: Callable[[int, np.ndarray], np.ndarray]


def from_file(name: str, shape: tuple[int, ...], dtype: str, file: File, offset: int) -> Tensor:
    """Make a tensor that is stored contiguously in a file, starting at byte ``offset``."""
    width = STORAGE[dtype].itemsize

    def read(start: int, stop: int, out: np.ndarray) -> np.ndarray:
        out = out[: stop - start]
        file.read_into(offset + start * width, out)
        return out

    return Tensor(name, shape, dtype, read, (file.identity, offset, dtype))


def from_array(name: str, array: Shaped[np.ndarray, "*shape"], dtype: str | None = None, source: Hashable | None = None) -> Tensor:
    """Make a tensor from a numpy array; give ``dtype`` if the array holds the bits of a dtype that numpy lacks."""
    dtype = dtype or array.dtype.name
    flat = array.reshape(-1).view(STORAGE[dtype])
    return Tensor(name, array.shape, dtype, lambda start, stop, _out: flat[start:stop], source)


@dataclass(frozen=True)
class Ignored:
    """A file or an entry of a checkpoint that is not read as a weight.

    Attributes
    ----------
    name : name of the entry, or of the first of a group.
    reason : why it is not read.
    numel : number of parameters that are lost to a comparison; 0 if the entry holds none of the model's parameters.
    """

    name: str
    reason: str
    numel: int = 0


@dataclass(frozen=True)
class Skip:
    """A tensor excluded from a comparison.

    Attributes
    ----------
    name : name of the tensor.
    where : the checkpoint it belongs to: ``base``, ``tuned`` or ``both``.
    reason : why it is excluded.
    numel : number of parameters excluded; 0 if they are compared under another name, or are not parameters (a buffer).
    by_design : the other checkpoint does not have the tensor by design (a value head, extra vocabulary rows), or the measure has no use
        for it (a vector, for a decomposition of matrices). Other exclusions reduce the coverage.
    """

    name: str
    where: str
    reason: str
    numel: int = 0
    by_design: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """The named tensors of one checkpoint.

    Attributes
    ----------
    path : as given by the caller.
    format : ``safetensors``, ``huggingface``, ``torch``, ``dcp``, ``fsdp-shards``, ``deepspeed``, ``deepspeed-zero1`` (2, 3),
        ``deepspeed-universal``, ``megatron``, ``consolidated``, ``gguf``, ``npy``, ``npz``, ``peft-lora`` or ``memory``.
    tensors : name -> tensor, in the order of the file.
    config : the model's ``config.json``, or None.
    ignored : files and entries that are not weights of this model, or cannot be read as weights.
    adapter : for ``peft-lora``, the adapter to apply to a base; such a checkpoint has no tensors of its own.
    dequantised : number of weights that are dequantised when they are read, by the format they are stored in.
    base_name : of an adapter that was applied to a base, the model that it says it was trained on; empty if it does not say.
    stored : the checkpoint before weights were dequantised, adapters merged, and codes and buffers left out; of an adapter, its own
        tensors. None if that is the checkpoint itself.
    """

    path: str
    format: str
    tensors: dict[str, Tensor] = field(repr=False)
    config: dict[str, Any] | None = field(default=None, repr=False)
    ignored: tuple[Ignored, ...] = ()
    adapter: Any = field(default=None, repr=False)
    dequantised: dict[str, int] = field(default_factory=dict)
    base_name: str = ""
    stored: Checkpoint | None = field(default=None, repr=False, compare=False)

    @property
    def ties_head(self) -> bool:
        """Whether the output head shares the input embedding: the config says so, or a causal model stores no head."""
        config = self.config or {}
        text = config.get("text_config")
        says = config.get("tie_word_embeddings", text.get("tie_word_embeddings") if isinstance(text, dict) else None)
        if says is not None:
            return says is True
        architectures = config.get("architectures")
        names = architectures if isinstance(architectures, list) else ()
        causal = any(str(name).endswith(("LMHeadModel", "ForCausalLM")) for name in names)
        return causal and not any(parameter_names.kind(name) == "head" for name in self.tensors)

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of elements by dtype as stored; of a quantised weight, by the dtype it is dequantised to."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel
        return counts


def decode(stored: Shaped[np.ndarray, "*shape"], dtype: str) -> Float[np.ndarray, "*shape"]:
    """Convert stored bits to float32 if it represents all values of the dtype, else to float64 (64-bit integers above 2**53 round)."""
    if dtype == "float32":
        return stored
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if dtype.startswith("float8"):
        return float8_values(dtype)[stored]
    return stored.astype(np.float32 if dtype in FITS_FLOAT32 else np.float64, copy=False)


@lru_cache(maxsize=None)
def bfloat16_bits(dtype: str) -> UInt16[np.ndarray, 256]:
    """Tabulate the bits in bfloat16 of all values of a dtype of ``FITS_BFLOAT16``, indexed by its bytes."""
    values = decode(np.arange(256, dtype=np.uint8).view(STORAGE[dtype]), dtype).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


@lru_cache(maxsize=None)
def float8_values(dtype: str) -> Float32[np.ndarray, 256]:
    """Tabulate all 256 values of an OCP 8-bit float, as float32, indexed by their bits."""
    bits = np.arange(256)
    if dtype == "float8_e8m0fnu":  # powers of two, without a sign or zero
        return np.where(bits < 255, np.ldexp(1.0, bits - 127), np.nan).astype(np.float32)
    exponent_bits, mantissa_bits = {"float8_e4m3fn": (4, 3), "float8_e5m2": (5, 2)}[dtype]
    mantissa = bits & (2**mantissa_bits - 1)
    exponent = (bits >> mantissa_bits) & (2**exponent_bits - 1)
    bias = 2 ** (exponent_bits - 1) - 1
    magnitude = np.where(
        exponent == 0,
        np.ldexp(mantissa.astype(float), 1 - bias - mantissa_bits),
        np.ldexp(1 + mantissa / 2**mantissa_bits, exponent - bias),
    )
    if dtype == "float8_e4m3fn":  # no infinities; only the pattern of all ones is NaN
        magnitude[(bits & 0x7F) == 0x7F] = np.nan
    else:
        magnitude[(exponent == 31) & (mantissa == 0)] = np.inf
        magnitude[(exponent == 31) & (mantissa != 0)] = np.nan
    return np.where(bits & 0x80, -magnitude, magnitude).astype(np.float32)
