"""An update restores the tuned checkpoint bit by bit, is refused where it could not, and is checked as a stranger's file is."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from helpers import write_safetensors
from safetensors import safe_open
from safetensors.numpy import load_file

from dynamics.checkpoints import digest, from_array, open_checkpoint
from dynamics.checkpoints.files import File
from dynamics.checkpoints.safetensors import CODES, make_header, read_header, read_metadata, read_safetensors
from dynamics.errors import InputError
from dynamics.sparsity import apply_update, save_update
from dynamics.sparsity.__main__ import cli
from dynamics.sparsity.apply import cli as apply_cli
from dynamics.sparsity.update import BLOCK

WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int64": 8, "bool": 1}


def write(path, tensors):
    """Write a mapping from names to (dtype, array of its bits)."""
    return str(write_safetensors(path, {name: (CODES[dtype], array) for name, (dtype, array) in tensors.items()}))


def changed(rng, array, share):
    """Flip all bits of a share of the elements."""
    new = array.copy()
    chosen = rng.random(array.shape) < share
    new[chosen] = ~new[chosen]
    return new


@pytest.fixture
def sides():
    rng = np.random.default_rng(0)
    base, tuned = {}, {}
    for dtype, width in WIDTHS.items():
        for share in (0.0, 0.01, 0.4, 0.7, 1.0):
            bits = rng.integers(0, 2 ** (8 * width), (130, 7), f"u{width}")
            name = f"model.{dtype}.{share}.weight"
            base[name] = dtype, bits
            tuned[name] = dtype, changed(rng, bits, share)
    large = rng.integers(0, 2**16, 3 * BLOCK + 5, np.uint16)  # several blocks, of which one has no change and the last is short
    later = changed(rng, large, 0.1)
    later[BLOCK : 2 * BLOCK], later[-1] = large[BLOCK : 2 * BLOCK], ~large[-1]
    base["large"], tuned["large"] = ("bfloat16", large), ("bfloat16", later)
    base["empty"] = tuned["empty"] = ("float32", np.zeros((0, 3), np.uint32))
    base["scalar"], tuned["scalar"] = ("float32", np.array(1, np.uint32)), ("float32", np.array(2, np.uint32))
    signs = np.zeros(1000, np.float32)
    base["zeros"] = "float32", signs.view(np.uint32)
    signs = signs.copy()
    signs[::100] *= -1  # -0.0
    signs[5] = np.uint32(0x7FA00001).view(np.float32)  # a signalling NaN with a payload
    tuned["zeros"] = "float32", signs.view(np.uint32)
    base["dropped"] = "float32", np.ones(3, np.uint32)
    tuned["new"] = "float16", np.ones(3, np.uint16)
    base["resized"], tuned["resized"] = ("float32", np.ones((3, 4), np.uint32)), ("float32", np.ones((5, 4), np.uint32))
    base["retyped"], tuned["retyped"] = ("float32", np.ones(4, np.uint32)), ("bfloat16", np.ones(4, np.uint16))
    return base, tuned


def bits_of(path):
    return {name: (tensor.dtype, tensor.shape, tensor.stored().tobytes()) for name, tensor in read_safetensors(path).tensors.items()}


@pytest.mark.parametrize("threads", [1, 3])
def test_every_bit_is_restored(sides, tmp_path, threads):
    base, tuned = (write(tmp_path / f"{name}.safetensors", side) for name, side in zip(("base", "tuned"), sides, strict=True))
    update = save_update(base, tuned, tmp_path / "update.safetensors", threads=threads)
    given = apply_update(base, tmp_path / "update.safetensors", tmp_path / "out.safetensors", threads=threads)
    assert bits_of(tmp_path / "out.safetensors") == bits_of(tuned)
    assert given == update.tuned == digest(open_checkpoint(tuned))
    assert update.base == digest(open_checkpoint(base))
    both = sides[0].keys() & sides[1].keys() - {"resized", "retyped"}
    assert update.changed == sum(np.count_nonzero(sides[0][name][1] != sides[1][name][1]) for name in both)
    assert update.dropped == 1
    assert update.unchanged + update.sparse + update.whole == len(sides[1])
    assert update.size == (tmp_path / "update.safetensors").stat().st_size


def test_each_tensor_takes_the_fewer_bytes(sides, tmp_path):
    base, tuned = (write(tmp_path / f"{name}.safetensors", side) for name, side in zip(("base", "tuned"), sides, strict=True))
    save_update(base, tuned, tmp_path / "update.safetensors")
    entries, _ = read_header(File(tmp_path / "update.safetensors"))
    for name, (dtype, bits) in sides[1].items():
        before = sides[0].get(name, ("", np.zeros(0)))
        same_kind = before[0] == dtype and before[1].shape == bits.shape
        count = np.count_nonzero(before[1] != bits) if same_kind else 0
        kinds = {kind for kind in ("whole", "values", "counts", "indices") if f"{kind}/{name}" in entries}
        if same_kind and not count:
            assert not kinds
        elif same_kind and 4 * -(-bits.size // BLOCK) + count * (2 + bits.itemsize) < bits.nbytes:
            assert kinds == {"values", "counts", "indices"}
            assert entries[f"values/{name}"][:2] == (CODES[dtype], (count,))
        else:
            assert kinds == {"whole"}
    assert "large" in {entry.removeprefix("values/") for entry in entries}
    for code, _, begin in entries.values():
        assert begin % {"F64": 8, "I64": 8, "F32": 4, "U32": 4, "F16": 2, "BF16": 2, "U16": 2}.get(code, 1) == 0


def test_the_safetensors_library_reads_both_files(tmp_path):
    rng = np.random.default_rng(0)
    base = {"b": rng.normal(size=(50, 40)).astype(np.float32), "a": rng.integers(0, 9, 33).astype(np.uint8), "c": np.ones(3)}
    tuned = {name: array.copy() for name, array in base.items()}
    tuned["b"][3, 4], tuned["b"][49, 39], tuned["a"][7] = 1.5, -2.5, 99
    save_update(base, tuned, tmp_path / "update.safetensors")
    found = load_file(tmp_path / "update.safetensors")
    assert found["values/b"].tolist() == [1.5, -2.5]
    assert found["indices/b"].tolist() == [3 * 40 + 4, 1999]
    assert found["counts/b"].tolist() == [2]
    with safe_open(tmp_path / "update.safetensors", "numpy") as file:
        assert file.metadata()["schema"] == "dynamics.update/1"
    apply_update(base, tmp_path / "update.safetensors", tmp_path / "out.safetensors")
    for name, array in load_file(tmp_path / "out.safetensors").items():
        np.testing.assert_array_equal(array, tuned[name])


def test_shards_and_arrays_in_memory_are_bases_too(sides, tmp_path):
    tuned = write(tmp_path / "tuned.safetensors", sides[1])
    folder = tmp_path / "base"
    folder.mkdir()
    names = list(sides[0])
    for number in range(2):
        write(folder / f"model-{number + 1:05}-of-00002.safetensors", {name: sides[0][name] for name in names[number::2]})
    held = {name: from_array(name, bits.copy(), dtype) for name, (dtype, bits) in sides[0].items()}
    save_update(held, tuned, tmp_path / "update.safetensors")
    for base in (folder, held):
        apply_update(base, tmp_path / "update.safetensors", tmp_path / "out.safetensors")
        assert bits_of(tmp_path / "out.safetensors") == bits_of(tuned)
    for name, (_, bits) in sides[0].items():  # the caller's arrays are as they were
        assert held[name].stored().tobytes() == bits.tobytes()


def test_memory_does_not_grow_with_a_tensor(tmp_path):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**16, 1 << 24, np.uint16)  # 32 MiB
    base = write(tmp_path / "base.safetensors", {"w": ("bfloat16", bits)})
    bits[rng.integers(0, bits.size, bits.size // 8)] ^= 1
    tuned = write(tmp_path / "tuned.safetensors", {"w": ("bfloat16", bits)})
    del bits
    tracemalloc.start()
    try:
        save_update(base, tuned, tmp_path / "update.safetensors", threads=1)
        apply_update(base, tmp_path / "update.safetensors", tmp_path / "out.safetensors", threads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


def test_another_base_is_refused_and_leaves_no_file(sides, tmp_path):
    base, tuned = (write(tmp_path / f"{name}.safetensors", side) for name, side in zip(("base", "tuned"), sides, strict=True))
    save_update(base, tuned, tmp_path / "update.safetensors")
    for name, what in (("large", "is an update of other weights"), ("dropped", "is an update of other weights")):
        bits = sides[0][name][1].copy()
        bits[0] ^= 1
        other = write(tmp_path / "other.safetensors", sides[0] | {name: (sides[0][name][0], bits)})
        with pytest.raises(InputError, match=what):
            apply_update(other, tmp_path / "update.safetensors", tmp_path / "out.safetensors")
    for kept, what in (({"dropped"}, "drops tensors that"), ({"large"}, "which .* does not have; it belongs to another base")):
        other = write(tmp_path / "other.safetensors", {name: side for name, side in sides[0].items() if name not in kept})
        with pytest.raises(InputError, match=what):
            apply_update(other, tmp_path / "update.safetensors", tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.safetensors" for name in ("base", "other", "tuned", "update")]


def test_what_cannot_be_exact_is_refused(tmp_path):
    plain = {"model.layers.0.self_attn.q_proj.weight": np.eye(8, dtype=np.float32)}
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{prefix}.lora_A.weight": np.ones((2, 8), np.float32), f"{prefix}.lora_B.weight": np.ones((8, 2), np.float32)}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_safetensors(adapter / "adapter_model.safetensors", factors)
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}))
    opaque = write_safetensors(tmp_path / "opaque.safetensors", plain | {"x": ("C64", np.ones(2, np.uint64))})
    for base, tuned, what in (
        (plain, adapter, "is a LoRA adapter, which is an update already"),
        (plain, opaque, r"x cannot be read \(dtype C64"),
    ):
        with pytest.raises(InputError, match=what) as refused:
            save_update(base, tuned, tmp_path / "update.safetensors")
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "update.safetensors").exists()


def test_quantised_weights_are_restored_as_they_are_stored(tmp_path):
    name = "model.layers.0.self_attn.q_proj"
    codes = {f"{name}.weight": ("F8_E4M3", np.arange(128 * 128).astype(np.uint8).reshape(128, 128))}
    codes |= {f"{name}.weight_scale_inv": np.ones((1, 1), np.float32), "steps": np.arange(3)}
    base = write_safetensors(tmp_path / "base.safetensors", codes)
    later = codes[f"{name}.weight"][1].copy()
    later[5, 6] ^= 3
    tuned = write_safetensors(tmp_path / "tuned.safetensors", codes | {f"{name}.weight": ("F8_E4M3", later), "steps": np.arange(1, 4)})
    assert open_checkpoint(base).dequantised
    update = save_update(base, tuned, tmp_path / "update.safetensors")
    assert (update.sparse, update.whole, update.unchanged, update.changed) == (1, 1, 1, 4)
    apply_update(base, tmp_path / "update.safetensors", tmp_path / "out.safetensors")
    assert bits_of(tmp_path / "out.safetensors") == bits_of(tuned)


def forged(path, entries, **metadata):
    """Write an update; ``entries``: name -> (dtype, array)."""
    metadata = {"schema": "dynamics.update/1", "base": "weights/1:0", "tuned": "weights/1:0", "dropped": "[]"} | metadata
    kept = {key: value for key, value in metadata.items() if value is not None}
    header = make_header([(name, dtype, array.shape) for name, (dtype, array) in entries.items()], kept)
    path.write_bytes(header + b"".join(array.tobytes() for _, array in entries.values()))
    return path


def sparse(values, counts, indices, name="w"):
    return {
        f"values/{name}": ("float32", np.array(values, np.float32)),
        f"counts/{name}": ("uint32", np.array(counts, np.uint32)),
        f"indices/{name}": ("uint16", np.array(indices, np.uint16)),
    }


@pytest.mark.parametrize(
    ("entries", "metadata", "what"),
    [
        ({}, {"schema": None}, "is no update that --save-update wrote"),
        ({}, {"tuned": None}, "its metadata lacks base, tuned or dropped"),
        ({}, {"dropped": "w"}, "dropped"),
        ({}, {"dropped": '[["w"]]'}, "drops tensors that"),
        ({}, {"dropped": '["nothing"]'}, "drops tensors that"),
        ({"odd/w": ("float32", np.ones(2, np.float32))}, {}, "has an entry odd/w"),
        ({"whole/__metadata__": ("float32", np.ones(2, np.float32))}, {}, "has an entry whole/__metadata__"),
        ({"whole/" + "w" * 1001: ("float32", np.ones(2, np.float32))}, {}, "has an entry whole/www"),
        ({"whole/w": ("float32", np.ones(2, np.float32))} | sparse([1], [1, 0], [0]), {}, "says two things of w"),
        (sparse([1], [1, 0], [0]), {"dropped": '["w"]'}, "says two things of w"),
        (dict(list(sparse([1], [1, 0], [0]).items())[:2]), {}, "has not all of values, counts and indices"),
        (sparse([1], [1, 0], [0], "nothing"), {}, "changes nothing in float32, which .* does not have"),
        (sparse([1], [1, 0], [0], "half"), {}, "changes half in float32, which .* stores as float16"),
        (sparse([1], [1, 0], [0, 1]), {}, "do not fit together"),
        (sparse([1], [1, 0, 0], [0]), {}, "changes w of another size"),
        (sparse([1], [1, 1], [0]), {}, "do not add up"),
        (sparse([1] * 2, [2**32 - 1, 3], [0] * 2), {}, "do not add up"),
        (sparse([1] * 2, [2, 0], [5, 5]), {}, "not ascending"),
        (sparse([1] * 2, [2, 0], [5, 4]), {}, "not ascending"),
        (sparse([1], [0, 1], [10]), {}, "lie outside of the tensor"),
        (sparse([1], [0, 1], [9]), {}, "is an update of other weights"),
    ],
)
def test_hostile_updates_end_in_one_line(tmp_path, entries, metadata, what):
    base = {"w": np.zeros(BLOCK + 10, np.float32), "half": np.zeros(BLOCK + 10, np.float16)}
    update = forged(tmp_path / "update.safetensors", entries, **metadata)
    with pytest.raises(InputError, match=what) as refused:
        apply_update(base, update, tmp_path / "out.safetensors")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["update.safetensors"]


def test_any_damage_to_an_update_is_noticed(tmp_path):
    base, tuned = {"w": np.zeros(300, np.float32)}, {"w": np.zeros(300, np.float32)}
    tuned["w"][[3, 200]] = 1, 2
    save_update(base, tuned, tmp_path / "update.safetensors")
    whole = (tmp_path / "update.safetensors").read_bytes()
    room = 8 + int.from_bytes(whole[:8], "little")
    for place in range(room, len(whole)):
        (tmp_path / "update.safetensors").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError):
            apply_update(base, tmp_path / "update.safetensors", tmp_path / "out.safetensors")
    (tmp_path / "update.safetensors").write_bytes(whole[:-1])
    with pytest.raises(InputError, match="truncated"):
        apply_update(base, tmp_path / "update.safetensors", tmp_path / "out.safetensors")


def test_on_the_command_line(sides, tmp_path, capsys):
    names = [name for name in (*sides[0], "new") if name in ("large", "dropped", "new", "zeros") or "bfloat16" in name]
    base, tuned = (
        write(tmp_path / f"{which}.safetensors", {name: side[name] for name in names if name in side})
        for which, side in zip(("base", "tuned"), sides, strict=True)
    )
    update, out = str(tmp_path / "update.safetensors"), str(tmp_path / "out.safetensors")
    assert cli([base, tuned, "--save-update", update, "--allow-partial"]) == 0
    said = capsys.readouterr().err
    assert f"wrote {update}" in said
    assert "1 dropped" in said
    assert apply_cli([base, update, out]) == 0
    assert digest(open_checkpoint(tuned)) in capsys.readouterr().err
    assert bits_of(out) == bits_of(tuned)
    assert read_metadata(File(update))["tuned"] == digest(open_checkpoint(tuned))
    for wrong in (["--save-update", base], ["--save-update", str(tmp_path / "u.bin")], [tuned, "--save-update", update]):
        assert cli([base, tuned, *wrong]) == 2
    assert cli([base, tuned, "--save-update", update, "--part", "1/2", "--json", str(tmp_path / "part.json")]) == 2
    assert "--save-update: a part does not read whole checkpoints" in capsys.readouterr().err
    assert apply_cli([base, update, update]) == 2
    assert "is an input" in capsys.readouterr().err
