"""The schema of run directories, and the translation from the first schema, ``dynamics.run/1``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

SCHEMA = "dynamics.run/2"
_FIRST = "dynamics.run/1"
#: schemas that ``current_document`` translates
KNOWN = frozenset([_FIRST, SCHEMA])


class _Document(msgspec.Struct):
    """The fields of ``run.json`` that are read, which other trainers' recorders may leave out; of other fields nothing is expected."""

    schema: str | None = None
    method: str | None = None
    preset: str | None = None
    config: dict[str, Any] | None = None
    seed: int | None = None
    model: str | None = None
    threads: int | None = None
    compute_dtype: str | None = None
    status: str | None = None
    packages: dict[str, str | None] | None = None
    machines: list[dict[str, Any]] | None = None
    notes: list[str] | None = None
    checksums: dict[str, str] | None = None


#: renamed settings: name in the first schema -> current name
RENAMED_SETTINGS = {
    "schedule": "lr_scheduler",
    "warmup": "warmup_steps",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "clip": "max_grad_norm",
    "loss": "loss_aggregation",
    "micro_tokens": "max_tokens_per_microbatch",
    "fixed_every": "probe_every",
    "problems": "num_problems",
    "batch": "batch_size",
    "updates": "num_iterations",
    "clip_low": "clip_ratio_low",
    "clip_high": "clip_ratio_high",
    "kl": "kl_coef",
    "entropy_bonus": "entropy_coef",
    "prompts": "prompts_per_step",
    "group": "group_size",
    "propose_tokens": "max_proposal_tokens",
    "kinds": "task_types",
    "references": "num_references",
    "reward": "proposer_reward",
    "bonuses": "proposer_bonuses",
    "combine": "bonus_combination",
    "invalid": "invalid_proposal_reward",
    "wrong": "wrong_answer_reward",
    "unformed": "format_error_reward",
    "buffer": "buffer_size",
    "seeding": "num_seed_tasks",
    "lag": "solver_delay",
    "curriculum": "curriculum_samples",
}
#: field of a line of ``metrics.jsonl`` that names its values that are not finite, and what they may be
NOT_FINITE = "not_finite"
_VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
#: renamed metrics: prefix of a key of ``metrics.jsonl`` in the first schema -> current prefix
_RENAMED_METRICS = {"fixed/": "probe/", "time/fixed_seconds": "time/probe_seconds"}


def current_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a ``run.json`` document to the current schema.

    Parameters
    ----------
    document
        Contents of the file. Only documents of ``dynamics.run/1`` are changed; settings are translated only if
        ``python -m dynamics.train`` wrote them.

    Returns
    -------
    dict
        A new document.

    Raises
    ------
    ValueError
        A field has another type than expected; the message names it.
    """
    msgspec.convert(document, _Document)
    if document.get("schema") != _FIRST:
        return dict(document)
    current = {("probe_prompts" if key == "fixed_prompts" else key): value for key, value in document.items()}
    current["schema"] = SCHEMA
    settings = document.get("config")
    if isinstance(settings, dict) and "eval_problems" in settings:
        current["config"] = {RENAMED_SETTINGS.get(name, name): _current_value(name, value) for name, value in settings.items()}
    return current


def _current_value(name: str, value: Any) -> Any:
    """Translate the value of a setting of the first schema, which had lists as comma-separated text and booleans as 0 and 1."""
    if name == "eval_temperatures":
        return [float(part) for part in value.split(",")]
    if name in ("kinds", "bonuses"):
        return [part for part in value.split(",") if part]
    return bool(value) if name == "allow_unconfined" else value


def current_metrics(line: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the keys of a line of ``metrics.jsonl`` from the first to the current schema."""
    return {_current_key(key): value for key, value in line.items()}


def with_not_finite(line: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a line of ``metrics.jsonl`` the names of the values that JSON cannot hold, and what they are: ``nan``, ``inf`` or ``-inf``.

    >>> with_not_finite({"step": 1, "loss": float("nan")})
    {'step': 1, 'loss': nan, 'not_finite': {'loss': 'nan'}}
    """
    named = {name: str(float(value)) for name, value in line.items() if isinstance(value, (float, np.floating)) and not np.isfinite(value)}
    return {**line, NOT_FINITE: named} if named else dict(line)


def values_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of ``metrics.jsonl`` with the values that JSON cannot hold in the place of null.

    >>> values_of({"step": 1, "loss": None, "kl": None, "not_finite": {"loss": "-inf", "other": "1"}})
    {'step': 1, 'loss': -inf, 'kl': None}
    """
    named = line.get(NOT_FINITE)
    found = {name: _VALUES.get(str(value)) for name, value in named.items()} if isinstance(named, dict) else {}
    return {name: found.get(name) if value is None else value for name, value in line.items() if name != NOT_FINITE}


def _current_key(key: str) -> str:
    old = next((old for old in _RENAMED_METRICS if key.startswith(old)), "")
    return _RENAMED_METRICS[old] + key.removeprefix(old) if old else key
