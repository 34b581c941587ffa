"""The saved state of a run: checksums, the state before as a fallback, full disks, and what is damaged."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import room

from dynamics import InputError
from dynamics.train import state, tiny
from dynamics.train.config import RLVRConfig, SelfPlayConfig, SFTConfig
from dynamics.train.loop import run
from dynamics.train.player import ONLY, Player
from dynamics.train.policy import Policy
from train.helpers import contents, llama

METHOD = {"buffer": ["half \ud800", 'a"b'], "count": 3}


@functools.cache
def small(seed: int) -> Policy:
    return Policy(llama(seed).eval(), tiny.build_tokenizer())


class Saved:
    """A policy and its optimizer, with what is saved and loaded of them. All of one seed share the weights."""

    def __init__(self, folder: Path, seed: int = 0):
        self.folder = folder
        self.policy = small(seed)
        self.optimizer = torch.optim.AdamW(self.policy.masters.values(), 1e-2, fused=True)
        self.players = {ONLY: Player(ONLY, self.policy, self.optimizer)}
        self.loaded: list[dict] = []

    def step(self) -> None:
        for value in self.policy.masters.values():
            value.grad = torch.ones_like(value)
        self.optimizer.step()

    def save(self, step: int, last: bool = False) -> None:
        state.save(self.folder, step, self.players, METHOD | {"step": step}, last)

    def resume(self) -> state.Resumed | None:
        return state.resume(self.folder, self.players, self.loaded.append)

    def numbers(self) -> list[torch.Tensor]:
        moments = [value for moments in self.optimizer.state.values() for value in moments.values()]
        return [*self.policy.masters.values(), *moments]


@pytest.fixture(scope="module")
def two_states(tmp_path_factory) -> Path:
    """Save the states of steps 1 and 2."""
    saved = Saved(tmp_path_factory.mktemp("states") / "state")
    for step in (1, 2):
        saved.step()
        saved.save(step)
    return saved.folder


@pytest.fixture
def states(two_states: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_states, tmp_path / "state"))


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_what_was_saved_is_loaded(states: Path) -> None:
    ours, theirs = Saved(states), Saved(states, seed=1)
    for step in range(3, 5):
        ours.step()
        ours.save(step)
    ours.save(2)
    assert theirs.resume() == state.Resumed(states / "step_000002", 2, ())
    assert theirs.loaded == [METHOD | {"step": 2}]
    for a, b in zip(ours.numbers(), theirs.numbers(), strict=True):
        assert torch.equal(a, b)
    for value in theirs.policy.masters.values():
        assert value.requires_grad


def test_the_checksums_are_those_of_sha256sum(states: Path) -> None:
    import hashlib

    for line in (states / "step_000002" / state.CHECKSUMS).read_text().splitlines():
        checksum, name = line.split("  ")
        assert hashlib.sha256((states / "step_000002" / name).read_bytes()).hexdigest() == checksum


@pytest.mark.parametrize("position", [0.0, 0.001, 0.3, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("name", [state.TENSORS, state.DOCUMENT, state.CHECKSUMS])
def test_any_flipped_bit_is_noticed(states: Path, name: str, position: float) -> None:
    file = states / "step_000002" / name
    flip(file, int(8 * file.stat().st_size * position))
    saved = Saved(states)
    resumed = saved.resume()
    assert resumed is not None
    assert (resumed.step, saved.loaded) == (1, [METHOD | {"step": 1}])
    (note,) = resumed.notes
    assert note.startswith(f"{states}/step_000002: is damaged (")
    assert note.endswith("; continuing from the state of step 1")
    assert "\n" not in note


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def write(text: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": write(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a pipe": a_pipe,
    "other": write(b"[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [state.TENSORS, state.DOCUMENT])
@pytest.mark.parametrize("checksums", [True, False])
def test_a_damaged_state_falls_back_or_is_refused(states: Path, name: str, damage: str, checksums: bool) -> None:
    for folder in sorted(states.iterdir()):
        if not checksums:  # as earlier versions saved it
            (folder / state.CHECKSUMS).unlink()
    DAMAGE[damage](states / "step_000002" / name)
    if checksums or damage != "longer":
        resumed = Saved(states).resume()
        assert resumed is not None
        assert resumed.step == 1
        assert len(resumed.notes) == (1 if checksums else 2)
    DAMAGE[damage](states / "step_000001" / name)
    if checksums or damage != "longer":
        with pytest.raises(
            InputError, match=r"step_000002: is damaged .* no earlier state is left: train again into another folder"
        ) as caught:
            Saved(states).resume()
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (state.DOCUMENT, {"step": 1, "method": {}}),
        (state.DOCUMENT, {"step": "2", "method": {}}),
        (state.DOCUMENT, {"step": 2}),
        (state.DOCUMENT, {"step": 2, "method": []}),
        (state.DOCUMENT, [2]),
        (state.TENSORS, {"weights": {}, "optimizer": {}}),
        (state.TENSORS, {"optimizer": {}}),
        (state.TENSORS, [1]),
    ],
)
def test_a_state_of_an_earlier_version_is_checked_before_it_is_loaded(states: Path, name: str, content: object) -> None:
    folder = states / "step_000002"
    (folder / state.CHECKSUMS).unlink()
    if name == state.DOCUMENT:
        (folder / name).write_text(json.dumps(content))
    else:
        torch.save(content, folder / name)
    resumed = Saved(states).resume()
    assert resumed is not None
    assert resumed.step == 1
    assert name in resumed.notes[0]


@pytest.mark.parametrize("change", ["shape", "dtype", "moments", "groups"])
def test_weights_and_moments_of_another_model_are_not_loaded(states: Path, change: str) -> None:
    folder = states / "step_000002"
    (folder / state.CHECKSUMS).unlink()
    tensors = torch.load(folder / state.TENSORS, weights_only=True)
    first = next(iter(tensors["weights"]))
    if change == "shape":
        tensors["weights"][first] = tensors["weights"][first][:1]
    elif change == "dtype":
        tensors["weights"][first] = tensors["weights"][first].bfloat16()
    elif change == "moments":
        tensors["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    else:
        tensors["optimizer"]["param_groups"] = []
    torch.save(tensors, folder / state.TENSORS)
    saved = Saved(states)
    resumed = saved.resume()
    assert resumed is not None
    assert resumed.step == 1


def test_a_method_that_cannot_load_its_state_is_damage(states: Path) -> None:
    def load(kept: dict) -> None:
        if kept["step"] == 2:
            raise KeyError("buffer")

    saved = Saved(states)
    resumed = state.resume(states, saved.players, load)
    assert resumed is not None
    assert resumed.step == 1
    assert "state.json: KeyError: 'buffer'" in resumed.notes[0]


def test_a_state_without_checksums_is_loaded_with_a_note(states: Path) -> None:
    for folder in states.iterdir():
        (folder / state.CHECKSUMS).unlink()
    resumed = Saved(states).resume()
    assert resumed is not None
    assert resumed.step == 2
    (note,) = resumed.notes
    assert "was saved without checksums, by an earlier version" in note


def test_two_states_are_kept_until_the_run_ends(states: Path) -> None:
    saved = Saved(states)
    saved.save(3)
    assert folders(states) == ["step_000002", "step_000003"]
    saved.save(4, last=True)
    assert folders(states) == ["step_000004"]


def test_the_state_before_is_kept_while_the_new_one_is_not_proven(states: Path) -> None:
    flip(states / "step_000002" / state.TENSORS, 4000)
    saved = Saved(states)
    saved.save(3)
    assert folders(states) == ["step_000001", "step_000003"]
    saved.save(2)  # a run that went back to step 1 has other later states
    assert folders(states) == ["step_000001", "step_000002"]
    resumed = saved.resume()
    assert resumed is not None
    assert (resumed.step, resumed.notes) == (2, ())


def test_a_disk_that_keeps_other_bytes_is_noticed_when_it_is_written(states: Path, monkeypatch) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.name == state.TENSORS:
            flip(path, 50_000)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match=r"step_000003: cannot be written \(state.pt was read from the disk with other bytes .*--resume"):
        Saved(states).save(3)
    assert folders(states) == ["step_000002"]


@pytest.mark.parametrize("size", [0, 100, 20_000, 100_000])
def test_a_full_disk_names_the_state_and_keeps_the_one_before(states: Path, size: int) -> None:
    with room(size), pytest.raises(InputError, match=r"step_000003: cannot be written \(File too large\); .*--resume"):
        Saved(states).save(3)
    assert folders(states) == ["step_000002"]
    resumed = Saved(states).resume()
    assert resumed is not None
    assert resumed.step == 2


def test_a_state_that_may_not_be_read_is_not_called_damaged(states: Path, monkeypatch) -> None:
    def denied(path, *arguments, **more):
        if Path(path).name == state.TENSORS:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *arguments, **more)

    real = open
    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(InputError, match=r"step_000002/state.pt: Permission denied"):
        Saved(states).resume()


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path) -> None:
    policy = Policy(llama().eval(), tiny.build_tokenizer())

    class FullDisk:
        def save_pretrained(self, folder: Path) -> None:
            raise OSError(28, "No space left on device")

    policy.tokenizer = FullDisk()
    with pytest.raises(InputError, match=r"step_000001: cannot be written \(No space left on device\); .*--resume"):
        state.save_model(tmp_path / "step_000001", policy)
    assert not list(tmp_path.iterdir())


# whole runs

SMALL = {"eval_problems": 4, "eval_samples": 2, "num_problems": 20, "threads": 1, "probe_every": 0}
CONFIGS = {
    "sft": lambda base: SFTConfig(model=str(base), steps=6, save_every=2, batch_size=4, **SMALL),
    "rlvr": lambda base: RLVRConfig(
        model=str(base), steps=6, save_every=2, prompts_per_step=6, group_size=4, max_new_tokens=6, **SMALL
    ),
    "selfplay": lambda base: SelfPlayConfig(
        model=str(base), steps=6, save_every=2, eval_problems=0, threads=1, probe_every=0, prompts_per_step=4, group_size=4,
        max_proposal_tokens=40, num_seed_tasks=6, max_new_tokens=8, curriculum_samples=2
    ),
}  # fmt: skip


class Stop(Exception):
    pass


def stop_at(step: int) -> Callable[[int, dict], None]:
    def stop(number: int, _: dict) -> None:
        if number == step:
            raise Stop

    return stop


@pytest.mark.slow
@pytest.mark.parametrize("method", CONFIGS)
def test_a_run_that_falls_back_ends_with_the_same_bits(method: str, base: Path, tmp_path: Path, capsys) -> None:
    config, out = CONFIGS[method](base), tmp_path / "run"
    run(method, config, tmp_path / "straight")
    with pytest.raises(Stop):
        run(method, config, out, on_step=stop_at(5))
    assert folders(out / "state") == ["step_000002", "step_000004"]
    flip(out / "state/step_000004/state.pt", 77_777)
    capsys.readouterr()
    run(method, config, out, resume=True)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "step_000004: is damaged (state.pt does not have the checksum" in said
    assert "continuing from the state of step 2" in said
    assert json.loads((out / "run.json").read_text())["notes"] == [said.strip().removeprefix("dynamics.train: ")]
    assert contents(out) == contents(tmp_path / "straight")
    assert folders(out / "state") == ["step_000006"]


@pytest.fixture(scope="module")
def stopped(base: Path, tmp_path_factory) -> Path:
    """Run half of a run."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stop):
        run("sft", CONFIGS["sft"](base), out, on_step=stop_at(4))
    return out


@pytest.fixture
def half(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def refused(base: Path, out: Path, message: str) -> None:
    """Check that a run is not resumed, in one line, and stays as it was."""
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message) as caught:
        run("sft", CONFIGS["sft"](base), out, resume=True)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_without_a_sound_state_a_run_is_not_resumed(half: Path, base: Path) -> None:
    for folder in (half / "state").iterdir():
        flip(folder / "state.pt", 99_999)
    refused(base, half, r"step_000004: is damaged \(state.pt does not .* no earlier state is left: train again into another folder")


RUN_JSON = {
    "empty": b"",
    "cut": b'{"schema": "dynamics.run/2", "met',
    "not JSON": b"method: sft",
    "a list": b"[]",
    "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "a long number": b'{"seed": ' + b"9" * 5000 + b"}",
    "settings that are text": b'{"schema": "dynamics.run/2", "method": "sft", "config": "text"}',
    "a list as the method": b'{"method": ["sft"]}',
    "notes of another type": b'{"method": "sft", "notes": 3}',
    "settings of the first schema of other types": b'{"schema": "dynamics.run/1", "config": {"eval_problems": 1, "kinds": 3}}',
    "nothing": b"{}",
}


@pytest.mark.parametrize("name", RUN_JSON)
def test_a_damaged_run_json_is_one_line(name: str, half: Path, base: Path) -> None:
    (half / "run.json").write_bytes(RUN_JSON[name])
    refused(base, half, "run.json" if name != "nothing" else "was started with")


def test_a_run_json_without_threads_is_one_line(half: Path, base: Path) -> None:
    document = json.loads((half / "run.json").read_text())
    for threads in (None, "1", 0, True):
        (half / "run.json").write_text(json.dumps(document | {"threads": threads}))
        refused(base, half, r"run.json: (is not that of a run|does not say with how many threads)")


METRICS = {
    "cut in the middle": lambda text: text[:10] + text[40:],
    "a line less": lambda text: text[text.index(b"\n") + 1 :],
    "a line twice": lambda text: text[: text.index(b"\n") + 1] + text,
    "no JSON": lambda text: b"step 1\n" + text,
    "a list": lambda text: b"[1]\n" + text,
    "a step that is text": lambda text: text.replace(b'"step":2', b'"step":"2"'),
    "deep": lambda text: text + b"[" * 100_000 + b"\n",
    "empty": lambda text: b"",
}
QUICK = ("a line less", "no JSON")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METRICS])
def test_damaged_metrics_are_one_line(name: str, half: Path, base: Path) -> None:
    file = half / "metrics.jsonl"
    file.write_bytes(METRICS[name](file.read_bytes()))
    with pytest.raises(InputError, match=r"metrics\.jsonl") as caught:
        run("sft", CONFIGS["sft"](base), half, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
def test_a_pipe_in_a_run_directory_is_not_waited_for(name: str, half: Path, base: Path) -> None:
    a_pipe(half / name)
    with pytest.raises(InputError, match=f"{name}: is not a regular file"):
        run("sft", CONFIGS["sft"](base), half, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("tail", [b'{"step": 5, "lo', b"\0" * 100, b'{"step": 5, "loss": 1.0}\n{"st'])
def test_half_a_line_at_the_end_of_the_metrics_is_left_out(tail: bytes, half: Path, base: Path, tmp_path: Path) -> None:
    with open(half / "metrics.jsonl", "ab") as file:
        file.write(tail)
    run("sft", CONFIGS["sft"](base), half, resume=True)
    run("sft", CONFIGS["sft"](base), tmp_path / "straight")
    assert contents(half) == contents(tmp_path / "straight")


@pytest.mark.slow
def test_a_resumed_run_needs_the_base_and_the_problems_that_it_began_with(base: Path, tmp_path: Path) -> None:
    model, task = tmp_path / "base", tmp_path / "mine.jsonl"
    shutil.copytree(base, model)
    task.write_text('{"prompt": "<D>x+1<in>2<out>", "completion": "3"}\n{"prompt": "<D>x+2<in>2<out>", "completion": "4"}\n' * 5)
    settings = SFTConfig(model=str(model), task=str(task), steps=4, save_every=2, batch_size=4, **SMALL | {"eval_problems": 0})
    out = tmp_path / "run"
    with pytest.raises(Stop):
        run("sft", settings, out, on_step=stop_at(2))
    for file, message in ((next(model.glob("*.safetensors")), "its weights are not those"), (task, "its problems are not those")):
        before = file.read_bytes()
        if file == task:
            file.write_bytes(before.replace(b"x+1", b"x+3"))
        else:
            flip(file, 8 * (len(before) - 10))
        with pytest.raises(InputError, match=message):
            run("sft", settings, out, resume=True)
        file.write_bytes(before)
    run("sft", settings, out, resume=True)


# memory and clocks


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "selfplay"])
def test_memory_that_runs_out_is_one_line_and_the_step_before_is_kept(method: str, base: Path, tmp_path: Path, monkeypatch) -> None:
    config, out = CONFIGS[method](base), tmp_path / "run"
    run(method, config, tmp_path / "straight")
    real, calls = Policy.logprobs, []

    def logprobs(self: Policy, *arguments, **more):
        calls.append(1)
        if len(calls) == 9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, *arguments, **more)

    monkeypatch.setattr(Policy, "logprobs", logprobs)
    with pytest.raises(InputError, match=r"step \d: memory ran out; continue with --resume .*--max-tokens-per-microbatch"):
        run(method, config, out)
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    monkeypatch.undo()
    run(method, config, out, resume=True)
    assert contents(out) == contents(tmp_path / "straight")


@pytest.mark.slow
def test_a_resumed_run_may_use_smaller_batches_of_memory(half: Path, base: Path, capsys) -> None:
    from dataclasses import replace

    run("sft", replace(CONFIGS["sft"](base), max_tokens_per_microbatch=64), half, resume=True)
    said = capsys.readouterr().err
    assert said == "dynamics.train: --max-tokens-per-microbatch is 64 after step 4, before 1280: the order of sums changes\n"
    document = json.loads((half / "run.json").read_text())
    assert document["config"]["max_tokens_per_microbatch"] == 64
    assert document["notes"] == [said.strip().removeprefix("dynamics.train: ")]


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(base: Path, tmp_path: Path, monkeypatch) -> None:
    import time

    jumps = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    run("sft", CONFIGS["sft"](base), tmp_path / "run")
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        for name, value in json.loads(line).items():
            if name.startswith("time/") or "seconds" in name:
                assert 0 <= value < 1e6, name


# records that cannot be written


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rlvr", "selfplay"])
def test_a_step_whose_records_cannot_be_written_is_done_again_with_the_same_bits(
    method: str, base: Path, tmp_path: Path, monkeypatch
) -> None:
    """The game has played the step by then: what it remembers of it must not be saved."""
    from dynamics.runs.directory import RunDirectory

    config, out = CONFIGS[method](base), tmp_path / "run"
    run(method, config, tmp_path / "straight")
    real = RunDirectory.write_rows

    def write_rows(self: RunDirectory, name: str, rows) -> None:
        if name == "rollouts/step_4.jsonl":
            raise InputError(f"{self.path / name}: No space left on device")
        real(self, name, rows)

    monkeypatch.setattr(RunDirectory, "write_rows", write_rows)
    with pytest.raises(InputError, match=r"rollouts/step_4\.jsonl: No space left on device"):
        run(method, config, out)
    assert state.latest(out / "state").name == "step_000003"
    monkeypatch.undo()
    run(method, config, out, resume=True)
    assert contents(out) == contents(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoints", "evals", "state"])
def test_a_folder_that_cannot_be_written_is_one_line(name: str, half: Path, base: Path) -> None:
    shutil.rmtree(half / name)
    (half / name).write_text("a file in the place of the folder")
    with pytest.raises(InputError, match=f"{name}.*: ") as caught:
        run("sft", CONFIGS["sft"](base), half, resume=True)
    assert "\n" not in str(caught.value)
    assert (half / name).read_text() == "a file in the place of the folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize(
    ("name", "rights"), [("", 0o555), ("run.json", 0o000), ("metrics.jsonl", 0o000), ("state/step_000004/state.pt", 0)]
)
def test_what_may_not_be_read_or_written_is_one_line(name: str, rights: int, half: Path, base: Path) -> None:
    (half / name).chmod(rights)
    try:
        with pytest.raises(InputError, match=f"{name}.*(is not writable|Permission denied)"):
            run("sft", CONFIGS["sft"](base), half, resume=True)
    finally:
        (half / name).chmod(0o755)
