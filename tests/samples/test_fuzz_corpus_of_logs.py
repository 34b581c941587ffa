"""Inputs of the readers of logs that fuzzing kept (``tests/fuzz/logs.py``): each is read, or refused in one line."""

from __future__ import annotations

import pytest
from fuzz.logs import CORPUS, READERS, holds, seeds


@pytest.mark.parametrize("name", READERS)
def test_what_fuzzing_kept(tmp_path, name):
    read, suffix = READERS[name]
    kept = sorted((CORPUS / name).iterdir())
    assert kept
    for path in kept:
        holds(read, path)
    for number, content in enumerate(seeds(name)):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        holds(read, path)
