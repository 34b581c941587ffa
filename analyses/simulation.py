"""Simulate whole studies, from graded samples to verdicts after Holm, and count what goes wrong.

Question: how often does a study give a false verdict, how often do its intervals cover, and what can it find?

A study has seeds, each with its own base, and the programs of the laboratory's sets, each once. The base solves a problem with a chance
from 0.05 to 0.6, and greedy decoding of a base solves 1.4 times as many. What training adds is an effect of the method, which is 0 or not,
and varies by program, by seed and by both. The samples are drawn from these chances and judged by ``analyses.claims`` with the
same functions as those of real runs. A verdict is false if it says a direction that the true effect does not have, "the same" of what
differs by the margin or more, or "not the same" of what does not.

    python -m analyses.simulation                         # minutes on one core
    python -m analyses.simulation --studies 200 --seeds 3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses import statistics
from analyses.claims import Claim, Conjunct, Family, Judged, Scores, contrast, judge, samples_for, solved
from analyses.statistics import ALPHA, Array, Effect
from dynamics import InputError
from dynamics.cli import command
from dynamics.cli.outputs import wrote
from dynamics.io.csv import write_csv
from dynamics.train.lab.problems import SETS, TEST_SETS

GREEDY, BASE = "base, greedy", "base, T=1"
METHODS = ("sft, T=1", "rlvr, T=1", "selfplay, T=1")
#: samples of a problem at temperature 1, chances of the base, and how many more problems it solves greedily
SAMPLES, CHANCES, SHARPER = 16, (0.05, 0.6), 1.4
#: draws for the true values; studies that are drawn and judged together
DRAWS, BATCH = 200_000, 250
#: studies for which the slower constructions are computed
COMPARED = 400
#: the margin of "the same", in points of pass@1
MARGIN = 0.05
SFT, RLVR, SELFPLAY = METHODS
#: the most that a family may have: eight claims, twelve rows
FAMILY = Family(
    (
        Claim("RLVR beats its greedy base on unseen programs", (Conjunct("pass@1", RLVR, GREEDY, "test", 1),)),
        Claim("self-play beats its greedy base on unseen programs", (Conjunct("pass@1", SELFPLAY, GREEDY, "test", 1),)),
        Claim("RLVR reaches deeper programs", (Conjunct("pass@1", RLVR, GREEDY, "deeper", 1),)),
        Claim("both transfer", tuple(Conjunct("pass@1", name, GREEDY, "transfer", 1) for name in (RLVR, SELFPLAY))),
        Claim("self-play is ahead of RLVR", (Conjunct("pass@1", SELFPLAY, RLVR, "test", 1),)),
        Claim("self-play keeps more coverage", tuple(Conjunct("pass@16", SELFPLAY, RLVR, name, 1) for name in ("test", "deeper"))),
        Claim("SFT is behind RLVR", tuple(Conjunct("pass@1", SFT, RLVR, name, -1) for name in ("test", "deeper"))),
        Claim("the same further off", tuple(Conjunct("pass@1", SELFPLAY, RLVR, name, 0, MARGIN) for name in ("deeper", "transfer"))),
    )
)


@dataclass(frozen=True)
class World:
    """What is true of the simulated studies.

    Attributes
    ----------
    seeds : number of seeds.
    program_sd : standard deviation of a method's effect over programs.
    seed_sd : that over seeds; bases differ by as much, and all models of a seed share that.
    rest_sd : that of what is left, by method, seed and program.
    gains : mean effect of each method on pass@1, the greedy base being 0.
    problems : problems of each program; they share the program's effect.
    """

    seeds: int = 3
    program_sd: float = 0.2
    seed_sd: float = 0.03
    rest_sd: float = 0.1
    gains: tuple[float, float, float] = (0.0, 0.0, 0.0)
    problems: int = 1

    def base(self, rng: np.random.Generator, studies: int, programs: int, of_seeds: Array) -> tuple[Array, dict[str, Array]]:
        """Draw the chances of the base to solve each problem.

        Parameters
        ----------
        rng : random generator.
        studies, programs : numbers of both.
        of_seeds : (studies, seeds) effects of the seeds of the base.

        Returns
        -------
        (studies, seeds, problems) how easy each problem is for the base of each seed, and the chances of the base by manner of decoding.
        """
        count = programs * self.problems
        level = rng.uniform(*CHANCES, (studies, 1, count)) + of_seeds[:, :, None]
        own = level + self.rest_sd / 2 * rng.standard_normal((studies, of_seeds.shape[-1], count))
        return level, {BASE: np.clip(own, 0.0, 1.0), GREEDY: np.clip(SHARPER * own, 0.0, 1.0)}

    def trained(self, rng: np.random.Generator, level: Array, of_seeds: Array) -> Array:
        """Draw the chances of a method that gains nothing, before they are cut to [0, 1]: (studies, seeds, problems).

        Parameters
        ----------
        rng : random generator.
        level : how easy each problem is, as of ``base``.
        of_seeds : (studies, seeds) effects of the seeds of the method.
        """
        studies, seeds, count = level.shape
        by_program = np.repeat(rng.standard_normal((studies, 1, count // self.problems)), self.problems, axis=-1)
        rest = rng.standard_normal((studies, seeds, count))
        return np.asarray(SHARPER * level + of_seeds[:, :, None] + self.program_sd * by_program + self.rest_sd * rest)

    def effects_of_seeds(self, rng: np.random.Generator, studies: int, seeds: int) -> Array:
        """Draw the effects of seeds, which are the same on all sets: (base and methods, studies, seeds)."""
        return self.seed_sd * rng.standard_normal((1 + len(METHODS), studies, seeds))

    @cached_property
    def _many(self) -> tuple[Array, Array]:
        """Chances of the greedy base on many programs, each with a seed of its own, and those of a method before they are cut."""
        rng = np.random.default_rng(12345)
        alone = replace(self, problems=1)
        of_seeds = alone.effects_of_seeds(rng, DRAWS, 1)
        level, base = alone.base(rng, DRAWS, 1, of_seeds[0])
        return base[GREEDY].ravel(), alone.trained(rng, level, of_seeds[1]).ravel()

    @cached_property
    def shifts(self) -> tuple[float, ...]:
        """What methods add so that their mean pass@1 is that of the greedy base plus their gain, in spite of the cut at 0 and 1."""
        greedy, trained = self._many
        found = []
        for gain in self.gains:
            low, high = -1.0, 1.0
            for _ in range(24):
                middle = (low + high) / 2
                less = np.clip(trained + middle, 0.0, 1.0).mean() < greedy.mean() + gain
                low, high = (middle, high) if less else (low, middle)
            found.append((low + high) / 2)
        return tuple(found)

    def true_value(self, conjunct: Conjunct) -> float:
        """Return the true value of a row."""
        greedy, trained = self._many
        chances = dict(zip(METHODS, (np.clip(trained + shift, 0.0, 1.0) for shift in self.shifts), strict=True)) | {GREEDY: greedy}
        k = samples_for(conjunct.measured)
        means = [float((1 - (1 - chances[name]) ** k).mean()) for name in (conjunct.model, conjunct.control)]
        return means[0] - means[1]


class Simulated:
    """Graded samples of many studies, as numbers of correct samples: a source of scores with a leading axis of studies.

    Parameters
    ----------
    world : what is true.
    studies : number of studies.
    rng : random generator.
    """

    def __init__(self, world: World, studies: int, rng: np.random.Generator):
        self.world = world
        of_seeds = world.effects_of_seeds(rng, studies, world.seeds)
        self.correct: dict[tuple[str, str], Array] = {}
        for name in TEST_SETS:
            level, chances = world.base(rng, studies, sum(SETS[name][1].values()), of_seeds[0])
            for method, shift, own in zip(METHODS, world.shifts, of_seeds[1:], strict=True):
                chances[method] = np.clip(world.trained(rng, level, own) + shift, 0.0, 1.0)
            self.correct |= {(model, name): rng.binomial(self.samples(model), values) for model, values in chances.items()}

    @staticmethod
    def samples(model: str) -> int:
        """Return the number of samples of a problem."""
        return 1 if model == GREEDY else SAMPLES

    def scores(self, measured: str, name: str, problems: str) -> Scores:
        """Return what was measured of a model on a set; see ``claims.Source``."""
        correct = self.correct[name, problems]
        *_, seeds, count = correct.shape
        values = solved(measured, np.full(correct.shape, self.samples(name)), correct)
        programs = np.arange(count) // self.world.problems
        return Scores(values, tuple(range(seeds)), tuple(f"{problems} {number}" for number in range(count)), programs, True)

    def table(self, study: int) -> pd.DataFrame:
        """Write out the graded samples of one study, a row each, as ``claims.Graded`` reads them."""
        parts = []
        for (model, name), correct in self.correct.items():
            own, samples = correct[study], self.samples(model)
            count = own.shape[-1]
            verdicts = np.arange(samples) < own[..., None]
            seed, problem, _ = (index.ravel() for index in np.indices(verdicts.shape))
            columns = {"name": model, "seed": seed, "split": name, "correct": verdicts.ravel()}
            problem_names = np.array([f"{name} {number}" for number in range(count)])
            program_names = np.array([f"{name} program {number // self.world.problems}" for number in range(count)])
            parts.append(pd.DataFrame(columns | {"problem": problem_names[problem], "program": program_names[problem]}))
        return pd.concat(parts, ignore_index=True)


def is_false(verdicts: Array, truth: Sequence[float], family: Family) -> Array:
    """Tell which verdicts are false: (..., rows)."""
    wrong = []
    for number, (conjunct, value) in enumerate(zip(family.rows, truth, strict=True)):
        if conjunct.direction:
            right = 0 if abs(value) < 1e-3 else int(np.sign(value)) * conjunct.direction  # true values are known to about 0.0005
        else:
            right = 1 if abs(value) < conjunct.margin - 1e-3 else -1
        wrong.append((verdicts[..., number] != 0) & (verdicts[..., number] != right))
    return np.stack(wrong, axis=-1)


@dataclass(frozen=True)
class Outcome:
    """What came of the simulated studies.

    Attributes
    ----------
    world : what was true.
    truth : true value of each row.
    verdicts : (studies, rows) 1 holds, -1 does not hold, 0 inconclusive.
    covered : (studies, rows) whether the interval held the true value.
    widths : (studies, rows) width of the interval.
    constructions : name -> (studies, 2) whether the interval of the first row held the true value, and its width.
    """

    world: World
    truth: tuple[float, ...]
    verdicts: Array
    covered: Array
    widths: Array
    constructions: Mapping[str, Array]

    @property
    def false(self) -> Array:
        """(studies,) whether any verdict of the family is false."""
        return np.asarray(is_false(self.verdicts, self.truth, FAMILY).any(axis=-1))


def simulate(world: World, studies: int, seed: int = 0, compared: int = 0) -> Outcome:
    """Simulate studies and judge them.

    Parameters
    ----------
    world : what is true.
    studies : number of studies.
    seed : random seed.
    compared : for how many of them the other constructions of an interval are computed.
    """
    truth = tuple(world.true_value(conjunct) for conjunct in FAMILY.rows)
    verdicts, covered, widths, constructions = [], [], [], []
    for number, start in enumerate(range(0, studies, BATCH)):
        source = Simulated(world, min(BATCH, studies - start), np.random.default_rng([seed, number]))
        judged = judge(FAMILY, source)
        low, high = (np.stack(ends, axis=-1) for ends in zip(*_intervals(judged), strict=True))
        verdicts.append(judged.verdicts)
        covered.append((low <= truth) & (truth <= high))
        widths.append(high - low)
        if start < compared:
            constructions.append(_constructions(source, truth[0]))
    names = list(constructions[0]) if constructions else []
    of_constructions = {name: np.concatenate([part[name] for part in constructions])[:compared] for name in names}
    return Outcome(world, truth, np.concatenate(verdicts), np.concatenate(covered), np.concatenate(widths), of_constructions)


def _intervals(judged: Judged) -> Iterator[tuple[Array, Array]]:
    """Yield the 95 % interval of each row, those of equivalence included."""
    for row in judged.rows:
        if row.found is None:
            raise InputError(row.reason)
        yield row.found.interval()


#: constructions of an interval from an effect; those that need the differences are in ``_constructions``
CONSTRUCTIONS: dict[str, Callable[[Effect], tuple[Array, Array]]] = {
    "quadrature of both (used)": lambda found: found.interval(),
    "hull of both": statistics.hull,
    "Satterthwaite": statistics.satterthwaite,
    "Student over seeds": statistics.seed_interval,
    "cluster bootstrap over programs": statistics.program_interval,
}


def _constructions(source: Simulated, truth: float) -> dict[str, Array]:
    """Compute for several constructions whether the interval of the first row holds the true value, and its width: (studies, 2)."""
    conjunct = FAMILY.rows[0]
    first, second = (source.scores(conjunct.measured, name, conjunct.problems) for name in (conjunct.model, conjunct.control))
    found, differences = contrast(first, second), first.values - second.values
    ends = {name: make(found) for name, make in CONSTRUCTIONS.items()}
    ends["cluster bootstrap, percentiles"] = statistics.percentile_program_interval(differences, first.programs)
    ends["hierarchical bootstrap"] = statistics.hierarchical_interval(differences, first.programs)
    return {name: np.stack([(low <= truth) & (truth <= high), high - low], axis=-1) for name, (low, high) in ends.items()}


def binomial_interval(count: int, total: int) -> tuple[float, float]:
    """Compute the exact 95 % interval of a share (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(0.95, "exact")
    return float(interval.low), float(interval.high)


#: name -> gains of SFT, RLVR and self-play
TRUTHS: dict[str, tuple[float, float, float]] = {
    "no effects": (0.0, 0.0, 0.0),
    "effects": (0.0, 0.08, 0.12),
    "at the margin": (0.0, 0.0, MARGIN),
}


def worlds(seeds: Sequence[int]) -> Iterator[tuple[str, World]]:
    """Yield the worlds that are simulated, with the name of what is true in them."""
    for truth, gains in TRUTHS.items():
        for count in seeds:
            for program_sd in (0.0, 0.1, 0.2):
                for seed_sd in (0.0, 0.01, 0.03):
                    yield truth, World(count, program_sd, seed_sd, gains=gains)


def summary(name: str, outcome: Outcome) -> dict[str, Any]:
    """Make a row of the table of error rates."""
    world, total = outcome.world, len(outcome.verdicts)
    false = int(outcome.false.sum())
    low, high = binomial_interval(false, total)
    of_rows = outcome.covered.mean(axis=0)
    decided = outcome.verdicts != 0
    row: dict[str, Any] = {"truth": name, "seeds": world.seeds, "program_sd": world.program_sd, "seed_sd": world.seed_sd, "studies": total}
    row |= {"false": false / total, "false_low": low, "false_high": high}
    row |= {"coverage": float(of_rows.mean()), "coverage_least": float(of_rows.min()), "half_width": float(np.median(outcome.widths) / 2)}
    return row | {"decided": float((decided & ~is_false(outcome.verdicts, outcome.truth, FAMILY)).mean())}


def construction_rows(name: str, outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Make the rows of the table of constructions."""
    world = outcome.world
    for construction, results in outcome.constructions.items():
        row: dict[str, Any] = {"truth": name, "seeds": world.seeds, "program_sd": world.program_sd, "seed_sd": world.seed_sd}
        row |= {"construction": construction, "studies": len(results)}
        yield row | {"coverage": float(results[:, 0].mean()), "half_width": float(np.median(results[:, 1]) / 2)}


def build_parser() -> command.Parser:
    """Build the parser of the command line."""
    parser = command.Parser(prog="python -m analyses.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies of each line (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5], help="numbers of seeds (default: 3 5)")
    parser.add_argument("--out", type=Path, help="folder for simulation.csv and constructions.csv")
    return parser


def _simulate(arguments: Sequence[str] | None) -> None:
    options = build_parser().parse_args(arguments)
    if options.studies < 1 or min(options.seeds) < 2:
        raise InputError("--studies is at least 1 and --seeds at least 2: one seed gives no verdicts")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)  # before minutes are spent
    rows, constructions = [], []
    for name, world in worlds(options.seeds):
        outcome = simulate(world, options.studies, compared=min(COMPARED, options.studies))
        rows.append(summary(name, outcome))
        constructions += list(construction_rows(name, outcome))
        command.tell("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in rows[-1].items()))
    table, of_constructions = pd.DataFrame(rows), pd.DataFrame(constructions)
    print(table.to_string(index=False, float_format="%.3f"))
    pooled = of_constructions.groupby(["construction", "seeds"], sort=False).agg(
        coverage_least=("coverage", "min"), coverage=("coverage", "mean"), half_width=("half_width", "mean")
    )
    print(pooled.reset_index().to_string(index=False, float_format="%.3f"))
    worst = table.loc[table["false"].idxmax()]
    print(
        f"false verdicts in a family: at most {worst['false']:.1%} [{worst['false_low']:.1%}, {worst['false_high']:.1%}] of studies, where "
        f"{ALPHA:.0%} are allowed; coverage of a row at least {table['coverage_least'].min():.1%}"
    )
    if options.out:
        for file, content in (("simulation.csv", table), ("constructions.csv", of_constructions)):
            write_csv(options.out / file, content, "%.4g")
            wrote(options.out / file)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    return command.run("analyses.simulation", _simulate, argv)


if __name__ == "__main__":
    sys.exit(main())
