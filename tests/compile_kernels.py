"""Compile the numba kernels for the dtypes that most tests use into NUMBA_CACHE_DIR, once instead of in each process of a test run.

python tests/compile_kernels.py sparsity|others
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from dynamics import overlap
from dynamics.entropy import kernels as entropy_kernels
from dynamics.entropy.logits import from_logits
from dynamics.entropy.moments import bits_of
from dynamics.passk.estimators import curves, g_pass_at_k, maj_at_k, mg_pass_at_k, pass_at_k
from dynamics.sparsity.accumulate import accumulate_arrays
from dynamics.sparsity.definitions import Thresholds
from dynamics.sparsity.masks import changed
from dynamics.train.samplers import kernels as sampling_kernels


def sparsity() -> None:
    for dtype, array in stored().items():
        accumulate_arrays(array, dtype, array[::-1].copy(), dtype, Thresholds(bf16_atol=1e-5))
        accumulate_arrays(array, dtype, stored()["bfloat16"], "bfloat16")
        changed(array, dtype, array[::-1].copy(), dtype)


def others() -> None:
    for dtype in ("float32", "float64"):
        values = stored()[dtype]
        overlap.compare({"w": values}, [{"w": values * 2}, {"w": values * 3}])
        from_logits(values[None], targets=np.array([1]))
        one = np.ones(1)
        entropy_kernels.diverge(bits_of(values[None]), bits_of(values[None]), one, one, np.zeros(1), np.zeros(1))
    from_logits(torch.ones(1, 4, dtype=torch.bfloat16), targets=torch.tensor([1]))
    pass_at_k(8, 4, 2)
    curves([8], [4], [1, 2])
    g_pass_at_k(8, 4, 2, 0.5)
    mg_pass_at_k(8, 4, 2)
    maj_at_k("ab", [True, False], 1)
    sampling()


def sampling() -> None:
    states = {"float32": np.ones((1, 24), np.float32), "bfloat16": np.ones((1, 24), np.uint16)}
    table, one = np.ones((1, 8), np.float32), np.float32(1)
    for values in states.values():
        sampling_kernels.add_and_normalise(states["float32"].copy(), values, table.repeat(3, 1)[0], one, values.copy())
        sampling_kernels.gated(values[:, :16].copy(), values[:, :8].copy())
        cache = np.zeros((1, 1, 8, 8), values.dtype)
        rows = np.zeros(1, np.int64)
        for norms in (np.ones((2, 0), np.float32), np.ones((2, 8), np.float32)):
            settings = (norms, one, table, table, one)
            sampling_kernels.attend(0, 1, values, *settings, rows, rows, cache, cache, rows, 0, cache, cache, values[:, :8].copy())


def stored() -> dict[str, np.ndarray]:
    """Return the same values as stored in each dtype."""
    values = np.linspace(-1, 1, 64)
    bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return {"bfloat16": bits, "float16": values.astype(np.float16), "float32": values.astype(np.float32), "float64": values}


if __name__ == "__main__":
    {"sparsity": sparsity, "others": others}[sys.argv[1]]()
