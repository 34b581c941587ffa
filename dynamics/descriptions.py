"""How results describe themselves in a line, and as a small table in a notebook; imports nothing, so that every result may use it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Write a count with its noun: ``1 tensor``, ``2 tensors``; ``many`` is the plural where it does not end in s."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def small_table(title: str, headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Make an HTML table under a title. All text in it is escaped."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
