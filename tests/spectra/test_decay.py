"""Energy of the first directions, and the decay of singular values, against closed forms and independent fits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dynamics.checkpoints.adapter import LowRank
from dynamics.spectra import measure
from dynamics.spectra.__main__ import cli
from dynamics.spectra.linalg import decay, energies, fitted
from dynamics.spectra.pooled import by_module, pooled

TOPS = (1, 4, 16, 64)


def with_values(rng, sigma, m, n):
    """Make a matrix (m, n) with these singular values."""
    left, right = (np.linalg.qr(rng.normal(size=(size, len(sigma))))[0] for size in (m, n))
    return (left * sigma) @ right.T


@pytest.mark.parametrize("exponent", [0.1, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("method", ["full", "approx"])
def test_a_power_law_of_a_known_exponent(exponent, method):
    rng = np.random.default_rng(0)
    sigma = 3 * np.arange(1, 71) ** -exponent
    base = rng.normal(size=(90, 70))
    update = with_values(rng, sigma, 90, 70)
    spectrum = measure(base, base + update, k=20, method=method)
    exact = method == "full"
    assert spectrum.decay_update == pytest.approx(exponent, rel=1e-9 if exact else 0.1)
    assert spectrum.decay_update_fit == pytest.approx(1, abs=1e-9 if exact else 0.02)
    for top in TOPS:
        expected = (sigma[:top] ** 2).sum() / (sigma**2).sum()
        if exact:
            assert getattr(spectrum, f"energy_{top}") == pytest.approx(expected, rel=1e-9)
        else:
            low, high = spectrum.bounds[f"energy_{top}"]
            assert low <= expected <= high
            assert low <= getattr(spectrum, f"energy_{top}") <= high
    if not exact:
        low, high = spectrum.bounds["decay_update"]
        assert low <= exponent <= high


def test_the_line_is_that_of_least_squares(rng):
    sigma = np.sort(rng.random(32))[::-1]
    x, y = np.log(np.arange(1, 33)), np.log(sigma)
    slope, intercept = np.polyfit(x, y, 1)
    residual = ((y - intercept - slope * x) ** 2).sum()
    assert decay(sigma) == pytest.approx((-slope, 1 - residual / ((y - y.mean()) ** 2).sum()))


def test_curves_that_are_no_power_laws():
    """The manual quotes these."""
    _, fit = decay(np.exp(-np.arange(32) / 10))
    assert fit == pytest.approx(0.84, abs=0.005)
    noise = np.linalg.svd(np.random.default_rng(0).normal(size=(576, 576)), compute_uv=False)
    assert decay(noise[:32])[0] == pytest.approx(0.04, abs=0.005)
    assert decay(noise[:32])[1] == pytest.approx(0.9, abs=0.03)
    assert energies(noise**2)["energy_64"] == pytest.approx(0.34, abs=0.005)


def test_flat_short_and_empty_spectra():
    exponent, fit = decay(np.full(8, 0.3))
    assert exponent == pytest.approx(0, abs=1e-12)
    assert math.isnan(fit)
    assert all(map(math.isnan, decay(np.array([2.0, 1.0]))))
    assert all(map(math.isnan, energies(np.zeros(3)).values()))
    assert energies(np.array([3.0, 1.0])) == {"energy_1": 0.75, "energy_4": 1.0, "energy_16": 1.0, "energy_64": 1.0}
    assert fitted([1.0, 1e-3, 1e-15, 0.0], (40, 40)) == 2
    assert fitted([0.0, 0.0], (4, 4)) == 0


@pytest.mark.parametrize("method", ["full", "approx"])
def test_directions_that_are_zero_are_not_fitted(method):
    rng = np.random.default_rng(0)
    sigma = np.arange(1, 6) ** -1.5
    base, update = rng.normal(size=(60, 50)), with_values(rng, sigma, 60, 50)
    dense = measure(base, base + update, k=20, method="full")
    factored = measure(base, base + update, k=20, method=method, factors=LowRank(update, np.eye(50)))
    assert dense.decay_update == pytest.approx(1.5, rel=1e-6)
    assert factored.decay_update == pytest.approx(1.5, rel=1e-6)
    assert factored.energy_4 == pytest.approx((sigma[:4] ** 2).sum() / (sigma**2).sum())
    assert "decay_update" not in factored.bounds


def test_a_sketch_leaves_out_what_it_cannot_tell_from_zero():
    rng = np.random.default_rng(0)
    base, update = rng.normal(size=(60, 50)), with_values(rng, np.arange(1, 6) ** -1.5, 60, 50)
    spectrum = measure(base, base + update, k=20, method="approx")
    assert math.isnan(spectrum.decay_update)
    assert math.isnan(spectrum.decay_update_fit)
    assert "decay_update" not in spectrum.bounds
    assert spectrum.energy_64 == pytest.approx(1)
    assert spectrum.decay_base == spectrum.decay_base


def test_nothing_is_given_without_a_decomposition_or_an_update(rng):
    base = rng.normal(size=(20, 20))
    names = [*(f"energy_{top}" for top in TOPS), "decay_update", "decay_update_fit"]
    for spectrum in (measure(base, base + 1, method="none"), measure(base, base), measure(base, base, method="approx")):
        assert all(math.isnan(getattr(spectrum, name)) for name in names)


def test_pooled_is_one_regression_and_one_sum():
    rng = np.random.default_rng(0)
    spectra, rows, values = [], [], []
    energy = dict.fromkeys(TOPS, 0.0)
    total = 0.0
    for number, (exponent, rank) in enumerate(((0.5, 30), (1.0, 8), (2.0, 20), (1.0, 2))):
        sigma = 10**number * np.arange(1, rank + 1) ** -exponent * np.exp(0.1 * rng.normal(size=rank))
        sigma = np.sort(sigma)[::-1]
        base = rng.normal(size=(40, 30))
        spectra.append(measure(base, base + with_values(rng, sigma, 40, 30), name=f"model.layers.{number}.q_proj.weight", k=16))
        total += (sigma**2).sum()
        for top in TOPS:
            energy[top] += (sigma[:top] ** 2).sum()
        if rank > 2:
            fit = sigma[:16]
            rows += [[-math.log(i), *(float(number == column) for column in range(3))] for i in range(1, len(fit) + 1)]
            values += list(np.log(fit))
    unchanged = measure(base, base, name="model.layers.9.q_proj.weight", k=16)
    found = pooled([*spectra, unchanged])
    assert found["matrices"] == 4
    for top in TOPS:
        assert found[f"energy_{top}"] == pytest.approx(energy[top] / total)
    assert found["decay_update"] == pytest.approx(np.linalg.lstsq(np.array(rows), np.array(values))[0][0])
    assert found["bounds"] == {}
    assert by_module([*spectra, unchanged]) == {"q": found}
    assert pooled([unchanged])["matrices"] == 0
    assert math.isnan(pooled([unchanged])["energy_1"])


def test_pooled_bounds_hold_what_full_decompositions_give():
    rng = np.random.default_rng(1)
    made = []
    for number in range(3):
        base = rng.normal(size=(50, 40))
        tuned = base + with_values(rng, 5.0**-number * np.arange(1, 41) ** -(0.3 + number), 50, 40)
        made.append([measure(base, tuned, name=f"{number}.weight", k=6, method=method) for method in ("full", "approx")])
    full, approx = (pooled([pair[index] for pair in made]) for index in (0, 1))
    assert approx["bounds"].keys() == {*(f"energy_{top}" for top in TOPS), "decay_base", "decay_update"}
    for name, (low, high) in approx["bounds"].items():
        assert low - 1e-9 <= full[name] <= high + 1e-9
        assert low <= approx[name] <= high


def test_the_command_pools_by_kind_of_module(tmp_path, capsys):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    base = {f"model.layers.{n}.self_attn.{kind}_proj.weight": rng.normal(size=(40, 30)) for n in (0, 1) for kind in "qk"}
    tuned = {name: matrix + with_values(rng, np.arange(1, 31) ** -0.75, 40, 30) for name, matrix in base.items()}
    for name, tensors in (("a", base), ("b", tuned)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    report, table = tmp_path / "s.json", tmp_path / "s.csv"
    paths = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    assert cli([*paths, "--subspace", "12", "--json", str(report), "--csv", str(table), "--html", str(tmp_path / "s.html")]) == 0
    shown = capsys.readouterr().out
    document = json.loads(report.read_text())
    assert [entry["module"] for entry in document["pooled"]["modules"]] == ["q", "k"]
    assert document["pooled"]["total"]["decay_update"] == pytest.approx(0.75)
    assert document["pooled"]["total"]["matrices"] == 4
    first = (np.arange(1, 31) ** -1.5)[:4].sum() / (np.arange(1, 31) ** -1.5).sum()
    assert document["pooled"]["total"]["energy_4"] == pytest.approx(first)
    line = next(line for line in shown.splitlines() if line.split()[:1] == ["all"])
    assert f"{100 * first:.2f} %" in line
    assert "0.75" in line
    assert "energy_64" in table.read_text().splitlines()[0]
    assert "top 16" in (tmp_path / "s.html").read_text()
