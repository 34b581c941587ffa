"""Folders that Megatron Core wrote hold the parameters of its model, under their names; other formats of Megatron are refused."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import ends_well, reasons

from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.matching import match
from dynamics.errors import InputError

ARCHIVE = Path(__file__).parents[1] / "data" / "checkpoints" / "megatron.zip"
WORLDS = {"dense": 2, "moe": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("megatron")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(root)
    return root


def parameters(root, kind):
    """Join the parameters of all ranks as Megatron's layers split them, under the names of Megatron's fused modules."""
    ranks = [np.load(root / f"{kind}-rank{rank}.npz") for rank in range(WORLDS[kind])]
    joined = {}
    for name in ranks[0]:
        parts = [rank[name] for rank in ranks]
        if "norm" in name or "router" in name:
            whole = parts[0]
        elif "linear_proj" in name or "linear_fc2" in name:
            whole = np.concatenate(parts, axis=1)
        elif "linear_fc1" in name:  # each rank has its part of the gate and of the other half
            whole = np.concatenate([half for side in (0, 1) for half in (np.split(part, 2)[side] for part in parts)])
        else:
            whole = np.concatenate(parts)
        name = name.replace("input_layernorm.", "self_attention.linear_qkv.layer_norm_")
        joined[name.replace("pre_mlp_layernorm.", "mlp.linear_fc1.layer_norm_")] = whole
    return joined


def assert_is_model(root, kind):
    checkpoint = open_checkpoint(root / kind)
    assert checkpoint.format == "megatron"
    expected = parameters(root, kind)
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in checkpoint.tensors.items():
        assert tensor.name == name
        assert np.array_equal(tensor.values().reshape(tensor.shape), expected[name])
    assert set(reasons(checkpoint).values()) == {"extra state of a module, not weights"}


@pytest.mark.parametrize("kind", WORLDS)
def test_layers_and_experts_are_those_of_the_model(folder, kind):
    assert_is_model(folder, kind)


def test_two_checkpoints_are_compared_whole_and_names_of_hugging_face_refused(folder):
    first, other = open_checkpoint(folder / "moe"), open_checkpoint(folder / "moe")
    found = match(first, other)
    assert len(found.pairs) == len(first.tensors)
    hugging_face = open_checkpoint(
        {"model.embed_tokens.weight": np.zeros((16, 8)), "model.layers.0.mlp.down_proj.weight": np.zeros((8, 12))}
    )
    with pytest.raises(InputError, match="the names of Megatron, whose fused rows"):
        match(open_checkpoint(folder / "dense"), hugging_face)


def test_the_last_iteration_is_read(folder, tmp_path):
    shutil.copytree(folder / "dense", tmp_path / "iter_0000020")
    (tmp_path / "iter_0000010").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("20\n")
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, checkpoint.path, len(checkpoint.tensors)) == ("megatron", str(tmp_path), 20)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("30\n")
    with pytest.raises(InputError, match="names the folder iter_0000030, which is not there"):
        open_checkpoint(tmp_path)


def test_a_distributed_checkpoint_in_the_sub_folder_of_a_trainer(folder, tmp_path):
    shutil.copytree(folder / "dense", tmp_path / "weights")
    (tmp_path / "optimizer_0").mkdir()
    (tmp_path / "optimizer_0" / ".metadata").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, checkpoint.config) == ("megatron", {"model_type": "x"})


def test_other_formats_of_megatron(tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"}))
    with pytest.raises(InputError, match="in the format zarr; save it again with --ckpt-format torch_dist"):
        open_checkpoint(tmp_path)
    (tmp_path / "metadata.json").unlink()
    (tmp_path / "mp_rank_00").mkdir()
    state = {"model": {"decoder.layers.0.w": torch.ones(3), "decoder.layers.0._extra_state": torch.zeros(9)}, "iteration": 3}
    torch.save(state, tmp_path / "mp_rank_00" / "model_optim_rng.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, list(checkpoint.tensors)) == ("megatron", ["decoder.layers.0.w"])
    assert reasons(checkpoint)["decoder.layers.0._extra_state"] == "extra state of a module, not weights"
    (tmp_path / "mp_rank_01").mkdir()
    with pytest.raises(InputError, match="split over 2 ranks"):
        open_checkpoint(tmp_path)


def test_damage_anywhere_is_an_input_error_or_harmless(folder, tmp_path):
    shutil.copytree(folder / "moe", tmp_path / "moe")
    rng = np.random.default_rng(0)
    for name in (".metadata", "__0_0.distcp", "metadata.json"):
        path = tmp_path / "moe" / name
        whole = path.read_bytes()
        for number in range(6):
            data = bytearray(whole if number % 3 else whole[: rng.integers(0, len(whole))])
            for place in rng.integers(0, max(len(data), 1), 3 if data else 0):
                data[place] = rng.integers(0, 256)
            path.write_bytes(data)
            assert ends_well(open_checkpoint, tmp_path / "moe")
        path.write_bytes(whole)


@pytest.mark.slow
def test_the_files_are_written_anew_by_megatron(tmp_path):
    pytest.importorskip("megatron.core")
    subprocess.run([sys.executable, ARCHIVE.with_name("make_megatron.py"), tmp_path / "new.zip"], check=True, timeout=400)
    with zipfile.ZipFile(tmp_path / "new.zip") as archive:
        archive.extractall(tmp_path)
    for kind in WORLDS:
        assert_is_model(tmp_path, kind)
