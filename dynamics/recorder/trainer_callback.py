"""A callback that writes run directories from the trainers of transformers and TRL."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dynamics.cli.command import tell
from dynamics.errors import InputError, printable
from dynamics.extras import optional_import
from dynamics.recorder import ranks
from dynamics.recorder.recorder import Recorder, trained_parameters
from dynamics.recorder.token_entropy import FixedText, Rewards, Roles, TokenEntropy, added, encode_text
from dynamics.runs.directory import RunDirectory
from dynamics.runs.logged_names import FROM_TRAINER, RECORDED
from dynamics.runs.schema import SCHEMA

T = TypeVar("T")
#: says in ``run.json`` of a LoRA run which number is of what
ADAPTER_NOTE = (
    "sparsity/RULE, update_norm and the like are of the merged weights, base + scaling B A, over all weights of the model; "
    "those of the trained factors are under factors/"
)


def callback(
    out: str | Path,
    *,
    every: int = 10,
    entropy_every: int = 1,
    probes: Sequence[Any] = (),
    probe_every: int | None = None,
    method: str | None = None,
    report: bool = True,
    tensorboard: bool = False,
    wandb: str | None = None,
) -> Any:
    """Create a ``TrainerCallback`` that writes a run directory, for transformers' ``Trainer`` and TRL's ``SFTTrainer`` and ``GRPOTrainer``.

    Parameters
    ----------
    out, tensorboard, wandb : see ``Recorder``.
    every : steps between measurements of the weights.
    entropy_every : steps between measurements of the entropy of the tokens of a step's batch; 0 for none.
    probes : texts that stay the same, whose entropy is measured too: strings, lists of token ids, or mappings with ``prompt`` and
        ``completion``.
    probe_every : steps between measurements of ``probes``, which take a forward pass for each; ``every`` if None.
    method : name of the method in ``run.json``; if None, derived from the trainer's arguments.
    report : whether to write ``report.html`` into ``out`` at the end of training, as ``python -m dynamics.report`` does without running
        the model. If that fails, a line on stderr says so.

    Raises
    ------
    InputError : ``every`` or another cadence is out of range; in training, a text of ``probes`` is none or does not fit into the model.

    Notes
    -----
    ``entropy`` and ``nll_sampled`` are computed by the callback, at temperature 1 and over the full vocabulary, from the hidden states of
    forward passes with gradient, on tokens with a label; TRL's own entropy is at the sampling temperature. ``prompt/entropy`` is that of
    the tokens without a label, and ``right/entropy`` and ``wrong/entropy`` split the completions whose reward is known from
    ``recording``. Dropout is active in these passes; ``notes`` in ``run.json`` says so if there is any. ``probe/prompt/entropy`` and
    ``probe/completion/entropy`` are measured after the step, in evaluation mode. None of these changes the training or a random generator.

    ``grad_norm`` is that of the trainer, before clipping. Other metrics of the trainer are recorded under ``trainer/``. With
    ``logging_steps`` above 1, they appear only at the steps at which the trainer logs.

    Under several ranks, rank 0 writes one line a step, with the counts of all weights and the sums over the tokens of all ranks. Weights
    that DeepSpeed ZeRO-3, FSDP1 or Megatron split are not measured; ``notes`` says so.
    """
    for name, value, least in (("every", every, 1), ("entropy_every", entropy_every, 0), ("probe_every", probe_every, 1)):
        if value is not None and value < least:
            raise InputError(f"{name}={value}: must be at least {least}")
    with optional_import("recording a trainer of transformers"):
        import transformers

    class Record(_Hooks, transformers.TrainerCallback):  # type: ignore[misc]
        """The hooks as a transformers callback."""

    cadence = Cadence(every, entropy_every, every if probe_every is None else probe_every)
    return Record(Path(out), cadence, list(probes), method, report, {"tensorboard": tensorboard, "wandb": wandb})


@dataclass(frozen=True)
class Cadence:
    """Steps between measurements of the weights, of the batches' entropy (0 for none), and of the fixed texts."""

    weights: int
    entropy: int
    probes: int


class _Hooks:
    """The hooks that a trainer calls, without the base class, which needs transformers."""

    def __init__(self, out: Path, cadence: Cadence, probes: list[Any], method: str | None, report: bool, sinks: dict[str, Any]):
        self.out, self.cadence, self.probes, self.method, self.report, self.sinks = out, cadence, probes, method, report, sinks
        self.recorder: Recorder | None = None
        self.measures_weights = True
        self.line: dict[str, Any] = {}
        self.step = 0
        self.entropy: TokenEntropy | None = None
        self.texts: list[FixedText] = []
        self.entropy_seconds = self.probe_seconds = self.last_probe_seconds = 0.0
        self.document: dict[str, Any] = {}
        self.begun = 0.0

    def on_train_begin(self, args: Any, state: Any, _control: Any, **arguments: Any) -> None:
        """Create the run directory and start measuring entropy."""
        model, tokenizer = arguments["model"], arguments.get("processing_class")
        several = ranks.rank_and_world()[1] > 1
        reason = ranks.partition(trained_parameters(model)) if several else ""
        self.measures_weights = not reason
        self.recorder = Recorder(self.out, every=self.cadence.weights, base=None if reason else model, together=True, **self.sinks)
        self.entropy = TokenEntropy(model, tokenizer, rewards_of(self.out)) if self.cadence.entropy or self.probes else None
        start = self._from_all(lambda: self._begin_texts(tokenizer))
        self.document = _about(args, model, self.method, self.cadence)
        if self.texts:
            self.document["probes"] = {
                "texts": len(self.texts),
                "tokens": sum(len(text.ids) - 1 for text in self.texts),
                "seconds": self.probe_seconds,
                "start": _named("", added(start)),
            }
        notes = [
            reason and f"the weights are not measured: {reason}",
            self.entropy.reason if self.entropy else "",
            _dropout_note(model) if self.entropy and not self.entropy.reason and self.cadence.entropy else "",
            self.recorder.not_merged,
            ADAPTER_NOTE if self.recorder.measures_merged else "",
        ]
        if any(notes):
            self.document["notes"] = [note for note in notes if note]
        self._from_all(lambda: self._begin_directory(state.global_step))

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Start the clock."""
        self.begun = time.perf_counter()
        if self.entropy is not None:
            self.entropy.due = _is_due(state.global_step + 1, self.cadence.entropy)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **arguments: Any) -> None:
        """Write the previous step, and collect the metrics of this step."""
        seconds = time.perf_counter() - self.begun
        self.flush()
        self.step = state.global_step
        self.line = {"loss": None, **self._measure_tokens(), "grad_norm": None, "seconds": seconds}
        if self.recorder is not None and self.measures_weights:
            self.line |= self.recorder.measure(self.step, arguments["model"])

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """Add the trainer's logs to the metrics of their step."""
        if state.global_step == self.step and logs and "train_runtime" not in logs:
            self.line |= {RECORDED.get(name, f"{FROM_TRAINER}{name}"): _plain(value) for name, value in logs.items()}

    def on_train_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Write the last step, close the run directory and write the report."""
        self.flush()
        if self.entropy is not None:
            self.entropy.remove()
        if self.recorder is None:
            return
        self.document["status"] = "finished" if state.global_step >= state.max_steps else "interrupted"
        self.document["time"] = {"recorder_seconds": self.recorder.seconds}
        if self.entropy is not None:
            self.document["time"] |= {"entropy_seconds": self.entropy.seconds, "probe_seconds": self.probe_seconds}
        if self.recorder.writes:
            self.recorder.directory.write_run(self.document)
        self.recorder.close()
        if self.report and self.recorder.writes:
            write_report(self.out)

    def flush(self) -> None:
        """Write the previous step, whose metrics the trainer logs only after the step has ended."""
        if self.recorder is not None and self.line:
            self.recorder.step(self.step, None, self.line)
        self.line = {}

    def _begin_texts(self, tokenizer: Any) -> Roles:
        """Encode the fixed texts, and measure them before the first step."""
        if self.entropy is None:
            return {}
        self.texts = [self.entropy.check(encode_text(text, tokenizer)) for text in self.probes]
        return self._take(self.texts)[1]

    def _begin_directory(self, step: int) -> None:
        if self.recorder is not None and self.recorder.writes:
            self.recorder.directory.truncate(step)
            self.recorder.directory.write_run(self.document)

    def _measure_tokens(self) -> dict[str, Any]:
        """Return the metrics of the step's tokens and, if they are due, of the fixed texts; over all ranks."""
        if self.entropy is None:
            self._from_all(lambda: None)
            return {"entropy": None, "nll_sampled": None, "tokens": None}
        texts = self.texts if _is_due(self.step, self.cadence.probes) else []
        parts = self._from_all(lambda: self._take(texts))
        batch = added([part for part, _ in parts])
        trained = batch.pop("completion", None)
        line: dict[str, Any] = {"entropy": None, "nll_sampled": None, "tokens": None}
        if trained is not None:
            count = trained.tokens
            line = {"entropy": trained.entropy / count, "nll_sampled": trained.surprisal / count, "tokens": count}
        line |= _named("", batch)
        if self.cadence.entropy:
            line["time/entropy_seconds"], self.entropy_seconds = self.entropy.seconds - self.entropy_seconds, self.entropy.seconds
        if texts:
            line |= _named("probe/", added([part for _, part in parts]))
            line["time/probe_seconds"] = self.last_probe_seconds
        return line

    def _take(self, texts: list[FixedText]) -> tuple[Roles, Roles]:
        """Return the sums over the tokens of this rank: of the step's batch, and of the fixed texts."""
        assert self.entropy is not None
        batch = self.entropy.take()
        begin = time.perf_counter()
        fixed = self.entropy.measure_texts(texts)
        self.last_probe_seconds = time.perf_counter() - begin if texts else 0.0
        self.probe_seconds += self.last_probe_seconds
        return batch, fixed

    def _from_all(self, compute: Callable[[], T]) -> list[T]:
        """Return what all ranks compute; if a rank could not write or compute, raise its error on all of them."""

        def checked() -> T:
            if self.recorder is not None:
                self.recorder.check()
            return compute()

        return ranks.from_all(checked)


def write_report(out: Path) -> None:
    """Write ``report.html`` into a run directory, without running its model. A failure is a line on stderr, for the training is done."""
    try:
        from dynamics.io.atomic import replacing
        from dynamics.report.assembly import report
        from dynamics.report.page import draw, page
        from dynamics.report.section import Options
        from dynamics.runs.open import open_run

        result = report([open_run(out)], Options(model_passes=False))
        text = page(result, draw(result))
        with replacing(out / "report.html") as temporary:
            temporary.write_text(text, encoding="utf-8")
    except Exception as error:
        what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {printable(error)}"
        tell(f"dynamics.recorder: the report was not written ({what}); python -m dynamics.report {printable(out)} makes it")


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _named(prefix: str, roles: Roles) -> dict[str, Any]:
    """Name the mean entropy and the number of tokens of each role."""
    return {
        f"{prefix}{role}/{name}": value
        for role, sums in sorted(roles.items())
        for name, value in (("entropy", sums.entropy / sums.tokens), ("tokens", sums.tokens))
    }


def _dropout_note(model: Any) -> str:
    """Say that dropout is active while the batch's entropy is measured; empty if the model has none."""
    import torch

    dropout = torch.nn.modules.dropout._DropoutNd
    if any(isinstance(module, dropout) and module.p > 0 for module in model.modules()) or bool(
        getattr(model.config, "attention_dropout", None)
    ):
        return (
            "entropy, prompt/entropy and the like are those of the training passes, in which dropout is active; probe/ is without dropout"
        )
    return ""


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) or hasattr(value, "item") else value


def _about(args: Any, model: Any, method: str | None, cadence: Cadence) -> dict[str, Any]:
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
        "record_every": cadence.weights,
        "entropy_every": cadence.entropy,
        "probe_every": cadence.probes,
        "ranks": ranks.rank_and_world()[1],
        "packages": packages,
        "status": "running",
    }


def _version(package: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


#: run directory -> rewards of the completions that are trained on there
_REWARDS: dict[Path, Rewards] = {}


def rewards_of(out: str | Path) -> Rewards:
    """Return the rewards that ``recording`` keeps for the callback of the same run directory."""
    return _REWARDS.setdefault(Path(out).absolute(), Rewards())


def recording(reward: Any, out: str | Path, *, right_above: float = 0.0) -> Any:
    """Wrap a TRL reward function so that it also writes the scored completions to ``rollouts/step_N.jsonl``.

    Parameters
    ----------
    reward : reward function of TRL, not a coroutine.
    out : run directory; that of ``callback``, which then also measures the entropy of right and of wrong completions.
    right_above : completions with a larger reward are right; 0 fits rewards of 0 and 1, and of -1 and 1.

    Notes
    -----
    Under several ranks, rank 0 writes the completions of all ranks; an error of the function on one rank is raised on all of them.
    """
    import functools

    directory = RunDirectory(out)
    known = rewards_of(out)

    @functools.wraps(reward)
    def judged(*, prompts: Any, completions: Any, completion_ids: Any = None, trainer_state: Any = None, **columns: Any) -> Any:
        arguments = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, "trainer_state": trainer_state}

        def judge() -> Any:
            return reward(**arguments, **columns)

        if trainer_state is None:  # called by hand, perhaps on one rank only
            scores, first = judge(), 0
        else:
            results: list[Any] = []
            ranks.from_all(lambda: results.append(judge()))
            scores, first = results[0], trainer_state.global_step
        ids = completion_ids or [None] * len(prompts)
        rows = [
            {"prompt": prompt, "completion": text, "completion_ids": token_ids, "role": "solver", "reward": _plain(score)}
            for prompt, text, token_ids, score in zip(prompts, completions, ids, scores, strict=True)
        ]
        for row in rows:
            if row["completion_ids"] is not None and isinstance(row["reward"], float) and not math.isnan(row["reward"]):
                known.add(row["prompt"], row["completion_ids"], row["reward"] > right_above)
        rows = rows if trainer_state is None else ranks.on_first(rows)
        if ranks.rank_and_world()[0] == 0:
            directory.path.mkdir(parents=True, exist_ok=True)
            directory.write_rows(f"rollouts/step_{first + 1}.jsonl", rows)
        return scores

    return judged
