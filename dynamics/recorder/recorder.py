"""The recorder: writes the metrics and the update sparsity of each step to ``metrics.jsonl``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from dynamics.checkpoints.parameter_names import ADAPTED
from dynamics.errors import InputError
from dynamics.recorder.sinks import open_sinks
from dynamics.runs.directory import RunDirectory

if TYPE_CHECKING:
    from dynamics.recorder.merged_weights import MergedWeights, Stored
    from dynamics.sparsity.accumulate import DiffStats

#: weights compared at once
CHUNK = 1 << 19


@runtime_checkable
class Model(Protocol):
    """A model of torch, whose trained parameters are measured."""

    def named_parameters(self) -> Iterable[tuple[str, Any]]:
        """List all parameters by name."""


#: weights by name, or a model
Parameters = Mapping[str, Any] | Iterable[tuple[str, Any]] | Model


class Recorder:
    """Writes a run directory from inside any training loop.

    Parameters
    ----------
    out : run directory; created if it does not exist.
    every : steps between measurements of the weights, which need a pass over the weights and two copies in memory.
    base : weights before training, torch tensors or arrays by name, or the model; if None, those of the first call of ``step``.
    tensorboard : also write events for TensorBoard, into ``out/tensorboard``.
    wandb : also log to this Weights & Biases project.

    Notes
    -----
    ``sparsity/RULE`` is the fraction of weights that are unchanged since the base, and ``sparsity_step/RULE`` since the previous step; see
    ``dynamics.sparsity`` for the rules. With float32 master weights, nearly all weights change in each step under the rule ``exact``,
    however small the update.

    For a model with a LoRA adapter, which must be given itself rather than its parameters by name, these are the numbers of the merged
    weights, ``base + scaling * B @ A``, over all weights of the model. Those of the trained parameters themselves are under ``factors/``.
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
        self._adapter: MergedWeights | None = None
        #: why merged weights of a model with an adapter are not measured; empty if they are, or if it has none
        self.not_merged = ""
        self._base = None if base is None else self._first(base)
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

    @property
    def measures_merged(self) -> bool:
        """Whether the weights belong to an adapter, and the merged weights are measured."""
        return self._adapter is not None

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
            self._base = self._first(named_parameters)
            self._previous = self._base if before_next else None
        elif measured or before_next:
            current = snapshot(named_parameters)
            if measured:
                metrics |= self._changes(current)
            self._previous = current if before_next else None
        self.seconds += time.perf_counter() - begin
        return metrics | {"time/recorder_seconds": time.perf_counter() - begin}

    def _first(self, parameters: Parameters) -> dict[str, Stored]:
        """Copy the weights at the start, and find out whether they belong to an adapter."""
        weights = snapshot(parameters)
        if getattr(parameters, "peft_config", None):
            from dynamics.recorder.merged_weights import MergedWeights

            try:
                self._adapter = MergedWeights(parameters)
            except InputError as error:
                self.not_merged = f"merged weights are not measured: {error}"
        elif any(ADAPTED.search(name) for name in weights):
            self.not_merged = "merged weights are not measured: give the recorder the model itself, not its parameters by name"
        return weights

    def _changes(self, current: dict[str, Stored]) -> dict[str, Any]:
        """Compute the change of all weights since the base and the previous step; of an adapter, those of its parameters too."""
        assert self._base is not None
        prefix = "factors/" if self._adapter or self.not_merged else ""
        metrics = _named(_change(self._base, current), "sparsity", "update_norm", prefix)
        if self._previous is not None:
            metrics |= _named(_change(self._previous, current), "sparsity_step", "step_norm", prefix)
        if self._adapter is not None:
            metrics |= _named(self._adapter.change_since_start(self._base, current), "sparsity", "update_norm")
            if self._previous is not None:
                metrics |= _named(self._adapter.change(self._previous, current), "sparsity_step", "step_norm")
        return metrics


def snapshot(named_parameters: Parameters) -> dict[str, Stored]:
    """Copy the weights as flat arrays of stored values, with the names of their dtypes; for sharded tensors, the local shard."""
    if isinstance(named_parameters, Mapping):
        items: Iterable[tuple[str, Any]] = named_parameters.items()
    elif isinstance(named_parameters, Model):
        items = trained_parameters(named_parameters)
    else:
        items = named_parameters
    return {name: _stored(value) for name, value in items}


def trained_parameters(model: Model) -> list[tuple[str, Any]]:
    """List the trained parameters of a model by name, without the prefix of a compiled model."""
    return [(name.replace("_orig_mod.", ""), value) for name, value in model.named_parameters() if value.requires_grad]


def _stored(value: Any) -> Stored:
    if isinstance(value, np.ndarray):
        return np.array(value).ravel(), str(value.dtype)
    import torch

    local = value.detach().to_local() if hasattr(value, "to_local") else value.detach()
    local = local.cpu().contiguous().reshape(-1)
    kind = str(local.dtype).removeprefix("torch.")
    return (local.view(torch.uint16) if kind == "bfloat16" else local).numpy().copy(), kind


def _change(base: dict[str, Stored], current: dict[str, Stored]) -> DiffStats:
    if missing := sorted(set(base) ^ set(current)):
        raise InputError(f"{missing[0]}: is in only one of the two sets of weights; record the same parameters in every step")
    return _diff_stats(base, current)


def _named(stats: DiffStats, rules: str, norm: str, prefix: str = "") -> dict[str, Any]:
    """Name sparsity by rule and the L2 norm of the update; against the base, also the relative norm."""
    from dynamics.sparsity.comparison import row

    total = row("total", stats)
    metrics: dict[str, Any] = {f"{rules}/{rule}": value for rule, value in total.sparsity.items()} | {norm: total.update_norm}
    metrics |= {"relative_update": total.relative_update} if rules == "sparsity" else {}
    return {f"{prefix}{name}": value for name, value in metrics.items()}


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
