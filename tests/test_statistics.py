"""Intervals of crossed seeds and programs, Holm, equivalence and power, against simulations and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analyses import statistics
from analyses.statistics import ALPHA, Effect, Spread, effect, holm, kish


def crossed(studies: int, seeds: int, programs: int, sds: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Differences (studies, seeds, programs) whose effect is 0; ``sds`` are those of seeds, programs and the rest."""
    shapes = ((studies, seeds, 1), (studies, 1, programs), (studies, seeds, programs))
    return sum(sd * rng.standard_normal(shape) for sd, shape in zip(sds, shapes, strict=True))


def missed(interval: tuple[np.ndarray, np.ndarray]) -> float:
    return float(((interval[0] > 0) | (interval[1] < 0)).mean())


def estimates(shares: tuple[float, float, float], seeds: int, programs: int, rng: np.random.Generator, draws: int) -> Effect:
    """Effects that are 0, and errors as normal data give them; ``shares`` of the variance are of seeds, programs and the rest."""
    total = np.array(shares)
    by_seed, by_program, rest = (rng.chisquare(f, draws) / f for f in (seeds - 1, programs - 1, (seeds - 1) * (programs - 1)))
    errors = ((total[0] + total[2]) * by_seed, (total[1] + total[2]) * by_program, total[2] * rest)
    return Effect(rng.standard_normal(draws) * math.sqrt(total.sum()), *(np.sqrt(error) for error in errors), seeds, programs)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_misses_at_most_as_often_as_stated_whatever_varies(seeds: int) -> None:
    rng = np.random.default_rng(0)
    worst: dict[str, float] = {"used": 0, "satterthwaite": 0, "hull": 0}
    level = ALPHA / 12  # that of the first step of Holm with twelve rows
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0):
        for rest in (0.0, 0.5):
            found = estimates((share, (1 - share) * (1 - rest), (1 - share) * rest), seeds, 170, rng, 60_000)
            assert missed(found.interval()) < 1.06 * ALPHA
            worst["used"] = max(worst["used"], missed(found.interval(level)) / level)
            worst["hull"] = max(worst["hull"], missed(statistics.hull(found, ALPHA)) / ALPHA)
    found = estimates((0.9, 0.1, 0), seeds, 170, rng, 60_000)
    worst["satterthwaite"] = missed(statistics.satterthwaite(found, level)) / level
    assert worst["used"] < 1.25
    assert worst["satterthwaite"] > 2  # why it is not used
    assert (worst["hull"] > 1.5) == (seeds == 5)


def test_the_error_over_programs_is_that_of_the_cluster_bootstrap() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 4, 60)
    programs = rng.permutation(np.repeat(np.arange(60), sizes))
    differences = rng.normal(0.1, 0.3, (4, len(programs))) + rng.normal(0, 0.3, 60)[programs]
    found = effect(differences, programs, proportions=False)
    assert found.value == pytest.approx(differences.mean())
    means = []
    for _ in range(4000):
        drawn = rng.integers(0, 60, 60)
        weights = np.bincount(drawn, minlength=60)[programs]
        means.append((differences.mean(axis=0) * weights).sum() / weights.sum())
    assert found.program_error == pytest.approx(np.std(means), rel=0.06)
    as_if_apart = effect(differences, np.arange(len(programs)), proportions=False)
    assert found.program_error > 1.15 * as_if_apart.program_error
    assert found.programs == pytest.approx(kish(sizes))
    assert kish(sizes) < 60


def test_percentiles_of_resampled_programs_agree_with_the_closed_form() -> None:
    rng = np.random.default_rng(2)
    differences = np.clip(rng.normal(0.05, 0.3, (3, 150)), -1, 1)
    low, high = statistics.percentile_program_interval(differences, np.arange(150))
    other = statistics.program_interval(effect(differences, np.arange(150)))
    assert (float(low), float(high)) == pytest.approx((float(other[0]), float(other[1])), abs=0.004)


def test_programs_on_which_nothing_changed_give_no_interval_without_width() -> None:
    found = effect(np.zeros((3, 50)), np.arange(50))
    low, high = found.interval()
    assert low < -0.01 < 0.01 < high
    assert found.p() == 1
    assert effect(np.zeros((3, 50)), np.arange(50), proportions=False).interval() == (0, 0)  # tokens can be the same exactly


def test_one_seed_or_one_program_gives_no_interval() -> None:
    rng = np.random.default_rng(3)
    for shape in ((1, 30), (3, 1)):
        found = effect(rng.random(shape), np.arange(shape[1]))
        assert np.isnan([*found.interval(), found.p(), found.p_equivalent(0.1), found.p_beyond(0.1)]).all()


def test_p_is_the_level_at_which_the_interval_ends_at_the_null() -> None:
    rng = np.random.default_rng(4)
    found = effect(crossed(6, 4, 80, (0.05, 0.1, 0.3), rng) + 0.05, np.arange(80))
    for alpha in (0.2, 0.05, 0.004):
        low, high = found.interval(alpha)
        for number, ends in enumerate(zip(low, high, strict=True)):
            for end in ends:
                assert found.p(float(end))[number] == pytest.approx(alpha, rel=1e-6)
    alone = effect(np.array([[0.1, 0.1], [0.3, 0.3], [0.2, 0.2]]), np.arange(2), proportions=False)  # programs do not differ: Student's
    assert alone.p() == pytest.approx(stats.ttest_1samp([0.1, 0.3, 0.2], 0).pvalue)


def test_equivalence_needs_the_interval_inside_the_margin() -> None:
    rng = np.random.default_rng(5)
    found = effect(crossed(200, 5, 100, (0.01, 0.05, 0.2), rng) + 0.01, np.arange(100))
    low, high = found.interval(2 * ALPHA)
    margin = float(np.median(np.maximum(-low, high)))
    inside = (-margin < low) & (high < margin)
    assert ((found.p_equivalent(margin) <= ALPHA) == inside).all()
    assert 0.3 < inside.mean() < 0.7
    assert (found.p_beyond(margin) > ALPHA).all()  # not shown to be the same is not shown to be different
    far = Effect(np.asarray(0.3), np.asarray(0.01), np.asarray(0.01), np.asarray(0.0), 5, 100)
    assert far.p_beyond(0.1) < 0.001
    assert far.p_equivalent(0.1) > 0.999


def test_holm_on_an_example_and_with_what_was_not_measured() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = holm([[0.01, np.nan, 0.9, 0.9]])
    assert with_gap[0, 0] == pytest.approx(0.04)  # it counts as a row
    assert np.isnan(with_gap[0, 1])
    assert with_gap[0, 2] == 1


def test_power_is_that_of_simulated_studies() -> None:
    rng = np.random.default_rng(6)
    sds, seeds, programs = (0.02, 0.1, 0.3), 5, 150
    spread = Spread((sds[0] ** 2 + sds[2] ** 2 / programs), sds[1] ** 2 / programs, sds[2] ** 2 / programs, programs)
    size = spread.detectable(seeds)
    assert spread.power(size, seeds) == pytest.approx(0.8, abs=1e-3)
    assert spread.seeds_needed(size) == seeds
    found = effect(crossed(3000, seeds, programs, sds, rng) + size, np.arange(programs), proportions=False)
    assert ((found.p() <= ALPHA) & (found.value > 0)).mean() == pytest.approx(0.8, abs=0.03)
    margin = spread.detectable(seeds, equivalence=True)
    found = effect(crossed(3000, seeds, programs, sds, rng), np.arange(programs), proportions=False)
    assert (found.p_equivalent(margin) <= ALPHA).mean() == pytest.approx(0.8, abs=0.03)
    assert spread.seeds_needed(0.0, margin=margin) == seeds
    assert spread.seeds_needed(0.5 * sds[1] / math.sqrt(programs)) is None  # no number of seeds makes up for few programs


def test_the_spread_is_found_in_the_estimates() -> None:
    rng = np.random.default_rng(7)
    sds = (0.05, 0.2, 0.3)
    cells = crossed(400, 4, 100, sds, rng)
    found = effect(cells, np.arange(100), proportions=False)
    single = [Effect(*(np.asarray(part[i]) for part in (found.value, found.seed_error, found.program_error, found.rest_error)), 4, 100)
              for i in range(400)]  # fmt: skip
    spreads = [Spread.of(one) for one in single]
    expected = (sds[0] ** 2 + sds[2] ** 2 / 100, sds[1] ** 2 / 100, sds[2] ** 2 / 100)
    for name, value in zip(("seeds", "programs", "rest"), expected, strict=True):
        assert np.mean([getattr(spread, name) for spread in spreads]) == pytest.approx(value, rel=0.12)


def test_a_hierarchical_bootstrap_of_three_seeds_covers_too_rarely() -> None:
    cells = crossed(300, 3, 120, (0.1, 0.1, 0.1), np.random.default_rng(8))
    hierarchical = missed(statistics.hierarchical_interval(cells, np.arange(120), replicates=1000))
    assert 0.1 < hierarchical < 0.4
    assert missed(effect(cells, np.arange(120)).interval()) < 0.07
    many = crossed(200, 40, 120, (0.1, 0.1, 0.1), np.random.default_rng(9))
    assert missed(statistics.hierarchical_interval(many, np.arange(120), replicates=1000)) == pytest.approx(0.05, abs=0.045)


def test_seeds_with_items_of_their_own_are_students() -> None:
    found = statistics.effect_of_seeds([0.1, 0.3, 0.2])
    assert found.p() == pytest.approx(stats.ttest_1samp([0.1, 0.3, 0.2], 0).pvalue)
    for same in ([0.1, 0.1, 0.1], [0.0, 0.0, 0.0], [0.1]):
        assert np.isnan([*statistics.effect_of_seeds(same).interval(), statistics.effect_of_seeds(same).p()]).all()
