"""Advantages and losses: hand-computed cases and invariants."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dynamics import InputError
from dynamics.train import objectives as o

GROUPS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
REWARDS = np.array([1.0, 0, 0, 0, 1, 1, 0, 0])
LENGTHS = np.array([1, 2, 3, 4, 5, 6, 7, 8])


def of(name: str, rewards=REWARDS, groups=GROUPS, lengths=LENGTHS) -> np.ndarray:
    return o.advantages(name, np.asarray(rewards, float), np.asarray(groups), np.asarray(lengths))


def test_by_hand() -> None:
    np.testing.assert_allclose(of("dr_grpo"), [0.75, -0.25, -0.25, -0.25, 0.5, 0.5, -0.5, -0.5])
    np.testing.assert_allclose(of("rloo"), [1, -1 / 3, -1 / 3, -1 / 3, 2 / 3, 2 / 3, -2 / 3, -2 / 3])
    # standard deviations with n - 1: sqrt(0.75 / 3) = 0.5 and sqrt(1 / 3)
    np.testing.assert_allclose(of("grpo"), [1.5, -0.5, -0.5, -0.5, *np.array([0.5, 0.5, -0.5, -0.5]) * 3**0.5], rtol=1e-5)
    np.testing.assert_allclose(of("reinforce"), REWARDS)
    # two samples, lengths 1 and 3: mean over tokens 1/4, variance 3/16; over samples 1/2, 1/4
    pair = {"rewards": [1, 0], "groups": [0, 1], "lengths": [1, 3]}
    np.testing.assert_allclose(of("reinforce++", **pair), [3**0.5, -(3**-0.5)], rtol=1e-6)
    np.testing.assert_allclose(of("reinforce++-sequence", **pair), [1, -1], rtol=1e-6)
    np.testing.assert_allclose(of("reinforce++-baseline", **pair), of("reinforce++", **pair))  # groups of one have no baseline
    # centred: 1/2, -1/2, 0, 0; over tokens the mean is 0 and the variance (1 + 1) / 4 / 4
    four = {"rewards": [1, 0, 1, 1], "groups": [3, 3, 1, 1], "lengths": [1, 1, 1, 1]}
    np.testing.assert_allclose(of("reinforce++-baseline", **four), [2**0.5, -(2**0.5), 0, 0], atol=1e-7)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_group_laws(name: str, rng) -> None:
    groups, lengths = rng.integers(0, 7, 50), rng.integers(1, 9, 50)
    rewards = rng.normal(size=50)
    advantages = of(name, rewards, groups, lengths)
    for group in range(7):
        assert abs(advantages[groups == group].sum()) < 1e-9
    np.testing.assert_allclose(of(name, rewards + groups, groups, lengths), advantages, atol=1e-9)  # a shift of a group
    order = rng.permutation(50)
    np.testing.assert_allclose(of(name, rewards[order], groups[order], lengths[order]), advantages[order], atol=1e-12)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce++", "reinforce++-sequence", "reinforce++-baseline"])
def test_equal_rewards_teach_nothing(name: str) -> None:
    assert (of(name, [0.1] * 3, [0, 0, 0], [1, 2, 3]) == 0).all()  # the mean of three 0.1 is not 0.1
    assert (of(name, [0.7], [0], [4]) == 0).all()  # a group of one


def test_whitening_weighs_what_its_name_says(rng) -> None:
    rewards, lengths = rng.normal(size=30), rng.integers(1, 20, 30)
    tokens, sequences = of("reinforce++", rewards, np.arange(30), lengths), of("reinforce++-sequence", rewards, np.arange(30), lengths)
    assert abs((tokens * lengths).sum()) < 1e-9
    assert abs(tokens.sum()) > 1e-3
    assert abs(sequences.sum()) < 1e-9
    np.testing.assert_allclose((tokens**2 * lengths).sum() / lengths.sum(), 1, rtol=1e-6)


def test_reinforce_pp_with_a_baseline_is_whitening_of_centred_rewards(rng) -> None:
    groups, lengths = np.append(rng.integers(0, 7, 49), 99), rng.integers(1, 20, 50)  # the last is alone
    rewards = rng.normal(size=50) + groups
    centred = np.array([rewards[i] - (rewards[groups == groups[i]].mean() if groups[i] < 99 else 0) for i in range(50)])
    by_token = np.repeat(centred, lengths)
    advantages = of("reinforce++-baseline", rewards, groups, lengths)
    np.testing.assert_allclose(advantages, (centred - by_token.mean()) / by_token.std(), rtol=1e-6, atol=1e-9)
    harder = of("reinforce++-baseline", rewards - 5.0 * (groups == 3), groups, lengths)
    np.testing.assert_allclose(harder, advantages, atol=1e-9)  # how hard a prompt is does not count


def test_aggregation() -> None:
    lengths = np.array([1, 9])
    assert o.token_weights("token-mean", lengths, 10).tolist() == [0.1, 0.1]
    assert o.token_weights("sequence-mean", lengths, 10).tolist() == [0.5, 0.5 / 9]
    assert o.token_weights("constant", lengths, 10).tolist() == [0.05, 0.05]
    assert o.token_weights("sequence-mean", np.array([0, 2]), 10).tolist() == [0, 0.25]
    roles, tasks = ["solver", "solver", "proposer", "solver", "solver"], ["a", "b", "a", "a", "c"]
    cells = o.token_weights("role-task-mean", np.array([2, 5, 1, 6, 0]), 10, roles, tasks)
    assert cells.tolist() == [1 / 24, 1 / 15, 1 / 3, 1 / 24, 1 / 3]  # the last has no token, and is no cell
    assert o.token_weights("role-task-mean", lengths, 10, ["s", "s"], ["a", "a"]).tolist() == [0.1, 0.1]


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"'grop': unknown; there are grpo, dr_grpo"):
        of("grop")
    with pytest.raises(InputError, match="empty group"):
        of("grpo", [], [], [])
    with pytest.raises(InputError, match="sample 1 is not finite"):
        of("grpo", [1, np.nan], [0, 0], [1, 1])
    with pytest.raises(InputError, match="unknown; there are token-mean"):
        o.token_weights("mean", LENGTHS, 3)
    with pytest.raises(InputError, match="no completion tokens"):
        o.token_weights("token-mean", np.zeros(2), 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [(1.0, 2.0, -2.0), (1.0, -2.0, 2.0), (1.5, 1.0, 0.0), (1.5, -1.0, 1.5), (0.5, 1.0, -0.5), (0.5, -1.0, 0.0), (1.25, 1.0, -1.25)],
)
def test_clipping_takes_the_gradient_where_the_step_went_far_enough(ratio: float, advantage: float, gradient: float) -> None:
    logp = torch.tensor([np.log(ratio)], dtype=torch.float64, requires_grad=True)
    old, weight = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    o.policy_loss(logp, old, weight, 0.2, 0.28).sum().backward()
    assert logp.grad.item() == pytest.approx(gradient)
    low, high = o.clipped(logp.detach(), old, weight, 0.2, 0.28)
    assert bool(low | high) == (gradient == 0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (2.9, -2.0, 5.8, 5.8),
        (3.1, -2.0, 6.0, 0.0),
        (50.0, -0.5, 1.5, 0.0),
        (3.1, 2.0, -2.4, 0.0),
        (1.0, 2.0, -2.0, -2.0),
        (0.5, -1.0, 0.8, 0.0),
    ],
)
def test_dual_clipping_bounds_what_a_negative_advantage_costs(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    logp = torch.tensor([np.log(ratio)], dtype=torch.float64, requires_grad=True)
    old, weight = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    found = o.policy_loss(logp, old, weight, 0.2, 0.2, 3.0).sum()
    found.backward()
    assert (found.item(), logp.grad.item()) == (pytest.approx(loss), pytest.approx(gradient))
    assert o.dual_clipped(logp.detach(), old, weight, 3.0).item() == (advantage < 0 and ratio > 3)
    assert not o.dual_clipped(logp.detach(), old, weight, 0.0).any()


def test_kl_estimators_on_known_distributions() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.3, 0.3, 0.4]).double()
    exact = (p * (p / q).log()).sum()
    expected = {name: (p * getattr(o, name)(p.log(), q.log())).sum() for name in ("kl_k1", "kl_k2", "kl_k3")}
    assert expected["kl_k1"].item() == pytest.approx(exact.item())
    assert expected["kl_k3"].item() == pytest.approx(exact.item())
    assert abs(expected["kl_k2"] - exact) > 0.005
    assert (o.kl_k3(p.log(), q.log()) >= 0).all()


def test_covariance_masks() -> None:
    logp, advantage = torch.tensor([-1.0, -2, -3, -6]), torch.tensor([1.0, 1, -1, -1])
    cov = o.covariance(logp, advantage)
    assert cov.tolist() == [2, 1, 0, 3]
    assert o.kl_cov_mask(cov, 0.5).tolist() == [True, False, False, True]
    assert o.kl_cov_mask(cov, 0.01).sum() == 1
    assert o.kl_cov_mask(cov, 0.0).sum() == 0
    picked = o.clip_cov_mask(cov, 0.5, 1.0, 2.0, np.random.default_rng(0))
    assert picked.tolist() == [True, True, False, False]
    assert o.clip_cov_mask(cov, 0.25, 1.0, 5.0, np.random.default_rng(0)).sum() == 1
    assert o.clip_cov_mask(cov, 0.9, 10.0, 20.0).sum() == 0
    assert o.clip_cov_mask(cov, 0.01, 1.0, 5.0).sum() == 1  # 0.01 of four tokens is none
    assert o.clip_cov_mask(cov, 0.01, 10.0, 20.0).sum() == o.clip_cov_mask(cov, 0.0).sum() == 0
    none = torch.zeros(0)
    assert len(o.clip_cov_mask(none, 0.5)) == len(o.kl_cov_mask(none, 0.5)) == 0
