"""Presentation of results: notes on identical and partly shared checkpoints, short reprs, and dashes for missing numbers."""

from __future__ import annotations

import math
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from dynamics import overlap, passk, sparsity, spectra
from dynamics.descriptions import plural, small_table
from dynamics.entropy.traces import Trace
from dynamics.sparsity.plot import color_scale
from dynamics.spectra.comparison import changed_only, frame
from dynamics.spectra.notes import headline, notes


def state(update: float, seed: int = 0) -> dict[str, np.ndarray]:
    rng, noise = np.random.default_rng(0), np.random.default_rng(seed)
    shapes = {"model.layers.0.q_proj.weight": (12, 5), "model.layers.0.k_proj.weight": (9, 9)}
    return {name: (rng.normal(size=shape) + update * noise.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def test_identical_checkpoints_say_so() -> None:
    base = state(0.0)
    assert sparsity.compare(base, base).headline == "identical: 141 weights compared, none differs"
    assert sparsity.compare(base, state(1e-2, 1)).headline == ""
    assert overlap.compare(base, [base, state(1e-2, 1)], threads=1).headline == "identical to the base: 1"
    assert headline(*spectra.compare(base, base, k=2)) == "identical: 2 matrices measured, none differs"


def test_checkpoints_that_share_little_say_so() -> None:
    base, tuned = state(0.0), state(1e-2, 1)
    alone = {"other.weight": np.ones((141, 3), np.float32)}
    comparison = sparsity.compare(base | alone, tuned)
    assert comparison.coverage == {"base": 0.25, "tuned": 1.0}
    assert comparison.headline == "parameters were left out of the comparison: only 25.00 % of base compared"
    assert comparison.to_dict()["coverage"] == comparison.coverage
    both = overlap.compare(base, [tuned | alone, state(1e-2, 2)], threads=1)
    assert both.coverage["1"] == 0.25
    assert both.coverage["2"] == 1.0


def test_weights_that_count_elsewhere_are_not_missing() -> None:
    embedding = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    base = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": embedding.copy(),
        "model.rotary_emb.inv_freq": np.ones(400, np.float32),
    }
    comparison = sparsity.compare(base, {"model.embed_tokens.weight": embedding + 1})
    assert comparison.skipped
    assert comparison.headline == ""


@pytest.mark.parametrize("method", ["full", "approx"])
def test_a_subspace_as_large_as_the_space_has_no_angle(method: str) -> None:
    measured, _ = spectra.compare(state(0.0), state(1e-2, 1), k=9, method=method)
    tall, square = (next(s for s in measured if name in s.name) for name in ("q_proj", "k_proj"))
    assert tall.angle_left_max > 0
    for undefined in (tall.angle_right_max, tall.angle_right_mean, square.angle_left_max, square.angle_right_max):
        assert math.isnan(undefined)
    assert square.angles_left == ()
    assert "2 matrices of 2" in notes(measured)[0]
    assert notes(spectra.compare(state(0.0), state(1e-2, 1), k=2, method=method)[0]) == []


def test_a_matrix_that_did_not_change_is_a_row_of_dashes() -> None:
    tuned = state(0.0) | {"model.layers.0.k_proj.weight": state(1e-2, 1)["model.layers.0.k_proj.weight"]}
    measured, _ = spectra.compare(state(0.0), tuned, k=2)
    unchanged = next(spectrum for spectrum in measured if "q_proj" in spectrum.name)
    rows = changed_only(frame(measured)).set_index("name")
    assert rows.loc[unchanged.name, ["nss", "rank", "angle_left_max", "inside", "intruders"]].isna().all()
    assert "did not change" in repr(unchanged)
    assert notes(measured)[0].startswith("1 matrix of 2 did not change")


def test_norms_do_not_stretch_the_colours() -> None:
    grid = pd.DataFrame({"layer": ["a", "b", "a"], "module": ["q", "q", "norm"], "sparsity_bf16": [0.8, 0.9, 0.1]})
    assert color_scale(grid, "bf16") == (0.8, 0.9, "min")
    assert color_scale(grid[grid["module"] == "q"], "bf16") == (0.8, 0.9, "neither")
    assert color_scale(grid[grid["module"] == "norm"], "bf16")[2] == "neither"


def test_reprs_are_short_and_tables_escaped() -> None:
    hostile = {"<b>model</b>.layers.0.q_proj.weight": np.arange(12, dtype=np.float32).reshape(4, 3)}
    moved = {name: value + 1 for name, value in hostile.items()}
    rows = [{"model": "<b>a</b>", "problem": str(p), "correct": p % 2 == 0} for p in range(4) for _ in range(4)]
    report = passk.report(pd.DataFrame(rows), replicates=100)
    tokens = pd.DataFrame({"entropy": [0.5, 1.5], "surprisal": [1.0, 2.0]})
    measured, _ = spectra.compare(hostile, moved, k=2)
    results = [
        sparsity.compare(hostile, moved), overlap.compare(hostile, [moved, hostile], threads=1), measured[0], report, report.curves[0],
        Trace(tokens, {"<b>": ""}, "float32", [], 1.0),
    ]  # fmt: skip
    for result in results:
        assert len(repr(result)) < 500
        assert repr(result).count("\n") < 6
        tags: list[str] = []
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, _attributes, tags=tags: tags.append(tag)  # type: ignore[method-assign]
        parser.feed(result._repr_html_())
        assert set(tags) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert small_table("<i>", ["a"], [["<b>"]]).count("&lt;") == 2


def test_plurals() -> None:
    assert [plural(count, "tensor") for count in (0, 1, 2, 1000)] == ["0 tensors", "1 tensor", "2 tensors", "1,000 tensors"]
    assert plural(2, "matrix", "matrices") == "2 matrices"
