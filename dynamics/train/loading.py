"""What every process of a run begins with: the settings of torch, the model and the problems."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dynamics.errors import InputError
from dynamics.models import out_of_memory
from dynamics.train import built_in, checks, policy, sources
from dynamics.train.config import PolicyGradientConfig, TrainConfig
from dynamics.train.lab.tokenizer import SCHEME
from dynamics.train.method import Method
from dynamics.train.policy import Policy
from dynamics.train.tasks.problem import Source
from dynamics.train.tasks.prompt_formats import LanguageName, language_of
from dynamics.train.token_kinds import TokenKinds


def set_up_torch(threads: int) -> None:
    """Make torch deterministic: the same number of threads gives the same order of sums."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # every tensor is written before it is read; filling took an eighth of the time


def load(config: TrainConfig, compute: str) -> tuple[Policy, Source, LanguageName]:
    """Load the model of a run, find its problems, and tell the language of its prompts; ``compute`` is the compute dtype."""
    device = None if config.device == "auto" else config.device
    with memory(f"--model {config.model}: memory ran out while it was loaded", "end other programs, or choose a smaller model"):
        loaded = policy.load(built_in.find(config.model), device, config.master_dtype, compute, config.gradient_checkpointing)
    language = language_of(loaded.tokenizer)
    if language == "lab":
        loaded.token_kinds = TokenKinds(loaded.tokenizer, loaded.eos, SCHEME)
    source = sources.find(config.task, language, config.allow_unconfined)
    checks.check_language(config, source, language)
    return loaded, source, language


def keep_base(method: Method, loaded: Policy, config: TrainConfig) -> Policy | None:
    """Return a copy of the base model if anything computes with it while it is trained; call it before loading a state."""
    needs_reference = isinstance(config, PolicyGradientConfig) and bool(config.kl_coef)
    return method.base or (loaded.copy() if needs_reference else None)


@contextmanager
def memory(what: str, advice: str) -> Iterator[None]:
    """Say in a line that memory ran out, on whatever device."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(f"{what}; {advice}") from None
