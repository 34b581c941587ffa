"""What a step of PopuLoRA costs beside one of self-play, at equal samples, by CPU time; both in turn, on the base of the laboratory.

    python benchmarks/populora.py                          # two rounds of 10 steps of each
    python benchmarks/populora.py --steps 30 --rounds 3 --sizes 1 2 4

Each round is a run in a process of its own: `selfplay` with its preset `lab`, and `populora` with as many teachers as students, for each of
--sizes. Both sample 144 completions a step. The CPU time of the first step is left out, as it seeds the buffer. The time of a step is that
of all threads of the process, medians over steps, then over rounds. Shares are of the wall time of the same steps: measuring the weights,
which is done for every player, is not in a step and is given beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def measure(method: str, size: int, steps: int, out: Path) -> dict[str, Any]:
    """Train a few steps; return CPU and wall seconds of the median step, and completions and tokens of all."""
    from dynamics.train import loop
    from dynamics.train.settings import METHODS, preset_values

    values = preset_values(method, "lab", "lab") | {"model": "lab", "steps": steps, "threads": 1, "eval_problems": 0, "probe_every": 0}
    values |= {"curriculum_samples": 0, "save_every": 10 * steps, "record_every": 10 * steps}
    if method == "populora":
        values |= {"teachers": size, "students": size}
    instants = [(time.process_time(), time.perf_counter())]
    rows: list[dict[str, Any]] = []

    def note(_: int, metrics: dict[str, Any]) -> None:
        instants.append((time.process_time(), time.perf_counter()))
        rows.append(metrics)

    loop.run(method, METHODS[method](**values), out, on_step=note)
    later = itertools.pairwise(instants[1:])  # without the first step and its seeding
    differences = [(after[0] - before[0], after[1] - before[1]) for before, after in later]
    return {
        "cpu": statistics.median(cpu for cpu, _ in differences),
        "wall": statistics.median(wall for _, wall in differences),
        "sampling": statistics.median(row["time/feed"] for row in rows[1:]),
        "completions": sum(row["completions_trained"] for row in rows[1:]) / (len(rows) - 1),
        "tokens": sum(row["tokens_sampled"] for row in rows[1:]) / (len(rows) - 1),
    }


def main() -> None:
    """Measure all contestants in turn, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4], help="teachers, and as many students")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(words.one[0], int(words.one[1]), words.steps, Path(folder) / "run")
            print("measured " + json.dumps(measured))
        return
    contestants = [("selfplay", 0), *(("populora", size) for size in words.sizes)]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {contestant: [] for contestant in contestants}
    for _ in range(words.rounds):
        for method, size in contestants:
            command = [sys.executable, __file__, "--steps", str(words.steps), "--one", method, str(size)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            line = next(line for line in done.stdout.splitlines() if line.startswith("measured "))
            found[method, size].append(json.loads(line.removeprefix("measured ")))
    medians = {contestant: {name: statistics.median(row[name] for row in rows) for name in rows[0]} for contestant, rows in found.items()}
    base = medians["selfplay", 0]["cpu"]
    print(f"{'':16} {'CPU s':>8} {'ratio':>6} {'wall s':>8} {'playing':>8} {'completions':>12} {'tokens':>8}")
    for (method, size), row in medians.items():
        name = f"{method} {size}+{size}" if size else method
        numbers = f"{row['cpu']:8.3f} {row['cpu'] / base:6.2f} {row['wall']:8.3f} {row['sampling']:8.3f}"
        print(f"{name:16} {numbers} {row['completions']:12.0f} {row['tokens']:8.0f}")


if __name__ == "__main__":
    main()
