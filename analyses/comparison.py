"""Run every analysis: train the runs of a preset, draw every figure, and write ``verdicts.csv`` and ``report.html``.

python -m analyses comparison                     # a demonstration: seven minutes on two cores the first time, one after that
python -m analyses comparison --preset quick      # every figure, from runs too small for conclusions
python -m analyses comparison --preset full       # two hours: the figures of the repository
python -m analyses comparison --preset full --block grid    # a part of it; what is finished of the others is used
python -m analyses comparison --preset smollm2    # the methods on the real 135M model: an hour and a half
python -m analyses comparison --preset gpu --dry-run        # every command for a model of 1.5B on one GPU, with memory and hours
python -m analyses comparison --preset paper --dry-run      # the same for the paper's models, on eight GPUs
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from analyses import (
    confound,
    controls,
    curriculum,
    entropy_dynamics,
    findings,
    forgetting,
    laboratory,
    learnt_and_lost,
    pass_at_k,
    presets,
    proposer_variants,
    support,
    uncertainty,
    update_shape,
    update_sparsity,
    variance,
)
from analyses.analysis import Analysis, name_of, write
from analyses.claims import NOT_MEASURED, needs
from analyses.launch import train
from analyses.matched import contrasts
from analyses.runs import Run, default_settings
from analyses.studies import summary
from analyses.verdicts import FAILS, HOLDS, OPEN, Verdict
from dynamics import InputError
from dynamics.cli import outputs
from dynamics.cli.command import tell
from dynamics.descriptions import plural
from dynamics.io.csv import write_csv
from dynamics.presentation import html

QUESTIONS: tuple[Analysis, ...] = (
    pass_at_k,
    support,
    controls,
    update_sparsity,
    confound,
    variance,
    entropy_dynamics,
    uncertainty,
    curriculum,
    proposer_variants,
    update_shape,
    learnt_and_lost,
    forgetting,
)
#: what the page answers first, each by the title of its figure
ANSWERS: tuple[Analysis, ...] = (pass_at_k, controls, update_sparsity, entropy_dynamics)
#: analysis -> the primary claims that its figure is beside
CLAIMED = {
    "pass_at_k": ("self-play beats its base", "self-play beats its base's greedy decoding", "the base is ahead at large k"),
    "support": ("self-play keeps more reach than RLVR",),
    "update_sparsity": ("self-play is between SFT and RLVR in sparsity",),
    "entropy_dynamics": ("both roles lose entropy, the proposer less",),
    "proposer_variants": (
        "a frozen proposer keeps entropy and loses curriculum and accuracy",
        "the reward for p = 1/2 costs accuracy and leaves entropy",
    ),
}
#: presets that are no demonstration, and runs of no preset
JUDGED = ("", "full", "paper", "paper-7b")
#: remark on the paper's sparsities, which are known from notes only
QUOTED = (
    "The paper's sparsities are known from notes only: AZR-Coder-7B 45.7 %, SFT 94-98 %, RLVR 3-7 %. "
    "Read as sparsity (share unchanged), they make SFT the sparsest, which contradicts the paper's text; read as density (share changed), "
    "they mean sparsities of 54.3 %, 2-6 % and 93-97 %, in the order of the text."
)


def main(
    folder: Path, figures: Path, force: bool, preset: str = "default", scheduler: str | None = None, block: str | None = None
) -> list[Path]:
    """Train the runs of a preset, and of those that are made with it, and make their figures.

    The figures of preset ``full`` go into ``figures``, those of other presets into a subfolder with the name of the preset. If ``figures``
    is the folder of the repository, the pages of findings are written too.
    """
    paths: list[Path] = []
    for name in presets.made_with(preset):
        runs = train(name, presets.runs_folder(name, folder), force, scheduler, block)
        target = figures if name == "full" else figures / name
        paths += build(runs, target, name)
    if preset == "full" and figures.resolve() == findings.ROOT / "figures":
        paths += findings.write(figures)
    return paths


def build(runs: Sequence[Run], figures: Path, preset: str = "") -> list[Path]:
    """Make all figures, tables and verdicts from runs, and the page; return the paths of the files."""
    paths: list[Path] = []
    sections: list[dict[str, str]] = []
    rows: list[dict[str, Any]] = []
    figures.mkdir(parents=True, exist_ok=True)
    for number, analysis in enumerate(QUESTIONS, start=1):
        name = name_of(analysis)
        tell(f"  measuring {number}/{len(QUESTIONS)}: {name}")
        try:
            table, written = write(analysis, runs, figures, "" if preset in JUDGED else "a demonstration")
        except InputError as error:
            for suffix in (".png", ".svg", ".csv"):
                (figures / f"{name}{suffix}").unlink(missing_ok=True)  # remove files of earlier runs
            sections.append({"name": name, "title": analysis.TITLE, "missing": html.one_line(error, 400)})
            continue
        paths += written
        rows += [asdict(verdict) | {"verdict": verdict.verdict, "figure": name} for verdict in analysis.verdicts(table)]
        section = {
            "name": name,
            "title": analysis.TITLE,
            "headline": html.one_line(analysis.headline(table), 400),
            "claim": html.one_line(analysis.CLAIM, 600),
            "caption": html.one_line(analysis.caption(table), 1200),
        }
        sections.append(section | {"figure": html.svg_uri((figures / f"{name}.svg").read_bytes())})
    claims, written = _claims(runs, figures)
    claimed = html.svg_uri((figures / "laboratory.svg").read_bytes()) if len(claims) else ""
    paths += written
    verdicts = pd.DataFrame(rows, columns=[*(field.name for field in fields(Verdict)), "verdict", "figure"])
    outputs.write(str(figures / "machine.json"), json.dumps(_machine(runs, preset), indent=1) + "\n")
    write_csv(figures / "verdicts.csv", verdicts, "%.4g")
    write_csv(figures / "matching.csv", contrasts(runs))
    outputs.write(str(figures / "report.html"), page(runs, preset, verdicts, sections, claims, claimed))
    return [*paths, figures / "verdicts.csv", figures / "matching.csv", figures / "machine.json", figures / "report.html"]


def _claims(runs: Sequence[Run], figures: Path) -> tuple[pd.DataFrame, list[Path]]:
    """Judge the primary claims on runs of the laboratory; on others there is nothing to judge."""
    if not any(str(run.config.get("task", "")).startswith("lab") for run in runs):
        return pd.DataFrame(), []
    tell("  judging the primary claims")
    _, rows, paths = laboratory.STUDY.judge(runs, figures, runs[0].path.parent)
    return rows, paths


def _machine(runs: Sequence[Run], preset: str) -> dict[str, Any]:
    """Collect the preset, the machine and the package versions of the runs."""
    from dynamics.io.threads import cores

    packages: dict[str, Any] = next((run.document["packages"] for run in runs if run.document.get("packages")), {})
    return {"preset": preset or None, "runs": len(runs), "cores": cores(), "machine": platform.machine(), "packages": packages}


def _effect(row: Mapping[Any, Any]) -> str:
    """Format an effect, with its interval if there is one."""
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:+.3g}, {row['high']:+.3g}]"
    return f"{row['effect']:+.3g}{interval}"


def page(
    runs: Sequence[Run],
    preset: str,
    verdicts: pd.DataFrame,
    sections: Sequence[Mapping[str, str]],
    claims: pd.DataFrame | None = None,
    claimed: str = "",
) -> str:
    """Render the page with all figures.

    Parameters
    ----------
    runs
        The runs that were compared.
    preset
        Name of the preset that trained them; empty if there is none.
    verdicts
        One row per finding, as in ``verdicts.csv``.
    sections
        For every analysis its name, its title, and either headline, claim, caption and figure (a data URI), or ``missing``: why there is
        no figure.
    claims
        The primary claims, as ``claims.table`` gives them; None or empty if there are none.
    claimed
        Their figure, a data URI; empty if there is none.

    Returns
    -------
    The text of one HTML file.
    """
    models = sorted({str(run.settings.get("model", run.document.get("model"))) for run in runs})
    steps = sorted(len(run.metrics) for run in runs)
    first = presets.PRESETS[preset].base_run_options if preset else ""
    machine = _machine(runs, preset)
    beside = CLAIMED if claims is not None and len(claims) else {}
    context = {
        "run_count": plural(len(runs), "run"),
        "models": html.one_line(", ".join(models)),
        "steps": plural(steps[0], "step") if steps[0] == steps[-1] else f"{steps[0]:,} to {steps[-1]:,} steps",
        "preset": html.one_line(preset or "none"),
        "cores": machine["cores"],
        "machine": html.one_line(machine["machine"]),
        "versions": html.one_line(", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version), 400),
        "first": html.one_line(f"python -m dynamics.train sft {first}", 400) if first else "",
        "demonstration": preset not in JUDGED,
        "groups": _groups(sections, claims),
        "claimed": claimed,
        "answers": [*([f"{summary(claims)}."] if claims is not None and len(claims) else []), *_answers(sections)],
        "counts": _counts(verdicts["verdict"]),
        "verdicts": [_verdict(row) for row in verdicts.to_dict("records")],
        "quoted": QUOTED,
        "sections": [section for section in sections if "missing" in section or section["name"] not in beside],
        "contrasts": [
            {"runs": html.one_line(f"{row['a']}, {row['b']}"), "text": html.one_line(row["text"], 1000)}
            for row in contrasts(default_settings(runs)).to_dict("records")
        ],
        "runs": [_run(run) for run in runs],
    }
    return html.render("comparison.html", context, Path(__file__).parent / "templates")


def _groups(sections: Sequence[Mapping[str, str]], claims: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Put the rows of the primary claims beside the figures that show them; those of figures that were not drawn come last, together."""
    if claims is None or not len(claims):
        return []
    rows = [_claim(row) for row in claims.to_dict("records")]
    drawn = [section for section in sections if section["name"] in CLAIMED and "figure" in section]
    groups = [{"section": section, "claims": [row for row in rows if row["claim"] in CLAIMED[section["name"]]]} for section in drawn]
    shown = [claim for section in drawn for claim in CLAIMED[section["name"]]]
    others = [row for row in rows if row["claim"] not in shown]
    return groups + [{"section": None, "claims": others}] * bool(others)


def _answers(sections: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what the figures of ``ANSWERS`` show, as sentences."""
    said = {section["name"]: section["headline"] for section in sections if "headline" in section}
    return [f"{said[name]}." for name in map(name_of, ANSWERS) if name in said]


#: colour of each verdict
_COLORS = {HOLDS: "#009E73", FAILS: "#D55E00", OPEN: "#999999"}


def _counts(verdicts: pd.Series[str]) -> str:
    """Count the findings by verdict, in one sentence."""
    holds, fails, inconclusive = (int((verdicts == verdict).sum()) for verdict in (HOLDS, FAILS, OPEN))
    parts = (
        plural(holds, HOLDS, "hold"),
        plural(fails, FAILS, "do not hold"),
        plural(inconclusive, f"is {OPEN}", f"are {OPEN}"),
    )
    return f"{plural(len(verdicts), 'finding')}: {', '.join(parts)}."


def _claim(row: Mapping[Any, Any]) -> dict[str, str]:
    """Format a row of a primary claim."""
    measured = row["verdict"] != NOT_MEASURED
    decide = needs(row) if measured else ""
    seeds = f"{row['seeds']:.0f} seeds" if measured else ""
    power = f"{decide} seeds would decide it" if decide.isdigit() else f"{decide} would be needed" if decide else ""
    undecided = power if row["verdict"] == OPEN else ""
    return {
        "color": _COLORS[row["claim_verdict"]],
        "verdict": html.one_line(row["claim_verdict"]),
        "claim": html.one_line(row["claim"]),
        "measured": html.one_line(f"{row['contrast']}, {row['set']}: {row['verdict']}", 400),
        "effect": _effect(row) if measured else "",
        "seeds": html.one_line("; ".join(part for part in (seeds, undecided, row["reason"]) if part), 300),
    }


def _verdict(row: Mapping[Any, Any]) -> dict[str, str]:
    return {
        "color": _COLORS[row["verdict"]],
        "verdict": html.one_line(row["verdict"]),
        "finding": html.one_line(row["finding"]),
        "measured": html.one_line(row["measured"], 400),
        "effect": _effect(row),
        "seeds": html.one_line(f"by seed {row['by_seed']}; {row['interval']}", 300),
    }


def _run(run: Run) -> list[str | dict[str, str]]:
    """Format the cells of a run; the last cell contains its settings, one per line."""
    cells = (run.path.name, run.label, run.seed, len(run.metrics), run.document.get("master_dtype"), run.document.get("compute_dtype"))
    settings = [f"{html.one_line(name)} = {value!r}" for name, value in run.settings.items()]
    return [*(html.one_line(cell) for cell in cells), {"settings": "\n".join(settings)}]
