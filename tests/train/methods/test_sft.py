"""Batches of supervised fine-tuning."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dynamics.train import update
from dynamics.train.config import SFTConfig
from dynamics.train.methods.sft import SFT
from dynamics.train.policy import Policy
from dynamics.train.tasks.prompt_formats import decode
from dynamics.train.tasks.triplets import Triplets


def test_sft_teaches_the_end_of_the_sequence(base: Path) -> None:
    policy = Policy(transformers.AutoModelForCausalLM.from_pretrained(base), transformers.AutoTokenizer.from_pretrained(base))
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    data = SFT(SFTConfig(num_problems=10, batch_size=4), policy, Triplets()).next_batch(1)
    assert all(completion[-1] == policy.tokenizer.eos_token_id for completion in data.batch.completions)
    assert decode(policy.tokenizer, data.batch.completions[0], policy.eos)
    result = update.gradient(policy, data.batch, SFTConfig(), update.Before())
    assert len(result.sample) == data.batch.lengths.sum()  # the end counts among the tokens of the loss
