"""Digests of weights: what they depend on, and what not."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from helpers import bf16, write_safetensors

from dynamics.checkpoints import digest, open_checkpoint
from dynamics.checkpoints.digests import CHUNK, LEAF
from dynamics.errors import InputError


def defined(tensors):
    """The definition of the manual, of a mapping from names to (dtype, array)."""
    entries = []
    for name, (dtype, array) in sorted(tensors.items()):
        data = array.tobytes()
        leaves = [hashlib.sha256(data[start : start + LEAF]).digest() for start in range(0, len(data), LEAF)]
        entries.append([name, dtype, list(array.shape), hashlib.sha256(b"".join(leaves)).hexdigest()])
    return "weights/1:" + hashlib.sha256(json.dumps(entries, separators=(",", ":")).encode()).hexdigest()


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "model.layers.0.up.weight": bf16(rng.normal(size=(300, 1000))),
        "model.layers.0.down.weight": bf16(rng.normal(size=(7, 3))),
        "model.norm.weight": bf16(np.ones(5)),
        "empty.weight": bf16(np.ones((0, 4))),
        "überall": bf16(np.ones(())),
    }


def coded(tensors):
    return {name: ("BF16", array) for name, array in tensors.items()}


def of(path):
    return digest(open_checkpoint(path))


def test_the_digest_is_the_documented_one(tensors, tmp_path):
    expected = defined({name: ("bfloat16", array) for name, array in tensors.items()})
    assert of(write_safetensors(tmp_path / "a.safetensors", coded(tensors))) == expected
    wide = {"w": np.arange(3 * CHUNK // 8 + 17, dtype=np.float64)}  # several spans, the last one short
    assert of(wide) == defined({"w": ("float64", wide["w"])})
    assert digest(open_checkpoint(wide), threads=1) == digest(open_checkpoint(wide), threads=3)


def test_shards_order_and_metadata_do_not_matter(tensors, tmp_path):
    whole = of(write_safetensors(tmp_path / "a.safetensors", coded(tensors)))
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = list(tensors)[::-1]
    for number, name in enumerate(names, 1):
        write_safetensors(folder / f"model-{number:05}-of-{len(names):05}.safetensors", coded({name: tensors[name]}), pad=number)
    assert of(folder) == whole


def test_a_bit_a_name_a_shape_and_a_dtype_matter(tensors):
    def held(arrays, dtype="bfloat16"):
        from dynamics.checkpoints import from_array

        return of({name: from_array(name, array, dtype) for name, array in arrays.items()})

    whole, name = held(tensors), "model.layers.0.up.weight"
    assert whole == held(dict(reversed(tensors.items())))
    for place in (0, tensors[name].size // 2, tensors[name].size - 1):
        flipped = tensors[name].copy()
        flipped.reshape(-1)[place] ^= 1
        assert held(tensors | {name: flipped}) != whole
    assert held(tensors | {name: tensors[name].reshape(1000, 300)}) != whole
    assert held({(f"{key}s" if key == name else key): array for key, array in tensors.items()}) != whole
    assert held({key: array for key, array in tensors.items() if key != "empty.weight"}) != whole
    assert held(tensors, "uint16") != whole
    assert of({"w": np.array([0.0])}) != of({"w": np.array([-0.0])})


def test_what_is_dequantised_merged_or_left_out_counts_as_it_is_stored(tmp_path):
    prefix = "base_model.model.layers.0.q_proj"
    state = {
        f"{prefix}.base_layer.weight": np.ones((4, 4), np.float32),
        f"{prefix}.lora_A.default.weight": np.ones((2, 4), np.float32),
        f"{prefix}.lora_B.default.weight": np.ones((4, 2), np.float32),
    }
    write_safetensors(tmp_path / "model.safetensors", state)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}))
    assert of(tmp_path) == of(state) == defined({name: ("float32", array) for name, array in state.items()})
    name = "model.layers.0.self_attn.q_proj"
    codes = {f"{name}.weight": ("F8_E4M3", np.ones((128, 128), np.uint8)), f"{name}.weight_scale_inv": np.ones((1, 1), np.float32)}
    codes["steps"] = np.arange(3)
    path = write_safetensors(tmp_path / "quantised.safetensors", codes)
    assert open_checkpoint(path).dequantised
    dtypes = ("float8_e4m3fn", "float32", "int64")
    arrays = (codes[f"{name}.weight"][1], codes[f"{name}.weight_scale_inv"], codes["steps"])
    assert of(path) == defined(dict(zip(codes, zip(dtypes, arrays, strict=True), strict=True)))


def test_an_adapter_that_was_applied_has_none(tmp_path):
    base = open_checkpoint({"model.layers.0.self_attn.q_proj.weight": np.eye(8, dtype=np.float32)})
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{prefix}.lora_A.weight": np.ones((2, 8), np.float32), f"{prefix}.lora_B.weight": np.ones((8, 2), np.float32)}
    write_safetensors(tmp_path / "adapter_model.safetensors", factors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}))
    adapter = open_checkpoint(tmp_path)
    assert digest(adapter) == of(factors)
    with pytest.raises(InputError, match="was applied to a base, and has no digest"):
        digest(adapter.adapter.apply_to_base(base)[0])
