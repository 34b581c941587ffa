"""The two orders of the rows of query and key projections, which depend on how rotary embeddings pair the elements of a head."""

from __future__ import annotations

import math

import numpy as np

from dynamics.checkpoints.tensor import Tensor


def halves(tensor: Tensor, heads: int) -> Tensor:
    """Bring the rows of each head from interleaved order (llama.cpp, Meta, Mistral) to that of Hugging Face, where halves are paired.

    Heads are contiguous in both orders, so reading a range needs only the heads that it overlaps.
    """
    half = tensor.shape[0] // heads // 2
    head = 2 * half * math.prod(tensor.shape[1:])

    def read(start: int, stop: int, out: np.ndarray) -> np.ndarray:
        if start == stop:
            return out[:0]
        first, last = start // head, -(-stop // head)
        values = tensor.stored(first * head, last * head).reshape(last - first, half, 2, -1).swapaxes(1, 2)
        flat: np.ndarray = values.reshape(-1)
        return flat[start - first * head : stop - first * head]

    source = None if tensor.source is None else ("halves", heads, tensor.source)
    return Tensor(tensor.name, tensor.shape, tensor.dtype, read, source)
