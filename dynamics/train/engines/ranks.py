"""Several processes of one run: that of rank 0 leads, the others carry out its commands.

All hold the same policies. The leader alone plays, judges and writes; what it needs computed it asks of all, each of which takes its part:
completions to be sampled, log-probabilities to be measured, a batch to be trained on. A part depends on nothing but the command and the
weights, and random numbers are those of prompt and sample, so that the number of processes changes the rounding of sums only.

Commands go by a group of their own, over gloo: they are small, and may be hours apart while the leader evaluates.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float32

from dynamics.cli.command import TERMINATING
from dynamics.errors import InputError, printable
from dynamics.train import sampling
from dynamics.train.batch import Batch, select
from dynamics.train.completions import Request, SampledCompletion
from dynamics.train.player import Player
from dynamics.train.policy import Policy

#: how long a process waits for the next command: the leader may be evaluating, or waiting for a program
PATIENCE = timedelta(days=7)
#: name of the base among the policies; no player has it
BASE = " base"
LEADER = 0


class Ranks:
    """The processes of a run; there may be one.

    Parameters
    ----------
    asked : number of processes that must be there; None to take what is there.

    Raises
    ------
    InputError
        Another number of processes is there.

    Attributes
    ----------
    rank, size : of this process, and the number of all.
    players, policies : those that all processes hold, by name.
    known : version of the weights of each player that all have.
    handlers : what all processes do at a command, by its name.
    apart : whether the processes are, or were left, in the middle of a command.
    """

    def __init__(self, asked: int | None = None):
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if asked is not None and asked != self.size:
            raise InputError(f"{asked} processes were started, and {self.size} found each other; look at the messages of the launcher")
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE) if self.size > 1 else None
        self.players: Mapping[str, Player] = {}
        self.policies: dict[str, Policy] = {}
        self.known: dict[str, int] = {}
        self.apart = False
        self.handlers: dict[str, Callable[..., Any]] = {"sample": self._sample, "measure": self._measure, "give": self._give}

    @property
    def leads(self) -> bool:
        """Whether this process leads."""
        return self.rank == LEADER

    def share(self, players: Mapping[str, Player], base: Policy | None) -> None:
        """Name the policies that all processes hold, and have them sample and measure together."""
        self.players = players
        self.policies = {name: player.policy for name, player in players.items()} | ({} if base is None else {BASE: base})
        for policy in self.policies.values():
            policy.shared_by = self if self.size > 1 else None
        self.known = {}

    # the leader

    def call(self, command: str, *arguments: Any) -> list[Any]:
        """Have all processes carry out a command, and return their results by rank.

        Raises
        ------
        InputError
            A process could not, or is gone; the message says which and why.
        """
        self.apart = True
        self._broadcast((command, arguments))
        told = self._carried_out(command, arguments)
        self.apart = False
        if reason := next((reason for _, reason in told if reason), None):
            raise InputError(reason)
        return [result for result, _ in told]

    def close(self) -> None:
        """Let the other processes end; if they are in the middle of a command, they notice that this one has gone."""
        if self.size > 1 and not self.apart:
            self._broadcast(("end", ()))

    # all

    def _broadcast(self, message: Any) -> Any:
        if self.size == 1:
            return message
        box = [message]
        try:
            dist.broadcast_object_list(box, LEADER, group=self.group)
        except RuntimeError as error:
            raise InputError(self._gone(error)) from None
        return box[0]

    def _gone(self, error: RuntimeError) -> str:
        who = "another process" if self.leads else "the process of rank 0"
        return f"rank {self.rank} of {self.size}: {who} has ended ({printable(str(error).partition(chr(10))[0], 120)}); see its message"

    def _carried_out(self, command: str, arguments: tuple[Any, ...]) -> list[tuple[Any, str | None]]:
        """Carry out a command; the leader gets the result of each process, or what kept it from one."""
        told: tuple[Any, str | None]
        try:
            told = self.handlers[command](*arguments), None
        except InputError as error:
            told = None, str(error)
        except RuntimeError as error:  # such as a connection that was closed, or memory that ran out
            told = None, self._gone(error) if "onnection" in str(error) else f"rank {self.rank} of {self.size}: {error}"
        found: list[Any] = [told]
        if self.size > 1:
            found *= self.size
            try:
                dist.gather_object(told, found if self.leads else None, LEADER, group=self.group)
            except RuntimeError as error:
                raise InputError(told[1] or self._gone(error)) from None
        return found

    def follow(self) -> bool:
        """Carry out the commands of the leader until it ends the run; return whether all went well here.

        Signals are left to the leader, which gets them too, saves the state and then ends the run.
        """
        for number in (signal.SIGINT, *TERMINATING):
            signal.signal(number, signal.SIG_IGN)
        well = True
        while True:
            command, arguments = self._broadcast(None)
            if command == "end":
                return well
            ((_, reason), *_) = self._carried_out(command, arguments)
            well = well and reason is None

    # commands

    def sample(self, policy: Policy, request: Request, /) -> list[list[SampledCompletion]]:
        """Sample completions, each process those of its prompts; see ``sampling.sample``."""
        parts = self.call("sample", self.refreshed(policy), request)
        return [group for part in parts for group in part]

    def _sample(self, name: str, request: Request) -> list[list[SampledCompletion]]:
        start, end = _share(len(request.prompts), self.rank, self.size)
        return sampling.here(self.policies[name], request.part(start, end)) if start < end else []

    def measure(self, policy: Policy, batch: Batch, tokens: int, share: bool | None, /) -> Float32[torch.Tensor, "3 tokens"]:
        """Compute log-probabilities, entropies and surprisals, each process those of its samples; see ``Policy.measure``."""
        order = np.argsort(batch.prompt_of, kind="stable")  # those of a prompt are computed together
        parts = self.call("measure", self.refreshed(policy), batch, order, tokens, share)
        columns: list[Any] = [None] * len(order)
        for rank, part in enumerate(parts):
            chosen = order[slice(*_share(len(order), rank, self.size))]
            cuts = np.cumsum(batch.lengths[chosen])[:-1]
            for sample, values in zip(chosen, np.split(part, cuts, axis=1), strict=True):
                columns[sample] = values
        return torch.from_numpy(np.concatenate(columns, axis=1)).to(policy.device)

    def _measure(self, name: str, batch: Batch, order: Sequence[int], tokens: int, share: bool | None) -> Float32[np.ndarray, "3 tokens"]:
        start, end = _share(len(order), self.rank, self.size)
        if start == end:
            return np.zeros((3, 0), np.float32)
        return self.policies[name].measure_here(select(batch, order[start:end]), tokens, share).cpu().numpy()

    def refreshed(self, policy: Policy) -> str:
        """Return the name of a policy, once the other processes have its weights, and the state of its optimizer, as they are now.

        They differ from what the others have if they were read from a saved state, or if the game has changed them.
        """
        name = next(name for name, known in self.policies.items() if known is policy)
        if name in self.players and self.known.get(name) != policy.version:
            self.call("give", name)
            self.known[name] = policy.version
        return name

    def _give(self, name: str) -> None:
        player = self.players[name]
        if self.size > 1:
            for weights in player.policy.masters.values():
                _broadcast_tensor(weights.detach(), self.group)
            held: list[torch.Tensor] = []
            about: list[Any] = [None]
            if self.leads:
                places, held = _take_tensors(player.optimizer.state_dict())
                about = [(places, [(tuple(value.shape), value.dtype) for value in held])]
            dist.broadcast_object_list(about, LEADER, group=self.group)
            places, shapes = about[0]
            received = held if self.leads else [torch.empty(shape, dtype=dtype) for shape, dtype in shapes]
            for value in received:
                _broadcast_tensor(value, self.group)
            if not self.leads:
                player.optimizer.load_state_dict(_put_tensors(places, received))
                player.policy.update_model()


def _share(count: int, rank: int, size: int) -> tuple[int, int]:
    """Return the first and the last but one of the items of a rank."""
    return count * rank // size, count * (rank + 1) // size


def _broadcast_tensor(value: torch.Tensor, group: Any) -> None:
    """Broadcast a tensor in place, over the processor's memory."""
    here = value.cpu().contiguous()
    dist.broadcast(here, LEADER, group=group)
    if here.data_ptr() != value.data_ptr():
        value.copy_(here)


def _take_tensors(kept: dict[str, Any]) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Take the tensors out of the state of an optimizer; return it with their places, and the tensors."""
    found: list[torch.Tensor] = []
    state = {}
    for number, values in kept["state"].items():
        state[number] = dict(values)
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                state[number][name] = _Place(len(found))
                found.append(value.detach().cpu())
    return kept | {"state": state}, found


class _Place(int):
    """The place of a tensor among those that are sent apart."""


def _put_tensors(kept: dict[str, Any], tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Put tensors back into their places."""
    for values in kept["state"].values():
        for name, value in values.items():
            if isinstance(value, _Place):
                values[name] = tensors[value]
    return kept
