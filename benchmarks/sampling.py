"""Completion tokens a second of `dynamics.train`'s sampling, as a ratio against transformers' `generate` in the same process.

    python benchmarks/sampling.py [--shape embedded smollm2] [--rounds 5] [--threads 2] [--bf16]

The models have random weights in the shape of the embedded model and of SmolLM2-135M; no token ends a completion, so that both sample
equally many tokens, at temperature 1, in groups of 16. `generate` gets each prompt once for each of its samples, left-padded, with its
dynamic cache. `model` is this project's path for models whose layers it does not know: the model's own forward pass.

The contestants alternate. A ratio is that of the medians after the first round, its range that of single rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

GROUP = 16
#: by shape: settings of a Llama, number of prompts, new tokens
SHAPES: dict[str, tuple[dict[str, Any], int, int]] = {
    "embedded": (
        {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 384, "vocab_size": 64},
        8,
        128,
    ),
    "smollm2": (
        {
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "vocab_size": 49152,
        },
        4,
        64,
    ),
}


def contestants(shape: str, bf16: bool) -> tuple[dict[str, Callable[[], None]], int]:
    """Return what samples, by name, and the number of tokens that each samples."""
    import numpy as np
    import torch
    import transformers

    from dynamics.train import tiny
    from dynamics.train.batch import pad_left
    from dynamics.train.policy import Policy
    from dynamics.train.rng import stream
    from dynamics.train.samplers.transformers import decoder_of, generate

    settings, count, length = SHAPES[shape]
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**settings, max_position_embeddings=1024, tie_word_embeddings=True)
    peer = transformers.LlamaForCausalLM(config).eval()
    compute = "bfloat16" if bf16 else "float32"
    policy, unknown = (Policy(transformers.LlamaForCausalLM(config), tiny.build_tokenizer(), "float32", compute) for _ in range(2))
    for other in (policy, unknown):
        other.model.load_state_dict(peer.state_dict())
    unknown.model.model.layers[0].register_forward_hook(lambda *_: None)  # what the decoder of layers does not know
    assert decoder_of(policy) == "layers" != decoder_of(unknown)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 60, rng.integers(30, 50)) for _ in range(count)]
    ids, mask, _ = (torch.from_numpy(array).repeat_interleave(GROUP, 0) for array in pad_left(prompts))

    def ours(chosen: Policy) -> None:
        groups = generate(
            chosen.model,
            prompts,
            GROUP,
            max_new_tokens=length,
            eos=(),
            rng_for=lambda prompt, sample: stream(0, "benchmark", prompt, sample),
            autocast=chosen.autocast,
            remarks=chosen.remarks,
        )
        assert sum(len(sample.ids) for group in groups for sample in group) == count * GROUP * length
        assert not chosen.remarks

    def theirs() -> None:
        computing = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
        options = {
            "do_sample": True,
            "top_k": 0,
            "max_new_tokens": length,
            "min_new_tokens": length,
            "pad_token_id": 0,
            "eos_token_id": None,
        }
        with torch.no_grad(), computing:
            made = peer.generate(ids, attention_mask=mask, **options)
        assert made.shape[1] == ids.shape[1] + length

    return {"layers": lambda: ours(policy), "model": lambda: ours(unknown), "generate": theirs}, count * GROUP * length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    import torch

    from dynamics.train.policy import cpuinfo, native_bfloat16

    torch.set_num_threads(options.threads)
    kind = "bfloat16" if options.bf16 else "float32"
    verb = "has" if native_bfloat16(torch.device("cpu")) else "has no"
    print(f"{cpuinfo('model name')}, which {verb} bfloat16 arithmetic; {options.threads} threads, {kind}")
    for shape in options.shape:
        named, tokens = contestants(shape, options.bf16)
        spent: dict[str, list[float]] = {name: [] for name in named}
        for _ in range(1 + options.rounds):
            for name, sample in named.items():
                begin = time.perf_counter()
                sample()
                spent[name].append(time.perf_counter() - begin)
        kept = {name: values[1:] for name, values in spent.items()}
        ours = kept["layers"]
        print(f"{shape}: {tokens / statistics.median(ours):.0f} tokens/s")
        for name in ("generate", "model"):
            ratio = statistics.median(kept[name]) / statistics.median(ours)
            single = [other / own for other, own in zip(kept[name], ours, strict=True)]
            speed = tokens / statistics.median(kept[name])
            print(f"  {name}: {speed:.0f} tokens/s; ours {ratio:.2f} x ({min(single):.2f} to {max(single):.2f})", flush=True)


if __name__ == "__main__":
    main()
