"""Proposals: sample tasks from the proposer, parse them, and run them for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dynamics.train.config import SelfPlayConfig
from dynamics.train.games.buffer import Buffer, BufferEntry
from dynamics.train.games.languages import Language
from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.samplers.transformers import SampledCompletion, sample
from dynamics.train.sandbox.literals import Refused
from dynamics.train.tasks.problem import ProposedTask
from dynamics.train.tasks.prompt_formats import decode, encode_prompts


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
    """Samples proposals from a policy and validates them."""

    def __init__(self, config: SelfPlayConfig, policy: Policy, language: Language, task_types: Sequence[str]):
        self.config, self.policy, self.language, self.task_types = config, policy, language, task_types

    def propose(self, buffer: Buffer, step: int, count: int, purpose: str) -> list[Proposal]:
        """Sample ``count`` proposals of each task type, conditioned on references from the buffer.

        ``step`` and ``purpose`` select the random streams.
        """
        config, first = self.config, self.language.first[0]
        requests: list[tuple[str, str, list[ProposedTask], str | None]] = []
        for kind in self.task_types:
            program: str | None = None
            rng = stream(config.seed, f"references {kind} {purpose}", step)
            for _ in range(count):
                if kind == "induction":
                    pool = [entry.proposed for entry in buffer if entry.kind != "induction"]
                    program = pool[int(rng.integers(len(pool)))].program
                    requests.append((kind, self.language.proposal_prompt(kind, [], program), [], program))
                    continue
                pool = [entry.proposed for entry in buffer if entry.kind == kind] or [first]
                if config.num_references:
                    references = [pool[int(index)] for index in rng.choice(len(pool), min(config.num_references, len(pool)), replace=False)]
                else:  # the prompt needs an example
                    references = [first]
                requests.append((kind, self.language.proposal_prompt(kind, references, None), references, None))
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
                    proposal.entry = BufferEntry(kind, self.language.parse_proposal(kind, text, program), (), step)
                except Refused as error:
                    proposal.reason = str(error)
            proposals.append(proposal)
        return proposals

    def validate(self, proposals: list[Proposal], buffer: Buffer, step: int) -> None:
        """Run parsed proposals; reject those that the language refuses, and duplicates, by setting ``reason`` and removing ``entry``."""
        known = {self.language.key(entry.kind, entry.proposed) for entry in buffer}
        readable = [(proposal, proposal.entry.proposed) for proposal in proposals if proposal.entry is not None]
        for (proposal, proposed), outputs in zip(readable, self.language.run([task for _, task in readable]), strict=True):
            proposal.entry = None
            key = self.language.key(proposal.kind, proposed)
            if isinstance(outputs, str):
                proposal.reason = outputs
            elif key in known:
                proposal.reason = "duplicate"
            else:
                known.add(key)
                proposal.entry = BufferEntry(proposal.kind, proposed, outputs, step)
