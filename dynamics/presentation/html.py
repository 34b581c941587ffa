"""What every self-contained page shares: one shell, nothing fetched, and strangers' text stays text."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from dynamics.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def document(title: str, sections: Iterable[str]) -> str:
    """The text of one HTML file."""
    before, _, after = _part("page.html").partition("<!--BODY-->")
    return before.replace("<!--TITLE-->", escape(title)) + "\n".join(filter(None, sections)) + after


def script(name: str, data: str, identifier: str) -> str:
    """A script of ours, after the data it reads: JSON text, made safe inside a script element."""
    data = data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return f'<script type="application/json" id="{identifier}">{data}</script>\n<script>\n{_part(name)}</script>'


def _part(name: str) -> str:
    return files("dynamics.presentation").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def safe(name: object, limit: int = 200) -> str:
    return escape(printable(name, limit))


def section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def table(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already; a head that starts with ``<`` sets its column left."""
    heads = list(heads)
    left = [head.startswith("<") for head in heads]
    top = "".join(f"<th{' class=text' * is_left}>{escape(head.removeprefix('<'))}</th>" for head, is_left in zip(heads, left, strict=True))
    rows = ("".join(f"<td{' class=text' * side}>{cell}</td>" for side, cell in zip(left, line, strict=True)) for line in lines)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def wrapped(made: str) -> str:
    """The same table with its left-set cells wrapping."""
    return made.replace("<td class=text>", '<td class="text wrap">')


def image(drawing: Figure, alt: str) -> str:
    """A figure as part of the page; call it inside ``style.use_style``."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return picture(buffer.getvalue(), alt)


def picture(svg: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">'


def folded(title: str, text: str) -> str:
    """Text that opens under its title."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def glossary(meanings: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in meanings.items()) + "</dl>"
