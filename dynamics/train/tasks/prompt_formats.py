"""How problems and proposals are written as prompts, and how what a model writes is read.

There are two formats: the notation of the embedded default, and plain text for other models. Both turn what a proposer writes into a
``ProposedTask``, or refuse it with a reason in a few words. Nothing is run here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from dynamics.train.sandbox.expressions import Refused, as_function, literal
from dynamics.train.tasks import programs
from dynamics.train.tasks.problem import PAIRS, SHOWN_PAIRS, Problem, ProposedTask, Question

#: the tokens of the notation
SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>", "<D>", "<A>", "<I>", "<PD>", "<PA>", "<PI>", "<in>", "<out>", "<f>", "<ref>", "<sep>")
#: inputs are at most this long as text
MAX_INPUT = 200
#: how a solver is asked for an answer that can be found in what it writes
ANSWER_REQUEST = "Give only the final answer, between <answer> and </answer>."
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class PromptFormat(Protocol):
    identity: str

    def ask(self, kind: str, references: Sequence[ProposedTask], program: str | None) -> str: ...

    def read(self, kind: str, text: str, program: str | None) -> ProposedTask: ...

    def write(self, kind: str, proposed: ProposedTask) -> str: ...

    def fits(self, value: Any) -> bool: ...


class Notation:
    """``<PD><ref>program<in>input<sep>`` -> ``program<in>input``; ``<PI>program<sep>`` -> inputs with <in> between them."""

    identity = "x"

    def ask(self, kind: str, references: Sequence[ProposedTask], program: str | None) -> str:
        if kind == "induction":
            return f"<PI>{program}<sep>"
        shown = "".join(f"<ref>{one.program}<in>{programs.compact(one.inputs[0][0])}" for one in references)
        return f"<{'PD' if kind == 'deduction' else 'PA'}>{shown}<sep>"

    def read(self, kind: str, text: str, program: str | None) -> ProposedTask:
        parts = text.split("<in>")
        if kind == "induction":
            return ProposedTask(str(program), _distinct([(_value(part),) for part in parts]))
        if len(parts) != 2:
            raise Refused("form")
        return ProposedTask(parts[0], ((_value(parts[1]),),))

    def write(self, kind: str, proposed: ProposedTask) -> str:
        given = "<in>".join(programs.compact(one[0]) for one in proposed.inputs)
        return given if kind == "induction" else f"{proposed.program}<in>{given}"

    def fits(self, value: Any) -> bool:
        """Whether a value can be written, and is not too long."""
        return isinstance(value, (int, str, list)) and not isinstance(value, bool) and fits_notation(value)


class PlainText:
    """Programs in full Python, between tags."""

    identity = "def f(x):\n    return x"

    def ask(self, kind: str, references: Sequence[ProposedTask], program: str | None) -> str:
        if kind == "induction":
            return (
                f"<program>\n{program}\n</program>\n\nWrite {PAIRS} different inputs for f, each one Python literal between <input> "
                "and </input>, from which one can tell what f does, and say what it does between <message> and </message>."
            )
        examples = "\n\n".join(f"Example:\n{self.write(kind, one)}" for one in references)
        hard = "its output for the input" if kind == "deduction" else "an input that gives its output"
        return (
            f"{examples}\n\nWrite a new Python function f with one argument x, between <program> and </program>, and an input for it, one "
            f"Python literal between <input> and </input>. It should take some thought to find {hard}."
        ).strip()

    def read(self, kind: str, text: str, program: str | None) -> ProposedTask:
        inputs = [(_value(one),) for one in re.findall(r"<input>(.*?)</input>", text, re.DOTALL)]
        message = " ".join(re.findall(r"<message>(.*?)</message>", text, re.DOTALL))[:300].strip()
        if kind == "induction":
            return ProposedTask(str(program), _distinct(inputs), message)
        found = re.findall(r"<program>(.*?)</program>", text, re.DOTALL)
        if len(found) != 1 or len(inputs) != 1:
            raise Refused("form")
        source = found[0].strip()
        if len(re.findall(r"^def ", source, re.MULTILINE)) != 1 or not re.search(r"^def f\(", source, re.MULTILINE):
            raise Refused("not one function f")
        return ProposedTask(source, (inputs[0],))

    def write(self, kind: str, proposed: ProposedTask) -> str:
        given = "\n".join(f"<input>{one[0]!r}</input>" for one in proposed.inputs)
        if kind == "induction":
            return f"{given}\n<message>{proposed.message}</message>"
        return f"<program>\n{as_function(proposed.program)}\n</program>\n{given}"

    def fits(self, value: Any) -> bool:
        """Whether a value is not too long."""
        return len(repr(value)) <= MAX_INPUT


def _value(text: str) -> Any:
    if len(text) > MAX_INPUT:
        raise Refused("input too long")
    try:
        return literal(text)
    except Refused:
        raise Refused("input is no literal") from None


def _distinct(inputs: list[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    if len({repr(one) for one in inputs}) < PAIRS:
        raise Refused(f"fewer than {PAIRS} different inputs")
    return tuple({repr(one): one for one in inputs}.values())[:PAIRS]


def fits_notation(value: Any) -> bool:
    """Whether the notation has room for a value."""
    return len(programs.compact(value)) <= 24


def in_notation(problem: Problem) -> tuple[str, str]:
    """Prompt and a correct answer, in the notation of the embedded default."""
    given, made = (programs.compact(one) for one in (problem.inputs[0][0], problem.outputs[0]))
    if problem.kind == "deduction":
        return f"<D>{problem.program}<in>{given}<out>", made
    if problem.kind == "abduction":
        return f"<A>{problem.program}<out>{made}<in>", given
    pairs = zip(problem.inputs[:SHOWN_PAIRS], problem.outputs[:SHOWN_PAIRS], strict=True)
    pairs_given = "".join(f"<in>{programs.compact(one[0])}<out>{programs.compact(out)}" for one, out in pairs)
    return f"<I>{pairs_given}<f>", problem.program


def in_plain_text(problem: Problem, message: str = "") -> tuple[str, str]:
    """Prompt and a correct answer in plain words, for models that were not made for the notation."""
    program = f"{as_function(problem.program)}\n\n"
    given, made = repr(problem.inputs[0][0]), repr(problem.outputs[0])
    if problem.kind == "deduction":
        return f"{program}What does f({given}) return? {ANSWER_REQUEST}", made
    if problem.kind == "abduction":
        return f"{program}f(x) returned {made}. Give an x for which it does. {ANSWER_REQUEST}", given
    pairs = zip(problem.inputs[:SHOWN_PAIRS], problem.outputs[:SHOWN_PAIRS], strict=True)
    lines = "\n".join(f"f({one[0]!r}) == {out!r}" for one, out in pairs)
    said = f"\n{message}" if message else ""
    return f"{lines}{said}\n\nWrite f as one Python expression over x. {ANSWER_REQUEST}", problem.program


def tagged_answer(text: str) -> str | None:
    """What stands between the last <answer> and </answer>."""
    found = _ANSWER.findall(text)
    return found[-1].strip() if found else None


def reads_notation(tokenizer: Any) -> bool:
    """Whether a tokenizer has the notation of the embedded default."""
    return all(token in tokenizer.get_vocab() for token in SPECIAL_TOKENS)


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """A prompt as the model is to see it: through its chat template where it has one."""
    if getattr(tokenizer, "chat_template", None):
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return list(tokenizer(prompt, add_special_tokens=not reads_notation(tokenizer))["input_ids"])


def encode_completion(tokenizer: Any, answer: str) -> list[int]:
    """The tokens of an answer, and the end of the sequence, which is to be learnt even where it is also the padding."""
    ids = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id]


def decode(tokenizer: Any, ids: Any, eos: list[int]) -> str:
    """The text of sampled tokens, without the token that ended them."""
    kept = [int(one) for one in ids]
    if kept and kept[-1] in eos:
        kept.pop()
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def encode_questions(tokenizer: Any, questions: list[Question]) -> list[Any]:
    return [np.array(encode_prompt(tokenizer, question.prompt), np.int64) for question in questions]
