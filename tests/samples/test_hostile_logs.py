"""Logs with wrong values in every field, without end, or out of all proportion: a result, or one line that says what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import check_read_or_refused
from mutations import WRONG, every, mutated
from test_harnesses import HARNESSES

from dynamics import samples
from dynamics.errors import InputError
from dynamics.io.compression import zstandard
from dynamics.io.json_lines import read_json_lines
from dynamics.io.validation import converted, mismatch
from dynamics.passk.__main__ import cli
from dynamics.samples.aggregates import correct_counts

DATA = Path(__file__).parent.parent / "data"
ARGUMENTS = {"problem": "p", "sample": 0, "model": "m", "answer": "a", "completion": "x" * 300, "status": "ok", "temperature": 0.5}


def json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def inspect_log(path):
    """Keep the parts of an Inspect log that are read."""
    log = json.loads(gzip.decompress(path.read_bytes()))
    log = {name: log[name] for name in ("version", "plan", "eval", "samples")}
    log["eval"] = {name: log["eval"][name] for name in ("task", "model", "created")} | {"model_generate_config": {"temperature": 0.5}}
    log["samples"] = [{name: sample.get(name) for name in ("id", "epoch", "scores", "error", "limit")} for sample in log["samples"][:4]]
    return log


def fixtures(folder):
    """Yield (name of the file, records or document) of every format."""
    for path in sorted([*(DATA / "samples").glob("*.jsonl"), *(DATA / "harnesses" / "lm_eval").glob("*.jsonl")]):
        yield path.name, json_lines(path)[:4]
    yield "evalplus_eval_results.json", json.loads((DATA / "samples" / "evalplus_eval_results.json").read_text())
    for name in ("samples/inspect.json.gz", "harnesses/inspect/parts.json.gz", "harnesses/inspect/unscored.json.gz"):
        for suffix in (".json", ".eval"):
            yield name.replace("/", "_").replace(".json.gz", suffix), inspect_log(DATA / name)
    for name, make in HARNESSES.items():
        made = make(folder / name.replace(" ", "_").replace(",", ""))
        first = made if made.is_file() else sorted(path for path in made.rglob("*") if path.is_file())[0]
        if first.suffix == ".jsonl":
            yield first.name, json_lines(first)[:4]
        elif first.suffix == ".json":
            yield first.name, json.loads(first.read_text())
    yield "bigcode.json", {"0": [[0, {"passed": True, "result": "passed"}], [1, {"passed": False, "result": "timed out"}]]}
    yield "a.results.json", {"name": "n", "language": "py", "tests": "t", "results": [{"status": "OK", "exit_code": 0}]}
    yield "counts.jsonl", [{"problem": f"p{number}", "n": 4, "c": 2, "model": "m"} for number in range(4)]
    yield "uids.jsonl", [{"uid": f"{n}_0_{n}", "input": "q", "output": "o", "score": 1.0, "gts": "1", "step": 1} for n in range(3)]
    yield "all.jsonl", [{**ARGUMENTS, "sample": number, "step": 3, "error": None, "correct": True} for number in range(3)]
    yield "problems.yaml", {"question": "q", "is_corrects": [True, False], "samples": ["a", "b"], "gt_answer": "1"}


def hostile(folder, share, seed=0):
    """Yield paths of files with a wrong value somewhere, ``share`` of all that there are."""
    rng = random.Random(seed)
    for name, document in fixtures(folder):
        path = folder / name
        for at, what in every(document):
            if rng.random() > share or (path.suffix == ".jsonl" and len(at) == 1 and what not in WRONG):
                continue
            if path.suffix == ".jsonl":
                records = [json.dumps(record) for record in document * 6]  # the first 20 records are read twice
                late = len(document) * rng.randrange(6)
                record = mutated(document, at, what) if len(at) == 1 else mutated(document[at[0]], at[1:], what)
                records[late + at[0]] = record if len(at) > 1 else WRONG[what]
                path.write_text("\n".join(records) + "\n")
            elif path.suffix == ".eval":
                pack(path, mutated(document, at, what))
            else:
                path.write_text(mutated(document, at, what))
            yield path, (name, at, what)


def pack(path, text):
    """Write an Inspect log as a zip, with its parts as they are written in the document."""
    try:
        log = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        records = msgspec.json.decode(log.pop("samples", b"[]"), type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        path.write_text(text)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", msgspec.json.encode(log))
        for number, record in enumerate(records):
            archive.writestr(f"samples/{number}.json", bytes(record))


def check(path, where):
    check_read_or_refused(lambda name: samples.read([name]), path, where)


def test_a_wrong_value_in_any_field(tmp_path):
    trials = [check(path, where) for path, where in hostile(tmp_path, 0.0015)]
    assert len(trials) > 30


@pytest.mark.slow
def test_wrong_values_in_every_field(tmp_path, capsys):
    trials = [check(path, where) for path, where in hostile(tmp_path, 0.3, 1)]
    assert len(trials) > 5000
    for path, where in hostile(tmp_path, 0.01, 2):
        assert cli([str(path), "--json", str(tmp_path / "report.json")]) in (0, 2), where
    assert "internal error" not in capsys.readouterr().err


def archive(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name.replace("__", "/") + ".json", content)
    return file.getvalue()


def array(header):
    """Write the header of an array and a few values."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


RECORD = b'{"problem": "p", "correct": %s}\n'
LM_EVAL = '{"doc_id": 0, "doc_hash": %s, "resps": [["a"]], "filtered_resps": ["a"], "filter": %s, "metrics": ["em"], "em": %s}\n'
EPISODE = '{"id": %s, "env": {"id": "o"}, "task": %s, "run": %s, "traces": [{"agent": %s, "rewards": %s}]}\n'


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("n.jsonl", '{"problem": "p", "n": 1000000000000, "c": 3}', "line 1: n=1e+12 makes over 10,000,000 samples"),
        ("n.csv", "problem,n,c\na,5,1\nb,1e15,3\n", "row 2: n=1e+15 makes over 10,000,000 samples"),
        ("n.jsonl", '{"problem": "p", "n": 1' + "0" * 400 + ', "c": 3}', "n=inf is no count"),
        ("d.jsonl", RECORD % (b"9" * 5000), "line 1: is not JSON: Exceeds the limit"),
        ("s.jsonl", RECORD % b'["a", {"b": 1}]', "is a list of 2"),
        ("b.jsonl", RECORD % (b"[" * 100_000), "is not JSON: maximum recursion depth"),
        ("b.json", "[" * 100_000, "is not a JSON document"),
        ("b.json", '{"a": ' * 700 + "1" + "}" * 700 + "\n{", "not a JSON document"),
        ("l.jsonl", LM_EVAL % ("[1]", '"f"', "1"), "record 1, field 'doc_hash': expected a whole number, a text or null, found a list"),
        ("l.jsonl", LM_EVAL % ('"h"', "{}", "1"), "field 'filter': expected true or false, a number, a text or null, found an object"),
        ("l.jsonl", LM_EVAL.replace('["em"]', "[3]") % ('"h"', '"f"', "1"), "field 'metrics[0]': expected a text, found a whole number"),
        ("v.jsonl", EPISODE % ("1", "{}", '"run"', "{}", "{}"), "field 'run': expected an object or null, found a text"),
        ("v.jsonl", EPISODE % ("1", '{"data": []}', "{}", "{}", "{}"), "field 'task.data': expected an object or null, found a list"),
        ("v.jsonl", EPISODE % ("1", "{}", "{}", "3", "{}"), "field 'traces[0].agent': expected an object or null, found a whole number"),
        ("v.jsonl", EPISODE % ("1", "{}", "{}", "{}", '{"a": "b"}'), "field 'traces[0].rewards[...]': expected"),
        ("i.json", '{"eval": [], "samples": []}', "in its eval: expected an object or null, found a list"),
        ("i.json", '{"eval": {}, "samples": [{"scores": 1}]}', "in its samples, field '[0].scores': expected an object or null, found"),
        ("i.json", '{"eval": {}, "plan": {"config": 3}, "samples": []}', "in its plan, field 'config': expected an object or null"),
        ("i.eval", archive(header='{"eval": 1}'), "member header.json, field 'eval': expected an object or null, found a whole number"),
        ("i.eval", archive(header="{}", samples__1='{"epoch": []}'), "member samples/1.json, field 'epoch': expected"),
        ("e.json", '{"eval": {"a": [{"base_status": 1}]}}', "field '[...][0].base_status': expected a text or null, found a whole number"),
        ("m.results.json", '{"results": [{"status": []}], "tests": "", "language": ""}', "'[0].status': expected a text, found a list"),
        ("a.npy", array("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000000)}"), "has the shape (1000000000000, "),
        ("a.npy", array("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 1000000000000, 0)}"), "has the shape (3, 1000000000000, 0)"),
        ("a.npy", array("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 4)}"), "has the shape (-1, 4)"),
        ("a.npy", array("{'descr': '<f8', 'fortran_order': False, 'shape': (100, 100)}"), "is cut short"),
        ("a.npy", array("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}"), "holds pickled objects"),
        ("c.csv", "problem,correct\n" + ",".join("x" * 3000) + "\n", "no CSV table"),
        ("c.csv", ",".join(f"c{number}" for number in range(10_001)) + "\n" + "," * 10_000 + "\n", "has 10,001 columns"),
        ("y.yaml", "[" * 500, "nested deeper than 100"),
        ("y.yaml", "a: &a [1]\nb: [*a, *a]\n", "has YAML aliases"),
        ("y.yaml", "problem: !!bool perhaps\ncorrect: 1\n", "is not YAML"),
        ("y.yaml", "problem: !!timestamp perhaps\ncorrect: 1\n", "is not YAML"),
        ("u.jsonl", '{"problem": 1, "correct": 1}\n'.encode("utf-16-le"), "not UTF-8 text"),
        ("k.jsonl", "{" + ", ".join(f'"k{number}": 1' for number in range(20_000)) + ', "k19999": 2}\n', "has the field 'k19999' twice"),
        ("j.jsonl", '{"problem": "p", "judgement": "judgement:' + " " * 100_000 + '"}\n', None),
        ("h.jsonl", '{"prompt": "p", "completion": null, "step": 1, "advantage": 1, "my_reward": {}}\n', None),
    ],
)  # fmt: skip
def test_hostile_records_are_refused_in_one_line(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if says is None:
        assert len(samples.read([path]).table) == 1
        return
    with pytest.raises(InputError, match=r"^[^\n]{1,600}$") as caught:
        samples.read([path])
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_numbers_beyond_every_float_are_infinite(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(RECORD % b"1" + RECORD % (b"1" + b"0" * 400) + RECORD % b"1e999" + RECORD % b"NaN")
    assert samples.read([path]).table["correct"].isna().tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("problems", "says"),
    [
        (np.array([0x41, 0x110000], np.uint32).view("<U1"), "holds texts with code points that are no characters"),
        (np.array([0x41, 0x110000], ">u4").view(">U1"), "holds texts with code points that are no characters"),
        (np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"), "expected numbers or texts"),
        (np.zeros(2, [("a", "<U1")]), "expected numbers or texts"),
    ],
)
def test_names_of_problems_that_are_no_texts(tmp_path, problems, says):
    np.savez(tmp_path / "verdicts.npz", correct=np.eye(2), problems=problems)
    with pytest.raises(InputError, match=says):
        samples.read([tmp_path / "verdicts.npz"])


def test_half_of_a_surrogate_pair(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"problem": "\\ud800", "correct": 1, "\\udfff": {"\\ud800": 1}, "pred": "\\ud800"}\n')
    assert cli([str(path), "--k", "1", "--json", str(tmp_path / "x.json"), "--csv", str(tmp_path / "x.csv")]) == 0


def test_a_field_whose_name_msgspec_does_not_take(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"problem": "a", "is \\"right\\"": 1}\n{"problem": "b", "is \\"right\\"": 0}\n')
    assert samples.read([path], correct='is "right"').table["correct"].tolist() == [True, False]


@pytest.mark.parametrize("k", [1, 3, 50, 199, 200])
def test_counts_from_pass_at_k_of_many_samples(k):
    from math import comb

    for c in (0, 1, 7, 100, 150, 200):
        value = 1 - comb(200 - c, k) / comb(200, k)
        assert correct_counts(f"pass@{k}", value, 200) == [
            other for other in range(201) if abs(1 - comb(200 - other, k) / comb(200, k) - value) < 1e-9
        ]
    assert correct_counts("pass@" + "9" * 5000, 0.5, 2) == [1]  # not a number of samples


def test_a_pipe_or_a_device_is_no_log(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "nothing.jsonl").symlink_to("/nowhere")
    (tmp_path / "x.jsonl").write_bytes(RECORD % b"1")
    signal.alarm(60)  # opening a pipe waits for its other end
    try:
        read = samples.read([tmp_path])
        for path in (tmp_path / "pipe.jsonl", Path("/dev/zero"), Path("/dev/null")):
            assert cli([str(path)]) == 2
        os.mkfifo(tmp_path / "run.json")
        assert len(samples.read([tmp_path]).table) == 1
    finally:
        signal.alarm(0)
    assert "left out what is no regular file (a pipe, a device, or a link to nothing): nothing.jsonl, pipe.jsonl" in read.left_out[0]
    assert "internal error" not in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(RECORD % b"1")
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InputError, match="closed: Permission denied"):
        samples.read([tmp_path])


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(RECORD % b"1" * 60_000)
    lines = read_json_lines(path)
    next(lines)
    os.truncate(path, 1_500_000)
    with pytest.raises(InputError, match="is not JSON"):
        list(lines)
    np.save(tmp_path / "x.npy", np.ones((100, 100)))
    os.truncate(tmp_path / "x.npy", 5000)
    with pytest.raises(InputError, match="is cut short"):
        samples.read([tmp_path / "x.npy"])


def test_what_a_field_should_be_is_said():
    class Record(msgspec.Struct):
        name: str
        values: list[int] | None = None

    with pytest.raises(InputError, match=r"^here: has no field 'name'$"):
        converted({}, Record, "here")
    with pytest.raises(InputError, match=r"^here, field 'values\[1\]': expected a whole number, found a text$"):
        converted({"name": "a", "values": [1, "b"]}, Record, "here")
    with pytest.raises(InputError, match="half of a surrogate pair"):
        converted({"name": "a", "\ud800": 1}, Record, "here")
    assert mismatch(msgspec.ValidationError("Other")) == ": is not as expected: Other"


#: makes a file from a folder, by name; a file is refused, except where the name begins with "fine"
FILES = {}


def file(make):
    FILES[make.__name__] = make
    return make


MEMBER = b"a" * (64 << 20)


@file
def long_line_gzip(folder):
    path = folder / "long.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"problem": "') + gzip.compress(MEMBER, 1) * 48)
    return path


@file
def long_line_zstd(folder):
    path = folder / "long.jsonl.zst"
    path.write_bytes(zstandard().compress(b'{"problem": "') + zstandard().compress(MEMBER) * 48)
    return path


@file
def lines_without_end(folder):
    path = folder / "many.jsonl.gz"
    path.write_bytes(gzip.compress(RECORD % b"1" * 500_000) * 200)
    return path


@file
def document_gzip(folder):
    path = folder / "long.json.gz"
    path.write_bytes(gzip.compress(b'{"eval": "') + gzip.compress(MEMBER, 1) * 48)
    return path


@file
def document_of_lists(folder):
    path = folder / "lists.json"
    path.write_bytes(b"[" + b"[]," * 40_000_000 + b"[]]")
    return path


@file
def line_of_lists(folder):
    path = folder / "lists.jsonl"
    path.write_bytes(b'{"problem": [' + b"[]," * 40_000_000 + b"[]]}")
    return path


@file
def table_gzip(folder):
    path = folder / "long.csv.gz"
    path.write_bytes(gzip.compress(b"problem,correct\n") + gzip.compress(MEMBER, 1) * 48)
    return path


@file
def yaml_gzip(folder):
    path = folder / "long.yaml.gz"
    path.write_bytes(gzip.compress(b"a: ") + gzip.compress(MEMBER, 1) * 48)
    return path


@file
def yaml_values(folder):
    path = folder / "values.yaml"
    path.write_bytes(b"- 1\n" * 10_000_000)
    return path


@file
def inspect_member(folder):
    path = folder / "long.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped, zipped.open("header.json", "w", force_zip64=True) as member:
        for _ in range(48):
            member.write(MEMBER)
    return path


@file
def matrix_member(folder):
    path = folder / "long.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped, zipped.open("x.npy", "w", force_zip64=True) as member:
        member.write(array("{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 4000)}"))
        for _ in range(48):
            member.write(MEMBER)
    return path


@file
def parquet_rows(folder):
    path = folder / "rows.parquet"
    ones = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000_000, np.int8)), pa.array(["a"]))
    pq.write_table(pa.table({"problem": ones, "correct": np.ones(20_000_000, np.int8)}), path)
    return path


@file
def parquet_text(folder):
    path = folder / "text.parquet"
    text = pa.array(["a" * 700_000_000])
    pq.write_table(pa.table({"problem": text, "correct": [1], "completion": text}), path, compression="zstd")
    return path


@file
def models_without_end(folder):
    path = folder / "models.jsonl"
    path.write_text("".join(f'{{"problem": "p", "correct": 1, "model": "m{number}"}}\n' for number in range(200_000)))
    return path


@file
def eleven_million_samples(folder):
    path = folder / "n.jsonl"
    path.write_text('{"problem": "p", "n": 11000000, "c": 5}\n')
    return path


@file
def fine_long_log(folder):
    """Return an honest log of 100 MB, packed."""
    path = folder / "fine.jsonl.gz"
    record = {"problem": "p", "completion": "text of a completion " * 500, "correct": True}
    path.write_bytes(gzip.compress(b"".join(json.dumps({**record, "problem": f"p{n}"}).encode() + b"\n" for n in range(10_000)), 1))
    return path


RUN = """
import contextlib, io, json, os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from dynamics.passk.__main__ import cli
for path in sys.argv[1:]:
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = cli([path])
    print(json.dumps([path, status, said.getvalue()]), flush=True)
    os._exit(0)
"""


@pytest.mark.slow
def test_files_that_explode_are_refused_in_three_gigabytes(tmp_path):
    paths = {str(make(tmp_path)): name for name, make in FILES.items()}
    done = subprocess.run([sys.executable, "-c", RUN, *paths], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ends) == len(FILES)
    for path, status, said in ends:
        name = paths[path]
        assert (status, said.count("\n")) == ((0, 0) if name.startswith("fine") else (2, 1)), (name, status, said)
