"""Shapes of files that evaluation harnesses write, with the right value of each, and lists, steps and names that could be misread."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamics import samples
from dynamics.errors import InputError
from dynamics.passk import counts
from dynamics.passk.estimators import pass_at_k

DATA = Path(__file__).parent.parent / "data" / "harnesses"
#: number of correct samples, of four, of four problems; pass@1 is 7 / 16, pass@4 is 3 / 4
CORRECT = [4, 2, 0, 1]
GRID = [(problem, sample, sample < CORRECT[problem]) for problem in range(4) for sample in range(4)]
MATRIX = np.array([[right for of, _, right in GRID if of == problem] for problem in range(4)])


def lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def document(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def curves(*paths, **settings):
    """Return {model: (pass@1, pass@n, number of problems, n)} of all files together."""
    table = samples.read(list(paths), **settings).table
    values = {}
    for model in table["model"].unique():
        graded = counts(table[table["model"] == model])
        n, c = graded["n"].to_numpy(), graded["c"].to_numpy()
        values[model] = float(pass_at_k(n, c, 1).mean()), float(pass_at_k(n, c, int(n.min())).mean()), len(n), int(n.min())
    return values


def only(*paths, **settings):
    ((_, value),) = curves(*paths, **settings).items()
    return value


RIGHT = (7 / 16, 3 / 4, 4, 4)


# lm-evaluation-harness


def record(problem, verdict, metric="exact_match", response="r", **extra):
    return {
        "doc_id": problem,
        "doc": {"question": f"q{problem}"},
        "target": "1",
        "arguments": [["q", {}]],
        "resps": [[response]],
        "filtered_resps": [response],
        **extra,
        metric: verdict,
    }


HASHES = {"doc_hash": "a" * 64, "prompt_hash": "b" * 64, "target_hash": "c" * 64}


@pytest.mark.parametrize("listed", [False, True])
def test_filters_without_names_are_told_apart_by_their_order(tmp_path, listed):
    """Version 0.4.2 and earlier: no name of a filter, and a JSON list in a file named .jsonl."""
    records = [record(i, float(i < 2)) for i in range(8)] + [record(i, float(i < 6)) for i in range(8)]
    path = tmp_path / "samples_gsm8k.jsonl"
    path = document(path, records) if listed else lines(path, records)
    assert only(path) == (0.25, 0.25, 8, 1)
    assert only(path, correct="exact_match,#2") == (0.75, 0.75, 8, 1)
    notes = samples.read([path]).files[0].notes
    assert any("2 times, once for each filter" in note for note in notes)
    assert any("exact_match,#2" in note for note in notes)
    with pytest.raises(InputError, match=r"no filter #3; it has #1, #2"):
        samples.read([path], correct="exact_match,#3")
    with pytest.raises(InputError, match="names no filters"):
        samples.read([path], correct="exact_match,strict")
    uneven = lines(tmp_path / "samples_uneven.jsonl", records[:-1])
    with pytest.raises(InputError, match="2 records of problem 0 but 1 of problem 7"):
        samples.read([uneven])


def test_hashes_are_not_metrics(tmp_path):
    path = lines(tmp_path / "samples_arc.jsonl", [record(i, float(i < 2), **HASHES) for i in range(8)])
    assert only(path) == (0.25, 0.25, 8, 1)


def test_a_filter_beyond_the_first_records_can_be_chosen(tmp_path):
    """The harness writes one filter after another, so that the first records name the first filter only."""
    filters = (("strict-match", 10), ("flexible-extract", 20))
    path = lines(tmp_path / "samples_gsm8k.jsonl", [record(i, float(i < k), filter=name) for name, k in filters for i in range(40)])
    assert only(path)[0] == 0.25
    assert only(path, correct="exact_match,flexible-extract")[0] == 0.5
    assert any("exact_match,flexible-extract" in note for note in samples.read([path]).files[0].notes)
    with pytest.raises(InputError, match="no filter 'loose'; it has strict-match, flexible-extract"):
        samples.read([path], correct="exact_match,loose")


def test_an_entry_per_instruction_is_not_a_sample(tmp_path):
    metrics = {"metrics": ["prompt_level_strict_acc", "inst_level_strict_acc"], "filter": "none"}
    rows = [record(i, i < 3, "prompt_level_strict_acc", **metrics, inst_level_strict_acc=[True, i < 3]) for i in range(8)]
    path = lines(tmp_path / "samples_ifeval.jsonl", rows)
    assert only(path)[0] == 0.375
    with pytest.raises(InputError, match=r"an entry for each instruction.*--correct: prompt_level_strict_acc"):
        samples.read([path], correct="inst_level_strict_acc")


def test_a_list_of_another_length_than_the_responses_is_refused(tmp_path):
    rows = [record(i, [1.0, 0.0], filter="none", metrics=["exact_match", "acc"], acc=1.0) for i in range(3)]
    assert only(lines(tmp_path / "samples_x.jsonl", rows))[0] == 1.0  # acc, as exact_match is no verdict
    with pytest.raises(InputError, match="no verdict of a response; name another with --correct: acc"):
        samples.read([tmp_path / "samples_x.jsonl"], correct="exact_match")
    late = [record(i, [1.0], filter="none", metrics=["exact_match"]) for i in range(25)] + rows[:1]
    with pytest.raises(InputError, match=r"line 26.*list of 2 for 1 response"):
        samples.read([lines(tmp_path / "samples_late.jsonl", late)])


@pytest.mark.parametrize("order", [("score-first", "maj@4"), ("maj@4", "score-first")])
def test_a_vote_is_not_the_verdict_of_a_sample(tmp_path, order):
    rows = [
        {**record(i, float(i < {"score-first": 2, "maj@4": 6}[name]), filter=name), "resps": [["r0", "r1", "r2", "r3"]]}
        for name in order
        for i in range(24)
    ]
    path = lines(tmp_path / "samples_gsm8k_cot.jsonl", rows)
    read = samples.read([path])
    assert read.table["correct"].sum() == 2
    assert read.table["correct"].notna().sum() == 24
    assert len(read.table) == 96
    vote = samples.read([path], correct="exact_match,maj@4")
    assert vote.table["correct"].sum() == 6
    assert any("majority vote" in note for note in vote.files[0].notes)


def test_a_metric_of_other_problems_is_no_verdict(tmp_path):
    """RULER writes a metric for each length, which is -1 for problems of another length."""
    rows = [
        record(i, 1.0 if i < 2 else -1.0, "4096", filter="none", metrics=["4096", "8192"], **{"8192": -1.0 if i < 2 else 0.0})
        for i in range(6)
    ]
    path = lines(tmp_path / "samples_niah.jsonl", rows)
    for length, scored, right in (("4096", 2, 2), ("8192", 4, 0)):
        table = samples.read([path], correct=length).table
        assert (table["correct"].notna().sum(), table["correct"].sum()) == (scored, right)


#: files that the harness wrote (data/harnesses/make_lm_eval.py), with what its own totals say, or why they are refused
EXPECTED = {
    "strict": 1 / 3,
    "votes": 2 / 3,
    "choices": 2 / 3,
    "pairs": 2 / 3,
    "greedy": 2 / 3,
    "rolling": "word_perplexity",
    "nothing": "bypass",
    "instructions": 1 / 3,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_kinds_of_metrics_that_the_harness_wrote(name):
    path = DATA / "lm_eval" / f"samples_kind_{name}_2026-01-01T00-00-00.000000.jsonl"
    if isinstance(EXPECTED[name], str):
        with pytest.raises(InputError, match=f"none of its metrics says whether a response is correct; it has {EXPECTED[name]}"):
            samples.read([path])
        return
    assert only(path)[0] == pytest.approx(EXPECTED[name])


def test_other_metrics_and_filters_that_the_harness_wrote():
    def path(name):
        return DATA / "lm_eval" / f"samples_kind_{name}_2026-01-01T00-00-00.000000.jsonl"

    assert only(path("strict"), correct="exact_match,flexible-extract")[0] == pytest.approx(2 / 3)
    assert only(path("choices"), correct="mcc")[0] == pytest.approx(2 / 3)
    assert any("(gold, prediction)" in note for note in samples.read([path("pairs")]).files[0].notes)
    with pytest.raises(InputError, match="instruction"):
        samples.read([path("instructions")], correct="inst_level_strict_acc")
    with pytest.raises(InputError, match="no verdict"):
        samples.read([path("greedy")], correct="perplexity")


@pytest.mark.slow
def test_the_harness_still_writes_these(tmp_path):
    pytest.importorskip("lm_eval")
    from data.harnesses import make_lm_eval

    make_lm_eval.main(tmp_path)
    for path in tmp_path.iterdir():
        ours = [json.loads(line) for line in (DATA / "lm_eval" / path.name).read_text().splitlines()]
        assert [json.loads(line) for line in path.read_text().splitlines()] == ours


# Inspect


@pytest.mark.parametrize("suffix", ["eval", "json.gz"])
def test_nan_in_an_inspect_log_is_an_unscored_sample_or_of_no_matter(suffix):
    """Written by Inspect (data/harnesses/make_inspect.py): NaN as a score, as a part of a score, and in metadata; -inf in metadata."""
    read = samples.read([DATA / "inspect" / f"unscored.{suffix}"])
    assert (len(read.table), read.table["correct"].notna().sum(), read.table["correct"].sum()) == (8, 7, 4)
    assert read.files[0].notes == ["1 sample without a score"]
    for settings in ({}, {"correct": "parts.correct"}):
        parts = samples.read([DATA / "inspect" / f"parts.{suffix}"], **settings)
        assert (len(parts.table), parts.table["correct"].sum()) == (8, 4)
    none = samples.read([DATA / "inspect" / f"parts.{suffix}"], correct="parts.style")
    assert none.table["correct"].notna().sum() == 0
    with pytest.raises(InputError, match="no scorer 'other'; it has parts"):
        samples.read([DATA / "inspect" / f"parts.{suffix}"], correct="other")


@pytest.mark.slow
def test_inspect_still_writes_these(tmp_path):
    pytest.importorskip("inspect_ai")
    from data.harnesses import make_inspect

    make_inspect.main(tmp_path)
    for name in ("unscored.eval", "unscored.json.gz", "parts.eval", "parts.json.gz"):
        ours, again = (samples.read([folder / name]).table for folder in (DATA / "inspect", tmp_path))
        columns = ["problem", "correct"]
        assert again.sort_values(columns)[columns].to_numpy().tolist() == ours.sort_values(columns)[columns].to_numpy().tolist()


def test_an_infinite_inspect_score_and_a_sample_without_the_scorer(tmp_path):
    log = {"version": 2, "status": "success", "eval": {"task": "t", "model": "m"}, "results": {"x": "NAN"}}
    scores = [{"s": {"value": 1}}, {"s": {"value": "INF"}}, {"other": {"value": 0}}, {"s": {"value": 0, "metadata": {"p": "-INF"}}}]
    log["samples"] = [{"id": index, "epoch": 1, "scores": one} for index, one in enumerate(scores)]
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log).replace('"NAN"', "NaN").replace('"-INF"', "-Infinity").replace('"INF"', "Infinity"))
    table = samples.read([path]).table
    assert table["correct"].notna().tolist() == [True, False, False, True]
    assert samples.read([path]).files[0].notes == ["2 samples without a score"]


# harnesses of code and mathematics


def bigcodebench(folder):
    def status(right, sample):
        return "pass" if right else "timeout" if sample == 3 else "fail"

    results = {
        f"BigCodeBench/{of}": [
            {"task_id": f"BigCodeBench/{of}", "solution": f"s{of}{sample}", "status": status(right, sample), "details": {}}
            for other, sample, right in GRID
            if other == of
        ]
        for of in range(4)
    }
    return document(folder / "x_eval_results.json", {"date": "2025-01-01 10:00", "eval": results})


def livecodebench(folder, **extra):
    results = [
        {
            "question_content": "c" * 300,
            "question_id": str(of),
            "output_list": [f"o{sample}" for sample in range(4)],
            "code_list": [f"c{sample}" for sample in range(4)],
            "graded_list": MATRIX[of].tolist(),
            "pass@1": CORRECT[of] / 4,
            "metadata": ["{}"] * 4,
            **{name: value(of) for name, value in extra.items()},
        }
        for of in range(4)
    ]
    return document(folder / "codegeneration_output_eval_all.json", results)


def livecodebench_tests(folder):
    tests = {str(of): [[1, True] if right else [True, -1] for right in MATRIX[of]] for of in range(4)}
    return document(folder / "codegeneration_output_eval.json", [{"pass@1": 7 / 16, "detail": {"pass@1": {}}}, tests, [["{}"] * 4] * 4])


def nemo(folder, **fields):
    for sample in range(4):
        rows = [
            {"problem": f"q{of}", "expected_answer": "1", "predicted_answer": "1", "generation": "g"}
            | {name: make(right) for name, make in fields.items()}
            for of, other, right in GRID
            if other == sample
        ]
        lines(folder / f"output-rs{sample}.jsonl", rows)
    return folder


def judged(right):
    return f"Reasoning: the judgement: no matter.\nJudgement: {'Yes' if right else 'No'}"


def sky(folder, keys=("0.6",)):
    answers = [[{"content": "x", "correctness": bool(right), "reason": ""} for right in row] for row in MATRIX]
    return document(folder / "results.json", {f"q{of}": {"responses": dict.fromkeys(keys, answers[of])} for of in range(4)})


def sky_by_number(folder):
    answers = [{str(sample): {"content": "x", "correctness": bool(right)} for sample, right in enumerate(row)} for row in MATRIX]
    return document(folder / "results.json", {f"q{of}": {"responses": answers[of], "token_usages": {}} for of in range(4)})


def opencompass(folder):
    details = [{"example_abbr": f"aime_{of}", "pred": ["1"] * 4, "answer": ["1"] * 4, "correct": MATRIX[of].tolist()} for of in range(4)]
    return document(folder / "aime.json", {"accuracy (4 runs average)": 43.75, "details": details})


def qwen_math(folder):
    rows = [
        {"idx": of, "question": f"q{of}", "solution": "text", "code": ["c"] * 4, "pred": ["1"] * 4, "score": MATRIX[of].tolist()}
        for of in range(4)
    ]
    return lines(folder / "test_seed0_t0.6_s0_e-1.jsonl", rows)


def environments(folder, **extra):
    """Write the rollouts of verifiers, whose sample 0 ended in an error."""
    rows = [
        {"example_id": of, "prompt": [{"role": "user", "content": f"q{of}"}], "completion": [{"role": "assistant", "content": "a"}]}
        | {"reward": float(right), "error": None if sample else "boom"}
        | {name: make(right) for name, make in extra.items()}
        for of, sample, right in GRID
    ]
    return lines(folder / "results.jsonl", rows)


def matrix(folder, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "matrix.npz", **(arrays or {"correct": MATRIX}))
    return folder / "matrix.npz"


def monkeys(folder):
    for of in range(4):
        name = folder / f"{of}.yaml"
        name.parent.mkdir(parents=True, exist_ok=True)
        verdicts = "".join(f"- {str(bool(right)).lower()}\n" for right in MATRIX[of])
        texts = "- |\n  a *b*\n" * 4
        name.write_text(f"gt_answer: '1'\nis_corrects:\n{verdicts}prompt: the same for all\nquestion: q{of}\nsamples:\n{texts}")
    return folder


HARNESSES = {
    "bigcodebench": bigcodebench,
    "livecodebench": livecodebench,
    "livecodebench, tests": livecodebench_tests,
    "livecodebench, test outputs": lambda folder: livecodebench(folder, question_id=lambda of: "1", test_id=int),
    "livecodebench, execution": lambda folder: livecodebench(folder, question_id=lambda of: "1", id="sample_{}".format),
    "nemo": lambda folder: nemo(folder, is_correct=bool),
    "nemo, two verdicts": lambda folder: nemo(folder, symbolic_correct=bool, judgement=lambda right: "Judgement: Yes"),
    "nemo, judge": lambda folder: nemo(folder, judgement=judged),
    "nemo, bigcodebench": lambda folder: nemo(folder, status=lambda right: "pass" if right else "timeout"),
    "nemo, livecodebench": lambda folder: nemo(folder, graded_list=lambda right: [bool(right)]),
    "sky": sky,
    "sky, by number": sky_by_number,
    "opencompass": opencompass,
    "qwen math": qwen_math,
    "verifiers": environments,
    "matrix": matrix,
    "monkeys": monkeys,
}


@pytest.mark.parametrize("name", HARNESSES)
def test_what_harnesses_write(tmp_path, name):
    assert only(HARNESSES[name](tmp_path / "files")) == RIGHT


def test_choices_are_named(tmp_path):
    folder = nemo(tmp_path / "nemo", symbolic_correct=bool, judgement=lambda right: "Judgement: Yes")
    assert "--correct takes another: judgement" in samples.read([folder]).files[0].notes[0]
    assert only(folder, correct="judgement")[0] == 1.0
    plus = nemo(tmp_path / "plus", **{"is_correct": bool, "is_correct-plus": bool})
    assert "is_correct-plus" in samples.read([plus]).files[0].notes[0]
    odd = environments(tmp_path, reward=lambda right: 1.1 if right else 0.1, correct_answer=float, truncated=bool)
    with pytest.raises(
        InputError, match=r"neither 0 nor 1 \(0\.1, 1\.1\).*--threshold 0\.5; or name another field with --correct: correct_answer$"
    ):
        samples.read([odd])
    assert only(odd, correct="correct_answer") == only(odd, threshold=1) == RIGHT
    assert "4 samples ended in an error; the recorded score is taken" in samples.read([odd], threshold=1).files[0].notes
    late = samples.read([bigcodebench(tmp_path)]).table
    assert (late["status"] == "timed out").sum() == 3


def test_temperatures_are_models(tmp_path):
    both = sky(tmp_path, ("0.6", "1.0"))
    assert curves(both) == {"T=0.6": RIGHT, "T=1.0": RIGHT}
    assert curves(f"mine={both}") == {"mine T=0.6": RIGHT, "mine T=1.0": RIGHT}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("mmlu.json", {"score": 0.5, "score:std": 0.1}, "holds totals of a whole evaluation"),
        ("mmlu_allresults.json", {"score": 0.5, "metrics": {}, "htmls": ["a"], "convos": [[]]}, "holds totals"),
        ("results_2025.json", {"results": {"gsm8k": {"acc,none": 0.5}}, "configs": {}}, "holds totals"),
        ("x.json", {"score": 1, "details": {"type": "GEN", "0": {"prompt": "p", "predictions": "1"}}}, "no field of its details says"),
        ("y.json", {"details": [{"pred": "1", "correct": [True, False]}]}, "has not as many predictions"),
        ("z.json", {"eval": {"a": [{"status": "crash"}]}}, "status 'crash'; expected pass, fail or timeout"),
        ("s.json", {"q": {"responses": {"0": {"content": "x"}}}}, "generations without results"),
        ("l.json", [{"pass@1": 0.5, "detail": {}}, {"0": [True, False]}, []], "a list of test results for each sample"),
    ],
)
def test_what_says_nothing_of_samples_is_refused(tmp_path, name, content, says):
    with pytest.raises(InputError, match=says):
        samples.read([document(tmp_path / name, content)])


# lists


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({"completion": "x", "passed": [True, False, True]}, "one response"),
        ({"completion": "x", "passed": [True, False], "preds": ["1", "2"]}, "one response"),
        ({"completion": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}], "passed": [True, False]}, "1 responses"),
        ({"completion_ids": [7, 8], "passed": [True, False]}, "1 responses"),
        ({"passed": [True, False]}, "no list of as many responses"),
        ({"inputs": ["1", "2"], "outputs": ["1", "2"], "passed": [True, False]}, "no list of as many responses"),
        ({"codes": ["a", "b", "c"], "passed": [True, False]}, "3 responses"),
        ({"n": 3, "scores": [1, 0]}, "3 responses"),
    ],
)
def test_a_list_without_as_many_responses_is_refused(tmp_path, fields, held):
    path = lines(tmp_path / "x.jsonl", [{"task_id": index, **fields} for index in range(3)])
    field = "scores" if "scores" in fields else "passed"
    with pytest.raises(InputError, match=rf"line 1: '{field}' is a list of .*the record has {held}.*--correct '{field}\[\]'"):
        samples.read([path])
    assert only(path, correct=f"{field}[]")[3] == len(fields[field])
    table = tmp_path / "x.parquet"
    pd.DataFrame([{"task_id": index, **fields} for index in range(3)]).to_parquet(table)
    with pytest.raises(InputError, match="row 1"):
        samples.read([table])


@pytest.mark.parametrize(
    "fields",
    [
        {"responses": [{"text": "x"}] * 4},
        {"samples": ["s"] * 4},
        {"completion_ids": [[1]] * 4},
        {"n": 4},
        {"codes": ["a"] * 4, "solution": "the reference"},
        {"completions": ["a"] * 4, "inputs": ["1"]},
    ],
)
def test_a_list_with_as_many_responses_is_as_many_samples(tmp_path, fields):
    rows = [{"id": of, **fields, "scores": MATRIX[of].astype(float).tolist()} for of in range(4)]
    assert only(lines(tmp_path / "x.jsonl", rows)) == RIGHT
    pd.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    assert only(tmp_path / "x.parquet") == RIGHT


def test_the_other_fields_are_named(tmp_path):
    path = lines(tmp_path / "x.jsonl", [{"id": 1, "completion": "x", "passed": [True, False], "all_passed": False, "length": 1}])
    with pytest.raises(InputError, match="name another field with --correct: all_passed; or --correct 'passed"):
        samples.read([path])
    empty = lines(tmp_path / "y.jsonl", [{"id": 1, "codes": ["a"], "passed": [True]}, {"id": 2, "codes": [], "passed": []}])
    assert samples.read([empty]).files[0].notes == ["1 record with an empty list of verdicts, which give no sample"]


# verl: uid


def rollout(text, verdict, **extra):
    return {"input": text, "output": "o", "gts": None, "score": float(verdict), "step": 10, **extra}


def test_problems_of_equal_text_are_told_apart_by_uid(tmp_path):
    rows = [rollout("<image>What is shown?", right, uid=f"u{of}") for of, _, right in GRID]
    path = lines(tmp_path / "10.jsonl", rows)
    assert only(path) == RIGHT
    assert any("4 problems of equal text" in note for note in samples.read([path]).files[0].notes)
    distinct = [rollout(f"q{of}", right, uid=f"{of}x") for of, _, right in GRID]
    again = [rollout(f"q{of}", right, uid=f"{of}y") for of, _, right in GRID]
    one, two = (samples.read([lines(tmp_path / f"{name}.jsonl", made)]).table for name, made in (("a", distinct), ("b", again)))
    assert set(one["problem"]) == set(two["problem"])  # named by their text, so that two runs can be compared


@pytest.mark.parametrize("naming", ["session", "session and output"])
def test_a_session_of_several_outputs_is_one_sample(tmp_path, naming):
    def uid(of, sample, turn):
        return f"u{of}_{sample}" if naming == "session" else f"u{of}_{sample}_{turn}"

    rows = [rollout(f"q{of} turn {turn}", right, uid=uid(of, sample, turn)) for of, sample, right in GRID for turn in range(1 + of)]
    path = lines(tmp_path / "10.jsonl", rows)
    assert only(path) == RIGHT
    assert "24 outputs of sessions with several: a session is one sample, that of its last output" in samples.read([path]).files[0].notes


def test_sessions_under_the_uid_of_their_problem(tmp_path):
    rows = [rollout(f"q{of} turn {turn}", right, uid=f"u{of}") for of, _, right in GRID for turn in range(1 + of)]
    assert only(lines(tmp_path / "10.jsonl", rows)) == RIGHT
    mixed = [rollout(f"q turn {turn}", 1, uid="u") for turn in (0, 0, 1, 1)]
    with pytest.raises(InputError, match="several sessions in no order"):
        samples.read([lines(tmp_path / "11.jsonl", mixed)])


def test_the_last_output_gives_the_score_of_a_session(tmp_path):
    rows = [rollout(f"q turn {turn}", turn == 1, uid=f"u_{session}_{turn}") for session in range(2) for turn in range(2)]
    path = lines(tmp_path / "10.jsonl", list(reversed(rows)))
    assert only(path)[0] == 1.0
    assert any("2 sessions whose outputs have different scores" in note for note in samples.read([path]).files[0].notes)


def test_ids_that_only_look_like_sessions(tmp_path):
    rows = [rollout(f"q{of}", right, uid=f"math_500_{of}") for of, _, right in GRID]
    assert only(lines(tmp_path / "10.jsonl", rows)) == RIGHT
    single = [rollout(f"q{of}", right, uid=f"u{of}_{sample}") for of, sample, right in GRID]  # sessions of one output each
    assert only(lines(tmp_path / "11.jsonl", single)) == RIGHT


def test_verl_scores_and_older_dumps(tmp_path):
    rows = [rollout(f"q{of}", 2 * right - 1, acc=bool(right), pred="1") for of, _, right in GRID]
    assert only(lines(tmp_path / "10.jsonl", rows)) == RIGHT
    assert only(lines(tmp_path / "11.jsonl", [{key: row[key] for key in ("input", "output", "score", "step")} for row in rows])) == RIGHT
    shaped = [rollout(f"q{of}", right) | {"score": 1.0 if right else 0.1} for of, _, right in GRID]
    with pytest.raises(InputError, match="--threshold"):
        samples.read([lines(tmp_path / "12.jsonl", shaped)])


# steps and models


def generic(verdicts=GRID, **extra):
    return [{"prompt": f"q{of}", "completion": "c", "reward": float(right), **extra} for of, _, right in verdicts]


@pytest.mark.parametrize("named", [False, True])
def test_rollouts_of_several_steps_are_several_models_in_natural_order(tmp_path, named):
    for step in (2, 10, 1):
        lines(tmp_path / "rollouts" / f"step_{step}.jsonl", generic())
    source, name = (f"x={tmp_path / 'rollouts'}", "x") if named else (tmp_path / "rollouts", "rollouts")
    assert curves(source) == {f"{name} step {step}": RIGHT for step in (1, 2, 10)}
    assert list(curves(source)) == [f"{name} step {step}" for step in (1, 2, 10)]
    assert any("3 training steps, which are as many models" in note for note in samples.read([source]).notes)


@pytest.mark.parametrize("layout", ["generic", "verl", "trl"])
def test_steps_in_one_file(tmp_path, layout):
    make = {
        "generic": lambda step: generic(global_step=step),
        "verl": lambda step: [rollout(f"q{of}", right) | {"step": step} for of, _, right in GRID],
        "trl": lambda step: generic(step=step, advantage=0.0),
    }[layout]
    path = lines(tmp_path / "all.jsonl", [row for step in (100, 20, 3) for row in make(step)])
    assert list(curves(path)) == ["all step 3", "all step 20", "all step 100"]
    assert list(curves(f"rl={path}").values()) == [RIGHT] * 3


def test_steps_that_are_no_numbers_and_temperatures(tmp_path):
    rows = [row for step in ("final", 10) for row in generic(step=step)]
    paths = [lines(tmp_path / f"{name}.jsonl", rows) for name in "ab"]
    assert list(curves(*paths)) == ["a step 10", "a step final", "b step 10", "b step final"]
    warm = lines(tmp_path / "t.jsonl", [row for temperature in (0.2, 1.0) for row in generic(temperature=temperature)])
    assert samples.read([warm]).notes == ["t: samples of 2 temperatures (0.2, 1) are taken together"]


def test_steps_in_folders_and_in_bare_numbers(tmp_path):
    for step in (5, 100):
        lines(tmp_path / "a" / f"checkpoint-{step}" / "out.jsonl", generic())
        lines(tmp_path / "rollout_data" / f"{step}.jsonl", generic())
        lines(tmp_path / "verl" / f"{step}.jsonl", [rollout(f"q{of}", right) | {"step": step} for of, _, right in GRID])
    assert list(curves(tmp_path / "a")) == ["a checkpoint 5", "a checkpoint 100"]
    assert list(curves(tmp_path / "rollout_data")) == ["rollout_data step 5", "rollout_data step 100"]
    assert list(curves(tmp_path / "verl")) == ["verl step 5", "verl step 100"]
    assert list(curves(f"x={tmp_path / 'verl' / '100.jsonl'}")) == ["x step 100"]


def test_models_that_samples_name_stay_apart(tmp_path):
    path = lines(tmp_path / "both.jsonl", [row for model in "ab" for row in generic(model=model)])
    assert curves(path) == {"a": RIGHT, "b": RIGHT}
    assert curves(f"x={path}") == {"x a": RIGHT, "x b": RIGHT}
    for model in "ab":
        lines(tmp_path / "files" / f"{model}.jsonl", generic(model=model))
    assert curves(tmp_path / "files") == {"files a": RIGHT, "files b": RIGHT}
    assert any("name 2 models, which stay apart: a, b" in note for note in samples.read([tmp_path / "files"]).notes)
    steps = lines(tmp_path / "steps.jsonl", [row for step in (2, 1) for row in generic(model="a", step=step)])
    assert list(curves(f"x={steps}")) == ["x step 1", "x step 2"]


def test_files_of_two_models_or_tasks_in_a_folder_are_not_pooled(tmp_path):
    for name in ("base", "rl"):
        lines(tmp_path / "two" / f"{name}.jsonl", generic())
    with pytest.raises(InputError, match=r"base\.jsonl and .*rl\.jsonl: both have samples of problem .*NAME=PATH"):
        samples.read([tmp_path / "two"])
    assert only(*(f"x={tmp_path / 'two' / name}.jsonl" for name in ("base", "rl")))[3] == 8
    for name in ("7b", "14b"):
        lines(tmp_path / "lm" / f"qwen-{name}" / "samples_arc_2025-01-01T00-00-00.000000.jsonl", [record(0, 1.0, filter="none")])
    with pytest.raises(InputError, match="both have samples of problem arc/0"):
        samples.read([tmp_path / "lm"])
    for name in ("gsm8k", "math"):
        lines(tmp_path / "tasks" / name / "out.jsonl", [{"idx": 0, "question": name, "correct": True}])
    with pytest.raises(InputError, match="files of several tasks number their problems alike"):
        samples.read([tmp_path / "tasks"])
    for seed in range(2):
        lines(tmp_path / "seeds" / f"seed_{seed}" / "out.jsonl", [{"idx": 0, "question": "q", "correct": True}])
    assert only(tmp_path / "seeds")[3] == 2
    assert any("1 problem has samples in up to 2 files" in note for note in samples.read([tmp_path / "seeds"]).notes)


# lighteval


def lighteval(path, metric, responses=4):
    rows = [
        {
            "doc": {"id": str(of), "task_name": "ours|0", "query": "q"},
            "model_response": {"text": ["t"] * responses},
            "metric": {name: make(of) for name, make in metric.items()},
        }
        for of in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_lighteval_metrics(tmp_path):
    path = tmp_path / "details_x.parquet"
    mean = {
        "pass@k:k=4&n=4": lambda of: float(CORRECT[of] > 0),
        "avg@n:n=4": lambda of: CORRECT[of] / 4,
        "em": lambda of: float(CORRECT[of] > 0),
    }
    assert only(lighteval(path, mean)) == RIGHT
    first = samples.read([lighteval(path, mean, responses=6)])  # the aggregates are of four of six responses
    assert (len(first.table), first.table["correct"].notna().sum(), first.table["correct"].sum()) == (24, 16, 7)
    with pytest.raises(InputError, match=r"one value for 4 responses, of the best of them or of a vote"):
        samples.read([lighteval(path, mean)], correct="em")
    assert only(lighteval(path, {"maj@n:n=4": lambda of: 1.0, "em": lambda of: float(of < 2)}, responses=1))[0] == 0.5


def test_older_lighteval_details(tmp_path):
    rows = [{"full_prompt": f"q{of}", "predictions": ["1"], "gold": ["1"], "metrics": {"extractive_match": int(of < 2)}} for of in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "details_x.parquet")
    assert only(tmp_path / "details_x.parquet") == (0.5, 0.5, 4, 1)


# matrices and YAML


def test_matrices(tmp_path):
    assert only(matrix(tmp_path, R=MATRIX.astype(float), problems=np.array(list("abcd")))) == RIGHT
    assert curves(matrix(tmp_path, aime=np.stack([MATRIX, MATRIX]), models=np.array(["a", "b"]))) == {"matrix a": RIGHT, "matrix b": RIGHT}
    np.save(tmp_path / "m.npy", MATRIX.astype(np.int8))
    assert only(tmp_path / "m.npy") == RIGHT
    scores = MATRIX.astype(float)
    scores[2, 0] = np.nan
    assert samples.read([matrix(tmp_path, acc=scores)]).table["correct"].notna().sum() == 15
    several = matrix(tmp_path, one=MATRIX, two=MATRIX)
    with pytest.raises(InputError, match="several arrays; choose one with --correct: one, two"):
        samples.read([several])
    assert only(several, correct="two") == RIGHT


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([{"a": 1}], object), "cannot be read"),
        (np.array([["a"]]), "no verdicts"),
        (np.ones(3), "shape"),
        (np.ones((2, 2, 2, 2)), "shape"),
        (np.array([[0.5, 1.0]]), "--threshold"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, says):
    with pytest.raises(InputError, match=says):
        samples.read([matrix(tmp_path, x=array)])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [x, x]\nb: [*a, *a]\n", "aliases"),
        ("!!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("model: x\n", "no field says whether"),
        ("- 1\n", "no record"),
        ("a: [\n", "is not YAML"),
    ],
)
def test_yaml_is_plain_data(tmp_path, text, says):
    pytest.importorskip("yaml")
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        samples.read([tmp_path / "x.yaml"])


def test_multiple_in_yaml(tmp_path):
    pytest.importorskip("yaml")
    results = "results:\n- {status: OK, exit_code: 0}\n- {status: Timeout, exit_code: -1}\n"
    (tmp_path / "HumanEval_0.results.yaml").write_text(f"name: HumanEval_0\nlanguage: lua\nprompt: p\ntests: t\n{results}")
    assert only(tmp_path / "HumanEval_0.results.yaml") == (0.5, 1.0, 1, 2)


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_infinite_rewards_are_no_verdicts(tmp_path, suffix):
    rows = ['{"problem": 1, "reward": Infinity}', '{"problem": 1, "reward": 1.0}', '{"problem": 1, "reward": NaN}']
    text = "\n".join(rows) + "\n" if suffix == "jsonl" else f"[{', '.join(rows)}]"
    (tmp_path / f"x.{suffix}").write_text(text)
    table = samples.read([tmp_path / f"x.{suffix}"], threshold=0.5).table
    assert table["correct"].notna().tolist() == [False, True, False]


# files that hold samples again


def inspect_log(path, epochs):
    parts = {"eval": {"task": "t", "model": "m"}, "samples": []}
    for problem, sample, right in GRID:
        if sample < epochs:
            parts["samples"].append({"id": f"p{problem}", "epoch": sample + 1, "scores": {"s": {"value": "C" if right else "I"}}})
    return document(path, parts)


def test_a_retry_of_an_inspect_evaluation_takes_the_place_of_the_attempt_before(tmp_path):
    """A retry copies the samples that were finished into a new log with the id of the evaluation in its name."""
    folder, identity = tmp_path / "logs", "fWDCvt6eCfjmwWxcQHMXrm"
    inspect_log(folder / f"2026-01-01T10-00-00-00-00_t_{identity}.json", epochs=2)
    inspect_log(folder / f"2026-01-01T11-00-00-00-00_t_{identity}.json", epochs=4)
    assert only(folder) == RIGHT
    assert only(f"m={folder}/*.json") == RIGHT
    assert any("a retry of this evaluation" in line for line in samples.read([folder]).left_out)
    inspect_log(folder / "2026-01-01T12-00-00-00-00_t_HJXV2kxxiyGHkv8UdNdLtp.json", epochs=4)
    assert only(folder) == (7 / 16, 3 / 4, 4, 8)


def test_livecodebench_results_by_test_and_by_sample_are_the_same_samples(tmp_path):
    by_test = {str(problem): [[True, True if right else -2] for right in MATRIX[problem]] for problem in range(4)}
    document(tmp_path / "generation_4_0.2_eval.json", [{"pass@1": 7 / 16, "detail": {}}, by_test, []])
    assert only(tmp_path) == RIGHT
    by_sample = [{"question_id": f"abc{p}", "code_list": list("abcd"), "graded_list": MATRIX[p].tolist()} for p in range(4)]
    document(tmp_path / "generation_4_0.2_eval_all.json", by_sample)
    assert only(tmp_path) == RIGHT
    assert any("holds the same results" in line for line in samples.read([tmp_path]).left_out)


# JSON lines


def test_a_field_that_the_first_record_lacks_is_read_wherever_it_is(tmp_path):
    records = [{"problem": f"q{p}", "completion": f"{s}" * 300, "correct": right, "z": 1} for p, s, right in GRID]
    whole = lines(tmp_path / "whole.jsonl", records)
    del records[0]["correct"]
    table = samples.read([lines(tmp_path / "lacking.jsonl", records)]).table
    assert table["correct"].tolist()[1:] == samples.read([whole]).table["correct"].tolist()[1:]
    assert table["correct"].isna().sum() == 1


def test_a_record_with_a_key_twice_is_refused(tmp_path):
    path = tmp_path / "twice.jsonl"
    path.write_text('{"problem": "q", "correct": false, "completion": "' + "x" * 300 + '", "correct": true, "z": {"z": 1}}\n')
    with pytest.raises(InputError, match="line 1: has the field 'correct' twice"):
        samples.read([path])


# counts, and tables


def test_a_number_of_right_responses_is_no_verdict(tmp_path):
    """``correct`` beside the number of responses is a count; where it is only ever 0 or 1, the file does not say what it is."""
    counted = [{"problem": f"q{p}", "correct": right, "total": 4} for p, right in enumerate(CORRECT)]
    assert only(lines(tmp_path / "counts.jsonl", counted)) == RIGHT
    pd.DataFrame(counted).to_csv(tmp_path / "counts.csv", index=False)
    assert only(tmp_path / "counts.csv") == RIGHT
    for name, value in {"total": 1, "n": True, "n_samples": 0.0}.items():
        path = lines(tmp_path / f"{name}.jsonl", [{"problem": f"q{p}", "correct": value if p else 0, name: 4} for p in range(4)])
        with pytest.raises(InputError, match=f"'{name}' says that it is of several responses"):
            samples.read([path])
        assert len(samples.read([path], correct="correct").table) == 4
    each = [{"problem": f"q{p}", "correct": bool(right), "n_samples": 4} for p, _, right in GRID]
    assert only(lines(tmp_path / "each.jsonl", each)) == RIGHT


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_the_delimiter_and_the_words_of_a_table_are_found(tmp_path, mark):
    path = tmp_path / "table.csv"
    path.write_text(f"id{mark}status\n" + "".join(f"q{p}{mark}{'pass' if right else 'fail'}\n" for p, _, right in GRID))
    assert only(path) == RIGHT


def test_equal_samples_are_kept_where_their_number_is_that_of_something_else(tmp_path):
    records = [{"problem": f"q{p}", "epoch": 0, "response": "A" if right else "B", "correct": right} for p, _, right in GRID]
    path = lines(tmp_path / "records.jsonl", records)
    assert only(path) == RIGHT
    assert not any("dropped" in note for note in samples.read([path]).notes)
