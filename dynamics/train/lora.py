"""LoRA players: policies that share one frozen base and train only the factors A and B of their updates.

The model computes with *merged* weights, ``W0 + (alpha / r) B A`` (LoRA, arXiv 2106.09685), so that sampling, packing and log-probabilities
are those of any other policy. One model serves all players: ``SharedBase`` keeps the original matrices once, and merges the factors of a
player when its model is asked for and another's were merged before. Memory is that of the base and one more copy of the matrices with
factors, whatever the number of players.

The gradient is exactly that of the unmerged form: for ``y = x W0^T + s (x A^T) B^T`` with the gradient dW of the merged matrix,
``dB = s dW A^T`` and ``dA = s B^T dW``. Only the rounding of float32 sums differs from an implementation that keeps the factors apart.

Factors are float32. With bfloat16 master weights the merged matrices would be bfloat16, and most of a small update would be lost in the sum
(a bfloat16 has 8 significant bits), so that is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from dynamics.checkpoints import open_checkpoint
from dynamics.errors import InputError, printable
from dynamics.train.attention import Past
from dynamics.train.batch import PackedRows
from dynamics.train.policy import Policy
from dynamics.train.rng import stream

#: what PEFT calls the model within its own, in names of factors
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Factors:
    """Names of the two factors of a matrix among the masters of a player; ``down`` is A, (r, inputs), and ``up`` is B, (outputs, r)."""

    down: str
    up: str

    @classmethod
    def of(cls, weight: str) -> Factors:
        """Name the factors of a weight as PEFT does.

        >>> Factors.of("model.layers.0.mlp.up_proj.weight").up
        'model.layers.0.mlp.up_proj.lora_B.weight'
        """
        module = weight.removesuffix(".weight")
        return cls(f"{module}.lora_A.weight", f"{module}.lora_B.weight")


class SharedBase:
    """A frozen model that several LoRA players share.

    Parameters
    ----------
    policy : the base. From now on it is not trained, its ``masters`` are the original weights whichever player is merged, and
        reading its ``model`` takes the factors out again: it is the base, for sampling and measuring, as before.
    targets : last parts of the names of the modules that get factors, such as ``("q_proj", "v_proj")``; all linear layers but the output
        head if None, as QLoRA recommends (arXiv 2305.14314).

    Raises
    ------
    InputError
        The master weights are not float32, or no linear layer has such a name.

    Attributes
    ----------
    policy : the base.
    originals : the matrices with factors, by name, as they are without.
    """

    def __init__(self, policy: Policy, targets: Sequence[str] | None = None):
        if policy.master != "float32":
            raise InputError(
                f"--master-dtype {policy.master}: LoRA needs float32, because small updates would be rounded away in merged weights of "
                f"{policy.master}"
            )
        self.policy = policy
        model = policy.model
        chosen = linear_weights(model, targets)
        self._merged: dict[str, torch.nn.Parameter] = {name: value for name, value in model.named_parameters() if name in chosen}
        self.originals: dict[str, Float32[Tensor, "outputs inputs"]] = {
            name: value.detach().clone() for name, value in self._merged.items()
        }
        self._active: tuple[LoraPolicy | None, int] = (None, 0)
        frozen = {name: value for name, value in model.named_parameters() if name not in chosen}
        self._frozen = list(frozen.values())
        policy.masters = {  # in the order of the model
            name: torch.nn.Parameter(self.originals[name], requires_grad=False) if name in self.originals else frozen[name]
            for name, _ in model.named_parameters()
        }
        policy._activate = partial(self.activate, None)

    def activate(self, player: LoraPolicy | None) -> None:
        """Give the model the weights of a player, or those of the base; a player must not be interrupted while it has gradients.

        Takes the time of one copy of the matrices and of one product of factors each if other weights were merged, else none.
        """
        wanted = (player, 0 if player is None else player.version)
        if self._active == wanted:
            return
        if any(value.grad is not None for value in self._merged.values()):
            raise RuntimeError("weights were merged while gradients of others were accumulated; move the gradients first")
        with torch.no_grad():
            for name, value in self._merged.items():
                if player is None:
                    value.copy_(self.originals[name])
                else:
                    player.merge(name, out=value)
        self._active = wanted

    @contextmanager
    def freezing(self) -> Iterator[None]:
        """Leave the weights without factors out of the gradient.

        They are frozen while it is computed only: torch multiplies by a frozen matrix in another order, also where no gradient is
        computed, so that samples of a player without an update would not be those of the base.
        """
        for value in self._frozen:
            value.requires_grad_(False)
        try:
            yield
        finally:
            for value in self._frozen:
                value.requires_grad_(True)

    def move_gradients(self, player: LoraPolicy) -> None:
        """Turn the gradients of merged matrices into those of the player's factors, and clear them."""
        if self._active[0] is not player:
            return  # nothing was computed since others were merged, which is refused while there are gradients
        with torch.no_grad():
            for name, value in self._merged.items():
                names = Factors.of(name)
                down, up = player.masters[names.down], player.masters[names.up]
                slope, value.grad = value.grad, None
                down.grad = None if slope is None else player.scaling * (up.T @ slope)
                up.grad = None if slope is None else player.scaling * (slope @ down.T)
            for value in self._frozen:  # they have gradients where layers are computed again in the backward pass
                value.grad = None


def linear_weights(model: Any, targets: Sequence[str] | None = None) -> list[str]:
    """List the weights of the linear layers of a model but its output head, of modules whose name ends in one of ``targets`` if given."""
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head]
    found = [f"{name}.weight" for name in names if targets is None or name.rpartition(".")[2] in targets]
    if targets is not None and (unknown := sorted(set(targets) - {name.rpartition(".")[2] for name in names})):
        known = ", ".join(sorted({name.rpartition(".")[2] for name in names})) or "none"
        raise InputError(f"LoRA on {', '.join(map(printable, unknown))}: no linear layer of {type(model).__name__} has this name ({known})")
    if not found:
        raise InputError(f"LoRA: {type(model).__name__} has no layers of torch.nn.Linear beside its output head; choose another model")
    return found


def merged(
    original: Float32[Tensor, "outputs inputs"], factors: Mapping[str, Tensor], name: str, scaling: float, out: Tensor | None = None
) -> Float32[Tensor, "outputs inputs"]:
    """Compute W0 + s B A of the weight of this name, into ``out`` if given."""
    names = Factors.of(name)
    return torch.addmm(original, factors[names.up].detach(), factors[names.down].detach(), alpha=scaling, out=out)


class Effective(Mapping[str, Tensor]):
    """All weights that a player computes with; a merged matrix is computed each time it is read, from the factors as they are then."""

    def __init__(self, base: SharedBase, factors: Mapping[str, Tensor], scaling: float):
        self.base, self.factors, self.scaling = base, factors, scaling

    def __getitem__(self, name: str) -> Tensor:
        """Compute a weight, or return that of the base."""
        original = self.base.originals.get(name)
        return self.base.policy.masters[name] if original is None else merged(original, self.factors, name, self.scaling)

    def __iter__(self) -> Iterator[str]:
        """List names in the order of the model."""
        return iter(self.base.policy.masters)

    def __len__(self) -> int:
        """Count the weights."""
        return len(self.base.policy.masters)

    def kept(self) -> Effective:
        """Return the weights as they are now, in the memory of a copy of the factors."""
        return Effective(self.base, {name: value.detach().clone() for name, value in self.factors.items()}, self.scaling)


class LoraPolicy(Policy):
    """A player on a shared base, whose masters are the factors A and B of each targeted matrix.

    A player that was not trained is the base to the bit: A is drawn uniformly from +-1 / sqrt(inputs), as PEFT does (Kaiming initialisation
    with a = sqrt(5)), and B is zero.

    Parameters
    ----------
    base : the model that it shares.
    rank : r, the number of rows of each A and of columns of each B.
    alpha : its updates are scaled by alpha / r; twice the rank if None.
    seed, number : of the random streams of A; players with different numbers start from different A.

    Raises
    ------
    InputError
        The rank is below 1, or larger than a side of a targeted matrix.

    Attributes
    ----------
    scaling : alpha / r.
    version : grows with each change of the factors.
    """

    def __init__(self, base: SharedBase, rank: int, alpha: float | None = None, seed: int = 0, number: int = 0):
        vars(self).update(vars(base.policy))  # what was found out about the model holds for every player
        self.remarks = []
        self.base, self.rank, self.version = base, rank, 0
        self.alpha = float(2 * rank if alpha is None else alpha)
        if rank < 1:
            raise InputError(f"--lora-rank {rank}: must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise InputError(f"--lora-alpha {self.alpha:g}: must be above 0, and finite")
        self.scaling = self.alpha / rank
        self.masters = {}
        for index, (name, value) in enumerate(base.originals.items()):
            outputs, inputs = value.shape
            if rank > min(outputs, inputs):
                raise InputError(
                    f"--lora-rank {rank}: is larger than a side of {name}, {outputs} x {inputs}; use at most {min(value.shape)}"
                )
            drawn = stream(seed, "lora", number, index).uniform(-1.0, 1.0, (rank, inputs)) / math.sqrt(inputs)
            names = Factors.of(name)
            self.masters[names.down] = torch.nn.Parameter(torch.from_numpy(drawn).to(value))
            self.masters[names.up] = torch.nn.Parameter(value.new_zeros(outputs, rank))
        self._activate = partial(base.activate, self)

    def merge(self, name: str, out: Tensor | None = None) -> Float32[Tensor, "outputs inputs"]:
        """Compute a merged matrix, into ``out`` if given; without an update, it is the original to the bit."""
        return merged(self.base.originals[name], self.masters, name, self.scaling, out)

    def effective(self) -> Mapping[str, Tensor]:
        """Return all weights that the player computes with, by name; merged matrices are computed when they are read.

        Of a recorded update, all that has no factors is unchanged by construction; a merged matrix is W0 + s B A rounded to float32.
        """
        return Effective(self.base, self.masters, self.scaling)

    def logprobs(
        self, rows: PackedRows, temperature: float = 1.0, past: Past | None = None
    ) -> tuple[Float32[Tensor, " tokens"], Float32[Tensor, " tokens"], Float32[Tensor, " tokens"]]:
        """Compute log-probability, entropy and surprisal of each completion token; see ``Policy.logprobs``."""
        with self.base.freezing() if torch.is_grad_enabled() and not self.checkpointed else nullcontext():
            return super().logprobs(rows, temperature, past)

    @contextmanager
    def trained_by_others(self) -> Iterator[Any]:
        """Give the merged model to a trainer; see ``Policy.trained_by_others``."""
        with super().trained_by_others() as model, self.base.freezing():
            yield model

    def update_model(self) -> None:
        """Note that the factors have changed; the weights are merged when the model is used."""
        self.version += 1

    def move_gradients(self) -> None:
        """Turn the gradients of the merged matrices into those of the factors."""
        self.base.move_gradients(self)

    def copy(self) -> LoraPolicy:
        """Return another player of the same base with the same factors, in memory of their own."""
        other = LoraPolicy(self.base, self.rank, self.alpha)
        other.assign({name: value.detach() for name, value in self.masters.items()})
        return other

    def assign(self, factors: Mapping[str, Tensor]) -> None:
        """Copy the values of factors, by name; they must be those of ``masters``."""
        assert factors.keys() == self.masters.keys()
        with torch.no_grad():
            for name, value in self.masters.items():
                value.copy_(factors[name])
        self.update_model()

    def save(self, folder: Path) -> None:
        """Save the factors in an existing folder as an adapter of PEFT, and the tokenizer; the base is not saved.

        ``peft.PeftModel.from_pretrained`` loads it onto the base, and so does ``load``.
        """
        from safetensors.torch import save_file

        targets = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in self.base.originals})
        if set(linear_weights(self._model, targets)) != self.base.originals.keys():
            targets = sorted(name.removesuffix(".weight") for name in self.base.originals)
        settings = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(self._model.config.name_or_path),
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": targets,
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "use_rslora": False,
            "use_dora": False,
            "inference_mode": True,
        }
        tensors = {PEFT_PREFIX + name: value.detach().cpu().contiguous() for name, value in self.masters.items()}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        self.tokenizer.save_pretrained(folder)


def load(folder: str | Path, base: SharedBase) -> LoraPolicy:
    """Load an adapter of PEFT as a player, with the bits of its float32 factors.

    Parameters
    ----------
    folder : adapter_config.json and adapter_model.safetensors (or .bin), with factors for the matrices that ``base`` has targeted.
    base : the model that the player shares.

    Raises
    ------
    InputError
        It is no LoRA adapter, trains something else too, or does not fit the base.
    """
    where = printable(str(folder))
    adapter = open_checkpoint(str(folder)).adapter
    if adapter is None:
        raise InputError(f"{where}: is no adapter of PEFT; give a folder with adapter_config.json")
    if adapter.replaced or adapter.magnitudes or adapter.tokens or adapter.embeddings:
        raise InputError(f"{where}: trains more than the factors of linear layers; a player has only these")
    unknown = [name for name in adapter.updates if name not in base.originals]
    missing = [name for name in base.originals if name not in adapter.updates]
    for name in (*unknown, *missing):
        has, lacks = ("the adapter", "the base") if name in unknown else ("the base", "the adapter")
        raise InputError(f"{where}: is an adapter of another base: {has} has LoRA on {printable(name)}, {lacks} does not")
    first = next(iter(adapter.updates))
    rank, scaling = adapter.updates[first].left.shape[1], adapter.scalings[first]
    for name, update in adapter.updates.items():
        if update.shape != tuple(base.originals[name].shape):
            sizes = " x ".join(map(str, update.shape)), " x ".join(map(str, base.originals[name].shape))
            raise InputError(
                f"{where}: is an adapter of another base: its update of {printable(name)} is {sizes[0]}, the matrix {sizes[1]}"
            )
        if update.left.shape[1] != rank or adapter.scalings[name] != scaling:
            raise InputError(f"{where}: has ranks or scalings that differ between matrices; a player has one of each")
    player = LoraPolicy(base, rank, scaling * rank)
    factors = {}
    for name, update in adapter.updates.items():
        names = Factors.of(name)
        factors[names.down] = torch.from_numpy(update.right)
        factors[names.up] = torch.from_numpy(update.left / scaling)  # in float64, which rounds to the stored float32
    player.assign(factors)
    return player
