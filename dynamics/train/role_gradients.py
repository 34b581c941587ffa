"""The gradient of each role of a batch, without disturbing the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dynamics.errors import InputError
from dynamics.games import conflict
from dynamics.train import update
from dynamics.train.batch import Batch
from dynamics.train.config import TrainConfig
from dynamics.train.policy import Policy

if TYPE_CHECKING:
    from torch import Tensor


def role_gradients(
    policy: Policy, batch: Batch, config: TrainConfig, before: update.Before, parts: Sequence[str] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Compute what each part of a batch contributes to its gradient.

    Parameters
    ----------
    policy : the policy before the update. Its gradients, and all else, are as before afterwards, so that an update that follows has the
        same bits as without this.
    batch : as for ``update.gradient``. The weight of a token is that in the whole batch, so the gradients of all parts sum to its gradient.
    config, before : as for ``update.gradient``.
    parts : (samples,) name of the part of each sample; the batch's roles if None. Samples that are not trained contribute nothing.

    Returns
    -------
    Part -> parameter -> gradient, in the dtype of the model's parameters, before clipping.

    Raises
    ------
    InputError : as many names as samples are needed.

    Notes
    -----
    Costs the forward pass of the batch once per part and its backward pass once: about as much as the update itself for two roles.
    Memory: a copy of the gradient per part.
    """
    names = list(batch.roles if parts is None else parts)
    if len(names) != len(batch.completions):
        raise InputError(f"{len(names)} parts for {len(batch.completions)} samples: expected one of each")
    trained = np.ones(len(names), bool) if batch.trained is None else batch.trained
    parameters = {name: value for name, value in policy.model.named_parameters() if value.requires_grad}
    kept = {name: value.grad for name, value in parameters.items()}
    found: dict[str, dict[str, Tensor]] = {}
    try:
        for part in dict.fromkeys(names):
            for value in parameters.values():
                value.grad = None
            own = np.array([name == part for name in names])
            update.gradient(policy, replace(batch, trained=trained & own), config, before)
            found[part] = {name: value.new_zeros(value.shape) if value.grad is None else value.grad for name, value in parameters.items()}
    finally:
        for name, value in parameters.items():
            value.grad = kept[name]
    return found


def conflict_metrics(gradients: dict[str, dict[str, Tensor]], invalid: dict[str, dict[str, Tensor]] | None = None) -> dict[str, float]:
    """Turn the gradients of roles into metrics of a step.

    Parameters
    ----------
    gradients : of ``role_gradients``, by role.
    invalid : the same by other parts, of which ``invalid`` is that of invalid proposals; None if it was not computed.

    Returns
    -------
    conflict/norm/ROLE : L2 norm of each role's gradient, before clipping.
    conflict/cosine/A/B, conflict/norm_ratio/A/B : of each two roles, see ``dynamics.games.conflict``.
    conflict/share/ROLE : part of the update's length that the role makes; they sum to 1.
    conflict/share/invalid : the same of invalid proposals.
    """
    roles = sorted(gradients)
    metrics = {f"conflict/norm/{role}": conflict.norm(gradients[role]) for role in roles}
    for place, first in enumerate(roles):
        for second in roles[place + 1 :]:
            metrics[f"conflict/cosine/{first}/{second}"] = conflict.cosine(gradients[first], gradients[second])
            metrics[f"conflict/norm_ratio/{first}/{second}"] = conflict.norm_ratio(gradients[first], gradients[second])
    metrics |= {f"conflict/share/{role}": value for role, value in conflict.shares(gradients).items()}
    if invalid is not None and "invalid" in invalid:
        metrics["conflict/share/invalid"] = conflict.shares(invalid)["invalid"]
    return metrics
