"""What the runs of a comparison differ in: a difference between two of them is one of their methods only if nothing else differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pandas as pd

from analyses.runs import Run
from dynamics.runs import open_run
from dynamics.runs.matched_settings import matching_of
from dynamics.runs.matching import Contrast, Matching, contrast

#: columns of the table
COLUMNS = ("a", "b", "seeds", "contrast_of_methods", "differs", "by_definition", "unknown", "text")


def contrasts(runs: Sequence[Run]) -> pd.DataFrame:
    """Say of each two kinds of runs what they differ in, in any of the seeds that both have.

    Parameters
    ----------
    runs : of several labels and seeds.

    Returns
    -------
    pd.DataFrame
        ``COLUMNS``: the labels, the number of common seeds (0: the first run of each is compared), whether the difference is one of their
        methods, the names of the rows of the table of matching that differ, that differ by definition and that are not known, and all of it
        as a sentence.
    """
    tables: dict[str, dict[int, Matching]] = {}
    for run in runs:
        tables.setdefault(run.label, {})[run.seed] = matching_of(open_run(run.path))
    rows = []
    for (one, of_one), (other, of_other) in combinations(tables.items(), 2):
        common = sorted(of_one.keys() & of_other.keys())
        pairs = [(of_one[seed], of_other[seed]) for seed in common] or [(next(iter(of_one.values())), next(iter(of_other.values())))]
        found = _joined([contrast(*pair) for pair in pairs])
        lists = [", ".join(names) for names in (found.differs, found.defined, found.unknown)]
        rows.append((one, other, len(common), found.is_of_methods, *lists, found.text))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _joined(found: Sequence[Contrast]) -> Contrast:
    """Join the contrasts of several seeds: a row that differs in one of them differs."""
    differs = list(dict.fromkeys(name for each in found for name in each.differs))
    unknown = [name for name in dict.fromkeys(name for each in found for name in each.unknown) if name not in differs]
    defined = [name for name in dict.fromkeys(name for each in found for name in each.defined) if name not in (*differs, *unknown)]
    return replace(found[0], differs=differs, defined=defined, unknown=unknown)
