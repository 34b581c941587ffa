"""One script a question: each reads run directories and writes ``figures/``. ``python -m analyses`` rebuilds them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def _precision(runs: Path, figures: Path, force: bool) -> list[Path]:
    from analyses import precision  # imports torch, so only when it is asked for

    return precision.main(runs, figures, force)


def _uncertainty(runs: Path, figures: Path, force: bool) -> list[Path]:
    from analyses import uncertainty

    return uncertainty.main(runs, figures, force)


def _comparison(runs: Path, figures: Path, force: bool) -> list[Path]:
    from analyses import comparison

    return comparison.main(runs, figures, force)


#: name -> (where runs live, where figures go, redo runs that are there already) -> the files written
ANALYSES: dict[str, Callable[[Path, Path, bool], list[Path]]] = {
    "precision": _precision,
    "uncertainty": _uncertainty,
    "comparison": _comparison,
}
