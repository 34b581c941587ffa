"""Run directories of which a part cannot be read: the rest is, and the part is named."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamics.errors import InputError
from dynamics.runs import Run, open_run, read_rollouts
from dynamics.runs.readers import looking

RUNS = Path(__file__).parents[1] / "data/runs"
NOBODY = 65534


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Give up root's right to read everything, for the block."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def closed(path: Path, mode: int = 0) -> Iterator[None]:
    """Take away the rights to a file or a folder, for the block."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with without_rights():
            yield
    finally:
        path.chmod(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that anybody may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def copied(trainer: str, folder: Path) -> Path:
    """Copy a run, and read it once, and events of TensorBoard, so that all modules are imported while they can be."""
    run = Path(shutil.copytree(RUNS / trainer, folder / "run"))
    for readable in (run, RUNS / "trainer"):
        assert read_rollouts(open_run(readable))
    return run


def notes(run: Run) -> list[str]:
    return run.notes + read_rollouts(run)[1]


@pytest.mark.parametrize(
    ("trainer", "part", "mode", "line"),
    [
        ("trl_grpo", "checkpoint-10", 0, "checkpoint-10: checkpoint left out: Permission denied"),
        ("trl_grpo", "checkpoint-10", 0o444, "checkpoint-10: checkpoint left out: Permission denied"),
        ("trl_grpo", "checkpoint-10", 0o111, "checkpoint-10: checkpoint left out: Permission denied"),
        ("trl_grpo", "checkpoint-10/model.safetensors", 0, "checkpoint-10: checkpoint left out: model.safetensors: Permission denied"),
        ("trl_grpo", "completions", 0, "completions: cannot be read (Permission denied); what is in it is left out"),
        ("trl_grpo", "completions/completions_00003.parquet", 0, "completions_00003.parquet: Permission denied"),
        ("trl_grpo", "checkpoint-12/trainer_state.json", 0, "checkpoint-12/trainer_state.json: Permission denied"),
        ("trl_grpo", "checkpoint-12/training_args.bin", 0, "checkpoint-12/training_args.bin: Permission denied"),
        ("trainer", "logs", 0, "logs: cannot be read (Permission denied); what is in it is left out"),
        ("trainer_wandb", "wandb", 0, "wandb: cannot be read (Permission denied); what is in it is left out"),
        ("llamafactory", "trainer_log.jsonl", 0, "trainer_log.jsonl: Permission denied"),
        ("llamafactory", "llamaboard_config.yaml", 0, "llamaboard_config.yaml: Permission denied"),
        ("own/rlvr", "checkpoints/step_000002", 0o444, "step_000002: checkpoint left out: Permission denied"),
        ("own/rlvr", "rollouts", 0, "rollouts: cannot be read (Permission denied); what is in it is left out"),
        ("own/rlvr", "evals", 0o444, "evals"),
        ("own/rlvr", "run.json", 0, "run.json: Permission denied; restore the file"),
        ("own/rlvr", "metrics.jsonl", 0, "metrics.jsonl: Permission denied"),
        ("verl", "dumps/rollouts", 0, "dumps/rollouts: cannot be read (Permission denied); what is in it is left out"),
        ("verl", "dumps/validation", 0, "dumps/validation: cannot be read (Permission denied); what is in it is left out"),
        ("verl", "dumps/validation/5.jsonl", 0, "validation/5.jsonl: Permission denied"),
        ("verl", "outputs", 0, "outputs: cannot be read (Permission denied); what is in it is left out"),
        ("verl", "outputs/2026-01-02/03-04-05/.hydra/config.yaml", 0, ".hydra/config.yaml: Permission denied"),
        ("verl", "demo/grpo.jsonl", 0, "demo/grpo.jsonl: Permission denied"),
        ("verl", "checkpoints/demo/grpo/global_step_10/actor", 0, "global_step_10/actor: checkpoint left out: Permission denied"),
        ("prime_rl", "configs", 0, "configs: cannot be read (Permission denied); what is in it is left out"),
        ("prime_rl", "rollouts/step_3", 0, "rollouts/step_3: cannot be read (Permission denied); what is in it is left out"),
        ("prime_rl", "metrics.jsonl", 0, "metrics.jsonl: Permission denied"),
        ("openrlhf", "checkpoints_ppo_ray/global_step2_hf", 0, "global_step2_hf: checkpoint left out: Permission denied"),
        ("open_instruct", "rollouts", 0, "rollouts: cannot be read (Permission denied); what is in it is left out"),
    ],
)
def test_a_part_that_may_not_be_read_is_named_and_the_rest_is_read(folder: Path, trainer: str, part: str, mode: int, line: str) -> None:
    path = copied(trainer, folder)
    whole = open_run(path)
    with closed(path / part, mode):
        run = open_run(path)
        lines = notes(run)
    assert [note for note in lines if line in note], lines
    assert not [note for note in lines if "Permission denied; it may still" in note]
    assert run.trainer.split()[0] == whole.trainer.split()[0]
    lost = {saved.path for saved in whole.checkpoints} - {saved.path for saved in run.checkpoints}
    assert len(lost) == ("checkpoint left out" in line), lost


@pytest.mark.parametrize("kind", ["file", "link", "loop"])
@pytest.mark.parametrize(
    ("trainer", "name"),
    [
        ("trl_grpo", "checkpoint-11"),
        ("own/rlvr", "checkpoints/step_000003"),
        ("verl", "checkpoints/demo/grpo/global_step_11"),
        ("prime_rl", "checkpoints/step_11"),
        ("openrlhf", "checkpoints_ppo_ray/global_step11_hf"),
        ("open_instruct_sft", "step_11"),
    ],
)
def test_what_has_the_name_of_a_checkpoint_and_is_none_is_named(folder: Path, trainer: str, name: str, kind: str) -> None:
    path = copied(trainer, folder)
    saved = open_run(path).checkpoints
    if kind == "file":
        (path / name).write_text("")
    else:
        (path / name).symlink_to(Path(name).name if kind == "loop" else "/not/there")
    why = {
        "file": "is a file, not the folder that its name says",
        "link": "is a link to what is not there",
        "loop": "cannot be read (Too many",
    }
    run = open_run(path)
    assert [note for note in run.notes if f"{name}: {why[kind]}" in note], run.notes
    assert run.checkpoints == saved


def test_settings_of_prime_rl_that_are_a_file_instead_of_a_folder(folder: Path) -> None:
    path = copied("prime_rl", folder)
    steps = [saved.step for saved in open_run(path).checkpoints]
    shutil.rmtree(path / "configs")
    (path / "configs").write_text("")
    run = open_run(path)
    assert run.trainer == "prime-rl"
    assert [saved.step for saved in run.checkpoints] == steps
    assert len(run.metrics)
    assert [note for note in run.notes if note.endswith("configs: is a file where a folder is expected; left out")]


def test_a_directory_that_may_not_be_entered_says_so(folder: Path) -> None:
    path = copied("trl_grpo", folder)
    for part, given in ((path, path), (folder, path), (folder, path / "completions")):
        with closed(part), pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
            open_run(given)
    shutil.copytree(RUNS / "openrlhf", folder / "other")
    open_run(folder / "other")
    with closed(folder / "other/checkpoints_ppo_ray"), pytest.raises(InputError, match=r"\(.*checkpoints_ppo_ray: cannot be read \(Perm"):
        open_run(folder / "other")


def test_faults_are_gathered_once_and_only_within_the_block(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nothing")
    assert not looking.exists(tmp_path / "link")
    with looking.gathered() as faults:
        for _ in range(2):
            assert not looking.is_file(tmp_path / "link")
            assert not looking.is_file(tmp_path / "missing")
            assert not looking.entries(tmp_path / "missing")
            assert not looking.is_folder(tmp_path / "file/inside")
            assert not looking.is_file(Path("a\0b"))
            assert not looking.entries(Path("a\0b"))
        with looking.gathered() as inner:
            looking.tell("inner")
        assert looking.folders(tmp_path) == []  # a link that leads nowhere may be to a file
    assert list(faults) == [
        f"{tmp_path / 'link'}: is a link to what is not there; left out",
        f"{tmp_path / 'file'}: is a file where a folder is expected; left out",
    ]
    assert list(inner) == ["inner"]


def test_entries_that_are_not_looked_at_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "ENTRIES", 2)
    for name in ("c", "a", "b"):
        (tmp_path / name).write_text("")
    with looking.gathered() as faults:
        assert [path.name for path in looking.entries(tmp_path)] == ["a", "b"]
    assert list(faults) == [f"{tmp_path}: holds 3 entries, of which only the first 2 by name are looked at"]


def test_of_many_checkpoints_that_are_left_out_the_number_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied("trl_sft", folder)
    saved = open_run(path).checkpoints
    for step in range(100, 108):
        (path / f"checkpoint-{step}").mkdir()
    monkeypatch.setattr("dynamics.runs.open.NOTES", 5)
    run = open_run(path)
    assert run.checkpoints == saved
    assert len(run.notes) == 6
    assert run.notes[-1] == f"{path}: 3 more lines on what was left out are not listed"
