"""How long it takes to run models over texts, estimated before it is done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamics.checkpoints import open_checkpoint

#: floating-point operations per weight and token in a forward pass
OPERATIONS = 2
#: how much slower a forward pass with all measures is than products of large matrices (2.2 was measured on SmolLM2-135M, on a CPU), and
#: bytes that are loaded in a second
SLOWER, LOADED = 4.0, 200e6
#: seconds for importing torch and transformers
START = 8.0
#: size of the matrices whose product is timed, and seconds for which it is repeated
SIZE, PATIENCE = 512, 0.1


@dataclass(frozen=True)
class Estimate:
    """The estimated time of model passes.

    Attributes
    ----------
    parameters : of all models together.
    tokens : of the texts.
    speed : floating-point operations in a second, as measured on products of matrices.
    seconds : the estimate, within a factor of about three.
    """

    parameters: int
    tokens: int
    speed: float
    seconds: float


def parameters_of(path: str | Path) -> int:
    """Count the parameters of a checkpoint from its headers."""
    return sum(tensor.numel for tensor in open_checkpoint(path).tensors.values())


def measured_speed() -> float:
    """Time products of float32 matrices on the device that would run a model; return operations in a second."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(SIZE, SIZE, device=device)
    torch.mm(matrix, matrix).sum().item()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < PATIENCE:
        torch.mm(matrix, matrix).sum().item()  # the sum waits for the device
        count += 1
    return count * 2 * SIZE**3 / (time.perf_counter() - began)


def estimate(work: Sequence[tuple[int, int]], speed: float) -> Estimate:
    """Estimate the time of loading models and of running them.

    Parameters
    ----------
    work : for each pair of models that is run together, the parameters of both and the tokens that each reads.
    speed : from ``measured_speed``.
    """
    parameters, tokens = (sum(part[index] for part in work) for index in (0, 1))
    operations = OPERATIONS * sum(count * read for count, read in work)
    return Estimate(parameters, tokens, speed, START + 4 * parameters / LOADED + SLOWER * operations / speed)
