"""Ratio of the time of a training step in float32 to its time in bfloat16, for models of several widths.

    python benchmarks/compute_dtype.py [--device cuda] [--threads 2]

The models are Llamas of four layers with random weights and float32 masters; bfloat16 is by autocast. `--compute-dtype auto` selects
bfloat16 from the width at which the ratio exceeds 1 (`dynamics.train.policy.BFLOAT16_HIDDEN_SIZE`), and only on hardware with native
bfloat16 arithmetic. On other hardware bfloat16 is emulated, and the ratios show how slow that is.

sft         a step on 16 completions
rlvr        a step of 4 prompts x 8 samples, including sampling

The two dtypes alternate in one process. The ratio is that of the median times after the first step.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
from pathlib import Path
from typing import Any

STEPS = 5
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"batch_size": 16},
    "rlvr": {"prompts_per_step": 4, "group_size": 8, "max_new_tokens": 16, "advantage": "reinforce"},
}


def model(hidden: int, folder: Path) -> float:
    """Save a Llama of this width with the embedded model's tokenizer; return the number of parameters in millions."""
    import torch
    import transformers

    from dynamics.train import tiny

    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=hidden,
            num_hidden_layers=4,
            num_attention_heads=max(2, hidden // 64),
            num_key_value_heads=max(2, hidden // 64),
            intermediate_size=3 * hidden,
            vocab_size=64,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
    )
    with contextlib.redirect_stderr(io.StringIO()):
        made.save_pretrained(folder)
    tiny.build_tokenizer().save_pretrained(folder)
    return sum(value.numel() for value in made.parameters()) / 1e6


def seconds(method: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measure the median seconds of a step in each dtype."""
    from dynamics.train.loop import Run
    from dynamics.train.settings import METHODS as CONFIGS

    shared = {"model": str(folder), "threads": options.threads, "device": options.device, "num_problems": 64, "record_every": 1000}
    runs = {}
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in ("float32", "bfloat16"):
            (out := Path(temporary) / dtype).mkdir()
            config = CONFIGS[method](compute_dtype=dtype, eval_problems=0, probe_every=0, **shared, **METHODS[method])
            runs[dtype] = Run(method, config, out, False)
        spent: dict[str, list[float]] = {dtype: [] for dtype in runs}
        for _ in range(1 + STEPS):
            for dtype, run in runs.items():
                spent[dtype].append(run.one_step()["seconds"])
        for run in runs.values():
            run.finish("finished")
    return {dtype: statistics.median(values[1:]) for dtype, values in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256, 384, 512, 768, 1024], help="hidden sizes")
    options = parser.parse_args()
    import torch

    from dynamics.train.policy import native_bfloat16

    verb = "has" if native_bfloat16(torch.device(options.device)) else "has no"
    print(f"{options.device}, {options.threads} threads, {torch.backends.cpu.get_cpu_capability()}; it {verb} bfloat16 arithmetic")
    print(f"{'hidden':>6}  {'parameters':>10}  " + "  ".join(f"{name + ' float32':>14}  {'bfloat16':>9}  {'ratio':>5}" for name in METHODS))
    with tempfile.TemporaryDirectory() as temporary:
        for hidden in options.hidden:
            folder = Path(temporary) / str(hidden)
            size = model(hidden, folder)
            timings = [seconds(method, folder, options) for method in METHODS]
            cells = [
                f"{1e3 * timing['float32']:>11.0f} ms  {1e3 * timing['bfloat16']:>6.0f} ms  {timing['float32'] / timing['bfloat16']:>5.2f}"
                for timing in timings
            ]
            print(f"{hidden:>6}  {size:>8.1f} M  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
