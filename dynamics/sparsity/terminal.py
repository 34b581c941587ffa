"""Print a comparison to the terminal in about forty lines, the most important numbers first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.text import Text

from dynamics.checkpoints.parameter_names import OUTSIDE
from dynamics.checkpoints.quantised import notes as quantised
from dynamics.descriptions import plural
from dynamics.errors import printable
from dynamics.presentation import tables, text
from dynamics.presentation.tables import Section
from dynamics.presentation.text import percent
from dynamics.sparsity.comparison import headline
from dynamics.sparsity.definitions import RULES, rule_texts

if TYPE_CHECKING:
    from rich.console import Console

    from dynamics.sparsity.results import Comparison, Row, Step

#: bins of the histogram with a line each; the rest of a longer tail is merged into one more
BARS = 6
BLOCKS = "▁▂▃▄▅▆▇█"
NOTE = 2000


def show(comparison: Comparison, steps: Sequence[Step] = (), console: Console | None = None) -> None:
    """Print a comparison, and the steps of a series, to standard output (or to ``console``)."""

    def sections(width: int, fancy: bool) -> list[Section]:
        return [
            _header(comparison, headline(comparison, steps)),
            _like(comparison),
            _rules(comparison),
            _norms(comparison.total),
            _histogram(comparison.total, width, fancy),
            _modules(comparison),
            _layers(comparison, width, fancy),
            _steps(steps),
            _adapters(comparison.adapters),
            _notes(comparison.notes),
            _skipped(comparison),
        ]

    tables.show(sections, console)


def _header(comparison: Comparison, first: str) -> Section:
    lines: Section = [Text(first, "bold")] if first else []
    for side in ("base", "tuned"):
        checkpoint = getattr(comparison, side)
        stored = f"{printable(checkpoint.format)}, {text.types(checkpoint.dtypes)}{quantised.stored(checkpoint)}"
        lines.append(Text.assemble((f"{side:<6} {printable(checkpoint.path, 300)}", "bold"), (f"  {stored}", "dim")))
        if digest := comparison.digests.get(side):
            lines.append(Text(f"       {digest}", "dim"))
    skipped = len(comparison.skipped)
    line = f"{plural(comparison.total.numel, 'weight')} in {plural(len(comparison.rows), 'tensor')} compared"
    return [*lines, Text(line + (f"; {skipped:,} left out, see the end" if skipped else ""))]


def _like(comparison: Comparison) -> Section:
    like = comparison.like
    if not like:
        return []
    counted = f"{like['changed']:,} of {plural(comparison.total.numel, 'weight')} changed"
    rule = tables.table("|", "<")
    tables.add(rule, "rule", like["rule"])
    return [Text.assemble((f"{like['paper']}: sparsity {percent(like['sparsity'])}", "bold"), f"  {counted}"), rule]


def _rules(comparison: Comparison) -> Section:
    table = tables.table("|rule", "<a weight has changed when", ">changed", ">sparsity")
    for rule, words in rule_texts(comparison.rtol, comparison.atol).items():
        tables.add(table, rule, words, f"{comparison.total.changed[rule]:,}", percent(comparison.total.sparsity[rule]))
    return [table]


def _norms(total: Row) -> Section:
    table = tables.table(">L2 of base", ">L2 of update", ">rel. update", ">1 - cosine", ">max |d|", ">nonfinite")
    values = (total.base_norm, total.update_norm, total.relative_update, total.cosine_distance, total.max_abs_update)
    tables.add(table, *map(text.number, values), f"{total.nonfinite:,}")
    return [table]


def _histogram(total: Row, width: int, fancy: bool) -> Section:
    """Tabulate the weights by distance in bf16 steps, up to the last non-empty bin."""
    counts = list(total.ulp.items())[: text.last_bin(total.ulp)]
    if len(counts) > BARS + 1:
        start = counts[BARS][0].split("-")[0]
        counts = [*counts[:BARS], (f"{start} or more", sum(count for _, count in counts[BARS:]))]
    whole = sum(total.ulp.values())
    table = tables.table(">bf16 steps", ">weights", ">share", "~(log scale)" if any(count for _, count in counts) else "~")
    bar_width = max(10, min(50, width - 50))
    for name, count in counts:
        share = count / whole if whole else math.nan
        bar = _bar(text.log_share(count, whole), bar_width, fancy)
        tables.add(table, name, f"{count:,}", percent(share), Text(bar, "cyan"))
    return [table]


def _bar(share: float, width: int, fancy: bool) -> str:
    """Draw a bar of up to ``room`` characters; a share too small for a character shows a tick."""
    length = round(share * width)
    return ("█" if fancy else "#") * length or ("▏" if fancy else "|") * (share > 0)


def _modules(comparison: Comparison) -> Section:
    table = tables.table("|sparsity of, %", ">weights", *(f">{rule}" for rule in RULES), ">rel. update")
    for row in comparison.modules:
        moved = "-" if comparison.adapters and not row.update_norm else text.number(row.relative_update)  # it has no factor
        tables.add(table, printable(row.name), text.human(row.numel), *map(_bare, row.sparsity.values()), moved)
    return [table]


def _bare(fraction: float) -> str:
    """Format a percentage without the sign, for a column with % in its header."""
    return percent(fraction).removesuffix(" %")


def _layers(comparison: Comparison, width: int, fancy: bool) -> Section:
    """Tabulate lowest, median and highest sparsity of the layers under each rule, with a sparkline over the layers."""
    rows = {row.name: row for row in comparison.layers if row.name != OUTSIDE and row.numel}
    if not rows:
        return []
    prefix, labels = text.layer_labels(rows)
    stacks = text.stacks(rows)
    line_width = min(40, width - 55 - 2 * max(map(len, labels.values())))  # width that is left for the sparkline
    head = ["|by layer", ">lowest", "<in layer", f">median of {len(rows)}", ">highest", "<in layer"]
    if blocks := fancy and line_width >= 10:
        spans = ", ".join(f"{labels[stack[0]]} to {labels[stack[-1]]}" for stack in stacks)
        head.append(f"~{prefix + spans if len(prefix + spans) <= line_width else printable(spans, line_width)}")
    table = tables.table(*head)
    for rule in RULES:
        values = {name: row.sparsity[rule] for name, row in rows.items()}
        lowest, highest = min(rows, key=values.__getitem__), max(rows, key=values.__getitem__)
        cells = [rule, percent(values[lowest]), labels[lowest], percent(median(values.values())), percent(values[highest]), labels[highest]]
        if blocks:
            cells.append(_sparkline([[rows[name] for name in stack] for stack in stacks], rule, line_width))
        tables.add(table, *cells)
    return [table]


def _sparkline(stacks: Sequence[Sequence[Row]], rule: str, width: int) -> str:
    """Draw a block per layer, or per pool of neighbours if they do not fit; scaled from lowest to highest, with a space between stacks."""
    size = math.ceil(sum(map(len, stacks)) / width)
    pools = [[stack[start : start + size] for start in range(0, len(stack), size)] for stack in stacks]
    values = [[1 - sum(row.changed[rule] for row in pool) / sum(row.numel for row in pool) for pool in stack] for stack in pools]
    low, high = min(map(min, values)), max(map(max, values))
    if high - low < 1e-12:
        return " ".join(BLOCKS[3] * len(stack) for stack in values)
    return " ".join("".join(BLOCKS[min(7, int(8 * (value - low) / (high - low)))] for value in stack) for stack in values)


def _steps(steps: Sequence[Step]) -> Section:
    if not steps:
        return []
    short = text.short_paths(path for step in steps for path in (step.start, step.end))
    table = tables.table("|against", "<from", "<to", *(f">{rule}" for rule in RULES), ">rel. update", keys=3)
    for step in steps:
        total = step.comparison.total
        numbers = [*map(_bare, total.sparsity.values()), text.number(total.relative_update)]
        tables.add(table, step.against, short[step.start], short[step.end], *numbers)
    return [Text("Sparsity in % along the series. Everything above compares its last checkpoint with its first."), table]


def _adapters(adapters: Sequence[dict[str, Any]]) -> Section:
    if not adapters:
        return []
    norm = math.sqrt(math.fsum(float(record["update_norm"]) ** 2 for record in adapters))
    spans = [f"{key.replace('_', ' ')} {_span([record[key] for record in adapters])}" for key in ("rank", "numerical_rank", "scaling")]
    table = tables.table("|", "<")
    tables.add(table, "adapter", f"updates {plural(len(adapters), 'tensor')}: {', '.join(spans)}; L2 of all updates {text.number(norm)}")
    return [table]


def _span(values: Sequence[float]) -> str:
    low, high = text.number(min(values)), text.number(max(values))
    return low if low == high else f"{low} to {high}"


def _notes(notes: Sequence[str]) -> Section:
    if not notes:
        return []
    table = tables.table("|", "<")
    for note in notes:
        tables.add(table, "note", printable(note, NOTE))
    return [table]


def _skipped(comparison: Comparison) -> Section:
    """List the tensors left out by reason: the count, and the first three names."""
    if not comparison.skipped:
        return []
    table = tables.table(">left out", "|of", "<because")
    for where, reason, names in text.skipped_groups(comparison.skipped):
        rest = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        listed = ", ".join(printable(name, 80) for name in names[:3])
        tables.add(table, f"{len(names):,}", printable(where), f"{printable(reason, NOTE)}: {listed}{rest}")
    return [table]
