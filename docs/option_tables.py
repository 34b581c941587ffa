"""Write the option tables of the command pages from the commands' parsers, so that a page says what ``--help`` says.

python docs/option_tables.py
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parent / "commands"
#: page -> module whose ``build_parser`` the page documents
PARSERS = {name: f"dynamics.{name}.__main__" for name in ("report", "sparsity", "passk", "entropy", "overlap", "spectra", "games")}
PARSERS["analyses"] = "analyses.__main__"
#: the table of the settings of all methods
SETTINGS = re.compile(r"^\| option \| methods \| default \| \|\n\|---\|---\|---\|---\|\n(?:\|.*\n)+", re.MULTILINE)
#: the first table of options of a page
TABLE = re.compile(r"^\| option \| \|\n\|---\|---\|\n(?:\|.*\n)+", re.MULTILINE)


def option_table(parser: argparse.ArgumentParser) -> str:
    """List the options of a parser as a Markdown table, in the order of ``--help``; hidden options are left out."""
    rows = ["| option | |", "|---|---|"]
    formatter = parser._get_formatter()
    for action in parser._actions:
        if not action.option_strings or action.dest == "help" or action.help == argparse.SUPPRESS:
            continue
        arguments = "" if action.nargs == 0 else " " + formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
        help_text = re.sub(r"--[\w-]+", r"`\g<0>`", formatter._expand_help(action).replace("|", "&#124;"))
        rows.append(f"| `{action.option_strings[0]}{arguments}` | {help_text} |")
    return "\n".join(rows) + "\n"


def with_options(page: str, text: str) -> str:
    """Return the text of a page with the current table of options."""
    table = option_table(importlib.import_module(PARSERS[page]).build_parser())
    return TABLE.sub(lambda _: table, text, count=1)


def with_settings(text: str) -> str:
    """Return the text of the page of ``train`` with the current table of the settings of all methods."""
    return SETTINGS.sub(lambda _: settings_table(), text, count=1)


def settings_table() -> str:
    """List the settings of all methods: which methods have each, its defaults and its help; what differs is said by method."""
    from dynamics.train.config import option_of
    from dynamics.train.settings import METHODS

    found: dict[str, dict[str, tuple[str, str]]] = {}  # by setting and method: default and help
    for method, kind in METHODS.items():
        texts = attribute_texts(kind)
        for field in dataclasses.fields(kind):
            found.setdefault(field.name, {})[method] = (_written(field.default), texts[field.name])
    rows = ["| option | methods | default | |", "|---|---|---|---|"]
    for name, of in found.items():
        methods = "all" if len(of) == len(METHODS) else ", ".join(of)
        defaults, texts = ({method: pair[part] for method, pair in of.items()} for part in (0, 1))
        rows.append(
            f"| `{option_of(name)}` | {methods} | {_by_method(defaults, ', ')} | {_by_method(texts, '; ')} |".replace("|  |", "| |")
        )
    return "\n".join(rows) + "\n"


def _by_method(values: dict[str, str], separator: str) -> str:
    """Write what most methods have, and then, by method, what others have."""
    counts = {value: list(values.values()).count(value) for value in values.values()}
    common = max(counts, key=lambda value: counts[value])
    others = [f"{method}: {value}" for method, value in values.items() if value != common]
    return separator.join([common, *others])


def _written(default: Any) -> str:
    if isinstance(default, tuple):
        return " ".join(map(_written, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def attribute_texts(kind: type) -> dict[str, str]:
    """Return the text of each attribute in the docstrings of a class and of those that it is derived from, each in one line."""
    texts: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        listed = inspect.cleandoc(one.__doc__ or "").partition("Attributes\n----------\n")[2]
        for name, text in re.findall(r"^(\w+) : .*\n((?:    .*\n?)+)", listed, re.MULTILINE):
            texts[name] = " ".join(text.split()).replace("|", "&#124;")
    return texts


if __name__ == "__main__":
    sys.path.insert(0, str(PAGES.parent.parent))  # for analyses, which is not installed
    for name in PARSERS:
        path = PAGES / f"{name}.md"
        path.write_text(with_options(name, path.read_text(encoding="utf-8")), encoding="utf-8")
    path = PAGES / "train.md"
    path.write_text(with_settings(path.read_text(encoding="utf-8")), encoding="utf-8")
