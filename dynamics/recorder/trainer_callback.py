"""A callback that writes run directories from the trainers of transformers and TRL."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.errors import InputError
from dynamics.extras import optional_import
from dynamics.recorder.recorder import Recorder, trained_parameters
from dynamics.runs.directory import RunDirectory
from dynamics.runs.schema import SCHEMA

#: metric of TRL or transformers -> its name in ``metrics.jsonl``
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
#: says in ``run.json`` of a LoRA run which number is of what
ADAPTER_NOTE = (
    "sparsity/RULE, update_norm and the like are of the merged weights, base + scaling B A, over all weights of the model; "
    "those of the trained factors are under factors/"
)


def callback(out: str | Path, *, every: int = 10, method: str | None = None, tensorboard: bool = False, wandb: str | None = None) -> Any:
    """Create a ``TrainerCallback`` that writes a run directory, for transformers' ``Trainer`` and TRL's ``SFTTrainer`` and ``GRPOTrainer``.

    Parameters
    ----------
    out, tensorboard, wandb : see ``Recorder``.
    every : steps between measurements of the weights.
    method : name of the method in ``run.json``; if None, derived from the trainer's arguments.

    Notes
    -----
    ``entropy`` and ``nll_sampled`` are computed by the callback, at temperature 1 and over the full vocabulary, from the hidden states of
    forward passes with gradient, on tokens with a label; TRL's own entropy is at the sampling temperature. ``grad_norm`` is that of the
    trainer, before clipping. Other metrics of the trainer are recorded under ``trainer/``. With ``logging_steps`` above 1, they appear only
    at the steps at which the trainer logs. For sharded models, the local shard is measured.
    """
    with optional_import("recording a trainer of transformers"):
        import transformers

    class Record(_Hooks, transformers.TrainerCallback):  # type: ignore[misc]
        """The hooks as a transformers callback."""

    return Record(out, every, method, {"tensorboard": tensorboard, "wandb": wandb})


class _Hooks:
    """The hooks that a trainer calls, without the base class, which needs transformers."""

    def __init__(self, out: str | Path, every: int, method: str | None, sinks: dict[str, Any]):
        self.out, self.every, self.method, self.sinks = out, every, method, sinks
        self.recorder: Recorder | None = None
        self.line: dict[str, Any] = {}
        self.step = 0
        self.probe: _Probe | None = None
        self.document: dict[str, Any] = {}
        self.begun = 0.0

    def on_train_begin(self, args: Any, state: Any, _control: Any, **arguments: Any) -> None:
        """Create the run directory and start measuring entropy."""
        model = arguments["model"]
        self.recorder = Recorder(self.out, every=self.every, base=model, **self.sinks)
        self.document = _about(args, model, self.method, self.every)
        self.recorder.directory.truncate(state.global_step)
        self.recorder.directory.write_run(self.document)
        self.probe = _Probe(model)
        notes = [self.probe.reason, self.recorder.not_merged, ADAPTER_NOTE if self.recorder.measures_merged else ""]
        if any(notes):
            self.document["notes"] = [note for note in notes if note]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.begun = time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, _control: Any, **arguments: Any) -> None:
        """Write the previous step, and collect the metrics of this step."""
        self.flush()
        self.step = state.global_step
        seconds = time.perf_counter() - self.begun
        token_metrics = self.probe.take() if self.probe else {}
        self.line = {"loss": None, **token_metrics, "grad_norm": None, "seconds": seconds}
        if self.recorder is not None:
            self.line |= self.recorder.measure(self.step, arguments["model"])

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """Add the trainer's logs to the metrics of their step."""
        if state.global_step == self.step and logs and "train_runtime" not in logs:
            self.line |= {_LOGGED.get(name, f"trainer/{name}"): _plain(value) for name, value in logs.items()}

    def on_train_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Write the last step and close the run directory."""
        self.flush()
        if self.recorder is not None:
            self.document["status"] = "finished" if state.global_step >= state.max_steps else "interrupted"
            self.document["time"] = {"recorder_seconds": self.recorder.seconds}
            self.recorder.directory.write_run(self.document)
            self.recorder.close()
        if self.probe is not None:
            self.probe.remove()

    def flush(self) -> None:
        """Write the previous step, whose metrics the trainer logs only after the step has ended."""
        if self.recorder is not None and self.line:
            self.recorder.step(self.step, None, self.line)
        self.line = {}


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) or hasattr(value, "item") else value


def _about(args: Any, model: Any, method: str | None, every: int) -> dict[str, Any]:
    """Build ``run.json`` for an external trainer, without access tokens and keys."""
    import json

    kinds = {"GRPOConfig": "rlvr", "SFTConfig": "sft", "RLOOConfig": "rlvr"}
    secret = ("token", "key", "password", "secret")
    config = {
        name: value if isinstance(value, (int, float, bool, str, list, dict, type(None))) else str(value)
        for name, value in args.to_dict().items()
        if not (name.endswith(secret) and isinstance(value, str))
    }
    versions = {name: _version(name) for name in ("torch", "transformers", "trl", "training-dynamics")}
    packages = {name: version for name, version in versions.items() if version is not None}
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for _, value in trained_parameters(model)})
    return {
        "schema": SCHEMA,
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


def _version(package: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_plain_head(model: Any) -> bool:
    """Tell whether the output head has no adapter: its weight alone does not give the logits then."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return not any(hasattr(head, name) for name in ("base_layer", "modules_to_save", "token_adapter"))


class _Probe:
    """Entropy and surprisal of labelled tokens, from the hidden states of forward passes with gradient."""

    def __init__(self, model: Any):
        import torch

        from dynamics.models import wrap

        self.sums = [0.0, 0.0]
        self.tokens = 0
        self.labels: Any = None
        self.seconds = 0.0
        self.handles: list[Any] = []
        self.reason = ""
        training = model.training
        if hasattr(model, "get_base_model"):  # a model of PEFT: the model whose layers have the adapter
            model = model.get_base_model()
        try:
            self.head = wrap(model, None).head if _is_plain_head(model) else None
        except InputError as error:
            self.head = None
            self.reason = f"entropy is not measured: {error}"
        model.train(training)
        if self.head is None:
            self.reason = self.reason or "entropy is not measured: the logits could not be computed from the hidden states"
            return
        self.handles = [  # of a compiled model they run outside of what is compiled
            model.register_forward_pre_hook(torch.compiler.disable(self._asked), with_kwargs=True),  # type: ignore[no-untyped-call]
            model.base_model.register_forward_hook(torch.compiler.disable(self._answered)),  # type: ignore[no-untyped-call]
        ]

    def _asked(self, module: Any, _positional: Any, named: Any) -> None:
        import torch

        self.labels = named.get("labels") if torch.is_grad_enabled() and module.training else None

    def _answered(self, _module: Any, _positional: Any, output: Any) -> None:
        from dynamics.entropy.logits import from_hidden

        labels, self.labels = self.labels, None
        if labels is None or self.head is None:
            return
        states = output.last_hidden_state[:, -labels.shape[1] :].detach()
        keep = labels[:, 1:] != -100
        hidden, targets = states[:, :-1][keep], labels[:, 1:][keep]
        if not len(targets):
            return
        distribution = from_hidden(
            hidden.float(),
            self.head.weight.detach(),
            bias=self.head.bias,
            softcap=self.head.softcap,
            scale=self.head.scale,
            targets=targets,
        )
        self.tokens += len(targets)
        self.sums[0] += float(distribution.entropy.sum())
        self.sums[1] += float(np.asarray(distribution.surprisal.cpu() if distribution.surprisal is not None else 0.0).sum())

    def take(self) -> dict[str, Any]:
        """Return the means since the last call."""
        count, sums = self.tokens, self.sums
        self.tokens, self.sums = 0, [0.0, 0.0]
        if not count:
            return {"entropy": None, "nll_sampled": None, "tokens": None}
        return {"entropy": sums[0] / count, "nll_sampled": sums[1] / count, "tokens": count}

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def recording(reward: Any, out: str | Path) -> Any:
    """Wrap a TRL reward function so that it also writes the scored completions to ``rollouts/step_N.jsonl``."""
    import functools

    directory = RunDirectory(out)

    @functools.wraps(reward)
    def judged(*, prompts: Any, completions: Any, completion_ids: Any = None, trainer_state: Any = None, **columns: Any) -> Any:
        arguments = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, "trainer_state": trainer_state}
        scores = reward(**arguments, **columns)
        step = (trainer_state.global_step if trainer_state is not None else 0) + 1
        ids = completion_ids or [None] * len(prompts)
        rows = [
            {"prompt": prompt, "completion": text, "completion_ids": token_ids, "role": "solver", "reward": _plain(score)}
            for prompt, text, token_ids, score in zip(prompts, completions, ids, scores, strict=True)
        ]
        directory.path.mkdir(parents=True, exist_ok=True)
        directory.write_rows(f"rollouts/step_{step}.jsonl", rows)
        return scores

    return judged
