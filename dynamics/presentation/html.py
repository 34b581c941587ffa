"""Render self-contained HTML pages from Jinja2 templates.

A page module builds plain data (strings and lists of rows), and a template in ``presentation/templates`` renders them as HTML. Jinja2
escapes every value that a template prints, so a name from a checkpoint, a log or a model is always text. There are no exceptions: figures
are data URIs in an attribute, and the data of scripts goes through the filter ``tojson``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

from dynamics.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(template: str, context: Mapping[str, object], folder: Path | None = None) -> str:
    """Render a template.

    Parameters
    ----------
    template
        File name of the template.
    context
        Values for the template, by name. A name that the template uses and the context lacks is an error.
    folder
        Folder of the template, if it is not in this package. The template may still extend and import those of this package.

    Returns
    -------
    The text of one HTML file.
    """
    return _environment(folder).get_template(template).render(context)


@cache
def _environment(folder: Path | None) -> Environment:
    package = PackageLoader("dynamics.presentation")
    environment = Environment(
        loader=package if folder is None else ChoiceLoader([FileSystemLoader(folder), package]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def one_line(value: object, limit: int = 200) -> str:
    """Make untrusted text one printable line of at most ``limit`` characters."""
    return printable(value, limit)


def lines(value: object, limit: int = 20_000) -> str:
    """Make untrusted text printable, of at most about ``limit`` characters, and keep its line breaks."""
    start = str(value)[:limit]
    shown = "\n".join(printable(line.replace("\t", "    "), 4 * limit) for line in start.splitlines())
    return f"{shown}\n… ({len(str(value)) - limit:,} characters more)" if len(str(value)) > limit else shown


def figure_uri(figure: Figure) -> str:
    """Encode a figure as the source of an image element. Call it inside ``style.use_style``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return svg_uri(buffer.getvalue())


def svg_uri(svg: bytes) -> str:
    """Encode an SVG file as the source of an image element; scripts in it do not run there."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
