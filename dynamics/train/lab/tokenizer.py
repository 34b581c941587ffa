"""The tokenizer of the laboratory: a token for each number, letter, and part of an operation."""

from __future__ import annotations

from typing import Any

from dynamics.train import token_kinds
from dynamics.train.lab.notation import MARKS, SPECIAL_TOKENS
from dynamics.train.lab.operations import LETTERS, MAX_INT

_WORDS = (
    *(" for y in ", " if y>", "sorted(", ".replace(", ".upper()", "[::-1]", "[:-1]", "[1:]", "[-1]", "[0]", "[y"),
    *("abs(", "max(", "min(", "sum(", "len(", "//"),
)
TOKENS = (*SPECIAL_TOKENS, *MARKS, *_WORDS, *map(str, range(MAX_INT + 1)), *LETTERS, *LETTERS.upper(), *"xy+-*%()[],;=?'")
#: token -> its kind, for averages over tokens of a kind; what is behind ``<ans>``, or behind ``=`` in a step, is told by its place
_KINDS = {
    token: kind
    for kind, tokens in {
        "special": SPECIAL_TOKENS,
        token_kinds.STEP_MARK: MARKS,
        token_kinds.ANSWER_MARK: ("<ans>",),
        "operator": (*_WORDS, *"+-*%"),
        "number": map(str, range(MAX_INT + 1)),
        "letter": (*LETTERS, *LETTERS.upper()),
        "variable": "xy",
        "sign": "()[],;=?'",
    }.items()
    for token in tokens
}
SCHEME = token_kinds.Scheme(_KINDS, MARKS, "=", "<ans>")
#: size of the vocabulary: rows of the embedding, a multiple of 8
VOCABULARY = (len(TOKENS) + 7) // 8 * 8


def is_of_laboratory(tokenizer: Any) -> bool:
    """Whether a tokenizer, of transformers or of tokenizers, has the laboratory's tokens and no others."""
    return bool(tokenizer.get_vocab() == {token: number for number, token in enumerate(TOKENS)})


def build_tokenizer() -> Any:
    """Build the tokenizer; decoding inverts encoding for all texts of the notation.

    A number is one token, and the comma between two numbers is none: ``[7,12,3]`` is ``[``, ``7``, ``12``, ``3``, ``]``: the items of a
    list stand beside each other. The list ``[0]`` and the index ``[0]`` are the same token.
    """
    import re

    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({token: number for number, token in enumerate(TOKENS)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(Regex(r"(?<=\d),(?=\d)"), "\u2581")
    words = "|".join(re.escape(word).replace("\\ ", " ") for word in _WORDS)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\u2581", "removed"), pre_tokenizers.Split(Regex(rf"{words}|\d+|."), "isolated")]
    )
    # a comma after each number, and then none before anything but a number
    comma = decoders.Replace(Regex(r"(?<=\d)$"), ",")
    inner.decoder = decoders.Sequence([comma, decoders.Fuse(), decoders.Replace(Regex(r",(?!\d)(?<=\d,)"), "")])
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    inner.add_tokens([AddedToken(token, normalized=False) for token in MARKS])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=512)
