"""Claims fixed before the runs: what is refused, how samples become rows, and the table."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import claims, statistics
from analyses.claims import MOST_CLAIMS, MOST_ROWS, NOT_MEASURED, Claim, Conjunct, Family, Graded, judge
from analyses.verdicts import FAILS, HOLDS, OPEN
from dynamics import InputError

GAIN = Conjunct("pass@1", "rlvr, T=1", "base, greedy", "test", 1)


def graded(gain: float = 0.3, seeds: int = 3, programs: int = 40) -> pd.DataFrame:
    """Samples of a base, and of a model that solves more; each program is in two problems."""
    rng = np.random.default_rng(0)
    rows = []
    for name, level, samples in (("base, greedy", 0.3, 1), ("rlvr, T=1", 0.3 + gain, 8)):
        for seed in range(seeds):
            for problem in range(2 * programs):
                correct = rng.random(samples) < level
                shared = {"name": name, "seed": seed, "split": "test", "problem": f"p{problem}", "program": f"program {problem // 2}"}
                rows += [shared | {"correct": bool(one), "length": 10 + 2 * seed + problem % 3 - 4 * (level > 0.3)} for one in correct]
    return pd.DataFrame(rows)


def one(conjunct: Conjunct) -> Family:
    return Family((Claim("a claim", (conjunct,)),))


def line(conjunct: Conjunct, samples: pd.DataFrame) -> dict:
    return claims.table(judge(one(conjunct), Graded(samples))).iloc[0].to_dict()


def test_a_claim_is_judged_from_samples() -> None:
    row = line(GAIN, graded())
    means = graded().groupby("name")["correct"].mean()
    assert row["effect"] == pytest.approx(means["rlvr, T=1"] - means["base, greedy"])
    assert (row["verdict"], row["claim_verdict"]) == (HOLDS, HOLDS)
    assert (row["problems"], row["programs"], row["effective"], row["seeds"]) == (80, 40, 40, 3)
    assert row["low"] > 0
    assert row["p"] == row["p_holm"] < 0.05
    assert line(replace(GAIN, direction=-1), graded())["verdict"] == FAILS
    assert line(GAIN, graded(gain=0.02))["verdict"] == OPEN


def test_other_columns_are_averaged_too() -> None:
    row = line(Conjunct("length", "rlvr, T=1", "base, greedy", "test", -1), graded())
    assert (row["effect"], row["verdict"]) == (pytest.approx(-4), HOLDS)


def test_the_same_needs_a_margin_and_is_not_the_opposite_of_different() -> None:
    def same(margin: float, gain: float) -> str:
        return line(replace(GAIN, direction=0, margin=margin), graded(gain))["verdict"]

    assert [same(0.5, 0.02), same(0.03, 0.02), same(0.02, 0.5), same(0.9, 0.5)] == [HOLDS, OPEN, FAILS, HOLDS]
    row = line(replace(GAIN, direction=0, margin=0.5), graded(0.02))
    assert row["interval"].startswith("90%")


def test_a_claim_holds_with_all_its_conjuncts() -> None:
    samples = pd.concat([graded(), graded(gain=0.0).assign(split="deeper"), graded(gain=-0.29).assign(split="transfer")])
    deeper, transfer = replace(GAIN, problems="deeper"), replace(GAIN, problems="transfer")
    judged = judge(Family((Claim("alone", (GAIN,)), Claim("open", (deeper,)), Claim("no", (transfer,)))), Graded(samples))
    assert claims.claim_verdicts(judged) == {"alone": HOLDS, "open": OPEN, "no": FAILS}
    family = Family((Claim("both", (GAIN, deeper)), Claim("one fails", (transfer, replace(deeper, direction=-1)))))
    assert claims.claim_verdicts(judge(family, Graded(samples))) == {"both": OPEN, "one fails": FAILS}


def test_what_was_not_measured_is_named_and_counts_as_a_row() -> None:
    deeper = replace(GAIN, problems="deeper")
    rows = claims.table(judge(Family((Claim("measured", (GAIN,)), Claim("missing", (deeper,)))), Graded(graded())))
    assert list(rows["verdict"]) == [HOLDS, NOT_MEASURED]
    assert rows["reason"][1] == "no samples of rlvr, T=1 on deeper"
    assert rows["claim_verdict"][1] == OPEN
    assert rows["p_holm"][0] == pytest.approx(2 * rows["p"][0])
    assert "no samples of rlvr, T=1 on deeper" in claims.markdown(rows)
    table = claims.table(judge(one(deeper), Graded(graded())))
    assert list(table.columns) == list(rows.columns)


def test_one_seed_gives_no_verdict() -> None:
    row = line(GAIN, graded(seeds=1))
    assert (row["verdict"], row["interval"]) == (OPEN, "none")
    assert math.isnan(row["low"])
    assert "one seed" in row["reason"]
    assert "no interval" in claims.markdown(pd.DataFrame([row]))


def test_open_rows_say_how_many_seeds_a_verdict_would_take() -> None:
    row = line(GAIN, graded(gain=0.08))
    assert row["verdict"] == OPEN
    assert row["seeds_needed"] > 3
    assert row["detectable"] > abs(row["effect"])
    assert line(GAIN, graded())["seeds_needed"] <= 3
    nothing = row | {"seeds_needed": math.inf}
    assert "more programs" in claims.markdown(pd.DataFrame([nothing]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="program"), "the samples have no program"),
        (lambda rows: rows.assign(program=None), "names no program"),
        (lambda rows: rows.assign(program=rows["program"] + rows["name"]), "has several programs"),
    ],
)
def test_samples_that_do_not_tell_their_programs_are_refused(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Graded(change(graded()))


@pytest.mark.parametrize(
    ("conjunct", "change", "reason"),
    [
        (GAIN, lambda rows: rows[(rows["name"] != "rlvr, T=1") | (rows["seed"] < 2)], "the seeds differ: 0, 1 and 0, 1, 2"),
        (
            GAIN,
            lambda rows: rows[(rows["name"] != "rlvr, T=1") | (rows["problem"] != "p5")],
            "the problems differ: 1 are of one model only, such",
        ),
        (GAIN, lambda rows: rows[(rows["seed"] != 1) | (rows["problem"] != "p5")], "seed 1 has none for p5, another seed does"),
        (replace(GAIN, measured="pass@4"), lambda rows: rows, "pass@4 of base, greedy on test: a problem has only 1 samples"),
        (replace(GAIN, measured="steps"), lambda rows: rows, "steps: is no pass@K and no column of the samples"),
    ],
)
def test_what_cannot_be_paired_is_not_measured(conjunct: Conjunct, change, reason: str) -> None:
    row = line(conjunct, change(graded()))
    assert row["verdict"] == NOT_MEASURED
    assert reason in row["reason"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": 2}, "the direction is 1"),
        ({"direction": 0}, "a margin above 0 belongs to direction 0"),
        ({"margin": 0.1}, "a margin above 0 belongs to direction 0"),
        ({"direction": 0, "margin": math.inf}, "a margin"),
        ({"control": "rlvr, T=1"}, "with itself"),
        ({"measured": "pass@0"}, "no pass@K"),
        ({"measured": "pass@x"}, "no pass@K"),
    ],
)
def test_contrasts_that_no_test_belongs_to_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(GAIN, **change)


def test_a_family_is_small_and_names_everything_once() -> None:
    rows = [replace(GAIN, problems=f"set {number}") for number in range(MOST_ROWS + 1)]
    Family((Claim("all", tuple(rows[:-1])),))
    for refused in ((Claim("all", tuple(rows)),), tuple(Claim(str(number), (rows[number],)) for number in range(MOST_CLAIMS + 1)), ()):
        with pytest.raises(InputError, match="choose the primary ones"):
            Family(refused)
    for twice in ((Claim("a", (rows[0],)), Claim("a", (rows[1],))), (Claim("a", (rows[0],)), Claim("b", (rows[0],)))):
        with pytest.raises(InputError, match="name each once"):
            Family(twice)
    with pytest.raises(InputError, match="at least one conjunct"):
        Claim("empty", ())


def test_claims_that_were_changed_after_they_were_fixed_are_refused(tmp_path: Path) -> None:
    file, family = tmp_path / "claims.json", one(GAIN)
    family.fix(file)
    before = file.read_bytes()
    family.fix(file)
    assert file.read_bytes() == before
    with pytest.raises(InputError, match=f"these are {one(replace(GAIN, direction=-1)).digest}: they were changed"):
        one(replace(GAIN, direction=-1)).fix(file)
    for damaged in ("", "[]", "{}"):
        file.write_text(damaged)
        with pytest.raises(InputError, match="is no file of claims"):
            family.fix(file)


def lies_between(model: list[float], control: list[float], other: list[float]) -> dict:
    """The row of a claim that a model lies between two others, each with one number for each seed."""

    class Numbers:
        def scores(self, measured: str, name: str, problems: str) -> claims.Scores:
            values = np.array({"model": model, "control": control, "other": other}[name])[:, None]
            return claims.Scores(values, tuple(range(len(values))), ("of each seed",), np.zeros(1, int), False, 1)

    family = one(Conjunct("sparsity", "model", "control", "weights", 1, other="other"))
    return claims.table(judge(family, Numbers())).to_dict("records")[0]


NEAR, MIDDLE, FAR = [0.1, 0.11, 0.12, 0.1], [0.5, 0.52, 0.51, 0.52], [0.9, 0.9, 0.93, 0.91]


def test_a_model_lies_between_two_others_if_it_is_told_from_both_whichever_has_more() -> None:
    for ends in ((NEAR, FAR), (FAR, NEAR)):
        row = lies_between(MIDDLE, *ends)
        assert (row["verdict"], row["effect"]) == (HOLDS, pytest.approx(0.3975))
        assert row["contrast"] == "sparsity, model between control and other: distance to the nearer"
        for model, other in ((NEAR, MIDDLE), (FAR, MIDDLE)):
            outside = lies_between(model, other, FAR if model is NEAR else NEAR)
            assert (outside["verdict"], outside["effect"] < 0) == (FAILS, True)
    at_an_end = lies_between([0.1, 0.115, 0.115, 0.1], NEAR, FAR)
    assert at_an_end["verdict"] == OPEN


def test_it_is_judged_by_the_less_certain_side_and_outside_counts_twice() -> None:
    unsure = [0.2, 0.6, 0.1, 0.5]
    row = lies_between(unsure, NEAR, FAR)
    below, above = (line_of(unsure, NEAR), line_of(FAR, unsure))
    assert row["p"] == pytest.approx(max(below, above))
    outside = lies_between(NEAR, MIDDLE, FAR)
    assert outside["p"] == pytest.approx(2 * line_of(NEAR, MIDDLE))


def line_of(first: list[float], second: list[float]) -> float:
    """P-value of a difference."""
    return float(statistics.effect_of_seeds(np.subtract(first, second)).p())


def test_nothing_lies_between_ends_that_are_not_told_apart() -> None:
    row = lies_between(MIDDLE, NEAR, [0.09, 0.12, 0.11, 0.11])
    assert (row["verdict"], row["p"]) == (OPEN, 1.0)
    assert row["reason"] == "not judged: control and other are not told apart, and nothing lies between them"
    assert row["reason"] in claims.markdown(pd.DataFrame([row]))
    alone = lies_between([0.5], [0.1], [0.9])
    assert (alone["verdict"], alone["interval"]) == (OPEN, "none")


def test_between_needs_a_direction_and_three_models() -> None:
    with pytest.raises(InputError, match="three different models"):
        replace(GAIN, other="base, greedy")
    with pytest.raises(InputError, match="direction 1"):
        replace(GAIN, direction=-1, other="sft")
    assert "other" not in one(GAIN).to_dict()["claims"][0]["conjuncts"][0]  # digests of earlier claims stay
