"""Compare games with several roles or players with RLVR and SFT, each seed with its own base, at matched steps and learning rate.

Question: what does a game do that training on given problems does not, and does each player beat its frozen control?

The claims (``CLAIMS``) are data, fixed before the runs: what the papers of the games say, as far as models of this size can tell.
``python -m analyses games`` fixes them, trains the runs of the preset ``games``, measures what needs checkpoints (cross-play and role
conflict, in the folders ``crossplay`` and ``conflict`` beside the runs) and judges. This module judges runs that are there.

The figure shows pass@k on unseen problems that all runs were asked, and what each method and control gains over its base; the entropy
of each role on fixed prompts; cross-play matrices; difficulty and diversity of the tasks of each phase; the cosine of the roles'
gradients; and for each player the sparsity of its update, its overlap with RLVR's, its angle to the base and its stable rank. What a run
does not have is left out and named.

    python -m analyses.games runs/comparison-games --out figures
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import statistics, studies
from analyses.claims import Claim, Conjunct, Family, Graded, Scores, contrast
from analyses.matched import contrasts
from analyses.presets import runs_folder
from analyses.runs import Run, find, first_and_last_fifth, is_number, is_text, read_json_lines
from analyses.studies import CURVES, MANNERS, PROMPTS, Numbers, Study
from analyses.verdicts import over_seeds
from dynamics import InputError, overlap, sparsity, spectra
from dynamics.cli import outputs
from dynamics.cli.command import tell
from dynamics.descriptions import plural
from dynamics.io.csv import write_csv
from dynamics.io.json import to_json
from dynamics.presentation import methods, style, ticks

GAMES = ("selfplay", "pasodoble", "spc", "seirenes", "populora")
#: what each seed is asked for itself, beside prompts of the probes: held-out problems under hints, held-out steps, its proposals
HINTS, STEPS, PROPOSED = "fixed hints", "held-out steps", "last proposals"
#: unseen problems that all runs were asked: a run on a part of the laboratory is asked others too
SHARED = "test, shared"
#: the control of PopuLoRA
ONE_AGENT = "populora, one agent"
CLAIMS = Family(
    (
        Claim("opposition keeps entropy", (Conjunct("entropy", "seirenes", "seirenes, no adversary", PROMPTS, 1),)),
        Claim("populations keep the structure of proposals", (Conjunct("complexity", "populora", ONE_AGENT, PROPOSED, 1),)),
        Claim(
            "dual play beats one model, and two models that play plain AZR",
            (
                Conjunct("pass@1", "pasodoble, T=1", "pasodoble, shared players, T=1", "test", 1),
                Conjunct("pass@1", "pasodoble, T=1", "selfplay, two players, T=1", "test", 1),
            ),
        ),
        Claim(
            "an adversary's hints make robust, also against an adversary that stays the base",
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
        Claim(
            "the population's student beats one agent, and that of frozen teachers",
            (
                Conjunct("pass@1", "populora, T=1", f"{ONE_AGENT}, T=1", "test", 1),
                Conjunct("pass@1", "populora, T=1", "populora, frozen proposer, T=1", "test", 1),
            ),
        ),
    )
)
#: kinds of runs in which one player, not of adapters, has several roles, whose gradients can be opposed
SHARING = ("selfplay", "seirenes", "pasodoble, shared players")
#: what the claims cannot say at this scale
LIMITS = (
    "One size of model (0.9 million parameters), 100 steps, programs of at most four operations without branches: structure is the "
    "complexity of such programs, and nothing is said of cyclomatic numbers. Whether opposition keeps entropy is asked of Seirênes, whose "
    "control differs in the adversary alone; entropy of the others and of RLVR is drawn, but they train on other data.",
    "pass@1 at temperature 1 also rises if a model only grows surer: read it beside the gain of greedy answers, a tick in the figure. "
    "SPC's critic is trained to judge steps, so its pass@k says what that does to its answers.",
    "How often a generator deceives is the share of its valid wrong steps; one that writes fewer of them is not counted down.",
)
#: quantities of an update -> title
UPDATES = {
    "sparsity": "unchanged, bf16",
    "overlap": "overlap with RLVR",
    "angle_left_max": "largest angle",
    "stable_rank": "stable rank",
}
#: unit of each of them
UNITS = {"sparsity": "share of weights", "overlap": "times chance", "angle_left_max": "degrees", "stable_rank": "mean of matrices"}
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
    numbers : what each run has one number of.
    rows : the table of curves, but for what is drawn from graded samples.
    missing : what was not measured: (what, of what, why).
    shared : the unseen problems that all runs were asked, in words.
    labels : of all runs, in their order.
    usual : those of runs without varied settings.
    bases : label -> name of its base.
    """

    recorded: studies.Recorded
    numbers: Numbers = field(default_factory=Numbers)
    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: list[tuple[str, str, str]] = field(default_factory=list)
    shared: str = ""
    labels: list[str] = field(default_factory=list)
    usual: list[str] = field(default_factory=list)
    bases: dict[str, str] = field(default_factory=dict)

    def scores(self, measured: str, name: str, problems: str) -> Scores:
        """Return what was measured of a model; see ``claims.Source``."""
        source = self.numbers if problems in (PROMPTS, HINTS, STEPS, PROPOSED) else self.recorded
        return source.scores(measured, name, problems)


def read(runs: Sequence[Run]) -> Played:
    """Read all that the study needs from runs, and from ``crossplay/`` and ``conflict/`` beside them.

    Raises
    ------
    InputError : no run is of a game, a file is damaged, or two runs of one seed were compared with other bases.
    """
    if not any(run.method in GAMES for run in runs):
        others = ", ".join(dict.fromkeys(run.method for run in runs))
        raise InputError(f"{runs[0].path.parent}: has no run of a game ({', '.join(GAMES)}), only of {others}")
    recorded = studies.read(runs)
    common = _asked_of_all(recorded.evaluated.samples)
    samples = pd.concat([recorded.evaluated.samples, common])
    forms = " and ".join(sorted(set(common["task"])))
    count = f"{plural(common['problem'].nunique(), 'unseen problem')} of {forms}"
    played = Played(replace(recorded, evaluated=Graded(samples)), shared=count if len(common) else "")
    played.labels.extend(dict.fromkeys(run.label for run in runs))
    played.usual.extend(dict.fromkeys(run.label for run in runs if not run.varied))
    played.bases.update({run.label: studies.base_name(run, "base") for run in runs})
    played.missing.extend(("all", game, "no run") for game in GAMES if game not in {run.method for run in runs})
    for run in runs:
        _outcomes(run, played)
    usual = [run for run in runs if not run.varied]
    played.rows.extend(_with_intervals(row for run in runs for row in _entropy(run)))
    played.rows.extend(_with_intervals(row for run in usual if run.method in GAMES for row in _of_game(run, played)))
    played.rows.extend(_with_intervals(row for run in runs if run.label in SHARING for row in _conflict(run, played)))
    played.rows.extend(_with_intervals(_updates(usual, played)))
    return played


def _asked_of_all(samples: pd.DataFrame) -> pd.DataFrame:
    """Return the samples of those unseen problems that all models of all runs were asked, as of the set ``SHARED``."""
    unseen = samples[samples["split"] == "test"]
    models = unseen.groupby("problem")["name"].nunique()
    common = models.index[models == samples["name"].nunique()]
    return unseen[unseen["problem"].isin(common)].assign(split=SHARED)


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
    """Add what claims need of one run: entropy, complexity of proposals, robustness, and the table of critics."""
    for measured, metric, problems in (("entropy", "probe/solver/entropy", PROMPTS), ("complexity", "program/complexity", PROPOSED)):
        if metric in run.metrics and not run.metrics[metric].dropna().map(is_number).all():
            raise InputError(f"{run.path / 'metrics.jsonl'}: {metric} is not a number in every line; restore the file from a copy")
        value = first_and_last_fifth(run.metrics, metric)[1]
        if np.isfinite(value):
            played.numbers.add((measured, run.label, problems), run.seed, value, int(run.metrics[metric].notna().sum()))
    if (run.path / "robustness.jsonl").exists():
        for measured, value, count in _robustness(run.path / "robustness.jsonl"):
            played.numbers.add((measured, run.label, HINTS), run.seed, value, count)
    elif run.method == "seirenes":
        played.missing.append(("robustness", run.path.name, "no robustness.jsonl; is it finished?"))
    if (run.path / "critic.jsonl").exists():
        for measured, value, count in _critics(run.path / "critic.jsonl"):
            played.numbers.add((measured, run.label, STEPS), run.seed, value, count)
    elif run.method == "spc":
        played.missing.append(("critics", run.path.name, "no critic.jsonl; is it finished?"))


def _robustness(path: Path) -> Iterator[tuple[str, float, int]]:
    """Yield what misleading hints cost the trained model, on average over problems, and its accuracy without and under them.

    Hints are those of rules and of the base, which are the same for all runs of a seed; true hints, and those of the trained model, are not
    among them.
    """
    rows = read_json_lines(path, {"model": is_text, "problem": is_text, "kind": is_text, "samples": is_number, "correct": is_number})
    clean: dict[str, float] = {}
    hinted: dict[str, list[float]] = {}
    for row in rows:
        if row["model"] != "trained" or row.get("true") is True or row["kind"] == "trained" or not row["samples"]:
            continue
        rate = row["correct"] / row["samples"]
        if row["kind"]:
            hinted.setdefault(row["problem"], []).append(rate)
        else:
            clean[row["problem"]] = rate
    both = [(clean[problem], float(np.mean(rates))) for problem, rates in hinted.items() if problem in clean]
    if not both:
        raise InputError(f"{path}: has no problem that the trained model answered with and without a misleading hint; ask it again")
    without, under = np.mean(both, axis=0)
    yield "robustness gap", float(without - under), len(both)
    yield "clean accuracy", float(without), len(both)
    yield "hinted accuracy", float(under), len(both)


def _greedy_critics(path: Path) -> dict[tuple[int, int | str], dict[str, Any]]:
    """Read the table of critics: (round of the critic, round of the generator or ``rule``) -> outcomes of greedy judgements."""
    fields = {"critic": is_number, "generator": _is_generator, "manner": is_text, "wrong": _is_estimate, "harmonic": _is_estimate}
    rows = read_json_lines(path, fields)
    return {(row["critic"], row["generator"]): row for row in rows if row["manner"] == "greedy"}


def _is_generator(value: object) -> bool:
    return value == "rule" or is_number(value)


def _is_estimate(value: object) -> bool:
    return isinstance(value, dict) and is_number(value.get("count")) and (value.get("value") is None or is_number(value["value"]))


def _critics(path: Path) -> Iterator[tuple[str, float, int]]:
    """Yield the harmonic mean of the last critic's recalls on steps of the base, and how often the last generator deceives the base."""
    by = _greedy_critics(path)
    last = max((critic for critic, _ in by), default=0)
    writer = max((generator for _, generator in by if not isinstance(generator, str)), default=0)
    for measured, key, outcome in (("harmonic mean", (last, 0), "harmonic"), ("deceived", (0, writer), "wrong")):
        if key not in by:
            raise InputError(f"{path}: has no critic of round {key[0]} on steps of generator {key[1]}; restore the file from a copy")
        found = by[key][outcome]
        if found["value"] is not None:
            yield measured, 1 - float(found["value"]) if measured == "deceived" else float(found["value"]), int(found["count"])


# what is drawn


def _entropy(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the entropy of each role on fixed prompts at each step at which it was measured."""
    for line in run.lines:
        for name, value in line.items():
            if (found := re.fullmatch(r"probe/(\w+)/entropy", name)) and is_number(value):
                about = {"panel": "entropy", "label": run.label, "seed": run.seed, "series": found[1]}
                yield about | {"at": line["step"], "value": value}


def _of_game(run: Run, played: Played) -> Iterator[dict[str, Any]]:
    """Yield what is drawn of one game over training: cross-play, difficulty, diversity."""
    for rows in (_rounds(run) if run.method == "spc" else _cross_play(run, played), _diversity(run, played)):
        yield from ({"label": run.label, "seed": run.seed, "series": ""} | row for row in rows)


def _cross_play(run: Run, played: Played) -> list[dict[str, Any]]:
    """List the accuracy of each checkpoint on the tasks of each phase; that of the base is their difficulty."""

    def rows(document: dict[str, Any]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for number, phase in enumerate(document["phases"], start=1):
            known = [(_step_of(cell["checkpoint"]), cell["value"]) for cell in phase["accuracy"]]
            made += [
                {"panel": "crossplay", "series": str(phase["phase"]), "at": step, "value": float(value)}
                for step, value in known
                if value is not None
            ]
            made += [{"panel": "difficulty", "at": number, "value": float(value)} for _, value in known[:1] if value is not None]
        return made

    return _measured(run, "crossplay", played, rows)


def _conflict(run: Run, played: Played) -> list[dict[str, Any]]:
    """List the cosine of the gradients of each pair of roles in the steps after checkpoints."""

    def rows(document: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"panel": "conflict", "label": run.label, "seed": run.seed, "series": name.removeprefix("conflict/cosine/").replace("/", ", ")}
            | {"at": int(step["step"]), "value": float(value)}
            for step in document["steps"]
            for name, value in step["metrics"].items()
            if name.startswith("conflict/cosine/") and value is not None  # a role without a gradient
        ]

    return _measured(run, "conflict", played, rows)


def _rounds(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the share of the wrong steps of each round's generator that the critic of each round finds."""
    if not (run.path / "critic.jsonl").exists():
        return
    table = _greedy_critics(run.path / "critic.jsonl")
    for (critic, generator), row in sorted(table.items(), key=lambda item: (str(item[0][1]), item[0][0])):
        if not isinstance(generator, str) and row["wrong"]["value"] is not None:
            yield {"panel": "crossplay", "series": f"round {generator}", "at": critic, "value": row["wrong"]["value"]}


def _measured(run: Run, what: str, played: Played, rows: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Make rows from what was measured of a run afterwards; none, with a sentence, if it was not or could not be."""
    path = run.path.parent / what / f"{run.path.name}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if reason := document.get("refused"):
            played.missing.append((what, run.path.name, str(reason)))
            return []
        return rows(document)
    except FileNotFoundError:
        todo = f"not computed; python -m dynamics.train.{what} {run.path.parent}/RUN --json {path.parent}/RUN.json"
        played.missing.append((what, run.path.name, todo))
        return []
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not what python -m dynamics.train.{what} --json writes; remove it and measure again") from error


def _step_of(checkpoint: str) -> int:
    return int(checkpoint.rpartition(" ")[2])


def _diversity(run: Run, played: Played) -> Iterator[dict[str, Any]]:
    """Yield one minus the similarity of tasks to the nearest of earlier phases, for each role that has some."""
    from dynamics.games.comparison import measure_run
    from dynamics.runs import open_run

    try:
        measures = measure_run(open_run(run.path), run.path.name)
    except InputError as error:
        played.missing.append(("diversity", run.path.name, str(error)))
        return
    for row in measures.rows:
        if row.measure == "similarity_nearest" and not row.task and np.isfinite(row.estimate.value):
            yield {"panel": "diversity", "series": row.role, "at": row.phase + 1, "value": 1 - row.estimate.value}


def _updates(runs: Sequence[Run], played: Played) -> Iterator[dict[str, Any]]:
    """Yield sparsity, overlap and spectrum of the update of each player.

    Adapters have no base of their own: it is that of another run which began with the same weights, by their checksum.
    """
    rlvr = {run.seed: run for run in runs if run.method == "rlvr" and run.has_weights}
    whole = [run for run in runs if run.has_weights and not _is_adapter(run.checkpoints[0])]
    bases = {_checksum(run): run.checkpoints[0] for run in whole}
    for run in runs:
        if not run.has_weights:
            played.missing.append(("updates", run.path.name, "no base and later checkpoint"))
            continue
        base = bases.get(_checksum(run)) if _is_adapter(run.checkpoints[0]) else run.checkpoints[0]
        if base is None:
            played.missing.append(("updates", run.path.name, "of adapters, and no run from the same base has its weights"))
            continue
        for player, checkpoint in run.players.items():
            shared = {"label": run.label, "series": player, "seed": run.seed, "at": 0}
            yield from (shared | row for row in _update(base, checkpoint, None if run.method == "rlvr" else rlvr.get(run.seed)))


def _is_adapter(checkpoint: Path) -> bool:
    return (checkpoint / "adapter_config.json").exists()


def _checksum(run: Run) -> str:
    """Return the checksum of the weights that a run began with; of a run without one, what no other has."""
    return run.base_checksum or str(run.path)


def _update(base: Path, checkpoint: Path, other: Run | None) -> Iterator[dict[str, Any]]:
    """Yield the keys of ``UPDATES`` of one update, as far as they can be computed; ``other`` is the run that it overlaps with."""
    yield {"panel": "sparsity", "value": sparsity.compare(base, checkpoint).total.sparsity["bf16"]}
    if other is not None:
        pair = overlap.compare(base, [checkpoint, other.checkpoints[-1]]).total[0].rules["bf16"]
        if chance := pair.jaccard_chance_by_tensor:
            yield {"panel": "overlap", "value": pair.jaccard / chance}
    matrices, _ = spectra.compare(base, checkpoint)
    for name in ("angle_left_max", "stable_rank"):
        values = np.array([getattr(matrix, name) for matrix in matrices], float)
        if np.isfinite(values).any():
            yield {"panel": name, "value": float(np.nanmean(values))}


def curves(played: Played) -> pd.DataFrame:
    """Make the table of what is drawn: ``COLUMNS``.

    Panels: pass@k (unseen programs at temperature 1, ``at`` is k), gain (pass@1 minus the base), entropy, crossplay, difficulty, diversity,
    conflict, and the keys of ``UPDATES``.
    """
    found = [*_pass_at_k(played), *_gains(played)]
    return pd.DataFrame([*(row | {"series": ""} for row in found), *played.rows], columns=list(COLUMNS))


def _pass_at_k(played: Played) -> Iterator[dict[str, Any]]:
    bases = sorted(set(played.bases.values()), key=lambda base: base != "base")[:1]
    for label in (*bases, *played.usual):
        for k in KS:
            try:
                scores = played.scores(f"pass@{k}", f"{label}, T=1", SHARED)
            except InputError:
                break
            found = statistics.effect(scores.values, scores.programs)
            row = studies.drawn("pass@k", "base" if label in bases else label, k, found, scores)
            yield row | {"low": max(0.0, row["low"]), "high": min(1.0, row["high"])}


def _gains(played: Played) -> Iterator[dict[str, Any]]:
    """Yield what each method and control gains over its base, over the seeds that it has."""
    for label in played.labels:
        for manner, at in MANNERS.items():
            try:
                first, base = (played.scores("pass@1", f"{name}, {manner}", SHARED) for name in (label, played.bases[label]))
            except InputError:
                continue
            own = [base.seeds.index(seed) for seed in first.seeds]
            same = replace(base, values=base.values[own], seeds=first.seeds)
            yield studies.drawn("gain", label, at, contrast(first, same), first)


def notes(played: Played) -> list[str]:
    """Say what the claims cannot, what the rows of claims rest on, and what was not measured."""
    shared = f"pass@k and gains: {played.shared}, which all runs were asked." if played.shared else ""
    numbers = played.numbers.values
    hints = [
        f"{label} {np.mean(list(found.values())):.2f} and {np.mean(list(numbers['hinted accuracy', label, HINTS].values())):.2f}"
        for (measured, label, _), found in numbers.items()
        if measured == "clean accuracy"
    ]
    robust = f"Accuracy without and under misleading hints, without which a gap says little: {', '.join(hints)}." if hints else ""
    told = [text for text in (shared, robust, *LIMITS) if text]
    if not played.missing:
        return told
    reasons = dict.fromkeys((what, why) for what, _, why in played.missing)
    names = {key: ", ".join(name for what, name, why in played.missing if (what, why) == key) for key in reasons}
    return [*told, "", "Not measured, and left out:", "", *(f"- {what} of {of}: {why}" for (what, why), of in names.items())]


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure: panels without anything measured say so."""
    labels = list(dict.fromkeys(table.loc[table["panel"] == "gain", "label"]))
    played = [game for game in GAMES if game in set(table["label"])] or list(GAMES[:1])
    pairs = len(table.loc[table["panel"] == "conflict", ["label", "series"]].drop_duplicates())
    heights = [1.0 + 0.19 * max(8, len(labels)), 1.9, 2.1, 2.3 + 0.13 * max(4, pairs), 1.1 + 0.19 * max(4, len(_players(table)))]
    drawing = style.new_figure(style.TWO_COLUMN, sum(heights))
    rows: Any = drawing.subfigures(5, 1, height_ratios=heights)
    left, right = rows[0].subplots(1, 2)
    pass_at_k(table, left)
    gains(table, right)
    for ax, game in zip(rows[1].subplots(1, len(played), sharey=True, squeeze=False)[0], played, strict=True):
        entropy(table, ax, game)
    rows[1].supylabel("entropy, fixed prompts", fontsize=8)
    for number, (ax, game) in enumerate(zip(rows[2].subplots(1, len(played), squeeze=False)[0], played, strict=True)):
        cross_play(table, ax, game, named=not number)
    rows[2].supylabel("cross-play", fontsize=8)
    for ax, panel in zip(rows[3].subplots(1, 3), (*BY_PHASE, "conflict"), strict=True):
        over_training(table, ax, panel)
    for number, (ax, panel) in enumerate(zip(rows[4].subplots(1, len(UPDATES), sharey=True), UPDATES, strict=True)):
        updates(table, ax, panel, named=not number)
    return drawing


def _players(table: pd.DataFrame) -> list[tuple[str, str]]:
    """List label and name of the players whose updates were measured, in the order of labels, then names."""
    found = table.loc[table["panel"] == "sparsity", ["label", "series"]].drop_duplicates()
    order = {label: number for number, label in enumerate(dict.fromkeys(found["label"]))}
    return sorted(((str(label), str(series)) for label, series in found.to_numpy()), key=lambda player: (order[player[0]], player[1]))


def _empty(ax: Axes) -> None:
    ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", color=style.FAINT, fontsize=8)
    ax.set(xticks=[], yticks=[])


def pass_at_k(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw pass@k of the base, with its interval, and of runs without varied settings."""
    rows = table[table["panel"] == "pass@k"]
    for label in dict.fromkeys(rows["label"]):
        methods.line(rows[rows["label"] == label], "at", label, ax, band=label == "base")
    ax.set_xscale("log", base=2)
    ax.set_xticks(KS, [str(k) for k in KS])
    ax.set_ylim(0, 1)
    ax.set(title="pass@k, unseen", xlabel="k")
    if len(rows):
        ax.legend(fontsize=7, ncols=2, loc="lower right", columnspacing=1, handlelength=1.6)
    else:
        _empty(ax)
    return ax


def gains(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw what each method and control gains over its base; controls are hollow, greedy answers ticks."""
    rows = table[(table["panel"] == "gain") & (table["at"] == 1)].reset_index(drop=True)
    greedy = table[(table["panel"] == "gain") & (table["at"] == 0)].set_index("label")["value"]
    for place, row in enumerate(rows.to_dict("records")):
        if row["label"] in greedy:
            tick: dict[str, Any] = {"marker": "|", "markersize": 8, "markeredgewidth": 1.5, "color": methods.color(row["label"])}
            ax.plot([greedy[row["label"]]], [place], linestyle="none", alpha=0.6, **tick)
        marker = methods.marker_style(row["label"]) | ({"markerfacecolor": "none"} if "," in row["label"] else {})
        error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        ax.errorbar([row["value"]], [place], xerr=error, linestyle="none", elinewidth=1.4, markersize=4.5, **marker)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_yticks(range(len(rows)), list(rows["label"]), fontsize=7.5)
    ax.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    ax.set(title="pass@1 minus the base", xlabel="T = 1; ticks: both greedy")
    _within(ax, rows, "x")
    ticks.plain(ax.xaxis, 3, least=2)
    if rows.empty:
        _empty(ax)
    return ax


def _within(ax: Axes, rows: pd.DataFrame, axis: Literal["x", "y"]) -> None:
    """Let the values say what an axis spans, where intervals of few seeds would leave them no room."""
    if rows.empty:
        return
    low, high = (ax.get_xlim if axis == "x" else ax.get_ylim)()
    span = max(float(rows["value"].max() - rows["value"].min()), 0.05)
    low, high = max(low, float(rows["value"].min()) - 2 * span), min(high, float(rows["value"].max()) + 2 * span)
    (ax.set_xlim if axis == "x" else ax.set_ylim)(low, high)


#: game -> what the entropy of its solver is drawn beside; of others, RLVR
_REFERENCES = {"seirenes": "seirenes, no adversary"}


def entropy(table: pd.DataFrame, ax: Axes, game: str) -> Axes:
    """Draw the entropy of each role of a game on fixed prompts, beside that of a run without the game."""
    rows = table[(table["panel"] == "entropy") & (table["label"] == game)]
    for role in sorted(set(rows["series"])):
        methods.line(rows[rows["series"] == role], "at", role, ax, color=methods.ROLES.get(role, methods.OTHER), marker="")
    reference = _REFERENCES.get(game, "rlvr")
    beside = table[(table["panel"] == "entropy") & (table["label"] == reference) & (table["series"] == "solver")]
    if len(beside) and "solver" in set(rows["series"]):
        methods.line(beside, "at", reference.removeprefix(f"{game}, "), ax, False, color=style.FAINT, marker="", linestyle="dashed")
    ax.set_title(game, fontsize=9)
    ax.set_xlabel("step")
    ax.set_ylim(0, 1.5 * float(table.loc[table["panel"] == "entropy", "value"].max() if len(rows) else 1))
    if len(rows):
        ax.legend(fontsize=7, loc="upper right", handlelength=1.4, borderaxespad=0, labelspacing=0.2)
    else:
        _empty(ax)
    return ax


def cross_play(table: pd.DataFrame, ax: Axes, game: str, named: bool = True) -> Axes:
    """Draw the cross-play matrix of a game, the mean over seeds: a row for each phase, a column for each checkpoint.

    That of SPC has the rounds of generator and critic: the share of the wrong steps of one that the other finds.
    """
    rows = table[(table["panel"] == "crossplay") & (table["label"] == game)]
    about = {"spc": "spc: rounds", "seirenes": "seirenes: hints"}
    ax.set_title(about.get(game, game), fontsize=9)
    if rows.empty:
        _empty(ax)
        return ax
    phases = list(dict.fromkeys(rows["series"]))
    wide = rows.pivot(index="series", columns="at", values="value").reindex(phases)
    ax.imshow(wide.to_numpy(float), cmap=style.SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
    small = max(wide.shape) > 3
    for (y, x), value in np.ndenumerate(wide.to_numpy(float)):
        if np.isfinite(value):
            text = f"{value:.2f}".removeprefix("0") if small else f"{value:.2f}"
            ax.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if value < 0.6 else "black")
    ax.grid(False)
    ax.set_xticks(range(len(wide.columns)), [f"{step:g}" for step in wide.columns], fontsize=7)
    names = [phase.removeprefix("steps ").removeprefix("round ") for phase in phases]
    ax.set_yticks(range(len(phases)), names, fontsize=7, rotation=90 if max(map(len, names)) > 2 else 0, va="center")
    ax.set_xlabel("critic" if game == "spc" else "solver of step", fontsize=8)
    if named or game == "spc":
        ax.set_ylabel("generator" if game == "spc" else "tasks of steps", fontsize=8)
    return ax


def over_training(table: pd.DataFrame, ax: Axes, panel: str) -> Axes:
    """Draw a key of ``BY_PHASE`` by phase, or the cosine of the gradients of each pair of roles by step."""
    rows = table[table["panel"] == panel]
    steps = sorted(set(rows["at"]))
    width = 0.02 * (steps[-1] - steps[0]) if len(steps) > 1 else 0.05
    several = rows[["label", "series"]].drop_duplicates().to_numpy().tolist()
    for number, (label, series) in enumerate(several):
        own = rows[(rows["label"] == label) & (rows["series"] == series)].sort_values("at")
        roles = list(dict.fromkeys(rows.loc[rows["label"] == label, "series"]))
        dash = ("solid", "dashed", "dotted", "dashdot")[roles.index(series) % 4]
        name = f"{label}: {series}" if len(roles) > 1 else label
        look: dict[str, Any] = methods.marker_style(label) | {"markersize": 3.5, "elinewidth": 0.9, "linestyle": dash, "label": name}
        look |= {"markerfacecolor": "none"} if "," in label else {}
        low = own["low"] if panel == "conflict" else own["low"].clip(lower=0)  # Student's interval does not know what a share is
        error = [own["value"] - low, own["high"] - own["value"]]
        ax.errorbar(own["at"] + width * (number - (len(several) - 1) / 2), own["value"], yerr=error, **look)
    ax.set_title(BY_PHASE.get(panel, "cosine of the\nroles' gradients"), fontsize=9)
    ax.set_xlabel("step" if panel == "conflict" else "phase of training")
    if rows.empty:
        _empty(ax)
        return ax
    _within(ax, rows, "y")
    if panel == "conflict":
        ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    else:
        ax.set_xticks(steps)
    ticks.plain(ax.yaxis, 4)
    columns = 1 if any(":" in str(text) or "," in str(text) for text in ax.get_legend_handles_labels()[1]) else 2
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.32)}
    ax.legend(fontsize=7, ncols=columns, handlelength=1.6, labelspacing=0.2, columnspacing=1, **place)
    return ax


def updates(table: pd.DataFrame, ax: Axes, panel: str, named: bool) -> Axes:
    """Draw a quantity of the update of each player: mean and interval over seeds."""
    places = {player: place for place, player in enumerate(_players(table))}
    rows = table[table["panel"] == panel]
    for row in rows.to_dict("records"):
        place = places[row["label"], row["series"]]
        if np.isfinite(row["low"]):
            span = [max(row["low"], 0), row["high"]]  # Student's interval does not know that none of these is negative
            ax.plot(span, [place, place], color=methods.color(row["label"]), linewidth=4, alpha=0.3)
        ax.plot([row["value"]], [place], linestyle="none", markersize=4.5, **methods.marker_style(row["label"]))
    ax.set_title(UPDATES[panel], fontsize=9)
    ax.set_xlabel(UNITS[panel], fontsize=8)
    ax.set_ylim(max(1, len(places)) - 0.5, -0.5)
    if named:
        ax.set_yticks(range(len(places)), [f"{label} {player}".strip() for label, player in places], fontsize=7.5)
    _within(ax, rows, "x")
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
        f"{seeds}, each with its own base, at matched steps, learning rate and, but for what games decide, completions. pass@k: unseen "
        "problems that all runs were asked, at temperature 1; hollow: controls, ticks: both greedy. Dashed: entropy of RLVR's solver, of "
        "Seirênes that of its control without an adversary. Cross-play: accuracy of the solver of a step on the tasks of a phase, mean "
        "over seeds; compare along rows. Seirênes: on problems under the hints of a phase. SPC: share of the wrong steps of a round's "
        "generator that the critic of a round finds. Distance: 1 - similarity to the nearest task of an earlier phase. Cosine: where one "
        "model has several roles. Bars and bands: 95 % over "
        f"seeds, for pass@k and gains over seeds and programs, each for itself.{without}"
    )


STUDY = Study("games", __doc__, CLAIMS, read, curves, figure, caption, notes)


# training and measuring


def main(folder: Path, figures: Path, force: bool, scheduler: str | None = None) -> list[Path]:
    """Fix the claims, train the runs of the preset ``games``, measure what needs checkpoints, and judge.

    Returns
    -------
    The paths of the files.
    """
    from analyses.launch import train

    where = runs_folder("games", folder)
    if not list(where.glob("*/run.json")):
        STUDY.fix(where)
    train("games", where, force, scheduler)
    runs = find([where])
    measure(runs, force)
    out = figures / "games"
    text, _, paths = STUDY.judge(runs, out, where)
    tell(text)
    write_csv(out / "matching.csv", contrasts(runs))
    return [*paths, out / "matching.csv"]


def measure(runs: Sequence[Run], force: bool = False) -> None:
    """Compute cross-play of games and conflict of roles, into ``crossplay/`` and ``conflict/`` beside the runs.

    Cross-play is that of games without varied settings, but for SPC, whose rounds are its cross-play; conflict that of runs in which one
    player has several roles. What a run cannot give is written down with its reason. Existing files are kept, unless ``force``.
    """
    from dynamics.train.conflict import report as conflict
    from dynamics.train.crossplay import report as crossplay

    usual = [("crossplay", run) for run in runs if run.method in GAMES and run.method != "spc" and not run.varied]
    todo = [*usual, *(("conflict", run) for run in runs if run.label in SHARING)]
    for number, (what, run) in enumerate(todo, start=1):
        path = run.path.parent / what / f"{run.path.name}.json"
        if path.exists() and not force:
            continue
        tell(f"  measuring {number}/{len(todo)}: {what} of {run.path.name}")
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
