"""Grade answers by the scorers of other packages, in the sandbox.

Such a scorer may evaluate the answer, raise, or take hours and all memory. It therefore runs in a confined process with limits
(``dynamics.train.sandbox.judge``), and what goes wrong there is a wrong answer with a reason. ``scorers.py`` is the confined side.

Answers share a process in small batches, because starting one takes longer than judging most answers. Nothing is taken from a batch
whose process failed: each of its answers is judged again in a process of its own, so that one answer cannot spoil another.
"""

from __future__ import annotations

import atexit
import functools
import math
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamics.errors import InputError, printable
from dynamics.extras import require
from dynamics.io.threads import cores
from dynamics.train.sandbox.backends import SandboxUnavailable
from dynamics.train.sandbox.judge import Judge, Reply
from dynamics.train.tasks import problem
from dynamics.train.tasks.problem import Question, Verdict
from dynamics.train.tasks.scorers import CODE, NAN, SIZE

_SCRIPT = Path(__file__).with_name("scorers.py")
#: package of the scorers -> packages that it imports from elsewhere
_PACKAGES = {"reasoning_gym": ("reasoning_gym",), "math_verify": ("math_verify", "latex2sympy2_extended", "sympy")}
#: largest number of answers that share a process
_BATCH = 16
#: seconds of processor time for one answer, or for all answers that share a process
TIME_LIMIT = 5.0
#: address space of a process in bytes
_MEMORY = 2 << 30
#: reasons why a scorer was not shown the value of an answer, as kinds of failures
_KINDS = {CODE: "code", SIZE: "size", NAN: "nan"}
#: rounding errors of scores
_TOLERANCE = 1e-9


@functools.cache
def _judge(package: str, allow_unconfined: bool) -> Judge:
    """Start the confined processes of a package; they end with this process."""
    judge = Judge(_SCRIPT, _PACKAGES[package], memory=_MEMORY, allow_unconfined=allow_unconfined)
    atexit.register(judge.close)
    return judge


#: processes and the scorers that they have
_ready: set[tuple[Judge, str]] = set()


class LibraryScorer:
    """The scorer of a task in another package, in confined processes that start when it is first used.

    Parameters
    ----------
    task : the task, as messages name it.
    package : ``reasoning_gym`` or ``math_verify``.
    key : identifies the scorer among those of the package; equal keys have equal scorers.
    config : what the package needs to make it, see ``scorers.prepare``.
    correct : pairs of a question and a correct answer; one of them must be judged correct before others are judged.
    allow_unconfined : run without a sandbox if none is available.
    """

    def __init__(
        self,
        task: str,
        package: str,
        key: str,
        config: dict[str, Any],
        correct: Callable[[], Sequence[tuple[Any, str]]],
        allow_unconfined: bool = False,
    ):
        self.task, self.package, self.key, self.allow_unconfined = task, package, key, allow_unconfined
        self._config = config | {"library": package}
        self._correct = correct

    @functools.cached_property
    def judge(self) -> Judge:
        """The processes, ready for answers.

        Raises
        ------
        InputError
            There is no sandbox here, the package cannot be used in it, or its scorer rejects correct answers.
        """
        require([self.package], self.task)
        try:
            judge = _judge(self.package, self.allow_unconfined)
        except SandboxUnavailable as error:
            raise InputError(f"{self.task}: its answers are judged by {self.package}, in a sandbox: {error}") from None
        correct = [(pickle.dumps(item), answer) for item, answer in self._correct()]
        self._prepare(judge, correct)
        verdicts = _graded(judge, [(self.key, item, answer) for item, answer in correct])
        if correct and not any(verdict.correct for verdict in verdicts):
            answer, reason = printable(correct[0][1], 60), verdicts[0].reason
            raise InputError(f"{self.task}: {self.package} does not accept its own answer {answer!r} ({reason}); choose another task")
        return judge

    def _prepare(self, judge: Judge, correct: Sequence[tuple[bytes, str]]) -> None:
        """Make the scorer in the processes, unless they have it."""
        if (judge, self.key) in _ready:
            return
        try:
            judge.prepare(self.key, self._config | {"correct": correct})
        except ValueError as error:
            raise InputError(
                f"{self.task}: its answers are judged by {self.package}, which cannot be used in the sandbox ({printable(error, 200)}); "
                "choose another task"
            ) from None
        _ready.add((judge, self.key))

    def executor(self) -> str:
        """Describe where the scorer runs, for ``run.json``."""
        return f"{self.package}: {self.judge.confinement}"


@dataclass(frozen=True)
class ScoredAnswer:
    """The verifier of a question whose answers a ``LibraryScorer`` judges.

    Attributes
    ----------
    scorer : judges the answers.
    item : the question in the form of the scorer, pickled.
    extract : returns the answer in a completion.
    """

    scorer: LibraryScorer
    item: bytes
    extract: Callable[[str], str]

    def __call__(self, text: str) -> Verdict:
        """Return the verdict on a completion."""
        return _graded(self.scorer.judge, [(self.scorer.key, self.item, self.extract(text))])[0]


def judge_all(questions: Sequence[Question], texts: Sequence[str]) -> list[Verdict]:
    """Verify completions, those that other packages judge in parallel; equal completions of a question are judged once.

    Parameters
    ----------
    questions : the question of each completion.
    texts : the completions.

    Returns
    -------
    list of Verdict
        Equal to those of ``problem.judge``, in the order of the completions.
    """
    first: dict[tuple[int, str], int] = {}
    of = [first.setdefault((id(question), text), number) for number, (question, text) in enumerate(zip(questions, texts, strict=True))]
    verdicts: dict[int, Verdict] = {}
    confined: dict[Judge, list[int]] = {}
    for number in first.values():
        verify = questions[number].verify
        if isinstance(verify, ScoredAnswer):
            confined.setdefault(verify.scorer.judge, []).append(number)
        else:
            verdicts[number] = problem.judge(questions[number], texts[number])
    for judge, numbers in confined.items():
        jobs = []
        for number in numbers:
            verify = questions[number].verify
            assert isinstance(verify, ScoredAnswer)
            jobs.append((verify.scorer.key, verify.item, verify.extract(texts[number])))
        verdicts |= zip(numbers, _graded(judge, jobs), strict=True)
    return [verdicts[number] for number in of]


def failure_metrics(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Count the answers that a scorer of another package could not judge, by kind; kinds that do not occur are left out."""
    counts = Counter(verdict.failure for verdict in verdicts if verdict.failure)
    return {f"judge/{kind}": counts[kind] for kind in sorted(counts)}


def _graded(judge: Judge, jobs: Sequence[tuple[str, bytes, str]]) -> list[Verdict]:
    """Judge answers, each given with the key of its scorer and its question."""
    size = max(1, min(_BATCH, math.ceil(len(jobs) / cores())))
    batches = [list(jobs[start : start + size]) for start in range(0, len(jobs), size)]
    verdicts = [_verdicts(reply, len(batch)) for reply, batch in zip(judge.verdicts(batches, TIME_LIMIT), batches, strict=True)]
    alone = [job for batch, known in zip(batches, verdicts, strict=True) if known is None for job in batch]
    again = iter([(_verdicts(reply, 1) or [_failed(reply)])[0] for reply in judge.verdicts([[job] for job in alone], TIME_LIMIT)])
    return [verdict for batch, known in zip(batches, verdicts, strict=True) for verdict in known or [next(again) for _ in batch]]


def _verdicts(reply: Reply, count: int) -> list[Verdict] | None:
    """Read the verdicts on a batch; None if its process failed or replied something else."""
    if reply.error or not isinstance(reply.value, list) or len(reply.value) != count:
        return None
    verdicts = []
    for value in reply.value:
        if not isinstance(value, dict):
            return None
        if isinstance(name := value.get("failure"), str):
            verdicts.append(Verdict(False, f"the scorer failed: {printable(name, 60)}", 0.0, "exception"))
            continue
        try:
            score = float(value["score"])
        except (KeyError, TypeError, ValueError):
            return None
        verdicts.append(_verdict(score, value.get("refused")))
    return verdicts


def _verdict(score: float, refused: Any) -> Verdict:
    """Turn a score into a verdict; ``refused`` is the reason why the scorer was not shown the value of the answer."""
    if not 0 <= score <= 1 + _TOLERANCE:
        return Verdict(False, f"the score {score:g} is not between 0 and 1", 0.0, "range")
    if score >= 1 and refused != CODE:
        return Verdict(True, "", score)
    if refused in _KINDS:
        return Verdict(False, refused, score if score < 1 else 0.0, _KINDS[refused])
    return Verdict(False, "another answer", score)


def _failed(reply: Reply) -> Verdict:
    """Turn the failure of the process that judged an answer into a verdict."""
    kinds = {"timeout": ("time", "the scorer ran out of time"), "memory": ("memory", "the scorer ran out of memory")}
    kind, reason = kinds.get(reply.error, ("death", f"the process of the scorer failed: {printable(reply.error or 'not a verdict', 60)}"))
    return Verdict(False, reason, 0.0, kind)
