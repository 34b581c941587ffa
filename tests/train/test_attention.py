"""Attention masks in every compute dtype against explicit attention in float64."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dynamics.train import attention
from dynamics.train.attention import attend
from dynamics.train.batch import Batch, PackedRows, Segment, pack_rows
from dynamics.train.policy import Policy
from dynamics.train.rng import stream
from dynamics.train.samplers.transformers import generate
from dynamics.train.tiny import build_tokenizer
from train.helpers import MODELS

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HEADS, SHARED, SIZE = 4, 2, 8


def states(rows: int, length: int, dtype: torch.dtype, scale: float = 1.0, seed: int = 0) -> list[torch.Tensor]:
    """Query, key and value. A large ``scale`` makes scores of which most are far below zero, in their thousands."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(rows, heads, length, SIZE, generator=generator) for heads in (HEADS, SHARED, SHARED)]
    if scale != 1.0:
        made[0], made[1] = scale * made[0].abs(), -scale * made[1].abs()
    return [tensor.to(dtype).requires_grad_() for tensor in made]


def changed(where: torch.Tensor, *given: torch.Tensor) -> list[torch.Tensor]:
    """Keys or values with others at these places (rows, T)."""
    return [torch.where(where[:, None, :, None], 1 - tensor.detach(), tensor.detach()) for tensor in given]


def written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(rows, T, heads, size) in float64, with gradient; NaN where a query sees nothing. ``seen``: (rows, T, T) bool."""
    query, key, value = (part.double() for part in (query, key, value))
    key, value = (part.repeat_interleave(HEADS // SHARED, 1) for part in (key, value))
    scores = query @ key.transpose(2, 3) / SIZE**0.5
    return (torch.softmax(scores.masked_fill(~seen[:, None], -torch.inf), -1) @ value).transpose(1, 2)


def tokens_of(side: str, length: int) -> torch.Tensor:
    """(rows, length) bool, True on tokens: padding on one side, none, and a row that is nothing but padding."""
    counts = {"left": (length, 3, 1, 0), "right": (length, 3, 1, 0), "none": (length,) * 4}[side]
    inside = torch.arange(length)[None] < torch.tensor(counts)[:, None]
    return inside.flip(1) if side == "left" else inside


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("side", ["left", "right", "none"])
@pytest.mark.parametrize("mask", ["bool", "float32", "own dtype"])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_padding(dtype: torch.dtype, side: str, mask: str, scale: float) -> None:
    """Rows of padding are finite, and padding does not change tokens."""
    length = 7
    query, key, value = states(4, length, dtype, scale)
    inside = tokens_of(side, length)
    seen = torch.ones(length, length, dtype=torch.bool).tril()[None] & inside[:, None]
    given = seen[:, None]
    if mask != "bool":
        kind = torch.float32 if mask == "float32" else dtype
        given = torch.zeros(given.shape, dtype=kind).masked_fill(~given, torch.finfo(kind).min)
    attended, _ = attend(None, query, key, value, given)
    assert attended.dtype == dtype
    assert torch.isfinite(attended).all()
    if scale == 1.0:
        expected = written_out(query, key, value, seen)
        torch.testing.assert_close(attended[inside].double(), expected[inside].detach(), atol=16 * torch.finfo(dtype).eps, rtol=0)
    last = ~inside
    last[:, -1] = True
    other, _ = attend(None, query, *changed(last, key, value), given)
    assert (attended == other)[inside & ~last].all()  # padding and later tokens are not seen
    attended[inside].sum().backward()
    for tensor in (query, key, value):
        assert torch.isfinite(tensor.grad).all()


def packed(lengths: list[tuple[int, int]], single: int = 6) -> PackedRows:
    """One row: prompts of these lengths, each with three completions, the longest of which has the second length; and one of a sample."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(14, 60, prompt) for prompt, _ in [*lengths, (2, 0)]]
    completions = [rng.integers(14, 60, longest - more) for _, longest in lengths for more in (0, 0, longest - 1)]
    completions.append(rng.integers(14, 60, single))
    owner = np.append(np.repeat(np.arange(len(lengths)), 3), len(lengths))
    blank = [""] * len(completions)
    batch = Batch(prompts, completions, owner, np.ones(len(owner)), blank, blank, blank)
    (rows,) = pack_rows(batch, range(len(owner)), 10_000)
    return rows


def seen_by(segments) -> torch.Tensor:
    """(1, T, T) bool, True where a token attends to a token."""
    seen = torch.zeros(segments[-1].end, segments[-1].end, dtype=torch.bool)
    for start, end, first, last in segments:
        seen[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        seen[start:end, first:last] = True
    return seen[None]


@pytest.fixture(params=["fused", "blocked"])
def kernel(request, monkeypatch) -> str:
    """Both ways of computing a part; blocks are smaller than the segments."""
    if request.param == "blocked":
        monkeypatch.setattr(attention, "_fused", lambda query, value: False)
        monkeypatch.setattr(attention, "BLOCK", 3)
    return request.param


LENGTHS = [[(4, 5), (1, 3), (5, 4)], [(5, 3), (5, 3), (5, 3)], [(1, 1), (1, 1)], [(40, 70)]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_prompts_and_completions_in_one_row(dtype: torch.dtype, lengths: list[tuple[int, int]], scale: float, kernel: str) -> None:
    """Values are those of attention in float64, and no token changes one that does not attend to it."""
    rows = packed(lengths)
    length = rows.ids.shape[1]
    query, key, value = states(1, length, dtype, scale)
    layout = attention.Layout.of(rows.segments, torch.device("cpu"))
    attended, _ = attend(None, query, key, value, None, layout=layout)
    assert attended.dtype == dtype
    assert torch.isfinite(attended).all()
    seen = seen_by(rows.segments)
    if scale == 1.0:
        torch.testing.assert_close(attended.double(), written_out(query, key, value, seen), atol=16 * torch.finfo(dtype).eps, rtol=0)
    for start, end, _, _ in rows.segments:
        there = torch.zeros(1, length, dtype=torch.bool)
        there[:, start:end] = True
        other, _ = attend(None, query, *changed(there, key, value), None, layout=layout)
        sees = seen[:, :, start:end].any(2)
        assert (attended == other)[~sees].all()
        assert not (attended == other)[there].all()
    last = torch.zeros(1, length, dtype=torch.bool)
    last[:, rows.segments[0].end - 1] = True  # of the first prompt: earlier tokens do not see it
    other, _ = attend(None, query, *changed(last, key, value), None, layout=layout)
    assert (attended == other)[:, : rows.segments[0].end - 1].all()
    attended.sum().backward()
    for tensor in (query, key, value):
        assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_gradients_are_those_of_written_out_attention(lengths: list[tuple[int, int]], scale: float, kernel: str) -> None:
    rows = packed(lengths)
    given = states(1, rows.ids.shape[1], torch.float64, scale)
    expected = written_out(*given, seen_by(rows.segments))
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected.backward(slope)
    theirs = [tensor.grad.clone() for tensor in given]
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        if dtype != torch.float64 and scale != 1.0:
            continue  # rounding moves scores in their thousands too much
        mine = [tensor.detach().to(dtype).requires_grad_() for tensor in given]
        attended, _ = attend(None, *mine, None, layout=attention.Layout.of(rows.segments, torch.device("cpu")))
        attended.backward(slope.to(dtype))
        for tensor, other in zip(mine, theirs, strict=True):
            assert (tensor.grad.double() - other).abs().max() <= tolerance * max(1.0, float(other.abs().max()))


def test_values_of_another_size_than_keys() -> None:
    """As in multi-head latent attention: the fused kernel does not cover it."""
    rows = packed([(4, 5)])
    query, key, value = states(1, rows.ids.shape[1], torch.float32)
    layout = attention.Layout.of(rows.segments, torch.device("cpu"))
    attended, _ = attend(None, query, key, value[..., :5], None, layout=layout)
    whole, _ = attend(None, query, key, value, None, layout=layout)
    torch.testing.assert_close(attended, whole[..., :5])


def test_a_window_that_a_sequence_exceeds_is_refused() -> None:
    rows = packed([(4, 5)], single=4)
    given = states(1, rows.ids.shape[1], torch.float32)
    layout = attention.Layout.of(rows.segments, torch.device("cpu"))
    attend(None, *given, None, layout=layout, sliding_window=9)
    with pytest.raises(ValueError, match="a sequence of 9 tokens is longer than the model's window of 8"):
        attend(None, *given, None, layout=layout, sliding_window=8)


def test_memory_is_linear_in_length() -> None:
    """What is kept for the backward pass is a few numbers per token and head."""
    for length in (64, 512):
        given = states(1, length, torch.float32)
        attended, _ = attend(None, *given, None, layout=attention.Layout.of([Segment(0, length)], torch.device("cpu")))
        held = {part.data_ptr(): part.numel() for part in attended.grad_fn.next_functions[0][0].saved_tensors}
        assert sum(held.values()) <= 4 * HEADS * SIZE * length


def own_attention(kind: str, **more):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{kind}Config")(**sizes, vocab_size=64, attn_implementation="eager", initializer_range=0.3, **more)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


#: a window that padded prompts exceed
WINDOW = {"window": lambda: own_attention("Mistral", sliding_window=4)}
#: models that this project's attention does not cover: soft-capping, sinks
OWN = {
    "soft cap": lambda: own_attention("Gemma2", sliding_window=4, head_dim=8),
    "sinks": lambda: own_attention("GptOss", sliding_window=4, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
}


PROMPTS = [[20, 30, 40], [15], [21, 22, 23, 24, 25, 26], [33, 34]]


def after(model, prompts: list[list[int]], autocast: torch.dtype | None) -> torch.Tensor:
    """(prompts, vocabulary) probabilities of the next token, the prompts padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        return torch.softmax(model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1].float(), -1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("ours", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("name", [*MODELS, *WINDOW, *OWN])
def test_prompts_padded_to_the_longest(name: str, ours: bool, dtype: torch.dtype) -> None:
    """Under autocast, by this project's attention and by the model's: padding moves no more than rounding does."""
    model = (MODELS | WINDOW | OWN)[name]().eval()
    apart = torch.cat([after(model, [ids], None) for ids in PROMPTS])
    rounding = max(float((torch.cat([after(model, [ids], dtype) for ids in PROMPTS]) - apart).abs().max()), torch.finfo(dtype).eps)
    assert rounding < 0.2
    if ours:
        assert Policy(model, build_tokenizer(), "float32", "bfloat16").shares == (name not in OWN)
    assert (after(model, PROMPTS, dtype) - apart).abs().max() <= 3 * rounding
    settings = {"max_new_tokens": 3, "eos": [1], "rng_for": lambda prompt, sample: stream(0, "test", prompt)}
    for group in generate(model, PROMPTS, 2, autocast=dtype, **settings):
        assert np.isfinite([sample.logprobs for sample in group if len(sample.ids) == 3]).all()
