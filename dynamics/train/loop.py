"""The one loop: a batch from the method, a step on it, a line in the run directory, now and then a checkpoint.

    next batch -> prepare -> gradient -> optimizer step -> record -> save

A step is a pure function of the weights, the optimizer's state, what the method keeps, and the step's number. A run that is killed at any
moment goes on from its last saved state, after what lies beyond it in the run directory has been removed, and ends with the same bits: on
the same machine, in the same dtype of compute and with the same number of threads, all of which ``run.json`` names. Elsewhere sums are
ordered otherwise: the same run differs by rounding, and by whatever grows out of it once a sampled token differs.
"""

from __future__ import annotations

import copy
import importlib.metadata
import platform
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dynamics.errors import InputError
from dynamics.io.folders import LOCK, exclusive
from dynamics.recorder.recorder import Recorder
from dynamics.runs.directory import RunDirectory
from dynamics.train import evaluate, objectives, policy, probe_prompts, state, tasks, update
from dynamics.train.config import PolicyGradientConfig, TrainConfig, temperatures
from dynamics.train.registry import METHODS
from dynamics.train.tasks.prompt_formats import reads_notation

SCHEMA = "dynamics.run/1"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after everything has been saved."""


class Run:
    """A run in work, one step after another."""

    def __init__(self, method: str, config: TrainConfig, out: Path, resume: bool, tensorboard: bool = False, wandb: str | None = None):
        self.name, self.config, self.out = method, config, out
        self.directory = RunDirectory(out)
        document = self._begin(resume)
        torch.set_num_threads(document["threads"])
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # every tensor is written before it is read; filling took an eighth
        device = None if config.device == "auto" else config.device
        compute = document.get("compute_dtype", config.compute_dtype)  # a run that is resumed computes in the dtype that it began with
        self.policy = policy.load(config.model, device, config.master_dtype, compute)
        self.source = tasks.source(config.task, plain=not reads_notation(self.policy.tokenizer))
        self.method = METHODS[method].make(config, self.policy, self.source)
        self.probe_prompts = self.method.probe_prompts() if config.fixed_every else {}
        self.reference = self._reference()
        self.optimizer = torch.optim.AdamW(
            self.policy.masters.values(),
            config.learning_rate,
            (config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        every = config.record_every or self.method.record_every
        self.recorder = Recorder(out, every=every, base=self.policy.masters, tensorboard=tensorboard, wandb=wandb)
        machines, here = document.get("machines", []), _machine(self.policy.device)
        document |= {
            "parameters": sum(value.numel() for value in self.policy.masters.values()),
            "compute_dtype": self.policy.compute,
            "shares_prompts": self.policy.shares,
            "machines": machines if here in machines else [*machines, here],
            "record_every": self.recorder.every,
            "fixed_prompts": {role: len(asked) for role, (asked, _) in self.probe_prompts.items()},
        } | self.method.metadata()
        self.directory.write_run(document)
        self.document = document
        self.step = 0
        self.stopping = False
        if resume and (place := state.latest(out / "state")) is not None:
            self.step, kept = state.load(place, self.policy, self.optimizer)
            self.method.load(kept)
        self.directory.truncate(self.step)
        self.recorder.follow(self.step, self.policy.masters)
        self.whole = True

    def _begin(self, resume: bool) -> dict[str, Any]:
        """``run.json`` before the first step; on resuming, the one that is there, if it is of this run."""
        config = asdict(self.config)
        if (self.out / "run.json").exists():
            there = self.directory.read_run()
            if not resume:
                raise InputError(f"{self.out}: holds a run already; go on with it by --resume, or name another folder")
            mine: dict[str, Any] = {"method": self.name, **config}
            theirs = {"method": there.get("method"), **there.get("config", {})}
            for key in mine:
                if mine[key] != theirs.get(key):
                    raise InputError(
                        f"{self.out}: was begun with {key} = {theirs.get(key)!r}, not {mine[key]!r}; "
                        "resume with the same, or name another folder"
                    )
            if there.get("status") == "finished" and state.latest(self.out / "state") is None:
                raise InputError(f"{self.out}: is finished and has no state/ to go on from; name another folder")
            return there | {"status": "running"}
        if any(file.name != LOCK for file in self.out.iterdir()):
            raise InputError(f"{self.out}: is not empty and holds no run; name another folder")
        from dynamics.io.threads import cores

        return {
            "schema": SCHEMA,
            "method": self.name,
            "config": config,
            "seed": self.config.seed,
            "model": self.config.model,
            "master_dtype": self.config.master_dtype,
            "storage_dtype": self.config.master_dtype,
            "threads": self.config.threads or cores(),
            "packages": {name: _version(name) for name in ("torch", "transformers", "numpy", "training-dynamics", "reasoning-gym")},
            "python": platform.python_version(),
            "status": "running",
        }

    def _reference(self) -> policy.Policy | None:
        """The base, where its log-probabilities are needed; made before any state is loaded."""
        if not (isinstance(self.config, PolicyGradientConfig) and self.config.kl):
            return None
        return policy.Policy(copy.deepcopy(self.policy.model), self.policy.tokenizer, self.config.master_dtype, self.policy.compute)

    def load_base(self) -> policy.Policy:
        """The model that the run began with, once more, to compute as the run does."""
        mine = self.policy
        return policy.load(self.config.model, str(mine.device), mine.master, mine.compute)

    def questions(self) -> list[tasks.Question]:
        return self.source.questions("test", self.config.eval_problems, self.config.seed)

    def examine(self, name: str, heat: list[float]) -> None:
        """Grade samples of the held-out problems; what is there already is kept."""
        if not self.config.eval_problems:
            return
        for temperature in heat:
            path = f"evals/{evaluate.file_name(name, temperature)}.jsonl"
            if not (self.out / path).exists():
                config = self.config
                rows = evaluate.evaluate(
                    self.policy, self.questions(), name, temperature, config.eval_samples, config.seed, config.max_new_tokens
                )
                self.directory.write_rows(path, rows)

    def one_step(self) -> dict[str, Any]:
        """The next step; gives its line of ``metrics.jsonl``."""
        begin, number, config = time.perf_counter(), self.step + 1, self.config
        data = self.method.next_batch(number)
        if data.rollouts:
            self.directory.write_rows(f"rollouts/step_{number}.jsonl", data.rollouts)
        still: dict[str, float] = {}
        paused = time.perf_counter()
        if self.probe_prompts and (number - 1) % config.fixed_every == 0:
            still = probe_prompts.entropies(self.policy, self.probe_prompts, config.seed, config.micro_tokens)
            still["time/fixed_seconds"] = time.perf_counter() - paused
        before = update.prepare(self.policy, self.reference, data.batch, config, number)
        metrics: dict[str, Any] = {}
        for _ in range(config.updates if isinstance(config, PolicyGradientConfig) else 1):
            found = update.gradient(self.policy, data.batch, config, before)
            norm = update.optimizer_step(self.policy, self.optimizer, config, number, found, data.batch)
            self.whole = False
            if not metrics:
                metrics = update.token_metrics(found, data.batch) | {"grad_norm": norm} | update.mismatch(found.logp, data.batch)
            else:
                metrics["clip/low"], metrics["clip/high"] = float(found.clipped_low.mean()), float(found.clipped_high.mean())
        if self.reference is not None and before.reference is not None:
            metrics["kl"] = float(objectives.kl_k3(torch.from_numpy(found.logp).to(before.reference), before.reference).mean())
        metrics |= data.metrics | still | {"learning_rate": config.learning_rate * update.rate(config, number)}
        self.step = number
        seconds = time.perf_counter() - begin - still.get("time/fixed_seconds", 0.0)
        metrics |= {"seconds": seconds, "time/tokens_per_second": metrics["tokens"] / seconds}
        self.recorder.step(number, self.policy.masters, metrics)
        self.whole = True
        return metrics

    def save(self) -> None:
        state.save(self.out / "state", self.step, self.policy, self.optimizer, self.method.state())

    def checkpoint(self) -> None:
        target = self.out / "checkpoints" / f"step_{self.step:06d}"
        if not (target / "config.json").exists():
            state.save_model(target, self.policy)

    def go(self, on_step: Callable[[int, dict[str, Any]], None] = lambda step, metrics: None) -> None:
        """All steps that are left."""
        heat = temperatures(self.config)
        if self.step == 0:
            self.checkpoint()
            self.examine("base", heat)
        while self.step < self.config.steps:
            try:
                metrics = self.one_step()
            except InputError:
                if self.whole:  # weights, step and files are those of the last good step; otherwise the last state saved is
                    self.save()
                raise
            if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                self.checkpoint()
                self.save()
            on_step(self.step, metrics)
            if self.stopping and self.step < self.config.steps:
                self.save()
                raise Interrupted
        self.checkpoint()
        self.examine(f"{self.name}, {self.step} steps", heat[:1])
        self.method.on_train_end(self.directory, self.load_base)

    def finish(self, status: str) -> None:
        self.document["status"] = status
        self.document["time"] = {"recorder_seconds": self.recorder.seconds}
        self.directory.write_run(self.document)
        self.recorder.close()
        self.method.close()


def run(
    method: str,
    config: TrainConfig,
    out: Path,
    resume: bool = False,
    on_step: Callable[[int, dict[str, Any]], None] = lambda step, metrics: None,
    tensorboard: bool = False,
    wandb: str | None = None,
) -> Run:
    """A whole run, or what is left of it. Ctrl-C ends it after the step in work, saved; a second one at once."""
    if method not in METHODS:
        raise InputError(f"method {method!r}: unknown; there are {', '.join(METHODS)}")

    def refuse() -> None:
        raise InputError(f"{out}: another process is at work on this run; wait for it, or name another folder")

    with exclusive(out, refuse):
        found = Run(method, config, out, resume, tensorboard, wandb)

        def stop(*_: object) -> None:
            if found.stopping:
                raise KeyboardInterrupt
            found.stopping = True

        try:
            previous = signal.signal(signal.SIGINT, stop)
        except ValueError:  # not the main thread
            previous = None
        status = "failed"
        try:
            found.go(on_step)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            if previous is not None:
                signal.signal(signal.SIGINT, previous)
            found.finish(status)
        return found


def _machine(device: torch.device) -> dict[str, str]:
    """What the last bits of a run depend on, beside its settings: where it computes, and with which instructions."""
    native = policy.native_bfloat16(torch.device("cpu"))
    found = {
        "device": device.type,
        "processor": policy.cpuinfo("model name") or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability() + (", bfloat16" if native else ""),
    }
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
