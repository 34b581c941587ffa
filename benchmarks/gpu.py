"""What only a GPU can show, as one table: every piece runs in processes of its own, and none stops the others. `benchmarks/gpu.sh` runs it.

    python benchmarks/gpu.py                            # all, on the GPUs of this machine
    python benchmarks/gpu.py --only kernels spectra     # some
    python benchmarks/gpu.py --device cpu --small       # the same code on a processor, with small sizes: no measurement of anything

kernels     entropy, log Z, surprisal and the gradient of logits on the device, against the processor; and against -sum p log p there
spectra     singular values on the device, by `sketch` and whole, against numpy's in float64
sparsity    `dynamics.sparsity.compare` of tensors that are on the device, against the same on the processor, field by field
bf16        log-probabilities and gradient in bfloat16, against float32
fsdp2       accelerate's wrap, four steps, the state saved after two of them and taken up by another model, against one process; with one
            GPU there is one shard, so nothing is communicated
launch      `accelerate launch` with docs/accelerate/fsdp2.yaml on all GPUs: a run, killed and resumed; needs two
sft, rlvr   tokens/s of a step against TRL's SFTTrainer and GRPOTrainer, by `benchmarks/train.py`, in bfloat16
vllm        a run with `--sampler vllm`, which checks the sampler's log-probabilities after every synchronisation

The verdict of a row is ok, failed or skipped, and says why. The bound of a difference stands in the column `against`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: seconds after which a piece has failed
LIMIT = 1800
OK, FAILED, SKIPPED = "ok", "failed", "skipped"
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Row:
    """A row of the table: ``ratio`` is of ``against`` and ``value``, or how much of a bound is used; None if there is none."""

    what: str
    value: float | None
    unit: str
    against: str
    ratio: float | None
    verdict: str


def within(what: str, value: float, bound: float, unit: str, against: str) -> Row:
    """Judge a difference by its bound."""
    verdict = OK if value <= bound else f"{FAILED}: above {bound:g}"
    return Row(what, value, unit, f"{against}, at most {bound:g}", value / bound, verdict)


def seconds(work: Callable[[], Any], device: str, rounds: int = 5) -> float:
    """Return the median of the seconds of some work, after it was done once."""
    import torch

    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def faster(what: str, ours: float, theirs: float, against: str) -> Row:
    """Compare seconds: a ratio above 1 says that ours is faster."""
    return Row(what, 1000 * ours, "ms", against, theirs / ours, OK)


def kernels(device: str, small: bool) -> list[Row]:
    """Measure the kernels of entropy."""
    import torch

    from dynamics.entropy.logits import from_logits, logits_gradient

    rows, vocabulary = (32, 2048) if small else (512, 151936)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, vocabulary, generator=generator)
    logits *= torch.logspace(-1, 2, rows)[:, None]  # from almost uniform to almost certain
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    there, at = logits.to(device), targets.to(device)
    here, found = from_logits(logits, targets=targets), from_logits(there, targets=at)
    table = []
    for name in ("entropy", "logsumexp", "surprisal"):
        expected, value = getattr(here, name), getattr(found, name).cpu()
        error = float(((value - expected).abs() / expected.abs().clamp(min=1e-300)).max())
        table.append(within(f"kernels: {name}", error, 1e-9, "largest relative difference", "the processor"))
    same = float((found.rank.cpu() != here.rank).sum())
    table.append(within("kernels: rank", same, 0.5, "tokens that differ", "the processor"))
    slopes = torch.randn(rows, generator=generator)
    gradients = [
        logits_gradient(
            z,
            by_logp=slopes.to(z),
            targets=t,
            logsumexp=s.logsumexp,
            by_entropy=slopes.to(z),
            entropy=s.entropy,
            entropy_logsumexp=s.logsumexp,
        ).cpu()
        for z, t, s in ((logits, targets, here), (there, at, found))
    ]
    error = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    table.append(within("kernels: gradient", error, 1e-5, "relative difference", "the processor, float32"))

    def plain() -> Any:
        logp = torch.log_softmax(there, -1)
        return -(logp.exp() * logp).sum(-1)

    ours, theirs = (seconds(work, device) for work in (lambda: from_logits(there), plain))
    return [*table, faster(f"kernels: entropy of {rows} x {vocabulary}", ours, theirs, "-sum p log p in float32 on the device")]


def spectra(device: str, small: bool) -> list[Row]:
    """Measure singular values."""
    import numpy as np

    from dynamics.spectra.linalg import svd
    from dynamics.spectra.randomized_svd import sketch

    size, count = (256, 16) if small else (4096, 48)
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((size, size)) / size**0.5 + rng.standard_normal((size, 20)) @ rng.standard_normal((20, size)) / size**0.5
    expected = np.linalg.svd(matrix, compute_uv=False)
    here, there = sketch(matrix, count, device="cpu"), sketch(matrix, count, device=device)
    largest = "largest relative difference"
    table = [
        within("spectra: sketch", float(np.abs(there.sigma / here.sigma - 1).max()), 1e-6, largest, "sketch on the processor"),
        within("spectra: whole", float(np.abs(svd(matrix)[1] / expected - 1).max()), 1e-9, largest, "numpy, float64"),
    ]
    missed = float(max(0.0, float((there.sigma - expected[:count]).max()) / expected[0]))
    table.append(within("spectra: sketch above the truth", missed, 1e-9, "of the largest", "numpy, float64"))
    ours, theirs = (seconds(lambda on=on: sketch(matrix, count, device=on), device, 3) for on in (device, "cpu"))
    return [*table, faster(f"spectra: sketch of {size} x {size}", ours, theirs, "the processor")]


def sparsity(device: str, small: bool) -> list[Row]:
    """Compare tensors that are on the device."""
    import torch

    from dynamics.sparsity import compare

    count = 1 << (16 if small else 26)
    generator = torch.Generator().manual_seed(0)
    base = {f"layers.{number}.weight": torch.randn(count // 1024, 1024, generator=generator) for number in range(4)}
    tuned = {name: value + 1e-3 * torch.randn(value.shape, generator=generator) * (value > 0) for name, value in base.items()}
    narrow = [{name: value.bfloat16() for name, value in side.items()} for side in (base, tuned)]
    table = []
    for dtype, sides in (("float32", [base, tuned]), ("bfloat16", narrow)):
        on_device = [{name: value.to(device) for name, value in side.items()} for side in sides]
        here, there = compare(*sides).to_dict(), compare(*on_device).to_dict()
        differing = [key for key in ("total", "tensors", "layers", "modules") if here[key] != there[key]]
        verdict = f"{FAILED}: {', '.join(differing)} differ" if differing else OK
        ours, theirs = (seconds(lambda pair=pair: compare(*pair), device, 2) for pair in (on_device, sides))
        size = f"{4 * count / 1e6:.2g} M weights, {dtype}"
        table.append(
            Row(f"sparsity: tensors on the device, {size}", 1000 * ours, "ms", "the processor, every field", theirs / ours, verdict)
        )
    return table


def _trainer() -> ModuleType:
    """Import `benchmarks/train.py`, by another name than the package of the tests has."""
    spec = importlib.util.spec_from_file_location("train_benchmark", Path(__file__).with_name("train.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _model(folder: Path, size: str) -> str:
    """Make a model with random weights."""
    module = _trainer()
    module.make_model(module.SIZES[size], folder)
    return str(folder)


def _batch(step: int, vocabulary: int, small: bool) -> Any:
    """Make a batch of four prompts with four completions each, of several lengths."""
    import numpy as np

    from dynamics.train.batch import Batch

    rng = np.random.default_rng(step)
    longest = 12 if small else 128
    prompts = [rng.integers(3, vocabulary, size) for size in rng.integers(3, longest, 4)]
    completions = [rng.integers(3, vocabulary, size) for size in rng.integers(2, longest, 16)]
    names = [""] * 16
    return Batch(prompts, completions, np.arange(16) // 4, rng.normal(size=16), names, names, names)


def bf16(device: str, small: bool) -> list[Row]:
    """Compare computation in bfloat16 with that in float32."""
    import torch

    from dynamics.train import policy, update
    from dynamics.train.config import RLVRConfig

    config = RLVRConfig(device=device, max_tokens_per_microbatch=4096)
    values, gradients, times = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        name = _model(Path(folder), "0.65M" if small else "135M")
        for compute in ("float32", "bfloat16"):
            loaded = policy.load(name, device, "float32", compute)
            batch = _batch(1, loaded.model.config.vocab_size, small)
            values.append(loaded.measure(batch, 4096)[0].double().cpu())

            def work(loaded: Any = loaded, batch: Any = batch) -> None:
                loaded.model.zero_grad()
                update.gradient(loaded, batch, config, update.Before())

            times.append(seconds(work, device, 3))
            gradients.append(torch.cat([value.grad.flatten().double().cpu() for value in loaded.masters.values()]))
    off = float((values[1] - values[0]).abs().mean())
    cosine = float(torch.nn.functional.cosine_similarity(*gradients, dim=0))
    return [
        within("bf16: log-probabilities", off, 0.05, "mean difference, nats", "float32"),
        within("bf16: gradient", 1 - cosine, 0.01, "1 - cosine", "float32"),
        faster("bf16: gradient of a batch", times[1], times[0], "float32"),
    ]


def _torchrun(count: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]


def _gpus(device: str) -> int:
    import torch

    return torch.cuda.device_count() if device != "cpu" else 0


def fsdp2(device: str, small: bool) -> list[Row]:
    """Start the processes of ``sharded``."""
    count = 2 if device == "cpu" else _gpus(device)
    with tempfile.TemporaryDirectory() as folder:
        name, out = _model(Path(folder) / "model", "0.65M" if small else "135M"), Path(folder) / "found.json"
        words = [*_torchrun(count), __file__, "--sharded", name, "--device", device, "--result", str(out), *(["--small"] if small else [])]
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=LIMIT)
        if done.returncode or not out.exists():
            raise RuntimeError(_reason(done.stderr))
        found = json.loads(out.read_text())
    shards = f"{count} processes" if count > 1 else "one shard"
    whole = found["parameters"] - found["sharded"]
    return [
        within(f"fsdp2: wrap, {shards}", float(whole), 0.5, "weights that are not sharded", "all"),
        within("fsdp2: four steps", found["weights"], 5e-5, "largest difference of weights", "one process"),
        Row("fsdp2: how far they moved", found["moved"], "largest change", "above 1e-3", None, OK if found["moved"] > 1e-3 else FAILED),
        within("fsdp2: saved and taken up after two", found["resumed"], 1e-7, "largest difference of weights", "without a break"),
    ]


def sharded(model: str, device: str, small: bool) -> dict[str, float]:
    """Take steps whose weights accelerate shards, and compare with one process; in rank 0, empty in the others."""
    import copy

    import torch
    from torch.distributed.tensor import DTensor

    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
    }
    if device == "cpu":
        sys.path[:0] = [str(ROOT / "tests")]
        from train.engines.worker import have_accelerate_shard_on_a_processor

        have_accelerate_shard_on_a_processor()
    from dynamics.train import policy, update
    from dynamics.train.config import RLVRConfig
    from dynamics.train.engines.local import Local
    from dynamics.train.engines.protocol import Start
    from dynamics.train.engines.trl import TRL

    config = RLVRConfig(device=device, learning_rate=LEARNING_RATE, warmup_steps=0, threads=1, max_tokens_per_microbatch=512)
    start = Start("rlvr", config, 1, "float32", "")
    engine: Any = TRL(config)

    def player() -> Any:
        return update.make_player("policy", policy.load(model, None if device == "cuda" else device, "float32", "float32"), config)

    engine.ranks.handlers["begin"] = lambda: engine.share(start, {"policy": player()}, None)
    if not engine.leads:
        engine.follow()
        return {}

    def weights(of: Any) -> dict[str, Any]:
        return {name: value.detach().clone() for name, value in of.policy.masters.items()}

    def off(one: dict[str, Any], other: dict[str, Any]) -> float:
        return max(float((one[name] - other[name]).abs().max()) for name in one)

    def steps(by: Any, of: Any, numbers: range) -> None:
        for step in numbers:
            by.update(of, None, _batch(step, of.policy.model.config.vocab_size, small), step)

    engine.ranks.call("begin")
    first = engine.ranks.players["policy"]
    before = weights(first)
    steps(engine, first, range(1, 3))
    with engine.collected():
        kept = weights(first), copy.deepcopy(first.optimizer.state_dict())
    steps(engine, first, range(3, 5))
    after = weights(first)
    shards = [value for trainer in engine.trainers.values() for value in trainer._parameters().values()]
    found = {"parameters": len(shards), "sharded": sum(isinstance(value, DTensor) for value in shards)}
    engine.ranks.call("begin")
    second = engine.ranks.players["policy"]
    with torch.no_grad():
        for name, value in second.policy.masters.items():
            value.copy_(kept[0][name])
    second.optimizer.load_state_dict(kept[1])
    second.policy.update_model()
    steps(engine, second, range(3, 5))
    found["resumed"] = off(after, weights(second))
    engine.close()
    alone, local = player(), Local()
    local.begin(start, {"policy": alone}, None)
    steps(local, alone, range(1, 5))
    return found | {"weights": off(after, weights(alone)), "moved": off(after, before)}


def launch(device: str, small: bool) -> list[Row]:
    """Run, kill and resume a run by accelerate's launcher."""
    del small
    count = _gpus(device)
    if count < 2:
        return [Row("launch: run, kill, resume", None, "", "", None, f"{SKIPPED}: {count} GPUs here, and sharding needs two")]
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    accelerate += ["--config_file", str(ROOT / "docs" / "accelerate" / "fsdp2.yaml"), "--num_processes", str(count)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [
            *accelerate,
            "-m",
            "dynamics.train",
            "rlvr",
            "--engine",
            "trl",
            "--processes",
            str(count),
            "--steps",
            "6",
            "--save-every",
            "1",
        ]
        words += ["--eval-problems", "0", "--probe-every", "0", "--prompts-per-step", "8", "--group-size", "4", "--out", str(out)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + LIMIT / 2
        while not (out / "state" / "step_000002").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        ended = process.poll()
        os.killpg(process.pid, signal.SIGKILL) if ended is None else None
        process.wait()
        if ended is not None:
            return [Row("launch: run, kill, resume", None, "", "", None, f"{FAILED}: ended with {ended} before it could be killed")]
        done = subprocess.run([*words, "--resume"], capture_output=True, text=True, timeout=LIMIT / 2)
        lines = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        good = done.returncode == 0 and lines == list(range(1, 7))
        return [Row("launch: steps of a killed run", len(lines), "steps", "6", None, OK if good else f"{FAILED}: {_reason(done.stderr)}")]


def _race(method: str, device: str, small: bool) -> list[Row]:
    """Run a step of both trainers in turn, in processes of their own."""
    module = _trainer()
    size, rounds = ("0.65M", 1) if small else ("0.5B", 3)
    dtype = "float32" if small else "bfloat16"
    speeds: dict[str, list[float]] = {"": [], "trl": []}
    with tempfile.TemporaryDirectory() as folder:
        name = _model(Path(folder), size)
        for _ in range(rounds):
            for contestant, found in speeds.items():
                cell = module.Cell(method, size, dtype, 1, False, contestant, device)
                words = [sys.executable, module.__file__, "--cell", json.dumps(asdict(cell)), "--folder", name]
                environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
                done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=LIMIT)
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    raise RuntimeError(f"{contestant or 'ours'}: {_reason(done.stderr)}")
                found.append(json.loads(lines[-1][7:])["speed"])
    ours, theirs = (statistics.median(found) for found in speeds.values())
    return [Row(f"{method}: a step of {size}, {dtype}", ours, "tokens/s", f"TRL, {theirs:,.0f}", ours / theirs, OK)]


def sft(device: str, small: bool) -> list[Row]:
    """Race with TRL's SFTTrainer."""
    return _race("sft", device, small)


def rlvr(device: str, small: bool) -> list[Row]:
    """Race with TRL's GRPOTrainer."""
    return _race("rlvr", device, small)


def vllm(device: str, small: bool) -> list[Row]:
    """Run with vLLM as the sampler."""
    del small
    what = "vllm: colocated, synchronised, checked"
    if importlib.util.find_spec("vllm") is None:
        return [Row(what, None, "", "", None, f"{SKIPPED}: vllm is not installed")]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [
            sys.executable,
            "-m",
            "dynamics.train",
            "rlvr",
            "--sampler",
            "vllm",
            "--device",
            device,
            "--steps",
            "3",
            "--eval-problems",
            "0",
        ]
        words += ["--prompts-per-step", "4", "--group-size", "4", "--probe-every", "0", "--out", str(out)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT)
        if done.returncode:
            return [Row(what, None, "", "", None, f"{FAILED}: {_reason(done.stderr)}")]
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    largest = max(line.get("sampler/max_difference", float("nan")) for line in lines)
    return [Row(what, largest, "largest difference of log-probabilities", "its own bound", None, OK)]


PIECES: dict[str, Callable[[str, bool], list[Row]]] = {
    piece.__name__: piece for piece in (kernels, spectra, sparsity, bf16, fsdp2, launch, sft, rlvr, vllm)
}


def _reason(text: str) -> str:
    """Take the line that says most out of what a process wrote before it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if "error" in line.lower() and "ChildFailedError" not in line]
    return (said or lines or ["no message"])[-1][:160].replace("|", "/")


def run(name: str, device: str, small: bool) -> list[Row]:
    """Run a piece in a process of its own; what keeps it from a result is its row."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        words = [sys.executable, __file__, "--piece", name, "--device", device, "--result", str(out), *(["--small"] if small else [])]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=2 * LIMIT)
        except subprocess.TimeoutExpired:
            return [Row(name, None, "", "", None, f"{FAILED}: not done after {2 * LIMIT} s")]
        if not out.exists():
            return [Row(name, None, "", "", None, f"{FAILED}: {_reason(done.stderr)}")]
        return [Row(**row) for row in json.loads(out.read_text())]


def line(row: Row) -> str:
    """Format a row of the table."""
    value, ratio = ("" if number is None else f"{number:.3g}" for number in (row.value, row.ratio))
    return f"| {row.what} | {value} | {row.unit} | {row.against} | {ratio} | {row.verdict} |"


def machine(device: str) -> str:
    """Describe what the numbers are of."""
    import torch
    import transformers

    names = "the processor: no measurement of a GPU"
    if device != "cpu":
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return f"{names}; torch {torch.__version__}, transformers {transformers.__version__}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PIECES), default=list(PIECES), metavar="PIECE", help=f"of {', '.join(PIECES)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes, for tests")
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    parser.add_argument("--sharded", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sharded:
        if found := sharded(options.sharded, options.device, options.small):
            options.result.write_text(json.dumps(found))
        return 0
    if options.piece:
        rows = PIECES[options.piece](options.device, options.small)
        options.result.write_text(json.dumps([asdict(row) for row in rows]))
        return 0
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here (torch.cuda.is_available() is False): nothing was measured; --device cpu --small runs the code", file=sys.stderr)
        return 2
    print(f"{machine(options.device)}\n")
    print("| what | value | unit | against | ratio | verdict |\n|---|---|---|---|---|---|", flush=True)
    verdicts = []
    for name in options.only:
        for row in run(name, options.device, options.small):
            print(line(row), flush=True)
            verdicts.append(row.verdict.partition(":")[0])
    print(f"\n{', '.join(f'{verdicts.count(kind)} {kind}' for kind in (OK, FAILED, SKIPPED))}")
    return int(FAILED in verdicts)


if __name__ == "__main__":
    sys.exit(main())
