"""Small files beside the checkpoints of a Trainer: configurations, model cards, states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.side_files import read_json, read_text
from dynamics.runs.readers.looking import exists, is_readable, tell

#: bytes of a model card
CARD = 1 << 22
#: placeholders for a base that is not known
UNKNOWN = frozenset(["", "None", "null", "~"])
_FRONT = re.compile(r"---\s*\n(.*?)\n---\s*(\n|$)", re.DOTALL)
_BASE = re.compile(r"^base_model:[ \t]*(\S.*)?$((?:\n[ \t]*- .*)*)", re.MULTILINE)
_TAGS = re.compile(r"^tags:[ \t]*(?:\n[ \t]*- .*)*", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*- (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Card:
    """A model card, ``README.md``.

    Attributes
    ----------
    base : of the front matter; None if it does not say.
    tags : of the front matter.
    text : all of it.
    """

    base: str | None = None
    tags: tuple[str, ...] = field(default=())
    text: str = ""


def json_file(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no such file, or if it cannot be read, which is told."""
    if not exists(path):
        return {}
    try:
        return read_json(path)
    except InputError as error:
        tell(str(error))
        return {}


def read_card(folder: Path) -> Card:
    """Read the model card in a folder; an empty one if there is none."""
    path = folder / "README.md"
    try:
        text = read_text(path, CARD) if is_readable(path) else ""
    except InputError:  # anyone may have written anything into it
        return Card()
    front = _FRONT.match(text)
    if front is None:
        return Card(text=text)
    base = _BASE.search(front[1])
    names = [_unquoted(name) for name in ([base[1] or "", *_ITEM.findall(base[2])] if base else [])]
    tags = _TAGS.search(front[1])
    return Card(
        next((name for name in names if name not in UNKNOWN), None), tuple(map(_unquoted, _ITEM.findall(tags[0]) if tags else ())), text
    )


def _unquoted(text: str) -> str:
    return printable(text.strip().strip("'\""), 1000)


def named(settings: Mapping[str, Any], name: str) -> str | None:
    """Return the path or the id of a model that a setting names; None if it names none."""
    value = settings.get(name)
    return printable(value, 1000) if isinstance(value, str) and value.strip() not in UNKNOWN else None
