"""A trace as one self-contained page: the text coloured by entropy, with what the model expected under the pointer.

Only the part of the text near the window is in the document at any time, so a hundred thousand tokens scroll as ten do.
"""

from __future__ import annotations

import json
import math
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.entropy.plot import figure
from dynamics.entropy.summaries import by_token, summary
from dynamics.errors import printable
from dynamics.presentation import html, style
from dynamics.presentation.text import number, percent

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from dynamics.entropy.traces import Trace

STYLE = """<style>
#reader { font: 14px/1.75 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line);
  border-radius: 6px; padding: .75rem 1rem }
#reader div { display: block } #reader span { border-radius: 2px } #reader span.prompt { opacity: .6 }
#reader span:hover { outline: 1px solid var(--ink) }
#tip { position: fixed; z-index: 1; pointer-events: none; white-space: pre; font: 13px/1.4 ui-monospace, monospace;
  background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .4rem .6rem; max-width: 30rem; overflow: hidden }
#key { background: linear-gradient(to right, rgba(213,94,0,0), rgba(213,94,0,.85)) }
#key.both { background: linear-gradient(to right, rgba(0,114,178,.85), rgba(0,0,0,0), rgba(213,94,0,.85)) }
select { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line); border-radius: 5px; max-width: 24rem }
</style>"""

GLOSSARY = {
    "entropy": "Of the distribution that the token was drawn from, over the whole vocabulary, in nats, at temperature 1. The first token "
    "of a text was drawn from nothing, and has none.",
    "p, rank": "The chance that the model gave to the token that stands there, and how many tokens had a better one, and 1.",
    "surprisal": "-log p. Its mean over tokens sampled from the model estimates the mean entropy; over other text it does not.",
    "varentropy": "The variance of -log p under the model: 0 where one token, or a fair choice between some, is all there is.",
    "KL(1||2)": "Of the first model's distribution from the second's at the same token, exact over the vocabulary, in nats.",
    "interval": "95 %, bootstrapped over texts: tokens of one text are not independent.",
    "top-20 % shared": "Of the fifth of tokens with the highest entropy under the first model, the share in the second's fifth too.",
}


def page(trace: Trace, model: str, against: str | None = None, decode: Callable[[int], str] = str) -> str:
    """A trace as the text of one HTML file. ``decode`` turns a token id of the top tokens into text."""
    with style.use_style():
        chart = html.image(figure(trace, model, against), "spread, course and tokens of entropy")
    sections = [
        STYLE,
        _head(trace, model, against),
        html.section("The text, coloured by entropy", _reader(trace)),
        html.section("In numbers", _numbers(trace) + chart),
        html.section("Tokens", _tokens(trace)),
        html.section("What the numbers are", html.glossary(GLOSSARY)),
        html.script("entropy.js", _data(trace, decode), "traces"),
    ]
    return html.document("Entropy", sections)


def _head(trace: Trace, model: str, against: str | None) -> str:
    row = summary(trace.tokens).iloc[0]
    known = row["low"] == row["low"]
    cards = [("mean entropy, nats", number(row["entropy"]), f"[{row['low']:.3g}, {row['high']:.3g}]" if known else "one text: no interval")]
    cards.append(("tokens below 0.01 nats", percent(row["certain"]), f"{row['tokens']:,} tokens of {row['texts']:,} texts"))
    if "change" in row:
        cards.append(("change in the second model", f"{row['change']:+.3g}", f"KL(1||2) {number(row.get('kl_ab', math.nan))}"))
    made = "".join(
        f'<div class=card style="--rule:#0072b2">{escape(name)}<b>{escape(value)}</b><span class=faint>{escape(more)}</span></div>'
        for name, value, more in cards
    )
    second = f"<p>second model <code>{html.safe(against)}</code></p>" if against else ""
    notes = "".join(f"<p>{html.safe(note, 600)}</p>" for note in trace.notes)
    return (
        f"<h1>Where the model is unsure</h1><p>model <code>{html.safe(model)}</code> <span class=faint>forward in {html.safe(trace.dtype)}"
        f"</span></p>{second}<div class=cards>{made}</div>{notes}"
    )


def _reader(trace: Trace) -> str:
    both = "entropy_b" in trace.tokens
    names = {"h": "first model", "b": "second model", "d": "difference"} if both else {"h": "entropy"}
    buttons = "".join(
        f"<button type=button data-measure={key} aria-pressed={str(key == 'h').lower()}>{name}</button> " for key, name in names.items()
    )
    return (
        "<noscript><p>The coloured text needs scripts.</p></noscript>"
        f"<div id=controls hidden><p><label>text <select id=text></select></label> {buttons if both else ''}</p>"
        "<div class=scale>0 <i id=key></i> <span id=cap></span> <span class=faint>point at a token to see what was expected there; "
        "prompts are paler</span></div></div><div id=reader></div><div id=tip hidden></div>"
    )


def _numbers(trace: Trace) -> str:
    heads = ["<part", "tokens", "mean", "95 % over texts", "below 0.01", "median", "80th percentile", "varentropy", "surprisal"]
    numbers = summary(trace.tokens)
    if "change" in numbers:
        heads += ["second model", "change", "95 %", "KL(1||2)", "KL(2||1)", "top-20 % shared"]
    lines = []
    for row in numbers.to_dict("records"):
        cells = [row["part"], f"{row['tokens']:,}", number(row["entropy"]), _span(row["low"], row["high"]), percent(row["certain"])]
        cells += [number(row[key]) for key in ("p50", "p80", "varentropy", "surprisal")]
        if "change" in row:
            cells += [number(row["entropy_b"]), f"{row['change']:+.3g}", _span(row["change_low"], row["change_high"])]
            cells += [number(row.get(key, math.nan)) for key in ("kl_ab", "kl_ba")] + [percent(row["forking_overlap"])]
        lines.append([escape(cell) for cell in cells])
    return html.table(heads, lines)


def _span(low: float, high: float) -> str:
    return f"[{low:.3g}, {high:.3g}]" if low == low else "-"


def _tokens(trace: Trace) -> str:
    ranked = by_token(trace.tokens)
    if len(ranked) < 2:
        return "<p>No token comes five times.</p>"
    some = min(20, len(ranked) // 2)
    pairs = zip(ranked.head(some).to_dict("records"), ranked.tail(some)[::-1].to_dict("records"), strict=True)
    lines = ([cell for row in pair for cell in _token(row)] for pair in pairs)
    return html.table(["<least sure", "times", "mean entropy", "<most sure", "times", "mean entropy"], lines)


def _token(row: dict[Any, Any]) -> list[str]:
    return [html.safe(repr(row["token"]), 40), f"{row['tokens']:,}", number(row["entropy"])]


def _data(trace: Trace, decode: Callable[[int], str]) -> str:
    """The columns of every text for the script, as JSON."""
    known: dict[int, str] = {}

    def word(token: int) -> str:
        if token not in known:
            known[token] = printable(decode(token), 40)
        return known[token]

    texts = [_text(str(name), rows, trace.texts[str(name)], word) for name, rows in trace.tokens.groupby("text", sort=False)]
    tokens = trace.tokens
    cap = {"h": _cap(tokens["entropy"])}
    if "entropy_b" in tokens:
        cap |= {"b": cap["h"], "d": _cap((tokens["entropy_b"] - tokens["entropy"]).abs())}
    return json.dumps({"cap": cap, "texts": texts}, allow_nan=False, separators=(",", ":"))


def _cap(values: pd.Series[float]) -> float:
    """What gets the full colour: the 95th percentile."""
    some = values.dropna()
    return max(float(np.percentile(some, 95)) if len(some) else 1.0, 1e-6)


def _text(name: str, rows: pd.DataFrame, text: str, word: Callable[[int], str]) -> dict[str, Any]:
    pieces, done = [], 0
    for start, end, token in zip(rows["offset"], rows["end"], rows["token"], strict=True):
        # what lies between tokens goes to the later one; bytes of one character after its first show nothing of their own
        piece = text[done:end] if end > done else "" if end > start else token
        pieces.append(_plain(piece))
        done = max(done, end)
    columns: dict[str, Any] = {"name": printable(name, 80), "pieces": pieces, "prompt": rows["prompt"].astype(int).tolist()}
    for key, column in (("h", "entropy"), ("s", "surprisal"), ("b", "entropy_b"), ("kl", "kl_ab")):
        if column in rows:
            columns[key] = [float(f"{value:.4g}") if math.isfinite(value) else None for value in rows[column]]
    if "rank" in rows:
        columns["r"] = [None if missing else int(value) for value, missing in zip(rows["rank"].fillna(0), rows["rank"].isna(), strict=True)]
    if "top_ids" in rows:
        columns["top"] = [
            None if ids is None else [[word(int(token)), float(f"{p:.3g}")] for token, p in zip(ids, chances, strict=True)]
            for ids, chances in zip(rows["top_ids"], rows["top_p"], strict=True)
        ]
    return columns


def _plain(piece: str) -> str:
    """Text as it is, but for control characters other than line ends and tabs."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in piece)
