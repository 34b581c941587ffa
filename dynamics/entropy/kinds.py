"""Kinds of tokens: numbers, operators, connectives, code, whitespace, and what else there is."""

from __future__ import annotations

import re

#: kind -> what belongs to it; the first that matches a token, without the spaces around it and in lower case, is its kind
KINDS = {
    "special": "a token in angle brackets that is no text, such as <s> or <|im_end|>",
    "whitespace": "spaces, tabs and line ends only, or nothing",
    "number": "a number, or a part of one: digits with points, commas, a percent sign or an exponent",
    "operator": "signs of arithmetic, comparison and logic, and their LaTeX commands",
    "connective": "words that join steps of an argument: because, so, if, but, wait, then, ...",
    "code": "brackets, backticks, semicolons, comment signs, words of programming languages, names with underscores, LaTeX commands",
    "punctuation": "full stops, commas, quotation marks and other signs",
    "word": "letters of any script",
    "other": "everything else, such as parts of characters and pictures",
}
_SPECIAL = re.compile(r"<\|[^<>]*\|>|</?[A-Za-z_]+>|\[[A-Z]{2,}\]")
_NUMBER = re.compile(r"[+-]?[.,]?\d[\d.,_]*(?:e[+-]?\d+)?%?|%")
_OPERATOR = re.compile(
    r"[-+*/=<>^~|&!%÷×±·∙−∓√∑∏∫≤≥≠≈≡∝∈∉⊂⊆∪∩∧∨¬→←⇒⇔∀∃∂∇∞]+"
    r"|\\(?:d?frac|cdot|times|div|pm|sqrt|sum|prod|int|leq?|geq?|neq?|approx|equiv|in|to|rightarrow|implies|log|ln|exp|sin|cos|tan)"
)
_CODE_NAME = re.compile(r"\\[A-Za-z]+|[A-Za-z0-9]*_[A-Za-z_0-9]*|[a-z]+[A-Z][A-Za-z0-9]*|[A-Za-z]+\(|\.[a-z_]+\(?")
_CODE_SIGNS = frozenset("[]{}();`#@$\\_")
#: characters of a token that are looked at: longer ones are single words or lines of signs
LONGEST = 64


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CONNECTIVES = _words("""
also alternatively although and as because besides but consequently conversely either else finally first firstly furthermore given hence
however if indeed instead last lastly let likewise maybe meanwhile moreover nevertheless next nonetheless nor not now or otherwise perhaps
rather second secondly similarly since so still suppose than then therefore third thirdly though thus unless until wait when whenever where
whereas whether which while yet actually hmm assume assuming
""")
_KEYWORDS = (
    _words("""
async await bool break case class const continue def del elif endif enum except extends false finally float fn func goto impl import int
isinstance lambda len none null nonlocal nullptr print printf private protected public pub raise range return self static str struct switch
throw true try tuple typedef typeof var void yield
""")
    - _CONNECTIVES
)


def kind_of_token(text: str) -> str:
    r"""Return the kind of a token by its text alone, a key of ``KINDS``.

    >>> [kind_of_token(text) for text in (" 12", "+", " because", "def", " the", "\n\n", ",")]
    ['number', 'operator', 'connective', 'code', 'word', 'whitespace', 'punctuation']
    """
    token = text.strip()[:LONGEST]
    if not token:
        return "whitespace"
    for kind, pattern in (("special", _SPECIAL), ("number", _NUMBER), ("operator", _OPERATOR)):
        if pattern.fullmatch(token):
            return kind
    word = token.lower().rstrip(",.:;")
    if word in _CONNECTIVES:
        return "connective"
    if word in _KEYWORDS or _is_code_signs(token) or _CODE_NAME.fullmatch(token):
        return "code"
    if any(character.isalpha() for character in token):
        return "word"
    return (
        "punctuation"
        if all(not character.isalnum() and character.isprintable() and ord(character) < 0x2600 for character in token)
        else "other"
    )


def _is_code_signs(token: str) -> bool:
    """Tell whether a token consists of signs only, with at least one of those of code."""
    return token.isascii() and not _CODE_SIGNS.isdisjoint(token) and all(c.isprintable() and not c.isalnum() for c in token)
