"""Measure how far training moved the model from its base on fixed text.

Question: how far did the model move on fixed text, and where did its loss increase?

Sampled text changes during training, so a distance over samples mixes a change of the model with a change of the text. Here the text is
fixed. For the bases of the laboratory and the embedded model it consists of new examples from their pre-training distribution: solving
tasks, which all methods train, and proposing tasks, which SFT and RLVR never train. The laboratory's bases learnt the completions of
examples only, so their prompts are read and not measured. For other models it is a page of English prose. The figure shows
KL(base | tuned) over the full vocabulary, averaged over tokens, and the change of the loss.

    python -m analyses.forgetting runs/comparison --out figures        # under a minute for these models
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses import analysis
from analyses.runs import Run, default_settings, with_weights
from analyses.verdicts import Verdict, seed_count, with_intervals
from dynamics import InputError, entropy
from dynamics.descriptions import plural
from dynamics.presentation import methods, style, ticks
from dynamics.rollouts.texts import Document

TITLE = "Distance from the base, and forgetting"
CLAIM = "no claim about this"
PANELS = {"kl": "KL(base | tuned)", "loss": "change of loss"}
#: names in titles
QUANTITIES = {"kl": "KL", "loss": "loss"}
#: number of pre-training examples of each kind
EXAMPLES = 60
#: forms of the laboratory's pre-training in which a problem is solved
SOLVING = ("deduction", "hinted", "abduction", "induction", "transfer")
#: text for other models
PROSE = Path(__file__).parent / "data" / "prose.txt"


def caption(table: pd.DataFrame) -> str:
    """Describe the figure."""
    counts = table.groupby("text", sort=False)["tokens"].max()
    what = "; solving and proposing are new examples of what the base was pre-trained on" if "solving" in counts else ""
    return (
        f"On fixed text, {', '.join(f'{name} ({count:,.0f} tokens)' for name, count in counts.items())}{what}. "
        f"{plural(seed_count(table), 'seed')}, a dot each; ticks: their mean; bars: 95 % t interval over seeds. float32, temperature 1, "
        "full vocabulary."
    )


def headline(table: pd.DataFrame) -> str:
    """Say how far each method is from the base on the first text."""
    rows = table[(table["quantity"] == "kl") & (table["text"] == table["text"].iloc[0])]
    parts = [f"{label} {own['value'].mean():.2g}" for label, own in rows.groupby("label", sort=False)]
    return f"KL from the base on fixed text ({rows['text'].iloc[0]}), nats per token: {', '.join(parts)}"


def measure(runs: Sequence[Run]) -> pd.DataFrame:
    """Make a table of columns label, seed, text, quantity, value, low, high, tokens."""
    rows = [
        {"label": run.label, "seed": run.seed, "text": text, "quantity": name, "value": means[name], "tokens": means["tokens"]}
        for run in with_weights(default_settings(runs))
        for text, means in distances(run.checkpoints[0], run.checkpoints[-1]).items()
        for name in PANELS
    ]
    return with_intervals(pd.DataFrame(rows), ["label", "text", "quantity"])


def distances(base: Path, tuned: Path) -> dict[str, dict[str, float]]:
    """Measure the distance between two checkpoints on the fixed texts.

    Returns
    -------
    Kind of text -> kl (base | tuned) and loss (tuned minus base), means over tokens in nats; and tokens, the number of tokens.
    """
    (base_model, tokenizer), (tuned_model, _) = (entropy.load(str(path), None, "float32", tokenizer_of=str(base)) for path in (base, tuned))
    means: dict[str, dict[str, float]] = {}
    for kind, texts in fixed_texts(tokenizer).items():
        # one text per batch: in a larger batch texts are padded, and rounding would depend on the other texts
        traced = entropy.trace(base_model, tokenizer, texts, against=tuned_model, rank=False, batch_tokens=1)
        if "kl_ab" not in traced.tokens:
            raise InputError(f"{tuned}: {'; '.join(traced.notes)}")
        predicted = traced.tokens[(traced.tokens["position"] > 0) & ~traced.tokens["prompt"]]
        loss = predicted["surprisal_b"] - predicted["surprisal"]
        means[kind] = {"kl": float(predicted["kl_ab"].mean()), "loss": float(loss.mean()), "tokens": len(predicted)}
    return means


def fixed_texts(tokenizer: Any) -> dict[str, list[Document]]:
    """Return the texts for a model with this tokenizer, by kind of text. What is not to be measured is marked as prompt."""
    from dynamics.train.tasks.prompt_formats import language_of

    def document(number: int, prompt: str, text: str, end: bool = True) -> Document:
        before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] if part else [] for part in (prompt, text))
        return Document(str(number), ids=(*before, *after, *([tokenizer.eos_token_id] * end)), prompt_tokens=len(before))

    language = language_of(tokenizer)
    if language == "plain":
        paragraphs = [part for part in PROSE.read_text(encoding="utf-8").split("\n\n") if part.strip()]
        return {"prose": [document(number, "", part, end=False) for number, part in enumerate(paragraphs)]}
    examples = _examples_of_laboratory() if language == "lab" else _examples_of_notation()
    return {kind: [document(number, *example) for number, example in enumerate(own)] for kind, own in examples.items()}


def _examples_of_laboratory() -> dict[str, list[tuple[str, str]]]:
    """Draw prompts and completions of the pre-training of the laboratory: of all forms in which something is solved, and of proposals."""
    from dynamics.train.lab.examples import MIX, Rates, example
    from dynamics.train.rng import stream

    rng = stream(0, "fixed texts of the laboratory")
    mixes = {"solving": {form: MIX[form] for form in SOLVING}, "proposing": {"propose": 1.0}}
    return {kind: [example(rng, Rates(), mix)[1:] for _ in range(EXAMPLES)] for kind, mix in mixes.items()}


def _examples_of_notation() -> dict[str, list[tuple[str, str]]]:
    """Draw texts of the pre-training of the embedded model, which learnt the prompts too, with less weight: so they are measured."""
    from dynamics.train import tiny
    from dynamics.train.rng import stream

    rng = stream(0, "fixed texts")
    examples: dict[str, list[tuple[str, str]]] = {"solving": [], "proposing": []}
    while any(len(texts) < EXAMPLES for texts in examples.values()):
        prompt, completion = tiny.example(rng)
        kind = "proposing" if prompt.startswith("<P") else "solving"
        if len(examples[kind]) < EXAMPLES:
            examples[kind].append(("", prompt + completion))
    return examples


def draw(table: pd.DataFrame, ax: Axes, quantity: str = "kl", text: str | None = None) -> Axes:
    """Draw one quantity on one kind of text, by default the first."""
    rows = table[(table["quantity"] == quantity) & (table["text"] == (text or table["text"].iloc[0]))]
    methods.dots(rows, list(dict.fromkeys(table["label"])), ax)
    ax.axvline(0, color=style.FAINT, linewidth=0.9, zorder=1)
    ticks.plain(ax.xaxis, 3, least=2)
    ax.set_xlabel(f"{PANELS[quantity]},\nnats per token")
    ax.set_title(f"{QUANTITIES[quantity]}, {rows['text'].iloc[0]}" if len(rows) else "")
    return ax


def figure(table: pd.DataFrame) -> Figure:
    """Draw the figure."""
    texts = list(dict.fromkeys(table["text"]))
    drawing = style.new_figure(style.TWO_COLUMN, 1.0 + 0.3 * table["label"].nunique())
    axes = drawing.subplots(1, 2 * len(texts), sharey=True)
    for ax, (quantity, text) in zip(axes, [(name, text) for name in PANELS for text in texts], strict=True):
        draw(table, ax, quantity, text)
    for first in range(0, 2 * len(texts), len(texts)):  # a quantity has one scale on all texts
        ends = [ax.get_xlim() for ax in axes[first : first + len(texts)]]
        for ax in axes[first : first + len(texts)]:
            ax.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))
    return drawing


def verdicts(_table: pd.DataFrame) -> list[Verdict]:
    """Return no verdicts: the paper makes no claim about this."""
    return []


if __name__ == "__main__":
    sys.exit(analysis.run_script())
