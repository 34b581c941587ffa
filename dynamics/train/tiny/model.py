"""The embedded model: a small base model, trained on first use and cached.

A Llama of 0.65 million parameters is trained for a fixed number of steps on random examples in the small language of
``dynamics.train.tasks.programs``: to predict outputs, to find inputs and programs, and to propose programs. Only programs of the split
``pretraining`` are used. The result is a Hugging Face folder with a tokenizer, in the user's cache under a hash of the recipe. It is
trained in float32, whatever the compute dtype of later runs. On one machine the weights are reproducible to the bit; the order of sums
depends on the number of threads, which is therefore part of the recipe. A CPU with other vector instructions gives other weights.

The model is only partly competent by design: it solves some problems most of the time, and many problems occasionally.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dynamics.errors import InputError
from dynamics.extras import optional_import
from dynamics.io.cache import user_folder
from dynamics.io.folders import exclusive, remove_partial, save_folder
from dynamics.train.llama import completion_loss, small_llama
from dynamics.train.rng import stream
from dynamics.train.tiny.pretraining import MIX, batch, example
from dynamics.train.tiny.tokenizer import TOKENS, build_tokenizer


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights.

    Attributes
    ----------
    hidden, layers, heads, intermediate : sizes of the Llama.
    initializer_range : standard deviation of the initial weights.
    steps : number of optimizer steps.
    batch : examples per step.
    learning_rate : peak learning rate, after 50 steps of warm-up; it falls linearly to a twentieth.
    prompt_weight : loss weight of the tokens of the question; those of the answer have 1.
    clip : maximum L2 norm of the gradient.
    seed : of weights and examples.
    threads : number of torch threads.
    version : of the training code.
    """

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    intermediate: int = 384
    initializer_range: float = 0.08
    steps: int = 1800
    batch: int = 32
    learning_rate: float = 3e-3
    prompt_weight: float = 0.1
    clip: float = 1.0
    seed: int = 0
    threads: int = 2
    version: int = 1


def folder(recipe: Recipe = Recipe()) -> Path:
    """Return the cache folder of a recipe's model. The hash covers the settings and the first examples, and so changes of the code."""
    rng = stream(recipe.seed, "fingerprint")
    text = json.dumps([asdict(recipe), TOKENS, MIX, [example(rng) for _ in range(200)]], sort_keys=True)
    return user_folder() / f"tiny-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def find(recipe: Recipe = Recipe(), progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of the model; train it first if it is not cached.

    If several processes call this at the same time, one trains the model, and the others print on stderr that they wait. The folder
    appears only when it is complete. A process killed while writing leaves a hidden folder, which the next process removes.

    Parameters
    ----------
    recipe : of the model.
    progress : called with (steps done, total steps) after each step.
    """
    target = folder(recipe)
    advice = "set DYNAMICS_CACHE to a folder that can be written"

    def wait() -> None:
        with contextlib.suppress(OSError):  # stderr may be closed
            print(f"another process is making the embedded model in {target.parent}; waiting for it", file=sys.stderr, flush=True)

    if not (target / "config.json").exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent}: cannot be made ({error.strerror}); {advice}") from None
        if not os.access(target.parent, os.W_OK):  # check before training, which takes minutes
            raise InputError(f"{target.parent}: cannot be written; {advice}")
        with exclusive(target.parent, wait) as locked:
            if locked:
                remove_partial(target)
            if not (target / "config.json").exists():  # no other process has made it
                from dynamics.models import save_quietly

                model, tokenizer = make(recipe, progress)
                save_folder(target, partial(save_quietly, model, tokenizer), advice, keep=True)
    return target


def make(recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> tuple[Any, Any]:
    """Train the model of a recipe; return model and tokenizer."""
    with optional_import("making the embedded model"):
        import torch
        import transformers  # noqa: F401

    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            return _make(recipe, progress)
    finally:
        torch.set_num_threads(threads)


def _make(recipe: Recipe, progress: Callable[[int, int], None] | None) -> tuple[Any, Any]:
    import torch

    tokenizer = build_tokenizer()
    model = small_llama(recipe, tokenizer, 64, "eager")
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    for step in range(recipe.steps):
        rate = min(1.0, (step + 1) / 50) * max(0.05, 1 - step / recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        ids, weights = batch(recipe.seed, step, recipe.batch, recipe.prompt_weight, tokenizer)
        completion_loss(model, ids, weights).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        if progress:
            progress(step + 1, recipe.steps)
    model.eval()
    return model, tokenizer
