"""Parse Python that strangers and models wrote, without executing it and without overflowing the stack."""

from __future__ import annotations

import ast
import threading
import warnings

#: levels of a syntax tree
MAX_LEVELS = 100
_PARSING = threading.Lock()  # filters of warnings belong to the whole process


class NotParsed(ValueError):
    """Raised for text that is no program of Python, or one that is nested too deeply; the text says which."""


def syntax_tree(source: str, levels: int = MAX_LEVELS) -> ast.Module:
    """Parse a program; raise ``NotParsed`` if that fails, or if the tree has more levels than ``levels``.

    Warnings about the program are neither shown nor raised.
    """
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NotParsed("SyntaxError") from None
    if len(source) < levels // 2:  # each level takes a character
        return tree
    level: list[ast.AST] = [tree]
    for _ in range(levels):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return tree
    raise NotParsed("nested too deeply")
