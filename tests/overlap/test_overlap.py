"""Overlaps against brute-force definitions and against chance."""

from __future__ import annotations

import json

import numpy as np
import pytest
from reference import bf16_bits, measure

from dynamics import overlap, sparsity
from dynamics.overlap import compare
from dynamics.overlap.__main__ import cli
from dynamics.sparsity.definitions import RULES


def changed(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    x, y = a.astype(float).ravel(), b.astype(float).ravel()
    d = np.abs(y - x)
    with np.errstate(invalid="ignore"):
        return {
            "exact": x != y,
            "bf16": bf16_bits(x + 0.0) != bf16_bits(y + 0.0),
            "rtol": d > 1e-3 * np.maximum(abs(x), abs(y)),
            "atol": d > 1e-5,
        }


def states(rng, updates: int = 2, kind=np.float32) -> list[dict[str, np.ndarray]]:
    shapes = {"model.layers.0.self_attn.q_proj.weight": (40, 30), "model.layers.1.mlp.up_proj.weight": (50, 20), "model.norm.weight": (33,)}
    base = {name: rng.normal(0, 0.02, shape).astype(kind) for name, shape in shapes.items()}
    made = [base]
    for _ in range(updates):
        density = dict(zip(shapes, rng.random(3), strict=True))
        step = {name: np.exp(rng.normal(-8, 3, base[name].shape)) * rng.choice([-0.1, 0.1], base[name].shape) for name in shapes}
        made.append({n: np.where(rng.random(base[n].shape) < density[n], base[n] + step[n], base[n]).astype(kind) for n in shapes})
    return made


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_counts_are_those_of_the_definition(kind, rng) -> None:
    base, a, b, c = states(rng, 3, kind)
    comparison = compare(base, [a, b, c], threads=1)
    masks = [{rule: np.concatenate([changed(base[n], one[n])[rule] for n in base]) for rule in RULES} for one in (a, b, c)]
    assert [(row.a, row.b) for row in comparison.total] == [(0, 1), (0, 2), (1, 2)]
    flat = [np.concatenate([one[n].ravel() for n in base]).astype(float) for one in (base, a, b, c)]
    for row in comparison.total:
        for rule in RULES:
            x, y = masks[row.a][rule], masks[row.b][rule]
            one = row.rules[rule]
            assert (one.first, one.second, one.both) == (x.sum(), y.sum(), (x & y).sum()), rule
            assert one.jaccard == pytest.approx((x & y).sum() / (x | y).sum())
            assert one.o1_chance == pytest.approx(y.mean())
            within = sum(
                changed(base[n], (a, b, c)[row.a][n])[rule].sum() * changed(base[n], (a, b, c)[row.b][n])[rule].mean() for n in base
            )
            assert one.o1_chance_by_tensor == pytest.approx(within / x.sum())
        d, e = flat[row.a + 1] - flat[0], flat[row.b + 1] - flat[0]
        both = (d != 0) & (e != 0)
        assert row.same_sign == pytest.approx(np.mean(np.sign(d[both]) == np.sign(e[both])))
        assert row.cosine == pytest.approx(d[both] @ e[both] / np.linalg.norm(d[both]) / np.linalg.norm(e[both]))
        assert row.cosine_all == pytest.approx(d @ e / np.linalg.norm(d) / np.linalg.norm(e))
    for rule in RULES:
        stack = np.stack([one[rule] for one in masks])
        assert comparison.consensus[rule] == np.bincount(stack.sum(0), minlength=4).tolist()
        first = np.where(stack.any(0), stack.argmax(0), 3)
        assert comparison.first[rule] == np.bincount(first, minlength=4).tolist()
        assert comparison.came_back[rule] == (stack.any(0) & ~stack[-1]).sum()


def test_agrees_with_sparsity(rng) -> None:
    base, a, b = states(rng)
    comparison = compare(base, [a, b]).total[0]
    for side, tuned in (("first", a), ("second", b)):
        assert {rule: getattr(overlaps, side) for rule, overlaps in comparison.rules.items()} == sparsity.compare(base, tuned).total.changed
    assert measure(base["model.norm.weight"], a["model.norm.weight"])["changed"]["exact"] <= comparison.rules["exact"].first


def test_published_identity_and_self(rng) -> None:
    base, a, b = states(rng)
    for overlaps in compare(base, [a, b]).total[0].rules.values():
        assert overlaps.o1 * overlaps.first == pytest.approx(overlaps.o2 * overlaps.second)
    for overlaps in compare(base, [a, a]).total[0].rules.values():
        assert overlaps.o1 == overlaps.o2 == overlaps.jaccard == 1
    assert compare(base, [a, a]).total[0].cosine == pytest.approx(1)
    # Mukherjee et al., table 4: o1 60.5, o2 60.6 at sparsity 63.3 and 63.3; chance 36.7
    assert overlap.overlap(1000, 367, 367, 222).o1_chance == pytest.approx(0.367)


def test_independent_masks_meet_chance(rng) -> None:
    base = {"w": np.ones(400_000, np.float32), "v": np.ones(400_000, np.float32)}
    a, b = ({n: np.where(rng.random(400_000) < p, 2, 1).astype(np.float32) for n, p in (("w", 0.6), ("v", 0.1))} for _ in range(2))
    overlaps = compare(base, [a, b]).total[0].rules["exact"]
    assert overlaps.jaccard == pytest.approx(overlaps.jaccard_chance_by_tensor, abs=0.003)
    assert overlaps.jaccard > 1.3 * overlaps.jaccard_chance  # differing densities give more overlap than a uniform density


def test_nonfinite_and_zeros() -> None:
    base = {"w": np.array([np.nan, np.inf, 0.0, 1.0, np.nan], np.float32)}
    a = {"w": np.array([np.nan, 1.0, -0.0, np.inf, 1.0], np.float32)}
    by_rule = compare(base, [a, a]).total[0].rules
    assert {rule: overlaps.first for rule, overlaps in by_rule.items()} == dict.fromkeys(RULES, 3)


def test_the_command(tmp_path, rng, capsys) -> None:
    from safetensors.numpy import save_file

    paths = []
    for number, state in enumerate(states(rng, 3)):
        paths.append(str(tmp_path / f"{number}.safetensors"))
        save_file(state, paths[-1])
    figure, document, csv = tmp_path / "f.png", tmp_path / "o.json", tmp_path / "o.csv"
    assert cli([*paths[:3], "--json", str(document), "--csv", str(csv), "--figure", str(figure)]) == 0
    assert "by tensor" in capsys.readouterr().out
    assert json.loads(document.read_text())["schema"] == "dynamics.overlap/1"
    assert figure.stat().st_size > 5000
    assert cli([*paths, "--series", "--figure", str(figure)]) == 0
    stdout = capsys.readouterr().out
    assert "never" in stdout
    assert "3 of 3" in stdout
    assert cli(paths[:2]) == 2
    assert "at least two" in capsys.readouterr().err
