"""The output of the commands against the recorded output in ``recorded/``, a few files per command.

    DYNAMICS_RECORD_GOLDEN=1 python -m pytest tests/golden          # records again; check the diff before committing it

Only command lines are used, so that modules can move. Integers, words and printed output are compared exactly, floats to the tolerance of
each case: sums in float64 are reproducible to 1e-9 on any machine, a forward pass in float32 is not. Times are left out.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import make_inputs
import pytest

from dynamics.__main__ import main

RECORDED = Path(__file__).parent / "recorded"
RECORD = os.environ.get("DYNAMICS_RECORD_GOLDEN") == "1"
#: fields of documents that hold times or paths of the outputs, and markers of such lines in a table
TIMES, TIMED_LINES = ("seconds", "tokens_per_second", "command"), ("tokens/s", "    python -m dynamics.report ")
#: shares of replicates: absolute tolerance, because rounding decides a replicate in which two curves are equal
REPLICATE_SHARES = {"probability_none": 1e-3, "probability_from_start": 1e-3}


@dataclass(frozen=True)
class Case:
    """A command line, the option that writes its table, if any, and how far its floats may differ; also those in its sentences, if so."""

    line: str
    table: str | None = "--csv"
    relative: float = 1e-9
    absolute: float = 0.0
    needs: tuple[str, ...] = ()
    sentences: bool = False


def spectra(line: str, relative: float = 1e-7) -> Case:
    return Case(f"spectra {line}", relative=relative, absolute=1e-9, needs=("torch",))


def entropy(line: str, table: str | None = None) -> Case:
    return Case(f"entropy {line} --device cpu", table, 1e-4, 1e-6, ("torch", "transformers"))


CASES = {
    "sparsity_bf16": Case("sparsity bf16/base bf16/tuned"),
    "sparsity_special": Case("sparsity special/base special/tuned --like mukherjee --rtol 1e-2 --atol 1e-4"),
    "sparsity_mixed": Case("sparsity mixed/base mixed/tuned --like path-not-taken --allow-partial"),
    "sparsity_series": Case("sparsity run/step_0 run/step_1 run/step_2 run/step_3"),
    "sparsity_adapter": Case("sparsity lora/base lora/adapter"),
    "overlap_pair": Case("overlap special/base special/tuned lora/base"),
    "overlap_series": Case("overlap --series run/step_0 run/step_1 run/step_2 run/step_3"),
    "overlap_bf16": Case("overlap bf16/base bf16/tuned bf16/other --rtol 1e-2 --atol 1e-4"),
    "spectra_full": spectra("turned/base turned/tuned --subspace 4"),
    # approx computes its basis, and the bounds of the remainder, in float32
    "spectra_approx": spectra("turned/base turned/tuned --subspace 3 --method approx --seed 1", 1e-3),
    "spectra_none": spectra("turned/base turned/tuned --subspace 4 --method none --only layers --limit 3 --alpha 0.25"),
    "spectra_adapter": spectra("lora/base lora/adapter --subspace 2 --only q_proj"),
    "entropy_texts": entropy("model/base texts.jsonl --temperature 0.7"),
    "entropy_window": entropy("model/base texts.jsonl --window 32 --batch-tokens 128"),
    "entropy_against": entropy("model/base rollouts.jsonl --against model/tuned --top 2", "--out"),
    "entropy_over": entropy("model/base texts.jsonl --over model/tuned model/later"),
    "entropy_bounds": Case("entropy logprobs responses.jsonl --vocabulary 30", None),
    "games": Case("games grpo --phases 2"),
    "passk": Case("passk base=base_results.jsonl rl=rl_results.jsonl --maj --answer answer --against rl"),
    "passk_fields": Case("passk both.jsonl --problem task --sample trial --model policy --correct points --threshold 0.5 --k 1,3,8"),
    "passk_unscored": Case("passk rl_results.jsonl --unscored wrong --level 0.9 --replicates 500 --seed 3"),
    # a fit is as exact as the last step of the optimiser
    "passk_extrapolate": Case("passk base=base_results.jsonl rl=rl_results.jsonl --extrapolate 256 --replicates 500", relative=1e-5),
    # the directions are computed as in spectra_approx, and the sentences hold rounded numbers
    "report": Case("report grpo --no-model-passes --cache none --html report.html", "--markdown", 2e-3, 1e-9, ("torch",), sentences=True),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers")
    folder: Path = tmp_path_factory.mktemp("inputs")
    make_inputs.write(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_what_a_command_gives_is_what_it_gave(name, inputs, tmp_path, monkeypatch):
    case = CASES[name]
    for package in case.needs:
        pytest.importorskip(package)
    monkeypatch.chdir(inputs)
    monkeypatch.setenv("COLUMNS", "100")
    if name == "report":  # its figures take most of its time, nothing that is recorded is in them, and the tests of the report draw them
        monkeypatch.setattr("dynamics.report.page.draw", lambda _report: {})
    outputs = given(case, tmp_path)
    if RECORD:
        RECORDED.mkdir(exist_ok=True)
        for suffix, content in outputs.items():
            (RECORDED / f"{name}{suffix}").write_text(content, encoding="utf-8")
        pytest.skip("recorded")
    kept = {path.name.removeprefix(name): path.read_text(encoding="utf-8") for path in RECORDED.glob(f"{name}.*")}
    assert set(outputs) == set(kept)
    for suffix in {".txt", ".md"} & set(outputs):
        assert not list(differences(kept[suffix], outputs[suffix], case))
    for suffix, parse in ((".json", json.loads), (".csv", rows)):
        if suffix in outputs:
            wrong = list(differences(parse(kept[suffix]), parse(outputs[suffix]), case))
            assert not wrong, "\n".join(wrong[:20])


def test_what_is_recorded_is_of_a_case():
    assert {path.name.partition(".")[0] for path in RECORDED.iterdir()} == set(CASES)


def given(case: Case, folder: Path) -> dict[str, str]:
    """Return the printed output of the command, its document and its table, without times."""
    suffix = {"--out": "parquet", "--markdown": "md"}.get(case.table or "", "csv")
    document, table = folder / "document.json", folder / f"table.{suffix}"
    outputs = ["--json", str(document), *([case.table, str(table)] if case.table else [])]
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(printed):
        assert main([*case.line.split(), *outputs]) == 0
    printed.seek(0)
    texts = {".txt": untimed(printed.read()), ".json": compact(json.loads(document.read_text(encoding="utf-8")))}
    if case.table in ("--csv", "--markdown"):
        texts[f".{suffix}"] = untimed(table.read_text(encoding="utf-8"))
    elif case.table == "--out":
        import pyarrow.parquet

        records = pyarrow.parquet.read_table(table).to_pylist()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()} for row in records)
        texts[".csv"] = text.getvalue()
    return texts


def untimed(text: str) -> str:
    """Leave out the lines that hold times or paths of the outputs."""
    return "".join(line for line in text.splitlines(keepends=True) if not any(mark in line for mark in TIMED_LINES))


def compact(document: dict[str, Any]) -> str:
    """Encode as JSON with a line per field and list element, which is short and readable in a diff."""
    fields = []
    for key, value in document.items():
        if key in TIMES:
            continue
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in value) + "\n]"
        fields.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def divided(text: str) -> tuple[list[str], list[float]]:
    """Divide a text into what is between its numbers, and the numbers."""
    parts = re.split(r"(\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return parts[::2], [float(part.replace(",", "")) for part in parts[1::2]]


def rows(text: str) -> list[dict[str, Any]]:
    return [{column: cell(value) for column, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


def cell(text: str) -> int | float | str | list[Any]:
    for parse in (int, float, json.loads):
        with contextlib.suppress(ValueError):
            return parse(text)
    return text


def differences(kept: Any, actual: Any, case: Case, where: str = "") -> Iterator[str]:
    """Yield a line for each difference, including the order of fields."""
    if type(kept) is not type(actual):
        yield f"{where}: was {kept!r}, is {actual!r}"
    elif isinstance(kept, dict):
        if list(kept) != list(actual):
            yield f"{where}: fields were {list(kept)}, are {list(actual)}"
            return
        for key, value in kept.items():
            yield from differences(value, actual[key], case, f"{where}.{key}")
    elif isinstance(kept, list):
        if len(kept) != len(actual):
            yield f"{where}: were {len(kept)}, are {len(actual)}"
            return
        for index, value in enumerate(kept):
            yield from differences(value, actual[index], case, f"{where}[{index}]")
    elif isinstance(kept, float):
        absolute = REPLICATE_SHARES.get(where.rpartition(".")[2], case.absolute)
        if not (math.isclose(kept, actual, rel_tol=case.relative, abs_tol=absolute) or (math.isnan(kept) and math.isnan(actual))):
            yield f"{where}: was {kept!r}, is {actual!r}"
    elif isinstance(kept, str) and case.sentences:
        words, numbers = zip(*(divided(text) for text in (kept, actual)), strict=True)
        close = words[0] == words[1] and all(
            math.isclose(a, b, rel_tol=case.relative, abs_tol=case.absolute) for a, b in zip(*numbers, strict=True)
        )
        if not close:
            yield f"{where}: was {kept!r}, is {actual!r}"
    elif kept != actual:
        yield f"{where}: was {kept!r}, is {actual!r}"
