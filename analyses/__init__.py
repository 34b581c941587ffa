"""The figures of this repository: one module per question. ``python -m analyses`` rebuilds those that take minutes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """The options of ``python -m analyses``.

    Attributes
    ----------
    runs : folder of all run directories.
    figures : folder of all figures.
    force : repeat training runs that are finished already.
    preset : preset of the comparison.
    block : part of it that is trained; None for all.
    scheduler : of Dask, whose workers train the runs of the comparison; None to train them here.
    """

    runs: Path
    figures: Path
    force: bool = False
    preset: str = "default"
    block: str | None = None
    scheduler: str | None = None


def _precision(request: Request) -> list[Path]:
    from analyses import precision  # imports torch, so only when it is asked for

    return precision.main(request.runs, request.figures, request.force)


def _rewards(request: Request) -> list[Path]:
    from dynamics.train.games import plot_rewards

    return plot_rewards.write(request.figures / "proposer_rewards.png")


def _comparison(request: Request) -> list[Path]:
    from analyses import comparison

    return comparison.main(request.runs, request.figures, request.force, request.preset, request.scheduler, request.block)


def _games(request: Request) -> list[Path]:
    from analyses import games

    return games.main(request.runs, request.figures, request.force, request.scheduler)


#: what ``python -m analyses`` rebuilds if no name is given; the others train a model of 135M parameters, or for hours
QUICK = ("rewards", "comparison")
#: name -> a function that gives the paths of the files it wrote
ANALYSES: dict[str, Callable[[Request], list[Path]]] = {
    "precision": _precision,
    "rewards": _rewards,
    "comparison": _comparison,
    "games": _games,
}
#: name -> the optional packages that it needs
NEEDS: dict[str, tuple[str, ...]] = {
    "precision": ("torch", "transformers", "safetensors", "gguf"),
    "rewards": (),
    "comparison": ("torch", "transformers", "safetensors"),
    "games": ("torch", "transformers", "safetensors", "trueskillthroughtime"),
}
