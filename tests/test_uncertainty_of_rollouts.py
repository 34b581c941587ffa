"""The analysis of entropy over the base's own rollouts, on recorded runs of a tiny model and on the laboratory's base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import analysis, runs, uncertainty
from dynamics import InputError, entropy
from dynamics.presentation import style
from dynamics.rollouts.texts import Document
from dynamics.train.lab import shipped, tokenizer

RUNS = Path(__file__).parent / "data" / "runs"
#: what a base of the laboratory wrote
WRITTEN = [("<D>x+3;max(x,12)<in>7<sep>", "<s>7+3=10<s>max(10,12)=12<ans>12"), ("<D>x+3<in>7<sep>", "<ans>11")]


def write_samples(run: Path, rows: list[dict[str, object]]) -> None:
    (run / "evals").mkdir(exist_ok=True)
    (run / "evals" / "base_T1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def two_seeds(tmp_path: Path) -> list[Path]:
    """Two runs of seeds 0 and 1, the second of which started from other weights."""
    found = []
    for seed in (0, 1):
        target = tmp_path / f"rlvr-{seed}"
        shutil.copytree(RUNS / "rlvr-0", target, ignore=shutil.ignore_patterns("rollouts"))
        document = json.loads((target / "run.json").read_text())
        (target / "run.json").write_text(json.dumps(document | {"seed": seed}))
        found.append(target)
    (other,) = (RUNS / "sft-0" / "checkpoints").glob("step_000004")
    shutil.copytree(other, found[1] / "checkpoints" / "step_000000", dirs_exist_ok=True)
    return found


def test_all_models_read_what_the_base_wrote(two_seeds: list[Path]) -> None:
    table = uncertainty.measure(runs.find(two_seeds))
    means = table[table["part"] == "mean"].set_index(["label", "seed"])["value"]
    first = runs.find(two_seeds)[0]
    documents, seen = [], set()
    for sample in first.samples():
        if sample["model"] == "base, T=1" and sample["problem"] not in seen:
            seen.add(sample["problem"])
            ids = (*sample["prompt_ids"], *sample["completion_ids"])
            documents.append(Document(sample["problem"], ids=ids, prompt_tokens=len(sample["prompt_ids"])))
    assert len(documents) <= uncertainty.PROBLEMS
    for label, place in (("base", 0), ("rlvr", -1)):
        model, tokens = entropy.load(str(first.checkpoints[place]), None, "float32")
        traced = entropy.trace(model, tokens, documents).tokens
        assert means[label, 0] == pytest.approx(traced.loc[~traced["prompt"], "entropy"].mean(), abs=1e-6)
    assert set(table.loc[table["part"] == "change", "label"]) == {"rlvr", "another base"}
    caption = uncertainty.caption(table)
    assert "the dashed line is the change to the base of another seed" in caption
    assert all(kind.replace("_", " ") in caption for kind in table.loc[table["part"] == "few", "kind"])


def test_the_change_to_another_base_is_that_to_the_base_of_the_next_seed(two_seeds: list[Path]) -> None:
    table = uncertainty.measure(runs.find(two_seeds))
    other = table[(table["part"] == "change") & (table["label"] == "another base") & (table["seed"] == 0)]
    first, second = (run.checkpoints[0] for run in runs.find(two_seeds))
    read = uncertainty._read(first, second, uncertainty._rollouts(runs.find(two_seeds[:1])))
    assert np.average(other["value"], weights=other["tokens"]) == pytest.approx((read["entropy_b"] - read["entropy"]).mean())


def test_with_one_base_there_is_no_other_and_the_caption_says_so() -> None:
    table = uncertainty.measure(runs.find([RUNS / "rlvr-0", RUNS / "sft-0"]))
    assert "another base" not in set(table["label"])
    assert "these runs have one base" in uncertainty.caption(table)


def a_laboratory_run(run: Path) -> Path:
    for step in (0, 1):
        shutil.copytree(shipped.find(), run / "checkpoints" / f"step_{step:06d}")
    (run / "run.json").write_text(json.dumps({"schema": "dynamics.run/2", "method": "rlvr", "seed": 0, "config": {"model": "lab"}}))
    encode = tokenizer.build_tokenizer()
    rows: list[dict[str, object]] = [
        {"model": "base, T=1", "problem": f"{prompt} {copy}", "split": "test", "task": "deduction", "correct": True}
        | {"prompt_ids": encode(prompt)["input_ids"], "completion_ids": [*encode(completion)["input_ids"], encode.eos_token_id]}
        for copy in range(uncertainty.LEAST // 2)
        for prompt, completion in WRITTEN
    ]
    write_samples(run, rows)
    return run


def test_kinds_of_the_laboratory_and_a_model_that_did_not_change(tmp_path: Path) -> None:
    run = runs.find([a_laboratory_run(tmp_path)])
    table = uncertainty.measure(run)
    kinds = table[(table["part"] == "kind") & (table["label"] == "base")].set_index("kind")["tokens"]
    copies = uncertainty.LEAST // 2
    assert kinds.to_dict() == {"answer": 2 * copies, "answer_mark": 2 * copies, "end": 2 * copies} | {
        "number": 4 * copies,
        "result": 2 * copies,
        "sign": 3 * copies,
        "step_mark": 2 * copies,
        "operator": 2 * copies,
    }
    assert (table.loc[table["part"].isin(["change", "change of mean"]), "value"] == 0).all()
    along = table[(table["part"] == "along") & (table["label"] == "base")]
    assert "".join(along["token"]).startswith("<s>7+3=10<s>max(10")


def test_every_panel_has_data_and_each_model_a_legend(two_seeds: list[Path], tmp_path: Path) -> None:
    for number, folders in enumerate([two_seeds, [a_laboratory_run(tmp_path / "lab")]]):
        found = runs.find(folders)
        table = uncertainty.measure(found)
        with style.use_style():
            figure = uncertainty.figure(table)
            analysis.entitle(figure, uncertainty.headline(table), analysis.sampled(found, table))
            figure.canvas.draw()
        assert all(ax.has_data() for ax in figure.axes)
        assert [ax.get_title(loc="left") for ax in figure.axes] == [
            "along one rollout of the base",
            *(["by kind of token"] if (table["part"] == "kind").any() else []),
            "change from the base",
        ]
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names == ["base", "rlvr", *(["another base"] if number == 0 else [])]


def test_what_cannot_be_compared_is_refused(two_seeds: list[Path], tmp_path: Path) -> None:
    first, second = two_seeds
    document = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps(document | {"seed": 0, "method": "sft"}))
    with pytest.raises(InputError, match="start from different bases"):
        uncertainty.measure(runs.find(two_seeds))
    rows = [row | {"prompt_ids": None} for row in runs.read_json_lines(first / "evals" / "base_T1.jsonl")]
    write_samples(first, rows)
    with pytest.raises(InputError, match="prompt_ids and completion_ids"):
        uncertainty.measure(runs.find([first]))
    write_samples(first, [rows[0] | {"prompt_ids": [1, "2"]}])
    with pytest.raises(InputError, match="no whole numbers"):
        uncertainty.measure(runs.find([first]))


def test_the_headline_says_what_is_not_told_from_the_base() -> None:
    rows = [{"part": "mean", "label": "base", "value": 0.5}, {"part": "mean", "label": "sft", "value": 0.25}]
    rows += [{"part": "change of mean", "label": "sft", "value": -0.25, "low": -0.6, "high": 0.1}]
    assert uncertainty.headline(pd.DataFrame(rows)).endswith("base 0.5; sft 0.25 (not told from the base)")
