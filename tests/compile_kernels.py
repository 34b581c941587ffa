"""Compile what numba compiles, for the dtypes that most tests use, into NUMBA_CACHE_DIR: once, not in each process of a test run."""

from __future__ import annotations

import numpy as np

from dynamics import overlap
from dynamics.entropy import kernels as entropy_kernels
from dynamics.entropy.logits import from_logits
from dynamics.passk.estimators import curves, g_pass_at_k, maj_at_k, mg_pass_at_k, pass_at_k
from dynamics.sparsity import kernels
from dynamics.sparsity.accumulate import accumulate_arrays


def main() -> None:
    values = np.linspace(-1, 1, 64)
    bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    stored = {"bfloat16": bits, "float16": values.astype(np.float16), "float32": values.astype(np.float32), "float64": values}
    for dtype, array in stored.items():
        accumulate_arrays(array, dtype, array[::-1].copy(), dtype)
        accumulate_arrays(array, dtype, bits, "bfloat16")
    kernels.round_to_bfloat16(values.astype(np.float32), bits.copy())
    base = {"w": stored["float32"]}
    overlap.compare(base, [{"w": base["w"] * 2}, {"w": base["w"] * 3}])
    for logits in (values[None], values[None].astype(np.float32)):
        from_logits(logits, targets=np.array([1]))
    one = np.ones(1)
    entropy_kernels.diverge(logits, logits, one, one, np.zeros(1), np.zeros(1))
    pass_at_k(8, 4, 2)
    curves([8], [4], [1, 2])
    g_pass_at_k(8, 4, 2, 0.5)
    mg_pass_at_k(8, 4, 2)
    maj_at_k("ab", [True, False], 1)


if __name__ == "__main__":
    main()
