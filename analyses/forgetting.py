"""How far did the model move from its base on text that does not move, and what does it now do worse?

Sampled text changes as a model trains, so a distance over samples mixes the two. Here the text is fixed: for the embedded model examples of
its pre-training, drawn anew - solving tasks, which all methods train, and proposing them, which SFT and RLVR never do; for other models a
page of English prose. Drawn: KL(base | tuned), the mean over tokens with the full vocabulary, and the change of the loss.

    python -m analyses.forgetting runs/comparison --out figures        # under a minute for the embedded model
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses import question
from analyses.question import Verdict, seeds_of
from analyses.runs import Run, plain, with_weights
from dynamics.presentation import methods, style

TITLE = "Distance from the base, and forgetting"
CLAIM = "not in the paper"
PANELS = {"kl": "KL(base | tuned)", "loss": "change of loss"}
#: examples of the embedded model's pre-training, of each kind
EXAMPLES = 60


def caption(table: pd.DataFrame) -> str:
    return (
        f"On fixed text, {', '.join(f'{name} ({count:,} tokens)' for name, count in table.groupby('text')['tokens'].max().items())}; "
        f"{seeds_of(table)} seeds, a dot each, ticks their mean, bars Student's 95 % over seeds. float32, temperature 1, full vocabulary."
    )


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns label, seed, text, quantity, value, low, high, tokens."""
    rows: list[dict[str, Any]] = []
    for run in with_weights(plain(runs)):
        for text, found in distances(run.checkpoints[0], run.checkpoints[-1]).items():
            for name in PANELS:
                rows.append(
                    {"label": run.label, "seed": run.seed, "text": text, "quantity": name, "value": found[name], "tokens": found["tokens"]}
                )
    return question.with_intervals(pd.DataFrame(rows), ["label", "text", "quantity"])


def distances(base: Path, tuned: Path) -> dict[str, dict[str, float]]:
    """Kind of text -> kl (base | tuned), loss (tuned minus base), tokens; means over tokens in nats."""
    import torch

    from dynamics import entropy

    (first, words), (second, _) = (entropy.load(str(place), None, "float32") for place in (base, tuned))
    found: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for kind, texts in fixed_texts(words).items():
            kl = loss = tokens = 0.0
            for ids in texts:
                asked = torch.tensor([ids], device=next(first.parameters()).device)
                one, other = (torch.log_softmax(model(input_ids=asked).logits[0, :-1].double(), -1) for model in (first, second))
                kl += float((one.exp() * (one - other)).sum())
                loss += float((one - other).gather(1, asked[0, 1:, None]).sum())
                tokens += len(ids) - 1
            found[kind] = {"kl": max(0.0, kl / tokens), "loss": loss / tokens, "tokens": int(tokens)}
    return found


def fixed_texts(words: Any) -> dict[str, list[list[int]]]:
    """Kind -> token ids of texts."""
    from dynamics.train import tiny
    from dynamics.train.rng import stream
    from dynamics.train.tasks.prompt_formats import reads_notation

    if not reads_notation(words):
        prose = (Path(__file__).parent / "prose.txt").read_text(encoding="utf-8")
        return {"prose": [words(part, add_special_tokens=False)["input_ids"] for part in prose.split("\n\n") if part.strip()]}
    rng = stream(0, "fixed texts")
    found: dict[str, list[list[int]]] = {"solving": [], "proposing": []}
    while any(len(texts) < EXAMPLES for texts in found.values()):
        asked, told = tiny.example(rng)
        kind = "proposing" if asked.startswith("<P") else "solving"
        if len(found[kind]) < EXAMPLES:
            found[kind].append(words(asked + told, add_special_tokens=False)["input_ids"] + [words.eos_token_id])
    return found


def draw(table: pd.DataFrame, ax: Axes, quantity: str = "kl", text: str | None = None) -> Axes:
    part = table[(table["quantity"] == quantity) & (table["text"] == (text or table["text"].iloc[0]))]
    methods.dots(part, list(dict.fromkeys(table["label"])), ax)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.set_xlabel(f"{PANELS[quantity]},\nnats a token")
    ax.set_title(part["text"].iloc[0] if len(part) else "")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    texts = list(dict.fromkeys(table["text"]))
    made = style.new_figure(style.TWO_COLUMN, 1.0 + 0.3 * table["label"].nunique())
    axes = made.subplots(1, 2 * len(texts), sharey=True)
    for ax, (quantity, text) in zip(np.atleast_1d(axes), [(name, text) for name in PANELS for text in texts], strict=True):
        draw(table, ax, quantity, text)
    return made


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    return []


if __name__ == "__main__":
    sys.exit(question.main(sys.modules["__main__"]))
