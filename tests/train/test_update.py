"""The gradient of a step against the formula, for any split into micro-batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dynamics.train import tiny, update
from dynamics.train.batch import Batch
from dynamics.train.config import RLVRConfig
from dynamics.train.policy import Policy
from train.helpers import llama


def batch() -> Batch:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(14, 60, n) for n in (5, 1, 9)]
    completions = [rng.integers(14, 60, n) for n in (3, 1, 7, 4, 2, 6, 3)]
    advantages = np.array([1.0, -1.0, 0.5, 0.0, -0.5, 0.0, 2.0])
    names = [f"n{number}" for number in range(7)]
    behaviour = [np.full(len(completion), -4.0, np.float32) for completion in completions]
    return Batch(prompts, completions, np.array([0, 0, 1, 1, 1, 2, 0]), advantages, ["solver"] * 7, ["t"] * 7, names, behaviour, 0.8)


def gradients(config, policy: Policy, given: Batch) -> dict[str, torch.Tensor]:
    policy.model.zero_grad()
    before = update.prepare(policy, policy, given, config, 1)
    result = update.gradient(policy, given, config, before)
    return {name: value.grad.clone() for name, value in policy.model.named_parameters()} | {"loss": torch.tensor(result.loss.sum())}


@pytest.mark.parametrize("more", [{}, {"kl_coef": 0.1}, {"entropy_coef": 0.1}])
def test_in_bfloat16_micro_batches_change_rounding_alone(more: dict) -> None:
    """The L2 distance of the gradients is at most twice their distance from those of float32."""
    policy, wide = (Policy(llama().eval(), tiny.build_tokenizer(), "float32", compute) for compute in ("bfloat16", "float32"))
    whole, exact = (gradients(RLVRConfig(max_tokens_per_microbatch=10_000, **more), model, batch()) for model in (policy, wide))
    for tokens, share in ((7, True), (20, True), (30, False), (10_000, False)):
        policy.shares = share
        split = gradients(RLVRConfig(max_tokens_per_microbatch=tokens, **more), policy, batch())
        for name, value in list(whole.items())[:-1]:  # without the loss
            assert (split[name] - value).norm() <= 2 * (exact[name] - value).norm() < 0.3 * value.norm(), name


@pytest.mark.parametrize(
    ("loss", "more"),
    [
        ("token-mean", {}),
        ("token-mean", {"entropy_coef": 0.1}),
        ("token-mean", {"kl_cov": 0.2, "num_iterations": 2}),
        ("token-mean", {"clip_cov": 0.2}),
        ("sequence-mean", {"kl_coef": 0.1}),
        ("sequence-mean", {"num_iterations": 2}),
        ("constant", {}),
        ("constant", {"kl_coef": 0.1, "num_iterations": 2}),
        ("role-task-mean", {}),
        ("role-task-mean", {"entropy_coef": 0.1, "kl_coef": 0.1}),
    ],
)
def test_micro_batches_change_nothing(loss: str, more: dict) -> None:
    policy = Policy(llama().eval(), tiny.build_tokenizer())
    whole = gradients(RLVRConfig(loss_aggregation=loss, max_tokens_per_microbatch=10_000, **more), policy, batch())
    for tokens, share in ((7, True), (20, True), (30, False), (10_000, False)):
        policy.shares = share
        split = gradients(RLVRConfig(loss_aggregation=loss, max_tokens_per_microbatch=tokens, **more), policy, batch())
        for name, value in whole.items():
            torch.testing.assert_close(split[name], value, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("tokens", "share"), [(7, True), (20, False), (10_000, True)])
def test_each_role_and_task_has_the_same_weight(tokens: int, share: bool) -> None:
    """The gradient is that of micro-batches of one cell, each averaged over its tokens, then averaged; the reference is in float64."""
    given = replace(
        batch(), roles=["solver"] * 4 + ["proposer"] * 3, tasks=["deduction", "deduction", "abduction", "abduction"] + ["t"] * 3
    )
    policy = Policy(llama().eval(), tiny.build_tokenizer())
    policy.shares = share
    computed = gradients(RLVRConfig(loss_aggregation="role-task-mean", max_tokens_per_microbatch=tokens), policy, given)
    model = llama().eval().double()
    for cell in ([0, 1], [2, 3], [4, 5, 6]):
        losses = [-given.advantages[sample] * logps(model, given, sample) for sample in cell]
        (torch.cat(losses).mean() / 3).backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(computed[name].double(), value.grad, atol=2e-6, rtol=1e-5, msg=name)


def logps(model, given: Batch, sample: int) -> torch.Tensor:
    """Log-probabilities (tokens,) of a completion, by a forward pass of its own."""
    prompt, made = given.prompts[given.prompt_of[sample]], given.completions[sample]
    logits = model(torch.tensor(np.concatenate([prompt, made]))[None]).logits[0, len(prompt) - 1 : -1] / given.temperature
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(made)[:, None])[:, 0]


def test_the_gradient_is_that_of_the_formula() -> None:
    """Compare the loop's gradient with that of the weighted log-likelihood, by a forward pass per completion."""
    model, given = llama().eval(), batch()
    policy = Policy(model, tiny.build_tokenizer())
    computed = gradients(RLVRConfig(), policy, given)
    model.zero_grad()
    total = 0
    for sample in range(len(given.completions)):
        total = total - (given.advantages[sample] * logps(model, given, sample)).sum() / given.lengths.sum()
    total.backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(computed[name], value.grad, atol=1e-5, rtol=1e-4)


def test_kl_cov_has_a_gradient_from_the_second_step_on_a_batch() -> None:
    """At the policy before the batch its gradient is that without it, which is why it is refused with one step."""
    policy, given = Policy(llama().eval(), tiny.build_tokenizer()), batch()
    plain, penalised = (RLVRConfig(num_iterations=2, kl_cov=fraction) for fraction in (0.0, 0.5))
    before = update.prepare(policy, None, given, penalised, 1)
    differences = []
    for _ in range(2):
        found = []
        for config in (plain, penalised):
            policy.model.zero_grad()
            update.gradient(policy, given, config, before if config.kl_cov else update.Before(before.old))
            found.append(torch.cat([value.grad.flatten() for value in policy.model.parameters()]))
        differences.append(float((found[0] - found[1]).norm() / found[0].norm()))
        with torch.no_grad():
            for value in policy.model.parameters():
                value.add_(value.grad, alpha=-0.01)
    assert differences[0] < 1e-5 < 1e-2 < differences[1]


@pytest.mark.parametrize(("only", "masters"), [(False, "float32"), (True, "float32"), (True, "bfloat16")])
def test_weight_decay_can_leave_out_norms_and_biases(only: bool, masters: str) -> None:
    """Without a gradient, a step of AdamW multiplies the decayed weights by 1 - learning rate x decay."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=2, n_positions=32)).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(1.0)
    policy = Policy(model, tiny.build_tokenizer(), masters)
    optimizer = update.make_optimizer(policy, RLVRConfig(weight_decay=0.5, decay_matrices_only=only, learning_rate=0.5))
    for value in policy.masters.values():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    left = {name for name, value in policy.masters.items() if (value == 1).all()}
    assert left == ({name for name in policy.masters if "bias" in name or "ln_" in name} if only else set())
    assert {value.detach().max().item() for name, value in policy.masters.items() if name not in left} == {0.75}
