"""Speed and memory of `dynamics.passk` and `dynamics.samples`, as ratios against named peers in the same run.

    python benchmarks/passk.py [--gib 1] [--rounds 5] [--folder DIR]

curves      pass@k at every k from 1 to n of 500 problems with 1,024 samples each, against the usual double loop over problems and k with
            the product of human-eval
reading     JSON lines of completions of 1 to 20 thousand characters, against the loop `json.loads(line)` that keeps two fields
short       the same with completions of 300 to 5,000 characters
bootstrap   10,000 replicates of 20,000 problems with 64 samples each, at all powers of two up to 64, against a bootstrap that draws the
            problems one by one with numpy; the same of problems whose values all differ; memory beside that before

Rounds alternate between the contestants, so that noise of the machine affects all of them; the ratio is that of the medians, and the best
ratio of a round is printed beside it. Memory is the peak resident set of a fresh process that reads the file.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from dynamics import samples
from dynamics.bootstrap import mean_interval
from dynamics.passk.estimators import curves

#: prints the peak resident set of a process in MiB; getrusage's is at least that of the process that started it
PEAK = """import sys
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
"""
READ = f"""{PEAK}
from dynamics import samples
samples.read([sys.argv[1]])
print(peak())"""


BOOTSTRAP = f"""{PEAK}
import numpy as np
from dynamics.bootstrap import mean_interval
values = np.load(sys.argv[1])
mean_interval(values[:10], replicates=100)
before = peak()
mean_interval(values)
print(peak() - before)"""


def double_loop(n: int, correct: list[int]) -> list[float]:
    """Compute pass@k for every k from 1 to n by the product of human-eval for each problem; valid for k <= n."""

    def estimate(c: int, k: int) -> float:
        if n - c < k:
            return 1.0
        return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))

    return [float(np.mean([estimate(c, k) for c in correct])) for k in range(1, n + 1)]


def json_loop(path: Path) -> int:
    right = 0
    with open(path, encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            right += record["passed"] and record["task_id"] != ""
    return right


def write_completions(path: Path, gib: float, shortest: int, longest: int) -> None:
    """Write completions taken from the source of the standard library, which have as many quotes and line breaks as real code."""
    source = "".join(file.read_text(errors="ignore") for file in sorted(Path(json.__file__).parent.parent.glob("*.py")))
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        index = 0
        while file.tell() < gib * 2**30:
            start, size = rng.randrange(len(source) - longest), rng.randrange(shortest, longest)
            record = {
                "task_id": f"t/{index % 500}",
                "completion": source[start : start + size],
                "result": "passed",
                "passed": index % 3 > 0,
            }
            file.write(json.dumps(record) + "\n")
            index += 1


def race(rounds: int, peer: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float, float, float]:
    """Return the medians of both, the ratio of the medians, and the best ratio of a round."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        pair = []
        for contestant in (peer, ours):
            start = time.perf_counter()
            contestant()
            pair.append(time.perf_counter() - start)
        times.append((pair[0], pair[1]))
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    return first, second, first / second, max(a / b for a, b in times)


def drawn_one_by_one(values: np.ndarray, replicates: int = 10_000) -> np.ndarray:
    """Compute the percentile interval of the plain bootstrap."""
    rng = np.random.default_rng(0)
    means = [values[rng.integers(0, len(values), len(values))].mean(axis=0) for _ in range(replicates)]
    return np.quantile(means, [0.025, 0.975], axis=0)


def peak_of(values: np.ndarray) -> float:
    """Measure by how many MiB an interval of these values raises the peak resident set of a fresh process."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, values)
        file.flush()
        found = subprocess.run([sys.executable, "-c", BOOTSTRAP, file.name], capture_output=True, text=True, check=True)
    return float(found.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    correct = rng.binomial(1024, rng.beta(0.3, 0.6, 500))
    n, ks = np.full(500, 1024), np.arange(1, 1025)
    ours = curves(n, correct, ks).mean(axis=0)
    assert np.allclose(ours, double_loop(1024, list(map(int, correct))), atol=1e-12)
    peer, mine, ratio, best = race(
        options.rounds, lambda: double_loop(1024, list(map(int, correct))), lambda: curves(n, correct, ks).mean(0)
    )
    print(f"curves     {1000 * mine:8.1f} ms, double loop {1000 * peer:8.1f} ms: {ratio:6.1f}x (best {best:.1f}x)")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, gib, shortest, longest in (("reading", options.gib, 1_000, 20_000), ("short", options.gib / 4, 300, 5_000)):
            path = Path(folder) / f"{name}_results.jsonl"
            write_completions(path, gib, shortest, longest)
            table = samples.read([path]).table
            assert int(table["correct"].sum()) == json_loop(path)
            peer, mine, ratio, best = race(options.rounds, partial(json_loop, path), partial(samples.read, [path]))
            peak = float(subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True).stdout)
            size = path.stat().st_size / 2**20
            print(
                f"{name:<10} {size / mine:8.0f} MiB/s, json {size / peer:8.0f} MiB/s: {ratio:6.1f}x (best {best:.1f}x), peak {peak:.0f} MiB"
            )
    many = rng.binomial(64, rng.beta(0.3, 0.6, 20_000))
    alike = curves(np.full(20_000, 64), many, 2 ** np.arange(7))
    for name, values in (("bootstrap", alike), ("different", rng.random(alike.shape))):
        peer, mine, ratio, best = race(options.rounds, partial(drawn_one_by_one, values), partial(mean_interval, values))
        print(f"{name:<10} {mine:8.2f} s, numpy {peer:8.2f} s: {ratio:6.1f}x (best {best:.1f}x), peak {peak_of(values):.0f} MiB")


if __name__ == "__main__":
    main()
