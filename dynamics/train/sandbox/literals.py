"""A parser of Python literals for text that a model wrote. It bounds whatever it makes, and raises nothing but ``Refused``.

``ast.literal_eval`` is for text that one trusts: deep nesting can exhaust the stack of the interpreter, warnings about the text are printed
or raised, keys with equal hashes take quadratic time, and what it returns may be infinite or too long to be printed. This parser knows
literals only; what it accepts has the value that Python gives it.
"""

from __future__ import annotations

import cmath
import re
import unicodedata
from typing import Any

#: brackets within each other, characters of a number, keys of one dictionary or items of one set (which may all have the same hash)
MAX_DEPTH, MAX_DIGITS, MAX_KEYS = 100, 1000, 256
#: numbers shorter than this can be printed under every setting of ``sys.set_int_max_str_digits``
_PRINTABLE = 500


class Refused(Exception):
    """Raised for texts that cannot be evaluated, with a short reason."""


def _quoted(quote: str) -> str:
    """Return the pattern of strings in a quotation mark, once or three times; it takes linear time."""
    plain = rf"[^{quote}\\]*"
    return (
        rf"{quote}{{3}}{plain}(?:(?:\\[\s\S]|{quote}(?!{quote}{{2}})){plain})*{quote}{{3}}"
        rf"|{quote}(?!{quote}{{2}})[^{quote}\\\n]*(?:\\[\s\S][^{quote}\\\n]*)*{quote}"
    )


_TOKEN = re.compile(
    rf"""(?P<string>(?:[rR][bB]?|[bB][rR]?|[uU])?(?:{_quoted("'")}|{_quoted('"')}))"""
    r"|(?P<number>(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+"
    r"|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9][0-9_]*)?[jJ]?)(?![0-9A-Za-z_.]))"
    r"|(?P<word>(?:True|False|None)(?![0-9A-Za-z_])|set\(\))"
    r"|(?P<sign>[-+])|(?P<mark>[()\[\]{},:])"
)
_STRING = re.compile(r"([a-zA-Z]*)('''|\"\"\"|'|\")([\s\S]*)\2")
_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^{}]*\}|[\s\S])")
_ESCAPES = {"\n": "", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_BETWEEN = re.compile(r"(?:[ \t\f]|\\\n)*")  # tokens outside brackets
_BETWEEN_LINES = re.compile(r"(?:[ \t\f\n]|\\\n|#[^\n]*)*")  # tokens inside brackets, and after the whole
_BEFORE = re.compile(r"(?:[ \t\f]*(?:#[^\n]*)?\n)*")  # lines before the whole
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORDS = {"True": True, "False": False, "None": None}
_END = ("end", "")


def parse(text: str, depth: int = MAX_DEPTH) -> Any:
    """Return the value of a literal, with at most ``depth`` brackets within each other; raise ``Refused`` for any other text.

    The value has no infinities, and can be printed.
    """
    try:
        text.encode()
        parser = _Parser(_tokens(text.replace("\r\n", "\n").replace("\r", "\n"), depth))
        return parser.whole()
    except UnicodeEncodeError:
        raise Refused("not a literal") from None
    except (MemoryError, RecursionError):  # little was left of either
        raise Refused("memory") from None


def _tokens(text: str, depth: int) -> list[tuple[str, str]]:
    """Split a text into pairs of kind and text."""
    if "\0" in text:
        raise Refused("not a literal")
    tokens: list[tuple[str, str]] = []
    level = 0
    position = _end_of(_BEFORE, text, 0)
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Refused("not a literal")
        token = match.group()
        tokens.append((match.lastgroup or "", token))
        level += (token in _CLOSING) - (token in ")]}")
        if level > depth:
            raise Refused("nested too deeply")
        position = _end_of(_BETWEEN_LINES if level > 0 else _BETWEEN, text, match.end())
        if level <= 0 and text[position : position + 1] in ("\n", "#"):
            position = _end_of(_BETWEEN_LINES, text, position)
            if position < len(text):
                raise Refused("not a literal")  # another line
    return tokens


def _end_of(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


class _Parser:
    """Makes the value of a list of tokens."""

    def __init__(self, tokens: list[tuple[str, str]]):
        self.tokens = tokens
        self.position = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else _END

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.position += 1
        return token

    def whole(self) -> Any:
        values, comma = self.items("")
        return values[0] if len(values) == 1 and not comma else tuple(values)

    def value(self) -> Any:
        kind, token = self.peek()
        if kind == "string":
            return self.string()
        if kind in ("number", "sign"):
            return self.number()
        self.take()
        if kind == "word":
            return set() if token == "set()" else _WORDS[token]
        if token == "(":
            values, comma = self.items(")")
            return values[0] if len(values) == 1 and not comma else tuple(values)
        if token == "[":
            return self.items("]")[0]
        if token == "{":
            return self.braces()
        raise Refused("not a literal")

    def items(self, closing: str) -> tuple[list[Any], bool]:
        """Return the values up to a bracket, or the end, and whether a comma follows the last; only brackets may hold none."""
        values: list[Any] = []
        comma = True
        while self.peek()[1] != closing:
            if not comma:
                raise Refused("not a literal")
            values.append(self.value())
            comma = self.comma()
        self.take()
        if not values and not closing:
            raise Refused("not a literal")
        return values, comma and bool(values)

    def comma(self) -> bool:
        found = self.peek()[1] == ","
        self.position += found
        return found

    def braces(self) -> Any:
        """Return a dictionary or a set."""
        keys: list[Any] = []
        values: list[Any] = []
        comma = True
        while self.peek()[1] != "}":
            if not comma:
                raise Refused("not a literal")
            if len(keys) == MAX_KEYS:
                raise Refused("too many keys")
            keys.append(self.value())
            if self.peek()[1] == ":":
                self.take()
                values.append(self.value())
            if len(values) not in (0, len(keys)):
                raise Refused("not a literal")
            comma = self.comma()
        self.take()
        try:
            return dict(zip(keys, values, strict=True)) if len(values) == len(keys) else set(keys)
        except TypeError:
            raise Refused("not hashable") from None

    def string(self) -> str | bytes:
        """Return a string, whose parts may stand side by side."""
        parts = []
        while self.peek()[0] == "string":
            parts.append(_string(self.take()[1]))
        texts = [part for part in parts if isinstance(part, str)]
        data = [part for part in parts if isinstance(part, bytes)]
        if texts and data:
            raise Refused("not a literal")
        return b"".join(data) if data else "".join(texts)

    def number(self) -> complex:
        """Return a number with or without a sign, or the sum of a real and an imaginary one."""
        value = self.signed()
        if self.peek()[0] != "sign":
            return value
        negative = self.take()[1] == "-"
        imaginary = self.unsigned()
        if isinstance(value, complex) or not isinstance(imaginary, complex):
            raise Refused("not a literal")
        try:
            total = value - imaginary if negative else value + imaginary
        except OverflowError:
            raise Refused("number too large") from None
        return _finite(total)

    def signed(self) -> complex:
        sign = self.take()[1] if self.peek()[0] == "sign" else "+"
        number = self.unsigned()
        return -number if sign == "-" else number

    def unsigned(self) -> complex:
        kind, token = self.take()
        if kind != "number":
            raise Refused("not a literal")
        if len(token) > MAX_DIGITS:
            raise Refused("number too long")
        try:
            if token[:2].lower() in ("0x", "0o", "0b") or not set(token) & set(".eEjJ"):
                integer = int(token, 0)
                if len(token) > _PRINTABLE and len(str(integer)) > MAX_DIGITS:
                    raise Refused("number too long")
                return integer
            return _finite(complex(token) if token[-1] in "jJ" else float(token))
        except ValueError:
            raise Refused("not a literal") from None


def _finite(number: complex) -> complex:
    if not cmath.isfinite(number):
        raise Refused("number too large")
    return number


def _string(token: str) -> str | bytes:
    """Return the value of one string, with unknown escapes as they are."""
    match = _STRING.fullmatch(token)
    assert match is not None
    prefix, body = match[1].lower(), match[3]
    of_bytes = "b" in prefix
    if of_bytes and not body.isascii():
        raise Refused("not a literal")
    if "r" not in prefix and "\\" in body:
        body = _ESCAPE.sub(lambda escape: _unescaped(escape[1], of_bytes), body)
    return body.encode("latin-1") if of_bytes else body


def _unescaped(escape: str, of_bytes: bool) -> str:
    first = escape[0]
    if escape in _ESCAPES:
        return _ESCAPES[escape]
    if first in "01234567":
        code = int(escape, 8)
        if code > 0xFF:
            raise Refused("not a literal")
        return chr(code)
    if first == "x" or (first in "uUN" and not of_bytes):
        try:
            if first == "N":
                character = unicodedata.lookup(escape[2:-1])
                if len(character) == 1:
                    return character
            return chr(int(escape[1:], 16))
        except (KeyError, ValueError, OverflowError):
            raise Refused("not a literal") from None
    return f"\\{escape}"
