"""The one exception that means: the input is at fault, and here is what, where and what to do."""


class InputError(ValueError):
    """Bad input, said in one line. Commands print it and exit with status 2."""


def shown(name: object, limit: int = 120) -> str:
    """A name from a stranger's file, made safe to print: no control characters, one line, bounded length."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(name))
    return text if len(text) <= limit else text[: limit - 1] + "…"
