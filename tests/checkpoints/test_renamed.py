"""Names and shapes of real models, on disk and in memory, without transformers and without a config: every weight is compared once."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.matching import match
from dynamics.errors import InputError
from dynamics.sparsity import compare

TABLE = Path(__file__).parents[1] / "data" / "checkpoints" / "families.txt.gz"


@cache
def families():
    """Return (lines of memory, lines of disk) of each family."""
    tables = {}
    for line in gzip.decompress(TABLE.read_bytes()).decode().splitlines():
        kind, *fields = line.split()
        if kind == "#":
            memory, disk = tables.setdefault(fields[0], ([], []))
        else:
            (memory if kind == "memory" else disk).append(fields)
    return tables


def written(memory_lines, disk_lines):
    """Make the tensors of both sides: every weight has a value of its own, and tied tensors share their memory."""
    memory, count = {}, 0
    for name, shape, kind, *first in memory_lines:
        size = tuple(map(int, shape.split(",")))
        if kind == "tied":
            memory[name] = memory[first[0]]
        else:
            memory[name] = np.arange(count + 1, count + 1 + np.prod(size), dtype=np.float32).reshape(size)
            count += memory[name].size
    disk = {}
    for name, of, *part in disk_lines:
        if part == ["transposed"]:
            disk[name] = memory[of].swapaxes(1, 2).copy()
        elif part:
            expert, start, stop = map(int, part)
            disk[name] = memory[of][expert, start:stop].copy()
        else:
            disk[name] = memory[of].copy()
    return disk, memory


@pytest.mark.parametrize("family", families())
def test_a_model_on_disk_is_the_model_in_memory(family):
    memory_lines, disk_lines = families()[family]
    disk, memory = written(memory_lines, disk_lines)
    parameters = {name: memory[name] for name, _, kind, *_ in memory_lines if kind == "parameter"}
    found = match(open_checkpoint(disk), open_checkpoint(memory))
    assert sum(pair.base.numel for pair in found.pairs) == sum(value.size for value in parameters.values())
    for pair in found.pairs:
        assert np.array_equal(pair.base.values(), pair.tuned.values()), pair.name
    assert not [skip for skip in found.skipped if skip.numel]
    for value in parameters.values():
        value.reshape(-1)[0] += 0.5
    total = compare(disk, memory).total
    assert total.changed["exact"] == len(parameters)


def older_names(name):
    """Return the name of a weight of Qwen2.5-VL as published, before the classes of transformers 4.52."""
    if name.startswith("model.language_model."):
        return name.replace("model.language_model.", "model.", 1)
    return name.removeprefix("model.") if name.startswith("model.visual.") else name


def qwen2_5_vl():
    """Make the weights of a Qwen2.5-VL model with two layers of width 32: 92,672 in all."""
    random = np.random.default_rng(0)
    layer = {f"self_attn.{part}_proj.weight": (rows, 32) for part, rows in (("q", 32), ("k", 16), ("v", 16), ("o", 32))}
    layer |= {f"self_attn.{part}_proj.bias": (rows,) for part, rows in (("q", 32), ("k", 16), ("v", 16))}
    layer |= {"mlp.gate_proj.weight": (64, 32), "mlp.up_proj.weight": (64, 32), "mlp.down_proj.weight": (32, 64)}
    layer |= {"input_layernorm.weight": (32,), "post_attention_layernorm.weight": (32,)}
    block = {"norm1.weight": (32,), "norm2.weight": (32,), "attn.qkv.weight": (96, 32), "attn.qkv.bias": (96,)}
    block |= {"attn.proj.weight": (32, 32), "attn.proj.bias": (32,)}
    block |= {
        f"mlp.{part}_proj.{kind}": (32, 32) if kind == "weight" else (32,) for part in ("gate", "up", "down") for kind in ("weight", "bias")
    }
    merger = {"ln_q.weight": (32,), "mlp.0.weight": (128, 128), "mlp.0.bias": (128,), "mlp.2.weight": (32, 128), "mlp.2.bias": (32,)}
    shapes = {"model.language_model.embed_tokens.weight": (128, 32), "model.language_model.norm.weight": (32,), "lm_head.weight": (128, 32)}
    shapes |= {f"model.language_model.layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    shapes |= {"model.visual.patch_embed.proj.weight": (32, 3, 2, 14, 14)}
    shapes |= {f"model.visual.blocks.0.{name}": shape for name, shape in block.items()}
    shapes |= {f"model.visual.merger.{name}": shape for name, shape in merger.items()}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_published_vision_language_model_against_one_saved_today():
    weights = qwen2_5_vl()
    tuned = {name: value.copy() for name, value in weights.items()}
    for name, value in tuned.items():
        if "language_model.layers" in name and value.ndim == 2:
            value.reshape(-1)[:10] += 1
    found = compare({older_names(name): value for name, value in weights.items()}, tuned)
    assert found.total.numel == 92_672
    assert found.total.changed["exact"] == 140
    assert not found.incomplete
    assert not found.skipped
    assert "base = tuned: model.* = model.language_model.*, * = model.*" in found.notes[0]


def test_two_towers_of_equal_shapes_are_not_taken_for_each_other():
    layers = {f"layers.{i}.{name}": (4, 4) for i in range(2) for name in ("q_proj.weight", "o_proj.weight", "fc1.weight")}

    def towers(*prefixes):
        return {
            f"{prefix}.{name}": np.random.default_rng(i).normal(size=shape)
            for i, prefix in enumerate(prefixes)
            for name, shape in layers.items()
        }

    with pytest.raises(InputError, match="no tensor in common"):
        match(open_checkpoint(towers("first", "second")), open_checkpoint(towers("third", "fourth")))
    for base, tuned in (
        (["vision_tower"], ["audio_tower"]),
        (["model"], ["vision_tower"]),
        (["encoder"], ["decoder"]),
        (["policy"], ["ref_policy"]),
    ):
        with pytest.raises(InputError, match="no tensor in common"):
            match(open_checkpoint(towers(*base)), open_checkpoint(towers(*tuned)))
    anchor = {"norm.weight": np.ones(3)}
    found = match(open_checkpoint(towers("first", "second") | anchor), open_checkpoint(towers("third", "fourth") | anchor))
    assert [pair.name for pair in found.pairs] == ["norm.weight"]
    assert len(found.skipped) == 24
    assert "fits more than one tensor" in found.skipped[0].reason


def test_layers_that_are_numbered_from_one_are_not_compared_with_those_from_zero():
    base = {f"model.layers.{i}.mlp.up_proj.weight": np.full((2, 2), i, np.float32) for i in range(3)}
    shifted = {f"model.layers.{i + 1}.mlp.up_proj.weight": np.full((2, 2), i, np.float32) for i in range(3)}
    anchor = {"model.norm.weight": np.ones(3, np.float32)}
    found = match(open_checkpoint(base | anchor), open_checkpoint(shifted | anchor))
    assert [pair.name for pair in found.pairs] == ["model.norm.weight"]
    assert {skip.reason for skip in found.skipped} == {"numbered differently on the two sides, so that equal names are not the same module"}
    shorter = dict(list(base.items())[:2])  # a model cut off keeps its numbers
    assert len(match(open_checkpoint(base), open_checkpoint(shorter)).pairs) == 2


def test_a_layer_for_multi_token_prediction_that_a_trainer_leaves_out():
    base = {f"model.layers.{i}.mlp.up_proj.weight": np.ones((2, 2), np.float32) for i in range(3)} | {
        "mtp.fc.weight": np.ones((2, 4), np.float32)
    }
    config = {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}
    opened = open_checkpoint(base)
    opened = type(opened)("base", "memory", opened.tensors, config)
    found = match(opened, open_checkpoint(dict(list(base.items())[:2])))
    assert len(found.pairs) == 2
    assert [(skip.name, skip.by_design) for skip in found.skipped] == [("model.layers.2.mlp.up_proj.weight", True), ("mtp.fc.weight", True)]
    assert all("multi-token prediction" in skip.reason for skip in found.skipped)


def test_balancing_biases_are_no_weights():
    name = "model.layers.3.mlp.gate.e_score_correction_bias"
    base = {"model.norm.weight": np.ones(3, np.float32), name: np.zeros(8, np.float32)}
    found = match(open_checkpoint(base), open_checkpoint(base | {name: np.ones(8, np.float32)}))
    assert [pair.name for pair in found.pairs] == ["model.norm.weight"]
    assert {(skip.name, skip.numel) for skip in found.skipped} == {(name, 0)}
    assert "balances the load of experts" in found.skipped[0].reason


def test_stacks_of_experts_that_lie_the_other_way_round():
    """Qwen3-VL-MoE is published as (experts, in, out) under the names of (experts, out, in); a square stack lies as its sibling does."""
    random = np.random.default_rng(0)
    memory = {f"model.layers.{i}.mlp.experts.gate_up_proj": random.normal(size=(3, 12, 6)).astype(np.float32) for i in range(2)}
    memory |= {f"model.layers.{i}.mlp.experts.down_proj": random.normal(size=(3, 6, 6)).astype(np.float32) for i in range(2)}
    disk = {name: value.swapaxes(1, 2).copy() for name, value in memory.items()}
    prefixed = {name.replace("model.", "model.language_model."): value for name, value in disk.items()}
    for base in (disk, prefixed | {"model.language_model.norm.weight": np.ones(6, np.float32)}):
        found = compare(base, memory | {"model.norm.weight": np.ones(6, np.float32)})
        assert found.total.changed["exact"] == 0
        assert sum(row.numel for row in found.rows if "experts" in row.name) == sum(value.size for value in memory.values())
        assert any("compared after transposing" in note for note in found.notes)


def test_a_copy_beside_the_model_is_not_taken_for_the_model():
    layers = {f"layers.{i}.{name}": (4, 4) for i in range(2) for name in ("q_proj.weight", "o_proj.weight", "fc1.weight")}

    def parts(**seeds):
        return {
            f"{prefix.replace('__', '.')}.{name}": np.random.default_rng([seed, i]).normal(size=shape)
            for prefix, seed in seeds.items()
            for i, (name, shape) in enumerate(layers.items())
        }

    for tuned in (
        parts(policy__model=0, reference__model=1),
        parts(student=0, teacher=1),
        parts(model=0, ema_model=1),
        parts(x=0, draft=1),
    ):
        found = match(open_checkpoint(parts(model=0)), open_checkpoint(tuned))
        assert len(found.pairs) == len(found.skipped) == len(layers)
        assert all(np.array_equal(pair.base.values(), pair.tuned.values()) for pair in found.pairs)
    anchor = {"norm.weight": np.ones(3)}
    found = match(open_checkpoint(parts(model=0, expert=1) | anchor), open_checkpoint(parts(model__language_model=0, model=1) | anchor))
    assert [pair.name for pair in found.pairs] == ["norm.weight"]
