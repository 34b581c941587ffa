"""How a command runs: errors of one line, exit codes, and options that are understood when they are mistyped."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from dynamics.errors import InputError, did_you_mean
from dynamics.extras import explain

DONE, FAILED, BAD_INPUT, INCOMPLETE, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143
#: environment variable that asks for the traceback of an unexpected error
TRACEBACK = "DYNAMICS_TRACEBACK"


class IncompleteError(InputError):
    """A result was made but is incomplete; the message says how. Commands print it and exit with status 3."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM: whatever saves its work on Ctrl-C does so too."""


def run(name: str, main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Run a command and give its exit status; an error is one line on stderr, never a traceback.

    Parameters
    ----------
    name : of the command, which its messages begin with.
    main : the command; it raises an error if there is no result, or an incomplete one.
    argv : the words of the command line; those of this process if None.

    Returns
    -------
    0 done, 2 bad input, 3 a result was made but is incomplete, 130 interrupted, 143 terminated; 1 for an error that should not happen.
    """
    try:
        with _terminable():
            main(argv)
            sys.stdout.flush()
        return DONE
    except IncompleteError as error:
        return _end(name, f"incomplete: {error}", INCOMPLETE)
    except InputError as error:
        return _end(name, f"error: {error}", BAD_INPUT)
    except Terminated:
        return _end(name, "terminated", TERMINATED)
    except KeyboardInterrupt:
        return _end(name, "interrupted", INTERRUPTED)
    except BrokenPipeError:  # `| head` has seen enough
        silence_stdout()
        return DONE
    except OSError as error:  # a full disk behind standard output, say
        silence_stdout()
        return _end(name, f"error: {error}", BAD_INPUT)
    except ImportError as error:
        message = explain(error, "this")
        return _unexpected(name, error) if message is None else _end(name, f"error: {message}", BAD_INPUT)
    except Exception as error:
        return _unexpected(name, error)


def _end(name: str, message: str, status: int) -> int:
    """Print the last line of a command, if anybody reads it."""
    tell(f"{name}: {message}")
    return status


def _unexpected(name: str, error: Exception) -> int:
    """Report an error of this program in one line."""
    if os.environ.get(TRACEBACK):
        raise error
    what = str(error).partition("\n")[0]
    text = f"{type(error).__name__}: {what}" if what else type(error).__name__
    return _end(name, f"internal error: {text}; please report it with the traceback, which {TRACEBACK}=1 shows", FAILED)


def tell(line: str) -> None:
    """Print a line on stderr, if anybody reads it."""
    with contextlib.suppress(OSError, ValueError):  # a broken pipe; a closed stream
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Raise ``Terminated`` on SIGTERM, so that temporary files are removed and what is finished is saved."""

    def stop(*_: object) -> None:
        raise Terminated

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def silence_stdout() -> None:
    """Leave nothing in the buffer that the interpreter would fail to write once more on its way out."""
    with contextlib.suppress(OSError, ValueError):  # standard output may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Print to standard output; if its reader has seen enough (``| head``), the command goes on to write its files."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()


class Parser(argparse.ArgumentParser):
    """A parser for which arguments that make no sense are bad input like any other: one line, with the nearest name that exists."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise InputError(f"{message}{self._suggestion(message)}; see --help")

    def _suggestion(self, message: str) -> str:
        """Find the option or choice that was meant, from the message of argparse."""
        if unknown := re.match(r"unrecognized arguments: (?:.* )?(--?[^\s=]+)", message):
            return did_you_mean(unknown[1], (option for option in self._option_string_actions if not self._is_hidden(option)))
        if wrong := re.match(r"argument (.+?): invalid choice: '?(.+?)'? \(", message):
            for action in self._actions:
                names = (*action.option_strings, action.metavar, action.dest)
                if action.choices is not None and set(wrong[1].split("/")) & set(names):
                    return did_you_mean(wrong[2], map(str, action.choices))
        return ""

    def _is_hidden(self, option: str) -> bool:
        return self._option_string_actions[option].help == argparse.SUPPRESS
