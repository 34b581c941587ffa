"""Small inputs for every command, the same on every machine: numpy's generator from fixed seeds, no torch.

PYTHONPATH=tests python tests/golden/make_inputs.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers import bf16, write_safetensors

Tensors = dict[str, np.ndarray]
WORDS = [first + second for first in ("ka", "lo", "mi", "nu", "pe", "ro", "si", "ta") for second in "bcdfghklmnrt"]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


def write(folder: Path) -> None:
    """Write all inputs of the recorded commands into an empty folder."""
    bfloat16_trio(folder / "bf16")
    special_pair(folder / "special")
    mixed_pair(folder / "mixed")
    series(folder / "run")
    adapter(folder / "lora")
    turned_pair(folder / "turned")
    models(folder / "model")
    texts(folder)
    graded(folder)
    recorded_run(folder / "grpo")


def shapes(kinds: dict[str, tuple[int, ...]], layers: int = 2, vocabulary: int = 97, hidden: int = 24) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a Llama-like model with these kinds of tensors in every layer."""
    result: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        result |= {f"model.layers.{layer}.{kind}.weight": shape for kind, shape in kinds.items()}
    return result | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


ALL_KINDS: dict[str, tuple[int, ...]] = {
    "self_attn.q_proj": (24, 24),
    "self_attn.k_proj": (8, 24),
    "self_attn.v_proj": (8, 24),
    "self_attn.o_proj": (24, 24),
    "mlp.gate_proj": (40, 24),
    "mlp.up_proj": (40, 24),
    "mlp.down_proj": (24, 40),
    "input_layernorm": (24,),
    "post_attention_layernorm": (24,),
}
SOME_KINDS: dict[str, tuple[int, ...]] = {"self_attn.q_proj": (24, 24), "mlp.down_proj": (24, 40), "input_layernorm": (24,)}


def weights(rng: np.random.Generator, of: dict[str, tuple[int, ...]]) -> Tensors:
    return {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in of.items()}


def moved(rng: np.random.Generator, base: Tensors, share: float, size: float) -> Tensors:
    """Apply updates of a few sizes to a share of the weights of ``base``, which differs between tensors; norms are unchanged."""
    tuned = {}
    for index, (name, value) in enumerate(base.items()):
        changed = rng.random(value.shape) < share * (1 + index % 3) / 2
        update = rng.normal(0, size, value.shape) * 4.0 ** rng.integers(-2, 3, value.shape)
        tuned[name] = value if "norm" in name else (value + np.where(changed, update, 0)).astype(np.float32)
    return tuned


def save(folder: Path, tensors: Tensors, store: Callable[[np.ndarray], Any] = lambda value: value) -> None:
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", {name: store(value) for name, value in tensors.items()})


def as_bf16(value: np.ndarray) -> tuple[str, np.ndarray]:
    return "BF16", bf16(value)


def bfloat16_trio(folder: Path) -> None:
    rng = np.random.default_rng(1)
    base = weights(rng, shapes(ALL_KINDS))
    save(folder / "base", base, as_bf16)
    for name, share in (("tuned", 0.1), ("other", 0.2)):
        save(folder / name, moved(rng, base, share, 2e-3), as_bf16)


def special_pair(folder: Path) -> None:
    """Make float32 tensors with NaNs of several payloads, infinities and both zeros, on one side and on both sides."""
    rng = np.random.default_rng(2)
    base = weights(rng, shapes(SOME_KINDS))
    tuned = moved(rng, base, 0.3, 1e-4)
    values = [0x7FC00000, 0x7FC00001, 0x7F800001, 0xFFC00000, 0x7F800000, 0xFF800000, 0x00000000, 0x80000000, 0x3F800000, 0x00000001]
    pairs = np.array([(first, second) for first in values for second in values], np.uint32)
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        for side, column in ((base, 0), (tuned, 1)):
            side[name] = side[name].copy()
            side[name].reshape(-1).view(np.uint32)[: len(pairs)] = pairs[:, column]
    base["model.layers.1.input_layernorm.weight"][:] = 0
    save(folder / "base", base)
    save(folder / "tuned", tuned)


def mixed_pair(folder: Path) -> None:
    """Make a float32 base, and a bfloat16 result with three more vocabulary rows, an additional tensor and a missing tensor."""
    rng = np.random.default_rng(3)
    base = weights(rng, shapes(SOME_KINDS))
    tuned = moved(rng, base, 0.1, 1e-3)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tuned[name] = np.concatenate([tuned[name], rng.normal(0, 0.02, (3, 24)).astype(np.float32)])
    tuned["value_head.weight"] = rng.normal(0, 0.02, (1, 24)).astype(np.float32)
    del tuned["model.norm.weight"]
    save(folder / "base", base)
    save(folder / "tuned", tuned, as_bf16)


def series(folder: Path) -> None:
    """Make four states of a run; in the last, some weights have returned to their initial values."""
    rng = np.random.default_rng(4)
    states = [weights(rng, shapes({"mlp.up_proj": (16, 12)}, vocabulary=40, hidden=12))]
    for _ in range(3):
        states.append(moved(rng, states[-1], 0.1, 1e-3))
    for name, value in states[-1].items():
        states[-1][name] = np.where(rng.random(value.shape) < 0.1, states[0][name], value)
    for step, state in enumerate(states):
        save(folder / f"step_{step}", state, as_bf16)


def adapter(folder: Path) -> None:
    """Make a float32 base, and an adapter in PEFT's format."""
    rng = np.random.default_rng(5)
    save(folder / "base", weights(rng, shapes(SOME_KINDS)))
    settings = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "modules_to_save": ["lm_head"]}
    tensors: Tensors = {"base_model.model.lm_head.weight": rng.normal(0, 0.02, (97, 24)).astype(np.float32)}
    for layer in range(2):
        for kind in ("self_attn.q_proj", "mlp.down_proj"):
            rows, columns = SOME_KINDS[kind]
            stem = f"base_model.model.model.layers.{layer}.{kind}"
            scales = np.array([1.0, 0.5, 0.25])
            tensors[f"{stem}.lora_A.weight"] = rng.normal(0, 0.05, (3, columns)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = (rng.normal(0, 0.05, (rows, 3)) * scales).astype(np.float32)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    write_safetensors(folder / "adapter" / "adapter_model.safetensors", tensors)


def turned_pair(folder: Path) -> None:
    """Make matrices with well-separated singular values, and updates that rotate them by degrees: angles are well-conditioned."""
    rng = np.random.default_rng(6)
    kinds = {kind: ALL_KINDS[kind] for kind in ("self_attn.q_proj", "mlp.down_proj", "input_layernorm")}
    base, tuned = {}, {}
    for name, shape in shapes(kinds).items():
        value = rng.normal(0, 1, shape)
        if len(shape) == 2:
            left, _, right = np.linalg.svd(value, full_matrices=False)
            size = min(shape)
            value = (left * 0.75 ** np.arange(size)) @ right
            update = 0.05 * rng.normal(0, 1, (shape[0], 2)) @ rng.normal(0, 1, (2, shape[1])) / size
            update += np.where(rng.random(shape) < 0.2, rng.normal(0, 0.005, shape), 0)
        else:
            update = np.zeros(shape)
        base[name], tuned[name] = value.astype(np.float32), (value + update).astype(np.float32)
    save(folder / "base", base)
    save(folder / "tuned", tuned)


def models(folder: Path) -> None:
    """Make a Llama of two layers that transformers loads, with a tokenizer of whole words, and two later states of it."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel

    rng = np.random.default_rng(7)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": len(SPECIAL + WORDS),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    kinds: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (32, 32),
        "self_attn.k_proj": (16, 32),
        "self_attn.v_proj": (16, 32),
        "self_attn.o_proj": (32, 32),
        "mlp.gate_proj": (48, 32),
        "mlp.up_proj": (48, 32),
        "mlp.down_proj": (32, 48),
        "input_layernorm": (32,),
        "post_attention_layernorm": (32,),
    }
    state = {name: rng.normal(0, 0.3, shape) for name, shape in shapes(kinds, vocabulary=len(SPECIAL + WORDS), hidden=32).items()}
    state |= {name: 1 + value / 3 for name, value in state.items() if "norm" in name}
    state["lm_head.weight"] *= 2
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    for name in ("base", "tuned", "later"):
        save(folder / name, {key: value.astype(np.float32) for key, value in state.items()})
        (folder / name / "config.json").write_text(json.dumps(config))
        tokenizer.save(str(folder / name / "tokenizer.json"))
        (folder / name / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | names))
        state = {key: value + rng.normal(0, 0.05, value.shape) for key, value in state.items()}


def texts(folder: Path) -> None:
    """Make texts, rollouts as text and as tokens, and log-probabilities of an inference server."""
    rng = np.random.default_rng(8)

    def words(count: int) -> str:
        return " ".join(WORDS[min(int(index), len(WORDS) - 1)] for index in rng.exponential(8, count))

    sizes = rng.integers(5, 50, 12)
    lines(folder / "texts.jsonl", [{"text": words(int(size))} for size in sizes] + [{"text": words(150)}, {"text": ""}])
    rollouts: list[dict[str, Any]] = []
    for number in range(10):
        record = {"prompt": words(6), "completion": words(int(rng.integers(5, 30)))}
        rollouts.append({"id": f"r{number}", "step": 10, "reward": float(number % 2), **record})
    tokens = {"prompt_ids": [1, 5, 6, 7], "completion_ids": [int(token) for token in rng.integers(4, 40, 20)]}
    lines(folder / "rollouts.jsonl", [*rollouts, {"id": "r10", "step": 10, "reward": 1.0, **tokens}])
    tops = []
    for _ in range(20):
        chances = np.sort(rng.dirichlet(np.full(30, 0.3)))[::-1][:4]
        tops.append({"top_logprobs": [{"token": "x", "logprob": float(value)} for value in np.log(chances)]})
    lines(folder / "responses.jsonl", [{"choices": [{"logprobs": {"content": tops[start : start + 5]}}]} for start in range(0, 20, 5)])


def graded(folder: Path) -> None:
    """Make graded samples of two models in separate files, with varying n and missing verdicts, and in one file with other field names."""
    rng = np.random.default_rng(9)
    easy = rng.beta(0.4, 0.6, 30)
    both = []
    for name, chance in (("base", easy), ("rl", easy**0.5 * (rng.random(30) < 0.8))):
        records = []
        for problem in range(30 if name == "base" else 28):
            for sample in range(16 if problem % 5 else 12):
                right: bool | None = bool(rng.random() < chance[problem])
                answer = "42" if right else f"{rng.integers(3)}" if rng.random() < 0.9 else None
                if rng.random() < 0.02:
                    right = None
                records.append({"problem": f"p{problem}", "sample": sample, "model": name, "correct": right, "answer": answer})
        lines(folder / f"{name}_results.jsonl", records)
        both += [
            {"task": record["problem"], "trial": record["sample"], "policy": record["model"], "points": (0.9 if record["correct"] else 0.2)}
            for record in records
        ]
    lines(folder / "both.jsonl", both)


def recorded_run(folder: Path) -> None:
    """Make a run directory of this project: a base and two checkpoints, curves, completions, and graded samples of before and after."""
    rng = np.random.default_rng(10)
    kinds: dict[str, tuple[int, ...]] = {"self_attn.q_proj": (12, 12), "mlp.down_proj": (12, 16), "input_layernorm": (12,)}
    state = weights(rng, shapes(kinds, vocabulary=40, hidden=12))
    for step in (0, 20, 40):
        save(folder / "checkpoints" / f"step_{step:06d}", state, as_bf16)
        direction = {
            name: np.outer(rng.normal(0, 1, value.shape[0]), rng.normal(0, 2e-3, value.shape[-1])) for name, value in state.items()
        }
        moved_on = moved(rng, state, 0.2, 1e-3)
        state = {
            name: (value + direction[name] * (value.ndim == 2)).astype(np.float32) if value.ndim == 2 else moved_on[name]
            for name, value in moved_on.items()
        }
    config = {"learning_rate": 1e-5, "steps": 40, "seed": 0, "temperature": 1.0, "group_size": 4, "prompts_per_step": 3, "kl_coef": 0.01}
    config |= {"advantage": "grpo", "master_dtype": "float32"}
    document = {"schema": "dynamics.run/2", "method": "rlvr", "preset": "pretrained", "config": config, "model": "models/base", "seed": 0}
    document |= {"master_dtype": "float32", "storage_dtype": "bfloat16", "status": "finished"}
    (folder / "run.json").write_text(json.dumps(document))
    metrics, problems = [], [f"{first}+{second}=" for first in range(3) for second in range(2)]
    (folder / "rollouts").mkdir()
    for step in range(1, 41):
        skill = 0.3 + step / 80
        rollouts = []
        for problem in rng.permutation(len(problems))[:3]:
            for right in rng.random(4) < skill:
                text = str(sum(map(int, problems[problem][:-1].split("+"))) if right else rng.integers(10, 99))
                rollouts.append({"prompt": problems[problem], "completion": text, "role": "solver", "reward": float(right), "ended": "eos"})
        lines(folder / "rollouts" / f"step_{step}.jsonl", rollouts)
        measured = {"reward": float(np.mean([record["reward"] for record in rollouts])), "entropy": 1.2 - step / 60 + rng.normal(0, 0.05)}
        measured |= {
            "loss": rng.normal(0, 0.1),
            "kl": step * 1e-3,
            "grad_norm": float(rng.gamma(4, 0.2)),
            "length/mean": 4 + rng.normal(0, 0.2),
        }
        metrics.append({"step": step, **measured, "learning_rate": 1e-5})
    lines(folder / "metrics.jsonl", metrics)
    (folder / "evals").mkdir()
    easy = rng.beta(0.5, 0.8, 20)
    for name, chance in (("base", easy), ("rlvr, 40 steps", easy**0.5)):
        samples = [
            {"model": f"{name}, T=1", "problem": f"p{problem}", "sample": sample, "correct": bool(rng.random() < chance[problem])}
            for problem in range(20)
            for sample in range(8)
        ]
        records = [record | {"score": float(record["correct"]), "temperature": 1.0} for record in samples]
        lines(folder / "evals" / f"{name.replace(' ', '_')}_T1.jsonl", records)


def lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
