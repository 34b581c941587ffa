"""Cost of the laboratory: a run of SFT, RLVR and self-play with its evaluation, and the speed of sampling from its base.

    python benchmarks/laboratory.py                                 # all of it; three runs of 100 steps, about ten minutes on a core
    python benchmarks/laboratory.py --model runs/base-0/base --steps 20 --methods rlvr
    python benchmarks/laboratory.py --methods none --threads 1 2    # sampling only

A run is `python -m dynamics.train METHOD --preset lab --threads 1` in a process of its own, with validation every ten steps; the base is
sampled anew. CPU seconds are user and system time of the process and its children, which other programs disturb less than wall time does.
The time of steps, of sampling in them (RLVR) and of validation is wall time as the run recorded it; what is left is start, evaluation and
measuring. The goal is 180 s of an idle core for 100 steps.

Sampling is of training problems, in groups of 16 at temperature 1, to the end of sequence; against `generate` of transformers on the same
left-padded prompts, which goes on until the last row has ended. Tokens are those up to the end of each completion. The goal is 30,000
tokens/s on two idle cores. The contestants alternate; speeds are medians after the first round.
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
from collections.abc import Callable
from pathlib import Path

GROUP, PROMPTS, LIMIT = 16, 48, 120
METHODS = ("sft", "rlvr", "selfplay")


def cpu_seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def run(method: str, model: str, steps: int, more: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "dynamics.train", method, "--model", model, "--preset", "lab", "--threads", "1", "--steps"]
        command += [str(steps), "--validate-every", "10", "--fresh-evaluation", "--out", str(out), *more]
        begin, before = time.perf_counter(), cpu_seconds(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True)
        wall, cpu = time.perf_counter() - begin, cpu_seconds(resource.RUSAGE_CHILDREN) - before
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    parts = {name: sum(line.get(key, 0.0) for line in lines) for name, key in PARTS.items()}
    tokens = sum(line.get("tokens", 0) for line in lines)
    told = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in parts.items() if seconds)
    print(f"{method}: {steps} steps: {cpu:.0f} s of CPU, {wall:.0f} s in all ({told}); {tokens / steps:.0f} tokens a step", flush=True)


#: part of a run -> its seconds in a line of metrics
PARTS = {
    "steps": "seconds",
    "of these sampling": "time/sampling",
    "of these proposing and solving": "time/feed",
    "validation": "time/validation_seconds",
    "probe": "time/probe_seconds",
}


def contestants(model: str) -> dict[str, Callable[[], int]]:
    """Return what samples, by name; each returns the number of tokens that it sampled."""
    import numpy as np
    import torch

    from dynamics.train import built_in, policy
    from dynamics.train.batch import pad_left
    from dynamics.train.rng import stream
    from dynamics.train.samplers.transformers import generate
    from dynamics.train.tasks import source
    from dynamics.train.tasks.prompt_formats import encode_questions

    loaded = policy.load(built_in.find(model), "cpu", "float32", "float32")
    peer = policy.load(built_in.find(model), "cpu", "float32", "float32").model
    peer.set_attn_implementation("sdpa")  # policies attend by this project's own function
    prompts = encode_questions(loaded.tokenizer, source("lab").questions("training", PROMPTS, 0))
    ids, mask, _ = (torch.from_numpy(array).repeat_interleave(GROUP, 0) for array in pad_left(prompts))
    end = loaded.tokenizer.eos_token_id

    def ours() -> int:
        draws = {"rng_for": lambda prompt, sample: stream(0, "benchmark", prompt, sample), "remarks": loaded.remarks}
        groups = generate(loaded.model, prompts, GROUP, max_new_tokens=LIMIT, eos=loaded.eos, **draws)
        assert not loaded.remarks
        return sum(len(sample.ids) for group in groups for sample in group)

    def theirs() -> int:
        torch.manual_seed(0)
        with torch.no_grad():
            made = peer.generate(ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=LIMIT, pad_token_id=0)
        new = made[:, ids.shape[1] :].numpy()
        ended = (new == end).any(1)
        return int(np.where(ended, (new == end).argmax(1) + 1, new.shape[1]).sum())

    return {"layers": ours, "generate": theirs}


def sampling(model: str, threads: int, rounds: int) -> None:
    import torch

    torch.set_num_threads(threads)
    named = contestants(model)
    speeds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(1 + rounds):
        for name, sample in named.items():
            begin, before = time.perf_counter(), time.process_time()
            tokens = sample()
            speeds.setdefault(name, []).append((tokens / (time.perf_counter() - begin), tokens / (time.process_time() - before)))
    medians = {name: [statistics.median(column) for column in zip(*of[1:], strict=True)] for name, of in speeds.items()}
    print(f"sampling, {threads} threads:")
    for name, (wall, cpu) in medians.items():
        print(f"  {name}: {wall:.0f} tokens/s, {cpu:.0f} tokens/s of CPU")
    single = [own[1] / other[1] for own, other in zip(speeds["layers"][1:], speeds["generate"][1:], strict=True)]
    ratio = medians["layers"][1] / medians["generate"][1]
    print(f"  ratio by CPU time: {ratio:.2f} x ({min(single):.2f} to {max(single):.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lab", help="base of the laboratory (default: the shipped one)")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, "none"], default=list(METHODS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="threads of sampling; none measures no sampling")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("more", nargs="*", help="further options of the runs, after --")
    options = parser.parse_args()
    for threads in options.threads:
        sampling(options.model, threads, options.rounds)
    for method in options.methods:
        if method != "none":
            run(method, options.model, options.steps, options.more)


if __name__ == "__main__":
    main()
