"""The tokenizer of the embedded model."""

from __future__ import annotations

from typing import Any

from dynamics.train.tasks.prompt_formats import SPECIAL_TOKENS

_WORDS = (" for y in ", "sorted(", ".replace(", ".upper()", "[::-1]", "[:-1]", "[1:]", "abs(", "max(", "min(", "sum(", "len(", "//")
TOKENS = (*SPECIAL_TOKENS, *_WORDS, *"0123456789", *"abcdexyABCDE", *"+-*%()[],':")


def build_tokenizer() -> Any:
    """Build a tokenizer of characters and a few words, with at most 64 tokens; decoding inverts encoding."""
    import re

    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({token: number for number, token in enumerate(TOKENS)}, unk_token="<unk>"))
    pattern = "|".join(re.escape(word) for word in _WORDS) + "|."
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(pattern.replace("\\ ", " ")), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=512)
