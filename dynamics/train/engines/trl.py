"""Several processes by TRL and accelerate: the gradient of a batch is TRL's, all else is that of one process.

The objective is computed where it always is (``update.slopes``): its derivative by each log-probability. TRL's trainer gets these as
advantages of tokens and adds up the gradient of the log-probabilities, so that a method, an estimator or a clipping rule is not written
twice, and a batch with tokens of several roles needs no setting of TRL's. The one thing overridden is ``_generate_and_score_completions``,
which the maintainers name for batches of one's own (github.com/huggingface/trl, issue 4525).

The trainer runs in a thread, and waits in that method for the next batch: the loop is that of one process.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import math
import queue
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from dynamics.errors import InputError
from dynamics.extras import optional_import
from dynamics.train import loading, registry, sources, state, update
from dynamics.train.batch import Batch
from dynamics.train.config import PolicyGradientConfig, TrainConfig
from dynamics.train.engines import launcher
from dynamics.train.engines.iterations import iterate
from dynamics.train.engines.protocol import Start
from dynamics.train.engines.ranks import LEADER, Ranks
from dynamics.train.lora import LoraPolicy
from dynamics.train.player import Player
from dynamics.train.policy import Policy, Sampler
from dynamics.train.updates import Update

with optional_import("training on several processes"):
    from accelerate import PartialState
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

#: the option under its name of today, or of transformers before 5.20, which vLLM 0.32 asks for
_CHECKPOINTING = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in GRPOConfig.__dataclass_fields__)
#: more micro-batches than the first batch needs, for later ones that are larger
SLACK = 1.5


@dataclass(frozen=True)
class Row:
    """A completion to be trained on, with the derivative of the objective by the log-probability of each of its tokens."""

    prompt: Int[np.ndarray, " prompt"]
    completion: Int[np.ndarray, " tokens"]
    slope: Float[np.ndarray, " tokens"]


@dataclass(frozen=True)
class Job:
    """An optimizer step of a player: its rows in this process, as tensors for TRL, and the number of the step."""

    player: Player
    step: int
    tensors: dict[str, torch.Tensor]


class TRL:
    """Computes updates in several processes; see ``protocol.Engine``.

    Parameters
    ----------
    config : settings of the run, which ``choice.check`` has passed.
    processes : number of processes that were asked for; None if unknown.
    sampler : draws completions in each process; the models themselves if None.
    """

    def __init__(self, config: TrainConfig, processes: int | None = None, sampler: Sampler | None = None):
        PartialState(cpu=config.device == "cpu")  # joins the processes that torchrun or accelerate started
        self.config, self.changed, self.sampler = config, False, sampler
        self.ranks = Ranks(processes)
        self.ranks.handlers |= {"begin": self._begin, "step": self._step, "collect": self._collect}
        self.sharded = launcher.sharded()
        self.trainers: dict[int, _Trainer] = {}

    # the leader

    def begin(self, start: Start, players: Mapping[str, Player], base: Policy | None) -> None:
        """Have the other processes load the model and make the players, and give them the state of a resumed run."""
        self.share(start, players, base)
        self.ranks.call("begin", start)

    def update(self, player: Player, reference: Policy | None, batch: Batch, step: int) -> Update:
        """Take the optimizer steps of a player on a batch, each process with a part of the completions."""
        config = self.config

        def take(before: update.Before) -> tuple[update.Tokens, float]:
            values = player.policy.measure(batch, config.max_tokens_per_microbatch)
            tokens, slope = update.slopes(values, batch, config, before)
            if not np.isfinite(tokens.loss).all():
                raise update.not_finite(step, tokens, batch)
            changed, self.changed = self.changed, True
            norm = self._taken(player, self._rows(batch, slope), step)
            if not math.isfinite(norm):  # no step was taken
                self.changed = changed
                raise update.not_finite(step, tokens, batch)
            return tokens, norm

        return iterate(player, reference, batch, config, step, take)

    def _taken(self, player: Player, rows: list[Row], step: int) -> float:
        """Have all processes take a step; return the norm of the gradient."""
        found = self.ranks.call("step", self.ranks.refreshed(player.policy), rows, step)
        self.ranks.known[player.name] = player.policy.version
        for rank, (norm, total) in enumerate(found):
            if math.isfinite(norm) and total != found[LEADER][1]:
                raise InputError(f"step {step}: rank {rank} has other weights of {player.name} than rank 0 after it; resume the run")
        return float(found[LEADER][0])

    def _rows(self, batch: Batch, slope: Float[np.ndarray, " tokens"]) -> list[Row]:
        """List the completions that have a gradient, the longest first, so that every process gets some of each length."""
        by_sample = np.split(slope, np.cumsum(batch.lengths)[:-1])
        chosen = np.flatnonzero(update.learning(batch, self.config) & (batch.lengths > 0)).tolist()
        rows = [Row(batch.prompts[batch.prompt_of[sample]], batch.completions[sample], by_sample[sample]) for sample in chosen]
        return sorted(rows, key=lambda row: -len(row.prompt) - len(row.completion))

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Have the whole state of every optimizer in this process, to be saved; it is shared again afterwards."""
        if not self.sharded:
            yield
            return
        self.ranks.call("collect")
        try:
            yield
        finally:
            for trainer in self.trainers.values():
                trainer.player.optimizer.state.clear()

    def describe(self) -> dict[str, Any]:
        """Return the number of processes, what they share, and the versions of what computes the gradient."""
        versions = {name: importlib.metadata.version(name) for name in ("trl", "accelerate")}
        return {"name": "trl", "processes": self.ranks.size, "sharded": "FSDP2" if self.sharded else None} | versions

    def close(self) -> None:
        """End the trainers and the other processes."""
        self.ranks.close()
        for trainer in self.trainers.values():
            trainer.end()

    # all

    def share(self, start: Start, players: Mapping[str, Player], base: Policy | None) -> None:
        """Name the players that every process has made."""
        self.start, self.config = start, start.config
        shared = len({id(player.policy.model) for player in players.values()}) < len(players)
        if self.sharded and (shared or any(isinstance(player.policy, LoraPolicy) for player in players.values())):
            raise InputError("FSDP: players that are adapters of one model are not sharded; start with a configuration without FSDP")
        for player in players.values():
            switch_off_dropout(player.policy, start.config.model)
        self.ranks.share(players, base)

    def _begin(self, start: Start) -> None:
        """Load the model and make the players as the leader has done."""
        if self.ranks.leads:
            return
        loading.set_up_torch(start.threads)
        loaded, source, _ = loading.load(start.config, start.compute)
        if state.weights_checksum(loaded) != start.checksum:
            raise InputError(f"rank {self.ranks.rank}: --model {start.config.model}: its weights are not those of rank 0")
        loaded.sampler = self.sampler
        method = registry.make(start.method, start.config, loaded, source)
        base = loading.keep_base(method, loaded, start.config)
        self.share(start, method.make_players(loaded, start.config), base)
        method.close()
        sources.close(source)

    @property
    def leads(self) -> bool:
        """Whether this process leads."""
        return self.ranks.leads

    def follow(self) -> bool:
        """Carry out what the leader asks for until the run ends; return whether it ended well."""
        return self.ranks.follow()

    def _collect(self) -> None:
        for trainer in self.trainers.values():
            trainer.collect(self.ranks.leads)

    def _step(self, name: str, rows: Sequence[Row], step: int) -> tuple[float, float]:
        """Take an optimizer step, unless the gradient is not finite; return the norm of the gradient, and the sum of the weights."""
        player = self.ranks.players[name]
        norm = self._trained(player, rows, step) if rows else 0.0  # without a gradient, no optimizer moves
        return norm, sum(float(value.detach().sum(dtype=torch.float64)) for value in player.policy.masters.values())

    def _trained(self, player: Player, rows: Sequence[Row], step: int) -> float:
        with player.policy.trained_by_others() as model:
            trainer = self.trainers.get(id(model))
            if trainer is None:
                chunks = self._chunks(rows)
                kind = _Sharded if self.sharded else _Trainer
                trainer = self.trainers[id(model)] = kind(model, player, self.config, chunks, self.start.threads)
            mine = rows[self.ranks.rank :: self.ranks.size]
            each = -(-len(rows) // self.ranks.size)  # rows of the process that has most
            each = -(-each // trainer.chunks) * trainer.chunks
            return trainer.step(Job(player, step, tensors(mine, each, min(len(row.prompt) for row in rows), player.policy.device)))

    def _chunks(self, rows: Sequence[Row]) -> int:
        """Choose the number of micro-batches of a step."""
        widest = max(len(row.prompt) + len(row.completion) for row in rows)
        needed = math.ceil(len(rows) / self.ranks.size) * widest / self.config.max_tokens_per_microbatch
        return 1 if needed <= 1 / SLACK else math.ceil(needed * SLACK)


def tensors(rows: Sequence[Row], count: int, shared: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Make what TRL's loss reads, padded on the right, so that positions are those of sampling in every model.

    TRL's *prompt* is the first ``shared`` tokens, which every prompt has; what follows of the prompt counts as completion, masked out of
    the loss as TRL masks the results of tools.

    Parameters
    ----------
    rows : completions of this process.
    count : number of rows to make; those beyond ``rows`` are in no loss.
    shared : length of the shortest prompt of all processes.
    device : of the tensors.
    """
    width = max((len(row.prompt) + len(row.completion) for row in rows), default=0)
    width = max(width, shared + 1)
    ids, attended, trained = (np.zeros((count, width), np.int64) for _ in range(3))
    attended[:, : shared + 1] = 1
    advantages = np.zeros((count, width), np.float32)
    for place, row in enumerate(rows):
        start, end = len(row.prompt), len(row.prompt) + len(row.completion)
        ids[place, :start], ids[place, start:end] = row.prompt, row.completion
        attended[place, :end] = 1
        trained[place, start:end] = 1
        advantages[place, start:end] = -row.slope
    made = {
        "prompt_ids": ids[:, :shared],
        "prompt_mask": attended[:, :shared],
        "completion_ids": ids[:, shared:],
        "completion_mask": attended[:, shared:],
        "tool_mask": trained[:, shared:],
        "advantages": advantages[:, shared:],
    }
    sent = {name: torch.from_numpy(np.ascontiguousarray(value)).to(device) for name, value in made.items()}
    return sent | {"num_items_in_batch": torch.ones((), device=device)}  # the weights of tokens are in the derivatives


class _Over(Exception):
    """There are no further batches."""


class _Trainer:
    """A trainer of TRL for one model, in a thread that waits for batches."""

    def __init__(self, model: Any, player: Player, config: TrainConfig, chunks: int, threads: int):
        self.player, self.chunks, self.threads = player, chunks, threads
        self.model, self.methods = model, dict[str, Any]()
        policy = player.policy
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[float | BaseException] = queue.SimpleQueue()
        self.config, self.norm = config, math.nan
        self.job: Job | None = None
        self.folder = tempfile.TemporaryDirectory(prefix="dynamics-trl-")  # TRL asks for one; nothing is saved in it
        checkpointing: dict[str, Any] = {_CHECKPOINTING: config.gradient_checkpointing}
        settings = GRPOConfig(
            output_dir=self.folder.name,
            max_steps=1 << 30,
            per_device_train_batch_size=2,
            num_generations=2,
            gradient_accumulation_steps=chunks,
            steps_per_generation=chunks,
            loss_type="dapo",
            beta=0.0,
            temperature=config.temperature if isinstance(config, PolicyGradientConfig) else 1.0,
            max_grad_norm=0.0,  # the step clips
            bf16=policy.autocast is torch.bfloat16,
            use_cpu=policy.device.type == "cpu",
            **checkpointing,
            ddp_find_unused_parameters=False,
            shuffle_dataset=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=config.seed % (1 << 32),
        )
        rows = [{"prompt": ""}] * (4096 * chunks)
        with contextlib.redirect_stdout(None):
            self.trainer = _Waiting(
                model=model,
                reward_funcs=[_no_reward],
                args=settings,
                train_dataset=Dataset.from_list(rows),
                processing_class=policy.tokenizer,
            )
        self.trainer.waiting = self
        self.configure()
        self.thread = threading.Thread(target=self._run, daemon=True, name="trl")
        self.thread.start()

    def configure(self) -> None:
        """Change what accelerate is told, before it prepares the model."""

    def step(self, job: Job) -> float:
        """Take an optimizer step; return the norm of the gradient.

        The forward method that TRL and accelerate put in the place of the model's is there during a step only: sampling by
        ``samplers.layer_decoder`` refuses a model that may compute something else.
        """
        vars(self.model).update(self.methods)
        self.jobs.put(job)
        found = self.done.get()
        self.methods = {name: vars(self.model).pop(name) for name in ("forward",) if name in vars(self.model)}
        if isinstance(found, BaseException):
            raise found
        return found

    def end(self) -> None:
        """Let the thread end."""
        if self.thread.is_alive():
            self.jobs.put(None)
            self.thread.join(10)

    def _run(self) -> None:
        torch.set_num_threads(self.threads)
        if torch.cuda.is_available():
            torch.cuda.set_device(self.trainer.accelerator.device)
        try:
            self.trainer.train()
        except _Over:
            pass
        except BaseException as error:
            self.done.put(error)

    def next_job(self) -> Job:
        """Tell that the step of the last job was taken, and wait for the next one.

        The trainer asks for the next batch after it has switched the model to training mode, so that it does nothing more to the model
        once a step is told of.
        """
        if self.job is not None:
            self.done.put(self.norm)
        self.job = self.jobs.get()
        if self.job is None:
            raise _Over
        return self.job

    def take(self) -> None:
        """Take the step of the current job."""
        assert self.job is not None
        policy, optimizer = self.job.player.policy, self.job.player.optimizer
        self.norm = update.clipped_norm(policy, self.config)
        if math.isfinite(self.norm):
            update.apply(policy, optimizer, self.config, self.job.step)
        else:
            optimizer.zero_grad()

    def collect(self, leads: bool) -> None:
        """Put the whole state of the optimizer into that of the player; it is there."""


class _Sharded(_Trainer):
    """A trainer whose weights and optimizer accelerate shards by FSDP2; the player has the whole weights, from which all sample."""

    def __init__(self, model: Any, player: Player, config: TrainConfig, chunks: int, threads: int):
        self.optimizer: torch.optim.Optimizer | None = None
        self.version: int | None = None  # of the player's weights that are in the shards
        super().__init__(copy.deepcopy(model), player, config, chunks, threads)

    def configure(self) -> None:
        """Add gradients up in float32, as one process and DDP do: accelerate's own policy for bfloat16 adds them up in bfloat16."""
        if self.player.policy.autocast is not None:
            narrow = self.player.policy.autocast
            plugin = self.trainer.accelerator.state.fsdp_plugin
            plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, output_dtype=narrow)

    def next_job(self) -> Job:
        """Wait for the next job, and take up weights that were changed otherwise than by a step."""
        job = super().next_job()
        if self.version != self.player.policy.version:
            self._load()
        return job

    def _parameters(self) -> dict[str, DTensor]:
        """Return the shards by the names of the player's weights."""
        if not self.trainer.accelerator.is_fsdp2:
            raise InputError(f"FSDP2 was asked for, and accelerate runs {self.trainer.accelerator.distributed_type.value}")
        found = dict(self.trainer.model_wrapped.named_parameters())
        if found.keys() != self.player.policy.masters.keys():
            raise InputError("FSDP2: the shards have other names than the weights of the model; start with a configuration without FSDP")
        return found

    def _load(self) -> None:
        """Take up the weights of the player, and the state of its optimizer: none if the game has changed the weights."""
        parameters, masters = self._parameters(), self.player.policy.masters
        self.optimizer = update.optimizer_of(parameters.values(), self.config)
        kept = self.player.optimizer.state
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(_sharded_as(masters[name].detach(), value))
                for key, part in kept.get(masters[name], {}).items():
                    self.optimizer.state[value][key] = part.clone() if part.numel() == 1 else _sharded_as(part, value)
        kept.clear()
        self.version = self.player.policy.version

    def take(self) -> None:
        """Take the step of the current job on the shards, and give the player the whole weights."""
        assert self.job is not None
        assert self.optimizer is not None
        parameters, policy = self._parameters(), self.player.policy
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), self.config.max_grad_norm or math.inf)
        self.norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(self.norm):
            update.set_rate(self.optimizer, self.config, self.job.step)
            self.optimizer.step()
            with torch.no_grad():
                for name, value in parameters.items():
                    policy.masters[name].copy_(value.full_tensor())
            policy.update_model()
            self.version = policy.version
        self.optimizer.zero_grad()

    def collect(self, leads: bool) -> None:
        """Put the whole state of the optimizer into that of the player, in the process that leads."""
        if self.optimizer is None:
            return
        for name, value in self._parameters().items():
            for key, part in self.optimizer.state[value].items():
                whole = part.full_tensor() if isinstance(part, DTensor) else part
                if leads:
                    self.player.optimizer.state[self.player.policy.masters[name]][key] = whole


def _sharded_as(whole: torch.Tensor, like: DTensor) -> DTensor:
    """Return the shards of a tensor that every process has."""
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


class _Waiting(GRPOTrainer):
    """TRL's trainer on batches that are made elsewhere."""

    waiting: _Trainer
    optimizer: Any
    lr_scheduler: Any

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
        del inputs
        return self.waiting.next_job().tensors

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimizer that takes the steps of players."""
        self.optimizer = self.optimizer or _Step(self.waiting, self.model if model is None else model)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> torch.optim.lr_scheduler.LRScheduler:
        """Make a schedule that changes nothing: the steps set the learning rate."""
        del num_training_steps
        self.lr_scheduler = self.lr_scheduler or torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, lambda _: 1.0)
        return self.lr_scheduler


class _Step(torch.optim.Optimizer):
    """The optimizer that TRL steps: that of the current player."""

    def __init__(self, trainer: _Trainer, model: Any):
        super().__init__([value for value in model.parameters() if value.requires_grad], {"lr": 1.0})
        self.of = trainer

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take the step of the current player."""
        del closure
        self.of.take()


def _no_reward(completions: Sequence[Any], **_: Any) -> list[float]:
    """Return no reward: the method has judged."""
    return [0.0] * len(completions)


def switch_off_dropout(policy: Policy, model_name: str) -> None:
    """Switch off the dropout of a model, whose policy samples without; InputError if its training mode computes something else still."""
    model = policy.model
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    ids = torch.arange(1, 9, device=policy.device)[None]
    with torch.no_grad():
        sampling = model(input_ids=ids).logits
        training = model.train()(input_ids=ids).logits
        model.eval()
    if not torch.allclose(sampling, training, rtol=1e-4, atol=1e-4):
        raise InputError(f"--model {model_name}: computes otherwise in training mode, as with dropout; set its dropout to 0 in config.json")
