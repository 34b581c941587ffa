"""The exception for bad input, and how names from other people's files are printed."""


class InputError(ValueError):
    """Bad input: what is wrong, where, and what to do, in one line. Commands print it and exit with status 2."""


def printable(name: object, limit: int = 120) -> str:
    """Make a name from a stranger's file safe to print: no control characters, one line, at most ``limit`` characters."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(name))
    return text if len(text) <= limit else text[: limit - 1] + "…"
