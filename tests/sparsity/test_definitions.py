"""Sparsity, overlap, spectra and the recorder agree on the definition of "changed" for each pair of values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from reference import bf16_bits

from dynamics import overlap, sparsity, spectra
from dynamics.checkpoints import from_array
from dynamics.checkpoints.tensor import STORAGE
from dynamics.errors import InputError
from dynamics.recorder import Recorder
from dynamics.sparsity.definitions import RULES
from dynamics.sparsity.masks import changed, changed_under

#: dtype -> (bits of a pattern, bits of its mantissa)
FORMATS = {"float16": (16, 10), "bfloat16": (16, 7), "float32": (32, 23), "float64": (64, 52)}


def patterns(dtype: str) -> list[int]:
    """List critical bit patterns: zeros, subnormals, bf16 ties, neighbours, ends of the range, infinities, NaNs."""
    bits, mantissa = FORMATS[dtype]
    sign, infinity, quiet = 1 << (bits - 1), (1 << (bits - 1)) - (1 << mantissa), 1 << (mantissa - 1)
    bits_of_one = {"float16": 0x3C00, "bfloat16": 0x3F80, "float32": 0x3F800000, "float64": 0x3FF0000000000000}[dtype]
    finite = [0, 1, (1 << mantissa) - 1, 1 << mantissa, bits_of_one, bits_of_one + 1, infinity - 1]
    if mantissa > 7:
        half = 1 << (mantissa - 8)  # of a step of bf16, at 1
        finite += [
            bits_of_one + half,
            bits_of_one + half - 1,
            bits_of_one + half + 1,
            bits_of_one + 3 * half,
            infinity - half,
            infinity - half - 1,
        ]
    if dtype == "float32":
        finite += [0x8000, 0x8001, 0x18000]  # ties between subnormals of bf16
        finite += [int(np.float32(value).view(np.uint32)) for value in (3.4e38, 1.00001, 1.0005, 1.002, 1e-5, 2e-5)]
    if dtype == "float64":
        numbers = (2.0**-134, np.nextafter(2.0**-134, 1), 1e-45, 1e300, 3.3895313892515355e38, 3.4e38, 1.00001, 1.0005, 1.002)
        finite += [int(np.float64(value).view(np.uint64)) for value in numbers]
    nans = [infinity | quiet, infinity | quiet | 1, infinity | 1, infinity | quiet >> 1, infinity | quiet | quiet >> 1]
    if mantissa > 7:
        nans.append(infinity | quiet | 1 << (mantissa - 8))  # a NaN payload that looks like a tie
    signed = [0, 1, bits_of_one, infinity - 1, infinity, infinity | quiet, infinity | 1]
    if dtype == "float16" and not keeps_signalling_nans():
        nans, signed = ([pattern for pattern in part if pattern <= infinity or pattern & quiet] for part in (nans, signed))
    return [*finite, infinity, *nans, *(pattern | sign for pattern in signed)]


def keeps_signalling_nans() -> bool:
    """Tell whether conversion from float16 keeps signalling NaNs; some processors make every NaN quiet."""
    return int(np.array([0x7C01], np.uint16).view(np.float16).astype(np.float32).view(np.uint32)[0]) == 0x7F802000


def value_of(pattern: int, dtype: str) -> float:
    if dtype == "bfloat16":
        return float(np.uint32(pattern << 16).view(np.float32))
    bits = FORMATS[dtype][0]
    return float(np.array([pattern], f"u{bits // 8}").view(dtype)[0])


def rounded(pattern: int, dtype: str) -> int:
    """Round the pattern to bf16 bits; a NaN keeps its sign and leading payload, and becomes quiet."""
    bits, mantissa = FORMATS[dtype]
    if dtype == "bfloat16":
        return pattern
    if math.isnan(value_of(pattern, dtype)):
        return (pattern >> (bits - 1) << 15) | 0x7F80 | ((pattern & ((1 << mantissa) - 1)) >> (mantissa - 7)) | 0x40
    return int(bf16_bits(np.array([value_of(pattern, dtype)]))[0])


def differ(a: int, b: int, bits: int) -> bool:
    magnitude = (1 << (bits - 1)) - 1
    return a != b and not (a & magnitude == 0 and b & magnitude == 0)


def expected(a: int, b: int, dtype: str) -> dict[str, bool]:
    """Apply the definition in plain Python."""
    x, y = value_of(a, dtype), value_of(b, dtype)
    exact = differ(a, b, FORMATS[dtype][0])
    finite = math.isfinite(x) and math.isfinite(y)
    return {
        "exact": exact,
        "bf16": differ(rounded(a, dtype), rounded(b, dtype), 16),
        "rtol": abs(y - x) > 1e-3 * max(abs(x), abs(y)) if finite else exact,
        "atol": abs(y - x) > 1e-5 if finite else exact,
    }


def stored(values, dtype: str, shape=(1,)):
    array = np.array(values, f"u{FORMATS[dtype][0] // 8}").view(STORAGE[dtype])
    return from_array("w", np.resize(array, shape) if shape != (len(array),) else array, dtype)


def by_sparsity(pairs, dtype, _):
    base, tuned = ({str(i): stored([pair[side]], dtype) for i, pair in enumerate(pairs)} for side in (0, 1))
    rows = {row.name: row.changed for row in sparsity.compare(base, tuned).rows}
    return [{rule: bool(rows[str(i)][rule]) for rule in RULES} for i in range(len(pairs))]


def by_overlap(pairs, dtype, _):
    base, tuned = ({str(i): stored([pair[side]], dtype) for i, pair in enumerate(pairs)} for side in (0, 1))
    rows = {row.name: row.rules for row in overlap.compare(base, [tuned, base]).rows}
    assert not any(row[rule].second for row in rows.values() for rule in RULES)  # a NaN equals itself
    return [{rule: bool(rows[str(i)][rule].first) for rule in RULES} for i in range(len(pairs))]


def by_marks(pairs, dtype, _):
    base, tuned = (stored([pair[side] for pair in pairs], dtype, (len(pairs),)).stored() for side in (0, 1))
    marks = changed(base, dtype, tuned, dtype)
    masks = {rule: changed_under(rule, marks) for rule in RULES}
    return [{rule: bool(masks[rule][i]) for rule in RULES} for i in range(len(pairs))]


def by_spectra(pairs, dtype, _):
    """Count by the rule bf16 and for finite values only, because matrices with other values have no singular values."""
    pytest.importorskip("torch")
    base, tuned = ({str(i): stored([pair[side]], dtype, (2, 2)) for i, pair in enumerate(pairs)} for side in (0, 1))
    measured, _ = spectra.compare(base, tuned, method="none")
    counts = {spectrum.name: spectrum.changed for spectrum in measured}
    assert set(counts.values()) <= {0, 4}
    return [{"bf16": bool(counts[str(i)])} for i in range(len(pairs))]


def by_recorder(pairs, dtype, folder):
    torch = pytest.importorskip("torch")
    bits = FORMATS[dtype][0]

    def parameters(pattern):
        values = torch.from_numpy(np.array([pattern], f"u{bits // 8}").view(f"i{bits // 8}"))
        return {"w": values.view(getattr(torch, dtype))}

    results, recorders = [], {}
    for base, tuned in pairs:
        if base not in recorders:
            recorders[base] = Recorder(folder, base=parameters(base))
        line = recorders[base].measure(1, parameters(tuned))
        results.append({rule: line[f"sparsity/{rule}"] == 0 for rule in RULES})
    return results


def pairs_of(dtype: str, finite: bool) -> list[tuple[int, int]]:
    """List every pair once, with alternating sides."""
    values = [pattern for pattern in patterns(dtype) if not finite or math.isfinite(value_of(pattern, dtype))]
    return [pair[:: 1 - 2 * (i % 2)] for i, pair in enumerate(itertools.combinations_with_replacement(values, 2))]


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("measured", [by_sparsity, by_overlap, by_marks, by_spectra, by_recorder])
def test_every_measure_counts_by_the_definition(measured, dtype, tmp_path):
    pairs = pairs_of(dtype, finite=measured is by_spectra)
    for pair, result in zip(pairs, measured(pairs, dtype, tmp_path), strict=True):
        definition = expected(*pair, dtype)
        assert result == {rule: definition[rule] for rule in result}, [hex(pattern) for pattern in pair]


@pytest.mark.parametrize("dtype", FORMATS)
def test_whole_blocks_count_as_their_pairs_do(dtype, rng):
    """The same pairs among others, in blocks that the kernels walk with vector instructions."""
    pairs = pairs_of(dtype, finite=False)
    order = rng.integers(0, len(pairs), 20_000)
    order[5000:] = np.sort(order[5000:])  # blocks with one kind of pair, and blocks with all
    base, tuned = ({"w": stored([pairs[i][side] for i in order], dtype, (len(order),))} for side in (0, 1))
    definitions = [expected(*pair, dtype) for pair in pairs]
    counts = {rule: sum(definitions[i][rule] for i in order) for rule in RULES}
    assert sparsity.compare(base, tuned).total.changed == counts
    assert {rule: overlaps.first for rule, overlaps in overlap.compare(base, [tuned, base]).total[0].rules.items()} == counts


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("dtypes", [pair for pair in itertools.product(FORMATS, FORMATS) if pair[0] != pair[1]])
def test_measures_agree_across_dtypes(dtypes):
    """Results of a pair of tensors do not depend on other pairs, for example with an update of a third dtype."""
    sides = [np.array(patterns(dtype), f"u{FORMATS[dtype][0] // 8}").view(STORAGE[dtype]) for dtype in dtypes]
    a, b = (grid.ravel() for grid in np.meshgrid(*sides))
    base, tuned = ({"w": from_array("w", side, dtype)} for side, dtype in zip((a, b), dtypes, strict=True))
    counts = sparsity.compare(base, tuned).total.changed
    other = {"w": from_array("w", np.zeros(a.size), "float64")}
    for more in (base, other):
        by_rule = overlap.compare(base, [tuned, more]).total[0].rules
        assert {rule: overlaps.first for rule, overlaps in by_rule.items()} == counts
    marks = changed(a, dtypes[0], b, dtypes[1])
    assert {rule: int(changed_under(rule, marks).sum()) for rule in RULES} == counts


def test_64_bit_integers_are_compared_as_integers():
    base, tuned = ({"w": np.array(values, np.int64)} for values in ([2**53, 5, 5], [2**53 + 1, 5, 6]))
    counts = sparsity.compare(base, tuned).total.changed
    assert counts["exact"] == 2
    by_rule = overlap.compare(base, [tuned, base]).total[0].rules
    assert {rule: (overlaps.first, overlaps.second) for rule, overlaps in by_rule.items()} == {
        rule: (count, 0) for rule, count in counts.items()
    }


def test_nothing_nonfinite_is_decomposed():
    pytest.importorskip("torch")
    for value in (math.inf, math.nan):
        with pytest.raises(InputError, match="NaN or infinity"):
            spectra.compare({"w": np.ones((2, 2))}, {"w": np.full((2, 2), value)})
