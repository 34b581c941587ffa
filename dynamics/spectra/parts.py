"""Cut the spectra of two checkpoints into the matrices that they consist of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dynamics.checkpoints import Skip
from dynamics.checkpoints.quantised.notes import explain
from dynamics.cluster.work import Record, Work, record
from dynamics.io.locations import without_secrets
from dynamics.io.paths import repeated
from dynamics.io.threads import Progress
from dynamics.spectra.comparison import SEQUENCE_FIELDS, Measured, Spectrum, select, spectrum_of

MEASURE = "dynamics.spectra"


def open_work(sources: list[str], settings: dict[str, Any]) -> Work:
    """Select the matrices of two checkpoints.

    Parameters
    ----------
    sources : paths, Hub ids or URLs of the two.
    settings : ``only`` and ``limit``, ``k``, ``alpha``, ``method`` and ``seed``, as for ``compare``.
    """
    measured = {name: value for name, value in settings.items() if name not in ("only", "limit")}
    selected = select(*sources, only=settings["only"], limit=settings["limit"])

    def tally(units: Sequence[int], _threads: int | None, progress: Progress | None) -> list[Any]:
        spectra = []
        for unit in units:
            pair = selected.matrices[unit]
            spectra.append(asdict(spectrum_of(pair, selected.factors.get(pair.tuned.name), **measured)))
            if progress:
                progress(len(spectra), len(units))
        return spectra

    sides = [("BASE", selected.base), ("TUNED", selected.tuned)]
    sizes = [sum(side.numel * side.storage.itemsize for side in (pair.base, pair.tuned)) for pair in selected.matrices]
    remarks = [*explain(selected.base, selected.opened), *repeated(sources)]
    places = {"paths": [without_secrets(source) for source in sources], "remarks": remarks}
    rest = {"names": [pair.name for pair in selected.matrices], "skipped": [asdict(skip) for skip in selected.skipped]}
    return Work(record(MEASURE, settings, sides, sizes, places, rest), [selected.base, selected.tuned], tally)


def result(record: Record, tallies: Sequence[Any]) -> Measured:
    """Return the spectra as one process measures them."""
    base, tuned = record.places["paths"]
    settings = record.settings
    return Measured(
        base,
        tuned,
        [_spectrum(tally) for tally in tallies],
        [Skip(**skip) for skip in record.rest["skipped"]],
        record.places["remarks"],
        **{name: settings[name] for name in ("method", "k", "alpha", "seed")},
    )


def _spectrum(tally: dict[str, Any]) -> Spectrum:
    """Make a spectrum of its fields, whose numbers stay the integers or floats that they are."""
    bounds = {name: (low, high) for name, (low, high) in tally["bounds"].items()}
    sequences = {name: tuple(value) for name, value in tally.items() if name in SEQUENCE_FIELDS or name == "shape"}
    return Spectrum(**(tally | sequences | {"bounds": bounds}))
