"""Proposer rewards: what a proposed task is worth, by how often the solver solved it.

Every function takes an ``Estimate`` of n valid proposals and gives (n,) rewards. Solve rates are estimated from few samples, and the
estimate bends the curve that the proposer climbs: with ``one_minus`` and 8 samples the expected reward is (1-p) - (1-p)^8, highest at a
true solve rate of 0.26, not at 0. ``expected`` gives it for any of them.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamics.errors import InputError, shown

Floats = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Estimate:
    """What is known of n valid proposals.

    Attributes
    ----------
    rate : (n,) share of samples that solved it.
    samples : how many samples that was.
    repetition : (n,) share of this step's proposals that are nearly the same, itself not counted.
    diversity : (n,) share of the proposals of late that are unlike it, 0 to 1.
    """

    rate: Floats
    samples: int
    repetition: Floats
    diversity: Floats


def estimate(rate: Floats, samples: int, sources: Sequence[str], recent: Sequence[str]) -> Estimate:
    """The estimate of proposals with these solve rates and programs; ``recent``: programs of late, in the order they came."""
    words = [_words(source) for source in sources]
    near = np.array([[_jaccard(a, b) > 0.8 for b in words] for a in words], float)
    others = [_words(source) for source in recent]
    diversity = np.array([np.mean([_jaccard(a, b) <= 0.8 for b in others]) if others else 1.0 for a in words])
    return Estimate(rate, samples, (near.sum(1) - 1) / len(sources), diversity)


def _words(source: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+|[^\w\s]", source))


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / max(1, len(a | b))


@dataclass(frozen=True)
class Reward:
    """A catalogue entry: the function, its formula in p, and where it is from."""

    function: Callable[[Estimate], Floats]
    formula: str
    source: str


def one_minus(e: Estimate) -> Floats:
    return np.where(e.rate > 0, 1 - e.rate, 0.0)


def azr_code(e: Estimate) -> Floats:
    return np.where((e.rate > 0) & (e.rate < 1), 1 - e.rate, -0.5)


def inverse(e: Estimate) -> Floats:
    return 1 - e.rate


def triangular(e: Estimate) -> Floats:
    return 1 - 2 * np.abs(e.rate - 0.5)


def r_zero(e: Estimate) -> Floats:
    return np.minimum(e.rate, 1 - e.rate) - e.repetition


def variance(e: Estimate) -> Floats:
    return 4 * e.rate * (1 - e.rate)


def goldilocks(e: Estimate) -> Floats:
    return ((e.rate > 0) & (e.rate < 1)).astype(float)


def spice(e: Estimate) -> Floats:
    return np.exp(-((e.rate * (1 - e.rate) - 0.25) ** 2) / (2 * 0.01))


def pasodoble(e: Estimate) -> Floats:
    return np.where((e.rate > 0.2) & (e.diversity > 0.3), 1.1 - e.rate + 0.2 * e.diversity, 0.0)


def lsp(e: Estimate) -> Floats:
    return e.rate.mean() - e.rate if len(e.rate) else e.rate


def swe_rl(e: Estimate) -> Floats:
    return np.where((e.rate > 0) & (e.rate < 1), 1 - 1.8 * e.rate, -0.8)


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


def find(name: str) -> Callable[[Estimate], Floats]:
    """A reward of the catalogue, or ``module:function`` of one's own."""
    if name in REWARDS:
        return REWARDS[name].function
    module, _, function = name.partition(":")
    if not function:
        raise InputError(f"--proposer-reward {shown(name)}: unknown; there are {', '.join(REWARDS)}, or module:function of your own")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--proposer-reward {shown(name)}: {shown(error, 120)}") from None
    return found


def expected(name: str, p: Any, samples: int) -> Floats:
    """Mean of a reward over estimates from ``samples`` draws, at true solve rates ``p`` (any shape); no repetition, full diversity.

    For ``lsp`` the mean solve rate of the batch is taken to be 0.5.
    """
    p = np.asarray(p, float)
    counts = np.arange(samples + 1)
    rate = counts / samples
    values = 0.5 - rate if name == "lsp" else find(name)(Estimate(rate, samples, np.zeros(len(rate)), np.ones(len(rate))))
    ways = np.array([math.comb(samples, int(count)) for count in counts], float)
    chance = ways * p[..., None] ** counts * (1 - p[..., None]) ** (samples - counts)
    return np.asarray((chance * values).sum(-1))


# what else the public code of Absolute Zero can add to the reward; every term lies between 0 and 1


def complexity(program: str) -> float:
    """Cognitive complexity / 15: branches, loops and boolean operators, each one more for every level that it is nested in."""
    branching = (ast.If, ast.For, ast.While, ast.IfExp, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.ExceptHandler)

    def count(node: ast.AST, depth: int) -> int:
        mine = 1 + depth if isinstance(node, branching) else 1 if isinstance(node, ast.BoolOp) else 0
        deeper = depth + isinstance(node, (*branching, ast.Lambda))
        return mine + sum(count(one, deeper) for one in ast.iter_child_nodes(node))

    return min(1.0, count(_tree(program), 0) / 15)


def edit_distance(program: str, references: Sequence[str]) -> float:
    """1 - similarity of the syntax trees, the mean over the references."""
    if not references:
        return 0.0
    mine = ast.dump(_tree(program))
    return float(np.mean([1 - difflib.SequenceMatcher(None, mine, ast.dump(_tree(other))).ratio() for other in references]))


def halstead(program: str) -> float:
    """0.5 min(effort / 10^4, 1) + 0.3 min(cyclomatic / 10, 1) + 0.2 min(volume / 500, 1)."""
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
    """1 - share of the earlier answers that are the same, the mean of that over values and over types."""
    total = sum(earlier.values())
    if not total:
        return 1.0
    kind = type(answer).__name__
    of_type = sum(count for text, count in earlier.items() if text.partition(" ")[0] == kind)
    return 1 - 0.5 * (earlier[f"{kind} {answer!r}"] + of_type) / total


BONUSES = ("complexity", "edit_distance", "halstead", "answer_diversity")
COMBINE = ("sum", "multiply", "sum_multiply", "multiply_sum")


def combine(reward: Floats, bonuses: Floats, how: str) -> Floats:
    """Rewards (n,) with bonuses (n, terms), where the reward is above 0.

    ``sum`` r + sum; ``multiply`` r * product; ``sum_multiply`` r + product; ``multiply_sum`` r * sum.
    """
    if not bonuses.shape[1]:
        return reward
    term = bonuses.sum(1) if how in ("sum", "multiply_sum") else bonuses.prod(1)
    return np.where(reward > 0, reward + term if how in ("sum", "sum_multiply") else reward * term, reward)


def _tree(program: str) -> ast.AST:
    try:
        return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module(body=[], type_ignores=[])
