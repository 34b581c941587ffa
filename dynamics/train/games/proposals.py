"""Proposals: what a proposer is asked, and how what it writes is read and validated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from dynamics.train.completions import SampledCompletion
from dynamics.train.games.buffer import Buffer, BufferEntry
from dynamics.train.games.languages import Language
from dynamics.train.rng import stream
from dynamics.train.sandbox.literals import Refused
from dynamics.train.tasks.problem import ProposedTask


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
    admitted : whether the task is not valid, and was taken all the same; then ``reason`` says why it is not, and it has no outputs.
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
    admitted: bool = False
    rate: float = 0.0
    reward: float = 0.0

    @property
    def valid(self) -> bool:
        """Whether it is a task, by all rules."""
        return self.entry is not None and not self.admitted


class ProposalRequest(NamedTuple):
    """What a proposer is asked: for a task of a type, after references; for induction, for inputs of ``program``."""

    kind: str
    prompt: str
    references: list[ProposedTask]
    program: str | None


def requests(
    language: Language, buffer: Buffer, task_types: Sequence[str], count: int, num_references: int, seed: int, step: int, purpose: str
) -> list[ProposalRequest]:
    """Ask for ``count`` tasks of each type, after references drawn from the buffer.

    Parameters
    ----------
    language : of the tasks.
    buffer : valid tasks.
    task_types : of the run.
    count : number of requests of each type.
    num_references : shown in a prompt; 0 for the first task of the language only.
    seed, step, purpose : select the random streams.
    """
    first = language.first[0]
    asked: list[ProposalRequest] = []
    for kind in task_types:
        rng = stream(seed, f"references {kind} {purpose}", step)
        for _ in range(count):
            if kind == "induction":
                pool = [entry.proposed for entry in buffer if entry.kind != "induction"]
                program = pool[int(rng.integers(len(pool)))].program
                asked.append(ProposalRequest(kind, language.proposal_prompt(kind, [], program), [], program))
                continue
            pool = [entry.proposed for entry in buffer if entry.kind == kind] or [first]
            if num_references:
                references = [pool[int(index)] for index in rng.choice(len(pool), min(num_references, len(pool)), replace=False)]
            else:  # the prompt needs an example
                references = [first]
            asked.append(ProposalRequest(kind, language.proposal_prompt(kind, references, None), references, None))
    return asked


def parse(
    language: Language, request: ProposalRequest, prompt_ids: Int[np.ndarray, " prompt"], sampled: SampledCompletion, text: str, step: int
) -> Proposal:
    """Read what was written for a request; a task that cannot be read has a reason and no entry."""
    proposal = Proposal(request.kind, request.prompt, prompt_ids, sampled, text, request.references)
    if sampled.ended == "length":
        proposal.reason = "not ended"
    else:
        try:
            proposal.entry = BufferEntry(request.kind, language.parse_proposal(request.kind, text, request.program), (), step)
        except Refused as error:
            proposal.reason = str(error)
    return proposal


def validate(
    language: Language, proposals: list[Proposal], buffer: Buffer, step: int, admit: Callable[[int], bool] = lambda _: False
) -> None:
    """Run parsed proposals; reject those that the language refuses, and duplicates, by setting ``reason`` and removing ``entry``.

    ``admit`` says of the number of a deduction task that the language refuses whether it is taken all the same; duplicates and what may not
    be put to a solver, such as a program that is held out, are never taken.
    """
    numbers = [number for number, proposal in enumerate(proposals) if proposal.entry is not None]
    known = {language.key(entry.kind, entry.proposed) for entry in buffer}
    readable = [(proposal, proposal.entry.proposed) for proposal in proposals if proposal.entry is not None]
    found = zip(numbers, readable, language.run([task for _, task in readable]), strict=True)
    for number, (proposal, proposed), outputs in found:
        proposal.entry = None
        key = language.key(proposal.kind, proposed)
        if isinstance(outputs, str):
            proposal.reason = outputs
            if proposal.kind == "deduction" and key not in known and not language.refusal(proposed) and admit(number):
                known.add(key)
                proposal.admitted, proposal.entry = True, BufferEntry(proposal.kind, proposed, (), step)
        elif key in known:
            proposal.reason = "duplicate"
        else:
            known.add(key)
            proposal.entry = BufferEntry(proposal.kind, proposed, outputs, step)
