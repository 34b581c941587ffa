"""The measures of games: what proposers and solvers did over training, from rollouts and metrics of any trainer.

    python -m dynamics.games runs/selfplay
    python -m dynamics.games runs/* --json games.json --figure games.png

Each measure is a pure function of arrays or tables, with its source and how it misleads in its docstring::

    from dynamics import games
    games.beliefs(answers, correct).gap            # agreement minus accuracy
    games.cross_play(rates, phase_of, own, ...)    # the cross-play matrix, progress and forgetting
    games.cosine(gradients["proposer"], gradients["solver"])

The names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamics.games.claims import Beliefs, agreement, beliefs, claim_accuracy, pair_agreement, read_answer
    from dynamics.games.comparison import SCHEMA, Report, RunMeasures, measure_run, phases_of
    from dynamics.games.conflict import cosine, norm, norm_ratio, shares
    from dynamics.games.crossplay import CrossPlay, cross_play
    from dynamics.games.diversity import cumulative, is_new, jaccard, rarefied, similarity_to_earlier, tokens
    from dynamics.games.information import Information, learnable_information, over_learners
    from dynamics.games.intervals import Estimate
    from dynamics.games.robustness import CriticScore, Robustness, critic_score, robustness_gap, rounds
    from dynamics.games.spirals import Spiral, death_spiral
    from dynamics.games.structure import Structure, measure
    from dynamics.games.turns import read_turns

_MODULES = {
    "claims": ("Beliefs", "agreement", "beliefs", "claim_accuracy", "pair_agreement", "read_answer"),
    "comparison": ("SCHEMA", "Report", "RunMeasures", "measure_run", "phases_of"),
    "conflict": ("cosine", "norm", "norm_ratio", "shares"),
    "crossplay": ("CrossPlay", "cross_play"),
    "diversity": ("cumulative", "is_new", "jaccard", "rarefied", "similarity_to_earlier", "tokens"),
    "information": ("Information", "learnable_information", "over_learners"),
    "intervals": ("Estimate",),
    "robustness": ("CriticScore", "Robustness", "critic_score", "robustness_gap", "rounds"),
    "spirals": ("Spiral", "death_spiral"),
    "structure": ("Structure", "measure"),
    "turns": ("read_turns",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "SCHEMA",
    "Beliefs",
    "CriticScore",
    "CrossPlay",
    "Estimate",
    "Information",
    "Report",
    "Robustness",
    "RunMeasures",
    "Spiral",
    "Structure",
    "agreement",
    "beliefs",
    "claim_accuracy",
    "cosine",
    "critic_score",
    "cross_play",
    "cumulative",
    "death_spiral",
    "is_new",
    "jaccard",
    "learnable_information",
    "measure",
    "measure_run",
    "norm",
    "norm_ratio",
    "over_learners",
    "pair_agreement",
    "phases_of",
    "rarefied",
    "read_answer",
    "read_turns",
    "robustness_gap",
    "rounds",
    "shares",
    "similarity_to_earlier",
    "tokens",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"dynamics.games.{_MODULE_OF[name]}"), name)
