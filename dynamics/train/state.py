"""Points from which a run goes on: masters, optimizer and step, written whole or not at all."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from dynamics.errors import InputError
from dynamics.io.folders import save_folder
from dynamics.train.policy import Policy

#: what to do when a disk is full
ADVICE = "what was saved before is whole: go on with --resume"


def save(folder: Path, step: int, policy: Policy, optimizer: torch.optim.Optimizer, method_state: dict[str, Any]) -> None:
    """Save the state after a step, and remove the states before it once this one is on disk.

    Parameters
    ----------
    folder
        The folder ``state`` of a run directory.
    step
        Number of the step.
    policy, optimizer
        Masters and moments are saved.
    method_state
        What the method needs to go on; is written as JSON.
    """

    def fill(path: Path) -> None:
        weights = {name: value.detach().cpu() for name, value in policy.masters.items()}
        torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, path / "state.pt")
        (path / "state.json").write_text(json.dumps({"step": step, "method": method_state}), encoding="utf-8")

    save_folder(folder / f"step_{step:06d}", fill, ADVICE)
    for other in sorted(folder.glob("step_*")):
        if other.name != f"step_{step:06d}":
            shutil.rmtree(other, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """Find the state to go on from; one that is broken is passed over."""
    for path in sorted(folder.glob("step_*"), reverse=True):
        if (path / "state.pt").exists() and (path / "state.json").exists():
            return path
    return None


def load(path: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
    """Fill policy and optimizer from a state. Values are copied into memory that is allocated already.

    Returns
    -------
    int
        Number of the step after which it was saved.
    dict
        State of the method.
    """
    try:
        tensors = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        document = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({str(error).partition(chr(10))[0]}); remove it to begin again") from None
    with torch.no_grad():
        for name, value in policy.masters.items():
            value.copy_(tensors["weights"][name])
    policy.update_model()
    optimizer.load_state_dict(tensors["optimizer"])
    for moments in optimizer.state.values():
        for name, value in moments.items():
            if isinstance(value, torch.Tensor):
                moments[name] = value.clone()
    return int(document["step"]), document["method"]


def save_model(target: Path, policy: Policy) -> None:
    """Save the masters as an ordinary Hugging Face folder."""

    def fill(path: Path) -> None:
        model = policy.model
        if policy.separate:  # it computes with the values that the masters have, so this rounds nothing
            model = copy.deepcopy(model).to(torch.bfloat16)
        with redirect_stderr(StringIO()):
            model.save_pretrained(path)
        policy.tokenizer.save_pretrained(path)

    save_folder(target, fill, ADVICE)
