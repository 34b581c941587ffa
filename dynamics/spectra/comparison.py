"""Spectra of the update of one matrix, or of all matrices of two checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from dynamics.checkpoints import Checkpoint, Skip, Source, open_base, open_checkpoint, parameter_names
from dynamics.checkpoints.adapter import LowRank
from dynamics.checkpoints.matching import Pair, match
from dynamics.descriptions import small_table
from dynamics.errors import InputError, did_you_mean, printable
from dynamics.extras import optional_import
from dynamics.sparsity.masks import changed as marked
from dynamics.sparsity.masks import changed_under
from dynamics.spectra.linalg import (
    COUNTERPART,
    TOP,
    angle_summary,
    angles,
    decay,
    energies,
    energy_in_subspace,
    fitted,
    hill,
    largest,
    norm,
    padded,
    ranks,
    svd,
)
from dynamics.spectra.matrix import Matrix, difference, from_array

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "dynamics.spectra/1"
#: reason of the matrices that the options leave out
NOT_SELECTED = "not selected"
METHODS = ("full", "approx", "none")


@dataclass(frozen=True, repr=False)
class Spectrum:
    """The spectrum of the update of one matrix. Angles in degrees; NaN where the update is zero.

    Attributes
    ----------
    name, shape : of the matrix.
    k : number of principal directions.
    base_norm, update_norm : Frobenius norm of W and of D.
    rank : number of singular values of the update above max(m, n) eps sigma_1, with eps of float64. Rounding to the storage dtype gives
        almost any update full rank; ``stable_rank`` and ``effective_rank`` measure how many directions matter.
    stable_rank : |D|_F^2 / |D|_2^2.
    effective_rank, effective_rank_energy : exp of the entropy of sigma / sum sigma; of sigma^2 / sum sigma^2.
    rank_90, rank_95, rank_99 : number of directions that hold 90, 95 and 99 % of |D|_F^2.
    energy_1, energy_4, energy_16, energy_64 : share of |D|_F^2 that the first 1, 4, 16 and 64 singular directions of D hold; 1 if it has no
        more of them.
    decay_base, decay_update : alpha of sigma_i = c i^-alpha, by least squares of log sigma_i on log i over the first k singular values, or
        those of them that are not 0 (see ``rank``); NaN for fewer than three.
    decay_base_fit, decay_update_fit : R^2 of these lines.
    nss : normalised spectral shift, |sigma(W + D) - sigma(W)|_2 / |sigma(W)|_2.
    angle_left_max, angle_left_mean, angle_right_max, angle_right_mean : principal angles between the first ``k`` directions of W and of
        W + D, exactly 0 for equal subspaces. The largest angles mean little if sigma_k and sigma_k+1 are nearly equal (see ``gap``).
    gap : (sigma_k - sigma_k+1) / sigma_1 of the base.
    inside, inside_chance : |U_k^T D V_k|^2 / |D|^2 with the base's directions, and k^2 / (m n).
    inside_left, inside_left_chance : |U_k^T D|^2 / |D|^2, and k / m; ``inside_right`` with k / n.
    changed : number of changed weights (rule ``bf16``).
    principal, low, chance : fraction of the changed weights in the mask of the largest |rank-k part of W|, and in the mask of the smallest
        |W|; chance is the fraction of all weights in each mask.
    intruders : number of the first ten left directions of the tuned matrix with |cosine| below 0.5 to every direction of the base.
    hill_base, hill_update : 1 + n / sum log(lambda_i / lambda_n+1) over the largest tenth of lambda = sigma^2.
    sigma_base, sigma_tuned, sigma_update : (k,) largest singular values.
    angles_left, angles_right : (k,) principal angles, ascending.
    bounds : (lower, upper) bounds by quantity for the method ``approx``; empty for the other methods.
    """

    name: str
    shape: tuple[int, int]
    k: int
    base_norm: float
    update_norm: float
    rank: int
    stable_rank: float
    effective_rank: float
    effective_rank_energy: float
    rank_90: int
    rank_95: int
    rank_99: int
    energy_1: float
    energy_4: float
    energy_16: float
    energy_64: float
    decay_base: float
    decay_base_fit: float
    decay_update: float
    decay_update_fit: float
    nss: float
    angle_left_max: float
    angle_left_mean: float
    angle_right_max: float
    angle_right_mean: float
    gap: float
    inside: float
    inside_chance: float
    inside_left: float
    inside_left_chance: float
    inside_right: float
    inside_right_chance: float
    changed: int
    principal: float
    low: float
    chance: float
    intruders: int
    hill_base: float
    hill_update: float
    sigma_base: tuple[float, ...] = ()
    sigma_tuned: tuple[float, ...] = ()
    sigma_update: tuple[float, ...] = ()
    angles_left: tuple[float, ...] = ()
    angles_right: tuple[float, ...] = ()
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Say in a line which matrix it is, and what its update is like."""
        shape = "x".join(map(str, self.shape))
        if not self.update_norm:
            return f"<Spectrum {printable(self.name)} {shape}: did not change>"
        numbers = f"rank {self.rank}, stable rank {self.stable_rank:.3g}, NSS {self.nss:.3g}, angles {self.angle_left_max:.3g} left, "
        return f"<Spectrum {printable(self.name)} {shape}: {numbers}{self.angle_right_max:.3g} right>"

    def _repr_html_(self) -> str:
        """Show the single numbers as a small table in a notebook."""
        names = [entry.name for entry in fields(self) if entry.name not in (*SEQUENCE_FIELDS, "name", "shape")]
        shape = "x".join(map(str, self.shape))
        return small_table(
            f"{printable(self.name)} {shape}", ["quantity", "value"], [[name, f"{getattr(self, name):.4g}"] for name in names]
        )


def measure(
    base: ArrayLike,
    tuned: ArrayLike,
    *,
    name: str = "",
    k: int = 32,
    alpha: float = 0.5,
    changed: Bool[np.ndarray, "m n"] | None = None,
    method: str = "full",
    seed: int = 0,
    factors: LowRank | None = None,
) -> Spectrum:
    """Measure the spectrum of the update from ``base`` to ``tuned``.

    Parameters
    ----------
    base, tuned : (m, n) each.
    name : of the matrix, for the result and for errors.
    k : number of principal directions; at most min(m, n).
    alpha : fraction of the weights in the principal and in the low-magnitude mask.
    changed : (m, n) bool, the weights that changed; if None, those that differ.
    method : ``full``; ``approx``, by random projections, with bounds; ``none``, only norms and the low-magnitude mask.
    seed : of the random projections.
    factors : the update as a product of two matrices, whose singular values are exact and cheap.
    """
    before, after = (_matrix(side, name) for side in (base, tuned))
    if before.shape != after.shape:
        raise InputError(f"{name or 'matrices'}: need two matrices of one shape, got {before.shape} and {after.shape}")
    differing = before.values != after.values if changed is None else changed
    return measure_stored(before, after, differing, name=name, k=k, alpha=alpha, method=method, seed=seed, factors=factors)


def _matrix(array: ArrayLike, name: str) -> Matrix:
    try:
        return from_array(array)
    except ValueError:
        raise InputError(f"{name or 'matrices'}: need two matrices of one shape, got one of {np.shape(array)}") from None


def measure_stored(
    before: Matrix,
    after: Matrix,
    changed: Bool[np.ndarray, "m n"] | None = None,
    *,
    name: str = "",
    k: int = 32,
    alpha: float = 0.5,
    method: str = "full",
    seed: int = 0,
    factors: LowRank | None = None,
) -> Spectrum:
    """Measure the spectrum of the update between two matrices of one shape, as a checkpoint stores them.

    With ``approx`` this takes about 20 bytes of memory a weight, beside the stored values.

    Parameters
    ----------
    before, after : the matrices.
    changed : (m, n) bool, the weights that changed; if None, those that differ in bf16.
    name, k, alpha, method, seed, factors : see ``measure``.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r}: unknown; there are {', '.join(METHODS)}{did_you_mean(method, METHODS)}")
    if not (before.is_finite and after.is_finite):
        raise InputError(f"{name or 'matrix'}: contains NaN or infinity, so it has no singular values")
    m, n = before.shape
    if changed is None:
        changed = changed_under("bf16", marked(before.stored, before.dtype, after.stored, after.dtype)).reshape(m, n)
    k = min(k, m, n)
    count = round(alpha * changed.size)
    common: dict[str, Any] = {
        "name": name,
        "shape": (m, n),
        "k": k,
        "base_norm": norm(before.wide),
        "update_norm": norm(difference(before, after)) if factors is None else factors.norm(),
        "inside_chance": k * k / (m * n),
        "inside_left_chance": k / m,
        "inside_right_chance": k / n,
        "changed": int(changed.sum()),
        "low": float(largest(-np.abs(before.values), count)[changed].mean()) if changed.any() else math.nan,
        "chance": count / changed.size,
    }
    if method == "full":
        measured = _full(before.wide, after.wide, difference(before, after), changed, k, count, factors)
    elif method == "approx":
        from dynamics.spectra.bounds import approximate

        measured = approximate(before, after, changed, k, count, seed, factors)
    else:
        measured = {"rank": 0, "rank_90": 0, "rank_95": 0, "rank_99": 0, "intruders": 0}
    undefined = {column.name: math.nan for column in fields(Spectrum) if column.name not in SEQUENCE_FIELDS}
    return Spectrum(**(undefined | common | measured))


#: fields of a ``Spectrum`` that are not scalars: empty if not measured, and not columns of the table
SEQUENCE_FIELDS = ("sigma_base", "sigma_tuned", "sigma_update", "angles_left", "angles_right", "bounds")


def _full(
    before: Float[np.ndarray, "m n"],
    after: Float[np.ndarray, "m n"],
    update: Float[np.ndarray, "m n"],
    changed: Bool[np.ndarray, "m n"],
    k: int,
    count: int,
    factors: LowRank | None,
) -> dict[str, Any]:
    u0, s0, v0 = svd(before)
    u1, s1, v1 = svd(after)
    sigma = svd(update)[1] if factors is None else padded(factors.singular_values(), min(before.shape))
    left, right = angles(u0[:, :k], u1[:, :k]), angles(v0[:k].T, v1[:k].T)
    principal = largest(np.abs((u0[:, :k] * s0[:k]) @ v0[:k]), count)
    counterparts = np.abs(u1[:, :TOP].T @ u0).max(1)
    scale = float(np.linalg.norm(s0))
    return {
        **ranks(sigma, (len(before), len(before[0]))),
        **energies(sigma**2),
        **decays(s0[:k], sigma[:k], (len(before), len(before[0]))),
        "nss": float(np.linalg.norm(s1 - s0)) / scale if scale else math.nan,
        **angle_summary(left, right, before.shape),
        "gap": float((s0[k - 1] - (s0[k] if k < len(s0) else 0.0)) / s0[0]) if s0[0] else math.nan,
        **energy_in_subspace(u0[:, :k], v0[:k].T, update),
        "principal": float(principal[changed].mean()) if changed.any() else math.nan,
        "intruders": int((counterparts < COUNTERPART).sum()),
        "hill_base": hill(s0),
        "hill_update": hill(sigma),
        "sigma_base": tuple(s0[:k].tolist()),
        "sigma_tuned": tuple(s1[:k].tolist()),
        "sigma_update": tuple(sigma[:k].tolist()),
    }


def decays(base: Float[np.ndarray, " k"], update: Float[np.ndarray, " k"], shape: tuple[int, int]) -> dict[str, float]:
    """Return the fields of a ``Spectrum`` that say how the first singular values fall."""
    found: dict[str, float] = {}
    for side, sigma in (("base", base), ("update", update)):
        found[f"decay_{side}"], found[f"decay_{side}_fit"] = decay(sigma[: fitted(sigma, shape)])
    return found


def matrices_of(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, tuple[int, int]]]:
    """List the matrices that a tensor consists of: itself, each expert of stacked experts, or none.

    Returns
    -------
    Name of the matrix -> its first element in the flattened tensor, and its shape.

    >>> matrices_of("experts", (2, 3, 4))
    {'experts[0]': (0, (3, 4)), 'experts[1]': (12, (3, 4))}
    """
    if len(shape) not in (2, 3) or min(shape[-2:]) < 2:
        return {}
    rows, columns = shape[-2:]
    if len(shape) == 2:
        return {name: (0, (rows, columns))}
    return {f"{name}[{index}]": (index * rows * columns, (rows, columns)) for index in range(shape[0])}


def _matrices(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Skip]]:
    """Select the matrices; also return the other tensors, with reasons."""
    matrices: list[Pair] = []
    others: list[Skip] = []
    for pair in pairs:
        shape = pair.base.shape
        if names := matrices_of(pair.name, shape):
            whole = len(shape) == 2
            matrices += [pair] if whole else [Pair(name, pair.base.item(i), pair.tuned.item(i)) for i, name in enumerate(names)]
        else:
            is_vector = sum(size > 1 for size in shape) <= 1
            others.append(Skip(pair.name, "both", "not a matrix", pair.base.numel, is_vector))
    return matrices, others


def matrix_shapes(base: Source, tuned: Source) -> dict[str, tuple[int, int]]:
    """List the matrices that ``compare`` measures with their shapes, by name; no weight is read."""
    before, after = open_base(base), open_checkpoint(tuned)
    if after.adapter is not None:
        after, _ = after.adapter.apply_to_base(before)
    matrices, _ = _matrices(match(before, after).pairs)
    return {pair.name: (pair.base.shape[0], pair.base.shape[1]) for pair in matrices}


def compare(
    base: Source,
    tuned: Source,
    *,
    only: str | None = None,
    limit: int | None = None,
    k: int = 32,
    alpha: float = 0.5,
    method: str = "full",
    seed: int = 0,
    done: Sequence[Spectrum] = (),
    each: Callable[[Spectrum, int, int], None] | None = None,
) -> tuple[list[Spectrum], list[Skip]]:
    """Measure the spectra of all matrices of two checkpoints.

    Parameters
    ----------
    base, tuned : see ``dynamics.checkpoints.open_checkpoint``; ``tuned`` may be a LoRA adapter folder.
    only : regular expression; measure only matrices whose name matches.
    limit : maximum number of matrices.
    k, alpha, method, seed : see ``measure``.
    done : spectra measured earlier, which are not computed again.
    each : called after each matrix with its spectrum, the number of matrices done and the total.

    Returns
    -------
    The spectra, and the tensors that were skipped, with reasons.
    """
    selected = select(base, tuned, only=only, limit=limit)
    done_by_name = {spectrum.name: spectrum for spectrum in done}
    spectra: list[Spectrum] = []
    for pair in selected.matrices:
        known = done_by_name.get(pair.name)
        spectra.append(
            spectrum_of(pair, selected.factors.get(pair.tuned.name), k=k, alpha=alpha, method=method, seed=seed) if known is None else known
        )
        if each is not None:
            each(spectra[-1], len(spectra), len(selected.matrices))
    return spectra, selected.skipped


@dataclass(frozen=True)
class Measured:
    """The spectra of two checkpoints, with all that the outputs of the command show.

    Attributes
    ----------
    base, tuned : paths as they are shown.
    spectra, skipped : see ``compare``.
    remarks : on the checkpoints.
    method, k, alpha, seed : settings of ``compare``.
    """

    base: str
    tuned: str
    spectra: list[Spectrum]
    skipped: list[Skip]
    remarks: list[str]
    method: str
    k: int
    alpha: float
    seed: int


@dataclass(frozen=True)
class Selected:
    """The matrices of two checkpoints that are measured.

    Attributes
    ----------
    base, tuned : the checkpoints, with an adapter applied.
    opened : the tuned checkpoint as it was opened.
    matrices : pairs of matrices, in the order in which they are measured.
    factors : of an adapter, the updates that are low-rank products, by the name of the weight.
    skipped : tensors that are not measured, with reasons.
    """

    base: Checkpoint
    tuned: Checkpoint
    opened: Checkpoint
    matrices: list[Pair]
    factors: dict[str, LowRank]
    skipped: list[Skip]


def select(base: Source, tuned: Source, *, only: str | None = None, limit: int | None = None) -> Selected:
    """Match two checkpoints and select the matrices that ``compare`` measures, by its parameters; no weight is read."""
    pattern = _pattern(only)
    before, opened = open_base(base), open_checkpoint(tuned)
    after = opened
    with optional_import("measuring spectra"):  # here rather than after the work that needs no torch
        import torch  # noqa: F401
    factors: dict[str, LowRank] = {}
    if (adapter := opened.adapter) is not None:
        after, _ = adapter.apply_to_base(before)
        factors = adapter.factors(before)
    matched = match(before, after)
    matrices, others = _matrices(matched.pairs)
    selected = [pair for pair in matrices if pattern.search(pair.name)][:limit]
    names = {pair.name for pair in selected}
    unasked = [Skip(pair.name, "both", NOT_SELECTED, pair.base.numel, True) for pair in matrices if pair.name not in names]
    if not selected:
        raise InputError(f"no matrix to measure{f' whose name matches {printable(only)}' if only else ''}")
    return Selected(before, after, opened, selected, factors, [*matched.skipped, *others, *unasked])


def spectrum_of(pair: Pair, factors: LowRank | None, **settings: Any) -> Spectrum:
    """Measure a pair of matrices of two checkpoints; ``settings`` are those of ``measure_stored``."""
    rows, columns = pair.base.shape
    before, after = (Matrix(side.stored(), side.dtype, (rows, columns)) for side in (pair.base, pair.tuned))
    return measure_stored(before, after, name=pair.name, factors=factors, **settings)


def _pattern(only: str | None) -> re.Pattern[str]:
    try:
        return re.compile(only or "")
    except re.error as error:
        raise InputError(f"--only {printable(only or '')}: is not a regular expression ({error})") from None


def changed_only(rows: pd.DataFrame) -> pd.DataFrame:
    """Blank the quantities of matrices that did not change (NaN), in a table as ``frame`` makes: an update of zero has none."""
    columns = [
        field.name for field in fields(Spectrum) if field.name not in (*SEQUENCE_FIELDS, "name", "shape", "k", "base_norm", "hill_base")
    ]
    return rows.assign(**{column: rows[column].where(rows["update_norm"] > 0) for column in columns})


def frame(spectra: list[Spectrum]) -> pd.DataFrame:
    """Return a table with a row per matrix, with its layer and kind of module."""
    import pandas as pd

    rows = pd.DataFrame([asdict(spectrum) for spectrum in spectra])
    rows["module"] = [parameter_names.kind(name) for name in rows["name"]]
    rows["layer"] = [
        parameter_names.layer_order(parameter_names.layer(name) or "")[1] if parameter_names.layer(name) else -1 for name in rows["name"]
    ]
    return rows.sort_values("module", key=lambda kinds: kinds.map(parameter_names.module_order), kind="stable")
