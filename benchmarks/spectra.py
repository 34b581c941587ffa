"""Speed of `dynamics.spectra` and `dynamics.overlap`, as ratios against named peers in the same run.

    python benchmarks/spectra.py [--size 4096] [--model BASE --tuned TUNED] [--limit 14]

matrix      48 directions of a size x size matrix by `sketch`, and all quantities of it and its update except masks by `approximate`,
            against `torch.linalg.svdvals` of the matrix, which computes singular values only
model       `spectra.compare(method="approx")` against `method="full"` on the first matrices of the two checkpoints
overlap     `overlap.compare` of three files against two calls of `sparsity.compare`
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dynamics import overlap, sparsity, spectra
from dynamics.spectra.bounds import approximate
from dynamics.spectra.matrix import from_array
from dynamics.spectra.randomized_svd import sketch


def seconds(work: Callable[[], Any], rounds: int = 1) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def matrix(size: int) -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((size, size)) / size**0.5
    base += rng.standard_normal((size, 20)) @ rng.standard_normal((20, size)) / size**0.5
    update = 1e-3 * rng.standard_normal((size, 8)) @ rng.standard_normal((8, size)) + 1e-4 * rng.standard_normal((size, size))
    tuned, none = base + update, np.zeros(base.shape, bool)
    sides = from_array(base), from_array(tuned)
    quick = seconds(lambda: approximate(*sides, none, 32, base.size // 2, 0, None), 3)
    sketched = seconds(lambda: sketch(base, 48), 3)
    for dtype in (torch.float64, torch.float32):
        full = seconds(lambda kind=dtype: torch.linalg.svdvals(torch.from_numpy(base).to(kind)))  # type: ignore[misc]
        print(f"matrix {size}, {dtype}: svdvals {full:.1f} s; sketch {sketched:.2f} s: {full / sketched:.0f}x; ", end="")
        print(f"base, tuned and update with all quantities {quick:.2f} s: {full / quick:.0f}x", flush=True)


def model(base: str, tuned: str, limit: int | None) -> None:
    spectra.compare(base, tuned, limit=1, only="layers", method="approx")  # compiles
    spectra_by_method: dict[str, list[spectra.Spectrum]] = {}
    took: dict[str, float] = {}
    for method in ("approx", "full"):
        begin = time.perf_counter()
        spectra_by_method[method] = spectra.compare(base, tuned, limit=limit, only="layers", method=method)[0]
        took[method] = time.perf_counter() - begin
    outside = [
        (estimate.name, name)
        for estimate, whole in zip(spectra_by_method["approx"], spectra_by_method["full"], strict=True)
        for name, (low, high) in estimate.bounds.items()
        if not low - 1e-9 <= getattr(whole, name) <= high + 1e-9
    ]
    count = len(spectra_by_method["full"])
    print(f"model, {count} matrices: approx {took['approx']:.1f} s, full {took['full']:.1f} s: {took['full'] / took['approx']:.1f}x")
    print(f"quantities outside their bounds: {len(outside)} {outside[:3]}", flush=True)


def overlaps(base: str, tuned: str, other: str) -> None:
    both, two = [], []
    for _ in range(5):
        both.append(seconds(lambda: overlap.compare(base, [tuned, other])))
        two.append(seconds(lambda: [sparsity.compare(base, checkpoint) for checkpoint in (tuned, other)]))
    a, b = statistics.median(both), statistics.median(two)
    print(f"overlap of three files {a:.2f} s, two comparisons {b:.2f} s: {a / b:.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--model", help="base checkpoint")
    parser.add_argument("--tuned", nargs="+", default=[], help="one or two tuned checkpoints")
    parser.add_argument("--limit", type=int, default=14, help="matrices; 0 for all (default %(default)s)")
    options = parser.parse_args()
    matrix(options.size)
    if options.model:
        model(options.model, options.tuned[0], options.limit or None)
        if len(options.tuned) > 1:
            overlaps(options.model, *options.tuned[:2])


if __name__ == "__main__":
    main()
