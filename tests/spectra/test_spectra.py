"""Spectra of matrices that are constructed to have known spectra."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dynamics.errors import InputError
from dynamics.spectra import angles, hill, measure, ranks
from dynamics.spectra.__main__ import cli


def orthogonal(rng, size: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def built(rng, sigma, m: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u, v = orthogonal(rng, m), orthogonal(rng, n)
    return (u[:, : len(sigma)] * sigma) @ v[:, : len(sigma)].T, u, v


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_a_known_rank(rank: int, rng) -> None:
    base = rng.normal(size=(30, 20))
    update, _, _ = built(rng, np.full(rank, 0.5), 30, 20)
    spectrum = measure(base, base + update, k=5)
    assert spectrum.stable_rank == pytest.approx(rank)
    assert spectrum.effective_rank == pytest.approx(rank, rel=1e-6)
    assert spectrum.effective_rank_energy == pytest.approx(rank, rel=1e-6)
    assert spectrum.rank_99 == math.ceil(0.99 * rank)
    assert ranks(np.linalg.svd(update, compute_uv=False), (30, 20))["rank"] == rank


def test_ranks_by_hand() -> None:
    by_rule = ranks(np.array([3.0, 1.0, 1.0, 0.0]), (4, 4))
    assert (by_rule["rank"], by_rule["rank_90"], by_rule["rank_95"], by_rule["rank_99"]) == (3, 2, 3, 3)
    assert by_rule["stable_rank"] == pytest.approx(11 / 9)
    p = np.array([0.6, 0.2, 0.2])
    assert by_rule["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert ranks(np.zeros(3), (3, 3))["rank"] == 0


@pytest.mark.parametrize("degrees", [0.0, 1e-8, 1e-4, 0.01, 1.0, 30.0, 89.9999, 90.0])
def test_a_plane_turned_by_a_known_angle(degrees: float, rng) -> None:
    frame = orthogonal(rng, 12)
    t = np.radians(degrees)
    turned = np.cos(t) * frame[:, 1] + np.sin(t) * frame[:, 5]
    measured = angles(frame[:, :2], np.column_stack([frame[:, 0], turned]))
    assert measured[0] == pytest.approx(0, abs=1e-8)
    assert measured[1] == pytest.approx(degrees, abs=1e-10 + 1e-12 * degrees + (1e-8 if degrees in (0, 1e-8) else 0))


def test_a_subspace_with_itself_is_at_zero(rng) -> None:
    base = rng.normal(size=(200, 100))
    spectrum = measure(base, base, k=32)
    assert max(spectrum.angle_left_max, spectrum.angle_right_max) < 1e-8
    assert (spectrum.nss, spectrum.rank, spectrum.changed, spectrum.intruders) == (0, 0, 0, 0)
    assert math.isnan(spectrum.principal)
    assert math.isnan(spectrum.inside)


def test_turning_the_singular_vectors_turns_the_subspace(rng) -> None:
    sigma = np.array([10.0, 9.0, 1.0, 0.9, 0.8])
    base, u, v = built(rng, sigma, 16, 12)
    t = np.radians(0.3)
    turned = u.copy()
    turned[:, 1] = np.cos(t) * u[:, 1] + np.sin(t) * u[:, 9]
    spectrum = measure(base, (turned[:, :5] * sigma) @ v[:, :5].T, k=2)
    assert spectrum.angle_left_max == pytest.approx(0.3, abs=1e-9)
    assert spectrum.angle_right_max == pytest.approx(0, abs=1e-6)
    assert spectrum.nss == pytest.approx(0, abs=1e-12)


def test_spectral_drift_of_a_scaling(rng) -> None:
    base = rng.normal(size=(20, 30))
    spectrum = measure(base, 1.25 * base, k=4)
    assert spectrum.nss == pytest.approx(0.25)
    assert spectrum.angle_left_max < 1e-6
    assert spectrum.stable_rank == pytest.approx(np.linalg.norm(base) ** 2 / np.linalg.norm(base, 2) ** 2)
    assert spectrum.hill_update == pytest.approx(spectrum.hill_base)


def test_energy_inside_and_by_chance(rng) -> None:
    base, u, v = built(rng, np.array([5.0, 4.0, 3.0, 0.2, 0.1]), 40, 30)
    inside = measure(base, base + 1e-3 * np.outer(u[:, 0], v[:, 2]), k=3)
    assert inside.inside == pytest.approx(1)
    outside = measure(base, base + 1e-3 * np.outer(u[:, 20], v[:, 2]), k=3)
    assert outside.inside == pytest.approx(0, abs=1e-9)
    assert outside.inside_right == pytest.approx(1)
    assert outside.inside_left == pytest.approx(0, abs=1e-9)
    big = rng.normal(size=(300, 200))
    random = measure(big, big + 1e-3 * rng.normal(size=big.shape), k=50)
    assert random.inside == pytest.approx(random.inside_chance, rel=0.1)
    assert random.inside_left == pytest.approx(random.inside_left_chance, rel=0.1)


def test_masks(rng) -> None:
    base = rng.normal(size=(100, 80))
    small = np.abs(base) < np.quantile(np.abs(base), 0.3)
    spectrum = measure(base, np.where(small, base + 0.01, base), k=10, alpha=0.5)
    assert spectrum.low == 1
    assert spectrum.changed == small.sum()
    anywhere = measure(base, np.where(rng.random(base.shape) < 0.4, base + 0.01, base), k=10)
    assert anywhere.low == pytest.approx(0.5, abs=0.03)
    assert anywhere.principal == pytest.approx(0.5, abs=0.03)


def test_an_intruder(rng) -> None:
    base, u, v = built(rng, np.linspace(5, 4, 12), 60, 50)
    assert measure(base, base + 0.001 * rng.normal(size=base.shape)).intruders == 0
    assert measure(base, base + 20 * np.outer(u[:, 40], v[:, 30])).intruders == 1


def test_invariant_under_a_change_of_basis(rng) -> None:
    base = rng.normal(size=(24, 18))
    tuned = base + 0.05 * rng.normal(size=base.shape)
    left, right = orthogonal(rng, 24), orthogonal(rng, 18)
    spectrum, other = measure(base, tuned, k=6), measure(left @ base @ right, left @ tuned @ right, k=6)
    for name in ("stable_rank", "effective_rank", "nss", "angle_left_max", "angle_right_mean", "inside", "inside_left", "hill_base"):
        assert getattr(spectrum, name) == pytest.approx(getattr(other, name), rel=1e-8), name


def matrices(rng) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Make bases and updates of several kinds: with and without gaps, low rank, scaled, wide, tall, square, tiny and large updates."""
    wide, tall = rng.normal(size=(60, 150)), rng.normal(size=(140, 70))
    falling, u, v = built(rng, 0.7 ** np.arange(60), 80, 60)
    steep, _, _ = built(rng, np.concatenate([np.full(8, 50.0), np.ones(50)]), 90, 58)
    return {
        "no gap": (wide, 0.01 * rng.normal(size=wide.shape)),
        "low rank": (tall, 0.1 * rng.normal(size=(140, 3)) @ rng.normal(size=(3, 70))),
        "falling": (falling, 1e-3 * falling[::-1]),
        "intruder": (falling, 3 * np.outer(u[:, 70], v[:, 50])),
        "gap after k": (steep, 0.05 * rng.normal(size=steep.shape)),
        "scaled": (tall, 0.25 * tall),
        "zero": (tall, np.zeros_like(tall)),
        "sparse": (wide, np.where(rng.random(wide.shape) < 0.02, 0.5, 0.0)),
        "smaller than k": (rng.normal(size=(9, 5)), 0.1 * rng.normal(size=(9, 5))),
    }


@pytest.mark.parametrize("kind", list(matrices(np.random.default_rng(0))))
@pytest.mark.parametrize("seed", [0, 1])
def test_bounds_contain_what_full_decompositions_give(kind: str, seed: int) -> None:
    base, update = matrices(np.random.default_rng(seed))[kind]
    full, approx = (measure(base, base + update, k=8, method=method, seed=seed) for method in ("full", "approx"))
    assert approx.bounds
    for name, (low, high) in approx.bounds.items():
        value = getattr(full, name)
        if math.isnan(value):
            continue
        slack = 1e-9 + 1e-6 * ("angle" in name)
        assert low - slack <= value <= high + slack, (name, low, value, high)
        assert low - slack <= getattr(approx, name) <= high + slack, name
    assert (approx.base_norm, approx.update_norm, approx.changed) == (full.base_norm, full.update_norm, full.changed)


def test_bounds_are_tight_where_there_is_a_gap(rng) -> None:
    base, update = matrices(rng)["gap after k"]
    full, approx = (measure(base, base + update, k=8, method=method) for method in ("full", "approx"))
    assert approx.angle_left_max == pytest.approx(full.angle_left_max, rel=0.01)
    assert approx.bounds["angle_left_max"][1] < 5
    assert approx.inside == pytest.approx(full.inside, rel=0.01)
    low = measure(base, base + np.outer(base[:, 0], base[0]), k=8, method="approx")
    assert low.stable_rank == pytest.approx(1, abs=1e-6)
    assert low.bounds["rank_99"] == (1, 1)


def test_what_is_not_decomposed_is_not_given(rng) -> None:
    base, update = matrices(rng)["no gap"]
    spectrum = measure(base, base + update, method="none")
    assert spectrum.update_norm == pytest.approx(np.linalg.norm(update))
    assert math.isnan(spectrum.nss)
    with pytest.raises(InputError, match="full, approx, none"):
        measure(base, base, method="quick")


@pytest.mark.parametrize("method", ["full", "approx"])
def test_factors_give_what_the_product_gives(method: str, rng) -> None:
    from dynamics.checkpoints.adapter import LowRank

    base, left, right = rng.normal(size=(40, 30)), 0.1 * rng.normal(size=(40, 4)), rng.normal(size=(4, 30))
    factored = measure(base, base + left @ right, k=6, method=method, factors=LowRank(left, right))
    dense = measure(base, base + left @ right, k=6)
    assert factored.rank == 4
    for name in ("stable_rank", "effective_rank", "effective_rank_energy", "rank_90", "rank_95", "rank_99", "update_norm"):
        assert getattr(factored, name) == pytest.approx(getattr(dense, name), rel=1e-6), name


def test_hill_of_a_power_law() -> None:
    rng = np.random.default_rng(0)
    eigenvalues = np.sort((1 - rng.random(200_000)) ** (-1 / 2.0))[::-1]  # density exponent 3
    assert hill(np.sqrt(eigenvalues)) == pytest.approx(3, rel=0.03)


def test_refusals() -> None:
    with pytest.raises(InputError, match="one shape"):
        measure(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(InputError, match="NaN"):
        measure(np.full((2, 2), np.nan), np.zeros((2, 2)))


def test_the_command(pair, tmp_path, capsys, monkeypatch) -> None:
    from safetensors.numpy import save_file

    base, tuned, kept = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "kept.jsonl"
    save_file(pair[0], base)
    save_file(pair[1], tuned)
    more = ["--only", "q_proj|up_proj", "--subspace", "4", "--resume", str(kept)]
    figure = tmp_path / "f.png"
    assert cli([str(base), str(tuned), *more, "--json", str(tmp_path / "s.json"), "--figure", str(figure)]) == 0
    assert "principal" in capsys.readouterr().out
    document = json.loads((tmp_path / "s.json").read_text())
    assert document["schema"] == "dynamics.spectra/1"
    assert len(document["matrices"]) == 24
    whole = kept.read_text()
    kept.write_text("".join(whole.splitlines(keepends=True)[:5]) + '{"cut')
    assert cli([str(base), str(tuned), *more, "--json", str(tmp_path / "t.json")]) == 0
    assert json.loads((tmp_path / "t.json").read_text()) == document
    assert kept.read_text() == whole
    other = ["--subspace", "3", "--resume", str(kept)]
    for wrong, message in ((["--only", "("], "regular expression"), (["--only", "nothing"], "no matrix"), (other, "other")):
        assert cli([str(base), str(tuned), *wrong]) == 2
        assert message in capsys.readouterr().err
