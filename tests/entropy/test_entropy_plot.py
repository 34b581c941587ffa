"""The figure and the page of a trace; the page is also opened in a browser if available."""

from __future__ import annotations

import json
import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from helpers import browser, dumped
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dynamics.entropy import terminal
from dynamics.entropy.page import page
from dynamics.entropy.plot import figure, over_training
from dynamics.entropy.traces import Trace
from dynamics.presentation import style

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\u202e"


def made(tokens=400, texts=3, second=True, seed=0, words=("the", " fox", "\n", " <b>", "é")):
    rng = np.random.default_rng(seed)
    frames, whole = [], {}
    for number in range(texts):
        pieces = [HOSTILE if number == 0 and i == 1 else words[i] for i in rng.integers(0, len(words), tokens)]
        ends = np.cumsum([len(piece) for piece in pieces])
        entropy = np.abs(rng.normal(0, 1, tokens)) ** 4
        entropy[0] = np.nan
        frame = pd.DataFrame(
            {"text": f"{HOSTILE} {number}", "position": np.arange(tokens), "token_id": [hash(piece) % 97 for piece in pieces]}
        )
        frame = frame.assign(token=pieces, offset=ends - [len(piece) for piece in pieces], end=ends, prompt=np.arange(tokens) < 20)
        frame = frame.assign(entropy=entropy, varentropy=entropy, surprisal=entropy, rank=pd.array([None, *range(1, tokens)], "Int64"))
        frame["top_ids"] = pd.Series([None] + [[1, 2]] * (tokens - 1), dtype=object)
        frame["top_p"] = pd.Series([None] + [[0.5, 0.25]] * (tokens - 1), dtype=object)
        if second:
            frame = frame.assign(entropy_b=0.9 * entropy, kl_ab=0.01, kl_ba=0.02)
        frames.append(frame)
        whole[f"{HOSTILE} {number}"] = "".join(pieces)
    return Trace(pd.concat(frames, ignore_index=True), whole, "float32", ["a note"], 2.0)


@pytest.mark.parametrize(("tokens", "second"), [(3, False), (400, True)])
def test_all_that_is_written_stands_apart_inside_the_figure(tokens, second):
    with style.use_style():
        drawing = figure(made(tokens, second=second), "a/model/with/a/long/path" * 3, "other" if second else None)
        FigureCanvasAgg(drawing).draw()
        texts = [*drawing.texts]
        for ax in drawing.axes:
            texts += [ax.xaxis.label, ax.yaxis.label, *ax.texts]
        boxes = [(part.get_text(), part.get_window_extent()) for part in texts if part.get_text().strip()]
    for (name, first), (other, box) in combinations(boxes, 2):
        assert not first.overlaps(box), (name, other)
    assert all(drawing.bbox.x0 <= box.x0 and box.x1 <= drawing.bbox.x1 for _, box in boxes)


def data(text):
    return json.loads(re.search(r'<script type="application/json" id="traces">(.*?)</script>', text, re.DOTALL).group(1))


def test_the_page_holds_the_text_and_is_safe():
    trace = made(tokens=100)
    text = page(trace, HOSTILE, "other", decode=lambda token: HOSTILE)
    assert "<img src=x" not in text
    assert text.count("<script") == 2
    assert "http://" not in text.replace("http://www.w3.org", "")
    held = data(text)
    for columns, whole in zip(held["texts"], trace.texts.values(), strict=True):
        assert "".join(columns["pieces"]) == whole.replace("\u202e", "\ufffd")
        assert len(columns["pieces"]) == len(columns["h"]) == len(columns["b"]) == len(columns["top"])
        assert columns["h"][0] is None
    assert page(trace, "m", "other") == page(trace, "m", "other")


@pytest.mark.slow
@pytest.mark.skipif(browser() is None, reason="no browser")
def test_in_a_browser(tmp_path):
    """The script runs, colours tokens, stays out of reach of the text, and draws a sliver of thirty thousand tokens."""
    path = tmp_path / "page.html"
    path.write_text(page(made(30_000, texts=1), "m", "other"), encoding="utf-8")
    dom = dumped(path, tmp_path)
    assert "<title>Entropy</title>" in dom
    drawn = len(re.findall(r"<span data-i=", dom))
    assert 200 < drawn < 20_000
    assert "rgba(213, 94, 0" in dom
    assert dom.count("data-start=") >= 40
    assert "30,000 tokens" in dom


def test_a_series_of_checkpoints():
    rows = pd.DataFrame({"model": [f"step_{i}" for i in (0, 50, 200)], "entropy": [1.0, 0.5, 0.2], "low": 0.1, "high": 1.1, "certain": 0.3})
    with style.use_style():
        drawing = style.new_figure(6, 3)
        ax = over_training(rows, drawing.subplots())
        FigureCanvasAgg(drawing).draw()
    assert list(ax.lines[0].get_xdata()) == [0, 50, 200]
    assert list(ax.lines[0].get_ydata()) == [1.0, 0.5, 0.2]
    with style.use_style():
        named = over_training(rows.assign(model=["base", "sft", "rl"]), style.new_figure(6, 3).subplots())
    assert [tick.get_text() for tick in named.get_xticklabels()] == ["base", "sft", "rl"]


def test_the_screen(capsys):
    import io

    from rich.console import Console

    buffer = io.StringIO()
    terminal.show(made(), "m", "other", console=Console(file=buffer, width=100))
    text = buffer.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    for words in ("1,197", "KL(1||2)", "highest", "a note", "80 to 100 %"):
        assert words in text
    assert "\u202e" not in text
