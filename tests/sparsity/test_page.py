"""The page is self-contained and complete, and names in the checkpoint cannot inject markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from dynamics.sparsity import compare, series
from dynamics.sparsity.page import page

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "model.layers.0.\u2028mlp.up_proj.weight",
    "model.layers.<b>1</b>.q_proj.weight",
    "model.layers.2.'\"&amp;.weight",
    "<!--BODY--><!--TENSORS-->",
    "<!--{{ 7 * 7 }}-->{% endblock %}",
]


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found: dict[str, list[dict[str, str | None]]] = {}
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.setdefault(tag, []).append(dict(attributes))

    def handle_data(self, data):
        self.text += data


def blob(html):
    return json.loads(re.search(r'<script type="application/json" id="tensors">(.*?)</script>', html, re.DOTALL).group(1))


def test_the_page_holds_every_number_of_the_report(pair):
    comparison = compare(*pair, like="mukherjee")
    html = page(comparison)
    text = Elements(html).text
    for count in comparison.total.changed.values():
        assert f"{count:,}" in text
    assert comparison.like["paper"] in text
    for row in (*comparison.modules, *comparison.layers):
        assert row.name in text
        assert f"{row.numel:,}" in text
    data = blob(html)["rows"]
    assert [row["shown"][0] for row in data] == [row.name for row in comparison.rows]
    assert [row["sort"][4] for row in data] == [row.numel for row in comparison.rows]


def test_each_cell_of_the_heat_map_has_its_four_values(pair):
    comparison = compare(*pair)
    cells = [cell for cell in Elements(page(comparison)).found["td"] if "data-cells" in cell]
    assert len(cells) == len(comparison.grid)
    drawn = sorted(float(cell["data-cells"].split("|")[1].split()[0]) for cell in cells)
    assert drawn == pytest.approx(sorted(100 * comparison.grid["sparsity_bf16"]), abs=0.06)


def test_nothing_is_fetched(pair):
    for html in (page(compare(*pair)), page(series([*pair, pair[0]])[-1].comparison, series([*pair, pair[0]]))):
        assert "default-src 'none'" in html
        assert not re.search(r"https?://|\bsrc=(?![\"']?data:)|url\(|@import|<link|<iframe", html)


def test_hostile_names_are_text(rng):
    base = {name: rng.normal(size=(4, 3)).astype(np.float32) for name in HOSTILE}
    html = page(compare(base | {"gone" + HOSTILE[0]: base[HOSTILE[0]]}, base))
    plain = Elements(page(compare({"w": base[HOSTILE[0]]}, {"w": base[HOSTILE[0]]}))).found
    elements = Elements(html).found
    assert len(elements["script"]) == len(plain["script"]) == 2
    assert "img" not in elements
    assert "b" in elements
    assert len(elements["b"]) == len(plain["b"])
    assert not any(key.startswith("on") for attributes in (a for group in elements.values() for a in group) for key in attributes)
    assert "\u2028" not in html
    assert blob(html)["rows"][0]["shown"][0] == HOSTILE[0]


@pytest.mark.slow
def test_twenty_thousand_tensors(rng):
    base = {f"model.layers.{i // 400}.mlp.experts.{i % 400}.up_proj.weight": np.ones((1, 2), np.float32) for i in range(20_000)}
    html = page(compare(base, base))
    assert len(html) < 12_000_000
    assert html.count("<tr") < 300


def test_undefined_numbers_and_no_layers():
    html = page(compare({"w": np.zeros(3, np.float32)}, {"w": np.array([np.nan, 1, 0], np.float32)}))
    assert "nan" not in html.lower().replace("nan or infinity", "").replace("nanmin", "")
    assert blob(html)["rows"][0]["sort"][-4] is None


def test_shares_are_of_the_pairs_in_the_histogram():
    base, tuned = np.ones(4, np.float32), np.array([1, 1, 2, np.inf], np.float32)
    text = Elements(page(compare({"w": base}, {"w": tuned}))).text
    assert "66.67 %" in text
    assert "33.33 %" in text


def test_tensors_without_weights():
    empty = {"w": np.zeros((0, 4), np.float32)}
    assert "0 weights" in Elements(page(compare(empty, empty))).text


def test_the_same_comparison_gives_the_same_page(pair):
    assert page(compare(*pair)) == page(compare(*pair))
