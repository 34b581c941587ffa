"""Time and memory of attention in training, by length of the completions.

    python benchmarks/attention.py [--lengths 64 256 1024 4096] [--rounds 3]

The gradient of 8 completions of exactly this many tokens that share a prompt of 100 tokens, all in one micro-batch, on a Llama of 10 M
parameters with random weights, in float32 on one thread; times are CPU time:

packed          one row without padding, the default
checkpointing   the same with --gradient-checkpointing
pieces          one completion after the other, in micro-batches of 512 tokens
sdpa            a row of prompt and completion for each, with transformers' attention by torch's fused kernel

Contestants alternate, each in its own process. Memory is the peak of the process over its size before the gradient. Prints the median and
the range of the time a token, its ratio to that at the shortest length, the memory a token, and the ratio of sdpa's time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

SAMPLES, PROMPT = 8, 100
MODES = ("packed", "checkpointing", "pieces", "sdpa")


class Peak(threading.Thread):
    """Largest resident size of this process while it runs, in MiB, read every 2 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.value, self.stopped = 0.0, False

    def run(self) -> None:
        """Read the size until ``stopped``."""
        while not self.stopped:
            self.value = max(self.value, resident())
            time.sleep(0.002)


def resident() -> float:
    """Resident size of this process, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def measure(mode: str, length: int) -> None:
    import numpy as np
    import torch
    import transformers

    from dynamics.train import update
    from dynamics.train.batch import Batch
    from dynamics.train.config import RLVRConfig
    from dynamics.train.policy import Policy
    from dynamics.train.tiny import build_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = {"hidden_size": 320, "num_hidden_layers": 8, "num_attention_heads": 10, "num_key_value_heads": 5, "intermediate_size": 864}
    config = transformers.LlamaConfig(**size, vocab_size=512, max_position_embeddings=8192, attn_implementation="eager")
    model: Any = transformers.LlamaForCausalLM(config)
    policy = Policy(model, build_tokenizer(), gradient_checkpointing=mode == "checkpointing")
    if mode == "sdpa":
        policy.shares = False
        model.set_attn_implementation("sdpa")
    tokens = 512 if mode == "pieces" else 10**6
    rng = np.random.default_rng(0)
    prompt = rng.integers(14, 500, PROMPT)
    names = [""] * SAMPLES

    def step(count: int) -> float:
        completions = [rng.integers(14, 500, count) for _ in range(SAMPLES)]
        batch = Batch([prompt], completions, np.zeros(SAMPLES, int), rng.normal(size=SAMPLES), names, names, names)
        begin = time.process_time()
        update.gradient(policy, batch, RLVRConfig(max_tokens_per_microbatch=tokens), update.Before())
        return time.process_time() - begin

    step(16)
    before, peak = resident(), Peak()
    peak.start()
    seconds = step(length)
    peak.stopped = True
    peak.join()
    print(json.dumps({"seconds": seconds, "mib": peak.value - before}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure[0], int(given.measure[1]))
        return
    from dynamics.train.policy import cpuinfo

    print(f"CPU: {cpuinfo('model name')}, one thread, float32")
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for length in given.lengths:
        for _ in range(given.rounds):
            for mode in MODES:
                command = [sys.executable, __file__, "--measure", mode, str(length)]
                made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found.setdefault((mode, length), []).append(json.loads(made.stdout.splitlines()[-1]))
    first = {mode: statistics.median(run["seconds"] for run in found[mode, given.lengths[0]]) / given.lengths[0] for mode in MODES}
    for length in given.lengths:
        tokens = SAMPLES * length
        sdpa = statistics.median(run["seconds"] for run in found["sdpa", length])
        for mode in MODES:
            seconds = [run["seconds"] for run in found[mode, length]]
            median, scale = statistics.median(seconds), 1e6 / tokens
            print(
                f"{length:6} tokens  {mode:14} {median * scale:7.0f} us a token ({min(seconds) * scale:.0f} to "
                f"{max(seconds) * scale:.0f}), {median / length / first[mode]:.2f}x that at {given.lengths[0]}; "
                f"{statistics.median(run['mib'] for run in found[mode, length]) * 1024 / tokens:6.0f} KiB a token; "
                f"sdpa takes {sdpa / median:.2f}x its time",
                flush=True,
            )


if __name__ == "__main__":
    main()
