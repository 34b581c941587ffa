"""The models that need no download: ``tiny``, the embedded model, and ``lab``, the base of the laboratory."""

from __future__ import annotations

from dynamics.train.tasks.prompt_formats import LanguageName, folder_language

NAMES: dict[str, LanguageName] = {"tiny": "notation", "lab": "lab"}


def language_of_model(name: str) -> LanguageName:
    """Return the language that the model of ``--model`` reads; plain text for a Hub id, whose tokenizer is not here."""
    return NAMES[name] if name in NAMES else folder_language(name)


def find(name: str) -> str:
    """Return the folder of a built-in model, which is made if it must be; any other name as it is.

    Raises
    ------
    InputError : the model cannot be made, or is not in this installation.
    """
    from dynamics.cli.progress import ProgressBar
    from dynamics.train import tiny
    from dynamics.train.lab import shipped

    if name == "lab":
        return str(shipped.find())
    if name != "tiny":
        return name
    with ProgressBar("making the embedded model") as bar:
        return str(tiny.find(progress=bar))
