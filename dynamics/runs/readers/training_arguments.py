"""``training_args.bin``: the settings of a Trainer, an object that ``torch.save`` pickled. Nothing in it is executed."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamics.checkpoints.files import File
from dynamics.checkpoints.pickled import load_state
from dynamics.checkpoints.unpickle import INERT, Node, plain
from dynamics.errors import InputError, printable

NAME = "training_args.bin"
#: bytes of the file; it has about 8000
LARGEST = 1 << 20
#: depth of the settings that are kept, items of a list that are kept, and characters of a text
DEPTH, ITEMS, TEXT = 4, 100, 2000
#: names of settings whose values are nobody's business
SECRET = re.compile(r"(hub|hf|api|auth|access|server|wandb)_?token$|secret|password|api_?key", re.IGNORECASE)
#: what the pickle of an object calls to make an instance of a class without its ``__init__``
_MAKES_INSTANCE = frozenset(f"{module}.{name}" for module in ("copyreg", "copy_reg") for name in ("_reconstructor", "__newobj__"))
_HARMLESS = INERT | _MAKES_INSTANCE | {"builtins.object", "builtins.str", "builtins.bool"}


class _Names(frozenset[str]):
    """The names that settings may hold: classes of any library, of which none is imported, but of the standard library only a few."""

    def __contains__(self, name: object) -> bool:
        return name in _HARMLESS or str(name).partition(".")[0] not in sys.stdlib_module_names | {"__builtin__", "nt"}


@dataclass(frozen=True)
class Arguments:
    """The settings of a Trainer.

    Attributes
    ----------
    path : the file.
    kind : the class with its module, such as ``trl.trainer.grpo_config.GRPOConfig``.
    values : settings by name, nested ones with dots; plain values only, and no tokens or passwords.
    processes : number of processes that trained; None if it does not say.
    distributed : how they shared the work, such as ``NO``, ``MULTI_GPU``, ``FSDP`` or ``DEEPSPEED``; empty if it does not say.
    """

    path: Path
    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    processes: int | None = None
    distributed: str = ""

    @property
    def name(self) -> str:
        """The class without its module."""
        return self.kind.rpartition(".")[2]


def read_arguments(path: Path) -> Arguments:
    """Read ``training_args.bin``.

    Raises
    ------
    InputError : it cannot be read, is not the settings of a Trainer, or wants to call what no settings need.
    """
    file = File(path)
    if file.size > LARGEST:
        raise InputError(f"{printable(path)}: over {LARGEST} bytes; it is not the settings of a Trainer")
    try:
        root = load_state(file, allowed=_Names()).root
    except InputError as error:
        raise InputError(str(error).partition("; save only the state_dict")[0]) from None
    kind, state = _instance(root)
    if kind is None or not isinstance(state, dict):
        raise InputError(f"{printable(path)}: holds {plain(root)}, not the settings of a Trainer")
    values = flat({name: value for name, value in state.items() if not str(name).startswith("_") and name != "distributed_state"})
    _, distributed = _instance(state.get("distributed_state"))
    shared = flat(distributed) if isinstance(distributed, dict) else {}
    count, how = shared.get("num_processes"), shared.get("distributed_type")
    return Arguments(
        path, printable(kind), values, count if type(count) is int and count > 0 else None, how if isinstance(how, str) else ""
    )


def _instance(value: Any) -> tuple[str | None, Any]:
    """Return the class of a pickled object, and its attributes; (None, None) for what is no object."""
    if not isinstance(value, Node):
        return None, None
    kind: str | None = value.path
    if kind in _MAKES_INSTANCE:
        kind = getattr(value.args[0], "path", None) if value.args else None
    state = value.state
    if isinstance(state, tuple) and state and isinstance(state[0], dict):  # of a class with slots
        state = state[0]
    return kind, state


def flat(settings: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Flatten nested settings: names joined by dots, enumerations as their values, no secrets, and nothing that is no plain value."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{printable(key, 80)}"
        if SECRET.search(name) and isinstance(value, str):
            continue
        value = _plain(value)
        if isinstance(value, dict):
            if depth < DEPTH:
                values |= flat(value, f"{name}.", depth + 1)
        elif isinstance(value, list):
            items = [_plain(item) for item in value[:ITEMS]]
            values[name] = [item for item in items if not isinstance(item, (dict, list, Node))]
        elif not isinstance(value, Node):
            values[name] = value
    return values


def _plain(value: Any) -> Any:
    """Return a value as text, number, truth, None, list or dictionary; anything else as a ``Node``, which is left out."""
    if isinstance(value, Node):
        _, state = _instance(value)
        if isinstance(state, dict):
            return state
        single = value.args[0] if state is None and len(value.args) == 1 else None
        return single if isinstance(single, (str, int, float)) else Node()
    if isinstance(value, str):
        return printable(value, TEXT)
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, set):
        return sorted(value, key=str)
    return value if value is None or isinstance(value, (bool, int, float, dict)) else Node()
