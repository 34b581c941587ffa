"""What an adapter does to the weights of a model while it is trained: the change of ``base + scaling * B @ A``, not that of the factors.

The merged weights are those of ``dynamics.checkpoints.adapter``, rounded to the dtype of the base, in which ``merge_and_unload`` of PEFT
stores them. They are computed a chunk at a time, and never held.

Of a model that ``fully_shard`` splits by rows, each rank merges its rows: those of ``base`` and of ``B`` are the same rows, and it needs
``A`` whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Shaped

from dynamics.checkpoints import Checkpoint, Tensor, from_array, parameter_names
from dynamics.checkpoints.adapter import FACTOR, MAGNITUDE, merge_own_factors, own_name
from dynamics.checkpoints.matching import Pair
from dynamics.checkpoints.memory import read_mapping
from dynamics.errors import InputError, printable
from dynamics.recorder import ranks
from dynamics.sparsity.accumulate import DiffStats, accumulate_pairs, total

#: flat array of stored values, and the name of its dtype
Stored = tuple[np.ndarray[Any, Any], str]
#: initialisations of PEFT at which the update is zero: training starts from the weights of the base
STARTS_AT_ZERO = ("true", "gaussian", "eva", "mica")


class MergedWeights:
    """The weights of a model with an adapter of PEFT.

    Parameters
    ----------
    model : a model of PEFT, or one of transformers with an adapter.

    Raises
    ------
    InputError : the merged weights of this kind of adapter, of this kind of shards, or of a quantised model, are not measured.

    Attributes
    ----------
    starts_at_zero : whether the initialisation leaves the weights of the base as they are.
    sharded : whether this rank merges its rows only.
    whole : of a sharded model, the factors whose values are needed whole.
    """

    def __init__(self, model: Any):
        active = _active_adapter(model)
        self._config = json.loads(json.dumps(model.peft_config[active].to_dict(), default=str))
        self._model_config = model.config.to_dict() if hasattr(getattr(model, "config", None), "to_dict") else None
        others = [f".{name}." for name in model.peft_config if name != active]
        self._parameters = {
            name.replace("_orig_mod.", ""): value
            for name, value in model.named_parameters()
            if not (parameter_names.ADAPTED.search(name) and any(other in f"{name}." for other in others))
        }
        self.sharded = any(ranks.is_sharded(value) for value in self._parameters.values())
        self.whole = tuple(name for name in self._parameters if self.sharded and (kind := FACTOR.match(name)) and kind[3] == "A")
        self._dtypes = {own_name(name): str(value.dtype).removeprefix("torch.") for name, value in self._parameters.items()}
        self._check()
        self._frozen: DiffStats | None = None
        self.starts_at_zero = str(self._config.get("init_lora_weights")).lower() in STARTS_AT_ZERO

    def _check(self) -> None:
        for name, value in self._parameters.items():
            if hasattr(value, "ds_id") or "_flat_param" in name:
                raise InputError("the model is sharded")
            if not value.dtype.is_floating_point:
                raise InputError(f"the base is quantised ({printable(name)} is {str(value.dtype).removeprefix('torch.')})")
        if not any(FACTOR.match(name) for name in self._parameters):
            raise InputError("the model has no factors of LoRA")
        if self.sharded:
            self._check_shards()
        trained = {name: value for name, value in self._parameters.items() if value.requires_grad}
        self._merged({name: (np.zeros(math.prod(self._shape(name, value)), np.float32), "float32") for name, value in trained.items()})

    def _check_shards(self) -> None:
        world = list(range(ranks.rank_and_world()[1]))
        for name, value in self._parameters.items():
            if not ranks.is_sharded(value) or value.device_mesh.mesh.tolist() != world or not value.placements[0].is_shard(0):
                raise InputError(f"the model is sharded, but not all by rows over all ranks, as fully_shard does ({printable(name)})")
            factor = FACTOR.match(name)
            if value.requires_grad and (factor is None or factor[2]):
                raise InputError(f"the model is sharded, and not only the factors of linear layers are trained ({printable(name)})")
        if self._config.get("fan_in_fan_out") or any(set(parameter_names.CONV1D) & set(name.split(".")) for name in self._parameters):
            raise InputError("the model is sharded, and has layers that are stored transposed")

    def _shape(self, name: str, value: Any) -> tuple[int, ...]:
        """Return the shape of what this rank has of a parameter."""
        return tuple(value.to_local().shape if self.sharded and name not in self.whole else value.shape)

    def change(self, before: Mapping[str, Stored], after: Mapping[str, Stored]) -> DiffStats:
        """Compare the merged weights of two states of the trained parameters."""
        return self._compare(self._merged(before), self._merged(after))

    def change_since_start(self, start: Mapping[str, Stored], now: Mapping[str, Stored]) -> DiffStats:
        """Compare the merged weights with those at the start: of the base, if the initialisation of the adapter leaves it as it is."""
        if self.starts_at_zero:
            start = {name: value for name, value in start.items() if not (FACTOR.match(name) or MAGNITUDE.match(name))}
        return self._compare(self._merged(start), self._merged(now))

    def _merged(self, trained: Mapping[str, Stored]) -> Checkpoint:
        """Return the merged weights, of which those that are not trained are views of the model."""
        tensors: dict[str, Any] = {}
        for name, value in self._parameters.items():
            if name in trained:
                array, dtype = trained[name]
                tensors[name] = from_array(name, array.reshape(self._shape(name, value)), dtype)
            elif not value.requires_grad:
                tensors[name] = value.to_local() if self.sharded else value
        if self.sharded:  # a rank may have no rows of a small layer
            empty = {name for name, value in tensors.items() if 0 in value.shape}
            modules = {factor[1] for name in empty if (factor := FACTOR.match(name))}
            tensors = {
                name: value
                for name, value in tensors.items()
                if name not in empty and not ((factor := FACTOR.match(name)) and factor[1] in modules)
            }
        model = replace(read_mapping(tensors, "the model"), config=self._model_config)
        return model if self.sharded and not any(map(FACTOR.match, tensors)) else merge_own_factors(model, self._config)

    def _compare(self, before: Checkpoint, after: Checkpoint) -> DiffStats:
        embedding = parameter_names.token_embedding(before.tensors)
        moved: list[Pair] = []
        frozen: list[Pair] = []
        for name, tensor in after.tensors.items():
            base = before.tensors.get(name) or before.tensors[embedding or name]  # a head that is tied to the embedding
            same = tensor.source is not None and tensor.source == base.source
            dtype = self._dtype(base)
            (frozen if same else moved).append(Pair(name, _rounded(base, dtype), _rounded(tensor, dtype)))
        if self._frozen is None:
            self._frozen = total(accumulate_pairs(frozen))
        return total([self._frozen, *accumulate_pairs(moved)])

    def _dtype(self, tensor: Tensor) -> str:
        """Return the dtype of a weight in the model: that of the base where the weight is the sum of base and update."""
        return self._dtypes.get(tensor.name, tensor.dtype)


def _active_adapter(model: Any) -> str:
    names = list(model.peft_config)
    active = getattr(model, "active_adapter", None)
    if isinstance(active, str) and active in names:
        return active
    if len(names) != 1:
        raise InputError(f"several adapters are active ({', '.join(map(printable, names))})")
    return str(names[0])


def _rounded(tensor: Tensor, dtype: str) -> Tensor:
    """Return a tensor with its values rounded to a dtype, in which a merged weight is stored."""
    if tensor.dtype == dtype:
        return tensor
    from dynamics.sparsity import kernels

    def read(start: int, stop: int, out: Shaped[np.ndarray, " room"]) -> Shaped[np.ndarray, " n"]:
        values = tensor.values(start, stop)
        out = out[: stop - start]
        if dtype == "bfloat16":
            kernels.round_to_bfloat16(values.astype(np.float32), out)
        else:
            out[:] = values
        return out

    return Tensor(tensor.name, tensor.shape, dtype, read)
