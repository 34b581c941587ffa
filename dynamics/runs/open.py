"""Find out which trainer wrote a directory, and read it."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from dynamics.errors import InputError, printable
from dynamics.io.locations import scheme_of, without_secrets
from dynamics.io.paths import choose_run, suggest_path
from dynamics.runs.readers.looking import UNREAD, folders, gathered, is_folder
from dynamics.runs.readers.weights import LEFT_OUT
from dynamics.runs.view import Run

#: modules of ``dynamics.runs.readers``, in the order in which they are asked; the first that knows a directory reads it
READERS: tuple[str, ...] = ("own", "verl", "openrlhf", "prime_rl", "open_instruct", "hf_trainer")

#: folders in a folder that are looked at to see whether they are runs
INSIDE = 20
#: faults that are named of a directory that no reader knows
FAULTS = 3
#: lines on what was left out of a directory; of more, such as of a run of thousands of damaged checkpoints, the number is told
NOTES = 200


@runtime_checkable
class Reader(Protocol):
    """A module of ``dynamics.runs.readers``.

    Attributes
    ----------
    LOOKED_FOR : the files that tell its directories, in words.
    """

    LOOKED_FOR: str

    def read(self, folder: Path) -> Run | None:
        """Read a directory; None if another trainer wrote it."""


def _refuse_url(run: Run) -> None:
    """Take away a base that is a URL: files of strangers do not decide what this machine connects to."""
    if run.base is not None and scheme_of(run.base):
        url = printable(without_secrets(run.base), 200)
        run.notes.append(f"{printable(run.base_from, 200)}: names the base {url}, a URL, which is not opened unasked; name it with --base")
        run.base, run.base_from = None, ""


def open_run(path: str | Path) -> Run:
    """Read the output directory of a training run.

    Raises
    ------
    InputError : there is no such directory, or nothing in it shows which trainer wrote it; the message lists what was looked for.
    """
    folder = Path(path)
    with gathered() as faults:
        known = is_folder(folder)
    if not known:
        what = next(iter(faults), f"{printable(path)}: is not a directory").partition(";")[0]
        raise InputError(f"{what}; name the output directory of a training run{suggest_path(folder)}")
    readers = [cast(Reader, importlib.import_module(f"dynamics.runs.readers.{name}")) for name in READERS]
    run = _read(folder, readers, faults)
    if run is not None:
        _refuse_url(run)
        return run
    if runs := _runs_in(folder, readers):
        raise InputError(choose_run(folder, runs))
    looked = "; ".join(reader.LOOKED_FOR for reader in readers)
    unread = f" ({'; '.join(list(faults)[:FAULTS])})" if faults else ""
    raise InputError(f"{printable(path)}: is not the output directory of a known trainer{unread}; looked for {looked}")


def _read(folder: Path, readers: Sequence[Reader], unread: dict[str, None] | None = None) -> Run | None:
    """Read a directory by the first reader that knows it, with notes on what that reader could not look at.

    Parameters
    ----------
    folder : the directory.
    readers : in the order in which they are asked.
    unread : receives what none of them could look at if none knows the directory.
    """
    try:
        for reader in readers:
            with gathered() as faults:
                run = reader.read(folder)
            if run is not None:
                left_out = {note.partition(LEFT_OUT)[0] for note in run.notes}
                notes = list(dict.fromkeys([*run.notes, *(fault for fault in faults if fault.partition(UNREAD)[0] not in left_out)]))
                more = [f"{printable(folder)}: {len(notes) - NOTES:,} more lines on what was left out are not listed"]
                run.notes = notes if len(notes) <= NOTES else notes[:NOTES] + more
                return run
            if unread is not None:
                unread |= faults
        return None
    except (OSError, RecursionError) as error:  # such as folders in one another without end
        what = f"{error.strerror or error}: {printable(error.filename, 200)}" if isinstance(error, OSError) else "nested too deeply"
        raise InputError(f"{printable(folder, 300)}: cannot be read ({what})") from None


def _runs_in(folder: Path, readers: Sequence[Reader]) -> list[str]:
    """Name the folders in a folder that are runs, of the first ``INSIDE``."""
    runs = []
    for path in folders(folder)[:INSIDE]:
        with contextlib.suppress(InputError):
            runs += [path.name] if _read(path, readers) is not None else []
    return runs
