"""lm-evaluation-harness, ``samples_TASK_DATE.jsonl``: a record per problem and filter, with metrics and all responses.

The harness grades the responses that its filter keeps. The usual filter keeps the first of the repeats; the other responses are in the
file without a verdict, and are read as such. All responses have a verdict if the metric of the task is a list with an entry per repeat,
or an aggregate (pass@k) that determines the number of correct responses.

Other lists in a metric are not repeats: ifeval writes an entry per instruction, multiple-choice tasks write (gold, prediction) for metrics
of the whole task (f1, mcc), perplexities are (log-likelihood, number of words). Version 0.4.2 and earlier wrote no name of the filter (and
a JSON list): there the n-th record of a problem is that of the n-th filter.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from dynamics.errors import InputError, printable
from dynamics.io.compression import unpacked_name
from dynamics.io.validation import Scalar, converted
from dynamics.samples.aggregates import correct_counts, is_aggregate, is_vote
from dynamics.samples.row import (
    NO_ANSWER,
    SCORED,
    UNSCORED,
    Columns,
    Row,
    SourceNotes,
    as_float,
    fingerprint,
    label,
    listed,
    score,
    shown,
)

NAME = "lm-evaluation-harness samples"
#: fields of a record that are read beside the metrics, and their types
KINDS: dict[str, Any] = {
    "doc_id": Scalar,
    "doc_hash": str | int | None,
    "resps": list[Any] | None,
    "filtered_resps": list[Any] | None,
    "filter": Scalar,
    "metrics": list[str] | None,
}
FIELDS = ("doc_id", "doc_hash", "resps", "filtered_resps", "filter")
#: fields of a record that are not metrics; the hashes precede the metrics from version 0.4.3 on, their list follows from 0.4.6 on
NOT_METRICS = (*FIELDS, "doc", "target", "arguments", "metrics", "prompt_hash", "target_hash")
#: output of the harness's regex filter if nothing matched
INVALID = "[invalid]"
#: metrics that grade no single response: likelihoods, texts that are scored as a corpus, and the metric that does nothing
CORPUS = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "likelihood", "brier_score", "bleu", "chrf", "chrf++", "ter")
NOTHING = "bypass"
#: value of a metric of other problems, such as those of another length in RULER
NOT_OF_IT = -1.0
#: metrics of the whole task, which hold (gold, prediction) of a multiple-choice problem
PAIRS = ("f1", "mcc")
#: meaning of the value of a metric
VERDICT, REPEATS, PAIR, INSTRUCTIONS, OTHER = "a verdict", "a verdict for each response", "(gold, prediction)", "instructions", "no verdict"


#: type that checks these fields of a record
_RECORD = msgspec.defstruct("_RECORD", [(name, kind, None) for name, kind in KINDS.items()])


def check(record: Mapping[str, Any], where: str) -> None:
    """Refuse a record whose fields have other types than those of the harness."""
    converted(record, _RECORD, where)


def matches(record: Mapping[str, Any]) -> bool:
    """Tell whether a file with this first record was written by the harness."""
    return {"doc_id", "resps", "filtered_resps"} <= set(record)


def task(path: Path) -> str:
    """Return the task in a file name: ``gsm8k`` for ``samples_gsm8k_2025-01-01T00-00-00.000000.jsonl``."""
    match = re.match(r"samples_(.+?)(_\d{4}-\d{2}-\d{2}T[\d.:-]+)?\.jsonl?$", unpacked_name(path))
    return match.group(1) if match else unpacked_name(path)


def plan(path: Path, first: Sequence[Mapping[str, Any]], columns: Columns, notes: SourceNotes) -> Plan:
    """Choose metric and filter: those named by ``--correct METRIC[,FILTER]``, or the first ones in the file that grade responses."""
    for number, record in enumerate(first, start=1):
        check(record, f"{printable(path)}, record {number}")
    given = [name for record in first for name in record.get("metrics") or []]
    metrics = list(dict.fromkeys(given)) or [key for key in first[0] if key not in NOT_METRICS]
    wanted, _, chosen = (columns.correct or "").partition(",")
    known = listed(metrics)
    if wanted and wanted not in metrics:
        raise InputError(f"{printable(path)}: has no metric {printable(wanted)!r}; it has {known}")
    meanings = {name: _meaning(name, first) for name in metrics}
    usable = [name for name in metrics if meanings[name] in (VERDICT, REPEATS)]
    # a metric that is always 0 or 1 is preferred to a degree such as ROUGE, and any of them to a vote and to (gold, prediction)
    single = [name for name in usable if not is_vote(name)]
    binary = [name for name in single if is_aggregate(name) or _is_binary(name, first)]
    candidates = [*binary, *single, *usable, *(name for name in metrics if meanings[name] == PAIR)]
    metric = wanted or next(iter(candidates), "")
    if not metric:
        raise InputError(f"{printable(path)}: none of its metrics says whether a response is correct; it has {known}")
    _check_meaning(metric, meanings, usable, printable(path))
    named = any(record.get("filter") is not None for record in first)
    others = [name for name in usable if name != metric]
    extra = [metric, *(name for name in others if is_aggregate(name))] if is_aggregate(metric) else [metric]
    made = Plan(printable(path), task(path), metric, meanings[metric], chosen or None, named, extra, notes)
    made.alternatives = others
    notes.fields = {"problem": "task and doc_id", "correct": metric}
    if meanings[metric] == PAIR:
        notes.remarks.append(f"{metric} holds (gold, prediction): a sample is correct where the two are equal, so this is accuracy")
    return made


def _meaning(name: str, first: Sequence[Mapping[str, Any]]) -> str:
    """Tell what the value of a metric means, by its name and its values in the first records."""
    values = [(record[name], record) for record in first if record.get(name) is not None]
    lists = [(value, record) for value, record in values if isinstance(value, (list, tuple))]
    if name == NOTHING or (name in CORPUS and lists):
        return OTHER
    if lists:
        if name in PAIRS and all(len(value) == 2 for value, _ in lists) and not all(_fits(value, record) for value, record in lists):
            return PAIR
        if "inst_level" in name or any(_has_instructions(value, record) for value, record in lists):
            return INSTRUCTIONS
        return REPEATS if all(_fits(value, record) for value, record in lists) else OTHER
    if any(isinstance(value, dict) for value, _ in values):
        return OTHER
    if name in CORPUS or any(isinstance(value, str) and _no_verdict(value) for value, _ in values):
        return OTHER
    return VERDICT


def _is_binary(name: str, first: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a metric is 0 or 1, or a list of these, in all the first records."""
    values = [record[name] for record in first if record.get(name) is not None]
    entries = [entry for value in values for entry in (value if isinstance(value, (list, tuple)) else [value])]
    return all(not _no_verdict(entry) and score(entry, name) in (0.0, 1.0, NOT_OF_IT) for entry in entries)


def _no_verdict(value: Any) -> bool:
    try:
        score(value, "")
    except InputError:
        return True
    return False


def _has_instructions(value: Sequence[Any], record: Mapping[str, Any]) -> bool:
    doc = record.get("doc")
    instructions = doc.get("instruction_id_list") if isinstance(doc, dict) else None
    return isinstance(instructions, list) and len(instructions) == len(value)


def _fits(value: Sequence[Any], record: Mapping[str, Any]) -> bool:
    """Tell whether a list has an entry for each response, or for each response that the filter keeps."""
    return len(value) in {len(_repeats(record.get("resps"))), len(_repeats(record.get("filtered_resps")))}


def _check_meaning(metric: str, meanings: Mapping[str, str], usable: Sequence[str], path: str) -> None:
    """Refuse a metric whose list is known to hold something other than verdicts of responses."""
    if meanings[metric] not in (INSTRUCTIONS, OTHER):
        return
    why = "no verdict of a response"
    if meanings[metric] == INSTRUCTIONS:
        why = "a list with an entry for each instruction of a prompt, not for each response"
    instead = f"; name another with --correct: {listed(usable)}" if usable else "; no other metric of the file is one"
    raise InputError(f"{path}: metric {printable(metric)!r} is {why}{instead}")


@dataclass
class Plan:
    """The way to read the records of a file.

    Attributes
    ----------
    path, task : of the file.
    metric : the metric that gives the verdict.
    meaning : of its value.
    filter : name of the filter that gives the verdict, ``#2`` for the second of filters without names; None for the first in the file.
    named : whether the records name their filter.
    extra : fields to decode besides ``FIELDS``.
    notes : counts of unusual cases.
    alternatives : metrics that could be chosen instead.
    seen : number of records of each filter, or of each problem if the filters have no names.
    """

    path: str
    task: str
    metric: str
    meaning: str
    filter: str | None
    named: bool
    extra: list[str]
    notes: SourceNotes
    alternatives: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def _is_chosen(self, get: Callable[[str], Any]) -> bool:
        """Tell whether a record is of the filter that gives the verdict."""
        if self.named:
            name = str(get("filter"))
            self.seen[name] += 1
            if self.filter is None:
                self.filter = name
            return name == self.filter
        doc = label(get("doc_id"))
        self.seen[doc] += 1
        return self.seen[doc] == self._ordinal()

    def _ordinal(self) -> int:
        """Return the number of the filter among filters without names, starting at 1."""
        if self.filter is None:
            return 1
        match = re.fullmatch(r"#([1-9]\d{0,8})", self.filter)
        if not match:
            raise InputError(f"{self.path}: names no filters; --correct {self.metric},#2 takes the second record of each problem")
        return int(match.group(1))

    def wants_filters(self, first: Mapping[str, Any]) -> bool:
        """Tell whether all filters of the file must be known to choose one: if that of the first record is a vote."""
        return self.named and self.filter is None and is_vote(str(first.get("filter")))

    def choose_filter(self, names: Iterable[str]) -> None:
        """Choose the first filter that is not a vote or, if there is none, the first."""
        filters = list(dict.fromkeys(names))
        self.filter = next((name for name in filters if not is_vote(name)), filters[0])

    def finish(self) -> None:
        """Check, when all records have been read, that the filter was in the file, and name the other filters."""
        if self.named:
            filters = list(self.seen)
            if self.filter not in filters:
                raise InputError(f"{self.path}: has no filter {printable(str(self.filter))!r}; it has {listed(filters)}")
            names = {name: name for name in filters}
        else:
            names = self._unnamed()
        chosen = str(self.filter)
        self.notes.fields["correct"] = f"{self.metric}, filter {chosen}"
        also = [*self.alternatives, *(f"{self.metric},{name}" for name in names if name != chosen)]
        if also:
            self.notes.remarks.append(f"verdict is {self.metric} under filter {chosen}; --correct takes another: {listed(also)}")
        if is_vote(chosen) or is_vote(self.metric):
            self.notes.remarks.append(f"verdict is that of a majority vote ({chosen}): pass@1 is the share of problems whose vote is right")

    def _unnamed(self) -> dict[str, str]:
        times = sorted(set(self.seen.values()))
        if len(times) != 1:
            least = next(doc for doc, count in self.seen.items() if count == times[0])
            most = next(doc for doc, count in self.seen.items() if count == times[-1])
            raise InputError(
                f"{self.path}: has {times[-1]} records of problem {printable(most)} but {times[0]} of problem {printable(least)}, and no "
                "filter's name in them, so nothing says which belong together; write the samples again with a newer harness"
            )
        if self._ordinal() > times[0]:
            raise InputError(f"{self.path}: has no filter {self.filter}; it has {listed(f'#{index + 1}' for index in range(times[0]))}")
        if times[0] == 1:
            self.filter = "none"
            return {"none": "none"}
        self.filter = self.filter or "#1"
        self.notes.remarks.append(
            f"each problem is in the file {times[0]} times, once for each filter of the task, without the filters' names"
        )
        return {f"#{index + 1}": "" for index in range(times[0])}

    def rows(self, number: int, get: Callable[[str], Any]) -> Iterator[Row]:
        """Yield the samples of one record, whose fields ``get`` looks up."""
        if not self._is_chosen(get):
            return
        value, problem, content = get(self.metric), f"{self.task}/{label(get('doc_id'))}", get("doc_hash")
        responses = _repeats(get("resps"))
        n = max(1, len(responses))
        answers = _repeats(get("filtered_resps"))
        where = f"{self.path}, line {number}, metric {self.metric!r}"
        if isinstance(value, (list, tuple)):
            scores = self._listed(value, n, len(answers), where)
        elif is_aggregate(self.metric):
            scores = self._counted(number, get, n)
        else:
            scores = [score(value, where)]
        elsewhere = sum(verdict == NOT_OF_IT for verdict in scores)
        self.notes.counts["responses without a verdict: the metric is -1, which marks problems that it is not of"] += elsewhere
        scores = [math.nan if verdict == NOT_OF_IT else verdict for verdict in scores]
        ungraded = n - len(scores)
        if ungraded > 0:
            self.notes.counts["responses without a verdict: the task's filter kept only some of the repeats of each problem"] += ungraded
            scores += [math.nan] * ungraded
        for repeat, verdict in enumerate(scores):
            answer = answers[repeat] if len(answers) == len(scores) else None
            invalid = answer == INVALID
            text = responses[repeat].encode("utf-8", "surrogatepass") if repeat < len(responses) else None
            status = UNSCORED if math.isnan(verdict) else NO_ANSWER if invalid else SCORED
            yield Row(problem, verdict, status, repeat, None if invalid else answer, fingerprint(text) if text else None, content=content)

    def _listed(self, value: Sequence[Any], n: int, kept: int, where: str) -> list[float]:
        """Return the verdicts in a list: an entry for each response, or for each that the filter keeps, or (gold, prediction)."""
        if self.meaning == PAIR:
            if len(value) != 2:
                raise InputError(f"{where}: is a list of {len(value)}, not (gold, prediction)")
            gold, prediction = value
            return [float(prediction in gold if isinstance(gold, list) else prediction == gold)]
        if len(value) not in {n, kept}:
            raise InputError(
                f"{where}: is a list of {len(value)} for {n} response{'s' * (n != 1)}, so its entries are not verdicts of responses"
                + (f"; name another metric with --correct: {listed(self.alternatives)}" if self.alternatives else "")
            )
        return [score(entry, where) for entry in value]

    def _counted(self, number: int, get: Callable[[str], Any], n: int) -> list[float]:
        """Return n verdicts in arbitrary order if only the number of correct responses is known."""
        fits: set[int] | None = None
        for name in self.extra:
            value = get(name)
            if isinstance(value, (int, float)):
                these = set(correct_counts(name, as_float(value), n))
                fits = these if fits is None else fits & these
        if not fits:
            raise InputError(
                f"{self.path}, line {number}: {printable(self.metric)}={shown(get(self.metric))} fits no number of correct samples of {n}"
            )
        if len(fits) > 1:
            self.notes.counts[f"problems whose {self.metric} fits several numbers of correct samples: the smallest is taken"] += 1
        return [float(repeat < min(fits)) for repeat in range(n)]


def _repeats(responses: Any) -> list[str]:
    """List the generated texts of a problem; a multiple-choice problem has a single response, made of several requests."""
    if not isinstance(responses, list) or not responses:
        return []
    first = responses[0]
    if len(responses) == 1 and isinstance(first, list) and first and all(isinstance(text, str) for text in first):
        return first
    if len(responses) == 1 and isinstance(first, str):
        return [first]
    return []
