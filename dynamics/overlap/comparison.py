"""Compare the masks of the weights that several updates of one base changed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamics.checkpoints import Checkpoint, Skip, Source, open_base, open_checkpoint
from dynamics.checkpoints.coverage import coverage, warning
from dynamics.checkpoints.quantised import notes as quantised
from dynamics.descriptions import plural, small_table
from dynamics.errors import InputError, printable
from dynamics.io.paths import repeated
from dynamics.sparsity.definitions import RULES, Thresholds, rule_texts
from dynamics.sparsity.masks import changed

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float64, Int64, Shaped

    from dynamics.checkpoints.digests import Digester
    from dynamics.checkpoints.matching import Match
    from dynamics.checkpoints.tensor import Tensor
    from dynamics.io.threads import Progress

SCHEMA = "dynamics.overlap/1"
#: pairs that the short description of a comparison lists
SHOWN = 3


@dataclass(frozen=True)
class Overlap:
    """The overlap of two masks over a set of weights, under one rule.

    Attributes
    ----------
    numel : number of weights.
    first, second, both : number of weights in the first mask, in the second, and in both.
    o1, o2, jaccard : both / first, both / second, intersection / union; NaN where that is 0 / 0.
    o1_chance, o2_chance, jaccard_chance : expected values for independent masks with these densities.
    o1_chance_by_tensor, ... : expected values for independent masks with the densities of the two masks in each tensor.

    Notes
    -----
    o1 (1 - s1) = o2 (1 - s2), with the sparsities s1 and s2: given the densities, o2 adds no information to o1.
    """

    numel: int
    first: int
    second: int
    both: int
    o1: float
    o2: float
    jaccard: float
    o1_chance: float
    o2_chance: float
    jaccard_chance: float
    o1_chance_by_tensor: float
    o2_chance_by_tensor: float
    jaccard_chance_by_tensor: float


@dataclass(frozen=True)
class Row:
    """The overlap of a pair of updates in a tensor, a layer, a kind of module, or the whole model.

    Attributes
    ----------
    name : of the tensor, layer or kind of module.
    a, b : indices of the two updates among the tuned checkpoints.
    rules : overlap by rule.
    same_sign : among the weights that both updates changed (rule ``exact``), the fraction whose updates have the same sign.
    cosine : cosine similarity of the two updates over those weights; ``cosine_all`` over all weights.

    Notes
    -----
    In checkpoints stored in float32 nearly every weight is in the ``exact`` mask, so sign and cosine cover nearly all weights.
    """

    name: str
    a: int
    b: int
    rules: dict[str, Overlap]
    same_sign: float
    cosine: float
    cosine_all: float


@dataclass
class Counts:
    """Counts and sums that add over chunks of weights.

    Attributes
    ----------
    intersections : number of weights in the first mask, in the second and in both, by pair of updates and rule.
    sums : products of the updates by pair, see ``kernels.count_pairs``.
    consensus : number of weights changed by 0, 1, ... of the updates, by rule.
    first_changed : number of weights first changed by the first, second, ... update, by rule; last, those that no update changed.
    came_back : number of weights changed by some update but not by the last, by rule.
    """

    intersections: Int64[np.ndarray, "pairs rules 3"]
    sums: Float64[np.ndarray, "pairs 7"]
    consensus: Int64[np.ndarray, "rules updates_and_none"]
    first_changed: Int64[np.ndarray, "rules updates_and_never"]
    came_back: Int64[np.ndarray, " rules"]

    @staticmethod
    def empty(updates: int) -> Counts:
        """Return zero counts for a number of updates."""
        pairs = updates * (updates - 1) // 2
        four = len(RULES)
        return Counts(
            np.zeros((pairs, four, 3), np.int64),
            np.zeros((pairs, 7)),
            np.zeros((four, updates + 1), np.int64),
            np.zeros((four, updates + 1), np.int64),
            np.zeros(four, np.int64),
        )

    def __iadd__(self, other: Counts) -> Counts:
        """Add the counts of other weights."""
        for name, array in vars(self).items():
            array += getattr(other, name)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and sums as lists of numbers, from which ``from_dict`` makes the same counts."""
        return {name: array.tolist() for name, array in vars(self).items()}

    @staticmethod
    def from_dict(updates: int, document: Mapping[str, Any]) -> Counts:
        """Make the counts of which ``to_dict`` returned the numbers; a ValueError for another number of updates."""
        counts = Counts.empty(updates)
        for name, array in vars(counts).items():
            values = np.array(document[name], array.dtype)
            if values.shape != array.shape:
                raise ValueError(f"{name} has the shape {values.shape}, not {array.shape}")
            array[:] = values
        return counts


@dataclass(frozen=True, repr=False)
class Comparison:
    """Overlaps of all pairs of updates. ``total`` has a row per pair; ``layers``, ``modules`` and ``rows`` (tensors) break it down.

    By rule, ``consensus`` is the number of weights changed by 0, 1, ... of the updates; ``first`` the number that first differ from the
    base at the 1st, 2nd, ... checkpoint, or (last) at none; ``came_back`` the number that changed but have the base's value at the last
    checkpoint. ``coverage`` is the share of the parameters that were compared: of ``base``, and of each tuned checkpoint by its number,
    from ``1``. ``digests`` has that of each checkpoint, base first, if they were asked for.
    """

    base: Checkpoint
    tuned: list[Checkpoint]
    total: list[Row]
    layers: list[Row]
    modules: list[Row]
    rows: list[Row]
    consensus: dict[str, list[int]]
    first: dict[str, list[int]]
    came_back: dict[str, int]
    numel: int
    coverage: dict[str, float]
    skipped: list[Skip]
    notes: list[str] = field(default_factory=list)
    rtol: float = 1e-3
    atol: float = 1e-5
    digests: list[str] = field(default_factory=list)

    @property
    def incomplete(self) -> str:
        """Which checkpoints have parameters that were left out of the comparison, if more than 0.1 %; else an empty text."""
        return warning(self.coverage)

    @property
    def headline(self) -> str:
        """What to know before any number: checkpoints that share little, or are identical to the base; else an empty text."""
        unchanged = {str(row.a + 1) for row in self.total if self.numel and not row.rules["exact"].first}
        unchanged |= {str(row.b + 1) for row in self.total if self.numel and not row.rules["exact"].second}
        lines = [self.incomplete, *dict.fromkeys(quantised.headline(self.base, tuned) for tuned in self.tuned)]
        if unchanged:
            lines.append(f"identical to the base: {', '.join(sorted(unchanged, key=int))}")
        return "; ".join(filter(None, lines))

    def __repr__(self) -> str:
        """Say in a line or a few what was compared, with the Jaccard index of every pair and its chance value."""
        lines = [f"<overlap.Comparison of {len(self.tuned)} updates of {printable(self.base.path, 80)}, {plural(self.numel, 'weight')}"]
        lines += [self.headline] * bool(self.headline)
        for row in self.total[:SHOWN]:
            overlaps = row.rules["bf16"]
            lines.append(
                f"{row.a + 1}, {row.b + 1}: Jaccard {overlaps.jaccard:.3f}, chance by tensor {overlaps.jaccard_chance_by_tensor:.3f} (bf16)"
            )
        if len(self.total) > SHOWN:
            lines.append(f"and {plural(len(self.total) - SHOWN, 'pair')} more")
        return "\n ".join(lines) + ">"

    def _repr_html_(self) -> str:
        """Show the pairs as a small table in a notebook."""
        numbers = [(row, row.rules["bf16"]) for row in self.total]
        rows = [
            [f"{row.a + 1}, {row.b + 1}", *(f"{value:.3f}" for value in (o.o1, o.o2, o.jaccard, o.jaccard_chance_by_tensor, row.cosine))]
            for row, o in numbers
        ]
        return small_table(repr(self).splitlines()[0].strip("<>"), ["pair (bf16)", "o1", "o2", "Jaccard", "by tensor", "cosine"], rows)

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON document of schema ``dynamics.overlap/1``."""
        from dataclasses import asdict

        return {
            "schema": SCHEMA,
            "coverage": self.coverage,
            "base": self.base.path,
            "tuned": [checkpoint.path for checkpoint in self.tuned],
            **({"digests": {"base": self.digests[0], "tuned": self.digests[1:]}} if self.digests else {}),
            "rules": rule_texts(self.rtol, self.atol),
            "notes": self.notes,
            "numel": self.numel,
            **{part: [asdict(row) for row in getattr(self, part)] for part in ("total", "layers", "modules")},
            "tensors": [asdict(row) for row in self.rows],
            "consensus": self.consensus,
            "first_changed": self.first,
            "came_back": self.came_back,
            "skipped": [asdict(skip) for skip in self.skipped],
        }


def overlap(numel: int, first: int, second: int, both: int, by_tensor: float | None = None) -> Overlap:
    """Compute an overlap from counts. ``by_tensor`` is the expected intersection of masks that are independent within each tensor.

    >>> overlap(100, 20, 10, 5).o1, overlap(100, 20, 10, 5).o1_chance
    (0.25, 0.1)
    """
    expected = first * second / numel if numel else math.nan
    expected_by_tensor = expected if by_tensor is None else by_tensor

    def share(part: float, whole: float) -> float:
        return part / whole if whole else math.nan

    def overlaps(count: float) -> tuple[float, float, float]:
        return share(count, first), share(count, second), share(count, first + second - count)

    return Overlap(numel, first, second, both, *overlaps(both), *overlaps(expected), *overlaps(expected_by_tensor))


@dataclass(frozen=True)
class Aligned:
    """Several updates of one base, matched.

    Attributes
    ----------
    base, tuned : the checkpoints, with adapters applied.
    matches : of each tuned checkpoint.
    sets : name -> the tensor of the base and those of the tuned checkpoints, of the tensors that all have with one shape.
    skipped, notes : see ``Comparison``.
    """

    base: Checkpoint
    tuned: list[Checkpoint]
    matches: list[Match]
    sets: dict[str, list[Tensor]]
    skipped: list[Skip]
    notes: list[str]


def align(base: Source, tuned: Sequence[Source]) -> Aligned:
    """Match the updates of two or more checkpoints of one base; no weight is read. The parameters are those of ``compare``."""
    from dynamics.checkpoints.matching import match

    if len(tuned) < 2:
        raise InputError("overlap needs a base and at least two tuned checkpoints; for one, see dynamics.sparsity")
    before = open_base(base)
    after: list[Checkpoint] = []
    all_matched: list[Match] = []
    matches: list[dict[str, tuple[Tensor, Tensor]]] = []
    skipped: list[Skip] = []
    notes = repeated([base, *tuned])
    for source in tuned:
        checkpoint = open_checkpoint(source)
        if checkpoint.adapter is not None:
            checkpoint, _ = checkpoint.adapter.apply_to_base(before)
        matched = match(before, checkpoint)
        after.append(checkpoint)
        all_matched.append(matched)
        matches.append({pair.name: (pair.base, pair.tuned) for pair in matched.pairs})
        skipped += [skip for skip in matched.skipped if skip not in skipped]
        notes += [note for note in matched.notes if note not in notes]
    common = [
        name for name, (base_tensor, _) in matches[0].items() if all(name in m and m[name][0].shape == base_tensor.shape for m in matches)
    ]
    for name in sorted({name for names in matches for name in names} - set(common)):
        skipped.append(Skip(name, "tuned", "not in all of the tuned checkpoints, or not with the same shape"))
    if not common:
        raise InputError("the tuned checkpoints have no tensor in common")
    sets = {name: [matches[0][name][0], *(pairs[name][1] for pairs in matches)] for name in common}
    return Aligned(before, after, all_matched, sets, skipped, notes)


def compare(
    base: Source,
    tuned: Sequence[Source],
    *,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    threads: int | None = None,
    progress: Progress | None = None,
    digest: bool = False,
) -> Comparison:
    """Compare the masks of the updates of two or more checkpoints of one base, in one pass over all files.

    Parameters
    ----------
    base, tuned : see ``dynamics.checkpoints.open_checkpoint``; ``tuned`` may hold LoRA adapter folders. They are compared in the order
        given, which decides ``first`` and ``came_back``: sort the checkpoints of one run by training step first
        (``dynamics.io.paths.natural_order``), as the command does with ``--series``.
    rtol, atol : thresholds of the rules of the same names.
    threads : number of threads; one per core if None.
    progress : called with (weights done, total weights).
    digest : whether to compute the digests of all checkpoints' weights from what is read, see ``dynamics.sparsity.compare``.

    Examples
    --------
    >>> import numpy as np
    >>> base = {"w": np.zeros(4, np.float32)}
    >>> a, b = ({"w": np.array(values, np.float32)} for values in ([1, 1, 0, 0], [0, -1, 1, 0]))
    >>> row = compare(base, [a, b]).total[0]
    >>> row.rules["exact"].o1, row.same_sign
    (0.5, 0.0)
    """
    from dynamics.io.threads import cores

    aligned = align(base, tuned)
    sets, digester = list(aligned.sets.values()), None
    opened: list[Checkpoint] = []
    if digest:
        from dynamics.checkpoints.digests import Digester

        opened = [open_checkpoint(source) for source in (base, *tuned)]  # adapters as they are stored
        digester = Digester(opened, itertools.chain.from_iterable(sets))
    counted = count(sets, rtol, atol, threads or cores(), progress, digester)
    comparison = from_counts(aligned, dict(zip(aligned.sets, counted, strict=True)), rtol=rtol, atol=atol)
    if digester is not None:
        digester.finish(threads)
        comparison.digests.extend(map(digester.digest, opened))
    return comparison


def from_counts(aligned: Aligned, counted: Mapping[str, Counts], *, rtol: float = 1e-3, atol: float = 1e-5) -> Comparison:
    """Derive the comparison from the counts of each of ``Aligned.sets``; ``rtol`` and ``atol`` are those that they were counted with."""
    from dynamics.checkpoints import parameter_names
    from dynamics.checkpoints.parameter_names import OUTSIDE, module_order

    tensors = {name: (members, counted[name]) for name, members in aligned.sets.items()}

    def rows(label: Callable[[str], str], order: Callable[[str], Any]) -> list[Row]:
        groups: dict[str, list[str]] = {}
        for name in tensors:
            groups.setdefault(label(name), []).append(name)
        return [row for name in sorted(groups, key=order) for row in _rows(name, [tensors[member] for member in groups[name]])]

    total = Counts.empty(len(aligned.tuned))
    for _, part in tensors.values():
        total += part
    numel = sum(members[0].numel for members in aligned.sets.values())
    shares = {"base": min(_share_of("base", matched, numel) for matched in aligned.matches)}
    shares |= {str(number): _share_of("tuned", matched, numel) for number, matched in enumerate(aligned.matches, 1)}
    return Comparison(
        aligned.base,
        aligned.tuned,
        _rows("total", list(tensors.values())),
        rows(lambda name: parameter_names.layer(name) or OUTSIDE, parameter_names.layer_order),
        rows(parameter_names.kind, module_order),
        [row for name in tensors for row in _rows(name, [tensors[name]])],
        {rule: total.consensus[index].tolist() for index, rule in enumerate(RULES)},
        {rule: total.first_changed[index].tolist() for index, rule in enumerate(RULES)},
        {rule: int(total.came_back[index]) for index, rule in enumerate(RULES)},
        numel,
        shares,
        aligned.skipped,
        aligned.notes,
        rtol,
        atol,
    )


def _share_of(side: str, matched: Match, numel: int) -> float:
    """Compute the coverage of one side of a match, of which ``numel`` parameters are common to all updates."""
    pairs = sum(pair.base.numel for pair in matched.pairs)
    return coverage(side, numel, [*matched.skipped, Skip("not common", side, "", pairs - numel)])


def _rows(name: str, parts: list[tuple[list[Tensor], Counts]]) -> list[Row]:
    """Return a row per pair of updates, over some tensors."""
    updates = len(parts[0][0]) - 1
    rows = []
    numel = sum(tensors[0].numel for tensors, _ in parts)
    for index, (a, b) in enumerate(itertools.combinations(range(updates), 2)):
        rules = {}
        for rule, rule_name in enumerate(RULES):
            tensor_counts = [(t[0].numel, *map(int, c.intersections[index, rule])) for t, c in parts]
            expected = sum(first * second / size for size, first, second, _ in tensor_counts if size)
            in_a, in_b, in_both = (sum(counted[k] for counted in tensor_counts) for k in (1, 2, 3))
            rules[rule_name] = overlap(numel, in_a, in_b, in_both, expected)
        sums = np.sum([counts.sums[index] for _, counts in parts], 0)
        product, energy_a, energy_b, same_sign, product_all, energy_a_all, energy_b_all = sums
        both = rules["exact"].both
        rows.append(
            Row(
                name,
                a,
                b,
                rules,
                float(same_sign / both) if both else math.nan,
                float(product / math.sqrt(energy_a * energy_b)) if energy_a and energy_b else math.nan,
                float(product_all / math.sqrt(energy_a_all * energy_b_all)) if energy_a_all and energy_b_all else math.nan,
            )
        )
    return rows


def count(
    sets: list[list[Tensor]], rtol: float, atol: float, threads: int, progress: Progress | None, digester: Digester | None = None
) -> list[Counts]:
    """Count each set of tensors (base first), chunk by chunk; what is read is added to the digests."""
    from dynamics.io.threads import in_order

    counts_of = [Counts.empty(len(tensors) - 1) for tensors in sets]
    spans = []
    for index, tensors in enumerate(sets):
        length = chunk_length([tensor.dtype for tensor in tensors])
        spans += [(index, tensors, start, min(start + length, tensors[0].numel)) for start in range(0, tensors[0].numel, length)]
    weights, weights_done = sum(tensors[0].numel for tensors in sets) + (0 if digester is None else digester.left), 0
    if progress:
        progress(0, weights)

    def of_span(span: tuple[int, list[Tensor], int, int]) -> tuple[Counts, list[tuple[Tensor, bytes]]]:
        _, (of_base, *others), start, stop = span
        stored = [of_base.stored(start, stop)]
        for tensor in others:
            beside = tensor.beside(of_base, stored[0], start)
            stored.append(tensor.stored(start, stop) if beside is None else beside)
        found = [] if digester is None else digester.leaves([of_base, *others], stored)
        return count_masks(stored, [of_base.dtype, *(tensor.dtype for tensor in others)], rtol, atol), found

    with ThreadPoolExecutor(threads) as pool:
        results = in_order(pool, of_span, spans, ahead=4 * threads)
        for (_, _, start, stop), (index, (chunk_counts, found)) in zip(spans, results, strict=True):
            counts_of[index] += chunk_counts
            for tensor, of_chunk in found:
                assert digester is not None
                digester.add(tensor, stop, of_chunk)
            weights_done += stop - start
            if progress:
                progress(weights_done, weights)
    return counts_of


def chunk_length(dtypes: Sequence[str]) -> int:
    """Return how many weights of tensors with these dtypes are counted at a time. The sums depend on it in their last digits."""
    from dynamics.checkpoints.tensor import STORAGE
    from dynamics.sparsity.accumulate import CHUNK

    return CHUNK // max(STORAGE[dtype].itemsize for dtype in dtypes)


def count_masks(stored: Sequence[Shaped[np.ndarray, " n"]], dtypes: Sequence[str], rtol: float = 1e-3, atol: float = 1e-5) -> Counts:
    """Count some weights of the base and of the tuned checkpoints, base first.

    Parameters
    ----------
    stored : ``(n,)`` each, with at most ``chunk_length`` weights, as stored (see ``checkpoints.tensor.STORAGE``).
    dtypes : of each, by their names in torch.
    rtol, atol : thresholds of the rules of the same names.
    """
    from dynamics.checkpoints.decoding import widen_bfloat16
    from dynamics.checkpoints.tensor import FITS_FLOAT32, decode
    from dynamics.overlap import kernels

    wide = np.float32 if all(dtype in FITS_FLOAT32 for dtype in dtypes) else np.float64
    values = np.empty((len(stored), stored[0].size), wide)
    counts = Counts.empty(len(stored) - 1)
    for dtype, array, row in zip(dtypes, stored, values, strict=True):
        if dtype == "bfloat16" and wide is np.float32:
            widen_bfloat16(array, row)
        else:
            row[:] = decode(array, dtype)
    thresholds = Thresholds(rtol, atol)
    masks = np.stack([changed(stored[0], dtypes[0], array, dtype, thresholds) for dtype, array in zip(dtypes[1:], stored[1:], strict=True)])
    kernels.count_pairs(values, masks, counts.intersections, counts.sums)
    if len(masks) == 2:  # for two updates, ``intersections`` determines the other counts
        a, b, both = counts.intersections[0].T
        neither = stored[0].size - a - b + both
        counts.consensus[:] = np.stack([neither, a + b - 2 * both, both], 1)
        counts.first_changed[:] = np.stack([a, b - both, neither], 1)
        counts.came_back[:] = a - both
    else:
        kernels.count_series(masks, counts.consensus, counts.first_changed, counts.came_back)
    return counts


def table(comparison: Comparison) -> pd.DataFrame:
    """Return a table with a row per level, name, pair and rule."""
    import pandas as pd

    records = []
    for level, rows in (
        ("total", comparison.total),
        ("layer", comparison.layers),
        ("module", comparison.modules),
        ("tensor", comparison.rows),
    ):
        for row in rows:
            for rule, overlaps in row.rules.items():
                of_pair = {"same_sign": row.same_sign, "cosine": row.cosine, "cosine_all": row.cosine_all}
                records.append({"level": level, "name": row.name, "a": row.a, "b": row.b, "rule": rule, **vars(overlaps), **of_pair})
    return pd.DataFrame(records)
