"""Which factor explains how much of the variance between runs, on constructed numbers and on recorded runs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import runs, variance
from dynamics import InputError
from dynamics.presentation import style

#: levels of the crossed factors, each with what it adds
LEVELS: dict[str, dict[str, float]] = {
    "learning_rate": {"3e-06": 0.6, "3e-05": 0.3, "0.0003": 0.0},
    "masters": {"float32": 0.0, "bfloat16": 0.2},
    "method": {"sft": 0.0, "rlvr": 0.04, "selfplay": 0.02},
}


def cells(seeds: int = 1, noise: float = 0.0, interaction: float = 0.0, **more: str) -> pd.DataFrame:
    """Runs of a complete grid: sums of what their levels add, and noise."""
    rng = np.random.default_rng(0)
    rows = []
    for seed, levels in itertools.product(range(seeds), itertools.product(*LEVELS.values())):
        names = dict(zip(LEVELS, levels, strict=True))
        both = interaction * (names["masters"] == "bfloat16") * (names["learning_rate"] == "3e-06")
        value = sum(LEVELS[name][level] for name, level in names.items()) + both + 0.1 * seed + rng.normal(0, noise)
        rows.append(dict.fromkeys(variance.FACTORS, variance.USUAL) | names | more | {"seed": seed, "value": value})
    return pd.DataFrame(rows)


def factors(table: pd.DataFrame) -> dict[str, dict]:
    return {row["factor"]: row for row in variance.explain(table) if row["part"] == "factor"}


def spread(name: str) -> float:
    return float(np.std(list(LEVELS[name].values())))


def test_a_sum_is_decomposed_exactly() -> None:
    found = factors(cells())
    assert list(found) == list(LEVELS)
    total = sum(spread(name) ** 2 for name in LEVELS)
    for name, row in found.items():
        assert row["value"] == pytest.approx(spread(name))
        assert (row["share"], row["main"]) == pytest.approx([spread(name) ** 2 / total] * 2)
        assert math.isnan(row["expected"])  # one seed
    assert (found["method"]["families"], found["method"]["levels"]) == (6, 3)


def test_interactions_count_for_every_factor_that_takes_part() -> None:
    found = factors(cells(interaction=0.3))
    shares = {name: (row["share"], row["main"]) for name, row in found.items()}
    assert sum(main for _, main in shares.values()) < 1 < sum(share for share, _ in shares.values())
    assert shares["method"][0] == pytest.approx(shares["method"][1])
    assert shares["masters"][0] > shares["masters"][1] + 0.01


def test_what_seeds_alone_give_is_subtracted_and_their_levels_do_not_count() -> None:
    rng = np.random.default_rng(1)
    table = cells(seeds=5, noise=0.05)
    found = factors(table)
    assert found["method"]["expected"] == pytest.approx(0.05 * math.sqrt(2 / 3), rel=0.2)
    assert found["method"]["value"] < 0.03  # 0.016 in truth, and 0.04 with the noise
    assert found["learning_rate"]["value"] == pytest.approx(spread("learning_rate"), abs=0.01)
    nothing = table.assign(value=rng.normal(0, 0.05, len(table)))
    assert all(row["value"] < row["expected"] for row in factors(nothing).values())


def test_only_cells_that_differ_in_one_factor_are_compared() -> None:
    table = cells()
    odd = table[(table["learning_rate"] == "0.0003") & (table["masters"] == "float32") & (table["method"] == "rlvr")]
    more = pd.concat([table, odd.assign(pool="proposed", value=odd["value"] + 0.5), odd.assign(pool="x", estimator="y")])
    found = factors(more)
    assert (found["pool"]["families"], found["pool"]["levels"], found["pool"]["value"]) == (1, 2, pytest.approx(0.25))
    assert "estimator" not in found  # it was changed together with the pool
    assert math.isnan(found["pool"].get("share", math.nan))
    assert found["method"]["share"] == factors(table)["method"]["share"]
    families = [row for row in variance.explain(more) if row["part"] == "family" and row["factor"] == "pool"]
    assert families[0]["setting"] == "0.0003, float32, rlvr"


def test_without_a_complete_grid_there_are_no_shares() -> None:
    found = factors(cells().iloc[1:])
    assert all("share" not in row for row in found.values())
    assert found["learning_rate"]["families"] == 6  # those of two rates count too
    constant = factors(cells().assign(value=0.5))
    assert all(row["value"] == 0 and "share" not in row for row in constant.values())


def test_recorded_runs_are_arranged_in_cells(tmp_path: Path) -> None:
    folder = Path(__file__).parent / "data" / "runs"
    names = ("sft-0", "sft-slow-0", "sft-bf16-0", "rlvr-0", "selfplay-0", "selfplay-frozen-0")
    table = variance.measure(runs.find([folder / name for name in names]))
    rows = table[table["part"] == "factor"].set_index(["outcome", "factor"])
    assert {"learning_rate", "masters", "method", "proposer", "stored", "rule"} == set(rows.loc["sparsity"].index)
    assert set(rows.loc["entropy"].index) == {"method", "proposer"} | ({"learning_rate", "masters"} & set(rows.loc["entropy"].index))
    by_run = table[(table["part"] == "run") & (table["outcome"] == "sparsity") & (table["method"] == "sft")]
    pair = by_run[(by_run["masters"] == "float32") & (by_run["stored"] == "as trained") & (by_run["rule"] == "bf16")]["value"]
    families = table[(table["part"] == "family") & (table["outcome"] == "sparsity") & (table["factor"] == "learning_rate")]
    assert families.loc[families["setting"] == "float32, as trained, bf16, sft", "value"].item() == pytest.approx(np.std(pair))
    assert "not crossed completely" in variance.caption(table)
    assert "sparsity: " in variance.headline(table)
    with style.use_style():
        drawn = variance.figure(table)
    assert [ax.get_title(loc="left") for ax in drawn.axes] == [
        variance.OUTCOMES[name][0] for name in variance.OUTCOMES if name in rows.index
    ]
    with pytest.raises(InputError, match="differ in one of method"):
        variance.measure([])
