"""The pages of findings, and the results in the README, say what the committed tables say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analyses import findings
from dynamics import InputError

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "figures"


def test_the_committed_pages_are_what_the_tables_give() -> None:
    for name, text in findings.pages(FIGURES).items():
        assert (ROOT / name).read_text() == text, f"{name}: run python -m analyses.findings"


@pytest.mark.parametrize("document", findings.PARTS)
def test_the_committed_documents_have_the_results_of_the_tables(document: str) -> None:
    path = ROOT / document
    assert path.read_text() == findings.filled(path, FIGURES, findings.PARTS[document]), "run python -m analyses.findings"


def test_numbers_of_the_terminal_in_the_readme_are_those_of_the_table() -> None:
    table = pd.read_csv(FIGURES / "precision.csv")
    rows = table[table["folder"] == "fp32"].set_index("rule")
    readme = (ROOT / "README.md").read_text()
    shown = {
        rule: (int(count.replace(",", "")), float(share))
        for rule, count, share in re.findall(r"^  (\w+) .* ([\d,]{5,}) +([\d.]+) %$", readme, re.M)
    }
    assert shown.keys() == set(rows.index)
    for rule, (count, share) in shown.items():
        assert count == rows.loc[rule, "changed"]
        assert share == pytest.approx(100 * rows.loc[rule, "sparsity"], abs=0.005)
    assert f"{rows['numel'].iloc[0]:,} weights" in readme


def test_prose_that_the_tables_no_longer_support_is_refused(tmp_path: Path) -> None:
    """A page is not written if a sentence of it has become wrong."""
    shutil.copytree(FIGURES, tmp_path / "figures")
    path = tmp_path / "figures" / "controls.csv"
    table = pd.read_csv(path)
    table[["value", "low", "high"]] *= -1
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match="write the page anew"):
        findings.pages(tmp_path / "figures")


def test_a_missing_row_is_named(tmp_path: Path) -> None:
    shutil.copytree(FIGURES, tmp_path / "figures")
    path = tmp_path / "figures" / "support.csv"
    table = pd.read_csv(path)
    table[table["label"] != "sft"].to_csv(path, index=False)
    with pytest.raises(InputError, match=r"support\.csv: 0 rows have .*sft"):
        findings.pages(tmp_path / "figures")


def test_a_document_without_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# dynamics\n")
    with pytest.raises(InputError, match="has no <!--precision-->"):
        findings.filled(tmp_path / "README.md", FIGURES, findings.PARTS["README.md"])
