"""A small base model that several tests train."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lab_base(tmp_path_factory) -> Path:
    """Return an untrained model of the laboratory."""
    from dynamics.train.lab.pretraining import Recipe, build
    from dynamics.train.lab.tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("lab") / "base"
    build(Recipe(hidden=32, layers=1, heads=2, intermediate=32, initializer_range=0.2)).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base() -> Path:
    """Return a slightly trained model of the notation, recorded by ``data/make_runs.py``."""
    return Path(__file__).parent.parent / "data" / "base"
