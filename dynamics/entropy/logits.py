"""Entropy, varentropy, surprisal and rank of next-token distributions, accurate for nearly deterministic distributions.

    stats = from_logits(logits, temperature=0.7, targets=ids)          # torch tensors or numpy arrays, any leading shape
    stats = from_hidden(hidden, lm_head.weight, targets=ids)           # without materialising tokens x vocabulary logits

Half of the tokens of a reasoning model have an entropy below 0.01 nats (arXiv 2506.01939). There, log Z - sum p z, and -sum p log p in the
dtype of the logits, are off by 1 to 100 %; ``dynamics.entropy.kernels`` describes an accurate form. Values are float64, in nats.

Float64 sums do not remove the rounding of the model itself: a forward pass in bfloat16 changes logits by about 2^-8 of their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from dynamics._moved import moved_names
from dynamics.entropy.moments import ROWS, Columns, Counts, softmax_moments
from dynamics.entropy.pieces import Divergences, Pieces, tensor_moments
from dynamics.errors import InputError
from dynamics.models import Head

if TYPE_CHECKING:
    import torch

__getattr__ = moved_names(__name__)

#: a numpy array, or a torch tensor if a tensor was given; torch is optional, so the type cannot be named at import time
Array = Any


@dataclass(frozen=True)
class TokenStats:
    """Statistics per token: float64, with the shape of the logits without the vocabulary axis; torch tensors for torch input.

    Attributes
    ----------
    entropy : -sum p log p, in nats. Padding entries of the vocabulary count unless they are masked by -inf.
    varentropy : variance of -log p under p, in nats^2.
    logsumexp : log of the sum of exp(logits / T).
    surprisal : -log p of the target, in nats; None without targets.
    rank : 1 + number of tokens more likely than the target, so ties share the better rank; int64. None without targets.
    top_ids, top_logits : the most likely tokens in descending order, and their logits before division by the temperature; a further axis.
        None unless requested.
    """

    entropy: Array
    varentropy: Array
    logsumexp: Array
    surprisal: Array | None = None
    rank: Array | None = None
    top_ids: Array | None = None
    top_logits: Array | None = None


def from_logits(logits: Array, temperature: Any = 1.0, targets: Array | None = None, threads: int | None = None) -> TokenStats:
    """Compute entropy, varentropy and logsumexp of each distribution; with ``targets`` also surprisal and rank.

    Parameters
    ----------
    logits : (..., vocabulary) torch tensor or numpy array of float16, bfloat16, float32 or float64. -inf masks a token.
    temperature : above 0; a number, or an array of the leading shape.
    targets : (...) token ids. For negative ids, surprisal is NaN and rank is 0.
    threads : number of CPU threads; one per core if None.

    Returns
    -------
    Torch tensors on the device of ``logits``, or numpy arrays.

    Raises
    ------
    InputError : an empty vocabulary, a temperature that is not positive, targets of another shape or beyond the vocabulary.

    Notes
    -----
    The relative error of the entropy is below 1e-9 for entropies above 1e-300, for vocabularies up to 256k and offsets up to 1e4 in
    float32. This is relative to the given logits; the rounding of the model comes on top. A row with NaN or +inf, or with all entries
    masked, gives NaN for that row only. Entropy, logsumexp and surprisal are differentiable with respect to torch logits; varentropy and
    rank are not.
    """
    if _is_torch(logits):
        return _from_torch(logits, temperature, targets, threads)
    array = np.asarray(logits)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise InputError(f"logits of dtype {array.dtype}: expected floating point")
    if array.ndim < 1 or array.shape[-1] == 0:
        raise InputError(f"logits of shape {array.shape}: the last axis must be a vocabulary")
    shape = array.shape[:-1]
    temperatures = _temperatures(temperature, shape)
    ids = None if targets is None else _targets(np.asarray(targets), shape, array.shape[-1])
    columns = _measure_rows(array.reshape(-1, array.shape[-1]), temperatures, ids, threads)
    return TokenStats(*(None if column is None else column.reshape(shape) for column in columns))


def _is_torch(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "requires_grad")


def _temperatures(temperature: Any, shape: tuple[int, ...]) -> Float[np.ndarray, " rows"]:
    """Broadcast the temperature to one value per row; raise InputError unless all are finite and above 0."""
    values = np.asarray(temperature.detach().cpu().double().numpy() if _is_torch(temperature) else temperature, float)
    if not (values > 0).all() or not np.isfinite(values).all():
        raise InputError("temperature: must be above 0; at 0 the distribution is a single token and its entropy is 0")
    try:
        return np.array(np.broadcast_to(values, shape)).ravel()
    except ValueError:
        raise InputError(f"temperature has shape {values.shape}, tokens have {shape}: give one number, or one per token") from None


def _targets(targets: Int[np.ndarray, " ..."], shape: tuple[int, ...], vocabulary: int) -> Int[np.ndarray, " rows"]:
    if targets.shape != shape:
        raise InputError(f"targets have shape {targets.shape}, tokens have {shape}: expected one target per token")
    if targets.size and int(targets.max()) >= vocabulary:
        raise InputError(
            f"target {int(targets.max())} is outside the vocabulary of {vocabulary:,}: the tokenizer does not belong to the model"
        )
    return targets.ravel().astype(np.int64)


def _measure_rows(
    rows: Shaped[np.ndarray, "rows vocabulary"],
    temperatures: Float[np.ndarray, " rows"],
    targets: Int[np.ndarray, " rows"] | None,
    threads: int | None,
) -> Columns:
    if targets is None:
        return Columns.of(softmax_moments(rows, temperatures, threads))
    logits = np.take_along_axis(rows, np.maximum(targets, 0)[:, None], 1)[:, 0].astype(float)
    counts = Counts.above_known(np.where(targets >= 0, logits, np.nan))
    return Columns.of(softmax_moments(rows, temperatures, threads, counts), targets, counts.low, counts.above)


def _from_torch(logits: torch.Tensor, temperature: Any, targets: Array | None, threads: int | None) -> TokenStats:
    import torch

    if logits.ndim < 1 or logits.shape[-1] == 0:
        raise InputError(f"logits of shape {tuple(logits.shape)}: the last axis must be a vocabulary")
    if not logits.dtype.is_floating_point:
        raise InputError(f"logits of dtype {logits.dtype}: expected floating point")
    shape = tuple(logits.shape[:-1])
    temperatures = _temperatures(temperature, shape)
    ids = None if targets is None else _targets(torch.as_tensor(targets).cpu().numpy(), shape, logits.shape[-1])
    flat = logits.reshape(-1, logits.shape[-1])
    parts: list[Columns] = []
    for start in range(0, len(flat), 16 * ROWS):
        piece = slice(start, start + 16 * ROWS)
        rows = flat[piece].detach()
        if ids is None:
            parts.append(Columns.of(tensor_moments(rows, temperatures[piece], threads)))
            continue
        index = torch.from_numpy(np.maximum(ids[piece], 0)).to(rows.device)
        logit = rows.gather(1, index[:, None])[:, 0].double().cpu().numpy()
        counts = Counts.above_known(np.where(ids[piece] >= 0, logit, np.nan))
        moments = tensor_moments(rows, temperatures[piece], threads, counts)
        parts.append(Columns.of(moments, ids[piece], counts.low, counts.above))
    columns = _joined(parts, ids is not None, 0, logits.device)
    if logits.requires_grad and torch.is_grad_enabled():
        columns = _with_gradient(flat, torch.from_numpy(temperatures).to(flat.device), ids, columns)
    return _shaped(columns, shape)


def _joined(parts: Sequence[Columns], with_targets: bool, top: int, device: torch.device) -> list[torch.Tensor | None]:
    """Concatenate the columns of all parts as tensors."""
    import torch

    empty, no_ids = np.zeros(0), np.zeros(0, np.int64)
    no_rows = Columns(empty, empty, empty, *((empty, no_ids) if with_targets else (None, None)))
    if top:
        no_rows = no_rows._replace(top_ids=np.zeros((0, top), np.int64), top_logits=np.zeros((0, top), np.float32))
    columns: Any = zip(*(parts or [no_rows]), strict=True)
    return [None if column[0] is None else torch.from_numpy(np.concatenate(column)).to(device) for column in columns]


def _shaped(columns: Sequence[torch.Tensor | None], shape: tuple[int, ...]) -> TokenStats:
    """Return columns of the flattened tokens in the shape of the tokens."""
    return TokenStats(*(None if column is None else column.reshape(*shape, *column.shape[1:]) for column in columns))


def _with_gradient(
    flat: torch.Tensor, temperatures: torch.Tensor, targets: Int[np.ndarray, " rows"] | None, columns: list[torch.Tensor | None]
) -> list[torch.Tensor | None]:
    """Attach the closed-form gradients to the values, see ``logits_gradient``."""
    import torch

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: torch.Tensor, entropy: Any, logsumexp: Any, surprisal: Any) -> Any:
            ctx.save_for_backward(z, entropy, logsumexp)
            return entropy.clone(), logsumexp.clone(), surprisal.clone()

        @staticmethod
        def backward(ctx: Any, by_entropy: Any, by_logsumexp: Any, by_surprisal: Any) -> Any:
            z, entropy, logsumexp = ctx.saved_tensors
            out = torch.empty_like(z)
            for start in range(0, len(z), ROWS):
                part = slice(start, start + ROWS)
                slope = logits_gradient(
                    z[part].double(),
                    by_logp=-by_surprisal[part],
                    by_logsumexp=by_logsumexp[part],
                    targets=None if targets is None else torch.from_numpy(targets[part]).to(z.device),
                    logsumexp=logsumexp[part],
                    temperature=temperatures[part],
                    by_entropy=by_entropy[part],
                    entropy=entropy[part],
                    entropy_logsumexp=logsumexp[part],
                    entropy_temperature=temperatures[part],
                    in_place=z.dtype != torch.float64,
                )
                out[part] = slope.to(z.dtype)
            return out, None, None, None

    entropy, varentropy, logsumexp, surprisal, *others = columns
    filler = torch.zeros(len(flat), dtype=torch.float64, device=flat.device) if surprisal is None else surprisal
    apply: Any = Gradient.apply
    entropy, logsumexp, filler = apply(flat, entropy, logsumexp, filler)
    return [entropy, varentropy, logsumexp, None if surprisal is None else filler, *others]


def logits_gradient(
    logits: torch.Tensor,
    *,
    by_logp: torch.Tensor | None = None,
    by_logsumexp: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
    logsumexp: torch.Tensor | None = None,
    temperature: float | torch.Tensor = 1.0,
    by_entropy: torch.Tensor | None = None,
    entropy: torch.Tensor | None = None,
    entropy_logsumexp: torch.Tensor | None = None,
    entropy_temperature: float | torch.Tensor = 1.0,
    in_place: bool = False,
) -> torch.Tensor:
    """Gradient of sum(by_logp * logp + by_logsumexp * logsumexp + by_entropy * entropy) with respect to the logits, in closed form.

    d logp / dz = (onehot - p) / T, d logsumexp / dz = p / T and d entropy / dz = -p (log p + entropy) / T.

    Parameters
    ----------
    logits : (tokens, vocabulary). -inf masks a token, whose gradient is 0.
    by_logp, by_logsumexp, by_entropy : (tokens,) gradients with respect to these values; None if the loss does not depend on them.
    targets : (tokens,) target token ids, negative for none.
    logsumexp : (tokens,) of the logits at ``temperature``.
    temperature : of ``logp`` and ``logsumexp``; a number, or (tokens,).
    entropy, entropy_logsumexp : (tokens,) at ``entropy_temperature``.
    entropy_temperature : of ``entropy``; may differ from ``temperature``.
    in_place : overwrite ``logits`` to save memory.

    Returns
    -------
    (tokens, vocabulary), in the dtype of the logits.
    """
    import torch

    of_entropy = None
    if by_entropy is not None:
        assert entropy is not None
        assert entropy_logsumexp is not None
        at_one = _is_one(entropy_temperature)
        scaled = logits if at_one else logits / _column(entropy_temperature)
        log_p = (scaled - entropy_logsumexp[:, None]).clamp_(min=torch.finfo(logits.dtype).min)  # 0 x -inf would be NaN
        weight = by_entropy[:, None] if at_one else by_entropy[:, None] / _column(entropy_temperature)
        of_entropy = weight * torch.exp(log_p) * (log_p + entropy[:, None])
    slope = logits if in_place else logits.clone()
    if by_logp is None and by_logsumexp is None:
        slope.zero_()
    else:
        assert logsumexp is not None
        if not _is_one(temperature):
            slope.div_(_column(temperature))
        slope.sub_(logsumexp[:, None]).exp_()
        of_logp = (torch.zeros_like(logsumexp) if by_logp is None else by_logp)[:, None] / _column(temperature)
        slope.mul_(-of_logp if by_logsumexp is None else by_logsumexp[:, None] / _column(temperature) - of_logp)
        if targets is not None:
            slope.scatter_add_(1, targets.clamp(min=0)[:, None], torch.where(targets[:, None] >= 0, of_logp, 0.0))
    return slope if of_entropy is None else slope.sub_(of_entropy)


def _is_one(temperature: float | torch.Tensor) -> bool:
    return isinstance(temperature, (int, float)) and temperature == 1


def _column(value: float | torch.Tensor) -> float | torch.Tensor:
    """Give a number as it is, and (tokens,) as (tokens, 1)."""
    return value if isinstance(value, (int, float)) else value[:, None]


def from_hidden(
    hidden: Float[torch.Tensor, "... width"],
    weight: Float[torch.Tensor, "rows width"],
    bias: Float[torch.Tensor, " rows"] | None = None,
    *,
    temperature: Any = 1.0,
    targets: Array | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    vocabulary: int | None = None,
    rank: bool = True,
    top: int = 0,
) -> TokenStats:
    """Measure the same as ``from_logits`` of ``scale * (hidden @ weight.T + bias)``, formed in pieces of at most 16 MB and forgotten.

    Parameters
    ----------
    hidden : (..., width) torch tensor, the last hidden states.
    weight : (rows, width), the output head; the embedding where it is tied.
    bias : (rows,) or None.
    temperature, targets : as for ``from_logits``.
    softcap : cap tanh(logits / cap) after the scale, as Gemma 2 has it.
    scale : of the logits: Cohere's ``logit_scale``, one over Granite's ``logits_scaling``.
    vocabulary : rows of the head that are tokens; those after it are padding and are left out. All of them if None.
    rank : whether ranks are wanted.
    top : number of most likely tokens that are wanted, with their logits.

    Returns
    -------
    Float64 torch tensors on the device of ``hidden``, without gradient. The product is that of float32
    whatever the dtypes: logits are not rounded to bfloat16, as a model in bfloat16 rounds its own.

    Notes
    -----
    A row of padding that is counted as a token has mass: Qwen's heads have 151,936 rows for 151,669 tokens.
    """
    import torch

    if hidden.shape[-1] != weight.shape[-1]:
        raise InputError(f"hidden states have width {hidden.shape[-1]}, the head has width {weight.shape[-1]}; they must be equal")
    size = weight.shape[0] if vocabulary is None else vocabulary
    if not 0 < size <= weight.shape[0]:
        raise InputError(f"vocabulary={size}: the head has {weight.shape[0]:,} rows")
    shape = tuple(hidden.shape[:-1])
    temperatures = _temperatures(temperature, shape)
    ids = None if targets is None else _targets(torch.as_tensor(targets).cpu().numpy(), shape, size)
    flat = hidden.detach().reshape(-1, hidden.shape[-1])
    head = Head(weight.detach(), None if bias is None else bias.detach(), softcap, scale, size)
    (stats,), _ = _from_states([(flat, head)], temperatures, ids, rank, min(top, size))
    return _shaped(stats, shape)


def _from_states(
    sides: Sequence[tuple[Float[torch.Tensor, "tokens _"], Head]],
    temperatures: Float[np.ndarray, " tokens"],
    targets: Int[np.ndarray, " tokens"] | None,
    rank: bool,
    top: int,
) -> tuple[list[list[torch.Tensor | None]], tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]]:
    """Measure hidden states of one model, or of two over the same tokens; the largest logits of the first only.

    Returns the columns of each, and of two the divergences over the vocabulary that both have, see ``divergence``.
    """
    import torch

    heads = [head for _, head in sides]
    tokens, shared = min(head.tokens for head in heads), min(head.size for head in heads)
    cuts = sorted({*range(0, max(head.size for head in heads), min(head.rows for head in heads)), *(head.size for head in heads)})
    columns: list[list[Columns]] = [[] for _ in sides]
    kl_ab, kl_ba = [np.zeros(0)], [np.zeros(0)]
    with torch.no_grad(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        buffers = [head.buffer(hidden) for hidden, head in sides]
        for begin in range(0, len(sides[0][0]), tokens):
            piece = slice(begin, begin + tokens)
            states = [hidden[piece].detach() for hidden, _ in sides]
            ids = None if targets is None else targets[piece]
            measured = [
                Pieces(hidden, head, temperatures[piece], ids, rank, top * (number == 0))
                for number, (hidden, head) in enumerate(zip(states, heads, strict=True))
            ]
            divergences = Divergences()
            for start, stop in pairwise(cuts):
                present = [number for number, head in enumerate(heads) if stop <= head.size]
                logits = [heads[number](states[number], start, stop, buffers[number]) for number in present]
                moments = [measured[number].add(values, start, pool) for number, values in zip(present, logits, strict=True)]
                if len(sides) == 2 and stop <= shared:
                    divergences.add((logits[0], logits[1]), (moments[0], moments[1]), pool)
            for of_side, pieces in zip(columns, measured, strict=True):
                of_side.append(pieces.columns())
            if len(sides) == 2:
                for parts, values in zip((kl_ab, kl_ba), divergences.whole(), strict=True):
                    parts.append(values)
    joined = [
        _joined(of_side, targets is not None, top * (number == 0), hidden.device)
        for number, (of_side, (hidden, _)) in enumerate(zip(columns, sides, strict=True))
    ]
    return joined, (np.concatenate(kl_ab), np.concatenate(kl_ba))


def from_two(
    first: tuple[Float[torch.Tensor, "tokens width_a"], Head],
    second: tuple[Float[torch.Tensor, "tokens width_b"], Head],
    targets: Int[torch.Tensor, " tokens"] | None = None,
    rank: bool = True,
    top: int = 0,
) -> tuple[TokenStats, TokenStats, Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """Measure two models over the same tokens with one product each; also KL(first || second) and KL(second || first).

    Parameters
    ----------
    first, second : (tokens, width) hidden states, and their output head.
    targets, rank : see ``from_hidden``.
    top : number of most likely tokens of the first model that are wanted.

    Returns
    -------
    What ``from_hidden`` gives for each, and what ``divergence`` gives.
    """
    count = len(first[0])
    ids = None if targets is None else _targets(targets.cpu().numpy(), (count,), min(first[1].size, second[1].size))
    (a, b), (kl_ab, kl_ba) = _from_states([first, second], np.ones(count), ids, rank, min(top, first[1].size))
    return _shaped(a, (count,)), _shaped(b, (count,)), kl_ab, kl_ba


def divergence(
    first: tuple[Float[torch.Tensor, "tokens width_a"], Head, Any],
    second: tuple[Float[torch.Tensor, "tokens width_b"], Head, Any],
) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """Compute the exact KL(first || second) and KL(second || first) per token, over the shared vocabulary.

    Parameters
    ----------
    first, second : (tokens, width) hidden states, their output head, and anything: the logsumexp, which was needed formerly.

    Returns
    -------
    Two (tokens,) float64 arrays, in nats, never negative. Each is a sum of p (q/p - 1 - log(q/p)), whose terms are all at least 0, so
    that it does not cancel as the usual sum of p (log p - log q) does. KL(p || q) is infinite if q is 0 for a token with p above 0.
    """
    *_, kl_ab, kl_ba = from_two(first[:2], second[:2])
    return kl_ab, kl_ba
