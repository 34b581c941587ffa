"""What a run can be told: one frozen dataclass a method, from which the command line is made and which is written into ``run.json``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_type_hints

from dynamics.errors import InputError


def option(default: Any, about: str, choices: Sequence[str] = ()) -> Any:
    return field(default=default, metadata={"about": about, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """What all methods share."""

    model: str = option("tiny", "tiny (made on the spot), smollm2, a Hugging Face folder or a hub id")
    task: str = option(
        "code", "code, one of its kinds, proposals, a reasoning-gym task, a .jsonl or .parquet file, or several with + between"
    )
    steps: int = option(100, "optimizer steps")
    seed: int = option(0, "of all that is random")
    learning_rate: float = option(3e-4, "of AdamW, after the warm-up")
    lr_scheduler: str = option("constant", "of the learning rate after the warm-up", ("constant", "linear", "cosine"))
    warmup_steps: int = option(5, "steps over which the learning rate rises")
    weight_decay: float = option(0.0, "of AdamW")
    adam_beta1: float = option(0.9, "of AdamW")
    adam_beta2: float = option(0.99, "of AdamW")
    max_grad_norm: float = option(1.0, "largest L2 norm of the gradient")
    loss_aggregation: str = option("token-mean", "how losses of tokens are averaged", ("token-mean", "sequence-mean", "constant"))
    master_dtype: str = option("float32", "dtype of the weights that the optimizer moves", ("float32", "bfloat16"))
    compute_dtype: str = option(
        "auto",
        "dtype of forward and backward passes; auto: bfloat16 from hidden size 512 on, on hardware with bfloat16 arithmetic; else float32",
        ("auto", "float32", "bfloat16"),
    )
    device: str = option("auto", "auto, cpu, cuda, ...")
    threads: int = option(0, "of torch; sums are ordered by them. 0: all cores")
    max_tokens_per_microbatch: int = option(8192, "tokens computed at once, padding included; changes memory, not results")
    save_every: int = option(50, "steps between checkpoints, and between points from which to resume; the last step is always saved")
    record_every: int = option(0, "steps between measurements of update sparsity; 0: the method's default")
    probe_every: int = option(10, "steps between measurements of entropy on fixed prompts; 0: none")
    eval_problems: int = option(360, "held-out problems, asked before and after; 0: none")
    eval_samples: int = option(16, "samples of each")
    eval_temperatures: str = option("1,0.6,0.3,0", "at which the untouched base is asked; the trained model at the first; 0 is greedy")
    max_new_tokens: int = option(32, "longest completion that is sampled")


@dataclass(frozen=True)
class SFTConfig(TrainConfig):
    """Imitate given completions."""

    num_problems: int = option(2048, "problems to train on, gone through in a new random order each time")
    batch_size: int = option(64, "completions a step")


@dataclass(frozen=True)
class PolicyGradientConfig(TrainConfig):
    """What methods share that train on their own samples."""

    temperature: float = option(1.0, "of sampling; gradients are of the distribution at this temperature")
    top_p: float = option(1.0, "sample from the likeliest tokens only; refused where a ratio of probabilities is used")
    top_k: int = option(0, "likewise")
    advantage: str = option("grpo", "grpo, dr_grpo, rloo, reinforce++, reinforce++-sequence, reinforce")
    num_iterations: int = option(1, "optimizer steps on each batch; with more than one, the clipped ratio is used")
    clip_ratio_low: float = option(0.2, "the ratio is clipped at 1 - this")
    clip_ratio_high: float = option(0.2, "and at 1 + this")
    kl_coef: float = option(0.0, "coefficient of the k3 estimate of the KL divergence to the base")
    entropy_coef: float = option(0.0, "coefficient of the entropy that is added to the objective")
    clip_cov: float = option(0.0, "share of the tokens of high covariance whose gradient is dropped")
    kl_cov: float = option(0.0, "share of the tokens of highest covariance that get a KL penalty to the old policy")


@dataclass(frozen=True)
class RLVRConfig(PolicyGradientConfig):
    """Sample completions, let a verifier judge them, raise the likelihood of the better ones."""

    num_problems: int = option(2048, "problems to train on, gone through in a new random order each time")
    prompts_per_step: int = option(48, "prompts a step")
    group_size: int = option(16, "samples of each prompt")


@dataclass(frozen=True)
class SelfPlayConfig(PolicyGradientConfig):
    """One model proposes tasks and solves them; running the programs judges both (after Absolute Zero)."""

    steps: int = option(250, "optimizer steps")
    advantage: str = option("reinforce++-sequence", "normalised apart for each role and task type: reinforce++ or reinforce++-sequence")
    prompts_per_step: int = option(24, "proposals a step, of each task type")
    group_size: int = option(8, "samples by which the solve rate of a proposal is estimated")
    solver_samples: int = option(0, "of these, how many the solver trains on; 0: all")
    max_proposal_tokens: int = option(64, "longest proposal that is sampled")
    task_types: str = option("deduction,abduction,induction", "task types that are played")
    num_references: int = option(1, "tasks of the buffer that the proposer sees; 0: always the identity program")
    proposer_reward: str = option("one_minus", "of the proposer, by the solve rate: see the table, or module:function of your own")
    proposer_bonuses: str = option("", "added to it: complexity, edit_distance, halstead, answer_diversity, with commas between them")
    bonus_scale: float = option(0.5, "what each of them is multiplied by")
    bonus_combination: str = option("sum", "how they are joined with the reward", ("sum", "multiply", "sum_multiply", "multiply_sum"))
    invalid_proposal_reward: float = option(-1.0, "reward of a proposal that is not valid")
    wrong_answer_reward: float = option(0.0, "reward of a wrong answer")
    format_error_reward: float = option(0.0, "reward of an answer that cannot be read")
    proposer: str = option("trained", "frozen: no gradient of its own; snapshot: the base proposes", ("trained", "frozen", "snapshot"))
    buffer_size: int = option(4096, "tasks that are kept; the oldest go first")
    num_seed_tasks: int = option(64, "valid tasks that the base proposes from the identity program before training, in at most four rounds")
    solver_delay: int = option(0, "1: the solver trains on the proposals of the step before")
    on_collapse: str = option("stop", "when no proposal is valid for long: stop, or go on with the buffer", ("stop", "solver"))
    collapse_steps: int = option(10, "how long that is")
    curriculum_samples: int = option(60, "proposals of each quarter of the run that the base is given at the end")
    allow_unconfined: int = option(0, "1: run programs that the model wrote without confinement where the machine has none")


METHODS: dict[str, type[TrainConfig]] = {"sft": SFTConfig, "rlvr": RLVRConfig, "selfplay": SelfPlayConfig}
#: other defaults where the model is not the embedded one: (method or None for all, field) -> value
LARGER: dict[tuple[str | None, str], Any] = {
    (None, "learning_rate"): 1e-5,
    (None, "eval_problems"): 64,
    (None, "eval_samples"): 4,
    (None, "max_new_tokens"): 64,
    (None, "max_tokens_per_microbatch"): 640,
    (None, "eval_temperatures"): "1,0",
    ("sft", "batch_size"): 16,
    ("rlvr", "prompts_per_step"): 8,
    ("rlvr", "group_size"): 8,
    ("selfplay", "prompts_per_step"): 4,
    ("selfplay", "num_references"): 2,
    ("selfplay", "max_proposal_tokens"): 128,
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
PRESETS: dict[str, dict[str, Any]] = {
    "azr-paper": _AZR | {"advantage": "reinforce++-sequence", "proposer_reward": "one_minus", "entropy_coef": 0.001},
    "azr-code": _AZR
    | {"advantage": "reinforce++", "proposer_reward": "azr_code", "entropy_coef": 0.0, "clip_ratio_high": 0.28, "solver_delay": 1},
}


def add_options(parser: argparse.ArgumentParser, method: str) -> None:
    kinds = get_type_hints(METHODS[method])
    for one in fields(METHODS[method]):
        about = f"{one.metadata['about']} (default {one.default})"
        larger = LARGER.get((None, one.name), LARGER.get((method, one.name)))
        if larger is not None:
            about = about[:-1] + f"; {larger} for other models than tiny)"
        parser.add_argument(
            f"--{one.name.replace('_', '-')}",
            type=kinds[one.name],
            default=MISSING,
            choices=one.metadata["choices"] or None,
            help=about.replace("%", "%%"),
            metavar=None if one.metadata["choices"] else one.name.split("_")[-1].upper(),
        )


def resolve(method: str, options: argparse.Namespace) -> TrainConfig:
    """The config of a command line, its defaults filled in."""
    kind = METHODS[method]
    given = {one.name: value for one in fields(kind) if (value := getattr(options, one.name)) is not MISSING}
    given = PRESETS.get(getattr(options, "preset", None) or "", {}) | given
    if given.get("model", "tiny") != "tiny":
        for (only, name), value in LARGER.items():
            if only in (None, method):
                given.setdefault(name, value)
    config = kind(**given)
    check(config)
    return config


def check(config: TrainConfig) -> None:
    """Refuse numbers that make no sense."""
    least = {
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
    }
    for name, value in asdict(config).items():
        low = least.get(name, 1 if name == "save_every" else 0)
        if name in ("invalid_proposal_reward", "wrong_answer_reward", "format_error_reward"):
            continue
        if isinstance(value, (int, float)) and not low <= value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} {value}: must be a number of at least {low}")
    forced_compute_dtype()
    temperatures(config)
    if isinstance(config, PolicyGradientConfig):
        _check_gradient(config)
    if isinstance(config, SelfPlayConfig):
        _check_selfplay(config)


def _check_gradient(config: PolicyGradientConfig) -> None:
    from dynamics.train.objectives import ADVANTAGES

    if config.advantage not in ADVANTAGES:
        raise InputError(f"--advantage {config.advantage}: unknown; there are {', '.join(ADVANTAGES)}")
    if config.temperature <= 0:
        raise InputError("--temperature 0: samples of a group would all be the same; give a temperature above 0")
    truncated = config.top_p < 1 or config.top_k > 0
    if not 0 < config.top_p <= 1:
        raise InputError(f"--top-p {config.top_p}: must be above 0 and at most 1")
    if truncated and (config.num_iterations > 1 or config.kl_coef or config.kl_cov or config.clip_cov):
        raise InputError(
            "--top-p and --top-k: what is sampled would not come from the policy whose ratio or KL divergence is taken; "
            "sample from the whole distribution, or use --num-iterations 1 without --kl-coef, --kl-cov and --clip-cov"
        )


def _check_selfplay(config: SelfPlayConfig) -> None:
    from dynamics.train.games.rewards import BONUSES, find
    from dynamics.train.tasks import TASK_TYPES

    if not config.advantage.startswith("reinforce"):
        raise InputError(f"--advantage {config.advantage}: proposals have no group; use reinforce++, reinforce++-sequence or reinforce")
    for option, value, known in (("task_types", config.task_types, TASK_TYPES), ("proposer_bonuses", config.proposer_bonuses, BONUSES)):
        for name in value.split(","):
            if name not in known and (name or option == "task_types"):
                raise InputError(f"--{option} {value}: {name!r} is unknown; there are {', '.join(known)}")
    if config.task_types == "induction":
        raise InputError("--task-types induction: needs deduction or abduction beside it, from which its programs come")
    if config.solver_samples > config.group_size:
        raise InputError(f"--solver-samples {config.solver_samples}: there are only {config.group_size}, by --group-size")
    find(config.proposer_reward)


#: the environment variable that says what ``--compute-dtype auto`` means
COMPUTE_DTYPE = "DYNAMICS_COMPUTE_DTYPE"


def forced_compute_dtype() -> str | None:
    """What ``--compute-dtype auto`` means by the environment; None where that is left to the machine and the model."""
    found = os.environ.get(COMPUTE_DTYPE) or "auto"
    if found not in ("auto", "float32", "bfloat16"):
        raise InputError(f"{COMPUTE_DTYPE}={found}: must be auto, float32 or bfloat16")
    return None if found == "auto" else found


def temperatures(config: TrainConfig) -> list[float]:
    """Of the evaluation."""
    try:
        found = [float(part) for part in config.eval_temperatures.split(",")]
    except ValueError:
        raise InputError(f"--eval-temperatures {config.eval_temperatures}: must be numbers with commas between them") from None
    if not found or min(found) < 0:
        raise InputError(f"--eval-temperatures {config.eval_temperatures}: must be at least 0")
    return found
