"""How the kernels of this package are compiled: by numba, on first use, into its cache."""

from __future__ import annotations

from typing import Any

import numba
from numba.core import types
from numba.extending import intrinsic

# Sums may be reordered, which lets them vectorise.
REORDER = {"reassoc", "contract", "nsz"}


def compiled(function: Any) -> Any:
    """Compile a function on first use, without the GIL and with sums that may be reordered."""
    return numba.njit(nogil=True, cache=True, fastmath=REORDER, error_model="numpy")(function)


def compiled_in_order(function: Any) -> Any:
    """Compile a function as ``compiled`` does, but keep the order of its sums: for code that rounds by adding and subtracting."""
    return numba.njit(nogil=True, cache=True, fastmath=REORDER - {"reassoc"}, error_model="numpy")(function)


def _wide_vectors(_context: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), generate


#: lets LLVM use vectors of 512 bits in the function that calls this, where there are any; alone it prefers half as wide ones
wide_vectors: Any = intrinsic(_wide_vectors)
