"""Read a lineage, and say how long each adapter lived."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.runs.directory import RunDirectory

#: file of the lineage in a run directory
LINEAGE = "lineage.jsonl"
#: of the JSON of the command
SCHEMA = "dynamics.lineage/1"


@dataclass(frozen=True)
class Adapter:
    """An adapter that there was.

    Attributes
    ----------
    name : ``student1.2`` is the second child in the place of the player ``student1``.
    player : whose place it has.
    born : step after which it was made; 0 for those of the start.
    died : step after which it was replaced, or the last step.
    living : whether it is there at the end.
    operator : by which it was made; empty for those of the start.
    parents : names, the better rated one first.
    """

    name: str
    player: str
    born: int
    died: int
    living: bool
    operator: str
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Lineage:
    """All adapters of a run, in the order of their births."""

    steps: int
    adapters: list[Adapter]

    @property
    def players(self) -> list[str]:
        """The places, in the order of the run."""
        return list(dict.fromkeys(adapter.player for adapter in self.adapters))

    def founder(self, name: str) -> str:
        """Return the adapter of the start from which one descends, through the better rated parents."""
        by_name = {adapter.name: adapter for adapter in self.adapters}
        while by_name[name].parents:
            name = by_name[name].parents[0]
        return name

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object, ``dynamics.lineage/1``."""
        return {"schema": SCHEMA, "steps": self.steps, "adapters": [asdict(adapter) for adapter in self.adapters]}


def of_run(run: Path) -> Lineage:
    """Read the lineage of a finished run; ``InputError`` if it has none, or one that cannot be."""
    path, document = run / LINEAGE, RunDirectory(run).read_run()
    if not path.is_file():
        raise InputError(f"{printable(str(run))}: has no {LINEAGE}, which only finished runs of populora with two populations have")
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return build([dict(row) for row in rows], int(document["config"]["steps"]))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{printable(str(path))}: is damaged ({printable(str(error), 80)}); restore it") from None


def build(rows: list[dict[str, Any]], steps: int) -> Lineage:
    """Make a lineage of its rows; parents must have been born before."""
    replaced = {row["replaces"]: int(row["step"]) for row in rows if "replaces" in row}
    adapters: list[Adapter] = []
    known: set[str] = set()
    for row in rows:
        name, player, parents = (printable(str(row["child"]), 60), printable(str(row["player"]), 60), tuple(map(str, row["parents"])))
        if not known.issuperset(parents) or name in known:
            raise ValueError(f"{name} has parents that were not born before, or is there twice")
        known.add(name)
        died = replaced.get(row["child"])
        operator = printable(str(row["operator"] or ""), 60)
        adapters.append(Adapter(name, player, int(row["step"]), steps if died is None else died, died is None, operator, parents))
    return Lineage(steps, adapters)


def lines(lineage: Lineage) -> list[str]:
    """List the living adapters with their ancestors, a line each."""
    by_name = {adapter.name: adapter for adapter in lineage.adapters}
    found = []
    for adapter in lineage.adapters:
        if not adapter.living:
            continue
        chain: list[str] = []
        name = adapter.name
        while by_name[name].parents:
            one = by_name[name]
            chain.append(f"{one.operator} of {' and '.join(one.parents)} after step {one.born}")
            name = one.parents[0]
        found.append(f"{adapter.name}: {', before it '.join(chain) or 'of the start'}")
    return [f"{len(lineage.adapters)} adapters in {lineage.steps} steps, {len(found)} living at the end", *sorted(found)]
