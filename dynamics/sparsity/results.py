"""Result types of ``dynamics.sparsity``: rows, comparisons, and the steps of a series."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dynamics.checkpoints import Checkpoint, Skip, parameter_names
from dynamics.checkpoints.coverage import coverage, warning
from dynamics.checkpoints.parameter_names import OUTSIDE
from dynamics.checkpoints.quantised import notes as quantised
from dynamics.descriptions import plural, small_table
from dynamics.errors import printable
from dynamics.presentation.text import percent
from dynamics.sparsity.definitions import RULES, rule_texts

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "dynamics.sparsity/1"
#: bins of the distance histogram, in bf16 steps
STEPS = ("0", "1", "2", *(f"{2**power + 1}-{2 ** (power + 1)}" for power in range(1, 16)))


@dataclass(frozen=True)
class Row:
    """The change of a set of weights: a tensor, a layer, a kind of module, or the whole model.

    Attributes
    ----------
    name : of the tensor, layer or kind of module.
    numel : number of weights compared.
    changed, sparsity : by rule, the number of changed weights, and 1 - changed / numel.
    ulp : histogram of the distance in bf16 steps, both sides rounded to bf16; ``nonfinite`` pairs are excluded.
    base_norm, update_norm : L2 norm of base, and of tuned - base; summed in float64.
    relative_update : update_norm / base_norm.
    cosine, cosine_distance : between base and tuned; the distance is 1 - cosine, computed without cancellation.
    max_abs_update : largest |tuned - base|.
    nonfinite : number of pairs with NaN or infinity on either side.
    shape, dtype_base, dtype_tuned : of a tensor; None for a set of tensors.

    Notes
    -----
    If the dtypes differ, ``exact`` measures rounding: storing an fp32 checkpoint in bf16 changes nearly every value. ``bf16`` misses
    updates smaller than about half a bf16 step, |w| / 256. ``atol`` misses a one-step change of a bf16 weight below 0.00195.
    """

    name: str
    numel: int
    changed: dict[str, int]
    sparsity: dict[str, float]
    ulp: dict[str, int]
    base_norm: float
    update_norm: float
    relative_update: float
    cosine: float
    cosine_distance: float
    max_abs_update: float
    nonfinite: int
    shape: tuple[int, ...] | None = None
    dtype_base: str | None = None
    dtype_tuned: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not None, as plain values."""
        entries = {key: value for key, value in vars(self).items() if value is not None}
        if self.shape is not None:
            entries["shape"] = list(self.shape)
        return entries


@dataclass(frozen=True, repr=False)
class Comparison:
    """The comparison of two checkpoints. ``rows`` has a row per tensor; ``total``, ``layers`` and ``modules`` are sums over them.

    ``digests`` has the digest of the weights of ``base`` and of ``tuned`` if they were asked for, see ``dynamics.checkpoints.digest``.
    """

    base: Checkpoint
    tuned: Checkpoint
    total: Row
    layers: list[Row]
    modules: list[Row]
    rows: list[Row]
    skipped: list[Skip]
    notes: list[str]
    rtol: float
    atol: float
    like: dict[str, Any] | None = None
    adapters: list[dict[str, Any]] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def tensors(self) -> pd.DataFrame:
        """One row per tensor: name, layer, module, shape, dtypes, numel, changed_*, sparsity_*, ulp_*, norms."""
        import pandas as pd

        return pd.DataFrame([flat_record("tensor", row) for row in self.rows])

    @property
    def grid(self) -> pd.DataFrame:
        """One row per layer and module, weighted by numel: numel, changed_* and sparsity_*. The data of the heat map."""
        return layer_module_grid(self.tensors)

    @property
    def coverage(self) -> dict[str, float]:
        """Share of the parameters of ``base`` and of ``tuned`` that were compared."""
        return {side: coverage(side, self.total.numel, self.skipped) for side in ("base", "tuned")}

    @property
    def incomplete(self) -> str:
        """Which side has parameters that were left out of the comparison, if more than 0.1 %; else an empty text."""
        return warning(self.coverage)

    @property
    def headline(self) -> str:
        """What to know before any number: that the sides share little, or that they are identical; else an empty text."""
        lines = [self.incomplete, quantised.headline(self.base, self.tuned)]
        if self.total.numel and not self.total.changed["exact"]:
            lines.append(f"identical: {plural(self.total.numel, 'weight')} compared, none differs")
        return "; ".join(filter(None, lines))

    def __repr__(self) -> str:
        """Say in two lines what was compared, and how sparse the update is."""
        sizes = f"{plural(self.total.numel, 'weight')} in {plural(len(self.rows), 'tensor')}"
        shares = ", ".join(f"{rule} {percent(self.total.sparsity[rule])}" for rule in RULES)
        paths = f"{printable(self.base.path, 80)} -> {printable(self.tuned.path, 80)}"
        return f"<sparsity.Comparison {paths}: {self.headline or sizes}\n sparsity {shares}>"

    def _repr_html_(self) -> str:
        """Show the rules as a small table in a notebook."""
        rules = rule_texts(self.rtol, self.atol)
        rows = [[rule, text, f"{self.total.changed[rule]:,}", percent(self.total.sparsity[rule])] for rule, text in rules.items()]
        return small_table(repr(self).splitlines()[0].strip("<>"), ["rule", "changed if", "changed", "sparsity"], rows)

    def _digest(self, side: str) -> dict[str, str]:
        return {"digest": self.digests[side]} if side in self.digests else {}

    def to_dict(self) -> dict[str, Any]:
        """Build the JSON document of schema ``dynamics.sparsity/1``; undefined numbers are NaN."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "coverage": self.coverage,
            "base": _side(self.base) | self._digest("base"),
            "tuned": _side(self.tuned) | self._digest("tuned"),
            "rules": rule_texts(self.rtol, self.atol),
            "notes": self.notes,
        }
        if self.like:
            document["like"] = self.like
        document["total"] = self.total.to_dict()
        for part in ("layers", "modules"):
            document[part] = [row.to_dict() for row in getattr(self, part)]
        document["tensors"] = [row.to_dict() for row in self.rows]
        if self.adapters:
            document["adapters"] = self.adapters
        document["skipped"] = [asdict(skip) for skip in self.skipped]
        return document


@dataclass(frozen=True)
class Step:
    """One comparison of a series. ``against``: ``first`` or ``previous``."""

    against: str
    start: str
    end: str
    comparison: Comparison


def _side(checkpoint: Checkpoint) -> dict[str, Any]:
    side: dict[str, Any] = {"path": checkpoint.path, "format": checkpoint.format, "dtypes": checkpoint.dtypes}
    return side | {"dequantised": checkpoint.dequantised} if checkpoint.dequantised else side


def layer_module_grid(tensors: pd.DataFrame) -> pd.DataFrame:
    """Add up a table with a row per tensor, as ``Comparison.tensors``, to a row per layer and module; see ``Comparison.grid``."""
    counts = ["numel", *(f"changed_{rule}" for rule in RULES)]
    cells = tensors.groupby(["layer", "module"], sort=False, as_index=False)[counts].sum()
    for rule in RULES:
        cells[f"sparsity_{rule}"] = 1 - cells[f"changed_{rule}"] / cells["numel"]
    return cells


def flat_record(level: str, row: Row) -> dict[str, Any]:
    """Flatten a row to a record; ``level`` is total, layer, module, tensor or step."""
    record: dict[str, Any] = {"level": level, "name": row.name}
    if level == "tensor":
        record["layer"] = parameter_names.layer(row.name) or OUTSIDE
        record["module"] = parameter_names.kind(row.name)
        record["shape"] = "x".join(map(str, row.shape or ()))
        record["dtype_base"], record["dtype_tuned"] = row.dtype_base, row.dtype_tuned
    record["numel"] = row.numel
    record |= {f"changed_{rule}": count for rule, count in row.changed.items()}
    record |= {f"sparsity_{rule}": value for rule, value in row.sparsity.items()}
    for key in ("base_norm", "update_norm", "relative_update", "cosine", "cosine_distance", "max_abs_update", "nonfinite"):
        record[key] = getattr(row, key)
    record |= {f"ulp_{step}": count for step, count in row.ulp.items()}
    return record
