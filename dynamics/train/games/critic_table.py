"""The outcome of SPC: how well the critic of each round tells right steps from the wrong ones of each generator, on held-out steps.

The critics of all rounds judge the same right steps, wrong steps made by rule, and the valid wrong steps that the generator of each round
writes in their place. Round 0 is the base. ``critic.jsonl`` has a row for each critic, generator and manner of answering;
``critic_verdicts.jsonl`` has every verdict, so that critics can be compared step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dynamics.games.robustness import CriticScore, critic_score
from dynamics.train.completions import Request, SampledCompletion
from dynamics.train.games.steps import Place, Steps
from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.sampling import sample
from dynamics.train.tasks.prompt_formats import decode, encode_prompts

#: what stands in place of a round where wrong steps are made by rule, or steps are right
RULE, RIGHT = "rule", "right"
#: temperature of each manner of judging
MANNERS = {"greedy": 0.0, "T=1": 1.0}
FILE, VERDICTS = "critic.jsonl", "critic_verdicts.jsonl"


@dataclass(frozen=True)
class Shown:
    """A step that critics judge.

    Attributes
    ----------
    place : where it stands.
    step : as it is shown.
    source : ``right``, ``rule``, or the round of the generator that wrote it.
    """

    place: Place
    step: str
    source: str | int


@dataclass(frozen=True)
class Verdicts:
    """What the critic of a round says.

    Attributes
    ----------
    critic : its round; 0 is the base.
    said : by manner, (steps,) whether each step is called right; None without a verdict.
    """

    critic: int
    said: dict[str, list[bool | None]]


def by_rule(steps: Steps, places: Sequence[Place]) -> list[Shown]:
    """Return the right steps, and those of wrong steps made by rule that are wrong."""
    altered = [(place, steps.by_rule(place, stream(0, "critic table", number))) for number, place in enumerate(places)]
    made = [(place, text) for place, text in altered if text is not None]
    refuted = steps.refute(made, "critic table", 0)
    wrong = [Shown(place, text, RULE) for (place, text), reason in zip(made, refuted, strict=True) if not reason]
    return [*(Shown(place, place.step, RIGHT) for place in places), *wrong]


def written(steps: Steps, places: Sequence[Place], generator: Policy, round_: int, seed: int, limit: int) -> list[Shown]:
    """Let the generator of a round write a wrong step at each place; return those that are valid."""
    ids = encode_prompts(generator.tokenizer, [steps.generator_prompt(place) for place in places])
    sampled = [group[0] for group in _sample(generator, ids, [1.0], seed, "critic table generator", limit)]
    read = [
        (place, *steps.read_step(place, decode(generator.tokenizer, one.ids, generator.eos)), one)
        for place, one in zip(places, sampled, strict=True)
    ]
    formed = [(place, text) for place, text, reason, one in read if not reason and one.ended != "length"]
    refuted = steps.refute(formed, f"critic table {round_}", 0)
    return [Shown(place, text, round_) for (place, text), reason in zip(formed, refuted, strict=True) if not reason]


def judged(steps: Steps, shown: Sequence[Shown], critic: Policy, round_: int, seed: int, limit: int) -> Verdicts:
    """Let the critic of a round judge steps, in every manner."""
    prompts = [steps.critic_prompt(one.place, one.step) for one in shown]
    groups = _sample(critic, encode_prompts(critic.tokenizer, prompts), list(MANNERS.values()), seed, "critic table critic", limit)
    texts = [[decode(critic.tokenizer, sampled.ids, critic.eos) for sampled in group] for group in groups]
    said = {
        manner: [steps.read_verdict(one.step, group[column]) for one, group in zip(shown, texts, strict=True)]
        for column, manner in enumerate(MANNERS)
    }
    return Verdicts(round_, said)


def _sample(policy: Policy, ids: Any, temperatures: list[float], seed: int, purpose: str, limit: int) -> list[list[SampledCompletion]]:
    """Sample an answer to each prompt at each temperature; all policies have the same random numbers."""
    return sample(policy, Request(ids, tuple(temperatures), limit, seed, purpose))


def ask(
    steps: Steps,
    count: int,
    seed: int,
    limits: tuple[int, int],
    rounds: Sequence[tuple[int, Callable[[], Policy] | None, Callable[[], Policy] | None]],
) -> tuple[list[Shown], list[Verdicts]]:
    """Let the generators of all rounds write wrong steps, and the critics of all rounds judge them.

    Parameters
    ----------
    steps : what is played on.
    count : number of held-out places.
    seed : of samples.
    limits : maximum lengths of what a critic and a generator write, in tokens.
    rounds : number of the round, and what loads its critic and its generator; None for a player that is that of an earlier round.

    Returns
    -------
    The steps that were shown, and the verdicts of each critic.
    """
    places = steps.held_out(count)
    shown = by_rule(steps, places)
    for number, _, load in rounds:
        if load is not None:
            shown += written(steps, places, load(), number, seed, limits[1])
    return shown, [judged(steps, shown, load(), number, seed, limits[0]) for number, load, _ in rounds if load is not None and shown]


def table(shown: Sequence[Shown], verdicts: Iterable[Verdicts]) -> list[dict[str, Any]]:
    """Score every critic on the right steps and the wrong ones of each source: the rows of ``critic.jsonl``."""
    sources = list(dict.fromkeys(one.source for one in shown if one.source != RIGHT))
    rows = []
    for verdict in verdicts:
        for manner, said in verdict.said.items():
            for source in sources:
                score = score_of(shown, said, source)
                rows.append({"critic": verdict.critic, "generator": source, "manner": manner} | score.to_dict())
    return rows


def score_of(shown: Sequence[Shown], said: Sequence[bool | None], source: str | int) -> CriticScore:
    """Score verdicts on the right steps and the wrong ones of a source."""
    chosen = [index for index, one in enumerate(shown) if one.source in (RIGHT, source)]
    return critic_score([shown[index].source == RIGHT for index in chosen], [said[index] for index in chosen])


def rows_of(steps: Steps, shown: Sequence[Shown], verdicts: Iterable[Verdicts]) -> Iterable[dict[str, Any]]:
    """Return the rows of ``critic_verdicts.jsonl``, one for each step, critic and manner."""
    for verdict in verdicts:
        for manner, said in verdict.said.items():
            for one, call in zip(shown, said, strict=True):
                about = {"problem": one.place.name, "step": one.step} | steps.about(one.place)
                yield {"critic": verdict.critic, "manner": manner, "source": one.source, "right": one.source == RIGHT, "said": call} | about
