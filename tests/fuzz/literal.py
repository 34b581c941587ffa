"""Mutate texts of literals and programs, and give them to the parser of literals and to the interpreter of expressions.

    python tests/fuzz/literal.py --texts 1000000 --seed 1

Neither may raise anything but ``Refused``, or take long. What the parser accepts must have the value that Python gives it, and what it
refuses as no literal must be no literal to Python, except for the notations in ``STRICTER``.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import time
import warnings
from collections import Counter

from dynamics.train.sandbox.expressions import Expressions, length, literal, same
from dynamics.train.sandbox.literals import Refused

SEEDS = [
    "1", "-1", "0", "-0.0", "1_000", "0x_ff", "0b101", "0o17", "1e308", "1e-5", "1.", ".5", "2j", "-1.5-2.5j", "1.7e308+1.7e308j", "(1+2j)",
    "9" * 300, "0x" + "f" * 300, "True", "None", "set()", "()", "(1,)", "1, 2", "[1, [2, [3]]]", "{1: 2}", "{1, 2}", "{'a': [1], 2: (3,)}",
    "'a'", '"b"', "'''c\n'd'''", '"""e"f"""', "b'g'", "rb'\\h'", "u'i'", "'a' 'b'", "'\\n\\x41\\u0041\\U00000041\\N{DIGIT ONE}\\101\\d'",
    "[\n1,  # one\n2]", "[1,\\\n2]", "f'{1}'", "'\\ud800'", "[1, 2", "((((1))))", "-" * 20 + "1", "1 is 1", "1if 1else 2", "'a\\\nb'",
    "{" + ",".join(str((2**61 - 1) * k) for k in range(1, 20)) + "}", "[0] * 9", "x + 1", "[y * 2 for y in x]", "sorted(x)[::-1]",
    "x.replace('a', 'b' * 9)", "def f(x):\n    return x % 7", "sum([x, 1], 2)", "max('ab', key=len)", "x[1:2:3]", "not x", "lambda: 0",
]  # fmt: skip
PIECES = [
    *"()[]{},:+-*/%#\\'\"\n\t \r\f\0;=.xXbBoOjJeEuUrRN_0123456789", "'''", '"""', "0x", "1e", "1j", "None", "True", "set()", "...", "1e999",
    "\\N{", "\\x", "\\u", "\u00e9", "\uff11", "\ud800", "\U0001f600", "if", "and", "in", "for", "f'", "**", "//", "lambda ", "not ",
    "(" * 30, "[" * 101, "-" * 50, "9" * 700,
]  # fmt: skip
#: notations that are literals to Python, and that the parser refuses
STRICTER = re.compile(r"\.\.\.|[-+]\s*\(|\)\s*[-+]|set\s*\)?\s*\(\s*\)|[^\x00-\x7f]|\\[4-7][0-7][0-7]|^[^\[({]*\\[\r\n]")
INPUTS = [(3,), ("abc",), ([1, 2, "a"],)]


def mutated(rng: random.Random) -> str:
    """Return a seed after up to eight changes."""
    text = rng.choice(SEEDS)
    for _ in range(rng.randrange(9)):
        at, until = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        change = rng.randrange(6)
        if change <= 2:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif change == 3:
            text = text[:at] + text[min(until, at + 4) :]
        elif change == 4:
            text = text[:until] + text[at:until] * rng.randrange(1, 4) + text[until:]
        else:
            text = rng.choice("([{") + text + rng.choice(")]}") if rng.random() < 0.5 else f"{text}{rng.choice(',+-: ')}{rng.choice(SEEDS)}"
    return text[:4000]


def by_python(text: str) -> tuple[bool, object]:
    """Return whether a text is a literal to Python, and its value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return True, ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
            return False, None


def check(text: str) -> str:
    """Check one text; return the outcome: a value, or why there is none."""
    try:
        value = literal(text, size=1 << 16)
    except Refused as error:
        reason = str(error)
        if reason == "not a literal" and by_python(text)[0]:
            reason = "stricter than Python" if STRICTER.search(text) else f"a literal was refused: {text!r}"
        return reason
    is_literal, expected = by_python(text)
    assert is_literal, f"not a literal: {text!r}"
    assert repr(value) == repr(expected), text
    assert same(value, expected), text
    assert length(value) == len(repr(value))
    assert same(literal(repr(value), 1 << 20), value), text
    return "a value"


def main() -> None:
    """Check as many texts as told; print counts, and the slowest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    outcomes: Counter[str] = Counter()
    slowest: dict[str, tuple[float, str]] = {"literal": (0.0, ""), "program": (0.0, "")}
    box = Expressions()
    for _ in range(options.texts):
        text = mutated(rng)
        start = time.process_time()
        outcomes[f"literal: {check(text)}"] += 1
        middle = time.process_time()
        outcome = box.run(text, INPUTS[:1])
        outcomes[f"program: {'a value' if outcome.values is not None else outcome.error}"] += 1
        box.run(text, INPUTS)
        end = time.process_time()
        slowest["literal"] = max(slowest["literal"], (middle - start, text))
        slowest["program"] = max(slowest["program"], (end - middle, text))
    for name, count in outcomes.most_common(40):
        print(f"{count:9,} {name}")
    for name, (seconds, text) in slowest.items():
        print(f"slowest {name}: {1000 * seconds:.1f} ms, {len(text)} characters, {text[:80]!r}")
    refused = [name for name in outcomes if "a literal was refused" in name]
    print(f"{options.texts:,} texts, {len(outcomes)} outcomes; nothing else was raised", *refused, sep="\n")
    raise SystemExit(bool(refused))


if __name__ == "__main__":
    main()
