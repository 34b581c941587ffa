"""Records the dynamics of a run, this project's or somebody else's: a line of ``metrics.jsonl`` a step, with what moved in the weights.

    with Recorder("runs/mine", every=10, base=dict(model.named_parameters())) as recorder:
        for step in range(1, steps + 1):
            ...
            recorder.step(step, model.named_parameters(), {"loss": loss, "grad_norm": norm})

In a trainer of transformers or TRL::

    trainer = GRPOTrainer(..., callbacks=[dynamics.recorder.callback("runs/grpo")])

Update sparsity is measured every so many steps, never by the clock, by the arithmetic of ``dynamics.sparsity``; the time that it takes is
counted in ``time/recorder_seconds``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.errors import InputError
from dynamics.rundir import RunDirectory

if TYPE_CHECKING:
    from dynamics.tally import Tally

#: weights compared at once
CHUNK = 1 << 19

Parameters = Mapping[str, Any] | Iterable[tuple[str, Any]]
Stored = tuple[np.ndarray[Any, Any], str]


class Recorder:
    """Writes a run directory from inside any training loop.

    Parameters
    ----------
    out : the run directory; made if it is not there.
    every : steps between measurements of the weights, which cost a pass over them and two copies in memory.
    base : the weights before training, torch tensors or arrays by name; those of the first call if None.
    tensorboard : also write events for TensorBoard, into ``out/tensorboard``.
    wandb : also log to this Weights & Biases project.

    Notes
    -----
    ``sparsity/RULE`` is the share of weights that are unchanged since the base, ``sparsity_step/RULE`` since the step before; rules as in
    ``dynamics.sparsity``. Of masters in float32 nearly every weight changes in every step by the rule ``exact``, however small the step.
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
        self._previous: dict[str, Stored] | None = self._base
        self._sinks = _sinks(Path(out), tensorboard, wandb)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.directory.close()
        for sink in self._sinks:
            sink(None, {})

    def step(self, step: int, named_parameters: Parameters | None, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write the line of a step, and give it. ``named_parameters``: the weights after the step; None to leave them out."""
        line: dict[str, Any] = {"step": step, **metrics}
        if named_parameters is not None:
            line |= self._weights(step, named_parameters)
        self.directory.append_metrics(line)
        for sink in self._sinks:
            sink(step, line)
        return line

    def _weights(self, step: int, named_parameters: Parameters) -> dict[str, Any]:
        begin = time.perf_counter()
        found: dict[str, Any] = {}
        measured, before_next = step % self.every == 0, (step + 1) % self.every == 0
        if self._base is None:
            self._base = self._previous = snapshot(named_parameters)
        elif measured or before_next:
            now = snapshot(named_parameters)
            if measured:
                found |= _change(self._base, now, "sparsity", "update_norm")
                if self._previous is not None:
                    found |= _change(self._previous, now, "sparsity_step", "step_norm")
            self._previous = now if before_next else None
        self.seconds += time.perf_counter() - begin
        return found | {"time/recorder_seconds": time.perf_counter() - begin}


def snapshot(named_parameters: Parameters) -> dict[str, Stored]:
    """A copy of the weights as they are stored: flat arrays with the name of their dtype. Of a sharded tensor the local part."""
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


def _change(base: dict[str, Stored], now: dict[str, Stored], rules: str, norm: str) -> dict[str, Any]:
    """Sparsity by rule, and the L2 norm of the difference; against the base also relative to it."""
    from dynamics.sparsity import row

    if missing := sorted(set(base) ^ set(now)):
        raise InputError(f"{missing[0]}: is in only one of the two sets of weights; record the same parameters in every step")
    total = row("total", _tally(base, now))
    found: dict[str, Any] = {f"{rules}/{rule}": value for rule, value in total.sparsity.items()} | {norm: total.update_norm}
    return found | ({"relative_update": total.relative_update} if rules == "sparsity" else {})


def _tally(base: dict[str, Stored], now: dict[str, Stored]) -> Tally:
    from dynamics import tally

    def one(part: tuple[str, int]) -> Tally:
        name, start = part
        (a, kind), (b, other) = base[name], now[name]
        if a.shape != b.shape:
            raise InputError(f"{name}: had {a.size:,} weights and has {b.size:,}")
        return tally.tally_arrays(a[start : start + CHUNK], kind, b[start : start + CHUNK], other)

    parts = [(name, start) for name, (values, _) in base.items() for start in range(0, values.size, CHUNK)]
    with ThreadPoolExecutor(tally.cores()) as pool:
        return tally.total(pool.map(one, parts))


def _sinks(out: Path, tensorboard: bool, wandb: str | None) -> list[Any]:
    """Functions of (step, line) that hand numbers on; a step of None closes them."""
    made = []
    if tensorboard:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("TensorBoard is not installed: pip install tensorboard") from None
        writer = SummaryWriter(str(out / "tensorboard"))

        def to_tensorboard(step: int | None, line: dict[str, Any]) -> None:
            if step is None:
                writer.close()
            for name, value in _numbers(line):
                writer.add_scalar(name, value, step)

        made.append(to_tensorboard)
    if wandb:
        try:
            import wandb as client
        except ImportError:
            raise InputError("Weights & Biases is not installed: pip install wandb") from None
        run = client.init(project=wandb, dir=str(out), name=out.name)

        def to_wandb(step: int | None, line: dict[str, Any]) -> None:
            if step is None:
                run.finish()
            else:
                run.log(dict(_numbers(line)), step=step)

        made.append(to_wandb)
    return made


def _numbers(line: dict[str, Any]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in line.items() if name != "step" and isinstance(value, (int, float)) and math.isfinite(value)]
