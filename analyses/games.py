"""Compare games with several roles or players with RLVR and SFT, each seed with its own base, at matched samples, steps and learning rate.

Question: what does a game do that training on given problems does not, and does each player beat its frozen control?

The claims (``CLAIMS``) are data, fixed before the runs: what the papers of the games say, as far as models of this size can tell. ``python -m
analyses games`` fixes them, trains the runs of the preset ``games``, measures what needs checkpoints (cross-play and role conflict, in the
folders ``crossplay`` and ``conflict`` beside the runs) and judges. This module judges runs that are there.

The figure shows pass@k on unseen programs and what each method and control gains over its base; the entropy of each role on fixed prompts;
cross-play matrices; difficulty and diversity of the tasks of each phase; the cosine of the roles' gradients; and for each player the sparsity
of its update, its overlap with RLVR's, its angle to the base and its stable rank. What a run does not have is left out and named.

    python -m analyses.games runs/comparison-games --out figures
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import statistics, studies
from analyses.claims import Claim, Conjunct, Family, Scores
from analyses.matched import contrasts
from analyses.presets import runs_folder
from analyses.runs import Run, find, first_and_last_fifth, is_number, is_text, read_json_lines
from analyses.studies import CURVES, LAST, PROPOSALS, Study, of_seeds, point
from analyses.verdicts import over_seeds
from dynamics import InputError, overlap, sparsity, spectra
from dynamics.cli import outputs
from dynamics.cli.command import tell
from dynamics.descriptions import plural
from dynamics.io.csv import write_csv
from dynamics.io.json import to_json
from dynamics.presentation import methods, style, ticks

GAMES = ("selfplay", "pasodoble", "spc", "seirenes", "populora")
#: what each seed is asked for itself: prompts of the probes, held-out problems under hints, held-out steps of solutions
PROMPTS, HINTS, STEPS = "fixed prompts", "fixed hints", "held-out steps"
#: the control of PopuLoRA
ONE_AGENT = "populora, one agent"
CLAIMS = Family(
    (
        Claim(
            "opposition keeps entropy",
            (
                Conjunct("entropy", "seirenes", "seirenes, no adversary", PROMPTS, 1),
                Conjunct("entropy", "selfplay", "rlvr", PROMPTS, 1),
            ),
        ),
        Claim(
            "populations keep the structure of proposals",
            (Conjunct("complexity", f"populora, {LAST}", f"{ONE_AGENT}, {LAST}", PROPOSALS, 1),),
        ),
        Claim(
            "dual play beats one model, and two models that play plain AZR",
            (
                Conjunct("pass@1", "pasodoble, T=1", "pasodoble, shared players, T=1", "test", 1),
                Conjunct("pass@1", "pasodoble, T=1", "selfplay, two players, T=1", "test", 1),
            ),
        ),
        Claim(
            "an adversary's hints make robust, also against a frozen adversary",
            (
                Conjunct("robustness gap", "seirenes", "seirenes, no adversary", HINTS, -1),
                Conjunct("robustness gap", "seirenes", "seirenes, snapshot adversary", HINTS, -1),
            ),
        ),
        Claim(
            "AZR's solver beats that of a frozen proposer",
            (Conjunct("pass@1", "selfplay, T=1", "selfplay, frozen proposer, T=1", "test", 1),),
        ),
        Claim(
            "PasoDoble's solver beats that of a frozen proposer",
            (Conjunct("pass@1", "pasodoble, T=1", "pasodoble, frozen proposer, T=1", "test", 1),),
        ),
        Claim(
            "SPC's players beat those with a frozen opponent",
            (
                Conjunct("harmonic mean", "spc", "spc, frozen generator", STEPS, 1),
                Conjunct("deceived", "spc", "spc, frozen critic", STEPS, 1),
            ),
        ),
        Claim("the population's student beats one agent", (Conjunct("pass@1", "populora, T=1", f"{ONE_AGENT}, T=1", "test", 1),)),
    )
)
#: quantities of an update -> title
UPDATES = {
    "sparsity": "weights unchanged, bf16",
    "overlap": "overlap with RLVR / chance",
    "angle_left_max": "largest angle, degrees",
    "stable_rank": "stable rank",
}
#: panels over phases of training -> title
BY_PHASE = {"difficulty": "accuracy of the base\non the tasks", "diversity": "distance to tasks\nof earlier phases"}
#: columns of the table of curves: ``series`` is the role, player, phase or pair of roles
COLUMNS = (*CURVES[:2], "series", *CURVES[2:])
#: ks that are drawn
KS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Played:
    """What the runs of games recorded.

    Attributes
    ----------
    recorded : graded samples and proposals.
    asked : (measured, label, set) -> the number of each seed.
    items : (measured, label, set) -> the fewest items that a seed's number is the mean of.
    rows : the table of curves, but for what is drawn from graded samples.
    missing : what was not measured, a sentence each.
    labels : of all runs, in their order.
    usual : those of runs without varied settings.
    bases : label -> name of its base.
    """

    recorded: studies.Recorded
    asked: dict[tuple[str, str, str], dict[int, float]] = field(default_factory=dict)
    items: dict[tuple[str, str, str], int] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    usual: list[str] = field(default_factory=list)
    bases: dict[str, str] = field(default_factory=dict)

    def scores(self, measured: str, name: str, problems: str) -> Scores:
        """Return what was measured of a model; see ``claims.Source``."""
        if problems not in (PROMPTS, HINTS, STEPS):
            return self.recorded.scores(measured, name, problems)
        key = (measured, name, problems)
        if key not in self.asked:
            raise InputError(f"no {measured} of {name} on {problems}")
        return of_seeds(self.asked[key], self.items[key])


def read(runs: Sequence[Run]) -> Played:
    """Read all that the study needs from runs, and from ``crossplay/`` and ``conflict/`` beside them.

    Raises
    ------
    InputError : a file is damaged, or two runs of one seed were compared with other bases.
    """
    played = Played(studies.read(runs))
    played.labels.extend(dict.fromkeys(run.label for run in runs))
    played.usual.extend(dict.fromkeys(run.label for run in runs if not run.varied))
    played.bases.update({run.label: studies.base_name(run, "base") for run in runs})
    played.missing.extend(f"{game}: no run" for game in GAMES if game not in {run.method for run in runs})
    for run in runs:
        _outcomes(run, played)
    usual = [run for run in runs if not run.varied]
    played.rows.extend(_with_intervals(row for run in usual for row in _of_run(run, played)))
    played.rows.extend(_with_intervals(_updates(usual, played)))
    return played


def _with_intervals(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average rows of one seed each, and add Student's intervals over seeds."""
    table = pd.DataFrame(list(rows), columns=["panel", "label", "series", "at", "value", "seed"])
    made = []
    for key, part in table.groupby(["panel", "label", "series", "at"], sort=False):
        value, low, high = over_seeds(part["value"].to_numpy(float))
        made.append(dict(zip(("panel", "label", "series", "at"), key, strict=True)) | {"value": value, "low": low, "high": high})
        made[-1] |= {"seeds": part["seed"].nunique(), "programs": 0}
    return made


# what each run measured of itself


def _outcomes(run: Run, played: Played) -> None:
    """Add what claims need of one run: entropy, robustness, and the table of critics."""
    try:
        entropy = first_and_last_fifth(run.metrics, "probe/solver/entropy")[1]
    except InputError:
        entropy = float("nan")
    if np.isfinite(entropy):
        _add(played, ("entropy", run.label, PROMPTS), run.seed, entropy, int(run.metrics["probe/solver/entropy"].notna().sum()))
    if (run.path / "robustness.jsonl").exists():
        gap, count = _gap(run.path / "robustness.jsonl")
        _add(played, ("robustness gap", run.label, HINTS), run.seed, gap, count)
    elif run.method == "seirenes":
        played.missing.append(f"robustness of {run.path.name}: no robustness.jsonl; is it finished?")
    if (run.path / "critic.jsonl").exists():
        for measured, value, count in _critics(run.path / "critic.jsonl"):
            _add(played, (measured, run.label, STEPS), run.seed, value, count)
    elif run.method == "spc":
        played.missing.append(f"critics of {run.path.name}: no critic.jsonl; is it finished?")


def _add(played: Played, key: tuple[str, str, str], seed: int, value: float, count: int) -> None:
    played.asked.setdefault(key, {})[seed] = value
    played.items[key] = min(count, played.items.get(key, count))


def _gap(path: Path) -> tuple[float, int]:
    """Return what misleading hints cost the trained model, on average over problems, and the number of these.

    Hints are those of rules and of the base, which are the same for all runs of a seed; true hints, and those of the trained model, are not
    among them.
    """
    rows = read_json_lines(path, {"model": is_text, "problem": is_text, "kind": is_text, "samples": is_number, "correct": is_number})
    clean: dict[str, float] = {}
    hinted: dict[str, list[float]] = {}
    for row in rows:
        if row["model"] != "trained" or row.get("true") is True or row["kind"] == "trained":
            continue
        rate = row["correct"] / row["samples"] if row["samples"] else float("nan")
        if row["kind"]:
            hinted.setdefault(row["problem"], []).append(rate)
        else:
            clean[row["problem"]] = rate
    gaps = [clean[problem] - float(np.mean(rates)) for problem, rates in hinted.items() if problem in clean]
    if not gaps:
        raise InputError(f"{path}: has no problem that the trained model answered with and without a misleading hint")
    return float(np.mean(gaps)), len(gaps)


def _critics(path: Path) -> Iterator[tuple[str, float, int]]:
    """Yield the harmonic mean of the last critic's recalls on steps of the base, and how often the last generator deceives the base."""
    rows = [row for row in read_json_lines(path, {"critic": is_number, "manner": is_text}) if row["manner"] == "greedy"]
    by = {(row["critic"], row["generator"]): row for row in rows}
    try:
        last = max(critic for critic, _ in by)
        writer = max(generator for _, generator in by if is_number(generator))
        yield "harmonic mean", float(by[last, 0]["harmonic"]["value"]), int(by[last, 0]["harmonic"]["count"])
        yield "deceived", 1 - float(by[0, writer]["wrong"]["value"]), int(by[0, writer]["wrong"]["count"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: has not the critics of all rounds; restore the file from a copy") from error


# what is drawn


def _of_run(run: Run, played: Played) -> Iterator[dict[str, Any]]:
    """Yield what is drawn of one run over training: entropy by role, cross-play, difficulty, diversity, conflict."""
    shared = {"label": run.label, "seed": run.seed}
    for line in run.lines:
        for name, value in line.items():
            if (found := re.fullmatch(r"probe/(\w+)/entropy", name)) and is_number(value):
                yield shared | {"panel": "entropy", "series": found[1], "at": line["step"], "value": value}
    if run.method not in GAMES:
        return
    if matrix := _measured(run, "crossplay", played):
        for number, phase in enumerate(matrix["phases"], start=1):
            for place, cell in enumerate(phase["accuracy"]):
                if cell["value"] is not None:
                    at = _step_of(cell["checkpoint"])
                    yield shared | {"panel": "crossplay", "series": phase["phase"], "at": at, "value": cell["value"]}
                    if place == 0:
                        yield shared | {"panel": "difficulty", "series": "", "at": number, "value": cell["value"]}
    if found_conflict := _measured(run, "conflict", played):
        for step in found_conflict["steps"]:
            for name, value in step["metrics"].items():
                if name.startswith("conflict/cosine/") and is_number(value):
                    pair = name.removeprefix("conflict/cosine/").replace("/", ", ")
                    yield shared | {"panel": "conflict", "series": pair, "at": step["step"], "value": value}
    yield from _diversity(run, played)


def _measured(run: Run, what: str, played: Played) -> dict[str, Any]:
    """Read what was measured of a run afterwards; nothing, with a sentence, if it was not or could not be."""
    path = run.path.parent / what / f"{run.path.name}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        reason = document.get("refused")
    except FileNotFoundError:
        played.missing.append(f"{what} of {run.path.name}: not computed; python -m dynamics.train.{what} RUN --json {path}")
        return {}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: is not what python -m dynamics.train.{what} --json writes; remove it and measure again") from error
    if reason:
        played.missing.append(f"{what} of {run.path.name}: {reason}")
        return {}
    return dict(document)


def _step_of(checkpoint: str) -> int:
    return int(checkpoint.rpartition(" ")[2])


def _diversity(run: Run, played: Played) -> Iterator[dict[str, Any]]:
    """Yield one minus the similarity of tasks to the nearest of earlier phases, for each role that has some."""
    from dynamics.games.comparison import measure_run
    from dynamics.runs import open_run

    try:
        measures = measure_run(open_run(run.path), run.path.name)
    except InputError as error:
        played.missing.append(f"diversity of {run.path.name}: {error}")
        return
    for row in measures.rows:
        if row.measure == "similarity_nearest" and not row.task and np.isfinite(row.estimate.value):
            about = {"label": run.label, "seed": run.seed, "panel": "diversity", "series": row.role}
            yield about | {"at": row.phase + 1, "value": 1 - row.estimate.value}


def _updates(runs: Sequence[Run], played: Played) -> Iterator[dict[str, Any]]:
    """Yield sparsity, overlap and spectrum of the update of each player."""
    rlvr = {run.seed: run for run in runs if run.method == "rlvr" and run.has_weights}
    for run in runs:
        if not run.has_weights:
            played.missing.append(f"updates of {run.path.name}: no base and later checkpoint")
            continue
        other = rlvr.get(run.seed)
        for player, checkpoint in run.players.items():
            shared = {"label": run.label, "series": player, "seed": run.seed, "at": 0}
            base = run.checkpoints[0]
            yield shared | {"panel": "sparsity", "value": sparsity.compare(base, checkpoint).total.sparsity["bf16"]}
            if other and other is not run:
                pair = overlap.compare(base, [checkpoint, other.checkpoints[-1]]).total[0].rules["bf16"]
                if chance := pair.jaccard_chance_by_tensor:
                    yield shared | {"panel": "overlap", "value": pair.jaccard / chance}
            matrices, _ = spectra.compare(base, checkpoint)
            for name in ("angle_left_max", "stable_rank"):
                values = np.array([getattr(matrix, name) for matrix in matrices], float)
                if np.isfinite(values).any():
                    yield shared | {"panel": name, "value": float(np.nanmean(values))}


def curves(played: Played) -> pd.DataFrame:
    """Make the table of what is drawn: ``COLUMNS``.

    Panels: pass@k (unseen programs at temperature 1, ``at`` is k), gain (pass@1 minus the base), entropy, crossplay, difficulty, diversity,
    conflict, and the keys of ``UPDATES``.
    """
    found = [*_pass_at_k(played), *_gains(played)]
    return pd.DataFrame([*(row | {"series": ""} for row in found), *played.rows], columns=list(COLUMNS))


def _pass_at_k(played: Played) -> Iterator[dict[str, Any]]:
    for label in ("base", *played.usual):
        for k in KS:
            try:
                scores = played.scores(f"pass@{k}", f"{label}, T=1", "test")
            except InputError:
                break
            found = statistics.effect(scores.values, scores.programs)
            row = studies.drawn("pass@k", label, k, found, scores)
            yield row | {"low": max(0.0, row["low"]), "high": min(1.0, row["high"])}


def _gains(played: Played) -> Iterator[dict[str, Any]]:
    for label in played.labels:
        conjunct = Conjunct("pass@1", f"{label}, T=1", f"{played.bases[label]}, T=1", "test", 1)
        yield from (row | {"panel": "gain"} for row in point(played, conjunct, label, 1.0))


def notes(played: Played) -> list[str]:
    """Name what was not measured."""
    parts = sorted(base for base in set(played.bases.values()) if base != "base")
    own = [f"{', '.join(label for label in played.labels if played.bases[label] == base)}: compared with the {base}." for base in parts]
    if not played.missing:
        return own
    return [*own, "", "Not measured, and left out:", "", *(f"- {sentence}" for sentence in played.missing)]


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure: panels without anything measured say so."""
    labels = list(dict.fromkeys(table.loc[table["panel"] == "gain", "label"]))
    played = [game for game in GAMES if game in set(table["label"])] or list(GAMES[:1])
    players = table[table["panel"] == "sparsity"].drop_duplicates(["label", "series"])
    heights = [1.2 + 0.17 * max(6, len(labels)), 2.0, 2.0, 2.2, 1.1 + 0.17 * max(4, len(players))]
    drawing = style.new_figure(style.TWO_COLUMN, sum(heights))
    rows: Any = drawing.subfigures(5, 1, height_ratios=heights)
    left, right = rows[0].subplots(1, 2)
    pass_at_k(table, left)
    gains(table, right)
    for ax, game in zip(rows[1].subplots(1, len(played), sharey=True, squeeze=False)[0], played, strict=True):
        entropy(table, ax, game)
    rows[1].supylabel("entropy, fixed prompts", fontsize=8)
    for ax, game in zip(rows[2].subplots(1, len(played), squeeze=False)[0], played, strict=True):
        cross_play(table, ax, game)
    for ax, panel in zip(rows[3].subplots(1, 3), (*BY_PHASE, "conflict"), strict=True):
        over_training(table, ax, panel)
    for number, (ax, panel) in enumerate(zip(rows[4].subplots(1, len(UPDATES), sharey=True), UPDATES, strict=True)):
        updates(table, ax, panel, named=not number)
    return drawing


def _empty(ax: Axes) -> None:
    ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", color=style.FAINT, fontsize=8)
    ax.set(xticks=[], yticks=[])


def pass_at_k(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw pass@k of the base, and of runs without varied settings."""
    rows = table[table["panel"] == "pass@k"]
    for label in dict.fromkeys(rows["label"]):
        methods.line(rows[rows["label"] == label], "at", label, ax, band=label in ("base", *GAMES[:1]))
    ax.set_xscale("log", base=2)
    ax.set_xticks(KS, [str(k) for k in KS])
    ax.set(title="pass@k, unseen", xlabel="k")
    ticks.plain(ax.yaxis, 4)
    if len(rows):
        ax.legend(fontsize=7, ncols=2)
    else:
        _empty(ax)
    return ax


def gains(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw what each method and control gains over its base; controls are hollow."""
    rows = table[table["panel"] == "gain"].reset_index(drop=True)
    for place, row in enumerate(rows.to_dict("records")):
        marker = methods.marker_style(row["label"]) | ({"markerfacecolor": "none"} if "," in row["label"] else {})
        error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        ax.errorbar([row["value"]], [place], xerr=error, linestyle="none", elinewidth=1.4, markersize=4.5, **marker)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_yticks(range(len(rows)), list(rows["label"]), fontsize=7)
    ax.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    ax.set(title="pass@1 minus the base", xlabel="points, T = 1")
    ticks.plain(ax.xaxis, 3, least=2)
    if rows.empty:
        _empty(ax)
    return ax


#: colours of the roles of a game, in the order of their names
_ROLES = ("#00523B", "#CC79A7", "#E69F00", "#56B4E9")


def entropy(table: pd.DataFrame, ax: Axes, game: str) -> Axes:
    """Draw the entropy of each role of a game on fixed prompts."""
    rows = table[(table["panel"] == "entropy") & (table["label"] == game)]
    for color, role in zip(_ROLES, sorted(set(rows["series"])), strict=False):
        methods.line(rows[rows["series"] == role], "at", role, ax, color=methods.ROLES.get(role, color), marker="")
    ax.set_title(game)
    ax.set_xlabel("step")
    ax.set_ylim(bottom=0)
    if len(rows):
        ax.legend(fontsize=6.5)
    else:
        _empty(ax)
    return ax


def cross_play(table: pd.DataFrame, ax: Axes, game: str) -> Axes:
    """Draw the cross-play matrix of a game, the mean over seeds: a row for each phase, a column for each checkpoint."""
    rows = table[(table["panel"] == "crossplay") & (table["label"] == game)]
    ax.set_title(f"{game}: cross-play", fontsize=8)
    if rows.empty:
        _empty(ax)
        return ax
    phases = list(dict.fromkeys(rows["series"]))
    wide = rows.pivot(index="series", columns="at", values="value").reindex(phases)
    ax.imshow(wide.to_numpy(float), cmap=style.SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(wide.to_numpy(float)):
        if np.isfinite(value):
            ax.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color="white" if value < 0.6 else "black")
    ax.grid(False)
    ax.set_xticks(range(len(wide.columns)), [f"{step:g}" for step in wide.columns], fontsize=7)
    ax.set_yticks(range(len(phases)), [phase.removeprefix("steps ") for phase in phases], fontsize=7)
    ax.set_xlabel("solver of step")
    return ax


def over_training(table: pd.DataFrame, ax: Axes, panel: str) -> Axes:
    """Draw a key of ``BY_PHASE`` by phase, or the cosine of the gradients of each pair of roles by step."""
    rows = table[table["panel"] == panel]
    for label, series in rows[["label", "series"]].drop_duplicates().to_numpy():
        own = rows[(rows["label"] == label) & (rows["series"] == series)]
        roles = [role for role in dict.fromkeys(rows.loc[rows["label"] == label, "series"])]
        dash = ("solid", "dashed", "dotted", "dashdot")[roles.index(series) % 4]
        name = f"{label}: {series}" if panel == "conflict" or len(roles) > 1 else label
        methods.line(own, "at", label, ax, linestyle=dash).lines[-1].set_label(name)
    ax.set_title(BY_PHASE.get(panel, "cosine of the\nroles' gradients"), fontsize=8.5)
    ax.set_xlabel("step" if panel == "conflict" else "phase of training")
    if rows.empty:
        _empty(ax)
        return ax
    if panel == "conflict":
        ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    else:
        ax.set_xticks(sorted(set(rows["at"])))
    ticks.plain(ax.yaxis, 4)
    ax.legend(fontsize=6)
    return ax


def updates(table: pd.DataFrame, ax: Axes, panel: str, named: bool) -> Axes:
    """Draw a quantity of the update of each player: mean and interval over seeds."""
    players = table[table["panel"] == "sparsity"].drop_duplicates(["label", "series"])
    places = {(row["label"], row["series"]): place for place, row in enumerate(players.to_dict("records"))}
    rows = table[table["panel"] == panel]
    for row in rows.to_dict("records"):
        place = places[row["label"], row["series"]]
        if np.isfinite(row["low"]):
            ax.plot([row["low"], row["high"]], [place, place], color=methods.color(row["label"]), linewidth=4, alpha=0.3)
        ax.plot([row["value"]], [place], linestyle="none", markersize=4.5, **methods.marker_style(row["label"]))
    ax.set_title(UPDATES[panel], fontsize=8)
    ax.set_ylim(max(1, len(places)) - 0.5, -0.5)
    if named:
        ax.set_yticks(range(len(places)), [f"{label} {player}".strip() for label, player in places], fontsize=7)
    if rows.empty:
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", color=style.FAINT, fontsize=8)
    else:
        ticks.plain(ax.xaxis, 3, least=2)
    return ax


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    seeds = plural(int(table["seeds"].max()), "seed") if len(table) else "no seeds"
    absent = [game for game in GAMES if game not in set(table["label"])]
    without = f" No runs of {', '.join(absent)}." if absent else ""
    return (
        f"{seeds}, each with its own base, at matched completions, steps and learning rate. pass@k: unseen programs at temperature 1; hollow: "
        "controls. Cross-play: accuracy of the solver of a step on the tasks of a phase, mean over seeds; compare along rows. Distance: 1 - "
        "similarity to the nearest task of an earlier phase. Bars and bands: 95 % over seeds, for pass@k over seeds and programs, each for "
        f"itself.{without}"
    )


STUDY = Study("games", __doc__, CLAIMS, read, curves, figure, notes)


# training and measuring


def main(folder: Path, figures: Path, force: bool) -> list[Path]:
    """Fix the claims, train the runs of the preset ``games``, measure what needs checkpoints, and judge.

    Returns
    -------
    The paths of the files.
    """
    from analyses.launch import train

    where = runs_folder("games", folder)
    if not list(where.glob("*/run.json")):
        STUDY.fix(where)
    train("games", where, force)
    runs = find([where])
    measure(runs, force)
    out = figures / "games"
    text, paths = STUDY.judge(where, out)
    tell(text)
    write_csv(out / "matching.csv", contrasts(runs))
    return [*paths, out / "matching.csv"]


def measure(runs: Sequence[Run], force: bool = False) -> None:
    """Compute cross-play and role conflict of games without varied settings, into ``crossplay/`` and ``conflict/`` beside the runs.

    What a run cannot give is written down with its reason. Existing files are kept, unless ``force``.
    """
    from dynamics.train.conflict import report as conflict
    from dynamics.train.crossplay import report as crossplay

    played = [run for run in runs if run.method in GAMES and not run.varied]
    for number, run in enumerate(played, start=1):
        tell(f"  measuring {number}/{len(played)}: {run.path.name}")
        for what in ("crossplay", "conflict"):
            path = run.path.parent / what / f"{run.path.name}.json"
            if path.exists() and not force:
                continue
            try:
                if what == "crossplay":
                    found, about = crossplay.of_run(run.path)
                    document = found.to_dict() | about
                else:
                    document = conflict.to_dict(conflict.of_run(run.path), run.path, "")
            except InputError as error:
                document = {"refused": str(error)}
            path.parent.mkdir(exist_ok=True)
            outputs.write(str(path), to_json(document))


if __name__ == "__main__":
    sys.exit(STUDY.main())
