"""Verifiable problems: a prompt, a verifier, an id.

``Problem`` is a program-input-output triplet, asked three ways: deduction (program and input given, output asked), abduction (program and
output given, any input that works asked), induction (some inputs and outputs given, the program asked, checked on the others too). Programs
of different splits are different programs. ``source`` gives any of the kinds of task that a run can name: these triplets, any
reasoning-gym task, or a file of prompts with answers.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Protocol

from dynamics.errors import InputError, shown
from dynamics.train import programs
from dynamics.train.expressions import Expressions, Refused, literal, same
from dynamics.train.streams import stream

KINDS = ("deduction", "abduction", "induction")
#: equal parts of the test problems: programs of the embedded model's pre-training on other inputs, new ones, deeper ones on larger values
TEST_SETS = ("seen", "unseen", "ood")
#: of an induction problem: pairs in all, and how many of them the solver sees
PAIRS, SHOWN = 5, 2
_ASK = "Give only the final answer, between <answer> and </answer>."
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """``score``: 1 for a correct answer; tasks with their own scorer may give parts of it. ``reason``: in a few words, why not."""

    correct: bool
    reason: str
    score: float


@dataclass(frozen=True)
class Problem:
    """A program with inputs (tuples of arguments) and its outputs; ``kind`` one of deduction, abduction, induction."""

    kind: str
    program: str
    inputs: tuple[tuple[Any, ...], ...]
    outputs: tuple[Any, ...]
    id: str


@dataclass(frozen=True)
class Question:
    """What a run asks: ``prompt`` and ``answer`` (a correct completion, if one is known) as text, and what decides.

    ``task`` is the kind of problem, ``split`` the set it is from: training, validation, or of the test sets
    ``seen`` (programs of pre-training, other inputs), ``unseen`` (programs met nowhere before) and ``ood`` (deeper, larger).
    """

    id: str
    prompt: str
    answer: str | None
    task: str
    split: str
    verify: Callable[[str], Verdict]


class Source(Protocol):
    """Questions of one split, the first ``count`` of a stream that depends on the seed alone."""

    name: str

    def questions(self, split: str, count: int, seed: int) -> list[Question]: ...


def _right(correct: bool, reason: str = "") -> Verdict:
    return Verdict(correct, "" if correct else reason, float(correct))


class Runner(Protocol):
    """What runs programs: ``dynamics.train.expressions.Expressions``, or a sandbox."""

    def run(self, source: str, inputs: Sequence[tuple[Any, ...]], entry: str = "f", timeout: float = 2.0) -> Any: ...


def verify(problem: Problem, answer: str, box: Runner) -> Verdict:
    """Whether an answer is right. Values are compared by type too: True is not 1.

    Deduction runs nothing. Abduction runs the given program on the answer, a literal. Induction runs the answer on every pair, those
    that were shown and those that were not, so that a program which merely lists what it saw is wrong.
    """
    text = answer.strip()
    if not text:
        return _right(False, "empty answer")
    if problem.kind == "induction":
        outcome = box.run(text, list(problem.inputs), entry="f")
        if outcome.values is None:
            return _right(False, outcome.error or "no value")
        return _right(all(map(same, outcome.values, problem.outputs)), "other outputs")
    try:
        value = literal(text)
    except Refused as error:
        return _right(False, str(error))
    if problem.kind == "deduction":
        return _right(same(value, problem.outputs[0]), "another value")
    outcome = box.run(problem.program, [value if isinstance(value, tuple) and len(problem.inputs[0]) > 1 else (value,)], entry="f")
    if outcome.values is None:
        return _right(False, outcome.error or "no value")
    return _right(same(outcome.values[0], problem.outputs[0]), "another output")


class Triplets:
    """Triplets of the small language of ``dynamics.train.programs``, in the notation of the embedded default or in plain words."""

    name = "code"

    def __init__(self, kinds: Sequence[str] = KINDS, plain: bool = False, box: Runner | None = None):
        self.kinds = tuple(kinds)
        self.plain = plain
        self.sets = TEST_SETS[1:] if plain else TEST_SETS  # only the embedded model was pre-trained on some of the programs
        self.box = box or Expressions()

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """``split``: training, validation, pretraining, or test, which is equal parts of seen (not in plain words), unseen and ood."""
        only = "" if self.kinds == KINDS else f" {' '.join(self.kinds)}"
        rng = stream(seed, f"problems {split}{only}")
        sets = self.sets if split == "test" else (split,)
        made: dict[str, Question] = {}
        while len(made) < count:
            part, kind = sets[len(made) % len(sets)], self.kinds[len(made) // len(sets) % len(self.kinds)]
            problem = triplet(rng, kind, part)
            if problem is not None and problem.id not in made:
                made[problem.id] = self.question(problem, part)
        return list(made.values())

    def question(self, problem: Problem, split: str, message: str = "") -> Question:
        """``message`` tells in words what a program does that is to be guessed; the notation has no room for it."""
        if not self.plain:
            prompt, answer = notation(problem)
            return Question(problem.id, prompt, answer, problem.kind, split, lambda text: verify(problem, text, self.box))

        def check(text: str) -> Verdict:
            found = tagged(text)
            return _right(False, "no answer between tags") if found is None else verify(problem, found, self.box)

        prompt, answer = asked(problem, message)
        return Question(problem.id, prompt, f"<answer>{answer}</answer>", problem.kind, split, check)


class Proposals:
    """Asking for tasks, with a task of the small language as the answer: a warm start on the form in which the proposer writes."""

    name = "proposals"

    def __init__(self, plain: bool = True):
        self.plain = plain

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        from dynamics.train import dialects

        dialect: dialects.Dialect = dialects.Words() if self.plain else dialects.Notation()
        rng = stream(seed, f"proposals {split}")
        made: list[Question] = []
        while len(made) < count:
            kind = KINDS[len(made) % 3]
            problem, other = triplet(rng, kind, "training"), triplet(rng, "deduction", "training")
            if problem is None or other is None:
                continue
            program = function(problem.program, self.plain)
            draft = dialects.Draft(program, problem.inputs)
            given = program if kind == "induction" else None
            prompt = dialect.ask(kind, [dialects.Draft(function(other.program, self.plain), other.inputs)], given)

            def check(text: str, kind: str = kind, given: str | None = given) -> Verdict:
                try:
                    dialect.read(kind, text, given)
                except Refused as error:
                    return _right(False, str(error))
                return _right(True)

            made.append(Question(f"{split} proposal {len(made)}", prompt, dialect.write(kind, draft), kind, split, check))
        return made


def triplet(rng: Any, kind: str, part: str) -> Problem | None:
    """A problem from the programs of a split, ``seen``, ``unseen`` or ``ood``; None where the program drawn has no value on the input."""
    far = part == "ood"
    split = {"seen": "pretraining", "unseen": "test", "ood": "test"}.get(part, part)
    family, program = programs.draw_of(rng, split, 3 if far else None)
    inputs = [(family.inputs(rng, far),) for _ in range(PAIRS if kind == "induction" else 1)]
    outcome = Expressions().run(program, inputs)
    if outcome.values is None or not all(fits(value) for value in outcome.values):
        return None
    if kind == "induction" and len({repr(one) for one in inputs}) < PAIRS:
        return None
    text = f"{part} {kind} {program} {' '.join(programs.compact(one[0]) for one in inputs)}"
    return Problem(kind, program, tuple(inputs), tuple(outcome.values), text)


def fits(value: Any) -> bool:
    """Whether the notation has room for a value."""
    return len(programs.compact(value)) <= 24


def notation(problem: Problem) -> tuple[str, str]:
    """Prompt and a correct answer, in the notation of the embedded default."""
    given, made = (programs.compact(one) for one in (problem.inputs[0][0], problem.outputs[0]))
    if problem.kind == "deduction":
        return f"<D>{problem.program}<in>{given}<out>", made
    if problem.kind == "abduction":
        return f"<A>{problem.program}<out>{made}<in>", given
    pairs = zip(problem.inputs[:SHOWN], problem.outputs[:SHOWN], strict=True)
    shown_ = "".join(f"<in>{programs.compact(one[0])}<out>{programs.compact(out)}" for one, out in pairs)
    return f"<I>{shown_}<f>", problem.program


def function(program: str, plain: bool = True) -> str:
    """A program as a Python function ``f``; an expression over x becomes its body. Not ``plain``: as it is."""
    return program if not plain or re.search(r"^def ", program, re.MULTILINE) else f"def f(x):\n    return {program}"


def asked(problem: Problem, message: str = "") -> tuple[str, str]:
    """Prompt and a correct answer in plain words, for models that were not made for the notation."""
    program = f"{function(problem.program)}\n\n"
    given, made = repr(problem.inputs[0][0]), repr(problem.outputs[0])
    if problem.kind == "deduction":
        return f"{program}What does f({given}) return? {_ASK}", made
    if problem.kind == "abduction":
        return f"{program}f(x) returned {made}. Give an x for which it does. {_ASK}", given
    pairs = zip(problem.inputs[:SHOWN], problem.outputs[:SHOWN], strict=True)
    lines = "\n".join(f"f({one[0]!r}) == {out!r}" for one, out in pairs)
    said = f"\n{message}" if message else ""
    return f"{lines}{said}\n\nWrite f as one Python expression over x. {_ASK}", problem.program


class Gym:
    """A reasoning-gym task by name, generated and scored by that package. ``chain_sum:max_terms=2,max_digits=1`` sets its parameters.

    The answer is what stands between <answer> and </answer>, or the whole completion where there are no such tags. The scorers give
    parts of a point to some answers that are not right; those count in the reward, and not as correct.
    """

    _OFFSETS: ClassVar = {"training": 0, "validation": 1, "test": 2}

    def __init__(self, name: str):
        self.name, _, rest = name.partition(":")
        self.gym = importlib.import_module("reasoning_gym")
        try:
            self.settings = {key: json.loads(value) for key, _, value in (part.partition("=") for part in rest.split(",") if part)}
            self.gym.create_dataset(self.name, size=1, seed=0, **self.settings)
        except (ValueError, TypeError, AssertionError) as error:
            raise InputError(f"task {shown(name)!r}: its settings are not understood: {shown(error)}") from None

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        data = self.gym.create_dataset(self.name, size=count, seed=3 * seed + self._OFFSETS.get(split, 0), **self.settings)
        made = []
        for number in range(count):
            entry = data[number]
            answer = f"<answer>{entry['answer']}</answer>" if entry.get("answer") is not None else None
            check = self._check(data, entry)
            made.append(Question(f"{self.name} {split} {seed}.{number}", f"{entry['question']}\n{_ASK}", answer, self.name, split, check))
        return made

    @staticmethod
    def _check(data: Any, entry: dict[str, Any]) -> Callable[[str], Verdict]:
        def check(text: str) -> Verdict:
            answer = tagged(text)
            score = float(data.score_answer(text.strip() if answer is None else answer, entry))
            return Verdict(score >= 1, "" if score >= 1 else "another answer", score)

        return check


def tagged(text: str) -> str | None:
    """What stands between the last <answer> and </answer>."""
    found = _ANSWER.findall(text)
    return found[-1].strip() if found else None


class Records:
    """Prompts with completions or answers from a JSON-lines or Parquet file; answers are judged as mathematics by math-verify."""

    def __init__(self, path: str):
        self.name = Path(path).name
        self.path = path
        self.rows = read_records(path)

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """A tenth of the rows, every tenth, is the test set, another the validation set."""
        place = {"test": 9, "validation": 8}.get(split)
        rows = [(n, row) for n, row in enumerate(self.rows) if (n % 10 == place if place is not None else n % 10 < 8)]
        if not rows:
            raise InputError(f"{self.path}: has {len(self.rows)} rows, too few for a {split} set; give ten or more")
        return [self._question(number, row, split) for number, row in rows[:count]]

    def _question(self, number: int, row: dict[str, Any], split: str) -> Question:
        answer = row.get("answer")
        completion = row.get("completion", answer)
        return Question(f"{self.name} row {number + 1}", row["prompt"], completion, "data", split, lambda text: _mathematics(text, answer))


def _mathematics(text: str, answer: Any) -> Verdict:
    if answer is None:
        raise InputError("a row without an answer cannot be verified: rlvr needs the fields prompt and answer")
    try:
        from math_verify import parse
        from math_verify import verify as equal
    except ImportError:
        raise InputError("answers as mathematics need the package math-verify: pip install 'training-dynamics[tasks]'") from None
    return _right(bool(equal(parse(str(answer)), parse(tagged(text) or text))), "another answer")


def read_records(path: str) -> list[dict[str, Any]]:
    """Rows of a JSON-lines or Parquet file with ``prompt`` and ``completion`` or ``answer``, all text."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{shown(path)}: no such file")
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            rows = pq.read_table(file).to_pylist()
        except (OSError, ValueError) as error:
            raise InputError(f"{shown(path)}: cannot be read as Parquet: {shown(error)}") from None
    else:
        rows = []
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise InputError(f"{shown(path)}, line {number}: is not JSON: {error.msg}") from None
    if not rows:
        raise InputError(f"{shown(path)}: has no rows")
    for number, row in enumerate(rows, start=1):
        there = ", ".join(shown(key, 30) for key in row) if isinstance(row, dict) else type(row).__name__
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise InputError(f"{shown(path)}, row {number}: has no text field prompt; it has {there}")
        if not isinstance(row.get("completion", row.get("answer")), (str, int, float)):
            raise InputError(f"{shown(path)}, row {number}: has neither completion nor answer; it has {there}")
    return rows


def names() -> list[str]:
    """Names of all tasks that can be asked for."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        return ["code", *KINDS, "proposals"]
    return ["code", *KINDS, "proposals", *sorted(DATASETS)]


class Mixture:
    """Questions of several sources in turn, each but once."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = sources
        self.name = "+".join(one.name for one in sources)

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        each = -(-count // len(self.sources))
        parts = [one.questions(split, each, seed) for one in self.sources]
        turns = {one.id: one for turn in zip_longest(*parts) for one in turn if one is not None}
        return list(turns.values())[:count]


def source(name: str, plain: bool = True) -> Source:
    """A task by name: ``code``, one of its kinds, a reasoning-gym task, a file, or several with + between them.

    ``plain``: in words, not in notation.
    """
    if "+" in name and not Path(name).is_file():
        return Mixture([source(part, plain) for part in name.split("+")])
    if name == "code" or name in KINDS:
        return Triplets(KINDS if name == "code" else [name], plain)
    if name == "proposals":
        return Proposals(plain)
    if name.endswith((".jsonl", ".parquet")):
        return Records(name)
    known = names()
    if name.partition(":")[0] in known:
        return Gym(name)
    more = "" if len(known) > 5 else "; for those of reasoning-gym: pip install 'training-dynamics[tasks]'"
    raise InputError(f"task {shown(name)!r}: unknown; there are {', '.join(known)}, or a .jsonl or .parquet file{more}")
