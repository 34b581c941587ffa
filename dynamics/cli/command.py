"""Running a command: one-line errors, exit codes, and suggestions for mistyped options."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from dynamics.errors import InputError, did_you_mean
from dynamics.extras import explain

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

DONE, FAILED, BAD_INPUT, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
#: environment variable that shows the traceback of an unexpected error
TRACEBACK = "DYNAMICS_TRACEBACK"
#: what stands before the text of a line: a name and two or more spaces, or ``usage:``
_COLUMN = re.compile(r"\s*\S+\s{2,}|usage: ")
#: an option with its value in a usage, and what stands for the space between them where the line must not be broken there
_OPTIONAL, _GLUE = re.compile(r"\[[^][]*(?:\[[^][]*\][^][]*)*\]"), "\0"
#: what torch says when memory ran out, on any device, and Python when there is none for a thread
_NO_MEMORY = re.compile("out of memory|can't allocate memory|can't start new thread", re.IGNORECASE)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class IncompleteError(InputError):
    """A result was written but is incomplete; the message says how. Commands print it and exit with status 3."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP was received.

    It derives from ``KeyboardInterrupt``, so code that saves its work on Ctrl-C also does so here.

    Parameters
    ----------
    message : what became of the work, for the last line of the command.
    number : the signal; the exit status is 128 and this number.
    """

    def __init__(self, message: str = "", number: int = signal.SIGTERM):
        super().__init__(message)
        self.number = number


#: signals that end a command like Ctrl-C: clusters send SIGTERM, a terminal that is closed SIGHUP
TERMINATING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def interruption(number: int, message: str = "") -> KeyboardInterrupt:
    """Make the exception for a signal: of Ctrl-C, or one of ``TERMINATING``."""
    return KeyboardInterrupt(message) if number == signal.SIGINT else Terminated(message, number)


def run(name: str, main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; an error is one line on stderr, without a traceback.

    Parameters
    ----------
    name : name of the command, the prefix of its messages.
    main : the command; it raises an error if there is no result, or an incomplete one.
    argv : command-line arguments; those of this process if None.

    Returns
    -------
    0 done, 1 internal error, 2 bad input, 3 incomplete result, 130 interrupted, 143 terminated, 129 terminated by a closed terminal.
    """
    try:
        with handle_signals(_terminate, *TERMINATING):
            try:
                main(argv)
            except SystemExit:  # the help was printed
                with writing_stdout():
                    pass
                raise
            with writing_stdout():
                pass
        return DONE
    except IncompleteError as error:
        return _end(name, f"incomplete: {error}", INCOMPLETE)
    except InputError as error:
        return _end(name, f"error: {error}", BAD_INPUT)
    except KeyboardInterrupt as end:
        what, status = ("terminated", 128 + end.number) if isinstance(end, Terminated) else ("interrupted", INTERRUPTED)
        return _end(name, f"{what}: {end}" if str(end) else what, status)
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
    """Print the last line of a command and return its exit status."""
    tell(f"{name}: {message}")
    return status


@contextlib.contextmanager
def writing_stdout() -> Iterator[None]:
    """Write what standard output holds at the end of the block, and name it if that fails, as on a full disk."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence_stdout()
        raise InputError(f"standard output: {error.strerror or error}") from None


def _unexpected(name: str, error: Exception) -> int:
    """Report an internal error in one line, or that memory ran out."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return _end(name, f"error: memory ran out ({_first_line(error)}); end other programs, or use a machine with more", BAD_INPUT)
    if os.environ.get(TRACEBACK):
        raise error
    return _end(name, f"internal error: {_first_line(error)}; please report it with the traceback, which {TRACEBACK}=1 shows", FAILED)


def _first_line(error: Exception) -> str:
    what = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {what}" if what else type(error).__name__


def tell(line: str) -> None:
    """Print a line on stderr; ignore a closed stderr."""
    with contextlib.suppress(OSError, ValueError):  # a broken pipe; a closed stream
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def handle_signals(handler: Callable[[int, object], None], *numbers: int) -> Iterator[None]:
    """Handle signals by ``handler``, called with the number and the frame; outside the main thread, do nothing.

    SIGHUP stays ignored where it is, as by nohup.
    """
    ignored = {number for number in TERMINATING if number != signal.SIGTERM and signal.getsignal(number) == signal.SIG_IGN}
    try:
        previous = {number: signal.signal(number, handler) for number in numbers if number not in ignored}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


def _terminate(number: int, _frame: object) -> None:
    """Raise ``Terminated``, so that temporary files are removed and finished work is saved."""
    raise interruption(number)


def silence_stdout() -> None:
    """Redirect standard output to the null device, so that the interpreter does not fail to flush it at exit."""
    with contextlib.suppress(OSError, ValueError):  # standard output may not be a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Ignore a broken pipe on standard output (``| head``), so that the command still writes its files."""
    try:
        with writing_stdout():
            yield
    except BrokenPipeError:
        silence_stdout()


def wrap_to_terminal(text: str) -> str:
    """Wrap the lines that are wider than the terminal, with at most their indentation; a word that is too long stays whole.

    Lines of boxes, and escape sequences in other lines, are left as they are; a line that is wrapped loses its escape sequences.
    """
    width, lines = shutil.get_terminal_size().columns, []
    for line in text.splitlines():
        plain = _ESCAPES.sub("", line)
        if len(plain) <= width or plain.startswith(("│", "╭", "╰")):
            lines.append(line)
            continue
        body = plain.lstrip()
        most = min(max(0, width - max(map(len, body.split()))), width // 2)
        indent, column = len(plain) - len(body), _COLUMN.match(plain)
        lines += textwrap.wrap(
            body,
            width,
            initial_indent=" " * min(indent, most),
            subsequent_indent=" " * min(column.end() if column else indent, most),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines) + "\n" * text.endswith("\n")


class Parser(argparse.ArgumentParser):
    """A parser that raises ``InputError`` for wrong arguments and suggests the nearest option or choice."""

    def format_help(self) -> str:
        """Format the help; no line is wider than the terminal, which argparse does not ensure for the usage."""
        usage, gap, rest = super().format_help().partition("\n\n")
        width = shutil.get_terminal_size().columns
        if any(len(line) > width for line in usage.splitlines()):
            usage = _OPTIONAL.sub(lambda part: part[0].replace(" ", _GLUE) if len(part[0]) <= width else part[0], " ".join(usage.split()))
            usage = wrap_to_terminal(usage).replace(_GLUE, " ")
        return wrap_to_terminal(usage + gap + rest)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Write a message; argparse ignores that it cannot be written."""
        with writing_stdout() if file is sys.stdout else contextlib.nullcontext():
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """Raise ``InputError`` with argparse's message and a suggestion."""
        raise InputError(f"{message}{self._suggestion(message)}; see --help")

    def _suggestion(self, message: str) -> str:
        """Suggest the nearest option or choice for the message of argparse; empty if there is none."""
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
