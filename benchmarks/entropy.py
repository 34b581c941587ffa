"""Speed of `dynamics.entropy`, as ratios against named peers in the same run.

    python benchmarks/entropy.py [--rounds 5] [--model FOLDER]

kernel      `from_logits` of 512 x 151,936 float32, against TRL's `entropy_from_logits`, which is reproduced below; also the errors of both
trace       tracing entropy and surprisal of a causal model in float32 over about 1,500 tokens, against its forward pass with logits;
            also with ranks, and with ranks and the five most likely tokens. Only with --model.

Rounds alternate between the contestants, so that noise of the machine affects all of them; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamics.entropy import from_logits, trace


def published(logits: torch.Tensor, chunk: int = 128) -> torch.Tensor:
    """Compute -sum p log p in the dtype of the logits, in chunks of rows, as training libraries do."""
    parts = []
    for rows in logits.split(chunk):
        log_p = torch.nn.functional.log_softmax(rows, dim=-1)
        parts.append(-(torch.exp(log_p) * log_p).sum(-1))
    return torch.cat(parts)


def race(rounds: int, contestants: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Measure the median seconds of each contestant."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def kernel(rounds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(512, 151_936, generator=generator) * 3
    logits[::2, 7] = 30.0  # half of the tokens are nearly certain, as in reasoning models
    ours, theirs = from_logits(logits).entropy, published(logits).double()
    wide = logits[:8].numpy().astype(np.longdouble)
    x = wide - wide.max(1, keepdims=True)
    rest = np.exp(x) * (x < 0)
    exact = np.log1p(rest.sum(1)) - (rest * x).sum(1) / (1 + rest.sum(1))
    seconds = race(rounds, {"ours": lambda: from_logits(logits), "peer": lambda: published(logits)})
    ratio = seconds["peer"] / seconds["ours"]
    print(f"kernel     {seconds['ours']:.3f} s, published form {seconds['peer']:.3f} s: {ratio:.1f}x")
    for name, values in (("ours", ours), ("published", theirs)):
        error = np.abs(values[:8].numpy() / exact.astype(float) - 1).max()
        print(f"           largest relative error of {name}: {error:.1e}")


def tracing(folder: str, rounds: int) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    source = (Path(__file__).parent.parent / "README.md").read_text()
    texts = [source[start : start + 900] for start in range(0, 3600, 900)]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, ids))
    batch = torch.zeros(len(ids), width, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for row, tokens in enumerate(ids):
        batch[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1

    def bare() -> None:
        with torch.no_grad():
            assert model(input_ids=batch, attention_mask=mask, use_cache=False).logits.shape[0] == len(ids)

    size = {"batch_tokens": batch.numel()}
    contestants: dict[str, Callable[[], Any]] = {
        "bare": bare,
        "entropy and surprisal": lambda: trace(model, tokenizer, texts, rank=False, **size),
        "with ranks": lambda: trace(model, tokenizer, texts, **size),
        "with ranks and top 5": lambda: trace(model, tokenizer, texts, top=5, **size),
    }
    seconds = race(rounds, contestants)
    print(f"trace      {sum(map(len, ids)):,} tokens, bare forward pass with logits {seconds['bare']:.2f} s")
    for name in list(contestants)[1:]:
        print(f"           {name}: {seconds[name] / seconds['bare']:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="a folder with a causal language model")
    options = parser.parse_args()
    kernel(options.rounds)
    if options.model:
        tracing(options.model, options.rounds)


if __name__ == "__main__":
    main()
