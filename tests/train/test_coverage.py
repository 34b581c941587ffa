"""How many programs a run has met."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.train import data_order
from dynamics.train.config import RLVRConfig
from dynamics.train.coverage import Coverage, PoolCoverage, unseen_mass
from dynamics.train.methods.rlvr import RLVR
from dynamics.train.policy import load
from dynamics.train.tasks.triplets import Triplets

STEPS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=5), max_size=6)


@given(STEPS, st.sets(st.sampled_from("abcxyz")), st.integers(0, 6))
def test_counts_over_steps_also_after_a_resume(steps: list[list[str]], pool: set[str], killed: int) -> None:
    coverage, met = Coverage(pool), set()
    for number, programs in enumerate(steps):
        if number == killed:
            coverage = Coverage(pool, coverage.kept())
        metrics = coverage.add(programs)
        expected: dict[str, float] = {"coverage/programs": len(met | set(programs))}
        if programs:
            expected["coverage/new"] = np.mean([program not in met for program in programs])
        met |= set(programs)
        if pool:
            expected["coverage/pool"] = len(met & pool) / len(pool)
        assert metrics == expected


def test_coverage_of_a_pool_is_a_function_of_the_step() -> None:
    programs = [f"p{number // 2}" for number in range(20)]  # each with two problems

    def order(step: int) -> list[int]:
        return data_order.chosen(3, step, 4, 20)

    straight = PoolCoverage(order, programs)
    by_step = [straight.after(step) for step in range(1, 12)]
    assert PoolCoverage(order, programs).after(7) == by_step[6]
    assert straight.after(2) == by_step[1]
    first = {programs[index] for index in data_order.chosen(3, 1, 4, 20)}
    assert by_step[0] == {"coverage/new": 1, "coverage/programs": len(first), "coverage/pool": len(first) / 10}
    assert by_step[4]["coverage/pool"] == 1  # an epoch
    assert by_step[10]["coverage/new"] == 0


def test_coverage_follows_the_order_of_the_run(base: Path) -> None:
    config = RLVRConfig(model=str(base), steps=5, prompts_per_step=2, num_problems=10, data_order="recorded")
    policy = load(str(base), None, "float32", "float32")
    method = RLVR(config, policy, Triplets())
    programs = [question.program or question.id for question in method.questions]
    expected = Coverage(programs)
    for step in range(1, 6):
        met = expected.add([programs[index] for index in data_order.recorded(step, 5, 2, 10)])
        assert method.coverage.after(step) == met


def test_good_turing_is_unbiased() -> None:
    """Mean over draws against the exact expectation of the probability of what was not drawn in one draw fewer."""
    rng = np.random.default_rng(0)
    share = np.array([0.4, 0.3, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02])
    estimates = [unseen_mass([str(item) for item in rng.choice(8, 6, p=share)]) for _ in range(4000)]
    assert np.mean(estimates) == pytest.approx(float((share * (1 - share) ** 5).sum()), abs=4 * np.std(estimates) / 4000**0.5)
