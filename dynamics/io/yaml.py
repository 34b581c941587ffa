"""YAML documents, read as plain data in bounded memory and time: nothing in a file can construct an object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.compression import opened
from dynamics.io.json import decode, encode

#: limits on a YAML file, which is parsed slowly: bytes, values, and depth, because its parser recurses without a limit of its own
LARGEST, MOST_VALUES, DEEPEST = 256 << 20, 250_000, 100


def parse_yaml(path: Path) -> Any:
    """Parse a YAML file.

    Raises
    ------
    InputError : PyYAML is not installed, or the file cannot be read, is no YAML, is out of bounds, or holds more than plain data.
    """
    try:
        import yaml
    except ImportError:
        raise InputError(f"{printable(path)}: YAML needs PyYAML: pip install 'training-dynamics[yaml]'") from None
    with opened(path) as stream:
        text = stream.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise InputError(f"{printable(path)}: is a YAML file of more than {LARGEST >> 20} MiB; convert it to JSON lines first")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check(yaml.parse(text, loader), path)
        value = yaml.load(text, loader)
    except InputError:
        raise
    # a wrong tag, such as !!bool on a text, leads to these errors as well
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
        raise InputError(f"{printable(path)}: is not YAML: {printable(' '.join(str(error).split()), 120)}") from None
    try:
        return decode(encode(value))  # dates and other types of YAML have no place in a record
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{printable(path)}: holds a value that is no plain data: {printable(str(error), 80)}") from None


def _check(events: Iterator[Any], path: Path) -> None:
    """Refuse aliases, many values and deep nesting before a document is built from its events."""
    import yaml

    depth = values = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise InputError(f"{printable(path)}: has YAML aliases, which could unfold to any size; write it without them, or as JSON")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        values += isinstance(event, yaml.NodeEvent)
        if depth > DEEPEST:
            raise InputError(f"{printable(path)}: is nested deeper than {DEEPEST} levels, as no log is")
        if values > MOST_VALUES:
            raise InputError(f"{printable(path)}: is a YAML file of over {MOST_VALUES:,} values; convert it to JSON lines first")
