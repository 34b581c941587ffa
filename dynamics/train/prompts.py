"""Questions as token ids, and completions as text."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynamics.train.tasks import Question
from dynamics.train.tiny import reads_notation


def encode(tokenizer: Any, prompt: str) -> list[int]:
    """A prompt as the model is to see it: through its chat template where it has one."""
    if getattr(tokenizer, "chat_template", None):
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return list(tokenizer(prompt, add_special_tokens=not reads_notation(tokenizer))["input_ids"])


def completion(tokenizer: Any, answer: str) -> list[int]:
    """The tokens of an answer, and the end of the sequence, which is to be learnt even where it is also the padding."""
    ids = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id]


def decode(tokenizer: Any, ids: Any, eos: list[int]) -> str:
    """The text of sampled tokens, without the token that ended them."""
    kept = [int(one) for one in ids]
    if kept and kept[-1] in eos:
        kept.pop()
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def encoded(tokenizer: Any, questions: list[Question]) -> list[Any]:
    return [np.array(encode(tokenizer, question.prompt), np.int64) for question in questions]
