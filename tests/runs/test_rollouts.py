"""Sampled completions of every trainer as one table, and what is left out of damaged, strange or too many files."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import tracemalloc
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from dynamics.runs import RolloutFile, Run, open_run, read_rollouts
from dynamics.runs.rollouts import COLUMNS
from dynamics.runs.view import metrics_table

DATA = Path(__file__).parent.parent / "data" / "runs"


def table_of(tmp_path, records, most=200_000, **settings):
    """Read one file with these records."""
    path = tmp_path / "samples.jsonl"
    path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
    return read_rollouts(Run(tmp_path, "ours", rollouts=[RolloutFile(3, path)], **settings), most)


def test_own_samples():
    run = open_run(DATA / "own/selfplay")
    table, notes = read_rollouts(run)
    assert list(table) == list(COLUMNS)
    assert notes == []
    assert table["step"].is_monotonic_increasing
    assert set(table["role"]) == {"proposer", "solver"}
    first = json.loads((DATA / "own/selfplay/rollouts/step_1.jsonl").read_text().splitlines()[0])
    row = table.iloc[0]
    assert (row.prompt, row.completion, row.reward, row.tokens) == (
        first["prompt"],
        first["completion"],
        -1.0,
        len(first["completion_ids"]),
    )
    assert row.truncated == (first["ended"] == "length")
    rlvr, _ = read_rollouts(open_run(DATA / "own/rlvr"))
    assert set(rlvr["role"]) == {""}
    assert len(rlvr) == 32
    nothing, _ = read_rollouts(open_run(DATA / "own/sft"))
    assert list(nothing) == list(COLUMNS)
    assert nothing.empty


def test_verl_samples():
    table, notes = read_rollouts(open_run(DATA / "verl"))
    assert len(table) == 84
    assert notes == []
    assert table["held_out"].sum() == 4
    assert table.iloc[0][["step", "prompt", "completion", "reward", "truncated"]].tolist() == [
        1,
        "user\n1 + 1?\nassistant\n",
        "2",
        1.0,
        None,
    ]
    assert table[~table.held_out].groupby("step")["reward"].mean().tolist() == [0.5] * 4 + [1.0] * 6
    assert table["tokens"].isna().all()


def test_episodes_of_verifiers():
    table, notes = read_rollouts(open_run(DATA / "prime_rl"))
    assert len(table) == 44
    assert notes == []
    assert table.iloc[0].drop("file").tolist() == [1, "system: Add.\n\nuser: 1 + 1?", "2", 1.1, 2.0, False, "", False]
    assert table.iloc[1][["completion", "reward", "truncated"]].tolist() == ["3", 0.1, True]


def test_episodes_with_several_agents_turns_and_branches(tmp_path):
    def node(role, content, parent=None, sampled=False, **more):
        return {"parent": parent, "message": {"role": role, "content": content, **more}, "sampled": sampled, "mask": [sampled] * 3}

    calls = [{"function": {"name": "add"}}]
    turns = [
        node("user", "q"),
        node("assistant", "abandoned", 0, True),
        node("assistant", None, 0, True, tool_calls=calls),
        node("tool", [{"type": "text", "text": "4"}, {"type": "image_url"}], 2),
        node("assistant", "done", 3, True),
    ]
    traces = [
        {
            "agent": {"name": "solver", "trainable": True},
            "nodes": turns,
            "rewards": {"a": {"score": 2, "weight": 0.5}, "b": None},
            "stop_condition": {},
            "calls": 5,
        },
        {"agent": {"name": "proposer", "trainable": True}, "nodes": turns[:1], "rewards": {}, "stop_condition": {}, "calls": 5},
        {"agent": {"name": "judge", "trainable": False}, "nodes": turns, "rewards": {}},
    ]
    table, notes = table_of(tmp_path, [{"traces": traces, "run": {"work": {"step": 7}}}])
    assert notes == []
    assert len(table) == 1
    row = table.iloc[0]
    assert (row.step, row.prompt, row.tokens) == (3, "user: q", 6.0)
    assert math.isnan(row.reward)
    assert row.completion == f"assistant: {json.dumps(calls)}\n\ntool: 4[image_url]\n\nassistant: done"


def test_token_ids_of_open_instruct():
    table, notes = read_rollouts(open_run(DATA / "open_instruct"))
    assert notes == []
    assert table["step"].tolist() == [step for step in range(1, 13) for _ in range(4)]
    assert table.iloc[1].drop(["file", "role"]).tolist() == [1, "1 5 7", "9 9", 0.0, 2.0, True, False]


def test_tables_of_trl(tmp_path):
    table, notes = read_rollouts(open_run(DATA / "trl_grpo"))
    written = pd.concat([pd.read_parquet(path) for path in sorted((DATA / "trl_grpo/completions").iterdir())], ignore_index=True)
    assert notes == []
    assert table["prompt"].tolist() == written["prompt"].tolist()
    assert table["reward"].tolist() == pytest.approx(written["digits"].tolist())
    records = [
        {
            "step": 5,
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
            "completion": [{"role": "assistant", "content": "a"}],
            "format": 1.0,
            "right": None,
            "length_of_it": 12.0,
            "advantage": 0.5,
        },
        {"step": 5, "prompt": [], "completion": [], "format": None, "right": None, "length_of_it": 3.0, "advantage": math.nan},
    ]
    path = tmp_path / "completions_00005.parquet"
    parquet.write_table(pa.Table.from_pylist(records), path)
    logged = metrics_table([(5, "rewards/format/mean", 1.0), (5, "rewards/right/mean", 0.5)])
    run = Run(tmp_path, "TRL", rollouts=[RolloutFile(5, path)], metrics=logged, config={"reward_weights": "[2.0, 1.0]"})
    table, notes = read_rollouts(run)
    assert table["prompt"].tolist() == ["system: s\n\nuser: q", ""]
    assert table["completion"].tolist() == ["a", ""]
    assert table["reward"][0] == 2.0
    assert math.isnan(table["reward"][1])
    path.write_bytes(path.read_bytes()[:-20])
    table, notes = read_rollouts(run)
    assert table.empty
    assert "is damaged, or no Parquet file" in notes[0]
    assert len(notes) == 1


def test_bad_records_are_counted_in_a_line(tmp_path):
    good = {"prompt": "p", "completion": "c", "reward": float("nan"), "ended": "eos"}
    bad = [good | {"reward": "high"}, {"prompt": "p"}, [1], good | {"completion": 5}, good | {"prompt": [1]}]
    table, notes = table_of(tmp_path, [good, *bad, good | {"reward": None}, good | {"reward": True}, '{"prompt": "half'])
    assert table["reward"].tolist()[2] == 1.0
    assert table["reward"].isna().sum() == 2
    assert len(table) == 3
    assert table["truncated"].tolist() == [False] * 3
    assert "line 9: is not JSON" in notes[0]
    assert notes[1] == f"{tmp_path}/samples.jsonl: 5 of 8 records left out; the first: 2 field 'reward' is no number"


def test_lone_surrogates_and_hostile_texts(tmp_path):
    table, notes = table_of(tmp_path, ['{"prompt": "\\ud800x", "completion": "<script>\\u0000", "reward": 1e999, "role": "\\u001b[31m"}'])
    assert notes == []
    assert table.iloc[0][["prompt", "completion", "reward"]].tolist() == ["\\ud800x", "<script>\0", math.inf]
    table.to_csv(sys.stderr)
    (tmp_path / "samples.jsonl").write_bytes(b"")
    table, notes = read_rollouts(Run(tmp_path, "ours", rollouts=[RolloutFile(1, tmp_path / "samples.jsonl")]))
    assert table.empty
    assert notes == [f"{tmp_path}/samples.jsonl: holds no samples"]
    table, notes = read_rollouts(Run(tmp_path, "ours", rollouts=[RolloutFile(1, tmp_path / "missing.jsonl")]))
    assert notes == [f"{tmp_path}/missing.jsonl: No such file or directory"]


def test_nested_too_deeply(tmp_path):
    deep = '{"prompt": "p", "completion": ' + "[" * 100_000 + "]" * 100_000 + "}"
    table, notes = table_of(tmp_path, [{"prompt": "p", "completion": "c"}, deep])
    assert len(table) == 1
    assert len(notes) == 1
    assert notes[0].endswith("what follows in the file is not read")


def test_of_many_files_some_are_read_evenly(tmp_path):
    files = []
    for step in range(1, 31):
        for held_out in (False, True):
            path = tmp_path / f"{step}-{held_out}.jsonl"
            path.write_text('{"prompt": "p", "completion": "c", "reward": 1}\n' * 10)
            files.append(RolloutFile(step, path, held_out))
    table, notes = read_rollouts(Run(tmp_path, "ours", rollouts=files), most=120)
    assert len(table) == 120
    assert table["held_out"].sum() == 60
    read = sorted(set(table["step"]))
    assert read[0] == 1
    assert read[-1] == 30
    assert len(read) == 6
    assert max(b - a for a, b in itertools.pairwise(read)) <= 6
    assert notes == [f"{tmp_path}: 48 of 60 files of samples left out, evenly over training: together they hold about 600 samples"]
    one = Run(tmp_path, "ours", rollouts=files[:1])
    table, notes = read_rollouts(one, most=4)
    assert len(table) == 4
    assert notes == [f"{files[0].path}: only its first 4 samples are read"]


@pytest.mark.slow
def test_a_million_samples_in_bounded_memory(tmp_path):
    import tracemalloc

    files = []
    text = json.dumps({"prompt": "p" * 200, "completion": "c" * 300, "reward": 1.0}) + "\n"
    for step in range(100):
        path = tmp_path / f"{step}.jsonl"
        path.write_text(text * 10_000)
        files.append(RolloutFile(step, path))
    tracemalloc.start()
    table, notes = read_rollouts(Run(tmp_path, "ours", rollouts=files))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table) == 200_000
    assert len(notes) == 1
    assert peak < 500 << 20


def test_a_pipe_in_place_of_a_table_is_a_line(tmp_path):
    os.mkfifo(tmp_path / "completions_00001.parquet")
    table, notes = read_rollouts(Run(tmp_path, "TRL", rollouts=[RolloutFile(1, tmp_path / "completions_00001.parquet")]))
    assert table.empty
    assert "is not a regular file but a pipe" in notes[0]


def test_a_text_that_stands_for_many_rows_is_not_copied_for_all_of_them(tmp_path, monkeypatch):
    path = tmp_path / "completions_00001.parquet"
    parquet.write_table(pa.table({"prompt": ["p"] * 100, "completion": ["x" * 1_000_000] * 100, "f": [1.0] * 100}), path)
    monkeypatch.setattr("dynamics.runs.rollouts.MOST_CHARACTERS", 5_000_000)
    monkeypatch.setattr("dynamics.io.parquet.LARGEST", 2_000_000)
    tracemalloc.start()
    try:
        table, notes = read_rollouts(Run(tmp_path, "TRL", rollouts=[RolloutFile(1, path)]))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert len(table) == 5
    assert notes == [f"{path}: only its first 5 samples are read"]


def test_a_run_whose_name_is_no_unicode(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/x\xff\ny"))
    folder.mkdir()
    (folder / "samples.jsonl").write_text('{"prompt": "1+1", "completion": "2", "reward": 1}\n{')
    table, notes = read_rollouts(Run(folder, "ours", rollouts=[RolloutFile(1, folder / "samples.jsonl")]))
    assert table["file"].tolist() == [f"{tmp_path}/x\\udcff\ny/samples.jsonl"]
    table.to_csv(tmp_path / "table.csv")  # half of a surrogate pair would be an error
    assert notes == [
        f"{tmp_path}/x\\xdcff\\x0ay/samples.jsonl: its last line is not complete and is left out; it may still be being written"
    ]
