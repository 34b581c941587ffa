"""Speed and memory of `dynamics.train` beside TRL at equal settings, in the same run.

    python benchmarks/train.py --quick                       # about 5 minutes: float32, one thread, two sizes
    python benchmarks/train.py                               # every combination, in hours
    python benchmarks/train.py --methods sft --sizes 135M --threads 1 --checkpointing off

sft         a step on 16 rows, each a prompt of 88 tokens and a completion of 64; against TRL's SFTTrainer
sft-mixed   the same with prompts of 24 to 120 tokens and completions of 16 to 144: where padding costs something
rlvr        a GRPO step of 8 prompts of 88 tokens x 8 samples of exactly 64 tokens; against TRL's GRPOTrainer with the sampling of
            transformers (end-of-sequence tokens are suppressed on both sides)
recorder    share of the recorder in the time of a step of the embedded default, at its default cadence

Equal on both sides: model (a Llama with random weights), token ids, order of rows, micro-batches (16 rows; one group of 8 samples), loss
(mean over completion tokens), float32 master weights, dtype (float32, or bfloat16 by autocast where the CPU has it), AdamW (torch's fused
one), learning rate, gradient clipping, threads, and whether layers are recomputed in the backward pass (gradient checkpointing). Both sides
also compute the entropy of every completion token. TRL's rows are padded: its documentation has padding-free batches and packing for
FlashAttention only, which needs a GPU. Its attention is torch's fused one, its default, or --trl-attention.

The contestants alternate, each round in a process of its own. A process measures steps after the first; its speed is that of its median
step. Speeds are medians and ranges over rounds: for SFT of all tokens of rows, for RLVR of sampled tokens. The ratio by CPU time is
that of the seconds for which the two processes had a core, which other programs on the machine disturb less; with several threads, waiting
for one another counts. Memory is the peak of resident
memory above that of the process after its imports, before it loads the model; the largest of the rounds. Weights, gradients and
optimizer state are 16 bytes a parameter of it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROWS, PROMPTS, GROUP, PROMPT, LENGTH = 16, 8, 8, 88, 64
LEARNING_RATE = 1e-6
#: first token id that is not special
FIRST = 3
Instant = tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """A Llama with tied embeddings: vocabulary, width, layers, heads, heads of keys, width of the MLP, and steps to measure."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    intermediate: int
    steps: int


SIZES = {
    "0.65M": Shape(64, 128, 3, 4, 4, 384, 20),  # the embedded model
    "10M": Shape(2048, 320, 7, 5, 5, 960, 6),
    "135M": Shape(49152, 576, 30, 9, 3, 1536, 2),  # SmolLM2-135M
    "0.5B": Shape(151936, 896, 24, 14, 2, 4864, 5),  # Qwen2.5-0.5B
}


@dataclass(frozen=True)
class Cell:
    """What a process measures."""

    method: str
    size: str
    dtype: str
    threads: int
    checkpointing: bool
    contestant: str = ""
    device: str = "cpu"


def make_model(shape: Shape, folder: Path) -> None:
    """Save a model with random weights, and a tokenizer of whole words ``w3 w4 ...``, so that text and ids determine each other."""
    import tokenizers
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{number}": number for number in range(FIRST, shape.vocabulary)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bar
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def rows(method: str, vocabulary: int, step: int) -> list[tuple[Any, Any]]:
    """Draw the prompts and completions of a step, as token ids; completions are empty for ``rlvr``."""
    import numpy as np

    rng = np.random.default_rng(step)
    if method == "rlvr":
        sizes = [(PROMPT, 0)] * PROMPTS
    elif method == "sft":
        sizes = [(PROMPT, LENGTH)] * ROWS
    else:  # the same lengths in every step, in another order
        sizes = rng.permutation(np.stack([np.linspace(24, 120, ROWS), np.linspace(144, 16, ROWS)[np.arange(ROWS) * 5 % ROWS]], 1)).astype(
            int
        )
    return [tuple(rng.integers(FIRST, vocabulary, int(size)) for size in pair) for pair in sizes]


def resident(peak: bool = False) -> float:
    """MiB of memory that the process has resident, or had at most since ``forget_peak``."""
    field = "VmHWM:" if peak else "VmRSS:"
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def instant() -> Instant:
    """Seconds of the clock, and of processor time that the process has used, once the GPU has done what it was given."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def rewards(completions: list[Any], **_: Any) -> list[float]:
    """Return rewards that differ within groups."""
    return [float(zlib.crc32(str(completion).encode()) % 7) for completion in completions]


def ours(cell: Cell, folder: str) -> tuple[list[Instant], float]:
    """Return the instants at which steps began or ended, and the resident memory after the imports."""
    import numpy as np
    import torch

    from dynamics.entropy.logits import from_logits
    from dynamics.train import objectives, policy, token_metrics, update
    from dynamics.train.batch import Batch
    from dynamics.train.config import RLVRConfig, SFTConfig
    from dynamics.train.rng import stream
    from dynamics.train.samplers.transformers import generate

    torch.set_num_threads(cell.threads)
    shape, rlvr = SIZES[cell.size], cell.method == "rlvr"
    widest = PROMPT + GROUP * LENGTH if rlvr else ROWS * max(sum(map(len, row)) for row in rows(cell.method, shape.vocabulary, 0))
    shared: dict[str, Any] = {
        "max_new_tokens": LENGTH,
        "learning_rate": LEARNING_RATE,
        "max_tokens_per_microbatch": widest,
        "warmup_steps": 0,
    }
    config: Any = RLVRConfig(**shared) if rlvr else SFTConfig(**shared)
    import transformers.models.llama.modeling_llama  # noqa: F401

    from_logits(torch.zeros(2, 4), targets=torch.zeros(2, dtype=torch.int64))  # loads the compiled kernels
    before = resident()
    forget_peak()
    options = {"gradient_checkpointing": True} if cell.checkpointing else {}
    loaded = policy.load(folder, cell.device, "float32", cell.dtype, **options)
    optimizer = torch.optim.AdamW(loaded.masters.values(), LEARNING_RATE, (0.9, 0.99), weight_decay=0.0, fused=True)
    drawn = [rows(cell.method, shape.vocabulary, step) for step in range(shape.steps + 1)]
    instants = [instant()]
    for step, pairs in enumerate(drawn):
        prompts = [prompt for prompt, _ in pairs]
        if rlvr:
            groups = generate(
                loaded.model,
                prompts,
                GROUP,
                max_new_tokens=LENGTH,
                eos=(),
                rng_for=lambda p, s, at=step: stream(0, "b", at, p, s),
                autocast=loaded.autocast,
            )
            samples = [sample for group in groups for sample in group]
            of = np.repeat(np.arange(PROMPTS), GROUP)
            lengths = np.array([len(sample.ids) for sample in samples])
            assert (lengths == LENGTH).all()
            scores = np.array(rewards([loaded.tokenizer.decode(sample.ids) for sample in samples]))
            advantages = objectives.advantages("grpo", scores, of, lengths)
            names = [""] * len(samples)
            batch = Batch(
                prompts, [sample.ids for sample in samples], of, advantages, names, names, names, [sample.logprobs for sample in samples]
            )
        else:
            names = [""] * ROWS
            batch = Batch(prompts, [completion for _, completion in pairs], np.arange(ROWS), np.ones(ROWS), names, names, names)
        prepared = update.prepare(loaded, None, batch, config, step + 1)
        tally = update.gradient(loaded, batch, config, prepared)
        update.optimizer_step(loaded, optimizer, config, step + 1, tally, batch)
        token_metrics.token_metrics(tally, batch, loaded.token_kinds)
        instants.append(instant())
    return instants, before


def trl(cell: Cell, folder: str, attention: str) -> tuple[list[Instant], float]:
    """Return the instants at which steps began or ended, and the resident memory after the imports."""
    import datasets
    import torch
    import transformers
    import transformers.models.llama.modeling_llama
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    torch.set_num_threads(cell.threads)
    shape, rlvr = SIZES[cell.size], cell.method == "rlvr"
    steps = shape.steps + 1
    instants: list[Instant] = []

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            instants.append(instant())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            instants.append(instant())

    shared: dict[str, Any] = {
        "max_steps": steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "adam_beta2": 0.99,
        "max_grad_norm": 1.0,
        "use_cpu": cell.device == "cpu",
        "bf16": cell.dtype == "bfloat16",
        "gradient_checkpointing": cell.checkpointing,
        "model_init_kwargs": {"dtype": "float32", "attn_implementation": attention},
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    before = resident()
    forget_peak()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    drawn = [pair for step in range(steps) for pair in rows(cell.method, shape.vocabulary, step)]
    trainer: Any
    with tempfile.TemporaryDirectory() as out:
        if rlvr:
            data = datasets.Dataset.from_list([{"prompt": " ".join(f"w{token}" for token in prompt)} for prompt, _ in drawn])
            arguments = GRPOConfig(
                out,
                **shared,
                per_device_train_batch_size=GROUP,
                gradient_accumulation_steps=PROMPTS,
                num_generations=GROUP,
                max_completion_length=LENGTH,
                shuffle_dataset=False,
                generation_kwargs={"min_new_tokens": LENGTH},
            )
            trainer = GRPOTrainer(folder, rewards, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()])
        else:
            labelled = [
                {"input_ids": [*prompt.tolist(), *completion.tolist()], "labels": [-100] * len(prompt) + completion.tolist()}
                for prompt, completion in drawn
            ]
            settings = SFTConfig(
                out,
                **shared,
                per_device_train_batch_size=ROWS,
                train_sampling_strategy="sequential",
                dataset_kwargs={"skip_prepare_dataset": True},
            )
            table = datasets.Dataset.from_list(labelled)
            trainer = SFTTrainer(folder, settings, train_dataset=table, processing_class=tokenizer, callbacks=[Clock()])
        trainer.train()
    if rlvr:
        lengths = {entry["completions/mean_length"] for entry in trainer.state.log_history if "completions/mean_length" in entry}
        assert lengths == {LENGTH}, lengths
    return instants, before


def measure(cell: Cell, folder: str, attention: str) -> None:
    """Print, in a process of its own, the tokens of a step, the medians of the steps after the first, and the peak of memory."""
    instants, before = trl(cell, folder, attention) if cell.contestant == "trl" else ours(cell, folder)
    shape = SIZES[cell.size]
    tokens = (
        PROMPTS * GROUP * LENGTH if cell.method == "rlvr" else sum(sum(map(len, row)) for row in rows(cell.method, shape.vocabulary, 0))
    )
    seconds, cpu = (statistics.median(b - a for a, b in itertools.pairwise(times[1:])) for times in zip(*instants, strict=True))
    mib = resident(peak=True) - before
    if cell.device != "cpu":
        import torch

        mib = torch.cuda.max_memory_allocated() / 2**20
    result = {"speed": tokens / seconds, "cpu": cpu, "mib": mib}
    print("RESULT " + json.dumps(result), flush=True)


def available(cell: Cell) -> bool:
    """Whether `dynamics.train` has what the cell needs."""
    from dataclasses import fields

    from dynamics.train.config import TrainConfig

    return not cell.checkpointing or any(field.name == "gradient_checkpointing" for field in fields(TrainConfig))


def race(cell: Cell, folder: Path, rounds: int, attention: str) -> str:
    """Measure both contestants in turn; return a row of the table."""
    results: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    contestants = list(results) if available(cell) else ["trl"]
    environment = os.environ | {"OMP_NUM_THREADS": str(cell.threads), "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
    for number in range(rounds):
        for name in contestants if number % 2 == 0 else reversed(contestants):  # neither is always first
            description = json.dumps(asdict(replace(cell, contestant=name)))
            command = [sys.executable, __file__, "--cell", description, "--folder", str(folder), "--trl-attention", attention]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(f"{description} failed:\n{done.stderr[-2000:]}")
            results[name].append(json.loads(lines[-1][7:]))
    pairs = list(zip(results["ours"], results["trl"], strict=True)) if results["ours"] else []
    ratios = [
        spread([ours["speed"] / trl["speed"] for ours, trl in pairs], 2),
        spread([trl["cpu"] / ours["cpu"] for ours, trl in pairs], 2),
    ]
    speeds = [spread([run["speed"] for run in runs]) for runs in results.values()]
    memory = [f"{max(run['mib'] for run in runs):,.0f}" if runs else "not available" for runs in results.values()]
    named = [cell.method, cell.size, cell.dtype, str(cell.threads), "on" if cell.checkpointing else "off"]
    return "| " + " | ".join([*named, *ratios, *speeds, *memory]) + " |"


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Write the median and the range."""
    if not values:
        return "not available"
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


HEADER = """| method | size | dtype | threads | checkpointing | ours / TRL | by CPU time | ours, tok/s | TRL, tok/s | ours, MiB | TRL, MiB |
|---|---|---|---|---|---|---|---|---|---|---|"""


def machine() -> str:
    """Name the processor and the versions."""
    import importlib.metadata

    import torch

    from dynamics.train.policy import cpuinfo, native_bfloat16

    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "trl", "accelerate"))
    kind = f"{cpuinfo('model name')} (family {cpuinfo('cpu family')}, model {cpuinfo('model')}), {os.cpu_count()} cores"
    has = "with" if native_bfloat16(torch.device("cpu")) else "without"
    return f"{kind}, {has} bfloat16 arithmetic; load {os.getloadavg()[0]:.1f} before the first round; {packages}"


def recorder() -> None:
    from dynamics.train.config import RLVRConfig, SFTConfig
    from dynamics.train.loop import run

    for method, config in (("rlvr", RLVRConfig(steps=20, eval_problems=0)), ("sft", SFTConfig(steps=60, eval_problems=0))):
        with tempfile.TemporaryDirectory() as folder:
            done = run(method, config, Path(folder) / "run")
            lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
            share = done.recorder.seconds / sum(line["seconds"] for line in lines)
        print(f"recorder {method}: {100 * share:.1f} % of the steps, measured every {done.recorder.every}", flush=True)


def cells(options: argparse.Namespace) -> list[Cell]:
    """List what to measure."""
    import torch

    from dynamics.train.policy import native_bfloat16

    dtypes = options.dtypes or ["float32", "bfloat16"][: 1 + native_bfloat16(torch.device("cpu"))]
    sizes, threads, checkpointing = options.sizes or list(SIZES), options.threads or [1, 2], options.checkpointing or ["off", "on"]
    if options.quick:
        sizes, threads = options.sizes or ["0.65M", "10M"], options.threads or [1]
        dtypes, checkpointing = options.dtypes or ["float32"], options.checkpointing or ["off"]
    product = itertools.product(sizes, options.methods, dtypes, threads, checkpointing)
    return [Cell(method, size, dtype, count, kept == "on") for size, method, dtype, count, kept in product]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a first look in about 5 minutes")
    parser.add_argument("--methods", nargs="+", choices=["sft", "sft-mixed", "rlvr"], default=["sft", "sft-mixed", "rlvr"])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=int)
    parser.add_argument("--checkpointing", nargs="+", choices=["off", "on"])
    parser.add_argument("--rounds", type=int, help="5 by default, 2 with --quick")
    parser.add_argument("--trl-attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--no-recorder", action="store_true", help="do not measure the recorder")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        measure(Cell(**json.loads(options.cell)), options.folder, options.trl_attention)
        return
    print(f"{machine()}; TRL with {options.trl_attention} attention", flush=True)
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for cell in cells(options):
            folder = Path(temporary) / cell.size
            if not folder.exists():
                make_model(SIZES[cell.size], folder)
            print(race(cell, folder, options.rounds or (2 if options.quick else 5), options.trl_attention), flush=True)
    if not options.no_recorder:
        recorder()


if __name__ == "__main__":
    main()
