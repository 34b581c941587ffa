"""Several ranks write the lines of one process. Each test starts processes of gloo on the CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import several_ranks

from dynamics import InputError, sparsity
from dynamics.recorder.ranks import Held, share
from dynamics.recorder.recorder import _narrowed as narrowed

#: seconds after which ranks that wait for each other are stopped
HANGS = 400


def free_port() -> str:
    """Find a port that no other test, of this checkout or another, listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launch(case: str, world: int, folder: Path) -> list[dict]:
    """Run all ranks, and return what each says."""
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, several_ranks.__file__, case]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in range(world)
    ]
    try:
        outputs = [rank.communicate(timeout=HANGS)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(outputs)[-6000:]
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(world)]


def lines(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "time" not in name and "seconds" not in name} for row in rows]


def assert_same(ours: list[dict], theirs: list[dict], tolerance: float = 1e-12) -> None:
    """Compare lines: counts exactly, other numbers within a relative tolerance."""
    assert [list(line) for line in ours] == [list(line) for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name, value in b.items():
            exact = "sparsity" in name or name in ("step", "tokens") or name.endswith("/tokens")
            assert a[name] == (value if exact or value is None else pytest.approx(value, rel=tolerance)), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "kinds"),
    [(2, "ddp.float32,ddp-first.float32,fsdp.float32,fsdp.bfloat16,ignored.float32,lora-ddp.float32,lora-fsdp.float32"),
     (4, "hsdp.float32,submesh.bfloat16,fsdp.float32,lora-hsdp.float32,lora-fsdp.bfloat16")],
)  # fmt: skip
def test_several_ranks_write_the_lines_of_one_process(world: int, kinds: str, tmp_path) -> None:
    results = launch(f"weights:{kinds}", world, tmp_path)
    for kind in kinds.split(","):
        layout, _, dtype = kind.partition(".")
        model = several_ranks.make_model(several_ranks.DTYPES[dtype])
        alone = several_ranks.record(several_ranks.with_lora(model) if "lora" in kind else model, tmp_path / "alone")
        expected = lines(tmp_path / "alone")
        (tmp_path / "alone" / "metrics.jsonl").unlink()
        held = [result[kind]["held"] for result in results]
        copies = sum(value.nbytes for value, _ in alone._base.values())
        if layout == "lora-hsdp":  # the factors only
            assert "the model is sharded" in results[0][kind]["not_merged"]
            kept = [[name for name in line if name in ("step", "loss") or name.startswith("factors/")] for line in expected]
            expected = [{name: line[name] for name in names} for names, line in zip(kept, expected, strict=True)]
            assert any(name.startswith("factors/") for name in expected[-1])
            copies = sum(narrowed(*stored)[0].nbytes for stored in alone._base.values())  # zeros are kept as bfloat16
        else:
            assert results[0][kind]["not_merged"] == ""
            assert "sparsity/exact" in expected[-1]
        assert_same(lines(tmp_path / kind), expected)
        if layout == "lora-fsdp":
            assert copies < sum(held) < world * copies  # the factors A are kept by all
            continue
        assert sum(held) == copies  # each weight is kept by one rank
        if layout in ("ddp", "fsdp"):
            assert max(held) < 1.2 * copies / world


@pytest.mark.slow
def test_an_error_on_one_rank_is_raised_on_all(tmp_path) -> None:
    first, second = launch("failure:ddp,fsdp,fsdp1,disk,parts", 2, tmp_path)
    for kind in ("ddp", "fsdp"):
        assert first[kind]["error"] == second[kind]["error"]
        assert first[kind]["error"].startswith("rank 1: ")
        assert "weights and has 3" in first[kind]["error"]
    assert first["disk"]["error"] == second["disk"]["error"]
    assert first["disk"]["error"].startswith("rank 0: ")
    assert "metrics.jsonl" in first["disk"]["error"]
    for rank in (first, second):
        assert "is split by FSDP1" in rank["fsdp1"]["error"]
        assert "is not the same on all ranks" in rank["parts"]["error"]


#: rank 1 dies before it says its value
DYING = """
import os, sys, torch.distributed
from dynamics import InputError
from dynamics.recorder.ranks import from_all, on_first
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
assert from_all(lambda: rank) == [0, 1]
if rank == 1:
    os._exit(9)
for exchange in (lambda: from_all(lambda: rank), lambda: on_first([rank])):
    try:
        exchange()
    except InputError as error:
        print(error)
os._exit(0)
"""


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_other_with_one_line() -> None:
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        subprocess.Popen([sys.executable, "-c", DYING, str(rank)], env=environment, stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    try:
        outputs = [rank.communicate(timeout=HANGS)[0].splitlines() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 9]
    assert len(outputs[0]) == 2
    assert all(line.startswith("rank 0: another rank ended or cannot be reached; see its own output (") for line in outputs[0])


@pytest.mark.slow
def test_the_callback_under_several_ranks(tmp_path) -> None:
    results = launch("hooks:ddp,fsdp,head,mixed", 2, tmp_path)
    several_ranks.train(several_ranks.make_model(), 0, 1, tmp_path / "alone")
    expected = lines(tmp_path / "alone")
    assert expected[1]["probe/prompt/entropy"] > 0
    assert expected[1]["prompt/tokens"] + expected[1]["tokens"] == 4 * 8 - 3
    for kind, rounding in (("ddp", 1e-3), ("fsdp", 1e-3), ("head", 1e-3), ("mixed", 0.1)):
        assert [result[kind]["same"] for result in results] == [True, True]
        ours = lines(tmp_path / kind)
        assert len(ours) == several_ranks.STEPS
        for a, b in zip(ours, expected, strict=True):
            for name, value in b.items():
                if "sparsity" not in name:  # the gradients are rounded in another order
                    assert a[name] == (value if value is None else pytest.approx(value, rel=rounding)), name
        first, alone = (json.loads((tmp_path / run / "run.json").read_text()) for run in (kind, "alone"))
        assert first["ranks"] == 2
        assert first["probes"]["start"] == pytest.approx(alone["probes"]["start"], rel=1e-6 if kind != "mixed" else 1e-2)


@pytest.mark.slow
def test_trl_under_ddp(tmp_path) -> None:
    pytest.importorskip("trl")
    pytest.importorskip("datasets")
    results = launch("grpo", 2, tmp_path)
    assert [result["grpo"]["processes"] for result in results] == [2, 2]
    rows = lines(tmp_path / "grpo")
    assert [row["step"] for row in rows] == [1, 2, 3]
    whole = sparsity.compare(tmp_path / "base", tmp_path / "tuned").total
    assert {rule: rows[-1][f"sparsity/{rule}"] for rule in whole.sparsity} == whole.sparsity
    for row in rows:
        judged = [json.loads(line) for line in (tmp_path / "grpo" / "rollouts" / f"step_{row['step']}.jsonl").read_text().splitlines()]
        assert len(judged) == 8  # of both ranks
        assert row["tokens"] == sum(len(line["completion_ids"]) for line in judged)
        for role, right in (("right", 1), ("wrong", 0)):
            assert row.get(f"{role}/tokens", 0) == sum(len(line["completion_ids"]) for line in judged if line["reward"] == right)
        assert row["probe/prompt/tokens"] > 0


def test_each_weight_is_counted_once() -> None:
    alone = [{"a": Held(6, (rank,), True), "b": Held(5, (rank,), True), "c": Held(4, (rank,), True)} for rank in range(2)]
    assert [share(alone, rank, spread=True) for rank in range(2)] == [({"a"}, 15), ({"b", "c"}, 15)]
    assert [share(alone, rank, spread=False)[0] for rank in range(2)] == [{"a", "b", "c"}, set()]
    stages = [{"a": Held(6, (0,), True)}, {"b": Held(5, (1,), True)}]
    assert [share(stages, rank, spread=False) for rank in range(2)] == [({"a"}, 11), ({"b"}, 11)]
    grids = [{"a": Held(8, mesh, first)} for mesh, first in (((0, 2), True), ((1, 3), True), ((0, 2), True), ((1, 3), True))]
    assert [share(grids, rank, spread=True)[0] for rank in range(4)] == [{"a"}, set(), {"a"}, set()]
    with pytest.raises(InputError, match="a: has 6 and 8 weights"):
        share([{"a": Held(6, (0,), True)}, {"a": Held(8, (1,), True)}], 0, spread=True)
    with pytest.raises(InputError, match="a: is not the same on all ranks"):
        share([{"a": Held(6, (0,), True, b"1")}, {"a": Held(6, (1,), True, b"2")}], 0, spread=True)
    replicas = [{"a": Held(8, (0, 1), True)}, {"a": Held(8, (0, 1), False)}]
    assert [share(replicas, rank, spread=True)[0] for rank in range(2)] == [{"a"}, set()]
