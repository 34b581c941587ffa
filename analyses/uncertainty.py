"""Trace the entropy of the real 135M model over real text, before and after a fine-tune.

Question: at which tokens of this project's README is SmolLM2-135M uncertain, and what did the fine-tune of ``analyses.precision`` change?
The figure shows the distribution of entropy, entropy along the text, tokens by mean entropy, and the change by percentile of the base's
entropy. The analysis reads ``runs/precision/base`` and ``runs/precision/fp32``; it writes ``figures/uncertainty.png`` and the tables of the
figure next to it. About a minute on two cores:  python -m analyses uncertainty
"""

from __future__ import annotations

from pathlib import Path

from analyses import precision
from dynamics import entropy
from dynamics.entropy.plot import figure
from dynamics.errors import InputError
from dynamics.io.csv import write_csv
from dynamics.presentation import style

README = Path(__file__).parent.parent / "README.md"
#: characters per text and number of texts: enough for every panel, and fast on two cores
LENGTH, TEXTS = 1200, 8


def main(runs: Path, figures: Path) -> list[Path]:
    """Trace both models over the README and draw the figure; return the paths of the files."""
    folders = [precision.tuned_checkpoint(runs / "precision", name) for name in ("base", "fp32")]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: does not exist; make it with python -m analyses precision")
    text = README.read_text(encoding="utf-8")
    texts = [text[start : start + LENGTH] for start in range(0, LENGTH * TEXTS, LENGTH)]
    (base, tokenizer), (tuned, _) = (entropy.load(str(folder), "cpu", "float32") for folder in folders)
    traced = entropy.trace(base, tokenizer, texts, against=tuned)
    with style.use_style():
        written = [style.save(figure(traced, "SmolLM2-135M", "fine-tuned with fp32 masters"), figures / "uncertainty.png")]
    tables = {"uncertainty.csv": entropy.summary(traced.tokens), "uncertainty-change.csv": entropy.change_by_percentile(traced.tokens)}
    for name, table in (tables | {"uncertainty-tokens.csv": entropy.by_token(traced.tokens)}).items():
        write_csv(figures / name, table, "%.6g")
        written.append(figures / name)
    return written
