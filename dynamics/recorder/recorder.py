"""The recorder: writes the metrics and the update sparsity of each step to ``metrics.jsonl``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from dynamics.checkpoints.parameter_names import ADAPTED
from dynamics.errors import InputError
from dynamics.recorder import ranks
from dynamics.recorder.sinks import open_sinks
from dynamics.runs.directory import RunDirectory

if TYPE_CHECKING:
    from dynamics.recorder.merged_weights import MergedWeights, Stored
    from dynamics.sparsity.accumulate import DiffStats

#: weights compared at once
CHUNK = 1 << 19
#: prefix of the metrics of a change -> name of its L2 norm
NORMS = {"sparsity": "update_norm", "sparsity_step": "step_norm"}
T = TypeVar("T")


@runtime_checkable
class Model(Protocol):
    """A model of torch, whose trained parameters are measured."""

    def named_parameters(self) -> Iterable[tuple[str, Any]]:
        """List all parameters by name."""


@runtime_checkable
class Recomputed(Protocol):
    """Weights by name that are computed when they are read, such as those of a frozen base with the factors of an adapter."""

    def items(self) -> Iterable[tuple[str, Any]]:
        """List them by name."""

    def kept(self) -> Recomputed:
        """Return them as they are now, in less memory than a copy takes."""


#: weights by name, or a model
Parameters = Mapping[str, Any] | Iterable[tuple[str, Any]] | Model


class Recorder:
    """Writes a run directory from inside any training loop.

    Parameters
    ----------
    out : run directory; created if it does not exist.
    every : steps between measurements of the weights, which need a pass over the weights and, beside the base, a copy in memory of those of
        the step before.
    base : weights before training, torch tensors or arrays by name, or the model; if None, those of the first call of ``step``. A copy is
        kept, in half the memory where float32 weights are values of bfloat16, as those of a model that was stored in bfloat16.
    keeps_base : whether ``base`` stays as it is while this recorder is used, so that weights in the memory of the CPU need no copy.
    tensorboard : also write events for TensorBoard, into ``out/tensorboard``.
    wandb : also log to this Weights & Biases project.
    together : whether all ranks of ``torch.distributed`` call the recorder at each step, and share the work. For sharded weights, they
        always have to.

    Raises
    ------
    InputError : the run directory cannot be written, or the weights are split over ranks by something other than DTensors.

    Notes
    -----
    ``sparsity/RULE`` is the fraction of weights that are unchanged since the base, and ``sparsity_step/RULE`` since the previous step; see
    ``dynamics.sparsity`` for the rules. With float32 master weights, nearly all weights change in each step under the rule ``exact``,
    however small the update.

    For a model with a LoRA adapter, which must be given itself rather than its parameters by name, these are the numbers of the merged
    weights, ``base + scaling * B @ A``, over all weights of the model. Those of the trained parameters themselves are under ``factors/``.

    Under several ranks of ``torch.distributed``, rank 0 writes, and its lines are those of one process: each weight is counted once. Of
    weights that are sharded (DTensors, as those of ``fully_shard``), each rank measures its own part, and only counts and sums are
    exchanged; all ranks must call the recorder then. Tensors that are no DTensors must be the same on all ranks that have them, as under
    DDP: rank 0 measures them, and need not be joined by the others. To merge its rows of a sharded model, a rank needs the factors A whole;
    they are exchanged.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        every: int = 1,
        base: Parameters | None = None,
        tensorboard: bool = False,
        wandb: str | None = None,
        together: bool = False,
        keeps_base: bool = False,
    ):
        if every < 1:
            raise InputError(f"every={every}: must be at least 1")
        self.every = every
        self.seconds = 0.0
        self.directory = RunDirectory(out)
        self._rank, world = ranks.rank_and_world()
        self._several = world > 1
        items = None if base is None else list_parameters(base)
        #: whether all ranks exchange their counts at each measurement
        self._together = self._several and (together or any(ranks.is_sharded(value) for _, value in items or []))
        #: names of all weights of this rank, those of which it counts its part, and the number of weights that all ranks count
        self._names: set[str] = set()
        self._counted: set[str] = set()
        self._numel = 0
        #: of weights that this rank keeps whole, the part that it counts
        self._own: dict[str, tuple[int, int]] = {}
        #: why the last line could not be written; it is raised on all ranks at their next exchange
        self._failure: InputError | None = None
        self._sinks: list[Any] = []
        self._adapter: MergedWeights | None = None
        #: why merged weights of a model with an adapter are not measured; empty if they are, or if it has none
        self.not_merged = ""
        self._from_all(lambda: self._open(Path(out), tensorboard, wandb))
        self._base = None if items is None else self._first(base, items, keeps_base)
        self._previous: dict[str, Stored] | Recomputed | None = self._base if every == 1 else None

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
        self.check()

    def check(self) -> None:
        """Raise the error of a line that could not be written, if it has not been raised."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    @property
    def writes(self) -> bool:
        """Whether this process writes the run directory: all do but the ranks after the first of ``torch.distributed``."""
        return self._rank == 0

    @property
    def measures_merged(self) -> bool:
        """Whether the weights belong to an adapter, and the merged weights are measured."""
        return self._adapter is not None

    def follow(self, step: int, named_parameters: Parameters) -> None:
        """Continue after ``step`` of a resumed run with these weights; ``base`` is unchanged."""
        self._previous = self._keep(named_parameters) if (step + 1) % self.every == 0 else None

    def _keep(
        self, parameters: Parameters, current: Mapping[str, Stored] | None = None, into: Mapping[str, Stored] | None = None
    ) -> dict[str, Stored] | Recomputed:
        """Keep the weights of a step until the next; ``current`` if they are at hand, ``into`` the memory of earlier ones."""
        if isinstance(parameters, Recomputed):
            return parameters.kept()
        return _owned(self._part(list_parameters(parameters)) if current is None else current, into)

    def step(self, step: int, named_parameters: Parameters | None, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Record a step and return its metrics. ``named_parameters`` are the weights after the step; None skips the measurement."""
        line: dict[str, Any] = {"step": step, **metrics}
        if named_parameters is not None:
            line |= self.measure(step, named_parameters)
        if not self.writes:
            return line
        try:
            self.directory.append_metrics(line)
            for sink in self._sinks:
                sink(step, line)
        except InputError as error:
            if not self._together:
                raise
            self._failure = error
        return line

    def measure(self, step: int, named_parameters: Parameters) -> dict[str, Any]:
        """Measure update sparsity if it is due at this step."""
        begin = time.perf_counter()
        metrics: dict[str, Any] = {}
        measured, before_next = step % self.every == 0, (step + 1) % self.every == 0
        if self._base is None:
            self._base = self._first(named_parameters, list_parameters(named_parameters))
            self._previous = self._base if before_next else None
        elif measured or before_next:
            recomputed = isinstance(named_parameters, Recomputed)
            current = {} if recomputed and not measured else self._now(named_parameters)
            if measured and (self.writes or self._together):
                metrics |= self._metrics(self._from_all(lambda: self._changes(current)))
            earlier = self._previous if isinstance(self._previous, dict) and self._previous is not self._base else None
            self._previous = self._keep(named_parameters, current, earlier) if before_next else None
        self.seconds += time.perf_counter() - begin
        return metrics | {"time/recorder_seconds": time.perf_counter() - begin}

    def _open(self, out: Path, tensorboard: bool, wandb: str | None) -> None:
        if self.writes:
            out.mkdir(parents=True, exist_ok=True)
            self._sinks = open_sinks(out, tensorboard, wandb)

    def _from_all(self, compute: Callable[[], T]) -> list[T]:
        """Return what all ranks compute that measure together."""
        return ranks.from_all(compute) if self._together else [compute()]

    def _first(self, parameters: object, items: Sequence[tuple[str, Any]], keeps: bool = False) -> dict[str, Stored]:
        """Keep the weights at the start, and find out which of them this rank counts, and whether they belong to an adapter."""
        self._together = self._together or (self._several and any(ranks.is_sharded(value) for _, value in items))
        self._names = {name for name, _ in items}

        def describe() -> dict[str, ranks.Held]:
            if self._several and (reason := ranks.partition(items)):
                raise InputError(reason)
            self._find_adapter(parameters, items)
            return ranks.held(items) if self._together else {}

        holdings = self._from_all(describe)
        if self._together:  # the merged weights take all factors, so that one rank measures them
            self._counted, self._numel = ranks.share(holdings, self._rank, spread=self._adapter is None)
        elif self.writes:
            self._counted = self._names
        start = self._now(items)
        if keeps:
            return start
        return _owned(start) if self._adapter is not None else {name: _narrowed(*stored) for name, stored in start.items()}

    def _now(self, parameters: Parameters) -> dict[str, Stored]:
        """Return what this rank counts, in the memory of the weights, and the factors that it needs whole to merge its rows."""
        whole = self._adapter.whole if self._adapter is not None else ()
        weights: dict[str, Stored] = {}

        def part() -> dict[str, np.ndarray[Any, Any]]:
            self.check()
            weights.update(self._part(list_parameters(parameters)))
            return {name: weights[name][0] for name in whole}

        parts = self._from_all(part)
        for name in whole:
            start = sum(part[name].size for part in parts[: self._rank])
            self._own[name] = (start, start + parts[self._rank][name].size)
            weights[name] = (np.concatenate([part[name] for part in parts]), weights[name][1])
        return weights

    def _find_adapter(self, parameters: object, items: Iterable[tuple[str, Any]]) -> None:
        if getattr(parameters, "peft_config", None):
            from dynamics.recorder.merged_weights import MergedWeights

            try:
                self._adapter = MergedWeights(parameters)
            except InputError as error:
                self.not_merged = f"merged weights are not measured: {error}"
        elif any(ADAPTED.search(name) for name, _ in items):
            self.not_merged = "merged weights are not measured: give the recorder the model itself, not its parameters by name"

    def _part(self, items: Sequence[tuple[str, Any]]) -> dict[str, Stored]:
        """Return what this rank counts, in the memory of the weights."""
        _require_same(self._names, {name for name, _ in items})
        return {name: _stored(value) for name, value in items if name in self._counted}

    def _changes(self, current: dict[str, Stored]) -> dict[str, DiffStats]:
        """Compare all weights with the base and the previous step; those of an adapter, also merged."""
        assert self._base is not None
        previous = self._part(list(self._previous.items())) if isinstance(self._previous, Recomputed) else self._previous
        states = {"sparsity": self._base} | ({} if previous is None else {"sparsity_step": previous})
        prefix = "factors/" if self._adapter or self.not_merged else ""
        changes = {f"{prefix}{rules}": _diff_stats(state, current, self._own) for rules, state in states.items()}
        if self._adapter is not None and (self.writes or self._adapter.sharded):
            changes["sparsity"] = self._adapter.change_since_start(self._base, current)
            if previous is not None:
                changes["sparsity_step"] = self._adapter.change(previous, current)
        return changes

    def _metrics(self, changes_of_ranks: Sequence[Mapping[str, DiffStats]]) -> dict[str, Any]:
        """Add up the changes of all ranks and name the results."""
        from dynamics.sparsity import kernels
        from dynamics.sparsity.accumulate import total

        metrics: dict[str, Any] = {}
        for key in dict.fromkeys(key for changes in changes_of_ranks for key in changes):
            stats = total(changes[key] for changes in changes_of_ranks if key in changes)
            counted = int(stats.counts[kernels.NUMEL])
            if self._together and counted != self._numel and (self._adapter is None or key.startswith("factors/")):
                raise InputError(
                    f"the ranks counted {counted:,} of {self._numel:,} weights: a rank holds other parts than at the start; "
                    "give the parameters in their sharded form, after reshard()"
                )
            metrics |= _named(stats, key)
        return metrics


def snapshot(named_parameters: Parameters) -> dict[str, Stored]:
    """Copy the weights as flat arrays of stored values, with the names of their dtypes; for sharded tensors, the local shard."""
    return _owned({name: _stored(value) for name, value in list_parameters(named_parameters)})


def list_parameters(parameters: Parameters) -> list[tuple[str, Any]]:
    """List weights by name; of a model, its trained parameters."""
    if isinstance(parameters, Mapping):
        return list(parameters.items())
    return trained_parameters(parameters) if isinstance(parameters, Model) else list(parameters)


def trained_parameters(model: Model) -> list[tuple[str, Any]]:
    """List the trained parameters of a model by name, in their sharded form, without the prefix of a compiled model."""
    reshard(model)
    return [(name.replace("_orig_mod.", ""), value) for name, value in model.named_parameters() if value.requires_grad]


def reshard(model: object) -> None:
    """Free the whole weights that modules of ``fully_shard`` keep after a forward pass without a backward pass.

    The next forward pass would use them although the optimizer has changed the shards since, and the parameters would be the whole ones.
    """
    for module in model.modules() if hasattr(model, "modules") else ():
        if hasattr(module, "reshard") and hasattr(module, "unshard"):
            module.reshard()


def _stored(value: Any) -> Stored:
    """Return a weight as a flat array of stored values, in its own memory if that is the CPU's and contiguous."""
    if isinstance(value, np.ndarray):
        return value.reshape(-1), str(value.dtype)
    import torch

    local = value.detach().to_local() if hasattr(value, "to_local") else value.detach()
    local = local.cpu().contiguous().reshape(-1)
    kind = str(local.dtype).removeprefix("torch.")
    return (local.view(torch.uint16) if kind == "bfloat16" else local).numpy(), kind


def _owned(weights: Mapping[str, Stored], into: Mapping[str, Stored] | None = None) -> dict[str, Stored]:
    """Copy weights, into the memory of earlier ones of the same shapes and dtypes if there are any."""
    copies: dict[str, Stored] = {}
    for name, (values, kind) in weights.items():
        room, earlier = (into or {}).get(name, (None, ""))
        if room is None or room.shape != values.shape or earlier != kind:
            room = np.empty_like(values)
        np.copyto(room, values)
        copies[name] = (room, kind)
    return copies


def _narrowed(values: np.ndarray[Any, Any], kind: str) -> Stored:
    """Copy a weight; as bfloat16, which is half of float32, if it loses nothing, to the bit."""
    if kind == "float32" and values.size and sys.byteorder == "little":
        halves = values.view(np.uint16)
        if not any(halves[start : start + 2 * CHUNK : 2].any() for start in range(0, halves.size, 2 * CHUNK)):
            return halves[1::2].copy(), "bfloat16"
    return values.copy(), kind


def _require_same(before: Collection[str], after: Collection[str]) -> None:
    if missing := sorted(set(before) ^ set(after)):
        raise InputError(f"{missing[0]}: is in only one of the two sets of weights; record the same parameters in every step")


def _named(stats: DiffStats, key: str) -> dict[str, Any]:
    """Name sparsity by rule and the L2 norm of the update; against the base, also the relative norm."""
    from dynamics.sparsity.comparison import row

    prefix, _, rules = key.rpartition("/")
    total = row("total", stats)
    metrics: dict[str, Any] = {f"{rules}/{rule}": value for rule, value in total.sparsity.items()}
    metrics |= {NORMS[rules]: total.update_norm} | ({"relative_update": total.relative_update} if rules == "sparsity" else {})
    return {f"{prefix}/{name}" if prefix else name: value for name, value in metrics.items()}


def _diff_stats(base: dict[str, Stored], current: dict[str, Stored], own: Mapping[str, tuple[int, int]]) -> DiffStats:
    """Compare two states of the weights; of those in ``own``, the range of values that it gives."""
    from dynamics.io import threads
    from dynamics.sparsity import accumulate

    def stats_of_part(part: tuple[str, int, int]) -> DiffStats:
        name, start, stop = part
        (a, dtype_a), (b, dtype_b) = base[name], current[name]
        if a.shape != b.shape:
            raise InputError(f"{name}: had {a.size:,} weights and has {b.size:,}")
        return accumulate.accumulate_arrays(a[start:stop], dtype_a, b[start:stop], dtype_b)

    ranges = {name: own.get(name, (0, values.size)) for name, (values, _) in base.items()}
    parts = [(name, at, min(at + CHUNK, stop)) for name, (start, stop) in ranges.items() for at in range(start, stop, CHUNK)]
    with ThreadPoolExecutor(threads.cores()) as pool:
        return accumulate.total(pool.map(stats_of_part, parts))
