"""Speed of `dynamics.report`, as ratios against the commands whose numbers it shows, in the same run.

    python benchmarks/report.py [--layers 3] [--width 512] [--vocabulary 4096] [--rounds 3]

Two runs of three bf16 checkpoints each, of one base with random weights, are written. In turn, in fresh processes:

single      the five commands that make the numbers on weights alone: `sparsity` and `spectra` of each run, `overlap` of both
report      one report of both runs, without a cache, with its page and figures
again       the same report with the cache that it left: nothing is new
went on     the same after one of the runs wrote a further checkpoint

The row in docs/speed.md is of `--layers 1 --width 128 --vocabulary 500 --rounds 1`. Larger models take minutes, most of them for spectra.

Rounds alternate between the contestants. CPU time is of user and system; times are medians, and so are the ratios to `single`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RUNS, STEPS, LATER = ("a", "b"), (50, 100, 150), 200
CONTESTANTS = ("single", "report", "again", "went on")


@dataclass
class Cost:
    """CPU and wall seconds."""

    cpu: float = 0.0
    wall: float = 0.0


def shapes(layers: int, width: int, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    inner = 11 * width // 4
    yield "model.embed_tokens.weight", (vocabulary, width)
    for layer in range(layers):
        for module in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"model.layers.{layer}.self_attn.{module}.weight", (width, width)
        yield f"model.layers.{layer}.mlp.gate_proj.weight", (inner, width)
        yield f"model.layers.{layer}.mlp.up_proj.weight", (inner, width)
        yield f"model.layers.{layer}.mlp.down_proj.weight", (width, inner)
        yield f"model.layers.{layer}.input_layernorm.weight", (width,)


def write(folder: Path, sizes: dict[str, tuple[int, ...]], seed: int, step: int) -> None:
    """Write the base (step 0), or a checkpoint whose update has a direction that is stronger than the others."""
    header, values, offset = {}, [], 0
    for index, (name, shape) in enumerate(sizes.items()):
        weights = np.random.default_rng([0, index]).standard_normal(shape, np.float32) * np.float32(0.02)
        if step:
            rng = np.random.default_rng([seed, index])
            update = rng.standard_normal(shape, np.float32)
            update += rng.standard_normal((shape[0], *(1 for _ in shape[1:])), np.float32) * rng.standard_normal(shape[1:], np.float32)
            weights += np.float32(2e-6 * step) * update
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + 2 * weights.size]}
        values.append(((weights.view(np.uint32) + np.uint32(0x8000)) >> 16).astype(np.uint16))
        offset += 2 * weights.size
    folder.mkdir(parents=True)
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in values:
            value.tofile(file)
    log = [{"step": each, "loss": 2.0 - each / 1000, "learning_rate": 1e-5} for each in range(10, step + 1, 10)]
    if step:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))


def cost_of(commands: list[list[str]], folder: Path) -> Cost:
    """Run commands one after the other, each in a fresh process."""
    total = Cost()
    for command in commands:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        total.wall += time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: ended with status {process.returncode}")
        total.cpu += usage.ru_utime + usage.ru_stime
    return total


def one_round(folder: Path, sizes: dict[str, tuple[int, ...]], subspace: int) -> dict[str, Cost]:
    last = f"checkpoint-{STEPS[-1]}"
    outputs = ["--html", "page.html", "--csv", "table.csv"]
    approx = ["--method", "approx", "--subspace", str(subspace), *outputs]
    single = [["dynamics.sparsity", "base", *(f"{run}/checkpoint-{step}" for step in STEPS), *outputs] for run in RUNS]
    single += [["dynamics.spectra", "base", f"{run}/{last}", *approx] for run in RUNS]
    single += [["dynamics.overlap", "base", *(f"{run}/{last}" for run in RUNS), *outputs]]
    report = ["dynamics.report", *RUNS, "--base", "base", "--no-model-passes"]
    costs = {"single": cost_of(single, folder), "report": cost_of([[*report, "--cache", "none"]], folder)}
    cost_of([report], folder)  # leaves a cache
    costs["again"] = cost_of([report], folder)
    write(folder / RUNS[0] / f"checkpoint-{LATER}", sizes, 1, LATER)
    costs["went on"] = cost_of([report], folder)
    shutil.rmtree(folder / RUNS[0] / f"checkpoint-{LATER}")
    shutil.rmtree(folder / ".dynamics-cache")
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sizes = dict(shapes(options.layers, options.width, options.vocabulary))
    subspace = max(1, min(32, options.width // 4))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "base", sizes, 0, 0)
        for seed, run in enumerate(RUNS, 1):
            for step in STEPS:
                write(folder / run / f"checkpoint-{step}", sizes, seed, step)
        numel = sum(int(np.prod(shape)) for shape in sizes.values())
        print(f"two runs of {len(STEPS)} checkpoints, {numel / 1e6:.1f} million weights each, {options.rounds} rounds", flush=True)
        rounds = [one_round(folder, sizes, subspace) for _ in range(options.rounds)]
    for name in CONTESTANTS:
        cpu, wall = (statistics.median(getattr(costs[name], of) for costs in rounds) for of in ("cpu", "wall"))
        ratios = [statistics.median(getattr(costs[name], of) / getattr(costs["single"], of) for costs in rounds) for of in ("cpu", "wall")]
        print(f"{name:<8} CPU {cpu:6.1f} s ({ratios[0]:.2f} of single), wall {wall:6.1f} s ({ratios[1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
