"""Completions sampled in groups: a prompt is computed once for all samples of it, and rows that have ended leave the batch.

Every row draws its tokens by numbers of its own, one a token, inverted through the distribution, summed in float64. What a row becomes thus
depends on its prompt and its numbers, not on what else is in the batch, but for rounding of the logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dynamics.errors import InputError
from dynamics.train.config import PolicyGradientConfig
from dynamics.train.policy import Policy
from dynamics.train.rng import stream

#: share of rows that have ended at which the others are moved together; moving them copies their keys and values
COMPACT = 0.25
#: tokens whose probabilities are summed before it is known which of them is drawn
BLOCK = 256


@dataclass(frozen=True)
class Sampled:
    """One completion.

    Attributes
    ----------
    ids : (tokens,) with the end-of-sequence token if it came.
    logprobs : (tokens,) float32, nats; of these tokens under the distribution they were drawn from, temperature and truncation applied.
    ended : ``eos``, ``stop`` or ``length``.
    """

    ids: np.ndarray[Any, Any]
    logprobs: np.ndarray[Any, Any]
    ended: str


@dataclass(frozen=True)
class Rule:
    """How the next token is drawn, and what ends a completion."""

    temperature: float
    top_k: int
    top_p: float
    eos: frozenset[int]
    stop: tuple[str, ...]
    tokenizer: Any
    limit: int


def generate(
    model: Any,
    prompts: Sequence[Any],
    group: int,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    eos: Collection[int],
    noise: Callable[[int, int], np.random.Generator],
    top_k: int = 0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    tokenizer: Any = None,
    rows: int = 1024,
    autocast: torch.dtype | None = None,
) -> list[list[Sampled]]:
    """``group`` samples of each prompt.

    Parameters
    ----------
    prompts : token ids, (tokens,) each.
    temperature : 0 takes the likeliest token, whose log-probability is then 0.
    noise : (prompt, sample) -> the random stream of that row alone.
    stop : texts that end a completion once it contains one; its tokens are kept as sampled.
    rows : samples in work at once.
    """
    _check(model, prompts, group, max_new_tokens, temperature, stop, tokenizer)
    rule = Rule(temperature, top_k, top_p, frozenset(eos), tuple(stop), tokenizer, max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))  # of similar length together: little padding
    size = max(1, rows // group)
    found: list[list[Sampled]] = [[] for _ in prompts]
    device = next(model.parameters()).device
    computing = torch.autocast(device.type, autocast) if autocast else contextlib.nullcontext()
    with torch.no_grad(), computing:
        for start in range(0, len(order), size):
            places = order[start : start + size]
            for part in range(0, group, rows):
                numbers = range(part, min(part + rows, group))
                for place, samples in zip(places, _chunk(model, prompts, places, numbers, rule, noise, device), strict=True):
                    found[place] += samples
    return found


def sample(
    policy: Policy, prompts: list[Any], group: int, config: PolicyGradientConfig, purpose: str, step: int, limit: int | None = None
) -> list[list[Sampled]]:
    """``group`` samples of each prompt by a policy, as a run is told to sample; at most ``limit`` tokens each, else ``max_new_tokens``."""
    return generate(
        policy.model,
        prompts,
        group,
        max_new_tokens=limit or config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        eos=policy.eos,
        noise=lambda prompt, number: stream(config.seed, purpose, step, prompt, number),
        autocast=policy.autocast,
    )


def _check(model: Any, prompts: Sequence[Any], group: int, limit: int, temperature: float, stop: Sequence[str], tokenizer: Any) -> None:
    if temperature < 0:
        raise InputError(f"temperature {temperature}: must be at least 0")
    if group < 1 or limit < 1:
        raise InputError(f"group of {group}, {limit} new tokens: both must be at least 1")
    if stop and tokenizer is None:
        raise InputError("stop texts need the tokenizer")
    check_lengths(model, prompts, [limit] * len(prompts), [f"prompt {number}" for number in range(len(prompts))])


def check_lengths(model: Any, prompts: Sequence[Any], more: Sequence[int], names: Sequence[str]) -> None:
    """Refuse prompts (token ids) without a token, and those that with so many ``more`` tokens have no room in the model's positions."""
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    for prompt, new, name in zip(prompts, more, names, strict=True):
        if not len(prompt):
            raise InputError(f"{name}: is empty")
        if len(prompt) + new > window:
            raise InputError(f"{name}: {len(prompt)} tokens and {new} new ones are beyond the model's {window} positions")


class _Rows:
    """Keys and values of rows in work, as a transformers cache whose layers write in place into memory allocated once."""

    def __init__(self, model: Any, capacity: int):
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        class Layer(DynamicLayer):  # type: ignore[misc]
            """``keys`` and ``values`` are the filled part of (rows, heads, capacity, size)."""

            def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
                if not self.is_initialized:
                    self.lazy_initialization(key_states, value_states)
                    self.room = [one.new_empty((*one.shape[:2], capacity, one.shape[-1])) for one in (key_states, value_states)]
                    self.filled = 0
                end = self.filled + key_states.shape[-2]
                for room, new in zip(self.room, (key_states, value_states), strict=True):
                    room[:, :, self.filled : end] = new
                self.filled = end
                self.keys, self.values = (room[:, :, :end] for room in self.room)
                return self.keys, self.values

            def choose(self, rows: torch.Tensor) -> None:
                """Keep, repeat or drop rows."""
                made = []
                for room in self.room:
                    fresh = room.new_empty((len(rows), *room.shape[1:]))
                    fresh[:, :, : self.filled] = room[:, :, : self.filled].index_select(0, rows)
                    made.append(fresh)
                self.room = made
                self.keys, self.values = (room[:, :, : self.filled] for room in self.room)

        self.cache = DynamicCache(config=model.config)
        self.plain = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        if self.plain:
            self.cache.layers = [Layer() for _ in self.cache.layers]

    def choose(self, rows: torch.Tensor) -> None:
        if self.plain:
            for layer in self.cache.layers:
                layer.choose(rows)
        else:
            self.cache.batch_select_indices(rows)


def _chunk(
    model: Any, prompts: Sequence[Any], places: Sequence[int], numbers: range, rule: Rule, noise: Callable[..., Any], device: torch.device
) -> list[list[Sampled]]:
    """The samples with these numbers of these prompts."""
    width = max(len(prompts[place]) for place in places)
    ids = torch.zeros(len(places), width, dtype=torch.long)
    mask = torch.zeros(len(places), width + rule.limit, dtype=torch.long)
    for row, place in enumerate(places):
        prompt = torch.as_tensor(np.asarray(prompts[place], np.int64))
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) : width] = prompt, 1
    mask[:, width:] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask[:, :width].cumsum(1) - 1).clamp(min=0)
    rows = _Rows(model, width + rule.limit)
    padded = bool((mask[:, :width] == 0).any())
    made = model(
        input_ids=ids,
        attention_mask=mask[:, :width] if padded else None,
        position_ids=positions,
        past_key_values=rows.cache,
        use_cache=True,
        logits_to_keep=1,
    )
    spread = torch.arange(len(places), device=device).repeat_interleave(len(numbers))
    rows.choose(spread)
    logits, mask, position = made.logits[:, -1].float()[spread], mask[spread], positions[spread, -1]
    count = len(spread)
    if not torch.isfinite(logits.max(1).values).all():
        bad = int(torch.nonzero(~torch.isfinite(logits.max(1).values))[0]) // len(numbers)
        raise InputError(f"prompt {places[bad]}: the model's logits are not finite")
    uniform = np.empty((count, rule.limit))
    for row in range(count):
        uniform[row] = noise(places[row // len(numbers)], numbers[row % len(numbers)]).random(rule.limit)
    numbers_left = torch.from_numpy(uniform).to(device)
    tokens = np.zeros((count, rule.limit), np.int64)
    logprobs = np.zeros((count, rule.limit), np.float32)
    length = np.zeros(count, np.int64)
    ended = ["length"] * count
    active, over = np.arange(count), np.zeros(count, bool)
    for step in range(rule.limit):
        chosen, logp = draw(logits, numbers_left[:, step], rule)
        picked = chosen.cpu().numpy()
        mine = active[~over]
        tokens[mine, step], logprobs[mine, step], length[mine] = picked[~over], logp.cpu().numpy()[~over], step + 1
        last = ~over & np.isin(picked, list(rule.eos))
        over |= last
        for row in active[last].tolist():
            ended[row] = "eos"
        if rule.stop:
            for place in np.flatnonzero(~over).tolist():
                text = rule.tokenizer.decode(tokens[active[place], : step + 1], skip_special_tokens=False)
                if any(one in text for one in rule.stop):
                    over[place], ended[active[place]] = True, "stop"
        if over.all() or step + 1 == rule.limit:
            break
        if over.mean() >= COMPACT:
            keep = torch.from_numpy(np.flatnonzero(~over)).to(device)
            active, over = active[~over], np.zeros(len(keep), bool)
            rows.choose(keep)
            chosen, mask, position, numbers_left = chosen[keep], mask[keep], position[keep], numbers_left[keep]
        position = position + 1
        made = model(
            input_ids=chosen[:, None],
            attention_mask=mask[:, : width + step + 1] if padded else None,
            position_ids=position[:, None],
            past_key_values=rows.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = made.logits[:, -1].float()
    every = [Sampled(tokens[row, : length[row]], logprobs[row, : length[row]], ended[row]) for row in range(count)]
    return [every[start : start + len(numbers)] for start in range(0, count, len(numbers))]


def draw(logits: torch.Tensor, uniform: torch.Tensor, rule: Rule) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows,) token and its log-probability, from logits (rows, vocabulary) and a number in [0, 1) a row."""
    if rule.temperature == 0:
        return logits.argmax(1), logits.new_zeros(len(logits))
    if rule.top_k or rule.top_p < 1:
        logits = _truncated(logits, rule)
    scaled = logits / rule.temperature if rule.temperature != 1 else logits
    top = scaled.amax(1, keepdim=True)
    weight = torch.exp(scaled - top)
    weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % BLOCK)).view(len(weight), -1, BLOCK)
    reach = weight.sum(2, dtype=torch.float64).cumsum(1)
    aim = uniform[:, None] * reach[:, -1:]
    block = torch.searchsorted(reach, aim, right=True).clamp(max=reach.shape[1] - 1)
    inside = weight.gather(1, block[..., None].expand(-1, 1, BLOCK))[:, 0]
    rest = aim - torch.where(block > 0, reach.gather(1, (block - 1).clamp(min=0)), 0.0)
    place = torch.searchsorted(inside.double().cumsum(1), rest, right=True)
    last = BLOCK - 1 - (inside > 0).flip(1).to(torch.uint8).argmax(1, keepdim=True)
    chosen = block * BLOCK + torch.minimum(place, last)
    logp = scaled.gather(1, chosen).double() - top - reach[:, -1:].log()
    return chosen[:, 0], logp[:, 0].float()


def _truncated(logits: torch.Tensor, rule: Rule) -> torch.Tensor:
    """-inf for what is not among the likeliest ``top_k``, nor in the smallest set of probability ``top_p``; ties by token id."""
    ordered, token = torch.sort(logits / rule.temperature, dim=1, descending=True, stable=True)
    kept = torch.ones_like(ordered, dtype=torch.bool)
    if rule.top_k:
        kept[:, rule.top_k :] = False
    if rule.top_p < 1:
        share = torch.softmax(ordered.masked_fill(~kept, -torch.inf), 1, dtype=torch.float64)
        kept &= share.cumsum(1) - share < rule.top_p
    return logits.masked_fill(~torch.zeros_like(kept).scatter(1, token, kept), -torch.inf)
