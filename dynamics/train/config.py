"""Settings of a run: one frozen dataclass per method. The command line is built from it, and ``run.json`` records it.

The texts under ``Attributes`` are the ``--help`` texts of the command line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from dynamics.errors import InputError, did_you_mean

Dtype = Literal["float32", "bfloat16"]
LossAggregation = Literal["token-mean", "sequence-mean", "constant", "role-task-mean"]
Advantage = Literal["grpo", "dr_grpo", "rloo", "reinforce++", "reinforce++-sequence", "reinforce++-baseline", "reinforce"]
#: proposals have no groups, so the estimators that only compare samples within a group are left out
SelfPlayAdvantage = Literal["reinforce++", "reinforce++-sequence", "reinforce++-baseline", "reinforce"]
TaskType = Literal["deduction", "abduction", "induction"]
Bonus = Literal["complexity", "edit_distance", "halstead", "answer_diversity"]
DataOrder = Literal["shuffled", "recorded"]
BonusCombination = Literal["sum", "multiply", "sum_multiply", "multiply_sum"]
#: settings that runs of earlier versions may not have recorded, with the values that these had
EARLIER: dict[str, Any] = {
    "eval_trained_temperatures": [],
    "allow_unconfined": False,
    "gradient_checkpointing": False,
    "solver_batch": "new",
    "clip_ratio_c": 0.0,
    "decay_matrices_only": False,
    "data_order": "shuffled",
    "advantage_cells": "batch",
    "validate_every": 0,
    "validation_problems": 200,
    "validation_samples": 2,
    "players": "shared",
    "solver_truth": "executor",
    "gate_leak": 0.0,
}

#: what the defaults are for: the classes below hold those for the embedded model, presets of the other names override some of them
SIZES = ("tiny", "pretrained", "lab")
_PRETRAINED: dict[str, Any] = {
    "learning_rate": 1e-5,
    "eval_problems": 64,
    "eval_samples": 4,
    "max_new_tokens": 64,
    "eval_temperatures": (1.0, 0.0),
}
#: for the base of the laboratory: its longest scratchpads have about 90 tokens, its test sets 520 programs
_LAB: dict[str, Any] = {
    "task": "lab",
    "steps": 100,
    "max_new_tokens": 120,
    "eval_problems": 520,
    "eval_temperatures": (1.0, 0.0),
    "eval_trained_temperatures": (1.0, 0.0),
}
#: a number of problems that is more than the laboratory has, whose matched runs train on all
ALL_OF_LAB = 8000
#: settings of Absolute Zero shared by its paper and its public code; the presets add the settings in which the two differ
AZR: dict[str, Any] = {
    "prompts_per_step": 64,
    "group_size": 8,
    "solver_samples": 1,
    "num_references": 6,
    "learning_rate": 1e-6,
    "buffer_size": 16384,
    "wrong_answer_reward": -0.5,
    "format_error_reward": -1.0,
    "adam_beta2": 0.999,
    "weight_decay": 0.0,
    "loss_aggregation": "role-task-mean",
    "warmup_steps": 0,
    "num_seed_tasks": 256,
    "solver_batch": "max_new",
}


def presets(pretrained: dict[str, Any], lab: dict[str, Any], **named: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the presets of a method, by name: the settings in which each differs from the defaults of its class.

    Those of the laboratory are matched: 144 completions a step, 16 problems of RLVR with 9 samples, 16 tasks of self-play with their
    proposal and 8 answers.

    Parameters
    ----------
    pretrained, lab
        What the method adds to the settings that all methods have for pretrained models, and for the base of the laboratory.
    named
        Further presets, each with all of its settings; an underscore in a name stands for a hyphen.
    """
    return {"tiny": {}, "pretrained": _PRETRAINED | pretrained, "lab": _LAB | lab} | {
        name.replace("_", "-"): values for name, values in named.items()
    }


@dataclass(frozen=True)
class TrainConfig:
    """Settings shared by all methods.

    Attributes
    ----------
    model : str
        model to train: tiny (a small built-in model, trained on first use), lab (the base of the laboratory), smollm2, a Hugging Face
        folder, or a Hub id
    task : str
        task to train on: code, one of its types (deduction, abduction, induction), proposals, lab (deduction and abduction of the
        laboratory), one of its forms (lab-deduction, lab-abduction, lab-induction), a reasoning-gym task, a .jsonl or .parquet file,
        several of these joined by +, proposed:RUN (the valid proposals of a run of selfplay, pasodoble or populora) or correct:RUN (for
        sft: the correct samples of a run of rlvr)
    steps : int
        number of training steps, each on one batch; a step is one optimizer step unless --num-iterations is more than 1
    seed : int
        random seed
    learning_rate : float
        peak learning rate of AdamW
    lr_scheduler : str
        learning rate schedule
    warmup_steps : int
        steps of linear learning rate warm-up; 0 disables warm-up
    weight_decay : float
        weight decay of AdamW, of all weights
    decay_matrices_only : bool
        leave biases, norms and other weights of one dimension out of the weight decay, as transformers' Trainer and TRL do
    adam_beta1 : float
        beta1 of AdamW: decay rate of the running mean of the gradient
    adam_beta2 : float
        beta2 of AdamW: decay rate of the running mean of the squared gradient
    max_grad_norm : float
        maximum L2 norm of the gradient; larger gradients are scaled down to it; 0 disables clipping
    loss_aggregation : str
        how token losses are averaged: token-mean (over all tokens of the batch), sequence-mean (over the tokens of each completion, then
        over completions), constant (sum divided by completions times --max-new-tokens), or role-task-mean (over the tokens of each pair of
        role and task type, then over the pairs, so that proposer and solver weigh the same)
    master_dtype : str
        dtype of the weights that the optimizer updates
    compute_dtype : str
        dtype of forward and backward passes; auto: bfloat16 for models of hidden size 512 or more on hardware with bfloat16 arithmetic,
        float32 otherwise
    device : str
        device to train on: auto, cpu, cuda, cuda:1, ...
    threads : int
        number of CPU threads; 0: one per core; results are bit-identical only for the same number
    max_tokens_per_microbatch : int
        maximum number of tokens in a micro-batch; a longer completion is computed in pieces; affects memory use and rounding only
    gradient_checkpointing : bool
        keep the inputs of the layers only and compute the rest again in the backward pass: less memory, more time, same results
    save_every : int
        steps between checkpoints from which --resume can continue; the last step is always saved
    record_every : int
        steps between measurements of update sparsity; 0: every step for rlvr and selfplay, every 10 steps for sft
    probe_every : int
        steps between entropy measurements on a fixed set of held-out prompts; 0 disables them
    validate_every : int
        steps between evaluations on validation problems during training, also before the first and after the last step; 0 disables them
    validation_problems : int
        number of validation problems, which are the same at every such evaluation
    validation_samples : int
        number of answers to a validation problem at temperature 1, beside a greedy one
    eval_problems : int
        number of held-out problems for the evaluation before and after training; 0 disables it
    eval_samples : int
        number of samples per held-out problem in the evaluation
    eval_temperatures : tuple of float
        sampling temperatures at which the base model is evaluated; the trained model is evaluated at the first; 0 is greedy decoding
    eval_trained_temperatures : tuple of float
        sampling temperatures at which the trained model is evaluated instead; none: the first of --eval-temperatures
    max_new_tokens : int
        maximum length of a completion in tokens
    allow_unconfined : bool
        run programs written by the model, and verifiers of other packages, without a sandbox if none is available on this machine
    """

    #: by name; see ``presets``
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    model: str = "tiny"
    task: str = "code"
    steps: int = 100
    seed: int = 0
    learning_rate: float = 3e-4
    lr_scheduler: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 5
    weight_decay: float = 0.0
    decay_matrices_only: bool = False
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    max_grad_norm: float = 1.0
    loss_aggregation: LossAggregation = "token-mean"
    master_dtype: Dtype = "float32"
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    threads: int = 0
    max_tokens_per_microbatch: int = 1280
    gradient_checkpointing: bool = False
    save_every: int = 50
    record_every: int = 0
    probe_every: int = 10
    validate_every: int = 0
    validation_problems: int = 200
    validation_samples: int = 2
    eval_problems: int = 360
    eval_samples: int = 16
    eval_temperatures: tuple[float, ...] = (1.0, 0.6, 0.3, 0.0)
    eval_trained_temperatures: tuple[float, ...] = ()
    max_new_tokens: int = 32
    allow_unconfined: bool = False

    def check_settings(self) -> None:
        """Check what depends on several settings, or on the method; ``InputError`` names the option."""

    @property
    def judged_problems(self) -> int:
        """Number of training problems, the first of ``--task``, whose answers are judged; 0 if none are."""
        return 0

    def check_source(self, source: Any, speaks: Any) -> None:
        """Check that the method can train on a ``tasks.Source`` with a model that reads a ``LanguageName``; ``InputError`` says why not."""


@dataclass(frozen=True)
class SFTConfig(TrainConfig):
    """Supervised fine-tuning on given completions.

    Attributes
    ----------
    num_problems : int
        number of training problems; they are reshuffled every epoch
    batch_size : int
        number of completions per step
    data_order : str
        order of the training problems: shuffled (anew every epoch), or recorded (as the task lists them, once over the run at an even
        pace)
    """

    presets = presets({"batch_size": 16}, {"num_problems": ALL_OF_LAB, "batch_size": 144})

    num_problems: int = 2048
    batch_size: int = 64
    data_order: DataOrder = "shuffled"


@dataclass(frozen=True)
class PolicyGradientConfig(TrainConfig):
    """Settings shared by the policy-gradient methods.

    Attributes
    ----------
    temperature : float
        sampling temperature; log-probabilities in the loss are taken at the same temperature
    top_p : float
        nucleus sampling: sample from the smallest set of tokens with at least this total probability; 1 disables it
    top_k : int
        top-k sampling: sample from the k most likely tokens; 0 disables it
    advantage : str
        advantage estimator
    num_iterations : int
        number of optimizer steps per batch; above 1, the clipped probability ratio of PPO takes effect
    clip_ratio_low : float
        lower clip range epsilon: probability ratios are clipped at 1 - epsilon
    clip_ratio_high : float
        upper clip range epsilon: probability ratios are clipped at 1 + epsilon
    clip_ratio_c : float
        dual clip: bound of the probability ratio for negative advantages, 3 in verl; 0 disables it; needs --num-iterations of at least 2
    kl_coef : float
        coefficient of the KL divergence to the base model (k3 estimate) in the loss
    entropy_coef : float
        coefficient of the entropy bonus in the loss
    clip_cov : float
        Clip-Cov: fraction of tokens whose gradient is dropped, at least one token, drawn at random from the tokens with a high covariance
        of log-probability and advantage; 0 disables it
    kl_cov : float
        KL-Cov: fraction of tokens that get a KL penalty to the old policy, those with the highest covariance of log-probability and
        advantage; needs --num-iterations of at least 2; 0 disables it
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    advantage: Advantage = "grpo"
    num_iterations: int = 1
    clip_ratio_low: float = 0.2
    clip_ratio_high: float = 0.2
    clip_ratio_c: float = 0.0
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    clip_cov: float = 0.0
    kl_cov: float = 0.0

    def check_settings(self) -> None:
        """Check what depends on several settings."""
        super().check_settings()
        _check_policy_gradient(self)


@dataclass(frozen=True)
class RLVRConfig(PolicyGradientConfig):
    """Reinforcement learning with verifiable rewards: sample completions, score them with a verifier, update by policy gradient.

    Attributes
    ----------
    num_problems : int
        number of training problems; they are reshuffled every epoch
    prompts_per_step : int
        number of prompts per step
    group_size : int
        number of samples per prompt
    data_order : str
        order of the training problems: shuffled (anew every epoch), or recorded (as the task lists them, once over the run at an even
        pace)
    advantage_cells : str
        samples that the estimators reinforce++, reinforce++-sequence and reinforce++-baseline normalise together: batch (all), or
        role-task (those of each task type, as self-play does)
    """

    presets = presets({"prompts_per_step": 8, "group_size": 8}, {"num_problems": ALL_OF_LAB, "prompts_per_step": 16, "group_size": 9})

    num_problems: int = 2048
    prompts_per_step: int = 48
    group_size: int = 16
    data_order: DataOrder = "shuffled"
    advantage_cells: Literal["batch", "role-task"] = "batch"

    @property
    def judged_problems(self) -> int:
        """All."""
        return self.num_problems

    def check_settings(self) -> None:
        """Check what depends on several settings."""
        super().check_settings()
        if self.advantage_cells == "role-task" and not self.advantage.startswith("reinforce++"):
            raise InputError(
                f"--advantage-cells role-task: does nothing with --advantage {self.advantage}, which compares no samples of different "
                "prompts; use --advantage reinforce++-sequence, or leave it out"
            )


@dataclass(frozen=True)
class TaskMakingConfig(PolicyGradientConfig):
    """Settings shared by the games in which a player proposes tasks.

    Attributes
    ----------
    prompts_per_step : int
        number of proposals per step and task type
    group_size : int
        number of solver samples per proposed task, from which its solve rate is estimated
    max_proposal_tokens : int
        maximum length of a proposal in tokens
    task_types : tuple of str
        task types to propose and solve
    num_references : int
        number of tasks from the buffer shown to the proposer; 0: always show the first task (the identity program; x*2 in the laboratory)
    proposer_reward : str
        proposer reward as a function of the solve rate: one_minus, azr_code, inverse, triangular, r_zero, variance, goldilocks, spice,
        pasodoble, lsp, swe_rl, or module:function of your own
    proposer_bonuses : tuple of str
        bonus terms for the proposer reward; none by default
    bonus_scale : float
        scale factor of each bonus term
    bonus_combination : str
        how bonuses b are combined with a positive reward r: sum (r + sum of b), multiply (r * product of b), sum_multiply
        (r + product of b), multiply_sum (r * sum of b)
    invalid_proposal_reward : float
        proposer reward of an invalid proposal
    wrong_answer_reward : float
        solver reward of a wrong answer
    format_error_reward : float
        solver reward of an answer that cannot be parsed
    proposer : str
        training of the proposer: trained, frozen (proposals get no gradient, of the entropy bonus and the KL penalty neither, but the
        shared weights still change), or snapshot (the base model proposes)
    buffer_size : int
        maximum number of tasks in the buffer; the oldest are dropped first
    num_seed_tasks : int
        target size of the buffer before training; the base model fills it with valid proposals in at most four rounds, starting from the
        first task
    on_collapse : str
        what to do when the proposer has collapsed (see --collapse-steps): stop the run, or continue to train the solver on the buffer
    collapse_steps : int
        steps without a valid proposal before --on-collapse applies
    curriculum_samples : int
        number of proposals per quarter of the run whose difficulty is measured after training, by the solve rate of the base model
    """

    steps: int = 250
    prompts_per_step: int = 24
    group_size: int = 8
    max_proposal_tokens: int = 64
    task_types: tuple[TaskType, ...] = ("deduction", "abduction", "induction")
    num_references: int = 1
    proposer_reward: str = "one_minus"
    proposer_bonuses: tuple[Bonus, ...] = ()
    bonus_scale: float = 0.5
    bonus_combination: BonusCombination = "sum"
    invalid_proposal_reward: float = -1.0
    wrong_answer_reward: float = 0.0
    format_error_reward: float = 0.0
    proposer: Literal["trained", "frozen", "snapshot"] = "trained"
    buffer_size: int = 4096
    num_seed_tasks: int = 64
    on_collapse: Literal["stop", "solver"] = "stop"
    collapse_steps: int = 10
    curriculum_samples: int = 60

    def check_settings(self) -> None:
        """Check what depends on several settings."""
        super().check_settings()
        _check_taskmaking(self)


@dataclass(frozen=True)
class SelfPlayConfig(TaskMakingConfig):
    """Self-play as in Absolute Zero: one model proposes tasks and solves them; both roles are scored by running the programs.

    Attributes
    ----------
    advantage : str
        advantage estimator; advantages are normalised separately for each role and task type
    solver_samples : int
        number of solver samples per task to train on; 0: all of --group-size
    solver_delay : int
        steps between proposing a task and training the solver on it: 0 or 1
    solver_batch : str
        tasks that the solver trains on: new (the new valid tasks; earlier ones only in a step without a valid proposal), or max_new (the
        new valid tasks, filled up to --prompts-per-step of each type with tasks from the buffer, as in Absolute Zero's code)
    players : str
        shared (one model has both roles), or two (proposer and solver are two models, which begin as the same base)
    solver_truth : str
        what pays the solver, and gives the solve rates that pay the proposer: executor (running the programs), or majority (agreeing with
        the most frequent answer of the group, if there is one)
    gate_leak : float
        probability with which a deduction task that cannot be run is taken for valid; it has no executed output, so only --solver-truth
        majority can pay for it
    """

    presets = presets(
        {"prompts_per_step": 4, "num_references": 2, "max_proposal_tokens": 128},
        {"task_types": ("deduction", "abduction"), "prompts_per_step": 8, "group_size": 8, "solver_batch": "max_new"},
        azr_paper=AZR | {"advantage": "reinforce++-sequence", "proposer_reward": "one_minus", "entropy_coef": 0.001},
        azr_code=AZR
        | {"advantage": "reinforce++", "proposer_reward": "azr_code", "entropy_coef": 0.0, "clip_ratio_high": 0.28, "solver_delay": 1},
    )

    advantage: SelfPlayAdvantage = "reinforce++-sequence"
    solver_samples: int = 0
    solver_delay: Literal[0, 1] = 0
    solver_batch: Literal["new", "max_new"] = "new"
    players: Literal["shared", "two"] = "shared"
    solver_truth: Literal["executor", "majority"] = "executor"
    gate_leak: float = 0.0

    def check_settings(self) -> None:
        """Check what depends on several settings."""
        super().check_settings()
        if self.players == "two" and self.proposer != "trained":
            raise InputError(
                f"--players two --proposer {self.proposer}: the second model would never learn, as with --proposer snapshot and one model; "
                "leave out --players two"
            )
        if self.solver_truth == "majority" and self.group_size < 2:
            raise InputError(f"--solver-truth majority --group-size {self.group_size}: a single answer is always the majority; sample more")
        if self.gate_leak > 1:
            raise InputError(f"--gate-leak {self.gate_leak:g}: is a probability, must be at most 1")
        if self.gate_leak and self.solver_truth != "majority":
            raise InputError(
                f"--gate-leak {self.gate_leak:g}: needs --solver-truth majority; a task that cannot be run has no output by which the "
                "executor could pay"
            )
        if self.gate_leak and "deduction" not in self.task_types:
            raise InputError(
                f"--gate-leak {self.gate_leak:g}: needs deduction among --task-types; of the other types, a task without outputs cannot be "
                "asked"
            )
        if self.solver_samples > self.group_size:
            raise InputError(f"--solver-samples {self.solver_samples}: must be at most --group-size, which is {self.group_size}")


#: prefixes of tasks that a run directory follows: what a run of self-play proposed, and what a run of RLVR answered correctly
PROPOSED, CORRECT = "proposed:", "correct:"

#: minimum of a numeric field; 0 for fields that are not listed
_MINIMUM = {
    "steps": 1,
    "num_problems": 1,
    "batch_size": 1,
    "prompts_per_step": 1,
    "group_size": 1,
    "num_iterations": 1,
    "buffer_size": 2,
    "collapse_steps": 1,
    "max_proposal_tokens": 1,
    "max_new_tokens": 1,
    "max_tokens_per_microbatch": 1,
    "save_every": 1,
    "validation_problems": 1,
}
#: numeric fields that may be negative
_SIGNED = ("invalid_proposal_reward", "wrong_answer_reward", "format_error_reward", "invalid_hint_reward", "lowest_rate")


def option_of(name: str) -> str:
    """Return the command-line option of a field."""
    return f"--{name.replace('_', '-')}"


def check(config: TrainConfig) -> None:
    """Check the values of all settings.

    Raises
    ------
    InputError
        If a value is invalid; the message names the option.
    """
    types = get_type_hints(type(config))
    for field in fields(config):
        value, option = getattr(config, field.name), option_of(field.name)
        _check_choice(option, value, types[field.name])
        if isinstance(value, (int, float)):
            _check_number(option, value, None if field.name in _SIGNED else _MINIMUM.get(field.name, 0))
    for name, least in (("eval_temperatures", 1), ("eval_trained_temperatures", 0)):
        given = getattr(config, name)
        if len(given) < least or not all(0 <= temperature < math.inf for temperature in given):
            words = " ".join(f"{temperature:g}" for temperature in given)
            raise InputError(f"{option_of(name)} {words}: must be one or more numbers of at least 0")
    if config.decay_matrices_only and not config.weight_decay:
        raise InputError("--decay-matrices-only: does nothing with --weight-decay 0; set a weight decay, or leave it out")
    forced_compute_dtype()
    config.check_settings()


def _check_number(option: str, value: float, minimum: int | None) -> None:
    if not math.isfinite(value):
        raise InputError(f"{option} {value}: must be a number")
    if minimum is not None and value < minimum:
        raise InputError(f"{option} {value}: must be a number of at least {minimum}")


def _check_choice(option: str, value: Any, annotation: Any) -> None:
    """Raise InputError unless the value, or each of its elements, is one of the choices of the field."""
    if get_origin(annotation) is tuple:
        for element in value:
            _check_choice(option, element, get_args(annotation)[0])
    elif get_origin(annotation) is Literal and value not in get_args(annotation):
        choices = [str(choice) for choice in get_args(annotation)]
        raise InputError(f"{option} {value}: unknown; there are {', '.join(choices)}{did_you_mean(str(value), choices)}")


def _check_policy_gradient(config: PolicyGradientConfig) -> None:
    if config.temperature <= 0:
        raise InputError("--temperature 0: all samples of a group would be the same; use a temperature above 0")
    if not 0 < config.top_p <= 1:
        raise InputError(f"--top-p {config.top_p}: must be above 0 and at most 1")
    truncated = config.top_p < 1 or config.top_k > 0
    if truncated and (config.num_iterations > 1 or config.kl_coef or config.kl_cov or config.clip_cov):
        raise InputError(
            "--top-p and --top-k: samples from a truncated distribution bias the probability ratio and the KL divergence; "
            "sample from the whole distribution, or use --num-iterations 1 without --kl-coef, --kl-cov and --clip-cov"
        )
    if config.clip_ratio_c and (config.clip_ratio_c <= 1 or config.num_iterations == 1):
        raise InputError(
            f"--clip-ratio-c {config.clip_ratio_c:g}: must be above 1"
            if config.clip_ratio_c <= 1
            else f"--clip-ratio-c {config.clip_ratio_c:g}: does nothing with --num-iterations 1: the probability ratio is then 1; use "
            "--num-iterations 2 or more, or leave it out"
        )
    for option, fraction in (("--clip-cov", config.clip_cov), ("--kl-cov", config.kl_cov)):
        if fraction > 1:
            raise InputError(f"{option} {fraction:g}: is a fraction of the tokens, must be at most 1")
    if config.kl_cov and config.num_iterations == 1:
        raise InputError(
            f"--kl-cov {config.kl_cov:g}: does nothing with --num-iterations 1: its penalty is the distance from the policy before the "
            "batch, which is 0 in the first optimizer step on it, and so is its gradient; use --num-iterations 2 or more, or --clip-cov"
        )


def _check_taskmaking(config: TaskMakingConfig) -> None:
    from dynamics.train import proposer_rewards as rewards

    if not config.task_types:
        raise InputError(f"--task-types: needs at least one of {', '.join(get_args(TaskType))}")
    if set(config.task_types) == {"induction"}:
        raise InputError("--task-types induction: needs deduction or abduction as well, which supply its programs")
    rewards.find(config.proposer_reward)


#: environment variable that sets the dtype of ``--compute-dtype auto``
COMPUTE_DTYPE = "DYNAMICS_COMPUTE_DTYPE"


def forced_compute_dtype() -> str | None:
    """Return the dtype that the environment sets for ``--compute-dtype auto``, or None if the model and the machine decide."""
    forced = os.environ.get(COMPUTE_DTYPE) or "auto"
    if forced not in ("auto", *get_args(Dtype)):
        raise InputError(f"{COMPUTE_DTYPE}={forced}: must be auto, float32 or bfloat16")
    return None if forced == "auto" else forced


def as_recorded(config: TrainConfig) -> dict[str, Any]:
    """Return the settings as ``run.json`` stores them, with tuples as lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
