"""What all games share: players, roles, turns, and how turns become batches.

A game says in ``play`` who is asked what in a step, and what each answer earns: it returns *turns*. Everything after that is the same for
all games: advantages by role, a batch for each player, rollouts, metrics, state. docs/methods/games.md says how to write one.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from dynamics.train import objectives
from dynamics.train.batch import Batch
from dynamics.train.completions import Request, SampledCompletion
from dynamics.train.config import PolicyGradientConfig
from dynamics.train.method import Method, Part, StepData
from dynamics.train.player import ONLY
from dynamics.train.policy import Policy
from dynamics.train.sampling import sample
from dynamics.train.tasks.judges import judge_all
from dynamics.train.tasks.problem import Question, Verdict
from dynamics.train.tasks.prompt_formats import decode

#: a completion, its text, and the verdict on it
JudgedCompletion = tuple[SampledCompletion, str, Verdict]


@dataclass
class Turn:
    """One completion of a player: what it was asked, what it wrote, and what it earned.

    Attributes
    ----------
    role : in which it was asked; advantages and metrics are by role.
    task : kind of what was asked, such as ``deduction``.
    prompt, prompt_ids : as text and tokens.
    sampled, text : completion as tokens and text.
    group : turns of one group have the same prompt, which is computed once for all of them.
    reward : what it earned.
    player : that is trained on it.
    baseline : turns of one baseline are compared with each other by estimators that compare the samples of a prompt; ``group`` if None.
    name : to identify it in error messages.
    learns : whether it has a gradient; if not, it counts for the metrics, and in the denominators of the loss.
    packed : whether it is in the batch at all; if not, it is only recorded.
    supervised : whether it is imitated: its loss is the log-likelihood, weighted by its reward.
    row : further fields of its row in ``rollouts/``.
    """

    role: str
    task: str
    prompt: str
    prompt_ids: Int[np.ndarray, " prompt"]
    sampled: SampledCompletion
    text: str
    group: Hashable
    reward: float = 0.0
    player: str = ONLY
    baseline: Hashable = None
    name: str = ""
    learns: bool = True
    packed: bool = True
    supervised: bool = False
    row: dict[str, Any] = field(default_factory=dict)

    def rollout(self) -> dict[str, Any]:
        """Build its row of ``rollouts/``, without the advantage."""
        return {
            "prompt": self.prompt,
            "completion": self.text,
            "prompt_ids": self.prompt_ids.tolist(),
            "completion_ids": self.sampled.ids.tolist(),
            "role": self.role,
            "task": self.task,
            "reward": self.reward,
            "ended": self.sampled.ended,
        } | self.row

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON, for games that train on turns of earlier steps; ``row`` is left out, as it was recorded."""
        return {
            "role": self.role,
            "task": self.task,
            "prompt": self.prompt,
            "prompt_ids": self.prompt_ids.tolist(),
            "completion_ids": self.sampled.ids.tolist(),
            "logprobs": [float(value) for value in self.sampled.logprobs],  # the decimals give the same float32 again
            "ended": self.sampled.ended,
            "text": self.text,
            "group": str(self.group),
            "reward": self.reward,
            "player": self.player,
            "baseline": None if self.baseline is None else str(self.baseline),
            "name": self.name,
            "learns": self.learns,
            "packed": self.packed,
            "supervised": self.supervised,
        }

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> Turn:
        """Convert from the JSON of ``to_json``."""
        values = dict(kept)
        ids, logprobs = np.array(values.pop("completion_ids"), np.int64), np.array(values.pop("logprobs"), np.float32)
        sampled = SampledCompletion(ids, logprobs, values.pop("ended"))
        return Turn(prompt_ids=np.array(values.pop("prompt_ids"), np.int64), sampled=sampled, **values)


@dataclass(frozen=True)
class Role:
    """How the turns of a role are trained on.

    Attributes
    ----------
    estimator : of advantages, a key of ``objectives.ADVANTAGES``; ``reinforce`` leaves the rewards as they are.
    cells : which turns are normalised together: those of the role and a task, or all of the role. Estimators that compare the samples of
        a prompt compare the turns of a ``baseline``, whatever the cells.
    weight : factor of the role's advantages.
    """

    estimator: str
    cells: Literal["role-task", "role"] = "role-task"
    weight: float = 1.0


@dataclass(frozen=True)
class Play:
    """What happened in a step: the turns, in the order of the rollouts and the batches, and metrics."""

    turns: list[Turn]
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass
class Spent:
    """What a step costs.

    Attributes
    ----------
    tokens : sampled by all players.
    seconds : spent outside the models, on running and grading what they wrote.
    """

    tokens: int = 0
    seconds: float = 0.0

    @contextmanager
    def outside_model(self) -> Iterator[None]:
        """Count the time of what is done here."""
        begin = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begin


class Game(Method):
    """A game: only ``play`` and ``roles`` must be given, and ``players`` where there are several.

    Attributes
    ----------
    roles : by name.
    spent : in the current step.
    """

    roles: Mapping[str, Role]

    def __init__(self, config: PolicyGradientConfig, policy: Policy):
        self.settings, self.tokenizer, self.eos = config, policy.tokenizer, policy.eos
        self.spent = Spent()

    def play(self, step: int) -> Play:
        """Play a step, counted from 1."""
        raise NotImplementedError

    def next_batch(self, step: int) -> StepData:
        """Play a step, and make a batch of the turns of each player."""
        begin = time.perf_counter()
        self.spent.tokens, self.spent.seconds = 0, 0.0
        play = self.play(step)
        parts, advantages = pack(play.turns, self.roles, self.settings.temperature)
        several = len(self.players) > 1
        rollouts = []
        for turn, advantage in zip(play.turns, advantages, strict=True):
            row = turn.rollout() | ({"player": turn.player} if several else {})
            rollouts.append(row | ({} if advantage is None else {"advantage": advantage}) | {"temperature": self.settings.temperature})
        metrics = dict(play.metrics)
        metrics["tokens_sampled"] = self.spent.tokens
        metrics["time/feed"] = time.perf_counter() - begin
        metrics["time/outside_model"] = self.spent.seconds
        return StepData(parts, metrics, rollouts)

    def ask(
        self, policy: Policy, prompts: Sequence[Int[np.ndarray, " _"]], count: int, purpose: str, step: int, limit: int | None = None
    ) -> list[list[SampledCompletion]]:
        """Sample ``count`` completions of each prompt, given as token ids.

        ``purpose`` and ``step`` select the random streams, so they name the player and the role where there are several; ``limit`` is the
        maximum length of a completion, that of the settings if None.
        """
        groups = sample(policy, Request.of(self.settings, prompts, count, purpose, step, limit))
        self.spent.tokens += sum(len(sampled.ids) for group in groups for sampled in group)
        return groups

    def text(self, sampled: SampledCompletion) -> str:
        """Return the text of a completion."""
        return decode(self.tokenizer, sampled.ids, self.eos)

    def judge(self, questions: Sequence[Question], groups: Sequence[Sequence[SampledCompletion]]) -> list[list[JudgedCompletion]]:
        """Grade the completions of each question."""
        with self.spent.outside_model():
            judged = []
            for question, group in zip(questions, groups, strict=True):
                texts = [self.text(sampled) for sampled in group]
                judged.append(list(zip(group, texts, judge_all([question] * len(texts), texts), strict=True)))
        return judged


def pack(turns: Sequence[Turn], roles: Mapping[str, Role], temperature: float) -> tuple[list[Part], list[float | None]]:
    """Make a batch for each player that has turns, in the order of their first turns.

    Parameters
    ----------
    turns : of a step.
    roles : how the turns of each role are trained on.
    temperature : at which they were sampled.

    Returns
    -------
    The batches, and the advantage of each turn; None for those that are not packed.
    """
    packed = [turn for turn in turns if turn.packed]
    values = iter(_advantages(packed, roles))
    advantages = [next(values) if turn.packed else None for turn in turns]
    chosen = [(turn, value) for turn, value in zip(turns, advantages, strict=True) if value is not None]
    parts = []
    for player in dict.fromkeys(turn.player for turn in packed):
        own = [(turn, value) for turn, value in chosen if turn.player == player]
        parts.append(Part(player, _batch([turn for turn, _ in own], np.array([value for _, value in own]), temperature)))
    return parts, advantages


def _advantages(turns: Sequence[Turn], roles: Mapping[str, Role]) -> list[float]:
    """Estimate advantages, for each role by its estimator; of turns that are imitated, the reward, and 0 of those that do not learn."""
    values = np.array([turn.reward for turn in turns], float)
    for role in dict.fromkeys(turn.role for turn in turns):
        of_role = [index for index, turn in enumerate(turns) if turn.role == role and not turn.supervised]
        if not of_role:
            continue
        own, settings = [turns[index] for index in of_role], roles[role]
        groups = _numbers([turn.group if turn.baseline is None else turn.baseline for turn in own])
        rewards, lengths = values[of_role], np.array([len(turn.sampled.ids) for turn in own])
        cells = [turn.task if settings.cells == "role-task" else "" for turn in own]
        estimated = objectives.task_relative_reinforce_plus_plus(settings.estimator, rewards, groups, lengths, [role] * len(own), cells)
        values[of_role] = estimated * settings.weight if settings.weight != 1.0 else estimated
    values[[index for index, turn in enumerate(turns) if not turn.learns]] = 0.0
    return [float(value) for value in values]


def _numbers(labels: Sequence[Hashable]) -> Int[np.ndarray, " labels"]:
    """Give labels numbers, in the order of their first appearance."""
    known = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([known[label] for label in labels])


def _batch(turns: Sequence[Turn], advantages: np.ndarray[Any, Any], temperature: float) -> Batch:
    """Make a batch in the order of the turns; those of a group share their prompt."""
    prompts = {turn.group: turn.prompt_ids for turn in reversed(turns)}
    prompt_of = _numbers([turn.group for turn in turns])
    learns = np.array([turn.learns for turn in turns])
    supervised = np.array([turn.supervised for turn in turns])
    return Batch(
        [prompts[group] for group in dict.fromkeys(turn.group for turn in turns)],
        [turn.sampled.ids for turn in turns],
        prompt_of,
        advantages,
        [turn.role for turn in turns],
        [turn.task for turn in turns],
        [turn.name or turn.role for turn in turns],
        [turn.sampled.logprobs for turn in turns],
        temperature,
        None if learns.all() else learns,
        supervised if supervised.any() else None,
    )


def role_metrics(turns: Sequence[Turn]) -> dict[str, float]:
    """Average what the turns of each role earned: reward, in total and by task, its spread within baselines, length, truncation.

    Metrics are ``ROLE/reward``, ``ROLE/reward/TASK`` where there are several, ``ROLE/zero_std`` (share of baselines of several turns in
    which all rewards are equal, which have no gradient under GRPO), ``ROLE/length`` and ``ROLE/truncated``.
    """
    metrics: dict[str, float] = {}
    for role in dict.fromkeys(turn.role for turn in turns):
        own = [turn for turn in turns if turn.role == role]
        rewards = np.array([turn.reward for turn in own])
        tasks = np.array([turn.task for turn in own])
        groups = _numbers([turn.group if turn.baseline is None else turn.baseline for turn in own])
        metrics[f"{role}/reward"] = float(rewards.mean())
        if len(names := sorted(set(tasks.tolist()))) > 1:
            metrics |= {f"{role}/reward/{name}": float(rewards[tasks == name].mean()) for name in names}
        several = [rewards[groups == group] for group in range(groups.max() + 1) if (groups == group).sum() > 1]
        if several:
            metrics[f"{role}/zero_std"] = float(np.mean([len(set(group.tolist())) == 1 for group in several]))
        metrics[f"{role}/length"] = float(np.mean([len(turn.sampled.ids) for turn in own]))
        metrics[f"{role}/truncated"] = float(np.mean([turn.sampled.ended == "length" for turn in own]))
    return metrics
