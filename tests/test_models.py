"""Causal language models: what is none is refused, and what a batch, its padding or an earlier text could change stays as it is alone."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dynamics.entropy.traces import trace
from dynamics.errors import InputError
from dynamics.models import load, wrap
from dynamics.rollouts.texts import Document
from dynamics.rope import LengthRule, length_rule

VOCABULARY = 300
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
KNOWN = SMALL | {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = KNOWN | {"num_key_value_heads": 1}
#: factors of 8 pairs of dimensions of a head
LONGROPE = {"rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.0] * 8, "long_factor": [3.0 + i for i in range(8)]}


def made(family, dtype=torch.float32, scale=12.0, **settings):
    """Make a small random model of a family, whose weights are scaled so that earlier tokens matter."""
    torch.manual_seed(0)
    config, model = (getattr(transformers, name) for name in family)
    built = model(config(**settings)).eval()
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if weight.dim() == 2 and "conv" not in name:
                weight.mul_(scale)
    return built.to(dtype)


def family(name, model="ForCausalLM"):
    return f"{name}Config", f"{name}{model}"


@pytest.fixture(scope="module")
def tokenizer():
    core = Tokenizer(models.BPE({character: index + 3 for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def documents(*lengths):
    rng = np.random.default_rng(0)
    return [Document(f"{length}", ids=tuple(int(token) for token in rng.integers(3, 250, length))) for length in lengths]


def alone(model, document):
    """Compute the entropies of a text by a copy of the model that has seen no other."""
    with torch.no_grad():
        log_p = copy.deepcopy(model)(torch.tensor([document.ids])).logits[0].double().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)[:-1].numpy()


NOT_CAUSAL = {
    "bert": (family("Bert", "LMHeadModel"), KNOWN),
    "roberta": (family("Roberta"), KNOWN | {"max_position_embeddings": 70}),
    "electra": (family("Electra"), KNOWN),
    "xlnet": (family("XLNet", "LMHeadModel"), {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}),
    "llama": (family("Llama"), KNOWN | {"is_causal": False}),
    "qwen3": (family("Qwen3"), GROUPED | {"head_dim": 16, "is_causal": False}),
    "gemma3": (("Gemma3TextConfig", "Gemma3ForCausalLM"), GROUPED | {"head_dim": 16, "use_bidirectional_attention": True}),
    "mixtral": (family("Mixtral"), GROUPED | {"num_local_experts": 4, "is_causal": False}),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if name in ("bert", "mixtral") else pytest.mark.slow)
        for name in NOT_CAUSAL
        for dtype in (torch.float32, torch.bfloat16)
    ],
)
def test_models_that_look_ahead_are_refused(name, dtype, tokenizer):
    model = made(NOT_CAUSAL[name][0], dtype, scale=1.0, **NOT_CAUSAL[name][1])
    with pytest.raises(
        InputError, match=r"^\w+: is not a causal language model: its prediction of a token changes with later tokens[^\n]*$"
    ):
        trace(model, tokenizer, ["abc"])


@pytest.mark.parametrize("block", [2, 3, 5, 15, 32])
def test_models_that_look_ahead_within_a_block_are_refused(block):
    """As models of block diffusion do; the last token of the sequence on which a model is tried may stand in a block of its own."""
    model = made(family("Llama"), **KNOWN)
    body = model.base_model.forward

    def forward(input_ids=None, attention_mask=None, **others):
        place = torch.arange(input_ids.shape[1]) // block
        seen = (place[None] <= place[:, None])[None, None]
        return body(input_ids=input_ids, attention_mask=seen.expand(len(input_ids), -1, -1, -1), **others)

    model.base_model.forward = forward
    with pytest.raises(InputError, match="is not a causal language model"):
        wrap(model)


def test_models_that_look_one_token_ahead_are_refused():
    model = made(family("Llama"), **KNOWN)

    def shift(_module, _inputs, output):
        mixed = output.clone()
        mixed[:, :-1] += 1e-3 * output[:, 1:]
        return mixed

    model.base_model.layers[0].mlp.register_forward_hook(shift)
    with pytest.raises(InputError, match="is not a causal language model"):
        wrap(model)


CAUSAL = {
    "llama": (family("Llama"), GROUPED),
    "mistral": (family("Mistral"), GROUPED | {"sliding_window": 8}),
    "gemma2": (family("Gemma2"), GROUPED | {"head_dim": 16, "sliding_window": 8}),
    "qwen2": (family("Qwen2"), GROUPED | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "gpt2": (family("GPT2", "LMHeadModel"), {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}),
    "bloom": (family("Bloom"), {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "opt": (family("OPT"), KNOWN | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bert as a decoder": (family("Bert", "LMHeadModel"), KNOWN | {"is_decoder": True}),
    "mixtral": (family("Mixtral"), GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "mamba": (family("Mamba"), {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "longrope": (family("Phi3"), GROUPED | {"original_max_position_embeddings": 24, "rope_parameters": LONGROPE}),
    "dynamic": (
        family("Llama"),
        GROUPED | {"max_position_embeddings": 24, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}},
    ),
    "linear": (family("Llama"), GROUPED | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("llama", "longrope", "dynamic") else pytest.mark.slow) for name in CAUSAL],
)
def test_each_text_has_the_numbers_it_has_alone(name, tokenizer):
    """In any batch, after any other text, and twice; also of a model that has seen a longer text before."""
    model = made(CAUSAL[name][0], **CAUSAL[name][1])
    texts = documents(9, 23, 24, 25, 40, 41, 41, 60)
    texts[6] = Document("again", ids=texts[6].ids)
    expected = {text.name: alone(model, text) for text in texts}
    if name in ("longrope", "dynamic"):  # otherwise the test would test nothing
        together = torch.tensor([[*texts[0].ids, *[0] * 51]])
        with torch.no_grad():
            log_p = copy.deepcopy(model)(together).logits[0, :8].double().log_softmax(-1)
        assert np.abs(-(log_p.exp() * log_p).sum(-1).numpy() - expected["9"]).max() > 1e-3
    with torch.no_grad():
        model(torch.tensor([texts[-1].ids]))
    for budget in (4096, 130):
        found = trace(model, tokenizer, texts, batch_tokens=budget)
        for text in texts:
            rows = found.tokens[found.tokens["text"] == text.name]
            assert np.abs(rows["entropy"].to_numpy()[1:] - expected[text.name]).max() < 2e-4, text.name
        assert any("depends on the length" in note for note in found.notes) == (name in ("longrope", "dynamic"))
    short = trace(model, tokenizer, texts[:2], against=model)
    assert np.allclose(short.tokens["entropy"], short.tokens["entropy_b"], rtol=0, atol=1e-12, equal_nan=True)
    assert not any("depends on the length" in note for note in short.notes)


def test_texts_of_a_model_with_limited_experts_are_measured_alone(tokenizer):
    """Experts that serve only so many tokens of a batch, whatever texts they are of."""
    model = made(family("Llama"), **KNOWN)

    def serve(_module, _inputs, output):
        flat = output.flatten(0, 1).clone()
        flat[40:] = 0
        return flat.view_as(output)

    model.base_model.layers[0].mlp.register_forward_hook(serve)
    texts = documents(20, 25, 30)
    found = trace(model, tokenizer, texts)
    assert any("each is measured alone" in note for note in found.notes)
    for text in texts:
        rows = found.tokens[found.tokens["text"] == text.name]
        assert np.abs(rows["entropy"].to_numpy()[1:] - alone(model, text)).max() < 1e-4


def test_what_depends_on_the_length():
    static = transformers.LlamaConfig(rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4})
    assert length_rule(static) == LengthRule()
    assert length_rule(transformers.GPT2Config()) == LengthRule()
    dynamic = transformers.LlamaConfig(
        max_position_embeddings=64, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    )
    rule = length_rule(dynamic)
    assert [rule.group(length) for length in (1, 64, 65, 70)] == [0, 0, 65, 70]
    assert wrap(made(family("Llama"), **KNOWN | {"rope_parameters": dynamic.rope_parameters})).window == 128
    phi = transformers.Phi3Config(**GROUPED | {"original_max_position_embeddings": 100, "rope_parameters": LONGROPE})
    rule = length_rule(phi)
    assert [rule.group(length) for length in (1, 100, 101, 500)] == [0, 0, 101, 101]

    class Config:
        """The configuration of a model with code of its own."""

        max_position_embeddings = 50

        def to_dict(self):
            return {"rope_scaling": {"type": "something"}}

    assert [length_rule(Config()).group(length) for length in (1, 2, 51)] == [1, 2, 51]


def test_a_checkpoint_without_tokenizer_uses_that_of_another_model(tmp_path: Path) -> None:
    base = Path(__file__).parent / "data" / "runs" / "own" / "sft" / "checkpoints" / "step_000000"
    bare = tmp_path / "bare"
    shutil.copytree(base, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(InputError, match="has no tokenizer"):
        load(str(bare))
    _, tokenizer = load(str(bare), tokenizer_of=str(base))
    _, own = load(str(base), tokenizer_of="not-there")
    assert tokenizer.get_vocab() == own.get_vocab()
