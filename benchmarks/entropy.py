"""Speed of `dynamics.entropy`, as ratios against named peers in the same run.

    python benchmarks/entropy.py [--rounds 5] [--model smollm2|FOLDER] [--tokens 1400] [--threads N]

kernel      `from_logits` of 256 x 151,936 logits in float32 and bfloat16, without and with targets, against the published form, TRL's
            `entropy_from_logits`, which is reproduced below; also the errors of both
head        `from_hidden` of 1,400 x 576 hidden states and 49,152 tokens, with ranks, against the bare product that makes the logits, and
            against the product, the published form and the log-softmax of the targets, in float32 and bfloat16
trace       tracing a causal model in float32 and bfloat16 over about 1,400 tokens, against its forward pass with logits: entropy and
            surprisal; also with ranks; and with the five most likely tokens; a second model over the same tokens, against two passes.
            Left out if the model is not there.

Rounds alternate between the contestants, so that noise of the machine affects all of them; the ratio is that of the medians of CPU time.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamics.entropy import from_hidden, from_logits, load, trace
from dynamics.errors import InputError
from dynamics.models import check_local_model
from dynamics.train.policy import cpuinfo


def published(logits: torch.Tensor, chunk: int = 128) -> torch.Tensor:
    """Compute -sum p log p in the dtype of the logits, in chunks of rows, as training libraries do."""
    parts = []
    for rows in logits.split(chunk):
        log_p = torch.nn.functional.log_softmax(rows, dim=-1)
        parts.append(-(torch.exp(log_p) * log_p).sum(-1))
    return torch.cat(parts)


def race(rounds: int, contestants: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Measure the median seconds of CPU time of each contestant, after a round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            if number:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def kernel(rounds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(256, 151_936, generator=generator) * 3
    logits[::2, 7] = 30.0  # half of the tokens are nearly certain, as in reasoning models
    targets = torch.randint(0, 151_936, (256,), generator=generator)
    for dtype in (torch.float32, torch.bfloat16):
        given = logits.to(dtype)
        contestants = {
            "published": lambda given=given: published(given),
            "ours": lambda given=given: from_logits(given),
            "ours with targets": lambda given=given: from_logits(given, targets=targets),
        }
        seconds = race(rounds, contestants)
        shares = [f"{seconds[name] / seconds['published']:.2f}" for name in ("ours", "ours with targets")]
        print(
            f"kernel     {str(dtype).removeprefix('torch.')}: published form {seconds['published']:.3f} s; "
            f"entropy {shares[0]} x its time, also surprisal and ranks {shares[1]} x"
        )
    ours, theirs = from_logits(logits).entropy, published(logits).double()
    wide = logits[:8].numpy().astype(np.longdouble)
    x = wide - wide.max(1, keepdims=True)
    rest = np.exp(x) * (x < 0)
    exact = np.log1p(rest.sum(1)) - (rest * x).sum(1) / (1 + rest.sum(1))
    for name, values in (("ours", ours), ("published", theirs)):
        error = np.abs(values[:8].numpy() / exact.astype(float) - 1).max()
        print(f"           largest relative error of {name} in float32: {error:.1e}")


def head(rounds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    states, weights = torch.randn(1400, 576, generator=generator), torch.randn(49_152, 576, generator=generator) * 0.1
    targets = torch.randint(0, 49_152, (1400,), generator=generator)

    def peer(hidden: torch.Tensor, weight: torch.Tensor) -> Any:
        logits = hidden @ weight.T
        if logits.dtype == torch.float32:
            chosen = logits.gather(1, targets[:, None])[:, 0] - torch.stack([row.logsumexp(-1) for row in logits])
        else:
            chosen = torch.stack([row.log_softmax(-1)[target] for row, target in zip(logits, targets, strict=True)])
        return published(logits), chosen

    for dtype in (torch.float32, torch.bfloat16):
        hidden, weight = states.to(dtype), weights.to(dtype)
        contestants = {
            "product": lambda hidden=hidden, weight=weight: hidden @ weight.T,
            "peer": lambda hidden=hidden, weight=weight: peer(hidden, weight),
            "ours": lambda hidden=hidden, weight=weight: from_hidden(hidden, weight, targets=targets),
        }
        seconds = race(rounds, contestants)
        print(
            f"head       {str(dtype).removeprefix('torch.')}: product alone {seconds['product']:.3f} s; "
            f"ours {seconds['ours'] / seconds['product']:.2f} x its time, {seconds['ours'] / seconds['peer']:.2f} x with the published form"
        )


def tracing(name: str, rounds: int, tokens: int, dtype: str) -> None:
    model, tokenizer = load(name, "cpu", dtype)
    other = copy.deepcopy(model)
    source = (Path(__file__).parent.parent / "docs" / "measures.md").read_text()
    ids = tokenizer(source)["input_ids"][:tokens]
    texts = [tokenizer.decode(ids[start : start + 350]) for start in range(0, len(ids), 350)]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, ids))
    batch = torch.zeros(len(ids), width, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for row, of_text in enumerate(ids):
        batch[row, : len(of_text)], mask[row, : len(of_text)] = torch.tensor(of_text), 1

    def bare() -> None:
        with torch.no_grad():
            assert model(input_ids=batch, attention_mask=mask, use_cache=False).logits.shape[0] == len(ids)

    size = {"batch_tokens": batch.numel()}
    contestants: dict[str, Callable[[], Any]] = {
        "bare": bare,
        "entropy and surprisal": lambda: trace(model, tokenizer, texts, rank=False, **size),
        "with ranks": lambda: trace(model, tokenizer, texts, **size),
        "with ranks and top 5": lambda: trace(model, tokenizer, texts, top=5, **size),
        "against a second model": lambda: trace(model, tokenizer, texts, against=other, **size),
    }
    seconds = race(rounds, contestants)
    print(f"trace      {dtype}: {sum(map(len, ids)):,} tokens, bare forward pass with logits {seconds['bare']:.2f} s")
    for contestant in list(contestants)[1:]:
        passes = 1 + (contestant == "against a second model")
        print(f"           {contestant}: {seconds[contestant] / (passes * seconds['bare']):.2f} x{' two passes' * (passes - 1)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="smollm2", help="a folder with a causal language model, or smollm2, the default")
    parser.add_argument("--tokens", type=int, default=1400, help="of the texts that are traced")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cpu = f"{cpuinfo('model name')} (family {cpuinfo('cpu family')}, model {cpuinfo('model')})"
    print(f"{cpu}, threads: {torch.get_num_threads()}, torch {torch.__version__}", flush=True)
    kernel(options.rounds)
    head(options.rounds)
    try:
        check_local_model(options.model)
    except InputError as error:
        print(f"trace      not measured: {error}")
        return
    for dtype in ("float32", "bfloat16"):
        tracing(options.model, options.rounds, options.tokens, dtype)


if __name__ == "__main__":
    main()
