"""``training_args.bin``: the settings of a Trainer, an object that ``torch.save`` pickled. Nothing in it is executed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamics.checkpoints.files import File
from dynamics.checkpoints.pickled import load_state
from dynamics.checkpoints.unpickle import INERT, Node, plain
from dynamics.errors import InputError, printable
from dynamics.runs.readers.settings import flat, text, whole

NAME = "training_args.bin"
#: bytes of the file; it has about 8000
LARGEST = 1 << 20
#: values that are read, and how deep they may lie
VALUES, DEPTH = 20_000, 6
#: what the pickle of an object calls to make an instance of a class without its ``__init__``
_MAKES_INSTANCE = frozenset(f"{module}.{name}" for module in ("copyreg", "copy_reg") for name in ("_reconstructor", "__newobj__"))
_HARMLESS = (
    INERT
    | _MAKES_INSTANCE
    | {f"builtins.{name}" for name in ("object", "str", "bool", "tuple", "dict")}
    | {"types.SimpleNamespace", "functools.partial", "logging.getLogger"}
)


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
    values : settings by name, nested ones with dots; plain values only, and no passwords or tokens of services.
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
    settings = _Plain(path).settings(state)
    shared = settings.pop("distributed_state", None)
    values = flat({name: value for name, value in settings.items() if not name.startswith("_")})
    distributed = shared if isinstance(shared, dict) else {}
    return Arguments(
        path, printable(kind), values, whole(distributed, "num_processes") or None, text(distributed, "distributed_type") or ""
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


class _Plain:
    """Turns values of a pickle into plain ones: objects into their attributes, enumerations into their values; others are left out."""

    def __init__(self, path: Path):
        self.path, self.left = path, VALUES

    def settings(self, values: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
        """Convert the values of a mapping."""
        items = ((printable(name, 80), self.value(value, depth + 1)) for name, value in values.items())
        return {name: value for name, value in items if not isinstance(value, Node)}

    def value(self, value: Any, depth: int) -> Any:
        """Convert a value; what cannot be is returned as a ``Node``. A pickle can hold itself, and one value in many places."""
        self.left -= 1
        if self.left < 0:
            raise InputError(f"{printable(self.path)}: holds over {VALUES} values; it is not the settings of a Trainer")
        if isinstance(value, Node):
            value = _content(value)
        if isinstance(value, dict):
            return self.settings(value, depth) if depth < DEPTH else Node()
        if isinstance(value, (list, tuple, set)):
            items = sorted(value, key=str) if isinstance(value, set) else value
            converted = [self.value(item, depth + 1) for item in items] if depth < DEPTH else []
            return [item for item in converted if not isinstance(item, Node)]
        return value if value is None or isinstance(value, (bool, int, float, str)) else Node()


def _content(node: Node) -> Any:
    """Return the attributes of an object, or the value of an enumeration; for anything else an empty ``Node``."""
    _, state = _instance(node)
    if isinstance(state, dict):
        return state
    single = node.args[0] if state is None and len(node.args) == 1 else None
    return single if isinstance(single, (str, int, float)) else Node()
