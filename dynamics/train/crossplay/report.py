"""Ask every checkpoint of a run the tasks of every phase of its training.

A phase lies between two checkpoints, and its own checkpoint is the one at its end. All checkpoints are asked the same tasks with the same
random numbers, so that differences between them are those of the weights.

Of Seirênes the tasks of a phase are its problems under the hints of the phase, and the same problems without a hint are the reference. Of
SPC they are the wrong steps of the generator of each round, which the critics of all rounds have judged already (``critics``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dynamics.errors import InputError, printable
from dynamics.games.crossplay import CrossPlay, cross_play
from dynamics.train.config import PolicyGradientConfig, RLVRConfig
from dynamics.train.crossplay import critics
from dynamics.train.finished import FinishedRun, ShownHint, Task, open_finished
from dynamics.train.games.seirenes_settings import SeirenesConfig
from dynamics.train.games.spc_settings import SPCConfig
from dynamics.train.rng import stream

if TYPE_CHECKING:
    from dynamics.train.policy import Policy
    from dynamics.train.tasks.problem import Question

Met = TypeVar("Met", Task, ShownHint)


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
    The matrix, and what it was made of for the JSON document; of Seirênes with the phases of the matrix without hints as ``clean``.

    Raises
    ------
    InputError : the run has too few checkpoints, or no tasks that can be asked again.
    """
    found, _, about = matrices(path, player, tasks, samples, checkpoints, seed, progress)
    return found, about


def matrices(
    path: Path,
    player: str = "",
    tasks: int = 100,
    samples: int = 8,
    checkpoints: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CrossPlay, CrossPlay | None, dict[str, Any]]:
    """Compute the cross-play matrix of a run as ``of_run`` does, and for Seirênes that of the same problems without hints."""
    run = open_finished(path)  # before torch is imported, which takes seconds
    if isinstance(run.config, SPCConfig):
        return critics.of_run(run, player), None, {"run": str(path), "player": player, "manner": critics.MANNER, "seed": run.config.seed}
    chosen = _chosen(run.checkpoints(player), checkpoints, path)
    settings = replace(_sampling(run), seed=seed)
    limits = (list(chosen), tasks, seed)
    if isinstance(run.config, SeirenesConfig):
        rates, phase_of = _over(run, chosen, partial(_under_hints, run, run.config, limits, samples, settings), progress)
    else:
        rates, phase_of = _over(run, chosen, partial(_problems, run, limits, samples, settings), progress)
    steps = list(chosen)
    names = [f"steps {first + 1}-{last}" for first, last in itertools.pairwise(steps)]
    own = list(range(1, len(steps)))
    found, *reference = (
        cross_play(np.stack(of_kind, axis=1), phase_of, own, names, [f"step {step}" for step in steps])
        for of_kind in zip(*rates, strict=True)
    )
    about = {"run": str(path), "player": player, "samples": samples, "temperature": settings.temperature, "seed": seed}
    about["left_out"] = [{"reason": reason, "tasks": count} for reason, count in run.left_out.items()]
    clean = reference[0] if reference else None
    return found, clean, about if clean is None else about | {"clean": clean.to_dict()["phases"]}


def _over(
    run: FinishedRun,
    chosen: dict[int, Path],
    ask: Callable[[Policy, list[tuple[int, Met]]], tuple[list[np.ndarray[Any, Any]], list[tuple[int, Met]]]],
    progress: Callable[[int, int], None] | None,
) -> tuple[list[list[np.ndarray[Any, Any]]], list[int]]:
    """Ask each checkpoint; return the solve rates of each, one array for each matrix, and the phase of each task."""
    rates = []
    kept: list[tuple[int, Met]] = []
    for number, folder in enumerate(chosen.values()):
        found, kept = ask(run.load(folder), kept)
        rates.append(found)
        if progress:
            progress((number + 1) * len(kept), len(chosen) * len(kept))
    return rates, [phase for phase, _ in kept]


def _problems(
    run: FinishedRun,
    limits: tuple[list[int], int, int],
    samples: int,
    settings: PolicyGradientConfig,
    policy: Policy,
    kept: list[tuple[int, Task]],
) -> tuple[list[np.ndarray[Any, Any]], list[tuple[int, Task]]]:
    """Ask a model tasks, which are drawn if there are none yet; return its solve rates, and the tasks."""
    from dynamics.train.games.languages import language
    from dynamics.train.tasks.prompt_formats import language_of

    speaks = language(language_of(policy.tokenizer), run.config.allow_unconfined)
    try:
        kept = kept or _drawn(run.tasks(speaks), *limits)
        questions = [
            speaks.question(task.entry.kind, task.entry.proposed, task.entry.outputs, f"task {place}")
            for place, (_, task) in enumerate(kept)
        ]
        return [_rates(policy, questions, samples, settings)], kept
    finally:
        speaks.close()


def _under_hints(
    run: FinishedRun,
    config: SeirenesConfig,
    limits: tuple[list[int], int, int],
    samples: int,
    settings: PolicyGradientConfig,
    policy: Policy,
    kept: list[tuple[int, ShownHint]],
) -> tuple[list[np.ndarray[Any, Any]], list[tuple[int, ShownHint]]]:
    """Ask a model problems under hints, which are drawn if there are none yet, and the same problems without; return both solve rates."""
    from dynamics.train import sources
    from dynamics.train.games.hints import form_of
    from dynamics.train.tasks.prompt_formats import language_of

    speaks = language_of(policy.tokenizer)
    form, source = form_of(speaks, policy.tokenizer), sources.find(config.task, speaks, config.allow_unconfined)
    try:
        by_id = {question.id: question for question in source.questions("training", config.num_problems, config.seed)}
        if not kept:
            usable = []
            for hint in run.hints():
                question = by_id.get(hint.problem)
                if question is None:
                    run.left_out["hints to problems that the task does not have any more"] += 1
                elif form.read(question, form.written(hint.text)).text != hint.text:  # a stranger's text
                    run.left_out["hints that cannot be shown to this model"] += 1
                else:
                    usable.append(hint)
            kept = _drawn(usable, *limits)
        hinted = [form.under(by_id[hint.problem], hint.text) for _, hint in kept]
        problems = list(dict.fromkeys(hint.problem for _, hint in kept))
        rates = _rates(policy, [*hinted, *(by_id[name] for name in problems)], samples, settings)
    finally:
        sources.close(source)
    clean = dict(zip(problems, rates[len(hinted) :], strict=True))
    return [rates[: len(hinted)], np.array([clean[hint.problem] for _, hint in kept])], kept


def _rates(policy: Policy, questions: list[Question], samples: int, settings: PolicyGradientConfig) -> np.ndarray[Any, Any]:
    """Return the share of right answers of a model to each question, (questions,)."""
    from dynamics.train.completions import Request
    from dynamics.train.sampling import sample
    from dynamics.train.tasks.judges import judge_all
    from dynamics.train.tasks.prompt_formats import decode, encode_questions

    groups = sample(policy, Request.of(settings, encode_questions(policy.tokenizer, questions), samples, "crossplay", 0))
    texts = [decode(policy.tokenizer, one.ids, policy.eos) for group in groups for one in group]
    verdicts = judge_all([question for question in questions for _ in range(samples)], texts)
    return np.array([verdict.correct for verdict in verdicts], float).reshape(len(questions), samples).mean(axis=1)


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


def _drawn(tasks: list[Met], steps: list[int], most: int, seed: int) -> list[tuple[int, Met]]:
    """Draw the tasks of each phase; those after the last checkpoint are left out."""
    drawn: list[tuple[int, Met]] = []
    for phase, (first, last) in enumerate(itertools.pairwise(steps)):
        of_phase = [task for task in tasks if first < task.step <= last]
        order = stream(seed, "crossplay tasks", phase).permutation(len(of_phase))[:most]
        drawn += [(phase, of_phase[int(index)]) for index in sorted(order)]
    if not drawn:
        raise InputError("no task was met between two of the checkpoints")
    return drawn
