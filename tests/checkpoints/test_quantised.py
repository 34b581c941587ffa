"""Quantised weights are dequantised, or set aside by name; codes and scales are never compared."""

import contextlib
import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import reasons, wide, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.checkpoints import from_array, open_checkpoint
from dynamics.checkpoints.matching import match
from dynamics.checkpoints.quantised.layout import E2M1, rounded, unpack
from dynamics.checkpoints.safetensors import read_safetensors
from dynamics.checkpoints.tensor import float8_values
from dynamics.errors import InputError
from dynamics.overlap.__main__ import cli as overlap
from dynamics.sparsity import compare
from dynamics.sparsity.__main__ import cli
from dynamics.spectra.__main__ import cli as spectra

DATA = Path(__file__).parent.parent / "data" / "quantised"
WRITERS = sorted(path.name.split(".")[0] for path in DATA.glob("*.expected.safetensors"))
RNG = np.random.default_rng(7)
E4M3 = float8_values("float8_e4m3fn")
LAYER = "model.layers.0.self_attn.q_proj"


def lazy(name, array, dtype):
    return from_array(name, np.ascontiguousarray(array), dtype)


def same_in_chunks(tensor, expected, rng=RNG):
    """Check the values of a tensor, whole and in ranges that start and end anywhere."""
    expected = np.asarray(expected, np.float32).reshape(-1)
    np.testing.assert_array_equal(tensor.values(), expected)
    for _ in range(12):
        start, stop = sorted(rng.integers(0, tensor.numel + 1, 2).tolist())
        np.testing.assert_array_equal(tensor.values(start, stop), expected[start:stop])


# --- files that the formats' own libraries wrote


@pytest.mark.parametrize("writer", WRITERS)
def test_weights_equal_those_of_the_library_that_wrote_them(writer):
    checkpoint = open_checkpoint(DATA / writer)
    expected = read_safetensors(DATA / f"{writer}.expected.safetensors").tensors
    for name, tensor in expected.items():
        found = checkpoint.tensors[name]
        assert (found.shape, found.dtype) == (tensor.shape, tensor.dtype), name
        same_in_chunks(found, tensor.values())
    others = {name for name in checkpoint.tensors if name not in expected}
    assert all("norm" in name or name.endswith("bias") for name in others)
    assert sum(checkpoint.dequantised.values()) == sum(tensor.numel for tensor in expected.values())


def test_what_is_not_read_of_a_file_is_named():
    assert "its mode is nvfp4" in reasons(open_checkpoint(DATA / "mlx"))["nvfp4.weight"]
    assert "torchao, but its codes are int8" in reasons(open_checkpoint(DATA / "torchao"))["int4.weight"]
    assert "quanto in packed bits" in reasons(open_checkpoint(DATA / "quanto"))["int4.weight"]


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_the_libraries_still_write_the_same(writer, tmp_path):
    package = {"finegrained_fp8": "transformers", "gpt_oss": "transformers", "quanto": "optimum"}.get(writer, writer)
    package = "bitsandbytes" if writer.startswith("nf4") else package.removesuffix("_v2")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    shutil.copy(DATA / "make_quantised.py", tmp_path)
    sys.path.insert(0, str(tmp_path))
    try:
        maker = importlib.import_module("make_quantised")
    finally:
        sys.path.pop(0)
    maker.HERE = tmp_path
    maker.main([writer])
    for name, tensor in read_safetensors(tmp_path / f"{writer}.expected.safetensors").tensors.items():
        same_in_chunks(open_checkpoint(tmp_path / writer).tensors[name], tensor.values())


# --- reference quantisers of our own: any shape, any chunk boundaries


def pack_dense(codes, bits):
    """Pack rows of codes into 32-bit words, lowest bits first, without padding between codes."""
    stream = ((codes[..., None].astype(np.uint32) >> np.arange(bits)) & 1).reshape(codes.shape[0], -1)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    return (stream.reshape(codes.shape[0], -1, 32) << np.arange(32)).sum(-1).astype(np.uint32).view(np.int32)


def pack_nibbles(codes, high_first=False):
    low, high = (codes[..., 1::2], codes[..., ::2]) if high_first else (codes[..., ::2], codes[..., 1::2])
    return (low | (high << 4)).astype(np.uint8)


def fp8_blocks(rng):
    rows, columns, block = int(rng.integers(1, 40)), int(rng.integers(1, 40)), (int(rng.integers(1, 9)), int(rng.integers(1, 9)))
    codes = rng.integers(0, 127, (rows, columns)).astype(np.uint8) | (rng.integers(0, 2, (rows, columns)) << 7).astype(np.uint8)
    scale = rng.random((-(-rows // block[0]), -(-columns // block[1]))).astype(np.float32)
    dense = E4M3[codes] * np.kron(scale, np.ones(block, np.float32))[:rows, :columns]
    tensors = {"w.weight": lazy("w.weight", codes, "float8_e4m3fn"), "w.weight_scale_inv": scale}
    return tensors, {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(block)}}, dense


def packed_integers(rng):
    bits, groups, size, rows = int(rng.integers(1, 9)), int(rng.integers(1, 4)), int(rng.integers(2, 40)), int(rng.integers(2, 40))
    while 32 % bits and -(-groups * size * bits // 32) == -(-groups * size // (32 // bits)) != 1:
        size *= 2  # until the number of words tells dense packing from whole codes in each word
    codes = rng.integers(0, 1 << bits, (rows, groups * size))
    zero = rng.integers(0, 1 << bits, (rows, groups))
    scale = rng.random((rows, groups)).astype(np.float32)
    dense = (codes - np.repeat(zero, size, 1)) * np.repeat(scale, size, 1)
    tensors = {
        "w.weight_packed": pack_dense(codes, bits),
        "w.weight_zero_point": np.ascontiguousarray(pack_dense(zero.T, bits).T),
        "w.weight_scale": scale,
        "w.weight_shape": np.array(codes.shape),
    }
    options = {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": bits}}}}
    return tensors, {"quantization_config": options}, dense.astype(np.float32)


def mxfp4_experts(rng):
    experts, rows, groups = (int(size) for size in rng.integers(1, 5, 3))
    codes = rng.integers(0, 16, (experts, rows, groups, 32))
    scale = rng.integers(110, 140, (experts, rows, groups)).astype(np.uint8)
    dense = (E2M1[codes] * np.exp2(scale.astype(np.float32) - 127)[..., None]).reshape(experts, rows, -1).swapaxes(1, 2)
    return {"w_blocks": pack_nibbles(codes), "w_scales": scale}, {}, dense


def nvfp4(rng):
    experts, rows, groups = (int(size) for size in rng.integers(1, 5, 3))
    codes = rng.integers(0, 16, (experts, rows, groups * 16))
    scale = rng.integers(0, 127, (experts, rows, groups)).astype(np.uint8)
    whole = rng.random(experts).astype(np.float32)
    dense = E2M1[codes] * np.repeat(E4M3[scale] * whole[:, None, None], 16, -1)
    tensors = {
        "w.weight": pack_nibbles(codes),
        "w.weight_scale": lazy("w.weight_scale", scale, "float8_e4m3fn"),
        "w.weight_scale_2": whole,
    }
    return tensors, {"quantization_config": {"quant_method": "modelopt"}}, wide(rounded(dense.reshape(-1), "bfloat16"))


def gptq(rng):
    bits, groups = int(rng.choice([2, 3, 4, 8])), int(rng.integers(1, 5))
    inputs, outputs = groups * 32, 32 * int(rng.integers(1, 3))
    order = rng.permutation(inputs) // 32
    codes, points = rng.integers(0, 1 << bits, (outputs, inputs)), rng.integers(1, 1 << bits, (groups, outputs))
    scale = rng.random((groups, outputs)).astype(np.float32)
    old = bool(rng.integers(2))
    tensors = {
        "w.qweight": np.ascontiguousarray(pack_dense(codes, bits).T),
        "w.qzeros": pack_dense(points - old, bits),
        "w.scales": scale,
        "w.g_idx": order.astype(np.int32),
    }
    options = {"quant_method": "gptq", "bits": bits, "group_size": 32, "checkpoint_format": "gptq" if old else "gptq_v2"}
    return tensors, {"quantization_config": options}, ((codes - points.T[:, order]) * scale.T[:, order]).astype(np.float32)


def awq(rng):
    groups, outputs = int(rng.integers(1, 4)), 8 * int(rng.integers(1, 5))
    codes, points = rng.integers(0, 16, (groups * 16, outputs)), rng.integers(0, 16, (groups, outputs))
    scale = rng.random((groups, outputs)).astype(np.float32)
    order = np.arange(outputs).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(-1)
    tensors = {"w.qweight": pack_dense(codes[:, order], 4), "w.qzeros": pack_dense(points[:, order], 4), "w.scales": scale}
    dense = ((codes - np.repeat(points, 16, 0)) * np.repeat(scale, 16, 0)).astype(np.float32)
    return tensors, {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 16}}, dense.T


def nf4(rng, scale=None):
    rows, columns, block = int(rng.integers(1, 30)), int(rng.integers(1, 30)), 64
    numel = rows * columns
    codes, blocks = rng.integers(0, 16, numel + numel % 2), -(-numel // block)
    table = np.sort(rng.normal(size=16)).astype(np.float32)
    inner, outer, nested = (
        rng.integers(0, 256, blocks).astype(np.uint8),
        rng.random(256).astype(np.float32),
        rng.random(1).astype(np.float32),
    )
    absmax = outer[inner] * nested[0] + np.float32(0.25)
    state = {
        "quant_type": "nf4",
        "blocksize": block,
        "dtype": "float32",
        "shape": [rows, columns],
        "nested_blocksize": 256,
        "nested_offset": 0.25,
    }
    tensors = {
        "w.weight": pack_nibbles(codes, high_first=True)[:, None],
        "w.weight.absmax": inner,
        "w.weight.quant_map": table,
        "w.weight.nested_absmax": nested,
        "w.weight.nested_quant_map": outer,
        "w.weight.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(state).encode(), np.uint8),
    }
    return tensors, {}, (table[codes[:numel]] * np.repeat(absmax, block)[:numel]).reshape(rows, columns)


def int8_rows(rng):
    rows, columns = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    codes, scale = rng.integers(-127, 128, (rows, columns)).astype(np.int8), rng.random((rows, 1)).astype(np.float32)
    return {"w.weight": codes, "w.weight_scale": scale}, {}, codes * scale


def mlx(rng):
    bits, groups, rows = int(rng.choice([2, 3, 4, 5, 6, 8])), int(rng.integers(1, 4)), int(rng.integers(1, 9))
    codes = rng.integers(0, 1 << bits, (rows, groups * 32))
    scale, bias = (rng.normal(size=(rows, groups)).astype(np.float32) for _ in range(2))
    dense = codes.astype(np.float32) * np.repeat(scale, 32, 1) + np.repeat(bias, 32, 1)
    tensors = {"w.weight": pack_dense(codes, bits).view(np.uint32), "w.scales": scale, "w.biases": bias}
    return tensors, {"quantization": {"bits": bits, "group_size": 32}}, dense


QUANTISERS = (fp8_blocks, packed_integers, mxfp4_experts, nvfp4, gptq, awq, nf4, int8_rows, mlx)


def opened(tensors, config=None):
    """Open tensors in memory as a checkpoint with a config."""
    from dataclasses import replace

    from dynamics.checkpoints.memory import read_mapping
    from dynamics.checkpoints.quantised import dequantise

    return dequantise(replace(read_mapping(tensors), config=config))


@pytest.mark.parametrize("quantise", QUANTISERS, ids=lambda quantise: quantise.__name__)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_chunk_of_random_weights_is_dequantised_right(quantise, seed):
    rng = np.random.default_rng(seed)
    tensors, config, dense = quantise(rng)
    norm = {"norm.weight": np.ones(2, np.float32)}
    checkpoint = opened(norm | tensors, config)
    name = "w" if "w_blocks" in tensors else "w.weight"
    assert checkpoint.tensors.keys() == {"norm.weight", name}
    assert not checkpoint.ignored
    assert list(checkpoint.dequantised.values()) == [dense.size]
    same_in_chunks(checkpoint.tensors[name], dense, rng)


def damage(tensors, rng):
    """Drop a part, cut it, give it another dtype, or fill it with other bits."""
    name = str(rng.choice(list(tensors)))
    part = tensors[name]
    bits = part.stored().reshape(part.shape) if hasattr(part, "stored") else np.asarray(part)
    kind = int(rng.integers(5))
    if kind == 0:
        return {other: value for other, value in tensors.items() if other != name}
    if kind == 1:
        damaged = bits[: bits.shape[0] // 2] if bits.ndim else bits
    elif kind == 2:
        damaged = np.concatenate([bits, bits], axis=-1) if bits.ndim else np.stack([bits, bits])
    elif kind == 3:
        damaged = bits.astype(rng.choice(["u1", "i1", "i4", "u4", "f2", "f4", "i8"]))
    else:
        damaged = rng.integers(0, 256, bits.size * bits.itemsize).astype(np.uint8).view(bits.dtype).reshape(bits.shape)
    return tensors | {name: damaged}


@pytest.mark.filterwarnings("ignore:.*invalid value.*:RuntimeWarning")
@pytest.mark.parametrize("quantise", QUANTISERS, ids=lambda quantise: quantise.__name__)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_damaged_parts_are_never_compared(quantise, seed):
    """What is left is the norm, and at most one weight of dense floats, which is read or refused."""
    rng = np.random.default_rng(seed)
    tensors, config, _ = quantise(rng)
    checkpoint = opened({"norm.weight": np.ones(2, np.float32)} | damage(tensors, rng), config)
    for name, tensor in checkpoint.tensors.items():
        assert name in ("norm.weight", "w", "w.weight"), (name, tensor.dtype)
        assert tensor.dtype in ("float32", "float16", "bfloat16", "float64")
        with contextlib.suppress(InputError):
            tensor.values()
    assert len(checkpoint.tensors) == 2 or checkpoint.ignored


def test_older_packing_with_whole_codes_in_each_word():
    """compressed-tensors packed ten codes of 3 bits into a word before it packed 32 into three words."""
    codes = RNG.integers(0, 8, (4, 50))
    words = (codes.reshape(4, 5, 10) << (3 * np.arange(10))).sum(-1).astype(np.int32)
    stored = {"w.weight_packed": words, "w.weight_scale": np.ones((4, 1), np.float32), "w.weight_shape": np.array([4, 50])}
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 3}}}}}
    found = "fit 2 ways" if math.ceil(50 * 3 / 32) == 5 else ""  # for 50 columns both ways need five words: refused rather than guessed
    assert found in reasons(opened(stored, config))["w.weight"]
    codes = RNG.integers(0, 8, (4, 400))
    stored["w.weight_packed"] = (codes.reshape(4, 40, 10) << (3 * np.arange(10))).sum(-1).astype(np.int32)
    stored["w.weight_shape"] = np.array([4, 400])
    same_in_chunks(opened(stored, config).tensors["w.weight"], codes - 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 70), st.integers(1, 70))
def test_unpacking_starts_anywhere(bits, first, count):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (2, 140))
    words = pack_dense(codes, bits)
    low, high = first * bits // 32, -(-(first + count) * bits // 32)
    np.testing.assert_array_equal(unpack(words[:, low:high], bits, first, count), codes[:, first : first + count])


def test_rounding_to_bfloat16_is_to_the_nearest_even():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = RNG.integers(0, 2**32, 5000, dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        theirs = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(wide(rounded(values, "bfloat16")), theirs)


# --- pairs of the reported layouts: the same codes with scales twice as large


def codes_of(dtype, *shape):
    return lazy("", RNG.integers(1, 120, shape).astype(np.uint8), dtype)


ONE = np.ones((), np.float32)
F8_ONES = np.full((16, 2), 0x38, np.uint8)  # 1.0 as E4M3
PAIRS = {
    "fp8 blocks": ({f"{LAYER}.weight": codes_of("float8_e4m3fn", 16, 32)}, {f"{LAYER}.weight_scale_inv": np.ones((1, 1), np.float32)}),
    "fp8 of Mistral": (
        {"layers.0.attention.wq.weight": codes_of("float8_e4m3fn", 16, 32)},
        {"layers.0.attention.wq.qscale_weight": ONE, "layers.0.attention.wq.qscale_act": ONE},
    ),
    "fp8 of ComfyUI": (
        {f"{LAYER}.weight": codes_of("float8_e4m3fn", 16, 32)},
        {f"{LAYER}.scale_weight": ONE, f"{LAYER}.scale_input": ONE},
    ),
    "fp8 of DeepSeek's own names": (
        {"layers.0.attn.wo.weight": codes_of("float8_e4m3fn", 16, 32)},
        {"layers.0.attn.wo.scale": np.ones((1, 1), np.float32)},
    ),
    "int8 W8A8": ({f"{LAYER}.weight": codes_of("int8", 16, 32)}, {f"{LAYER}.weight_scale": np.ones((16, 1), np.float32)}),
    "nvfp4": (
        {f"{LAYER}.weight_packed": np.full((16, 16), 0x53, np.uint8), f"{LAYER}.weight_scale": lazy("", F8_ONES, "float8_e4m3fn")},
        {f"{LAYER}.weight_global_scale": np.ones(1, np.float32), f"{LAYER}.input_global_scale": np.ones(1, np.float32)},
    ),
    "nvfp4 of ModelOpt": (
        {f"{LAYER}.weight": np.full((16, 16), 0x53, np.uint8), f"{LAYER}.weight_scale": lazy("", F8_ONES, "float8_e4m3fn")},
        {f"{LAYER}.weight_scale_2": ONE, f"{LAYER}.input_scale": ONE, f"{LAYER}.k_scale": ONE},
    ),
    "torchao": ({f"{LAYER}._weight_qdata": codes_of("int8", 16, 32)}, {f"{LAYER}._weight_scale": np.ones((16, 1), np.float32)}),
    "quanto": (
        {f"{LAYER}.weight._data": codes_of("int8", 16, 32)},
        {f"{LAYER}.weight._scale": np.ones((16, 1), np.float32), f"{LAYER}.input_scale": ONE, f"{LAYER}.output_scale": ONE},
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_scale_twice_as_large_changes_every_weight(kind):
    codes, scales = PAIRS[kind]
    norm = {"model.norm.weight": np.ones(8, np.float32)}
    compared = compare(norm | codes | scales, norm | codes | {name: 2 * scale for name, scale in scales.items()})
    assert (compared.total.numel, compared.total.changed["exact"]) == (520, 512)
    assert compared.coverage == {"base": 1.0, "tuned": 1.0}
    own_names = {"fp8 of Mistral": "layers.0.attention.wq.weight", "fp8 of DeepSeek's own names": "layers.0.attn.wo.weight"}
    assert [row.name for row in compared.rows if row.changed["exact"]] == [own_names.get(kind, f"{LAYER}.weight")]
    assert all("scales of activations" in skip.reason for skip in compared.skipped)


def test_experts_of_gpt_oss_keep_their_bias():
    name = "model.layers.0.mlp.experts.gate_up_proj"
    blocks, scales = RNG.integers(0, 255, (4, 16, 1, 16)).astype(np.uint8), RNG.integers(100, 130, (4, 16, 1)).astype(np.uint8)
    base = {f"{name}_blocks": blocks, f"{name}_scales": scales, f"{name}_bias": np.ones((4, 16), np.float32)}
    tuned = base | {f"{name}_bias": np.full((4, 16), 2, np.float32), f"{name}_scales": scales + np.uint8(1)}
    compared = compare(base, tuned)
    assert {row.name: row.shape for row in compared.rows} == {name: (4, 32, 16), f"{name}_bias": (4, 16)}
    nonzero = int(np.count_nonzero(open_checkpoint(base).tensors[name].values()))
    assert compared.total.changed["exact"] == nonzero + 64


def test_original_files_of_gpt_oss_are_not_transposed():
    blocks, scales = RNG.integers(0, 255, (3, 8, 2, 16)).astype(np.uint8), RNG.integers(100, 130, (3, 8, 2)).astype(np.uint8)
    norm = {"norm.scale": np.ones(4, np.float32)}
    original = open_checkpoint(norm | {"block.0.mlp.mlp1_weight.blocks": blocks, "block.0.mlp.mlp1_weight.scales": scales})
    converted = open_checkpoint({"w_blocks": blocks, "w_scales": scales})
    dense = converted.tensors["w"].values().reshape(3, 64, 8).swapaxes(1, 2)
    assert original.tensors.keys() == {"norm.scale", "block.0.mlp.mlp1_weight"}
    same_in_chunks(original.tensors["block.0.mlp.mlp1_weight"], dense)


def test_codes_stored_as_bfloat16_are_no_weights_without_their_state():
    """``quant_storage`` of bitsandbytes can be any dtype."""
    codes = lazy("", RNG.integers(0, 2**15, (64, 1)).astype(np.uint16), "bfloat16")
    checkpoint = open_checkpoint({"norm.weight": np.ones(2, np.float32), "w.weight": codes, "w.weight.absmax": np.ones(4, np.float32)})
    assert checkpoint.tensors.keys() == {"norm.weight"}
    assert "no quant_state" in reasons(checkpoint)["w.weight"]


def test_zero_points_of_older_versions_of_compressed_tensors_are_not_packed():
    codes, points = RNG.integers(0, 16, (8, 64)), RNG.integers(-3, 3, (8, 1)).astype(np.int8)
    stored = {"w.weight_packed": pack_dense(codes, 4), "w.weight_shape": np.array([8, 64]), "w.weight_zero_point": points}
    checkpoint = open_checkpoint(stored | {"w.weight_scale": np.ones((8, 1), np.float32)})
    same_in_chunks(checkpoint.tensors["w.weight"], codes - 8 - points)


def test_a_pair_that_bitsandbytes_wrote_is_compared_as_weights():
    """Every weight of tuned is half as large again, so all change but those whose code is zero; most codes are the same."""
    base, tuned = (read_safetensors(DATA / f"nf4_{side}.expected.safetensors").tensors for side in ("base", "tuned"))
    before, after = (np.concatenate([tensor.values() for tensor in side.values()]) for side in (base, tuned))
    compared = compare(DATA / "nf4_base", DATA / "nf4_tuned")
    assert compared.total.numel == before.size + 64
    assert compared.total.changed["exact"] == int(np.count_nonzero(before != after)) > 0.85 * before.size
    layers = {row.name: row.relative_update for row in compared.layers}
    assert layers["model.layers.0"] == pytest.approx(0.5, abs=0.01)
    assert compared.coverage == {"base": 1.0, "tuned": 1.0}
    assert not compared.skipped


def test_a_pair_of_nf4_checkpoints_is_compared_as_weights():
    """Every weight of tuned is half as large again; the codes are the same."""
    tensors, _, dense = nf4(np.random.default_rng(3))
    base = tensors | {"norm.weight": np.ones(4, np.float32)}
    state = json.loads(bytes(tensors["w.weight.quant_state.bitsandbytes__nf4"]))
    half_more = np.frombuffer(json.dumps(state | {"nested_offset": 0.375}).encode(), np.uint8)
    tuned = base | {"w.weight.nested_absmax": 1.5 * tensors["w.weight.nested_absmax"], "w.weight.quant_state.bitsandbytes__nf4": half_more}
    compared = compare(base, tuned)
    assert compared.total.changed["exact"] == dense.size
    assert compared.total.relative_update == pytest.approx(0.5 * np.linalg.norm(dense) / np.hypot(np.linalg.norm(dense), 2))
    assert compared.base.dequantised == {"bitsandbytes nf4": dense.size}
    assert "both sides are quantised" in " ".join(compared.notes)
    assert "dequantised from bitsandbytes nf4" in compared.notes[0]


# --- what is not read


def floats(*shape):
    return np.ones(shape, np.float32)


def integers(dtype, *shape):
    return np.zeros(shape, dtype)


#: what the reason says -> the tensors of module ``a``
REFUSED = {
    "HQQ": {"W_q": integers("u1", 8, 8), "scale": floats(8), "zero": floats(8), "nbits": floats(1)},
    "AQLM": {"codes": integers("i1", 4, 4, 1), "codebooks": floats(1, 256, 1, 8), "scales": floats(4)},
    "QuIP#": {"Qidxs": integers("i2", 4, 4), "SU": floats(4), "SV": floats(4)},
    "EXL2": {"q_weight": integers("i4", 4, 4), "q_scale": integers("i4", 4, 4), "q_invperm": integers("i2", 4)},
    "EXL3": {"trellis": integers("i2", 4, 4, 16), "suh": floats(4), "svh": floats(4)},
    "SpQR": {"dense_weights": integers("i8", 8), "col_vals": integers("i4", 3), "in_perm": integers("i2", 4)},
    "VPTQ": {"indices": integers("i4", 1, 4, 4), "centroids": floats(1, 4)},
    "HIGGS": {"weight": integers("i2", 4, 4), "scales": floats(4, 1), "tables2": floats(4, 4)},
    "torchao, but": {"_weight_qdata": integers("i1", 4, 8), "_weight_scale": floats(2, 4)},
    "an unknown format": {"weight": integers("u1", 4, 32), "weight_scale": floats(1)},
    "INT8, but scales": {"weight": integers("i1", 16, 16), "weight_scale": floats(3, 5)},
    "FP8, but scales": {"weight": codes_of("float8_e4m3fn", 200, 16), "weight_scale_inv": floats(2, 1)},
    "after smoothing": {"weight": integers("i1", 4, 16), "weight_scale": floats(4), "pre_quant_scale": floats(16)},
    "GPTQ, but qzeros missing": {"qweight": integers("i4", 2, 16), "scales": floats(1, 16)},
    "bitsandbytes 4-bit, but no quant_state": {"weight": integers("u1", 8, 1), "weight.absmax": floats(1)},
    "MLX, but no config": {"weight": integers("u4", 4, 8), "scales": floats(4, 1), "biases": floats(4, 1)},
    "EETQ": {"weight": integers("i1", 4, 4), "weight_scales": floats(4)},
}


@pytest.mark.parametrize("says", REFUSED)
def test_a_format_that_is_not_read_is_named_and_left_out(says):
    stored = {"norm.weight": floats(4), "a.bias": floats(4)} | {f"a.{child}": value for child, value in REFUSED[says].items()}
    checkpoint = open_checkpoint(stored)
    assert checkpoint.tensors.keys() == {"norm.weight", "a.bias"}
    assert says in reasons(checkpoint)["a.weight"]
    (entry,) = checkpoint.ignored
    assert entry.numel > 0
    compared = compare(stored, stored)
    assert compared.incomplete
    assert compared.coverage["base"] < 1


@pytest.mark.parametrize(
    ("method", "says"), [("eetq", "EETQ"), ("hqq", "HQQ"), ("bitnet", "BitNet"), ("quark", "Quark"), ("auto-round", "AutoRound")]
)
def test_a_method_of_the_config_is_refused_by_its_name(method, says):
    stored = {"a.weight": np.ones((4, 4), np.int8), "a.weight_scale": np.ones((4, 1), np.float32), "norm.weight": np.ones(4, np.float32)}
    checkpoint = opened(stored, {"quantization_config": {"quant_method": method}})
    assert says in reasons(checkpoint)["a.weight"]
    assert checkpoint.tensors.keys() == {"norm.weight"}


def test_nothing_but_quantised_weights_that_are_not_read_is_an_error():
    with pytest.raises(InputError, match="nothing to compare: 2 weights quantised as HQQ, which is not read"):
        compare(*[{f"a.{child}": value for child, value in REFUSED["HQQ"].items()}] * 2)


def test_scales_without_codes_are_not_weights():
    stored = {"norm.weight": np.ones(4, np.float32), "a.weight_scale": np.ones(4, np.float32), "b.weight.absmax": np.ones(4, np.float32)}
    checkpoint = open_checkpoint(stored)
    assert checkpoint.tensors.keys() == {"norm.weight"}
    assert set(reasons(checkpoint).values()) == {"a scale of a quantised weight whose codes are not beside it"}


def test_a_scale_beside_a_plain_weight_is_set_aside():
    """compressed-tensors saves a weight as it is beside its scale while quantisation is only simulated."""
    stored = {"a.weight": np.ones((4, 4), np.float32), "a.weight_scale": np.ones(4, np.float32)}
    checkpoint = open_checkpoint(stored)
    assert checkpoint.tensors.keys() == {"a.weight"}
    assert reasons(checkpoint) == {"a.weight_scale": "a scale beside a.weight, which is stored as float32"}


def test_names_that_only_look_like_companions_stay_weights():
    stored = {
        name: np.ones((4, 4), np.float32) for name in ("a.scale", "a.scales", "a.biases", "logit_scale", "a.input_scale", "a.x_blocks")
    }
    checkpoint = open_checkpoint(stored)
    assert checkpoint.tensors.keys() == stored.keys()
    assert not checkpoint.ignored


def test_integers_of_a_model_of_floats_are_no_weights():
    stored = {
        "w": np.ones((4, 4), np.float32),
        "codes": np.ones((4, 4), np.int8),
        "mask": np.ones((4, 4), bool),
        "steps": np.ones(1, np.int64),
    }
    checkpoint = open_checkpoint(stored)
    assert checkpoint.tensors.keys() == {"w"}
    assert {entry.name: entry.numel for entry in checkpoint.ignored} == {"codes": 16, "mask": 0, "steps": 0}
    del stored["w"]
    assert open_checkpoint(stored).tensors.keys() == stored.keys()  # an array of integers by itself is compared as it is


def test_scales_of_an_unknown_format_are_no_weights():
    codes = RNG.integers(-99, 99, (16, 16))
    unknown = {
        f"{LAYER}.codes": codes.astype(np.int16),
        f"{LAYER}.steps": np.ones(16, np.float32),
        f"{LAYER}.bias": np.ones(16, np.float32),
    }
    checkpoint = open_checkpoint(unknown)
    assert list(checkpoint.tensors) == [f"{LAYER}.bias"]
    assert "scale, not a weight" in reasons(checkpoint)[f"{LAYER}.steps"]
    other = {f"{LAYER}.weight": lazy("", np.full((16, 16), 0x7E, np.uint8), "float8_e4m3fn"), f"{LAYER}.fp8_scale": np.ones(1, np.float32)}
    assert not open_checkpoint(other).tensors
    offset = {f"{LAYER}.weight": codes.astype(np.int8), f"{LAYER}.weight_scale": ONE, f"{LAYER}.weight_offset": ONE}
    assert "weight_offset" in reasons(open_checkpoint(offset))[f"{LAYER}.weight"]
    widened = open_checkpoint({f"{LAYER}.weight": codes.astype(np.float32), f"{LAYER}.weight_scale": np.ones(16, np.float32)})
    assert not widened.tensors
    assert [(entry.name, entry.numel) for entry in widened.ignored] == [(f"{LAYER}.weight", 256)]


def test_codes_of_8_bits_without_scales_are_no_weights():
    for dtype in ("float8_e4m3fn", "float8_e5m2"):
        values = float8_values(dtype)
        nearest = {
            size: np.array([np.nanargmin(np.abs(values - x)) for x in size * RNG.normal(size=256)], np.uint8) for size in (0.5, 100.0)
        }
        plain, codes = (open_checkpoint({"a.weight": lazy("a.weight", bits.reshape(16, 16), dtype)}) for bits in nearest.values())
        assert list(plain.tensors) == ["a.weight"]
        assert not codes.tensors
        assert [(entry.reason, entry.numel) for entry in codes.ignored] == [(f"{dtype} codes without a scale", 256)]


def test_8_bit_floats_are_weights_only_where_nothing_is_quantised():
    cast = {"a.weight": codes_of("float8_e4m3fn", 4, 4), "norm.weight": np.ones(4, np.float32)}
    compared = compare(cast, cast)
    assert compared.total.numel == 20
    assert "8-bit floats without scales" in " ".join(compared.notes)
    quantised = cast | {"b.weight": codes_of("float8_e4m3fn", 4, 4), "b.weight_scale": ONE}
    checkpoint = open_checkpoint(quantised)
    assert checkpoint.tensors.keys() == {"norm.weight", "b.weight"}
    assert "without a scale" in reasons(checkpoint)["a.weight"]


def test_a_tensor_in_memory_that_wraps_codes_is_named():
    """torchao's and quanto's tensors claim the dtype of the dense weight."""

    class Int8Tensor:
        shape = (4, 4)

        def __tensor_flatten__(self):
            return ["qdata", "scale"], None

    checkpoint = open_checkpoint({"a.weight": Int8Tensor(), "norm.weight": floats(4)})
    assert checkpoint.tensors.keys() == {"norm.weight"}
    (entry,) = checkpoint.ignored
    assert (entry.name, entry.numel) == ("a.weight", 16)
    assert "Int8Tensor; compare its dequantize()" in entry.reason


# --- GPTQ without a config


def gptq_words(points, codes=0x12345678):
    stored = {"w.qweight": np.full((4, 32), codes, np.int32), "w.qzeros": np.full((1, 4), points, np.uint32).view(np.int32)}
    return stored | {"w.scales": np.ones((1, 32), np.float32)}


def test_symmetric_zero_points_tell_the_two_formats_of_gptq_apart():
    first, second = (open_checkpoint(gptq_words(points)).tensors["w.weight"] for points in (0x77777777, 0x88888888))
    expected = np.tile(np.array([8, 7, 6, 5, 4, 3, 2, 1]) - 8, (32, 4))
    same_in_chunks(first, expected)
    same_in_chunks(second, expected)
    assert "gptq_v2" in reasons(open_checkpoint(gptq_words(0x12345678)))["w.weight"]


def test_a_config_beside_a_single_file_is_read(tmp_path):
    stored = gptq_words(0x12345678)
    codes = {name: ("I32" if value.dtype == np.int32 else "F32", value) for name, value in stored.items()}
    path = write_safetensors(tmp_path / "model.safetensors", codes)
    assert "w.weight" not in open_checkpoint(path).tensors
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": -1, "desc_act": False}))
    assert open_checkpoint(path).dequantised == open_checkpoint(tmp_path).dequantised == {"GPTQ 4-bit": 1024}


def test_a_group_number_outside_the_scales_is_an_error():
    stored = gptq_words(0x77777777) | {"w.g_idx": np.full(32, 3, np.int32)}
    with pytest.raises(InputError, match=r"w\.g_idx: names group 3 to 3 of 1"):
        open_checkpoint(stored).tensors["w.weight"].values()


# --- commands


def test_the_report_says_what_was_dequantised(tmp_path, capsys):
    dense = read_safetensors(DATA / "awq.expected.safetensors").tensors["q_proj.weight"]
    base = tmp_path / "base"
    base.mkdir()
    weights = {"q_proj.weight": dense.stored().reshape(dense.shape), "norm.weight": np.ones(8, np.float16)}
    write_safetensors(base / "model.safetensors", weights)
    assert cli([str(base), str(DATA / "awq"), "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert "dequantised" not in report["base"]
    assert report["tuned"]["dequantised"] == {"AWQ 4-bit": 8192}
    assert report["total"]["changed"]["exact"] == 0
    notes = " ".join(report["notes"])
    assert "tuned was dequantised from AWQ 4-bit (8,192 weights)" in notes
    assert "only tuned is quantised" in notes
    assert "AWQ also moves a scale" in notes


def test_overlap_and_spectra_say_so_too(tmp_path, capsys):
    pytest.importorskip("torch")
    base, tuned = str(DATA / "nf4_base"), str(DATA / "nf4_tuned")
    for command, paths in ((overlap, [base, tuned, tuned]), (spectra, [base, tuned, "--method", "none"])):
        report = tmp_path / "report.json"
        assert command([*paths, "--json", str(report)]) == 0
        assert "base was dequantised from bitsandbytes nf4 (4,096 weights)" in " ".join(json.loads(report.read_text())["notes"])
        assert "both sides are quantised" in " ".join(capsys.readouterr().out.split())


def test_a_refused_format_ends_with_exit_status_3(tmp_path, capsys):
    folder = tmp_path / "hqq"
    folder.mkdir()
    codes = {"norm.weight": np.ones(8, np.float32), "a.W_q": np.zeros((4, 4), np.uint8), "a.scale": np.ones(4, np.float32)}
    write_safetensors(folder / "model.safetensors", codes)
    assert cli([str(folder), str(folder)]) == 3
    assert "quantised as HQQ" in capsys.readouterr().out


def test_an_adapter_is_applied_to_a_dequantised_base():
    from dynamics.checkpoints.adapter import LowRank, with_lora_update

    tensors, _, dense = nf4(np.random.default_rng(5))
    base = open_checkpoint(tensors).tensors["w.weight"]
    update = LowRank(np.ones((dense.shape[0], 1)), np.full((1, dense.shape[1]), 0.5))
    np.testing.assert_allclose(with_lora_update("w.weight", base, update).values(), dense.reshape(-1).astype(float) + 0.5, rtol=1e-12)


def test_a_fused_projection_is_split_after_it_is_dequantised():
    tensors, _, dense = int8_rows(np.random.default_rng(11))
    rows = dense.shape[0]
    fused = {name.replace("w.", "m.qkv_proj."): value for name, value in tensors.items()}
    parts = {
        f"m.{part}_proj.weight": dense[index * rows // 3 : (index + 1) * rows // 3].astype(np.float32) for index, part in enumerate("qkv")
    }
    found = match(open_checkpoint(fused), open_checkpoint(parts))
    assert len(found.pairs) == 3
    for pair in found.pairs:
        np.testing.assert_array_equal(pair.base.values(), pair.tuned.values())
