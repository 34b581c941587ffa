"""The arithmetic of a comparison against its definitions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from helpers import bf16, check_row, histogram, wide
from reference import bf16_bits, measure, steps_between

from dynamics.checkpoints.decoding import widen_float16
from dynamics.checkpoints.tensor import decode, float8_values
from dynamics.sparsity import kernels, row
from dynamics.sparsity.accumulate import accumulate_arrays
from dynamics.sparsity.definitions import Thresholds

ALL = np.arange(65536, dtype=np.uint16)


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 255, 32768, 40000])
def test_every_bf16_pattern_against_every_shift(shift):
    other = (ALL + np.uint16(shift)).astype(np.uint16)
    with np.errstate(invalid="ignore"):
        expected = measure(wide(ALL), wide(other))
    result = row("w", accumulate_arrays(ALL, "bfloat16", other, "bfloat16"))
    # NaNs with different bits differ, but the reference compares values and treats all NaNs as equal
    both_nan = np.isnan(wide(ALL)) & np.isnan(wide(other)) & (other != ALL)
    for rule in expected["changed"]:
        expected["changed"][rule] += int(both_nan.sum())
    check_row(result, expected)


def test_negative_zero_is_zero_and_nan_is_itself():
    a = np.array([0x0000, 0x8000, 0x7FC0, 0x7FC0, 0x7F80, 0x7F80, 0x3F80], np.uint16)
    b = np.array([0x8000, 0x0000, 0x7FC0, 0x7FC1, 0x7F80, 0xFF80, 0x3F80], np.uint16)
    for x, y, dtype in ((a, b, "bfloat16"), (wide(a), wide(b), "float32")):
        result = row("w", accumulate_arrays(x, dtype, y, dtype))
        assert result.changed == {"exact": 2, "bf16": 2, "rtol": 2, "atol": 2}
        assert result.nonfinite == 4
        assert result.ulp["0"] == 3
        assert result.base_norm == 1.0


@pytest.mark.parametrize("low_bits", [1, 2, 3])
def test_flipped_low_bits_are_counted_exactly(rng, low_bits):
    a = bf16(rng.normal(0, 0.02, 100_001))
    flips = rng.integers(0, 2**low_bits, a.size).astype(np.uint16)
    result = row("w", accumulate_arrays(a, "bfloat16", a ^ flips, "bfloat16"))
    assert result.changed["exact"] == result.changed["bf16"] == result.changed["rtol"] == np.count_nonzero(flips)
    assert result.ulp == histogram(steps_between(a, a ^ flips))


def test_rounding_to_bf16_is_to_nearest_even_for_float32():
    torch = pytest.importorskip("torch")
    patterns = np.concatenate([(ALL.astype(np.uint32) << 16) + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    values = patterns.astype(np.uint32).view(np.float32)
    bits = np.empty(values.size, np.uint16)
    kernels.round_to_bfloat16(values, bits)
    theirs = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    nan = np.isnan(values)
    assert np.array_equal(bits[~nan], theirs[~nan])
    assert np.isnan(wide(bits[nan])).all()


def test_rounding_float64_does_not_round_twice():
    tie = 1 + 2.0**-8  # halfway between two bf16 values; to even is down
    values = np.array([tie, np.nextafter(tie, 2), np.nextafter(tie, 0), -np.nextafter(tie, 2), 1 + 3 * 2.0**-8, 1e-45, 3.4e38])
    bits = np.empty(values.size, np.uint16)
    kernels.round_to_bfloat16(values, bits)
    assert np.array_equal(bits, bf16_bits(values))
    assert wide(bits)[1] == 1 + 2.0**-7
    assert wide(bits)[2] == 1.0


@pytest.mark.parametrize("size", [1, 7, 4095, 4096, 4097, 20_000])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_against_the_plain_reference(rng, size, dtype):
    values = rng.normal(0, 0.02, size) * np.exp2(rng.integers(-12, 4, size))
    other = values + np.where(rng.random(size) < 0.3, rng.normal(0, 1e-5, size), 0)
    if dtype == "bfloat16":
        a, b = bf16(values), bf16(other)
        x, y = wide(a), wide(b)
    else:
        x = a = values.astype(dtype)
        y = b = other.astype(dtype)
    check_row(row("w", accumulate_arrays(a, dtype, b, dtype)), measure(x, y))


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float16", "bfloat16"), ("float64", "bfloat16"), ("float32", "float64")])
def test_mixed_dtypes_compare_as_numbers(rng, dtypes):
    values = rng.normal(0, 0.02, 5000)
    stored = [bf16(values) if dtype == "bfloat16" else values.astype(dtype) for dtype in dtypes]
    plain = [wide(array) if dtype == "bfloat16" else array for array, dtype in zip(stored, dtypes, strict=True)]
    check_row(row("w", accumulate_arrays(stored[0], dtypes[0], stored[1], dtypes[1])), measure(*plain))


def test_nonfinite_values_anywhere_in_a_block(rng):
    for dtype in ("float32", "float64"):
        a = rng.normal(0, 1, 9000).astype(dtype)
        b = a + rng.normal(0, 1e-3, a.size).astype(dtype)
        for array in (a, b):
            places = rng.choice(a.size, 60, replace=False)
            array[places] = rng.choice([np.nan, np.inf, -np.inf], 60)
        check_row(row("w", accumulate_arrays(a, dtype, b, dtype)), measure(a, b))


def test_norms_and_cosine_hold_where_float32_sums_do_not():
    """For a large, constant, nearly unchanged tensor, float32 accumulators are wrong in the third digit."""
    a = np.full(3_000_000, 1.0, np.float32)
    b = a.copy()
    b[::1000] += np.float32(2.0**-20)
    result = row("w", accumulate_arrays(a, "float32", b, "float32"))
    changed = len(b[::1000])
    squares_b = Fraction(a.size - changed) + changed * Fraction(1 + 2**-20) ** 2
    assert result.base_norm == pytest.approx(math.sqrt(a.size), rel=1e-12)
    assert result.update_norm == pytest.approx(2.0**-20 * math.sqrt(changed), rel=1e-12)
    dot = Fraction(a.size) + changed * Fraction(2.0**-20)
    exact = 1 - dot * dot / (a.size * squares_b)  # 1 - cos^2 = (1 - cos)(1 + cos)
    assert result.cosine_distance == pytest.approx(float(exact) / 2, rel=1e-6)
    assert result.cosine_distance > 0


def test_cosine_distance_at_the_ends(rng):
    a = rng.normal(0, 1, 1000)
    far = row("w", accumulate_arrays(a, "float64", -a, "float64"))
    assert far.cosine == pytest.approx(-1)
    near = row("w", accumulate_arrays(a, "float64", a * (1 + 1e-12), "float64"))
    assert near.cosine_distance < 1e-20
    none = row("w", accumulate_arrays(a * 0, "float64", a, "float64"))
    assert math.isnan(none.cosine)
    assert math.isnan(none.relative_update)


def test_thresholds_move_the_tolerant_rules_only(rng):
    a = rng.normal(0, 0.02, 5000).astype(np.float32)
    b = a + rng.normal(0, 1e-3, a.size).astype(np.float32)
    for rtol, atol in ((0, 0), (0.5, 1e-2), (1e-2, 1e-4)):
        check_row(row("w", accumulate_arrays(a, "float32", b, "float32", Thresholds(rtol, atol))), measure(a, b, rtol, atol))
        x, y = bf16(a), bf16(b)
        check_row(row("w", accumulate_arrays(x, "bfloat16", y, "bfloat16", Thresholds(rtol, atol))), measure(wide(x), wide(y), rtol, atol))


def test_rtol_below_the_smallest_gap_equals_inequality_for_every_pair_of_neighbours():
    finite = ALL[np.isfinite(wide(ALL)) & (ALL < 0x7F80)]
    low, high = wide(finite[:-1]).astype(float), wide(finite[1:]).astype(float)
    gaps = (high - low) / high
    assert gaps.min() == kernels.SMALLEST_BF16_GAP


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_values_are_torch_s(dtype):
    torch = pytest.importorskip("torch")
    theirs = torch.arange(256, dtype=torch.uint8).view(getattr(torch, dtype)).float().numpy()
    assert np.array_equal(float8_values(dtype), theirs, equal_nan=True)
    bits = np.arange(256, dtype=np.uint8)
    check_row(row("w", accumulate_arrays(bits, dtype, np.roll(bits, 1), dtype)), measure(theirs, np.roll(theirs, 1)))


def test_64_bit_integers_are_compared_as_integers():
    a = np.array([2**53, 2**53 + 1, 5], np.int64)
    b = np.array([2**53 + 1, 2**53 + 1, 5], np.int64)
    assert row("w", accumulate_arrays(a, "int64", b, "int64")).changed["exact"] == 1


def test_decoding_keeps_every_value():
    assert np.array_equal(decode(ALL, "bfloat16"), wide(ALL), equal_nan=True)
    half = ALL.view(np.float16)
    assert np.array_equal(decode(half, "float16"), half.astype(np.float64), equal_nan=True)


def test_every_float16_is_decoded_as_numpy_does():
    with np.errstate(invalid="ignore"):
        expected = ALL.view(np.float16).astype(np.float32)
    values = np.empty(ALL.size, np.float32)
    widen_float16(ALL, values)
    nan = np.isnan(expected)
    assert np.array_equal(values[~nan].view(np.uint32), expected[~nan].view(np.uint32))
    assert np.array_equal(np.isnan(values), nan)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rtol", "atol"), [(2.0**-10, 2.0**-10), (1e-3, 1e-5), (0.0, 0.0), (1e-3, 1e-50), (3.0, 0.5)])
def test_differences_at_a_threshold_are_counted_exactly(dtype, rtol, atol):
    """Differences that are a threshold, the nearest values beside it, and those that float32 cannot tell from it."""
    base = np.tile([1.0, -0.5, 0.0, 2.0**-130, 1e-30], 40).astype(dtype)
    edges = np.concatenate([[edge, np.nextafter(edge, 1), np.nextafter(edge, -1)] for edge in (atol, rtol, rtol * 0.5, 1e-46, 0.0)])
    tuned = (base + np.resize(edges, base.size)).astype(dtype)
    check_row(row("w", accumulate_arrays(base, dtype, tuned, dtype, Thresholds(rtol, atol))), measure(base, tuned, rtol, atol))
