"""What torchrun or accelerate launch has started, and asks for, by the environment of this process."""

from __future__ import annotations

import os


def world() -> int:
    """Return the number of processes that were started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def sharded() -> bool:
    """Tell whether accelerate is asked to shard weights by FSDP."""
    return _asked("ACCELERATE_USE_FSDP")


def fsdp_version() -> str | None:
    """Return the version of FSDP that is asked for."""
    return os.environ.get("FSDP_VERSION")


def deepspeed() -> bool:
    """Tell whether accelerate is asked for DeepSpeed."""
    return _asked("ACCELERATE_USE_DEEPSPEED")


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")
