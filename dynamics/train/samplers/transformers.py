"""Sampling in groups: each prompt is computed once for all of its samples, and finished rows leave the batch.

Each row has its own random stream and draws a token by inverting its cumulative distribution, summed in float64. Apart from rounding of
the logits, a completion depends only on its prompt and its random numbers, not on the other rows of the batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from dynamics.errors import InputError
from dynamics.rope import length_rule
from dynamics.train.completions import Request, SampledCompletion
from dynamics.train.policy import Policy
from dynamics.train.samplers import layer_decoder
from dynamics.train.samplers.model_decoder import ModelDecoder

#: fraction of finished rows at which they are removed from the batch, which copies the keys and values of the other rows
COMPACT = 0.25
#: block size of the cumulative sum: a block is drawn first, then a token within it
BLOCK = 256


@dataclass(frozen=True)
class SamplingParams:
    """Truncation of the sampling distribution and stopping criteria.

    Attributes
    ----------
    top_k, top_p : top-k and nucleus sampling; disabled by 0 and 1.
    eos : token ids that end a completion.
    stop : strings that end a completion.
    tokenizer : decodes tokens for ``stop``.
    max_new_tokens : maximum completion length in tokens.
    """

    top_k: int = 0
    top_p: float = 1.0
    eos: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    tokenizer: Any = None
    max_new_tokens: int = 1


def generate(
    model: Any,
    prompts: Sequence[ArrayLike],
    group: int,
    *,
    max_new_tokens: int,
    temperature: float | Sequence[float] = 1.0,
    eos: Collection[int],
    rng_for: Callable[[int, int], np.random.Generator],
    top_k: int = 0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    tokenizer: Any = None,
    rows: int = 1024,
    autocast: torch.dtype | None = None,
    remarks: list[str] | None = None,
) -> list[list[SampledCompletion]]:
    """Sample ``group`` completions of each prompt.

    Parameters
    ----------
    model : a causal language model of transformers.
    prompts : token ids, (tokens,) each.
    group : number of completions per prompt.
    max_new_tokens : maximum completion length in tokens.
    temperature : sampling temperature, of all samples or of each sample of a group; 0 is greedy decoding, with log-probabilities of 0.
    eos : token ids that end a completion.
    rng_for : returns the random generator for a prompt index and a sample index.
    top_k, top_p : top-k and nucleus sampling; disabled by 0 and 1.
    stop : strings that end a completion; all sampled tokens are kept.
    tokenizer : decodes tokens for ``stop``.
    rows : maximum number of rows in a batch.
    autocast : dtype of autocast; None to compute in the dtype of the weights.
    remarks : gains a line if the logits of ``layer_decoder`` are not the model's, which then computes the batch itself.

    Returns
    -------
    For each prompt, the list of its completions.
    """
    prompt_ids = [np.asarray(prompt, np.int64) for prompt in prompts]
    temperatures = [temperature] * group if isinstance(temperature, (int, float)) else list(temperature)
    _check(model, prompt_ids, group, max_new_tokens, temperatures, stop, tokenizer)
    params = SamplingParams(top_k, top_p, frozenset(eos), tuple(stop), tokenizer, max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda index: len(prompt_ids[index]))  # batches of similar length need little padding
    size = max(1, rows // group)
    completions: list[list[SampledCompletion]] = [[] for _ in prompts]
    device = next(model.parameters()).device
    computing = torch.autocast(device.type, autocast) if autocast else contextlib.nullcontext()
    longest = max(map(len, prompt_ids), default=0) + max_new_tokens
    with torch.no_grad(), computing:
        known = layer_decoder.refusal(model, autocast, longest) is None
        start = partial(_decoder, model, layer_decoder.Weights.of(model, autocast) if known else None, remarks)
        for begin in range(0, len(order), size):
            chosen = order[begin : begin + size]
            for first in range(0, group, rows):
                samples = range(first, min(first + rows, group))
                groups = _sample_chunk(start, prompt_ids, chosen, samples, temperatures[first : first + rows], params, rng_for)
                for index, sampled in zip(chosen, groups, strict=True):
                    completions[index] += sampled
    return completions


def sample(policy: Policy, request: Request) -> list[list[SampledCompletion]]:
    """Sample from a policy by its own model, in this process and in its compute dtype; returns the completions of each prompt."""
    return generate(
        policy.model,
        request.prompts,
        len(request.temperatures),
        max_new_tokens=request.limit,
        temperature=request.temperatures,
        top_k=request.top_k,
        top_p=request.top_p,
        eos=policy.eos,
        rng_for=request.random,
        autocast=policy.autocast,
        remarks=policy.remarks,
    )


def _check(
    model: Any,
    prompts: Sequence[Int[np.ndarray, " _"]],
    group: int,
    limit: int,
    temperatures: Sequence[float],
    stop: Sequence[str],
    tokenizer: Any,
) -> None:
    for temperature in temperatures:
        if not 0 <= temperature < float("inf"):
            raise InputError(f"temperature {temperature}: must be at least 0, and finite")
    if len(temperatures) != group:
        raise InputError(f"{len(temperatures)} temperatures for groups of {group}: give one, or one for each sample of a group")
    if group < 1 or limit < 1:
        raise InputError(f"group of {group}, {limit} new tokens: both must be at least 1")
    if stop and tokenizer is None:
        raise InputError("stop texts need the tokenizer")
    check_lengths(model, prompts, [limit] * len(prompts), [f"prompt {number}" for number in range(len(prompts))])


def check_lengths(model: Any, prompts: Sequence[Int[np.ndarray, " _"]], more: Sequence[int], names: Sequence[str]) -> None:
    """Raise InputError for empty prompts, and for prompts that, with their new tokens, are too long for the model.

    Too long are more tokens than it has positions, and lengths on which its rotary embedding depends (``LengthRule.refusal``).

    Parameters
    ----------
    model : a causal language model of transformers.
    prompts : token ids, (tokens,) each.
    more : maximum number of new tokens of each prompt.
    names : of the prompts, for error messages.
    """
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    rotary = length_rule(model.config)
    for prompt, new, name in zip(prompts, more, names, strict=True):
        if not len(prompt):
            raise InputError(f"{name}: is empty")
        if len(prompt) + new > window:
            raise InputError(f"{name}: {len(prompt)} tokens and {new} new ones exceed the model's {window} positions")
        if reason := rotary.refusal(len(prompt) + new):
            raise InputError(
                f"{name}: {len(prompt)} tokens and {new} new ones: {reason}; use shorter prompts, fewer new tokens or another model"
            )


def _decoder(
    model: Any,
    weights: layer_decoder.Weights | None,
    remarks: list[str] | None,
    prompts: Sequence[Int[np.ndarray, " _"]],
    group: int,
    limit: int,
) -> layer_decoder.LayerDecoder | ModelDecoder:
    """Compute the prompts of a batch, for ``layer_decoder`` if there are weights for it and its logits are the model's own."""
    if weights is not None:
        decoder = layer_decoder.LayerDecoder(model, weights, prompts, group, limit)
        off, accepted = decoder.difference(), layer_decoder.SAME_LOGITS[weights.dtype]
        if off <= accepted:
            return decoder
        line = (
            f"sampling by the model's own forward pass where the faster decoder's logits differ by more than {accepted:g} of their spread"
        )
        if remarks is not None and line not in remarks:
            remarks.append(line)
    return ModelDecoder.prefill(model, prompts, group, limit)


def decoder_of(policy: Policy) -> str:
    """Say which decoder samples from a policy: ``layers``, or ``model`` and why; batches may still be refused, see ``generate``."""
    reason = layer_decoder.refusal(policy.model, policy.autocast)
    return "layers" if reason is None else f"model: {reason}"


def _sample_chunk(
    start: Callable[..., layer_decoder.LayerDecoder | ModelDecoder],
    prompts: Sequence[Int[np.ndarray, " _"]],
    chosen: Sequence[int],
    samples: range,
    temperatures: Sequence[float],
    params: SamplingParams,
    rng_for: Callable[[int, int], np.random.Generator],
) -> list[list[SampledCompletion]]:
    """Sample the completions with indices ``samples``, at these temperatures, of the ``chosen`` prompts."""
    limit = params.max_new_tokens
    decoder = start([prompts[index] for index in chosen], len(samples), limit)
    finite = torch.isfinite(decoder.logits.max(1).values)
    if not finite.all():
        raise InputError(f"prompt {chosen[int(torch.nonzero(~finite)[0]) // len(samples)]}: the model's logits are not finite")
    count = len(chosen) * len(samples)
    uniform = np.stack([rng_for(index, number).random(limit) for index in chosen for number in samples])
    remaining = torch.from_numpy(uniform).to(decoder.logits.device)
    temperature = torch.tensor(temperatures, dtype=torch.float32, device=decoder.logits.device).repeat(len(chosen))
    tokens = np.zeros((count, limit), np.int64)
    logprobs = np.zeros((count, limit), np.float32)
    length = np.zeros(count, np.int64)
    ended = ["length"] * count
    active, over = np.arange(count), np.zeros(count, bool)  # the active rows, and which of them have ended
    for step in range(limit):
        drawn, logp = draw(decoder.logits, remaining[:, step], temperature, params)
        drawn_ids = drawn.cpu().numpy()
        unfinished = active[~over]
        tokens[unfinished, step], logprobs[unfinished, step], length[unfinished] = drawn_ids[~over], logp.cpu().numpy()[~over], step + 1
        at_eos = np.isin(drawn_ids, list(params.eos))
        for reason, ends in (("eos", at_eos), ("stop", _contains_stop(tokens[:, : step + 1], active, over | at_eos, params))):
            for row in active[ends & ~over].tolist():
                ended[row] = reason
            over = over | ends
        if over.all() or step + 1 == limit:
            break
        if over.mean() >= COMPACT:
            keep = torch.from_numpy(np.flatnonzero(~over)).to(drawn.device)
            active, over = active[~over], np.zeros(len(keep), bool)
            decoder.select(keep)
            drawn, remaining, temperature = drawn[keep], remaining[keep], temperature[keep]
        decoder.append(drawn, step + 1)
    completions = [SampledCompletion(tokens[row, : length[row]], logprobs[row, : length[row]], ended[row]) for row in range(count)]
    return [completions[start : start + len(samples)] for start in range(0, count, len(samples))]


def _contains_stop(
    tokens: Int[np.ndarray, "samples tokens"],
    active: Int[np.ndarray, " rows"],
    over: Bool[np.ndarray, " rows"],
    params: SamplingParams,
) -> Bool[np.ndarray, " rows"]:
    """Mark the active rows, (rows,), that have not ended and contain a stop string."""
    contains = np.zeros(len(active), bool)
    if params.stop:
        for row in np.flatnonzero(~over).tolist():
            text = params.tokenizer.decode(tokens[active[row]], skip_special_tokens=False)
            contains[row] = any(stop in text for stop in params.stop)
    return contains


def draw(
    logits: Float[Tensor, "rows vocabulary"],
    uniform: Float[Tensor, " rows"],
    temperature: Float[Tensor, " rows"],
    params: SamplingParams,
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Draw a token of each row by inverting its cumulative distribution.

    Parameters
    ----------
    logits : (rows, vocabulary).
    uniform : (rows,) uniform random numbers in [0, 1).
    temperature : (rows,) sampling temperatures; 0 takes the most likely token, with a log-probability of 0.
    params : truncation.

    Returns
    -------
    (rows,) tokens, and their log-probabilities in nats under the sampling distribution.
    """
    greedy = temperature == 0
    if greedy.all():
        return logits.argmax(1), logits.new_zeros(len(logits))
    scaled = logits / temperature.masked_fill(greedy, 1.0)[:, None] if (temperature != 1).any() else logits
    if params.top_k or params.top_p < 1:
        scaled = _truncated(scaled, params)
    peak = scaled.amax(1, keepdim=True)
    weight = torch.exp(scaled - peak)
    weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % BLOCK)).view(len(weight), -1, BLOCK)
    cumulative = weight.sum(2, dtype=torch.float64).cumsum(1)  # up to the end of each block
    quantile = uniform[:, None] * cumulative[:, -1:]
    block = torch.searchsorted(cumulative, quantile, right=True).clamp(max=cumulative.shape[1] - 1)
    inside = weight.gather(1, block[..., None].expand(-1, 1, BLOCK))[:, 0]
    rest = quantile - torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    offset = torch.searchsorted(inside.double().cumsum(1), rest, right=True)
    last = BLOCK - 1 - (inside > 0).flip(1).to(torch.uint8).argmax(1, keepdim=True)  # last token of the block with nonzero probability
    token = block * BLOCK + torch.minimum(offset, last)
    logp = (scaled.gather(1, token).double() - peak - cumulative[:, -1:].log())[:, 0].float()
    if not greedy.any():
        return token[:, 0], logp
    return torch.where(greedy, logits.argmax(1), token[:, 0]), logp.masked_fill(greedy, 0.0)


def _truncated(scaled: Float[Tensor, "rows vocabulary"], params: SamplingParams) -> Float[Tensor, "rows vocabulary"]:
    """Mask with -inf all tokens outside the ``top_k`` most likely and the nucleus of probability ``top_p``; ties by token id."""
    ordered, token = torch.sort(scaled, dim=1, descending=True, stable=True)
    kept = torch.ones_like(ordered, dtype=torch.bool)
    if params.top_k:
        kept[:, params.top_k :] = False
    if params.top_p < 1:
        share = torch.softmax(ordered.masked_fill(~kept, -torch.inf), 1, dtype=torch.float64)
        kept &= share.cumsum(1) - share < params.top_p
    return scaled.masked_fill(~torch.zeros_like(kept).scatter(1, token, kept), -torch.inf)
