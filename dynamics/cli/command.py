"""How a command runs: one-line errors and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from dynamics.errors import InputError

BAD_INPUT = 2
INTERRUPTED = 130


def run(name: str, main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Run a command's ``main`` and give its exit status: 0 done, 2 bad input in one line, 130 interrupted."""
    try:
        main(argv)
        sys.stdout.flush()
    except InputError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        _silence_stdout()
    except OSError as error:  # a full disk behind standard output, say
        _silence_stdout()
        print(f"{name}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


def _silence_stdout() -> None:
    """Leave nothing in the buffer that the interpreter would fail to write once more on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """A parser for which arguments that make no sense are bad input like any other: one line."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise InputError(f"{message}; see --help")
