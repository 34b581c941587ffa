"""Write the option tables of the command pages from the commands' parsers, so that a page says what ``--help`` says.

python docs/option_tables.py
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

PAGES = Path(__file__).parent / "commands"
#: page -> module whose ``build_parser`` the page documents
PARSERS = {name: f"dynamics.{name}.__main__" for name in ("report", "sparsity", "passk", "entropy", "overlap", "spectra", "games")}
PARSERS["analyses"] = "analyses.__main__"
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


if __name__ == "__main__":
    sys.path.insert(0, str(PAGES.parent.parent))  # for analyses, which is not installed
    for name in PARSERS:
        path = PAGES / f"{name}.md"
        path.write_text(with_options(name, path.read_text(encoding="utf-8")), encoding="utf-8")
