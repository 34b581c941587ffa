"""Robustness against fixed hints: models answer held-out problems without a hint and under hints that are the same for all of them.

Hints come from rules, from the base and from the trained model. What an adversary writes during training says little: its hints and the
problems differ from step to step, and a weak adversary makes any solver look robust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dynamics.errors import InputError
from dynamics.games.intervals import Estimate, mean
from dynamics.games.robustness import Robustness, robustness_gap
from dynamics.train.completions import Request
from dynamics.train.config import PolicyGradientConfig
from dynamics.train.games.hints import Hint, HintForm
from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.sampling import sample
from dynamics.train.tasks.judges import judge_all
from dynamics.train.tasks.problem import Question, Source
from dynamics.train.tasks.prompt_formats import decode, encode_prompts, encode_questions

FILE = "robustness.jsonl"
#: models that a run asks, and what wrote their hints
BASE, TRAINED = "base", "trained"
#: hints that a model writes to a problem; the first that can be shown is kept
_ATTEMPTS = 4


@dataclass(frozen=True)
class FixedHint:
    """A hint that several models are shown.

    Attributes
    ----------
    kind : what wrote it: a rule, ``base`` or ``trained``.
    problem : id of the problem.
    text : as it is shown.
    true : whether it is true; None if that cannot be told.
    """

    kind: str
    problem: str
    text: str
    true: bool | None = None


@dataclass(frozen=True)
class Answers:
    """How many answers of a model to a problem were right, without a hint or under one.

    Attributes
    ----------
    model : name.
    problem : its id.
    kind : of the hint; empty without one.
    hint, true : of the hint.
    samples, correct : number of answers, and of right ones.
    temperature : at which they were sampled.
    """

    model: str
    problem: str
    kind: str
    hint: str
    true: bool | None
    samples: int
    correct: int
    temperature: float

    def to_json(self) -> dict[str, Any]:
        """Convert to a row of ``robustness.jsonl``."""
        return asdict(self)


@dataclass(frozen=True)
class Gap:
    """What hints of one kind cost a model.

    Attributes
    ----------
    model, kind : of the model, and of the hints.
    true_share : share of the hints that are true; None if that cannot be told.
    found : accuracy without and with hints, and the gap, over the problems that have such a hint.
    change : gap of this model minus that of the reference on the same problems, paired; None for the reference itself.
    """

    model: str
    kind: str
    true_share: float | None
    found: Robustness
    change: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """Build the JSON object."""
        estimates = {name: getattr(self.found, name).to_dict() for name in ("clean", "hinted", "gap")}
        change = None if self.change is None else self.change.to_dict()
        return {"model": self.model, "hints": self.kind, "true_share": self.true_share, **estimates, "change": change}


def held_out(source: Source, form: HintForm, count: int, seed: int) -> list[Question]:
    """Return the first ``count`` test problems that can have hints, or as many as there are among four times this number."""
    return [question for question in source.questions("test", 4 * count, seed) if form.accepts(question)][:count]


def rule_hints(form: HintForm, questions: Sequence[Question], seed: int) -> list[FixedHint]:
    """Make hints by each rule of the form; problems to which a rule does not apply have none."""
    found = []
    for rule in form.rules:
        for number, question in enumerate(questions):
            text = form.by_rule(rule, question, questions, stream(seed, f"robustness rule {rule}", number))
            if text is not None:
                found.append(FixedHint(rule, question.id, text, rule == "true"))
    return found


def written_hints(
    form: HintForm, policy: Policy, questions: Sequence[Question], kind: str, config: PolicyGradientConfig, limit: int
) -> list[FixedHint]:
    """Have a model write hints, of at most ``limit`` tokens; problems to which it writes none that can be shown have none."""
    prompts = encode_prompts(policy.tokenizer, [form.prompt(question) for question in questions])
    asked = sample(policy, Request.of(config, prompts, _ATTEMPTS, "robustness hint", 0, limit))
    found = []
    for question, group in zip(questions, asked, strict=True):
        read = [form.read(question, decode(policy.tokenizer, sampled.ids, policy.eos)) for sampled in group]
        shown: Hint | None = next((hint for hint in read if not hint.fault), None)
        if shown is not None:
            found.append(FixedHint(kind, question.id, shown.text, shown.true))
    return found


def ask(
    policy: Policy,
    form: HintForm,
    questions: Sequence[Question],
    hints: Sequence[FixedHint],
    model: str,
    samples: int,
    config: PolicyGradientConfig,
) -> list[Answers]:
    """Ask a model each problem without a hint and under each of its hints.

    All models have the same random numbers, so that differences between them are those of the weights.

    Parameters
    ----------
    policy, form : the model, and the form of its hints.
    questions, hints : the problems, and the hints to them.
    model : its name.
    samples : answers to each prompt, at the temperature of ``config``.
    config : settings of sampling.

    Returns
    -------
    First those without a hint, in the order of the problems, then those under hints, in the order of the hints.
    """
    by_id = {question.id: question for question in questions}
    asked: list[tuple[Question, FixedHint | None]] = [(question, None) for question in questions]
    asked += [(form.under(by_id[hint.problem], hint.text), hint) for hint in hints]
    prompts = encode_questions(policy.tokenizer, [question for question, _ in asked])
    groups = sample(policy, Request.of(config, prompts, samples, "robustness", 0))
    texts = [decode(policy.tokenizer, sampled.ids, policy.eos) for group in groups for sampled in group]
    verdicts = iter(judge_all([question for question, _ in asked for _ in range(samples)], texts))
    found = []
    for question, hint in asked:
        right = sum(next(verdicts).correct for _ in range(samples))
        about = ("", "", None) if hint is None else (hint.kind, hint.text, hint.true)
        found.append(Answers(model, question.id, *about, samples, right, config.temperature))
    return found


def gaps(rows: Iterable[Answers], reference: str = BASE) -> list[Gap]:
    """Compare the accuracy with and without hints, by model and kind of hints.

    Parameters
    ----------
    rows : answers of any number of models.
    reference : name of the model from which changes are counted.

    Notes
    -----
    See ``dynamics.games.robustness_gap`` for how the gap misleads. Intervals are over problems: they say nothing of other seeds of the
    training. Hints of the trained model were made against itself, those of the base against the base; neither is neutral, the rules are.
    """
    rates: dict[tuple[str, str], dict[str, float]] = {}
    truths: dict[str, list[bool | None]] = {}
    for row in rows:
        of_model = rates.setdefault((row.model, row.kind), {})
        if row.problem in of_model:
            raise InputError(f"{row.problem!r} has two rows of {row.model!r} and hints {row.kind!r}; each must be there once")
        of_model[row.problem] = row.correct / row.samples
        if row.kind and row.model == next(iter(rates))[0]:
            truths.setdefault(row.kind, []).append(row.true)
    found = []
    for (model, kind), hinted in rates.items():
        if not kind:
            continue
        clean = rates.get((model, ""), {})
        shared = [problem for problem in hinted if problem in clean]
        known = [truth for truth in truths.get(kind, []) if truth is not None]
        true_share = float(np.mean(known)) if known else None
        values = (_of(clean, shared), _of(hinted, shared))
        gap = Gap(model, kind, true_share, robustness_gap(*values), _change(rates, model, reference, kind))
        found.append(gap)
    return found


def _of(rates: Mapping[str, float], problems: Sequence[str]) -> np.ndarray[Any, Any]:
    return np.array([rates[problem] for problem in problems], float)


def _change(rates: Mapping[tuple[str, str], Mapping[str, float]], model: str, reference: str, kind: str) -> Estimate | None:
    """Return how much larger the gap of a model is than that of the reference, over the problems that both have."""
    if model == reference or (reference, kind) not in rates:
        return None
    tables = [rates.get((name, part), {}) for name in (model, reference) for part in ("", kind)]
    shared = [problem for problem in tables[1] if all(problem in table for table in tables)]
    clean, hinted, clean_before, hinted_before = (_of(table, shared) for table in tables)
    return mean((clean - hinted) - (clean_before - hinted_before))
