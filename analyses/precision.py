"""Compare training with bf16 weights and with fp32 masters, all other settings equal.

Question: does the sparsity of an update depend on the dtype of the weights during training?

A real 135M-parameter model is fine-tuned twice for a few steps by ``python -m dynamics.train sft``, from bit-identical weights, on the
same batches in the same order, with the same AdamW at the same learning rate. One option differs, the dtype of the weights that the
optimizer updates:

- ``bf16``: ``--master-dtype bfloat16``: bf16 parameters, gradients and optimizer states; what ``from_pretrained(dtype=bfloat16)`` with
  AdamW does.
- ``fp32``: ``--master-dtype float32``: fp32 parameters, gradients and optimizer states.

Then ``dynamics.sparsity`` compares each result with the base, and also the fp32 result saved as bf16. This separates what training changed
from what a bf16 file can represent.

Differences from a run on accelerators, and the reasons:

- Both runs compute forward and backward passes in fp32, from the values of the weights that the optimizer updates. CPUs without bf16
  arithmetic need about 25 times longer for bf16 matrix products. The comparison therefore measures the precision of the update alone,
  without the rounding of activations. In an earlier check over 4 short steps, 1.724% of the weights changed with ``model.bfloat16()``
  computing in bf16, and 1.725% with fp32 arithmetic on bf16 weights; 99% of them were the same weights.
- Learning rate 1e-5, constant, no warm-up, no weight decay, gradient norm at most 1: a common setting for supervised fine-tuning,
  which was not tuned. RLVR uses 1e-6, at which even fewer bf16 weights change.
- 20 steps of 2 passages of about 250 tokens: enough to show the effect of the dtype, too few for the model to learn anything.
- The base is a 4-bit (Q4_1) file, dequantised and rounded to bf16, because that file is available inside a Python package. Its weights are
  larger than those of most models (median magnitude 0.1), so bf16 steps are larger and bf16 training is sparser than for other models.
  A few weights are exactly zero; any update changes them in any dtype.
- The text is the language reference in Python's standard library (``pydoc_data.topics``): real prose that needs no download. It depends
  on the version of Python, so ``source.json`` records its hash.

    python -m analyses precision            # about eight minutes on two cores the first time, seconds after that
    python -m analyses precision --force    # train again
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analyses.launch import Children, is_finished, train_run
from analyses.runs import read_json_lines
from dynamics import InputError
from dynamics.cli import outputs
from dynamics.cli.command import tell
from dynamics.io.csv import to_csv
from dynamics.io.json import to_json
from dynamics.io.json_lines import write_json_lines
from dynamics.presentation import style
from dynamics.presentation.text import percent
from dynamics.runs.directory import RunDirectory
from dynamics.sparsity.definitions import RULES
from dynamics.sparsity.plot_rules import rules
from dynamics.sparsity.plot_ulp import merge_tail, ulp_histogram

#: name of a run -> dtype of the weights that its optimizer updates
MASTER_DTYPES = {"bf16": "bfloat16", "fp32": "float32"}

#: name of a comparison -> its label in the figure
COMPARISONS = {
    "bf16": "trained with bf16 weights\nsaved as bf16",
    "fp32": "trained with fp32 masters\nsaved as fp32",
    "fp32_saved_as_bf16": "trained with fp32 masters\nsaved as bf16",
}

#: comparisons with a histogram each; the histogram of ``fp32_saved_as_bf16`` equals that of ``fp32``
RUNS = {"bf16": "trained with bf16 weights", "fp32": "trained with fp32 masters"}

#: options of both runs; all others are the defaults of ``dynamics.train sft``
OPTIONS = (
    "--steps 20 --batch-size 2 --learning-rate 1e-5 --warmup-steps 0 --adam-beta2 0.999 --compute-dtype float32 --threads 2 --seed 0 "
    "--record-every 20 --eval-problems 0 --probe-every 0"
)
#: minimum number of characters of a passage, and of its prompt
PASSAGE, PROMPT = 800, 60


@dataclass(frozen=True)
class Source:
    """Model, text and options of both runs.

    Attributes
    ----------
    model : ``smollm2``, a Hugging Face folder or a hub id.
    model_name, text_name : names of model and text in the figure.
    text : prose to train on.
    options : options of ``dynamics.train sft``, except model, task and dtype of the masters.
    """

    model: str
    model_name: str
    text: str
    text_name: str
    options: str = OPTIONS


def passages(text: str) -> Iterator[dict[str, str]]:
    """Split a text into passages of whole paragraphs; the first words of each are the prompt, the rest the completion."""
    passage = ""
    for paragraph in text.split("\n\n"):
        passage = f"{passage}\n\n{paragraph}" if passage else paragraph
        if len(passage) >= PASSAGE:
            end = passage.find(" ", PROMPT)
            if end > 0:
                yield {"prompt": passage[:end], "completion": passage[end:]}
            passage = ""


def python_reference() -> str:
    """Read the Python language reference from the standard library."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip() for name in sorted(topics))


def make_runs(directory: Path, source: Source, force: bool = False) -> None:
    """Train both runs into ``directory``; reuse finished runs with the same settings.

    ``base`` is the model in bf16, ``text.jsonl`` contains the passages, ``bf16`` and ``fp32`` are the runs, and ``fp32_saved_as_bf16`` is
    the result of ``fp32`` rounded to bf16.
    """
    directory.mkdir(parents=True, exist_ok=True)
    base, task = directory / "base", directory / "text.jsonl"
    description = to_json(
        {
            "model": source.model,
            "model_name": source.model_name,
            "text_name": source.text_name,
            "text_sha256": hashlib.sha256(source.text.encode()).hexdigest(),
            "options": source.options,
        }
    )
    recorded = directory / "source.json"
    stale = force or not recorded.exists() or recorded.read_text(encoding="utf-8") != description
    if stale:
        for folder in ("base", *COMPARISONS):
            shutil.rmtree(directory / folder, ignore_errors=True)
        write_json_lines(task, passages(source.text))
        outputs.write(str(recorded), description)
    if not (base / "config.json").exists():
        tell("precision: writing the base in bfloat16")
        save_as_bfloat16(source.model, base)
    for name, dtype in MASTER_DTYPES.items():
        options = ["sft", "--model", str(base), "--task", str(task), "--master-dtype", dtype, *source.options.split()]
        if not is_finished(directory / name, options):
            tell(f"precision: training {name}: {' '.join(options)}")
            train_run(directory / name, options, discard=False, children=Children())
    if not (directory / "fp32_saved_as_bf16" / "config.json").exists():
        save_as_bfloat16(str(last_checkpoint(directory / "fp32")), directory / "fp32_saved_as_bf16")


def save_as_bfloat16(model: str, folder: Path) -> None:
    """Write a model with its weights rounded to bfloat16 as a Hugging Face folder."""
    from dynamics import models
    from dynamics.io.folders import save_folder

    with redirect_stderr(StringIO()):  # hide progress bars that no setting turns off
        loaded, tokenizer = models.load(model, "cpu", "bfloat16")

    def fill(path: Path) -> None:
        with redirect_stderr(StringIO()):
            loaded.save_pretrained(path)
        tokenizer.save_pretrained(path)

    save_folder(folder, fill)


def last_checkpoint(run: Path) -> Path:
    """Return the checkpoint after the last step of a run."""
    checkpoints = sorted((run / "checkpoints").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))
    if not checkpoints:
        raise InputError(f"{run}: contains no checkpoint; make it with python -m analyses precision")
    return checkpoints[-1]


def tuned_checkpoint(directory: Path, name: str) -> Path:
    """Return the tuned checkpoint of a comparison."""
    return last_checkpoint(directory / name) if name in MASTER_DTYPES else directory / name


def measure(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare every result with the base.

    Returns
    -------
    A row per comparison and rule, and a row per run and bin of the distance in bf16 steps.
    """
    from dynamics import sparsity

    by_rule, by_step = [], []
    for folder, name in COMPARISONS.items():
        row = sparsity.compare(directory / "base", tuned_checkpoint(directory, folder)).total
        by_rule += [
            {
                "comparison": name,
                "folder": folder,
                "rule": rule,
                "changed": row.changed[rule],
                "numel": row.numel,
                "sparsity": row.sparsity[rule],
                "relative_update": row.relative_update,
                "max_abs_update": row.max_abs_update,
            }
            for rule in RULES
        ]
        if folder in RUNS:
            by_step += [
                {"series": RUNS[folder], "folder": folder, "steps": steps, "weights": count, "fraction": count / row.numel}
                for steps, count in merge_tail(row.ulp).items()
            ]
    return pd.DataFrame(by_rule), pd.DataFrame(by_step)


def describe_runs(directory: Path, source: Source) -> dict[str, Any]:
    """Collect the numbers of the footnote: settings, parameters, tokens trained on, and how many weights of the base are 0."""
    from dynamics.checkpoints import open_checkpoint

    document = RunDirectory(directory / "fp32").read_run()
    steps = read_json_lines(directory / "fp32" / "metrics.jsonl")
    tensors = open_checkpoint(directory / "base").tensors.values()
    return {
        "model": source.model_name,
        "text": source.text_name,
        "config": document["config"],
        "parameters": sum(tensor.numel for tensor in tensors),
        "tokens": sum(int(step["tokens"]) for step in steps),
        "base_zeros": sum(int(np.count_nonzero(np.asarray(tensor.values()) == 0)) for tensor in tensors),
    }


def draw(by_rule: pd.DataFrame, by_step: pd.DataFrame, run: Mapping[str, Any]) -> Figure:
    """Draw both panels, with titles made from the tables. Call it inside ``style.use_style``."""
    figure = style.new_figure(9.6, 8.6)
    halves: Any = figure.subfigures(2, 1)  # so that each panel has its own margins
    above, below = (half.subplots() for half in halves)
    rules(by_rule, above).set_title(spread(by_rule))
    ulp_histogram(by_step, below).set_title(moved(by_step))
    figure.suptitle(finding(by_rule), x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.supxlabel(footnote(by_rule, run), x=0.01, ha="left", fontsize=7.5, color=style.FAINT)
    return figure


def finding(by_rule: pd.DataFrame) -> str:
    """Make the title of the figure: the exact sparsity of each comparison."""
    unchanged = by_rule[by_rule["rule"] == "exact"].set_index("folder")["sparsity"].map(partial(percent, short=True))
    return (
        "Same data, learning rate and steps. Weights unchanged, compared exactly:\n"
        f"{unchanged['bf16']} trained in bf16, {unchanged['fp32']} with fp32 masters, "
        f"{unchanged['fp32_saved_as_bf16']} with the same masters saved as bf16"
    )


def spread(by_rule: pd.DataFrame) -> str:
    """State how much sparsity differs between the four rules, for each comparison."""
    points = 100 * by_rule.groupby("folder")["sparsity"].agg(lambda column: column.max() - column.min())
    return (
        f"The four rules lie {points['bf16']:.1f} points apart for bf16 weights, {points['fp32']:.1f} for fp32 masters, "
        f"{points['fp32_saved_as_bf16']:.1f} for those saved as bf16"
    )


def moved(by_step: pd.DataFrame) -> str:
    """State the share of weights of each run whose change a bf16 file can represent."""
    visible = (1 - by_step[by_step["steps"] == "0"].set_index("folder")["fraction"]).map(partial(percent, short=True))
    return f"Moved by a bf16 step or more: {visible['bf16']} of the bf16 weights, {visible['fp32']} of the fp32 masters"


def footnote(by_rule: pd.DataFrame, run: Mapping[str, Any]) -> str:
    """State the setting, the size of the update and the dtypes."""
    config = run["config"]
    update = by_rule.groupby("folder")["relative_update"].first()
    zeros = percent(run["base_zeros"] / run["parameters"], short=True)
    return (
        f"{run['model']}, {run['parameters'] / 1e6:.0f}M weights; AdamW, lr {config['learning_rate']:g} constant, "
        f"{config['steps']} steps, {run['tokens']:,} tokens of {run['text']}, seed {config['seed']}.\n"
        "Base stored as bf16. Both runs start from it and compute in fp32 from the weights that AdamW updates; "
        "only the dtype of these weights differs.\n"
        f"Relative size of the update, L2: {update['bf16']:.2g} with bf16 weights, {update['fp32']:.2g} with fp32 masters "
        f"({update['fp32_saved_as_bf16']:.2g} as saved in bf16).\n"
        f"{zeros} of the base weights are exactly zero, because it was stored in 4 bits: any update moves these by over 64 bf16 steps."
    )


def main(runs: Path, figures: Path, force: bool = False) -> list[Path]:
    """Train the runs or reuse them, measure them and draw the figure; return the paths of the files."""
    source = Source(
        model="smollm2",
        model_name="SmolLM2-135M-Instruct (Q4_1, dequantised)",
        text=python_reference(),
        text_name=f"Python {sys.version_info[0]}.{sys.version_info[1]}'s language reference",
    )
    directory = runs / "precision"
    make_runs(directory, source, force)
    by_rule, by_step = measure(directory)
    figures.mkdir(parents=True, exist_ok=True)
    written = [figures / "precision.csv", figures / "precision-ulp.csv"]
    for path, table in zip(written, (by_rule, by_step), strict=True):
        outputs.write(str(path), to_csv(table.replace({r"\n": ", "}, regex=True)))
    with style.use_style():
        written.append(style.save(draw(by_rule, by_step, describe_runs(directory, source)), figures / "precision.png"))
    return written
