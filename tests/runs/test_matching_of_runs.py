"""The table of matching: what it says of a run, and how the tables of several compare."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dynamics.report.section import Options
from dynamics.report.sections import matching as section
from dynamics.runs import Run, Settings, open_run
from dynamics.runs.matched_settings import matching_of
from dynamics.runs.matching import BASELINES, DEFINED, DIFFERS, OUTCOMES, ROWS, SAME, SETTLED, UNKNOWN, compare, contrast, matching, totals

RUNS = Path(__file__).parent.parent / "data" / "runs"
POOL = {"task": "code", "problems": 40, "problems_checksum": "a" * 64, "programs": 30, "programs_checksum": "b" * 64}
SHARED = {
    "steps": 10, "learning_rate": 3e-4, "lr_scheduler": "constant", "warmup_steps": 5, "adam_beta1": 0.9, "adam_beta2": 0.99,
    "weight_decay": 0.0, "max_grad_norm": 1.0, "loss_aggregation": "token-mean", "max_new_tokens": 32, "task": "code",
}  # fmt: skip
GRADIENT = {"temperature": 1.0, "num_iterations": 1, "kl_coef": 0.0, "entropy_coef": 0.0, "clip_cov": 0.0, "kl_cov": 0.0}
CONFIGS = {
    "sft": SHARED | {"batch_size": 108},
    "rlvr": SHARED | GRADIENT | {"advantage": "grpo", "prompts_per_step": 12, "group_size": 9},
    "selfplay": SHARED
    | GRADIENT
    | {
        "advantage": "reinforce++-sequence", "prompts_per_step": 4, "group_size": 8, "solver_samples": 0, "proposer": "trained",
        "task_types": ["deduction", "abduction", "induction"], "solver_batch": "max_new", "max_proposal_tokens": 64,
        "proposer_reward": "one_minus", "wrong_answer_reward": 0.0, "format_error_reward": 0.0,
    },
}  # fmt: skip


def planned(method: str, sums: dict[str, float] | None = None, **settings: object):
    document = {"method": method, "seed": 0, "model": "tiny", "config": CONFIGS[method] | settings, "checksums": {"base": "c" * 64}}
    document |= {"master_dtype": "float32", "compute_dtype": "float32", "storage_dtype": "float32"}
    return matching(document | ({"pool": POOL} if method != "selfplay" else {}), sums or {})


def statuses(*tables) -> dict[str, str]:
    return {row.name: row.status for row in compare(tables)}


def test_the_methods_differ_in_what_defines_them_alone() -> None:
    found = statuses(planned("sft"), planned("rlvr"), planned("selfplay"))
    assert {name for name, status in found.items() if status == DIFFERS} == set()
    assert {name for name, status in found.items() if status == UNKNOWN} == set(OUTCOMES)  # nothing has happened yet
    assert found["completions trained on"] == found["optimizer steps"] == found["base"] == SAME
    assert found["estimator"] == found["program pool"] == found["of them proposals"] == DEFINED
    of_methods = contrast(planned("rlvr"), planned("selfplay"))
    assert of_methods.is_of_methods
    assert of_methods.text.startswith("A contrast of methods: rlvr and selfplay differ in nothing but what defines them (program pool,")


@pytest.mark.parametrize(
    ("settings", "row"),
    [
        ({"learning_rate": 1e-4}, "learning rate"),
        ({"warmup_steps": 0}, "schedule"),
        ({"weight_decay": 0.1}, "optimizer"),
        ({"loss_aggregation": "constant"}, "loss aggregation"),
        ({"temperature": 0.7}, "sampling temperature"),
        ({"top_p": 0.9}, "sampling temperature"),
        ({"kl_coef": 0.01}, "further terms of the loss"),
        ({"max_new_tokens": 64}, "longest completion"),
        ({"advantage": "rloo"}, "estimator"),
    ],
)
def test_another_setting_is_named(settings: dict, row: str) -> None:
    one, other = planned("rlvr"), planned("rlvr", **settings)
    found = contrast(one, other)
    assert row in found.differs
    assert not found.is_of_methods
    assert row in found.text
    if row not in ("estimator", "sampling temperature"):  # those that SFT has by definition
        assert not contrast(planned("sft"), other).is_of_methods


def test_a_choice_within_a_method_is_no_definition() -> None:
    """Estimators of self-play and RLVR differ by definition; two of self-play do not."""
    assert contrast(planned("selfplay"), planned("selfplay", advantage="reinforce")).differs == ["estimator", "baseline"]
    one, other, third = planned("rlvr"), planned("selfplay"), planned("selfplay", advantage="reinforce")
    assert statuses(one, other)["estimator"] == DEFINED
    assert statuses(one, other, third)["estimator"] == DIFFERS


def test_controls_are_kinds_of_their_own() -> None:
    plain = planned("rlvr")
    controls = {
        "proposer": (planned("selfplay"), planned("selfplay", proposer="frozen")),
        "program pool": (plain, planned("rlvr", task="proposed:runs/selfplay-0")),
        "data order": (plain, planned("rlvr", task="code", data_order="recorded")),
        "baseline": (plain, planned("rlvr", advantage="reinforce++-sequence", advantage_cells="role-task")),
    }
    for row, (one, other) in controls.items():
        found = contrast(one, other)
        assert found.kinds[0] != found.kinds[1]
        assert found.is_of_methods, found.text
        assert row in found.defined or row == "program pool"
    same = statuses(planned("selfplay"), planned("rlvr", advantage="reinforce++-sequence", advantage_cells="role-task"))
    assert same["estimator"] == same["baseline"] == SAME


def test_a_definition_explains_no_other_difference() -> None:
    """A frozen proposer has fewer completions than RLVR by as many as there are proposals, and not by more."""
    frozen = planned("selfplay", proposer="frozen")
    assert contrast(planned("rlvr"), frozen).is_of_methods
    for changed in ({"group_size": 10}, {"prompts_per_step": 24}):
        assert "completions trained on" in contrast(planned("rlvr", **changed), frozen).differs
    done = planned("selfplay", {"steps": 10, "completions_trained": 960}, proposer="frozen")
    assert contrast(planned("rlvr", {"steps": 10, "completions_trained": 1080}), done).is_of_methods
    assert "completions trained on" in contrast(planned("rlvr", {"steps": 10, "completions_trained": 900}), done).differs
    cells = planned("rlvr", advantage="reinforce++-sequence", advantage_cells="role-task")
    assert "estimator" in contrast(cells, planned("selfplay", advantage="reinforce++")).differs  # each has it from the same definition
    pools = [planned("rlvr", task="proposed:a"), planned("rlvr", task="proposed:b", data_order="recorded")]
    other = [replace(row, same_by="another") if row.name == "program pool" else row for row in pools[1].rows]
    assert contrast(pools[0], replace(pools[1], rows=other)).differs == ["program pool"]


def test_what_is_not_known_is_no_agreement() -> None:
    old = replace(
        planned("rlvr"), rows=[replace(row, planned=None, same_by="") if row.name == "base" else row for row in planned("rlvr").rows]
    )
    found = contrast(planned("sft"), old)
    assert set(found.unknown) == {"base", *OUTCOMES}
    assert not found.is_of_methods
    assert "it is not known whether these are the same: base." in found.text
    assert "also differ in learning rate. Of both" in contrast(planned("sft", learning_rate=1.0), old).text


def test_what_happened_counts() -> None:
    sums = {"steps": 10, "completions_trained": 1000, "tokens_sampled": 9000, "tokens_with_gradient": 4000, "proposals_trained": 120}
    table = {row.name: row for row in planned("selfplay", sums).rows}
    assert (table["completions trained on"].planned, table["completions trained on"].happened) == (1080, 1000)
    assert table["tokens sampled"].value == 9000
    done = planned("rlvr", sums | {"completions_trained": 1080})
    assert contrast(planned("selfplay", sums), done).differs == ["completions trained on"]  # planned alike, and it came otherwise
    assert {row.name: row.value for row in planned("selfplay", solver_batch="new").rows}["completions trained on"] == "at most 1,080"
    assert {row.name: row.value for row in planned("rlvr", {"steps": 5, "tokens": 50}, num_iterations=2).rows}["optimizer steps"] == 10


def test_sums_of_metrics_leave_out_columns_with_gaps() -> None:
    lines = [{"step": 1, "tokens": 5, "tokens_sampled": 2}, {"step": 2, "tokens": 6, "tokens_sampled": None}]
    assert totals(lines) == {"steps": 2, "tokens": 11}
    assert totals([{"tokens": float("nan")}, {"tokens": True}]) == {"steps": 2}
    assert totals([]) == {"steps": 0}
    assert totals([{"step": 0, "validation": 1.0}, {"step": 1, "tokens": 5}]) == {"steps": 1, "tokens": 5}  # before training


def test_every_row_has_its_place_and_every_definition_its_row() -> None:
    for method in CONFIGS:
        assert [row.name for row in planned(method).rows] == list(ROWS)
        assert set(SETTLED[method]) <= set(ROWS)
    from dynamics.train.objectives import ADVANTAGES

    assert set(BASELINES) == set(ADVANTAGES)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"method": ["x"], "config": 3, "pool": [], "checksums": {"base": 4}},
        {"method": "rlvr", "config": {"steps": "many", "learning_rate": float("nan"), "task_types": "x", "num_iterations": -1, "task": {}}},
        {"method": "selfplay", "config": {"prompts_per_step": 10**90, "group_size": True, "task_types": [[]] * 50}},
        {
            "method": "sft\x1b[2J",
            "config": {"task": "\x1b" * 10_000, "loss_aggregation": "a\nb"},
            "pool": {"problems_checksum": "\n" * 999},
        },
    ],
)
def test_a_strangers_document_is_a_table(document: dict) -> None:
    table = matching(document, {})
    assert [row.name for row in table.rows] == list(ROWS)
    assert all(str(row.value).isprintable() and len(str(row.value)) < 1000 for row in table.rows)
    assert table.kind.isprintable()
    assert json.loads(json.dumps(table.to_json()))


def test_runs_of_other_trainers_say_what_they_know() -> None:
    table = matching_of(open_run(RUNS / "trl_grpo"))
    values = {row.name: row.value for row in table.rows}
    assert (values["estimator"], values["completions trained on"], values["learning rate"]) == ("grpo", 96, 0.003)
    assert {"program pool", "data order"} <= set(table.unknown)
    found = contrast(table, matching_of(open_run(RUNS / "verl")))
    assert "learning rate" in found.differs
    assert "program pool" in found.unknown
    made = section.make([open_run(RUNS / "trl_grpo")], Options())
    assert "Unknown: program pool, training problems," in made.findings[0].text
    nothing = matching_of(Run(Path("x"), "a trainer", None, settings=Settings()))
    assert set(nothing.unknown) == set(ROWS)


def test_a_report_says_whether_runs_are_a_contrast(tmp_path: Path) -> None:
    for name, rate in (("sft-0", 3e-4), ("rlvr-0", 3e-4), ("rlvr-1", 1e-3)):
        target = shutil.copytree(RUNS / f"{name[:-1]}0", tmp_path / name)
        document = json.loads((target / "run.json").read_text())
        document["config"] |= {"steps": 5, "learning_rate": rate} | ({"batch_size": 16} if name == "sft-0" else {})
        document |= {"pool": POOL, "checksums": {"base": "c" * 64}}
        (target / "run.json").write_text(json.dumps(document))
    matched = section.make([open_run(tmp_path / name) for name in ("sft-0", "rlvr-0")], Options())
    assert "A contrast of methods: sft and rlvr differ in nothing but what defines them" in matched.findings[1].text
    assert matched.doubts == []
    other = section.make([open_run(tmp_path / name) for name in ("sft-0", "rlvr-0", "rlvr-1")], Options())
    assert "Not a contrast of methods: sft and rlvr also differ in learning rate." in other.findings[2].text
    assert other.findings[3].text == "rlvr-0 and rlvr-1: A contrast of one setting: two runs of rlvr differ in learning rate alone."
    assert "they differ in learning rate (0.0003, 0.0003, 0.001)" in other.doubts[0].text
    assert "is not a difference between their methods" in other.doubts[0].text
    (of_rate,) = [row for row in other.tables[0].frame.to_dict("records") if row["row"] == "learning rate"]
    assert of_rate == {"row": "learning rate", "sft-0": "0.0003", "rlvr-0": "0.0003", "rlvr-1": "0.001", "status": DIFFERS, "why": ""}
    assert len(other.tables[1].frame) == 3
