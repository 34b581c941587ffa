"""A small base model that several tests train."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamics.train import tiny


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A model of the notation that has learnt a little: some of what it samples is right, so that RLVR moves it."""
    folder = tmp_path_factory.mktemp("base") / "model"
    model, words = tiny.make(tiny.Recipe(steps=200, hidden=64, layers=2, intermediate=128, threads=1))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
