"""Which engine a run uses, and what must hold before it starts. It imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dynamics.errors import InputError
from dynamics.extras import require
from dynamics.train.config import PolicyGradientConfig, TrainConfig
from dynamics.train.engines.launcher import deepspeed, fsdp_version, sharded, world

if TYPE_CHECKING:
    from dynamics.train.engines.protocol import Engine
    from dynamics.train.policy import Sampler

EngineName = Literal["local", "trl"]


def check(name: EngineName, processes: int | None, config: TrainConfig) -> None:
    """Refuse an engine that is not in force, and settings that it cannot compute exactly.

    Parameters
    ----------
    name : of the engine.
    processes : number of processes that the user wants; None to take what is there.
    config : settings of the run.
    """
    if processes is not None and processes < 1:
        raise InputError(f"--processes {processes}: must be at least 1")
    refuse(name, config)
    if name == "local":
        if world() > 1 or (processes or 1) > 1:
            raise InputError(f"--engine local is one process, and there are {max(world(), processes or 1)}: use --engine trl")
        return
    require(("trl", "accelerate", "datasets"), "training with --engine trl")
    if processes is not None and processes != world():
        raise InputError(
            f"--processes {processes}: {world()} {'is' if world() == 1 else 'are'} there; start with torchrun --nproc_per_node {processes} "
            "-m dynamics.train, or look at the configuration of accelerate, which may start one process without a word"
        )
    if deepspeed():
        raise InputError("DeepSpeed: has an optimizer of its own, which --engine trl does not use; start it with a configuration of FSDP2")
    if sharded() and fsdp_version() != "2":
        raise InputError("FSDP: --engine trl shards weights by FSDP2 only; set fsdp_version: 2 in the configuration of accelerate")
    if sharded() and world() == 1:
        raise InputError("FSDP: there is one process, and nothing to share; start several, or choose a configuration without FSDP")


def refuse(name: EngineName, config: TrainConfig) -> None:
    """Refuse settings that an engine cannot compute exactly, on whatever processes."""
    if name == "local":
        return
    if isinstance(config, PolicyGradientConfig) and config.entropy_coef:
        raise InputError(
            f"--entropy-coef {config.entropy_coef:g}: its gradient is not one of the samples' log-probabilities, which --engine trl takes; "
            "leave it out, or use --engine local"
        )
    if config.master_dtype != "float32":
        raise InputError(f"--master-dtype {config.master_dtype}: --engine trl trains float32 weights; leave it out, or use --engine local")


def make(name: EngineName, processes: int | None, config: TrainConfig, sampler: Sampler | None = None) -> Engine:
    """Make an engine, once ``check`` has passed; it joins the other processes, whose policies are sampled from by ``sampler``."""
    if name == "local":
        from dynamics.train.engines.local import Local

        return Local()
    from dynamics.train.engines.trl import TRL

    return TRL(config, processes, sampler)
