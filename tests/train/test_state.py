"""The saved state of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics import InputError
from dynamics.train import state, tiny
from dynamics.train.policy import Policy
from train.helpers import llama


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path) -> None:
    policy = Policy(llama().eval(), tiny.build_tokenizer())

    class FullDisk:
        def save_pretrained(self, folder: Path) -> None:
            raise OSError(28, "No space left on device")

    policy.tokenizer = FullDisk()
    with pytest.raises(InputError, match=r"step_000001: cannot be written \(No space left on device\); .*--resume"):
        state.save_model(tmp_path / "step_000001", policy)
    assert not list(tmp_path.iterdir())
