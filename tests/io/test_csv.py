"""Tables as CSV: text is never a formula, numbers stay numbers, and what was written is read again."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from helpers import write_safetensors

from dynamics.__main__ import main
from dynamics.io.csv import neutralise, restored, to_csv

FORMULAS = ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", '=HYPERLINK("http://x","y")', "-", "\uff1d1", "'=1", "''@x"]
PLAIN = ["layers.0", "a=b", "1-2", "'quoted'", "", " =1", "a, b", 'a "b"', "two\nlines", "tab\tinside", "\u00e9\U0001f600"]


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_begins_like_a_formula_gets_an_apostrophe(text):
    ((name,), (cell,)) = rows(to_csv(pd.DataFrame({text: [text]})))
    for written in (name, cell):
        assert written == "'" + text.replace("\r", "\\x0d")


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays_as_it_is(text):
    table = pd.DataFrame({"name": [text], "value": [1]})
    assert rows(to_csv(table)) == [["name", "value"], [text, "1"]]


@pytest.mark.parametrize("kind", [object, "string", "category"])
def test_text_of_any_type_of_column(kind):
    table = pd.DataFrame({"name": pd.Series(["=1", "a", None], dtype=kind)})
    assert rows(to_csv(table))[1:] == [["'=1"], ["a"], [""]]


def test_numbers_stay_numbers():
    table = pd.DataFrame({"a": [-0.5, np.nan], "b": [-3, 4], "c": pd.Series([-1, None], dtype=object), "d": [True, False]})
    mixed = pd.DataFrame({"value": pd.Series([-0.5, "-0.5", -7, None], dtype=object)})
    assert to_csv(table) == table.to_csv(index=False, lineterminator="\n")
    assert to_csv(table, "%.3g") == table.to_csv(index=False, float_format="%.3g", lineterminator="\n")
    assert [row[:1] for row in rows(to_csv(mixed))] == [["value"], ["-0.5"], ["'-0.5"], ["-7"], [""]]


@pytest.mark.parametrize(
    ("text", "written"),
    [("\x1b[2Jx", "\\x1b[2Jx"), ("a\x00b", "a\\x00b"), ("a\rb", "a\\x0db"), ("a\x9bb", "a\\x9bb"), ("a\u202eb", "a\\u202eb"),
     ("half \ud800", "half \\ud800"), ("\ufeff=1", "\\ufeff=1"), ("\x00=1", "\\x00=1")],
)  # fmt: skip
def test_control_characters_are_escaped(text, written):
    assert neutralise(text) == written
    written_table = to_csv(pd.DataFrame({"name": pd.Series([text], dtype=object)}))
    assert rows(written_table.encode().decode())[1] == [written]


def test_what_was_written_is_read_again():
    texts = [text for text in [*FORMULAS, *PLAIN] if text and "\r" not in text]
    table = pd.DataFrame({"=name": texts, "value": np.linspace(-1, 1, len(texts))})
    read = restored(pd.read_csv(io.StringIO(to_csv(table))))
    assert list(read.columns) == ["=name", "value"]
    assert list(read["=name"]) == texts
    assert np.allclose(read["value"], table["value"])


def test_a_table_without_rows_or_columns():
    assert to_csv(pd.DataFrame({"=a": []})) == "'=a\n"
    assert to_csv(pd.DataFrame()) == pd.DataFrame().to_csv(index=False, lineterminator="\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sparsity", "overlap", "spectra --method none", "passk"])
def test_no_command_writes_a_formula(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("=base", "@tuned", "+other"):
        rng = np.random.default_rng(len(name))
        values = {tensor: rng.normal(size=(3, 4)).astype(np.float32) for tensor in ('=cmd|"/c calc"!A0', "-x\x1b[2J", "@y\n+z", "plain")}
        write_safetensors(tmp_path / f"{name}.safetensors", values)
    graded = [{"problem": f"=p{p}", "sample": s, "correct": p > s} for p in range(3) for s in range(2)]
    (tmp_path / "=m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in graded))
    files = {"passk": ["=m.jsonl"], "overlap": ["=base.safetensors", "@tuned.safetensors", "+other.safetensors"]}
    words = command.split()
    assert main([words[0], *files.get(words[0], ["=base.safetensors", "@tuned.safetensors"]), *words[1:], "--csv", "out.csv"]) == 0
    cells = [cell for row in rows((tmp_path / "out.csv").read_bytes().decode()) for cell in row]
    text = [cell for cell in cells if not is_number(cell)]
    assert not [cell for cell in text if cell.startswith(tuple("=+-@\t\r"))]
    assert not [cell for cell in cells if any(ord(c) < 32 and c != "\n" for c in cell)]
    assert any(cell.startswith("'") for cell in text)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
