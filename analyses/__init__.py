"""One script a question: each reads run directories and writes ``figures/``. ``python -m analyses`` rebuilds them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def _precision(runs: Path, figures: Path, force: bool, preset: str) -> list[Path]:
    from analyses import precision  # imports torch, so only when it is asked for

    return precision.main(runs, figures, force)


def _uncertainty(runs: Path, figures: Path, force: bool, preset: str) -> list[Path]:
    from analyses import uncertainty

    return uncertainty.main(runs, figures)


def _rewards(runs: Path, figures: Path, force: bool, preset: str) -> list[Path]:
    from dynamics.train.games import plot_rewards

    return plot_rewards.write(figures / "proposer_rewards.png")


def _comparison(runs: Path, figures: Path, force: bool, preset: str) -> list[Path]:
    from analyses import comparison

    return comparison.main(runs, figures, force, preset)


#: name -> (where runs live, where figures go, redo runs that are there already, preset of the comparison) -> the files written
ANALYSES: dict[str, Callable[[Path, Path, bool, str], list[Path]]] = {
    "precision": _precision,
    "uncertainty": _uncertainty,
    "rewards": _rewards,
    "comparison": _comparison,
}
