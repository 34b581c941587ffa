"""Entropy and its relatives of next-token distributions, exact where they are nearly certain, never holding tokens x vocabulary.

    stats = from_logits(logits, temperature=0.7, targets=ids)          # torch tensors or numpy arrays, any leading shape
    stats = from_hidden(hidden, lm_head.weight, targets=ids)           # the same without ever forming the logits

Half of the tokens of a reasoning model have an entropy below 0.01 nats (arXiv 2506.01939). There log Z - sum p z, and -sum p log p in the
dtype of the logits, are off by 1 to 100 %: see ``dynamics.entropy.kernels`` for the form that is not. Values are float64, in nats.

What float64 sums cannot mend is the model's own arithmetic: a forward pass in bfloat16 moves logits by about 2^-8 of their size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.errors import InputError
from dynamics.io.threads import cores
from dynamics.models import Head

if TYPE_CHECKING:
    import torch

    Array = Any  # numpy array or torch tensor, as was given

#: rows of logits in work at once
ROWS = 32


@dataclass(frozen=True)
class TokenStats:
    """A value a token, float64, of the shape of the logits without the vocabulary; the kind of array that was given.

    Attributes
    ----------
    entropy : -sum p log p, in nats. A padded vocabulary row counts unless it is masked by -inf.
    varentropy : variance of -log p under p, in nats^2.
    logsumexp : log of the sum of exp(logits / T).
    surprisal : -log p of the target, or None without targets.
    rank : 1 for the likeliest token; how many are likelier than the target, and 1. Ties share the better rank. None without targets.
    """

    entropy: Array
    varentropy: Array
    logsumexp: Array
    surprisal: Array | None = None
    rank: Array | None = None


@dataclass
class Sums:
    """Partial sums of rows over a part of the vocabulary, which merge exactly; see ``dynamics.entropy.kernels``. All (rows,) float64.

    ``peak`` is the largest logit, ``s``, ``t``, ``u`` the sums relative to it at temperature ``1 / inverse`` without the peak itself.
    """

    peak: np.ndarray[Any, Any]
    s: np.ndarray[Any, Any]
    t: np.ndarray[Any, Any]
    u: np.ndarray[Any, Any]
    inverse: np.ndarray[Any, Any]

    def merge(self, other: Sums) -> Sums:
        """The sums over both parts. Associative, so that threads and tensor-parallel ranks may merge in any order."""
        swap = other.peak > self.peak
        near = [np.where(swap, b, a) for a, b in self._pairs(other)]
        far = [np.where(swap, a, b) for a, b in self._pairs(other)]
        with np.errstate(invalid="ignore"):
            gap = (near[0] - far[0]) * self.inverse
        gap = np.where(np.isneginf(far[0]), np.inf, gap)  # a part without any token adds nothing
        shrink = np.exp(-gap)
        step = np.where(np.isinf(gap), 0.0, gap)
        whole = 1 + far[1]
        s = near[1] + shrink * whole
        t = near[2] + shrink * (far[2] - step * whole)
        u = near[3] + shrink * (far[3] - 2 * step * far[2] + step * step * whole)
        broken = np.isnan(self.peak) | np.isnan(other.peak)
        peak, s, t, u = (np.where(broken, np.nan, one) for one in (near[0], s, t, u))
        return Sums(peak, s, t, u, self.inverse)

    def _pairs(self, other: Sums) -> list[tuple[Any, Any]]:
        return [(getattr(self, name), getattr(other, name)) for name in ("peak", "s", "t", "u")]

    @property
    def entropy(self) -> np.ndarray[Any, Any]:
        return self._known(np.log1p(self.s) - self.t / (1 + self.s))

    @property
    def varentropy(self) -> np.ndarray[Any, Any]:
        mean = self.t / (1 + self.s)
        return self._known(np.maximum(self.u / (1 + self.s) - mean * mean, 0.0))

    @property
    def logsumexp(self) -> np.ndarray[Any, Any]:
        return self._known(self.peak * self.inverse + np.log1p(self.s))

    def surprisal(self, target_logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """-log p of the tokens with these logits; infinite for a token that is masked."""
        with np.errstate(invalid="ignore"):
            return self._known(np.log1p(self.s) - (target_logits - self.peak) * self.inverse)

    def _known(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.where(np.isfinite(self.peak), values, np.nan)


def from_logits(logits: Array, temperature: Any = 1.0, targets: Array | None = None, threads: int | None = None) -> TokenStats:
    """Entropy, varentropy and logsumexp of every distribution; with ``targets`` also surprisal and rank.

    Parameters
    ----------
    logits : (..., vocabulary) torch tensor or numpy array of float16, bfloat16, float32 or float64. -inf masks a token.
    temperature : above 0; a number, or an array of the leading shape.
    targets : (...) whole numbers, a token each; negative for none, where surprisal is NaN and rank 0.
    threads : on CPUs; one a core if None.

    Returns
    -------
    Float64, as torch tensors on the device of ``logits`` or as numpy arrays.

    Raises
    ------
    InputError : an empty vocabulary, a temperature that is not positive, targets of another shape or beyond the vocabulary.

    Notes
    -----
    Relative error of the entropy below 1e-9 for any of them above 1e-300, for vocabularies up to 256k and offsets up to 1e4 in float32;
    of the logits as they are given, see the module. A row with NaN or +inf, or masked as a whole, gives NaN for that row only. The
    gradient of entropy, logsumexp and surprisal flows to torch logits that require it; varentropy and rank have none.
    """
    if _is_torch(logits):
        return _from_torch(logits, temperature, targets, threads)
    array = np.asarray(logits)
    if array.ndim < 1 or array.shape[-1] == 0:
        raise InputError(f"logits of shape {array.shape}: the last axis must be a vocabulary")
    shape = array.shape[:-1]
    heat = _temperatures(temperature, shape)
    aims = None if targets is None else _targets(np.asarray(targets), shape, array.shape[-1])
    found = _rows(array.reshape(-1, array.shape[-1]), heat, aims, threads)
    return TokenStats(*(None if one is None else one.reshape(shape) for one in found))


def _is_torch(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "requires_grad")


def _temperatures(temperature: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """(rows,) float64."""
    values = np.asarray(temperature.detach().cpu().double().numpy() if _is_torch(temperature) else temperature, float)
    if not (values > 0).all() or not np.isfinite(values).all():
        raise InputError("temperature: must be above 0; at 0 the distribution is one token and its entropy 0")
    try:
        return np.array(np.broadcast_to(values, shape)).ravel()
    except ValueError:
        raise InputError(f"temperature has shape {values.shape}, tokens have {shape}: give one number, or one a token") from None


def _targets(targets: np.ndarray[Any, Any], shape: tuple[int, ...], vocabulary: int) -> np.ndarray[Any, Any]:
    if targets.shape != shape:
        raise InputError(f"targets have shape {targets.shape}, tokens have {shape}: there must be one a token")
    if targets.size and int(targets.max()) >= vocabulary:
        raise InputError(
            f"target {int(targets.max())} is beyond the vocabulary of {vocabulary:,}: the tokenizer does not belong to the model"
        )
    return targets.ravel().astype(np.int64)


def _wide(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same values in a dtype that the kernels take."""
    if rows.dtype in (np.float32, np.float64):
        return np.ascontiguousarray(rows)
    if rows.dtype.kind not in "fV" and rows.dtype.name not in ("bfloat16",):
        raise InputError(f"logits of dtype {rows.dtype}: expected floating point")
    return np.ascontiguousarray(rows.astype(np.float32))


def summed(rows: np.ndarray[Any, Any], heat: np.ndarray[Any, Any], threads: int | None = None) -> Sums:
    """The sums of (rows, vocabulary) logits at temperatures ``heat`` (rows,): what merges with those of other parts of the vocabulary."""
    from dynamics.entropy import kernels

    out = np.empty((len(rows), 5))
    inverse = 1 / heat
    _spread(len(rows), lambda part: kernels.summarise(_wide(rows[part]), inverse[part], out[part]), threads)
    return Sums(out[:, kernels.MAX], out[:, kernels.S], out[:, kernels.T], out[:, kernels.U], inverse)


def _spread(count: int, work: Callable[[slice], None], threads: int | None) -> None:
    parts = [slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS)]
    workers = min(len(parts), threads or cores())
    if workers < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, parts))


def _rows(
    rows: np.ndarray[Any, Any], heat: np.ndarray[Any, Any], targets: np.ndarray[Any, Any] | None, threads: int | None
) -> tuple[Any, ...]:
    sums = summed(rows, heat, threads)
    if targets is None:
        return sums.entropy, sums.varentropy, sums.logsumexp, None, None
    there = targets >= 0
    chosen = np.where(there, _wide(np.take_along_axis(rows, np.maximum(targets, 0)[:, None], 1))[:, 0].astype(float), np.nan)
    return _aimed(sums, targets, chosen, _above(rows, chosen, threads))


def _aimed(sums: Sums, targets: np.ndarray[Any, Any], chosen: np.ndarray[Any, Any], above: np.ndarray[Any, Any] | None) -> tuple[Any, ...]:
    """The five values of rows whose targets have the logits ``chosen`` and ``above`` logits above them."""
    rank = None if above is None else np.where((targets >= 0) & np.isfinite(sums.peak), above + 1, 0)
    return sums.entropy, sums.varentropy, sums.logsumexp, np.where(targets >= 0, sums.surprisal(chosen), np.nan), rank


def _above(rows: np.ndarray[Any, Any], chosen: np.ndarray[Any, Any], threads: int | None) -> np.ndarray[Any, Any]:
    from dynamics.entropy import kernels

    above = np.zeros(len(rows), np.int64)
    _spread(len(rows), lambda part: kernels.count_above(_wide(rows[part]), chosen[part], above[part]), threads)
    return above


def _from_torch(logits: torch.Tensor, temperature: Any, targets: Any, threads: int | None) -> TokenStats:
    import torch

    if logits.ndim < 1 or logits.shape[-1] == 0:
        raise InputError(f"logits of shape {tuple(logits.shape)}: the last axis must be a vocabulary")
    if not logits.dtype.is_floating_point:
        raise InputError(f"logits of dtype {logits.dtype}: expected floating point")
    shape = tuple(logits.shape[:-1])
    heat = _temperatures(temperature, shape)
    aims = None if targets is None else _targets(torch.as_tensor(targets).cpu().numpy(), shape, logits.shape[-1])
    flat = logits.reshape(-1, logits.shape[-1])
    parts = []
    for start in range(0, len(flat), 16 * ROWS):
        piece = slice(start, start + 16 * ROWS)
        rows = flat[piece].detach()
        sums = _tensor_sums(rows, heat[piece], threads)
        if aims is None:
            parts.append((sums.entropy, sums.varentropy, sums.logsumexp, None, None))
            continue
        there = aims[piece] >= 0
        places = torch.from_numpy(np.maximum(aims[piece], 0)).to(rows.device)
        chosen = np.where(there, rows.gather(1, places[:, None])[:, 0].double().cpu().numpy(), np.nan)
        parts.append(_aimed(sums, aims[piece], chosen, _tensor_above(rows, chosen, threads)))
    found = _joined(parts, aims is not None, logits.device)
    if logits.requires_grad and torch.is_grad_enabled():
        found = _with_gradient(flat, torch.from_numpy(heat).to(flat.device), aims, found)
    return TokenStats(*(None if one is None else one.reshape(shape) for one in found))


def _joined(parts: Sequence[tuple[Any, ...]], aimed: bool, device: torch.device) -> list[Any]:
    """The five columns of all pieces as tensors."""
    import torch

    nothing: tuple[Any, ...] = (np.zeros(0),) * 3 + ((np.zeros(0), np.zeros(0, np.int64)) if aimed else (None, None))
    columns = zip(*(parts or [nothing]), strict=True)
    return [None if column[0] is None else torch.from_numpy(np.concatenate(column)).to(device) for column in columns]


def _tensor_sums(rows: torch.Tensor, heat: np.ndarray[Any, Any], threads: int | None = None) -> Sums:
    """``summed`` of a tensor: by the kernels on a CPU; elsewhere in torch, in float64 on the device, so that only sums travel."""
    import torch

    if rows.device.type == "cpu":
        return summed((rows if rows.dtype in (torch.float32, torch.float64) else rows.float()).numpy(), heat, threads)
    parts = []
    for start in range(0, len(rows), ROWS):
        wide = rows[start : start + ROWS].double()
        peak, place = wide.max(dim=-1)
        peak = torch.where(torch.isnan(wide).any(-1) | torch.isposinf(peak), math.nan, peak)
        inverse = torch.from_numpy(1 / heat[start : start + ROWS]).to(rows.device)
        x = (wide - peak[:, None]) * inverse[:, None]
        e = torch.exp(x).scatter(1, place[:, None], 0.0)
        x = torch.where(e > 0, x, 0.0)
        e = torch.where(torch.isneginf(peak)[:, None], 0.0, e)
        parts.append(torch.stack([peak, e.sum(-1), (x * e).sum(-1), (x * x * e).sum(-1)]))
    values = torch.cat(parts, 1).cpu().numpy()
    values[1:, np.isnan(values[0])] = np.nan
    peak, s, t, u = values
    return Sums(peak, s, t, u, 1 / heat)


def _tensor_above(rows: torch.Tensor, chosen: np.ndarray[Any, Any], threads: int | None = None) -> np.ndarray[Any, Any]:
    import torch

    if rows.device.type == "cpu":
        return _above((rows if rows.dtype in (torch.float32, torch.float64) else rows.float()).numpy(), chosen, threads)
    limit = torch.from_numpy(chosen).to(rows.device)[:, None]
    parts = [(rows[start : start + ROWS].double() > limit[start : start + ROWS]).sum(-1) for start in range(0, len(rows), ROWS)]
    above: np.ndarray[Any, Any] = torch.cat(parts).cpu().numpy()
    return above


def _with_gradient(flat: torch.Tensor, heat: torch.Tensor, aims: Any, found: list[Any]) -> list[Any]:
    """Hang the closed-form gradients on the values."""
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
                    targets=None if aims is None else torch.from_numpy(aims[part]).to(z.device),
                    logsumexp=logsumexp[part],
                    temperature=heat[part],
                    by_entropy=by_entropy[part],
                    entropy=entropy[part],
                    entropy_logsumexp=logsumexp[part],
                    entropy_temperature=heat[part],
                    in_place=z.dtype != torch.float64,
                )
                out[part] = slope.to(z.dtype)
            return out, None, None, None

    entropy, varentropy, logsumexp, surprisal, rank = found
    filler = torch.zeros_like(entropy) if surprisal is None else surprisal
    entropy, logsumexp, filler = Gradient.apply(flat, entropy, logsumexp, filler)  # type: ignore[no-untyped-call]
    return [entropy, varentropy, logsumexp, None if surprisal is None else filler, rank]


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
    by_logp, by_logsumexp, by_entropy : (tokens,) gradients with respect to the values; None for values that nothing depends on.
    targets : (tokens,) the token of each ``logp``, negative for none.
    logsumexp : (tokens,) of the logits at ``temperature``.
    temperature : of ``logp`` and ``logsumexp``; a number, or (tokens,).
    entropy, entropy_logsumexp : (tokens,) at ``entropy_temperature``.
    entropy_temperature : of ``entropy``, which may be another one.
    in_place : overwrite ``logits``, which are the largest array of all.

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
    """A number, or (tokens, 1) of one a token."""
    return value if isinstance(value, (int, float)) else value[:, None]


def from_hidden(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    temperature: Any = 1.0,
    targets: Any = None,
    softcap: float | None = None,
    scale: float = 1.0,
    vocabulary: int | None = None,
    rank: bool = True,
) -> TokenStats:
    """The same as ``from_logits`` of ``scale * (hidden @ weight.T + bias)``, formed in pieces of at most 16 MB and forgotten.

    Parameters
    ----------
    hidden : (..., width) torch tensor, the last hidden states. weight : (rows, width), the output head; the embedding where it is tied.
    bias : (rows,) or None.
    temperature, targets : as for ``from_logits``.
    softcap : cap tanh(logits / cap) after the scale, as Gemma 2 has it.
    scale : of the logits: Cohere's ``logit_scale``, one over Granite's ``logits_scaling``.
    vocabulary : rows of the head that are tokens; those after it are padding and are left out. All of them if None.
    rank : whether ranks are wanted; they take the product twice.

    Returns
    -------
    Float64 torch tensors on the device of ``hidden``, without gradient. The product is in float32, whatever the dtype of the weights.

    Notes
    -----
    A row of padding that is counted as a token has mass: Qwen's heads have 151,936 rows for 151,669 tokens.
    """
    import torch

    if hidden.shape[-1] != weight.shape[-1]:
        raise InputError(f"hidden states of width {hidden.shape[-1]} and a head of width {weight.shape[-1]} do not belong together")
    size = weight.shape[0] if vocabulary is None else vocabulary
    if not 0 < size <= weight.shape[0]:
        raise InputError(f"vocabulary={size}: the head has {weight.shape[0]:,} rows")
    shape = tuple(hidden.shape[:-1])
    heat = _temperatures(temperature, shape)
    aims = None if targets is None else _targets(torch.as_tensor(targets).cpu().numpy(), shape, size)
    flat = hidden.detach().reshape(-1, hidden.shape[-1])
    head = Head(weight.detach(), None if bias is None else bias.detach(), softcap, scale, size)
    parts = []
    with torch.no_grad():
        room = head.room(flat)
        for start in range(0, len(flat), head.tokens):
            piece = slice(start, min(start + head.tokens, len(flat)))
            parts.append(_piece(flat[piece].float(), head, heat[piece], None if aims is None else aims[piece], rank, room))
    made = _joined(parts, aims is not None, hidden.device)
    return TokenStats(*(None if one is None else one.reshape(shape) for one in made))


def _piece(
    hidden: torch.Tensor, head: Head, heat: np.ndarray[Any, Any], aims: np.ndarray[Any, Any] | None, rank: bool, room: torch.Tensor
) -> tuple[Any, ...]:
    import torch

    chosen = np.full(len(hidden), np.nan)
    parts = []
    for start, stop in head.stretches():
        logits = head(hidden, start, stop, room)
        parts.append(_tensor_sums(logits, heat))
        if aims is not None:
            inside = np.flatnonzero((aims >= start) & (aims < stop))
            places = torch.from_numpy(np.stack([inside, aims[inside] - start])).to(logits.device)
            chosen[inside] = logits[places[0], places[1]].double().cpu().numpy()
    sums = merged(parts)
    if aims is None:
        return sums.entropy, sums.varentropy, sums.logsumexp, None, None
    above = None
    if rank:
        above = np.zeros(len(hidden), np.int64)
        for start, stop in head.stretches():
            above += _tensor_above(head(hidden, start, stop, room), chosen)
    return _aimed(sums, aims, chosen, above)


def merged(parts: Sequence[Sums]) -> Sums:
    """The sums of a vocabulary that is split over ``parts``, for example over tensor-parallel ranks."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole


def divergence(
    first: tuple[torch.Tensor, Head, np.ndarray[Any, Any]], second: tuple[torch.Tensor, Head, np.ndarray[Any, Any]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """KL(first || second) and KL(second || first) of each token, exact, over the vocabulary both have.

    Parameters
    ----------
    first, second : (tokens, width) hidden states, the head that they go to, and (tokens,) the logsumexp over the same vocabulary.

    Returns
    -------
    Two (tokens,) float64 arrays of nats, never negative: each is a sum of p (q/p - 1 - log(q/p)), of which every term is at least 0,
    where the usual sum of p (log p - log q) cancels. Infinite where one gives a token no chance that the other gives one.
    """
    from dynamics.entropy import kernels

    (hidden, head, whole), (other, other_head, other_whole) = first, second
    size = min(head.size, other_head.size)
    rows = min(head.rows, other_head.rows)
    forth, back = np.zeros(len(hidden)), np.zeros(len(hidden))
    for begin in range(0, len(hidden), head.tokens):
        piece = slice(begin, min(begin + head.tokens, len(hidden)))
        ours, theirs = hidden[piece].detach().float(), other[piece].detach().float()
        for start in range(0, size, rows):
            stop = min(start + rows, size)
            a, b = head(ours, start, stop).detach().cpu().numpy(), other_head(theirs, start, stop).detach().cpu().numpy()

            def work(part: slice, a: Any = a, b: Any = b, begin: int = begin) -> None:
                there = slice(begin + part.start, begin + part.stop)
                kernels.diverge(a[part], b[part], whole[there], other_whole[there], forth[there], back[there])

            _spread(len(a), work, None)
    return forth, back
