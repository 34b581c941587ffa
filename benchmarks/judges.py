"""Time of a verdict by a scorer of another package in the sandbox, against the same scorer called in this process; one run.

python benchmarks/judges.py [--problems 32] [--rounds 3]

Groups of 16 completions of each problem, half of them right, are judged together as in a step of RLVR, on all cores; then one completion
at a time. The package is called as its manual has it, on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dynamics.io.threads import cores
from dynamics.train import tasks
from dynamics.train.tasks.judges import judge_all
from dynamics.train.tasks.problem import Question

GROUP = 16
MATHEMATICS = [r"$\frac{1}{2}$", r"$\sqrt{3}/2$", "42", "-7.5", r"$x^2+3x+2$", r"$\{1,2,3\}$", r"$(0,\infty)$", "12%", r"$2^{10}$", "3/8"]


def reasoning_gym_scores(name: str, problems: int) -> tuple[list[Question], Callable[[int, str], float]]:
    import reasoning_gym

    data = reasoning_gym.create_dataset(name, size=problems, seed=0)
    entries = [data[number] for number in range(problems)]
    return tasks.source(name).questions("training", problems, 0), lambda number, text: data.score_answer(text, entries[number])


def mathematics_scores(problems: int) -> tuple[list[Question], Callable[[int, str], float]]:
    from math_verify import parse, verify

    golds = [MATHEMATICS[number % len(MATHEMATICS)] for number in range(problems)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mathematics.jsonl"
        rows = [{"prompt": "", "answer": gold} for gold in golds for _ in range(2)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        questions = tasks.source(str(file)).questions("training", problems, 0)
    return questions, lambda number, text: verify(parse(str(questions[number].answer)), parse(text))


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def answers_of(question: Question) -> list[str]:
    """Return a right and a wrong answer in turn."""
    right = str(question.answer).removeprefix("<answer>").removesuffix("</answer>")
    return [right if number % 2 else f"{right} + {number}" for number in range(GROUP)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name in ("chain_sum", "countdown", "math-verify"):
        if name == "math-verify":
            questions, score = mathematics_scores(options.problems)
        else:
            questions, score = reasoning_gym_scores(name, options.problems)
        pairs = [(number, text) for number, question in enumerate(questions) for text in answers_of(question)]
        measure(name, questions, score, pairs, options.rounds)


def measure(
    name: str, questions: Sequence[Question], score: Callable[[int, str], float], pairs: Sequence[tuple[int, str]], rounds: int
) -> None:
    asked, texts = [questions[number] for number, _ in pairs], [text for _, text in pairs]
    few = pairs[: GROUP * 2]
    judge_all(asked[:GROUP], texts[:GROUP])
    score(*pairs[0])
    times: dict[str, list[float]] = {"confined": [], "alone": [], "library": []}
    for _ in range(rounds):
        times["confined"].append(seconds(lambda: judge_all(asked, texts)) / len(pairs))
        times["alone"].append(seconds(lambda: [questions[number].verify(text) for number, text in few]) / len(few))
        times["library"].append(seconds(lambda: [score(number, text) for number, text in pairs]) / len(pairs))
    confined, alone, library = (1000 * statistics.median(values) for values in times.values())
    print(
        f"{name}: {confined:.2f} ms a verdict in groups on {cores()} cores, {alone:.2f} ms one at a time; the package in this process "
        f"{library:.3f} ms on one core: {confined / library:.1f} x, {alone / library:.1f} x"
    )


if __name__ == "__main__":
    main()
