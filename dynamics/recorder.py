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
        self._previous: dict[str, Stored] | None = self._base if every == 1 else None
        self._sinks = _sinks(Path(out), tensorboard, wandb)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.directory.close()
        for sink in self._sinks:
            sink(None, {})

    def follow(self, step: int, named_parameters: Parameters) -> None:
        """Go on after ``step`` of a run that is resumed, whose weights these are; ``base`` stays the base."""
        self._previous = snapshot(named_parameters) if (step + 1) % self.every == 0 else None

    def step(self, step: int, named_parameters: Parameters | None, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write the line of a step, and give it. ``named_parameters``: the weights after the step; None to leave them out."""
        line: dict[str, Any] = {"step": step, **metrics}
        if named_parameters is not None:
            line |= self.measure(step, named_parameters)
        self.directory.append_metrics(line)
        for sink in self._sinks:
            sink(step, line)
        return line

    def measure(self, step: int, named_parameters: Parameters) -> dict[str, Any]:
        """What moved in the weights, if it is measured at this step."""
        begin = time.perf_counter()
        found: dict[str, Any] = {}
        measured, before_next = step % self.every == 0, (step + 1) % self.every == 0
        if self._base is None:
            self._base = snapshot(named_parameters)
            self._previous = self._base if before_next else None
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


#: what TRL and transformers log -> what a line of ``metrics.jsonl`` calls it
_LOGGED = {
    "frac_reward_zero_std": "group/zero_std",
    "completions/mean_length": "length/mean",
    "completions/clipped_ratio": "length/truncated",
    "clip_ratio/low_mean": "clip/low",
    "clip_ratio/high_mean": "clip/high",
    "num_tokens": "tokens_seen",
    "kl": "kl",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "reward": "reward",
    "reward_std": "reward_std",
    "learning_rate": "learning_rate",
}


def callback(out: str | Path, *, every: int = 10, method: str | None = None, tensorboard: bool = False, wandb: str | None = None) -> Any:
    """A ``transformers.TrainerCallback`` by which a Trainer, TRL's ``SFTTrainer`` or ``GRPOTrainer`` writes a run directory.

    Parameters
    ----------
    every : steps between measurements of the weights.
    method : what ``run.json`` calls it; by the trainer's arguments if None.

    Notes
    -----
    ``entropy`` and ``nll_sampled`` are measured here, at temperature 1 and over the whole vocabulary, from the hidden states of the forward
    passes that have a gradient, on the tokens that have a label: TRL's own entropy is at its sampling temperature. ``grad_norm`` is the
    trainer's, before clipping. What the trainer logs otherwise is under ``trainer/``. With ``logging_steps`` above 1 its numbers stand in
    the lines of the steps at which it logs. Of sharded models the local part is measured.
    """
    import transformers

    class Record(transformers.TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.recorder: Recorder | None = None
            self.line: dict[str, Any] = {}
            self.step = 0
            self.probe: _Probe | None = None
            self.document: dict[str, Any] = {}
            self.weights: Any = None
            self.begun = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            model = given["model"]
            self.recorder = Recorder(out, every=every, base=_moved(model), tensorboard=tensorboard, wandb=wandb)
            self.document = _about(args, model, method, every)
            self.recorder.directory.truncate(state.global_step)
            self.recorder.directory.write_run(self.document)
            self.probe = _Probe(model, given.get("processing_class"))
            if self.probe.reason:
                self.document["notes"] = [self.probe.reason]

        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.flush()
            self.step = state.global_step
            seconds = time.perf_counter() - self.begun
            found = self.probe.take() if self.probe else {}
            self.line = {"loss": None, **found, "grad_norm": None, "seconds": seconds}
            if self.recorder is not None:
                self.line |= self.recorder.measure(self.step, _moved(given["model"]))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            if state.global_step == self.step and logs and "train_runtime" not in logs:
                self.line |= {_LOGGED.get(name, f"trainer/{name}"): _plain(value) for name, value in logs.items()}

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.flush()
            if self.recorder is not None:
                self.document["status"] = "finished" if state.global_step >= state.max_steps else "interrupted"
                self.document["time"] = {"recorder_seconds": self.recorder.seconds}
                self.recorder.directory.write_run(self.document)
                self.recorder.close()
            if self.probe is not None:
                self.probe.remove()

        def flush(self) -> None:
            """Write the line of the step before: the trainer logs it only after the step has ended."""
            if self.recorder is not None and self.line:
                self.recorder.step(self.step, None, self.line)
            self.line = {}

    return Record()


def _moved(model: Any) -> list[tuple[str, Any]]:
    return [(name.replace("_orig_mod.", ""), value) for name, value in model.named_parameters() if value.requires_grad]


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) or hasattr(value, "item") else value


def _about(args: Any, model: Any, method: str | None, every: int) -> dict[str, Any]:
    """``run.json`` of somebody else's trainer. Tokens and keys are left out."""
    import importlib.metadata
    import json

    kinds = {"GRPOConfig": "rlvr", "SFTConfig": "sft", "RLOOConfig": "rlvr"}
    secret = ("token", "key", "password", "secret")
    config = {
        name: value if isinstance(value, (int, float, bool, str, list, dict, type(None))) else str(value)
        for name, value in args.to_dict().items()
        if not (name.endswith(secret) and isinstance(value, str))
    }
    packages = {}
    for name in ("torch", "transformers", "trl", "training-dynamics"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for _, value in _moved(model)})
    return {
        "schema": "dynamics.run/1",
        "method": method or kinds.get(type(args).__name__, type(args).__name__),
        "config": json.loads(json.dumps(config, default=str)),
        "seed": args.seed,
        "model": getattr(model.config, "_name_or_path", "") or type(model).__name__,
        "master_dtype": dtypes[0] if len(dtypes) == 1 else dtypes,
        "compute_dtype": "bfloat16" if getattr(args, "bf16", False) else "float16" if getattr(args, "fp16", False) else dtypes[0],
        "record_every": every,
        "packages": packages,
        "status": "running",
    }


class _Probe:
    """Entropy and surprisal of labelled tokens, from the hidden states of forward passes that have a gradient."""

    def __init__(self, model: Any, tokenizer: Any):
        import torch

        from dynamics.traces import wrap

        self.sums = [0.0, 0.0]
        self.tokens = 0
        self.labels: Any = None
        self.seconds = 0.0
        self.handles: list[Any] = []
        self.reason = ""
        training = model.training
        try:
            self.head = wrap(model, None).head
        except InputError as error:
            self.head = None
            self.reason = f"entropy is not measured: {error}"
        model.train(training)
        if self.head is None:
            self.reason = self.reason or "entropy is not measured: the way from hidden states to logits is not understood"
            return
        self.handles = [  # of a compiled model they run outside of what is compiled
            model.register_forward_pre_hook(torch.compiler.disable(self._asked), with_kwargs=True),
            model.base_model.register_forward_hook(torch.compiler.disable(self._answered)),
        ]

    def _asked(self, module: Any, positional: Any, named: Any) -> None:
        import torch

        self.labels = named.get("labels") if torch.is_grad_enabled() and module.training else None

    def _answered(self, module: Any, positional: Any, output: Any) -> None:
        from dynamics.logits import from_hidden

        labels, self.labels = self.labels, None
        if labels is None or self.head is None:
            return
        states = output.last_hidden_state[:, -labels.shape[1] :].detach()
        keep = labels[:, 1:] != -100
        hidden, targets = states[:, :-1][keep], labels[:, 1:][keep]
        if not len(targets):
            return
        found = from_hidden(
            hidden.float(),
            self.head.weight.detach(),
            bias=self.head.bias,
            softcap=self.head.softcap,
            scale=self.head.scale,
            targets=targets,
        )
        self.tokens += len(targets)
        self.sums[0] += float(found.entropy.sum())
        self.sums[1] += float(np.asarray(found.surprisal.cpu() if found.surprisal is not None else 0.0).sum())

    def take(self) -> dict[str, Any]:
        """Means since the last call."""
        count, sums = self.tokens, self.sums
        self.tokens, self.sums = 0, [0.0, 0.0]
        if not count:
            return {"entropy": None, "nll_sampled": None, "tokens": None}
        return {"entropy": sums[0] / count, "nll_sampled": sums[1] / count, "tokens": count}

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def recording(reward: Any, out: str | Path) -> Any:
    """A TRL reward function that also writes what it judged to ``rollouts/step_N.jsonl``."""
    import functools

    directory = RunDirectory(out)

    @functools.wraps(reward)
    def judged(*, prompts: Any, completions: Any, completion_ids: Any = None, trainer_state: Any = None, **more: Any) -> Any:
        given = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, "trainer_state": trainer_state}
        scores = reward(**given, **more)
        step = (trainer_state.global_step if trainer_state is not None else 0) + 1
        ids = completion_ids or [None] * len(prompts)
        rows = [
            {"prompt": prompt, "completion": text, "completion_ids": one, "role": "solver", "reward": _plain(score)}
            for prompt, text, one, score in zip(prompts, completions, ids, scores, strict=True)
        ]
        directory.path.mkdir(parents=True, exist_ok=True)
        directory.write_rows(f"rollouts/step_{step}.jsonl", rows)
        return scores

    return judged
