"""Fill the tables of scaling.md with what `dynamics.train.cost` works out: ``python docs/scaling_table.py``."""

from __future__ import annotations

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


TABLES = {"<!--MODELS-->": models, "<!--PRESETS-->": presets}
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
