"""Supervised fine-tuning: batches of given completions with advantage 1, on the same loop as the other methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from dynamics.errors import InputError
from dynamics.train import data_order
from dynamics.train.answers import answer_metrics
from dynamics.train.batch import Batch
from dynamics.train.config import SFTConfig
from dynamics.train.coverage import PoolCoverage
from dynamics.train.method import Method, StepData
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import ProbePrompts, solver_probes
from dynamics.train.samplers.transformers import check_lengths
from dynamics.train.tasks.problem import Question, Source, pool_of, recorded_of
from dynamics.train.tasks.prompt_formats import encode_completion, encode_questions

Tokens = list[Int[np.ndarray, " _"]]


def encode(tokenizer: Any, questions: Sequence[Question]) -> tuple[Tokens, Tokens]:
    """Encode the prompt and the answer of each question; (tokens,) int64 each."""
    answers = [np.array(encode_completion(tokenizer, str(question.answer)), np.int64) for question in questions]
    return encode_questions(tokenizer, questions), answers


class SFT(Method):
    """Batches of given completions. Has no state.

    Parameters
    ----------
    config
        Settings.
    policy
        The model, whose tokenizer is used.
    source
        Source of the problems; each needs an answer.
    """

    record_every = 10

    def __init__(self, config: SFTConfig, policy: Policy, source: Source):
        self.config, self.policy, self.source = config, policy, source
        self.questions = source.questions("training", config.num_problems, config.seed)
        for question in self.questions:
            if question.answer is None:
                raise InputError(f"{question.id}: has no answer; sft needs an answer for every problem")
        self.prompts, self.answers = encode(policy.tokenizer, self.questions)
        self.coverage = PoolCoverage(self.indices, [question.program or question.id for question in self.questions])
        names = [f"prompt of {question.id}" for question in self.questions]
        check_lengths(policy.model, self.prompts, [len(answer) for answer in self.answers], names)

    def inputs(self) -> Iterable[bytes]:
        """Return the tokens of the problems and answers."""
        return (tokens.tobytes() + b"\n" for tokens in [*self.prompts, *self.answers])

    def metadata(self) -> dict[str, Any]:
        """Describe the problems to train on."""
        return {"pool": pool_of(self.source.name, self.questions) | recorded_of(self.source)}

    def probe_prompts(self) -> ProbePrompts:
        """Return validation problems of the task."""
        return solver_probes(self.source, self.policy, self.config.seed, self.config.max_new_tokens)

    def indices(self, step: int) -> list[int]:
        """Return the indices of the problems of a step."""
        return data_order.of_step(self.config, step, self.config.batch_size, len(self.questions))

    def next_batch(self, step: int) -> StepData:
        """Return the completions of the step, each with advantage 1."""
        indices = self.indices(step)
        questions = [self.questions[index] for index in indices]
        batch = Batch(
            [self.prompts[index] for index in indices],
            [self.answers[index] for index in indices],
            np.arange(len(indices)),
            np.ones(len(indices)),
            ["solver"] * len(indices),
            [question.task for question in questions],
            [question.id for question in questions],
        )
        texts = [str(question.answer) for question in questions]
        metrics = answer_metrics(questions, texts, batch.completions, self.policy.token_kinds) | self.coverage.after(step)
        return StepData.of(batch, {"length/mean": float(batch.lengths.mean())} | metrics)
