"""The manual explains every metric that a run records, on the page of its method or among the metrics of all runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUNS = sorted(path.parent for path in (ROOT / "tests" / "data" / "runs").glob("*/run.json"))
TYPES = "deduction|abduction|induction"
CHECKS = "scratchpad|with_steps|steps|true_steps|on_path|repeated|covered"
PLAYERS = "critic|generator|proposer|solver|(teacher|student)[0-9]+"
#: a word in capitals in the manual -> pattern that it stands for in ``metrics.jsonl``; a longer word stands first
PLACEHOLDERS = {
    "MEASUREMENT": "grad_norm|loss|entropy|nll_sampled|tokens|clip/low|clip/high",
    "ROLE": "solver|proposer|claimer|adversary|hinted|(critic|generator)(_sft)?",
    "STREAM": "solver|adversary|hinted",
    "TASK": f"{TYPES}|transfer|right|wrong|sneaky|problem|claim",
    "TYPE": TYPES,
    "RULE": "exact|bf16|rtol|atol",
    "REASON": ".+",
} | {
    "KIND": "[a-z_]+",
    "NAME": PLAYERS,
    "PLAYER": PLAYERS,
    "part=N": "part=(first|10|[1-9])",
    "MANNER": "greedy|T=1",
    "GROUP": "task=.+|set=.+|depth=[1-4]",
    "CHECK": CHECKS,
    "MEASURE": CHECKS,
}


def documented(page: Path) -> list[re.Pattern[str]]:
    """The names in the first cells of the tables of a page whose column is headed ``metric``, as patterns."""
    names: list[str] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        inside = line.startswith("| metric |") or (inside and line.startswith("|"))
        if inside:
            names += re.findall(r"`([^`]+)`", line.split("|")[1])
    word = re.compile("|".join(PLACEHOLDERS))
    return [re.compile(word.sub(lambda match: f"({PLACEHOLDERS[match[0]]})", re.escape(name))) for name in names]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_every_recorded_metric_is_documented(run: Path) -> None:
    method = json.loads((run / "run.json").read_text(encoding="utf-8"))["method"]
    patterns = documented(ROOT / "docs" / "measures.md") + documented(ROOT / "docs" / "methods" / f"{method}.md")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    names = sorted({name for line in lines for name in json.loads(line)})
    assert len(names) > 20
    assert [name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)] == []
