"""Gradients of roles: they sum to that of the batch, and computing them changes no bit of the update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.errors import InputError
from dynamics.games import cosine, norm, norm_ratio, shares
from dynamics.train import policy as policies
from dynamics.train import update
from dynamics.train.batch import Batch
from dynamics.train.config import SelfPlayConfig
from dynamics.train.role_gradients import conflict_metrics, role_gradients

CONFIG = SelfPlayConfig(loss_aggregation="role-task-mean", learning_rate=1e-3)


@pytest.fixture
def policy(lab_base):
    return policies.load(str(lab_base), "cpu", "float32", "float32")


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(3)
    prompts = [rng.integers(20, 60, size) for size in (4, 6, 5)]
    completions = [rng.integers(20, 60, size) for size in (3, 7, 2, 5, 4)]
    return Batch(
        prompts,
        completions,
        np.array([0, 1, 2, 2, 2]),
        np.array([1.0, -0.5, 0.7, -1.2, 0.0]),
        ["proposer", "proposer", "solver", "solver", "solver"],
        ["deduction"] * 5,
        ["a"] * 5,
    )


def gradient(policy, batch: Batch) -> dict[str, torch.Tensor]:
    update.gradient(policy, batch, CONFIG, update.Before())
    found = {name: value.grad.clone() for name, value in policy.model.named_parameters()}
    for value in policy.model.parameters():
        value.grad = None
    return found


def test_parts_sum_to_the_gradient_of_the_batch(policy, batch: Batch) -> None:
    whole = gradient(policy, batch)
    parts = role_gradients(policy, batch, CONFIG, update.Before())
    assert list(parts) == ["proposer", "solver"]
    for name, value in whole.items():
        torch.testing.assert_close(parts["proposer"][name] + parts["solver"][name], value, rtol=1e-4, atol=1e-7)
    metrics = conflict_metrics(parts)
    assert metrics["conflict/cosine/proposer/solver"] == cosine(parts["proposer"], parts["solver"])
    assert metrics["conflict/norm_ratio/proposer/solver"] == norm_ratio(parts["proposer"], parts["solver"])
    assert metrics["conflict/norm/solver"] == norm(parts["solver"])
    assert metrics["conflict/share/proposer"] + metrics["conflict/share/solver"] == pytest.approx(1)
    assert "conflict/share/invalid" not in metrics


def test_a_part_is_the_gradient_of_its_samples(policy, batch: Batch) -> None:
    kinds = ["proposer", "invalid", "solver", "solver", "solver"]
    parts = role_gradients(policy, batch, CONFIG, update.Before(), kinds)
    alone = gradient(policy, replace(batch, advantages=np.array([0, -0.5, 0, 0, 0.0])))
    for name, value in alone.items():
        torch.testing.assert_close(parts["invalid"][name], value, rtol=1e-4, atol=1e-7)
    assert conflict_metrics(parts, parts)["conflict/share/invalid"] == shares(parts)["invalid"]


def test_samples_that_are_not_trained_contribute_nothing(policy, batch: Batch) -> None:
    frozen = replace(batch, trained=np.array([False, False, True, True, True]))
    parts = role_gradients(policy, frozen, CONFIG, update.Before())
    assert all(not value.any() for value in parts["proposer"].values())
    assert np.isnan(conflict_metrics(parts)["conflict/cosine/proposer/solver"])


def test_the_update_has_the_same_bits(policy, batch: Batch) -> None:
    def trained(measured: bool) -> tuple[dict[str, torch.Tensor], float]:
        copy = policy.copy()
        optimizer = update.make_optimizer(copy, CONFIG)
        for step in (1, 2):
            if measured:
                role_gradients(copy, batch, CONFIG, update.Before())
            tokens = update.gradient(copy, batch, CONFIG, update.Before())
            if measured and step == 2:  # also between gradient and step
                role_gradients(copy, batch, CONFIG, update.Before())
            length = update.optimizer_step(copy, optimizer, CONFIG, step, tokens, batch)
        return {name: value.detach().clone() for name, value in copy.masters.items()}, length

    plain, measured = trained(False), trained(True)
    assert plain[1] == measured[1]
    assert all(torch.equal(value, measured[0][name]) for name, value in plain[0].items())


def test_a_part_for_each_sample_is_needed(policy, batch: Batch) -> None:
    with pytest.raises(InputError, match="2 parts for 5 samples"):
        role_gradients(policy, batch, CONFIG, update.Before(), ["a", "b"])
