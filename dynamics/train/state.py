"""Saved states from which a run resumes: master weights, optimizer, step and method state, written atomically."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.errors import InputError
from dynamics.io.folders import save_folder

if TYPE_CHECKING:
    import torch

    from dynamics.train.policy import Policy

#: hint in the error message if a write fails
ADVICE = "the previous state is intact: continue with --resume"


def save(folder: Path, step: int, policy: Policy, optimizer: torch.optim.Optimizer, method_state: dict[str, Any]) -> None:
    """Save the state after a step, then remove earlier states.

    Parameters
    ----------
    folder
        The folder ``state`` of a run directory.
    step
        Number of the step.
    policy, optimizer
        Source of the master weights and of the optimizer state.
    method_state
        State of the method, written as JSON.
    """
    import torch

    def fill(path: Path) -> None:
        weights = {name: value.detach().cpu() for name, value in policy.masters.items()}
        torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, path / "state.pt")
        (path / "state.json").write_text(json.dumps({"step": step, "method": method_state}), encoding="utf-8")

    save_folder(folder / f"step_{step:06d}", fill, ADVICE)
    for other in sorted(folder.glob("step_*")):
        if other.name != f"step_{step:06d}":
            shutil.rmtree(other, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """Find the latest complete state; incomplete states are skipped."""
    for path in sorted(folder.glob("step_*"), reverse=True):
        if (path / "state.pt").exists() and (path / "state.json").exists():
            return path
    return None


def load(path: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
    """Load a state into the policy and the optimizer; weights are copied into existing memory.

    Returns
    -------
    int
        Number of the step after which the state was saved.
    dict
        State of the method.
    """
    import torch

    try:
        tensors = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        document = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({str(error).partition(chr(10))[0]}); remove it to start again") from None
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
    """Save the master weights as a Hugging Face folder."""
    import torch

    def fill(path: Path) -> None:
        model = policy.model
        if policy.separate:  # the model's parameters equal the bfloat16 masters, so the conversion is exact
            model = copy.deepcopy(model).to(torch.bfloat16)
        with redirect_stderr(StringIO()):
            model.save_pretrained(path)
        policy.tokenizer.save_pretrained(path)

    save_folder(target, fill, ADVICE)
