"""Task names: triplets, reasoning-gym tasks, files, and mixtures of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from dynamics.errors import InputError, did_you_mean, printable
from dynamics.extras import PACKAGES, how_to_install
from dynamics.train.tasks import laboratory
from dynamics.train.tasks.problem import TASK_TYPES, Question, Source
from dynamics.train.tasks.proposals import Proposals
from dynamics.train.tasks.reasoning_gym import ReasoningGym
from dynamics.train.tasks.records import Records
from dynamics.train.tasks.triplets import Triplets


def task_names() -> list[str]:
    """List the names of all available tasks."""
    own = ["code", *TASK_TYPES, "proposals", *laboratory.NAMES]
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        return own
    return [*own, *sorted(DATASETS)]


class Mixture:
    """Questions of several sources in turn, without duplicates."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = sources
        self.name = "+".join(part.name for part in sources)

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """Return ``count`` questions, from the sources in turn."""
        each = -(-count // len(self.sources))
        parts = [source.questions(split, each, seed) for source in self.sources]
        by_id = {question.id: question for turn in zip_longest(*parts) for question in turn if question is not None}
        return list(by_id.values())[:count]


def parts(source: Source) -> Sequence[Source]:
    """Return the sources of a mixture, or the source itself."""
    return source.sources if isinstance(source, Mixture) else [source]


def source(name: str, plain: bool = True, allow_unconfined: bool = False) -> Source:
    """Return the source of questions of a task.

    Parameters
    ----------
    name : ``code``, one of its types, ``proposals``, ``lab``, one of its forms, a reasoning-gym task, a file, or several joined by +.
    plain : whether prompts are plain text rather than the notation of the embedded model.
    allow_unconfined : run scorers of other packages without a sandbox if none is available.
    """
    names = name.split("+")
    if all(part in laboratory.NAMES for part in names):  # one source, so that the transfer set, which they share, is there once
        return laboratory.Laboratory([form for part in names for form in laboratory.NAMES[part]])
    if "+" in name and not Path(name).is_file():
        return Mixture([source(part, plain, allow_unconfined) for part in names])
    if name == "code" or name in TASK_TYPES:
        return Triplets(TASK_TYPES if name == "code" else [name], plain)
    if name == "proposals":
        return Proposals(plain)
    if name.endswith((".jsonl", ".parquet")):
        return Records(name, allow_unconfined)
    known = task_names()
    if name.partition(":")[0] in known:
        return ReasoningGym(name, allow_unconfined)
    more = "" if "chain_sum" in known else f"; for those of reasoning-gym: {how_to_install(*PACKAGES['reasoning_gym'])}"
    task = f"task {printable(name)!r}"
    raise InputError(f"{task}: unknown; there are {', '.join(known)}, or a .jsonl or .parquet file{more}{did_you_mean(name, known)}")
