"""The shape of an update: its rank, and what it does to the singular values and subspaces of the matrices that it moves.

    python -m dynamics.spectra BASE TUNED
    python -m dynamics.spectra BASE TUNED --only 'layers\\.(0|15)\\.' --subspace 32 --json spectra.json

    python -m dynamics.spectra BASE TUNED --method approx

For every matrix W of the base, with its update D = tuned - base, by singular value decompositions in float64:

    rank, stable rank, effective rank, rank at 90, 95 and 99 % of the energy    of D
    spectral drift (NSS)      |sigma(W + D) - sigma(W)| / |sigma(W)|
    principal angles          between the first k left (right) singular directions of W and of W + D
    energy inside             share of |D|^2 within the first k directions of W, beside its chance value
    mask overlaps             share of the changed weights that are among the largest of the rank-k part of W, or the smallest of W
    intruders                 of the first ten left directions of W + D, those with no counterpart in W
    Hill exponent             of the tail of the squared singular values

``--method approx`` finds the first directions only, by random projections, and gives every quantity as an estimate with bounds that hold
whatever the matrix (``dynamics.sketch``); ``--method none`` leaves out all that needs a decomposition. The update of a LoRA folder is
decomposed by its factors.

As a library: ``dynamics.spectra.measure(base, tuned)`` of two arrays. Definitions after Zhu et al. (arXiv 2511.08567), Shuttleworth et al.
(arXiv 2410.21228) and Martin and Mahoney.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints import Skip, Source, open_checkpoint
from dynamics.errors import InputError, shown

if TYPE_CHECKING:
    import argparse

    from dynamics.checkpoints.adapter import LowRank
    from dynamics.matching import Pair

SCHEMA = "dynamics.spectra/1"
Array = np.ndarray[Any, Any]
#: of intruders: how many directions are looked at, and below which |cosine| a direction has no counterpart
TOP, COUNTERPART = 10, 0.5
#: share of the singular values that the Hill exponent is taken of
TAIL = 0.1
METHODS = ("full", "approx", "none")
#: directions that ``approx`` finds beyond the k asked for
MORE = 16


@dataclass(frozen=True)
class Spectrum:
    """What an update did to one matrix. Angles in degrees; NaN where the update is zero.

    Attributes
    ----------
    rank : singular values of the update above max(m, n) eps sigma_1, eps of float64. Rounding to the storage dtype makes almost any
        update of full rank: see ``stable_rank`` and ``effective_rank`` for how many directions matter.
    stable_rank : |D|_F^2 / |D|_2^2.
    effective_rank, effective_rank_energy : exp of the entropy of sigma / sum sigma; of sigma^2 / sum sigma^2.
    rank_90, rank_95, rank_99 : directions that hold that share of |D|_F^2.
    nss : |sigma(W + D) - sigma(W)|_2 / |sigma(W)|_2.
    angle_left_max, angle_left_mean, angle_right_max, angle_right_mean : of the first ``k`` directions, in the sine form: a subspace with
        itself is at 0. Where sigma_k and sigma_k+1 nearly agree (``gap``), the largest angles say little.
    gap : (sigma_k - sigma_k+1) / sigma_1 of the base.
    inside, inside_chance : |U_k^T D V_k|^2 / |D|^2 with the base's directions, and k^2 / (m n).
    inside_left, inside_left_chance : |U_k^T D|^2 / |D|^2, and k / m; ``inside_right`` with k / n.
    principal, low, chance : share of the changed weights (rule bf16) that are in the mask of the largest |rank-k part of W|, of the
        smallest |W|; chance is the share of weights in either mask.
    intruders : of the first ten left directions of the tuned matrix, those with |cosine| below 0.5 to every one of the base.
    hill_base, hill_update : 1 + n / sum log(lambda_i / lambda_n+1) over the largest tenth of lambda = sigma^2.
    sigma_base, sigma_tuned, sigma_update : (k,) the largest singular values.
    angles_left, angles_right : (k,) ascending.
    bounds : quantity -> between what it lies, by ``approx``; empty otherwise, as then there is nothing to bound but rounding.
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


def ranks(sigma: Array, shape: tuple[int, int]) -> dict[str, Any]:
    """The rank family of singular values in descending order.

    >>> ranks(np.array([2.0, 2.0, 0.0]), (3, 3))["rank"], float(ranks(np.array([2.0, 2.0, 0.0]), (3, 3))["stable_rank"])
    (2, 2.0)
    """
    energy = sigma**2
    total = float(energy.sum())
    if not total:
        return {"rank": 0, "rank_90": 0, "rank_95": 0, "rank_99": 0} | dict.fromkeys(
            ("stable_rank", "effective_rank", "effective_rank_energy"), math.nan
        )
    reached = np.cumsum(energy) / total
    return {
        "rank": int((sigma > max(shape) * np.finfo(np.float64).eps * sigma[0]).sum()),
        "stable_rank": total / float(energy[0]),
        "effective_rank": _perplexity(sigma / sigma.sum()),
        "effective_rank_energy": _perplexity(energy / total),
        **{f"rank_{share}": int(np.searchsorted(reached, share / 100 - 1e-12) + 1) for share in (90, 95, 99)},
    }


def _perplexity(p: Array) -> float:
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def angles(first: Array, second: Array) -> Array:
    """Principal angles, degrees, ascending, between the spans of two matrices with k orthonormal columns.

    The sine and cosine forms of Bjoerck and Golub (1973) together, so that small angles and right angles are both exact.

    >>> float(angles(np.eye(4)[:, :2], np.eye(4)[:, :2]).max())
    0.0
    """
    import torch

    one, other = torch.from_numpy(np.ascontiguousarray(first)), torch.from_numpy(np.ascontiguousarray(second))
    product = one.T @ other
    cosines = torch.linalg.svdvals(product).clamp(0, 1)
    sines = torch.linalg.svdvals(other - one @ product).flip(0).clamp(0, 1)
    return np.asarray(torch.rad2deg(torch.arctan2(sines, cosines)))


def norm(matrix: Array) -> float:
    """Frobenius norm. By torch, as all that ``approx`` does: numpy's threads and torch's would wait for each other."""
    import torch

    return float(torch.linalg.vector_norm(torch.from_numpy(matrix)))


def hill(sigma: Array) -> float:
    """Power-law exponent of the largest tenth of the squared singular values (descending), by Hill's estimator."""
    eigenvalues = sigma[sigma > 0] ** 2
    count = max(1, int(TAIL * len(sigma)))
    if len(eigenvalues) <= count:
        return math.nan
    logs = np.log(eigenvalues[:count] / eigenvalues[count]).sum()
    return 1 + count / float(logs) if logs > 0 else math.nan


def measure(
    base: Array,
    tuned: Array,
    *,
    name: str = "",
    k: int = 32,
    alpha: float = 0.5,
    changed: Array | None = None,
    method: str = "full",
    seed: int = 0,
    factors: LowRank | None = None,
) -> Spectrum:
    """What the update from ``base`` to ``tuned``, (m, n) each, did.

    Parameters
    ----------
    k : directions that count as principal; fewer if the matrix is smaller.
    alpha : share of the weights in the principal and in the low-magnitude mask.
    changed : (m, n) bool, the weights that moved; those that differ if None.
    method : ``full``; ``approx``, by random projections from ``seed``, with bounds; ``none``, for norms and the low-magnitude mask alone.
    factors : the update as a product, whose singular values are then exact and cheap.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r}: unknown; there are {', '.join(METHODS)}")
    before, after = np.asarray(base, np.float64), np.asarray(tuned, np.float64)
    if before.ndim != 2 or before.shape != after.shape:
        raise InputError(f"{name or 'matrices'}: need two matrices of one shape, got {before.shape} and {after.shape}")
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise InputError(f"{name or 'matrix'}: holds NaN or infinity, of which there are no singular values")
    moved = before != after if changed is None else changed
    m, n = before.shape
    k = min(k, m, n)
    count = round(alpha * before.size)
    update = after - before
    shared = {
        "name": name,
        "shape": (m, n),
        "k": k,
        "base_norm": norm(before),
        "update_norm": norm(update) if factors is None else factors.norm(),
        "inside_chance": k * k / (m * n),
        "inside_left_chance": k / m,
        "inside_right_chance": k / n,
        "changed": int(moved.sum()),
        "low": float(largest(-np.abs(before), count)[moved].mean()) if moved.any() else math.nan,
        "chance": count / before.size,
    }
    if method == "full":
        found = _full(before, after, update, moved, k, count, factors)
    elif method == "approx":
        from dynamics.spectra_bounds import approximate

        found = approximate(before, after, update, moved, k, count, seed, factors)
    else:
        found = {"rank": 0, "rank_90": 0, "rank_95": 0, "rank_99": 0, "intruders": 0}
    blank = {one.name: math.nan for one in fields(Spectrum) if one.name not in _OPTIONAL}
    return Spectrum(**(blank | shared | found))


_OPTIONAL = ("sigma_base", "sigma_tuned", "sigma_update", "angles_left", "angles_right", "bounds")


def _full(before: Array, after: Array, update: Array, moved: Array, k: int, count: int, factors: LowRank | None) -> dict[str, Any]:
    u0, s0, v0 = svd(before)
    u1, s1, v1 = svd(after)
    sigma = svd(update)[1] if factors is None else padded(factors.singular_values(), min(before.shape))
    left, right = angles(u0[:, :k], u1[:, :k]), angles(v0[:k].T, v1[:k].T)
    principal = largest(np.abs((u0[:, :k] * s0[:k]) @ v0[:k]), count)
    counterparts = np.abs(u1[:, :TOP].T @ u0).max(1)
    scale = float(np.linalg.norm(s0))
    return {
        **ranks(sigma, (len(before), len(before[0]))),
        "nss": float(np.linalg.norm(s1 - s0)) / scale if scale else math.nan,
        **angle_summary(left, right),
        "gap": float((s0[k - 1] - (s0[k] if k < len(s0) else 0.0)) / s0[0]) if s0[0] else math.nan,
        **inside(u0[:, :k], v0[:k].T, update),
        "principal": float(principal[moved].mean()) if moved.any() else math.nan,
        "intruders": int((counterparts < COUNTERPART).sum()),
        "hill_base": hill(s0),
        "hill_update": hill(sigma),
        "sigma_base": tuple(s0[:k].tolist()),
        "sigma_tuned": tuple(s1[:k].tolist()),
        "sigma_update": tuple(sigma[:k].tolist()),
    }


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """U, sigma, V^T in float64, on a GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        u, s, v = torch.linalg.svd(torch.from_numpy(matrix).cuda(), full_matrices=False)
        return u.cpu().numpy(), s.cpu().numpy(), v.cpu().numpy()
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return u, s, v


def padded(sigma: Array, size: int) -> Array:
    return np.concatenate([sigma, np.zeros(max(0, size - len(sigma)))])[:size]


def angle_summary(left: Array, right: Array) -> dict[str, Any]:
    return {
        "angle_left_max": float(left.max()),
        "angle_left_mean": float(left.mean()),
        "angle_right_max": float(right.max()),
        "angle_right_mean": float(right.mean()),
        "angles_left": tuple(left.tolist()),
        "angles_right": tuple(right.tolist()),
    }


def inside(left: Array, right: Array, update: Array) -> dict[str, float]:
    """Shares of the update's energy within directions ``left`` (m, k) and ``right`` (n, k)."""
    import torch

    total = norm(update) ** 2
    moved = torch.from_numpy(update)
    rows, columns = (torch.from_numpy(np.ascontiguousarray(side.T)) for side in (left, right))
    projected = rows @ moved
    parts = {"inside": projected @ columns.T, "inside_left": projected, "inside_right": columns @ moved.T}
    return {name: float((part**2).sum()) / total if total else math.nan for name, part in parts.items()}


def largest(values: Array, count: int) -> Array:
    """Mask of the ``count`` largest; of ties those that come first."""
    mask = np.zeros(values.size, bool)
    if count:
        flat = values.ravel()
        edge = np.partition(flat, flat.size - count)[flat.size - count]
        np.greater(flat, edge, out=mask)
        mask[np.flatnonzero(flat == edge)[: count - int(mask.sum())]] = True
    return mask.reshape(values.shape)


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
    each: Callable[[Spectrum, int, int], None] = lambda spectrum, number, count: None,
) -> tuple[list[Spectrum], list[Skip]]:
    """Spectra of all matrices of two checkpoints, and what was left out and why.

    ``only``: a regular expression that names must match; ``limit``: how many matrices at most, from the first; ``done``: spectra that
    are there already; ``each``: called after every matrix with the number that are done and the number in all.
    """
    from dynamics.kernels import round_to_bfloat16
    from dynamics.matching import match

    try:
        pattern = re.compile(only) if only else None
    except re.error as error:
        raise InputError(f"--only {shown(only or '')}: is not a regular expression ({error})") from None
    before, after = open_checkpoint(base), open_checkpoint(tuned)
    factors: dict[str, LowRank] = {}
    if (adapter := after.adapter) is not None:
        after, records = adapter.apply(before)
        factors = dict(zip((record["name"] for record in records), adapter.updates.values(), strict=True))
    matched = match(before, after)
    skipped = list(matched.skipped)
    wanted = []
    for pair in matched.pairs:
        if len(pair.base.shape) != 2 or min(pair.base.shape) < 2:
            skipped.append(Skip(pair.name, "both", "not a matrix"))
        elif pattern is None or pattern.search(pair.name):
            wanted.append(pair)
    wanted = wanted[:limit]
    if not wanted:
        raise InputError(f"no matrix to measure{f' whose name matches {shown(only)}' if only else ''}")
    there = {one.name: one for one in done}

    def one(pair: Pair) -> Spectrum:
        if pair.name in there:
            return there[pair.name]
        values = [np.asarray(side.values(), np.float64).reshape(pair.base.shape) for side in (pair.base, pair.tuned)]
        bits = np.empty((2, values[0].size), np.uint16)
        for value, row in zip(values, bits, strict=True):
            round_to_bfloat16(value.ravel(), row)
        moved = (bits[0] != bits[1]) & (((bits[0] | bits[1]) & 0x7FFF) != 0)
        shape = pair.base.shape
        return measure(
            *values,
            name=pair.name,
            k=k,
            alpha=alpha,
            changed=moved.reshape(shape),
            method=method,
            seed=seed,
            factors=factors.get(pair.tuned.name),
        )

    found: list[Spectrum] = []
    for pair in wanted:
        found.append(one(pair))
        each(found[-1], len(found), len(wanted))
    return found, skipped


def main(argv: Sequence[str] | None = None) -> None:
    from dynamics import command

    options = _parser().parse_args(argv)
    command.check_outputs(options)
    if options.subspace < 1 or not 0 < options.alpha < 1 or (options.limit is not None and options.limit < 1):
        raise InputError("--subspace and --limit must be at least 1, --alpha between 0 and 1")
    kept = Path(options.resume) if options.resume else None
    key = {"base": options.base, "tuned": options.tuned, "k": options.subspace, "alpha": options.alpha}
    key |= {"method": options.method, "seed": options.seed}
    done = _kept(kept, key) if kept else []
    there = {one.name for one in done}
    with command.Bar("decomposing", "matrices") as bar:

        def each(spectrum: Spectrum, number: int, count: int) -> None:
            bar(number, count)
            if kept and spectrum.name not in there:
                with open(kept, "a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(spectrum) | {"of": key}) + "\n")

        found, skipped = compare(
            options.base,
            options.tuned,
            only=options.only,
            limit=options.limit,
            k=options.subspace,
            alpha=options.alpha,
            method=options.method,
            seed=options.seed,
            done=done,
            each=each,
        )
    if "-" not in (options.json, options.csv):
        from dynamics.plots.spectra import show

        show(options.base, options.tuned, found, skipped, options.method)
    settings = {"method": options.method, "dtype": "float64", "k": options.subspace, "alpha": options.alpha, "tail": TAIL}
    if options.method == "approx":
        from dynamics.sketch import FAILURE

        settings |= {"seed": options.seed, "directions": options.subspace + MORE, "bounds_fail_with_probability": FAILURE}
    if options.json:
        document = {
            "schema": SCHEMA,
            "base": options.base,
            "tuned": options.tuned,
            "settings": settings,
            "matrices": [asdict(one) for one in found],
            "skipped": [asdict(one) for one in skipped],
        }
        command.write(options.json, command.to_json(document))
    if options.csv:
        import pandas as pd

        rows = [{key: value for key, value in asdict(one).items() if key not in _OPTIONAL} | _ends(one) for one in found]
        command.write(options.csv, pd.DataFrame(rows).to_csv(index=False))
    if options.html:
        from dynamics.plots.spectra_page import page

        command.write(options.html, page(options.base, options.tuned, found, skipped, settings))
    if options.figure:
        from dynamics.plots.spectra import figure
        from dynamics.plots.style import save

        save(figure(found), options.figure)


def _ends(one: Spectrum) -> dict[str, float]:
    return {f"{name}_{end}": value for name, ends in one.bounds.items() for end, value in zip(("low", "high"), ends, strict=True)}


def _kept(path: Path, key: dict[str, Any]) -> list[Spectrum]:
    """Spectra that an earlier command with the same settings wrote; a last line that was cut is passed over."""
    from dynamics.command import replacing

    found: list[Spectrum] = []
    if not path.exists():
        return found
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            of = row.pop("of")
            row = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
            row["bounds"] = {name: tuple(ends) for name, ends in row["bounds"].items()}
            found.append(Spectrum(**row))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}, line {number}: was not written by this command; name another file for --resume") from None
        if of != key:
            raise InputError(f"{path}: is of other checkpoints or settings; name another file for --resume")
    with replacing(path) as temporary:  # without a last line that was cut
        temporary.write_text("".join(lines), encoding="utf-8")
    return found


def _parser() -> argparse.ArgumentParser:
    from dynamics.command import Parser, add_outputs

    parser = Parser(
        prog="python -m dynamics.spectra",
        description="The shape of an update: rank, spectral drift, principal angles, energy in the base's principal subspace.",
        epilog="example: python -m dynamics.spectra Qwen2.5-0.5B my-run --only 'self_attn' --resume spectra.jsonl --figure spectra.png",
    )
    parser.add_argument("base", metavar="BASE", help="checkpoint before: a file, folder or Hub id")
    parser.add_argument("tuned", metavar="TUNED", help="checkpoint after; may be a PEFT LoRA folder")
    parser.add_argument("--only", metavar="REGEX", help="matrices whose names match")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many matrices, from the first")
    parser.add_argument("--subspace", type=int, default=32, metavar="K", help="directions that count as principal (default %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.5, help="share of weights in the principal and low masks (default %(default)s)")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="full",
        help="approx: first directions only, with bounds; none: no decomposition (default full)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random projections of approx (default %(default)s)")
    parser.add_argument("--resume", metavar="FILE", help="keep finished matrices in this file, and go on from it")
    add_outputs(parser, "a row a matrix", "profiles over the layers, singular values, angles")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    from dynamics.command import run

    return run("dynamics.spectra", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
