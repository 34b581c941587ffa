"""A small run of each game: the manual names every file that it writes, the fields of its tables, and every metric that it logs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynamics.train import __main__ as command
from train.test_documented_metrics import documented

ROOT = Path(__file__).parent.parent.parent.parent
SCHEMAS = ROOT / "docs" / "schemas.md"
FEW = "--model lab --task lab --steps 2 --threads 1 --probe-every 1 --eval-problems 2 --eval-samples 2"
FEW += " --validate-every 1 --validation-problems 2"
PROPOSING = "--prompts-per-step 2 --group-size 3 --max-new-tokens 24"
HINTS = "--prompts-per-step 3 --group-size 3 --num-hints 2 --hinted-samples 2 --num-problems 6 --max-new-tokens 24"
GAMES = {
    "selfplay": f"{PROPOSING} --players two --num-seed-tasks 2 --num-references 1",
    "pasodoble": f"{PROPOSING} --proposals-per-passage 3",
    "populora": f"{PROPOSING} --num-seed-tasks 2 --evolve-every 1 --lora-rank 2",
    "spc": "--attempts 10 --batch-size 6 --max-new-tokens 24 --critic-problems 4",
    "seirenes": f"{HINTS} --task lab-deduction --robustness-problems 2 --robustness-samples 2",
}
#: tables of a game at the top of the run directory
TABLES = {
    "selfplay": {"curriculum.jsonl"},
    "pasodoble": set(),
    "populora": {"curriculum.jsonl", "lineage.jsonl"},
    "spc": {"critic.jsonl", "critic_verdicts.jsonl"},
    "seirenes": {"robustness.jsonl"},
}


@pytest.fixture(scope="module", params=GAMES)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("games") / request.param
    command.main([request.param, "--out", str(out), *FEW.split(), *GAMES[request.param].split()])
    return request.param, out


def files_of_the_page() -> list[re.Pattern[str]]:
    """The files that the page of schemas names, as patterns of paths within a run directory; a folder stands for what is in it."""
    block = SCHEMAS.read_text(encoding="utf-8").partition("## Run directory")[2].split("```")[1]
    names = [name for line in block.splitlines() if line[:1].strip() for name in line.split("  ")[0].split(", ")]
    assert "metrics.jsonl" in names
    written = [re.escape(name).replace("000100", r"\d+").replace("_N", r"_\d+").replace("NAME", "[^/]+") for name in names]
    return [re.compile(name + (".+" if name.endswith("/") else "")) for name in written]


def test_every_file_is_named(played: tuple[str, Path]) -> None:
    method, out = played
    found = [file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()]
    assert {name for name in found if "/" not in name and name.endswith("l")} == TABLES[method] | {"metrics.jsonl"}
    patterns = files_of_the_page()
    assert [name for name in found if not any(pattern.fullmatch(name) for pattern in patterns)] == []
    assert not any(pattern.fullmatch("other.jsonl") for pattern in patterns)


def test_every_field_of_a_table_is_named(played: tuple[str, Path]) -> None:
    method, out = played
    page = SCHEMAS.read_text(encoding="utf-8").partition("## Run directory")[2]
    for name in sorted(TABLES[method]):
        (paragraph,) = re.findall(rf"^A row of `{re.escape(name)}`.*?\n\n", page, re.DOTALL | re.MULTILINE)
        rows = [json.loads(line) for line in (out / name).read_text(encoding="utf-8").splitlines()]
        assert rows
        assert {field for row in rows for field in row} <= set(re.findall(r"`([^`]+)`", paragraph))


def test_every_metric_is_documented(played: tuple[str, Path]) -> None:
    method, out = played
    patterns = documented(ROOT / "docs" / "measures.md") + documented(ROOT / "docs" / "methods" / f"{method}.md")
    files = [out / "metrics.jsonl", *out.glob("players/*/metrics.jsonl")]
    names = {name for file in files for line in file.read_text(encoding="utf-8").splitlines() for name in json.loads(line)}
    assert len(names) > 20
    assert sorted(name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)) == []
