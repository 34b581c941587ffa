"""Does training reach problems that the base cannot solve?

The paper holds that it does not: the base's pass@k at large k matches the tuned models'. Drawn: of the held-out problems, those that only
the base solved in all its samples, and those that only the tuned model did; and the base's log-probability of answers that are right, of
problems that only the tuned model solved beside problems that both did. An answer that the base gives with probability p is missed in n
samples with probability (1 - p)^n: "not solved" is not "cannot be solved".

    python -m analyses.support runs/comparison --out figures        # under a minute for the embedded model
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses import question
from analyses.pass_at_k import BASE, WITHIN
from analyses.question import Verdict, judge_rows
from analyses.runs import Run, lines, plain
from dynamics import InputError
from dynamics.passk import bootstrap
from dynamics.presentation import methods, style

TITLE = "Support: what only one of the two solved"
CLAIM = "training adds nothing that the base could not do"
OUTCOMES = {"only base": "only the base", "only tuned": "only the tuned model"}


def caption(table: pd.DataFrame) -> str:
    shares = table[table["part"] == "share"]
    return (
        f"Left: share of {int(shares['problems'].max())} held-out problems of all splits and seeds, solved at least once in "
        f"{int(shares['samples'].max())} samples by one of the two and never by the other; bars: 95 % of Wilson's. "
        "Right: log-probability that the base gives a right answer of the tuned model, the likeliest of each problem, at temperature 1; "
        "the dotted line is where the base would be expected to give it once in as many samples."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns part (share; balance, of all seeds and of each; answer), label, seed, outcome, value, low, high, problems, ..."""
    chosen = [run for run in plain(runs) if len(run.evals)]
    rows: list[dict[str, Any]] = []
    for label in dict.fromkeys(run.label for run in chosen):
        mine = [run for run in chosen if run.label == label]
        each = [_solved(run) for run in mine]
        solved = pd.concat(each)
        shared = {"label": label, "problems": len(solved), "samples": int(solved["samples"].max()), "seeds": len(mine)}
        for outcome, here in (
            ("both", solved["base"] & solved["tuned"]),
            ("only base", solved["base"] & ~solved["tuned"]),
            ("only tuned", ~solved["base"] & solved["tuned"]),
            ("neither", ~solved["base"] & ~solved["tuned"]),
        ):
            low, high = wilson(int(here.sum()), len(solved))
            rows.append({"part": "share", **shared, "outcome": outcome, "value": float(here.mean()), "low": low, "high": high})
        rows.append({"part": "balance", **shared, "outcome": "only tuned - only base", **_balance(solved)})
        for run, found in zip(mine, each, strict=True):
            own = {"seed": run.seed, "outcome": "only tuned - only base", "problems": len(found)}
            rows.append({"part": "balance", **shared, **own, **_balance(found)})
            rows += [{"part": "answer", **shared, "seed": run.seed, **one} for one in _answers(run)]
    if not rows:
        raise InputError("none of the runs has evals/ of the base and of the trained model")
    return pd.DataFrame(rows)


def _solved(run: Run) -> pd.DataFrame:
    """By problem: whether the base and whether the tuned model solved it at all."""
    wide = run.evals[run.evals["name"].isin([BASE, run.label])].groupby(["problem", "name"])["correct"].agg(["any", "size"]).unstack()
    if not {BASE, run.label} <= set(wide["any"].columns):
        raise InputError(f"{run.path / 'evals'}: needs samples of the base at T=1 and of the trained model")
    return pd.DataFrame({"base": wide["any"][BASE], "tuned": wide["any"][run.label], "samples": wide["size"].min(axis=1)}).astype(
        {"base": bool, "tuned": bool}
    )


def _balance(solved: pd.DataFrame) -> dict[str, float]:
    """Share of problems that only the tuned model solved minus that of those that only the base did, by bootstrap over the problems."""
    base, tuned = (solved[name].to_numpy(float)[:, None] for name in ("base", "tuned"))
    ends = bootstrap.difference_interval(base, tuned)
    return {"value": float((tuned - base).mean()), "low": float(ends.low[0]), "high": float(ends.high[0])}


def _answers(run: Run) -> list[dict[str, Any]]:
    """The base's log-probability of the tuned model's right answers: the likeliest of each problem; none of a run without the base."""
    from dynamics.train import policy
    from dynamics.train.batch import Batch

    if not run.has_weights:
        return []
    solved = _solved(run)
    found: dict[str, tuple[list[int], dict[tuple[int, ...], None]]] = {}
    for file in sorted((run.path / "evals").glob("*.jsonl")):
        for row in lines(file):
            if row["correct"] and not row["model"].startswith("base"):
                found.setdefault(row["problem"], (row["prompt_ids"], {}))[1].setdefault(tuple(row["completion_ids"]))
    if not found:
        return []
    asked = [np.array(prompt) for prompt, _ in found.values()]
    pairs = [(place, np.array(ids)) for place, (_, answers) in enumerate(found.values()) for ids in answers]
    of, names = np.array([place for place, _ in pairs]), [""] * len(pairs)
    batch = Batch(asked, [ids for _, ids in pairs], of, np.zeros(len(pairs)), names, names, names)
    base = policy.load(str(run.checkpoints[0]), None, "float32", "float32")
    token = base.logprobs_of(batch, 8192).double().cpu().numpy()
    total = np.add.reduceat(token, np.cumsum(np.append(0, batch.lengths[:-1])))
    best = pd.Series(total).groupby(of).max()
    rows = []
    for place, problem in enumerate(found):
        base_too = bool(solved.loc[f"seed {run.seed}: {problem}", "base"])
        rows.append({"outcome": "both" if base_too else "only tuned", "value": float(best[place])})
    return rows


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a share."""
    from scipy.stats import binomtest

    ends = binomtest(successes, count).proportion_ci(0.95, "wilson")
    return float(ends.low), float(ends.high)


def draw(table: pd.DataFrame, ax: Axes) -> Axes:
    """Shares solved by one of the two only, a row a method and outcome."""
    shares = table[table["part"] == "share"]
    labels = list(dict.fromkeys(shares["label"]))
    for place, label in enumerate(labels):
        for shift, (outcome, filled) in zip((-0.16, 0.16), (("only base", False), ("only tuned", True)), strict=True):
            one = shares[(shares["label"] == label) & (shares["outcome"] == outcome)].iloc[0]
            color = methods.color(label)
            ax.errorbar(
                one["value"],
                place + shift,
                xerr=[[one["value"] - one["low"]], [one["high"] - one["value"]]],
                marker=methods.MARKERS.get(methods.method(label), "o"),
                color=color,
                markerfacecolor=color if filled else "white",
                markersize=6,
            )
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.grid(axis="x")
    ax.set(xlabel="share of the problems", title="solved by one only")
    for outcome, face in (("only base", "white"), ("only tuned", methods.OTHER)):
        ax.plot([], [], "o", color=methods.OTHER, markerfacecolor=face, label=OUTCOMES[outcome])
    ax.legend(loc="lower right", fontsize=7)
    return ax


def answers(table: pd.DataFrame, ax: Axes) -> Axes:
    """Distribution of the base's log-probability of right answers, by method and by whether the base solved the problem."""
    part = table[table["part"] == "answer"]
    for label in dict.fromkeys(part["label"]):
        for outcome, look in (("both", "-"), ("only tuned", "--")):
            values = np.sort(part[(part["label"] == label) & (part["outcome"] == outcome)]["value"])
            if len(values):
                at = np.arange(1, len(values) + 1) / len(values)
                name = f"{label}, {'both solved' if outcome == 'both' else 'only tuned'} ({len(values)})"
                ax.step(values, at, where="post", linestyle=look, color=methods.color(label), label=name)
    samples = int(table["samples"].max())
    ax.axvline(-np.log(samples), color=style.FAINT, linestyle=":", linewidth=1)
    ax.annotate(f"1/{samples}", (-np.log(samples), 0), (3, 3), textcoords="offset points", fontsize=7, color=methods.OTHER)
    ax.set(
        xlabel="the base's log-probability of a right answer, nats", ylabel="share of problems at most that", title="how unlikely it was"
    )
    ax.legend(fontsize=7, loc="upper left")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    made = style.new_figure(style.TWO_COLUMN, 2.9)
    left, right = made.subplots(1, 2, width_ratios=[1, 1.3])
    draw(table, left)
    answers(table, right)
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    found = []
    for label in ("rlvr", "selfplay"):
        part = table[(table["part"] == "balance") & (table["label"] == label)]
        if len(part):
            what = f"share solved by {label} only minus by the base only, {int(part['samples'].max())} samples"
            found.append(judge_rows(f"{label} narrows what can be solved", what, part, -1, WITHIN))
    return found


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
