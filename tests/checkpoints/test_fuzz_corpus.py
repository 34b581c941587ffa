"""Inputs of the fuzzing, and random changes of them, are read or refused with an ``InputError``."""

from __future__ import annotations

import random

import pytest
from fuzz import checkpoints as fuzzing
from fuzz.checkpoints import PICKLES, READERS, SEEDS, check, mutated

#: what a random change inserts
PIECES = (b"\0", b"\xff" * 4, b"9" * 30, b"-1", b"null", b"[", b'"', b"NaN", b"1e400", b"\\ud800", b"\xff\xff\xff\xff\xff\xff\xff\x7f")


def changed(data: bytes, reader: str, seed: int) -> bytes:
    """Change an input at random."""
    rng = random.Random(seed)
    if reader in PICKLES and rng.random() < 0.7:
        return mutated(data, PICKLES[reader], seed)
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((0, 0, 1, 2, 8)))
    return data[:start] + rng.choice((b"", data[start:end] * 2, bytes([rng.randrange(256)]), rng.choice(PIECES))) + data[end:]


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "_folders", [tmp_path])


def inputs(reader: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((SEEDS / reader).iterdir())]


@pytest.mark.parametrize("reader", READERS)
def test_inputs_of_the_fuzzing(reader):
    results = [check(reader, data) for data in inputs(reader)]
    assert any(results) or reader == "read_deepspeed"
    for number, data in enumerate(inputs(reader)):
        check(reader, changed(data, reader, number))


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_random_changes(reader):
    for number in range(3000):
        data = inputs(reader)[number % len(inputs(reader))]
        for step in range(1 + number % 3):
            data = changed(data, reader, 10 * number + step)
        check(reader, data)
