"""Settings from a trainer's configuration files: nested ones with dots in their names, and the few that many trainers share."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.side_files import ADVICE, read_bytes, read_json
from dynamics.io.yaml import parse_yaml

#: number of settings that are kept, levels of nesting, and characters of a value
MOST_SETTINGS, DEEPEST, LONGEST = 20_000, 30, 2_000
#: characters of the text of a namespace
LONGEST_NAMESPACE = 100_000
#: a reference of OmegaConf to another setting: ``${trainer.seed}`` or ``${oc.select:trainer.seed,0}``
REFERENCE = re.compile(r"\$\{(?:oc\.select:)?\s*([\w.]+)\s*(?:,\s*([^{}]*))?\}")
#: names of settings whose values are secret; OpenRLHF's ``use_wandb`` takes the key of W&B
SECRET = re.compile(r"(?i)(?:token|api_?key|password|secret|(?:^|\.)key|(?:^|\.)use_wandb)$")
#: nested settings of Python's argparse and types, as W&B writes them
NAMESPACE = re.compile(r"(?:Simple)?[Nn]amespace\(")
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32"}


def read_settings(path: Path) -> dict[str, Any]:
    """Read a file of settings in JSON, TOML or YAML, by its suffix, as a flat mapping.

    Raises
    ------
    InputError : it cannot be read, or does not hold settings by name.
    """
    if path.suffix == ".json":
        return flat(read_json(path, surrogates=True))
    if path.suffix == ".toml":
        return flat(_toml(path))
    value = parse_yaml(path)
    if not isinstance(value, dict):
        raise InputError(f"{printable(path)}: does not hold settings by name; {ADVICE}")
    return flat(value)


def _toml(path: Path) -> dict[str, Any]:
    """Read TOML; dates and times become text."""
    try:
        import tomllib
    except ImportError:
        raise InputError(f"{printable(path)}: TOML needs Python 3.11 or later") from None
    try:
        return tomllib.loads(read_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{printable(path)}: is not TOML ({printable(str(error), 80)}); {ADVICE}") from None


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name nested settings with dots, and leave out what is no plain value, or secret.

    >>> flat({"optim": {"lr": 1e-6, "betas": [0.9, 0.99]}, "seed": None})
    {'optim.lr': 1e-06, 'optim.betas': '[0.9, 0.99]', 'seed': None}
    """
    result: dict[str, Any] = {}
    waiting: list[tuple[str, Any, int]] = [("", settings, 0)]
    while waiting and len(result) < MOST_SETTINGS:
        prefix, value, depth = waiting.pop()
        if isinstance(value, Mapping) and depth < DEEPEST:
            waiting += [(f"{prefix}.{name}" if prefix else str(name), item, depth + 1) for name, item in reversed(list(value.items()))]
        elif not (SECRET.search(prefix) and isinstance(value, str)):
            result[printable(prefix)] = _plain(value)
    return result


def unfolded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Unfold settings that W&B recorded as the text of a namespace, as OpenRLHF's are; leave out what cannot be, as it may hold secrets.

    >>> unfolded({"seed": 1, "actor": "namespace(path='base', adam=namespace(lr=5e-07))"})
    {'seed': 1, 'actor': {'path': 'base', 'adam': {'lr': 5e-07}}}
    """
    result: dict[str, Any] = {}
    for name, value in settings.items():
        if not (isinstance(value, str) and NAMESPACE.match(value)):
            result[name] = value
            continue
        with contextlib.suppress(SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            result[name] = _namespace(ast.parse(value[:LONGEST_NAMESPACE], mode="eval").body)
    return result


def _namespace(node: ast.expr) -> Any:
    """Return the value of a literal, or the fields of a namespace; nothing is called."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and NAMESPACE.match(f"{node.func.id}("):
        return {keyword.arg: _namespace(keyword.value) for keyword in node.keywords if keyword.arg}
    return ast.literal_eval(node)


def _plain(value: Any) -> Any:
    """Return a number, a truth value, None or a short text; a list as JSON text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return printable(value if isinstance(value, str) else json.dumps(value, default=str), LONGEST)


def resolved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace references of OmegaConf to other settings by their values; those of other kinds stay as they are.

    >>> resolved({"name": "a", "path": "runs/${name}", "n": "${oc.select:missing,3}"})
    {'name': 'a', 'path': 'runs/a', 'n': '3'}
    """
    result = dict(settings)
    for _ in range(5):  # a reference can lead to another
        changed = False
        for name, value in result.items():
            if isinstance(value, str) and "${" in value:
                new = _replaced(value, result)
                changed |= new != value
                result[name] = new
        if not changed:
            break
    return result


def _replaced(text: str, settings: Mapping[str, Any]) -> Any:
    whole = REFERENCE.fullmatch(text)
    if whole and (whole[1] in settings or whole[2] is not None):
        return settings.get(whole[1], whole[2])
    new = REFERENCE.sub(lambda match: str(settings.get(match[1], match[2] if match[2] is not None else match[0])), text)
    return printable(new, LONGEST)


def number(settings: Mapping[str, Any], *names: str) -> float | None:
    """Return the first of the settings that is a number, or a text that is one: YAML reads ``1e-6`` as a text."""
    for name in names:
        value = settings.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            continue
        try:
            parsed = float(value)
        except (ValueError, OverflowError):
            continue
        if math.isfinite(parsed):
            return parsed
    return None


def whole(settings: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of the settings that is a positive whole number, or 0; trainers write -1 for what is not set."""
    values = (number(settings, name) for name in names)
    return next((int(value) for value in values if value is not None and value >= 0 and value.is_integer()), None)


def text(settings: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of the settings that is a text and not empty."""
    return next((value for name in names if isinstance(value := settings.get(name), str) and value.strip()), None)


def dtype(settings: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of the settings that names a dtype, such as ``bfloat16``."""
    name = text(settings, *names)
    if name is None:
        return None
    short = name.lower().removeprefix("torch.")
    return DTYPES.get(short, short)
