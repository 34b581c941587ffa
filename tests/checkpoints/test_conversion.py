"""transformers' mapping from files to memory, on names, shapes and lazy tensors."""

from __future__ import annotations

import numpy as np
import pytest

from dynamics.checkpoints import Checkpoint, conversion, open_checkpoint
from dynamics.checkpoints.matching import match

#: GraniteMoE: `input_linear` on disk is `experts.gate_up_proj` in memory, which no structure of names tells
CONFIG = {
    "model_type": "granitemoe",
    "architectures": ["GraniteMoeForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "vocab_size": 10,
}
EXPERTS = {"input_linear.weight": (4, 12, 8), "output_linear.weight": (4, 8, 6), "router.layer.weight": (4, 8)}
IN_MEMORY = {
    "input_linear.weight": "experts.gate_up_proj",
    "output_linear.weight": "experts.down_proj",
    "router.layer.weight": "router.weight",
}
SLOW = pytest.mark.slow  # importing transformers


def states():
    random = np.random.default_rng(0)
    stem = "model.layers.0.block_sparse_moe."
    values = {name: random.normal(size=shape).astype(np.float32) for name, shape in EXPERTS.items()}
    disk, memory = (
        {f"{stem}{names[name]}": value for name, value in values.items()} for names in (dict(zip(EXPERTS, EXPERTS, strict=True)), IN_MEMORY)
    )
    norm = {"model.norm.weight": random.normal(size=8).astype(np.float32)}
    return disk | norm, memory | norm


def opened(tensors, config=None):
    checkpoint = open_checkpoint(tensors)
    return Checkpoint("memory", "memory", checkpoint.tensors, config)


@SLOW
@pytest.mark.parametrize("with_config", [0, 1])
def test_the_mapping_is_used_where_structure_does_not_tell(with_config):
    pytest.importorskip("transformers.conversion_mapping")
    sides = states()
    found = match(*(opened(side, CONFIG if number == with_config else None) for number, side in enumerate(sides)))
    assert sum(pair.base.numel for pair in found.pairs) == sum(value.size for value in sides[0].values())
    assert all(np.array_equal(pair.base.values(), pair.tuned.values()) for pair in found.pairs)
    assert not found.skipped
    assert "as transformers does on loading" in found.notes[-1]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, None),
        ({"hidden_size": 8}, None),
        (CONFIG | {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        (CONFIG | {"text_config": {"num_experts": 10**6}}, "num_experts 1000000"),
        pytest.param({"model_type": "no_such_model"}, "does not know 'no_such_model'", marks=SLOW),
        pytest.param(CONFIG | {"hidden_size": "eight"}, "was not used", marks=SLOW),
    ],
)
def test_without_the_mapping_weights_are_left_out_by_name(config, says):
    sides = states()
    found = match(opened(sides[0], config), opened(sides[1]))
    assert [pair.name for pair in found.pairs] == ["model.norm.weight"]
    assert {skip.name for skip in found.skipped} == (sides[0].keys() | sides[1].keys()) - {"model.norm.weight"}
    assert len(found.notes) == (says is not None)
    assert says is None or says in found.notes[0]


class Operation:
    """An operation of transformers, by its settings."""

    def __init__(self, **settings):
        self.__dict__.update(settings)


class Converter:
    """A converter of transformers, by its patterns."""

    def __init__(self, sources, targets):
        self.source_patterns, self.target_patterns = sources, targets


def applied(operation, values, sources, targets, shapes=None, config=None, **settings):
    """Apply an operation to arrays, a list for each source; return an array for each target."""
    mapper = conversion.Mapper(shapes or {}, "", [], [], config, lambda name: (name, None), str)
    tensors = {name: [open_checkpoint({"w": value}).tensors["w"] for value in values[name]] for name in values}
    result = conversion.OPERATIONS[operation](Operation(**settings), tensors, Converter(sources, targets), targets[0], mapper)
    return {name: tensor.values().reshape(tensor.shape) for name, (tensor,) in result.items()}


def assert_arrays(result, expected):
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(result[name], value), name


def test_operations():
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    first, second = rows[:4], rows[4:]
    assert_arrays(applied("MergeModulelist", {"a": [first, second]}, ["a"], ["t"], dim=0), {"t": np.stack([first, second])})
    assert_arrays(
        applied("Concatenate", {"b": [second], "a": [first]}, ["a", "b"], ["t"], dim=1), {"t": np.concatenate([first, second], 1)}
    )
    assert_arrays(applied("Chunk", {"a": [rows]}, ["a"], ["t", "u"], dim=0), {"t": first, "u": second})
    sizes = {"t": (6, 3), "u": (2, 3)}
    assert_arrays(applied("Split", {"a": [rows]}, ["a"], ["t", "u"], sizes, dim=0), {"t": rows[:6], "u": rows[6:]})
    assert_arrays(applied("Transpose", {"a": [rows]}, ["a"], ["t"], dim0=1, dim1=0), {"t": rows.T})
    assert_arrays(applied("Transpose", {"a": [rows]}, ["a"], ["t"], {"t": (8, 3)}, dim0=0, dim1=1, check_dims=True), {"t": rows})
    interleaved = np.stack([first, second], 1).reshape(8, 3)
    assert_arrays(applied("Interleave", {"a": [interleaved]}, ["a"], ["t"], dim=0, inverse=False), {"t": rows})
    assert_arrays(applied("Interleave", {"a": [rows]}, ["a"], ["t"], dim=0, inverse=True), {"t": interleaved})
    kernel = np.arange(48, dtype=np.float32).reshape(2, 3, 2, 2, 2)
    assert_arrays(applied("Conv3dToLinear", {"a": [kernel]}, ["a"], ["t"]), {"t": kernel.reshape(2, 24)})
    shape = {"in_channels": 3, "kernel_size": (2, 2, 2)}
    assert_arrays(applied("LinearToConv3d", {"a": [kernel.reshape(2, 24)]}, ["a"], ["t"], **shape), {"t": kernel})
    heads = rows.reshape(2, 2, 2, 3).swapaxes(1, 2).reshape(8, 3)
    permute = {"subconfig_key": None, "permute_layer_names": None, "inverse": False, "config": Operation(num_attention_heads=2)}
    assert_arrays(applied("PermuteForRope", {"a": [rows]}, ["a"], ["t"], **permute), {"t": heads})


@pytest.mark.parametrize(
    ("operation", "settings"),
    [
        ("Chunk", {"dim": 0, "num_shards_attribute": "parts"}),
        ("Chunk", {"dim": 1}),
        ("Interleave", {"dim": 1, "inverse": False}),
        ("Split", {"dim": 0}),
    ],
)
def test_operations_that_do_not_fit_are_not_applied(operation, settings):
    with pytest.raises(conversion.UnsupportedError):
        applied(operation, {"a": [np.ones((8, 3), np.float32)]}, ["a"], ["t", "u"], **settings)


def test_a_checkpoint_is_converted_as_far_as_the_mapping_fits():
    stack = Converter(["experts.*.w2.weight"], ["experts.down_proj"])
    stack.operations = [type("MergeModulelist", (Operation,), {})(dim=0)]
    unknown = Converter(["mystery.weight"], ["solved.weight"])
    unknown.operations = [type("Unheard", (Operation,), {})()]

    def rename(name, _renamings, _converters, _prefix, _shapes):
        if ".w2." in name:
            return "layers.0.experts.down_proj", "experts.*.w2.weight"
        return ("solved.weight", "mystery.weight") if name == "mystery.weight" else (name.replace("old", "new"), None)

    shapes = {"layers.0.experts.down_proj": (3, 2, 4), "new.weight": (2,), "mystery.weight": (2,)}
    mapper = conversion.Mapper(shapes, "", [], [stack, unknown], None, rename, lambda name: name)
    experts = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    disk = {f"module.layers.0.experts.{i}.w2.weight": expert for i, expert in enumerate(experts)}
    disk |= {"module.old.weight": np.ones(2, np.float32), "module.mystery.weight": np.zeros(2, np.float32)}
    checkpoint = open_checkpoint(disk)
    assert not mapper.holds(checkpoint)
    converted = mapper.convert(checkpoint)
    assert {name: tensor.shape for name, tensor in converted.tensors.items()} == shapes
    assert np.array_equal(converted.tensors["layers.0.experts.down_proj"].values(), experts.reshape(-1))
    assert mapper.holds(converted)
