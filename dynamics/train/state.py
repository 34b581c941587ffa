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


def save(folder: Path, step: int, policy: Policy, optimizer: torch.optim.Optimizer, method: dict[str, Any]) -> None:
    """State after ``step``; the state before it is removed once this one is on disk."""

    def fill(place: Path) -> None:
        weights = {name: value.detach().cpu() for name, value in policy.masters.items()}
        torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, place / "state.pt")
        (place / "state.json").write_text(json.dumps({"step": step, "method": method}), encoding="utf-8")

    save_folder(folder / f"step_{step:06d}", fill, ADVICE)
    for other in sorted(folder.glob("step_*")):
        if other.name != f"step_{step:06d}":
            shutil.rmtree(other, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """The state to go on from. One that is broken is passed over."""
    for place in sorted(folder.glob("step_*"), reverse=True):
        if (place / "state.pt").exists() and (place / "state.json").exists():
            return place
    return None


def load(place: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
    """Fill policy and optimizer; gives the step and what the method kept. Copies into memory that is there already."""
    try:
        found = torch.load(place / "state.pt", map_location="cpu", weights_only=True)
        kept = json.loads((place / "state.json").read_text(encoding="utf-8"))
    except Exception as error:
        raise InputError(f"{place}: cannot be read ({str(error).partition(chr(10))[0]}); remove it to begin again") from None
    with torch.no_grad():
        for name, value in policy.masters.items():
            value.copy_(found["weights"][name])
    policy.update_model()
    optimizer.load_state_dict(found["optimizer"])
    for one in optimizer.state.values():
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                one[name] = value.clone()
    return int(kept["step"]), kept["method"]


def save_model(target: Path, policy: Policy) -> None:
    """The masters as an ordinary Hugging Face folder."""

    def fill(place: Path) -> None:
        model = policy.model
        if policy.separate:  # it computes with the values that the masters have, so this rounds nothing
            model = copy.deepcopy(model).to(torch.bfloat16)
        with redirect_stderr(StringIO()):
            model.save_pretrained(place)
        policy.tokenizer.save_pretrained(place)

    save_folder(target, fill, ADVICE)
