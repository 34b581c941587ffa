"""The scripts of the comparison, on recorded runs of a tiny model and on constructed numbers."""

from __future__ import annotations

import importlib
import io
import json
import math
import re
import shlex
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import browser, dumped, made_once

from analyses import (
    analysis,
    claims,
    comparison,
    confound,
    controls,
    curriculum,
    entropy_dynamics,
    forgetting,
    laboratory,
    launch,
    pass_at_k,
    presets,
    proposer_variants,
    runs,
    support,
    update_sparsity,
)
from analyses.verdicts import FAILS, HOLDS, OPEN, Verdict, check_claim, over_seeds
from dynamics import InputError, entropy
from dynamics.presentation import methods, style
from dynamics.sparsity.definitions import RULES
from dynamics.train import command_line


@pytest.fixture(scope="module")
def folder() -> Path:
    """Runs of the preset ``quick``, recorded by ``data/make_runs.py``."""
    return Path(__file__).parent / "data" / "runs"


@pytest.fixture(scope="module")
def built(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures, tables, verdicts and report of these runs."""

    def build(target: Path) -> None:
        assert all(path.stat().st_size for path in comparison.build(runs.find([folder]), target))

    return made_once(tmp_path_factory, "comparison", build)


@pytest.mark.slow
def test_the_preset_trains_what_the_figures_are_built_from(embedded_model: None, tmp_path: Path) -> None:
    trained = launch.train("quick", tmp_path / "runs")
    assert {run.path.name for run in trained} == set(presets.plan("quick"))
    assert not list((tmp_path / "runs").glob("*/state"))  # finished runs keep the measurements, not the state needed to resume
    assert all(path.stat().st_size for path in comparison.build(trained, tmp_path / "figures"))


def test_finished_runs_are_not_made_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {run.path.name for run in launch.train("quick", folder)} == set(presets.plan("quick"))
    assert capsys.readouterr().err == ""


def test_everything_is_built_from_run_directories(built: Path) -> None:
    paths = list(built.iterdir())
    names = {path.stem for path in paths if path.suffix == ".csv"}
    drawn = {analysis.name_of(module) for module in comparison.QUESTIONS} - {"controls"}  # which are runs of the laboratory
    assert names == drawn | {"verdicts", "matching"}
    verdicts = pd.read_csv(built / "verdicts.csv")
    assert set(verdicts["verdict"]) <= {HOLDS, FAILS, OPEN}
    single = verdicts[verdicts["interval"] == "none: one seed"]
    assert len(single)
    assert (single["verdict"] == OPEN).all()  # a single seed gives no information on the variation between seeds
    page = (built / "report.html").read_text()
    assert all(module.TITLE in page for module in comparison.QUESTIONS)
    assert not re.search(r"(src|href)=.?https?:", page)  # nothing is fetched


def test_a_script_runs_by_itself(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analysis.main(entropy_dynamics, [str(folder), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "entropy_dynamics.svg").exists()
    assert analysis.main(entropy_dynamics, [str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "is not the output directory of a known trainer" in capsys.readouterr().err


def test_sparsity_and_labels_agree_with_the_run(folder: Path) -> None:
    by_name = {run.path.name: run for run in runs.find([folder])}
    variants = ["bfloat16 masters", "learning rate 3e-05"]
    expected = [*(f"{method}{more}" for method in ("sft", "rlvr") for more in ("", *(f", {variant}" for variant in variants)))]
    assert [run.label for run in by_name.values()] == [*expected, "selfplay", "selfplay, frozen proposer"]
    assert [run.path.name for run in runs.default_settings(list(by_name.values()))] == ["sft-0", "rlvr-0", "selfplay-0"]
    table = confound.measure(list(by_name.values()))
    table = table[table["rule"] == "bf16"]
    stored = table.pivot_table(index="label", columns="stored", values="value")
    assert (stored["as trained"] == stored["bfloat16"]).all()  # what the rule rounds is what such a file holds
    table = table[table["stored"] == "as trained"]
    value = {name: table[table["label"] == by_name[name].label]["value"].item() for name in by_name if "frozen" not in name}
    assert value["rlvr-slow-0"] == pytest.approx(by_name["rlvr-slow-0"].metrics["sparsity/bf16"].iloc[-1], abs=1e-6)
    spread = {row["rule"]: row for row in confound.spreads(table)}
    within = [max(mine) - min(mine) for mine in ([value[n] for n in value if n.startswith(method)] for method in ("sft", "rlvr"))]
    assert spread["bf16"]["settings"] == pytest.approx(max(within))


def test_what_only_one_solved_and_how_unlikely_the_base_found_it(folder: Path) -> None:
    compared = runs.find([folder / "rlvr-0"])
    table = support.measure(compared)
    shares = table[table["part"] == "share"]
    assert shares["value"].sum() == pytest.approx(1)
    assert ((shares["low"] <= shares["value"]) & (shares["value"] <= shares["high"])).all()
    answers = table[table["part"] == "answer"]
    assert (answers["value"] < 0).all()
    rows = [row for file in (folder / "rlvr-0" / "evals").glob("rlvr*") for row in runs.read_json_lines(file)]
    assert len(answers) == len({row["problem"] for row in rows if row["correct"]})
    again = table[table["part"] == "expected answer"]
    mine = [row for row in compared[0].samples() if row["model"] == "base, T=1"]
    halves: dict[str, list[list[bool]]] = {row["problem"]: [[], []] for row in mine}
    half = len(mine) // len(halves) // 2
    for row in mine:
        halves[row["problem"]][row["sample"] // half].append(row["correct"])
    pairs = [(any(ours), any(other)) for first, second in halves.values() for ours, other in ((first, second), (second, first))]
    assert (again["outcome"] == "both").sum() == sum(ours and other for ours, other in pairs)
    assert (again["outcome"] == "only tuned").sum() == sum(ours and not other for ours, other in pairs)
    assert set(again["samples"]) == {half}
    rows_again = [
        {"part": "expected answer", "label": "base", "outcome": "both", "value": value, "samples": half} for value in (-3.0, -1.0)
    ]
    with style.use_style():
        figure = support.figure(pd.concat([table, pd.DataFrame(rows_again)]))
    assert all(ax.has_data() for ax in figure.axes)
    names = [text.get_text() for ax in figure.axes[1:] for text in ax.get_legend().get_texts()]
    assert f"base, halves ({len(again[again['outcome'] == 'both']) // 2 + 1})" in names
    assert f"half of the base's samples ({half})" in support.caption(table)
    assert "is left out" in support.caption(table[table["part"] == "share"])


@pytest.mark.slow
def test_the_base_is_at_no_distance_from_itself(folder: Path) -> None:
    places = runs.find([folder / "sft-0"])[0].checkpoints
    still, moved = forgetting.distances(places[0], places[0]), forgetting.distances(places[0], places[-1])
    for kind in ("solving", "proposing"):
        assert (still[kind]["kl"], still[kind]["loss"]) == (0, 0)
        assert moved[kind]["kl"] > 0


@pytest.mark.parametrize(("preset", "folder"), [("full", "figures"), ("smollm2", "figures/smollm2")])
def test_the_committed_figures_say_of_which_preset_they_are(preset: str, folder: str) -> None:
    assert json.loads((Path(__file__).parent.parent / folder / "machine.json").read_text())["preset"] == preset


def test_claims_stand_beside_the_figures_that_show_them(folder: Path) -> None:
    names = [claim.name for claim in laboratory.CLAIMS.claims]
    beside = [claim for claims in comparison.CLAIMED.values() for claim in claims]
    assert sorted(beside) == sorted(names)  # each once
    assert comparison.CLAIMED.keys() <= {analysis.name_of(module) for module in comparison.QUESTIONS}
    rows = claims.table(claims.judge(laboratory.CLAIMS, laboratory.read([])))
    drawn = {
        "name": "pass_at_k",
        "title": "pass@k",
        "headline": "ahead",
        "claim": "",
        "caption": "",
        "figure": "data:image/svg+xml;base64,",
    }
    sections = [drawn, {"name": "support", "title": "Support", "missing": "no samples"}]
    page = comparison.page(runs.find([folder]), "full", pd.read_csv(io.StringIO(VERDICTS)), sections, rows)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    order = [text.index(part) for part in ("Of 8 claims", "ahead.", "Primary claims", "pass@k", "Claims without a figure", "Exploratory")]
    assert order == sorted(order)
    assert text.index(names[0]) < text.index("Claims without a figure") < text.index(names[3])
    assert "Support: no samples" in text


#: a table of verdicts without rows
VERDICTS = ",".join([*(field.name for field in fields(Verdict)), "verdict", "figure"]) + "\n"


#: presets of many runs
LARGE = ("full", "smollm2", "games")


@pytest.mark.parametrize("preset", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in presets.PRESETS])
def test_every_command_of_a_preset_is_one_that_would_run(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, the compared runs are those of the methods, with each seed."""
    monkeypatch.chdir(tmp_path)
    made = []
    for line in presets.commands(preset, Path("runs")):
        words = shlex.split(line)
        if "dynamics.train" in words:
            rest = words[words.index("dynamics.train") + 1 :]
            given = command_line.parse(rest)
            assert given.config.steps > 0
            if Path(given.out).name != presets.BASE_RUN:
                made.append(imagined_run(rest[0], given))
        elif words[0] == "python":
            assert importlib.import_module(f"{words[2]}.__main__").build_parser().parse_args(words[3:]).json
        else:
            assert words[0] in ("evalplus.evaluate", "inspect")
            assert "64" in words  # pass@k needs many graded samples
    usual = {run.path.name for run in runs.default_settings(runs.find(made))}
    assert usual == {f"{method}-{seed}" for method in presets.PRESETS[preset].methods for seed in range(presets.PRESETS[preset].seeds)}


def test_every_control_is_a_run_of_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change whose label no run has would never be compared, without a word."""
    monkeypatch.chdir(tmp_path)
    words = {name: options for name, options in presets.plan("full", block="methods").items() if name.endswith("-0")}
    made = [imagined_run(options[0], command_line.parse([options[0], "--out", name, *options[1:]])) for name, options in words.items()]
    labels = {run.label for run in runs.find(made)}
    assert {label for change in controls.CHANGES for label in (change.changed, change.control)} <= labels


def imagined_run(method: str, given: command_line.Command) -> Path:
    """Make the directory of an imaginary run, with settings and evaluations."""
    out, settings = Path(given.out), asdict(given.config)
    out.mkdir(parents=True)
    document = {"schema": "dynamics.run/2", "method": method, "preset": given.preset, "config": settings, "seed": settings["seed"]}
    (out / "run.json").write_text(json.dumps(document))
    if settings["eval_problems"]:
        (out / "evals").mkdir()
        (out / "evals" / "all.jsonl").write_text("")
    return out


def test_a_verdict_is_its_interval() -> None:
    def verdict(low: float, high: float, expected: int, margin: float = 0.0) -> str:
        return Verdict("", "", (low + high) / 2, low, high, 2, "", "", expected, margin).verdict

    assert [verdict(0.1, 0.2, 1), verdict(0.1, 0.2, -1), verdict(-0.2, -0.1, -1), verdict(-0.1, 0.2, 1)] == [HOLDS, FAILS, HOLDS, OPEN]
    assert verdict(math.nan, math.nan, 1) == OPEN
    assert [verdict(-0.04, 0.03, 0, 0.05), verdict(-0.06, 0.03, 0, 0.05), verdict(0.06, 0.2, 0, 0.05)] == [HOLDS, OPEN, FAILS]


def test_seeds_that_agree_by_chance_do_not_make_a_verdict_sharp() -> None:
    within = (-0.1, 0.3, "bootstrap over problems")
    verdict = check_claim("", "", [0.1, 0.1, 0.1], 1, within)
    assert (verdict.low, verdict.high, verdict.verdict) == (-0.1, 0.3, OPEN)
    assert check_claim("", "", [0.1, 0.1, 0.1], 1).verdict == HOLDS
    apart = check_claim("", "", [0.0, 0.2], 1, (0.05, 0.15, "bootstrap over problems"))
    assert (apart.low, apart.high) == over_seeds([0.0, 0.2])[1:]  # here the interval over seeds is wider
    alone = check_claim("", "", [0.1], 1, (0.05, 0.15, "bootstrap over problems"))
    assert (alone.low, alone.high, alone.seeds, alone.interval) == (0.05, 0.15, 1, "bootstrap over problems, one seed")
    assert check_claim("", "", [0.1], 1).verdict == OPEN


def test_the_papers_order_is_judged_under_both_readings() -> None:
    def told(sft: float, rlvr: float, game: float) -> list[str]:
        rows = [
            {"method": method, "seed": seed, "value": value + 0.001 * seed}
            for method, value in (("sft", sft), ("rlvr", rlvr), ("selfplay", game))
            for seed in range(3)
        ]
        return [verdict.verdict for verdict in update_sparsity.check_order(pd.DataFrame(rows).sample(frac=1, random_state=0), "")]

    assert told(0.4, 0.9, 0.6) == [HOLDS, HOLDS, FAILS]
    assert told(0.9, 0.4, 0.6) == [HOLDS, FAILS, HOLDS]
    assert told(0.4, 0.6, 0.9) == [FAILS, HOLDS, FAILS]


def test_whether_methods_or_settings_differ_more_is_no_finding() -> None:
    """It would be decided by how far apart the settings are."""
    rows = [
        {
            "method": method,
            "seed": seed,
            "learning_rate": rate,
            "masters": "float32",
            "rule": "bf16",
            "stored": "as trained",
            "label": method,
        }
        | {"value": level + shift, "tolerance": math.nan}
        for method, shift in (("sft", 0.0), ("rlvr", 0.1))
        for rate, level in ((3e-4, 0.05), (3e-6, 0.6))
        for seed in range(3)
    ]
    assert confound.verdicts(pd.DataFrame(rows)) == []
    (spread,) = confound.spreads(pd.DataFrame(rows))
    assert spread == {"rule": "bf16", "methods": pytest.approx(0.1), "settings": pytest.approx(0.55)}
    assert "between settings of one method, which depends on their range: bf16: methods 0.10, settings 0.55" in confound.caption(
        pd.DataFrame(rows)
    )
    with pytest.raises(InputError, match="none of the runs has weights of its base"):
        confound.measure([])


def test_self_play_is_between_two_methods_only_where_these_differ() -> None:
    def between(rlvr: tuple[float, float, float]) -> Verdict:
        values = {"sft": (0.4, 0.4, 0.41), "rlvr": rlvr, "selfplay": (0.5, 0.49, 0.5)}
        rows = [{"method": name, "seed": seed, "value": own[seed]} for name, own in values.items() for seed in range(3)]
        return update_sparsity.check_order(pd.DataFrame(rows), "")[0]

    assert between((0.6, 0.61, 0.6)).verdict == HOLDS
    same = between((0.4, 0.41, 0.4))  # self-play is far from both, and nothing can be between them
    assert (same.verdict, same.interval) == (OPEN, "none: SFT and RLVR are not told apart")


def test_the_control_of_a_gain_is_greedy_decoding_whatever_it_scores() -> None:
    rows = [
        {
            "split": "unseen",
            "kind": "against",
            "name": "rlvr",
            "against": against,
            "seed": seed,
            "k": 1,
            "value": value,
            "low": value - 0.01,
        }
        | {"high": value + 0.01, "problems": 10, "seeds": 2}
        for against, value in (("base, T=1", 0.2), ("base, greedy", 0.1), ("base, T=0.3", -0.1))
        for seed in (math.nan, 0, 1)
    ]
    gains = pass_at_k.verdicts(pd.DataFrame(rows))
    assert [(verdict.finding, verdict.effect) for verdict in gains] == [
        ("RLVR beats its base at k = 1", pytest.approx(0.2)),
        ("control: RLVR gains more than greedy decoding of its base", pytest.approx(0.1)),
    ]


def test_the_gap_is_the_comparisons_difference() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"name": name, "problem": f"p{problem}", "correct": bool(rng.random() < level), "seed": 0, "split": "seen", "task": "t"}
        for name, level in (("base, T=1", 0.2), ("rlvr", 0.4))
        for problem in range(12)
        for _ in range(8)
    ]
    table = pd.DataFrame(rows)
    whole = pass_at_k.paired_difference(table, "base, T=1", "rlvr", [1, 8])
    assert whole is not None
    for k, value in zip(whole.points["k"], whole.points["difference"], strict=True):
        assert pass_at_k.mean_difference(table, "base, T=1", "rlvr", int(k)) == pytest.approx(value)


def test_the_lowest_learning_rate_that_all_methods_share() -> None:
    def run(method: str, **more: object) -> runs.Run:
        return runs.Run(Path(method), {"method": method, "config": {**more}, "seed": 0})

    usual = [run("sft"), run("rlvr")]
    slow = [run(method, learning_rate=3e-5) for method in ("sft", "rlvr")]
    slower = [run(method, learning_rate=3e-6) for method in ("sft", "rlvr")]
    narrow = [run(method, learning_rate=3e-7, master_dtype="bfloat16") for method in ("sft", "rlvr")]
    assert runs.lowest_lr([*usual, *slow, *slower, *narrow]) == slower
    assert runs.lowest_lr([*usual, *slow, slower[0]]) == slow  # the other was run by one method only
    assert runs.lowest_lr(usual) == []
    faster = [run(method, learning_rate=3e-2) for method in ("sft", "rlvr")]
    compared = [run(method, learning_rate=3e-4) for method in ("sft", "rlvr")]
    assert runs.lowest_lr([*compared, *faster]) == []


def test_labels_tell_a_run_from_those_it_is_compared_with(tmp_path: Path) -> None:
    """A label omits a learning rate that all runs share; the usual settings are those of the evaluated runs."""

    def run(name: str, seed: int | None = 0, **more: object) -> Path:
        return run_folder(tmp_path / name, seed=seed, config=more)

    shared = [run(f"shared-{n}", n, learning_rate=7e-5) for n in range(2)]
    assert [trained.label for trained in runs.find(shared)] == ["sft", "sft"]
    asked = run("asked", learning_rate=1e-6)
    (asked / "evals").mkdir()
    (asked / "evals" / "all.jsonl").write_text("")
    assert sorted(trained.label for trained in runs.find([*shared, asked])) == [
        "sft",
        "sft, learning rate 7e-05",
        "sft, learning rate 7e-05",
    ]
    default = run("default", learning_rate=3e-4)
    assert sorted(trained.label for trained in runs.find([*shared, default]))[0] == "sft"


def test_runs_are_selected_by_their_settings_and_named_from_them() -> None:
    def made(**config: object) -> runs.Run:
        return runs.Run(Path("run"), {"method": "selfplay", "config": config, "seed": 0})

    usual = made(learning_rate=3e-4, proposer_reward="one_minus")
    slow = made(learning_rate=3e-5)
    frozen = made(proposer="frozen")
    both = made(learning_rate=3e-5, proposer_reward="my, learning rate masters:reward")  # words that labels of other settings have
    assert [run.varied for run in (usual, frozen)] == [{}, {"proposer": "frozen"}]
    assert both.label == "selfplay, learning rate 3e-05, my, learning rate masters:reward reward"
    named = made(proposer_reward="my, learning rate masters:reward")
    assert runs.default_settings([usual, slow, frozen, both, named]) == [usual]
    assert runs.default_optimizer([usual, slow, frozen, both, named]) == [usual, frozen, named]
    assert runs.default_game([usual, slow, frozen, both, named]) == [usual, slow]
    assert [proposer_variants.variant_name(run.label) for run in (usual, frozen)] == ["one_minus, trained", "frozen proposer"]


def test_controls_of_one_method_have_labels_of_their_own() -> None:
    def label(**config: object) -> str:
        return runs.Run(Path("run"), {"method": "rlvr", "config": config, "seed": 0}).label

    assert label(task="code", advantage="grpo") == "rlvr"
    assert label(task="proposed:runs/selfplay-0") == label(task="proposed:runs/selfplay-1") == "rlvr, on proposed programs"
    assert label(task="correct:runs/rlvr-0") == "rlvr, on correct samples"
    assert label(advantage="reinforce++-sequence") == "rlvr, reinforce++-sequence advantage"


def test_samples_are_of_the_base_by_model_and_temperature() -> None:
    for temperature, model in ((1.0, "base, T=1"), (0.6, "base, T=0.6"), (0, "base, greedy")):
        assert runs.is_of_base({"model": model, "temperature": temperature})
    assert runs.is_of_base({"model": "base, T=1"})
    assert not runs.is_of_base({"model": "sft, 4 steps, T=1", "temperature": 1.0})
    assert not runs.is_of_base({"model": "baseline, 4 steps, T=1", "temperature": 1.0})


def test_seeds_that_agree_exactly_have_an_interval_without_width() -> None:
    assert over_seeds([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)


def run_folder(target: Path, **document: object) -> Path:
    target.mkdir(parents=True)
    (target / "run.json").write_text(json.dumps({"method": "sft", "schema": "dynamics.run/2"} | document))
    return target


def test_nothing_counts_twice(tmp_path: Path) -> None:
    first, _ = (run_folder(tmp_path / "runs" / name, seed=0, config={"steps": 4}) for name in ("a", "b"))
    assert len(runs.find([first, first, tmp_path / "runs" / "a"])) == 1
    with pytest.raises(InputError, match=r"b: is sft, seed 0, as .*a is; compare one of them at a time"):
        runs.find([tmp_path / "runs"])
    unsaid = [run_folder(tmp_path / "more" / name, config={}) for name in ("a", "b")]  # as another trainer writes them
    assert [run.seed for run in runs.find(unsaid)] == [0, 1]


def test_what_the_runs_of_a_folder_begin_with_is_no_part_of_the_comparison(tmp_path: Path) -> None:
    base = run_folder(tmp_path / "my runs" / presets.BASE_RUN, seed=0, config={})
    plan = presets.plan("smollm2", tmp_path / "my runs")["rlvr-1"]
    model = plan[plan.index("--model") + 1]
    assert Path(model).parent.parent == base  # a space in a name does no harm
    tuned = run_folder(tmp_path / "my runs" / "rlvr-1", method="rlvr", seed=1, config={"model": model})
    (compared,) = runs.find([tmp_path / "my runs"])
    assert compared.path == tuned
    assert compared.settings["model"] == f"base/checkpoints/{Path(model).name}"
    assert [run.path for run in runs.find([base])] == [base]


def test_a_line_that_a_killed_run_left_unfinished_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in runs.read_json_lines(file)] == [1, 2]
    file.write_text('{"step": 1}\n{"step": 2}')  # complete, although the last line has no newline
    assert [row["step"] for row in runs.read_json_lines(file)] == [1, 2]
    file.write_text('{"step": 1}\n{"st\n')
    with pytest.raises(InputError, match="line 2: is not JSON"):
        runs.read_json_lines(file)


METRICS = {
    "a list": "[1]",
    "no step": '{"reward": 1}',
    "a step that is text": '{"step": "1"}',
    "a reward that is text": '{"step": 1, "reward": "high"}',
    "deep": "[" * 100_000,
    "no JSON": "step 1",
    "nothing": "",
}


@pytest.mark.parametrize("name", METRICS)
def test_damaged_metrics_are_refused_by_the_file(name: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", seed=0, config={})
    (folder / "metrics.jsonl").write_text(METRICS[name] + "\n" * bool(METRICS[name]))
    (run,) = runs.find([folder])
    with pytest.raises(InputError, match=r"metrics\.jsonl") as caught:
        _ = run.metrics
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"correct": "yes"}, {"model": None}, {"problem": 3}, {"task": []}, {"temperature": "hot"}])
def test_damaged_samples_are_refused_by_the_file(change: dict, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", seed=0, config={})
    (folder / "evals").mkdir()
    sample = {"model": "base, T=1", "problem": "p", "split": "test", "task": "t", "correct": True, "temperature": 1.0}
    (folder / "evals/base_T1.jsonl").write_text(json.dumps(sample) + "\n" + json.dumps(sample | change) + "\n")
    (run,) = runs.find([folder])
    with pytest.raises(InputError, match=r"base_T1\.jsonl, line 2|sample of p") as caught:
        _ = run.evals
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"config": []}', '{"seed": "0"}', '{"method": {}}', '{"config": {"learning_rate": "fast"}}', '{"packages": 1}'],
)
def test_a_damaged_run_json_is_refused_by_the_file(text: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json") as caught:
        _ = [run.learning_rate for run in runs.find([folder])]
    assert "\n" not in str(caught.value)


def test_other_folders_beside_the_checkpoints_are_passed_over(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", seed=0, config={})
    for name in ("step_000000", "step_000010", "step_000002", "step_best", "step_3.partial"):
        (folder / "checkpoints" / name).mkdir(parents=True)
    (run,) = runs.find([folder])
    assert [path.name for path in run.checkpoints] == ["step_000000", "step_000002", "step_000010"]


def test_few_problems_or_tasks_make_no_verdict(tmp_path: Path) -> None:
    """Intervals that assume a normal distribution would be narrow here by chance."""
    solved = pd.DataFrame({"base": [True] * 3 + [False] * 9, "tuned": [False] * 12})
    balance = support._balance(solved)
    assert balance["value"] == pytest.approx(-0.25)
    assert balance["high"] >= 0  # an exact sign test gives 1/4
    target = run_folder(tmp_path / "run", method="selfplay", seed=0, config={})
    (target / "metrics.jsonl").write_text("".join(f'{{"step": {n}}}\n' for n in range(1, 5)))
    tasks = [
        {"phase": phase, "program": "x", "solve_rate": 0.75 - 0.1 * phase, "length": 3, "characters": 1, "complexity": 0}
        for phase in range(4)
        for _ in range(2)
    ]
    (target / "curriculum.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    verdicts = curriculum.verdicts(curriculum.measure(runs.find([target])))
    assert verdicts[0].effect == pytest.approx(-0.3)
    assert [verdict.verdict for verdict in verdicts] == [OPEN] * len(verdicts)


def test_runs_of_another_trainer_are_drawn_as_far_as_they_go(tmp_path: Path) -> None:
    """The recorder writes metrics but no checkpoints and no seed: some figures are drawn, and the page explains why others are missing."""
    out = run_folder(tmp_path / "runs" / "grpo", method="grpo", master_dtype=["bfloat16", "float32"])
    steps = [{"step": n, "entropy": 1 / n, "reward": 0.1 * n} | {f"sparsity/{rule}": 1 - 0.1 * n for rule in RULES} for n in range(1, 6)]
    (out / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    paths = comparison.build(runs.find([out]), tmp_path / "figures")
    assert {path.stem for path in paths if path.suffix == ".png"} == {"update_sparsity", "entropy_dynamics"}
    table = pd.read_csv(tmp_path / "figures" / "update_sparsity.csv")
    assert table.loc[table["part"] == "total", "value"].to_list() == pytest.approx([0.5] * 4)
    page = (tmp_path / "figures" / "report.html").read_text()
    missing = page[page.index("What is not drawn") : page.index("Verdicts, one at a time")]
    assert missing.count("<li>") == len(comparison.QUESTIONS) - 2


@pytest.mark.parametrize("missing", ["selfplay", "sft"])
@pytest.mark.slow
def test_a_comparison_without_one_method(folder: Path, missing: str) -> None:
    chosen = [run for run in runs.find([folder]) if run.method != missing]
    with style.use_style():
        for module in (entropy_dynamics, update_sparsity, confound, pass_at_k):
            table = module.measure(chosen)
            assert module.figure(table).axes
            assert not [verdict for verdict in module.verdicts(table) if module is update_sparsity]  # its verdicts are on all three


def test_operations_are_counted_in_any_python() -> None:
    assert [curriculum.operations(program) for program in ("x", "x+1", "sorted(x)[::-1]", "[y*2 for y in x]")] == [0, 1, 3, 2]


def test_figures_are_drawn_from_the_tables_beside_them(built: Path) -> None:
    """Check the structure: a line per method in its colour, controls in grey, axis labels, limits that contain the data."""

    def table_of(module: analysis.Analysis) -> pd.DataFrame:
        return pd.read_csv(built / f"{analysis.name_of(module)}.csv")

    with style.use_style():
        table = table_of(pass_at_k)
        ax = pass_at_k.draw(table, style.new_figure(3, 3).subplots(), "seen")
        colors = {line.get_label(): line.get_color() for line in ax.lines}
        assert {name: colors[name] for name in ("sft", "rlvr", "selfplay", "base, T=1")} == {
            **{name: methods.COLORS[name] for name in ("sft", "rlvr", "selfplay")},
            "base, T=1": methods.COLORS["base"],
        }
        assert colors["base, greedy"] == methods.OTHER
        assert ax.get_xlabel() == "k"
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "4"]
        curve = table[(table["split"] == "seen") & (table["name"] == "rlvr") & (table["kind"] == "pass@k")]
        (line,) = [line for line in ax.lines if line.get_label() == "rlvr"]
        assert line.get_ydata() == pytest.approx(curve.sort_values("k")["value"])
        assert len(ax.collections) == 4  # one band per method and one for the base; none for controls

        ax = update_sparsity.draw(table_of(update_sparsity), style.new_figure(3, 3).subplots(), "bf16")
        assert [tick.get_text() for tick in ax.get_yticklabels()] == ["sft, 3e-4", "rlvr, 3e-4", "selfplay, 3e-4"]
        assert ax.get_xlim() == (-0.03, 1.03)
        for module in [module for module in comparison.QUESTIONS if module is not controls]:
            drawn = module.figure(table_of(module))
            assert drawn.get_figwidth() <= style.TWO_COLUMN
            for ax in drawn.axes:
                assert ax.get_title(loc="left") or ax.get_title() or ax.get_xlabel() or ax.get_ylabel() or not ax.axison, module


@pytest.mark.skipif(browser() is None, reason="no browser")
def test_the_report_in_a_browser(folder: Path, built: Path, tmp_path: Path) -> None:
    """On a phone, only scrollable elements are wider than the screen, and every image loads."""
    script = (
        "<script>addEventListener('load', () => { document.title = [document.documentElement.scrollWidth <= innerWidth, "
        "[...document.images].every(one => one.naturalWidth > 100), document.images.length].join(' ') })</script>"
    )
    page = tmp_path / "page.html"
    page.write_text((built / "report.html").read_text() + script)
    dom = dumped(page, tmp_path, "--window-size=500,900")
    assert f"<title>true true {len(comparison.QUESTIONS) - 1}</title>" in dom  # there are no controls
    assert dom.count("<details>") == len(runs.find([folder]))


def test_the_interval_over_seeds_is_students() -> None:
    mean, low, high = over_seeds([1.0, 2.0])
    assert (mean, high - mean) == pytest.approx((1.5, 12.706 * 0.5), rel=1e-3)
    assert low == pytest.approx(2 * mean - high)
    assert over_seeds([3.0])[0] == 3.0
    assert math.isnan(over_seeds([3.0])[1])


def test_the_exponential_fit_finds_its_own_curve() -> None:
    x = np.linspace(0.1, 1.0, 20)
    reward = 0.9 - 0.3 * np.exp(x)
    fitted = entropy.fit(x, reward)
    assert (fitted.a, fitted.b) == pytest.approx((0.3, 0.9))


def test_presets_name_options_that_exist_and_reuse_what_is_finished(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for preset in presets.PRESETS:
        plan = presets.plan(preset)
        assert len({" ".join(options) for options in plan.values()}) == len(plan)
        for name, options in plan.items():
            assert not launch.is_finished(tmp_path / name, options)  # also parses the options
    options = presets.plan("quick")["sft-0"]
    assert launch.is_finished(folder / "sft-0", options)
    with pytest.raises(InputError, match=r"sft-0: is finished, with other settings \(seed\); --force trains all of them again"):
        launch.is_finished(folder / "sft-0", [*options, "--seed", "1"])
    mine = json.loads((folder / "sft-0" / "run.json").read_text())["compute_dtype"]
    monkeypatch.setenv("DYNAMICS_COMPUTE_DTYPE", mine)
    assert launch.is_finished(folder / "sft-0", options)
    monkeypatch.setenv("DYNAMICS_COMPUTE_DTYPE", "float32" if mine == "bfloat16" else "bfloat16")
    with pytest.raises(InputError, match=f"sft-0: computes in {mine}, and DYNAMICS_COMPUTE_DTYPE says"):
        launch.is_finished(folder / "sft-0", options)
    record = json.loads((folder / "sft-0" / "run.json").read_text())
    assert record["status"] == "finished"
    with pytest.raises(InputError, match="unknown"):
        presets.plan("huge")
