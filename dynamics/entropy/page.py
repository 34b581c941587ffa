"""Present a trace as one self-contained page: the text coloured by entropy, with the model's predictions in tooltips.

Only the text near the window is in the document at any time, so that texts of 100,000 tokens scroll smoothly.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.descriptions import plural
from dynamics.entropy.plot import figure
from dynamics.entropy.summaries import by_token, summary
from dynamics.errors import printable
from dynamics.presentation import html, style
from dynamics.presentation.text import number, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    import pandas as pd

    from dynamics.entropy.traces import Trace

HEADERS = ("part", "tokens", "mean", "95 % over texts", "below 0.01", "median", "80th percentile", "varentropy", "surprisal")
#: headers of the columns for a second model
CHANGE_HEADERS = ("second model", "change", "95 %", "KL(1||2)", "KL(2||1)", "top-20 % shared")
#: key in the script -> column of a trace
COLUMNS = {"h": "entropy", "s": "surprisal", "b": "entropy_b", "kl": "kl_ab"}

GLOSSARY = {
    "entropy": "Entropy of the model's distribution for the token, over the whole vocabulary, in nats, at temperature 1. The first token "
    "of a text has no prediction, and so no entropy.",
    "p, rank": "Probability of the actual token under the model, and its rank by probability; 1 is the most likely token.",
    "surprisal": "-log p. Its mean over tokens sampled from the model estimates the mean entropy; over other text it does not.",
    "varentropy": "Variance of -log p under the model. It is 0 if a single token is certain, or if several tokens are equally likely and "
    "all others impossible.",
    "KL(1||2)": "KL divergence of the first model's distribution from the second's at the same token, exact over the vocabulary, in nats.",
    "interval": "95 %, bootstrap over texts, because the tokens of a text are not independent.",
    "top-20 % shared": "Share of the 20 % of tokens with the highest entropy under the first model that are also in the top 20 % under the "
    "second.",
}


def page(trace: Trace, model: str, against: str | None = None, decode: Callable[[int], str] = str) -> str:
    """Render a trace.

    Parameters
    ----------
    trace
        Trace of one model or two.
    model, against
        Names of the first and the second model.
    decode
        Function from a token id to its text.

    Returns
    -------
    The text of one HTML file.
    """
    parts = summary(trace.tokens)
    with style.use_style():
        chart = html.figure_uri(figure(trace, model, against))
    context = {
        "model": html.one_line(model),
        "against": html.one_line(against) if against else "",
        "dtype": html.one_line(trace.dtype),
        "cards": _cards(parts.iloc[0].to_dict()),
        "notes": [html.one_line(note, 600) for note in trace.notes],
        "compared": "entropy_b" in trace.tokens,
        "headers": [*HEADERS, *(CHANGE_HEADERS if "change" in parts else ())],
        "parts": [_part(row) for row in parts.to_dict("records")],
        "chart": chart,
        "tokens": _tokens(trace),
        "traces": _traces(trace, decode),
        "meanings": GLOSSARY,
    }
    return html.render("entropy.html", context)


def _cards(row: Mapping[Hashable, Any]) -> list[tuple[str, str, str]]:
    """Format the summary of all tokens as (name, value, remark)."""
    interval = "one text: no interval" if math.isnan(row["low"]) else _interval(row["low"], row["high"])
    cards = [
        ("mean entropy, nats", number(row["entropy"]), interval),
        ("tokens below 0.01 nats", percent(row["certain"]), f"{plural(row['tokens'], 'token')} of {plural(row['texts'], 'text')}"),
    ]
    if "change" in row:
        cards.append(("change in the second model", f"{row['change']:+.3g}", f"KL(1||2) {number(row.get('kl_ab', math.nan))}"))
    return cards


def _part(row: Mapping[Hashable, Any]) -> list[str]:
    """Format the row of a part of the tokens: the columns ``HEADERS`` and, with a second model, ``CHANGE_HEADERS``."""
    cells = [
        row["part"],
        f"{row['tokens']:,}",
        number(row["entropy"]),
        _interval(row["low"], row["high"]),
        percent(row["certain"]),
        *(number(row[name]) for name in ("p50", "p80", "varentropy", "surprisal")),
    ]
    if "change" in row:
        cells += [
            number(row["entropy_b"]),
            f"{row['change']:+.3g}",
            _interval(row["change_low"], row["change_high"]),
            *(number(row.get(name, math.nan)) for name in ("kl_ab", "kl_ba")),
            percent(row["forking_overlap"]),
        ]
    return cells


def _interval(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"[{low:.3g}, {high:.3g}]"


def _tokens(trace: Trace) -> list[list[str]]:
    """Format the tokens with the highest and the lowest mean entropy side by side; none if fewer than two occur often enough."""
    ranked = by_token(trace.tokens)
    count = min(20, len(ranked) // 2)
    highest, lowest = ranked.head(count).to_dict("records"), ranked.tail(count)[::-1].to_dict("records")
    return [[*_token(left), *_token(right)] for left, right in zip(highest, lowest, strict=True)]


def _token(row: Mapping[Hashable, Any]) -> list[str]:
    return [html.one_line(repr(row["token"]), 40), f"{row['tokens']:,}", number(row["entropy"])]


def _traces(trace: Trace, decode: Callable[[int], str]) -> dict[str, Any]:
    """Collect the data of the script: the columns of every text, and the values of full colour."""

    @cache
    def word(token: int) -> str:
        return printable(decode(token), 40)

    tokens = trace.tokens
    cap = {"h": _cap(tokens["entropy"])}
    if "entropy_b" in tokens:
        cap |= {"b": cap["h"], "d": _cap((tokens["entropy_b"] - tokens["entropy"]).abs())}
    texts = [_text(str(name), rows, trace.texts[str(name)], word) for name, rows in tokens.groupby("text", sort=False)]
    return {"cap": cap, "texts": texts}


def _cap(values: pd.Series[float]) -> float:
    """Compute the value of full colour: the 95th percentile."""
    known = values.dropna()
    return max(float(np.percentile(known, 95)) if len(known) else 1.0, 1e-6)


def _text(name: str, rows: pd.DataFrame, text: str, word: Callable[[int], str]) -> dict[str, Any]:
    """Collect the columns of one text: a piece of text per token, ``COLUMNS``, and rank and top tokens if the trace has them."""
    columns: dict[str, Any] = {
        "name": printable(name, 80),
        "pieces": _pieces(rows, text),
        "prompt": rows["prompt"].astype(int).tolist(),
    }
    for key, column in COLUMNS.items():
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


def _pieces(rows: pd.DataFrame, text: str) -> list[str]:
    """Split a text into one piece per token; joined, the pieces give the text."""
    pieces, done = [], 0
    for start, end, token in zip(rows["offset"], rows["end"], rows["token"], strict=True):
        # text between tokens belongs to the later token; of several tokens for one character, only the first shows it
        piece = text[done:end] if end > done else "" if end > start else token
        pieces.append(_printable(piece))
        done = max(done, end)
    return pieces


def _printable(piece: str) -> str:
    """Replace unprintable characters other than line feeds and tabs."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in piece)
