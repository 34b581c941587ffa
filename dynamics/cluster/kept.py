"""Tallies that are kept while they come in, so that a comparison that is interrupted goes on where it was.

They lie in the user's cache, in a file for each comparison, with a tally a line. The name of the file follows from the files that are
compared (their paths, sizes, times of change and inodes), from a sample of their values, the settings and the version of this package. What
cannot be read counts as not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynamics.checkpoints.identity import identity
from dynamics.cluster.work import Work, encode
from dynamics.errors import InputError
from dynamics.io import cache
from dynamics.io.atomic import Appender, replacing
from dynamics.io.json_lines import read_json_lines

#: bytes of all files together
MOST = 1_000_000_000
NAME, SCHEMA = re.compile(r"[0-9a-f]{64}\.jsonl"), "dynamics.cluster-kept/1"


class Kept:
    """The tallies of one comparison.

    Parameters
    ----------
    work, sources : what is compared.

    Attributes
    ----------
    tallies : unit -> its tally, as far as there are any.
    """

    def __init__(self, work: Work, sources: Sequence[str]):
        self.tallies: dict[int, Any] = {}
        self._file: Appender | None = None
        files = [identity(source) for source in sources]
        if None in files:  # not of this machine
            files = [identity(side) for side in work.sides]
        if None in files:
            return
        digest = hashlib.sha256(encode([work.record, files])).hexdigest()
        folder = cache.user_folder() / "cluster"
        path = folder / f"{digest}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.tallies = _read(path, len(work.record.sizes))
            lines = [_line({"unit": unit, "tally": tally}) for unit, tally in self.tallies.items()]
            with replacing(path) as temporary:  # without what a killed process left at its end
                temporary.write_bytes(_line({"schema": SCHEMA}) + b"".join(lines))
            cache.bound(folder, NAME, _line({"schema": SCHEMA}), MOST, [path])
        except (InputError, OSError):  # there is no place to keep anything
            return
        self._file = Appender(path)

    def add(self, unit: int, tally: Any) -> None:
        """Keep the tally of a unit."""
        self.tallies[unit] = tally
        if self._file is not None:
            try:
                self._file.append(_line({"unit": unit, "tally": tally}))
            except InputError:  # the disk is full: the comparison itself goes on
                self._file = None


def _line(value: dict[str, Any]) -> bytes:
    return encode(value) + b"\n"


def _read(path: Path, count: int) -> dict[int, Any]:
    """Read the tallies of a file, up to the first line that is none."""
    tallies: dict[int, Any] = {}
    with contextlib.suppress(InputError, KeyError, TypeError, AttributeError):
        rows = (row for _, row in read_json_lines(path, []))
        if next(rows, None) != {"schema": SCHEMA}:
            return {}
        for row in rows:
            if row["unit"] not in range(count):
                break
            tallies[row["unit"]] = row["tally"]
    return tallies
