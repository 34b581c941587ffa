"""Statistics of next-token distributions from the logits of one part of the vocabulary after another.

Each logit is computed once and forgotten. The rank of a target needs its logit, which is known only when its part has been computed. Until
then logits are compared with limits around a dot product of its own, which differs from it by rounding: those beyond the limits are counted
at once, and the few between them are kept and counted at the end. The limits are checked then. Where they did not hold, or too many logits
were between them, as among equal ones, the logits of the token are computed again.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, Shaped

from dynamics.entropy.moments import (
    LOGITS,
    ROWS,
    Columns,
    Counts,
    Largest,
    SoftmaxMoments,
    bits_of,
    logits_of,
    on_threads,
    softmax_moments,
)
from dynamics.models import Head

if TYPE_CHECKING:
    import torch

#: logits near the target's that are kept, per token
NEAR = 32
#: half of the width between the limits, relative to the product of the norms of hidden state and weights: 16 roundings in float32
WIDTH = 2.0**-20


def tensor_moments(
    rows: Shaped[torch.Tensor, "rows vocabulary"],
    temperatures: Float[np.ndarray, " rows"],
    threads: int | None = None,
    counts: Counts | None = None,
    largest: Largest | None = None,
    first: int = 0,
    pool: ThreadPoolExecutor | None = None,
) -> SoftmaxMoments:
    """Do what ``softmax_moments`` does with a tensor: by the kernels on a CPU, elsewhere in torch, in float64 on the device.

    From another device only sums and counts are copied. Of the logits near another one it counts all and keeps none.
    """
    import torch

    if keeps(rows):  # numpy has no bfloat16
        array = (rows.contiguous().view(torch.int16) if rows.dtype == torch.bfloat16 else rows).numpy()
        return softmax_moments(array, temperatures, threads, counts, largest, first, pool)
    parts = []
    for start in range(0, len(rows), ROWS):
        piece = slice(start, start + ROWS)
        wide = rows[piece].double()
        most, index = wide.max(dim=-1)
        most = torch.where(torch.isnan(wide).any(-1) | torch.isposinf(most), math.nan, most)
        inverse = torch.from_numpy(1 / temperatures[piece]).to(rows.device)
        x = (wide - most[:, None]) * inverse[:, None]
        e = torch.exp(x).scatter(1, index[:, None], 0.0)
        x = torch.where(e > 0, x, 0.0)
        e = torch.where(torch.isneginf(most)[:, None], 0.0, e)
        parts.append(torch.stack([most, e.sum(-1), (x * e).sum(-1), (x * x * e).sum(-1)]))
        if counts is not None:
            low, high = (
                (wide > torch.from_numpy(values[piece].astype(float)).to(rows.device)[:, None]).sum(-1).cpu().numpy()
                for values in (counts.low, counts.high)
            )
            counts.above[piece] += high
            counts.near_counts[piece] += low - high
    if largest is not None and largest.keys.shape[1]:
        _add_largest(rows, largest, first)
    sums = torch.cat(parts, 1).cpu().numpy()
    sums[1:, np.isnan(sums[0])] = np.nan
    return SoftmaxMoments(sums[0], sums[1], sums[2], sums[3], 1 / temperatures)


def _add_largest(rows: Float[torch.Tensor, "rows part"], largest: Largest, first: int) -> None:
    """Replace the largest logits by those of a part of the vocabulary that are larger."""
    best = rows.topk(min(largest.keys.shape[1], rows.shape[1]))
    bits = best.values.float().cpu().numpy().view(np.int32)
    keys = np.concatenate([largest.keys, bits ^ ((bits >> 31) & np.iinfo(np.int32).max)], 1)
    order = np.argsort(~keys, axis=1, kind="stable")[:, : largest.keys.shape[1]]
    ids = np.concatenate([largest.ids, best.indices.cpu().numpy() + first], 1)
    largest.keys[:], largest.ids[:] = np.take_along_axis(keys, order, 1), np.take_along_axis(ids, order, 1)


def keeps(tensor: torch.Tensor) -> bool:
    """Tell whether logits near another one are kept, as on a CPU."""
    return tensor.device.type == "cpu"


class Pieces:
    """Statistics of some tokens, to which parts of the vocabulary are added.

    Parameters
    ----------
    hidden : (tokens, width) hidden states.
    head : the output head.
    temperatures : (tokens,), above 0.
    targets : (tokens,) token ids, negative for none; None if there are no targets.
    rank : whether ranks are wanted.
    top : number of largest logits that are wanted.
    """

    def __init__(
        self,
        hidden: Float[torch.Tensor, "tokens width"],
        head: Head,
        temperatures: Float[np.ndarray, " tokens"],
        targets: Int[np.ndarray, " tokens"] | None = None,
        rank: bool = True,
        top: int = 0,
    ):
        self._hidden, self._head, self._temperatures, self._targets = hidden, head, temperatures, targets
        self._moments: SoftmaxMoments | None = None
        self._target_logits = np.full(len(hidden), np.nan, np.float32)
        self._counts: Counts | None = None
        if rank and targets is not None:
            self._counts = Counts.between(*_limits(hidden, head, targets), NEAR)
        self._largest = Largest.of(len(hidden), min(top, head.size)) if top else None

    def add(self, logits: Float[torch.Tensor, "tokens part"], start: int, pool: ThreadPoolExecutor) -> SoftmaxMoments:
        """Add the logits of the part of the vocabulary that begins with the token id ``start``; return the moments of that part.

        The kernels run on as many threads as torch's, which are those of ``pool``.
        """
        import torch

        self._find_targets(logits, start)
        moments = tensor_moments(logits, self._temperatures, torch.get_num_threads(), self._counts, self._largest, start, pool)
        self._moments = moments if self._moments is None else self._moments.merge(moments)
        return moments

    def columns(self) -> Columns:
        """Return the statistics of all parts that were added."""
        assert self._moments is not None
        above = None if self._counts is None else self._ranked(self._counts)
        return Columns.of(self._moments, self._targets, self._target_logits.astype(float), above, self._largest)

    def _find_targets(self, logits: torch.Tensor, start: int) -> None:
        """Read the logits of the targets in this part, which are the limits from now on."""
        if self._targets is None:
            return
        inside = np.flatnonzero((self._targets >= start) & (self._targets < start + logits.shape[1]))
        found = _entries(logits, inside, self._targets[inside] - start)
        self._target_logits[inside] = found
        if counts := self._counts:
            held = (counts.low[inside] <= found) & (found <= counts.high[inside])
            counts.near_counts[inside[~held]] = NEAR + 1
            counts.low[inside] = counts.high[inside] = found

    def _ranked(self, counts: Counts) -> Int[np.ndarray, " tokens"]:
        """Return how many logits are above that of the target."""
        kept = np.arange(NEAR) < counts.near_counts[:, None]
        above = counts.above + (kept & (logits_of(counts.near) > self._target_logits[:, None])).sum(1)
        again = np.flatnonzero(counts.near_counts > NEAR * keeps(self._hidden))
        if again.size:
            above[again] = self._counted_again(again)
        return above

    def _counted_again(self, tokens: Int[np.ndarray, " some"]) -> Int[np.ndarray, " some"]:
        """Count the logits of some tokens above that of the target by two further products: one for that logit, one to compare with it."""
        import torch

        assert self._targets is not None
        hidden, targets = self._hidden[torch.from_numpy(tokens).to(self._hidden.device)], self._targets[tokens]
        logits = np.full(len(tokens), np.nan, np.float32)
        above = np.zeros(len(tokens), np.int64)
        buffer = self._head.buffer(hidden)
        for start, stop in self._head.stretches():
            inside = np.flatnonzero((targets >= start) & (targets < stop))
            if inside.size:
                logits[inside] = _entries(self._head(hidden, start, stop, buffer), inside, targets[inside] - start)
        limits = torch.from_numpy(logits).to(hidden.device)[:, None]
        for start, stop in self._head.stretches():
            above += (self._head(hidden, start, stop, buffer) > limits).sum(-1).cpu().numpy()
        return above


class Divergences:
    """Both divergences of the distributions of two models, from the logits of one part of their vocabulary after another.

    KL(p || q) is the divergence of the masses of the parts, and of each part its mass in p times the divergence within it. All these are
    at least 0, so that nothing cancels, and those within a part need the logsumexp of that part only.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(
        self, logits: tuple[torch.Tensor, torch.Tensor], moments: tuple[SoftmaxMoments, SoftmaxMoments], pool: ThreadPoolExecutor
    ) -> None:
        """Add a part: (tokens, part) float32 logits of both, and their moments at temperature 1."""
        import torch

        # a part without any token has no logsumexp, but a mass, which is 0
        wholes = [np.where(np.isneginf(part.max), -np.inf, part.logsumexp) for part in moments]
        a, b = (part.cpu().numpy() for part in logits)
        within = _divergence(a, b, wholes[0], wholes[1], torch.get_num_threads(), pool)
        self._parts.append((*wholes, *within))

    def whole(self) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
        """Return KL(a || b) and KL(b || a) over all parts."""
        log_a, log_b, forth, back = (np.stack(values, 1) for values in zip(*self._parts, strict=True))
        wholes = [softmax_moments(logs, np.ones(len(logs))).logsumexp for logs in (log_a, log_b)]
        kl_ab, kl_ba = _divergence(log_a, log_b, wholes[0], wholes[1], 1)
        both = np.isfinite(log_a) & np.isfinite(log_b)  # elsewhere that of the masses is infinite, or the part is without any token
        for logs, whole, within, divergence in ((log_a, wholes[0], forth, kl_ab), (log_b, wholes[1], back, kl_ba)):
            mass = np.exp(logs - whole[:, None])
            divergence += np.where(both & (mass > 0), mass * np.where(both, within, 0.0), 0.0).sum(1)
        return kl_ab, kl_ba


def _divergence(
    a: Float[np.ndarray, "tokens part"],
    b: Float[np.ndarray, "tokens part"],
    log_a: Float[np.ndarray, " tokens"],
    log_b: Float[np.ndarray, " tokens"],
    threads: int,
    pool: ThreadPoolExecutor | None = None,
) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """Compute both divergences of distributions with these logits and logsumexps."""
    from dynamics.entropy import kernels

    bits_a, bits_b = bits_of(a), bits_of(b)
    forth, back = np.zeros(len(a)), np.zeros(len(a))

    def add(part: slice) -> None:
        kernels.diverge(bits_a[part], bits_b[part], log_a[part], log_b[part], forth[part], back[part])

    on_threads(len(a), add, threads, max(ROWS, LOGITS // a.shape[1]), pool)
    return forth, back


def _entries(logits: torch.Tensor, rows: Int[np.ndarray, " some"], columns: Int[np.ndarray, " some"]) -> Float[np.ndarray, " some"]:
    """Return some entries of logits."""
    import torch

    row, column = torch.from_numpy(np.stack([rows, columns])).to(logits.device)
    entries: Float[np.ndarray, " some"] = logits[row, column].cpu().numpy()
    return entries


def _limits(
    hidden: Float[torch.Tensor, "tokens width"], head: Head, targets: Int[np.ndarray, " tokens"]
) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
    """Return float32 limits between which the logits of the targets should be; NaN without a target."""
    logits, size = head.single(hidden, targets)
    apart = WIDTH * size + np.float32(1e-30)
    low, high = logits - apart, logits + apart
    low[targets < 0] = high[targets < 0] = np.nan
    return low, high
