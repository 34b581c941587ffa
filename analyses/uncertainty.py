"""Trace the entropy of base and trained models over the base's own rollouts.

Question: at which tokens of its own reasoning is the base unsure, and what does training change there?

The text is fixed: what the base sampled at temperature 1 for held-out problems, one sample of each. The base and every model that was
trained from it read the same tokens, so a difference is one of the models and not of what they write. The figure shows entropy along one
of these rollouts, the mean by kind of token, and the change by percentile of the base's entropy.

What was selected on the base's entropy falls back when it is measured with another model, also with one that is no surer: the tokens at
the upper end are those at which this base happens to be unsure. So the change to the base of another seed, which was trained on nothing
further, is drawn beside it. A model that did not change at all has 0 everywhere, as the entropy of a fixed text has no sampling noise.

    python -m analyses.uncertainty runs/comparison --out figures        # under a minute for the models of the laboratory
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import analysis
from analyses.pass_at_k import BASE as BASE_SAMPLES
from analyses.runs import Run, default_settings, same_base, token_ids, with_weights
from analyses.verdicts import Verdict, seed_count, with_intervals
from dynamics import InputError, entropy
from dynamics.descriptions import plural
from dynamics.models import compare_vocabularies
from dynamics.presentation import methods, style, ticks
from dynamics.presentation.text import percent
from dynamics.report.plot_uncertainty import shown_token
from dynamics.rollouts.texts import Document

TITLE = "Where the model is unsure"
CLAIM = "no claim about this"
#: problems of a seed, evenly spaced over those of the evaluation, with one sample each
PROBLEMS = 60
#: bins of the base's entropy, with equally many tokens
BINS = 10
#: a kind of token is shown if each seed has this many tokens of it
LEAST = 20
#: the rollout that is shown is the one whose length is nearest to this number of tokens; of a longer one as many are shown
SHOWN = 30
BASE, OTHER_BASE = "base", "another base"
COLUMNS = ["part", "label", "seed", "kind", "percentile", "position", "token", "value", "tokens", "texts"]
#: part -> what its intervals over seeds are grouped by, beside the label
INTERVALS = {"mean": [], "change of mean": [], "kind": ["kind"], "change": ["percentile"], "along": ["position"]}


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    base = table[(table["part"] == "mean") & (table["label"] == BASE)]
    along = table[(table["part"] == "along") & (table["label"] == BASE)]
    whole = int(along["tokens"].iloc[0])
    text = (
        f"Entropy of the next token at temperature 1 over the whole vocabulary, in nats, float32, on what the base itself sampled for "
        f"{int(base['texts'].max())} held-out problems a seed, one sample each: {int(base['tokens'].sum()):,} tokens, without prompts, of "
        f"{plural(seed_count(table), 'seed')}. All models read the same tokens. Above: the rollout of seed {int(along['seed'].iloc[0])} "
        f"whose length is nearest to {SHOWN} tokens"
        f"{f', of which the first {len(along)} of {whole} are shown' if whole > len(along) else ''}. Below: means over seeds and 95 % t "
        "intervals over seeds."
    )
    if (table["part"] == "kind").any():
        text += " Beside each kind: its share of the tokens."
    if few := table.loc[table["part"] == "few", "kind"].to_list():
        text += f" Kinds with fewer than {LEAST} tokens in a seed are left out: {', '.join(map(_named, few))}."
    text += f" Percentiles: {BINS} bins of the tokens of each seed by the base's entropy. A model that did not change has 0. "
    if (table["label"] == OTHER_BASE).any():
        return text + (
            "What was selected on one model's entropy falls back in any other model: the dashed line is the change to the base of another "
            "seed, over the same tokens, which no method trained."
        )
    return text + (
        "What was selected on one model's entropy falls back in any other model; these runs have one base, so how far it falls in another "
        "base is not known."
    )


def headline(table: pd.DataFrame) -> str:
    """Say what the mean entropy of the base is on its own rollouts, and that of each method."""
    means = table[table["part"] == "mean"].groupby("label", sort=False)["value"].mean()
    changes = table[table["part"] == "change of mean"].groupby("label", sort=False)
    parts = []
    for label, own in changes:
        low, high = own["low"].iloc[0], own["high"].iloc[0]
        told = not np.isfinite(low) or low * high > 0
        parts.append(f"{label} {means[label]:.2g}{'' if told else ' (not told from the base)'}")
    return f"Entropy over the base's own rollouts, nats per token: base {means[BASE]:.2g}; {', '.join(parts)}"


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns part, label, seed, kind, percentile, position, token, value, low, high, tokens, texts.

    Parts: mean and change of mean (a row per seed), kind (mean by kind of token), few (kinds left out), change (mean change by percentile
    of the base's entropy; label ``another base``: to the base of another seed), along (the tokens of one rollout).

    Raises
    ------
    InputError : no run has weights and samples of its base with token ids; the runs of a seed start from different bases.
    """
    by_seed: dict[int, list[Run]] = {}
    for run in with_weights(default_settings(runs)):
        by_seed.setdefault(run.seed, []).append(run)
    texts = {seed: _rollouts(own) for seed, own in by_seed.items()}
    rows = [row for seed, own in by_seed.items() for row in _rows(own, texts[seed], _another_base(own[0], by_seed), seed == min(by_seed))]
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    kinds = table[table["part"] == "kind"].groupby("kind").agg(seeds=("seed", "nunique"), least=("tokens", "min"))
    few = sorted(kinds.index[(kinds["least"] < LEAST) | (kinds["seeds"] < len(by_seed))])
    kept = table[~((table["part"] == "kind") & table["kind"].isin(few))]
    parts = [with_intervals(own, ["label", *INTERVALS[str(part)]]) for part, own in kept.groupby("part", sort=False)]
    return pd.concat([*parts, pd.DataFrame({"part": "few", "kind": few})], ignore_index=True)


def _rollouts(runs: Sequence[Run]) -> list[Document]:
    """Return the rollouts of the base of a seed: one sample at temperature 1 of each chosen problem."""
    if not all(same_base(runs[0], run) for run in runs[1:]):
        names = ", ".join(run.path.name for run in runs)
        raise InputError(f"{names}: runs of seed {runs[0].seed} start from different bases; compare those of one base at a time")
    for run in runs:
        first: dict[str, Document] = {}
        for sample in run.samples():
            if sample["model"] == BASE_SAMPLES and sample["problem"] not in first and (ids := token_ids(sample)):
                prompt, completion = ids
                first[sample["problem"]] = Document(sample["problem"], ids=(*prompt, *completion), prompt_tokens=len(prompt))
        if first:
            chosen = np.unique(np.linspace(0, len(first) - 1, min(PROBLEMS, len(first))).astype(int))
            return [list(first.values())[index] for index in chosen]
    raise InputError(
        f"{runs[0].path / 'evals'}: has no samples of the base at temperature 1 with prompt_ids and completion_ids; dynamics.train with "
        "--eval-problems writes them"
    )


def _another_base(run: Run, by_seed: dict[int, list[Run]]) -> Path | None:
    """Find the base of the next seed that has another base than a run; None if all have the same."""
    seeds = sorted(by_seed)
    place = seeds.index(run.seed)
    others = [by_seed[seed][0] for seed in (*seeds[place + 1 :], *seeds[:place])]
    return next((other.checkpoints[0] for other in others if not same_base(other, run)), None)


def _rows(runs: Sequence[Run], texts: Sequence[Document], another: Path | None, shown: bool) -> Iterator[dict[str, Any]]:
    """Make the rows of the runs of one seed; ``shown``: with those of the rollout that is drawn."""
    models = {run.label: run.checkpoints[-1] for run in runs} | ({OTHER_BASE: another} if another else {})
    read = {label: _read(runs[0].checkpoints[0], model, texts) for label, model in models.items()}
    first = read[runs[0].label]
    entropies = {BASE: first["entropy"]} | {label: tokens["entropy_b"] for label, tokens in read.items()}
    lengths = first.groupby("text", sort=False).size()
    one = first["text"] == lengths.index[int(np.argmin(abs(lengths.to_numpy() - SHOWN)))]
    for label, values in entropies.items():
        about = {"label": label, "seed": runs[0].seed}
        if label != BASE:
            bins = entropy.change_by_percentile(read[label], BINS)
            for row in bins.to_dict("records"):
                yield about | {"part": "change", "percentile": row["percentile"], "value": row["change"], "tokens": row["tokens"]}
        if label == OTHER_BASE:
            continue
        yield about | {"part": "mean", "value": values.mean(), "tokens": len(values), "texts": len(lengths)}
        if label != BASE:
            yield about | {"part": "change of mean", "value": (values - entropies[BASE]).mean(), "tokens": len(values)}
        for kind, own in values.groupby(first["kind"]):
            yield about | {"part": "kind", "kind": kind, "value": own.mean(), "tokens": len(own)}
        if shown:
            rollout = zip(first.loc[one, "token"], values[one], strict=True)
            for position, (token, value) in enumerate(islice(rollout, SHOWN + SHOWN // 4), start=1):
                yield about | {"part": "along", "position": position, "token": token, "value": value, "tokens": int(one.sum())}


def _read(base: Path, model: Path, texts: Sequence[Document]) -> pd.DataFrame:
    """Trace the base, and another model as the second, over texts; return the tokens of the completions, with their kind."""
    from dynamics.train.lab.tokenizer import SCHEME, is_of_laboratory
    from dynamics.train.token_kinds import TokenKinds

    (ours, tokenizer), (theirs, other) = (entropy.load(str(path), None, "float32", tokenizer_of=str(base)) for path in (base, model))
    compare_vocabularies(tokenizer, other, str(model))
    traced = entropy.trace(ours, tokenizer, texts, against=theirs, rank=False)
    tokens = traced.tokens[~traced.tokens["prompt"]].reset_index(drop=True)
    completions = [own.to_numpy() for _, own in tokens.groupby("text", sort=False)["token_id"]]
    kinds = TokenKinds(tokenizer, [tokenizer.eos_token_id], SCHEME if is_of_laboratory(tokenizer) else None)
    names, index = kinds.of(completions)
    return tokens.assign(kind=[names[number] for number in index])


def along(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw entropy along one rollout, a line a model; bars below those of the base."""
    rows = table[table["part"] == "along"].sort_values("position", kind="stable")
    base = rows[rows["label"] == BASE]
    ax.bar(base["position"], base["value"], width=0.8, color="#d4d4d4")
    for label in dict.fromkeys(table.loc[table["part"] == "along", "label"]):
        own = rows[rows["label"] == label]
        look: dict[str, Any] = {"linestyle": "none"} if label == BASE else {"linewidth": 0.8}
        ax.plot(own["position"], own["value"], markersize=3.5, label=label, **look, **methods.marker_style(label))
    tokens = [shown_token(str(token)) for token in base["token"]]
    ax.set_xticks(base["position"], tokens, rotation=90 if max(map(len, tokens)) > 3 else 0, fontsize=7.5, parse_math=False)
    ax.set_xlim(0.3, base["position"].max() + 0.7)
    ax.set_ylim(bottom=0)
    ticks.plain(ax.yaxis, 4)
    ax.set(title="along one rollout of the base", ylabel="entropy, nats", xlabel="token of the rollout")
    return ax


def _named(kind: object) -> str:
    return str(kind).replace("_", " ")


def by_kind(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the mean entropy by kind of token: a row per kind, a marker per model, bars for the intervals."""
    rows = table[table["part"] == "kind"]
    base = rows[rows["label"] == BASE]
    kinds = base.groupby("kind")["value"].mean().sort_values(ascending=False).index
    share = base.groupby("kind")["tokens"].sum() / table.loc[(table["part"] == "mean") & (table["label"] == BASE), "tokens"].sum()
    labels = list(dict.fromkeys(rows["label"]))
    for number, label in enumerate(labels):
        means = rows[rows["label"] == label].groupby("kind")[["value", "low", "high"]].mean().reindex(kinds)
        at = np.arange(len(kinds)) + 0.7 * ((number + 0.5) / len(labels) - 0.5)
        ends = np.nan_to_num(np.stack([means["value"] - means["low"], means["high"] - means["value"]]))
        ax.errorbar(means["value"], at, xerr=ends, linestyle="none", markersize=3.5, elinewidth=1.0, **methods.marker_style(label))
    ax.set_yticks(range(len(kinds)), [f"{_named(kind)}, {percent(share[kind], short=True)}" for kind in kinds], parse_math=False)
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    for border in range(1, len(kinds)):
        ax.axhline(border - 0.5, color=style.GRID, linewidth=0.8, zorder=0)
    ticks.plain(ax.xaxis, 4)
    ax.set(title="by kind of token", xlabel="mean entropy, nats")
    return ax


def changes(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the change of entropy by percentile of the base's entropy, and beside it that of another base."""
    rows = table[table["part"] == "change"].assign(percentile=lambda own: own["percentile"] - 50 / BINS)
    for label in dict.fromkeys(rows["label"]):
        own = rows[rows["label"] == label].groupby("percentile", as_index=False)[["value", "low", "high"]].mean()
        look: dict[str, Any] = {"linestyle": "--", "marker": "", "color": methods.OTHER} if label == OTHER_BASE else {}
        methods.line(own, "percentile", label, ax, **look)
    ax.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.set_xlim(0, 100)
    ticks.plain(ax.xaxis, 5)
    ticks.plain(ax.yaxis, 4, signed=True)
    ax.set(title="change from the base", xlabel="percentile of the base's entropy", ylabel="nats")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    kinds = table.loc[table["part"] == "kind", "kind"].nunique()
    drawing = style.new_figure(style.TWO_COLUMN, 3.1 + max(1.9, 0.24 * kinds))
    mosaic: list[Any] = [["along", "along"], ["kinds", "change"] if kinds else ["change", "change"]]
    axes: Any = drawing.subplot_mosaic(mosaic, height_ratios=[1, max(1.5, 0.17 * kinds)])
    along(table, axes["along"])
    if kinds:
        by_kind(table, axes["kinds"])
    changes(table, axes["change"])
    entries = {label: handle for name in ("along", "change") for handle, label in zip(*axes[name].get_legend_handles_labels(), strict=True)}
    drawing.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=len(entries), fontsize=8)
    return drawing


def verdicts(_table: pd.DataFrame) -> list[Verdict]:
    """Return no verdicts: the paper makes no claim about this."""
    return []


if __name__ == "__main__":
    sys.exit(analysis.run_script())
