"""Evolution of LoRA players: operators that make the factors of a child from those of one parent or two.

PopuLoRA (arXiv 2605.16727) is said to use four mutations and four crossovers. Their names are from notes on the paper's text; their
constants and exact forms are those of a public reimplementation (lucidrains/populora), not of the authors' code, which was not found. Each
docstring says what is computed here.

Factors are a mapping ``module.lora_A.weight`` (r, inputs), ``module.lora_B.weight`` (outputs, r); the update of a matrix is B A, up to the
player's scaling. Each operator is a pure function of the parents and a random generator, and returns new factors of the same names, shapes
and dtype: the rank of a player never changes. Crossovers that mix the entries of factors depend on how a parent's update is split into B
and A: (B R)(R^-1 A) is the same update, and mixes differently. They are therefore meaningful between relatives, which descend from the same
A, and close to noise between strangers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from dynamics.errors import InputError

#: relative standard deviation of the noise on singular values, and size of the rotations of singular vectors
SVD_NOISE = 0.1
#: standard deviation of the noise on some matrices, in standard deviations of the factor
SELECTED_NOISE = 0.1
#: share of the matrices with noise
SELECTED_SHARE = 1 / 3
#: share of the components of each update that are dropped
DROPPED_COMPONENTS = 0.3
#: standard deviation of the noise on all matrices, in standard deviations of the factor
FULL_NOISE = 0.15
#: share of the entries of each factor that DARE drops
DARE_DROP = 0.7
#: bounds of the step from the weaker parent towards and past the better one
EXTRAPOLATION = (1.0, 1.5)

Factors = Mapping[str, torch.Tensor]
Matrix = Float[np.ndarray, "rows columns"]
#: A and B of a matrix, float64
Pair = tuple[Float[np.ndarray, "r inputs"], Float[np.ndarray, "outputs r"]]


@dataclass(frozen=True)
class Operator:
    """An operator.

    Attributes
    ----------
    parents : how many factors it takes.
    apply : takes the parents, the better one first, and the random generator.
    """

    parents: int
    apply: Callable[[Sequence[Factors], np.random.Generator], dict[str, torch.Tensor]]


def modules(factors: Factors) -> list[str]:
    """List the modules that have factors, in their order."""
    return [name.removesuffix(".lora_A.weight") for name in factors if name.endswith(".lora_A.weight")]


def child(operator: str, parents: Sequence[Factors], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Make the factors of a child.

    Parameters
    ----------
    operator : a name of ``OPERATORS``.
    parents : as many as the operator takes, the better one first.
    rng : the random stream of this child.

    Raises
    ------
    InputError : the operator is unknown, or a factor is not finite.
    """
    chosen = find(operator)
    for name, value in (pair for parent in parents[: chosen.parents] for pair in parent.items()):
        if not torch.isfinite(value).all():
            raise InputError(f"operator {operator}: {name} of a parent is not finite, as it has diverged; use a smaller --learning-rate")
    return chosen.apply(parents[: chosen.parents], rng)


def find(name: str) -> Operator:
    """Return an operator by name; InputError names those that there are."""
    if name not in OPERATORS:
        raise InputError(f"operator {name!r}: is not one of {', '.join(OPERATORS)}")
    return OPERATORS[name]


def _pairs(factors: Factors) -> Iterator[tuple[str, Pair]]:
    for module in modules(factors):
        down, up = factors[f"{module}.lora_A.weight"], factors[f"{module}.lora_B.weight"]
        yield module, (down.detach().cpu().double().numpy(), up.detach().cpu().double().numpy())


def _packed(like: Factors, pairs: Mapping[str, Pair]) -> dict[str, torch.Tensor]:
    """Convert factors to the dtype and the device of others, in their order."""
    arrays = {f"{module}.lora_{kind}.weight": value for module, pair in pairs.items() for kind, value in zip("AB", pair, strict=True)}
    return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])).to(value) for name, value in like.items()}


def decompose(pair: Pair) -> tuple[Float[np.ndarray, "outputs r"], Float[np.ndarray, " r"], Float[np.ndarray, "r inputs"]]:
    """Compute the singular value decomposition of B A, with r components, from QR of the factors and an r x r core.

    Components with a singular value of zero, as of an update that is zero, have unit vectors that are arbitrary, but the same every time.
    """
    down, up = pair
    left, left_core = np.linalg.qr(up)
    right, right_core = np.linalg.qr(down.T)
    u, values, v = np.linalg.svd(left_core @ right_core.T)
    return left @ u, values, v @ right.T


def compose(u: Matrix, values: Float[np.ndarray, " r"], v: Matrix) -> Pair:
    """Split U diag(s) V into factors of equal norm, A = sqrt(s) V and B = U sqrt(s)."""
    root = np.sqrt(values)
    return root[:, None] * v, u * root


def _noisy(pair: Pair, size: float, rng: np.random.Generator) -> Pair:
    """Add normal noise to both factors, in standard deviations of each; in 1 / sqrt(columns) of one that is constant, as B at the start."""
    noisy = []
    for value, columns in zip(pair, (pair[0].shape[1], pair[0].shape[0]), strict=True):
        deviation = float(value.std()) or 1 / math.sqrt(columns)
        noisy.append(value + size * deviation * rng.standard_normal(value.shape))
    return noisy[0], noisy[1]


def svd_noise(parents: Sequence[Factors], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Perturb each update U S V: s' = s exp(0.1 z), U' = U R and V' = R V with R near a rotation, ``R = I + 0.1 (M - M^T) / 2``.

    z and the entries of M are standard normal. Column and row spaces stay those of the parent, and an update of zero stays zero. R is a
    rotation to first order only: each stretches vectors by about sqrt(1 + 0.01 (r - 1) / 2), 1 % at rank 4 and 7 % at rank 32.
    """
    made = {}
    for module, pair in _pairs(parents[0]):
        u, values, v = decompose(pair)
        rank = len(values)
        values = values * np.exp(SVD_NOISE * rng.standard_normal(rank))
        left, right = (np.eye(rank) + SVD_NOISE * (noise - noise.T) / 2 for noise in rng.standard_normal((2, rank, rank)))
        made[module] = compose(u @ left, values, right @ v)
    return _packed(parents[0], made)


def selected_noise(parents: Sequence[Factors], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Add normal noise of 0.1 standard deviations of each factor to a random third of the matrices, at least one; others stay to the bit.

    The notes say "layers"; the reimplementation counts matrices, as this does.
    """
    names = modules(parents[0])
    chosen = set(rng.permutation(len(names))[: max(1, int(SELECTED_SHARE * len(names)))].tolist())
    kept = {
        module: pair if number not in chosen else _noisy(pair, SELECTED_NOISE, rng)
        for number, (module, pair) in enumerate(_pairs(parents[0]))
    }
    return _packed(parents[0], kept)


def drop_components(parents: Sequence[Factors], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Set ceil(0.3 r) random singular values of each update to zero; at rank 1, the whole update.

    The factors keep their shape: a dropped component has a row of zeros in A and a column of zeros in B, from which gradient steps alone
    never revive it, as the gradient of each is a product with the other.
    """
    made = {}
    for module, pair in _pairs(parents[0]):
        u, values, v = decompose(pair)
        values = values.copy()
        values[rng.permutation(len(values))[: math.ceil(DROPPED_COMPONENTS * len(values))]] = 0.0
        made[module] = compose(u, values, v)
    return _packed(parents[0], made)


def full_noise(parents: Sequence[Factors], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Add normal noise of 0.15 standard deviations of each factor to all matrices."""
    return _packed(parents[0], {module: _noisy(pair, FULL_NOISE, rng) for module, pair in _pairs(parents[0])})


def dare(parents: Sequence[Factors], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Average the parents' factors after dropping 70 % of the entries of each and dividing the rest by 0.3 (DARE, arXiv 2311.03099).

    DARE drops entries of dense updates; here, as in the reimplementation, it drops those of factors. In expectation the factors are the
    mean of the parents', and the update is not: it has the cross terms B1 A2 and B2 A1.
    """
    made = {}
    for (module, first), (_, second) in zip(_pairs(parents[0]), _pairs(parents[1]), strict=True):
        kept = [value * (rng.random(value.shape) >= DARE_DROP) / (1 - DARE_DROP) for value in (*first, *second)]
        made[module] = ((kept[0] + kept[2]) / 2, (kept[1] + kept[3]) / 2)
    return _packed(parents[0], made)


def layer_swap(parents: Sequence[Factors], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Take each matrix's factors whole, to the bit, from one of the parents, with equal probability."""
    names = modules(parents[0])
    chosen = dict(zip(names, rng.integers(0, 2, len(names)).tolist(), strict=True))
    return {name: parents[chosen[name.rpartition(".lora_")[0]]][name].detach().clone() for name in parents[0]}


def subspace_mix(parents: Sequence[Factors], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Take the k strongest components of the better parent's update and the r - k weakest of the other's, k uniform in 1 .. r - 1.

    Components are those of the singular value decomposition, in descending order, with their singular values. The two sets of vectors are
    not orthogonal to each other, so the child's singular values differ from those it was given. At rank 1 it is one of the parents.
    """
    made = {}
    for (module, first), (_, second) in zip(_pairs(parents[0]), _pairs(parents[1]), strict=True):
        (u, values, v), other = decompose(first), decompose(second)
        rank = len(values)
        cut = int(rng.integers(1, rank)) if rank > 1 else int(rng.integers(0, 2))
        joined = (np.concatenate([u[:, :cut], other[0][:, cut:]], 1), np.concatenate([values[:cut], other[1][cut:]]))
        made[module] = compose(*joined, np.concatenate([v[:cut], other[2][cut:]]))
    return _packed(parents[0], made)


def extrapolation(parents: Sequence[Factors], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Go from the weaker parent to the better one and past it: f = weaker + eta (better - weaker), eta uniform in [1, 1.5].

    One eta for all matrices. It is computed on factors, as in the reimplementation, so the update is not on the line between the parents'
    updates.
    """
    eta = rng.uniform(*EXTRAPOLATION)
    made = {}
    for (module, better), (_, weaker) in zip(_pairs(parents[0]), _pairs(parents[1]), strict=True):
        down, up = (low + eta * (high - low) for high, low in zip(better, weaker, strict=True))
        made[module] = (down, up)
    return _packed(parents[0], made)


OPERATORS: dict[str, Operator] = {
    "svd-noise": Operator(1, svd_noise),
    "selected-noise": Operator(1, selected_noise),
    "drop-components": Operator(1, drop_components),
    "full-noise": Operator(1, full_noise),
    "dare": Operator(2, dare),
    "layer-swap": Operator(2, layer_swap),
    "subspace-mix": Operator(2, subspace_mix),
    "extrapolation": Operator(2, extrapolation),
}
