"""Entropies against mpmath and a float64 softmax, up to the limits of the floating-point range."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamics.entropy import kernels, pieces
from dynamics.entropy.logits import divergence, from_hidden, from_logits, from_two
from dynamics.entropy.moments import Counts, Largest, bits_of, merge_moments, softmax_moments
from dynamics.entropy.pieces import NEAR
from dynamics.errors import InputError
from dynamics.models import BYTES, Head

FIELDS = ("entropy", "varentropy", "logsumexp", "surprisal", "rank")


def exact(logits, temperature=1.0):
    """Compute (entropy, varentropy, logsumexp) of a row with 60 digits."""
    with mpmath.workdps(60):
        z = [mpmath.mpf(float(value)) / mpmath.mpf(temperature) for value in logits if value != -np.inf]
        whole = mpmath.log(mpmath.fsum(mpmath.exp(value) for value in z))
        log_p = [value - whole for value in z]
        entropy = -mpmath.fsum(mpmath.exp(value) * value for value in log_p)
        return entropy, mpmath.fsum(mpmath.exp(value) * value**2 for value in log_p) - entropy**2, whole


def peaked(gap, size=400, seed=0, offset=0.0):
    """Make logits with a single logit ``gap`` above the others."""
    z = np.random.default_rng(seed).normal(0, 2, size)
    z[size // 3] = z.max() + gap
    return (z + offset).astype(np.float32)


@pytest.mark.parametrize("offset", [0, 100, -1e4, 1e4])
@pytest.mark.parametrize("gap", [0, 1, 10, 20, 30, 36, 60])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_against_mpmath(gap, offset, temperature):
    z = peaked(gap, offset=offset)
    entropy, varentropy, whole = exact(z, temperature)
    computed = from_logits(z, temperature)
    assert abs(computed.entropy - entropy) <= 1e-12 * entropy
    assert abs(computed.varentropy - varentropy) <= 1e-11 * varentropy
    assert abs(computed.logsumexp - whole) <= 1e-14 * max(1, abs(whole))


def test_the_largest_vocabularies():
    rng = np.random.default_rng(1)
    z = (rng.normal(size=(3, 262_144)) * 3).astype(np.float32)
    z[1, 5], z[2, 5] = 30, 60
    computed = from_logits(z)
    for row, entropy in zip(z, computed.entropy, strict=True):
        x = row.astype(np.longdouble) - row.max()
        p = np.exp(x)
        others = np.delete(np.arange(x.size), row.argmax())
        s, t = p[others].sum(), (p * x)[others].sum()
        assert float(entropy) == pytest.approx(float(np.log1p(s) - t / (1 + s)), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype_and_shape(dtype):
    z = (torch.randn(2, 3, 50) * 4).to(dtype)
    targets = torch.randint(0, 50, (2, 3))
    computed = from_logits(z, targets=targets)
    log_p = torch.log_softmax(z.double(), -1)
    assert computed.entropy.shape == (2, 3)
    assert torch.allclose(computed.entropy, -(log_p.exp() * log_p).sum(-1), rtol=1e-12)
    assert torch.allclose(computed.surprisal, -log_p.gather(-1, targets[..., None])[..., 0], rtol=1e-12)
    above = (z.double() > z.double().gather(-1, targets[..., None])).sum(-1)
    assert torch.equal(computed.rank, above + 1)
    if dtype != torch.bfloat16:
        plain = from_logits(z.numpy(), targets=targets.numpy())
        for name in FIELDS:
            assert np.array_equal(getattr(plain, name), getattr(computed, name).numpy())


@given(st.integers(1, 40), st.floats(0, 40), st.integers(0, 2**31), st.floats(-50, 50))
def test_order_offset_and_threads_change_nothing(size, gap, seed, offset):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, size)
    z[rng.integers(size)] += gap
    computed = from_logits(z)
    moved = from_logits(rng.permutation(z) + offset)
    assert moved.entropy == pytest.approx(float(computed.entropy), rel=1e-9, abs=1e-300)
    many = np.tile(z.astype(np.float32), (70, 1))
    assert np.array_equal(from_logits(many, threads=1).entropy, from_logits(many, threads=3).entropy)


def test_masked_and_broken_rows():
    inf, nan = np.inf, np.nan
    z = np.array([[0, -inf, 1], [nan, 1, 2], [-inf, -inf, -inf], [inf, 1, 1], [-inf, 5, -inf], [1, 2, nan]], np.float32)
    targets = [1, 0, 0, 0, 1, -1]
    for computed in (from_logits(z, targets=targets), from_logits(torch.from_numpy(z), targets=torch.tensor(targets))):
        entropy = np.asarray(computed.entropy)
        assert entropy[0] == pytest.approx(float(exact(z[0])[0]), rel=1e-12)
        assert np.isnan(entropy[[1, 2, 3, 5]]).all()
        assert entropy[4] == 0
        assert np.asarray(computed.surprisal)[0] == inf
        assert np.asarray(computed.surprisal)[4] == 0
        assert list(np.asarray(computed.rank)) == [3, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zeros_of_both_signs_are_equal_and_any_nan_breaks_a_row(dtype):
    z = torch.tensor([[0.0, -0.0, 1, -1], [-0.0, 0.0, 1, -1], [0, 0, -np.nan, 1], [0, 0, np.nan, 1], [0, -np.inf, -0.0, 0]]).to(dtype)
    computed = from_logits(z, targets=torch.tensor([0, 0, 0, 3, 2]))
    assert computed.rank.tolist() == [2, 2, 0, 0, 1]
    assert torch.isnan(computed.entropy).tolist() == [False, False, True, True, False]
    assert float(computed.entropy[4]) == pytest.approx(np.log(3), rel=1e-15)


def test_bits_are_no_logits():
    with pytest.raises(InputError, match="expected floating point"):
        from_logits(np.zeros((2, 3), np.int16))


def test_one_token_is_certain():
    computed = from_logits(np.array([[3.0]], np.float32), targets=[0])
    assert (computed.entropy[0], computed.varentropy[0], computed.surprisal[0], computed.rank[0]) == (0, 0, 0, 1)


@given(st.lists(st.integers(0, 60), min_size=0, max_size=5), st.integers(0, 2**31), st.floats(0.2, 3))
def test_parts_of_the_vocabulary_merge(cuts, seed, temperature):
    """As over threads or tensor-parallel ranks; a part may be masked as a whole."""
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=(4, 61)) * rng.choice([1, 10, 60])).astype(np.float32)
    z[0, :20] = -np.inf
    temperatures = np.full(4, temperature)
    edges = sorted({0, *cuts, 61})
    parts = [softmax_moments(z[:, a:b], temperatures) for a, b in itertools.pairwise(edges)]
    whole = softmax_moments(z, temperatures)
    for order in (parts, parts[::-1]):
        merged = merge_moments(order)
        assert np.allclose(merged.entropy, whole.entropy, rtol=1e-9, atol=0)
        assert np.allclose(merged.varentropy, whole.varentropy, rtol=1e-8, atol=1e-300)
        assert np.allclose(merged.logsumexp, whole.logsumexp, rtol=1e-13)


def test_gradients():
    z = torch.randn(4, 30, dtype=torch.float64, requires_grad=True)
    temperatures = torch.tensor([0.5, 1.0, 1.5, 2.0])
    targets = torch.tensor([3, 0, -1, 29])

    def sums(logits):
        computed = from_logits(logits, temperatures, targets)
        return computed.entropy, computed.logsumexp, torch.nan_to_num(computed.surprisal)

    assert torch.autograd.gradcheck(sums, (z,))
    assert not from_logits(z.detach()).entropy.requires_grad


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.7}, {"softcap": 5.0}, {"scale": 0.1}, {"vocabulary": 9000}, {"softcap": 30.0, "scale": 2.0, "temperature": 2.0}],
)
@pytest.mark.parametrize("biased", [True, False])
def test_hidden_states_are_as_good_as_logits(settings, biased):
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 9, 32), torch.randn(9500, 32)
    bias = torch.randn(9500) if biased else None
    size = settings.get("vocabulary", 9500)
    targets = torch.randint(0, size, (2, 9))
    targets[0, 0] = -1
    computed = from_hidden(hidden, weight, bias, targets=targets, **settings)
    logits = torch.nn.functional.linear(hidden, weight, bias)[..., :size] * settings.get("scale", 1.0)
    if cap := settings.get("softcap"):
        logits = torch.tanh(logits / cap) * cap
    expected = from_logits(logits, settings.get("temperature", 1.0), targets)
    for name in FIELDS[:4]:
        assert torch.allclose(getattr(computed, name), getattr(expected, name), rtol=1e-4, atol=1e-4, equal_nan=True), name
    assert (computed.rank - expected.rank).abs().max() <= 1
    assert computed.rank[0, 0] == 0


def equal_logits(copies):
    """Hidden states and a head with ``copies`` equal rows at its end; the targets are among these, or the smallest, or any."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(12, 32), torch.randn(3000, 32)
    weight[-copies:] = weight[5]
    targets = torch.randint(0, 3000, (12,))
    targets[:6] = torch.tensor([2999, 3000 - copies, 5, -1, 2990, 5])
    return hidden, weight, targets


@pytest.mark.parametrize("copies", [1, 3, NEAR + 1, 1500])
@pytest.mark.parametrize("head", [{}, {"softcap": 60.0, "scale": -2.0}])
@pytest.mark.parametrize("width", [pieces.WIDTH, 0.0, 1e-2])
def test_ranks_from_one_product(copies, head, width, monkeypatch):
    """Ties share the better rank wherever they are; also if the limits around the target's logit do not hold it, or many others."""
    monkeypatch.setattr(pieces, "WIDTH", width)
    hidden, weight, targets = equal_logits(copies)
    computed = from_hidden(hidden, weight, targets=targets, top=4, **head)
    logits = hidden.double() @ weight.double().T * head.get("scale", 1.0)
    logits[:, -copies:] = logits[:, 5:6]
    above = (logits > logits.gather(1, targets.clamp(min=0)[:, None])).sum(-1)
    assert computed.rank.tolist() == torch.where(targets < 0, 0, above + 1).tolist()
    best = torch.sort(logits, dim=-1, descending=True, stable=True)
    assert torch.equal(computed.top_ids, best.indices[:, :4])
    largest = best.values[:, :4]
    if cap := head.get("softcap"):
        largest = torch.tanh(largest / cap) * cap
    assert torch.allclose(computed.top_logits.double(), largest, rtol=1e-5)


def test_other_devices_have_the_same_ranks_and_tokens(monkeypatch):
    """The branch for other devices, run on this one."""
    hidden, weight, targets = equal_logits(1)
    expected = from_hidden(hidden, weight, targets=targets, top=4)
    monkeypatch.setattr(pieces, "keeps", lambda _: False)
    monkeypatch.setattr(pieces, "softmax_moments", lambda *_: pytest.fail("the CPU path was taken"))
    computed = from_hidden(hidden, weight, targets=targets, top=4)
    for name in (*FIELDS, "top_ids", "top_logits"):
        assert torch.allclose(getattr(computed, name), getattr(expected, name), rtol=1e-11, equal_nan=True), name


@pytest.mark.parametrize("tokens", [1, 40])
def test_products_of_bfloat16_are_those_of_float32(tokens):
    """Not rounded to bfloat16, whose numbers around 20 are 0.125 apart; and products of others are as before."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, 64).bfloat16(), torch.randn(2000, 64).bfloat16()
    targets = torch.randint(0, 2000, (tokens,))
    computed, expected = from_hidden(hidden, weight, targets=targets), from_logits(hidden.double() @ weight.double().T, targets=targets)
    for name in FIELDS:
        assert torch.allclose(getattr(computed, name), getattr(expected, name), rtol=1e-5), name
    wide = torch.randn(40, 64)
    assert torch.allclose(wide @ wide.T, (wide.double() @ wide.double().T).float(), atol=1e-4)


def test_more_likely_tokens_than_there_are():
    found = from_hidden(torch.randn(2, 3, 8), torch.randn(5, 8), top=9)
    assert found.top_ids.shape == (2, 3, 5)
    assert from_hidden(torch.randn(0, 8), torch.randn(5, 8), top=9).top_ids.shape == (0, 5)


def test_memory_of_hidden_states_is_bounded():
    """For 32k tokens and 152k rows, temporary arrays stay within the memory limit for any width."""
    for width in (576, 4096, 16384):
        head = Head(torch.empty(151_936, width, device="meta"), None, None, 1.0, 151_936)
        assert 4 * head.tokens * head.rows <= BYTES
        assert 4 * head.rows * width <= max(BYTES, 4 * 256 * width)
        assert [stop for _, stop in head.stretches()][-1] == 151_936


def exact_divergence(a, b):
    """Compute KL(a || b) of logits with 60 digits."""
    with mpmath.workdps(60):
        a, b = ([mpmath.mpf(float(value)) for value in row if value > -np.inf] for row in (a, b))
        wholes = [mpmath.log(mpmath.fsum(mpmath.exp(value) for value in row)) for row in (a, b)]
        return float(mpmath.fsum(mpmath.exp(x - wholes[0]) * (x - wholes[0] - y + wholes[1]) for x, y in zip(a, b, strict=True)))


@pytest.mark.parametrize("far", [0.0, 1e-5, 1e-2, 3.0])
def test_divergence_is_exact_where_the_usual_sum_cancels(far):
    """In three parts of the vocabulary, one of which may be masked."""
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.normal(0, 3, (4, 600)).astype(np.float32))
    a[1, 70], a[2, 599], a[3, :256] = 40, 40, -torch.inf
    b = a + far * torch.from_numpy(rng.normal(size=a.shape).astype(np.float32))
    forth, back = diverged(a, b)
    assert forth == pytest.approx([exact_divergence(*rows) for rows in zip(a, b, strict=True)], rel=1e-8, abs=1e-26)
    assert back == pytest.approx([exact_divergence(*rows) for rows in zip(b, a, strict=True)], rel=1e-8, abs=1e-26)
    assert (forth >= 0).all()


def diverged(a, b, parts=3):
    """Return both divergences, of distributions that are given in parts of the vocabulary."""
    found = pieces.Divergences()
    with ThreadPoolExecutor(2) as pool:
        for one, other in zip(a.chunk(parts, 1), b.chunk(parts, 1), strict=True):
            found.add((one, other), tuple(softmax_moments(part.numpy(), np.ones(len(part))) for part in (one, other)), pool)
    return found.whole()


def test_divergences_of_masked_and_broken_rows():
    """A part may be masked as a whole, in one or both; NaN anywhere gives NaN for its row only."""
    a = torch.zeros(6, 9)
    b = torch.zeros(6, 9)
    a[0, :3] = b[0, :3] = -torch.inf
    a[1, :3] = -torch.inf
    b[2, 4] = -torch.inf
    a[3, 8] = torch.nan
    b[4, 0] = torch.inf
    a[5, 0] = 900.0
    forth, back = diverged(a, b)
    assert forth[[0, 1, 2]] == pytest.approx([0, np.log(9 / 6), np.inf], rel=1e-12, abs=1e-15)
    assert back[[0, 1, 2]] == pytest.approx([0, np.inf, np.log(9 / 8)], rel=1e-12, abs=1e-15)
    assert np.isnan([*forth[[3, 4]], *back[[3, 4]]]).all()
    assert (forth[5], back[5]) == pytest.approx((np.log(9), 800 - np.log(9)))


def test_two_models_are_measured_as_each_alone():
    """Also if their widths and the sizes of their heads differ; the divergence is over the tokens of both."""
    torch.manual_seed(0)
    sides = [(torch.randn(7, width), Head(torch.randn(rows, width), None, None, 1.0, rows)) for width, rows in ((16, 2500), (24, 2700))]
    targets = torch.randint(0, 2500, (7,))
    *both, forth, back = from_two(*sides, targets, top=2)
    for stats, (hidden, head), top in zip(both, sides, (2, 0), strict=True):
        alone = from_hidden(hidden, head.weight, targets=targets, top=top)
        for name in FIELDS:
            assert torch.allclose(getattr(stats, name), getattr(alone, name), rtol=1e-6), name
        assert (stats.top_ids is None) == (top == 0)
    assert torch.equal(both[0].top_ids, from_hidden(sides[0][0], sides[0][1].weight, top=2).top_ids)
    a, b = (torch.log_softmax((hidden @ head.weight.T)[:, :2500].double(), -1) for hidden, head in sides)
    assert np.allclose(forth, (a.exp() * (a - b)).sum(-1), rtol=1e-5)
    assert np.allclose(back, (b.exp() * (b - a)).sum(-1), rtol=1e-5)
    assert np.array_equal(divergence((*sides[0], None), (*sides[1], None))[0], forth)


def test_divergence_of_masked_tokens():
    out = np.zeros(2), np.zeros(2)
    a = np.array([[0, 0, -np.inf], [0, 1, 2]], np.float32)
    b = np.array([[0, 1, 2], [0, -np.inf, -np.inf]], np.float32)
    whole = [from_logits(logits).logsumexp for logits in (a, b)]
    kernels.diverge(bits_of(a), bits_of(b), *whole, *out)
    p = np.exp(b[0] - whole[1][0])
    assert out[0][0] == pytest.approx(0.5 * np.log(0.5 / p[0]) + 0.5 * np.log(0.5 / p[1]))
    assert out[1][0] == np.inf
    assert out[0][1] == np.inf
    assert out[1][1] == pytest.approx(-np.log(np.exp(a[1, 0] - whole[0][1])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_logits(np.zeros((2, 0), np.float32)), "last axis must be a vocabulary"),
        (lambda: from_logits(np.zeros((2, 3), np.int64)), "expected floating point"),
        (lambda: from_logits(torch.zeros(2, 3, dtype=torch.long)), "expected floating point"),
        (lambda: from_logits(np.zeros((2, 3), np.float32), 0.0), "temperature"),
        (lambda: from_logits(np.zeros((2, 3), np.float32), [1.0, 1.0, 1.0]), "one number, or one per token"),
        (lambda: from_logits(np.zeros((2, 3), np.float32), targets=[0]), "one target per token"),
        (lambda: from_logits(np.zeros((2, 3), np.float32), targets=[0, 3]), "outside the vocabulary of 3"),
        (lambda: from_hidden(torch.zeros(2, 3), torch.zeros(5, 4)), "must be equal"),
        (lambda: from_hidden(torch.zeros(2, 3), torch.zeros(5, 3), vocabulary=6), "the head has 5 rows"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_an_accelerator():
    z, targets = torch.randn(40, 5000) * 6, torch.randint(0, 5000, (40,))
    ours, on_gpu = from_logits(z, targets=targets), from_logits(z.cuda(), targets=targets.cuda())
    for name in FIELDS:
        assert torch.allclose(getattr(ours, name).double(), getattr(on_gpu, name).cpu().double(), rtol=1e-11)


def test_the_torch_path_of_accelerators_agrees(monkeypatch):
    """The branch for other devices, run on this one."""
    z = torch.from_numpy(np.stack([peaked(gap, 300) for gap in (0, 5, 20, 36)] + [np.full(300, -np.inf, np.float32)]))
    z[3, 7] = -np.inf
    z[0, 0] = np.nan
    low, high = z[:, 3].numpy() - 1, z[:, 3].numpy() + 1

    def measured():
        counts, largest = Counts.between(low, high, 400), Largest.of(5, 4)
        return pieces.tensor_moments(z, np.full(5, 0.8), None, counts, largest, 100), counts, largest

    expected, counts, largest = measured()
    monkeypatch.setattr(pieces, "keeps", lambda _: False)
    monkeypatch.setattr(pieces, "softmax_moments", lambda *_: pytest.fail("the CPU path was taken"))
    computed, its_counts, its_largest = measured()
    for name in ("entropy", "varentropy", "logsumexp"):
        assert np.allclose(getattr(computed, name), getattr(expected, name), rtol=1e-11, equal_nan=True), name
    assert its_counts.above[1:].tolist() == counts.above[1:].tolist()
    assert its_counts.near_counts[1:].tolist() == counts.near_counts[1:].tolist()
    assert its_largest.ids[1:4].tolist() == largest.ids[1:4].tolist()
    assert its_largest.logits[1:].tolist() == largest.logits[1:].tolist()
