"""Texts, responses of servers, records of tasks, spectra and proposals with wrong values: a result, or one line that says what is wrong."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import check_read_or_refused
from mutations import WRONG, every, mutated
from test_logprobs import WRITERS, distributions, drawn

from dynamics.entropy import read_token_logprobs
from dynamics.entropy.__main__ import cli
from dynamics.errors import InputError
from dynamics.rollouts import texts
from dynamics.runs.directory import RunDirectory
from dynamics.spectra.comparison import Spectrum
from dynamics.train.tasks.records import read_records

DATA = Path(__file__).parents[1] / "data"
TEXTS = [
    {"text": "a", "id": "x", "step": 3},
    {"prompt": "p", "completion": "c", "reward": 1.0, "role": "r", "task": "t", "temperature": 1.0, "system": "s"},
    {"prompt_ids": [1, 2], "completion_ids": [3, 4], "completion_mask": [1, 0], "reward": 0.5},
    {"token_ids": [1, 2, 3], "loss_mask": [0, 1, True]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 3},
    {"instruction": "i", "input": "x", "output": "o"},
]


def fixtures():
    """Yield (reader, one record that it reads)."""
    rng = np.random.default_rng(0)
    log_p = distributions(2, rng)
    for writer in WRITERS.values():
        yield lambda path: read_token_logprobs(str(path)), writer(log_p, drawn(log_p, rng), 3)
    for text in TEXTS:
        yield lambda path: texts.read([path]), text
    yield lambda path: read_records(str(path)), {"prompt": "p", "completion": "c", "answer": "1"}


@pytest.mark.parametrize("share", [0.003, pytest.param(0.5, marks=pytest.mark.slow)])
def test_a_wrong_value_in_any_field(tmp_path, share):
    rng, count = random.Random(0), 0
    path = tmp_path / "x.jsonl"
    for read, record in fixtures():
        for at, what in every(record):
            if rng.random() < share:
                path.write_text(json.dumps(record) + "\n" + mutated(record, at, what) + "\n")
                check_read_or_refused(read, path, (record, at, what))
                count += 1
        for what, value in WRONG.items():
            if rng.random() < share:
                path.write_text(value + "\n")
                check_read_or_refused(read, path, what)
    assert count > 10_000 * share


TOKEN = '{"choices": [{"logprobs": {"content": [{"token": %s, "logprob": -1, "top_logprobs": [{"token": %s, "logprob": %s}]}]}}]}'
FLAT = '{"meta_info": {"output_top_logprobs_shape": %s, "output_top_logprobs_null_prefix": %s, "output_top_logprobs_val_flat_b64": %s}}'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (TOKEN % ('"a"', "[]", "-1"), "line 1, field 'token': a token is named by a text or a number, found a list"),
        (TOKEN % ("{}", '"a"', "-1"), "line 1, field 'token': a token is named by a text or a number, found an object"),
        (TOKEN % ('"a"', '"a"', "1" + "0" * 400), "line 1: has no top log-probabilities"),
        (TOKEN % ('"a"', '"a"', "5.5"), "line 1: has a log-probability of 5.5; a logarithm of a probability is at most 0"),
        (FLAT % ("[1, 1]", "1000000000000", '""'), "field output_top_logprobs_*"),
        (FLAT % ('["1", 1]', "0", '""'), "field output_top_logprobs_*, field 'shape[0]': expected a whole number, found a text"),
        (FLAT % ("[1, 1]", "0", '"AAA"'), "line 1: its log-probabilities in base64 cannot be decoded"),
        ('{"details": {"top_tokens": 5}}', "has no top log-probabilities"),
        ('{"response": ' * 200 + "{}" + "}" * 200, "has no top log-probabilities"),
        ("[" * 300 + "]" * 300, "has no top log-probabilities"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_hostile_responses_are_refused_in_one_line(tmp_path, capsys, content, says):
    path = tmp_path / "r.jsonl"
    path.write_text(content + "\n")
    assert cli(["logprobs", str(path), "--vocabulary", "100"]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (
            '{"completion_ids": [1, 1000000000000]}',
            "field 'completion_ids': token ids are a list of whole numbers of at least 0, within ",
        ),
        ('{"completion_ids": [1], "prompt_ids": {"a": 1}}', "field 'prompt_ids': token ids are"),
        ('{"completion_ids": ["\\ud800"]}', "field 'completion_ids': token ids are"),
        ('{"token_ids": [1, 2], "loss_mask": 5}', "field 'loss_mask': expected a list, found a whole number"),
        ('{"token_ids": [1, 2], "loss_mask": [1, "a"]}', "field 'loss_mask', field '[1]': expected"),
        ('{"messages": [[]]}', "a list that is not of chat messages"),
        (
            '{"messages": [{"role": "user", "content": {}}]}',
            "a chat message is a text, a list of parts or null, found an object",
        ),
    ],
)
def test_hostile_texts_are_refused_in_one_line(tmp_path, record, says):
    path = tmp_path / "t.jsonl"
    path.write_text(record + "\n")
    with pytest.raises(InputError, match=r"^[^\n]*t\.jsonl, line 1[^\n]*$") as caught:
        texts.read([path])
    assert says in str(caught.value)


def test_texts_of_one_token_and_halves_of_surrogate_pairs(tmp_path, capsys):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n')
    assert cli([str(DATA / "base"), str(path), "--html", str(tmp_path / "x.html")]) == 2
    assert "no text has two tokens" in capsys.readouterr().err
    path.write_text('{"text": "ab", "id": "\\ud800", "task": "\\ud800"}\n{"text": "b \\ud800", "id": "half"}\n')
    outputs = [part for name in ("json", "html") for part in (f"--{name}", str(tmp_path / f"x.{name}"))]
    assert cli([str(DATA / "base"), str(path), "--out", str(tmp_path / "x.parquet"), *outputs]) == 0
    assert "1 text with half of a surrogate pair, which no tokenizer reads, left out: half" in " ".join(capsys.readouterr().out.split())
    assert pq.read_table(tmp_path / "x.parquet").column("text").to_pylist() == ["\\ud800"] * 2


def test_records_of_tasks(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": "a", "answer": "b\\ud800"}\n')
    with pytest.raises(InputError, match="row 1: holds half of a surrogate pair"):
        read_records(str(path))
    path.write_text("{" + ", ".join(f'"{number}": 1' for number in range(10_000)) + "}\n")
    with pytest.raises(InputError, match=r"row 1: has no text field prompt; it has 0, 1, [^\n]{1,50}, \.\.\.$"):
        read_records(str(path))
    path.write_text("[1]\n")
    with pytest.raises(InputError, match="it has no fields, but is of type list"):
        read_records(str(path))
    table = tmp_path / "q.parquet"
    pq.write_table(pa.table({"prompt": [["a"]], "answer": ["b"]}), table)
    with pytest.raises(InputError, match="row 1: has no text field prompt"):
        read_records(str(table))
    table.write_bytes(table.read_bytes()[:-10])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_records(str(table))


def test_pipes_in_a_folder_of_texts(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("b")
    signal.alarm(60)  # opening a pipe waits for its other end
    try:
        with pytest.raises(InputError, match=r"a\.txt: is not a regular file but a pipe"):
            texts.read([tmp_path])
        with pytest.raises(InputError, match=r"a\.txt: is neither a file nor a folder"):
            texts.read([tmp_path / "a.txt"])
        with pytest.raises(InputError, match="is not a regular file but a pipe"):
            read_records(str(tmp_path / "a.txt"))
        with pytest.raises(InputError, match="is not a regular file but a folder"):
            read_records(str(tmp_path))
        with pytest.raises(InputError, match="is not a regular file but a pipe"):
            read_token_logprobs(str(tmp_path / "a.txt"))
    finally:
        signal.alarm(0)


def spectrum():
    """Make a spectrum as JSON with a value of the right type in each field."""
    values = {"int": 1, "float": 0.5, "str": "a", "tuple[int, int]": [2, 2], "tuple[float, ...]": [0.5, 1.0]}
    return {entry.name: values.get(str(entry.type), {"rank": [0.0, 1.0]}) for entry in fields(Spectrum)}


def test_a_file_of_spectra_to_resume_is_that_of_this_command(tmp_path, capsys):
    from dynamics.spectra.__main__ import cli as spectra

    base = str(DATA / "base")
    path = tmp_path / "s.jsonl"
    rng = random.Random(0)
    places = [place for place in every({**spectrum(), "of": {}}) if rng.random() < 0.03]
    for at, what in places:
        path.write_text(mutated({**spectrum(), "of": {}}, at, what) + "\n")
        assert spectra([base, base, "--resume", str(path)]) == 2, (at, what)
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "written by this command" in said or "belongs to other" in said or "is not JSON" in said


def test_proposals_of_a_damaged_run(tmp_path):
    from dynamics.train.games import curriculum

    folder = tmp_path / "rollouts"
    folder.mkdir()
    rows = [json.loads(line) for line in (DATA / "runs" / "selfplay-0" / "rollouts" / "step_1.jsonl").read_text().splitlines()]
    good = next(row for row in rows if row["role"] == "proposer" and row["valid"])
    (folder / "step_x.jsonl").write_text("no step\n")
    path = folder / "step_1.jsonl"
    rng = random.Random(0)
    for at, what in [place for place in every(good) if rng.random() < 0.1]:
        path.write_text(mutated(good, at, what) + "\n")
        check_read_or_refused(lambda path: curriculum.draw(RunDirectory(tmp_path), 0, 5), path, (at, what))
    path.write_text(json.dumps({**good, "entry": {**good["entry"], "inputs": "f()"}}) + "\n")
    with pytest.raises(InputError, match=r"step_1\.jsonl, line 1: its inputs or outputs are no literals"):
        curriculum.draw(RunDirectory(tmp_path), 0, 5)
    path.write_text(json.dumps(good) + "\n")
    assert [step for _, step, _ in curriculum.draw(RunDirectory(tmp_path), 0, 5)] == [1]


RUN = """
import json, os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from pathlib import Path
from dynamics.errors import InputError
from dynamics.rollouts import texts
from dynamics.rollouts.logprobs import read_token_logprobs
from dynamics.train.tasks.records import read_records
for read in (lambda path: texts.read([path]), read_token_logprobs, read_records):
    for path in sys.argv[1:]:
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
            continue
        try:
            read(path)
        except InputError as error:
            print(json.dumps(str(error)), flush=True)
        os._exit(0)
"""


@pytest.mark.slow
def test_rollouts_that_explode_are_refused_in_three_gigabytes(tmp_path):
    member = gzip.compress(b"a" * (64 << 20), 1)
    files = {
        "text.txt.gz": member * 48,
        "line.jsonl.gz": gzip.compress(b'{"text": "') + member * 48,
        "lines.jsonl.gz": gzip.compress(b'{"text": "a", "prompt": "a", "answer": 1}\n' * 500_000) * 200,
        "lists.jsonl": b'{"text": "a", "choices": [' + b"[]," * 40_000_000 + b"[]]}\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    pq.write_table(pa.table({"text": ["a" * 900_000_000]}), tmp_path / "text.parquet", compression="zstd")
    ones = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000_000, np.int8)), pa.array(["a"]))
    pq.write_table(pa.table({"text": ones, "prompt": ones, "answer": ones}), tmp_path / "rows.parquet")
    paths = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", RUN, *paths], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert all("\n" not in message for message in messages)
    refused = {(Path(message.partition(":")[0].partition(",")[0]).name) for message in messages}
    assert refused >= {*files, "rows.parquet"}
