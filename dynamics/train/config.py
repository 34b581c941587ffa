"""Settings of a run: one frozen dataclass a method, from which the command line is made and which is written into ``run.json``.

What stands under ``Attributes`` is the help of the command line.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dynamics.errors import InputError, did_you_mean

Dtype = Literal["float32", "bfloat16"]
LossAggregation = Literal["token-mean", "sequence-mean", "constant"]
Advantage = Literal["grpo", "dr_grpo", "rloo", "reinforce++", "reinforce++-sequence", "reinforce"]
#: proposals have no group, so estimators that compare samples within one are left out
SelfPlayAdvantage = Literal["reinforce++", "reinforce++-sequence", "reinforce"]
TaskType = Literal["deduction", "abduction", "induction"]
Bonus = Literal["complexity", "edit_distance", "halstead", "answer_diversity"]
BonusCombination = Literal["sum", "multiply", "sum_multiply", "multiply_sum"]


@dataclass(frozen=True)
class TrainConfig:
    """What all methods share.

    Attributes
    ----------
    model : str
        model to train: tiny (a small one, made on the spot), smollm2, a Hugging Face folder, or a Hub id
    task : str
        task to train on: code, one of its types (deduction, abduction, induction), proposals, a reasoning-gym task, a .jsonl or .parquet
        file, or several of these with + between them
    steps : int
        number of optimizer steps, or of batches where --num-iterations is more than 1
    seed : int
        random seed
    learning_rate : float
        learning rate of AdamW after the warm-up
    lr_scheduler : str
        course of the learning rate after the warm-up
    warmup_steps : int
        steps over which the learning rate rises linearly from 0
    weight_decay : float
        weight decay of AdamW
    adam_beta1 : float
        decay rate of AdamW's running mean of the gradient
    adam_beta2 : float
        decay rate of AdamW's running mean of the squared gradient
    max_grad_norm : float
        L2 norm to which a larger gradient is scaled down; 0 disables clipping
    loss_aggregation : str
        how the losses of tokens are averaged: over all tokens of the batch, over each completion first, or by a constant
    master_dtype : str
        dtype of the weights that the optimizer updates
    compute_dtype : str
        dtype of forward and backward passes; auto: bfloat16 for models of hidden size 512 or more on hardware with bfloat16 arithmetic,
        float32 otherwise
    device : str
        device to train on: auto, cpu, cuda, cuda:1, ...
    threads : int
        CPU threads of torch, on which the order of sums depends; 0: one for every core
    max_tokens_per_microbatch : int
        tokens computed at once, padding included; changes memory use, not results
    save_every : int
        steps between checkpoints, and between states from which --resume can continue; the last step is always saved
    record_every : int
        steps between measurements of update sparsity; 0: every step for rlvr and selfplay, every 10 steps for sft
    probe_every : int
        steps between measurements of entropy on held-out prompts that stay the same; 0 disables
    eval_problems : int
        number of held-out problems for the evaluation before and after training; 0 disables it
    eval_samples : int
        samples of each held-out problem
    eval_temperatures : tuple of float
        sampling temperatures at which the base model is evaluated; the trained model is evaluated at the first; 0 is greedy decoding
    max_new_tokens : int
        maximum length of a completion in tokens
    """

    model: str = "tiny"
    task: str = "code"
    steps: int = 100
    seed: int = 0
    learning_rate: float = 3e-4
    lr_scheduler: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    max_grad_norm: float = 1.0
    loss_aggregation: LossAggregation = "token-mean"
    master_dtype: Dtype = "float32"
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    threads: int = 0
    max_tokens_per_microbatch: int = 8192
    save_every: int = 50
    record_every: int = 0
    probe_every: int = 10
    eval_problems: int = 360
    eval_samples: int = 16
    eval_temperatures: tuple[float, ...] = (1.0, 0.6, 0.3, 0.0)
    max_new_tokens: int = 32


@dataclass(frozen=True)
class SFTConfig(TrainConfig):
    """Supervised fine-tuning: imitate given completions.

    Attributes
    ----------
    num_problems : int
        number of problems to train on; they are gone through in a new random order each time
    batch_size : int
        completions per step
    """

    num_problems: int = 2048
    batch_size: int = 64


@dataclass(frozen=True)
class PolicyGradientConfig(TrainConfig):
    """What methods share that train on their own samples.

    Attributes
    ----------
    temperature : float
        sampling temperature; gradients are those of the distribution at this temperature
    top_p : float
        nucleus sampling: sample from the smallest set of tokens with this probability; 1 disables
    top_k : int
        top-k sampling: sample from this many of the likeliest tokens; 0 disables
    advantage : str
        estimator of advantages
    num_iterations : int
        optimizer steps on each batch; with more than one the clipped probability ratio is used
    clip_ratio_low : float
        lower clip range: probability ratios are clipped at 1 - this
    clip_ratio_high : float
        upper clip range: probability ratios are clipped at 1 + this
    kl_coef : float
        coefficient of the KL divergence to the base model (k3 estimate) in the loss
    entropy_coef : float
        coefficient of the entropy bonus in the loss
    clip_cov : float
        Clip-Cov: share of the tokens whose gradient is dropped, drawn from those of high covariance of log-probability and advantage
    kl_cov : float
        KL-Cov: share of the tokens, those of highest covariance of log-probability and advantage, with a KL penalty to the old policy
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    advantage: Advantage = "grpo"
    num_iterations: int = 1
    clip_ratio_low: float = 0.2
    clip_ratio_high: float = 0.2
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    clip_cov: float = 0.0
    kl_cov: float = 0.0


@dataclass(frozen=True)
class RLVRConfig(PolicyGradientConfig):
    """Reinforcement learning from verifiable rewards: sample completions, let a verifier judge them, raise the likelihood of the better.

    Attributes
    ----------
    num_problems : int
        number of problems to train on; they are gone through in a new random order each time
    prompts_per_step : int
        prompts per step
    group_size : int
        samples of each prompt
    """

    num_problems: int = 2048
    prompts_per_step: int = 48
    group_size: int = 16


@dataclass(frozen=True)
class SelfPlayConfig(PolicyGradientConfig):
    """Self-play after Absolute Zero: one model proposes tasks and solves them; running the programs judges both.

    Attributes
    ----------
    advantage : str
        estimator of advantages; they are normalised apart for each role and task type
    prompts_per_step : int
        proposals per step and task type
    group_size : int
        samples of each proposed task, by which its solve rate is estimated
    solver_samples : int
        how many of the samples of a task the solver trains on; 0: all
    max_proposal_tokens : int
        maximum length of a proposal in tokens
    task_types : tuple of str
        task types that are proposed and solved
    num_references : int
        tasks from the buffer that the proposer is shown; 0: always the identity program
    proposer_reward : str
        reward of the proposer as a function of the solve rate: a name from the table in the README, or module:function of your own
    proposer_bonuses : tuple of str
        terms that are joined with the proposer's reward; none by default
    bonus_scale : float
        factor by which each bonus is multiplied
    bonus_combination : str
        how bonuses are joined with the reward r: sum (r + sum), multiply (r * product), sum_multiply (r + product), multiply_sum (r * sum)
    invalid_proposal_reward : float
        reward of a proposal that is not valid
    wrong_answer_reward : float
        reward of a wrong answer
    format_error_reward : float
        reward of an answer that cannot be read
    proposer : str
        how the proposer learns: trained; frozen (proposals have no gradient, shared weights still move); snapshot (the base proposes)
    buffer_size : int
        maximum number of tasks in the buffer; the oldest are dropped first
    num_seed_tasks : int
        valid tasks that the base proposes from the identity program before training, in at most four rounds
    solver_delay : int
        steps between proposing a task and training the solver on it: 0 or 1
    on_collapse : str
        what to do when the proposer has collapsed: stop the run, or go on training the solver on the buffer
    collapse_steps : int
        steps without a valid proposal before --on-collapse applies
    curriculum_samples : int
        proposals from each quarter of the run whose solve rate by the base is measured after training
    allow_unconfined : bool
        run programs that the model wrote without a sandbox where the machine has none
    """

    steps: int = 250
    advantage: SelfPlayAdvantage = "reinforce++-sequence"
    prompts_per_step: int = 24
    group_size: int = 8
    solver_samples: int = 0
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
    solver_delay: Literal[0, 1] = 0
    on_collapse: Literal["stop", "solver"] = "stop"
    collapse_steps: int = 10
    curriculum_samples: int = 60
    allow_unconfined: bool = False


METHODS: dict[str, type[TrainConfig]] = {"sft": SFTConfig, "rlvr": RLVRConfig, "selfplay": SelfPlayConfig}

#: defaults of the embedded model are those of the classes above; of pretrained models, for every method and for one:
_PRETRAINED: dict[str, Any] = {
    "learning_rate": 1e-5,
    "eval_problems": 64,
    "eval_samples": 4,
    "max_new_tokens": 64,
    "max_tokens_per_microbatch": 640,
    "eval_temperatures": (1.0, 0.0),
}
_PRETRAINED_OF: dict[str, dict[str, Any]] = {
    "sft": {"batch_size": 16},
    "rlvr": {"prompts_per_step": 8, "group_size": 8},
    "selfplay": {"prompts_per_step": 4, "num_references": 2, "max_proposal_tokens": 128},
}
#: settings of Absolute Zero, by its paper and by its public code where that differs
_AZR: dict[str, Any] = {
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
}
_AZR_PRESETS: dict[str, dict[str, Any]] = {
    "azr-paper": _AZR | {"advantage": "reinforce++-sequence", "proposer_reward": "one_minus", "entropy_coef": 0.001},
    "azr-code": _AZR
    | {"advantage": "reinforce++", "proposer_reward": "azr_code", "entropy_coef": 0.0, "clip_ratio_high": 0.28, "solver_delay": 1},
}
#: presets that say what size of model the defaults are for; the others are laid over one of these
SIZES = ("tiny", "pretrained")
PRESETS: dict[str, tuple[str, ...]] = {"sft": SIZES, "rlvr": SIZES, "selfplay": (*SIZES, *_AZR_PRESETS)}


def size_preset(preset: str | None, model: str) -> str:
    """Name the preset, ``tiny`` or ``pretrained``, that the defaults of a run come from: the one given, else by the model's name."""
    return preset if preset in SIZES else "tiny" if model == "tiny" else "pretrained"


def preset_values(method: str, preset: str | None = None, model: str = "tiny") -> dict[str, Any]:
    """Collect the settings in which a preset differs from the defaults of the method's config class.

    Parameters
    ----------
    method
        ``sft``, ``rlvr`` or ``selfplay``.
    preset
        One of ``PRESETS[method]``; if None, ``tiny`` for the model of that name and ``pretrained`` for all others.
    model
        What ``--model`` names.

    Returns
    -------
    dict
        Values by the names of fields.
    """
    if preset is not None and preset not in PRESETS[method]:
        raise InputError(
            f"--preset {preset}: unknown for {method}; there are {', '.join(PRESETS[method])}{did_you_mean(preset, PRESETS[method])}"
        )
    values = _PRETRAINED | _PRETRAINED_OF[method] if size_preset(preset, model) == "pretrained" else {}
    return values | _AZR_PRESETS.get(preset or "", {})


#: least value of a number, by field; 0 where nothing is said
_LEAST = {
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
}
#: numbers that may be negative
_SIGNED = ("invalid_proposal_reward", "wrong_answer_reward", "format_error_reward")


def option_of(name: str) -> str:
    """Spell the command line's option of a field."""
    return f"--{name.replace('_', '-')}"


def check(config: TrainConfig) -> None:
    """Refuse values that make no sense.

    Raises
    ------
    InputError
        In one line that names the option.
    """
    types = get_type_hints(type(config))
    for field in fields(config):
        value, option = getattr(config, field.name), option_of(field.name)
        _check_choice(option, value, types[field.name])
        if isinstance(value, (int, float)):
            _check_number(option, value, None if field.name in _SIGNED else _LEAST.get(field.name, 0))
    if not config.eval_temperatures or not all(0 <= temperature < math.inf for temperature in config.eval_temperatures):
        given = " ".join(f"{temperature:g}" for temperature in config.eval_temperatures)
        raise InputError(f"--eval-temperatures {given}: must be one or more numbers of at least 0")
    forced_compute_dtype()
    if isinstance(config, PolicyGradientConfig):
        _check_policy_gradient(config)
    if isinstance(config, SelfPlayConfig):
        _check_selfplay(config)


def _check_number(option: str, value: float, least: int | None) -> None:
    if not math.isfinite(value):
        raise InputError(f"{option} {value}: must be a number")
    if least is not None and value < least:
        raise InputError(f"{option} {value}: must be a number of at least {least}")


def _check_choice(option: str, value: Any, annotation: Any) -> None:
    """Refuse what is none of the choices of a field, or of its elements."""
    if get_origin(annotation) is tuple:
        for element in value:
            _check_choice(option, element, get_args(annotation)[0])
    elif get_origin(annotation) is Literal and value not in get_args(annotation):
        choices = [str(choice) for choice in get_args(annotation)]
        raise InputError(f"{option} {value}: unknown; there are {', '.join(choices)}{did_you_mean(str(value), choices)}")


def _check_policy_gradient(config: PolicyGradientConfig) -> None:
    if config.temperature <= 0:
        raise InputError("--temperature 0: samples of a group would all be the same; give a temperature above 0")
    if not 0 < config.top_p <= 1:
        raise InputError(f"--top-p {config.top_p}: must be above 0 and at most 1")
    truncated = config.top_p < 1 or config.top_k > 0
    if truncated and (config.num_iterations > 1 or config.kl_coef or config.kl_cov or config.clip_cov):
        raise InputError(
            "--top-p and --top-k: what is sampled would not come from the policy whose ratio or KL divergence is taken; "
            "sample from the whole distribution, or use --num-iterations 1 without --kl-coef, --kl-cov and --clip-cov"
        )


def _check_selfplay(config: SelfPlayConfig) -> None:
    from dynamics.train import proposer_rewards as rewards

    if not config.task_types:
        raise InputError(f"--task-types: needs at least one of {', '.join(get_args(TaskType))}")
    if set(config.task_types) == {"induction"}:
        raise InputError("--task-types induction: needs deduction or abduction beside it, from which its programs come")
    if config.solver_samples > config.group_size:
        raise InputError(f"--solver-samples {config.solver_samples}: there are only {config.group_size}, by --group-size")
    rewards.find(config.proposer_reward)


#: the environment variable that says what ``--compute-dtype auto`` means
COMPUTE_DTYPE = "DYNAMICS_COMPUTE_DTYPE"


def forced_compute_dtype() -> str | None:
    """Read what ``--compute-dtype auto`` means from the environment; None where that is left to the machine and the model."""
    forced = os.environ.get(COMPUTE_DTYPE) or "auto"
    if forced not in ("auto", *get_args(Dtype)):
        raise InputError(f"{COMPUTE_DTYPE}={forced}: must be auto, float32 or bfloat16")
    return None if forced == "auto" else forced


def as_recorded(config: TrainConfig) -> dict[str, Any]:
    """Give the settings as ``run.json`` holds them, tuples as lists, to compare with those of a run directory."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
