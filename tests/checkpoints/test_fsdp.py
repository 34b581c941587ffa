"""Shards of all ranks, written by torch's DTensor and FSDP2, join to the original tensors."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints.ranks import run_ranks
from helpers import assert_same, ends_well, reasons

from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.fsdp import read_fsdp_shards
from dynamics.checkpoints.pickled import read_pickled
from dynamics.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed.tensor")

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

pytestmark = pytest.mark.filterwarnings("ignore")


def write_shards(folder, mesh_shape, make):
    """Write one file per rank, as the rank would write it."""
    world = math.prod(mesh_shape)

    def write(rank):
        mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=("a", "b", "c")[: len(mesh_shape)])
        torch.save(make(mesh, rank), folder / f"model_world_size_{world}_rank_{rank}.pt")

    run_ranks(world, write)


def read(folder):
    return read_fsdp_shards(folder, sorted(folder.glob("model_world_size_*.pt")))


def tensor_of(*shape, dtype=torch.float32):
    return torch.arange(math.prod(shape)).reshape(shape).to(dtype)


@pytest.mark.parametrize(
    ("mesh_shape", "placements"),
    [
        ((1,), [Shard(0)]),
        ((3,), [Shard(0)]),
        ((3,), [Shard(1)]),
        ((3,), [Shard(2)]),
        ((3,), [Replicate()]),
        ((2, 2), [Replicate(), Shard(0)]),
        ((2, 2), [Shard(1), Replicate()]),
        ((2, 2), [Shard(0), Shard(1)]),
        ((2, 2), [Shard(2), Shard(0)]),
        ((2, 2), [Shard(0), Shard(0)]),
        ((2, 2), [_StridedShard(0, split_factor=2), Shard(0)]),
        ((3, 2), [_StridedShard(1, split_factor=2), Shard(1)]),
        ((2, 2, 2), [Replicate(), _StridedShard(0, split_factor=2), Shard(0)]),
    ],
)
def test_every_way_to_shard_puts_the_tensor_together_again(tmp_path, mesh_shape, placements):
    shapes = [(12, 4, 6), (7, 5, 4), (2, 11, 3), (1, 1, 1)]
    wholes = {str(shape): tensor_of(*shape, dtype=torch.bfloat16) for shape in shapes}
    write_shards(
        tmp_path,
        mesh_shape,
        lambda mesh, rank: {name: distribute_tensor(whole, mesh, placements, src_data_rank=None) for name, whole in wholes.items()},
    )
    checkpoint = read(tmp_path)
    assert (checkpoint.format, checkpoint.ignored) == ("fsdp-shards", ())
    assert list(checkpoint.tensors) == list(wholes)
    for name, whole in wholes.items():
        assert checkpoint.tensors[name].name == name
        assert_same(checkpoint.tensors[name], whole)


def test_the_state_dict_of_an_fsdp2_model_in_the_files_of_verl(tmp_path):
    from torch.distributed.fsdp import fully_shard

    def model():
        layers = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 1))
        for parameter in layers.parameters():  # the ranks are threads and share one random stream
            torch.nn.init.uniform_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
        return layers

    def sharded(mesh, rank):
        layers = model()
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(layers, mesh=mesh)
        return layers.state_dict()

    write_shards(tmp_path, (2,), sharded)
    whole = model().state_dict()
    checkpoint = read(tmp_path)
    assert list(checkpoint.tensors) == list(whole)
    for name, tensor in whole.items():
        assert_same(checkpoint.tensors[name], tensor)


def halves(mesh, rank):
    return {"w": distribute_tensor(tensor_of(6, 4), mesh, [Shard(0)], src_data_rank=None), "step": 3}


def older_state(mesh):
    return {"device_type": "cpu", "mesh": torch.arange(2, dtype=torch.int), "_coordinate_on_dim": [mesh.get_rank()]}


def layout_state(mesh):
    from torch.distributed._mesh_layout import _MeshLayout

    layout = _MeshLayout.__new__(_MeshLayout)
    layout.__dict__.update(shape=(2,), stride=(1,))
    return {"_layout": layout, "_coordinate_on_dim": (mesh.get_rank(),)}


@pytest.mark.parametrize("state", [older_state, layout_state])
def test_the_device_mesh_of_older_torch_is_understood(tmp_path, monkeypatch, state):
    monkeypatch.setattr(DeviceMesh, "__getstate__", state)
    write_shards(tmp_path, (2,), halves)
    checkpoint = read(tmp_path)
    assert_same(checkpoint.tensors["w"], tensor_of(6, 4))
    assert reasons(checkpoint) == {"step": "not a tensor"}


def test_a_rank_that_is_missing_is_named(tmp_path):
    write_shards(tmp_path, (3,), halves)
    (tmp_path / "model_world_size_3_rank_1.pt").unlink()
    with pytest.raises(InputError, match=r"model_world_size_3_rank_1\.pt is missing, 2 of 3"):
        read(tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_shards(tmp_path, (2,), halves)
    first, second = (tmp_path / f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1))
    (tmp_path / "model_world_size_2_rank_2.pt").write_bytes(first.read_bytes())
    with pytest.raises(InputError, match="rank 2 of a world of 2"):
        read(tmp_path)
    (tmp_path / "model_world_size_2_rank_2.pt").rename(tmp_path / "model_world_size_3_rank_2.pt")
    with pytest.raises(InputError, match=r"world sizes \[2, 3\]"):
        read(tmp_path)
    with pytest.raises(InputError, match="not named like a rank shard"):
        read_fsdp_shards(tmp_path, [tmp_path / "w.pt"])
    second.write_bytes(first.read_bytes())  # one rank's file twice
    with pytest.raises(InputError, match="a shard is missing"):
        read_fsdp_shards(tmp_path, [first, second])
    torch.save({"v": torch.zeros(2)}, second)
    with pytest.raises(InputError, match="not in all ranks' files"):
        read_fsdp_shards(tmp_path, [first, second])
    torch.save([1], second)
    with pytest.raises(InputError, match="no state dict"):
        read_fsdp_shards(tmp_path, [first, second])
    second.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut short"):
        read_fsdp_shards(tmp_path, [first, second])


def test_one_rank_alone_is_not_taken_for_a_checkpoint(tmp_path):
    write_shards(tmp_path, (2,), halves)
    with pytest.raises(InputError, match="one rank's part"):
        read_pickled(tmp_path / "model_world_size_2_rank_0.pt")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda mesh, rank: DTensor.from_local(torch.ones(2), mesh, [Partial()]), "Partial"),
        (lambda mesh, rank: DTensor.from_local(torch.ones(2 + rank), mesh, [Shard(0)], shape=(4,), stride=(1,)), "placement says"),
        (lambda mesh, rank: DTensor.from_local(torch.ones(2), mesh, [Shard(0)], shape=(4 + 2 * rank,), stride=(1,)), "on rank 1"),
    ],
)
def test_parts_that_do_not_add_up_are_refused(tmp_path, make, message):
    write_shards(tmp_path, (2,), lambda mesh, rank: {"w": make(mesh, rank)})
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_plain_tensors_are_taken_once_and_only_where_the_ranks_agree(tmp_path):
    write_shards(
        tmp_path, (2,), lambda mesh, rank: {"buffer": tensor_of(5), "mine": torch.full((3,), rank), "meta": torch.ones(2, device="meta")}
    )
    checkpoint = read(tmp_path)
    assert_same(checkpoint.tensors["buffer"], tensor_of(5))
    assert list(checkpoint.tensors) == ["buffer"]
    assert "differs between ranks" in reasons(checkpoint)["mine"]
    assert "meta device" in reasons(checkpoint)["meta"]


class Sharded:
    def __reduce__(self):
        from torch.distributed._shard.sharded_tensor.api import ShardedTensor

        return ShardedTensor, ()


def test_a_sharded_tensor_without_its_shards_is_refused(tmp_path):
    for rank in (0, 1):
        torch.save({"w": Sharded()}, tmp_path / f"model_world_size_2_rank_{rank}.pt")
    with pytest.raises(InputError, match="unknown kind of ShardedTensor"):
        read(tmp_path)


DATA = Path(__file__).parents[1] / "data" / "checkpoints"
SHARDED = DATA / "fsdp1" / "sharded"


def assert_is_expected(checkpoint, expected):
    assert list(checkpoint.tensors) == list(expected)
    for name, tensor in checkpoint.tensors.items():
        assert np.array_equal(tensor.values().reshape(tensor.shape), expected[name])


def test_the_sharded_state_dict_of_fsdp1_in_the_files_of_all_ranks():
    checkpoint = open_checkpoint(SHARDED)
    assert_is_expected(checkpoint, np.load(DATA / "fsdp1" / "expected.npz"))
    assert (checkpoint.format, checkpoint.ignored, checkpoint.tensors["0.weight"].dtype) == ("fsdp-shards", (), "bfloat16")


@pytest.mark.parametrize("name", ["pytorch_model_fsdp_rank{}.bin", "ep0-ba10-rank{}.pt", "rank_{}.pt", "model-rank{}-of-2.pth"])
def test_rank_files_under_the_names_of_other_trainers(tmp_path, name):
    for rank in range(2):
        shutil.copy(SHARDED / f"model_world_size_2_rank_{rank}.pt", tmp_path / name.format(rank))
        (tmp_path / f"rng_state_rank{rank}.pt").write_bytes(b"")
    assert_is_expected(open_checkpoint(tmp_path), np.load(DATA / "fsdp1" / "expected.npz"))
    with pytest.raises(InputError, match="name the folder with the files of all ranks"):
        open_checkpoint(tmp_path / name.format(1))
    shutil.copy(tmp_path / name.format(1), tmp_path / name.format(0))
    with pytest.raises(InputError, match="a shard is missing"):
        open_checkpoint(tmp_path)


def test_rank_files_with_the_weights_under_a_key_and_a_whole_model_of_one_rank(tmp_path):
    def nested(mesh, rank):
        return {"model": halves(mesh, rank), "optimizer": {"state": {0: torch.full((3,), rank)}}, "epoch": 1}

    write_shards(tmp_path, (2,), nested)
    for rank in range(2):
        (tmp_path / f"model_world_size_2_rank_{rank}.pt").rename(tmp_path / f"epoch1_rank{rank}.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert_same(checkpoint.tensors["w"], tensor_of(6, 4))
    assert reasons(checkpoint)["optimizer"] == "optimizer state, not weights"
    (tmp_path / "epoch1_rank1.pt").unlink()
    with pytest.raises(InputError, match="one rank's part of a DTensor"):
        open_checkpoint(tmp_path)
    torch.save({"model": {"w": tensor_of(6, 4)}}, tmp_path / "epoch1_rank0.pt")
    assert_same(open_checkpoint(tmp_path).tensors["w"], tensor_of(6, 4))


def test_state_by_rank_beside_a_model_is_not_the_model(tmp_path):
    torch.save({"w": tensor_of(3)}, tmp_path / "model.pt")
    shutil.copy(SHARDED / "model_world_size_2_rank_0.pt", tmp_path / "dataloader_rank0.pt")
    with pytest.raises(InputError, match="name the folder with the files of all ranks"):  # it is read as a further file of the model
        open_checkpoint(tmp_path)
    torch.save({"position": 3}, tmp_path / "dataloader_rank0.pt")
    assert list(open_checkpoint(tmp_path).tensors) == ["w"]


def test_flat_parameters_of_fsdp1_are_refused():
    with pytest.raises(InputError, match=r"flat parameter of FSDP1.*save a SHARDED_STATE_DICT"):
        open_checkpoint(DATA / "fsdp1" / "local")


def test_damage_anywhere_is_an_input_error_or_harmless(tmp_path):
    shutil.copytree(SHARDED, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model_world_size_2_rank_1.pt"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for number in range(30):
        data = bytearray(whole if number % 5 else whole[: rng.integers(0, len(whole))])
        for place in rng.integers(0, 6000, 2) if number % 5 else ():
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        assert ends_well(open_checkpoint, tmp_path)


@pytest.mark.slow
def test_the_files_of_fsdp1_are_written_anew(tmp_path):
    subprocess.run([sys.executable, DATA / "make_fsdp1.py", tmp_path], check=True, timeout=300)
    assert_is_expected(open_checkpoint(tmp_path / "sharded"), np.load(tmp_path / "expected.npz"))
