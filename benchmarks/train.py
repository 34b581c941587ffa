"""Speed and memory of `dynamics.train`, as ratios against TRL in the same run.

    python benchmarks/train.py [--model FOLDER] [--steps 2] [--bf16]

rlvr        a GRPO step of 8 prompts x 8 samples x exactly 64 tokens, float32 masters; against TRL's GRPOTrainer
            with the same model, prompts, loss and number of tokens
sft         a step on 16 completions of 64 tokens with their prompts; against TRL's SFTTrainer
recorder    share of the recorder in the time of a step of the embedded default, at its default cadence

The contestants alternate, each in its own process, whose peak memory is reported. The ratio is that of the median speeds after the first
step. Both compute in float32 or, with --bf16, in bfloat16, which is only faster on machines with bfloat16 arithmetic.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPTS, GROUP, LENGTH = 8, 8, 64
TEXT = "Tom has {a} apples and buys {b} more at the market, then gives {c} of them to his friends, who eat them. "
ASK = "How many apples does Tom have now? Explain step by step how you come to the answer, and give only the final number at the end."


def questions(count: int) -> list[str]:
    return [TEXT.format(a=n + 3, b=2 * n + 1, c=n % 4) + ASK for n in range(count)]


def rewards(completions: list[Any], **_: Any) -> list[float]:
    """Return rewards that differ within every group."""
    return [float(hash(str(completion)) % 7) for completion in completions]


def report(seconds: list[float], tokens: int) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps({"seconds": seconds, "tokens": tokens, "peak_mib": peak}), flush=True)


def ours(method: str, model: str, steps: int, bf16: bool) -> None:
    import numpy as np
    import torch

    from dynamics.train import objectives, policy, token_metrics, update
    from dynamics.train.batch import Batch
    from dynamics.train.config import RLVRConfig, SFTConfig, preset_values
    from dynamics.train.rng import stream
    from dynamics.train.samplers.transformers import generate
    from dynamics.train.tasks.prompt_formats import encode_prompts

    shared: dict[str, Any] = {
        "max_new_tokens": LENGTH,
        "learning_rate": 1e-6,
        "max_tokens_per_microbatch": preset_values(method, "pretrained")["max_tokens_per_microbatch"],
    }
    config: Any = RLVRConfig(**shared) if method == "rlvr" else SFTConfig(**shared)
    loaded = policy.load(model, "cpu", "float32", "bfloat16" if bf16 else "float32")
    optimizer = torch.optim.AdamW(loaded.masters.values(), 1e-6, fused=True)
    prompts = encode_prompts(loaded.tokenizer, questions(PROMPTS if method == "rlvr" else 16))
    answers = [np.random.default_rng(n).integers(100, 9000, LENGTH) for n in range(16)]
    seconds, tokens = [], 0
    for step in range(1, steps + 2):
        begin = time.perf_counter()
        if method == "rlvr":
            groups = generate(
                loaded.model, prompts, GROUP, max_new_tokens=LENGTH, eos=(), rng_for=lambda p, s, at=step: stream(0, "b", at, p, s)
            )
            samples = [sample for group in groups for sample in group]
            of = np.repeat(np.arange(PROMPTS), GROUP)
            lengths = np.array([len(sample.ids) for sample in samples])
            scores = np.array(rewards([sample.ids.tolist() for sample in samples]))
            advantages = objectives.advantages("grpo", scores, of, lengths)
            names = [""] * len(samples)
            ids, logprobs = [sample.ids for sample in samples], [sample.logprobs for sample in samples]
            batch = Batch(prompts, ids, of, advantages, names, names, names, logprobs)
        else:
            names = [""] * 16
            batch = Batch(prompts, answers, np.arange(16), np.ones(16), names, names, names)
        before = update.prepare(loaded, None, batch, config, step)
        tally = update.gradient(loaded, batch, config, before)
        update.optimizer_step(loaded, optimizer, config, step, tally, batch)
        token_metrics.token_metrics(tally, batch)
        seconds.append(time.perf_counter() - begin)
        tokens = int(batch.lengths.sum())
    report(seconds[1:], tokens)


def trl(method: str, model: str, steps: int, bf16: bool) -> None:
    import datasets
    import numpy as np
    import transformers
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    words = transformers.AutoTokenizer.from_pretrained(model)
    seconds: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            seconds.append(now - self.begin)
            self.begin = now

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begin = time.perf_counter()

    shared: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": steps + 1,
        "learning_rate": 1e-6,
        "use_cpu": True,
        "bf16": bf16,
    }
    shared |= {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "lr_scheduler_type": "constant"}
    trainer: Any
    if method == "rlvr":
        data = datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in questions(PROMPTS)])
        args = GRPOConfig(
            **shared,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=8,
            num_generations=GROUP,
            max_completion_length=LENGTH,
            generation_kwargs={"min_new_tokens": LENGTH},
        )
        trainer = GRPOTrainer(model, rewards, args, train_dataset=data, processing_class=words, callbacks=[Clock()])
    else:
        made = [words.decode(np.random.default_rng(n).integers(100, 9000, LENGTH)) for n in range(16)]
        rows = [{"prompt": text, "completion": answer} for text, answer in zip(questions(16), made, strict=True)]
        args = SFTConfig(**shared, per_device_train_batch_size=16)
        trainer = SFTTrainer(model, args, train_dataset=datasets.Dataset.from_list(rows * (steps + 1)), callbacks=[Clock()])
    trainer.train()
    report(seconds[1:], PROMPTS * GROUP * LENGTH if method == "rlvr" else 16 * LENGTH)


def race(method: str, model: str, steps: int, bf16: bool, rounds: int = 2) -> None:
    results: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for _ in range(rounds):
        for name in results:
            command = [sys.executable, __file__, "--as", name, "--method", method, "--model", model, "--steps", str(steps)]
            done = subprocess.run(command + ["--bf16"] * bf16, capture_output=True, text=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(f"{name} {method} failed:\n{done.stderr[-2000:]}")
            results[name].append(json.loads(lines[-1][7:]))
    speed = {name: statistics.median(run["tokens"] / s for run in runs for s in run["seconds"]) for name, runs in results.items()}
    peak = {name: max(run["peak_mib"] for run in runs) for name, runs in results.items()}
    kind = "bfloat16" if bf16 else "float32"
    print(
        f"{method:<8} {kind}: {speed['ours']:.0f} completion tokens/s, TRL {speed['trl']:.0f}: {speed['ours'] / speed['trl']:.1f}x; "
        f"peak memory {peak['ours']:.0f} MiB, TRL {peak['trl']:.0f} MiB",
        flush=True,
    )


def recorder() -> None:
    from dynamics.train.config import RLVRConfig, SFTConfig
    from dynamics.train.loop import run

    for method, config in (("rlvr", RLVRConfig(steps=20, eval_problems=0)), ("sft", SFTConfig(steps=60, eval_problems=0))):
        with tempfile.TemporaryDirectory() as folder:
            done = run(method, config, Path(folder) / "run")
            lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
            share = done.recorder.seconds / sum(line["seconds"] for line in lines)
        print(f"recorder {method}: {100 * share:.1f} % of the steps, measured every {done.recorder.every}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model, e.g. SmolLM2-135M; without it, only the recorder is measured")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--method", choices=["rlvr", "sft"])
    parser.add_argument("--as", dest="contestant", choices=["ours", "trl"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        (ours if options.contestant == "ours" else trl)(options.method, options.model, options.steps, options.bf16)
        return
    if options.model:
        for method in [options.method] if options.method else ["rlvr", "sft"]:
            race(method, options.model, options.steps, options.bf16)
    recorder()


if __name__ == "__main__":
    main()
