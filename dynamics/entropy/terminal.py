"""Print a trace to the terminal: distribution of entropy, change in a second model, and tokens of highest and lowest entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dynamics.descriptions import plural
from dynamics.entropy.summaries import PERCENTILES, by_token, change_by_percentile, summary
from dynamics.errors import printable
from dynamics.presentation import tables, text
from dynamics.presentation.tables import Section
from dynamics.presentation.text import percent

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from dynamics.entropy.traces import Trace

#: number of tokens listed at each end of the ranking
NAMED = 8


def show(trace: Trace, model: str, against: str | None = None, series: pd.DataFrame | None = None, console: Console | None = None) -> None:
    """Print a trace, and the summaries of later checkpoints, to standard output (or to ``console``)."""
    numbers = summary(trace.tokens)

    def sections(_width: int, _fancy: bool) -> list[Section]:
        return [
            _head(trace, model, against),
            _spread(numbers),
            _second(trace, numbers),
            _series(series),
            _named(trace),
            _notes(trace.notes),
        ]

    tables.show(sections, console)


def _head(trace: Trace, model: str, against: str | None) -> Section:
    lines: Section = [Text(f"model    {printable(model, 200)}", "bold")]
    if against:
        lines.append(Text(f"against  {printable(against, 200)}", "bold"))
    speed = len(trace.tokens) / trace.seconds if trace.seconds else 0
    sizes = f"{plural(len(trace.tokens), 'token')} of {plural(len(trace.texts), 'text')}"
    lines.append(Text(f"{sizes}, forward in {trace.dtype}, {speed:,.0f} tokens/s; nats"))
    return lines


def _spread(numbers: pd.DataFrame) -> Section:
    table = tables.table("|entropy of", ">tokens", ">mean", "|95% over texts", ">below 0.01", ">varentropy", ">surprisal")
    ends = tables.table("|percentile of entropy", *(f">{p}" for p in PERCENTILES))
    for row in numbers.to_dict("records"):
        known = row["low"] == row["low"]
        span = f"[{row['low']:.4g}, {row['high']:.4g}]" if known else "-"
        values = [f"{row['tokens']:,}", text.number(row["entropy"]), span, percent(row["certain"])]
        tables.add(table, row["part"], *values, text.number(row["varentropy"]), text.number(row["surprisal"]))
        tables.add(ends, row["part"], *(f"{row[f'p{p}']:.3g}" for p in PERCENTILES))
    return [table, Text(), ends]


def _second(trace: Trace, numbers: pd.DataFrame) -> Section:
    if "entropy_b" not in trace.tokens:
        return []
    table = tables.table("|second model", ">entropy", ">change", "|95% over texts", ">KL(1||2)", ">KL(2||1)", ">top-20% shared")
    for row in numbers.to_dict("records"):
        known = row["change_low"] == row["change_low"]
        span = f"[{row['change_low']:+.3g}, {row['change_high']:+.3g}]" if known else "-"
        kls = [text.number(row.get(name, float("nan"))) for name in ("kl_ab", "kl_ba")]
        tables.add(table, row["part"], text.number(row["entropy_b"]), f"{row['change']:+.3g}", span, *kls, percent(row["forking_overlap"]))
    bins = change_by_percentile(trace.tokens, 5)
    spread = tables.table("|by the first model's entropy", ">from", ">to", ">tokens", ">change")
    for row in bins.to_dict("records"):
        label = f"{row['percentile'] - 20:.0f} to {row['percentile']:.0f} %"
        tables.add(spread, label, f"{row['low']:.3g}", f"{row['high']:.3g}", f"{row['tokens']:,}", f"{row['change']:+.3g}")
    return [table, Text(), spread]


def _series(series: pd.DataFrame | None) -> Section:
    if series is None:
        return []
    table = tables.table("<checkpoint", ">entropy", "|95% over texts", ">below 0.01", ">80th percentile", ">surprisal")
    for row in series.to_dict("records"):
        span = f"[{row['low']:.4g}, {row['high']:.4g}]" if row["low"] == row["low"] else "-"
        numbers = [text.number(row["entropy"]), span, percent(row["certain"]), text.number(row["p80"]), text.number(row["surprisal"])]
        tables.add(table, printable(row["model"], 100), *numbers)
    return [table]


def _named(trace: Trace) -> Section:
    ranked = by_token(trace.tokens)
    if len(ranked) < 2:
        return []
    table = tables.table("|", "<mean entropy of the tokens that occur 5 times or more")
    for title, rows in (("highest", ranked.head(NAMED)), ("lowest", ranked.tail(NAMED)[::-1])):
        words = [f"{printable(repr(row['token']), 24)} {row['entropy']:.3g}" for row in rows.to_dict("records")]
        tables.add(table, title, "  ".join(words))
    return [table]


def _notes(notes: list[str]) -> Section:
    if not notes:
        return []
    table = tables.table("|", "<")
    for note in notes:
        tables.add(table, "note", printable(note, 600))
    return [table]
