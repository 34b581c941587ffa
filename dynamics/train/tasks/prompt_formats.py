"""Prompt formats of problems and proposals, and parsers of completions.

There are two formats: the notation of the embedded model, and plain text for other models. Both parse a proposal into a ``ProposedTask``,
or raise ``Refused`` with a short reason. No program is run here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from dynamics.train.lab.tokenizer import is_of_laboratory
from dynamics.train.sandbox.expressions import as_function, length, literal
from dynamics.train.sandbox.literals import Refused
from dynamics.train.tasks import programs
from dynamics.train.tasks.problem import PAIRS, SHOWN_PAIRS, Problem, ProposedTask, Question

#: what a model reads: the notation of the laboratory, that of the embedded model, or plain text
LanguageName = Literal["lab", "notation", "plain"]
#: the tokens of the notation
SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>", "<D>", "<A>", "<I>", "<PD>", "<PA>", "<PI>", "<in>", "<out>", "<f>", "<ref>", "<sep>")
#: maximum length of an input in characters
MAX_INPUT = 200
#: instruction that makes the answer easy to extract from a completion
ANSWER_REQUEST = "Give only the final answer, between <answer> and </answer>."


@runtime_checkable
class PromptFormat(Protocol):
    """Format of proposer prompts and proposals.

    Attributes
    ----------
    identity : the identity program, f(x) = x.
    """

    identity: str

    def proposal_prompt(self, kind: str, references: Sequence[ProposedTask], program: str | None) -> str:
        """Ask for a task of a type after references; for induction, for inputs of ``program``."""

    def parse_proposal(self, kind: str, text: str, program: str | None) -> ProposedTask:
        """Read a task from what was written; ``program`` as it was asked with. Raises ``Refused``."""

    def format_proposal(self, kind: str, proposed: ProposedTask) -> str:
        """Format a task as a proposal."""

    def accepts_value(self, value: Any) -> bool:
        """Whether a value can be represented and is not too long."""


class Notation:
    """The notation of the embedded model.

    ``<PD><ref>program<in>input<sep>`` asks for ``program<in>input``; ``<PI>program<sep>`` for inputs with <in> between them.
    """

    identity = "x"

    def proposal_prompt(self, kind: str, references: Sequence[ProposedTask], program: str | None) -> str:
        """Ask for a task of a type after references; for induction, for inputs of ``program``."""
        if kind == "induction":
            return f"<PI>{program}<sep>"
        examples = "".join(f"<ref>{reference.program}<in>{programs.compact(reference.inputs[0][0])}" for reference in references)
        return f"<{'PD' if kind == 'deduction' else 'PA'}>{examples}<sep>"

    def parse_proposal(self, kind: str, text: str, program: str | None) -> ProposedTask:
        """Read a task from what was written; ``program`` as it was asked with. Raises ``Refused``."""
        parts = text.split("<in>")
        if kind == "induction":
            return ProposedTask(str(program), _distinct([(_value(part),) for part in parts]))
        if len(parts) != 2:
            raise Refused("form")
        return ProposedTask(parts[0], ((_value(parts[1]),),))

    def format_proposal(self, kind: str, proposed: ProposedTask) -> str:
        """Write a task as a proposer would."""
        inputs = "<in>".join(programs.compact(arguments[0]) for arguments in proposed.inputs)
        return inputs if kind == "induction" else f"{proposed.program}<in>{inputs}"

    def accepts_value(self, value: Any) -> bool:
        """Whether a value can be written, and is not too long."""
        return isinstance(value, (int, str, list)) and not isinstance(value, bool) and is_short_in_notation(value)


class PlainText:
    """Programs in full Python, between tags."""

    identity = "def f(x):\n    return x"

    def proposal_prompt(self, kind: str, references: Sequence[ProposedTask], program: str | None) -> str:
        """Ask for a task of a type after references; for induction, for inputs of ``program``."""
        if kind == "induction":
            return (
                f"<program>\n{program}\n</program>\n\nWrite {PAIRS} different inputs for f, each one Python literal between <input> "
                "and </input>, from which one can tell what f does, and say what it does between <message> and </message>."
            )
        examples = "\n\n".join(f"Example:\n{self.format_proposal(kind, reference)}" for reference in references)
        hard = "its output for the input" if kind == "deduction" else "an input that gives its output"
        return (
            f"{examples}\n\nWrite a new Python function f with one argument x, between <program> and </program>, and an input for it, one "
            f"Python literal between <input> and </input>. It should take some thought to find {hard}."
        ).strip()

    def parse_proposal(self, kind: str, text: str, program: str | None) -> ProposedTask:
        """Read a task from what was written; ``program`` as it was asked with. Raises ``Refused``."""
        inputs = [(_value(value_text),) for value_text in tagged(text, "input")]
        message = " ".join(tagged(text, "message"))[:300].strip()
        if kind == "induction":
            return ProposedTask(str(program), _distinct(inputs), message)
        sources = tagged(text, "program")
        if len(sources) != 1 or len(inputs) != 1:
            raise Refused("form")
        source = sources[0].strip()
        if len(re.findall(r"^def ", source, re.MULTILINE)) != 1 or not re.search(r"^def f\(", source, re.MULTILINE):
            raise Refused("not one function f")
        return ProposedTask(source, (inputs[0],))

    def format_proposal(self, kind: str, proposed: ProposedTask) -> str:
        """Write a task as a proposer would."""
        inputs = "\n".join(f"<input>{arguments[0]!r}</input>" for arguments in proposed.inputs)
        if kind == "induction":
            return f"{inputs}\n<message>{proposed.message}</message>"
        return f"<program>\n{as_function(proposed.program)}\n</program>\n{inputs}"

    def accepts_value(self, value: Any) -> bool:
        """Whether a value is not too long."""
        return length(value) <= MAX_INPUT


def tagged(text: str, tag: str) -> list[str]:
    """Return what stands between each <tag> and the next </tag>, in linear time for any text."""
    parts = (part.partition(f"<{tag}>") for part in text.split(f"</{tag}>")[:-1])
    return [content for _, opening, content in parts if opening]


def _value(text: str) -> Any:
    if len(text) > MAX_INPUT:
        raise Refused("input too long")
    try:
        return literal(text)
    except Refused:
        raise Refused("input is no literal") from None


def _distinct(inputs: list[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    distinct = {repr(arguments): arguments for arguments in inputs}
    if len(distinct) < PAIRS:
        raise Refused(f"fewer than {PAIRS} different inputs")
    return tuple(distinct.values())[:PAIRS]


def is_short_in_notation(value: Any) -> bool:
    """Whether a value is short enough for the notation."""
    return len(programs.compact(value)) <= 24


def problem_in_notation(problem: Problem) -> tuple[str, str]:
    """Return prompt and correct answer in the notation of the embedded model."""
    value, output = map(programs.compact, (problem.inputs[0][0], problem.outputs[0]))
    if problem.kind == "deduction":
        return f"<D>{problem.program}<in>{value}<out>", output
    if problem.kind == "abduction":
        return f"<A>{problem.program}<out>{output}<in>", value
    pairs = zip(problem.inputs[:SHOWN_PAIRS], problem.outputs[:SHOWN_PAIRS], strict=True)
    pairs_given = "".join(f"<in>{programs.compact(arguments[0])}<out>{programs.compact(out)}" for arguments, out in pairs)
    return f"<I>{pairs_given}<f>", problem.program


def problem_in_plain_text(problem: Problem, message: str = "") -> tuple[str, str]:
    """Return prompt and correct answer in plain text, for models other than the embedded one.

    ``message`` is a hint for induction problems.
    """
    program = f"{as_function(problem.program)}\n\n"
    value, output = repr(problem.inputs[0][0]), repr(problem.outputs[0])
    if problem.kind == "deduction":
        return f"{program}What does f({value}) return? {ANSWER_REQUEST}", output
    if problem.kind == "abduction":
        return f"{program}f(x) returned {output}. Give an x for which it does. {ANSWER_REQUEST}", value
    pairs = zip(problem.inputs[:SHOWN_PAIRS], problem.outputs[:SHOWN_PAIRS], strict=True)
    lines = "\n".join(f"f({arguments[0]!r}) == {out!r}" for arguments, out in pairs)
    hint = f"\n{message}" if message else ""
    return f"{lines}{hint}\n\nWrite f as one Python expression over x. {ANSWER_REQUEST}", problem.program


def extract_answer(text: str) -> str | None:
    """Return the text between the last <answer> and </answer>, or None without such tags."""
    answers = tagged(text, "answer")
    return answers[-1].strip() if answers else None


def reads_notation(tokenizer: Any) -> bool:
    """Whether a tokenizer has all tokens of the notation of the embedded model."""
    vocabulary = tokenizer.get_vocab()  # made anew at each call
    return all(token in vocabulary for token in SPECIAL_TOKENS)


def language_of(tokenizer: Any) -> LanguageName:
    """Return what a model with this tokenizer reads."""
    return "lab" if is_of_laboratory(tokenizer) else "notation" if reads_notation(tokenizer) else "plain"


def folder_language(model: str) -> LanguageName:
    """Return what a model reads if it is a folder; plain text if its tokenizer cannot be read."""
    with contextlib.suppress(Exception):  # tokenizers raises nothing narrower; a broken file is named when the model is loaded
        from tokenizers import Tokenizer

        return language_of(Tokenizer.from_file(str(Path(model) / "tokenizer.json")))
    return "plain"


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[Int[np.ndarray, " _"]]:
    """Encode prompts, with the chat template if the tokenizer has one; (tokens,) int64 each."""
    if getattr(tokenizer, "chat_template", None):
        asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
        prompts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in asked]
        special = False
    else:
        special = not reads_notation(tokenizer)
    return [np.array(tokenizer(prompt, add_special_tokens=special)["input_ids"], np.int64) for prompt in prompts]


def encode_completion(tokenizer: Any, answer: str) -> list[int]:
    """Encode an answer followed by the end-of-sequence token, which is trained on even if it is also the padding token."""
    ids = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id]


def decode(tokenizer: Any, ids: Int[np.ndarray, " tokens"], eos: list[int]) -> str:
    """Decode sampled tokens, without a final end-of-sequence token."""
    kept = [int(token) for token in ids]
    if kept and kept[-1] in eos:
        kept.pop()
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def encode_questions(tokenizer: Any, questions: Sequence[Question]) -> list[Int[np.ndarray, " _"]]:
    """Encode the prompt of each question; (tokens,) int64 each."""
    return encode_prompts(tokenizer, [question.prompt for question in questions])
