"""The embedded default: a small base model, made on the spot and kept.

A Llama of 0.65 million parameters learns from random examples, for a fixed number of steps, to predict outputs, find inputs and programs,
and to propose programs, of the small language of ``dynamics.train.programs``. Only programs of the split ``pretraining`` are used. The
result is an ordinary Hugging Face folder with an ordinary tokenizer, in the user's cache under a hash of the recipe. It is trained in
float32 whatever runs compute in later. On one machine it is the same to the last bit whenever it is made (sums are ordered by the number of
threads, which is therefore part of the recipe); a CPU with other vector instructions orders sums otherwise and gives other weights.

It is partly competent on purpose: it solves a part of the problems most of the time, and many of them once in a while.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.errors import InputError
from dynamics.train import programs, tasks
from dynamics.train.expressions import Expressions
from dynamics.train.folders import exclusive, remove_partial, save_folder
from dynamics.train.streams import stream

if TYPE_CHECKING:
    import torch

SPECIAL = ("<pad>", "<eos>", "<unk>", "<D>", "<A>", "<I>", "<PD>", "<PA>", "<PI>", "<in>", "<out>", "<f>", "<ref>", "<sep>")
_WORDS = (" for y in ", "sorted(", ".replace(", ".upper()", "[::-1]", "[:-1]", "[1:]", "abs(", "max(", "min(", "sum(", "len(", "//")
TOKENS = (*SPECIAL, *_WORDS, *"0123456789", *"abcdexyABCDE", *"+-*%()[],':")
#: share of each kind of example
MIX = {"deduction": 0.22, "abduction": 0.22, "induction": 0.22, "PD": 0.12, "PA": 0.12, "PI": 0.10}


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    intermediate: int = 384
    initializer_range: float = 0.08
    steps: int = 1800
    batch: int = 32
    """examples a step"""
    learning_rate: float = 3e-3
    """after 50 steps of warm-up falling linearly to a twentieth"""
    prompt_weight: float = 0.1
    """of the loss on the tokens of the question, beside 1 on those of the answer"""
    clip: float = 1.0
    seed: int = 0
    threads: int = 2
    version: int = 1


def tokenizer() -> Any:
    """Characters and a few words, 64 tokens or fewer; decoding what was encoded gives the text back."""
    import re

    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({token: place for place, token in enumerate(TOKENS)}, unk_token="<unk>"))
    pattern = "|".join(re.escape(word) for word in _WORDS) + "|."
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(pattern.replace("\\ ", " ")), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=512)


def reads_notation(tokenizer: Any) -> bool:
    """Whether a tokenizer has the notation of the embedded default."""
    return all(token in tokenizer.get_vocab() for token in SPECIAL)


def example(rng: np.random.Generator) -> tuple[str, str]:
    """A question and its answer, from the programs of pre-training."""
    kinds = list(MIX)
    kind = kinds[int(np.searchsorted(np.cumsum(list(MIX.values())), rng.random(), side="right").clip(max=len(kinds) - 1))]
    while True:
        if kind in tasks.KINDS:
            problem = tasks.triplet(rng, kind, "pretraining")
            if problem is not None:
                return tasks.notation(problem)
        elif (made := _proposal(rng, kind)) is not None:
            return made


def _proposal(rng: np.random.Generator, kind: str) -> tuple[str, str] | None:
    """What a proposer is asked and writes: a program and an input after a reference, or inputs for a program."""
    family, program = programs.draw_of(rng, "pretraining")
    inputs = [family.inputs(rng, False) for _ in range(tasks.PAIRS if kind == "PI" else 1)]
    if len({repr(one) for one in inputs}) < len(inputs) or Expressions().run(program, [(one,) for one in inputs]).values is None:
        return None
    given = "<in>".join(programs.compact(one) for one in inputs)
    if kind == "PI":
        return f"<PI>{program}<sep>", given
    other, reference = programs.draw_of(rng, "pretraining")
    return f"<{kind}><ref>{reference}<in>{programs.compact(other.inputs(rng, False))}<sep>", f"{program}<in>{given}"


def cache() -> Path:
    root = os.environ.get("DYNAMICS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynamics"
    return Path(root)


def folder(recipe: Recipe = Recipe()) -> Path:
    """Where the model of a recipe is kept. The hash covers the settings and the first examples, which change when the code does."""
    rng = stream(recipe.seed, "fingerprint")
    text = json.dumps([asdict(recipe), TOKENS, MIX, [example(rng) for _ in range(200)]], sort_keys=True)
    return cache() / f"tiny-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def find(recipe: Recipe = Recipe(), progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of the model, made first where there is none yet.

    Of processes that ask at the same time one makes it, and the others say on stderr that they wait. The folder appears when it is whole:
    a process that is killed leaves nothing behind, or, killed in the moment of writing, a hidden folder that the next one removes.
    """
    target = folder(recipe)
    advice = "set DYNAMICS_CACHE to a folder that can be written"

    def wait() -> None:
        with contextlib.suppress(OSError):  # nobody may be reading
            print(f"another process is making the embedded model in {target.parent}; waiting for it", file=sys.stderr, flush=True)

    def fill(place: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
            model.save_pretrained(place)
        words.save_pretrained(place)

    if not (target / "config.json").exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent}: cannot be made ({error.strerror}); {advice}") from None
        if not os.access(target.parent, os.W_OK):  # rather than find out after minutes
            raise InputError(f"{target.parent}: cannot be written; {advice}")
        with exclusive(target.parent, wait) as alone:
            if alone:
                remove_partial(target)
            if not (target / "config.json").exists():  # nobody made it in the meantime
                model, words = make(recipe, progress)
                save_folder(target, fill, advice, keep=True)
    return target


def make(recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> tuple[Any, Any]:
    """Train the model of a recipe: (model, tokenizer)."""
    import torch

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
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        initializer_range=recipe.initializer_range,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    for step in range(recipe.steps):
        rate = min(1.0, (step + 1) / 50) * max(0.05, 1 - step / recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        ids, weights = _batch(recipe, step, words)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (loss * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        if progress:
            progress(step + 1, recipe.steps)
    model.eval()
    return model, words


#: batches made at once and sorted by length among themselves
_POOL = 8


def _batch(recipe: Recipe, step: int, words: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and loss weights of a step, (examples, length) each; of examples of similar length, to have little padding."""
    import torch

    pool = _pool(recipe, step // _POOL, words)
    rows = pool[(step % _POOL) * recipe.batch : (step % _POOL + 1) * recipe.batch]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for place, (row, border) in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        weights[place, :border] = recipe.prompt_weight
        weights[place, border : len(row)] = 1.0
    return ids, weights


_pools: dict[tuple[Recipe, int], list[tuple[list[int], int]]] = {}


def _pool(recipe: Recipe, number: int, words: Any) -> list[tuple[list[int], int]]:
    """Tokens and the length of the question, of the examples of several steps, in batches whose order is random."""
    if (recipe, number) not in _pools:
        _pools.clear()
        rng = stream(recipe.seed, "pretraining", number)
        pairs = [example(rng) for _ in range(_POOL * recipe.batch)]
        asked = words([prompt for prompt, _ in pairs], add_special_tokens=False)["input_ids"]
        told = words([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
        rows = [(a + b + [words.eos_token_id], len(a)) for a, b in zip(asked, told, strict=True)]
        rows.sort(key=lambda row: len(row[0]))
        order = rng.permutation(_POOL)
        _pools[recipe, number] = [row for place in order for row in rows[place * recipe.batch : (place + 1) * recipe.batch]]
    return _pools[recipe, number]
