"""Hostile text in every field of every page stays text, and does not change the structure of the page."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest
from helpers import browser, dumped

from analyses import comparison, runs
from analyses.verdicts import Verdict
from dynamics import overlap, passk, sparsity, spectra
from dynamics.checkpoints import Skip
from dynamics.entropy.page import page as entropy_page
from dynamics.entropy.traces import Trace
from dynamics.overlap.page import page as overlap_page
from dynamics.passk.page import page as passk_page
from dynamics.presentation import html
from dynamics.samples import File
from dynamics.sparsity.page import page as sparsity_page
from dynamics.spectra.page import page as spectra_page

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}{% raw %}<!--&amp;\"'--></td></style></title>"
CONTROL = "\x00\x1b[2J\u202e\u2028\r"
ROOT = Path(__file__).parents[2]


class Structure(HTMLParser):
    """The elements of a page with the names of their attributes, and the text that it shows or passes to a script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attributes)))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}",))

    def handle_comment(self, comment: str) -> None:
        self.elements.append(("!", comment))

    def handle_data(self, text: str) -> None:
        self.text += text


def state(text: str, update: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = [f"model.layers.{layer}.{text}.q_proj.weight" for layer in range(2)] + [f"{text}.norm.weight"]
    return {name: rng.normal(size=(6, 5)) + update * rng.normal(size=(6, 5)) for name in names}


def of_sparsity(text: str, folder: Path) -> str:
    base, tuned = state(text, 0.0), state(text, 0.1)
    result = sparsity.compare(base | {f"{text} gone": np.ones(2)}, tuned, like="mukherjee")
    sides = {}
    for side in ("base", "tuned"):
        checkpoint = getattr(result, side)
        tensors = {name: dataclasses.replace(tensor, dtype=text) for name, tensor in checkpoint.tensors.items()}
        sides[side] = dataclasses.replace(checkpoint, path=text, format=text, tensors=tensors)
    factors = {"name": text, "rank": 1, "numerical_rank": 1, "scaling": 1.0, "update_norm": 1.0}
    rows = [dataclasses.replace(row, dtype_base=text) for row in result.rows]
    skipped = [*result.skipped, Skip(text, text, text)]
    result = dataclasses.replace(result, **sides, rows=rows, notes=[text], skipped=skipped, adapters=[factors])
    return sparsity_page(result, [sparsity.Step("first", f"{text} 1", f"{text} {step}", result) for step in (2, 3)])


def of_overlap(text: str, folder: Path) -> str:
    result = overlap.compare(state(text, 0.0), [state(text, update) for update in (0.1, 0.2, 0.3)], threads=1)
    sides = [dataclasses.replace(checkpoint, path=text) for checkpoint in result.tuned]
    base = dataclasses.replace(result.base, path=text)
    return overlap_page(dataclasses.replace(result, base=base, tuned=sides, notes=[text], skipped=[Skip(text, text, text)]), series=True)


def of_spectra(text: str, folder: Path) -> str:
    measured, skipped = spectra.compare(state(text, 0.0), state(text, 0.1), k=2, method="approx")
    return spectra_page(text, text, measured, [*skipped, Skip(text, text, text)], {text: text})


def of_entropy(text: str, folder: Path) -> str:
    pieces = [text, "the", "\n"] * 8
    ends = np.cumsum([len(piece) for piece in pieces])
    rng = np.random.default_rng(0)
    columns = {name: rng.random(24) for name in ("entropy", "varentropy", "surprisal", "entropy_b", "kl_ab", "kl_ba")}
    tokens = pd.DataFrame({"text": text, "position": np.arange(24), "token_id": [1, 2, 3] * 8, "token": pieces, **columns})
    tokens = tokens.assign(offset=ends - [len(piece) for piece in pieces], end=ends, prompt=np.arange(24) < 5)
    tokens = tokens.assign(top_ids=[[1, 2]] * 24, top_p=[[0.5, 0.25]] * 24)
    return entropy_page(Trace(tokens, {text: "".join(pieces)}, text, [text], 1.0), text, text, decode=lambda token: text)


def of_passk(text: str, folder: Path) -> str:
    rng = np.random.default_rng(0)
    rows = [
        {"model": name, "problem": f"{text} {problem}", "correct": bool(rng.random() < 0.5)}
        for name in (text, f"{text} 2")
        for problem in range(8)
        for _ in range(4)
    ]
    report = passk.report(pd.DataFrame(rows), replicates=100)
    curves = [dataclasses.replace(curve, warnings=[text]) for curve in report.curves]
    files = [File(text, text, {text: text}, 64, [text])]
    return passk_page(dataclasses.replace(report, curves=curves, files=files, notes=[text]))


def of_comparison(text: str, folder: Path) -> str:
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    document = {"method": text, "seed": 0, "master_dtype": text, "compute_dtype": text, "packages": {text: text}}
    document |= {"schema": "dynamics.run/2", "config": {"model": text, "reward": text, text: text}}
    for name in ("a", "b"):
        (folder / name / "run.json").write_text(json.dumps(document))
    compared = [runs.Run(folder / name, document) for name in ("a", "b")]
    verdict = Verdict(text, text, 1.0, 0.5, 1.5, 2, text, text, 1)
    verdicts = pd.DataFrame([dataclasses.asdict(verdict) | {"verdict": verdict.verdict, "figure": text}])
    drawn = {"name": text, "title": text, "headline": text, "claim": text, "caption": text, "figure": html.svg_uri(b"<svg/>")}
    sections = [
        {name: html.one_line(value) for name, value in section.items()}
        for section in (drawn, {"name": text, "title": text, "missing": text})
    ]
    return comparison.page(compared, "", verdicts, sections)


@cache
def plain_elements(build: Callable[[str, Path], str], folder: Path) -> list[tuple[str, ...]]:
    """The structure of the page of harmless text."""
    return Structure(build("plain", folder)).elements


PAGES = [of_sparsity, of_overlap, of_spectra, of_entropy, of_passk, of_comparison]


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all tests, so that ``plain_elements`` makes each page once."""
    return tmp_path_factory.mktemp("plain") / "runs"


@pytest.mark.parametrize("build", PAGES)
def test_hostile_input_stays_text(build: Callable[[str, Path], str], tmp_path: Path, plain_folder: Path) -> None:
    page = build(MARKUP + CONTROL, tmp_path / "hostile")
    hostile = Structure(page)
    assert hostile.elements == plain_elements(build, plain_folder)
    assert MARKUP[:40] in hostile.text
    assert "{{7*7}}" in hostile.text
    assert "{{49}}" not in hostile.text
    assert not re.search(r"[^\n\x20-\x7e\u00a0-\u1fff\u2026\u2190-\uffff]", page)


@pytest.mark.parametrize("build", PAGES)
def test_whatever_a_template_prints_is_escaped(
    build: Callable[[str, Path], str], tmp_path: Path, plain_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every string passed to a template is replaced, both untrusted strings and those that the page formats itself."""
    render = html.render
    monkeypatch.setattr(html, "render", lambda template, context, *more: render(template, replaced(context), *more))
    hostile = Structure(build("plain", tmp_path / "hostile"))
    monkeypatch.undo()
    assert hostile.elements == plain_elements(build, plain_folder)


def replaced(value: object) -> object:
    """The same value with hostile text for every string that is not empty."""
    if isinstance(value, str):
        return MARKUP + CONTROL if value else ""
    if isinstance(value, dict):
        return {key: replaced(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(replaced, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{field.name: replaced(getattr(value, field.name)) for field in dataclasses.fields(value)})
    return value


def test_no_template_is_exempt_from_escaping() -> None:
    """Escaping is on for all templates, including those that untrusted text does not reach."""
    templates = [*ROOT.glob("dynamics/**/templates/*.html"), *ROOT.glob("analyses/templates/*.html")]
    assert len(templates) >= 8
    for template in templates:
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", template.read_text()), template
    for module in [*ROOT.glob("dynamics/**/*.py"), *ROOT.glob("analyses/*.py")]:
        assert "Markup" not in module.read_text(), module


def test_a_name_that_the_context_lacks_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'base' is undefined"):
        html.render("spectra.html", {})


#: cells of a column in ascending order; dashes and empty cells come last in both directions
SORTED = {
    "numbers": ["-12", "-0.5", "<0.001", "1.5e-3", "+0.25", "3 %", "1,024", "12,000 of 13,000", "-", "-"],
    "intervals": ["[-0.2, 0.1]", "[0.1, 0.2]", "[0.3, 0.4] *", ">0.999", "2", "3", "4", "5", "6", "-"],
    "text": ["layer 2", "layer 10", "layer 11", "Layer 12", "norm", "o_proj", "q_proj", "x", "y", ""],
}


@pytest.mark.slow
@pytest.mark.skipif(browser() is None, reason="no browser")
@pytest.mark.parametrize("name", SORTED)
def test_a_click_on_a_header_sorts(name: str, tmp_path: Path) -> None:
    """The first click sorts in ascending order, the second in descending order, with missing values last."""
    expected = SORTED[name]
    rows = [[str(number), cell] for number, cell in enumerate(np.random.default_rng(0).permutation(expected).tolist())]
    template = (
        '{% extends "base.html" %}{% from "macros.html" import table %}{% block title %}{% endblock %}{% block content %}'
        '{{ table(["number", "value"], rows) }}{% endblock %}{% block scripts %}<script>{% include "tables.js" %}</script><script>'
        "const cells = () => [...document.querySelectorAll('tbody tr')].map(row => row.cells[1].textContent.trim()), result = [];"
        "for (const column of [1, 1, 0]) { document.querySelectorAll('th button')[column].click(); result.push(cells()) }"
        "document.body.append(Object.assign(document.createElement('pre'), {textContent: JSON.stringify(result)}))</script>{% endblock %}"
    )
    (tmp_path / "sorted.html").write_text(template)
    page = tmp_path / "page.html"
    page.write_text(html.render("sorted.html", {"rows": rows}, tmp_path), encoding="utf-8")
    ascending, descending, by_number = json.loads(unescape(re.findall(r"<pre>(.*?)</pre>", dumped(page, tmp_path), re.DOTALL)[-1]))
    assert ascending == expected
    missing = [cell for cell in expected if cell in ("", "-")]
    assert descending == [cell for cell in reversed(expected) if cell not in ("", "-")] + missing
    assert by_number == [cell for _, cell in rows]
