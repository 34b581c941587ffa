"""Rotary position embeddings whose frequencies depend on the length of the sequence, as dynamic NTK scaling and longrope have.

The frequencies of a forward pass are those of its longest sequence, padding included; and dynamic scaling keeps those of the longest pass
so far. So a text has another distribution beside a longer one, or after it, and its first tokens had another one before its last were
there. ``LengthRule`` says which sequences may share a batch, and ``RotaryState`` returns a model to the state in which it was loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: kinds of scaling that do not depend on the length
STATIC = {"default", "linear", "yarn", "llama3", "proportional", "mrope"}
#: names of attributes and buffers that a rotary module may change in a forward pass; with layer types, they follow the type
CHANGING = ("inv_freq", "max_seq_len_cached", "attention_scaling", "cos_cached", "sin_cached")


@dataclass(frozen=True)
class LengthRule:
    """Which sequences have the same frequencies.

    Attributes
    ----------
    kinds : kinds of scaling that depend on the length.
    limit : sequences of at most this length are alike.
    long_alike : whether all longer sequences are alike; otherwise only those of one length.
    extension : factor by which a sequence may be longer than ``max_position_embeddings``.
    """

    kinds: tuple[str, ...] = ()
    limit: int = 0
    long_alike: bool = True
    extension: float = 1.0

    def group(self, length: int) -> int:
        """Return a number that two sequences share if they may share a batch."""
        if not self.kinds or length <= self.limit:
            return 0
        return self.limit + 1 if self.long_alike else length

    def refusal(self, length: int) -> str | None:
        """Say why a sequence of this length cannot be sampled token by token, or share a row with others; None if it can."""
        if self.group(length) == 0:
            return None
        return (
            f"beyond {self.limit} tokens, the model's rotary embedding ({', '.join(self.kinds)}) depends on the length of the whole "
            "sequence, so that its tokens have other probabilities when they are sampled than when they are trained on"
        )


def length_rule(config: Any) -> LengthRule:
    """Read from the configuration of a model, a transformers config, how its frequencies depend on the length of a sequence."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "seq_length", None) or 0
    rule = LengthRule()
    for scaling in _scalings(text.to_dict() if hasattr(text, "to_dict") else vars(text)):
        kind = scaling.get("rope_type", scaling.get("type"))
        if not isinstance(kind, str) or kind in STATIC:
            continue
        original = scaling.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None)
        if kind in ("longrope", "su"):
            rule = _merged(rule, LengthRule((kind,), original or limit))
        elif kind == "dynamic":
            rule = _merged(rule, LengthRule((kind,), limit, False, float(scaling.get("factor") or 1.0)))
        else:  # an unknown kind, of code that came with the model
            rule = _merged(rule, LengthRule((kind,), 0, False))
    if getattr(text, "use_dynamic_ntk", False):  # Qwen of 2023
        rule = _merged(rule, LengthRule(("dynamic",), limit, False))
    return rule


def _scalings(values: Any, rotary: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the dictionaries that describe rotary embeddings, which may be nested by the type of a layer."""
    if isinstance(values, dict):
        if rotary:
            yield values
        for key, value in values.items():
            yield from _scalings(value, rotary or "rope" in str(key) or "rotary" in str(key))


def _merged(first: LengthRule, second: LengthRule) -> LengthRule:
    if not first.kinds or first == second:
        return second
    kinds = tuple(dict.fromkeys(first.kinds + second.kinds))
    alike = first.long_alike and second.long_alike and first.limit == second.limit
    return LengthRule(kinds, min(first.limit, second.limit), alike, min(first.extension, second.extension))


class RotaryState:
    """State of the rotary modules of a model, as it was before any long sequence."""

    def __init__(self, model: torch.nn.Module):
        self.kept: list[tuple[torch.nn.Module, dict[str, Any]]] = []
        for module in model.modules():
            names = [name for name in (*module._buffers, *vars(module)) if name.endswith(CHANGING) and "original" not in name]
            if names:
                self.kept.append((module, {name: _copy(_original(module, name)) for name in names}))

    def restore(self) -> None:
        """Return the modules to this state."""
        for module, values in self.kept:
            for name, value in values.items():
                setattr(module, name, _copy(value))


def _original(module: torch.nn.Module, name: str) -> Any:
    """Return the value that a module keeps for short sequences, or the present one."""
    kind = name.removesuffix("inv_freq")
    kept = "original_max_seq_len" if name.endswith("max_seq_len_cached") else f"{kind}original_inv_freq"
    present, first = getattr(module, name), getattr(module, kept, None)
    if first is None or (kind == name and not name.endswith("max_seq_len_cached")):
        return present
    return first.to(present.device) if hasattr(first, "to") and hasattr(present, "device") else first


def _copy(value: Any) -> Any:
    return value.clone() if hasattr(value, "clone") else value
