"""Show text of strangers as it is, but bounded and without characters that change how the rest is shown."""

from __future__ import annotations


def readable(text: object, limit: int) -> str:
    r"""Return a text of at most about ``limit`` characters with its lines; other control characters are written as escapes.

    Of a longer text, the first two thirds and the last third of what is shown remain, with the number of characters between them.

    >>> readable("a" * 50 + "b", 9)
    'aaaaaa\n[… 42 characters …]\naab'
    """
    whole = text if isinstance(text, str) else ("" if text is None else str(text))
    if len(whole) > limit:
        first = limit * 2 // 3
        last = limit - first
        whole = f"{whole[:first]}\n[… {len(whole) - limit:,} characters …]\n{whole[len(whole) - last :]}"
    lines = whole.replace("\r\n", "\n")
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in lines)
