"""Claims that are fixed before the runs: contrasts of two models on a set of problems, their tests, and the table of verdicts.

A claim has a name and one or more conjuncts. Each conjunct is a row: what is measured, of which model, against which control, on which set,
and the direction of the difference, or a margin within which it is claimed to be none, or a second control: the model lies between both.
All rows of a study are one family, so the chance of any false verdict among them is bounded (Holm). A row that cannot be measured stays in
the family.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from analyses import statistics
from analyses.statistics import ALPHA, Array, Effect, Spread
from analyses.verdicts import FAILS, HOLDS, OPEN
from dynamics import InputError, passk
from dynamics.cli import outputs
from dynamics.errors import printable

#: largest number of claims, and of rows: the conjuncts of all claims
MOST_CLAIMS, MOST_ROWS = 8, 12
NOT_MEASURED = "not measured"
#: columns that tell whose sample it is, and of what
KEYS = ("name", "seed", "split", "problem", "program")


@dataclass(frozen=True)
class Conjunct:
    """A contrast of two models: a row of the table.

    Attributes
    ----------
    measured : ``pass@K``; or the name of a column of the samples, of which the mean over the samples of a problem is taken; or two such
        names with a slash, ``true/written``: the sum of one over that of the other, for each seed.
    model : the model that the claim is about, with its temperature, such as ``rlvr, T=1``.
    control : the model that it is compared with, such as ``base, greedy``.
    problems : the set of problems.
    direction : 1 if the model is claimed to have more, -1 for less, 0 for no difference beyond ``margin``.
    margin : largest difference that counts as none, in units of what is measured; only for direction 0.
    other : a second control, between which and the first the model is claimed to lie, whichever of them has more; only for direction 1.
    """

    measured: str
    model: str
    control: str
    problems: str
    direction: int
    margin: float = 0.0
    other: str = ""

    def __post_init__(self) -> None:
        """Refuse directions, margins and second controls that no test belongs to."""
        if self.direction not in (-1, 0, 1):
            raise InputError(f"{self}: the direction is 1 (more), -1 (less) or 0 (no difference beyond a margin)")
        if (self.direction == 0) != (self.margin > 0) or not math.isfinite(self.margin):
            raise InputError(f"{self}: a margin above 0 belongs to direction 0, and to no other")
        if self.model == self.control:
            raise InputError(f"{self}: compares {self.model} with itself")
        if self.other and (self.direction != 1 or self.other in (self.model, self.control)):
            raise InputError(f"{self}: between needs direction 1 and three different models")
        if self.measured.startswith("pass@"):
            samples_for(self.measured)

    def __str__(self) -> str:
        """Describe the contrast."""
        return f"{self.contrasted}, {self.problems}"

    @property
    def contrasted(self) -> str:
        """What is compared, in words."""
        if self.other:
            return f"{self.measured}, {self.model} between {self.control} and {self.other}: distance to the nearer"
        return f"{self.measured}, {self.model} minus {self.control}"


@dataclass(frozen=True)
class Claim:
    """A claim, which holds if all of its conjuncts do."""

    name: str
    conjuncts: tuple[Conjunct, ...]

    def __post_init__(self) -> None:
        """Refuse a claim that says nothing."""
        if not self.name or not self.conjuncts:
            raise InputError(f"claim {self.name!r}: needs a name and at least one conjunct")


@dataclass(frozen=True)
class Family:
    """The claims of a study, which are judged together.

    Attributes
    ----------
    claims : at most ``MOST_CLAIMS``, with at most ``MOST_ROWS`` conjuncts in all.
    """

    claims: tuple[Claim, ...]

    def __post_init__(self) -> None:
        """Refuse too many claims, and the same one twice."""
        names = [claim.name for claim in self.claims]
        if not self.claims or len(self.claims) > MOST_CLAIMS or len(self.rows) > MOST_ROWS:
            raise InputError(
                f"{len(self.claims)} claims with {len(self.rows)} conjuncts; a family has 1 to {MOST_CLAIMS} claims and at most "
                f"{MOST_ROWS} conjuncts: choose the primary ones, and report the rest without verdicts"
            )
        if len(set(names)) < len(names) or len(set(self.rows)) < len(self.rows):
            raise InputError("two claims have the same name, or two conjuncts are the same; name each once")

    @property
    def rows(self) -> tuple[Conjunct, ...]:
        """The conjuncts of all claims, in order."""
        return tuple(conjunct for claim in self.claims for conjunct in claim.conjuncts)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the claim of each row."""
        return tuple(claim.name for claim in self.claims for _ in claim.conjuncts)

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON object of the claims."""
        claims = [asdict(claim) for claim in self.claims]
        for conjunct in (conjunct for claim in claims for conjunct in claim["conjuncts"] if not conjunct["other"]):
            del conjunct["other"]  # so that claims without one have the digest that they always had
        return {"claims": claims}

    @property
    def digest(self) -> str:
        """The first twelve hexadecimal digits of the SHA-256 of the claims: tells claims that were changed from those that were fixed."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def fix(self, path: Path) -> None:
        """Write the claims before the runs; with a file of other claims, refuse.

        Raises
        ------
        InputError : the file has other claims, or is none.
        """
        if not path.exists():
            outputs.write(str(path), json.dumps(self.to_dict() | {"digest": self.digest}, indent=1) + "\n")
            return
        try:
            fixed = json.loads(path.read_text(encoding="utf-8"))["digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: is no file of claims; move it away to fix the claims anew") from error
        if fixed != self.digest:
            raise InputError(
                f"{path}: has the claims {printable(fixed, 20)}, and these are {self.digest}: they were changed after they were "
                "fixed; judge the fixed ones, or make new runs in another folder"
            )


def samples_for(measured: str) -> int:
    """Return the number of samples that ``pass@K`` needs of each problem."""
    number = measured.removeprefix("pass@")
    if not number.isascii() or not number.isdigit() or not 0 < int(number) < 10**9:
        raise InputError(f"{printable(measured, 40)}: is no pass@K with a whole number K above 0")
    return int(number)


# scores


@dataclass(frozen=True)
class Scores:
    """What was measured of one model on one set.

    Attributes
    ----------
    values : (..., seeds, problems), a value for each seed and problem.
    seeds : the seeds.
    problems : names of the problems, in the order of their columns.
    programs : (problems,) number of the program of each problem, from 0 in the order of their first problem.
    proportions : whether all values are in [0, 1] by their definition.
    drawn : number of items if each seed has its own; ``values`` has their mean, and ``problems`` one entry. 0 if seeds share the problems.
    """

    values: Array
    seeds: tuple[int, ...]
    problems: tuple[str, ...]
    programs: Array
    proportions: bool
    drawn: int = 0


class Source(Protocol):
    """Where scores come from: graded samples, or a simulation of them."""

    def scores(self, measured: str, name: str, problems: str) -> Scores:
        """Return what was measured of a model on a set of problems.

        Raises
        ------
        InputError : it was not measured, with one line that says why.
        """


def solved(measured: str, n: Array, c: Array) -> Array:
    """Compute ``pass@K`` of each problem from its numbers of samples and of correct samples."""
    return np.asarray(passk.pass_at_k(n, c, samples_for(measured)), float)


class Graded:
    """Scores from graded samples.

    Parameters
    ----------
    samples : a row for each sample: the ``KEYS``, ``correct``, and columns of numbers that can be measured too, such as ``length``.

    Raises
    ------
    InputError : a column is missing, or a problem has two programs.
    """

    def __init__(self, samples: pd.DataFrame) -> None:
        if missing := [name for name in (*KEYS, "correct") if name not in samples]:
            raise InputError(f"the samples have no {missing[0]}: claims need {', '.join((*KEYS, 'correct'))} of every sample")
        if samples["program"].isna().any():
            problem = samples.loc[samples["program"].isna(), "problem"].iloc[0]
            raise InputError(f"problem {printable(problem, 60)}: names no program, so it is not known what it shares with others")
        programs = samples.groupby(["split", "problem"])["program"].nunique()
        if (programs > 1).any():
            several = programs[programs > 1].reset_index()["problem"].iloc[0]
            raise InputError(f"problem {printable(several, 60)}: has several programs; give each problem one id in all runs")
        self.samples = samples

    def scores(self, measured: str, name: str, problems: str) -> Scores:
        """Return what was measured of a model on a set; see ``Source``."""
        own = self.samples[(self.samples["name"] == name) & (self.samples["split"] == problems)]
        if own.empty:
            raise InputError(f"no samples of {printable(name, 60)} on {printable(problems, 40)}")
        groups = own.groupby(["seed", "problem"])
        if measured.startswith("pass@"):
            counts = groups["correct"].agg(["size", "sum"])
            values = pd.Series(solved(measured, counts["size"].to_numpy(), counts["sum"].round().astype(int).to_numpy()), counts.index)
            if values.isna().any():
                least = int(counts["size"].min())
                raise InputError(f"{measured} of {printable(name, 60)} on {printable(problems, 40)}: a problem has only {least} samples")
        elif measured in own:
            values = groups[measured].mean()
        elif set(parts := measured.split("/")) <= set(own.columns) and len(parts) == 2:
            values = _ratio(groups[parts].mean())
        else:
            raise InputError(f"{printable(measured, 40)}: is no pass@K and no column of the samples")
        wide = values.unstack("problem")
        if wide.isna().any(axis=None):
            row, column = np.argwhere(wide.isna().to_numpy())[0]
            seed, problem = wide.index[row], wide.columns[column]
            raise InputError(f"{measured} of {printable(name, 60)}: seed {seed} has none for {printable(problem, 60)}, another seed does")
        program = own.groupby("problem")["program"].first().reindex(wide.columns)
        numbers = pd.factorize(program)[0]
        seeds = tuple(int(seed) for seed in wide.index)
        return Scores(wide.to_numpy(float), seeds, tuple(map(str, wide.columns)), numbers, measured.startswith("pass@"))


def _ratio(means: pd.DataFrame) -> pd.Series[Any]:
    """Return values of problems of which the mean, for each seed, is the sum of the first column over that of the second.

    They vary as the ratio does if problems are resampled, to first order.
    """
    first, second = (means.iloc[:, column] for column in (0, 1))
    of_seed = means.groupby("seed").transform("mean")
    if not (of_seed.iloc[:, 1] > 0).all():
        raise InputError(f"{'/'.join(means.columns)}: a seed has no {means.columns[1]}")
    ratio = of_seed.iloc[:, 0] / of_seed.iloc[:, 1]
    return ratio + (first - ratio * second) / of_seed.iloc[:, 1]


def contrast(first: Scores, second: Scores) -> Effect:
    """Estimate the difference ``first`` minus ``second``, paired by seed and problem, with its errors over seeds and over programs.

    Raises
    ------
    InputError : they have other seeds, or other problems.
    """
    if first.seeds != second.seeds:
        lists = [", ".join(map(str, side.seeds)) for side in (first, second)]
        raise InputError(f"the seeds differ: {lists[0]} and {lists[1]}; pairs need both models of every seed")
    if first.problems != second.problems:
        other = sorted(set(first.problems) ^ set(second.problems))
        raise InputError(f"the problems differ: {len(other)} are of one model only, such as {printable(other[0], 60)}")
    if first.drawn or second.drawn:
        return statistics.effect_of_seeds((first.values - second.values).mean(axis=-1))
    return statistics.effect(first.values - second.values, first.programs, first.proportions and second.proportions)


# verdicts


@dataclass(frozen=True)
class Row:
    """The result of a conjunct; arrays have one entry for each study.

    Attributes
    ----------
    conjunct : the contrast.
    found : effect and errors; None if it was not measured. Of a model between two others: the distance to the nearer one, which is
        negative outside of them.
    problems, programs : numbers of problems and of programs.
    reason : why it was not measured, or not judged.
    ends : of a model between two others: the model minus the control, the other minus the model, and the other minus the control.
    """

    conjunct: Conjunct
    found: Effect | None
    problems: int = 0
    programs: int = 0
    reason: str = ""
    ends: tuple[Effect, Effect, Effect] | None = None

    @property
    def level(self) -> float:
        """Error rate of the interval: 0.05; 0.1 for a claim of equivalence, which is two one-sided tests."""
        return ALPHA if self.conjunct.direction else 2 * ALPHA

    @property
    def p(self) -> Array:
        """P-value: two-sided against no difference; for equivalence the smaller of those of "the same" and of "beyond the margin".

        A model lies between two others if it is told from both, so the larger of two p-values counts. It lies outside if it is told from
        one of them on the wrong side; as there are two, that p-value counts twice. Between ends that are not told apart there is no room,
        and 1 is returned.
        """
        if self.found is None:
            return np.asarray(np.nan)
        if self.ends is not None:
            below, above, apart = (end.p() for end in self.ends)
            outside = 2 * np.where(_same_sign(self.ends[0], self.ends[2]), above, below)
            p = np.where(self._inside, np.maximum(below, above), np.minimum(outside, 1.0))
            return np.where(apart <= ALPHA, p, np.where(np.isnan(apart), np.nan, 1.0))
        if self.conjunct.direction:
            return self.found.p()
        margin = self.conjunct.margin
        return np.minimum(self.found.p_equivalent(margin), self.found.p_beyond(margin))

    def verdicts(self, adjusted: Array) -> Array:
        """Judge by the adjusted p-value: 1 holds, -1 does not hold, 0 inconclusive.

        That a difference is not shown to be inside a margin is no evidence that it is outside, nor the other way round.
        """
        if self.found is None:
            return np.zeros(np.shape(adjusted), int)
        agrees = np.sign(self.found.value) * self.conjunct.direction
        if self.ends is not None:
            agrees = np.where(self._inside, 1, -1)
        if not self.conjunct.direction:
            agrees = np.where(np.abs(self.found.value) <= self.conjunct.margin, 1, -1)
        return np.where(np.nan_to_num(adjusted, nan=1.0) <= ALPHA, agrees, 0).astype(int)

    @property
    def _inside(self) -> Array:
        """Whether the mean of the model lies between those of the two others."""
        if self.ends is None:
            raise ValueError("of a model between two others")
        below, above, apart = self.ends
        return np.asarray(_same_sign(below, apart) & _same_sign(above, apart))


def _same_sign(first: Effect, second: Effect) -> Array:
    return np.asarray(np.sign(first.value) == np.sign(second.value))


def _nearer(below: Effect, above: Effect, apart: Effect) -> Effect:
    """Return the distance to the nearer of two ends: positive inside of them."""
    first = np.abs(below.value) <= np.abs(above.value)
    names = ("value", "seed_error", "program_error", "rest_error")
    chosen = {name: np.where(first, getattr(below, name), getattr(above, name)) for name in names}
    return replace(below, **chosen | {"value": chosen["value"] * np.sign(apart.value)})


@dataclass(frozen=True)
class Judged:
    """The verdicts of a family.

    Attributes
    ----------
    family : the claims.
    rows : a result for each conjunct.
    p, adjusted : (..., rows) p-values, and those adjusted by Holm's method.
    verdicts : (..., rows) 1 holds, -1 does not hold, 0 inconclusive.
    """

    family: Family
    rows: tuple[Row, ...]
    p: Array
    adjusted: Array = field(init=False)
    verdicts: Array = field(init=False)

    def __post_init__(self) -> None:
        """Adjust the p-values and judge the rows."""
        adjusted = statistics.holm(self.p)
        verdicts = np.stack([row.verdicts(adjusted[..., number]) for number, row in enumerate(self.rows)], axis=-1)
        object.__setattr__(self, "adjusted", adjusted)
        object.__setattr__(self, "verdicts", verdicts)


def judge(family: Family, source: Source) -> Judged:
    """Measure every conjunct of a family and judge them together."""
    rows = tuple(_measure(conjunct, source) for conjunct in family.rows)
    return Judged(family, rows, np.stack(np.broadcast_arrays(*(row.p for row in rows)), axis=-1))


def _measure(conjunct: Conjunct, source: Source) -> Row:
    ends = None
    try:
        names = (conjunct.model, conjunct.control, *([conjunct.other] if conjunct.other else []))
        first, second, *others = (source.scores(conjunct.measured, name, conjunct.problems) for name in names)
        found = contrast(first, second)
        if others:
            ends = (found, contrast(others[0], first), contrast(others[0], second))
            found = _nearer(*ends)
    except InputError as error:
        return Row(conjunct, None, reason=str(error))
    unknown = "one seed" if found.seeds < 2 else "seeds agree exactly" if np.isnan(found.seed_error).all() else ""
    reason = f"{unknown}: nothing is known of the variation between seeds" if unknown else ""
    if ends is not None and not reason and not (ends[2].p() <= ALPHA).all():
        reason = f"not judged: {conjunct.control} and {conjunct.other} are not told apart, and nothing lies between them"
    if first.drawn:
        return Row(conjunct, found, first.drawn, first.drawn, reason, ends)
    return Row(conjunct, found, len(first.problems), int(first.programs.max()) + 1, reason, ends)


# the table


def table(judged: Judged) -> pd.DataFrame:
    """Make the table of a study, with one row for each conjunct.

    Columns: claim, claim_verdict, measured, set, model, control, contrast, direction, margin, problems, programs, effective, seeds, effect,
    low, high, interval, p, p_holm, verdict, seeds_needed, detectable, reason. ``seeds_needed`` is the number of seeds that decide with a
    chance of 0.8 if effect and spread are as observed, at the level of the first step of Holm; infinite if no number of seeds does with
    these programs. ``detectable`` is the smallest effect that the present number of seeds finds with that chance (for equivalence: the
    smallest margin). Both take estimates for the truth, so they are optimistic: an effect that was noticed is more likely over- than
    underestimated.
    """
    by_claim = claim_verdicts(judged)
    lines = [{"claim": claim, "claim_verdict": by_claim[claim]} | _line(judged, number) for number, claim in enumerate(judged.family.names)]
    return pd.DataFrame(lines)


def _line(judged: Judged, number: int) -> dict[str, Any]:
    row = judged.rows[number]
    conjunct, found = row.conjunct, row.found
    control = f"{conjunct.control} and {conjunct.other}" if conjunct.other else conjunct.control
    line: dict[str, Any] = {"measured": conjunct.measured, "set": conjunct.problems, "model": conjunct.model, "control": control}
    line |= {"contrast": conjunct.contrasted}
    line |= {"direction": conjunct.direction, "margin": conjunct.margin or np.nan, "problems": row.problems, "programs": row.programs}
    if found is None:
        blank = ("effective", "seeds", "effect", "low", "high", "interval", "p", "p_holm")
        return line | dict.fromkeys(blank) | {"verdict": NOT_MEASURED, "seeds_needed": None, "detectable": None, "reason": row.reason}
    low, high = found.interval(row.level)
    line |= {"effective": found.programs, "seeds": found.seeds, "effect": float(found.value), "low": float(low), "high": float(high)}
    both = "seeds by Student's t and programs by cluster bootstrap, in quadrature"
    kind = f"{1 - row.level:.0%}, {both if np.isfinite(found.programs) else 'seeds by Student, each with its own programs'}"
    line |= {"interval": kind if np.isfinite(low) else "none", "p": float(judged.p[number]), "p_holm": float(judged.adjusted[number])}
    verdict = {1: HOLDS, -1: FAILS, 0: OPEN}[int(judged.verdicts[number])]
    return line | {"verdict": verdict} | _power(row, len(judged.rows)) | {"reason": row.reason}


def _power(row: Row, rows: int) -> dict[str, float | None]:
    """Compute the seeds that a decision would take, and the smallest effect that these seeds find."""
    found, margin = row.found, row.conjunct.margin or None
    if found is None or not np.isfinite(found.half_width()):
        return {"seeds_needed": None, "detectable": None}
    spread, level = Spread.of(found), ALPHA / rows
    needed = spread.seeds_needed(float(found.value), level, margin)
    detectable = spread.detectable(found.seeds, level, equivalence=margin is not None)
    return {"seeds_needed": math.inf if needed is None else needed, "detectable": detectable}


def claim_verdicts(judged: Judged) -> dict[str, str]:
    """Judge each claim of a study: it holds if all conjuncts hold, and does not hold if one does not."""
    codes: dict[str, list[int]] = {}
    for name, code in zip(judged.family.names, judged.verdicts, strict=True):
        codes.setdefault(name, []).append(int(code))
    return {name: HOLDS if min(own) == 1 else FAILS if min(own) == -1 else OPEN for name, own in codes.items()}


def needs(row: Mapping[Any, Any]) -> str:
    """Say how many seeds a decision would take."""
    needed = row["seeds_needed"]
    if needed is None or (isinstance(needed, float) and math.isnan(needed)):
        return ""
    return "more programs" if math.isinf(needed) else f"{needed:.0f}"


def markdown(rows: pd.DataFrame) -> str:
    """Format the table of a study as Markdown."""
    heads = ("claim", "measured", "set", "programs", "seeds", "effect, interval", "p", "p, Holm", "verdict", "seeds needed", "detectable")
    return "\n".join(["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *_markdown_lines(rows)])


def _markdown_lines(rows: pd.DataFrame) -> Iterator[str]:
    for row in rows.to_dict("records"):
        measured = row["contrast"]
        if not row["direction"]:
            measured += f" (the same: within {row['margin']:g})"
        if row["verdict"] == NOT_MEASURED:
            cells = ["", "", row["reason"], "", "", NOT_MEASURED, "", ""]
        else:
            interval = f" [{row['low']:+.3g}, {row['high']:+.3g}]" if np.isfinite(row["low"]) else ", no interval"
            shared = f" ({row['effective']:.4g})" if np.isfinite(row["effective"]) else " of each seed's own"
            cells = [f"{row['programs']}{shared}", f"{row['seeds']:.0f}", f"{row['effect']:+.3g}{interval}"]
            cells += ["" if math.isnan(row[name]) else f"{row[name]:.2g}" for name in ("p", "p_holm")]
            detectable = row["detectable"]
            known = detectable is not None and math.isfinite(detectable)
            verdict = f"{row['verdict']} ({row['reason']})" if row["reason"] else row["verdict"]
            cells += [verdict, needs(row), f"{detectable:.2g}" if known else ""]
        texts = [row["claim"], measured, row["set"], *cells]
        yield "| " + " | ".join(str(text).replace("|", "\\|") for text in texts) + " |"


def notes(family: Family) -> Sequence[str]:
    """Say what the table means and how it misleads."""
    return (
        f"Claims {family.digest}: {len(family.claims)} with {len(family.rows)} rows; family-wise error rate "
        f"{ALPHA:.0%} by Holm over the rows, whether they were measured or not.",
        "Programs in brackets: Kish's effective number. Intervals are for each row alone, verdicts for all rows together, so an interval "
        "can leave 0 out while the row is inconclusive.",
        "Seeds needed: for a verdict with a chance of 80 %, if effect and spread are as observed, which is optimistic. Detectable: the "
        "smallest effect (for 'the same': the smallest margin) that these seeds find with that chance.",
    )
