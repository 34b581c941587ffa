"""Supervised fine-tuning: the given completions, each with weight 1. Nothing else differs from the other methods."""

from __future__ import annotations

import numpy as np

from dynamics.errors import InputError
from dynamics.train import data_order
from dynamics.train.batch import Batch, Method, StepData
from dynamics.train.config import SFTConfig
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import ProbePrompts, solver_probes
from dynamics.train.samplers.transformers import check_lengths
from dynamics.train.tasks.problem import Source
from dynamics.train.tasks.prompt_formats import encode_completion, encode_questions


class SFT(Method):
    """Makes batches of given completions; has no state."""

    record_every = 10

    def __init__(self, config: SFTConfig, policy: Policy, source: Source):
        self.config, self.policy, self.source = config, policy, source
        self.questions = source.questions("training", config.num_problems, config.seed)
        for question in self.questions:
            if question.answer is None:
                raise InputError(f"{question.id}: has no answer to imitate; sft needs one for every problem")
        self.prompts = encode_questions(policy.tokenizer, self.questions)
        self.answers = [np.array(encode_completion(policy.tokenizer, str(one.answer)), np.int64) for one in self.questions]
        names = [f"prompt of {one.id}" for one in self.questions]
        check_lengths(policy.model, self.prompts, [len(one) for one in self.answers], names)

    def probe_prompts(self) -> ProbePrompts:
        return solver_probes(self.source, self.policy, self.config.seed, self.config.max_new_tokens)

    def next_batch(self, step: int) -> StepData:
        places = data_order.chosen(self.config.seed, step, self.config.batch_size, len(self.questions))
        asked = [self.questions[place] for place in places]
        batch = Batch(
            [self.prompts[place] for place in places],
            [self.answers[place] for place in places],
            np.arange(len(places)),
            np.ones(len(places)),
            ["solver"] * len(places),
            [one.task for one in asked],
            [one.id for one in asked],
        )
        return StepData(batch, {"length/mean": float(batch.lengths.mean())})
