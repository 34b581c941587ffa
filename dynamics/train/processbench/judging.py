"""Solutions in the format of ProcessBench, the critic's search for their first wrong step, and its score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from dynamics.errors import InputError, printable

if TYPE_CHECKING:
    from dynamics.games.robustness import CriticScore
    from dynamics.train.policy import Policy

SCHEMA = "dynamics.processbench/1"
#: solutions of a file, steps of a solution, and characters of a problem and of a step
MOST, STEPS, PROBLEM, STEP = 100_000, 500, 50_000, 20_000


class Solution(msgspec.Struct):
    """A line of the file; other fields are not looked at."""

    id: Annotated[str, msgspec.Meta(max_length=500)]
    problem: Annotated[str, msgspec.Meta(max_length=PROBLEM)]
    steps: Annotated[list[Annotated[str, msgspec.Meta(max_length=STEP)]], msgspec.Meta(min_length=1, max_length=STEPS)]
    label: int
    final_answer_correct: bool | None = None


def read(path: str) -> list[Solution]:
    """Read the solutions of a JSON-lines file, which may be compressed.

    Raises
    ------
    InputError : there is no such file, it has no solutions or too many, or a line is not one; the message names the line.
    """
    from dynamics.io.json_lines import read_json_lines
    from dynamics.io.paths import no_such_path
    from dynamics.io.validation import converted, within_bounds

    file, found = Path(path), list[Solution]()
    if not file.is_file():
        raise InputError(no_such_path(path, "file"))
    with within_bounds(path):
        for number, row in read_json_lines(file):
            where = f"{printable(path)}, line {number}"
            solution = converted(row, Solution, where)
            if not -1 <= solution.label < len(solution.steps):
                raise InputError(f"{where}: label {solution.label} is no index of its {len(solution.steps)} steps, and not -1")
            if len(found) == MOST:
                raise InputError(f"{printable(path)}: has over {MOST:,} solutions; give a part of them")
            found.append(solution)
    if not found:
        raise InputError(f"{printable(path)}: has no solutions")
    return found


def first_wrong(critic: Policy, solutions: Sequence[Solution], limit: int) -> list[int]:
    """Return the index of the first step of each solution that a critic calls wrong, -1 if it calls none so.

    Parameters
    ----------
    critic : a model that reads plain text.
    solutions : of ``read``.
    limit : maximum length of a judgement in tokens.
    """
    from dynamics.train import evaluate
    from dynamics.train.games.written_steps import defused, judge_prompt, read_verdict
    from dynamics.train.tasks.prompt_formats import decode, encode_prompts

    special = [token for token in critic.tokenizer.all_special_tokens if token]
    found = [-1] * len(solutions)
    waiting = list(range(len(solutions)))
    for place in range(max(len(solution.steps) for solution in solutions)):
        waiting = [index for index in waiting if found[index] < 0 and place < len(solutions[index].steps)]
        prompts = []
        for index in waiting:
            problem, *steps = (defused(text, special) for text in (solutions[index].problem, *solutions[index].steps[: place + 1]))
            prompts.append(judge_prompt(problem, steps[:-1], steps[-1]))
        if prompts:
            groups = evaluate.sample(critic, encode_prompts(critic.tokenizer, prompts), [0.0], 1, 0, limit)
            for index, (ids,) in zip(waiting, groups, strict=True):
                if read_verdict(decode(critic.tokenizer, ids, critic.eos)) is False:
                    found[index] = place
    return found


def score(solutions: Sequence[Solution], found: Sequence[int]) -> CriticScore:
    """Score what a critic found: the accuracy on solutions with a wrong step and on those without, and their harmonic mean, F1."""
    from dynamics.games.robustness import critic_score

    truth = [solution.label < 0 for solution in solutions]
    hits = [place == solution.label for solution, place in zip(solutions, found, strict=True)]
    return critic_score(truth, [fact == hit for fact, hit in zip(truth, hits, strict=True)])


def report(solutions: Sequence[Solution], found: Sequence[int]) -> dict[str, Any]:
    """Build the JSON document ``dynamics.processbench/1``."""
    scored = score(solutions, found)
    rows = [{"id": solution.id, "label": solution.label, "first_wrong": place} for solution, place in zip(solutions, found, strict=True)]
    document = {"erroneous": scored.wrong.to_dict(), "correct": scored.right.to_dict(), "f1": scored.harmonic.to_dict()}
    return {"schema": SCHEMA, **document, "solutions": rows}
