"""A matrix as a checkpoint stores it, widened only while it is used: float64 takes two to eight times as much memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Shaped
from numpy.typing import ArrayLike

from dynamics.checkpoints.tensor import STORAGE, decode


@dataclass(frozen=True)
class Matrix:
    """A matrix (m, n).

    Attributes
    ----------
    stored : ``(m * n,)`` in row-major order, as stored (see ``checkpoints.tensor.STORAGE``).
    dtype : stored dtype, by its name in torch.
    shape : (m, n).
    """

    stored: Shaped[np.ndarray, " size"]
    dtype: str
    shape: tuple[int, int]

    @property
    def values(self) -> Shaped[np.ndarray, "m n"]:
        """All values in float32 if that is exact, else in float64."""
        return np.asarray(decode(self.stored, self.dtype).reshape(self.shape))

    @property
    def wide(self) -> Float64[np.ndarray, "m n"]:
        """All values in float64."""
        return np.asarray(self.values, np.float64)

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return bool(np.isfinite(self.values).all())


def from_array(array: ArrayLike) -> Matrix:
    """Make a matrix from an array with two axes; a ValueError if it has another number of them."""
    values = np.ascontiguousarray(array)
    if values.dtype.name not in STORAGE or not values.dtype.isnative:
        values = values.astype(np.float64)
    if values.ndim != 2 or np.ndim(array) != 2:
        raise ValueError(f"an array of shape {np.shape(array)} is no matrix")
    return Matrix(values.reshape(-1).view(STORAGE[values.dtype.name]), values.dtype.name, (values.shape[0], values.shape[1]))


def difference(before: Matrix, after: Matrix) -> Float64[np.ndarray, "m n"]:
    """Return ``after - before``, in float64."""
    update = np.array(after.wide, copy=after.dtype == "float64")
    update -= before.values
    return update
