"""Reinforcement learning from verifiable rewards: groups of samples, judged by the task's verifier."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from dynamics.errors import InputError
from dynamics.train import data_order, objectives
from dynamics.train.batch import Batch, Method, StepData
from dynamics.train.config import RLVRConfig
from dynamics.train.policy import Policy
from dynamics.train.probe_prompts import ProbePrompts, solver_probes
from dynamics.train.samplers.transformers import sample
from dynamics.train.tasks.problem import Source, judge
from dynamics.train.tasks.prompt_formats import decode, encode_questions


class RLVR(Method):
    """Makes batches of what the policy of the moment sampled; has no state."""

    record_every = 1

    def __init__(self, config: RLVRConfig, policy: Policy, source: Source):
        self.config, self.policy = config, policy
        self.questions = source.questions("training", config.num_problems, config.seed)
        if not self.questions:
            raise InputError(f"{source.name}: has no problems to train on")
        self.prompts = encode_questions(policy.tokenizer, self.questions)
        self.source = source

    def probe_prompts(self) -> ProbePrompts:
        return solver_probes(self.source, self.policy, self.config.seed, self.config.max_new_tokens)

    def next_batch(self, step: int) -> StepData:
        config = self.config
        places = data_order.chosen(config.seed, step, config.prompts_per_step, len(self.questions))
        begin = time.perf_counter()
        groups = sample(self.policy, [self.prompts[place] for place in places], config.group_size, config, "rollout", step)
        seconds = time.perf_counter() - begin
        rows = [(place, one) for place, group in zip(places, groups, strict=True) for one in group]
        texts = [decode(self.policy.tokenizer, one.ids, self.policy.eos) for _, one in rows]
        verdicts = [judge(self.questions[place], text) for (place, _), text in zip(rows, texts, strict=True)]
        rewards = np.array([verdict.score for verdict in verdicts])
        prompt_of = np.repeat(np.arange(len(places)), config.group_size)
        lengths = np.array([len(one.ids) for _, one in rows])
        advantages = objectives.advantages(config.advantage, rewards, prompt_of, lengths)
        asked = [self.questions[place] for place, _ in rows]
        batch = Batch(
            [self.prompts[place] for place in places],
            [one.ids for _, one in rows],
            prompt_of,
            advantages,
            ["solver"] * len(rows),
            [one.task for one in asked],
            [one.id for one in asked],
            [one.logprobs for _, one in rows],
            config.temperature,
        )
        rollouts = [
            {
                "prompt": question.prompt,
                "completion": text,
                "prompt_ids": self.prompts[place].tolist(),
                "completion_ids": one.ids.tolist(),
                "role": "solver",
                "task": question.task,
                "problem": question.id,
                "reward": verdict.score,
                "reason": verdict.reason,
                "advantage": float(advantage),
                "ended": one.ended,
                "temperature": config.temperature,
            }
            for (place, one), question, text, verdict, advantage in zip(rows, asked, texts, verdicts, advantages, strict=True)
        ]
        metrics = reward_metrics(rewards.reshape(-1, config.group_size), [one.task for one in asked]) | {
            "length/mean": float(lengths.mean()),
            "length/truncated": float(np.mean([one.ended == "length" for _, one in rows])),
            "time/sampling": seconds,
        }
        return StepData(batch, metrics, rollouts)


def reward_metrics(rewards: np.ndarray[Any, Any], tasks: list[str]) -> dict[str, float]:
    """Of rewards (groups, samples): their mean, by task too, and how groups are made up."""
    found = {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "group/std": float(rewards.std(1).mean()),
        "group/zero_std": float((rewards.std(1) == 0).mean()),
        "group/all_correct": float((rewards >= 1).all(1).mean()),
        "group/none_correct": float((rewards < 1).all(1).mean()),
    }
    flat = rewards.ravel()
    if len(kinds := sorted(set(tasks))) > 1:
        found |= {f"reward/{kind}": float(flat[[task == kind for task in tasks]].mean()) for kind in kinds}
    return found
