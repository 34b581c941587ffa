"""The host's side of the sandbox against children that say random things: no exception, no hang, no result that was not said."""

from __future__ import annotations

import os
import random
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dynamics.train.sandbox.template import Template
from train.sandbox import random_template

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Unix")


class RandomChildren:
    """A backend that starts the random template."""

    name, confined, landlock = "random", False, False

    def __init__(self, seed: int):
        self.seed = seed

    def command(self, python: Sequence[str], folders: Sequence[str], environment: dict[str, str]) -> list[str]:
        return [sys.executable, "-S", "-s", str(Path(random_template.__file__)), str(self.seed)]


def messages(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= 4 and len(data) >= 4 + (size := struct.unpack("<I", data[:4])[0]):
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


@pytest.mark.parametrize(("seed", "count"), [(0, 100), pytest.param(1, 10_000, marks=pytest.mark.slow)])
def test_only_what_a_child_said_becomes_a_result(seed: int, count: int) -> None:
    template = Template(RandomChildren(seed), 0, 1 << 29)
    rng = random.Random(seed)
    accepted = 0
    template.start()
    try:
        for number in range(1, count + 1):
            requests = [b"(1,)"] * rng.randrange(4)
            begin = time.monotonic()
            results, error = template.exchange({}, requests, timeout=0.01)
            assert time.monotonic() - begin < 10
            all_said = messages(b"".join(random_template.said(seed, number)[1]))
            assert bool(error) == (results is None), number
            if results is None:
                continue
            if requests:
                accepted += 1
                assert [b"V" + result for result in results] == all_said[: len(requests)], number
                assert len(results) == len(requests), number
            else:
                assert all_said[0][:1] == b"D", number
    finally:
        template.stop()
    assert accepted > count / 50
