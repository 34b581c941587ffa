"""The table of matching of any run: that of ``dynamics.train`` in full, of other trainers what their settings say."""

from __future__ import annotations

from collections.abc import Mapping

from dynamics.errors import printable
from dynamics.io.locations import without_secrets
from dynamics.runs.matching import ROWS, SETTLED, Matching, Row
from dynamics.runs.readers.settings import text, whole
from dynamics.runs.view import Run

#: names of a setting in TRL and transformers, OpenRLHF, and verl, of which the first that is there counts
_NAMES = {
    "loss aggregation": ("loss_type", "actor_rollout_ref.actor.loss_agg_mode"),
    "schedule": ("lr_scheduler_type", "lr_scheduler", "actor_rollout_ref.actor.optim.warmup_style"),
    "estimator": ("algorithm.adv_estimator", "advantage_estimator"),
}
_LONGEST = ("max_completion_length", "max_new_tokens", "generate_max_len", "data.max_response_length")
_WARMUP = ("warmup_steps", "actor_rollout_ref.actor.optim.lr_warmup_steps")
#: what loss types of TRL, and modes of verl, average over
_AGGREGATIONS = {"grpo": "sequence-mean", "bnpo": "token-mean", "dapo": "token-mean", "dr_grpo": "constant"}
_AGGREGATIONS |= {"token-mean": "token-mean", "seq-mean-token-mean": "sequence-mean", "seq-mean-token-sum-norm": "constant"}
#: methods that are those of a table of ``matching.SETTLED`` under other names
_LIKE = {"sft": "sft", "grpo": "rlvr", "rloo": "rlvr", "ppo": "rlvr"}


def matching_of(run: Run) -> Matching:
    """Return the table of a run.

    Parameters
    ----------
    run : from ``dynamics.runs.open_run``; its settings may be a stranger's.

    Returns
    -------
    Matching
        With every row of ``matching.ROWS``. Of a run that another trainer made, only what its settings name in a way that is known here
        has a value. The program pool and the data order never have, and the base is known by its name only.
    """
    if run.matching is not None:
        return run.matching
    settings, config = run.settings, run.config
    method = run.method or ""
    is_sft = _LIKE.get(method) == "sft"
    group = 1 if is_sft else settings.group_size
    batch = settings.batch_size
    rows = {
        "optimizer steps": Row("", happened=settings.steps),
        "problems a step": Row("", batch // group if batch and group and batch % group == 0 else None),
        "completions a problem": Row("", group),
        "completions trained on": Row("", happened=batch * settings.steps if batch and settings.steps else None),
        "of them proposals": Row("", 0 if method in _LIKE else None),
        "learning rate": Row("", settings.learning_rate),
        "schedule": Row("", _schedule(config)),
        "loss aggregation": Row("", _aggregation(config)),
        "master dtype": Row("", settings.master_dtype),
        "storage dtype": Row("", settings.storage_dtype),
        "base": Row("", printable(without_secrets(run.base), 200) if run.base else None),
        "longest completion": Row("", whole(config, *_LONGEST)),
    }
    if method in _LIKE:
        rows |= {name: Row("", "none") for name in ("longest proposal", "proposer", "game")}
    if is_sft:
        rows |= {name: Row("", "none") for name in ("reward", "estimator", "baseline", "further terms of the loss", "sampling temperature")}
        rows["tokens sampled"] = Row("", 0)
    else:
        estimator = text(config, *_NAMES["estimator"]) or (method if method in ("grpo", "rloo") else None)
        rows["estimator"] = Row("", printable(estimator, 60) if estimator else None)
        rows["sampling temperature"] = Row("", f"{settings.temperature:g}" if settings.temperature is not None else None)
    settled = SETTLED.get(_LIKE.get(method, ""), {})
    table = [_named(rows.get(name, Row("")), name, settled) for name in ROWS]
    kind = printable(method, 40) + (f" of {printable(without_secrets(run.trainer), 60)}" if method else "")
    return Matching(kind, table, settings.seed)


def _named(row: Row, name: str, settled: Mapping[str, str]) -> Row:
    return Row(name, row.planned, row.happened, settled.get(name, ""), row.same_by)


def _schedule(config: Mapping[str, object]) -> str | None:
    name, warmup = text(config, *_NAMES["schedule"]), whole(config, *_WARMUP)
    return f"{printable(name, 60)}, {warmup} steps of warm-up" if name is not None and warmup is not None else None


def _aggregation(config: Mapping[str, object]) -> str | None:
    name = text(config, *_NAMES["loss aggregation"])
    return _AGGREGATIONS.get(name.lower()) if name is not None else None
