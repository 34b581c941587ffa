"""The methods by name, with the class of their settings and their presets. It imports no torch."""

from __future__ import annotations

from typing import Any

from dynamics.errors import InputError, did_you_mean
from dynamics.train.config import SIZES, RLVRConfig, SelfPlayConfig, SFTConfig, TrainConfig
from dynamics.train.games.pasodoble_settings import PasoDobleConfig
from dynamics.train.games.populora_settings import PopuLoRAConfig
from dynamics.train.games.seirenes_settings import SeirenesConfig
from dynamics.train.games.spc_settings import SPCConfig

METHODS: dict[str, type[TrainConfig]] = {
    "sft": SFTConfig,
    "rlvr": RLVRConfig,
    "selfplay": SelfPlayConfig,
    "seirenes": SeirenesConfig,
    "spc": SPCConfig,
    "pasodoble": PasoDobleConfig,
    "populora": PopuLoRAConfig,
}


def size_preset(preset: str | None, model: str) -> str:
    """Return ``tiny``, ``pretrained`` or ``lab``: the given preset if it is one of these, otherwise the preset for the model."""
    return preset if preset in SIZES else model if model in ("tiny", "lab") else "pretrained"


def preset_values(method: str, preset: str | None = None, model: str = "tiny") -> dict[str, Any]:
    """Return the settings in which a preset differs from the defaults of the method's config class.

    Parameters
    ----------
    method
        A key of ``METHODS``.
    preset
        One of the presets of the method; if None, the one of this name for the models ``tiny`` and ``lab``, ``pretrained`` for all others.
    model
        Value of ``--model``.

    Returns
    -------
    dict
        Values by field name.
    """
    presets = METHODS[method].presets
    if preset is not None and preset not in presets:
        raise InputError(f"--preset {preset}: unknown for {method}; there are {', '.join(presets)}{did_you_mean(preset, presets)}")
    values = presets[size_preset(preset, model)]
    return {**values, **({} if preset is None else presets[preset])}
