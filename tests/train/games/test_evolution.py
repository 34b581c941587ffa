"""Operators of evolution: what each changes, and what it must leave as it is."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dynamics import InputError
from dynamics.train.games import evolution
from dynamics.train.games.evolution import OPERATORS, child, modules

SIZES = {f"layers.{layer}.{name}": shape for layer in range(3) for name, shape in (("q", (24, 24)), ("up", (48, 24)), ("down", (24, 48)))}
RANK = 4


def parent(seed: int, rank: int = RANK) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    made = {}
    for name, (outputs, inputs) in SIZES.items():
        made[f"{name}.lora_A.weight"] = torch.from_numpy(rng.normal(size=(rank, inputs))).float()
        made[f"{name}.lora_B.weight"] = torch.from_numpy(rng.normal(size=(outputs, rank))).float() / 10
    return made


def update(factors, module: str) -> np.ndarray:
    return (factors[f"{module}.lora_B.weight"].double() @ factors[f"{module}.lora_A.weight"].double()).numpy()


def make(operator: str, seed: int = 0, rank: int = RANK):
    parents = [parent(1, rank), parent(2, rank)]
    return child(operator, parents, np.random.default_rng(seed)), parents


@pytest.mark.parametrize("rank", [1, RANK])
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_keeps_the_form_and_its_parents(operator: str, rank: int) -> None:
    made, parents = make(operator, rank=rank)
    assert {name: (value.shape, value.dtype) for name, value in made.items()} == {
        name: (value.shape, value.dtype) for name, value in parents[0].items()
    }
    assert list(made) == list(parents[0])
    for before, after in zip((parent(1, rank), parent(2, rank)), parents, strict=True):
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    again, other = make(operator, rank=rank)[0], make(operator, 1, rank)[0]
    assert all(torch.equal(value, again[name]) for name, value in made.items())
    if (operator, rank) != ("drop-components", 1):  # which has nothing to choose
        assert any(not torch.equal(value, other[name]) for name, value in made.items())
    shared = {value.untyped_storage().data_ptr() for one in parents for value in one.values()}
    assert not shared & {value.untyped_storage().data_ptr() for value in made.values()}


def test_the_decomposition_is_that_of_the_product() -> None:
    for module in SIZES:
        pair = (parent(1)[f"{module}.lora_A.weight"].double().numpy(), parent(1)[f"{module}.lora_B.weight"].double().numpy())
        u, values, v = evolution.decompose(pair)
        np.testing.assert_allclose(u * values @ v, update(parent(1), module), atol=1e-12)
        np.testing.assert_allclose(values, np.linalg.svd(update(parent(1), module))[1][:RANK], rtol=1e-12)
        np.testing.assert_allclose(u.T @ u, np.eye(RANK), atol=1e-12)
        down, up = evolution.compose(u, values, v)
        np.testing.assert_allclose(up @ down, u * values @ v, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(up), np.linalg.norm(down), rtol=1e-12)


def test_svd_noise_stays_in_the_subspaces_and_keeps_the_size() -> None:
    changes = []
    for seed in range(20):
        made, (before, _) = make("svd-noise", seed)
        for module in SIZES:
            old, new = update(before, module), update(made, module)
            left, _, right = np.linalg.svd(old)
            np.testing.assert_allclose(left[:, RANK:].T @ new, 0, atol=1e-5)
            np.testing.assert_allclose(new @ right[RANK:].T, 0, atol=1e-5)
            changes.append(np.linalg.norm(new - old) / np.linalg.norm(old))
    # 0.1 of each value, and rotations of 0.1 times a skew matrix, whose columns have a squared norm of (r - 1) / 2, on both sides
    expected = 0.1 * math.sqrt(1 + 2 * (RANK - 1) / 2)
    assert 0.8 * expected < np.mean(changes) < 1.2 * expected


def test_an_update_of_zero_stays_zero_where_it_is_decomposed() -> None:
    before = parent(1) | {name: torch.zeros_like(value) for name, value in parent(1).items() if "lora_B" in name}
    for operator in ("svd-noise", "drop-components"):
        made = child(operator, [before], np.random.default_rng(0))
        assert all(not update(made, module).any() for module in SIZES)
    for operator in ("full-noise", "selected-noise"):
        assert any(update(child(operator, [before], np.random.default_rng(0)), module).any() for module in SIZES)


def test_selected_noise_reaches_a_third_of_the_matrices() -> None:
    reached = []
    for seed in range(30):
        made, (before, _) = make("selected-noise", seed)
        changed = [module for module in SIZES if not np.array_equal(update(made, module), update(before, module))]
        untouched = [name for name in before if torch.equal(made[name], before[name])]
        assert len(changed) == 3
        assert len(untouched) == 2 * (len(SIZES) - 3)
        reached += changed
        for module in changed:
            for kind in "AB":
                name = f"{module}.lora_{kind}.weight"
                assert float((made[name] - before[name]).std() / before[name].std()) == pytest.approx(0.1, rel=0.35)
    assert set(reached) == set(SIZES)


def test_full_noise_has_its_size() -> None:
    made, (before, _) = make("full-noise")
    ratios = [float((made[name] - before[name]).std() / before[name].std()) for name in before]
    assert np.mean(ratios) == pytest.approx(0.15, rel=0.05)
    assert min(ratios) > 0.1


@pytest.mark.parametrize(("rank", "left"), [(1, 0), (4, 2), (10, 7)])
def test_dropping_leaves_some_components_as_they_are(rank: int, left: int) -> None:
    made, (before, _) = make("drop-components", rank=rank)
    for module in SIZES:
        old, new = np.linalg.svd(update(before, module))[1][:rank], np.linalg.svd(update(made, module))[1][:rank]
        kept = new[new > 1e-5]
        assert len(kept) == left
        for value in kept:
            assert np.abs(old - value).min() < 1e-5
        rest = update(before, module) - update(made, module)  # orthogonal to what is kept
        assert abs((rest * update(made, module)).sum()) < 1e-4


def test_dare_keeps_a_share_of_entries_and_the_mean() -> None:
    sums, shares, parents = 0.0, [], [parent(1), parent(2)]
    name = "layers.0.up.lora_A.weight"
    for seed in range(400):
        made = child("dare", parents, np.random.default_rng(seed))
        sums = sums + made[name].double()
        shares.append(float((made[name] != 0).double().mean()))
    assert np.mean(shares) == pytest.approx(1 - 0.7**2, abs=0.01)
    mean = (parents[0][name] + parents[1][name]).double() / 2
    deviation = ((parents[0][name] ** 2 + parents[1][name] ** 2).double() / 4 * 0.7 / 0.3 / 400).sqrt()
    assert float((((sums / 400 - mean) / deviation) ** 2).mean()) == pytest.approx(1, abs=0.5)


def test_swapped_layers_are_whole() -> None:
    taken = []
    for seed in range(30):
        made, parents = make("layer-swap", seed)
        for module in SIZES:
            names = [f"{module}.lora_{kind}.weight" for kind in "AB"]
            (source,) = [number for number, one in enumerate(parents) if all(torch.equal(made[name], one[name]) for name in names)]
            taken.append(source)
    assert np.mean(taken) == pytest.approx(0.5, abs=0.1)


def test_mixed_subspaces_are_those_of_the_parents() -> None:
    cuts = set()
    for seed in range(20):
        made, parents = make("subspace-mix", seed)
        for module in SIZES:
            (u, s, v), (other_u, other_s, other_v) = (np.linalg.svd(update(one, module)) for one in parents)
            fits = [
                cut
                for cut in range(1, RANK)
                if np.allclose(
                    update(made, module),
                    u[:, :cut] * s[:cut] @ v[:cut] + other_u[:, cut:RANK] * other_s[cut:RANK] @ other_v[cut:RANK],
                    atol=1e-5,
                )
            ]
            assert len(fits) == 1
            cuts |= set(fits)
    assert cuts == {1, 2, 3}
    made, parents = make("subspace-mix", rank=1)
    for module in SIZES:
        assert any(np.allclose(update(made, module), update(one, module), atol=1e-5) for one in parents)


def test_extrapolation_goes_past_the_better_parent() -> None:
    etas = []
    for seed in range(50):
        made, (better, weaker) = make("extrapolation", seed)
        each = [
            float(((made[name] - weaker[name]) * (better[name] - weaker[name])).sum() / ((better[name] - weaker[name]) ** 2).sum())
            for name in made
        ]
        assert max(each) - min(each) < 1e-5
        for name in made:
            torch.testing.assert_close(made[name], weaker[name] + each[0] * (better[name] - weaker[name]), atol=1e-5, rtol=1e-5)
        etas.append(each[0])
    assert 1.0 <= min(etas) < 1.1
    assert 1.4 < max(etas) <= 1.5


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"^operator 'dore': is not one of svd-noise, selected-noise, "):
        child("dore", [parent(1)], np.random.default_rng(0))
    broken = parent(1)
    broken["layers.0.q.lora_A.weight"][0, 0] = math.nan
    for name, operator in OPERATORS.items():
        with pytest.raises(InputError, match=rf"^operator {name}: layers.0.q.lora_A.weight of a parent is not finite, as it has diverged"):
            child(name, [parent(2), broken][-operator.parents :], np.random.default_rng(0))
    assert modules(parent(1)) == list(SIZES)
