"""Folders, mappings and ids: choosing the weight files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import reasons, write_safetensors

from dynamics.checkpoints import open_checkpoint
from dynamics.errors import InputError

A, B, C = (np.full((2, 2), value, np.float32) for value in (1, 2, 3))


def sharded(folder, index=True):
    write_safetensors(folder / "model-00001-of-00002.safetensors", {"a": A})
    write_safetensors(folder / "model-00002-of-00002.safetensors", {"b": B})
    if index:
        weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("index", [True, False])
def test_shards_with_or_without_an_index(tmp_path, index):
    checkpoint = open_checkpoint(sharded(tmp_path, index))
    assert checkpoint.format == "huggingface"
    assert {name: tensor.values()[0] for name, tensor in checkpoint.tensors.items()} == {"a": 1, "b": 2}
    assert checkpoint.dtypes == {"float32": 8}


def test_what_is_left_aside_is_named(tmp_path):
    sharded(tmp_path)
    write_safetensors(tmp_path / "consolidated.safetensors", {"tok_embeddings": A})
    (tmp_path / "optimizer.pt").write_bytes(b"never opened")
    (tmp_path / "training_args.bin").write_bytes(b"never opened")
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    checkpoint = open_checkpoint(tmp_path)
    assert reasons(checkpoint) == {
        "consolidated.safetensors": "file not read: the weights were taken from model-00001-of-00002.safetensors",
        "optimizer.pt": "not weights of the model",
        "training_args.bin": "not weights of the model",
    }
    assert checkpoint.config == {"tie_word_embeddings": True}


def test_the_single_file_comes_before_a_stale_index_as_in_transformers(tmp_path):
    sharded(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {"a": C, "b": C})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors["a"].values()[0] == 3
    assert "model-00001-of-00002.safetensors" in reasons(checkpoint)


def test_a_tensor_the_index_does_not_name_is_listed(tmp_path):
    sharded(tmp_path)
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", {"b": B, "stray": C})
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == ["a", "b"]
    assert reasons(checkpoint)["stray"] == "in model-00002-of-00002.safetensors, but the index does not name it"


def test_actor_folder_of_a_trainer_is_found(tmp_path):
    (tmp_path / "actor").mkdir()
    write_safetensors(tmp_path / "actor" / "model.safetensors", {"a": A})
    assert list(open_checkpoint(tmp_path).tensors) == ["a"]


def spoil_nothing(folder):
    for path in folder.iterdir():
        path.unlink()


def spoil_shard(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()


def spoil_shard_and_index(folder):
    spoil_shard(folder)
    (folder / "model.safetensors.index.json").unlink()


def spoil_index(folder):
    (folder / "model.safetensors.index.json").write_text("{")


def spoil_map(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}')


def spoil_escape(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')


def spoil_stale(folder):
    write_safetensors(folder / "model-00002-of-00002.safetensors", {"c": C})


def spoil_twice(folder):
    (folder / "model.safetensors.index.json").unlink()
    write_safetensors(folder / "model-00002-of-00002.safetensors", {"a": C})


def spoil_pointer(folder):
    (folder / "model-00001-of-00002.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_nothing, "is an empty folder; expected"),
        (spoil_shard, "names the shard model-00002-of-00002.safetensors, which is not there"),
        (spoil_shard_and_index, "model-00002-of-00002.safetensors is missing"),
        (spoil_index, "not valid JSON"),
        (spoil_map, "no weight_map"),
        (spoil_escape, "outside the folder"),
        (spoil_stale, "places b in model-00002-of-00002.safetensors, which does not hold it"),
        (spoil_twice, "a stands in two files"),
        (spoil_pointer, "Git LFS pointer"),
    ],
)
def test_a_bad_folder_is_one_line(tmp_path, spoil, says):
    spoil(sharded(tmp_path))
    with pytest.raises(InputError, match=says) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a.md", "b.md"], r"no weights in it: holds only a\.md, b\.md; expected"),
        (["c.md", "a.md", "src/x.py", "b.md", "d.md", "e.md"], r"no weights in it: holds a\.md, b\.md, c\.md, d\.md and 2 more; expected"),
        (["b.md", "src/x.py"], "no weights in it: holds only b.md, src/; expected"),
    ],
)
def test_a_folder_without_weights_says_what_it_holds(tmp_path, names, says):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=says):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere/at/all", "no such file or folder"),
        ("name\0with nul", "not a path|no such file"),
        ("x" * 5000, "too long|no such"),
    ],
)
def test_a_path_that_is_none(path, says):
    with pytest.raises(InputError, match=says):
        open_checkpoint(path)


def test_a_hub_id_offline_says_so(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="offline"):
        open_checkpoint("nobody/no-model-of-this-name")


def test_other_kinds_of_file(tmp_path):
    for name, says in (("notes.txt", "unknown kind"), ("config.json", "name the folder")):
        (tmp_path / name).write_text("{}")
        with pytest.raises(InputError, match=says):
            open_checkpoint(tmp_path / name)


def test_mappings_of_arrays_and_tensors():
    torch = pytest.importorskip("torch")
    tied = torch.randn(4, 3)
    mapping = {
        "numpy": A,
        "big endian": A.astype(">f4"),
        "bf16": torch.arange(6).bfloat16().reshape(2, 3),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "parameter": torch.nn.Parameter(tied),
        "alias": tied,
        "fp8": torch.arange(4.0).to(torch.float8_e4m3fn),
        "flag": torch.tensor([True, False]),
        "list": [1, 2],
        "complex": np.zeros(2, complex),
        "meta": torch.empty(2, device="meta"),
    }
    checkpoint = open_checkpoint(mapping)
    assert reasons(checkpoint).keys() == {"list", "complex", "meta", "flag"}
    assert "not a weight" in reasons(checkpoint)["flag"]
    assert checkpoint.tensors["bf16"].dtype == "bfloat16"
    assert checkpoint.tensors["transposed"].values().tolist() == [0, 3, 1, 4, 2, 5]
    assert checkpoint.tensors["big endian"].values().tolist() == [1, 1, 1, 1]
    assert checkpoint.tensors["fp8"].values().tolist() == [0, 1, 2, 3]
    assert checkpoint.tensors["parameter"].source == checkpoint.tensors["alias"].source


def test_ml_dtypes_arrays():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    checkpoint = open_checkpoint({"w": np.arange(5).astype(ml_dtypes.bfloat16)})
    assert checkpoint.tensors["w"].dtype == "bfloat16"
    assert checkpoint.tensors["w"].values().tolist() == [0, 1, 2, 3, 4]


def test_tensors_on_an_accelerator(rng):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from dynamics.sparsity import compare

    base = {"w": torch.from_numpy(rng.normal(0, 0.02, (3000, 1001))).bfloat16(), "v": torch.randn(7, 5)}
    tuned = {"w": (base["w"].float() * (1 + 2.0**-8 * (torch.rand(3000, 1001) < 0.1))).bfloat16(), "v": base["v"].T.contiguous().T}
    here = compare(base, tuned)
    there = compare({n: t.cuda() for n, t in base.items()}, {n: t.cuda() for n, t in tuned.items()})
    assert there.total == here.total
    assert compare(base, {n: t.cuda() for n, t in tuned.items()}).total == here.total
    assert 0 < here.total.changed["exact"] < here.total.numel


def test_parts_of_tensor_parallel_ranks_are_refused(tmp_path):
    for rank in range(2):
        write_safetensors(tmp_path / f"model-rank-{rank}-part-0.safetensors", {"w": A})
    with pytest.raises(InputError, match="parts of 2 tensor-parallel ranks"):
        open_checkpoint(tmp_path)
    (tmp_path / "model-rank-1-part-0.safetensors").unlink()
    assert list(open_checkpoint(tmp_path).tensors) == ["w"]
