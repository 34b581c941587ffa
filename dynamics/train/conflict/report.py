"""Compute the gradient of the step after each checkpoint again, by role.

A checkpoint and the rollouts of the next step hold all that a gradient was made of, so a run that recorded no gradients can be measured
later. What was logged as ``grad_norm`` of that step says whether the gradient is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dynamics.errors import InputError, printable
from dynamics.games import conflict
from dynamics.io.json_lines import read_json_lines
from dynamics.io.validation import converted
from dynamics.train.config import PolicyGradientConfig
from dynamics.train.finished import open_finished

SCHEMA = "dynamics.conflict/1"
#: relative difference of the computed norm to the logged one up to which the gradient counts as that of the run
TOLERANCE = 1e-3


class _Row(msgspec.Struct):
    """The fields of a rollout that a gradient is made of."""

    prompt_ids: list[int]
    completion_ids: list[int]
    role: str
    task: str = ""
    player: str = ""
    advantage: float | None = None
    valid: bool | None = None
    temperature: float = 1.0


@dataclass(frozen=True)
class StepConflict:
    """The gradients of one step.

    Attributes
    ----------
    step : that the gradient belongs to.
    metrics : of ``role_gradients.conflict_metrics``, of the roles and, where there are invalid proposals, of these.
    norm : of the whole gradient, before clipping.
    logged : ``grad_norm`` of the step in ``metrics.jsonl``; None if there is none.
    samples : by role.
    invalid : number of invalid proposals.
    """

    step: int
    metrics: dict[str, float]
    norm: float
    logged: float | None
    samples: dict[str, int]
    invalid: int

    @property
    def is_of_the_run(self) -> bool | None:
        """Whether the norm agrees with what was logged; None if nothing was."""
        return None if self.logged is None else abs(self.norm - self.logged) <= TOLERANCE * abs(self.logged)


def of_run(path: Path, player: str = "", progress: Callable[[int, int], None] | None = None) -> list[StepConflict]:
    """Compute the conflict of roles at each checkpoint that a recorded step follows.

    Parameters
    ----------
    path : run directory.
    player : whose policy; the graded one's if empty.
    progress : called with (steps done, all).

    Raises
    ------
    InputError : a method without sampled completions, adapters, no checkpoint with rollouts after it, or damaged rollouts.
    """
    run = open_finished(path)  # before torch is imported, which takes seconds
    from dynamics.train import update
    from dynamics.train.role_gradients import conflict_metrics, role_gradients

    config = run.config
    if not isinstance(config, PolicyGradientConfig):
        raise InputError(f"{printable(path)}: {run.document.get('method')} samples nothing; there are no roles")
    folders = run.checkpoints(player)
    files = run.directory.step_files("rollouts")
    who = player or run.document.get("graded", "")
    if not player and "graded_at" in run.document:
        raise InputError(f"{printable(path)}: its graded player changes; name one with --player: {', '.join(map(printable, run.players))}")
    steps = [step for step in folders if step + 1 in files]
    if not steps:
        raise InputError(f"{printable(path)}: no checkpoint has rollouts of the step after it")
    if any((folders[step] / "adapter_config.json").exists() for step in steps):
        raise InputError(f"{printable(path)}: its players are LoRA adapters; gradients are computed of whole weights only, not of factors")
    logged = {line["step"]: line.get(f"player/{who}/grad_norm" if who else "grad_norm") for line in run.directory.metrics()}
    reference = run.load(folders[0]) if config.kl_coef and 0 in folders else None
    if config.kl_coef and reference is None:
        raise InputError(f"{printable(path)}: was trained with a KL penalty to its base, and has no checkpoint of step 0")
    found = []
    for number, step in enumerate(steps):
        policy = run.load(folders[step])
        rows, batch = _batch(files[step + 1], who)
        before = update.prepare(policy, reference, batch, config, step + 1)
        kinds = [f"{row.role} invalid" if row.valid is False else row.role for row in rows]
        parts = role_gradients(policy, batch, config, before, kinds)
        roles = {
            role: _sum([part for name, part in parts.items() if name.removesuffix(" invalid") == role])
            for role in dict.fromkeys(batch.roles)
        }
        whole = _sum(list(roles.values()))
        refused = [part for name, part in parts.items() if name.endswith(" invalid")]
        others = [part for name, part in parts.items() if not name.endswith(" invalid")]
        invalid = {"invalid": _sum(refused), "rest": _sum(others)} if refused and others else None
        value = logged.get(step + 1)
        found.append(
            StepConflict(
                step + 1,
                conflict_metrics(roles, invalid),
                conflict.norm(whole),
                float(value) if isinstance(value, (int, float)) else None,
                {role: batch.roles.count(role) for role in roles},
                sum(row.valid is False for row in rows),
            )
        )
        if progress:
            progress(number + 1, len(steps))
    return found


def to_dict(found: list[StepConflict], path: Path, player: str) -> dict[str, Any]:
    """Build the JSON document ``dynamics.conflict/1``."""
    steps = [vars(one) | {"is_of_the_run": one.is_of_the_run} for one in found]
    return {"schema": SCHEMA, "run": str(path), "player": player, "steps": steps}


def _sum(gradients: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: sum((each[name].double() for each in gradients[1:]), gradients[0][name].double()) for name in gradients[0]}


def _batch(path: Path, player: str) -> tuple[list[_Row], Any]:
    """Read the completions of a step that were trained on, and make the batch of them that was trained on."""
    from dynamics.train.batch import Batch

    rows: list[_Row] = []
    for number, line in read_json_lines(path):
        row = converted(line, _Row, f"{printable(path)}, line {number}")
        if row.advantage is not None and (not player or row.player == player):
            if not row.completion_ids or not row.prompt_ids or min(*row.completion_ids, *row.prompt_ids) < 0:
                raise InputError(f"{printable(path)}, line {number}: has no tokens; restore the file from a copy")
            rows.append(row)
    if not rows:
        raise InputError(f"{printable(path)}: no completion in it was trained on")
    prompts: list[list[int]] = []
    prompt_of = []
    for row in rows:
        if not prompts or prompts[-1] != row.prompt_ids or row.valid is not None:
            prompts.append(row.prompt_ids)
        prompt_of.append(len(prompts) - 1)
    batch = Batch(
        [np.array(prompt, np.int64) for prompt in prompts],
        [np.array(row.completion_ids, np.int64) for row in rows],
        np.array(prompt_of),
        np.array([row.advantage for row in rows], float),
        [row.role for row in rows],
        [row.task for row in rows],
        [f"{row.role} {row.task}" for row in rows],
        None,
        rows[0].temperature,
    )
    return rows, batch
