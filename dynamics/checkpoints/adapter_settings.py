"""Settings of PEFT adapters: which of them are read, why others are not, and the scaling of each update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dynamics.checkpoints.module_patterns import Patterns, Steps, UnsupportedError
from dynamics.checkpoints.tensor import MOST_ELEMENTS
from dynamics.errors import InputError, printable

#: a factor beyond which an update has no digits left
LARGEST_ALPHA = 1e30
MERGE = "merge it (merge_and_unload) and compare the result"

#: methods of PEFT that change weights in another way than LoRA: ``peft_type`` -> usual name
METHODS = {
    "ADALORA": "AdaLoRA", "ADAMSS": "AdaMSS", "BEFT": "BEFT", "BOFT": "BOFT", "BONE": "Bone", "C3A": "C3A", "DEFT": "DEFT",
    "DELORA": "DeLoRA", "FOURIERFT": "FourierFT", "FROD": "FRoD", "GLORA": "GLoRA", "GRALORA": "GraLoRA", "HIRA": "HiRA", "HRA": "HRA",
    "IA3": "IA3", "LILY": "Lily", "LN_TUNING": "layer-norm tuning", "LOHA": "LoHa", "LOKR": "LoKr", "MISS": "MiSS", "OFT": "OFT",
    "OSF": "OSF", "PEANUT": "PEANuT", "PSOFT": "PSOFT", "PVERA": "PVeRA", "RANDLORA": "RandLoRA", "ROAD": "RoAd", "SHIRA": "SHiRA",
    "SUPERTUNING": "SuperTuning", "TINYLORA": "TinyLoRA", "TRAINABLE_TOKENS": "trainable-tokens", "UNILORA": "Uni-LoRA",
    "VBLORA": "VB-LoRA", "VERA": "VeRA", "WAVEFT": "WaveFT",
}  # fmt: skip
#: methods that add to the input or to the activations of a model, or choose among adapters, and leave it no one set of weights
NO_WEIGHTS = {
    "ADAPTION_PROMPT": "LLaMA-Adapter", "CARTRIDGE": "cartridge", "CPT": "context-aware prompt tuning",
    "MULTITASK_PROMPT_TUNING": "multitask prompt tuning", "POLY": "Poly", "PREFIX_TUNING": "prefix tuning",
    "PROMPT_TUNING": "prompt tuning", "P_TUNING": "p-tuning", "SHADOW": "Shadow", "XLORA": "X-LoRA",
}  # fmt: skip

#: unsupported settings of LoRA, which change the meaning of the factors -> message that says what to do instead
UNSUPPORTED = {
    "use_qalora": f"is a QA-LoRA adapter; {MERGE}",
    "use_bdlora": f"has block-diagonal factors (BD-LoRA); {MERGE}",
    "lora_bias": f"has biases in its factors (lora_bias); {MERGE}",
    "layer_replication": f"replicates layers; {MERGE}",
    "target_parameters": f"targets parameters rather than modules (target_parameters); {MERGE}",
    "kasa_config": f"is a KaSA adapter, which changes the base weights too; {MERGE}",
    "velora_config": f"is a VeLoRA adapter; {MERGE}",
    "monteclora_config": f"is a MonteCLoRA adapter; {MERGE}",
    "arrow_config": f"routes between several adapters (Arrow); {MERGE}",
    "alora_invocation_tokens": "is an activated LoRA, which applies to some tokens only; it has no one set of weights to compare",
}
#: initialisations that take the factors from the base weights, so that the adapter is only valid with a changed base -> usual name
CHANGES_BASE = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "loftq": "LoftQ", "lora_ga": "LoRA-GA"}
#: initialisations that leave the base as it is
KEEPS_BASE = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")


def check_settings(where: str, config: Mapping[str, Any], own_base: bool = False) -> None:
    """Refuse what is no LoRA or DoRA adapter of PEFT, and settings that change the meaning of its factors.

    Parameters
    ----------
    where : the adapter, for messages.
    config : its settings.
    own_base : whether the base is the one that was trained, so that the initialisation does not matter.
    """
    _check_method(where, config)
    for setting, text in UNSUPPORTED.items():
        if config.get(setting):
            raise InputError(f"{where}: {text}")
    for setting in ("use_rslora", "use_dora", "fan_in_fan_out"):
        if not isinstance(config.get(setting, False), (bool, type(None))):
            raise InputError(f"{where}: adapter_config.json has a {setting} that is neither true nor false; the file is damaged")
    if own_base:
        return
    initialised = str(config.get("init_lora_weights")).lower()
    method = next((name for start, name in CHANGES_BASE.items() if initialised.startswith(start)), None)
    if method is not None:
        raise InputError(
            f"{where}: is a {method} adapter, which moves part of the base into its factors; convert it "
            "(path_initial_model_for_weight_conversion) or merge it first"
        )
    if initialised not in KEEPS_BASE:
        raise InputError(f"{where}: was initialised in a way that is not known ({printable(initialised, 20)}); {MERGE}")


def _check_method(where: str, config: Mapping[str, Any]) -> None:
    """Refuse what is no LoRA or DoRA adapter of PEFT."""
    kind = config.get("peft_type")
    if kind is None:
        raise InputError(f"{where}: {_not_of_peft(config)}")
    if not isinstance(kind, str):
        raise InputError(f"{where}: adapter_config.json has a peft_type that is no text; the file is damaged")
    if kind in NO_WEIGHTS:
        raise InputError(f"{where}: is a {NO_WEIGHTS[kind]} adapter, which has no one set of weights: there is nothing to compare")
    if kind != "LORA":
        name = METHODS.get(kind) or printable(kind, 40)
        raise InputError(f"{where}: is a {name} adapter; only LoRA and DoRA are read as adapters, {MERGE}")


def _not_of_peft(config: Mapping[str, Any]) -> str:
    """Name the library of an adapter that PEFT did not write, and what to do."""
    if "lora_parameters" in config or "num_layers" in config or "lora_layers" in config:
        return "is an adapter of MLX; fuse it (mlx_lm.fuse) and compare the result"
    if "hidden_size" in config or "model_class" in config:
        return "is an adapter of the library adapters; merge it (merge_adapter) and compare the result"
    return "adapter_config.json names no peft_type; only adapters that PEFT saved are read"


def scaling(where: str, module: str, rank: int, config: Mapping[str, Any], steps: Steps) -> float:
    """Compute lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA, with the module's rank and alpha from the patterns if they match.

    ``steps`` is what the patterns may take for all modules of the adapter.
    """
    if not all(isinstance(config.get(name) or {}, dict) for name in ("rank_pattern", "alpha_pattern")):
        raise InputError(f"{where}: adapter_config.json has a rank_pattern or alpha_pattern that is no mapping; the file is damaged")
    expected = _patterned(where, module, "rank_pattern", config.get("r"), config, steps)
    alpha = _patterned(where, module, "alpha_pattern", config.get("lora_alpha"), config, steps)
    if type(expected) is not int or expected != rank:
        raise InputError(f"{where}: {printable(module)} has rank {rank}, adapter_config.json says {printable(expected, 40)}")
    if rank < 1:
        raise InputError(f"{where}: {printable(module)} has rank {rank}, so that there is no update; save the adapter again")
    if type(alpha) not in (int, float) or not abs(alpha) < LARGEST_ALPHA:
        raise InputError(f"{where}: adapter_config.json has no lora_alpha that is a number ({printable(alpha, 40)}); the file is damaged")
    if alpha == 0:
        raise InputError(
            f"{where}: adapter_config.json says lora_alpha = 0, which makes every update zero (verl's merger writes that); "
            "put in the value of the training run"
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _patterned(where: str, module: str, name: str, default: Any, config: Mapping[str, Any], steps: Steps) -> Any:
    """Look up the setting of a module: the value of the first pattern that matches the end of its name, as in PEFT."""
    values = config.get(name) or {}
    if name not in steps.patterns:
        steps.patterns[name] = Patterns(values)
    try:
        pattern = steps.patterns[name].first(module, steps)
    except UnsupportedError as error:
        said = f"a pattern in {name} of adapter_config.json {error}; write the names of the modules instead"
        raise InputError(f"{where}: {said}") from None
    return default if pattern is None else values[pattern]


def token_rows(where: str, module: str, config: Mapping[str, Any]) -> list[int]:
    """Return the rows of an embedding that ``trainable_token_indices`` names: a list for the input embedding, or a list by module."""
    indices = config.get("trainable_token_indices")
    if isinstance(indices, dict):
        indices = next((rows for name, rows in indices.items() if module == name or module.endswith(f".{name}")), None)
    if not isinstance(indices, list) or not all(type(row) is int and 0 <= row < MOST_ELEMENTS for row in indices):
        raise InputError(f"{where}: adapter_config.json does not say which rows of {printable(module)} were trained")
    return indices
