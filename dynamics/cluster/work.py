"""What a measure has to compute, in units that do not depend on each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dynamics.checkpoints import Checkpoint
from dynamics.cluster.sides import Side, describe, difference
from dynamics.errors import printable
from dynamics.extras import own_version
from dynamics.io.threads import Progress


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that the result of a measure needs beside the tallies, as plain values. It is the same on every host.

    Attributes
    ----------
    measure : name of the command.
    version : of this package.
    settings : what the tallies depend on.
    roles : of each side: BASE, TUNED, ...
    sides : the checkpoints.
    sizes : bytes that are read for each unit, in the order of one process.
    places : what follows from the paths, such as notes that name them; it may differ between hosts.
    rest : what else the measure needs.
    """

    measure: str
    version: str
    settings: dict[str, Any]
    roles: list[str]
    sides: list[Side]
    sizes: list[int]
    places: Any
    rest: Any


@dataclass(frozen=True)
class Work:
    """What is to be computed, with the open checkpoints.

    Attributes
    ----------
    record : see ``Record``.
    sides : the checkpoints of the record.
    tally : (indices of units in ascending order, threads or None, progress in bytes or None) -> the tally of each, plain values.
    """

    record: Record
    sides: list[Checkpoint]
    tally: Callable[[Sequence[int], int | None, Progress | None], list[Any]]


#: opens the checkpoints that are named by paths, under settings, and matches them; reads headers and samples only. A function of a module.
Open = Callable[[list[str], dict[str, Any]], Work]


def record(
    measure: str,
    settings: dict[str, Any],
    sides: Sequence[tuple[str, Checkpoint]],
    sizes: Sequence[int],
    places: Any,
    rest: Any,
) -> Record:
    """Make a record of plain values as they are in a file: lists for tuples. ``sides``: role and checkpoint of each."""
    roles, checkpoints = [role for role, _ in sides], [describe(checkpoint) for _, checkpoint in sides]
    made = Record(measure, own_version(), settings, roles, checkpoints, list(sizes), places, rest)
    return msgspec.convert(json.loads(encode(made)), Record)


def encode(value: Any) -> bytes:
    """Encode as JSON in which NaN and infinity stay what they are, and every float is read back as the same one."""
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()


def fingerprint(record: Record) -> str:
    """Return a digest of all that ``mismatch`` compares."""
    sides = [msgspec.structs.replace(side, path="") for side in record.sides]
    return hashlib.sha256(encode(msgspec.structs.replace(record, sides=sides, places=None))).hexdigest()


def mismatch(one: Record, other: Record) -> str:
    """Say why the tallies of two records do not belong together; empty if they do. ``one`` is here, ``other`` is there."""
    if one.measure != other.measure:
        return f"it is of {printable(other.measure)}, not of {printable(one.measure)}"
    if one.version != other.version:
        return f"it was made by version {printable(other.version)} of this package, not {printable(one.version)}"
    for name in {**one.settings, **other.settings}:
        if (here := one.settings.get(name)) != (there := other.settings.get(name)):
            return f"it was made with {printable(name)} {printable(there)}, not {printable(here)}"
    if one.roles != other.roles:
        return f"it compares {len(other.roles)} checkpoints, not {len(one.roles)}"
    for role, side, opposite in zip(one.roles, one.sides, other.sides, strict=True):
        if what := difference(side, opposite):
            return f"its {printable(role)}, {printable(opposite.path)}, is another checkpoint than {printable(side.path)}: {what}"
    if one.sizes != other.sizes or one.rest != other.rest:
        return "its checkpoints were matched otherwise"
    return ""
