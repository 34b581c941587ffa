"""Which weights moved: four rules over the checkpoints, layer by module at the last checkpoint, and sizes in bf16 steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from dynamics.checkpoints.parameter_names import OUTSIDE
from dynamics.descriptions import plural
from dynamics.errors import printable
from dynamics.presentation import style, ticks
from dynamics.presentation.text import number, percent
from dynamics.report.labels import beside, by_run, doubts_by_run, legend_label, run_color, run_labels
from dynamics.report.section import Doubt, Finding, Options, Picture, Section, Table
from dynamics.report.updates import Base, Update, base_of, command, compared, spread, step_name, updates
from dynamics.runs import Run, SavedCheckpoint
from dynamics.sparsity.definitions import RULES, rule_texts
from dynamics.sparsity.results import flat_record, layer_module_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: checkpoints below which nothing can be said of when the weights moved
FEW = 3
#: column -> heading, of a table with a row per checkpoint, module or layer
SHARES = {f"sparsity_{rule}": f"{rule}, %" for rule in RULES}
NORMS = {"relative_update": "relative update", "cosine_distance": "1 - cosine", "max_abs_update": "max |d|"}
RULES_NOTE = (
    "Share of the weights that did not change, under four rules. A weight changed by "
    + "; by ".join(f"{rule} if {text}" for rule, text in rule_texts(1e-3, 1e-5).items())
    + ". Relative update: norm of the difference divided by the norm of what is compared with. A part whose weights are all the same in "
    "bf16 can have one: changes smaller than a step of bf16."
)
#: Adam moves a weight by about the learning rate a step; an update whose root mean square is so many times learning rate x steps has
#: another cause, also if a step of the log holds some tens of updates of the optimizer
TOO_FAR = 30
#: share of the squared norm of the base from which a kind of module decides the relative update of all
MOST_OF_THE_NORM = 0.8
#: rounding to bf16 alone gives relative updates up to this
ROUNDING = 0.004


@dataclass(frozen=True)
class Moved:
    """The updates of a run.

    Attributes
    ----------
    label : name of the run.
    color : of the run in figures.
    run : the run.
    base : what its checkpoints are compared with.
    updates : checkpoint and update, by step; at least one.
    """

    label: str
    color: str
    run: Run
    base: Base
    updates: list[tuple[SavedCheckpoint, Update]]

    @property
    def last(self) -> Update:
        """The update to the last checkpoint."""
        return self.updates[-1][1]

    @property
    def end(self) -> str:
        """Name of the last checkpoint."""
        return step_name(self.updates[-1][0])


def make(runs: Sequence[Run], options: Options) -> Section:
    """Compare the checkpoints of each run with its base."""
    section = Section("weights", "Which weights moved?")
    reasons: list[str] = []
    moved = [
        measured
        for run, label, color in zip(runs, run_labels(runs), map(run_color, range(len(runs))), strict=True)
        if (measured := _measure(run, label, color, options, section, reasons)) is not None
    ]
    if not moved:
        section.missing = "no weights were compared: " + "; ".join(dict.fromkeys(reasons))
        section.doubts = _no_base(runs, options)
        section.incomplete += [section.missing] if any(run.checkpoints for run in runs) else []
        return section
    section.incomplete += reasons
    several = len(runs) > 1
    section.findings += _side_by_side(moved) if len(moved) > 1 else []
    for of_run in moved:
        findings = _findings(of_run, several)
        section.findings += [replace(finding, weight=0.0, run=of_run.label) for finding in findings] if len(moved) > 1 else findings
        section.commands += _commands(of_run)
    section.doubts = doubts_by_run([(of_run.label, doubt) for of_run in moved for doubt in _doubts(of_run)], len(runs))
    section.tables += _tables(moved)
    section.pictures += _pictures(moved)
    section.document = {"notes": {of_run.label: of_run.last.notes for of_run in moved}}
    return section


def _measure(run: Run, label: str, color: str, options: Options, section: Section, reasons: list[str]) -> Moved | None:
    if not run.checkpoints:
        reasons.append(f"{label}: has no complete checkpoint; the trainer's save_steps writes them")
        return None
    base, problem = base_of(run, options)
    if base is None:
        reasons.append(f"{label}: {problem}")
        return None
    if base.problem and (options.base or run.base):  # that nothing names a base is no fault of the files
        section.incomplete.append(f"{label}: compared with its first checkpoint, because the base cannot be read: {base.problem}")
    checkpoints = compared(run, base)
    chosen = spread(checkpoints)
    found = []
    for saved, update in zip(chosen, updates(base, chosen, options, _progress(label, options)), strict=True):
        problem = update if isinstance(update, str) else update.incomplete
        if problem:
            section.incomplete.append(f"{label}, {step_name(saved)}: {problem}")
        if not isinstance(update, str):
            found.append((saved, update))
    if len(chosen) < len(checkpoints):
        section.document.setdefault("selected", {})[label] = [len(chosen), len(checkpoints)]
    if not found:
        reasons.append(f"{label}: none of its checkpoints could be compared with {printable(base.name)}")
        return None
    return Moved(label, color, run, base, found)


def _no_base(runs: Sequence[Run], options: Options) -> list[Doubt]:
    """Say that the base is missing, if that is why nothing was compared."""
    if options.base or any(run.base for run in runs) or not any(run.checkpoints for run in runs):
        return []
    return [
        Doubt(
            "Base: no file names the model that training started from, so nothing can be said of how the weights moved; --base MODEL names "
            "it.",
            10.0,
        )
    ]


def _first_only(base: Base) -> list[Doubt]:
    """Say that the base is missing, if the first checkpoint stands for it."""
    if base.first is None:
        return []
    return [
        Doubt(
            f"Base: {base.problem}. The weights are compared with the first checkpoint, {step_name(base.first)}; what changed before it is "
            "not counted.",
            10.0,
        )
    ]


def _progress(label: str, options: Options) -> Callable[[int, int], None] | None:
    if options.progress is None:
        return None
    tell = options.progress
    return lambda weights, total: tell(f"comparing the checkpoints of {label}", weights, total)


def _side_by_side(moved: Sequence[Moved]) -> list[Finding]:
    """Compare the runs in a sentence for each number."""
    shares = ", ".join(f"{of.label} {percent(of.last.total.sparsity['bf16'])}" for of in moved)
    norms = ", ".join(f"{of.label} {number(of.last.total.relative_update)}" for of in moved)
    caveats = " ".join(by_run([(of.label, caveat(of)) for of in moved], len(moved)))
    return [
        Finding(
            f"bf16 update sparsity, the share of weights that are the same as in the base after both are rounded to bf16, at the last "
            f"checkpoint: {shares}. All weights were counted, so there is no interval. {caveats}",
            weight=9.9,
            short=f"Unchanged in bf16 (update sparsity): {shares} of the weights. All were counted, so there is no interval. {caveats}",
        ),
        Finding(
            f"Relative update, the norm of the update divided by the norm of the base, at the last checkpoint: {norms}. All weights were "
            "counted, so there is no interval; it grows with learning rate and steps under any method.",
            weight=8,
            short=f"Relative update (its norm divided by that of the base): {norms}. It grows with learning rate and steps.",
        ),
    ]


def _findings(moved: Moved, several: bool) -> list[Finding]:
    """Say how many weights moved, how far, where most, and when."""
    total, key = moved.last.total, f"{moved.label}." if several else ""
    of = f"{moved.label}: at {moved.end}" if several else f"At {moved.end}"
    first = moved.base.first is not None
    before = f"at {moved.base.called}" if first else "in the base"
    since = f" since {moved.base.short}" if first else ""
    others = ", ".join(f"{rule} {percent(total.sparsity[rule])}" for rule in RULES if rule != "bf16")
    if not total.changed["exact"]:
        text = f"{of}, none of the {total.numel:,} weights differs from what it was {before}. All were compared, so there is no interval."
        return [Finding(text, f"{key}unchanged_bf16", 1.0, weight=10)]
    findings = [
        Finding(
            f"{of}, the bf16 update sparsity is {percent(total.sparsity['bf16'])}: that share of the {total.numel:,} weights is the same "
            f"as {before} after both are rounded to bf16 (by the other rules: {others}). All weights were counted, so there is no "
            f"interval. {caveat(moved)}",
            f"{key}unchanged_bf16",
            total.sparsity["bf16"],
            weight=9.9,
            short=f"{of}, {percent(total.sparsity['bf16'])} of the weights are unchanged in bf16{since} (update "
            f"sparsity){_adapted(moved.last)}. All were counted, so there is no interval. {caveat(moved)}",
        ),
        Finding(
            f"{of}, the relative update, its norm divided by the norm of {moved.base.called}, is {number(total.relative_update)}. "
            f"{_largest(moved.last)} All weights were counted, so there is no interval; it grows with learning rate and steps under any "
            "method.",
            f"{key}relative_update",
            total.relative_update,
            weight=8,
            short=f"The relative update{since} is {number(total.relative_update)}. {_largest(moved.last, 1)} It grows with learning rate "
            "and steps under any method.",
        ),
    ]
    if steps := _steps(moved.last):
        findings.append(Finding(f"{moved.label}: {steps[0]}" if several else steps[0], f"{key}one_step", steps[1], weight=3))
    return findings + _nonfinite(moved, of, key) + _over_time(moved, f"{moved.label}: from" if several else "From", key)


def _nonfinite(moved: Moved, of: str, key: str) -> list[Finding]:
    """Say that there are weights without a finite value, which no norm or histogram holds."""
    count = moved.last.total.nonfinite
    if not count:
        return []
    text = f"{of}, {plural(count, 'weight')} of {moved.last.total.numel:,} are NaN or infinite in the base or in the checkpoint."
    return [Finding(f"{text} Norms, cosine and steps leave them out.", f"{key}nonfinite", float(count), weight=9)]


def _adapted(last: Update) -> str:
    """Say what an adapter trained, after a share of unchanged weights."""
    if not last.adapter or not last.trained:
        return ""
    reached = sum(row.numel for row in last.tensors if row.changed["exact"])
    ranks = f" of rank {', '.join(map(str, last.ranks))}" if last.ranks else ""
    names = ", ".join(printable(row.name, 40) for row in last.trained)
    trained = f"it trains {names}, {percent(reached / last.total.numel)} of the weights"
    return f" once the adapter{ranks} is merged: {trained}, of which {percent(last.total.changed['bf16'] / reached)} differ in bf16"


def _largest(last: Update, kinds: int = 2) -> str:
    """Name the kinds of module that moved most and least, relative to their norms; the layers too if ``kinds`` is 2."""
    modules = [row for row in last.modules if row.relative_update == row.relative_update]
    layers = [row for row in last.layers if row.relative_update == row.relative_update and row.name != OUTSIDE]
    texts = []
    for what, every in (("kinds of module", modules), ("layers", layers))[:kinds]:
        rows = [row for row in every if row.changed["exact"]]
        if len(rows) > 1:
            most, least = (choose(rows, key=lambda row: row.relative_update) for choose in (max, min))
            texts.append(
                f"of the {what}, {printable(most.name, 60)} moved most ({number(most.relative_update)}, with "
                f"{percent(most.numel / last.total.numel, short=True)} of the weights) and {printable(least.name, 60)} least "
                f"({number(least.relative_update)}){_unmoved(what, len(every) - len(rows))}"
            )
    return f"Relative to their own norms, {'; '.join(texts)}.{_most_of_the_norm(last)}" if texts else "One part only has changed."


def _most_of_the_norm(last: Update) -> str:
    """Say so if one kind of module has most of the norm of the base, so that the whole moves as it does."""
    most = max(last.modules, key=lambda row: row.base_norm)
    share = (most.base_norm / last.total.base_norm) ** 2 if last.total.base_norm else 0.0
    if not share >= MOST_OF_THE_NORM:
        return ""
    return f" The relative update of all is nearly that of {printable(most.name, 60)}, which has {percent(share)} of the squared norm."


def _unmoved(what: str, count: int) -> str:
    return f", while {count:,} {'kind' if 'kind' in what else 'layer'}{'s' * (count > 1)} did not change" if count else ""


def _steps(last: Update) -> tuple[str, float] | None:
    """Say how many of the weights that changed in bf16 moved by a single step."""
    changed = sum(last.total.ulp.values()) - last.total.ulp["0"]
    if not changed:
        return None
    share, of_all = last.total.ulp["1"] / changed, last.total.ulp["1"] / sum(last.total.ulp.values())
    return (
        f"Of the {changed:,} weights that differ in bf16, {percent(share)} moved by one bf16 step, the smallest difference in bf16 "
        f"({percent(of_all)} of all weights).",
        share,
    )


def _over_time(moved: Moved, start: str, key: str) -> list[Finding]:
    """Say how the share of unchanged weights went on from the first to the last checkpoint."""
    if len(moved.updates) < 2:
        return []
    (first, before), last = moved.updates[0], moved.last
    change = last.total.sparsity["bf16"] - before.total.sparsity["bf16"]
    sizes = before.total.numel, last.total.numel
    differ = "" if sizes[0] == sizes[1] else f" The first is of {sizes[0]:,} weights, the last of {sizes[1]:,}: not the same ones."
    norms = before.total.relative_update, last.total.relative_update
    return [
        Finding(
            f"{start} {step_name(first)} to {moved.end}, the share of weights that are the same in bf16 went from "
            f"{percent(before.total.sparsity['bf16'])} to {percent(last.total.sparsity['bf16'])}, and the relative update from "
            f"{number(norms[0])} to {number(norms[1])}. Both are measured from {moved.base.short}: a weight that went back to its value "
            f"counts as the same.{differ}",
            f"{key}unchanged_bf16_change",
            change,
            weight=4.5,
        )
    ]


def dtypes(counts: dict[str, int]) -> str:
    """Name the dtype of most weights, or ``an adapter``."""
    return max(counts, key=lambda name: counts[name]) if counts else "an adapter"


def caveat(moved: Moved) -> str:
    """Say what the dtypes of masters and storage do to the share of weights that are the same."""
    last, master = moved.last, moved.run.settings.master_dtype
    if last.adapter:
        return "The run trained an adapter: the share is that of the merged weights, and all others are the same by construction."
    if last.dequantised:
        return "A side is quantised: its values are those of the quantiser, and so is part of the difference."
    base, tuned = dtypes(last.base_dtypes), dtypes(last.tuned_dtypes)
    if base == tuned == "bfloat16":
        why = "Both sides are stored in bf16, so this is storage and not the optimizer: updates below about 1/256 of a weight do not show"
        if master == "float32":
            return f"{why}, and the fp32 masters hold more changes than these files."
        if master == "bfloat16":
            return f"{why}; the masters are bf16 too, so such updates were also lost in training."
        return f"{why}."
    if base == tuned:
        return f"Both sides are stored in {base}, so bf16 hides small updates that these files do hold: see exact."
    return f"The base is stored in {base}, the checkpoint in {tuned}: exact counts rounding as change, bf16 treats both sides alike."


def _doubts(moved: Moved) -> list[Doubt]:
    settings = moved.run.settings
    doubts = [*_first_only(moved.base), *_too_far(moved)]
    base, tuned = dtypes(moved.last.base_dtypes), dtypes(moved.last.tuned_dtypes)
    if not moved.last.adapter:
        master = f"the optimizer's weights are {settings.master_dtype}" if settings.master_dtype else "no file says the optimizer's dtype"
        doubts.append(
            Doubt(
                f"Share of unchanged weights: the files are {base} and {tuned}, {master}. The same training with another dtype of masters "
                "or storage gives another share, so compare it only with runs of the same dtypes.",
                4.0 if "bfloat16" in (base, tuned) and base != tuned else 2.5,
            )
        )
    rate = f"{settings.learning_rate:g}" if settings.learning_rate is not None else "which no file says"
    steps = f"{settings.steps:,}" if settings.steps is not None else "which no file says"
    doubts.append(
        Doubt(
            f"Size of the update: it depends on the learning rate ({rate}) and the number of steps ({steps}) at least as much as on the "
            "method; one run cannot separate them.",
            2.0,
        )
    )
    if len(moved.updates) < FEW:
        count = plural(len(moved.updates), "checkpoint")
        compared_with = f"{count} after {moved.base.short}" if moved.base.first else count
        doubts.append(Doubt(f"When the weights moved: {compared_with} cannot show it; save more of them."))
    return doubts


def _too_far(moved: Moved) -> list[Doubt]:
    """Doubt that the log and the checkpoints are of one run, if the learning rate cannot explain how far the weights moved."""
    rate, steps, total = moved.run.settings.learning_rate, moved.updates[-1][0].step, moved.last.total
    if not rate or not steps or moved.last.adapter or moved.last.dequantised or not total.relative_update > ROUNDING:
        return []
    steps -= (moved.base.first.step or 0) if moved.base.first else 0
    since = f" since {moved.base.short}" if moved.base.first else ""
    size = total.update_norm / math.sqrt(total.numel)
    if steps <= 0 or not math.isfinite(size) or size <= TOO_FAR * rate * steps:
        return []
    text = (
        f"Size of the update: its root mean square, {number(size)}, is {size / (rate * steps):,.0f} times the learning rate ({rate:g}) "
        f"times the number of steps ({steps:,}{since}). Adam moves a weight by at most about its learning rate in each update, so base, "
        "checkpoints and log may not be of one run, or the learning rate is not what the log says."
    )
    return [Doubt(text, 10.5)]


def _commands(moved: Moved) -> list[str]:
    paths = [str(saved.path) for saved, _ in moved.updates]
    return [command("sparsity", moved.base.name, *paths, "--html", "weights.html", "--csv", "weights.csv")]


def _tables(moved: Sequence[Moved]) -> list[Table]:
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in ("over", "modules", "layers", "grid", "steps", "tensors")}
    for of in moved:
        over = [
            flat_record("step", row.total) | {"step": saved.step, "checkpoint": printable(saved.path.name)} for saved, row in of.updates
        ]
        last = of.last
        tensors = pd.DataFrame([flat_record("tensor", row) for row in last.tensors])
        parts["over"].append(pd.DataFrame(over).drop(columns=["level", "name"]))
        parts["modules"].append(pd.DataFrame([flat_record("module", row) for row in last.modules]))
        parts["layers"].append(pd.DataFrame([flat_record("layer", row) for row in last.layers]))
        parts["tensors"].append(tensors.sort_values("relative_update", ascending=False, kind="stable"))
        parts["grid"].append(layer_module_grid(tensors))
        parts["steps"].append(_histogram(last))
        for of_runs in parts.values():
            of_runs[-1].insert(0, "run", of.label)
    frames = {name: pd.concat(of_runs, ignore_index=True) for name, of_runs in parts.items()}
    frames |= {name: beside(frames[name]) for name in ("modules", "layers", "tensors")}
    run = {"run": "run"} if len(moved) > 1 else {}
    row, tensor = {"numel": "weights", **SHARES, **NORMS}, {"name": "tensor", "shape": "shape"}
    return [
        Table(
            "weights_over_checkpoints",
            f"Each checkpoint against {_bases(moved)}",
            frames["over"],
            run | {"step": "step"} | row,
            60,
            RULES_NOTE,
        ),
        Table("weights_by_module", "By kind of module, last checkpoint", frames["modules"], run | {"name": "module"} | row),
        Table("weights_by_layer", "By layer, last checkpoint", frames["layers"], run | {"name": "layer"} | row, 12 * len(moved)),
        Table("weights_heat_map", "By layer and kind of module, last checkpoint", frames["grid"]),
        Table("weights_steps", "Distance in bf16 steps, last checkpoint", frames["steps"]),
        Table("weights_by_tensor", "Tensors with the largest relative update", frames["tensors"], run | tensor | row, 12 * len(moved)),
    ]


def _bases(moved: Sequence[Moved]) -> str:
    """Name what the checkpoints are compared with, for a title."""
    return "; ".join(by_run([(of.label, of.base.short) for of in moved], len(moved)))


def _histogram(last: Update) -> pd.DataFrame:
    from dynamics.sparsity.plot_ulp import merge_tail

    counts, whole = merge_tail(last.total.ulp), sum(last.total.ulp.values())
    rows = [{"steps": steps, "weights": count, "fraction": count / whole if whole else math.nan} for steps, count in counts.items()]
    return pd.DataFrame(rows)


def _pictures(moved: Sequence[Moved]) -> list[Picture]:
    pictures = []
    if any(len(of.updates) > 1 for of in moved):
        rules = "under four rules" if len(moved) == 1 else "under the rule bf16, a colour a run"
        pictures.append(
            Picture(
                "weights_over_checkpoints",
                f"Share of weights unchanged (update sparsity) over the checkpoints, {rules}",
                partial(_lines, moved),
                "weights_over_checkpoints",
                "; ".join(
                    f"{of.label}: {percent(of.updates[0][1].total.sparsity['bf16'])} at {step_name(of.updates[0][0])}, "
                    f"{percent(of.last.total.sparsity['bf16'])} at {of.end}"
                    for of in moved
                ),
            )
        )
    for number_of, of in enumerate(moved):
        name = "weights_heat_map" + (f"_{number_of + 1}" if len(moved) > 1 else "")
        title = f"Share of weights unchanged, bf16 (update sparsity), by layer and kind of module, {of.label} at {of.end}"
        pictures.append(Picture(name, title, partial(_heat_map, of), "weights_heat_map", _largest(of.last)))
    words = "; ".join(f"{of.label}: {steps[0]}" for of in moved if (steps := _steps(of.last)))
    pictures.append(
        Picture("weights_steps", "How far the weights moved, in bf16 steps", partial(_step_dots, moved), "weights_steps", words)
    )
    return pictures


def _lines(moved: Sequence[Moved], *, width: float = style.TWO_COLUMN) -> Figure:
    """Draw the share of unchanged weights against the step: a line per rule for one run, a line per run for several."""
    from dynamics.sparsity.plot import MARKS, UNCHANGED
    from dynamics.sparsity.plot_rules import RULE_COLORS

    drawing = style.new_figure(width, 3.0)
    ax: Axes = drawing.subplots()
    steps = [[saved.step for saved, _ in of.updates if saved.step is not None] for of in moved]
    stepped = all(len(known) == len(of.updates) for known, of in zip(steps, moved, strict=True))
    for known, of in zip(steps, moved, strict=True):
        x = known if stepped else list(range(1, len(of.updates) + 1))
        if len(moved) > 1:
            ax.plot(
                x,
                [row.total.sparsity["bf16"] for _, row in of.updates],
                marker="o",
                markersize=4,
                color=of.color,
                label=legend_label(of.label),
            )
            continue
        for rule, (marker, size, thickness) in MARKS.items():
            shares = [row.total.sparsity[rule] for _, row in of.updates]
            ax.plot(x, shares, marker=marker, markersize=size, linewidth=thickness, color=RULE_COLORS[rule], label=rule)
    ticks.plain(ax.yaxis, 6, share=True)
    ticks.whole(ax.xaxis, 8 if width > style.NARROW else 6)
    ax.set_xlabel("step" if stepped else "number of the checkpoint")
    ax.set_ylabel("unchanged (update sparsity)" if len(moved) == 1 else UNCHANGED.format(rule="bf16"))
    _legend(ax, width)
    return drawing


def _legend(ax: Axes, width: float) -> None:
    """Put a legend beside the axes, or above them where there is no space beside."""
    if width > style.NARROW:
        style.legend_beside(ax)
    else:
        style.legend_above(ax)


def _heat_map(moved: Moved, *, width: float = style.TWO_COLUMN) -> Figure:
    from dynamics.sparsity.plot import LABELLED, heat_map, heat_rows

    grid = layer_module_grid(pd.DataFrame([flat_record("tensor", row) for row in moved.last.tensors]))
    rows, columns = len(heat_rows(grid["layer"])), grid["module"].nunique()
    height = 0.9 + max(1.9, rows * (0.3 if rows <= 12 else 0.2 if rows <= LABELLED else 0.1))
    narrow = width <= style.NARROW
    drawing = style.new_figure(width if narrow else max(width, 2.6 + 0.62 * columns), min(height + 0.8 * narrow, 14.0))
    ax = heat_map(grid, "bf16", drawing.subplots(), bar="bottom" if narrow else "right")
    if narrow:
        ax.tick_params(axis="x", rotation=90)
        for text in ax.texts:
            text.set_fontsize(min(7.5, 62 * width / max(columns, 1) / 4))  # so that four characters fit into a cell
    return drawing


def _step_dots(moved: Sequence[Moved], *, width: float = style.TWO_COLUMN) -> Figure:
    from dynamics.sparsity.plot_ulp import ulp_histogram

    drawing = style.new_figure(width + 1.5 * (width > style.NARROW), 3.2)
    ax = drawing.subplots()
    if len(moved) == 1 or (len(moved) == 2 and width > style.NARROW):
        ulp_histogram(pd.concat([_histogram(of.last).assign(series=legend_label(of.label)) for of in moved]), ax)
        if width <= style.NARROW:
            ax.tick_params(axis="x", rotation=45)
            for text in ax.texts:
                text.set(rotation=60, fontsize=6.5)
            ax.set_xlabel("size of the update, in bf16 steps")
        return drawing
    for of in moved:  # the labels of more runs would cover each other
        part = _histogram(of.last)
        ax.plot(
            part["steps"].str.replace("-", "–"),
            part["fraction"].where(part["fraction"] > 0),
            marker="o",
            markersize=4,
            color=of.color,
            label=legend_label(of.label),
        )
    ax.set_yscale("log")
    ticks.logarithmic(ax.yaxis, share=True)
    ax.set_xlabel("size of the update, in bf16 steps" + (" (both sides rounded to bf16)" if width > style.NARROW else ""))
    ax.set_ylabel("share of the weights (log scale)")
    if width <= style.NARROW:
        ax.tick_params(axis="x", rotation=45)
    _legend(ax, width)
    return drawing
