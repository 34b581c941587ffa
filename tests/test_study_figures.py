"""Figures of the comparison as they look: their structure, and three of them against images that were looked at."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave

from analyses import analysis, entropy_dynamics, pass_at_k, proposer_variants, runs, update_sparsity, variance
from analyses.verdicts import with_intervals
from dynamics.presentation import methods, style
from dynamics.sparsity.definitions import RULES

IMAGES = Path(__file__).parent / "data" / "figures"
#: pixels of an image that are averaged before it is compared, so that the edges of letters do not count
BLOCK = 6


def pass_at_k_table(crosses: bool = True, seeds: int = 3) -> pd.DataFrame:
    """Curves of a base and of two methods on two sets; self-play crosses the base."""
    rows = []
    for split, level in (("test", 0.3), ("deeper", 0.2)):
        for name, gain in (("base, T=1", 0.0), ("rlvr", 0.15), ("selfplay", 0.08)):
            for number, k in enumerate((1, 2, 4, 8, 16)):
                base, ahead = level + 0.12 * number, gain - 0.04 * number * (name != "base, T=1")
                about = {"split": split, "name": name, "k": k, "problems": 180, "seeds": seeds, "interval": pass_at_k.CROSSED}
                rows.append(about | {"kind": "pass@k", "value": base + ahead, "low": base + ahead - 0.05, "high": base + ahead + 0.05})
                if name != "base, T=1":
                    half = 0.03 if crosses else 0.2
                    ends = {"value": ahead, "low": ahead - half, "high": ahead + half}
                    rows.append(about | {"kind": "difference", "against": "base, T=1"} | ends)
        for name in ("rlvr", "selfplay"):
            ends = {"value": -0.02, "low": -0.1, "high": 0.06, "k": 1, "against": "base, greedy", "interval": pass_at_k.CROSSED}
            rows.append({"split": split, "name": f"{name}, greedy", "kind": "difference", "problems": 180, "seeds": seeds} | ends)
            rows.append({"split": split, "name": name, "kind": "crossing", "against": "base, T=1", "k": 16, "value": 4.0})
    return pd.DataFrame(rows)


def sparsity_table() -> pd.DataFrame:
    """Sparsity of three methods at one rate, three seeds."""
    levels = {"sft": 0.06, "rlvr": 0.09, "selfplay": 0.08}
    rows = [
        {"part": "total", "label": method, "method": method, "learning_rate": 3e-4, "seed": seed, "rule": rule, "dtype": "float32"}
        | {"value": level + 0.002 * seed * (1 + number), "relative_update": 0.1}
        for number, (method, level) in enumerate(levels.items())
        for seed in range(3)
        for rule in RULES
    ]
    table = pd.DataFrame(rows)
    known = table[table["method"] == "sft"].set_index(["seed", "rule"])["value"]
    others = table[table["method"] != "sft"].join(known.rename("known"), on=["seed", "rule"])
    others = others.assign(part="difference", value=others["value"] - others["known"]).drop(columns="known")
    steps = [others[others["rule"] == "bf16"].assign(part="step difference", step=step) for step in (10, 20, 30)]
    steps = [with_intervals(own, ["label"]) for own in steps]
    return pd.concat([with_intervals(table, ["label", "rule"]), with_intervals(others, ["label", "rule"]), *steps], ignore_index=True)


def variance_table() -> pd.DataFrame:
    """A grid of two factors in which the learning rate moves most."""
    rows = []
    for outcome, scale in (("sparsity", 1.0), ("pass@1", 0.1)):
        cells = itertools.product(range(3), (("3e-06", 0.5), ("0.0003", 0.0)), (("sft", 0.0), ("rlvr", 0.1)))
        for seed, (rate, low), (method, more) in cells:
            cell = dict.fromkeys(variance.FACTORS, variance.USUAL) | {"learning_rate": rate, "method": method}
            rows.append(
                cell | {"outcome": outcome, "seed": seed, "value": scale * (low + more + 0.01 * math.sin(7 * seed + len(rate + method)))}
            )
    measured = pd.DataFrame(rows)
    parts = [measured.assign(part="run")]
    parts += [pd.DataFrame(variance.explain(own)).assign(outcome=outcome) for outcome, own in measured.groupby("outcome", sort=False)]
    return pd.concat(parts, ignore_index=True).reindex(columns=variance.COLUMNS)


TABLES = {pass_at_k: pass_at_k_table, update_sparsity: sparsity_table, variance: variance_table}


def drawn(module: analysis.Analysis, table: pd.DataFrame) -> Figure:
    with style.use_style():
        figure = module.figure(table)
        analysis.entitle(figure, module.headline(table), "3 seeds, one base")
        figure.canvas.draw()
    return figure


@pytest.mark.parametrize("module", TABLES, ids=analysis.name_of)
def test_a_figure_looks_as_it_did_when_it_was_looked_at(module: analysis.Analysis, tmp_path: Path) -> None:
    image = IMAGES / f"{analysis.name_of(module)}.png"
    with style.use_style():
        made = style.save(drawn(module, TABLES[module]()), tmp_path / "made.png", dpi=60)
    now = imread(made)[..., :3].mean(axis=-1)
    if os.environ.get("DYNAMICS_RECORD_GOLDEN"):
        image.parent.mkdir(exist_ok=True)
        imsave(image, now, cmap="gray", vmin=0, vmax=1)
    before = imread(image)[..., :3].mean(axis=-1)
    assert now.shape == before.shape
    apart = np.abs(averaged(now) - averaged(before))
    assert apart.mean() < 0.01
    assert (apart > 0.2).mean() < 0.01


def averaged(image: np.ndarray) -> np.ndarray:
    """Average the blocks of an image."""
    height, width = (size // BLOCK * BLOCK for size in image.shape)
    return image[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).mean(axis=(1, 3))


@pytest.mark.parametrize("module", TABLES, ids=analysis.name_of)
def test_no_panel_is_empty_and_the_title_says_of_how_many_seeds(module: analysis.Analysis) -> None:
    figure = drawn(module, TABLES[module]())
    assert all(ax.has_data() for ax in figure.axes)
    title = figure.get_suptitle()
    assert "(3 seeds, one base)" in title.replace("\n", " ")
    assert len(title) > 40
    assert max(map(len, title.split("\n"))) <= analysis.TITLE_DENSITY * figure.get_figwidth()


def test_panels_that_are_compared_share_their_scale() -> None:
    figure = drawn(pass_at_k, pass_at_k_table())
    top, bottom = figure.axes[:2], figure.axes[2:4]
    for row in (top, bottom):
        assert len({ax.get_ylim() for ax in row}) == 1
    assert top[0].get_ylim()[0] == 0
    assert top[0].get_ylim()[1] >= 0.3 + 0.48 + 0.05  # the highest band is inside
    assert pass_at_k.headline(pass_at_k_table()).endswith("ahead by 0.08 at k = 1 and behind by 0.08 at k = 16")


@pytest.mark.parametrize(("crosses", "rings"), [(True, 2), (False, 0)])
def test_a_crossing_is_marked_only_if_the_lead_is_told(crosses: bool, rings: int) -> None:
    table = pass_at_k_table(crosses)
    figure = drawn(pass_at_k, table)
    found = [line for line in figure.axes[2].lines if line.get_markersize() == 9]
    assert len(found) == rings
    assert ("k*, crossing" in [text.get_text() for text in figure.legends[0].get_texts()]) == bool(rings)
    assert ("none." in pass_at_k.caption(table)) == (not rings)


def test_an_interval_that_goes_on_beyond_the_axis_has_an_arrowhead() -> None:
    rows = [
        {"label": label, "seed": seed, "quantity": "gain", "value": value + 0.01 * seed, "low": value - width, "high": value + width}
        for label, value, width in (("selfplay", 0.1, 0.02), ("selfplay, frozen proposer", 0.12, 5.0))
        for seed in range(2)
    ]
    (ax,) = drawn(proposer_variants, pd.DataFrame(rows)).axes
    marks = [(line.get_marker(), line.get_xdata()[0]) for line in ax.lines if line.get_marker() in ("<", ">")]
    assert marks == [("<", ax.get_xlim()[0]), (">", ax.get_xlim()[1])]


def test_entropy_has_panels_of_what_was_recorded_and_whole_steps() -> None:
    rows = [
        {"label": "grpo", "seed": 0, "quantity": "entropy", "step": step, "value": 0.5 - 0.01 * step, "first": 0.5, "last": 0.4}
        for step in range(1, 5)
    ]
    figure = drawn(entropy_dynamics, pd.DataFrame(rows))
    (ax,) = figure.axes
    assert ax.get_title(loc="left") == "own data"
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    assert "Left out: fixed problems" in entropy_dynamics.caption(pd.DataFrame(rows))


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_curve_of_one_point_is_seen(seeds: int) -> None:
    rows = [
        {"label": label, "seed": seed, "quantity": quantity, "step": step, "value": 0.5, "first": math.nan, "last": math.nan}
        for label in ("rlvr", "selfplay")
        for seed in range(seeds)
        for quantity in ("entropy", "probe/solver/entropy", "probe/solver/nll_sampled")
        for step in range(1, 2 if quantity.startswith("probe") else 4)
    ]
    own, fixed = drawn(entropy_dynamics, pd.DataFrame(rows)).axes
    assert fixed.get_title(loc="left") == "fixed problems"
    assert len(fixed.lines) == 2 * ((seeds if seeds > 1 else 0) + 2)  # of each method: seeds, their mean, -log p
    assert all(line.get_marker() != "None" for line in fixed.lines)
    assert all(line.get_marker() == "None" for line in own.lines)


def test_a_line_of_one_point_has_a_marker_and_a_bar() -> None:
    with style.use_style():
        ax = style.new_figure(3, 3).subplots()
        methods.line(pd.DataFrame({"at": [1], "value": [0.5], "low": [0.4], "high": [0.6]}), "at", "solver", ax, marker="")
    assert [line.get_marker() for line in ax.lines] == ["o"]
    assert len(ax.collections) == 2  # the band, which has no width, and the bar


def test_the_title_says_what_the_runs_are_a_sample_of() -> None:
    def sampled(*bases: str | None) -> str:
        documents = [{"method": "sft", "seed": seed, "checksums": {"base": base} if base else {}} for seed, base in enumerate(bases)]
        return analysis.sampled([runs.Run(Path("run"), document) for document in documents], pd.DataFrame())

    assert sampled("a") == "one seed"
    assert sampled("a", "a") == "2 seeds, one base"
    assert sampled("a", "b", "c") == "3 seeds, each with its own base"
    assert sampled("a", None) == "2 seeds"
    assert sampled("a", "b", "a") == "3 seeds"
    grid = [
        runs.Run(Path("run"), {"seed": seed, "master_dtype": dtype, "checksums": {"base": f"{seed} in {dtype}"}})
        for seed in (0, 1)
        for dtype in ("float32", "bfloat16")
    ]
    assert analysis.sampled(grid, pd.DataFrame()) == "2 seeds, each with its own base"  # rounded to the dtype of the masters
