"""Curves of pass@k with intervals, comparisons of two curves, and the report on a table of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from dynamics.bootstrap import LEVEL, REPLICATES, difference_interval, mean_interval
from dynamics.descriptions import plural, small_table
from dynamics.errors import InputError, did_you_mean, printable
from dynamics.passk import diagnostics
from dynamics.passk.crossing import Crossing, crossing, crossing_ks
from dynamics.passk.estimators import curves, maj_at_k, mg_pass_at_k, pass_at_k
from dynamics.passk.support_measures import Support, support

if TYPE_CHECKING:
    import pandas as pd

    from dynamics.io.threads import Progress
    from dynamics.passk.betabinomial import Extrapolation, Validation
    from dynamics.samples import File


SCHEMA = "dynamics.passk/1"
#: metrics estimated in addition to pass@k: display name by field
BESIDE = {"pass_hat_k": "pass^k", "mg_pass_at_k": "mG-Pass@k", "maj_at_k": "maj@k"}
UNSCORED = ("exclude", "wrong")
#: number of curves that the ``repr`` of a report lists
SHOWN = 4


@dataclass(frozen=True, repr=False)
class Curve:
    """The pass@k curve of one model.

    Attributes
    ----------
    name : name of the model.
    counts : a row per problem: problem, n (samples with a verdict), c (correct samples), attempted (all samples).
    points : a row per k: k, pass_at_k, low, high, problems (with n >= k), over_half (those with k > n / 2 and k > 1), pass_hat_k,
        mg_pass_at_k and, if requested, maj_at_k, each with _low and _high. NaN if no problem has k samples.
    mean : the mean score avg@n with its interval, (value, low, high), over all problems with a verdict.
    statuses : number of samples by status: scored, timed out, no answer, no verdict.
    warnings : remarks on the reliability of the estimates.
    extrapolation, validation : see ``dynamics.passk.betabinomial``; None unless requested.
    contents : text of each problem by id, to detect ids that denote different problems.

    Notes
    -----
    If n differs between problems, the set of problems changes with k, and the curve can decrease.
    """

    name: str
    counts: pd.DataFrame
    points: pd.DataFrame
    mean: tuple[float, float, float]
    statuses: dict[str, int]
    warnings: list[str]
    extrapolation: Extrapolation | None = None
    validation: Validation | None = None
    contents: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Describe the samples, and pass@1 and pass@k at the largest k, in one line."""
        last = self.points.dropna(subset=["pass_at_k"]).tail(1).to_dict("records")
        ends = "".join(f", pass@{point['k']} {point['pass_at_k']:.3f}" for point in last if point["k"] > 1)
        sizes = f"{plural(len(self.counts), 'problem')}, {plural(self.samples['total'], 'sample')}"
        return f"<Curve {printable(self.name, 60)}: {sizes}; avg@n {self.mean[0]:.3f} [{self.mean[1]:.3f}, {self.mean[2]:.3f}]{ends}>"

    def _repr_html_(self) -> str:
        """Show pass@k as a small table in a notebook."""
        rows = [
            [f"{point['k']:,}", f"{point['pass_at_k']:.3f}", f"[{point['low']:.3f}, {point['high']:.3f}]", f"{point['problems']:,}"]
            for point in self.points.to_dict("records")
        ]
        return small_table(repr(self).strip("<>"), ["k", "pass@k", "interval", "problems"], rows)

    @property
    def samples(self) -> dict[str, int]:
        """Minimum and maximum number of samples per problem, and the total."""
        n = self.counts["n"]
        return {"min": int(n.min()), "max": int(n.max()), "total": int(n.sum())}

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object of the curve in a report."""
        points = []
        for record in self.points.to_dict("records"):
            point = {"k": int(record["k"]), "pass_at_k": record["pass_at_k"], "low": record["low"], "high": record["high"]}
            point |= {"problems": int(record["problems"]), "over_half": int(record["over_half"])}
            for name in BESIDE:
                if name in record:
                    point[name] = {"value": record[name], "low": record[f"{name}_low"], "high": record[f"{name}_high"]}
            points.append(point)
        document: dict[str, Any] = {
            "name": self.name,
            "problems": len(self.counts),
            "samples": self.samples,
            "statuses": self.statuses,
            "avg_at_n": dict(zip(("value", "low", "high"), self.mean, strict=True)),
            "points": points,
        }
        if self.extrapolation is not None:
            document["extrapolation"] = _extrapolated(self.extrapolation, self.validation)
        return document | {"warnings": self.warnings}


def _extrapolated(extrapolation: Extrapolation, validation: Validation | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "model": "beta-binomial",
        "a": extrapolation.fit.a,
        "b": extrapolation.fit.b,
        "points": [
            {"k": int(k), "pass_at_k": float(value), "low": float(low), "high": float(high)}
            for k, value, low, high in zip(extrapolation.ks, extrapolation.pass_at_k, extrapolation.low, extrapolation.high, strict=True)
        ],
        "validation": None,
    }
    if validation is not None:
        document["validation"] = vars(validation) | {"inside": validation.inside}
    return document


@dataclass(frozen=True, repr=False)
class Comparison:
    """The paired comparison of model ``b`` with model ``a`` on their shared problems.

    Attributes
    ----------
    a, b : names of the models.
    paired : number of shared problems.
    only_a, only_b : number of problems of only one model.
    points : a row per k: k, difference (b - a), low, high, problems.
    crossing : the k at which the curve that is lower at small k overtakes the other; None if the curves are equal everywhere.
    solved : number of problems with a correct sample, by both, only_a, only_b, neither.
    """

    a: str
    b: str
    paired: int
    only_a: int
    only_b: int
    points: pd.DataFrame
    crossing: Crossing | None
    solved: dict[str, int]

    def __repr__(self) -> str:
        """Describe the comparison and the crossing of the curves in two lines."""
        pair = f"{printable(self.b, 60)} against {printable(self.a, 60)}"
        return f"<passk.Comparison {pair}: {plural(self.paired, 'problem')} paired\n {crossing_text(self, LEVEL)}>"

    def _repr_html_(self) -> str:
        """Show the differences as a small table in a notebook."""
        rows = [
            [f"{point['k']:,}", f"{point['difference']:+.3f}", f"[{point['low']:+.3f}, {point['high']:+.3f}]", f"{point['problems']:,}"]
            for point in self.points.to_dict("records")
        ]
        return small_table(repr(self).splitlines()[0].strip("<>"), ["k", "difference", "interval", "problems"], rows)

    def support(self, level: float = LEVEL) -> Support:
        """Compute the support measures of ``b`` against ``a``, over the shared problems."""
        solved = self.solved
        return support(solved["both"], solved["only_a"], solved["only_b"], solved["neither"], level)

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object of the comparison in a report."""
        document: dict[str, Any] = {
            "a": self.a,
            "b": self.b,
            "problems": {"paired": self.paired, "only_a": self.only_a, "only_b": self.only_b},
            "solved": self.solved,
            "support": self.support().to_dict(),
            "points": self.points.to_dict("records"),
            "crossing": None,
        }
        if self.crossing is not None:
            crossed = self.crossing
            document["crossing"] = {
                "leader": (self.a, self.b)[crossed.leader],
                "k": crossed.k,
                "low": crossed.low,
                "high": crossed.high,
                "probability_none": crossed.none,
                "probability_from_start": crossed.at_once,
                "again": crossed.again,
                "largest_k": crossed.largest,
            }
        return document


@dataclass(frozen=True, repr=False)
class Report:
    """The curves of all models, their comparisons with ``against``, the files read, and remarks on the samples."""

    curves: list[Curve]
    comparisons: list[Comparison]
    against: str | None
    files: list[File]
    notes: list[str]
    level: float
    replicates: int
    seed: int

    def __repr__(self) -> str:
        """Describe the first few curves, a line per curve."""
        lines = [f"<passk.Report of {plural(len(self.curves), 'model')}", *map(repr, self.curves[:SHOWN])]
        if len(self.curves) > SHOWN:
            lines.append(f"and {plural(len(self.curves) - SHOWN, 'model')} more")
        return "\n ".join(lines) + ">"

    def _repr_html_(self) -> str:
        """Show pass@1 and pass@k at the largest k as a small table in a notebook, a row per model."""
        rows = []
        for curve in self.curves:
            last = curve.points.dropna(subset=["pass_at_k"]).tail(1).to_dict("records")
            mean, low, high = curve.mean
            ends = [f"{point['k']:,}" for point in last] + [f"{point['pass_at_k']:.3f}" for point in last]
            rows.append(
                [printable(curve.name, 60), f"{len(curve.counts):,}", f"{mean:.3f}", f"[{low:.3f}, {high:.3f}]", *(ends or ["-", "-"])]
            )
        return small_table(repr(self).splitlines()[0].strip("<>"), ["model", "problems", "avg@n", "interval", "largest k", "pass@k"], rows)

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON document of schema ``dynamics.passk/1``; undefined numbers are NaN."""
        return {
            "schema": SCHEMA,
            "estimator": "pass@k = mean over problems of 1 - C(n - c, k) / C(n, k), over the problems with n >= k",
            "interval": {"method": _method(self.replicates), "level": self.level, "replicates": self.replicates, "seed": self.seed},
            "curves": [curve.to_dict() for curve in self.curves],
            "against": self.against,
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "files": [file.to_dict() for file in self.files],
            "notes": self.notes,
        }

    def table(self) -> pd.DataFrame:
        """Return all numbers as one tidy table; ``kind`` is pass@k, pass^k, ..., extrapolation or difference."""
        import pandas as pd

        parts = []
        for curve in self.curves:
            for name, kind in {"pass_at_k": "pass@k", **BESIDE}.items():
                if name in curve.points:
                    ends = ("low", "high") if name == "pass_at_k" else (f"{name}_low", f"{name}_high")
                    part = curve.points[["k", name, *ends, "problems", "over_half"]].set_axis(
                        ["k", "value", "low", "high", "problems", "over_half"], axis=1
                    )
                    parts.append(part.assign(kind=kind, name=curve.name))
            if (extrapolation := curve.extrapolation) is not None:
                values = {"k": extrapolation.ks, "value": extrapolation.pass_at_k, "low": extrapolation.low, "high": extrapolation.high}
                parts.append(pd.DataFrame(values).assign(problems=len(curve.counts), kind="extrapolation", name=curve.name))
        parts += [
            comparison.points.rename(columns={"difference": "value"}).assign(kind="difference", name=comparison.b, against=comparison.a)
            for comparison in self.comparisons
        ]
        table = pd.concat(parts, ignore_index=True)
        return table[["kind", "name", *(["against"] if "against" in table else []), "k", "value", "low", "high", "problems", "over_half"]]


def _method(replicates: int) -> str:
    return (
        "bootstrap over problems, each with all its samples, and one pseudo-problem; percentiles widened as for t; pointwise in k"
        if replicates
        else "none"
    )


def counts(table: pd.DataFrame, unscored: str = "exclude") -> pd.DataFrame:
    """Count the samples of each problem: columns problem, n, c, attempted.

    Parameters
    ----------
    table : table of samples (``problem, correct``) or of counts (``problem, n, c``).
    unscored : ``exclude`` samples without a verdict (NA), or count them as ``wrong``.
    """
    import pandas as pd

    if unscored not in UNSCORED:
        raise InputError(f"unscored={unscored!r}: there are {', '.join(UNSCORED)}")
    if "problem" not in table:
        raise InputError(f"the table has no column 'problem'; it has {', '.join(map(str, table.columns))}")
    if {"n", "c"} <= set(table.columns):
        grouped = table.groupby("problem", observed=True, sort=False)[["n", "c"]].sum().reset_index()
        pass_at_k(grouped["n"].to_numpy(), grouped["c"].to_numpy(), 1)  # raises InputError for c > n and for invalid counts
        return grouped.assign(attempted=grouped["n"])
    if "correct" not in table:
        raise InputError(f"the table has neither 'correct' nor 'n' and 'c'; it has {', '.join(map(str, table.columns))}")
    correct = table["correct"]
    if correct.dtype == object or not (pd.api.types.is_bool_dtype(correct) or pd.api.types.is_numeric_dtype(correct)):
        raise InputError("the column 'correct' must hold true, false or nothing; dynamics.samples.read turns other verdicts into these")
    values = correct.astype("Float64").to_numpy(float, na_value=math.nan)
    if not np.isin(values[~np.isnan(values)], (0.0, 1.0)).all():
        raise InputError("the column 'correct' holds numbers other than 0 and 1; decide by a threshold which are correct")
    known = ~np.isnan(values)
    frame = pd.DataFrame({"problem": table["problem"].to_numpy(), "n": known, "c": known & (values == 1), "attempted": True})
    grouped = frame.groupby("problem", observed=True, sort=False)[["n", "c", "attempted"]].sum().astype("int64").reset_index()
    if unscored == "wrong":
        grouped["n"] = grouped["attempted"]
    return grouped


def curve(
    table: pd.DataFrame,
    name: str | None = None,
    ks: Sequence[int] | None = None,
    *,
    unscored: str = "exclude",
    maj: bool = False,
    extrapolate: int | None = None,
    level: float = LEVEL,
    replicates: int = REPLICATES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curve:
    """Estimate the pass@k curve of one model, with intervals.

    Parameters
    ----------
    table : table of samples or of counts, see ``counts``. The columns status, answer, fingerprint, temperature and content are optional.
    name : name of the model; by default, that in the column ``model``.
    ks : increasing; by default, the powers of two up to the largest n.
    unscored : ``exclude`` samples without a verdict, or count them as ``wrong``.
    maj : also estimate maj@k, from the column ``answer``.
    extrapolate : also predict pass@k with a beta-binomial model, at powers of two above n up to this k.
    level, replicates, seed : settings of the bootstrap, see ``dynamics.bootstrap``.
    progress : called with (problems done, total problems) while maj@k is computed.

    Raises
    ------
    InputError : the table holds several models, no sample has a verdict, or counts are invalid.
    """
    import pandas as pd

    if "model" in table and table["model"].nunique() > 1:
        raise InputError("the table holds several models; use dynamics.passk.report, or a table of one")
    if name is None:
        name = str(table["model"].iloc[0]) if "model" in table and len(table) else "samples"
    if not 0 < level < 1:
        raise InputError(f"level={level}: must lie between 0 and 1, e.g. 0.95")
    if replicates < 100:
        raise InputError(f"replicates={replicates}: an interval needs at least 100")
    every = counts(table, unscored)
    graded = every[every["n"] > 0].reset_index(drop=True)
    if graded.empty:
        raise InputError(f"{printable(name)}: none of {int(every['attempted'].sum()):,} samples has a verdict")
    n, c = graded["n"].to_numpy(np.int64), graded["c"].to_numpy(np.int64)
    orders = np.asarray(_powers(int(n.max())) if ks is None else ks, np.int64)
    columns: dict[str, Float[np.ndarray, "problems ks"]] = {"pass_at_k": curves(n, c, orders), "pass_hat_k": curves(n, c, orders, "pass^k")}
    columns["mg_pass_at_k"] = mg_pass_at_k(n[:, None], c[:, None], orders[None, :])
    warnings = diagnostics.samples(table, every, graded)
    if maj:
        columns["maj_at_k"] = _majority(table, graded, orders, warnings, progress)
    interval = mean_interval(np.hstack([*columns.values(), (c / n)[:, None]]), level, replicates, seed)
    with np.errstate(invalid="ignore"):
        means = {key: np.nansum(value, axis=0) / _or_nan((~np.isnan(value)).sum(axis=0)) for key, value in columns.items()}
    eligible = n[:, None] >= orders
    points = pd.DataFrame({"k": orders, "pass_at_k": means["pass_at_k"]})
    for number, key in enumerate(columns):
        span = slice(number * len(orders), (number + 1) * len(orders))
        prefix = "" if key == "pass_at_k" else f"{key}_"
        points[key], points[f"{prefix}low"], points[f"{prefix}high"] = means[key], interval.low[span], interval.high[span]
        if not number:
            points["problems"] = eligible.sum(axis=0)
            points["over_half"] = (eligible & (2 * orders > n[:, None]) & (orders > 1)).sum(axis=0)
    warnings += diagnostics.points(points)
    statuses = {str(key): int(value) for key, value in table["status"].value_counts(sort=False).items()} if "status" in table else {}
    contents = _contents(table)
    mean = (float((c / n).mean()), float(interval.low[-1]), float(interval.high[-1]))
    estimated = Curve(name, graded, points, mean, statuses, warnings, contents=contents)
    return estimated if extrapolate is None else _extend(estimated, extrapolate, level, seed)


def _or_nan(numbers: Shaped[np.ndarray, " ks"]) -> Float[np.ndarray, " ks"]:
    return np.where(numbers > 0, numbers, np.nan)


def _powers(largest: int) -> list[int]:
    return [2**power for power in range(largest.bit_length())]


def _extend(curve: Curve, largest: int, level: float, seed: int) -> Curve:
    from dynamics.passk.betabinomial import extrapolate, validate

    n, c = curve.counts["n"].to_numpy(), curve.counts["c"].to_numpy()
    ks = [k for k in _powers(largest) if k > n.max()]
    if not ks:
        return replace(curve, warnings=[*curve.warnings, f"nothing to extrapolate: every k up to {largest} has an estimate"])
    if not c.any() or (c == n).all():
        alike = "no sample is correct" if not c.any() else "every sample is correct"
        return replace(curve, warnings=[*curve.warnings, f"no extrapolation: {alike}, which does not determine pass@k beyond n"])
    validation = validate(n, c, level, seed=seed)
    notes = []
    if validation is None:
        notes.append("the extrapolation could not be validated on subsamples: this needs 16 samples per problem")
    elif not validation.inside:
        notes.append(
            f"the extrapolation failed its validation: from {validation.kept} samples per problem it predicts pass@{validation.k} = "
            f"{validation.predicted:.3f} [{validation.low:.3f}, {validation.high:.3f}], measured {validation.measured:.3f}"
        )
    return replace(curve, extrapolation=extrapolate(n, c, ks, level, seed=seed), validation=validation, warnings=[*curve.warnings, *notes])


def _contents(table: pd.DataFrame) -> dict[str, str]:
    if "content" not in table:
        return {}
    first = table.dropna(subset=["content"]).drop_duplicates("problem")
    return dict(zip(first["problem"].astype(str), first["content"].astype(str), strict=True))


def _majority(
    table: pd.DataFrame, graded: pd.DataFrame, ks: Int[np.ndarray, " ks"], warnings: list[str], progress: Progress | None
) -> Float[np.ndarray, "problems ks"]:
    """Estimate maj@k of the samples with a verdict."""
    if "answer" not in table:
        raise InputError("maj@k needs the answer of each sample; these files have none: name the field with --answer")
    with_verdict = table[table["correct"].notna()]
    groups = {problem: (part["answer"], part["correct"]) for problem, part in with_verdict.groupby("problem", observed=True, sort=False)}
    values = np.full((len(graded), len(ks)), np.nan)
    for row, problem in enumerate(graded["problem"]):
        answers, correct = groups[problem]
        votes: list[Any] = answers.astype(object).where(answers.notna(), None).tolist()
        right = correct.astype(bool).tolist()
        values[row] = [maj_at_k(votes, right, int(k)) for k in ks]
        if progress:
            progress(row + 1, len(graded))
    silent = int(with_verdict["answer"].isna().sum())
    if silent:
        warnings.append(f"maj@k: samples without an answer do not vote ({silent:,})")
    return values


def compare(
    a: Curve,
    b: Curve,
    ks: Sequence[int] | None = None,
    *,
    level: float = LEVEL,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Compare ``b`` with ``a`` on their shared problems: paired differences of pass@k, and the crossing of the curves.

    Parameters
    ----------
    a, b : curves from ``curve``.
    ks : increasing; by default, those of ``a``.
    level, replicates, seed : settings of the bootstrap.

    Raises
    ------
    InputError : the curves share no problem, or an id denotes two different problems.
    """
    import pandas as pd

    clash = [problem for problem, content in a.contents.items() if b.contents.get(problem, content) != content]
    if clash:
        raise InputError(
            f"problem {printable(clash[0], 60)} is not the same problem in {printable(a.name)} and {printable(b.name)} ({len(clash):,} "
            "like it): they are from different versions of a task, or from different tasks"
        )
    both = a.counts.astype({"problem": object}).merge(b.counts.astype({"problem": object}), on="problem", suffixes=("_a", "_b"))
    if both.empty:
        examples = " and ".join(repr(printable(curve.counts["problem"].iloc[0], 40)) for curve in (a, b))
        raise InputError(f"{printable(a.name)} and {printable(b.name)} have no problem id in common; their ids are like {examples}")
    orders = np.asarray(a.points["k"] if ks is None else ks, np.int64)
    n, c = ([both[f"{column}_{side}"].to_numpy(np.int64) for side in "ab"] for column in "nc")
    first, second = (curves(n[side], c[side], orders) for side in (0, 1))
    shared = ~np.isnan(first + second)
    with np.errstate(invalid="ignore"):
        difference = np.nansum(second - first, axis=0) / _or_nan(shared.sum(axis=0))
    interval = difference_interval(first, second, level, replicates, seed)
    dense = crossing_ks(int(np.minimum(*n).max()))
    crossed = crossing(dense, curves(n[0], c[0], dense), curves(n[1], c[1], dense), level, replicates, seed)
    points = pd.DataFrame(
        {"k": orders, "difference": difference, "low": interval.low, "high": interval.high, "problems": shared.sum(axis=0)}
    )
    right = [count > 0 for count in c]
    solved = {
        "both": int((right[0] & right[1]).sum()),
        "only_a": int((right[0] & ~right[1]).sum()),
        "only_b": int((~right[0] & right[1]).sum()),
        "neither": int((~right[0] & ~right[1]).sum()),
    }
    return Comparison(a.name, b.name, len(both), len(a.counts) - len(both), len(b.counts) - len(both), points, crossed, solved)


def report(
    table: pd.DataFrame,
    ks: Sequence[int] | None = None,
    *,
    against: str | None = None,
    files: Sequence[File] = (),
    notes: Sequence[str] = (),
    unscored: str = "exclude",
    maj: bool = False,
    extrapolate: int | None = None,
    level: float = LEVEL,
    replicates: int = REPLICATES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Estimate the curve of each model of a table, and compare each model with ``against``.

    Parameters
    ----------
    table, ks, unscored, maj, extrapolate, level, replicates, seed : see ``curve``.
    against : name of the model to compare with; the first if None.
    files, notes : from ``dynamics.samples.read``, for the report.
    progress : called with (done, total).
    """
    models = list(dict.fromkeys(table["model"])) if "model" in table else [None]
    if against is not None and against not in models:
        choices = f"there are {', '.join(printable(name) for name in models)}"
        raise InputError(f"--against {printable(against)}: there is no such model; {choices}{did_you_mean(against, map(str, models))}")
    names = [str(name) if name is not None else "samples" for name in models]
    parts = [table[table["model"] == name] if name is not None else table for name in models]
    if ks is None:
        ks = _powers(max(int(counts(part, unscored)["n"].max()) for part in parts))
    settings: dict[str, Any] = {"level": level, "replicates": replicates, "seed": seed}
    estimates = []
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):

        def tell(done: int, total: int, number: int = number) -> None:
            if progress:
                progress(number * total + done, len(parts) * total)

        estimates.append(curve(part, name, ks, unscored=unscored, maj=maj, extrapolate=extrapolate, progress=tell, **settings))
    remarks = list(notes)
    base = next((other for other in estimates if other.name == (against or names[0])), estimates[0])
    comparisons, failed = _compared(base, estimates, ks, against is not None, settings)
    remarks += failed
    return Report(estimates, comparisons, base.name if len(estimates) > 1 else None, list(files), remarks, level, replicates, seed)


def _compared(
    base: Curve, curves: Sequence[Curve], ks: Sequence[int], strict: bool, settings: Mapping[str, Any]
) -> tuple[list[Comparison], list[str]]:
    """Compare all other curves with ``base``; return also why some cannot be compared, which is an error if ``strict``."""
    comparisons, failed = [], []
    for other in curves:
        if other is not base:
            try:
                comparisons.append(compare(base, other, ks, **settings))
            except InputError as error:
                if strict:
                    raise
                failed.append(f"not compared: {error}")
    if len(failed) > SHOWN:
        rest = plural(len(failed) - SHOWN, "other model was", "other models were")
        failed = [*failed[:SHOWN], f"{rest} not compared either, for reasons of this kind"]
    return comparisons, failed


def crossing_text(comparison: Comparison, level: float) -> str:
    """Describe in a sentence which curve is ahead and where the curves cross.

    A curve is said to be ahead only at the k of ``points`` whose intervals leave out 0, and to overtake the other only if each is ahead
    somewhere; everything else is inconclusive.
    """
    crossed, points = comparison.crossing, comparison.points
    a, b = printable(comparison.a, 40), printable(comparison.b, 40)
    if crossed is None:
        return f"{b} and {a} are equal at every k"
    above, below = points.loc[points["low"] > 0, "k"], points.loc[points["high"] < 0, "k"]
    (leader, other), (leads, trails) = ((a, b), (below, above)) if crossed.leader == 0 else ((b, a), (above, below))
    chance = f"no crossing up to {crossed.largest:,} in {100 * crossed.none:.0f} % of replicates"
    estimate = chance
    if crossed.k is not None:
        low = f"{crossed.low:,}" if crossed.low is not None else f"beyond {crossed.largest:,}"
        high = f"{crossed.high:,}" if crossed.high is not None else f"beyond {crossed.largest:,}"
        estimate = f"k* = {crossed.k:,} [{low}, {high}] ({level:.0%} interval; {chance})"
    if leads.empty and trails.empty:
        return f"inconclusive which of {leader} and {other} is ahead: at every k the {level:.0%} interval holds 0; crossing: {estimate}"
    if not leads.empty and not trails.empty and crossed.k is not None:
        return f"{other} overtakes {leader} at {estimate}"
    if crossed.low is None and len(leads) == points["low"].notna().sum():
        return f"{other} stays behind {leader} up to k = {crossed.largest:,} ({chance})"
    first, second, where = (leader, other, leads) if trails.empty else (other, leader, trails)
    return f"{first} is ahead of {second} at k = {diagnostics.span(where)}; inconclusive whether the curves cross: {estimate}"
