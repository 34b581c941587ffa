"""Decoding from the weights, against the models' own forward passes."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dynamics.train import tiny
from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.samplers import kernels
from dynamics.train.samplers.layer_decoder import SAME_LOGITS, LayerDecoder, Weights, refusal
from dynamics.train.samplers.transformers import decoder_of, generate
from train.helpers import gpt2, llama

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 64}
PROMPTS = [[20, 30, 40], [15], [21, 22, 23, 24, 25, 26, 27, 28, 29], [33, 34]]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def build(family: str, **more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, **{"max_position_embeddings": 256, "initializer_range": 0.3} | more)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():  # norms and biases that matter
        for _, value in model.named_parameters():
            if value.ndim == 1:
                value += 0.3 * torch.randn(value.shape)
    return model


KINDS = {
    "llama": ("Llama", {}),
    "llama, scaled, tied, biased": (
        "Llama",
        {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "mistral, grouped": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 64}),
    "qwen2, grouped": ("Qwen2", {"num_key_value_heads": 2}),
    "qwen3, wide heads": ("Qwen3", {"num_key_value_heads": 1, "head_dim": 16}),
    "qwen3, biased": ("Qwen3", {"head_dim": 8, "num_key_value_heads": 4, "attention_bias": True}),
}


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_models(kind: str, storage: str) -> None:
    """Within rounding, also after rows have left, and for prompts of different lengths."""
    family, settings = KINDS[kind]
    model = build(family, **settings).to(torch.bfloat16 if storage == "bfloat16" else torch.float32)
    autocast = torch.bfloat16 if storage == "autocast" else None
    assert refusal(model, autocast, 20) is None
    off: list[list[float]] = []  # of each row and step: how far the decoder is from float32, and how far the model
    wide = copy.deepcopy(model).float()
    rows = [list(prompt) for prompt in PROMPTS for _ in range(2)]
    drawn = np.random.default_rng(0).integers(2, 64, (6, len(rows)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
        decoder = LayerDecoder(model, Weights.of(model, autocast), [np.array(prompt) for prompt in PROMPTS], 2, 7)
        assert decoder.difference() < (2e-5 if storage == "float32" else SAME_LOGITS[torch.bfloat16])
        kept = list(range(len(rows)))
        for step, tokens in enumerate(drawn):
            for row in kept:
                rows[row].append(int(tokens[row]))
            decoder.append(torch.tensor(tokens[kept]), step + 1)
            for row, logits in zip(kept, decoder.logits, strict=True):
                own = model(torch.tensor([rows[row]])).logits[0, -1].float()
                with torch.autocast("cpu", enabled=False):
                    exact = wide(torch.tensor([rows[row]])).logits[0, -1]
                off.append([float((ours - exact).norm() / exact.norm()) for ours in (logits, own)])
            if step in (1, 3):  # the second time all rows of a prompt leave
                keep = [0, 2, 3, 4, 6, 7] if step == 1 else [0, 3, 5]
                decoder.select(torch.tensor(keep))
                kept = [kept[index] for index in keep]
    decoded, own = np.array(off).T
    if storage == "float32":
        assert decoded.max() < 2e-5
    else:
        assert np.median(decoded) < 1.5 * np.median(own)
        assert decoded.max() < 3 * own.max()


def test_threads_change_no_row() -> None:
    model = build("Llama")

    def logits(threads: int):
        torch.set_num_threads(threads)
        decoder = LayerDecoder(model, Weights.of(model), [np.array(prompt) for prompt in PROMPTS], 3, 2)
        decoder.append(torch.arange(12) + 3, 1)
        return decoder.logits

    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            torch.testing.assert_close(logits(1), logits(3), atol=1e-5, rtol=0)
    finally:
        torch.set_num_threads(before)


def hooked():
    model = build("Llama")
    model.model.layers[1].register_forward_hook(lambda *_: None)
    return model


def replaced():
    model = build("Llama")
    model.model.layers[1].mlp.act_fn = torch.nn.GELU()
    return model


REFUSED = {
    "GPT2LMHeadModel is none of Llama": gpt2,
    "hooks": hooked,
    "unknown kind, GELU": replaced,
    "unknown kind, GELUActivation": lambda: build("Llama", hidden_act="gelu"),
    "training mode": lambda: build("Llama").train(),
    "neither float32 nor bfloat16": lambda: build("Llama").to(torch.float64),
    "depends on the length": lambda: build("Llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
    "longer than its sliding window of 8": lambda: build("Mistral", sliding_window=8),
    "rows of 20 tokens": lambda: build("Qwen3", head_dim=8, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "no multiple of 8": lambda: build("Llama", head_dim=12),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals(reason: str) -> None:
    assert reason in (refusal(REFUSED[reason](), None, 20) or "")


def test_other_logits_are_noticed() -> None:
    """A model that computes something else than its kind does samples by its own forward pass, and says so."""
    policy = Policy(llama(), tiny.build_tokenizer())
    assert decoder_of(policy) == "layers"

    def sampled():
        settings = {
            "max_new_tokens": 5,
            "temperature": 0.0,
            "eos": [1],
            "rng_for": lambda prompt, number: stream(0, "test", prompt, number),
        }
        return generate(policy.model, PROMPTS, 1, **settings, remarks=policy.remarks)

    sampled()
    assert policy.remarks == []
    policy.model.model.layers[1].self_attn.scaling *= 3
    for prompt, (sample,) in zip(PROMPTS, sampled(), strict=True):
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *sample.ids]])).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(1).tolist() == sample.ids.tolist()
    assert len(policy.remarks) == 1
    assert "the model's own forward pass" in policy.remarks[0]


@pytest.mark.parametrize("broken", [None, ("prompt", 0), ("prompt", 4), ("own", 1), ("own", 2)])
def test_attention_is_exact_and_keeps_nan(rng: np.random.Generator, broken: tuple[str, int] | None) -> None:
    """The kernel of attention against a softmax in float64; a key that is NaN makes its row NaN, wherever it stands."""
    heads, size, length, count = 2, 8, 5, 2
    prompt_keys, own_keys = rng.normal(size=(1, heads, size, length)), rng.normal(size=(2, heads, size, 4))
    prompt_values, own_values = rng.normal(size=(1, heads, length, size)), rng.normal(size=(2, heads, 4, size))
    projected = rng.normal(size=(2, 3 * heads * size))
    if broken == ("own", 2):
        projected[0, heads * size] = math.nan  # the key of the new token
    elif broken is not None:
        keys = prompt_keys[0] if broken[0] == "prompt" else own_keys[0]
        keys[0, 0, broken[1]] = math.nan
    expected = np.empty((2, heads * size))
    for row, head in np.ndindex(2, heads):
        query, key, value = projected[row].reshape(3, heads, size)[:, head]
        keys = np.concatenate([prompt_keys[0, head].T, own_keys[row, head, :, :count].T, key[None]])
        values = np.concatenate([prompt_values[0, head], own_values[row, head, :count], value[None]])
        scores = 0.5 * keys @ query
        weights = np.exp(scores - scores.max())
        expected[row, head * size : (head + 1) * size] = weights @ values / weights.sum()
    arrays = [array.astype(np.float32) for array in (projected, prompt_keys, prompt_values, own_keys, own_values)]
    out = np.empty((2, heads * size), np.float32)
    ones, zeros = np.ones((8, size), np.float32), np.zeros((8, size), np.float32)
    where = np.zeros(2, np.int64), np.array([length]), arrays[1], arrays[2], np.arange(2), count, arrays[3], arrays[4], out
    kernels.attend(0, 2, arrays[0], np.zeros((2, 0), np.float32), np.float32(1e-6), ones, zeros, np.float32(0.5), *where)
    assert np.isnan(out).any() == (broken is not None)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
