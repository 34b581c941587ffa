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
    schedule: str = option("constant", "of the learning rate after the warm-up", ("constant", "linear", "cosine"))
    warmup: int = option(5, "steps over which the learning rate rises")
    weight_decay: float = option(0.0, "of AdamW")
    beta1: float = option(0.9, "of AdamW")
    beta2: float = option(0.99, "of AdamW")
    clip: float = option(1.0, "largest L2 norm of the gradient")
    loss: str = option("token-mean", "how losses of tokens are averaged", ("token-mean", "sequence-mean", "constant"))
    master_dtype: str = option("float32", "dtype of the weights that the optimizer moves", ("float32", "bfloat16"))
    compute_dtype: str = option(
        "auto",
        "dtype of forward and backward passes; auto: bfloat16 from hidden size 512 on, on hardware with bfloat16 arithmetic; else float32",
        ("auto", "float32", "bfloat16"),
    )
    device: str = option("auto", "auto, cpu, cuda, ...")
    threads: int = option(0, "of torch; sums are ordered by them. 0: all cores")
    micro_tokens: int = option(8192, "tokens computed at once, padding included; changes memory, not results")
    save_every: int = option(50, "steps between checkpoints, and between points from which to resume; the last step is always saved")
    record_every: int = option(0, "steps between measurements of update sparsity; 0: the method's default")
    fixed_every: int = option(10, "steps between measurements of entropy on fixed prompts; 0: none")
    eval_problems: int = option(360, "held-out problems, asked before and after; 0: none")
    eval_samples: int = option(16, "samples of each")
    eval_temperatures: str = option("1,0.6,0.3,0", "at which the untouched base is asked; the trained model at the first; 0 is greedy")
    max_new_tokens: int = option(32, "longest completion that is sampled")


@dataclass(frozen=True)
class SFTConfig(TrainConfig):
    """Imitate given completions."""

    problems: int = option(2048, "problems to train on, gone through in a new random order each time")
    batch: int = option(64, "completions a step")


@dataclass(frozen=True)
class PolicyGradientConfig(TrainConfig):
    """What methods share that train on their own samples."""

    temperature: float = option(1.0, "of sampling; gradients are of the distribution at this temperature")
    top_p: float = option(1.0, "sample from the likeliest tokens only; refused where a ratio of probabilities is used")
    top_k: int = option(0, "likewise")
    advantage: str = option("grpo", "grpo, dr_grpo, rloo, reinforce++, reinforce++-sequence, reinforce")
    updates: int = option(1, "optimizer steps on each batch; with more than one, the clipped ratio is used")
    clip_low: float = option(0.2, "the ratio is clipped at 1 - this")
    clip_high: float = option(0.2, "and at 1 + this")
    kl: float = option(0.0, "coefficient of the k3 estimate of the KL divergence to the base")
    entropy_bonus: float = option(0.0, "coefficient of the entropy that is added to the objective")
    clip_cov: float = option(0.0, "share of the tokens of high covariance whose gradient is dropped")
    kl_cov: float = option(0.0, "share of the tokens of highest covariance that get a KL penalty to the old policy")


@dataclass(frozen=True)
class RLVRConfig(PolicyGradientConfig):
    """Sample completions, let a verifier judge them, raise the likelihood of the better ones."""

    problems: int = option(2048, "problems to train on, gone through in a new random order each time")
    prompts: int = option(48, "prompts a step")
    group: int = option(16, "samples of each prompt")


@dataclass(frozen=True)
class SelfPlayConfig(PolicyGradientConfig):
    """One model proposes tasks and solves them; running the programs judges both (after Absolute Zero)."""

    steps: int = option(250, "optimizer steps")
    advantage: str = option("reinforce++-sequence", "normalised apart for each role and task type: reinforce++ or reinforce++-sequence")
    prompts: int = option(24, "proposals a step, of each task type")
    group: int = option(8, "samples by which the solve rate of a proposal is estimated")
    solver_samples: int = option(0, "of these, how many the solver trains on; 0: all")
    propose_tokens: int = option(64, "longest proposal that is sampled")
    kinds: str = option("deduction,abduction,induction", "task types that are played")
    references: int = option(1, "tasks of the buffer that the proposer sees; 0: always the identity program")
    reward: str = option("one_minus", "of the proposer, by the solve rate: see the table, or module:function of your own")
    bonuses: str = option("", "added to it: complexity, edit_distance, halstead, answer_diversity, with commas between them")
    bonus_scale: float = option(0.5, "what each of them is multiplied by")
    combine: str = option("sum", "how they are joined with the reward", ("sum", "multiply", "sum_multiply", "multiply_sum"))
    invalid: float = option(-1.0, "reward of a proposal that is not valid")
    wrong: float = option(0.0, "reward of a wrong answer")
    unformed: float = option(0.0, "reward of an answer that cannot be read")
    proposer: str = option("trained", "frozen: no gradient of its own; snapshot: the base proposes", ("trained", "frozen", "snapshot"))
    buffer: int = option(4096, "tasks that are kept; the oldest go first")
    seeding: int = option(64, "valid tasks that the base proposes from the identity program before training, in at most four rounds")
    lag: int = option(0, "1: the solver trains on the proposals of the step before")
    on_collapse: str = option("stop", "when no proposal is valid for long: stop, or go on with the buffer", ("stop", "solver"))
    collapse_steps: int = option(10, "how long that is")
    curriculum: int = option(60, "proposals of each quarter of the run that the base is given at the end")
    allow_unconfined: int = option(0, "1: run programs that the model wrote without confinement where the machine has none")


METHODS: dict[str, type[TrainConfig]] = {"sft": SFTConfig, "rlvr": RLVRConfig, "selfplay": SelfPlayConfig}
#: other defaults where the model is not the embedded one: (method or None for all, field) -> value
LARGER: dict[tuple[str | None, str], Any] = {
    (None, "learning_rate"): 1e-5,
    (None, "eval_problems"): 64,
    (None, "eval_samples"): 4,
    (None, "max_new_tokens"): 64,
    (None, "micro_tokens"): 640,
    (None, "eval_temperatures"): "1,0",
    ("sft", "batch"): 16,
    ("rlvr", "prompts"): 8,
    ("rlvr", "group"): 8,
    ("selfplay", "prompts"): 4,
    ("selfplay", "references"): 2,
    ("selfplay", "propose_tokens"): 128,
}
#: settings of Absolute Zero, by its paper and by its public code where that differs
_AZR: dict[str, Any] = {
    "prompts": 64,
    "group": 8,
    "solver_samples": 1,
    "references": 6,
    "learning_rate": 1e-6,
    "buffer": 16384,
    "wrong": -0.5,
    "unformed": -1.0,
    "beta2": 0.999,
    "weight_decay": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "azr-paper": _AZR | {"advantage": "reinforce++-sequence", "reward": "one_minus", "entropy_bonus": 0.001},
    "azr-code": _AZR | {"advantage": "reinforce++", "reward": "azr_code", "entropy_bonus": 0.0, "clip_high": 0.28, "lag": 1},
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
        "problems": 1,
        "batch": 1,
        "prompts": 1,
        "group": 1,
        "updates": 1,
        "buffer": 2,
        "collapse_steps": 1,
        "propose_tokens": 1,
        "max_new_tokens": 1,
        "micro_tokens": 1,
    }
    for name, value in asdict(config).items():
        low = least.get(name, 1 if name == "save_every" else 0)
        if name in ("invalid", "wrong", "unformed"):
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
    if truncated and (config.updates > 1 or config.kl or config.kl_cov or config.clip_cov):
        raise InputError(
            "--top-p and --top-k: what is sampled would not come from the policy whose ratio or KL divergence is taken; "
            "sample from the whole distribution, or use --updates 1 without --kl, --kl-cov and --clip-cov"
        )


def _check_selfplay(config: SelfPlayConfig) -> None:
    from dynamics.train.proposer_rewards import BONUSES, find
    from dynamics.train.tasks import TASK_TYPES

    if not config.advantage.startswith("reinforce"):
        raise InputError(f"--advantage {config.advantage}: proposals have no group; use reinforce++, reinforce++-sequence or reinforce")
    for option, value, known in (("kinds", config.kinds, TASK_TYPES), ("bonuses", config.bonuses, BONUSES)):
        for name in value.split(","):
            if name not in known and (name or option == "kinds"):
                raise InputError(f"--{option} {value}: {name!r} is unknown; there are {', '.join(known)}")
    if config.kinds == "induction":
        raise InputError("--kinds induction: needs deduction or abduction beside it, from which its programs come")
    if config.solver_samples > config.group:
        raise InputError(f"--solver-samples {config.solver_samples}: there are only {config.group}, by --group")
    find(config.reward)


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
