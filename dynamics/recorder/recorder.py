"""The recorder: writes the metrics and the update sparsity of each step to ``metrics.jsonl``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.errors import InputError
from dynamics.recorder.sinks import open_sinks
from dynamics.runs.directory import RunDirectory

if TYPE_CHECKING:
    from dynamics.sparsity.accumulate import DiffStats

#: weights compared at once
CHUNK = 1 << 19

Parameters = Mapping[str, Any] | Iterable[tuple[str, Any]]
Stored = tuple[np.ndarray[Any, Any], str]


class Recorder:
    """Writes a run directory from inside any training loop.

    Parameters
    ----------
    out : run directory; created if it does not exist.
    every : steps between measurements of the weights, which need a pass over the weights and two copies in memory.
    base : weights before training, torch tensors or arrays by name; if None, those of the first call of ``step``.
    tensorboard : also write events for TensorBoard, into ``out/tensorboard``.
    wandb : also log to this Weights & Biases project.

    Notes
    -----
    ``sparsity/RULE`` is the fraction of weights that are unchanged since the base, and ``sparsity_step/RULE`` since the previous step; see
    ``dynamics.sparsity`` for the rules. With float32 master weights, nearly all weights change in each step under the rule ``exact``,
    however small the update.
    """

    def __init__(
        self, out: str | Path, *, every: int = 1, base: Parameters | None = None, tensorboard: bool = False, wandb: str | None = None
    ):
        if every < 1:
            raise InputError(f"every={every}: must be at least 1")
        self.every = every
        self.seconds = 0.0
        Path(out).mkdir(parents=True, exist_ok=True)
        self.directory = RunDirectory(out)
        self._base = None if base is None else snapshot(base)
        self._previous: dict[str, Stored] | None = self._base if every == 1 else None
        self._sinks = open_sinks(Path(out), tensorboard, wandb)

    def __enter__(self) -> Recorder:
        """Return the recorder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the run directory, TensorBoard and Weights & Biases."""
        self.directory.close()
        for sink in self._sinks:
            sink(None, {})

    def follow(self, step: int, named_parameters: Parameters) -> None:
        """Continue after ``step`` of a resumed run with these weights; ``base`` is unchanged."""
        self._previous = snapshot(named_parameters) if (step + 1) % self.every == 0 else None

    def step(self, step: int, named_parameters: Parameters | None, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Record a step and return its metrics. ``named_parameters`` are the weights after the step; None skips the measurement."""
        line: dict[str, Any] = {"step": step, **metrics}
        if named_parameters is not None:
            line |= self.measure(step, named_parameters)
        self.directory.append_metrics(line)
        for sink in self._sinks:
            sink(step, line)
        return line

    def measure(self, step: int, named_parameters: Parameters) -> dict[str, Any]:
        """Measure update sparsity if it is due at this step."""
        begin = time.perf_counter()
        metrics: dict[str, Any] = {}
        measured, before_next = step % self.every == 0, (step + 1) % self.every == 0
        if self._base is None:
            self._base = snapshot(named_parameters)
            self._previous = self._base if before_next else None
        elif measured or before_next:
            current = snapshot(named_parameters)
            if measured:
                metrics |= _change(self._base, current, "sparsity", "update_norm")
                if self._previous is not None:
                    metrics |= _change(self._previous, current, "sparsity_step", "step_norm")
            self._previous = current if before_next else None
        self.seconds += time.perf_counter() - begin
        return metrics | {"time/recorder_seconds": time.perf_counter() - begin}


def snapshot(named_parameters: Parameters) -> dict[str, Stored]:
    """Copy the weights as flat arrays of stored values, with the names of their dtypes; for sharded tensors, the local shard."""
    items = named_parameters.items() if isinstance(named_parameters, Mapping) else named_parameters
    return {name: _stored(value) for name, value in items}


def _stored(value: Any) -> Stored:
    if isinstance(value, np.ndarray):
        return np.array(value).ravel(), str(value.dtype)
    import torch

    local = value.detach().to_local() if hasattr(value, "to_local") else value.detach()
    local = local.cpu().contiguous().reshape(-1)
    kind = str(local.dtype).removeprefix("torch.")
    return (local.view(torch.uint16) if kind == "bfloat16" else local).numpy().copy(), kind


def _change(base: dict[str, Stored], current: dict[str, Stored], rules: str, norm: str) -> dict[str, Any]:
    """Compute sparsity by rule and the L2 norm of the update; against the base, also the relative norm."""
    from dynamics.sparsity.comparison import row

    if missing := sorted(set(base) ^ set(current)):
        raise InputError(f"{missing[0]}: is in only one of the two sets of weights; record the same parameters in every step")
    total = row("total", _diff_stats(base, current))
    metrics: dict[str, Any] = {f"{rules}/{rule}": value for rule, value in total.sparsity.items()} | {norm: total.update_norm}
    return metrics | ({"relative_update": total.relative_update} if rules == "sparsity" else {})


def _diff_stats(base: dict[str, Stored], current: dict[str, Stored]) -> DiffStats:
    from dynamics.io import threads
    from dynamics.sparsity import accumulate

    def stats_of_part(part: tuple[str, int]) -> DiffStats:
        name, start = part
        (a, dtype_a), (b, dtype_b) = base[name], current[name]
        if a.shape != b.shape:
            raise InputError(f"{name}: had {a.size:,} weights and has {b.size:,}")
        return accumulate.accumulate_arrays(a[start : start + CHUNK], dtype_a, b[start : start + CHUNK], dtype_b)

    parts = [(name, start) for name, (values, _) in base.items() for start in range(0, values.size, CHUNK)]
    with ThreadPoolExecutor(threads.cores()) as pool:
        return accumulate.total(pool.map(stats_of_part, parts))
