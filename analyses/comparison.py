"""All comparisons at once: trains what a preset lists, draws every figure, and writes ``verdicts.csv`` and ``report.html``.

python -m analyses comparison                     # ten minutes on two cores the first time, two after that
python -m analyses comparison --preset quick      # everything once, on runs too small to mean anything
python -m analyses comparison --preset full       # an hour and a half: what the repository's figures are of
python -m analyses comparison --preset smollm2    # the methods on the real 135M model: an hour and a half
python -m analyses comparison --preset paper --dry-run      # every command for the paper's models, which need GPUs
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from analyses import (
    confound,
    curriculum,
    entropy_dynamics,
    forgetting,
    learnt_and_lost,
    pass_at_k,
    proposer_variants,
    question,
    runs,
    support,
    update_shape,
    update_sparsity,
)
from dynamics import InputError
from dynamics.cli.outputs import write
from dynamics.io.atomic import replacing
from dynamics.presentation import html

QUESTIONS: tuple[ModuleType, ...] = (
    pass_at_k,
    support,
    update_sparsity,
    confound,
    entropy_dynamics,
    curriculum,
    proposer_variants,
    update_shape,
    learnt_and_lost,
    forgetting,
)
#: where the verdicts of a preset begin in a README, and where they end
MARKS, END = {"full": "<!--VERDICTS-->", "smollm2": "<!--VERDICTS OF SMOLLM2-->"}, "<!--END-->"
#: figures of the paper that are known from notes only
QUOTED = (
    "The paper's sparsities are known to us from notes: AZR-Coder-7B 45.7 %, SFT 94-98 %, RLVR 3-7 %. "
    "As sparsity (share unchanged) they would make SFT the sparsest, against the paper's own text; as density (share changed) they mean "
    "sparsities of 54.3 %, 2-6 % and 93-97 %, in that text's order."
)


def main(folder: Path, figures: Path, force: bool, preset: str = "default") -> list[Path]:
    """Figures of the preset ``full`` are those that belong to the repository; those of another go into a folder of its name."""
    found = runs.train(preset, runs.place(preset, folder), force)
    return build(found, figures if preset == "full" else figures / preset, preset)


def build(found: Sequence[runs.Run], figures: Path, preset: str = "") -> list[Path]:
    """Every figure and table from run directories, the verdicts, and the page of them all."""
    paths: list[Path] = []
    sections: list[str] = []
    rows: list[dict[str, Any]] = []
    figures.mkdir(parents=True, exist_ok=True)
    for module in QUESTIONS:
        name = module.__name__.rpartition(".")[2]
        runs.say(f"measuring: {name}")
        try:
            table, made = question.write(module, found, figures)
        except InputError as error:
            for suffix in (".png", ".svg", ".csv"):
                (figures / f"{name}{suffix}").unlink(missing_ok=True)  # of other runs
            sections.append(html.section(module.TITLE, f"<p>Not drawn: {html.safe(error, 400)}</p>"))
            continue
        paths += made
        rows += [asdict(one) | {"verdict": one.verdict, "figure": name} for one in module.verdicts(table)]
        chart = html.picture((figures / f"{name}.svg").read_bytes(), module.TITLE)
        text = f"<p>The paper: {html.safe(module.CLAIM, 600)}.</p>{chart}<p class=faint>{html.safe(module.caption(table), 1200)}</p>"
        sections.append(html.section(module.TITLE, text))
    verdicts = pd.DataFrame(rows, columns=[*(one.name for one in fields(question.Verdict)), "verdict", "figure"])
    write(str(figures / "machine.json"), json.dumps(_machine(found, preset), indent=1) + "\n")
    with replacing(figures / "verdicts.csv") as temporary:
        verdicts.to_csv(temporary, index=False, float_format="%.4g")
    head = "<h1>What self-play, RLVR and SFT did to the model</h1>" + _about(found, preset)
    page = [head, html.section("Verdicts", _verdicts(verdicts)), *sections, html.section("Runs", _runs(found))]
    write(str(figures / "report.html"), html.document("Comparison of the methods", page))
    return [*paths, figures / "verdicts.csv", figures / "machine.json", figures / "report.html"]


def _machine(found: Sequence[runs.Run], preset: str) -> dict[str, Any]:
    """What the figures were made with: versions, and the shape of the machine."""
    from dynamics.io.threads import cores

    packages: dict[str, Any] = next((run.document["packages"] for run in found if run.document.get("packages")), {})
    return {"preset": preset or None, "runs": len(found), "cores": cores(), "machine": platform.machine(), "packages": packages}


def _effect(row: Mapping[Any, Any]) -> str:
    """An effect with its interval, if it has one."""
    ends = "" if pd.isna(row["low"]) else f" [{row['low']:+.3g}, {row['high']:+.3g}]"
    return f"{row['effect']:+.3g}{ends}"


def markdown(table: pd.DataFrame) -> str:
    """The verdicts as a table for a README."""
    lines = ["| finding | measured here | effect, 95 % | by seed | verdict |", "|---|---|---|---|---|"]
    for row in table.to_dict("records"):
        lines.append(f"| {row['finding']} | {row['measured']} | {_effect(row)} | {row['by_seed']} | {row['verdict']} |")
    return "\n".join(lines)


def fill(readme: Path, table: pd.DataFrame, preset: str = "full") -> None:
    """Put the verdicts of a preset between their marks."""
    begin = MARKS[preset]
    before, _, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, mark, after = rest.partition(END)
    if not mark:
        raise InputError(f"{readme}: has no {begin} ... {END}")
    write(str(readme), f"{before}{begin}\n{markdown(table)}\n{END}{after}")


def _about(found: Sequence[runs.Run], preset: str) -> str:
    models = ", ".join(sorted({str(run.settings.get("model", run.document.get("model"))) for run in found}))
    steps = sorted({len(run.metrics) for run in found})
    small = "" if preset in ("", "full", "paper") else " This is a demonstration: few steps and seeds."
    first = runs.PRESETS[preset].first if preset else ""
    begun = f" What they begin with was made by <code>{html.safe(f'python -m dynamics.train sft {first}', 400)}</code>." if first else ""
    made = _machine(found, preset)
    versions = ", ".join(f"{name} {version}" for name, version in made["packages"].items() if version)
    return (
        f"<p>{len(found)} runs of the model <code>{html.safe(models)}</code>, {steps[0]} to {steps[-1]} steps, "
        f"preset {html.safe(preset or 'none')}; "
        f"{made['cores']} cores of {html.safe(made['machine'])}, {html.safe(versions, 400)}.{begun}{small} "
        "Findings are those of arXiv 2510.27072 on 3B and 7B models; those that begin with 'and', that of settings and those of RLVR's "
        "gain are controls; what a small model shows need not hold for them. An effect is the "
        "mean over seeds of the value of each. A verdict is its 95 % interval: wholly on the side that the finding says, wholly on the "
        "other, or cannot be told.</p>"
    )


#: the colour beside a verdict
_COLORS = {question.HOLDS: "#009E73", question.FAILS: "#D55E00", question.OPEN: "#999999"}


def _verdicts(table: pd.DataFrame) -> str:
    """Three columns, so that a phone has room for them."""
    counts = ", ".join(f"{int((table['verdict'] == one).sum())} {one}" for one in _COLORS)
    lines = []
    for row in table.to_dict("records"):
        seeds = f"by seed {row['by_seed']}; {row['interval']}"
        lines.append(
            [
                f'<div class=mark style="--rule: {_COLORS[row["verdict"]]}">{html.safe(row["verdict"])}</div>',
                f"{html.safe(row['finding'])}<small>{html.safe(row['measured'], 400)}</small>",
                f"{_effect(row)}<small>{html.safe(seeds, 300)}</small>",
            ]
        )
    made = html.table(["<verdict", "<finding, what was measured", "<effect, 95 %"], lines)
    return f"<p>{counts}.</p><div class=fit>{made}</div><p class=faint>{html.safe(QUOTED, 1000)}</p>"


def _runs(found: Sequence[runs.Run]) -> str:
    heads = ["<run", "<what", "seed", "steps", "<masters", "<computed in", "<settings"]
    lines = []
    for run in found:
        settings = "\n".join(f"{name} = {value!r}" for name, value in run.settings.items())
        what = (run.path.name, run.label, run.seed, len(run.metrics), run.document.get("master_dtype"), run.document.get("compute_dtype"))
        lines.append([*(html.safe(cell) for cell in what), html.folded("all", settings)])
    return html.table(heads, lines)
