"""Format numbers and untrusted names as short text, the same in terminal, page and figures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from dynamics.checkpoints.parameter_names import layer_order
from dynamics.errors import printable

if TYPE_CHECKING:
    from dynamics.checkpoints import Skip


def number(value: float) -> str:
    """Format a measured quantity with four significant digits; ``-`` if it is not defined."""
    return "-" if math.isnan(value) else f"{value:.4g}"


def human(count: int) -> str:
    """Format a count in about five characters: ``7.62B``."""
    if count < 10_000:
        return f"{count:,}"
    unit, size = next((unit, size) for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)) if count >= 0.9995 * size)
    scaled = count / size
    return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}"


def log_share(count: int, whole: int) -> float:
    """Compute the logarithmic length of the bar of a count, relative to that of ``whole``; it is 0 only for a count of 0."""
    return math.log1p(count) / math.log1p(whole) if whole else 0.0


def types(counts: Mapping[str, int]) -> str:
    """List the dtypes of a checkpoint, with shares if there are several: ``bfloat16 99.97 %, float32 0.03 %``."""
    whole = sum(counts.values())
    if len(counts) < 2 or not whole:
        return ", ".join(map(printable, counts)) or "no weights of its own"
    return ", ".join(f"{printable(name)} {percent(count / whole)}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def stacks(layers: Iterable[str]) -> list[list[str]]:
    """Group layer names by stack: the layers of a vision tower are separate from those of the language model."""
    ordered = sorted(set(layers), key=layer_order)
    return [list(group) for _, group in groupby(ordered, lambda name: layer_order(name)[0])]


def layer_labels(layers: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Return the common prefix of all names in whole segments, ``model.layers.``, and each name without it: ``model.layers.3`` -> ``3``."""
    split = {name: name.split(".") for name in layers}
    first = next(iter(split.values()), [])
    depth = 0
    while depth < len(first) - 1 and all(len(parts) > depth + 1 and parts[depth] == first[depth] for parts in split.values()):
        depth += 1
    prefix = "".join(f"{segment}." for segment in first[:depth])
    return printable(prefix), {name: printable(".".join(parts[depth:]), 60) for name, parts in split.items()}


def short_paths(paths: Iterable[str]) -> dict[str, str]:
    """Shorten paths to the fewest trailing parts that keep them distinct."""
    split = {path: path.replace("\\", "/").rstrip("/").split("/") for path in paths}
    for depth in range(1, max(map(len, split.values()), default=0) + 1):
        short = {path: "/".join(parts[-depth:]) or path for path, parts in split.items()}
        if len(set(short.values())) == len(split):
            return {path: printable(label, 60) for path, label in short.items()}
    return {path: printable(path, 60) for path in split}


def skipped_groups(skipped: Sequence[Skip]) -> list[tuple[str, str, list[str]]]:
    """Group skipped tensors into (where, reason, names), in order of first occurrence."""
    groups: dict[tuple[str, str], list[str]] = {}
    for skip in skipped:
        groups.setdefault((skip.where, skip.reason), []).append(skip.name)
    return [(where, reason, names) for (where, reason), names in groups.items()]


def last_bin(ulp: Mapping[str, int]) -> int:
    """Count the bins of a distance histogram up to the last non-empty bin; at least 1."""
    return max((number for number, count in enumerate(ulp.values(), 1) if count), default=1)


def checkpoint_numbers(paths: Sequence[str]) -> list[int] | None:
    """Extract the number of each name if the names are otherwise equal and the numbers increase (``step_100``, ``step_200``); else None."""
    matches = [re.fullmatch(r"(.*?)(\d{1,15})(\D*)", path, re.DOTALL) for path in paths]
    parts = [match.groups() for match in matches if match]
    if len(parts) < len(paths) or len({(before, after) for before, _, after in parts}) > 1:
        return None
    numbers = [int(number) for _, number, _ in parts]
    return numbers if all(a < b for a, b in pairwise(numbers)) else None


def percent(fraction: float, short: bool = False) -> str:
    """Format a fraction as a percentage; only 0 and 1 become 0 % and 100 %: 99.9999 % or > 99.999999 % is not rounded to 100 %.

    Parameters
    ----------
    fraction : between 0 and 1; NaN becomes ``-``.
    short : for labels in a figure: two significant digits of the distance to 0 % or 100 %, whichever is nearer, with at least one decimal,
        as in 0.053 %, 12.5 % or 99.9960 %. Else two decimals, or four or six if necessary, so that the columns of a table line up.
    """
    if math.isnan(fraction):
        return "-"
    if short:
        rare = min(fraction, 1.0 - fraction)
        choices = [max(1, 1 - math.floor(math.log10(100 * rare)))] if rare > 0.0 else [0]
    else:
        choices = [2, 4, 6]
    for digits in choices:
        text = f"{100 * fraction:.{digits}f}"
        if digits <= 6 and (fraction in (0.0, 1.0) or float(text) not in (0.0, 100.0)):
            return f"{text} %"
    return "> 99.999999 %" if fraction > 0.5 else "< 0.000001 %"
