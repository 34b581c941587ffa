"""What was measured of the same files: earlier in this report, in memory, and by earlier reports, in a folder beside the page.

An entry belongs to the files that were read: their paths, sizes, times of change and inodes are part of its key, as are the version of
this package and the settings of the measure. What cannot be read, or has another key, counts as not there. An entry is JSON, and its time
of change is that of its last use. ``bound`` deletes the entries that were not used for longest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec

from dynamics.checkpoints import Checkpoint
from dynamics.checkpoints.identity import identity
from dynamics.errors import InputError
from dynamics.extras import own_version
from dynamics.io import cache
from dynamics.io.atomic import replacing
from dynamics.io.side_files import parse_json, read_bytes
from dynamics.report.section import Options, Store

#: a dataclass; the Protocol of its instances cannot be checked of a class at run time, as tests do
Measured = TypeVar("Measured")
SCHEMA = "dynamics.report-cache/1"
#: bytes of an entry: a comparison of 20,000 tensors takes about 20 MB
LARGEST = 200_000_000
#: bytes of all entries of a folder together
MOST = 500_000_000
#: names of entries, and how their content begins
NAME, BEGINNING = re.compile(r"[a-z_]+-[0-9a-f-]+\.json"), f'{{"schema": "{SCHEMA}", '.encode()


@dataclass(frozen=True)
class Entry(Generic[Measured]):
    """The place of a measurement of some checkpoints in the cache.

    Attributes
    ----------
    folder : of the cache; None for none.
    store : what this report measured.
    kind : name of the measure.
    sources : the checkpoints, see ``identity``; if one of them cannot be described, nothing is kept.
    settings : of the measure, plain values.
    result : dataclass of the result, with fields of plain values and of other such dataclasses.
    key : of the files as they are when the entry is made.
    """

    folder: Path | None
    store: Store
    kind: str
    sources: Sequence[str | Path | Checkpoint]
    settings: dict[str, Any]
    result: type[Measured]
    key: str | None

    @property
    def path(self) -> Path | None:
        """The file; None if nothing is kept."""
        if self.folder is None or self.key is None:
            return None
        return self.folder / f"{self.kind}-{hashlib.sha256(self.key.encode()).hexdigest()[:32]}.json"

    def read(self) -> Measured | None:
        """Return what was measured; None if there is nothing, or nothing that this package wrote for these files."""
        if self.key is None:
            return None
        if (known := self.store.results.get(self.key)) is not None:
            return known if isinstance(known, self.result) else None
        if self.path is None:
            return None
        try:
            document = parse_json(read_bytes(self.path, LARGEST), str(self.path))
            value = msgspec.convert(document["result"], self.result) if document["key"] == self.key else None
        except (InputError, OSError, KeyError, TypeError, ValueError, RecursionError, MemoryError):
            return None
        if value is not None:
            self._remember(value)
            with contextlib.suppress(OSError):
                os.utime(self.path)
        return value

    def write(self, value: Measured) -> None:
        """Keep a result, unless the files changed meanwhile; if the folder cannot be written, it is kept for this report only."""
        if self.key is None or _key(self.kind, self.sources, self.settings) != self.key:
            return
        self._remember(value)
        if self.path is None:
            return
        with contextlib.suppress(InputError, OSError):
            self.path.parent.mkdir(exist_ok=True)
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps({"schema": SCHEMA, "key": self.key, "result": asdict(cast(Any, value))}))

    def _remember(self, value: Measured) -> None:
        if self.key is not None:
            self.store.results[self.key] = value
        if self.path is not None:
            self.store.used.add(self.path)


def entry(
    options: Options,
    kind: str,
    sources: Sequence[str | Path | Checkpoint],
    settings: dict[str, Any],
    result: type[Measured],
) -> Entry[Measured]:
    """Make the entry of a measurement for a report with some options; see ``Entry`` for the other parameters."""
    return Entry(options.cache, options.store, kind, sources, settings, result, _key(kind, sources, settings))


def measured(place: Entry[Measured], measure: Callable[[], Measured]) -> Measured:
    """Return what an earlier report measured, or measure it and keep it."""
    earlier = place.read()
    if earlier is not None:
        return earlier
    value = measure()
    place.write(value)
    return value


def bound(folder: Path | None, store: Store, most: int = MOST) -> None:
    """Delete the entries that were not used for longest, until all have at most ``most`` bytes; what ``store`` used stays."""
    if folder is not None:
        cache.bound(folder, NAME, BEGINNING, most, store.used)


def _key(kind: str, sources: Sequence[str | Path | Checkpoint], settings: dict[str, Any]) -> str | None:
    files = [identity(source) for source in sources]
    if any(entry is None for entry in files):
        return None
    return json.dumps([SCHEMA, own_version(), kind, files, settings], sort_keys=True)
