"""Saved states from which a run resumes: master weights and optimizers of the players, step and method state, with checksums.

The state before is kept until the new one has been read from the disk again and has its checksum, which is done when the next one is
saved. So there are two states while a run is in progress, and a resumed run falls back to the former if the latter is damaged.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dynamics.errors import InputError, printable
from dynamics.io.folders import save_folder
from dynamics.io.json import decode, encode
from dynamics.io.side_files import read_bytes, read_text
from dynamics.train.player import ONLY, Player

if TYPE_CHECKING:
    import torch

    from dynamics.train.policy import Policy

#: hint in the error message if a write fails
ADVICE = "the previous state is intact: continue with --resume"
TENSORS, DOCUMENT = "state.pt", "state.json"
#: checksums of the other files of a state, in the format of the program sha256sum
CHECKSUMS = "SHA256SUMS"
#: bytes of ``state.json``, which holds the tasks that a game remembers
DOCUMENT_LIMIT = 1 << 30
BLOCK = 1 << 22


@dataclass(frozen=True)
class Resumed:
    """What a run resumes from.

    Attributes
    ----------
    path : folder of the state.
    step : number of the step after which it was saved.
    notes : what is to be told: that later states are damaged, and why, or that the state has no checksums.
    """

    path: Path
    step: int
    notes: tuple[str, ...]


class Damaged(Exception):
    """A saved state cannot be used; the message says why."""


def save(folder: Path, step: int, players: Mapping[str, Player], method_state: dict[str, Any], last: bool = False) -> None:
    """Save the state after a step.

    Of the earlier states, the latest that is sound is kept; others are removed, as are those of later steps.

    Parameters
    ----------
    folder
        The folder ``state`` of a run directory.
    step
        Number of the step.
    players
        Sources of the master weights and of the states of the optimizers.
    method_state
        State of the method, written as JSON.
    last
        Whether the run has no further steps: no earlier state is kept then.
    """
    import torch

    _keep_one_sound(folder, step)
    written: dict[str, str] = {}

    def fill(path: Path) -> None:
        tensors = {name: _tensors_of(player) for name, player in players.items()}
        document = encode({"step": step, "method": method_state})
        kept = tensors[ONLY] if set(tensors) == {ONLY} else {"players": tensors}
        written[TENSORS] = _write(path / TENSORS, lambda file: torch.save(kept, file))
        written[DOCUMENT] = _write(path / DOCUMENT, lambda file: file.write(document))
        lines = "".join(f"{checksum}  {name}\n" for name, checksum in written.items())
        _write(path / CHECKSUMS, lambda file: file.write(lines.encode()))
        for name, checksum in written.items():
            if _checksum(path / name) != checksum:
                raise OSError(f"{name} was read from the disk with other bytes than were written")

    save_folder(folder / _name(step), fill, ADVICE)
    remove_others(folder, step, last)


def remove_others(folder: Path, step: int, last: bool) -> None:
    """Remove the states of later steps, and if ``step`` is the ``last`` one those of earlier steps."""
    for other in _states(folder):
        if _number(other) > step or (last and _number(other) < step):
            shutil.rmtree(other, ignore_errors=True)


def _tensors_of(player: Player) -> dict[str, Any]:
    weights = {name: value.detach().cpu() for name, value in player.policy.masters.items()}
    return {"weights": weights, "optimizer": player.optimizer.state_dict()}


def _keep_one_sound(folder: Path, step: int) -> None:
    """Remove the states before ``step`` but the latest one whose files have their checksums."""
    earlier = [path for path in _states(folder) if _number(path) < step]
    if len(earlier) < 2:
        return
    kept = next((path for path in earlier if _is_sound(path)), None)
    for path in earlier:
        if kept is not None and path != kept:
            shutil.rmtree(path, ignore_errors=True)


def _is_sound(path: Path) -> bool:
    try:
        return bool(_verify(path))
    except (Damaged, InputError):
        return False


def _name(step: int) -> str:
    return f"step_{step:06d}"


def _number(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _states(folder: Path) -> list[Path]:
    """List the states, the latest first; folders that are still being written have other names."""
    paths = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{1,18}", path.name)]
    return sorted(paths, key=_number, reverse=True)


def latest(folder: Path) -> Path | None:
    """Find the latest state; None if there is none."""
    return next(iter(_states(folder)), None)


class _Summing:
    """A file that computes the checksum of what is written to it."""

    def __init__(self, file: IO[bytes]):
        self.file, self.hash = file, hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            self.hash.update(data)
            return self.file.write(data)
        except BaseException as error:  # torch raises an error of its own instead
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(path: Path, fill: Callable[[Any], Any]) -> str:
    """Write a file by ``fill``, wait until it is on disk, and return the checksum of what was written."""
    with open(path, "wb") as file:
        summing = _Summing(file)
        try:
            fill(summing)
        except RuntimeError as error:
            raise summing.error or error from None
        file.flush()
        os.fsync(file.fileno())
    return summing.hash.hexdigest()


def _checksum(path: Path) -> str:
    """Compute the checksum of a file; what the system still has of it in memory is read from the disk again where that is possible."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _verify(path: Path) -> bool:
    """Compare the files of a state with their checksums; return whether it has any, which states of earlier versions have not.

    Raises
    ------
    Damaged : a file is missing, or has another checksum.
    InputError : a file may not be read.
    """
    for name in (TENSORS, DOCUMENT):
        if not (path / name).is_file():
            raise Damaged(f"{name} is missing")
    if not (path / CHECKSUMS).exists():
        return False
    try:
        pairs = [line.split() for line in read_text(path / CHECKSUMS, 4096).splitlines()]
    except InputError as error:
        raise Damaged(str(error).removeprefix(f"{printable(path)}/")) from None
    expected = {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
    try:
        different = next((name for name in (TENSORS, DOCUMENT) if _checksum(path / name) != expected.get(name)), None)
    except PermissionError as error:
        raise InputError(f"{printable(error.filename)}: {error.strerror}") from None
    except OSError as error:
        raise Damaged(f"{error.filename or path}: {error.strerror or error}") from None
    if different:
        raise Damaged(f"{different} does not have the checksum that {CHECKSUMS} gives")
    return True


def resume(folder: Path, players: Mapping[str, Player], load_method: Callable[[dict[str, Any]], None]) -> Resumed | None:
    """Load the latest sound state into the players and the method; weights are copied into existing memory.

    Parameters
    ----------
    folder
        The folder ``state`` of a run directory.
    players
        Receive the weights and the states of the optimizers.
    load_method
        Restores the state of the method.

    Returns
    -------
    Resumed or None
        None if no state was saved.

    Raises
    ------
    InputError
        No saved state is sound, or one may not be read.
    """
    damaged: list[str] = []
    for path in _states(folder):
        try:
            has_checksums = _verify(path)
            tensors, document = _read(path)
            kept = _check(path, tensors, document, players)
            _load(kept, document, players, load_method)
        except Damaged as error:
            damaged.append(f"{printable(path)}: is damaged ({error})")
            continue
        notes = [f"{text}; continuing from the state of step {_number(path)}" for text in damaged]
        if not has_checksums:
            notes.append(f"{printable(path)}: was saved without checksums, by an earlier version; damage to it would not be noticed")
        return Resumed(path, _number(path), tuple(notes))
    if damaged:
        raise InputError(f"{damaged[0]}; no earlier state is left: train again into another folder")
    return None


def _read(path: Path) -> tuple[Any, Any]:
    """Read the two files of a state."""
    import torch

    from dynamics.models import out_of_memory

    try:
        tensors = torch.load(path / TENSORS, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"{printable(path)}: {error.strerror}") from None
    except Exception as error:  # torch raises many kinds
        if out_of_memory(error):
            raise InputError(f"{printable(path)}: memory ran out while the state was read; free some, and resume again") from None
        raise Damaged(f"{TENSORS}: {_reason(error)}") from None
    try:
        return tensors, decode(read_bytes(path / DOCUMENT, DOCUMENT_LIMIT))
    except (ValueError, RecursionError) as error:  # an InputError is a ValueError
        raise Damaged(f"{DOCUMENT}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    return printable(str(error).strip().partition("\n")[0] or type(error).__name__)


def _check(path: Path, tensors: Any, document: Any, players: Mapping[str, Player]) -> dict[str, dict[str, Any]]:
    """Check that a state has the step of its folder, and the weights of the models; return the tensors by player."""
    step = document.get("step") if isinstance(document, dict) else None
    if type(step) is not int or step != _number(path) or not isinstance(document.get("method"), dict):
        raise Damaged(f"{DOCUMENT} is not that of step {_number(path)}")
    of_players = tensors.get("players", {ONLY: tensors}) if isinstance(tensors, dict) else None
    if not isinstance(of_players, dict) or of_players.keys() != players.keys():
        raise Damaged(f"{TENSORS} does not hold the players {', '.join(players)}")
    for name, player in players.items():
        kept = of_players[name]
        weights = kept.get("weights") if isinstance(kept, dict) else None
        if not isinstance(weights, dict) or not isinstance(kept.get("optimizer"), dict):
            raise Damaged(f"{TENSORS} does not hold weights and the state of an optimizer")
        if different := next(_different(weights, player.policy), None):
            raise Damaged(f"{TENSORS}: {printable(different)} is not as in the model")
    return of_players


def _different(weights: dict[Any, Any], policy: Policy) -> Iterator[object]:
    """Yield the names of weights that are missing, or have another shape or dtype than those of the policy."""
    yield from weights.keys() ^ policy.masters.keys()
    for name, value in policy.masters.items():
        found = weights[name]
        if getattr(found, "shape", None) != value.shape or getattr(found, "dtype", None) != value.dtype:
            yield name


def _load(
    tensors: Mapping[str, dict[str, Any]],
    document: dict[str, Any],
    players: Mapping[str, Player],
    load_method: Callable[[dict[str, Any]], None],
) -> None:
    """Load a state that was checked."""
    import torch

    try:
        load_method(document["method"])
    except Exception as error:  # whatever a method expects and does not find
        raise Damaged(f"{DOCUMENT}: {type(error).__name__}: {_reason(error)}") from None
    moments = []
    try:
        for name, player in players.items():
            player.optimizer.load_state_dict(tensors[name]["optimizer"])
            moments += _moments(player.optimizer)
    except Exception as error:
        raise Damaged(f"{TENSORS}: {type(error).__name__}: {_reason(error)}") from None
    for states, key, value in moments:
        states[key] = value.clone()
    with torch.no_grad():
        for name, player in players.items():
            for key, value in player.policy.masters.items():
                value.copy_(tensors[name]["weights"][key])
            player.policy.update_model()


def _moments(optimizer: torch.optim.Optimizer) -> list[tuple[dict[str, Any], str, torch.Tensor]]:
    """List the tensors of an optimizer's state; each has the shape of its parameter, or is a single number."""
    import torch

    moments = []
    for parameter, states in optimizer.state.items():
        for name, value in states.items():
            if isinstance(value, torch.Tensor):
                if value.numel() != 1 and value.shape != parameter.shape:
                    raise ValueError(f"{name} has another shape than its parameter")
                moments.append((states, name, value))
    return moments


def weights_checksum(policy: Policy) -> str:
    """Compute the checksum of the master weights, by name."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(policy.masters.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_model(target: Path, policy: Policy) -> None:
    """Save the master weights as a Hugging Face folder, those of a LoRA player as an adapter of PEFT."""
    save_folder(target, policy.save, ADVICE)
