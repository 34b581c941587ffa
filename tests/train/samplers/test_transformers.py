"""Sampling in groups, against transformers' own generation and plain forward passes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dynamics import InputError
from dynamics.train import tiny
from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.samplers import transformers as sampling
from dynamics.train.samplers.transformers import SamplingParams, draw, generate
from train.helpers import MODELS

PROMPTS = [[20, 30, 40], [15], [21, 22, 23, 24, 25, 26], [33, 34], [50, 51, 52, 53]]


def rng_for(prompt: int, sample: int) -> np.random.Generator:
    return stream(0, "test", PROMPTS[prompt][0], sample)


def some(model, prompts=PROMPTS, group=4, compute="float32", **options):
    autocast = torch.bfloat16 if compute == "bfloat16" else None
    settings = {"max_new_tokens": 12, "eos": [1], "rng_for": rng_for, "autocast": autocast} | options
    return generate(model, prompts, group, **settings)


def shared(name: str, compute: str):
    """A model as a policy samples from it, by the attention of shared prompts."""
    model = MODELS[name]().eval()
    assert Policy(model, tiny.build_tokenizer(), "float32", compute).shares
    return model


def forward(model, prompt: list[int], ids, compute: str) -> tuple[torch.Tensor, float]:
    """Logits of each token after the prompt, from one plain forward pass; and how far they are from float32's."""
    with torch.no_grad():
        wide = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        with torch.autocast("cpu", torch.bfloat16, enabled=compute == "bfloat16"):
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].float()
    return logits, float((logits - wide).abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_that_of_transformers(name: str) -> None:
    model = MODELS[name]().eval()
    for prompt, (sample,) in zip(PROMPTS, some(model, group=1, temperature=0.0), strict=True):
        ids = torch.tensor([prompt])
        own = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, eos_token_id=1, pad_token_id=0)
        assert own[0, len(prompt) :].tolist() == sample.ids.tolist()


@pytest.mark.parametrize("name", MODELS)
def test_greedy_takes_the_likeliest_token(name: str, compute: str) -> None:
    """In bfloat16 several tokens can be equally likely within rounding; then one of them is chosen."""
    model = shared(name, compute)
    for prompt, (sample,) in zip(PROMPTS, some(model, group=1, compute=compute, temperature=0.0), strict=True):
        logits, off = forward(model, prompt, sample.ids, compute)
        taken = logits.gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
        assert (logits.max(1).values - taken).max() <= 2 * off + 2e-5


@pytest.mark.parametrize("name", MODELS)
def test_logprobs_are_those_of_a_forward_pass(name: str, compute: str) -> None:
    model = shared(name, compute)
    for prompt, group in zip(PROMPTS, some(model, compute=compute, temperature=0.7), strict=True):
        for sample in group:
            logits, off = forward(model, prompt, sample.ids, compute)
            expected = torch.log_softmax(logits / 0.7, -1).gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
            np.testing.assert_allclose(sample.logprobs, expected, atol=2e-5 + 3 * off)


def test_in_bfloat16_the_batch_changes_few_tokens() -> None:
    """With the same random numbers, at least 9 of 10 rows are equal alone and in a batch; the others differ by rounding."""
    model = shared("llama", "bfloat16")
    whole, alone = (tokens(some(model, group=20, compute="bfloat16", eos=range(40, 64), rows=rows)) for rows in (1024, 1))
    rows = [(sample, other) for group, lone in zip(whole, alone, strict=True) for sample, other in zip(group, lone, strict=True)]
    assert np.mean([sample == other for sample, other in rows]) >= 0.9
    again = tokens(some(model, group=20, compute="bfloat16", eos=range(40, 64)))
    assert again == whole  # the same batch on the same machine gives the same tokens


@pytest.mark.parametrize("name", MODELS)
def test_the_batch_changes_no_token(name: str, monkeypatch) -> None:
    model = MODELS[name]().eval()
    whole = some(model, eos=range(40, 64))  # completions end early and at different steps
    assert len({len(completion.ids) for group in whole for completion in group}) > 3
    for rows in (1, 3, 8):
        assert tokens(some(model, eos=range(40, 64), rows=rows)) == tokens(whole)
    monkeypatch.setattr(sampling, "COMPACT", 2.0)  # rows are never removed
    assert tokens(some(model, eos=range(40, 64))) == tokens(whole)
    monkeypatch.undo()
    back = list(reversed(range(5)))
    mirrored = some(model, [PROMPTS[p] for p in back], eos=range(40, 64), rng_for=lambda prompt, sample: rng_for(back[prompt], sample))
    assert tokens(mirrored) == tokens(whole)[::-1]


def tokens(groups) -> list[list[list[int]]]:
    return [[sample.ids.tolist() for sample in group] for group in groups]


def test_ends() -> None:
    model = MODELS["llama"]().eval()
    words = tiny.build_tokenizer()
    for group in some(model, group=20, eos=range(50, 64), stop=["1"], tokenizer=words):
        for sample in group:
            inside = sample.ids[:-1]
            assert not (inside >= 50).any()
            assert "1" not in words.decode(inside)
            last = {"eos": sample.ids[-1] >= 50, "stop": "1" in words.decode(sample.ids), "length": len(sample.ids) == 12}
            assert last[sample.ended]


def test_frequencies() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]]).expand(40_000, 4)
    uniform = torch.from_numpy(np.random.default_rng(0).random(40_000))
    for temperature in (1.0, 0.5):
        chosen, logp = draw(logits, uniform, torch.full((40_000,), temperature), SamplingParams())
        expected = torch.softmax(logits[0] / temperature, 0)
        share = torch.bincount(chosen, minlength=4) / 40_000
        assert (share - expected).abs().max() < 0.01
        torch.testing.assert_close(logp.exp(), expected[chosen])


@pytest.mark.parametrize(("k", "p", "kept"), [(2, 1.0, [0, 3]), (0, 0.5, [3]), (0, 0.65, [0, 3]), (3, 0.95, [0, 1, 3]), (1, 0.9, [3])])
def test_truncation(k: int, p: float, kept: list[int]) -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]]).expand(4000, 4)  # probabilities .237 .087 .032 .644
    uniform = torch.from_numpy(np.random.default_rng(0).random(4000))
    chosen, logp = draw(logits, uniform, torch.ones(4000), SamplingParams(k, p))
    assert sorted(set(chosen.tolist())) == kept
    among = torch.softmax(logits[0][kept], 0)
    torch.testing.assert_close(logp.exp(), among[[kept.index(token) for token in chosen.tolist()]])


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(3, 3)
    chosen, logp = draw(logits, torch.tensor([0.0, 0.5, 1 - 1e-16], dtype=torch.float64), torch.ones(3), SamplingParams())
    assert chosen.tolist() == [1, 1, 1]
    assert logp.tolist() == [0, 0, 0]


@pytest.mark.parametrize("truncation", [{}, {"top_k": 9}, {"top_p": 0.8}])
def test_temperatures_in_one_batch_are_those_of_batches_of_one(truncation: dict) -> None:
    model = MODELS["llama"]().eval()
    mixed = [0.0, 0.7, 1.0, 1.3]
    for sample, temperature in enumerate(mixed):
        alone = some(model, group=1, temperature=temperature, rng_for=lambda prompt, _, at=sample: rng_for(prompt, at), **truncation)
        for group, (lone,) in zip(some(model, temperature=mixed, **truncation), alone, strict=True):
            assert group[sample].ids.tolist() == lone.ids.tolist()
            np.testing.assert_allclose(group[sample].logprobs, lone.logprobs, atol=1e-5)


def test_bad_input() -> None:
    model = MODELS["llama"]().eval()
    with pytest.raises(InputError, match="prompt 1: is empty"):
        some(model, prompts=[[1], []])
    with pytest.raises(InputError, match="exceed the model's 256 positions"):
        some(model, max_new_tokens=255)
    with pytest.raises(InputError, match="at least 0"):
        some(model, temperature=-1.0)
    with pytest.raises(InputError, match="3 temperatures for groups of 4"):
        some(model, temperature=[0.0, 0.5, 1.0])
    with pytest.raises(InputError, match="need the tokenizer"):
        some(model, stop=["a"])
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(InputError, match="logits are not finite"):
        some(model)


def test_recurrent_states_are_refused() -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    with pytest.raises(InputError, match="MambaForCausalLM: keeps recurrent states"):
        some(transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).eval())
