"""Proposals: sample tasks from the proposer, parse them, and run them for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dynamics.train.config import SelfPlayConfig
from dynamics.train.games.buffer import Buffer, BufferEntry
from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.samplers.transformers import SampledCompletion, sample
from dynamics.train.sandbox.literals import Refused
from dynamics.train.sandbox.runner import ProgramRunner
from dynamics.train.tasks.problem import ProposedTask
from dynamics.train.tasks.prompt_formats import PromptFormat, decode, encode_prompts


@dataclass
class Proposal:
    """A proposed task, with its validity and reward.

    Attributes
    ----------
    kind : task type.
    prompt, prompt_ids : prompt as text and tokens.
    sampled, text : completion as tokens and text.
    references : tasks shown in the prompt.
    reason : why the proposal is invalid; empty if it is valid.
    entry : the task if valid, else None.
    rate : fraction of the solver's samples that solved it.
    reward : proposer reward.
    """

    kind: str
    prompt: str
    prompt_ids: Int[np.ndarray, " prompt"]
    sampled: SampledCompletion
    text: str
    references: list[ProposedTask]
    reason: str = ""
    entry: BufferEntry | None = None
    rate: float = 0.0
    reward: float = 0.0


class Proposer:
    """Samples proposals from a policy and validates them.

    Attributes
    ----------
    identity : the identity program, f(x) = x, used as the reference if there is no other task.
    """

    def __init__(
        self, config: SelfPlayConfig, policy: Policy, prompt_format: PromptFormat, runner: ProgramRunner, task_types: Sequence[str]
    ):
        self.config, self.policy, self.prompt_format, self.runner = config, policy, prompt_format, runner
        self.task_types = task_types
        self.identity = ProposedTask(prompt_format.identity, (("abc",),))

    def propose(self, buffer: Buffer, step: int, count: int, purpose: str) -> list[Proposal]:
        """Sample ``count`` proposals of each task type, conditioned on references from the buffer.

        ``step`` and ``purpose`` select the random streams.
        """
        config = self.config
        requests: list[tuple[str, str, list[ProposedTask], str | None]] = []
        for kind in self.task_types:
            program: str | None = None
            rng = stream(config.seed, f"references {kind} {purpose}", step)
            for _ in range(count):
                if kind == "induction":
                    pool = [entry.proposed for entry in buffer if entry.kind != "induction"]
                    program = pool[int(rng.integers(len(pool)))].program
                    requests.append((kind, self.prompt_format.proposal_prompt(kind, [], program), [], program))
                    continue
                pool = [entry.proposed for entry in buffer if entry.kind == kind] or [self.identity]
                if config.num_references:
                    references = [pool[int(index)] for index in rng.choice(len(pool), min(config.num_references, len(pool)), replace=False)]
                else:  # the prompt needs an example
                    references = [self.identity]
                requests.append((kind, self.prompt_format.proposal_prompt(kind, references, None), references, None))
        tokenizer = self.policy.tokenizer
        ids = encode_prompts(tokenizer, [prompt for _, prompt, _, _ in requests])
        groups = sample(self.policy, ids, 1, config, purpose, step, config.max_proposal_tokens)
        proposals = []
        for (kind, prompt, references, program), prompt_ids, group in zip(requests, ids, groups, strict=True):
            text = decode(tokenizer, group[0].ids, self.policy.eos)
            proposal = Proposal(kind, prompt, prompt_ids, group[0], text, references)
            if group[0].ended == "length":
                proposal.reason = "not ended"
            else:
                try:
                    proposal.entry = BufferEntry(kind, self.prompt_format.parse_proposal(kind, text, program), (), step)
                except Refused as error:
                    proposal.reason = str(error)
            proposals.append(proposal)
        return proposals

    def validate(self, proposals: list[Proposal], buffer: Buffer, step: int) -> None:
        """Execute parsed proposals; reject failures, nondeterminism and duplicates by setting ``reason`` and removing ``entry``."""
        known = {entry.key for entry in buffer}
        readable = [(proposal, proposal.entry) for proposal in proposals if proposal.entry is not None]
        outcomes = self.runner.run_deterministic([(entry.proposed.program, entry.proposed.inputs) for _, entry in readable])
        for (proposal, entry), outcome in zip(readable, outcomes, strict=True):
            proposal.entry = None
            arguments = [value for call in entry.proposed.inputs for value in call]
            if outcome.values is None:
                proposal.reason = (outcome.error or "no value").partition(":")[0]
            elif not all(self.prompt_format.accepts_value(value) for value in (*outcome.values, *arguments)):
                proposal.reason = "value too long"
            elif entry.key in known:
                proposal.reason = "duplicate"
            else:
                known.add(entry.key)
                proposal.entry = BufferEntry(proposal.kind, entry.proposed, tuple(outcome.values), step)
