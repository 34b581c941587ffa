"""PEFT LoRA adapters in factored form: the update of a weight is ``scaling * B @ A``.

Norm and rank are computed from the factors by QR and an r x r core, without the dense product. Counts need the dense weights, which are
computed in float64 for a chunk of rows at a time to limit memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from dynamics.checkpoints import parameter_names
from dynamics.checkpoints.files import read_json
from dynamics.checkpoints.safetensors import read_safetensors
from dynamics.checkpoints.tensor import Checkpoint, Tensor
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location

FACTOR = re.compile(r"^(.*)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?$")
PREFIX = re.compile(r"^(base_model\.model\.)+")

#: unsupported settings, which change the meaning of the factors -> message that says what to do instead
UNSUPPORTED = {
    "use_dora": "is a DoRA adapter, whose magnitudes rescale the whole weight; merge it (merge_and_unload) and compare the result",
    "use_qalora": "is a QA-LoRA adapter; merge it and compare the result",
    "use_bdlora": "has block-diagonal factors; merge it and compare the result",
    "lora_bias": "has biases in its factors (lora_bias); merge it and compare the result",
    "layer_replication": "replicates layers; merge it and compare the result",
    "target_parameters": "targets parameters rather than modules; merge it and compare the result",
    "trainable_token_indices": "trains single token rows (trainable_token_indices); merge it and compare the result",
    "kasa_config": "is a KaSA adapter, which changes the base weights too; merge it and compare the result",
    "velora_config": "is a VeLoRA adapter; merge it and compare the result",
    "monteclora_config": "is a MonteCLoRA adapter; merge it and compare the result",
    "arrow_config": "routes between several adapters (Arrow); merge them and compare the result",
    "alora_invocation_tokens": "is an activated LoRA, which applies to some tokens only; it has no one set of weights to compare",
}
#: initialisations that subtract the factors from the base weights, so that the adapter is only valid with the changed base
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class LowRank:
    """An update of one weight, ``left @ right``: (rows, r) and (r, columns), float64; ``left`` includes the scaling."""

    left: Float[np.ndarray, "rows r"]
    right: Float[np.ndarray, "r columns"]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the update."""
        return self.left.shape[0], self.right.shape[1]

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
        values = self.singular_values()
        return int(np.count_nonzero(values > max(self.shape) * np.finfo(float).eps * values.max(initial=0.0)))


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: low-rank updates, and weights that it replaces (``modules_to_save``, biases)."""

    path: str
    updates: Mapping[str, LowRank]
    scalings: Mapping[str, float]
    replaced: Mapping[str, Tensor]

    def apply_to_base(self, base: Checkpoint) -> tuple[Checkpoint, list[dict[str, Any]]]:
        """Apply the adapter to its base lazily; also return a record per update: name, rank, numerical_rank, scaling, update_norm.

        Weights without an update are shared with the base, and are not compared.
        """
        stored = {short: name for name, short in parameter_names.canonical(base.tensors).items()}
        tensors = dict(base.tensors)
        for target, tensor in self.replaced.items():
            name = _find(target, stored) or target
            tensors[name] = tensor.named(name)
        records = []
        for target, update in self.updates.items():
            name, tensor = self._target(target, base, stored, tensors)
            if update.shape != tensor.shape:
                raise InputError(
                    f"{printable(self.path)}: update of {printable(target)} is {update.shape}, the base weight is {tensor.shape}"
                )
            tensors[name] = with_lora_update(name, tensor, update)
            records.append(
                {
                    "name": name,
                    "rank": update.left.shape[1],
                    "numerical_rank": update.rank(),
                    "scaling": self.scalings[target],
                    "update_norm": update.norm(),
                }
            )
        return replace(base, path=self.path, format="peft-lora", tensors=tensors, ignored=()), records

    def _target(self, target: str, base: Checkpoint, stored: dict[str, str], tensors: dict[str, Tensor]) -> tuple[str, Tensor]:
        name = _find(target, stored)
        if name is not None:
            return name, tensors[name]
        if parameter_names.kind(target) == "head" and (base.config or {}).get("tie_word_embeddings") is True:
            embedding = next((tensor for tensor in base.tensors.values() if parameter_names.kind(tensor.name) == "embedding"), None)
            if embedding is not None:
                return target, embedding
        raise InputError(
            f"{printable(self.path)}: targets {printable(target)}, which {printable(base.path)} does not have; is this its base model?"
        )


def _triangle(matrix: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "k n"]:
    return np.linalg.qr(matrix, mode="reduced")[1]


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
    columns = update.shape[1]

    def read(start: int, stop: int, out: Shaped[np.ndarray, " room"]) -> Float[np.ndarray, " n"]:
        first, last = start // columns, -(-stop // columns)
        dense = (update.left[first:last] @ update.right).reshape(-1)
        out = out[: stop - start]
        np.add(base.values(start, stop), dense[start - first * columns : stop - first * columns], out=out)
        return out

    return Tensor(name, base.shape, "float64", read)


def read_adapter(folder: Location) -> Checkpoint:
    """Read a PEFT LoRA folder as a checkpoint without tensors, which has only an ``Adapter`` to apply to a base."""
    where = printable(folder)
    config = read_json(folder / "adapter_config.json")
    _check(where, config)
    weights = _weights(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    embeddings: set[str] = set()
    replaced: dict[str, Tensor] = {}
    for stored, tensor in weights.tensors.items():
        name = PREFIX.sub("", stored)
        factor = FACTOR.match(name)
        if factor:
            factors.setdefault(factor.group(1), {})[factor.group(3)] = tensor
            if factor.group(2):
                embeddings.add(factor.group(1))
        elif ".lora_" in name or "token_adapter" in name:
            raise InputError(f"{where}: {printable(stored)} is no plain LoRA factor; merge the adapter and compare the result")
        else:
            replaced[_full_weight(name)] = tensor
    if not factors and not replaced:
        raise InputError(f"{where}: the adapter holds no factors")
    updates, scalings = {}, {}
    for module, pair in factors.items():
        if pair.keys() != {"A", "B"}:
            raise InputError(f"{where}: {printable(module)} has lora_{next(iter(pair))} but not its partner")
        update, scaling = _update(where, module, pair, config, module in embeddings)
        updates[f"{module}.weight"], scalings[f"{module}.weight"] = update, scaling
    return Checkpoint(str(folder), "peft-lora", {}, config, weights.ignored, Adapter(str(folder), updates, scalings, replaced))


def _weights(folder: Location) -> Checkpoint:
    if (folder / "adapter_model.safetensors").exists():
        return read_safetensors(folder / "adapter_model.safetensors")
    if (folder / "adapter_model.bin").exists():
        from dynamics.checkpoints.pickled import read_pickled

        return read_pickled(folder / "adapter_model.bin")
    raise InputError(f"{printable(folder)}: has adapter_config.json but neither adapter_model.safetensors nor adapter_model.bin")


def _check(where: str, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise InputError(
            f"{where}: is a {printable(config.get('peft_type'), 40)} adapter; only LoRA is read factored, merge it and compare the result"
        )
    for setting, text in UNSUPPORTED.items():
        if config.get(setting):
            raise InputError(f"{where}: {text}")
    initialised = str(config.get("init_lora_weights")).lower()
    if initialised.startswith(CHANGES_BASE):
        raise InputError(
            f"{where}: was initialised with {printable(initialised, 20)}, which moves part of the base into the adapter; convert it "
            "(path_initial_model_for_weight_conversion) or merge it first"
        )


def _full_weight(name: str) -> str:
    """Return the name in the base of a weight that the adapter stores whole."""
    return re.sub(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)", "", name)


def _update(where: str, module: str, pair: Mapping[str, Tensor], config: Mapping[str, Any], embedding: bool) -> tuple[LowRank, float]:
    a, b = pair["A"], pair["B"]
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise InputError(f"{where}: {printable(module)} is a LoRA on a convolution; merge it and compare the result")
    if a.shape[0] != b.shape[1]:
        raise InputError(f"{where}: {printable(module)}: lora_A {a.shape} and lora_B {b.shape} do not multiply")
    scaling = _scaling(where, module, a.shape[0], config)
    down, up = a.values().astype(float).reshape(a.shape), b.values().astype(float).reshape(b.shape)
    if embedding or config.get("fan_in_fan_out"):  # the weight is stored (in, out): the update is (B A)^T
        return LowRank(scaling * down.T, up.T), scaling
    return LowRank(scaling * up, down), scaling


def _scaling(where: str, module: str, rank: int, config: Mapping[str, Any]) -> float:
    """Compute lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA, with the module's rank and alpha from the patterns if they match."""
    expected, alpha = (
        _patterned(module, config.get("rank_pattern"), config.get("r")),
        _patterned(module, config.get("alpha_pattern"), config.get("lora_alpha")),
    )
    if expected != rank:
        raise InputError(f"{where}: {printable(module)} has rank {rank}, adapter_config.json says {printable(expected)}")
    if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise InputError(f"{where}: adapter_config.json has no lora_alpha")
    if alpha == 0:
        raise InputError(
            f"{where}: adapter_config.json says lora_alpha = 0, which makes every update zero (verl's merger writes that); "
            "put in the value of the training run"
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _patterned(module: str, patterns: Any, default: Any) -> Any:
    """Look up the setting of a module: the value of the first pattern that matches the end of its name, as in PEFT."""
    for pattern, value in (patterns or {}).items():
        if _matches(pattern, module):
            return value
    return default


def _matches(pattern: str, module: str) -> bool:
    """Tell whether the end of a module's name matches; a pattern that is not a valid regular expression is compared as text."""
    try:
        return bool(re.match(rf"(.*\.)?({pattern})$", module))
    except re.error:
        return module.endswith(pattern)
