"""Render self-contained HTML pages from Jinja2 templates.

A page module builds plain data, strings and lists of rows, and a template of ``presentation/templates`` puts them into HTML. Jinja2
escapes every value that a template prints, so a name from a checkpoint, a log or a model stays text. No value is exempt: figures are
data URIs in an attribute, and what scripts read goes through the filter ``tojson``.
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
    """Fill a template.

    Parameters
    ----------
    template
        File name of the template.
    context
        The values that the template prints, by name. A name that the template uses and the context lacks is an error.
    folder
        Where the template is, if it is not among those of this package. It may extend and import these all the same.

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
    """Make a stranger's text one printable line, of a length that a page has room for."""
    return printable(value, limit)


def figure_uri(figure: Figure) -> str:
    """Draw a figure as the source of an image element; call it inside ``style.use_style``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return svg_uri(buffer.getvalue())


def svg_uri(svg: bytes) -> str:
    """Encode an SVG file as the source of an image element, which runs none of its scripts."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
