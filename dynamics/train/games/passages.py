"""Problems that are posed about a passage, with an answer that the proposer claims: programs, and plain text.

A program with an input asks for its output. The claim is a second turn of the proposer, which answers its own problem. A text is a
question with its answer, both in one proposal, about a problem of a task or a row of a file.

What the models write is hostile: programs run in the sandbox or by the laboratory's own operations, and answers that need a package to be
compared are compared by the confined judges. This module imports no torch.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dynamics.errors import InputError, printable
from dynamics.train.games.languages import language
from dynamics.train.sandbox.literals import Refused
from dynamics.train.tasks import mixture
from dynamics.train.tasks.judges import ScoredAnswer, judge_all
from dynamics.train.tasks.laboratory import Laboratory
from dynamics.train.tasks.problem import ProposedTask, Question, Source, Verdict
from dynamics.train.tasks.prompt_formats import ANSWER_REQUEST, LanguageName, extract_answer, tagged
from dynamics.train.tasks.reasoning_gym import ReasoningGym
from dynamics.train.tasks.records import Records
from dynamics.train.tasks.triplets import Triplets

#: longest question and claimed answer that are read, in characters
MAX_QUESTION, MAX_CLAIM = 2000, 200
#: an answer that is a number, or shorter than this, may be in the question: "What is 3 + 0?" has the answer 3
MIN_LEAK = 6
#: why a problem is not put to the solver
NO_CLAIM, LEAK = "no claim", "leak"


@runtime_checkable
class Settings(Protocol):
    """The settings of a game that say what passages are, see ``PasoDobleConfig``."""

    @property
    def task(self) -> str:
        """Task."""

    @property
    def model(self) -> str:
        """Model."""

    @property
    def seed(self) -> int:
        """Seed of the run."""

    @property
    def num_problems(self) -> int:
        """Number of problems of which passages are drawn."""

    @property
    def passage(self) -> str:
        """Given, or none."""

    @property
    def truth(self) -> str:
        """What is held to be right."""

    @property
    def allow_unconfined(self) -> bool:
        """Whether programs run without a sandbox if none is available."""


@dataclass(frozen=True)
class Draft:
    """A problem as a proposer wrote it.

    Attributes
    ----------
    text : what is compared with other problems.
    question : as the solver is asked; its verifier knows no right answer.
    claim : the claimed answer as text; None if it is asked for apart, or missing.
    leak : why the problem gives its answer away; empty if it does not.
    proposed : the program and its input; None for a text.
    """

    text: str
    question: Question
    claim: str | None = None
    leak: str = ""
    proposed: ProposedTask | None = None


#: outputs of a program, or why it has none
Run = tuple[Any, ...] | str


@runtime_checkable
class Passages(Protocol):
    """Passages, and the problems that are written about them.

    Attributes
    ----------
    executor : what runs programs; None if there are none.
    claims_apart : whether the claimed answer is a turn of its own.
    """

    executor: str | None
    claims_apart: bool

    def prompt(self, rng: np.random.Generator, split: str = "training") -> str:
        """Ask for a problem about a passage, drawn from a split."""

    def read(self, text: str, name: str) -> Draft:
        """Read a proposal; ``name`` becomes the identifier of its question. Raises ``Refused``."""

    def key(self, text: str) -> str | None:
        """Return what equal answers have in common; None if no answer can be read in the completion."""

    def agree(self, labels: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """Tell which completions give the answer that their label is."""

    def run(self, drafts: Sequence[Draft]) -> list[Run]:
        """Run the programs of problems."""

    def key_of(self, outputs: tuple[Any, ...]) -> str:
        """Return the key of the answer that a program gives."""

    def inputs(self) -> Iterable[bytes]:
        """Return what passages are made of, by which a resumed run notices that it has changed."""

    def complexity(self, draft: Draft) -> float | None:
        """Measure the complexity of a problem; None if it has none."""

    def close(self) -> None:
        """Stop processes."""


class Programs:
    """Passages are training programs with an input; a problem is a program with an input, of which the output is asked.

    Parameters
    ----------
    config : settings.
    speaks : what the model reads.
    """

    claims_apart = True

    def __init__(self, config: Settings, speaks: LanguageName):
        self.given = config.passage == "given"
        self.language = language(speaks, config.allow_unconfined)
        self.executor: str | None = self.language.executor
        self.close = self.language.close

    def prompt(self, rng: np.random.Generator, split: str = "training") -> str:
        """Ask for a program with an input, after one."""
        reference = self.language.draw_reference(rng, split) if self.given else self.language.first[0]
        return self.language.proposal_prompt("deduction", [reference], None)

    def read(self, text: str, name: str) -> Draft:
        """Read a program with an input. One that is held out, whatever its words, is refused, whether it runs or not."""
        proposed = self.language.parse_proposal("deduction", text, None)
        if reason := self.language.refusal(proposed):
            raise Refused(reason)
        return Draft(f"{proposed.program} {proposed.inputs[0][0]!r}", self.language.unrun_question(proposed, name), proposed=proposed)

    def key(self, text: str) -> str | None:
        """Return the value that is answered, as text."""
        return self.language.answer_key("deduction", text)

    def agree(self, labels: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """Compare values, which must also agree in type."""
        return [self.key(text) == label for label, text in zip(labels, texts, strict=True)]

    def run(self, drafts: Sequence[Draft]) -> list[Run]:
        """Run programs."""
        return self.language.run([draft.proposed for draft in drafts if draft.proposed is not None])

    def key_of(self, outputs: tuple[Any, ...]) -> str:
        """Return the output as text."""
        return self.language.value_key(outputs[0])

    def inputs(self) -> Iterable[bytes]:
        """Return nothing: the programs are part of this package."""
        return ()

    def complexity(self, draft: Draft) -> float | None:
        """Measure the complexity of the program."""
        return None if draft.proposed is None else self.language.complexity(draft.proposed.program)


class Texts:
    """Passages are problems of a task, or rows of a file, without their answers; a problem is a question with its answer.

    Parameters
    ----------
    config : settings.
    source : of the passages. Answers are compared by math-verify if they are rows of a file, as these are graded; else they must be equal,
        but for spaces, case, and how a number is written.
    """

    executor: str | None = None
    claims_apart = False

    def __init__(self, config: Settings, source: ReasoningGym | Records):
        self.source, self.seed, self.count = source, config.seed, config.num_problems
        self.given = config.passage == "given"
        self._passages: dict[str, list[str]] = {}

    def passages(self, split: str) -> list[str]:
        """Return the passages of a split."""
        if split not in self._passages:
            asked = self.source.questions(split, self.count if split == "training" else min(self.count, 100), self.seed)
            self._passages[split] = [question.prompt.removesuffix(ANSWER_REQUEST).strip() for question in asked]
        return self._passages[split]

    def prompt(self, rng: np.random.Generator, split: str = "training") -> str:
        """Ask for a question and its answer about a passage."""
        passages = self.passages(split) if self.given else [""]
        passage = passages[int(rng.integers(len(passages)))]
        about = "on the same subject as this text, but another one" if passage else "that can be answered without any further material"
        shown = f"{passage}\n\n" if passage else ""
        return (
            f"{shown}Write a problem {about}, between <problem> and </problem>. It should take some thought, have exactly one right "
            "answer, and be complete in itself. Then give its right answer, between <answer> and </answer>."
        )

    def read(self, text: str, name: str) -> Draft:
        """Read a question with its answer."""
        questions, claims = tagged(text, "problem"), tagged(text, "answer")
        if len(questions) != 1:
            raise Refused("form")
        question = questions[0].strip()
        if not question or len(question) > MAX_QUESTION:
            raise Refused("no question" if not question else "question too long")
        claim = claims[-1].strip() if claims else ""
        asked = Question(name, f"{question}\n{ANSWER_REQUEST}", None, "text", "training", _no_answer_is_known)
        return Draft(question, asked, claim if 0 < len(claim) <= MAX_CLAIM else None, leak(question, claim))

    def key(self, text: str) -> str | None:
        """Return the answer, with its spaces, case and numbers normalised."""
        answer = extract_answer(text)
        return normalised(text if answer is None else answer) or None

    def agree(self, labels: Sequence[str], texts: Sequence[str]) -> list[bool]:
        """Compare answers with labels."""
        if not isinstance(self.source, Records):
            return [self.key(text) == normalised(label) for label, text in zip(labels, texts, strict=True)]
        asked: dict[str, Question] = {}
        for label in labels:
            verify = ScoredAnswer(self.source.scorer, pickle.dumps(label), _answer)
            asked.setdefault(label, Question("claim", "", None, "text", "training", verify))
        return [verdict.correct for verdict in judge_all([asked[label] for label in labels], texts)]

    def run(self, drafts: Sequence[Draft]) -> list[Run]:
        """Run nothing."""
        return ["no program" for _ in drafts]

    def key_of(self, outputs: tuple[Any, ...]) -> str:
        """Return the output as text."""
        return normalised(str(outputs[0]))

    def inputs(self) -> Iterable[bytes]:
        """Return the passages."""
        return [passage.encode("utf-8", "surrogatepass") for passage in self.passages("training")] if self.given else ()

    def complexity(self, draft: Draft) -> float | None:
        """Return nothing."""
        del draft
        return None

    def close(self) -> None:
        """Do nothing: the source has its own processes."""


def find(config: Settings, source: Source, speaks: LanguageName) -> Passages:
    """Return the passages of a run.

    Raises
    ------
    InputError : no problem can be posed on this task, or nothing can say what is right.
    """
    task = f"--task {printable(config.task, 80)}"
    parts = mixture.parts(source)
    if all(isinstance(part, (Triplets, Laboratory)) for part in parts):
        return Programs(config, speaks)
    if len(parts) > 1 or not isinstance(parts[0], (ReasoningGym, Records)):
        raise InputError(
            f"{task}: pasodoble draws passages from programs (code, lab), from one reasoning-gym task or from one file; choose one of these"
        )
    if speaks != "plain":
        raise InputError(f"{task}: --model {printable(config.model, 80)} writes programs only; use the task code, or another model")
    if config.truth == "executor":
        raise InputError(f"{task}: --truth executor needs problems that are programs; use --task code, or --truth claim")
    return Texts(config, parts[0])


def leak(question: str, claim: str) -> str:
    """Say how a question gives its claimed answer away; empty if it does not, or if there is no claim.

    A marked answer in the question is a leak, and so is a claim that the question holds as words, or that holds the question. A claim that
    is a number, or shorter than ``MIN_LEAK`` characters, is one only if it is the whole question: the public code of PasoDoble compares
    substrings, and so refuses every question about 12 whose answer is 2.
    """
    if "<answer>" in question or "\\boxed" in question:
        return "marked answer in the question"
    inner, outer = normalised(claim), normalised(question)
    if not inner:
        return ""
    if inner == outer or (len(outer) >= MIN_LEAK and _holds(inner, outer)):
        return "question in the answer"
    if len(inner) >= MIN_LEAK and not _is_number(inner) and _holds(outer, inner):
        return "answer in the question"
    return ""


def _holds(text: str, part: str) -> bool:
    """Whether a text has a part as whole words."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


_NUMBER = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?")


def normalised(text: str) -> str:
    """Write an answer in small letters, with single spaces, without a full stop at its end; numbers as fractions, so that 2.50 is 2.5."""
    short = " ".join(text.casefold().split())[: 2 * MAX_QUESTION].rstrip(".").strip()
    plain = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", short).removeprefix("$").strip()
    return str(Fraction(plain)) if _NUMBER.fullmatch(plain) else short


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(?:/\d+)?", text) is not None


def _answer(text: str) -> str:
    return extract_answer(text) or text


def _no_answer_is_known(_: str) -> Verdict:
    return Verdict.binary(False, "no answer is known")
