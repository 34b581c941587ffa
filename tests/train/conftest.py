"""A small base model that several tests train."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def base() -> Path:
    """Return a slightly trained model of the notation, recorded by ``data/make_runs.py``."""
    return Path(__file__).parent.parent / "data" / "base"
