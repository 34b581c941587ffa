"""Count the problems that only the base or only the tuned model solved.

Question: does training solve problems that the base cannot solve?

The paper says that it does not: the base's pass@k at large k matches that of the tuned models. The figure shows the shares of held-out
problems that only the base solved and that only the tuned model solved, in all samples. It also shows the base's log-probability of correct
answers, for problems that only the tuned model solved and for problems that both solved. If the base gives an answer with probability p, n
samples miss it with probability (1 - p)^n: a problem that was not solved is not one that cannot be solved. So each is drawn beside what a
second set of samples of the base itself would give.

    python -m analyses.support runs/comparison --out figures        # under a minute for the embedded model
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import analysis
from analyses.pass_at_k import BASE, WITHIN
from analyses.runs import Run, default_settings, same_base, token_ids
from analyses.verdicts import Verdict, check_claim_on_rows, over_seeds
from dynamics import InputError, bootstrap
from dynamics.presentation import methods, style, ticks

TITLE = "Support: what only one of the two solved"
CLAIM = "training adds nothing that the base could not do"
#: share of the answers of a curve that may lie left of the axis
LEFT_OUT = 0.02
OUTCOMES = {"only base": "only the base", "only tuned": "only the tuned model"}


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    shares = table[table["part"] == "share"]
    text = (
        f"Share of {int(shares['problems'].max())} held-out problems of all splits and seeds that one model solved at least once in "
        f"{int(shares['samples'].max())} samples and the other never; bars: 95 %, the wider of Wilson's over problems and "
        "Student's over seeds; grey "
        "line: what two sets of samples of the base itself would give on average."
    )
    if not (table["part"] == "answer").any():
        return f"{text} The base's likelihood of correct answers is left out: no run has its weights and samples with token ids."
    halves = table.loc[table["part"] == "expected answer", "samples"]
    again = (
        f"the same without any training, of half of the base's samples ({int(halves.max())}) against the other half; with fewer samples "
        "somewhat likelier answers are missed."
        if len(halves)
        else "nothing, as the base has one sample a problem; with two, one half would be compared with the other."
    )
    return (
        f"{text} Right: the base's log-probability at temperature 1 of the tuned model's correct answers, the most likely of each problem, "
        "counted from the least likely; a curve that begins above 0 goes on to the left. At the dotted line the base is expected to give "
        f"the answer once in that many samples. Dashed: {again}"
    )


def headline(table: pd.DataFrame) -> str:
    """Say how many problems each method won and lost."""
    shares = table[table["part"] == "share"].pivot_table(index="label", columns="outcome", values="value", sort=False)
    parts = [f"{label} {row['only tuned']:.1%} and {row['only base']:.1%}" for label, row in shares.iterrows()]
    return f"Problems solved by the tuned model only, and by the base only: {'; '.join(parts)}"


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns part, label, problems, samples, seeds, seed, outcome, value, low, high.

    Parts: share (of the problems, by outcome), expected (share that only one of two equal models solves), balance (for all seeds together
    and for each), answer (log-probability, one per problem), expected answer (the same of halves of the base's samples, each against the
    other).
    """
    evaluated = [run for run in default_settings(runs) if len(run.evals)]
    rows: list[dict[str, Any]] = []
    for label in dict.fromkeys(run.label for run in evaluated):
        rows += _label_rows(label, [run for run in evaluated if run.label == label])
    seen: list[Run] = []
    for run in evaluated:
        if run.has_weights and not any(other.seed == run.seed and same_base(other, run) for other in seen):
            seen.append(run)
            rows += [{"part": "expected answer", "label": "base", "seed": run.seed, **answer} for answer in _expected_answers(run)]
    if not rows:
        raise InputError("none of the runs has evals/ of the base and of the trained model")
    return pd.DataFrame(rows)


def _label_rows(label: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Make the rows of the runs of one label."""
    by_run = [_solved(run) for run in runs]
    solved = pd.concat(by_run)
    shared = {"label": label, "problems": len(solved), "samples": int(solved["samples"].max()), "seeds": len(runs)}
    rows: list[dict[str, Any]] = [
        {"part": "share", **shared, "outcome": outcome, **_share([_outcome(own, outcome) for own in by_run])}
        for outcome in ("both", "only base", "only tuned", "neither")
    ]
    rows.append({"part": "expected", **shared, "outcome": "only one of two bases", "value": float(_alone(solved).mean())})
    rows.append({"part": "balance", **shared, "outcome": "only tuned - only base", **_balance(solved)})
    for run, own in zip(runs, by_run, strict=True):
        of_run = {"seed": run.seed, "outcome": "only tuned - only base", "problems": len(own)}
        rows.append({"part": "balance", **shared, **of_run, **_balance(own)})
        rows += [{"part": "answer", **shared, "seed": run.seed, **answer} for answer in _answers(run, own)]
    return rows


def _solved(run: Run) -> pd.DataFrame:
    """Tell for each problem whether the base solved it in any sample, and whether the tuned model did."""
    samples = run.evals[run.evals["name"].isin([BASE, run.label])]
    wide = samples.groupby(["problem", "name"])["correct"].agg(["any", "size"]).unstack()
    if not {BASE, run.label} <= set(wide["any"].columns):
        raise InputError(f"{run.path / 'evals'}: needs samples of the base at T=1 and of the trained model")
    solved = pd.DataFrame({"base": wide["any"][BASE], "tuned": wide["any"][run.label], "samples": wide["size"].min(axis=1)})
    correct = samples[samples["name"] == BASE].groupby("problem")["correct"].agg(["sum", "size"])
    rate = (correct["sum"] + 0.5) / (correct["size"] + 1)
    return solved.astype({"base": bool, "tuned": bool}).assign(rate=rate.reindex(solved.index))


def _outcome(solved: pd.DataFrame, outcome: str) -> pd.Series[bool]:
    """Tell for each problem whether it was solved by ``both`` models, by ``only base``, by ``only tuned`` or by ``neither``."""
    by_base, by_tuned = outcome in ("both", "only base"), outcome in ("both", "only tuned")
    return (solved["base"] == by_base) & (solved["tuned"] == by_tuned)


def _share(by_seed: Sequence[pd.Series[bool]]) -> dict[str, float]:
    """Compute the share of the problems of all seeds, with the hull of Wilson's interval over problems and Student's over seeds."""
    together = pd.concat(by_seed)
    over_problems = wilson(int(together.sum()), len(together))
    _, low, high = over_seeds([float(own.mean()) for own in by_seed])
    ends = {"low": float(np.fmin(low, over_problems[0])), "high": float(np.fmax(high, over_problems[1]))}
    return {"value": float(together.mean())} | ends


def _alone(solved: pd.DataFrame) -> pd.Series[float]:
    """Compute the chance that the base solves a problem and a second set of as many of its own samples does not.

    The base's rate is estimated with half a success and half a failure more than it had, as nothing is known to be impossible.
    """
    never = (1 - solved["rate"]) ** solved["samples"]
    return never * (1 - never)


def _balance(solved: pd.DataFrame) -> dict[str, float]:
    """Compute the share of problems that only the tuned model solved minus the share that only the base solved.

    The interval is a bootstrap over the problems.
    """
    base, tuned = (solved[name].to_numpy(float)[:, None] for name in ("base", "tuned"))
    interval = bootstrap.difference_interval(base, tuned)
    return {"value": float((tuned - base).mean()), "low": float(interval.low[0]), "high": float(interval.high[0])}


def _answers(run: Run, solved: pd.DataFrame) -> list[dict[str, Any]]:
    """Compute the base's log-probability of the tuned model's correct answers: the most likely answer of each problem."""
    best = _likeliest(run, run.label)
    return [
        {"outcome": "both" if solved.loc[f"seed {run.seed}: {problem}", "base"] else "only tuned", "value": value}
        for problem, value in best.items()
    ]


def _expected_answers(run: Run) -> list[dict[str, Any]]:
    """Compute the same of the base's own samples: each half of them against the other, as if one half were the tuned model's."""
    samples = run.evals[run.evals["name"] == BASE].assign(number=lambda own: own.groupby("asked").cumcount())
    half = int(samples.groupby("asked").size().min()) // 2
    halves = (range(half), range(half, 2 * half))
    rows = []
    for ours, other in (halves, halves[::-1]):
        solved = samples[samples["number"].isin(other)].groupby("asked")["correct"].any()
        for problem, value in _likeliest(run, BASE, ours).items():
            rows.append({"outcome": "both" if solved[problem] else "only tuned", "value": value, "samples": half})
    return rows


def _likeliest(run: Run, name: str, numbers: range | None = None) -> dict[str, float]:
    """Compute the base's log-probability of the likeliest correct answer to each problem.

    Parameters
    ----------
    run : without the weights of its base, or without token ids of its samples, there are no answers.
    name : of the samples, as in ``Run.evals``.
    numbers : of the samples of each problem that are looked at, from 0; all if None.
    """
    from dynamics.train import policy
    from dynamics.train.batch import Batch

    if not run.has_weights:
        return {}
    prompts: dict[str, list[int]] = {}
    answers: dict[str, dict[tuple[int, ...], None]] = {}  # distinct, in the order of sampling
    seen: Counter[str] = Counter()
    for sample, of in zip(run.samples(), run.evals["name"], strict=True):
        problem = sample["problem"]
        if of != name:
            continue
        seen[problem] += 1
        chosen = numbers is None or seen[problem] - 1 in numbers
        if chosen and sample["correct"] and (ids := token_ids(sample)):
            prompts.setdefault(problem, ids[0])
            answers.setdefault(problem, {}).setdefault(tuple(ids[1]))
    if not prompts:
        return {}
    completions = [np.array(answer) for distinct in answers.values() for answer in distinct]
    prompt_of = np.repeat(np.arange(len(prompts)), [len(distinct) for distinct in answers.values()])
    blank = [""] * len(completions)
    batch = Batch([np.array(ids) for ids in prompts.values()], completions, prompt_of, np.zeros(len(completions)), blank, blank, blank)
    base = policy.load(str(run.checkpoints[0]), None, "float32", "float32")
    by_token = base.logprobs_of(batch, 1280).double().cpu().numpy()
    by_answer = np.add.reduceat(by_token, np.cumsum(np.append(0, batch.lengths[:-1])))
    best = pd.Series(by_answer).groupby(prompt_of).max()
    return {problem: float(best[position]) for position, problem in enumerate(prompts)}


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Compute the 95 % Wilson interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(successes, count).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def draw(table: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the shares of problems that only one of the two models solved: a row per method and outcome."""
    shares = table[table["part"] == "share"]
    labels = list(dict.fromkeys(shares["label"]))
    for position, label in enumerate(labels):
        for shift, (outcome, filled) in zip((-0.16, 0.16), (("only base", False), ("only tuned", True)), strict=True):
            row = shares[(shares["label"] == label) & (shares["outcome"] == outcome)].iloc[0]
            marker = methods.marker_style(label)
            ax.errorbar(
                row["value"],
                position + shift,
                xerr=[[row["value"] - row["low"]], [row["high"] - row["value"]]],
                marker=marker["marker"],
                color=marker["color"],
                markerfacecolor=marker["color"] if filled else "white",
                markersize=6,
            )
        if len(expected := table.loc[(table["part"] == "expected") & (table["label"] == label), "value"]):
            ax.plot([expected.iloc[0]] * 2, [position - 0.35, position + 0.35], color=methods.OTHER, linewidth=1.5, zorder=1)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ticks.plain(ax.xaxis, 4, least=2, share=True)
    ax.grid(axis="x")
    ax.set(xlabel="share of the problems", title="solved by one only")
    for outcome, facecolor in (("only base", "white"), ("only tuned", methods.OTHER)):
        ax.plot([], [], "o", color=methods.OTHER, markerfacecolor=facecolor, label=OUTCOMES[outcome])
    if (table["part"] == "expected").any():
        ax.plot([], [], color=methods.OTHER, linewidth=1.5, label="only one of two bases")
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return ax


def answers(table: pd.DataFrame, ax: Axes, outcome: str = "both") -> Axes:
    """Draw the distribution of the base's log-probability of correct answers by method, of the problems of an outcome.

    Beside it, in grey, that of the base's own correct answers in a second set of samples.
    """
    known = table[table["part"].isin(["answer", "expected answer"])]
    rows = known[known["outcome"] == outcome]
    for (part, label), own in rows.groupby(["part", "label"], sort=False):
        values = np.sort(own["value"])
        expected = part == "expected answer"
        look: dict[str, Any] = {"linestyle": "--", "color": methods.OTHER} if expected else {"color": methods.color(str(label))}
        name = f"base, halves ({len(own) // 2})" if expected else f"{label} ({len(own)})"
        ax.step(values, np.arange(1, len(values) + 1) / len(values), where="post", label=name, **look)
    samples = int(table.loc[table["part"] == "share", "samples"].max())
    ax.axvline(-np.log(samples), color=style.FAINT, linestyle=":", linewidth=1)
    ax.annotate(f"1/{samples}", (-np.log(samples), 0), (-3, 3), textcoords="offset points", ha="right", fontsize=7, color=methods.OTHER)
    first = min((own["value"].quantile(LEFT_OUT) for _, own in known.groupby(["part", "label", "outcome"])), default=-1.0)
    ax.set(xlim=(1.05 * first, -0.03 * first), ylim=(-0.03, 1.03))
    ticks.plain(ax.xaxis, 3)
    ax.set(xlabel="log p under the base, nats", title="both solved" if outcome == "both" else "only the tuned model")
    ax.legend(fontsize=6.5, loc="upper left")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    drawing = style.new_figure(style.TWO_COLUMN, 3.3)
    outcomes = [name for name in ("both", "only tuned") if ((table["part"] == "answer") & (table["outcome"] == name)).any()]
    axes: Any = np.atleast_1d(drawing.subplots(1, 1 + len(outcomes)))
    draw(table, axes[0])
    for ax, outcome in zip(axes[1:], outcomes, strict=True):
        answers(table, ax, outcome)
    if outcomes:
        axes[1].set_ylabel("share of these problems")
    return drawing


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Check whether training narrows the set of problems that can be solved."""
    checked = []
    for method in ("rlvr", "selfplay"):
        rows = table[(table["part"] == "balance") & (table["label"] == method)]
        if len(rows):
            measured = f"share solved by {method} only minus by the base only, {int(rows['samples'].max())} samples"
            checked.append(check_claim_on_rows(f"{method} narrows what can be solved", measured, rows, -1, WITHIN))
    return checked


if __name__ == "__main__":
    sys.exit(analysis.run_script())
