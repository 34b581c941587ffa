"""Train small learners on the tasks of each phase of a run, from the same weights and on equally many tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.errors import InputError, printable
from dynamics.games.comparison import phases_of
from dynamics.games.information import Information, learnable_information, over_learners
from dynamics.games.intervals import Estimate
from dynamics.train.finished import open_finished
from dynamics.train.rng import stream

if TYPE_CHECKING:
    from dynamics.train.policy import Policy
    from dynamics.train.tasks.problem import Question

SCHEMA = "dynamics.learnable/1"
#: tasks of a batch
BATCH = 8
#: smallest number of batches that a curve is read from
LEAST = 5


@dataclass(frozen=True)
class Sizes:
    """Sizes of a fresh learner."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    intermediate: int = 192
    initializer_range: float = 0.04


@dataclass(frozen=True)
class Phase:
    """What the learners learnt from a phase.

    Attributes
    ----------
    first_step, last_step : of training.
    tasks : different tasks of the phase that have an answer.
    learners : one estimate per learner seed.
    nats, per_token : their mean, in all and per token, with an interval over learner seeds.
    curve : mean over learners of the loss of each batch, nats per token.
    """

    first_step: int
    last_step: int
    tasks: int
    learners: list[Information]
    nats: Estimate
    per_token: float
    curve: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object."""
        own = {name: getattr(self, name) for name in ("first_step", "last_step", "tasks", "per_token", "curve")}
        return own | {"nats": self.nats.to_dict(), "learners": [one.to_dict() for one in self.learners]}


def of_run(
    path: Path,
    learner: str = "fresh",
    phases: int = 4,
    tasks: int = 400,
    seeds: int = 3,
    learning_rate: float = 3e-3,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Phase], dict[str, Any]]:
    """Measure the learnable information of each phase of a run.

    Parameters
    ----------
    path : run directory.
    learner : ``fresh``, a small Llama without training, or ``base``, the model that the run began with.
    phases : number of phases of equally many steps.
    tasks : of each phase, at most.
    seeds : learners for each phase; a seed is the order of the tasks and, of a fresh learner, its weights.
    learning_rate : of AdamW, constant.
    progress : called with (learners trained, all).

    Returns
    -------
    The phases, and what they were made of for the JSON document.

    Raises
    ------
    InputError : the run has no tasks that can be asked again, or a phase has too few of them.
    """
    run = open_finished(path)  # before torch is imported, which takes seconds
    from dynamics.train.games.languages import language
    from dynamics.train.methods.sft import encode
    from dynamics.train.tasks.prompt_formats import language_of

    base = run.load(next(iter(run.checkpoints().values())))
    speaks = language(language_of(base.tokenizer), run.config.allow_unconfined)
    try:
        met = run.tasks(speaks)
        cut = phases_of([task.step for task in met], phases)
        asked: list[list[Question]] = []
        for number, first, last in cut:
            of_phase = [task for task in met if first <= task.step <= last]
            order = stream(0, "learnable tasks", number).permutation(len(of_phase))[:tasks]
            questions = [
                speaks.question(of_phase[index].entry.kind, of_phase[index].entry.proposed, of_phase[index].entry.outputs, f"task {index}")
                for index in sorted(int(one) for one in order)
            ]
            asked.append([question for question in questions if question.answer is not None])
    finally:
        speaks.close()
    encoded = [encode(base.tokenizer, questions) for questions in asked]
    budget = min(sum(map(len, answers)) for _, answers in encoded)
    if min(len(questions) for questions in asked) < LEAST * BATCH:
        raise InputError(
            f"{printable(path)}: a phase has only {min(len(questions) for questions in asked)} tasks with an answer; {LEAST * BATCH} are "
            "needed: use fewer --phases, or a longer run"
        )
    found = []
    for number, ((_, first, last), (prompts, answers)) in enumerate(zip(cut, encoded, strict=True)):
        curves = []
        for seed in range(seeds):
            policy = base.copy() if learner == "base" else _fresh(base, seed)
            curves.append(_learn(policy, prompts, answers, budget, seed, number, learning_rate))
            if progress:
                progress(number * seeds + seed + 1, len(cut) * seeds)
        learnt = [learnable_information(losses, sizes) for losses, sizes in curves]
        shortest = min(len(losses) for losses, _ in curves)
        curve = np.mean([losses[:shortest] for losses, _ in curves], axis=0).tolist()
        tokens = float(np.mean([one.tokens for one in learnt]))
        nats = over_learners(learnt)
        found.append(Phase(first, last, len(asked[number]), learnt, nats, nats.value / tokens, curve))
    about = {"run": str(path), "learner": learner, "learning_rate": learning_rate, "tokens": budget, "seeds": seeds}
    return found, about | {"left_out": [{"reason": reason, "tasks": count} for reason, count in run.left_out.items()]}


def to_dict(found: Sequence[Phase], about: dict[str, Any]) -> dict[str, Any]:
    """Build the JSON document ``dynamics.learnable/1``."""
    return {"schema": SCHEMA, **about, "phases": [phase.to_dict() for phase in found]}


def _fresh(base: Policy, seed: int) -> Policy:
    """Return an untrained small model that reads what the base reads."""
    import torch

    from dynamics.train.llama import small_llama
    from dynamics.train.policy import Policy

    vocabulary = int(base.model.get_input_embeddings().weight.shape[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = small_llama(Sizes(), base.tokenizer, vocabulary, "eager")
    return Policy(model, base.tokenizer)


def _learn(
    policy: Policy, prompts: Sequence[Any], answers: Sequence[Any], budget: int, seed: int, phase: int, learning_rate: float
) -> tuple[list[float], list[int]]:
    """Train on each task once, up to ``budget`` tokens of answers; return the loss of each batch before it, nats a token, and its size."""
    from dynamics.train import update
    from dynamics.train.batch import Batch
    from dynamics.train.config import SFTConfig

    order = stream(seed, "learnable order", phase).permutation(len(answers))
    ends = np.cumsum([len(answers[index]) for index in order])
    order = order[ends <= budget]
    config = SFTConfig(learning_rate=learning_rate, warmup_steps=0, lr_scheduler="constant", weight_decay=0.0)
    optimizer = update.make_optimizer(policy, config)
    losses, sizes = [], []
    for step, start in enumerate(range(0, len(order), BATCH), 1):
        chosen = [int(index) for index in order[start : start + BATCH]]
        blank = ["solver"] * len(chosen)
        batch = Batch(
            [prompts[index] for index in chosen],
            [answers[index] for index in chosen],
            np.arange(len(chosen)),
            np.ones(len(chosen)),
            blank,
            blank,
            [f"task {index}" for index in chosen],
        )
        tokens = update.gradient(policy, batch, config, update.Before())
        losses.append(float(tokens.loss.sum()))
        sizes.append(int(batch.lengths.sum()))
        update.optimizer_step(policy, optimizer, config, step, tokens, batch)
    return losses, sizes
