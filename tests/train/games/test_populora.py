"""PopuLoRA: who meets and is paid by whom, ratings, evolution, the graded student, controls, and bit-identical resumption."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.errors import InputError
from dynamics.runs.schema import SCHEMA
from dynamics.train import loop, policy, tasks
from dynamics.train.completions import SampledCompletion
from dynamics.train.config import check
from dynamics.train.games.buffer import BufferEntry
from dynamics.train.games.evolution import OPERATORS
from dynamics.train.games.populora import Match, PopuLoRA
from dynamics.train.games.populora_settings import MUTATIONS, PopuLoRAConfig
from dynamics.train.games.proposals import Proposal
from dynamics.train.games.ratings import Rating
from dynamics.train.lineage import __main__ as command
from dynamics.train.lineage.tree import LINEAGE, lines, of_run
from dynamics.train.tasks.problem import Verdict
from dynamics.train.tasks.prompt_formats import Notation
from train.helpers import contents


def config(base: Path, **more) -> PopuLoRAConfig:
    few = {
        "steps": 4,
        "prompts_per_step": 4,
        "group_size": 2,
        "eval_problems": 0,
        "validation_problems": 4,
        "max_new_tokens": 8,
        "max_proposal_tokens": 40,
        "num_seed_tasks": 6,
        "lora_rank": 2,
        "evolve_every": 1,
        "curriculum_samples": 2,
    }
    return PopuLoRAConfig(model=str(base), threads=1, **(few | more))


@pytest.fixture
def game(base: Path):
    made = []

    def make(**more) -> PopuLoRA:
        settings = config(base, **more)
        check(settings)
        made.append(PopuLoRA(settings, policy.load(str(base), None, "float32", "float32"), tasks.source("code", plain=False)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def proposal(text: str, rate: float | None) -> Proposal:
    sampled = SampledCompletion(np.array([1, 2]), np.zeros(2, np.float32), "eos")
    made = Proposal("deduction", "", np.array([1]), sampled, text, [])
    if rate is not None:
        made.entry, made.rate = BufferEntry("deduction", Notation().parse_proposal("deduction", text, None), (1,), 1), rate
    return made


def test_every_player_of_a_step_is_asked_alike_and_a_teacher_is_paid_by_the_student_that_it_met(game, monkeypatch) -> None:
    pytest.importorskip("trueskillthroughtime")
    played = game(task_types=("deduction",))
    asked: Counter[str] = Counter()

    def proposals(policy, step, count, purpose):
        asked[purpose] += count
        name = purpose.split()[1][-1]
        return [proposal(f"x+{name}{number}<in>3", 0.0) for number in range(count)]

    def solve(policy, questions, step, purpose):
        asked[purpose] += len(questions)
        right = policy is played.students["student1"]
        sampled = SampledCompletion(np.array([1, 2]), np.zeros(2, np.float32), "eos")
        return [[(sampled, "4", Verdict.binary(right)), (sampled, "5", Verdict.binary(False, "wrong"))] for _ in questions]

    monkeypatch.setattr(played.tasks, "propose", proposals)
    monkeypatch.setattr(played.tasks, "seed", lambda policy: None)
    monkeypatch.setattr(played.tasks, "validate", lambda proposals, step: None)
    monkeypatch.setattr(played.tasks, "solve", solve)
    play = played.play(1)
    assert {purpose.split()[1] for purpose in asked} == {"teacher1", "teacher2", "student1", "student2"}
    met = {turn.player: turn.row["student"] for turn in play.turns if turn.role == "proposer"}
    assert sorted(met.values()) == ["student1", "student2"]
    for turn in play.turns:
        if turn.role == "proposer":  # 1 - p, and nothing where nobody solves the task
            assert turn.reward == (0.5 if turn.row["student"] == "student1" else 0.0)
    paid = {turn.player: set() for turn in play.turns if turn.role == "solver"}
    for turn in play.turns:
        if turn.role == "solver":
            paid[turn.player].add(turn.reward)
    assert paid == {"student1": {1.0, -0.5}, "student2": {-0.5}}
    # each student has the tasks of its teacher and of the other's none
    for turn in play.turns:
        if turn.role == "solver" and turn.row["problem"].startswith("proposal 1."):
            teacher = next(name for name, student in met.items() if student == turn.player)
            assert f"x+{teacher[-1]}" in turn.prompt
    # ratings follow the surprise: student1 solved half of what was expected to be half, student2 nothing
    assert played.ratings["student"]["student2"].mu < 25 < played.ratings["teacher"][next(t for t, s in met.items() if s == "student2")].mu


def test_students_are_given_tasks_of_the_buffer_for_those_that_are_not_valid(game) -> None:
    played = game(task_types=("deduction",))
    kept = [proposal(f"x+{number}<in>3", 0.0).entry for number in range(10, 20)]
    played.tasks.buffer.extend(kept)
    matches = [
        Match("teacher1", "student2", [proposal("x*2<in>3", 0.5), proposal("bad", None)]),
        Match("teacher2", "student1", [proposal("bad", None), proposal("bad", None)]),
    ]
    entries = [each.entry for match in matches for each in match.proposals if each.entry]
    assigned = played.assign(matches, entries, 1)
    assert {name: len(own) for name, own in assigned.items()} == {"student1": 2, "student2": 2}
    assert assigned["student2"][0] is entries[0]
    assert len({id(entry) for own in assigned.values() for entry in own}) == 4  # none twice


def test_a_teacher_with_two_matches_splits_its_tasks(game, monkeypatch) -> None:
    played = game(teachers=1, students=2, task_types=("deduction",))
    texts = [f"x+{number}<in>3" for number in range(4)]
    monkeypatch.setattr(played.tasks, "propose", lambda policy, step, count, purpose: [proposal(text, 0.0) for text in texts[:count]])
    matches = played.propose(1, [("teacher1", "student1"), ("teacher1", "student2")])
    assert [[each.text for each in match.proposals] for match in matches] == [texts[:2], texts[2:]]


def test_a_match_without_a_valid_task_leaves_ratings_alone(game) -> None:
    played = game()
    before = {role: dict(of) for role, of in played.ratings.items()}
    metrics = played.rate([Match("teacher1", "student1", [proposal("bad", None)])])
    assert played.ratings == before
    assert set(metrics) == {"match/evenness"}
    assert metrics["match/evenness"] == pytest.approx(0.25)


def test_evolution_replaces_the_lowest_rated_by_a_child_of_the_best(game) -> None:
    played = game(students=4, teachers=4, evolve_every=2, operators=("layer-swap",))
    assert played.config.replaced(4) == 1
    for number, name in enumerate(played.students):
        with torch.no_grad():
            for value in played.adapters[name].masters.values():
                value.fill_(number + 1.0)
    played.ratings["student"] = {f"student{number}": Rating(20.0 + number, 1.0) for number in (1, 2, 3, 4)}
    optimizer = played.players["student1"].optimizer
    for value in played.adapters["student1"].masters.values():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    assert optimizer.state
    other = {name: value.clone() for name, value in played.adapters["student2"].masters.items()}
    played.after_update(1)
    assert len(played.lineage) == 8  # not due
    played.after_update(4)
    assert len(played.lineage) == 8  # it is the last step, after which a child would not be trained
    played.after_update(2)
    assert [row["player"] for row in played.lineage[8:]] == ["teacher4", "student1"]  # teachers are equal: the last of them
    row = played.lineage[-1]
    assert row["parents"] == ["student4.0", "student3.0"]
    assert (row["step"], row["child"], row["operator"], row["replaces"]) == (2, "student1.1", "layer-swap", "student1.0")
    assert set(row["ratings"]) == {f"student{number}.0" for number in (1, 2, 3, 4)}
    values = {float(value.flatten()[0]) for value in played.adapters["student1"].masters.values()}
    assert values <= {3.0, 4.0}
    assert not optimizer.state
    assert played.ratings["student"]["student1"] == Rating(mu=23.5)  # its parents' mean, and as unsure as a new player
    assert all(torch.equal(value, other[name]) for name, value in played.adapters["student2"].masters.items())
    assert played.living["student1"] == "student1.1"


def test_crossovers_are_drawn_only_where_two_parents_are_kept() -> None:
    settings = PopuLoRAConfig()
    assert settings.applicable(2) == MUTATIONS
    assert settings.applicable(4) == settings.operators
    assert settings.applicable(3) == settings.operators
    assert set(settings.operators) == set(OPERATORS)
    assert set(MUTATIONS) == {name for name, operator in OPERATORS.items() if operator.parents == 1}
    assert PopuLoRAConfig(evolved_share=0.9).replaced(4) == 3


def test_the_best_student_by_validation_is_graded(game) -> None:
    played = game()
    scores = {id(played.students["student1"]): 0.3, id(played.students["student2"]): 0.4}
    played.choose_graded(lambda student: scores[id(student)])
    assert played.graded == "student2"
    kept = json.loads(json.dumps(played.state()))
    played.choose_graded(lambda student: 0.5)
    assert played.graded == "student1"
    played.load(kept)
    assert played.graded == "student2"


def test_players_share_what_is_frozen(game) -> None:
    played = game()
    assert {id(adapter.base) for adapter in played.adapters.values()} == {id(next(iter(played.adapters.values())).base)}
    names = {name for adapter in played.adapters.values() for name in adapter.masters}
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert played.base is next(iter(played.adapters.values())).base.policy


def test_adapters_begin_different_but_as_the_base(game) -> None:
    played = game()
    starts = [torch.cat([value.flatten() for value in adapter.masters.values()]) for adapter in played.adapters.values()]
    assert len({tuple(start.tolist()) for start in starts}) == 4
    for adapter in played.adapters.values():
        weights = played.base.effective()
        assert all(torch.equal(value, weights[name]) for name, value in adapter.effective().items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"teachers": 0}, "--teachers 0: must be at least 1; --population one"),
        ({"students": 3}, "--prompts-per-step 4: must be a multiple of 3"),
        ({"lora_rank": 0}, "--lora-rank 0: must be at least 1"),
        ({"lora_rank": 10_000}, "--lora-rank 10000: is larger than a side of"),
        ({"master_dtype": "bfloat16"}, "--master-dtype bfloat16: LoRA needs float32"),
        ({"evolved_share": 1.0}, "--evolved-share 1: is a share"),
        ({"operators": ("dare",)}, "--operators dare: of 2 students one is kept"),
        ({"operators": ("mutate",)}, "--operators mutate: unknown; there are svd-noise"),
        ({"population": "one", "proposer": "snapshot"}, "--population one --proposer snapshot"),
    ],
)
def test_bad_settings_are_refused_in_a_line(more: dict, message: str, base: Path) -> None:
    settings = config(base, **more)

    def make() -> None:
        check(settings)
        PopuLoRA(settings, policy.load(str(base), None, settings.master_dtype, "float32"), tasks.source("code", plain=False))

    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_another_population_size_does_not_resume(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("trueskillthroughtime")
    loop.run("populora", config(base, steps=1), tmp_path / "run")
    with pytest.raises(InputError, match="was started with students = 2, not 1"):
        loop.run("populora", config(base, steps=1, students=1), tmp_path / "run", resume=True)


def test_a_missing_package_is_told_before_anything_is_loaded(base: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trueskillthroughtime", None)
    with pytest.raises(InputError, match="rating players"):
        loop.run("populora", config(base), tmp_path / "run")
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.json*"))
    check(config(base, population="one"))


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="evolved"),
        pytest.param({"proposer": "snapshot", "pairing": "uniform", "kl_coef": 0.1}, id="snapshot", marks=pytest.mark.slow),
        pytest.param({"population": "one"}, id="one"),
        pytest.param({"proposer": "frozen", "evolve_every": 0}, id="frozen", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_to_the_same_bits(more: dict, base: Path, tmp_path: Path) -> None:
    if more.get("population") != "one":
        pytest.importorskip("trueskillthroughtime")
    settings = config(base, save_every=2, **more)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    loop.run("populora", settings, straight)

    def kill(step: int, _: dict) -> None:
        if step == 3:
            raise KeyboardInterrupt  # before its state is saved

    with pytest.raises(KeyboardInterrupt):
        loop.run("populora", settings, killed, on_step=kill)
    loop.run("populora", settings, killed, resume=True)
    assert contents(straight) == contents(killed)
    rows = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert any(row["tokens_with_gradient"] for row in rows)
    lineage = straight / LINEAGE
    if not more:
        born = [json.loads(line) for line in lineage.read_text().splitlines()]
        assert Counter(row["step"] for row in born) == {0: 4, 1: 2, 2: 2, 3: 2}
        assert json.loads((straight / "run.json").read_text())["graded"] in ("student1", "student2")
    assert lineage.exists() == (more.get("population") != "one")


def run_with(lineage: list[dict], folder: Path) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"schema": SCHEMA, "config": {"steps": 30}}))
    (folder / LINEAGE).write_text("".join(json.dumps(row) + "\n" for row in lineage))
    return folder


BORN = [
    {"step": 0, "child": "student1.0", "player": "student1", "parents": [], "operator": None},
    {"step": 0, "child": "student2.0", "player": "student2", "parents": [], "operator": None},
    {"step": 10, "child": "student1.1", "player": "student1", "parents": ["student2.0"], "operator": "dare", "replaces": "student1.0"},
    {"step": 20, "child": "student2.1", "player": "student2", "parents": ["student1.1"], "operator": "dare", "replaces": "student2.0"},
]


def test_a_lineage_says_how_long_adapters_lived_and_from_whom_they_descend(tmp_path: Path) -> None:
    found = of_run(run_with(BORN, tmp_path / "run"))
    lives = {adapter.name: (adapter.born, adapter.died, adapter.living) for adapter in found.adapters}
    assert lives["student1.0"] == (0, 10, False)
    assert lives["student2.0"] == (0, 20, False)
    assert lives["student1.1"] == (10, 30, True)
    assert found.founder("student2.1") == "student2.0"
    assert lines(found) == [
        "4 adapters in 30 steps, 2 living at the end",
        "student1.1: dare of student2.0 after step 10",
        "student2.1: dare of student1.1 after step 20, before it dare of student2.0 after step 10",
    ]


def test_a_tree_has_a_life_a_birth_and_a_branch_for_each_child(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from dynamics.train.lineage.plot import figure

    (ax,) = figure(of_run(run_with(BORN, tmp_path / "run"))).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["student1", "student2"]
    lives = [line for line in ax.lines if line.get_linewidth() == 3]
    assert sorted(tuple(map(float, line.get_xdata())) for line in lives) == [(0, 10), (0, 20), (10, 30), (20, 30)]
    assert len({line.get_color() for line in lives}) == 2  # of two adapters of the start


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([BORN[2]], "is damaged"),
        ([BORN[0], BORN[0]], "is damaged"),
        ([{"step": 0}], "is damaged"),
        ([], "has no lineage.jsonl"),
    ],
)
def test_a_lineage_that_cannot_be_is_refused(rows: list[dict], message: str, tmp_path: Path) -> None:
    run = run_with(rows, tmp_path / "run")
    if not rows:
        (run / LINEAGE).unlink()
    with pytest.raises(InputError, match=message):
        of_run(run)


def test_a_lineage_is_listed_and_drawn_by_a_command(tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    run = run_with(BORN, tmp_path / "run")
    command.main([str(run), "--figure", str(tmp_path / "tree.svg")])
    assert "2 living at the end" in capsys.readouterr().out
    assert (tmp_path / "tree.svg").read_text().startswith("<?xml")
