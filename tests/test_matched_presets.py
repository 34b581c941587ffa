"""The preset of the laboratory is matched by construction, and its controls are trained after the runs that they read."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("seaborn")

from analyses import launch, matched, presets, runs
from dynamics import InputError
from dynamics.runs.matching import DEFINED, OUTCOMES, SAME, UNKNOWN, Matching, compare, contrast, matching
from dynamics.train import command_line, config, tasks
from dynamics.train.tasks.problem import pool_of

RUNS = Path(__file__).parent / "data" / "runs"
KINDS = {
    "sft": "sft",
    "rlvr": "rlvr",
    "selfplay": "selfplay",
    "selfplay-frozen": "selfplay, frozen proposer",
    "selfplay-snapshot": "selfplay, snapshot proposer",
    "rlvr-estimator": "rlvr, with the estimator of self-play",
    "rlvr-proposed": "rlvr on proposed problems",
    "rlvr-proposed-recorded": "rlvr on proposed problems, in recorded order",
    "sft-correct": "sft on correct samples",
}
#: not a control: another setting of the game
VARIANT = "selfplay-triangular"
#: control -> what it is a control of, and the rows that it isolates, besides those that only happen
ISOLATED = {
    "selfplay-frozen": ("selfplay", {"completions a problem", "completions trained on", "of them proposals", "proposer"}),
    "rlvr-estimator": ("rlvr", {"estimator", "baseline"}),
    "rlvr-proposed": ("rlvr", {"program pool", "training problems"}),
    "rlvr-proposed-recorded": ("rlvr-proposed", {"data order"}),
    "sft-correct": ("sft", {"program pool", "training problems"}),
}


def planned(options: list[str]) -> Matching:
    """The table of a run that was not trained, as ``run.json`` begins with it."""
    given = command_line.parse([options[0], "--out", "x", *options[1:]])
    settings = given.config
    document = {"method": options[0], "config": config.as_recorded(settings), "seed": settings.seed, "model": settings.model}
    document |= {"checksums": {"base": settings.model}, "compute_dtype": "float32"}
    document |= dict.fromkeys(("master_dtype", "storage_dtype"), settings.master_dtype)
    if isinstance(settings, (config.SFTConfig, config.RLVRConfig)):
        if presets.reads(options) is None:
            source = tasks.source(settings.task)
            pool = pool_of(source.name, source.questions("training", settings.num_problems, settings.seed))
        else:  # of a run that is yet to be made
            pool = {"task": settings.task, "problems": 3, "programs": 2} | dict.fromkeys(
                ("problems_checksum", "programs_checksum"), "of it"
            )
        document["pool"] = pool
    return matching(document, {})


def test_methods_and_controls_of_the_laboratory_differ_by_definition_alone() -> None:
    plan = presets.plan("full", block="methods")
    tables = {name: planned(plan[f"{name}-2"]) for name in KINDS}
    assert {name: table.kind for name, table in tables.items()} == KINDS
    rows = compare(list(tables.values()))
    assert {row.name: row.status for row in rows if row.status not in (SAME, DEFINED)} == dict.fromkeys(OUTCOMES, UNKNOWN)
    same = {row.name for row in compare([tables[name] for name in ("sft", "rlvr", "selfplay")]) if row.status == SAME}
    assert same >= {"optimizer steps", "completions trained on", "learning rate", "schedule", "optimizer", "loss aggregation"}
    assert same >= {"master dtype", "compute dtype", "base", "longest completion", "further terms of the loss"}
    assert {row.name for row in compare([tables["rlvr"], tables["selfplay"]]) if row.status == SAME} >= same | {"sampling temperature"}
    values = {row.name: row.value for row in tables["selfplay"].rows}
    assert (values["completions trained on"], values["of them proposals"], values["problems a step"]) == (14_400, 1_600, 16)
    for control, (of, isolated) in ISOLATED.items():
        found = contrast(tables[of], tables[control])
        assert found.is_of_methods, found.text
        assert set(found.defined) - set(OUTCOMES) == isolated


def test_each_seed_of_the_laboratory_has_its_own_base() -> None:
    plan = presets.plan("full", block="methods")
    assert set(plan) == {f"{name}-{seed}" for name in (*KINDS, VARIANT) for seed in range(5)}
    models = {name: options[options.index("--model") + 1] for name, options in plan.items()}
    assert len(set(models.values())) == 5
    assert all(model == "lab" or (Path(model) / "model.safetensors").is_file() for model in models.values())
    assert all(models[name] == models[f"sft-{name[-1]}"] for name in plan)


def test_the_blocks_of_a_preset_are_all_of_it_and_the_grid_has_more_seeds_at_the_low_rate() -> None:
    methods, grid = (presets.plan("full", block=block) for block in presets.BLOCKS)
    assert methods | grid == presets.plan("full")
    assert not methods.keys() & grid.keys()
    cells: dict[tuple[str, ...], int] = {}
    for options in grid.values():
        settings = vars(command_line.parse([options[0], "--out", "x", *options[1:]]).config)
        cell = (options[0], f"{settings['learning_rate']:g}", settings["master_dtype"])
        cells[cell] = cells.get(cell, 0) + 1
        assert settings["steps"] == 100
        assert settings["eval_samples"] == 16
    rates = {"0.0003": ("bfloat16",), "3e-05": ("float32", "bfloat16"), "3e-06": ("float32", "bfloat16")}
    wanted = {(method, rate, dtype) for method in presets.METHODS for rate, dtypes in rates.items() for dtype in dtypes}
    assert cells == {cell: 3 if cell[1] == "3e-06" else 1 for cell in wanted}


def test_the_demonstration_has_one_base() -> None:
    plan = presets.plan("default")
    assert set(plan) == {f"{method}-{seed}" for method in presets.METHODS for seed in range(4)}
    assert {options[options.index("--model") + 1] for options in plan.values()} == {"lab"}
    tables = [planned(plan[f"{method}-0"]) for method in presets.METHODS]
    assert {row.status for row in compare(tables) if row.name not in OUTCOMES} == {SAME, DEFINED}


def test_runs_that_others_read_come_first(tmp_path: Path) -> None:
    plan = presets.plan("full", tmp_path)
    names = list(plan)
    sources = {name: presets.reads(options) for name, options in plan.items()}
    assert sources["rlvr-proposed-recorded-1"] == "selfplay-1"
    assert sources["sft-correct-1"] == "rlvr-1"
    assert sources["rlvr-1"] is None
    assert all(names.index(source) < names.index(name) for name, source in sources.items() if source is not None)


def test_a_run_waits_for_what_it_trains_on() -> None:
    sources = launch._Sources({"rlvr-0": ["rlvr"], "sft-correct-0": ["sft", "--task", "correct:runs/rlvr-0"], "sft-0": ["sft"]})
    order: list[str] = []

    def train(name: str) -> None:
        with sources.ready(name):
            order.append(name)

    waiting = threading.Thread(target=train, args=["sft-correct-0"])
    waiting.start()
    train("sft-0")
    train("rlvr-0")
    waiting.join()
    assert order == ["sft-0", "rlvr-0", "sft-correct-0"]


def test_what_trains_on_a_failed_run_fails() -> None:
    sources = launch._Sources({"rlvr-0": ["rlvr"], "sft-correct-0": ["sft", "--task", "correct:runs/rlvr-0"]})
    with pytest.raises(RuntimeError), sources.ready("rlvr-0"):
        raise RuntimeError
    with pytest.raises(InputError, match="sft-correct-0: trains on the rollouts of rlvr-0, which failed"), sources.ready("sft-correct-0"):
        pass


def test_rollouts_in_a_folder_that_was_moved_are_the_same() -> None:
    wanted, recorded = {"task": "proposed:/new/selfplay-0"}, {"task": "proposed:runs/selfplay-0"}
    assert launch._different_settings(wanted, recorded) == []
    for other in ("proposed:runs/selfplay-1", "correct:runs/selfplay-0", "lab", None):
        assert launch._different_settings(wanted, {"task": other}) == ["task"]


def test_a_comparison_names_what_its_methods_differ_in(tmp_path: Path) -> None:
    pool = {"task": "code", "problems": 4, "programs": 3} | dict.fromkeys(("problems_checksum", "programs_checksum"), "p")
    for name, seed in (("rlvr-0", 0), ("rlvr-0", 1), ("sft-0", 0), ("sft-0", 1)):
        target = shutil.copytree(RUNS / name, tmp_path / f"{name[:-1]}{seed}")
        document = json.loads((target / "run.json").read_text())
        document |= {"seed": seed, "pool": pool, "checksums": {"base": f"base {seed}"}}
        document["config"] |= {"seed": seed} | ({"batch_size": 16} if name == "sft-0" else {})
        (target / "run.json").write_text(json.dumps(document))
    (row,) = matched.contrasts(runs.find([tmp_path])).to_dict("records")
    assert (row["a"], row["b"], row["seeds"], row["contrast_of_methods"], row["differs"]) == ("sft", "rlvr", 2, True, "")
    document["checksums"]["base"] = "another"
    (target / "run.json").write_text(json.dumps(document))  # of one seed only
    (row,) = matched.contrasts(runs.find([tmp_path])).to_dict("records")
    assert (row["contrast_of_methods"], row["differs"]) == (False, "base")
    assert row["text"].startswith("Not a contrast of methods: sft and rlvr also differ in base.")
