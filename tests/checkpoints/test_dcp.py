"""Folders written by torch.distributed.checkpoint itself, from one rank and from several, and folders with false metadata."""

import io
import math
import os
import pickle

import numpy as np
import pytest
from checkpoints.ranks import run_ranks
from helpers import assert_same, ends_well, reasons

from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.dcp import read_dcp
from dynamics.checkpoints.files import File
from dynamics.checkpoints.tensor import STORAGE
from dynamics.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed.tensor")

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

pytestmark = pytest.mark.filterwarnings("ignore")


def tensor_of(*shape, dtype=torch.float32):
    return torch.arange(math.prod(shape)).reshape(shape).to(dtype)


def save(folder, state, **options):
    dcp.save(state, storage_writer=FileSystemWriter(folder, **options), no_dist=True)


def save_from_ranks(folder, mesh_shape, make):
    """Save a checkpoint from several ranks, each of which saves its part."""

    def save_part(rank):
        del rank
        dcp.save(make(init_device_mesh("cpu", mesh_shape)), storage_writer=FileSystemWriter(folder))

    run_ranks(math.prod(mesh_shape), save_part)


def trained():
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    return model.state_dict(), optimizer.state_dict()


@pytest.mark.parametrize("single_file", [True, False])
def test_model_tensors_are_read_and_the_optimizer_is_set_aside(tmp_path, single_file):
    model, optimizer = trained()
    save(tmp_path, {"model": model, "optimizer": optimizer, "step": 3}, single_file_per_rank=single_file)
    checkpoint = read_dcp(tmp_path)
    assert checkpoint.format == "dcp"
    assert set(checkpoint.tensors) == {f"model.{name}" for name in model}
    for name, tensor in model.items():
        assert_same(checkpoint.tensors[f"model.{name}"], tensor)
    assert set(reasons(checkpoint).values()) == {"optimizer state, not weights", "not a tensor"}
    assert len(checkpoint.ignored) < 5


def test_numbered_optimizers_are_set_aside(tmp_path):
    save(tmp_path, {"model": {"w": tensor_of(2)}, "optimizer_0": {"state": {"w": {"exp_avg": tensor_of(2)}}}})
    checkpoint = read_dcp(tmp_path)
    assert list(checkpoint.tensors) == ["model.w"]
    assert set(reasons(checkpoint).values()) == {"optimizer state, not weights"}


def test_flat_parameters_are_refused(tmp_path):
    save(tmp_path, {"model": {"layers.0._flat_param": tensor_of(2)}})
    with pytest.raises(InputError, match="a flat parameter of FSDP1"):
        read_dcp(tmp_path)


def test_every_dtype_and_layout(tmp_path):
    state = {f"dtype.{name}": torch.ones(3, 5).to(getattr(torch, name)) for name in STORAGE}
    state |= {"transposed": tensor_of(5, 7).t(), "rows": tensor_of(6, 3)[2:4], "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    save(tmp_path, {**state, "complex": torch.ones(2, dtype=torch.complex64)})
    checkpoint = read_dcp(tmp_path)
    for name, tensor in state.items():
        assert_same(checkpoint.tensors[name], tensor)
    assert reasons(checkpoint) == {"complex": "its dtype complex64 is not one this reads"}


def test_items_serialized_as_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    from torch.distributed.checkpoint.filesystem import SerializationFormat

    state = {"w": tensor_of(6, 3, dtype=torch.bfloat16), "v": tensor_of(4), "step": 3}
    save(tmp_path, state, serialization_format=SerializationFormat.SAFETENSORS)
    checkpoint = read_dcp(tmp_path)
    for name in ("w", "v"):
        assert_same(checkpoint.tensors[name], state[name])


@pytest.mark.parametrize(
    ("mesh_shape", "placements"),
    [
        ((3,), [Shard(0)]),
        ((3,), [Shard(1)]),
        ((2,), [Replicate()]),
        ((2, 2), [Replicate(), Shard(0)]),
        ((2, 2), [Shard(0), Shard(1)]),
    ],
)
def test_tensors_saved_by_several_ranks(tmp_path, mesh_shape, placements):
    wholes = {"even": tensor_of(12, 6), "uneven": tensor_of(7, 5), "short": tensor_of(1, 2, 3)}
    save_from_ranks(
        tmp_path,
        mesh_shape,
        lambda mesh: {"model": {name: distribute_tensor(whole, mesh, placements, src_data_rank=None) for name, whole in wholes.items()}},
    )
    checkpoint = read_dcp(tmp_path)
    assert set(checkpoint.tensors) == {f"model.{name}" for name in wholes}
    for name, whole in wholes.items():
        assert_same(checkpoint.tensors[f"model.{name}"], whole)


def test_a_range_reads_only_its_bytes(tmp_path, monkeypatch):
    save(tmp_path, {"w": tensor_of(1000, 1000)})
    tensor = read_dcp(tmp_path).tensors["w"]
    tensor.stored(0, 1)
    total, read_into = [0], File.read_into
    monkeypatch.setattr(File, "read_into", lambda self, offset, buffer: (total.append(buffer.nbytes), read_into(self, offset, buffer))[1])
    tensor.stored(1234, 5678)
    assert sum(total) == 4 * (5678 - 1234)


def test_a_missing_or_cut_file_is_named_when_opened(tmp_path):
    save_from_ranks(tmp_path, (2,), lambda mesh: {"w": distribute_tensor(tensor_of(8, 3), mesh, [Shard(0)], src_data_rank=None)})
    os.truncate(tmp_path / "__1_0.distcp", 100)
    with pytest.raises(InputError, match=r"__1_0\.distcp, which has 100"):
        read_dcp(tmp_path)
    (tmp_path / "__1_0.distcp").unlink()
    with pytest.raises(InputError, match=r"__1_0\.distcp is missing"):
        read_dcp(tmp_path)
    (tmp_path / ".metadata").unlink()
    with pytest.raises(InputError, match="No such file"):
        read_dcp(tmp_path)


def test_a_folder_of_optimizer_state_alone_is_refused(tmp_path):
    save(tmp_path, {"optimizer": trained()[1]})
    with pytest.raises(InputError, match="optimizer state, not weights"):
        read_dcp(tmp_path)


def change(folder, edit):
    """Load the metadata, falsify it, and write it back."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    edit(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def infos(metadata):
    return list(metadata.storage_data.values())


def set_all(items, **values):
    for item in items:
        for name, value in values.items():
            setattr(item, name, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: set_all(infos(m), transform_descriptors=["zstd"]), "transformed.*zstd"),
        (lambda m: set_all(infos(m), relative_path="../secret"), "outside the folder"),
        (lambda m: set_all(infos(m), relative_path="/etc/passwd"), "outside the folder"),
        (lambda m: set_all(infos(m), offset=10**9), "needs byte"),
        (lambda m: set_all(infos(m), length=10**12), "needs byte"),
        (lambda m: set_all(infos(m), length=8), r"claims 18 float32 of w in 8 bytes"),
        (lambda m: set_all(infos(m), offset=-5), "not the metadata"),
        (lambda m: m.storage_data.clear(), "does not say where"),
        (lambda m: set_all([m.state_dict_metadata["w"]], size=torch.Size([7, 3])), "a shard is missing"),
        (lambda m: set_all([m.state_dict_metadata["w"]], chunks=[]), "a shard is missing"),
        (lambda m: set_all([m.state_dict_metadata["w"]], size=torch.Size([2**40, 2**40])), "claims the shape"),
        (lambda m: set_all(m.state_dict_metadata["w"].chunks, sizes=torch.Size([2**20, 2**20])), "claims"),
        (lambda m: set_all([m], state_dict_metadata=None), "not the metadata"),
        (lambda m: set_all([m], state_dict_metadata={"w": 3}), "not the metadata"),
        (lambda m: set_all([m], storage_data={3: 4}), "not the metadata"),
    ],
)
def test_metadata_that_lies_is_refused_when_opened(tmp_path, edit, message):
    save(tmp_path, {"w": tensor_of(6, 3)})
    change(tmp_path, edit)
    with pytest.raises(InputError, match=message) as caught:
        read_dcp(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: set_all(infos(m), offset=3),
        lambda m: set_all([m.state_dict_metadata["w"].properties], dtype=torch.int32),
        lambda m: (
            set_all([m.state_dict_metadata["w"]], size=torch.Size([3, 6])),
            set_all(m.state_dict_metadata["w"].chunks, sizes=torch.Size([3, 6])),
        ),
    ],
)
def test_items_that_are_not_what_the_metadata_says_are_refused_when_read(tmp_path, edit):
    save(tmp_path, {"w": tensor_of(6, 3), "z": tensor_of(100)})
    change(tmp_path, edit)
    with pytest.raises(InputError, match=r"w: .*metadata says"):
        read_dcp(tmp_path).tensors["w"].values()


class Evil:
    def __reduce__(self):
        return os.system, ("touch PWNED",)


def test_the_metadata_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, {"w": tensor_of(6, 3)})
    change(tmp_path, lambda metadata: set_all([metadata], planner_data=Evil()))
    with pytest.raises(InputError, match=r"posix\.system"):
        read_dcp(tmp_path)
    assert not (tmp_path / "PWNED").exists()


def test_damage_anywhere_is_an_input_error_or_harmless(tmp_path):
    save(tmp_path, {"w": tensor_of(6, 3), "model": {"v": tensor_of(4)}})
    rng = np.random.default_rng(0)
    for name in (".metadata", "__0_0.distcp"):
        whole = (tmp_path / name).read_bytes()
        broken = [whole[:size] for size in range(0, len(whole), 29)]
        for _ in range(150):
            data = bytearray(whole)
            for place in rng.integers(0, len(whole), 2):
                data[place] = rng.integers(0, 256)
            broken.append(bytes(data))
        for data in broken:
            (tmp_path / name).write_bytes(data)
            assert ends_well(read_dcp, tmp_path)
        (tmp_path / name).write_bytes(whole)


def test_the_older_module_path_of_tensor_properties(tmp_path):
    """In torch <= 2.2 these two classes had other module paths; a pickle names classes by path, so the new paths can be replaced in it."""
    save(tmp_path, {"w": tensor_of(6, 3)})
    stream = io.BytesIO()
    pickle._Pickler(stream, 2).dump(pickle.loads((tmp_path / ".metadata").read_bytes()))
    old, new = b"torch.distributed._shard.sharded_tensor.metadata\n", b"torch.distributed.checkpoint.metadata\n"
    data = stream.getvalue().replace(new + b"TensorProperties", old + b"TensorProperties")
    data = data.replace(new + b"_MEM_FORMAT_ENCODING", old + b"MEM_FORMAT_ENCODING")
    assert data.count(old) == 2
    (tmp_path / ".metadata").write_bytes(data)
    assert_same(read_dcp(tmp_path).tensors["w"], tensor_of(6, 3))


def test_the_state_of_a_data_loader_beside_the_folder_is_no_weights(tmp_path):
    dcp.save({"w": torch.arange(6.0).reshape(2, 3)}, checkpoint_id=tmp_path / "pytorch_model_fsdp_0", no_dist=True)
    for name in ("sampler.bin", "dl_state_dict_1.bin", "data.pt", "custom.pt"):  # of accelerate and verl, and of a script
        torch.save({"epoch": 1}, tmp_path / name)
    assert list(open_checkpoint(tmp_path).tensors) == ["w"]


def test_files_of_ranks_without_their_metadata_are_refused(tmp_path):
    dcp.save({"w": torch.ones(3)}, checkpoint_id=tmp_path, no_dist=True)
    torch.save({"iteration": 3}, tmp_path / "common.pt")
    (tmp_path / ".metadata").unlink()
    with pytest.raises(InputError, match=r"holds \.distcp files, but not the file \.metadata, which says what they hold; fetch it"):
        open_checkpoint(tmp_path)
