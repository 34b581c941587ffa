"""What a run can be told: one frozen dataclass a method, from which the command line is made and which is written into ``run.json``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_type_hints

from dynamics.errors import InputError


def option(default: Any, about: str, choices: Sequence[str] = ()) -> Any:
    return field(default=default, metadata={"about": about, "choices": choices})


@dataclass(frozen=True)
class Config:
    """What all methods share."""

    model: str = option("tiny", "tiny (made on the spot), smollm2, a Hugging Face folder or a hub id")
    task: str = option("code", "code, deduction, abduction, induction, a reasoning-gym task, or a .jsonl or .parquet file")
    problems: int = option(2048, "problems to train on, gone through in a new random order each time")
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
    compute_dtype: str = option("auto", "of forward and backward; auto: bfloat16 where it is fast", ("auto", "float32", "bfloat16"))
    device: str = option("auto", "auto, cpu, cuda, ...")
    threads: int = option(0, "of torch; sums are ordered by them. 0: all cores")
    micro_tokens: int = option(8192, "tokens computed at once, padding included; changes memory, not results")
    save_every: int = option(50, "steps between checkpoints, and between points from which to resume; the last step is always saved")
    record_every: int = option(0, "steps between measurements of update sparsity; 0: the method's default")
    eval_problems: int = option(360, "held-out problems, asked before and after; 0: none")
    eval_samples: int = option(16, "samples of each")
    eval_temperatures: str = option("1,0.6,0.3,0", "at which the untouched base is asked; the trained model at the first; 0 is greedy")
    max_new_tokens: int = option(32, "longest completion that is sampled")


@dataclass(frozen=True)
class SFT(Config):
    """Imitate given completions."""

    batch: int = option(64, "completions a step")


@dataclass(frozen=True)
class RLVR(Config):
    """Sample completions, let a verifier judge them, raise the likelihood of the better ones."""

    prompts: int = option(48, "prompts a step")
    group: int = option(16, "samples of each prompt")
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


METHODS: dict[str, type[Config]] = {"sft": SFT, "rlvr": RLVR}
#: other defaults where the model is not the embedded one: (method or None for all, field) -> value
LARGER: dict[tuple[str | None, str], Any] = {
    (None, "learning_rate"): 1e-5,
    (None, "eval_problems"): 64,
    (None, "eval_samples"): 4,
    (None, "max_new_tokens"): 64,
    (None, "eval_temperatures"): "1,0",
    ("sft", "batch"): 16,
    ("rlvr", "prompts"): 8,
    ("rlvr", "group"): 8,
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


def resolve(method: str, options: argparse.Namespace) -> Config:
    """The config of a command line, its defaults filled in."""
    kind = METHODS[method]
    given = {one.name: value for one in fields(kind) if (value := getattr(options, one.name)) is not MISSING}
    if given.get("model", "tiny") != "tiny":
        for (only, name), value in LARGER.items():
            if only in (None, method):
                given.setdefault(name, value)
    config = kind(**given)
    check(config)
    return config


def check(config: Config) -> None:
    """Refuse numbers that make no sense."""
    least = {"steps": 1, "problems": 1, "batch": 1, "prompts": 1, "group": 1, "updates": 1, "max_new_tokens": 1, "micro_tokens": 1}
    for name, value in asdict(config).items():
        low = least.get(name, 1 if name == "save_every" else 0)
        if isinstance(value, (int, float)) and not low <= value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} {value}: must be a number of at least {low}")
    temperatures(config)
    if isinstance(config, RLVR):
        _check_rlvr(config)


def _check_rlvr(config: RLVR) -> None:
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


def temperatures(config: Config) -> list[float]:
    """Of the evaluation."""
    try:
        found = [float(part) for part in config.eval_temperatures.split(",")]
    except ValueError:
        raise InputError(f"--eval-temperatures {config.eval_temperatures}: must be numbers with commas between them") from None
    if not found or min(found) < 0:
        raise InputError(f"--eval-temperatures {config.eval_temperatures}: must be at least 0")
    return found
