"""Small checkpoints made on the spot, and writers for each format."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import settings

for name in ("FORCE_COLOR", "COLUMNS"):  # what is printed is that of a plain terminal of 80 columns
    os.environ.pop(name, None)
settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("untimed")


@pytest.fixture(params=["float32", "bfloat16"])
def compute(request: pytest.FixtureRequest) -> str:
    """The dtype that a model computes in. bfloat16 by autocast runs on every CPU, with or without arithmetic for it."""
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20251)


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A small Llama-like state dict and an update of it: float32, a tenth of the weights moved."""
    shapes = {"model.embed_tokens.weight": (97, 24), "model.norm.weight": (24,), "lm_head.weight": (97, 24)}
    for layer in range(12):
        for name, shape in {
            "self_attn.q_proj": (24, 24),
            "self_attn.k_proj": (8, 24),
            "mlp.up_proj": (40, 24),
            "input_layernorm": (24,),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    base = {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}
    tuned = {
        name: value + np.where(rng.random(value.shape) < 0.1, rng.normal(0, 1e-4, value.shape), 0).astype(np.float32)
        for name, value in base.items()
    }
    return base, tuned
