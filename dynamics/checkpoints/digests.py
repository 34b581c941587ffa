"""What weights are, as one line of text: a digest of names, shapes, dtypes and stored bits.

It does not depend on the files that the tensors lie in, nor on their order. A tensor is hashed in leaves, so that several threads can share
it, and no thread needs bytes that another one has read::

    leaf    = sha256 of LEAF bytes of the tensor, in row-major order and little-endian; the last leaf is shorter
    tensor  = sha256 of the digests of its leaves, one after the other
    weights = sha256 of the JSON text [[name, dtype, [sizes], tensor as hexadecimal text], ...], sorted by name, without spaces, in ASCII
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from dynamics.checkpoints.tensor import Checkpoint, Tensor
from dynamics.errors import InputError, printable
from dynamics.io.threads import Progress, cores, in_order

if TYPE_CHECKING:  # importing jaxtyping takes longer than all other imports needed to read a checkpoint
    from jaxtyping import Shaped

#: name and version of the definition, which a digest begins with
SCHEME = "weights/1"
#: bytes of a leaf
LEAF = 1 << 18
#: bytes that are read at a time where a tensor is read for its digest alone
CHUNK = 8 * LEAF


def leaves(stored: Shaped[np.ndarray, " n"]) -> bytes:
    """Hash elements of a tensor, ``(n,)`` as stored, that begin at a multiple of ``LEAF`` bytes; return the digests one after the other."""
    data = np.ascontiguousarray(stored).view(np.uint8).data
    return b"".join(hashlib.sha256(data[start : start + LEAF]).digest() for start in range(0, len(data), LEAF))


def key(tensor: Tensor) -> Hashable:
    """Return what tensors of the same stored bytes have in common, wherever they are used; of an unknown source, the tensor's address."""
    return id(tensor) if tensor.source is None else (tensor.source, tensor.dtype, tensor.numel)


def digest_of(tensors: Mapping[str, Tensor], hashed: Mapping[str, str]) -> str:
    """Return the digest of weights, given that of the bytes of each tensor, by name."""
    entries = [[name, tensor.dtype, list(tensor.shape), hashed[name]] for name, tensor in sorted(tensors.items())]
    return f"{SCHEME}:{hashlib.sha256(json.dumps(entries, separators=(',', ':')).encode()).hexdigest()}"


def as_stored(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Return the tensors that a digest is of, as they are stored; an ``InputError`` for a checkpoint that an adapter was applied to."""
    tensors = (checkpoint.stored or checkpoint).tensors
    if any(tensor.derived is not None for tensor in tensors.values()):
        raise InputError(f"{printable(checkpoint.path)}: was applied to a base, and has no digest; take that of the adapter")
    return tensors


def hash_tensors(tensors: Iterable[Tensor], threads: int | None = None, progress: Progress | None = None) -> list[str]:
    """Read tensors, and return the digest of the bytes of each, in order; a thread holds ``CHUNK`` bytes."""
    every = list(tensors)
    running = [hashlib.sha256() for _ in every]
    done, weights = 0, sum(tensor.numel for tensor in every)
    threads = threads or cores()

    def spans() -> Iterator[tuple[tuple[int, int], Tensor, int, int]]:
        for index, tensor in enumerate(every):
            length = CHUNK // tensor.storage.itemsize
            for start in range(0, tensor.numel, length):
                stop = min(start + length, tensor.numel)
                yield (index, stop - start), tensor, start, stop

    def hash_span(span: tuple[tuple[int, int], Tensor, int, int]) -> bytes:
        _, tensor, start, stop = span
        return leaves(tensor.stored(start, stop))

    with ThreadPoolExecutor(threads) as pool:
        for (index, count), found in in_order(pool, hash_span, spans(), ahead=4 * threads):
            running[index].update(found)
            done += count
            if progress:
                progress(done, weights)
    return [tensor_digest.hexdigest() for tensor_digest in running]


class Digester:
    """Computes digests of checkpoints while their tensors are read for something else, and reads what is left afterwards.

    Parameters
    ----------
    checkpoints : whose digests are wanted, adapters not applied to a base.
    read : tensors whose elements will all be added, in order. Those that are not whole tensors of the checkpoints are of no use.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint], read: Iterable[Tensor]):
        self._hashed: dict[Hashable, str] = {}
        wanted = {key(tensor): tensor for checkpoint in checkpoints for tensor in as_stored(checkpoint).values()}
        passing = {key(tensor) for tensor in read} & wanted.keys()
        # an empty tensor has no element to add
        self._running = {name: (hashlib.sha256(), wanted[name].numel, 0) for name in passing if wanted[name].numel}
        self._rest = {name: tensor for name, tensor in wanted.items() if name not in self._running}
        #: number of weights that are read for their digests alone
        self.left = sum(tensor.numel for tensor in self._rest.values())

    def leaves(self, tensors: Sequence[Tensor], stored: Sequence[Shaped[np.ndarray, " n"]]) -> list[tuple[Tensor, bytes]]:
        """Hash the same range of elements of tensors, ``(n,)`` each as stored, on any thread; return what ``add`` takes, of what is new."""
        found: dict[Hashable, tuple[Tensor, bytes]] = {}
        for tensor, elements in zip(tensors, stored, strict=True):
            if (name := key(tensor)) not in found and name in self._running:
                found[name] = tensor, leaves(elements)
        return list(found.values())

    def add(self, tensor: Tensor, stop: int, found: bytes) -> None:
        """Add ``leaves`` of elements up to ``stop``, which follow those that were added, on one thread; what was added already is left."""
        name = key(tensor)
        if name in self._running:
            running, numel, done = self._running[name]
            if stop <= done:
                return
            running.update(found)
            self._running[name] = running, numel, stop
            if stop == numel:
                self._hashed[name] = running.hexdigest()
                del self._running[name]

    def finish(self, threads: int | None = None, progress: Progress | None = None) -> None:
        """Read what is left."""
        self._hashed.update(zip(self._rest, hash_tensors(self._rest.values(), threads, progress), strict=True))

    def digest(self, checkpoint: Checkpoint) -> str:
        """Return the digest of a checkpoint after ``finish``."""
        tensors = as_stored(checkpoint)
        return digest_of(tensors, {name: self._hashed[key(tensor)] for name, tensor in tensors.items()})
