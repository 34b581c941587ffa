"""Write the table of the laboratory's page from the tables that come with its bases.

python docs/competence_table.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "laboratory.md"
BASES = (ROOT / "dynamics" / "train" / "lab" / "base", *sorted((ROOT / "analyses" / "bases").glob("lab-*")))
#: form, manner, measure -> how the table calls it
ROWS = {
    ("deduction", "direct", "pass@1"): ("deduction", "greedy, direct"),
    ("deduction", "steps", "pass@1"): ("", "greedy, with steps"),
    ("deduction", "T=1", "pass@1"): ("", "T=1"),
    ("deduction", "T=1", "pass@64"): ("", "T=1, pass@64"),
    ("deduction", "T=1", "with steps"): ("", "T=1, share with steps"),
    ("abduction", "greedy", "pass@1"): ("abduction", "greedy"),
    ("abduction", "T=1", "pass@1"): ("", "T=1"),
    ("abduction", "T=1", "pass@64"): ("", "T=1, pass@64"),
    ("induction", "T=1", "pass@1"): ("induction", "T=1"),
    ("induction", "T=1", "pass@64"): ("", "T=1, pass@64"),
    ("transfer", "greedy", "pass@1"): ("transfer", "greedy"),
    ("transfer", "T=1", "pass@1"): ("", "T=1"),
    ("transfer", "T=1", "pass@64"): ("", "T=1, pass@64"),
    ("hinted", "greedy", "pass@1, no hint"): ("under a hint", "greedy, no hint"),
    ("hinted", "greedy", "pass@1, right hint"): ("", "greedy, right hint"),
    ("hinted", "greedy", "pass@1, wrong hint"): ("", "greedy, wrong hint"),
    ("judge", "greedy", "balanced accuracy"): ("judge", "greedy, balanced accuracy"),
    ("judge", "T=1", "balanced accuracy"): ("", "T=1, balanced accuracy"),
    ("wrong step", "T=1", "wrong"): ("write a wrong step", "T=1, wrong"),
    ("wrong step", "T=1", "true"): ("", "T=1, true"),
    ("hint", "T=1", "true"): ("write a hint", "T=1, true"),
    ("propose PD", "T=1", "proper"): ("propose", "T=1, proper"),
    ("propose PD", "T=1", "different programs"): ("", "T=1, different programs"),
}
DEPTHS = (1, 2, 3, 4, 0)
TABLE = re.compile(r"(<!-- competence -->\n).*?(<!-- end -->\n)", re.DOTALL)


def cell(values: list[float]) -> str:
    """Write the mean over bases with the lowest and the highest."""
    if not values:
        return ""
    spread = f" ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def table() -> str:
    """Make the table of the test sets: the mean over the bases that come with the project."""
    scores: dict[tuple[str, ...], dict[int, list[float]]] = {}
    for base in BASES:
        for score in json.loads((base / "competence-test.json").read_text(encoding="utf-8"))["scores"]:
            key = (score["form"], score["manner"], score["measure"])
            scores.setdefault(key, {}).setdefault(score["depth"], []).append(score["value"])
    seeds = f"{len(BASES)} bases: the mean, and the lowest and highest" if len(BASES) > 1 else "The base of seed 0"
    lines = [
        f"{seeds}, on the programs of `test` (1 to 3 operations) and `deeper` (4), and of",
        "`transfer`; 64 answers a problem at T=1.",
        "",
        "| form | answered | depth 1 | 2 | 3 | 4 | all |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, (form, manner) in ROWS.items():
        cells = [cell(scores[key].get(depth, [])) for depth in DEPTHS]
        lines.append(f"| {form} | {manner} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return the text of the page with the current table."""
    return TABLE.sub(lambda found: found[1] + table() + found[2], text, count=1)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
