"""Which sampler a run uses, and what must hold before it starts. It imports neither torch nor vLLM."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dynamics.errors import InputError, printable
from dynamics.extras import require
from dynamics.train.config import TrainConfig

if TYPE_CHECKING:
    from dynamics.train.policy import Sampler

SamplerName = Literal["transformers", "vllm"]
#: what ``run.json`` says of runs without the field
TRANSFORMERS: dict[str, Any] = {"name": "transformers"}
#: memory for keys and values, in GiB
MEMORY = 4.0


#: lowest temperature above 0; vLLM takes it for lower ones
LOWEST = 0.01


def check(name: SamplerName, memory: float | None, config: TrainConfig) -> None:
    """Refuse a sampler that is not installed, and settings that it cannot follow.

    Parameters
    ----------
    name : of the sampler.
    memory : for keys and values, in GiB; None if it was not given.
    config : settings of the run.
    """
    if name == "transformers":
        if memory is not None:
            raise InputError(f"--sampler-memory {memory:g}: is that of vLLM; add --sampler vllm, or leave it out")
        return
    if memory is not None and not (0 < memory < math.inf):
        raise InputError(f"--sampler-memory {memory:g}: must be above 0")
    if config.device.startswith("cuda:") and config.device != "cuda:0":
        raise InputError(f"--device {config.device}: vLLM takes the first GPU that it sees; set CUDA_VISIBLE_DEVICES, with --device cuda")
    temperatures = {"--temperature": [getattr(config, "temperature", 1.0)], "--eval-temperatures": config.eval_temperatures}
    for option, values in (temperatures | {"--eval-trained-temperatures": config.eval_trained_temperatures}).items():
        for value in values:
            if 0 < value < LOWEST:
                raise InputError(f"{option} {value:g}: vLLM takes {LOWEST:g} for lower temperatures above 0; use that, or 0")
    require(("vllm",), "sampling with --sampler vllm")


def make(name: SamplerName, memory: float | None, config: TrainConfig, processes: int = 1) -> Sampler | None:
    """Make the sampler of each of ``processes``, once ``check`` has passed; None if the policy's own model samples."""
    if name == "transformers":
        return None
    from dynamics.train.samplers.checked import Checked
    from dynamics.train.samplers.vllm import VLLM

    return Checked(VLLM(MEMORY if memory is None else memory, processes), config.max_tokens_per_microbatch)


def refuse_other(document: dict[str, Any], name: str, out: Path) -> None:
    """Refuse another sampler than a run began with, whose random numbers are others; ``document`` is its ``run.json``."""
    described = document.get("sampler", TRANSFORMERS)
    begun = described.get("name") if isinstance(described, dict) else described
    if begun != name:
        raise InputError(
            f"{printable(out)}: was started with --sampler {printable(str(begun))}, not {name}, which draws other samples; resume with the "
            "same sampler, or choose another folder"
        )
