"""lm-evaluation-harness, ``samples_TASK_DATE.jsonl``: a record per problem and filter, with metrics and all responses.

The harness grades the responses that its filter keeps. The usual filter keeps the first of the repeats; the other responses are in the
file without a verdict, and are read as such. All responses have a verdict if the metric of the task is a list with an entry per repeat,
or an aggregate (pass@k) that determines the number of correct responses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.io.compression import unpacked_name
from dynamics.samples.aggregates import correct_counts, is_aggregate
from dynamics.samples.row import NO_ANSWER, SCORED, UNSCORED, Columns, Row, SourceNotes, fingerprint, label, score

NAME = "lm-evaluation-harness samples"
FIELDS = ("doc_id", "doc_hash", "resps", "filtered_resps", "filter")
#: output of the harness's regex filter if nothing matched
INVALID = "[invalid]"


def matches(record: dict[str, Any]) -> bool:
    """Tell whether a file with this first record was written by the harness."""
    return {"doc_id", "resps", "filtered_resps"} <= set(record)


def task(path: Path) -> str:
    """Return the task in a file name: ``gsm8k`` for ``samples_gsm8k_2025-01-01T00-00-00.000000.jsonl``."""
    match = re.match(r"samples_(.+?)(_\d{4}-\d{2}-\d{2}T[\d.:-]+)?\.jsonl$", unpacked_name(path))
    return match.group(1) if match else unpacked_name(path)


def plan(path: Path, first: list[dict[str, Any]], columns: Columns, notes: SourceNotes) -> Plan:
    """Choose metric and filter: those named by ``--correct METRIC[,FILTER]``, or the first ones in the file."""
    metrics = [name for record in first for name in record.get("metrics", [])]
    metrics = list(dict.fromkeys(metrics)) or [key for key in first[0] if key not in (*FIELDS, "doc", "target", "arguments")]
    filters = list(dict.fromkeys(str(record.get("filter")) for record in first))
    wanted, _, chosen = (columns.correct or "").partition(",")
    metric = wanted or (metrics[0] if metrics else "")
    if metric not in metrics:
        raise InputError(f"{printable(path)}: has no metric {printable(metric)!r}; it has {', '.join(map(printable, metrics)) or 'none'}")
    chosen = chosen or filters[0]
    if chosen not in filters:
        raise InputError(f"{printable(path)}: has no filter {printable(chosen)!r}; it has {', '.join(map(printable, filters))}")
    notes.fields = {"problem": "task and doc_id", "correct": f"{metric}, filter {chosen}"}
    others = [name for name in metrics if name != metric]
    if len(filters) > 1 or others:
        also = [*others, *(f"{metric},{name}" for name in filters if name != chosen)]
        notes.remarks.append(f"verdict is {metric} under filter {chosen}; --correct takes another: {', '.join(map(printable, also))}")
    extra = [metric, *(name for name in others if is_aggregate(name))] if is_aggregate(metric) else [metric]
    return Plan(printable(path), task(path), metric, chosen, extra, notes)


@dataclass
class Plan:
    """The way to read the records of a file.

    Attributes
    ----------
    path, task : of the file.
    metric, filter : metric and filter that give the verdict.
    extra : fields to decode besides ``FIELDS``.
    notes : counts of unusual cases.
    """

    path: str
    task: str
    metric: str
    filter: str
    extra: list[str]
    notes: SourceNotes

    def rows(self, number: int, get: Callable[[str], Any]) -> Iterator[Row]:
        """Yield the samples of one record, whose fields ``get`` looks up."""
        if str(get("filter")) != self.filter:
            return
        value, problem, content = get(self.metric), f"{self.task}/{label(get('doc_id'))}", get("doc_hash")
        responses = _repeats(get("resps"))
        n = max(1, len(responses))
        answers = _repeats(get("filtered_resps"))
        if isinstance(value, list):
            scores = [score(entry, f"{self.path}, line {number}, metric {self.metric!r}") for entry in value]
            scores += [math.nan] * (n - len(scores))
        elif is_aggregate(self.metric):
            scores = self._counted(number, get, n)
        else:
            scores = [score(value, f"{self.path}, line {number}, metric {self.metric!r}")] + [math.nan] * (n - 1)
            self.notes.counts["responses without a verdict: the task's filter kept one of the repeats of each problem"] += n - 1
        for repeat, verdict in enumerate(scores):
            answer = answers[repeat] if len(answers) == len(scores) else None
            invalid = answer == INVALID
            text = responses[repeat].encode() if repeat < len(responses) else None
            status = UNSCORED if math.isnan(verdict) else NO_ANSWER if invalid else SCORED
            yield Row(problem, verdict, status, repeat, None if invalid else answer, fingerprint(text) if text else None, content=content)

    def _counted(self, number: int, get: Callable[[str], Any], n: int) -> list[float]:
        """Return n verdicts in arbitrary order if only the number of correct responses is known."""
        fits: set[int] | None = None
        for name in self.extra:
            value = get(name)
            if isinstance(value, (int, float)):
                these = set(correct_counts(name, float(value), n))
                fits = these if fits is None else fits & these
        if not fits:
            raise InputError(f"{self.path}, line {number}: {self.metric}={get(self.metric)} fits no number of correct samples out of {n}")
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
