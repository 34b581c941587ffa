"""Files of graded samples, written by the libraries that define the formats (``data/make_samples.py``) or constructed as edge cases."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import ends_well
from hypothesis import given
from hypothesis import strategies as st

from dynamics import samples
from dynamics.errors import InputError
from dynamics.io.compression import zstandard
from dynamics.passk import counts
from dynamics.passk.__main__ import cli
from dynamics.samples.aggregates import correct_counts

DATA = Path(__file__).parent.parent / "data" / "samples"
#: of the three problems that ``make_samples.py`` asks: correct of four
RIGHT = [0, 1, 3]


def write(path, *records, end="\n"):
    path.write_text("\n".join(json.dumps(record) for record in records) + end)
    return path


def graded(*paths, **settings):
    """Return {problem: (n, c)} of all files together."""
    table = counts(samples.read(list(paths), **settings).table)
    return {row.problem: (row.n, row.c) for row in table.itertuples()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("human_eval_results.jsonl", "human-eval results"),
        ("evalplus_eval_results.json", "EvalPlus results"),
        ("inspect.eval", "Inspect log"),
        ("inspect.json.gz", "Inspect log"),
        ("samples_repeats_2026-01-01T00-00-00.000000.jsonl", "lm-evaluation-harness samples"),
        ("details_lighteval.parquet", "lighteval details"),
        ("verl_30.jsonl", "verl rollouts"),
        ("verifiers_traces.jsonl", "verifiers / prime-rl episodes"),
    ],
)
def test_what_libraries_wrote(name, kind):
    read = samples.read([DATA / name])
    assert read.files[0].format == kind
    table = counts(read.table)
    assert sorted(table["c"]) == RIGHT
    assert list(table["n"]) == [4, 4, 4]
    assert read.files[0].samples == 12


def test_trl_completions():
    path = DATA / "completions_00001.parquet"
    written = pq.read_table(path).to_pandas()
    read = samples.read([path])
    assert read.files[0].format == "TRL completions"
    assert sorted(counts(read.table)["c"]) == sorted(written.groupby("prompt")["named"].sum().astype(int))
    assert list(counts(read.table)["n"]) == [4, 4, 4]
    assert read.table["model"].unique().tolist() == ["completions_00001 step 1"]


def test_timeouts_are_wrong_and_counted():
    for name in ("human_eval_results.jsonl", "verifiers_traces.jsonl"):
        read = samples.read([DATA / name])
        late = read.table[read.table["status"] == "timed out"]
        assert len(late) == 1
        assert not late["correct"].any()


def test_evalplus_has_two_verdicts():
    path = DATA / "evalplus_eval_results.json"
    assert graded(path, correct="base")["HumanEval/square"] == (4, 1)
    assert graded(path, correct="plus")["HumanEval/square"] == (4, 0)
    assert any("--correct base" in note for note in samples.read([path]).files[0].notes)


def test_a_filter_that_keeps_the_first_repeat_leaves_the_others_without_a_verdict():
    read = samples.read([DATA / "samples_first_2026-01-01T00-00-00.000000.jsonl"])
    assert len(read.table) == 12
    assert read.table["correct"].notna().sum() == 3
    assert any("9 responses without a verdict" in note for note in read.files[0].notes)


def test_the_temperature_of_an_inspect_log():
    assert set(samples.read([DATA / "inspect.eval"]).table["temperature"]) == {0.7}


def test_an_unfinished_inspect_log(tmp_path):
    """A log of a killed process has neither header nor summaries."""
    module = zipfile if sys.version_info >= (3, 14) else __import__("backports.zstd", fromlist=["zipfile"]).zipfile
    with module.ZipFile(DATA / "inspect.eval") as whole, module.ZipFile(tmp_path / "part.eval", "w") as part:
        for name in whole.namelist():
            if name.startswith(("samples/double", "_journal/start")):
                part.writestr(name, whole.read(name))
    assert graded(tmp_path / "part.eval") == {"ours/double": (4, 3)}
    assert "not finished" in samples.read([tmp_path / "part.eval"]).files[0].notes[0]


def test_bigcode(tmp_path):
    """As ``code_eval`` returns it and ``humanevalpack`` writes it: {task: [[completion id, result], ...]}."""
    results = [
        [0, {"task_id": 0, "passed": True, "result": "passed", "completion_id": 0}],
        [1, {"task_id": 0, "passed": False, "result": "timed out", "completion_id": 1}],
    ]
    (tmp_path / "logs.json").write_text(json.dumps({"0": results, "1": results[1:]}, indent=4))
    read = samples.read([tmp_path / "logs.json"])
    assert read.files[0].format == "bigcode-evaluation-harness logs"
    assert graded(tmp_path / "logs.json") == {"0": (2, 1), "1": (1, 0)}
    assert (read.table["status"] == "timed out").sum() == 2
    (tmp_path / "generations.json").write_text(json.dumps({"0": ["def f(): pass"]}))
    with pytest.raises(InputError, match="generations without results"):
        samples.read([tmp_path / "generations.json"])


def test_multiple(tmp_path):
    results = [{"status": "OK", "exit_code": 0}, {"status": "Exception", "exit_code": 1}, {"status": "Timeout", "exit_code": -1}]
    document = {"name": "HumanEval_0", "language": "lua", "prompt": "", "tests": "", "results": results}
    (tmp_path / "HumanEval_0.results.json").write_text(json.dumps(document))
    assert graded(tmp_path / "HumanEval_0.results.json") == {"HumanEval_0": (3, 1)}


def test_lm_eval_aggregates_give_counts(tmp_path):
    """If only pass@2 and pass@8 of a problem were written and are not 1, they determine c of 16."""
    from dynamics.passk.estimators import pass_at_k

    rows = []
    for doc, c in enumerate([0, 3, 16]):
        values = {f"pass@{k}": pass_at_k(16, c, k) for k in (2, 8)}
        rows.append(
            {"doc_id": doc, "resps": [["x"] * 16], "filtered_resps": [["x"] * 16], "filter": "create_test", "metrics": list(values)}
        )
        rows[-1] |= values
    path = write(tmp_path / "samples_humaneval_16.jsonl", *rows)
    assert graded(path) == {"humaneval_16/0": (16, 0), "humaneval_16/1": (16, 3), "humaneval_16/2": (16, 15)}
    assert any("smallest is taken" in note for note in samples.read([path]).files[0].notes)


@given(st.integers(1, 40), st.data())
def test_counts_from_aggregates(n, data):
    from dynamics.passk.estimators import pass_at_k

    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert c in correct_counts(f"pass@{k}", pass_at_k(n, c, k), n)
    assert correct_counts("avg@n", c / n, n) == [c]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "json"])
def test_tables_of_ones_own(tmp_path, suffix):
    frame = pd.DataFrame({"my id": ["a", "a", "b", "b"], "ok": [1, 0, 0, 0], "who": ["m1", "m2", "m1", "m2"]})
    path = tmp_path / f"mine.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=suffix == "jsonl")
    read = samples.read([path], problem="my id", correct="ok", model="who")
    assert read.table.groupby("model", observed=True)["correct"].sum().to_dict() == {"m1": 1, "m2": 0}
    assert read.files[0].fields == {"problem": "my id", "correct": "ok", "model": "who"}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_tables_of_counts(tmp_path, suffix):
    frame = pd.DataFrame({"problem": ["a", "b"], "n": [10, 20], "c": [0, 7]})
    path = tmp_path / f"counts.{suffix}"
    {"csv": frame.to_csv, "parquet": frame.to_parquet}.get(suffix, lambda path, **_: frame.to_json(path, orient="records", lines=True))(
        path, index=False
    )
    assert graded(path) == {"a": (10, 0), "b": (20, 7)}


def test_this_projects_evals(tmp_path):
    run = tmp_path / "run_1"
    (run / "evals").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    rows = [
        {"model": "step_100", "problem": f"p{i % 3}", "sample": i // 3, "correct": i < 4, "prompt_ids": [1] * 300, "completion_ids": [i, 2],
         "temperature": 1.0, "split": "test"}
        for i in range(12)
    ]  # fmt: skip
    write(run / "evals" / "test.jsonl", *rows)
    read = samples.read([run])
    assert read.table["model"].unique().tolist() == ["run_1"]  # a folder names its model, unless files disagree
    assert counts(read.table)[["n", "c"]].to_numpy().tolist() == [[4, 2], [4, 1], [4, 1]]
    assert set(samples.read([run / "evals" / "test.jsonl"]).table["model"]) == {"step_100"}
    assert read.table["fingerprint"].nunique() == 12


def test_a_verdict_list_is_as_many_samples(tmp_path):
    path = write(tmp_path / "math.jsonl", {"idx": 1, "score": [True, False, True], "pred": ["7", "8", "7"]}, {"idx": 2, "score": [False]})
    assert graded(path) == {"1": (3, 2), "2": (1, 0)}
    assert samples.read([path]).table["answer"].tolist()[:3] == ["7", "8", "7"]


def test_names_of_models(tmp_path):
    record = {"problem": 1, "correct": True}
    for folder in ("base", "rl"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "x_results.jsonl", record)
    paths = [tmp_path / folder / "x_results.jsonl" for folder in ("base", "rl")]
    assert list(dict.fromkeys(samples.read(paths).table["model"])) == ["base/x_results", "rl/x_results"]
    assert list(samples.read(paths[:1]).table["model"]) == ["x_results"]
    assert list(samples.read([f"mine={paths[0]}"]).table["model"]) == ["mine"]
    pooled = samples.read([f"one={path}" for path in paths])
    assert counts(pooled.table)[["n", "c"]].to_numpy().tolist() == [[2, 2]]
    odd = write(tmp_path / "a=b.jsonl", record)
    assert list(samples.read([odd]).table["model"]) == ["a=b"]


def test_what_else_lies_in_a_folder_is_left_aside_and_said(tmp_path):
    write(tmp_path / "x.jsonl", {"problem": 1, "correct": True})
    (tmp_path / "summary.json").write_text('{"pass@1": 0.5}')
    read = samples.read([tmp_path])
    assert len(read.table) == 1
    assert "left aside" in read.notes[0]
    with pytest.raises(InputError, match="unknown kind"):
        samples.read([tmp_path / "summary.json"])


@pytest.mark.parametrize("pack", ["gz", "zst"])
def test_compressed(tmp_path, pack):
    content = (DATA / "human_eval_results.jsonl").read_bytes()
    path = tmp_path / f"human_eval_results.jsonl.{pack}"
    path.write_bytes(gzip.compress(content) if pack == "gz" else zstandard().compress(content))
    assert sorted(c for _, c in graded(path).values()) == RIGHT
    table = tmp_path / f"t.csv.{pack}"
    text = b"problem,correct\n1,true\n"
    table.write_bytes(gzip.compress(text) if pack == "gz" else zstandard().compress(text))
    assert graded(table) == {"1": (1, 1)}
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match="damaged or cut short"):
        samples.read([path])


def test_equal_completions_are_separate_samples(tmp_path):
    record = {"task_id": "a", "completion": "same", "passed": True}
    assert graded(write(tmp_path / "x.jsonl", record, record, record)) == {"a": (3, 3)}


def test_rows_written_twice_are_dropped_and_counted(tmp_path):
    rows = [{"problem": "a", "sample": place, "completion": f"{place}", "correct": place % 2} for place in range(4)]
    path = write(tmp_path / "resumed.jsonl", *rows, *rows[2:])
    assert graded(path) == {"a": (4, 2)}
    assert any("dropped 2 rows" in note for note in samples.read([path]).notes)


def test_a_number_given_twice_to_different_samples_is_kept_and_said(tmp_path):
    rows = [{"problem": "a", "sample": 0, "completion": "x", "correct": 1}, {"problem": "a", "sample": 0, "completion": "y", "correct": 0}]
    path = write(tmp_path / "clash.jsonl", *rows)
    assert graded(path) == {"a": (2, 1)}
    assert any("kept 1 row with the problem and sample number of another" in note for note in samples.read([path]).notes)


def test_one_file_twice_is_said(tmp_path):
    rows = [{"problem": "a", "sample": place, "correct": 1} for place in range(3)]
    one, two = write(tmp_path / "one.jsonl", *rows), write(tmp_path / "two.jsonl", *rows)
    assert any("was a file given twice?" in note for note in samples.read([f"m={one}", f"m={two}"]).notes)


@pytest.mark.parametrize("nothing", ["null", "NaN", '""', '"nan"'])
def test_no_verdict_is_not_a_wrong_answer(tmp_path, nothing):
    path = tmp_path / "x.jsonl"
    path.write_text('{"problem": 1, "correct": true}\n{"problem": 1, "correct": ' + nothing + "}\n")
    assert graded(path) == {"1": (1, 1)}
    read = samples.read([path])
    assert len(read.table) == 2
    assert any("1 sample has a score of NaN" in note for note in read.notes)


@pytest.mark.parametrize(
    ("scores", "threshold", "right"),
    [([1, 0, 1], None, 2), ([1, -1, 1.0], None, 2), ([0.2, 0.9, 1.1], 0.5, 2), ([0.2, 0.9, 1.1], 1, 1), ([True, False, 1], None, 2)],
)
def test_thresholds(tmp_path, scores, threshold, right):
    path = write(tmp_path / "x.jsonl", *({"problem": 1, "score": score} for score in scores))
    assert graded(path, threshold=threshold) == {"1": (3, right)}


def test_rewards_need_a_threshold(tmp_path):
    path = write(tmp_path / "x.jsonl", {"problem": 1, "score": 0.1}, {"problem": 1, "score": 1.0})
    with pytest.raises(InputError, match=r"1 of 2 scores are neither 0 nor 1 \(0\.1\).*--threshold"):
        samples.read([path])


def test_a_torn_last_line_is_said(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"problem": 1, "correct": true}\n{"problem": 1, "corr')
    assert graded(path) == {"1": (1, 1)}
    assert "line 2 is cut off" in samples.read([path]).files[0].notes[0]


def test_problems_without_an_id_are_told_apart_by_their_text(tmp_path):
    rows = [{"input": f"what is {i % 2}?", "output": "x", "gts": str(i % 2), "score": float(i % 2), "step": 5} for i in range(6)]
    one = samples.read([write(tmp_path / "a.jsonl", *rows)]).table
    other = samples.read([write(tmp_path / "b.jsonl", *reversed(rows))]).table
    assert set(one["problem"]) == set(other["problem"])  # paired by content, in any order
    assert one["problem"].nunique() == 2


def test_ids_as_numbers_and_as_text_are_one(tmp_path):
    rows = [{"problem": 3, "correct": 1}, {"problem": "3", "correct": 1}, {"problem": 3.0, "correct": 0}]
    assert graded(write(tmp_path / "x.jsonl", *rows)) == {"3": (3, 2)}


#: values that could mislead a reader that cuts text out of lines
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(['", "passed": false}', '\\", "passed": true', '"passed":', "\\", 'x\\"', '{"passed": 1}', "}\n", "\u2028", "é" * 9]),
)


@given(st.lists(st.tuples(TEXTS, st.booleans(), st.sampled_from("abc"), st.integers(0, 5)), min_size=1, max_size=8), st.booleans())
def test_cutting_text_out_of_lines_changes_nothing(tmp_path_factory, rows, ascii_only):
    """The first completions are long, so that text is cut out; later records are arbitrary and have several layouts."""
    path = tmp_path_factory.mktemp("cut") / "x.jsonl"
    lines = [json.dumps({"task_id": "a", "completion": "x" * 500, "result": "passed", "passed": True})]
    expected = {"a": [1, 1]}
    for text, passed, problem, shape in rows:
        fields: dict = {"task_id": problem, "completion": text, "result": "passed", "passed": passed}
        if shape == 1:
            fields = dict(reversed(fields.items()))
        elif shape == 2:
            fields["after"] = {"result": "timed out", "passed": not passed, "completion": text, "task_id": "no"}
        elif shape == 3:
            fields = {"before": {"completion": text, "result": 1, "passed": not passed}, **fields}
        elif shape == 4:
            fields["completion"] = {"result": text, "passed": [not passed]}
        elif shape == 5:
            fields = {"task_id": problem, "completion": text, "passed": passed, "result": "passed"}
        lines.append(json.dumps(fields, ensure_ascii=ascii_only))
        tally = expected.setdefault(problem, [0, 0])
        tally[0] += 1
        tally[1] += passed
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    assert graded(path) == {problem: tuple(tally) for problem, tally in expected.items()}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.jsonl", b"", "is empty"),
        ("x.jsonl", b"\n\n", "is empty"),
        ("x.json", b"[]", "empty list"),
        ("x.json", b'{"a": 1}', "unknown kind"),
        ("x.json", b'{"eval": 3}', "laid out"),
        ("x.jsonl", b'{"problem": 1}\n', "no field says whether"),
        ("x.jsonl", b'{"correct": true}\n', "no field says which problem"),
        ("x.jsonl", b'{"problem": 1, "correct": "banana"}\n', "'banana' is no verdict"),
        ("x.jsonl", b'{"problem": 1, "correct": {"a": 1}}\n', "is no verdict"),
        ("x.jsonl", b'{"problem": 1, "correct": 1}\n{"problem": 1, "correct": "maybe"}\n', "line 2"),
        ("x.jsonl", b'{"problem": 1, "correct": 1}\nnot json\n{"problem": 1, "correct": 1}\n', "line 2: is not JSON"),
        ("x.jsonl", b'{"problem": 1, "correct": 1}\n[1]\n', "not an object"),
        ("x.jsonl", b'{"problem": null, "correct": 1}\n', "no 'problem'"),
        ("x.jsonl", '{"problem": 1, "correct": 1}\n'.encode("utf-16"), "not UTF-8"),
        ("x.jsonl", b'{"problem": "\xe9", "correct": 1}\n', "not UTF-8"),
        ("README.md", b"# Title\n\nOne, two, three.\n", "README.md: is not a file of graded samples; expected .jsonl, .json, "),
        ("notes.txt", b"a line\nanother line\n", "is not a file of graded samples; expected "),
        ("x.txt", b"problem,verdict\n1,1\n", "no field says whether"),
        ("x.csv", b"problem,correct\n", "has no samples"),
        ("x.csv", b"problem,correct,correct\n1,1,1\n", "two columns"),
        ("x.csv", b"problem,n,c\n1,3,4\n", "c=4 correct of n=3"),
        ("x.csv", b"problem,n,c\n1,-3,0\n", "no count"),
        ("x.csv", b"problem,n,c\n1,3,1.5\n", "no count"),
        ("x.csv", b"problem,correct\n1,1\n2\n", "no CSV table"),
        ("x.eval", b"PK\x03\x04 and nothing more", "damaged or cut short"),
        ("x.eval", b"hello", "not what its name says"),
        ("x.parquet", b"PAR1 and nothing more", "damaged, or no Parquet"),
        ("x.dat", b"\x00\x01\x02", "no text"),
    ],
)  # fmt: skip
def test_bad_files_are_told_in_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        samples.read([tmp_path / name])
    assert says in str(caught.value)
    assert name in str(caught.value)


def test_bad_names(tmp_path):
    for source, says in ((tmp_path / "none.jsonl", "no such file"), ("=x", "no such file|name before"), (tmp_path, "without samples")):
        with pytest.raises(InputError, match=says):
            samples.read([source])
    path = write(tmp_path / "x.jsonl", {"problem": 1, "correct": 1})
    with pytest.raises(InputError, match=r"no field 'verdict' for --correct; it has problem, correct"):
        samples.read([path], correct="verdict")
    with pytest.raises(InputError, match="at least one"):
        samples.read([])


def test_several_rewards_are_not_guessed(tmp_path):
    table = pa.table({"step": [1], "prompt": ["p"], "completion": ["c"], "one": [1.0], "two": [0.0], "advantage": [0.0]})
    pq.write_table(table, tmp_path / "completions_00001.parquet")
    with pytest.raises(InputError, match="several columns could be the verdict: one, two"):
        samples.read([tmp_path / "completions_00001.parquet"])
    assert [c for _, c in graded(tmp_path / "completions_00001.parquet", correct="one").values()] == [1]


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.iterdir()))
def test_damage_is_told_in_one_line_or_harmless(tmp_path, name):
    content = (DATA / name).read_bytes()
    rng = np.random.default_rng(len(content))
    path = tmp_path / name
    for _ in range(40):
        damaged = bytearray(content[: rng.integers(1, len(content) + 1)] if rng.random() < 0.5 else content)
        for place in rng.integers(0, len(damaged), rng.integers(0, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        assert ends_well(lambda path: samples.read([path]), path)


def test_files_of_a_folder_that_are_left_out_are_named(tmp_path, capsys):
    for name in ("samples_first_2026-01-01T00-00-00.000000.jsonl", "human_eval_results.jsonl"):
        shutil.copy(DATA / name, tmp_path / name)
    (tmp_path / "results_2026-01-01.json").write_text("{}")
    found = samples.read([tmp_path])
    assert len(found.files) == 1
    assert len(found.left_out) == 1
    assert "left out 1 file: human_eval_results.jsonl; name a file to read it" in found.left_out[0]
    assert found.left_out[0] in found.notes
    assert cli([str(tmp_path), "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert f"dynamics.passk: {found.left_out[0]}\n" in printed.err
    assert found.left_out[0] in json.loads(printed.out)["notes"]


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("runs", "runs: is not a run, but holds 4 run directories: rlvr-0, selfplay-0, selfplay-frozen-0, sft-0; name the runs, e.g. "),
        ("runs/sft-slow-0", "sft-slow-0: is a run without graded samples: it has no folder evals"),
    ],
)
def test_a_folder_of_runs_is_no_run(folder, said):
    with pytest.raises(InputError, match=re.escape(said)):
        samples.read([DATA.parent / folder])


def test_a_pattern_stands_for_the_files_that_it_matches(tmp_path):
    for number in (2, 10, 9):
        write(tmp_path / f"sft-{number}-T1.jsonl", {"problem": number, "correct": True})
    pattern = str(tmp_path / "sft*T1.jsonl")
    named, unnamed = samples.read([f"b={pattern}"]), samples.read([pattern])
    assert [Path(file.path).name for file in named.files] == ["sft-2-T1.jsonl", "sft-9-T1.jsonl", "sft-10-T1.jsonl"]
    assert set(named.table["model"]) == {"b"}
    assert list(dict.fromkeys(unnamed.table["model"])) == ["sft-2-T1", "sft-9-T1", "sft-10-T1"]
    for nothing in (f"{tmp_path}/rl*.jsonl", f"b={tmp_path}/rl*.jsonl", f"b={tmp_path}/[rl.jsonl"):
        with pytest.raises(InputError, match=r"(rl\*|\[rl)\.jsonl: no such file or folder"):
            samples.read([nothing])


def test_names_of_models_are_the_stems_of_files(tmp_path):
    row = {"problem": 1, "correct": True}
    names = ["human_eval_results.jsonl", "a/x.y_results.jsonl", "b/samples.csv.gz", "c/samples.csv.gz", "run.eval_results.jsonl"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
    for name in (names[0], names[1], names[4]):
        write(tmp_path / name, row)
    for name in names[2:4]:
        with gzip.open(tmp_path / name, "wt") as stream:
            stream.write("problem,correct\n1,1\n")
    found = samples.read([tmp_path / name for name in names])
    assert list(dict.fromkeys(found.table["model"])) == ["human_eval_results", "x.y_results", "b/samples", "c/samples", "run.eval_results"]


def test_a_file_given_twice_is_noted(tmp_path):
    path = write(tmp_path / "x.jsonl", {"problem": 1, "correct": True})
    assert samples.read([f"a={path}", f"b={path}"]).notes == [f"{path}: is given twice, as two models, which are equal for that reason"]
