"""What the engine uses of TRL, in the version that is installed: what has changed is named. ``make newest-trl`` runs it on the newest."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import textwrap
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("datasets")

import torch
from trl.trainer.grpo_trainer import GRPOTrainer

from dynamics.train.engines.trl import Row, _Waiting, tensors

VERSION = importlib.metadata.version("trl")
#: what TRL's loss reads of a batch beside what it is given, and why it need not be given
NOT_GIVEN = {
    **dict.fromkeys(
        ["pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles", "image_sizes"], "images"
    ),
    **dict.fromkeys(["token_type_ids", "mm_token_type_ids", "image_position_ids"], "images"),
    **dict.fromkeys(["old_per_token_logps", "sampling_per_token_logps"], "the ratio is one: it is in the derivatives"),
    "ref_per_token_logps": "read with beta only: the divergence is in the derivatives",
    "importance_sampling_ratio": "read with TRL's own vLLM, and by losses that are not chosen",
}


def given() -> set[str]:
    """Name what the engine gives TRL of a batch."""
    row = Row(np.array([1, 2]), np.array([3]), np.array([0.5], np.float32))
    return set(tensors([row], 2, 2, torch.device("cpu")))


def read(function: Callable[..., object], name: str = "inputs") -> Iterator[str]:
    """Name the entries of a dictionary that the source of a function reads: ``inputs["x"]``, ``inputs.get("x")``, ``"x" in inputs``."""

    def is_it(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == name

    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        match node:
            case ast.Subscript(value=value, slice=ast.Constant(value=str(key))) if is_it(value):
                yield key
            case ast.Call(func=ast.Attribute(value=value, attr="get"), args=[ast.Constant(value=str(key)), *_]) if is_it(value):
                yield key
            case ast.Compare(left=ast.Constant(value=str(key)), comparators=[value]) if is_it(value):
                yield key


def test_the_reader_of_source_finds_every_way_to_read_an_entry() -> None:
    def loss(inputs: dict[str, int], other: dict[str, int]) -> int:
        if "there" in inputs and "elsewhere" in other:
            return inputs["item"] + other["item of another"]
        return inputs.get("found", 0)

    assert set(read(loss)) == {"there", "item", "found"}


def test_the_loss_reads_of_a_batch_what_is_given_or_known() -> None:
    found = set(read(GRPOTrainer._compute_loss))
    new = found - given() - set(NOT_GIVEN)
    assert not new, f"TRL {VERSION} reads {sorted(new)} of a batch: give it (engines.trl.tensors), or say here why it need not be"
    gone = given() - found
    assert not gone, f"TRL {VERSION} no longer reads {sorted(gone)} of a batch, which the engine gives it"


def test_what_is_overridden_is_there_and_called() -> None:
    for name in ("_generate_and_score_completions", "create_optimizer", "create_scheduler"):
        assert hasattr(GRPOTrainer, name), f"TRL {VERSION} has no {name}, which the engine overrides"
        theirs, ours = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (GRPOTrainer, _Waiting))
        assert theirs == ours, f"TRL {VERSION}: {name} takes {theirs}, the engine's {ours}"
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "self._generate_and_score_completions(" in source, f"TRL {VERSION} asks for batches elsewhere than in _prepare_inputs"


def test_advantages_of_tokens_are_taken() -> None:
    """The derivative by each log-probability is given as the advantage of a token: TRL takes advantages of shape (B, T)."""
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert "advantages.dim() == 1" in source, f"TRL {VERSION} tells advantages of tokens from those of completions in another way"
