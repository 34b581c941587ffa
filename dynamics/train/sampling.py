"""Sampling from a policy, whoever does it: several processes or this one, the model itself or a sampler beside it."""

from __future__ import annotations

from dynamics.train.completions import Request, SampledCompletion
from dynamics.train.policy import Policy
from dynamics.train.samplers import transformers


def sample(policy: Policy, request: Request) -> list[list[SampledCompletion]]:
    """Sample from a policy, by the processes that share it; returns the completions of each prompt."""
    return here(policy, request) if policy.shared_by is None else policy.shared_by.sample(policy, request)


def here(policy: Policy, request: Request) -> list[list[SampledCompletion]]:
    """Sample as ``sample`` does, in this process, by the sampler of the policy if it has one."""
    return transformers.sample(policy, request) if policy.sampler is None else policy.sampler.sample(policy, request)
