"""An extension of griffe, by which docstrings of this project read well as Markdown.

A parameter or attribute is written ``name : what it is.``, its type is in the signature. Numpy's style has the type after the colon, and
griffe would show the description as one.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

#: what stands after a colon where the docstring does name a type
_TYPE = re.compile(r"(?:(?:tuple|list|dict|sequence) of )?[\w.]+(?:\[[\w., \[\]]*\])?(?: or [\w.]+)?(?:, optional)?")
_ITEM = re.compile(r"([*\w][\w*, ]*?) : (.+)")
_SECTION = re.compile(r"(Parameters|Other Parameters|Attributes)\n-+\n((?:.*\n?)*?)(?=\n+[A-Z][a-z ]+\n-{3,}\n|\n*\Z)")


class PlainDescriptions(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = rewrite(obj.docstring.value)


def rewrite(text: str) -> str:
    """Put descriptions on lines of their own, examples into fenced blocks, and Markdown's colon before a literal block."""
    text = _SECTION.sub(lambda section: f"{section[1]}\n{'-' * len(section[1])}\n{_descriptions(section[2])}", text)
    text = re.sub(r"(?<=\w)::$", ":", text, flags=re.MULTILINE)
    return re.sub(r"(?:^>>> .*\n?(?:^(?!\s*$).*\n?)*)", lambda example: f"```pycon\n{example[0].rstrip()}\n```\n", text, flags=re.MULTILINE)


def _descriptions(body: str) -> str:
    lines = []
    for line in body.split("\n"):
        item = _ITEM.fullmatch(line)
        lines += [item[1], f"    {item[2]}"] if item and not _TYPE.fullmatch(item[2]) else [line]
    return "\n".join(lines)
