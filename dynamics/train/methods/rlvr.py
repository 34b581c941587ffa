"""Reinforcement learning with verifiable rewards: groups of samples, scored by the verifier of the task."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from dynamics.errors import InputError
from dynamics.train import data_order, objectives
from dynamics.train.answers import answer_metrics
from dynamics.train.batch import Batch
from dynamics.train.completions import Request
from dynamics.train.config import RLVRConfig
from dynamics.train.coverage import PoolCoverage
from dynamics.train.method import Method, StepData
from dynamics.train.objectives import Groups, PerSample
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import ProbePrompts, solver_probes
from dynamics.train.sampling import sample
from dynamics.train.tasks.judges import failure_metrics, judge_all
from dynamics.train.tasks.problem import Source, pool_of, recorded_of
from dynamics.train.tasks.prompt_formats import decode, encode_questions


class RLVR(Method):
    """Batches sampled from the current policy, with advantages from the verifier's scores. Has no state.

    Parameters
    ----------
    config
        Settings.
    policy
        The model to sample from and to train.
    source
        Source of the problems.
    """

    record_every = 1

    def __init__(self, config: RLVRConfig, policy: Policy, source: Source):
        self.config, self.policy, self.source = config, policy, source
        self.questions = source.questions("training", config.num_problems, config.seed)
        if not self.questions:
            raise InputError(f"{source.name}: has no problems to train on")
        self.prompts = encode_questions(policy.tokenizer, self.questions)
        self.coverage = PoolCoverage(self.indices, [question.program or question.id for question in self.questions])

    def inputs(self) -> Iterable[bytes]:
        """Return the tokens of the problems."""
        return (tokens.tobytes() + b"\n" for tokens in self.prompts)

    def metadata(self) -> dict[str, Any]:
        """Describe the problems to train on."""
        return {"pool": pool_of(self.source.name, self.questions) | recorded_of(self.source)}

    def probe_prompts(self) -> ProbePrompts:
        """Return validation problems of the task."""
        return solver_probes(self.source, self.policy, self.config.seed, self.config.max_new_tokens)

    def indices(self, step: int) -> list[int]:
        """Return the indices of the problems of a step."""
        return data_order.of_step(self.config, step, self.config.prompts_per_step, len(self.questions))

    def next_batch(self, step: int) -> StepData:
        """Sample and grade a group of completions for each problem of the step."""
        config = self.config
        indices = self.indices(step)
        begin = time.perf_counter()
        prompts = [self.prompts[index] for index in indices]
        groups = sample(self.policy, Request.of(config, prompts, config.group_size, "rollout", step))
        seconds = time.perf_counter() - begin
        samples = [sampled for group in groups for sampled in group]
        prompt_of = np.repeat(np.arange(len(indices)), config.group_size)
        questions = [self.questions[indices[prompt]] for prompt in prompt_of]
        texts = [decode(self.policy.tokenizer, sampled.ids, self.policy.eos) for sampled in samples]
        verdicts = judge_all(questions, texts)
        rewards = np.array([verdict.score for verdict in verdicts])
        lengths = np.array([len(sampled.ids) for sampled in samples])
        advantages = self._advantages(rewards, prompt_of, lengths, [question.task for question in questions])
        batch = Batch(
            [self.prompts[index] for index in indices],
            [sampled.ids for sampled in samples],
            prompt_of,
            advantages,
            ["solver"] * len(samples),
            [question.task for question in questions],
            [question.id for question in questions],
            [sampled.logprobs for sampled in samples],
            config.temperature,
        )
        rollouts = [
            {
                "prompt": question.prompt,
                "completion": text,
                "prompt_ids": self.prompts[indices[prompt]].tolist(),
                "completion_ids": sampled.ids.tolist(),
                "role": "solver",
                "task": question.task,
                "problem": question.id,
                "reward": verdict.score,
                "reason": verdict.reason,
                "advantage": float(advantage),
                "ended": sampled.ended,
                "temperature": config.temperature,
            }
            | question.about_program()
            for prompt, sampled, question, text, verdict, advantage in zip(
                prompt_of, samples, questions, texts, verdicts, advantages, strict=True
            )
        ]
        metrics = reward_metrics(rewards.reshape(-1, config.group_size), [question.task for question in questions])
        metrics |= failure_metrics(verdicts)
        metrics |= answer_metrics(questions, texts, batch.completions, self.policy.token_kinds) | self.coverage.after(step)
        metrics |= {
            "tokens_sampled": int(lengths.sum()),
            "length/mean": float(lengths.mean()),
            "length/truncated": float(np.mean([sampled.ended == "length" for sampled in samples])),
            "time/sampling": seconds,
        }
        return StepData.of(batch, metrics, rollouts)

    def _advantages(self, rewards: PerSample, prompt_of: Groups, lengths: Groups, tasks: list[str]) -> PerSample:
        """Estimate advantages, over the batch or for each task type apart; (samples,) each."""
        name = self.config.advantage
        if self.config.advantage_cells == "batch":
            return objectives.advantages(name, rewards, prompt_of, lengths)
        return objectives.task_relative_reinforce_plus_plus(name, rewards, prompt_of, lengths, ["solver"] * len(tasks), tasks)


def reward_metrics(rewards: Float[np.ndarray, "groups samples"], tasks: list[str]) -> dict[str, float]:
    """Compute mean rewards, in total and by task, and statistics of groups.

    Parameters
    ----------
    rewards : (groups, samples) reward of each sample; 1 if correct.
    tasks : (groups * samples) task of each sample, group by group.

    Returns
    -------
    dict
        Metrics by their names in ``metrics.jsonl``.
    """
    metrics = {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "group/std": float(rewards.std(1).mean()),
        "group/zero_std": float((rewards.std(1) == 0).mean()),
        "group/all_correct": float((rewards >= 1).all(1).mean()),
        "group/none_correct": float((rewards < 1).all(1).mean()),
    }
    flat = rewards.ravel()
    if len(names := sorted(set(tasks))) > 1:
        metrics |= {f"reward/{name}": float(flat[[task == name for task in tasks]].mean()) for name in names}
    return metrics
