"""Rates of the comparisons of checkpoints on this machine, from which docs/scaling.md works out time for large models.

    python benchmarks/comparisons.py --json docs/comparison_rates.json     # three minutes; then python docs/scaling_table.py

sparsity   pairs of bf16 and of float8, all weights in large tensors: bytes of both sides a second, with one thread and with one a core
tensors    a pair of many tensors of 4,096 weights: seconds for each tensor beyond those that its bytes take; this share is serial
overlap    a base and two tuned checkpoints of bf16: bytes of the three files a second
spectra    base, tuned and update of one square matrix: `full` in operations, as m n^2 a second, and `approx` in weights a second
entropy    a Llama with random weights reads text: operations a second, taken as two for each weight and token, in float32 and bfloat16

Files are in the page cache. Numbers are medians of three rounds. Rates of one thread are in processor time, which other programs on the
machine disturb less; those of several threads are in wall time and need a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dynamics import entropy, overlap, sparsity, spectra
from dynamics.checkpoints.safetensors import make_header
from dynamics.io.threads import cores

ROUNDS = 3
#: weights of a large tensor, and how many there are
LARGE, MANY = 1 << 23, 8
#: weights of a small tensor, and how many there are
SMALL, SMALLS = 4096, 8000
#: rows and columns of the matrices of spectra
FULL, APPROX = 1024, 2048


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Median time of some work, after one run that compiles and fills the page cache."""
    work()
    times = []
    for _ in range(ROUNDS):
        begin = clock()
        work()
        times.append(clock() - begin)
    return statistics.median(times)


def checkpoint(path: Path, dtype: str, numel: int, count: int, seed: int) -> str:
    """Write a checkpoint of numbers around 0.02; one weight in ten differs between seeds."""
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(numel) * 0.02).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else (np.abs(values) * 1000).astype(np.uint8) | 0x20
    moved = np.random.default_rng(seed).random(numel) < (0.1 if seed else 0)
    bits[moved] ^= 1
    with path.open("wb") as file:
        names = [f"model.layers.{index % 60}.mlp.experts.{index // 60}.up_proj.weight" for index in range(count)]
        file.write(make_header([(name, dtype, (numel // 64, 64)) for name in names], {}))
        for _ in range(count):
            file.write(bits.tobytes())
    return str(path)


def pairs(folder: Path) -> dict[str, float]:
    """Rates of sparsity and overlap, in bytes a second, and seconds for each small tensor."""
    narrow = [checkpoint(folder / f"narrow-{seed}.safetensors", "float8_e4m3fn", LARGE, MANY, seed) for seed in range(2)]
    wide = [checkpoint(folder / f"wide-{seed}.safetensors", "bfloat16", LARGE, MANY, seed) for seed in range(3)]
    of_file = 2 * LARGE * MANY
    found = {
        "sparsity/float8": of_file / seconds(lambda: sparsity.compare(*narrow, threads=1)),
        "sparsity/bfloat16": 2 * of_file / seconds(lambda: sparsity.compare(*wide[:2], threads=1)),
        "sparsity/bfloat16/all cores": 2 * of_file / seconds(lambda: sparsity.compare(*wide[:2]), time.perf_counter),
        "overlap/bfloat16": 3 * of_file / seconds(lambda: overlap.compare(wide[0], wide[1:], threads=1)),
    }
    files = [checkpoint(folder / f"small-{seed}.safetensors", "bfloat16", SMALL, SMALLS, seed) for seed in range(2)]
    together = seconds(lambda: sparsity.compare(*files, threads=1))
    found["seconds a tensor"] = (together - 4 * SMALL * SMALLS / found["sparsity/bfloat16"]) / SMALLS
    return found


def matrices() -> dict[str, float]:
    """Rates of spectra: m n^2 a second by full decompositions, and weights a second by sketches."""
    rng = np.random.default_rng(0)
    found: dict[str, float] = {}
    for method, size in (("full", FULL), ("approx", APPROX)):
        base = {"model.layers.0.mlp.up_proj.weight": (rng.standard_normal((size, size)) / size**0.5).astype(np.float32)}
        tuned = {name: value + np.float32(1e-3) * rng.standard_normal(value.shape).astype(np.float32) for name, value in base.items()}
        took = seconds(lambda a=base, b=tuned, by=method: spectra.compare(a, b, method=by))  # type: ignore[misc]
        found[f"spectra/{method}"] = (size**3 if method == "full" else size**2) / took
    return found


def texts() -> dict[str, float]:
    """Operations a second of a trace of entropy, two for each weight and token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=16, num_key_value_heads=4, vocab_size=32000
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(3, config.vocab_size, (1, 512))
    weights = sum(parameter.numel() for name, parameter in model.named_parameters() if "embed_tokens" not in name)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        cast = model.to(dtype)

        def read(cast: Any = cast) -> None:
            with torch.inference_mode():
                hidden = cast.model(ids).last_hidden_state[0]
                entropy.from_hidden(hidden, cast.lm_head.weight)

        found[f"entropy/{str(dtype).removeprefix('torch.')}"] = 2 * weights * ids.numel() / seconds(read)
    return found


def cpu() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rates to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = pairs(Path(folder))
    rates |= matrices() | texts()
    document = {"cpu": cpu(), "cores": cores(), "rates": {name: float(f"{value:.3g}") for name, value in rates.items()}}
    for name, value in document["rates"].items():  # type: ignore[attr-defined]
        print(f"{name:28s} {value:.3g}")
    print(f"{document['cpu']}, {document['cores']} cores")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
