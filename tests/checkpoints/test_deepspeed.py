"""Folders that DeepSpeed itself wrote hold the values that its ``zero_to_fp32`` gives; damaged ones are refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ends_well, reasons

from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.pickled import read_pickled
from dynamics.errors import InputError

DATA = Path(__file__).parents[1] / "data" / "checkpoints"
FOLDERS = DATA / "deepspeed"
NOT_WEIGHTS = {"table": "a buffer, not a weight: no optimizer updates it"}
ROUNDED = {"mp_rank_00_model_states.pt": "16-bit weights; the fp32 weights they are rounded from were read"}


def assert_equals(checkpoint, expected):
    assert checkpoint.tensors.keys() | {"table"} == set(expected)
    for name, tensor in checkpoint.tensors.items():
        assert tensor.name == name
        assert tensor.shape == expected[name].shape
        assert np.array_equal(tensor.values().reshape(tensor.shape), expected[name])
        assert np.array_equal(tensor.values(1, 5), expected[name].reshape(-1)[1:5])


@pytest.mark.parametrize("kind", ["zero1", "zero2-frozen", "zero3-frozen"])
@pytest.mark.parametrize("inner", ["", "global_step3"])
def test_the_weights_are_those_of_zero_to_fp32(kind, inner):
    checkpoint = open_checkpoint(FOLDERS / kind / inner)
    assert_equals(checkpoint, np.load(FOLDERS / f"{kind}.npz"))
    assert checkpoint.format == f"deepspeed-{kind.split('-')[0]}"
    assert checkpoint.tensors["lm_head.weight"].source == checkpoint.tensors["embed_tokens.weight"].source  # tied
    assert checkpoint.tensors["layers.0.weight"].dtype == ("bfloat16" if "frozen" in kind else "float32")
    assert checkpoint.tensors["layers.1.weight"].dtype == "float32"
    assert reasons(checkpoint) == (NOT_WEIGHTS if kind == "zero3-frozen" else NOT_WEIGHTS | ROUNDED)
    assert sum(entry.numel for entry in checkpoint.ignored) == 0


def test_the_files_of_the_bf16_optimizer_are_those_of_zero_1_without_a_stage():
    checkpoint = open_checkpoint(FOLDERS / "bf16-optimizer")
    assert_equals(checkpoint, {**{name: tensor.values().reshape(tensor.shape) for name, tensor in checkpoint.tensors.items()}, "table": 0})
    rounded = read_pickled(FOLDERS / "bf16-optimizer" / "global_step3" / "mp_rank_00_model_states.pt").tensors
    for name, tensor in checkpoint.tensors.items():
        bits = tensor.stored().view(np.uint32)
        assert np.array_equal(rounded[name].stored(), ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))


def test_the_config_beside_the_step_folder_and_a_whole_model_are_used(tmp_path):
    from helpers import write_safetensors

    shutil.copytree(FOLDERS / "zero1", tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    assert open_checkpoint(tmp_path).config == {"model_type": "x"}
    write_safetensors(tmp_path / "model.safetensors", {"w": np.ones(3, np.float32)})
    assert reasons(open_checkpoint(tmp_path)) == {"global_step3": "folder not read: the weights were taken from model.safetensors"}


def test_model_states_alone_hold_the_weights_only_without_zero(tmp_path):
    torch = pytest.importorskip("torch")
    state = {"module": {"w": torch.ones(3), "table": torch.zeros(2)}, "buffer_names": ["table"], "optimizer": {"fp32_groups_flat": []}}
    torch.save(state, tmp_path / "mp_rank_00_model_states.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, list(checkpoint.tensors), reasons(checkpoint)) == ("deepspeed", ["w"], NOT_WEIGHTS)
    for path in (FOLDERS / "zero3-frozen" / "global_step3").glob("*_model_states.pt"):
        shutil.copy(path, tmp_path)
    (tmp_path / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(InputError, match="not the optimizer files"):
        open_checkpoint(tmp_path)


def test_a_universal_checkpoint(tmp_path):
    torch = pytest.importorskip("torch")
    for name, value in {"layers.0.weight": torch.ones(2, 3), "norm.bias": torch.zeros(2)}.items():
        (tmp_path / "zero" / name).mkdir(parents=True)
        torch.save({"param": value, "cat_dim": 0}, tmp_path / "zero" / name / "fp32.pt")
        torch.save({"param": value + 1}, tmp_path / "zero" / name / "exp_avg.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "deepspeed-universal"
    assert {name: tensor.values().tolist() for name, tensor in checkpoint.tensors.items()} == {
        "layers.0.weight": [1] * 6,
        "norm.bias": [0] * 2,
    }


def test_a_file_of_one_rank(tmp_path):
    shutil.copytree(FOLDERS / "zero1", tmp_path, dirs_exist_ok=True)
    rounded = open_checkpoint(tmp_path / MODEL)
    assert (len(rounded.tensors), reasons(rounded)["table"]) == (8, NOT_WEIGHTS["table"])
    with pytest.raises(InputError, match="one rank's optimizer state of DeepSpeed; name the folder"):
        open_checkpoint(tmp_path / OPTIMIZER)
    shutil.copy(tmp_path / MODEL, tmp_path / MODEL.replace("rank_00", "rank_01"))
    with pytest.raises(InputError, match="one tensor-parallel rank's part"):
        open_checkpoint(tmp_path / MODEL)
    with pytest.raises(InputError, match="placeholders, as DeepSpeed ZeRO-3 leaves them; name the folder"):
        open_checkpoint(FOLDERS / "zero3-frozen" / STEP / "zero_pp_rank_0_mp_rank_00_model_states.pt")


STEP = "global_step3"
MODEL = f"{STEP}/mp_rank_00_model_states.pt"
OPTIMIZER = f"{STEP}/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"

FIRST = OPTIMIZER.replace("rank_1_", "rank_0_")


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("zero2-frozen", lambda folder: (folder / OPTIMIZER).unlink(), "not rank 1's"),
        ("zero1", lambda folder: (folder / OPTIMIZER).unlink(), "1 of 2 ranks"),
        ("zero3-frozen", lambda folder: (folder / STEP / "zero_pp_rank_2_mp_rank_00_model_states.pt").unlink(), "2 of 3 ranks"),
        ("zero1", lambda folder: (folder / STEP).rename(folder / "global_step4"), "names the folder global_step3, which is not there"),
        ("zero1", lambda folder: (folder / STEP / "mp_rank_01_model_states.pt").write_bytes(b""), "tensor parallelism"),
        ("zero1", lambda folder: (folder / STEP / "layer_00-model_00-model_states.pt").write_bytes(b""), "pipeline"),
        ("zero1", lambda folder: (folder / STEP / "layer_0_expert_0_mp_rank_00_model_states.pt").write_bytes(b""), "experts"),
        ("zero1", lambda folder: shutil.copy(folder / OPTIMIZER, folder / FIRST), "a shard is missing"),
        (
            "zero2-frozen",
            lambda folder: shutil.copy(FOLDERS / "zero1" / STEP / "mp_rank_00_model_states.pt", folder / STEP),
            "other parameter groups",
        ),
    ],
)
def test_incomplete_or_mixed_folders_are_refused(tmp_path, kind, damage, message):
    shutil.copytree(FOLDERS / kind, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["zero1", "zero3-frozen"])
def test_damage_anywhere_is_an_input_error_or_harmless(tmp_path, kind):
    shutil.copytree(FOLDERS / kind, tmp_path, dirs_exist_ok=True)
    rng = np.random.default_rng(0)
    for path in (tmp_path / OPTIMIZER, next((tmp_path / STEP).glob("*_model_states.pt"))):
        whole = path.read_bytes()
        for number in range(10):
            data = bytearray(whole if number % 5 else whole[: rng.integers(0, len(whole))])
            for place in rng.integers(0, max(1, len(data)), 3 if data else 0):
                data[place] = rng.integers(0, 256)
            path.write_bytes(data)
            assert ends_well(open_checkpoint, tmp_path)
        path.write_bytes(whole)


@pytest.mark.slow
def test_the_files_are_written_anew_by_deepspeed(tmp_path):
    pytest.importorskip("deepspeed")
    subprocess.run([sys.executable, DATA / "make_deepspeed.py", tmp_path], check=True, timeout=500)
    for kind in ("zero1", "zero2-frozen", "zero3-frozen"):
        assert_equals(open_checkpoint(tmp_path / kind), np.load(tmp_path / f"{kind}.npz"))


def test_optimizer_files_without_the_names_of_the_weights_are_refused(tmp_path):
    for path in (FOLDERS / "zero1" / "global_step3").glob("*optim_states.pt"):
        shutil.copy(path, tmp_path)
    with pytest.raises(InputError, match=r"holds the optimizer files of DeepSpeed, but not the \*_model_states\.pt"):
        open_checkpoint(tmp_path)
