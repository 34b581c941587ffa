"""Memory and time of the parts of a training step, beside what `dynamics.train.cost` works out for them.

    python benchmarks/scaling.py                              # the embedded model, the laboratory's base, SmolLM2-135M if it is there
    python benchmarks/scaling.py --models tiny lab --lengths 32 128 --engines local "ddp 2"

A case is a model, a number of new tokens, and an engine: `local`, `trl` (one process by TRL), `ddp 2` (two processes), `fsdp2 2` (two whose
weights FSDP2 shards; accelerate shards on a processor only because it is told that it is a GPU). Each runs in processes of its own, on one
thread each: completions of exactly this length are sampled, their log-probabilities are measured, and optimizer steps are taken.

Seconds are processor time of rank 0, medians over the steps after the first: other programs on the machine disturb it less. Memory is
the peak of the resident memory of rank 0 in each part, above that of the process before it loads the model; of sampling, before the first
update. `said` is what `cost` works out for a machine with the rates that are measured first, in the same way: products of matrices, of
which half is said to be reached, and copies. Nothing is fitted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dynamics.train import cost

#: prompts, their tokens and the completions of each, by model
WORK = {"tiny": (8, 64, 8), "lab": (8, 64, 8), "smollm2": (2, 64, 4)}
ENGINES = ("local", "trl", "ddp 2", "fsdp2 2")
LEARNING_RATE = 1e-6
#: share of the rate of large products that a pass is said to reach: in the profiles of docs/speed.md, products are about half of the time
UTILISATION = 0.5
#: what a process holds beside the whole weights when it samples for the first time, before there are moments and shards
FIRST = ("keys and values", "logits", "joined matrices")
TESTS = Path(__file__).resolve().parent.parent / "tests"


@dataclass(frozen=True)
class Case:
    """What is measured."""

    model: str
    length: int
    engine: str
    steps: int = 3

    @property
    def processes(self) -> int:
        """Number of processes."""
        return int(self.engine.partition(" ")[2] or 1)

    @property
    def kind(self) -> str:
        """The engine without the number of processes."""
        return self.engine.partition(" ")[0]


def resident(peak: bool = False) -> float:
    """Bytes of memory that the process has resident, or had at most since ``forget_peak``."""
    field = "VmHWM:" if peak else "VmRSS:"
    return next(1024.0 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def settings(case: Case) -> Any:
    """Return the settings of the case."""
    from dynamics.train.config import RLVRConfig

    prompts, _, group = WORK[case.model]
    return RLVRConfig(
        model=case.model,
        device="cpu",
        threads=1,
        prompts_per_step=prompts,
        group_size=group,
        max_new_tokens=case.length,
        learning_rate=LEARNING_RATE,
        compute_dtype="float32",
        warmup_steps=0,
        eval_problems=0,
    )


def rates() -> dict[str, float]:
    """Measure products of matrices, in operations a second, and copies, in bytes a second, by processor time on one thread."""
    import torch

    torch.set_num_threads(1)

    def seconds(work: Callable[[], Any]) -> float:
        work()
        times = []
        for _ in range(7):
            begin = time.process_time()
            work()
            times.append(time.process_time() - begin)
        return statistics.median(times)

    a, b = torch.randn(512, 1024), torch.randn(1024, 1024)
    source = torch.ones(32 << 20)
    target = torch.empty_like(source)
    multiplied = seconds(lambda: [a @ b for _ in range(20)])
    return {"flops": 20 * 2 * 512 * 1024 * 1024 / multiplied, "bandwidth": 2 * 4 * source.numel() / seconds(lambda: target.copy_(source))}


def measured(case: Case) -> dict[str, float]:
    """Measure seconds and bytes of each part, in this process; none where another rank leads."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    if case.kind == "fsdp2":
        sys.path[:0] = [str(TESTS)]
        from train.engines.worker import have_accelerate_shard_on_a_processor

        have_accelerate_shard_on_a_processor()
    from dynamics.entropy.logits import from_logits
    from dynamics.train import built_in, policy, update
    from dynamics.train.batch import Batch
    from dynamics.train.engines.local import Local
    from dynamics.train.engines.protocol import Start
    from dynamics.train.rng import stream
    from dynamics.train.samplers.transformers import generate

    config = settings(case)
    if case.kind != "local":
        from dynamics.train.engines.trl import TRL
    import transformers.models.llama.modeling_llama  # noqa: F401

    from_logits(torch.zeros(2, 4), targets=torch.zeros(2, dtype=torch.int64))  # loads the compiled kernels
    engine: Any = Local() if case.kind == "local" else TRL(config)
    players: dict[str, Any] = {}

    def begin(model: str) -> None:
        """Make the player, in every process."""
        loaded = policy.load(built_in.find(model), "cpu", "float32", "float32")
        players["policy"] = update.make_player("policy", loaded, config)
        start = Start("rlvr", config, 1, "float32", "")
        (engine.begin if case.kind == "local" else engine.share)(start, players, None)

    if case.kind != "local":
        engine.ranks.handlers["begin"] = begin
        if not engine.leads:
            engine.follow()
            return {}
    call = begin if case.kind == "local" else lambda model: engine.ranks.call("begin", model)
    call("tiny")  # imports what is imported late, and compiles
    one = Batch([np.arange(14, 20)], [np.arange(20, 24)] * 2, np.zeros(2, int), np.ones(2), *[[""] * 2] * 3)
    engine.update(players["policy"], None, one, 1)
    before = resident()
    call(case.model)
    loaded, player = players["policy"].policy, players["policy"]
    prompts, tokens, group = WORK[case.model]
    mine = -(-prompts // case.processes)  # sampled here; that others do the same at the same time changes no processor time
    rng = np.random.default_rng(0)
    drawn = [rng.integers(14, 60, tokens) for _ in range(prompts)]
    parts: dict[str, list[float]] = {"sampling": [], "measuring": [], "update": []}
    peaks = dict.fromkeys(parts, 0.0)

    def timed(part: str, work: Callable[[], Any]) -> Any:
        forget_peak()
        begin = time.process_time()
        done = work()
        parts[part].append(time.process_time() - begin)
        if part != "sampling" or not peaks[part]:  # what a process has freed after an update it may not have given back
            peaks[part] = max(peaks[part], resident(peak=True) - before)
        return done

    for step in range(1, case.steps + 2):

        def sampled(step: int = step) -> list[Any]:
            return generate(
                loaded.model,
                drawn[:mine],
                group,
                max_new_tokens=case.length,
                eos=(),
                rng_for=lambda p, s: stream(0, "benchmark", step, p, s),
            )

        timed("sampling", sampled)
        count = prompts * group
        names = [""] * count
        completions = [rng.integers(14, 60, case.length) for _ in range(count)]
        advantages = rng.normal(size=count)
        batch = Batch(drawn, completions, np.repeat(np.arange(prompts), group), advantages, names, names, names)
        timed("measuring", lambda batch=batch: loaded.measure(batch, config.max_tokens_per_microbatch))
        timed("update", lambda batch=batch, step=step: engine.update(player, None, batch, step))
    engine.close()
    found = {f"{part}, s": statistics.median(times[1:]) for part, times in parts.items()}
    return found | {f"{part}, MB": peak / 1e6 for part, peak in peaks.items()}


def said(case: Case, found: dict[str, float]) -> dict[str, float]:
    """Work out the same for a machine with the rates that were ``found``."""
    config, shape = settings(case), cost.shape(case.model)
    machine = cost.Machine("this processor", 1e12, found["flops"], found["bandwidth"], found["bandwidth"], 0.0)
    setup = cost.Setup(case.processes, case.kind == "fsdp2", machine, 4, case.kind != "local", layers=True)
    assumed = replace(cost.EXPECTED, problem=WORK[case.model][1], filled=1.0, utilisation=UTILISATION, traffic=1.0, layer=0.0)
    held, step = cost.memory(config, shape, setup, assumed), cost.time(config, shape, setup, assumed).step
    parts = ("measuring", "update", "optimizer", "communication")  # of the engine's update
    return {
        "sampling, s": step["sampling"],
        "measuring, s": cost.measured(config, shape, assumed) / case.processes / (UTILISATION * machine.flops),
        "update, s": sum(step.get(part, 0.0) for part in parts),
        "sampling, MB": sum(held.phases["sampling"][name] for name in ("whole weights", *FIRST)) / 1e6,
        "update, MB": held.of("updating") / 1e6,
    }


def measure(case: Case) -> dict[str, float]:
    """Measure a case in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        words = [__file__, "--case", json.dumps(asdict(case)), "--result", str(out)]
        start = [sys.executable]
        if case.processes > 1:
            start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(case.processes)]
        done = subprocess.run([*start, *words], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode or not out.exists():
            lines = done.stderr.strip().splitlines()
            raise RuntimeError(next((line for line in lines if "Error" in line), (lines or ["no result"])[-1]))
        return json.loads(out.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--lengths", nargs="+", type=int, default=[32, 128], help="new tokens (default %(default)s)")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), help="of %(default)s")
    parser.add_argument("--steps", type=int, default=3, help="steps after the first (default %(default)s)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        if found := measured(Case(**json.loads(options.case))):
            options.result.write_text(json.dumps(found))
        return 0
    found = rates()
    flops, copied = found["flops"] / 1e9, found["bandwidth"] / 1e9
    print(f"{flops:.0f} GFLOP/s in products, of which {UTILISATION:.0%} are said to be reached; {copied:.1f} GB/s in copies\n")
    print("| model | new tokens | engine | what | said | measured | measured / said |\n|---|---|---|---|---|---|---|", flush=True)
    failed = 0
    for model in options.models:
        for length in options.lengths:
            for engine in options.engines:
                case = Case(model, length, engine, options.steps)
                try:
                    seen = measure(case)
                except RuntimeError as error:
                    failed += 1
                    print(f"| {model} | {length} | {engine} | failed: {str(error)[:160]} | | | |", flush=True)
                    continue
                for what, expected in said(case, found).items():
                    value = seen[what]
                    print(f"| {model} | {length} | {engine} | {what} | {expected:.3g} | {value:.3g} | {value / expected:.2f} |", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
