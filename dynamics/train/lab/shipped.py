"""The base of the laboratory that comes with the package."""

from __future__ import annotations

from pathlib import Path

from dynamics.errors import InputError

#: Hugging Face folder of the base of seed 0
FOLDER = Path(__file__).parent / "base"


def find() -> Path:
    """Return the folder of the base.

    Raises
    ------
    InputError : this installation does not have its weights.
    """
    if not (FOLDER / "model.safetensors").is_file():
        raise InputError(
            "--model lab: this installation does not have its weights; make a base with `python -m dynamics.train.lab base OUT`, "
            "and give --model OUT/base --preset lab"
        )
    return FOLDER
