"""What a base can do: a table of scores by form, depth and manner of answering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dynamics.passk.estimators import pass_at_k
from dynamics.train.lab import notation
from dynamics.train.lab.examples import draw_transfer_prompt, wrong_value
from dynamics.train.lab.notation import Completion, Step, read_completion, read_verdict, same
from dynamics.train.lab.operations import kind_of, read
from dynamics.train.lab.problems import Case
from dynamics.train.lab.programs import is_proper, read_program, split_of
from dynamics.train.rng import stream

SCHEMA = "dynamics.competence/1"
#: longest completion, in tokens; the longest without mistakes has about 90
MAX_NEW_TOKENS = 120


@dataclass(frozen=True)
class Score:
    """One number of the table.

    Attributes
    ----------
    form : what was asked.
    depth : of the programs; 0 for all together.
    manner : how the answer was drawn: ``direct`` and ``steps`` are greedy with the first token
        given, ``greedy`` chooses it, ``T=1`` samples.
    measure : what the value is: ``pass@1``, ``balanced accuracy``, ...
    value : of the measure, between 0 and 1 except for lengths.
    count : problems or answers behind it.
    """

    form: str
    depth: int
    manner: str
    measure: str
    value: float
    count: int


def is_right(form: str, case: Case, answer: str | None) -> bool:
    """Grade the answer to a problem of a form of ``notation.SOLVED``; None is wrong.

    Abduction accepts any input that gives the output, induction any program that agrees on all six pairs.
    """
    if answer is None or len(answer) > notation.MAX_TEXT:
        return False
    if form == "induction":
        program = read_program(answer, case.program.takes)
        return program is not None and all(same(program(x), y) for x, y in zip(case.inputs, case.outputs, strict=True))
    value = read(answer)
    return same(case.program(value) if form == "abduction" else value, case.outputs[0])


def prompt_of(form: str, case: Case, number: int = 0) -> str:
    """Return the prompt of a case in a form of ``notation.SOLVED``; ``number`` selects the names of variables of transfer."""
    if form == "deduction":
        return notation.deduction_prompt(case.program, case.inputs[0])
    if form == "abduction":
        return notation.abduction_prompt(case.program, case.outputs[0])
    if form == "induction":
        return notation.induction_prompt(case.inputs, case.outputs)
    return draw_transfer_prompt(stream(0, "transfer", number), case.program, case.inputs[0], 0.5)


class Base:
    """A model that is asked; completions come as text.

    Parameters
    ----------
    model, tokenizer : of transformers.
    seed : of samples.
    """

    def __init__(self, model: Any, tokenizer: Any, seed: int = 0):
        self.model, self.tokenizer, self.seed = model.eval(), tokenizer, seed
        self.tokens = 0

    def ask(self, prompts: Sequence[str], temperature: float = 0.0, samples: int = 1, begin: str = "") -> list[list[str]]:
        """Return completions of each prompt; ``begin`` is written before the model goes on, and is part of the completion."""
        from dynamics.train.samplers.transformers import generate

        ids = self.tokenizer([prompt + begin for prompt in prompts], add_special_tokens=False)["input_ids"]
        groups = generate(
            self.model,
            ids,
            samples,
            max_new_tokens=MAX_NEW_TOKENS,
            temperature=temperature,
            eos=[self.tokenizer.eos_token_id],
            rng_for=lambda prompt, sample: stream(self.seed, "competence", prompt, sample),
        )
        texts = []
        for group in groups:
            self.tokens += sum(len(sampled.ids) for sampled in group)
            texts.append([begin + self.tokenizer.decode(sampled.ids[: -1 if sampled.ended == "eos" else None]) for sampled in group])
        return texts


def measure(base: Base, cases: Sequence[Case], transfer: Sequence[Case], samples: int = 64) -> list[Score]:
    """Measure a base.

    Parameters
    ----------
    base : the model.
    cases : for all forms but transfer.
    transfer : for transfer, programs of integers.
    samples : at temperature 1; scores of pass@k are for powers of four up to it.

    Returns
    -------
    Scores by depth, and over all cases (depth 0). Cases weigh the same, so a score over all depends on how many there are of each depth.
    """
    scores: list[Score] = []
    for form in notation.SOLVED:
        scores += _solved(base, form, transfer if form == "transfer" else cases, samples)
    return [*scores, *_hinted(base, cases), *_judge(base, cases), *_written(base, cases), *_proposed(base, cases)]


def _by_depth(cases: Sequence[Case], values: Sequence[float], make: Callable[[int, float, int], Score]) -> list[Score]:
    """Average over the cases of each depth, and over all."""
    depths = np.array([case.program.depth for case in cases])
    numbers = np.asarray(values, float)
    rows = [make(int(depth), float(numbers[depths == depth].mean()), int((depths == depth).sum())) for depth in np.unique(depths)]
    return [*rows, make(0, float(numbers.mean()), len(cases))]


def _solved(base: Base, form: str, cases: Sequence[Case], samples: int) -> list[Score]:
    prompts = [prompt_of(form, case, number) for number, case in enumerate(cases)]
    scores: list[Score] = []

    def add(manner: str, name: str, values: Sequence[float]) -> None:
        scores.extend(_by_depth(cases, values, lambda depth, value, count: Score(form, depth, manner, name, value, count)))

    begins = {"direct": "<ans>", "steps": "<s>" if form in ("deduction", "transfer") else "<try>", "greedy": ""}
    for manner, begin in begins.items():
        answers = [read_completion(text) for (text,) in base.ask(prompts, begin=begin)]
        add(manner, "pass@1", [is_right(form, case, found.answer) for case, found in zip(cases, answers, strict=True)])
        if manner == "steps":
            add(manner, "true steps", [_true_share(found) for found in answers])
    groups = [[read_completion(text) for text in texts] for texts in base.ask(prompts, 1.0, samples)]
    right = [sum(is_right(form, case, found.answer) for found in group) for case, group in zip(cases, groups, strict=True)]
    for k in (k for k in (1, 4, 16, 64, 256) if k <= samples):
        add("T=1", f"pass@{k}", [pass_at_k(samples, count, k) for count in right])
    add("T=1", "with steps", [float(np.mean([bool(found.steps) for found in group])) for group in groups])
    add("T=1", "true steps", [float(np.mean([_true_share(found) for found in group])) for group in groups])
    for name, wanted in (("pass@1 given steps", True), ("pass@1 given none", False)):
        chosen = [
            (case, is_right(form, case, found.answer))
            for case, group in zip(cases, groups, strict=True)
            for found in group
            if bool(found.steps) == wanted
        ]
        if chosen:
            scores += _by_depth(
                [case for case, _ in chosen],
                [correct for _, correct in chosen],
                lambda depth, value, count, name=name: Score(form, depth, "T=1", name, value, count),  # type: ignore[misc]
            )
    return scores


def _true_share(found: Completion) -> float:
    """Return the share of true steps; 0 without steps."""
    return sum(step.is_true for step in found.steps) / len(found.steps) if found.steps else 0.0


def _hinted(base: Base, cases: Sequence[Case]) -> list[Score]:
    """Deduction under no hint, a true one and a wrong one: a step before the last, for programs of two operations and more."""
    deep = [case for case in cases if case.program.depth > 1]
    scores: list[Score] = []
    for kind in ("no hint", "right hint", "wrong hint"):
        prompts = []
        for number, case in enumerate(deep):
            steps = case.program.steps(case.inputs[0]) or []
            rng = stream(0, "hint", number)
            expression, value = steps[int(rng.integers(len(steps) - 1))]
            value = wrong_value(rng, value) if kind == "wrong hint" else value
            hint = None if kind == "no hint" else notation.step_text((expression, value))
            prompts.append(notation.deduction_prompt(case.program, case.inputs[0], hint))
        texts = [text for (text,) in base.ask(prompts)]
        right = [is_right("deduction", case, read_completion(text).answer) for case, text in zip(deep, texts, strict=True)]
        scores += _by_depth(
            deep,
            right,
            lambda depth, value, count, kind=kind: Score("hinted", depth, "greedy", f"pass@1, {kind}", value, count),  # type: ignore[misc]
        )
    return scores


def _judge(base: Base, cases: Sequence[Case]) -> list[Score]:
    """Each case once with a true and once with a wrong last step; no judgement is a wrong one."""
    scores: list[Score] = []
    prompts, shown, truth, depths = [], [], [], []
    for number, case in enumerate(cases):
        steps = case.program.steps(case.inputs[0]) or []
        rng = stream(0, "judge", number)
        last = int(rng.integers(len(steps)))
        expression, value = steps[last]
        for right in (True, False):
            written = [*steps[:last], (expression, value if right else wrong_value(rng, value))]
            prompts.append(notation.judge_prompt(case.program, case.inputs[0], written))
            shown.append(notation.step_text(written[-1]))
            truth.append(right)
            depths.append(case.program.depth)
    for manner, temperature in {"greedy": 0.0, "T=1": 1.0}.items():
        said = [read_verdict(step, text) for step, (text,) in zip(shown, base.ask(prompts, temperature), strict=True)]
        for depth in (*sorted(set(depths)), 0):
            chosen = [index for index in range(len(prompts)) if depth in (0, depths[index])]
            recalls = [float(np.mean([said[index] is right for index in chosen if truth[index] == right])) for right in (True, False)]
            for name, value in zip(("recall of true", "recall of wrong", "balanced accuracy"), (*recalls, sum(recalls) / 2), strict=True):
                scores.append(Score("judge", depth, manner, name, value, len(chosen)))
    return scores


def _written(base: Base, cases: Sequence[Case]) -> list[Score]:
    """Wrong steps and hints at temperature 1: whether the step is one of the program, and true."""
    scores: list[Score] = []
    for form in ("wrong step", "hint"):
        prompts, wanted = [], []
        for number, case in enumerate(cases):
            steps = case.program.steps(case.inputs[0]) or []
            last = int(stream(0, form, number).integers(len(steps)))
            before = steps[:last] if form == "wrong step" else []
            make = notation.wrong_step_prompt(case.program, case.inputs[0], before)
            prompts.append(make if form == "wrong step" else notation.hint_prompt(case.program, case.inputs[0]))
            wanted.append({steps[last][0]} if form == "wrong step" else {expression for expression, _ in steps})
        kinds = []
        for (text,), expressions in zip(base.ask(prompts, 1.0), wanted, strict=True):
            step = Step(text.removeprefix("<s>" if form == "wrong step" else "<hint>"))
            on_path = step.expression in expressions and step.value is not None
            kinds.append("other" if not on_path else "true" if step.is_true else "wrong")
        for kind in ("wrong", "true", "other"):
            scores += _by_depth(
                cases,
                [found == kind for found in kinds],
                lambda depth, value, count, kind=kind, form=form: Score(form, depth, "T=1", kind, value, count),  # type: ignore[misc]
            )
    return scores


def _proposed(base: Base, cases: Sequence[Case]) -> list[Score]:
    """Proposals at temperature 1, each after another reference: how many are valid, of which splits, and different."""
    scores: list[Score] = []
    for form in ("PD", "PA"):
        prompts = [notation.proposal_prompt(form, [(case.program, case.inputs[0])]) for case in cases]
        splits: Counter[str] = Counter()
        texts = [text for group in base.ask(prompts, 1.0, 4) for text in group]
        different = set()
        for text in texts:
            program_text, mark, value_text = text.partition("<in>")
            value = read(value_text)
            program = read_program(program_text, kind_of(value)) if mark and value is not None else None
            if program is None or program(value) is None:
                continue
            splits["valid"] += 1
            splits["proper"] += is_proper(program)
            splits[f"of {split_of(program)}"] += 1
            different.add(program)
        splits["different programs"] = len(different)
        scores += [Score(f"propose {form}", 0, "T=1", name, count / len(texts), len(texts)) for name, count in sorted(splits.items())]
    return scores


def to_dict(scores: Sequence[Score], **about: Any) -> dict[str, Any]:
    """Return the JSON document of a table; ``about`` says what was measured on what."""
    return {"schema": SCHEMA, **about, "scores": [asdict(score) for score in scores]}
