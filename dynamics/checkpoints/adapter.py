"""PEFT LoRA adapters in factored form: the update of a weight is ``scaling * B @ A``.

Norm and rank are computed from the factors by QR and an r x r core, without the dense product. Counts need the dense weights, which are
computed in float64 for a chunk of rows at a time to limit memory. A DoRA adapter also rescales the updated weight, so that each of its
outputs (rows of a linear layer, columns of an embedding or a transposed layer) gets the norm that the adapter stores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from dynamics.checkpoints import parameter_names
from dynamics.checkpoints.adapter_settings import check_settings, scaling, token_rows
from dynamics.checkpoints.module_patterns import Steps
from dynamics.checkpoints.safetensors import read_safetensors
from dynamics.checkpoints.tensor import Checkpoint, Derived, Ignored, Tensor, decode
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location
from dynamics.io.side_files import read_json

#: names of what PEFT stores of a module, with the name of the adapter where it is left in, as in the state dict of a whole model
FACTOR = re.compile(r"^(.*)\.lora_(embedding_)?([AB])(?:\.([\w-]+?))??(?:\.weight)?$")
MAGNITUDE = re.compile(r"^(.*)\.lora_magnitude_vector(?:\.([\w-]+?))??(?:\.weight)?$")
TOKENS = re.compile(r"^(.*)\.token_adapter\.trainable_tokens_delta(?:\.([\w-]+))?$")
SAVED = re.compile(r"^(.*)\.modules_to_save(?:\.([\w-]+?))??\.(weight|bias)$")
PREFIX = re.compile(r"^(base_model\.model\.)+")
#: factors beyond this would overflow in a product of norms
LARGEST_FACTOR = 1e100
#: elements of a weight that are held as float64 while the norms of a DoRA adapter are computed
CHUNK = 1 << 19
#: multiplications up to which OpenBLAS uses one thread
SMALL_PRODUCT = 1 << 18


@dataclass(frozen=True)
class LowRank:
    """An update of one weight, ``left @ right``: (rows, r) and (r, columns), float64; ``left`` includes the scaling."""

    left: Float[np.ndarray, "rows r"]
    right: Float[np.ndarray, "r columns"]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the update."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def transposed(self) -> LowRank:
        """The transposed update."""
        return LowRank(self.right.T, self.left.T)

    def singular_values(self) -> Float[np.ndarray, " smaller_side"]:
        """Compute the r largest singular values, ``(r,)``, from the r x r core of two QR factorisations."""
        core = _triangle(self.left) @ _triangle(self.right.T).T
        values: Float[np.ndarray, " r"] = np.linalg.svd(core, compute_uv=False)
        return values

    def norm(self) -> float:
        """Compute the L2 (Frobenius) norm."""
        return float(np.linalg.norm(self.singular_values()))

    def rank(self) -> int:
        """Compute the numerical rank: the number of singular values above max(rows, columns) * eps(float64) * the largest."""
        return self.rank_of(self.singular_values())

    def rank_of(self, values: Float[np.ndarray, " smaller_side"]) -> int:
        """Return the numerical rank, given the singular values."""
        return int(np.count_nonzero(values > max(self.shape) * np.finfo(float).eps * values.max(initial=0.0)))


@dataclass(frozen=True)
class Adapter:
    """A LoRA or DoRA adapter, and weights that it replaces.

    Attributes
    ----------
    path : folder of the adapter.
    updates : weight -> update, (outputs, inputs), as PEFT stores it; of an embedding, (width, vocabulary).
    scalings : weight -> scaling, which its update includes.
    embeddings : those of the weights that are embeddings.
    replaced : weights that are stored whole (``modules_to_save``, biases).
    magnitudes : weight -> norm of each output, of a DoRA adapter.
    tokens : embedding -> rows of it that are stored whole, and their values.
    flagged : whether the adapter says that its layers are stored transposed (``fan_in_fan_out``). PEFT saves what held for the last layer.
    ignored : what else lies in the folder.
    base_name : the model that the adapter says it was trained on; empty if it does not say.
    dtypes : number of elements by dtype as stored.
    """

    path: str
    updates: Mapping[str, LowRank]
    scalings: Mapping[str, float]
    embeddings: frozenset[str]
    replaced: Mapping[str, Tensor]
    magnitudes: Mapping[str, Float[np.ndarray, " outputs"]] = field(default_factory=dict)
    tokens: Mapping[str, tuple[Int[np.ndarray, " rows"], Tensor]] = field(default_factory=dict)
    flagged: bool = False
    ignored: tuple[Ignored, ...] = ()
    base_name: str = ""
    dtypes: Mapping[str, int] = field(default_factory=dict)

    def apply_to_base(self, base: Checkpoint) -> tuple[Checkpoint, list[dict[str, Any]]]:
        """Apply the adapter to its base lazily; also return a record per update: name, rank, numerical_rank, scaling, update_norm.

        Weights without an update are shared with the base, and are not compared. A record of DoRA also has ``dora: True``; its ranks are
        those of the factors, its norm is that of the whole update.
        """
        tensors = self._replace(base)
        records = []
        for target, name, tensor, update, by_row in self._placed(base, tensors):
            norm, singular = None, update.singular_values()
            if target in self.magnitudes:
                tensors[name], norm = with_dora_update(name, tensor, update, self.magnitudes[target], by_row)
            else:
                tensors[name] = with_lora_update(name, tensor, update)
            record = {
                "name": name,
                "rank": update.left.shape[1],
                "numerical_rank": update.rank_of(singular),
                "scaling": self.scalings[target],
                "update_norm": float(np.linalg.norm(singular)) if norm is None else norm,
            }
            records.append(record if norm is None else record | {"dora": True})
        for target, (rows, trained) in self.tokens.items():
            name, tensor = self._target(target, base, _stored_names(base), tensors)
            tensors[name] = self._with_rows(name, tensor, rows, trained)
        applied = replace(base, path=self.path, format="peft-lora", tensors=tensors, ignored=self.ignored, base_name=self.base_name)
        applied = replace(applied, stored=None)
        return applied, records

    def factors(self, base: Checkpoint) -> dict[str, LowRank]:
        """Return the updates that are low-rank products, by the name of the weight in the base, with the shape of the weight."""
        placed = self._placed(base, self._replace(base))
        return {name: update for target, name, tensor, update, _ in placed if target not in self.magnitudes and len(tensor.shape) == 2}

    def _replace(self, base: Checkpoint) -> dict[str, Tensor]:
        stored, tensors = _stored_names(base), dict(base.tensors)
        for target, tensor in self.replaced.items():
            name = _find(target, stored) or target
            tensors[name] = tensor.named(name)
        return tensors

    def _placed(self, base: Checkpoint, tensors: dict[str, Tensor]) -> Iterator[tuple[str, str, Tensor, LowRank, bool]]:
        """Yield target, name and tensor in the base, update in the orientation of the tensor, and whether outputs are its rows."""
        stored = _stored_names(base)
        widening = parameter_names.widening_layers({name: tensor.shape for name, tensor in base.tensors.items()})
        for target, natural in self.updates.items():
            name, tensor = self._target(target, base, stored, tensors)
            shape = (tensor.shape[0], tensor.numel // tensor.shape[0]) if tensor.numel else tensor.shape
            by_row = not self._is_transposed(target, natural, shape, widening)
            update = natural if by_row else natural.transposed
            if update.shape != shape:
                raise InputError(
                    f"{printable(self.path)}: update of {printable(target)} is {natural.shape}, the base weight is {tensor.shape}"
                )
            if target in self.magnitudes and len(self.magnitudes[target]) != natural.shape[0]:
                raise InputError(f"{printable(self.path)}: the magnitudes of {printable(target)} are not one for each of its outputs")
            yield target, name, tensor, update, by_row

    def _is_transposed(self, target: str, update: LowRank, shape: tuple[int, ...], widening: Mapping[str, tuple[int, ...]]) -> bool:
        """Tell whether a weight is stored as (inputs, outputs): embeddings, and the Conv1D layers of GPT-2.

        The shape says so, or for a square weight the other layers of its model; PEFT's own setting is that of the last layer only.
        """
        if target in self.embeddings:
            return True
        if update.shape[0] != update.shape[1]:
            return update.shape != shape and update.transposed.shape == shape
        by_layout = parameter_names.is_transposed(target, widening)
        return self.flagged if by_layout is None else by_layout

    def _target(self, target: str, base: Checkpoint, stored: dict[str, str], tensors: dict[str, Tensor]) -> tuple[str, Tensor]:
        name = _find(target, stored)
        if name is not None:
            return name, tensors[name]
        if target in self.replaced:
            return target, tensors[target]
        if parameter_names.kind(target) == "head" and base.ties_head:
            embedding = parameter_names.token_embedding(base.tensors)
            if embedding is not None:
                return target, base.tensors[embedding]
        raise InputError(
            f"{printable(self.path)}: targets {printable(target)}, which {printable(base.path)} does not have; is this its base model?"
        )

    def _with_rows(self, name: str, base: Tensor, rows: Int[np.ndarray, " rows"], values: Tensor) -> Tensor:
        """Make the tensor of an embedding of which some rows are replaced."""
        if len(base.shape) != 2 or values.shape != (len(rows), base.shape[1]) or (len(rows) and rows.max() >= base.shape[0]):
            raise InputError(f"{printable(self.path)}: trained rows {values.shape} do not fit into {printable(name)} {base.shape}")
        columns, new = base.shape[1], values.values().astype(float).reshape(values.shape)

        def elements(start: int, stored: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
            out, stop = np.array(decode(stored, base.dtype), np.float64), start + stored.size
            for row, value in zip(rows.tolist(), new, strict=True):
                first, last = max(start, row * columns), min(stop, (row + 1) * columns)
                if first < last:
                    out[first - start : last - start] = value[first - row * columns : last - row * columns]
            return out

        return _derived(name, base, elements)


def _stored_names(base: Checkpoint) -> dict[str, str]:
    return {short: name for name, short in parameter_names.canonical(base.tensors).items()}


def _triangle(matrix: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "k n"]:
    return np.asarray(np.linalg.qr(matrix, mode="r"))


def _product(left: Float[np.ndarray, "rows r"], right: Float[np.ndarray, "r columns"]) -> Float[np.ndarray, "rows columns"]:
    """Multiply in pieces that OpenBLAS computes on the calling thread, one of several; on larger ones, their own threads get in the way."""
    (rows, rank), columns = left.shape, right.shape[1]
    out = np.empty((rows, columns))
    high = max(8, SMALL_PRODUCT // (rank * columns))
    wide = max(1, SMALL_PRODUCT // (rank * high))
    for row in range(0, rows, high):
        for column in range(0, columns, wide):
            part = (slice(row, row + high), slice(column, column + wide))
            np.matmul(left[part[0]], right[:, part[1]], out=out[part])
    return out


def _find(target: str, stored: Mapping[str, str]) -> str | None:
    """Find the stored name of an adapter's target: unchanged, or with or without a prefix that separates a model from its inner model."""
    if target in stored:
        return stored[target]
    for stem in parameter_names.STEMS:
        for candidate in (stem + target, target.removeprefix(stem)):
            if candidate in stored:
                return stored[candidate]
    return None


def with_lora_update(name: str, base: Tensor, update: LowRank) -> Tensor:
    """Make the tensor ``base + update``, which is computed in float64 for some rows at a time."""
    return _rows_of(name, base, update)


def with_dora_update(
    name: str, base: Tensor, update: LowRank, magnitudes: Float[np.ndarray, " outputs"], by_row: bool
) -> tuple[Tensor, float]:
    """Make the tensor ``base + update`` whose outputs are scaled to the norms ``magnitudes``, and compute the norm of its whole change.

    Parameters
    ----------
    name : of the tensor.
    base : the weight.
    update : in the orientation of the weight.
    magnitudes : norm of each output.
    by_row : whether the outputs are the rows of the weight; otherwise they are its columns.
    """
    count, columns = update.shape
    squares, mixed, changes = np.zeros((3, count if by_row else columns))
    for first in range(0, count, step := max(1, CHUNK // columns)):
        last = min(first + step, count)
        change = update.left[first:last] @ update.right
        values = base.values(first * columns, last * columns).reshape(change.shape) + change
        for sums, product in ((squares, values**2), (mixed, values * change), (changes, change**2)):
            if by_row:
                sums[first:last] = product.sum(1)
            else:
                sums += product.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):  # an output of zeros has no direction, in PEFT too
        factor = magnitudes / np.sqrt(squares)
    # the change is (factor - 1) * (base + update) + update; summed in this form, small changes do not cancel
    norm = float(np.sqrt(((factor - 1) ** 2 * squares + 2 * (factor - 1) * mixed + changes).sum()))

    def scaled(first: int, last: int, values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        return values * (factor[first:last, None] if by_row else factor)

    return _rows_of(name, base, update, scaled), norm


def _rows_of(name: str, base: Tensor, update: LowRank, scaled: Callable[[int, int, np.ndarray], np.ndarray] | None = None) -> Tensor:
    """Make the tensor ``base + update``, or with rows ``first:last`` that are ``scaled(first, last, base + update)``."""
    from dynamics.checkpoints.decoding import add_bfloat16

    columns = update.shape[1]

    def elements(start: int, stored: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        first, last = start // columns, -(-(start + stored.size) // columns)
        values = _product(update.left[first:last], update.right)
        flat = values.reshape(-1)
        inside = slice(start - first * columns, start + stored.size - first * columns)
        if base.dtype == "bfloat16":
            add_bfloat16(np.require(stored, requirements=["C", "A", "W"]), flat[inside])
        else:
            flat[inside] += decode(stored, base.dtype)
        return flat[inside] if scaled is None else scaled(first, last, values).reshape(-1)[inside]

    return _derived(name, base, elements)


def _derived(name: str, base: Tensor, elements: Callable[[int, np.ndarray], np.ndarray]) -> Tensor:
    """Make the float64 tensor whose elements follow from those of the base."""
    return Tensor(
        name, base.shape, "float64", lambda start, stop, _out: elements(start, base.stored(start, stop)), derived=Derived(base, elements)
    )


def read_adapter(folder: Location, beside: tuple[Ignored, ...] = ()) -> Checkpoint:
    """Read a PEFT LoRA folder as a checkpoint without tensors, which has only an ``Adapter`` to apply to a base.

    Parameters
    ----------
    folder : folder of the adapter.
    beside : what else lies in the folder.
    """
    config = read_json(folder / "adapter_config.json", unique=True)
    check_settings(printable(folder), config)
    weights = _weights(folder)
    adapter, rest = _collect(str(folder), weights.tensors, config)
    replaced = {**adapter.replaced, **{_full_weight(name): tensor for name, tensor in rest.items()}}
    base_name = config.get("base_model_name_or_path")
    adapter = replace(
        adapter,
        replaced=replaced,
        ignored=(*weights.ignored, *beside),
        base_name=base_name if isinstance(base_name, str) else "",
        dtypes=weights.dtypes,
    )
    if not adapter.updates and not replaced and not adapter.tokens:
        raise InputError(f"{printable(folder)}: the adapter holds no factors")
    return Checkpoint(str(folder), "peft-lora", {}, config, adapter.ignored, adapter, stored=weights)


def own_name(name: str) -> str:
    """Return the name of a weight of the base in the state dict of PEFT's model, without what PEFT calls the module that it wraps.

    >>> own_name("model.embed_tokens.token_adapter.base_layer.weight")
    'model.embed_tokens.weight'
    """
    return re.sub(r"\.(original_module|token_adapter\.base_layer)(?=\.)", "", name)


def merge_own_factors(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    """Apply the factors of an adapter to the weights that lie in the same state dict, which has the names of PEFT's model.

    Parameters
    ----------
    checkpoint : its tensors are the weights of the base, the factors, and the modules that the adapter trains whole.
    config : the settings of the adapter, as in ``adapter_config.json``, which give the scaling.
    """
    where = printable(checkpoint.path)
    check_settings(where, config, own_base=True)
    adapter, rest = _collect(checkpoint.path, checkpoint.tensors, config)
    weights = {own_name(name): tensor for name, tensor in rest.items()}
    if len(weights) < len(rest):
        raise InputError(f"{where}: holds a module twice, as original_module and as itself; merge the adapter first")
    merged, _ = adapter.apply_to_base(replace(checkpoint, tensors=weights))
    trained = [name for name in checkpoint.tensors if name not in rest]
    reason = "an adapter: the weights were merged with it, in float64"
    merged_parts = [Ignored(f"{trained[0]} and {len(trained) - 1} more", reason)] if trained else []
    return replace(merged, format=checkpoint.format, ignored=(*checkpoint.ignored, *merged_parts))


@dataclass
class _Parts:
    """The entries of a state dict by what PEFT uses them for; ``rest`` by stored names, the others by names without prefix."""

    factors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    embeddings: set[str] = field(default_factory=set)
    magnitudes: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)
    replaced: dict[str, Tensor] = field(default_factory=dict)
    rest: dict[str, Tensor] = field(default_factory=dict)
    adapters: set[str] = field(default_factory=set)

    def add(self, stored: str, tensor: Tensor) -> bool:
        """Add an entry; return False if it belongs to another kind of adapter."""
        name = PREFIX.sub("", stored)
        if matched := FACTOR.match(name):
            self.factors.setdefault(matched[1], {})[matched[3]] = tensor
            self.adapters.add(matched[4] or "")
            if matched[2]:
                self.embeddings.add(f"{matched[1]}.weight")
        elif matched := MAGNITUDE.match(name):
            self.magnitudes[f"{matched[1]}.weight"] = tensor
        elif matched := TOKENS.match(name):
            self.tokens[matched[1]] = tensor
        elif matched := SAVED.match(name):
            self.replaced[f"{matched[1]}.{matched[3]}"] = tensor
        elif parameter_names.ADAPTED.search(own_name(name)):
            return False
        else:
            self.rest[stored] = tensor
        return True


def _collect(path: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[Adapter, dict[str, Tensor]]:
    """Separate what an adapter trains from the other tensors, which are returned by their stored names."""
    where, parts = printable(path), _Parts()
    for name, tensor in tensors.items():
        if not parts.add(name, tensor):
            raise InputError(f"{where}: {printable(name)} is no plain LoRA factor; merge the adapter and compare the result")
    if len(parts.adapters) > 1:
        raise InputError(f"{where}: holds several adapters ({', '.join(sorted(parts.adapters))}); save one of them alone")
    updates, scalings, steps = {}, {}, Steps()
    for module, pair in parts.factors.items():
        if pair.keys() != {"A", "B"}:
            raise InputError(f"{where}: {printable(module)} has lora_{next(iter(pair))} but not its partner")
        updates[f"{module}.weight"], scalings[f"{module}.weight"] = _update(where, module, pair, config, steps)
    lost = parts.magnitudes.keys() ^ updates.keys() if config.get("use_dora") else parts.magnitudes.keys()
    if lost:
        raise InputError(f"{where}: {printable(min(lost))} has only one of DoRA's magnitudes and factors; save the adapter again")
    magnitudes = {name: tensor.values().astype(float) for name, tensor in parts.magnitudes.items()}
    tokens = {
        f"{module}.weight": (np.array(token_rows(where, module, config), np.int64), tensor) for module, tensor in parts.tokens.items()
    }
    flagged = bool(config.get("fan_in_fan_out"))
    adapter = Adapter(path, updates, scalings, frozenset(parts.embeddings), parts.replaced, magnitudes, tokens, flagged)
    return adapter, parts.rest


def _weights(folder: Location) -> Checkpoint:
    if (folder / "adapter_model.safetensors").exists():
        return read_safetensors(folder / "adapter_model.safetensors")
    if (folder / "adapter_model.bin").exists():
        from dynamics.checkpoints.pickled import read_pickled

        return read_pickled(folder / "adapter_model.bin")
    raise InputError(f"{printable(folder)}: has adapter_config.json but neither adapter_model.safetensors nor adapter_model.bin")


def _full_weight(name: str) -> str:
    """Return the name in the base of a weight that the adapter stores whole."""
    return PREFIX.sub("", name).replace(".base_layer.", ".")


def _update(where: str, module: str, pair: Mapping[str, Tensor], config: Mapping[str, Any], steps: Steps) -> tuple[LowRank, float]:
    """Return the update of a module, (outputs, inputs), and its scaling; the kernel of a convolution counts as inputs."""
    if module.endswith(".base_layer") or ".base_layer." in module:
        raise InputError(f"{where}: {printable(module)} has an adapter of an adapter; merge the inner one into the base first")
    a, b = pair["A"], pair["B"]
    if min(len(a.shape), len(b.shape)) < 2 or a.shape[0] != b.shape[1] or b.numel != b.shape[0] * b.shape[1]:
        raise InputError(f"{where}: {printable(module)}: lora_A {a.shape} and lora_B {b.shape} do not multiply")
    if not a.numel or not b.numel:
        raise InputError(f"{where}: {printable(module)}: lora_A {a.shape} and lora_B {b.shape} are empty; save the adapter again")
    scale = scaling(where, module, a.shape[0], config, steps)
    down, up = a.values().astype(float).reshape(a.shape[0], -1), b.values().astype(float).reshape(b.shape[:2])
    if not max(np.abs(down).max(), np.abs(up).max()) < LARGEST_FACTOR:  # also if one is NaN
        raise InputError(f"{where}: the factors of {printable(module)} hold NaN or infinity; the training has diverged")
    return LowRank(scale * up, down), scale
