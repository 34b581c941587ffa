"""Proposer rewards as functions of the solve rate of a proposed task.

Each function maps the ``SolveRates`` of n valid proposals to (n,) rewards. Solve rates are estimated from few samples, which changes the
expected reward: for ``one_minus`` and 8 samples it is (1-p) - (1-p)^8, with the maximum at a true solve rate of 0.26, not at 0.
``expected`` computes it for any reward.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from dynamics.errors import InputError, did_you_mean, printable
from dynamics.train.sandbox.expressions import length, syntax_tree
from dynamics.train.sandbox.literals import Refused

PerProposal = Float[np.ndarray, " proposals"]


@dataclass(frozen=True)
class SolveRates:
    """Statistics of n valid proposals.

    Attributes
    ----------
    rate : (n,) solve rate: fraction of the solver's samples that are correct.
    samples : number of samples per proposal.
    repetition : (n,) fraction of the proposals of this step that are near duplicates, not counting the proposal itself.
    diversity : (n,) fraction of recent proposals that differ from it, 0 to 1.
    """

    rate: PerProposal
    samples: int
    repetition: PerProposal
    diversity: PerProposal


def solve_rates(rate: PerProposal, samples: int, sources: Sequence[str], recent: Sequence[str]) -> SolveRates:
    """Compute ``SolveRates``, comparing proposals with each other and with recent proposals.

    Parameters
    ----------
    rate : (n,) solve rate of each proposal.
    samples : number of samples per proposal.
    sources : (n,) programs of the proposals.
    recent : programs of earlier proposals.
    """
    words = [set(re.findall(r"\w+|[^\w\s]", source)) for source in (*sources, *recent)]
    numbers = {word: number for number, word in enumerate(sorted(set().union(*words)))}
    has = np.zeros((len(words), len(numbers)))  # whether a program has a word
    for row, own in zip(has, words, strict=True):
        row[[numbers[word] for word in own]] = 1
    count = len(sources)
    common = has[:count] @ has.T
    either = has[:count].sum(1)[:, None] + has.sum(1) - common
    alike = common / np.maximum(1, either) > 0.8  # by the Jaccard index of their words
    diversity = (~alike[:, count:]).mean(1) if recent else np.ones(count)
    return SolveRates(rate, samples, (alike[:, :count].sum(1) - 1) / count, diversity)


@dataclass(frozen=True)
class Reward:
    """A proposer reward with its formula and source.

    Attributes
    ----------
    function : maps ``SolveRates`` to (n,) rewards.
    formula : in the solve rate p.
    source : publication or code.
    """

    function: Callable[[SolveRates], PerProposal]
    formula: str
    source: str


def one_minus(rates: SolveRates) -> PerProposal:
    """Give 1 - p; 0 if no sample solved the task."""
    return np.where(rates.rate > 0, 1 - rates.rate, 0.0)


def azr_code(rates: SolveRates) -> PerProposal:
    """Give 1 - p; -0.5 if no sample or every sample solved the task."""
    return np.where((rates.rate > 0) & (rates.rate < 1), 1 - rates.rate, -0.5)


def inverse(rates: SolveRates) -> PerProposal:
    """Give 1 - p, also if no sample solved the task."""
    return 1 - rates.rate


def triangular(rates: SolveRates) -> PerProposal:
    """Give 1 at p = 1/2, falling linearly to 0 on both sides."""
    return 1 - 2 * np.abs(rates.rate - 0.5)


def r_zero(rates: SolveRates) -> PerProposal:
    """Give min(p, 1 - p) minus the fraction of near duplicates."""
    return np.minimum(rates.rate, 1 - rates.rate) - rates.repetition


def variance(rates: SolveRates) -> PerProposal:
    """Give the variance of the verdict, scaled to 1 at p = 1/2."""
    return 4 * rates.rate * (1 - rates.rate)


def goldilocks(rates: SolveRates) -> PerProposal:
    """Give 1 if some samples solved the task and some did not, else 0."""
    return ((rates.rate > 0) & (rates.rate < 1)).astype(float)


def spice(rates: SolveRates) -> PerProposal:
    """Give a Gaussian of the variance of the verdict, 1 at p = 1/2."""
    return np.exp(-((rates.rate * (1 - rates.rate) - 0.25) ** 2) / (2 * 0.01))


def pasodoble(rates: SolveRates) -> PerProposal:
    """Reward difficulty and diversity, of tasks that are neither too hard nor too similar."""
    return np.where((rates.rate > 0.2) & (rates.diversity > 0.3), 1.1 - rates.rate + 0.2 * rates.diversity, 0.0)


def lsp(rates: SolveRates) -> PerProposal:
    """Give the mean solve rate of the batch minus that of the task."""
    return rates.rate.mean() - rates.rate if len(rates.rate) else rates.rate


def swe_rl(rates: SolveRates) -> PerProposal:
    """Give 1 - 1.8 p; -0.8 if no sample or every sample solved the task."""
    return np.where((rates.rate > 0) & (rates.rate < 1), 1 - 1.8 * rates.rate, -0.8)


_AZR = "Absolute Zero (arXiv 2505.03335)"
REWARDS: dict[str, Reward] = {
    "one_minus": Reward(one_minus, "1 - p, 0 at p = 0", _AZR),
    "azr_code": Reward(azr_code, "1 - p, -0.5 at p = 0 and p = 1", "the public code of Absolute Zero"),
    "inverse": Reward(inverse, "1 - p, also at p = 0", "the public code of Absolute Zero"),
    "triangular": Reward(triangular, "1 - 2|p - 0.5|", "Chae et al. (arXiv 2510.27072), R-Zero's paper"),
    "r_zero": Reward(r_zero, "min(p, 1 - p) - repetition", "the public code of R-Zero (arXiv 2508.05004)"),
    "variance": Reward(variance, "4p(1 - p)", "verifiers' proposer-solver; learnability"),
    "goldilocks": Reward(goldilocks, "1 if 0 < p < 1", "SQLM (arXiv 2508.03682) for code"),
    "spice": Reward(spice, "exp(-(p(1 - p) - 0.25)^2 / 0.02)", "SPICE (arXiv 2510.24684)"),
    "pasodoble": Reward(pasodoble, "1.1 - p + 0.2 diversity if p > 0.2 and diversity > 0.3, else 0", "PasoDoble (arXiv 2511.11881)"),
    "lsp": Reward(lsp, "mean of p over the batch - p", "LSP (arXiv 2509.07414)"),
    "swe_rl": Reward(swe_rl, "1 - 1.8p, -0.8 at p = 0 and p = 1", "self-play SWE-RL, by notes"),
}


def find(name: str) -> Callable[[SolveRates], PerProposal]:
    """Return the reward of this name, or import ``module:function``."""
    if name in REWARDS:
        return REWARDS[name].function
    module, _, function = name.partition(":")
    if not function:
        choices = f"there are {', '.join(REWARDS)}, or module:function of your own"
        raise InputError(f"--proposer-reward {printable(name)}: unknown; {choices}{did_you_mean(name, REWARDS)}")
    try:
        reward: Callable[[SolveRates], PerProposal] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--proposer-reward {printable(name)}: {printable(error, 120)}") from None
    return reward


def expected(name: str, p: ArrayLike, samples: int) -> Float[np.ndarray, " ..."]:
    """Compute the expected reward of tasks with true solve rate p, over estimates of the solve rate from ``samples`` samples.

    Assumes no repetition and full diversity, and for ``lsp`` a mean solve rate of 0.5 in the batch.

    Parameters
    ----------
    name : of the reward, see ``find``.
    p : true solve rates, of any shape.
    samples : number of samples per estimate.

    Returns
    -------
    Expected rewards, with the shape of ``p``.
    """
    p = np.asarray(p, float)
    counts = np.arange(samples + 1)
    rate = counts / samples
    values = 0.5 - rate if name == "lsp" else find(name)(SolveRates(rate, samples, np.zeros(len(rate)), np.ones(len(rate))))
    ways = np.array([math.comb(samples, int(count)) for count in counts], float)
    chance = ways * p[..., None] ** counts * (1 - p[..., None]) ** (samples - counts)
    return np.asarray((chance * values).sum(-1))


# bonus terms of the public code of Absolute Zero; each lies between 0 and 1


def complexity(program: str) -> float:
    """Compute the cognitive complexity / 15, at most 1: branches and loops count 1 + nesting depth, boolean operators 1."""
    branching = (ast.If, ast.For, ast.While, ast.IfExp, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.ExceptHandler)

    def count(node: ast.AST, depth: int) -> int:
        own = 1 + depth if isinstance(node, branching) else 1 if isinstance(node, ast.BoolOp) else 0
        deeper = depth + isinstance(node, (*branching, ast.Lambda))
        return own + sum(count(child, deeper) for child in ast.iter_child_nodes(node))

    return min(1.0, count(_tree(program), 0) / 15)


def edit_distance(program: str, references: Sequence[str]) -> float:
    """Compute 1 - similarity of the syntax trees, averaged over the references; 0 without references.

    Comparing takes quadratic time: trees of more than ``MAX_DUMP`` characters are compared up to there.
    """
    if not references:
        return 0.0
    tree, *others = (ast.dump(_tree(source))[:MAX_DUMP] for source in (program, *references))
    return float(np.mean([1 - difflib.SequenceMatcher(None, tree, other).ratio() for other in others]))


def halstead(program: str) -> float:
    """Combine Halstead's effort and volume with the cyclomatic complexity.

    The sum is 0.5 min(effort / 10^4, 1) + 0.3 min(cyclomatic / 10, 1) + 0.2 min(volume / 500, 1).
    """
    operators: Counter[str] = Counter()
    operands: Counter[str] = Counter()
    cyclomatic = 1
    for node in ast.walk(_tree(program)):
        if isinstance(node, (ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Call, ast.Subscript, ast.Attribute, ast.comprehension)):
            operators[type(node).__name__] += 1
        elif isinstance(node, ast.Constant):
            operands[repr(node.value)] += 1
        elif isinstance(node, ast.Name):
            operands[node.id] += 1
        cyclomatic += isinstance(node, (ast.If, ast.For, ast.While, ast.IfExp, ast.comprehension, ast.BoolOp))
    length, words = sum(operators.values()) + sum(operands.values()), len(operators) + len(operands)
    volume = length * math.log2(words) if words > 1 else 0.0
    effort = volume * len(operators) / 2 * (sum(operands.values()) / len(operands) if operands else 0.0)
    return 0.5 * min(effort / 1e4, 1) + 0.3 * min(cyclomatic / 10, 1) + 0.2 * min(volume / 500, 1)


def surprise(answer: Any, earlier: Counter[str]) -> float:
    """Compute 1 - (fraction of earlier answers with this value + fraction with this type) / 2.

    ``earlier`` counts answers as "type repr", e.g. "int 3".
    """
    total = sum(earlier.values())
    if not total:
        return 1.0
    type_name = type(answer).__name__
    of_type = sum(count for text, count in earlier.items() if text.partition(" ")[0] == type_name)
    return 1 - 0.5 * (earlier[f"{type_name} {answer!r}"] + of_type) / total


#: largest length of the text of a syntax tree that is compared with others; that of 30 lines of code is shorter
MAX_DUMP = 10_000
BONUSES = ("complexity", "edit_distance", "halstead", "answer_diversity")
COMBINE = ("sum", "multiply", "sum_multiply", "multiply_sum")


def combine(reward: PerProposal, bonuses: Float[np.ndarray, "proposals terms"], how: str) -> PerProposal:
    """Combine rewards with bonuses; rewards of at most 0 are unchanged.

    Parameters
    ----------
    reward : (n,).
    bonuses : (n, terms).
    how : ``sum`` (r + sum), ``multiply`` (r * product), ``sum_multiply`` (r + product) or ``multiply_sum`` (r * sum).
    """
    if not bonuses.shape[1]:
        return reward
    term = bonuses.sum(1) if how in ("sum", "multiply_sum") else bonuses.prod(1)
    return np.where(reward > 0, reward + term if how in ("sum", "sum_multiply") else reward * term, reward)


def _tree(program: str) -> ast.AST:
    try:
        tree = syntax_tree(program, levels=200)
    except Refused:
        return ast.Module(body=[], type_ignores=[])
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and length(node.value) == sys.maxsize:  # more digits than the interpreter prints
            node.value = hex(node.value) if isinstance(node.value, int) else ""
    return tree
