"""Ask every checkpoint of a run the tasks of every phase of its training.

A phase lies between two checkpoints, and its own checkpoint is the one at its end. All checkpoints are asked the same tasks with the same
random numbers, so that differences between them are those of the weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.errors import InputError, printable
from dynamics.games.crossplay import CrossPlay, cross_play
from dynamics.train.config import PolicyGradientConfig, RLVRConfig
from dynamics.train.finished import FinishedRun, Task, open_finished
from dynamics.train.rng import stream


def of_run(
    path: Path,
    player: str = "",
    tasks: int = 100,
    samples: int = 8,
    checkpoints: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CrossPlay, dict[str, Any]]:
    """Compute the cross-play matrix of a run.

    Parameters
    ----------
    path : run directory.
    player : whose checkpoints answer; the graded one's if empty.
    tasks : at most so many of each phase, drawn by ``seed``.
    samples : answers to each task, at the run's temperature.
    checkpoints : at most so many, the first and the last among them.
    seed : of tasks and answers.
    progress : called with (answered tasks, all).

    Returns
    -------
    The matrix, and what it was made of for the JSON document.

    Raises
    ------
    InputError : the run has too few checkpoints, or no tasks that can be asked again.
    """
    run = open_finished(path)  # before torch is imported, which takes seconds
    from dynamics.train.completions import Request
    from dynamics.train.games.languages import language
    from dynamics.train.samplers.transformers import sample
    from dynamics.train.tasks.judges import judge_all
    from dynamics.train.tasks.prompt_formats import decode, encode_questions, language_of

    chosen = _chosen(run.checkpoints(player), checkpoints, path)
    settings = replace(_sampling(run), seed=seed)
    rates: list[np.ndarray[Any, Any]] = []
    kept: list[tuple[int, Task]] = []
    for number, (_, folder) in enumerate(chosen.items()):
        policy = run.load(folder)
        speaks = language(language_of(policy.tokenizer), run.config.allow_unconfined)
        try:
            if not kept:
                kept = _drawn(run.tasks(speaks), list(chosen), tasks, seed)
            questions = [
                speaks.question(task.entry.kind, task.entry.proposed, task.entry.outputs, f"task {place}")
                for place, (_, task) in enumerate(kept)
            ]
            groups = sample(policy, Request.of(settings, encode_questions(policy.tokenizer, questions), samples, "crossplay", 0))
            texts = [[decode(policy.tokenizer, one.ids, policy.eos) for one in group] for group in groups]
            verdicts = judge_all([question for question in questions for _ in range(samples)], [text for group in texts for text in group])
        finally:
            speaks.close()
        rates.append(np.array([verdict.correct for verdict in verdicts], float).reshape(len(questions), samples).mean(axis=1))
        if progress:
            progress((number + 1) * len(kept), len(chosen) * len(kept))
    steps = list(chosen)
    names = [f"steps {first + 1}-{last}" for first, last in itertools.pairwise(steps)]
    phase_of, own = [phase for phase, _ in kept], list(range(1, len(steps)))
    found = cross_play(np.stack(rates, axis=1), phase_of, own, names, [f"step {step}" for step in steps])
    about = {"run": str(path), "player": player, "samples": samples, "temperature": settings.temperature, "seed": seed}
    return found, about | {"left_out": [{"reason": reason, "tasks": count} for reason, count in run.left_out.items()]}


def _chosen(found: dict[int, Path], most: int, path: Path) -> dict[int, Path]:
    """Choose checkpoints evenly; there must be two."""
    if most < 2:
        raise InputError(f"--checkpoints {most}: must be at least 2")
    if len(found) < 2:
        raise InputError(f"{printable(path)}: has {len(found)} checkpoint; a matrix needs two at least (--save-every of the training)")
    steps = list(found)
    places = sorted({round(place) for place in np.linspace(0, len(steps) - 1, min(most, len(steps)))})
    return {steps[place]: found[steps[place]] for place in places}


def _sampling(run: FinishedRun) -> PolicyGradientConfig:
    """Return the settings by which answers are sampled: the run's, or temperature 1 for a run that sampled nothing."""
    if isinstance(run.config, PolicyGradientConfig):
        return run.config
    return RLVRConfig(max_new_tokens=run.config.max_new_tokens)


def _drawn(tasks: list[Task], steps: list[int], most: int, seed: int) -> list[tuple[int, Task]]:
    """Draw the tasks of each phase; those after the last checkpoint are left out."""
    drawn: list[tuple[int, Task]] = []
    for phase, (first, last) in enumerate(itertools.pairwise(steps)):
        of_phase = [task for task in tasks if first < task.step <= last]
        order = stream(seed, "crossplay tasks", phase).permutation(len(of_phase))[:most]
        drawn += [(phase, of_phase[int(index)]) for index in sorted(order)]
    if not drawn:
        raise InputError("no task was met between two of the checkpoints")
    return drawn
