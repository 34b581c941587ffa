"""The exception for bad input, and what its messages are made of: names that are safe to print, and suggestions for mistyped ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: what is wrong, where, and what to do, in one line. Commands print it and exit with status 2."""


def printable(name: object, limit: int = 120) -> str:
    """Make a name from a stranger's file safe to print: no control characters, one line, at most ``limit`` characters."""
    try:
        start = str(name)[: limit + 1]
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists
        start = f"a {type(name).__name__} too large to print"
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in start)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Find the known name that a mistyped one most resembles, upper and lower case alike; None if none is close.

    >>> nearest("--jsno", ["--json", "--csv"])
    '--json'
    """
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, 1, cutoff=0.7)
    return by_lower_case[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name as the end of an error message; empty if none is close.

    >>> did_you_mean("sparsty", ["sparsity", "spectra"])
    '; did you mean sparsity?'
    """
    suggestion = nearest(name, known)
    return f"; did you mean {printable(suggestion)}?" if suggestion else ""
