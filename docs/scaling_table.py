"""Fill the tables of scaling.md with what `dynamics.train.cost` works out: ``python docs/scaling_table.py``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from analyses.presets import PRESETS, plan
from dynamics.cli import outputs
from dynamics.train import cost
from dynamics.train.command_line import parse
from dynamics.train.config import RLVRConfig

PAGE = Path(__file__).parent / "scaling.md"
MODELS = [name for name in cost.SHAPES if name.startswith("Qwen/")]
#: processes and engine of each row
ENGINES = ((1, "one process"), (8, "DDP"), (8, "FSDP2"), (64, "FSDP2"))


def step(model: str, processes: int, engine: str, limit: int, machine: cost.Machine = cost.H100) -> str:
    """Format the row of a step of RLVR."""
    config = RLVRConfig(
        prompts_per_step=64,
        group_size=8,
        max_new_tokens=limit,
        max_tokens_per_microbatch=8192,
        gradient_checkpointing=True,
        record_every=5,
        eval_problems=0,
    )
    setup = cost.Setup(processes, engine == "FSDP2", machine, trl=processes > 1)
    shape = cost.shape(model)
    held = cost.memory(config, shape, setup)
    expected, best, worst = (cost.time(config, shape, setup, assumed).of_step for assumed in (cost.EXPECTED, cost.BEST, cost.WORST))
    parts = cost.time(config, shape, setup).step
    memory = [f"{held.of(phase) / cost.GB:.0f}" for phase in ("sampling", "updating", "saving") if phase in held.phases]
    cells = [
        model.rpartition("-")[2],
        f"{processes} x {machine.memory / cost.GB:.0f} GB, {engine}" if processes > 1 else f"{machine.memory / cost.GB:.0f} GB",
        f"{limit:,}",
        ", ".join(memory),
        "yes" if held.fits else "no",
        f"{expected:.0f} ({best:.0f} to {worst:.0f})",
        *(
            _short(sum(parts.get(name, 0.0) for name in names))
            for names in (("sampling",), ("measuring", "update"), ("communication", "optimizer"), ("judging", "recording"))
        ),
    ]
    return f"| {' | '.join(cells)} |"


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def models() -> str:
    """Make the table of models, processes and lengths."""
    rows = [step(model, *engine, 1024) for model in MODELS for engine in ENGINES]
    rows += [step(MODELS[-1], 8, "FSDP2", limit, cost.H200) for limit in (256, 1024, 4096)]
    head = "| weights | GPUs | new tokens | GB while sampling, updating, saving | fits | seconds a step | sampling | measuring, update "
    return "\n".join([f"{head}| communication, optimizer | judging, recording |", f"|{'---|' * 10}", *rows])


def presets() -> str:
    """Make the table of what the presets run."""
    rows = []
    for name, preset in PRESETS.items():
        if preset.setup is None:
            continue
        configs = [parse([options[0], "--out", "x", *options[1:]]).config for options in plan(name).values()]
        shape = cost.shape(configs[0].model)
        most = max((held.of(held.largest), held.largest) for held in (cost.memory(config, shape, preset.setup) for config in configs))
        hours = [
            cost.total([cost.time(config, shape, preset.setup, assumed) for config in configs])
            for assumed in (cost.EXPECTED, cost.BEST, cost.WORST)
        ]
        size = configs[0].model.rpartition("-")[2]
        memory = f"{most[0] / cost.GB:.0f} GB, while {most[1]}"
        rows.append(
            f"| `{name}` | {size} | {preset.setup.name} | {len(configs)} | {memory} | {hours[0]:.0f} ({hours[1]:.0f} to {hours[2]:.0f}) |"
        )
    return "\n".join(["| preset | weights | on | runs | most memory of a run, a GPU | hours of all |", f"|{'---|' * 6}", *rows])


#: model -> weights, bytes of each, tensors, and the largest matrix; m n^2 summed over its matrices of m rows and n fewer columns
COMPARED = {
    "7 B (Qwen2.5)": (7.62e9, 2, 339, (152064, 3584), 28 * (2 * 3584**3 + 2 * 3584 * 512**2 + 3 * 18944 * 3584**2)),
    "70 B (Llama 3)": (70.6e9, 2, 723, (128256, 8192), 80 * (2 * 8192**3 + 2 * 8192 * 1024**2 + 3 * 28672 * 8192**2)),
    "671 B (DeepSeek-V3, float8)": (671e9, 1, 90_000, (129280, 7168), 58 * 257 * 3 * 7168 * 2048**2 + 3 * 3 * 18432 * 7168**2),
}
#: name of a place -> bytes a second of all files together, and cores
PLACES = {
    "laptop, 8 cores, disk 2 GB/s": (2e9, 8),
    "server, 64 cores, disk 8 GB/s": (8e9, 64),
    "server, 64 cores, network 1 GB/s": (1e9, 64),
}
#: tokens of text that are traced
TOKENS = 100_000
RATES = json.loads((PAGE.parent / "comparison_rates.json").read_text(encoding="utf-8"))


def rates() -> str:
    """Make the table of the rates that were measured."""
    found = RATES["rates"]
    rows = [
        f"| `sparsity`, bf16 pair | {found['sparsity/bfloat16'] / 1e9:.1f} GB/s; on {RATES['cores']} cores "
        f"{found['sparsity/bfloat16/all cores'] / 1e9:.1f} GB/s |",
        f"| `sparsity`, float8 pair | {found['sparsity/float8'] / 1e9:.2f} GB/s |",
        f"| a tensor, whatever its size: headers, matching, rows; serial | {found['seconds a tensor'] * 1e6:.0f} microseconds |",
        f"| `overlap`, base and two | {found['overlap/bfloat16'] / 1e9:.1f} GB/s |",
        f"| `spectra --method full`, base, tuned and update of an m x n matrix | m n^2 / {found['spectra/full']:.2g} s |",
        f"| `spectra --method approx` | {found['spectra/approx'] / 1e6:.1f} million weights a second |",
        f"| `entropy`, a forward pass | {found['entropy/float32'] / 1e9:.0f} GFLOP/s in float32, "
        f"{found['entropy/bfloat16'] / 1e9:.0f} in bfloat16 |",
    ]
    return "\n".join([f"| on one core of {RATES['cpu']} | rate |", "|---|---|", *rows])


def compared() -> str:
    """Make the table of the time of comparisons of large models."""
    rows = []
    for model, (weights, width, tensors, _, cubes) in COMPARED.items():
        for place, (storage, many) in PLACES.items():
            found = RATES["rates"]
            serial = tensors * found["seconds a tensor"]
            rate = found["sparsity/bfloat16" if width == 2 else "sparsity/float8"]
            of_pair = max(2 * weights * width / storage, 2 * weights * width / rate / many)
            of_three = max(3 * weights * width / storage, 3 * weights * width / found["overlap/bfloat16"] / many)
            cells = [f"{_minutes(of_pair + serial)} ({serial / (of_pair + serial):.0%} serial)", _minutes(of_three + serial)]
            cells += [_minutes(weights / found["spectra/approx"] / many), _minutes(cubes / found["spectra/full"] / many)]
            cells.append(_minutes(2 * weights * TOKENS / found["entropy/bfloat16"] / many))
            rows.append(f"| {model} | {place} | {' | '.join(cells)} |")
    heads = "sparsity | overlap of two | spectra, approx | spectra, full"
    return "\n".join([f"| weights | where | {heads} | entropy of {TOKENS:,} tokens |", f"|{'---|' * 7}", *rows])


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:.0f} h"


TABLES = {"<!--MODELS-->": models, "<!--PRESETS-->": presets, "<!--RATES-->": rates, "<!--COMPARISONS-->": compared}
END = "<!--END-->"


def filled(text: str) -> str:
    """Replace what stands between the marks by the tables."""
    for mark, table in TABLES.items():
        before, _, rest = text.partition(mark)
        _, _, after = rest.partition(END)
        text = f"{before}{mark}\n\n{table()}\n\n{END}{after}"
    return text


def main() -> int:
    """Fill the page."""
    outputs.write(str(PAGE), filled(PAGE.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
