"""Sampling in groups: each prompt is computed once for all of its samples, and finished rows leave the batch.

Each row has its own random stream and draws a token by inverting its cumulative distribution, summed in float64. Apart from rounding of
the logits, a completion depends only on its prompt and its random numbers, not on the other rows of the batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from numpy.typing import ArrayLike
from torch import Tensor

from dynamics.errors import InputError
from dynamics.train.batch import pad_left
from dynamics.train.config import PolicyGradientConfig
from dynamics.train.policy import Policy
from dynamics.train.rng import stream

#: fraction of finished rows at which they are removed from the batch, which copies the keys and values of the other rows
COMPACT = 0.25
#: block size of the cumulative sum: a block is drawn first, then a token within it
BLOCK = 256


@dataclass(frozen=True)
class SampledCompletion:
    """One completion.

    Attributes
    ----------
    ids : (tokens,) including the end-of-sequence token if it was sampled.
    logprobs : (tokens,) float32, nats; log-probabilities under the sampling distribution, after temperature and truncation.
    ended : why the completion ended: ``eos``, ``stop`` or ``length``.
    """

    ids: Int[np.ndarray, " tokens"]
    logprobs: Float32[np.ndarray, " tokens"]
    ended: str


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
    with torch.no_grad(), computing:
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            for first in range(0, group, rows):
                samples = range(first, min(first + rows, group))
                groups = _sample_chunk(model, prompt_ids, chosen, samples, temperatures[first : first + rows], params, rng_for)
                for index, sampled in zip(chosen, groups, strict=True):
                    completions[index] += sampled
    return completions


def sample(
    policy: Policy,
    prompts: Sequence[ArrayLike],
    group: int,
    config: PolicyGradientConfig,
    purpose: str,
    step: int,
    limit: int | None = None,
) -> list[list[SampledCompletion]]:
    """Sample ``group`` completions of each prompt from a policy, with the sampling settings of a run.

    Parameters
    ----------
    policy : model to sample from, in its compute dtype.
    prompts : token ids, (tokens,) each.
    group : number of completions per prompt.
    config : settings of the run.
    purpose, step : select the random streams, see ``dynamics.train.rng``.
    limit : maximum completion length; ``config.max_new_tokens`` if None.
    """
    return generate(
        policy.model,
        prompts,
        group,
        max_new_tokens=limit or config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        eos=policy.eos,
        rng_for=lambda prompt, number: stream(config.seed, purpose, step, prompt, number),
        autocast=policy.autocast,
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
    """Raise InputError for empty prompts, and for prompts that exceed the model's positions with their new tokens.

    Parameters
    ----------
    model : a causal language model of transformers.
    prompts : token ids, (tokens,) each.
    more : maximum number of new tokens of each prompt.
    names : of the prompts, for error messages.
    """
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    for prompt, new, name in zip(prompts, more, names, strict=True):
        if not len(prompt):
            raise InputError(f"{name}: is empty")
        if len(prompt) + new > window:
            raise InputError(f"{name}: {len(prompt)} tokens and {new} new ones exceed the model's {window} positions")


class _KeyValueCache:
    """Key-value cache of the active rows: a transformers cache whose layers write into memory that is allocated once."""

    def __init__(self, model: Any, capacity: int):
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        class Layer(DynamicLayer):  # type: ignore[misc]
            """``keys`` and ``values`` are the filled part of (rows, heads, capacity, size)."""

            def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
                if not self.is_initialized:
                    self.lazy_initialization(key_states, value_states)
                    shapes = [(*states.shape[:2], capacity, states.shape[-1]) for states in (key_states, value_states)]
                    self.memory = [key_states.new_empty(shapes[0]), value_states.new_empty(shapes[1])]
                    self.filled = 0
                end = self.filled + key_states.shape[-2]
                for memory, new in zip(self.memory, (key_states, value_states), strict=True):
                    memory[:, :, self.filled : end] = new
                self.filled = end
                self.keys, self.values = (memory[:, :, :end] for memory in self.memory)
                return self.keys, self.values

            def select(self, rows: Tensor) -> None:
                """Keep, repeat or drop rows."""
                selected = []
                for memory in self.memory:
                    fresh = memory.new_empty((len(rows), *memory.shape[1:]))
                    fresh[:, :, : self.filled] = memory[:, :, : self.filled].index_select(0, rows)
                    selected.append(fresh)
                self.memory = selected
                self.keys, self.values = (memory[:, :, : self.filled] for memory in self.memory)

        self.cache = DynamicCache(config=model.config)
        self.in_place = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        if self.in_place:
            self.cache.layers = [Layer() for _ in self.cache.layers]

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or drop rows."""
        if self.in_place:
            for layer in self.cache.layers:
                layer.select(rows)
        else:
            self.cache.batch_select_indices(rows)


@dataclass
class _Decoder:
    """Token-by-token decoding of the active rows.

    Attributes
    ----------
    logits : (rows, vocabulary) float32, of the next token.
    mask : (rows, width + tokens) attention mask, 1 for tokens, also future ones; None if no prompt is padded.
    position : (rows,) position of the last token.
    width : length of the padded prompts.
    """

    model: Any
    cache: _KeyValueCache
    logits: Float32[Tensor, "rows vocabulary"]
    mask: Int[Tensor, "rows columns"] | None
    position: Int[Tensor, " rows"]
    width: int

    @classmethod
    def prefill(cls, model: Any, prompts: Sequence[Int[np.ndarray, " _"]], group: int, limit: int) -> _Decoder:
        """Compute the prompts, and repeat each for ``group`` rows."""
        device = next(model.parameters()).device
        ids, mask, positions = (torch.from_numpy(array).to(device) for array in pad_left(prompts))
        width = ids.shape[1]
        cache = _KeyValueCache(model, width + limit)
        padded = bool((mask == 0).any())
        output = model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=positions,
            past_key_values=cache.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        rows = torch.arange(len(prompts), device=device).repeat_interleave(group)
        cache.select(rows)
        extended = torch.cat([mask, mask.new_ones(len(prompts), limit)], 1)[rows] if padded else None
        return cls(model, cache, output.logits[:, -1].float()[rows], extended, positions[rows, -1], width)

    def select(self, rows: Tensor) -> None:
        """Keep some rows; the logits are those of the last step."""
        self.cache.select(rows)
        self.position = self.position[rows]
        self.mask = None if self.mask is None else self.mask[rows]

    def append(self, tokens: Int[Tensor, " rows"], count: int) -> None:
        """Append a token to each row, which then has ``count`` new tokens, and compute the next logits."""
        self.position = self.position + 1
        output = self.model(
            input_ids=tokens[:, None],
            attention_mask=None if self.mask is None else self.mask[:, : self.width + count],
            position_ids=self.position[:, None],
            past_key_values=self.cache.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits = output.logits[:, -1].float()


def _sample_chunk(
    model: Any,
    prompts: Sequence[Int[np.ndarray, " _"]],
    chosen: Sequence[int],
    samples: range,
    temperatures: Sequence[float],
    params: SamplingParams,
    rng_for: Callable[[int, int], np.random.Generator],
) -> list[list[SampledCompletion]]:
    """Sample the completions with indices ``samples``, at these temperatures, of the ``chosen`` prompts."""
    limit = params.max_new_tokens
    decoder = _Decoder.prefill(model, [prompts[index] for index in chosen], len(samples), limit)
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
