"""An output never replaces an input, and its suffix is that of its kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import write_safetensors

from dynamics.__main__ import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "tuned", "other"):
        (tmp_path / name).mkdir()
        rng = np.random.default_rng(len(name))
        write_safetensors(tmp_path / name / "model.safetensors", {"w": rng.normal(size=(3, 4)).astype(np.float32)})
        (tmp_path / name / "config.json").write_text("{}")
    rows = [{"problem": f"p{p}", "sample": s, "correct": p > s} for p in range(3) for s in range(2)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "text.csv").write_text("text\n")
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "sparsity base tuned --json tuned/config.json",
        "sparsity base/model.safetensors tuned --json base/model.safetensors",
        "overlap base tuned other --json ./other/config.json",
        "spectra base tuned --method none --resume base/config.json",
        "passk x=a.json --json a.json",
        "passk a.json --json ../{name}/a.json",
        "entropy base text.csv --json base/config.json",
    ],
)
def test_an_input_is_not_replaced(line, folder, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(line.format(name=folder.name).split()) == 2
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert "name another file" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json a.html", "--html a.txt", "--csv a.json", "--json model.safetensors"])
def test_a_suffix_of_another_kind_is_refused(option, folder, capsys):
    assert main(f"sparsity base tuned {option}".split()) == 2
    assert "name another file" in capsys.readouterr().err


def test_a_report_in_an_input_folder_is_written_again(folder, capsys):
    for _ in range(2):
        assert main(["sparsity", "base", "tuned", "--json", "tuned/report.json"]) == 0
    assert main(["sparsity", "base", "tuned", "--json", "report"]) == 0
    assert Path("report").exists()
