"""Packages that only some functions need: what says so, in one line, where one is not installed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator

from dynamics.errors import InputError

#: optional package, by the name that is imported -> its name on PyPI, and the extra of this project that installs it (None: no extra does)
PACKAGES: dict[str, tuple[str, str | None]] = {
    "torch": ("torch", "models"),
    "transformers": ("transformers", "models"),
    "tokenizers": ("tokenizers", "models"),
    "safetensors": ("safetensors", "models"),
    "gguf": ("gguf", "gguf"),
    "huggingface_hub": ("huggingface_hub", "hub"),
    "math_verify": ("math-verify", "tasks"),
    "reasoning_gym": ("reasoning-gym", "tasks"),
    "trueskillthroughtime": ("trueskillthroughtime", "games"),
    "fsspec": ("fsspec", "stores"),
    "s3fs": ("s3fs", "stores"),
    "gcsfs": ("gcsfs", "stores"),
    "aiohttp": ("aiohttp", "stores"),
    "peft": ("peft", None),
    "tensorboard": ("tensorboard", "runs"),
    "wandb": ("wandb", "runs"),
    "trl": ("trl", "distributed"),
    "accelerate": ("accelerate", "distributed"),
    "datasets": ("datasets", "distributed"),
    "vllm": ("vllm", "vllm"),
    "dask": ("dask[distributed]", "cluster"),
    "distributed": ("dask[distributed]", "cluster"),
}


@contextlib.contextmanager
def optional_import(purpose: str) -> Iterator[None]:
    """Turn the failed import of an optional package into an error of one line that says how to install it.

    Parameters
    ----------
    purpose : str
        What needs the package, the subject of the sentence: ``"running a model"``.

    Raises
    ------
    InputError
        A package of ``PACKAGES`` is imported within the block and is not installed. Other errors pass.

    Examples
    --------
    >>> with optional_import("measuring spectra"):
    ...     import json
    """
    try:
        yield
    except ImportError as error:
        message = explain(error, purpose)
        if message is None:
            raise
        raise InputError(message) from None


def require(packages: Iterable[str], purpose: str) -> None:
    """Check that optional packages are installed, without importing them.

    Parameters
    ----------
    packages : iterable of str
        Packages by the names that are imported, of ``PACKAGES``.
    purpose : str
        What needs them, as for ``optional_import``.

    Raises
    ------
    InputError
        One of them is not installed.
    """
    with optional_import(purpose):
        for name in packages:
            if importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(name=name)


def explain(error: ImportError, purpose: str) -> str | None:
    """Say in one line which optional package is missing and how to install it; None if the error is about another package."""
    module = (error.name or "").partition(".")[0]
    if module not in PACKAGES:
        return None
    package, extra = PACKAGES[module]
    return f"{purpose} needs {package}: {how_to_install(package, extra)}"


def how_to_install(package: str, extra: str | None) -> str:
    """Spell the command that installs an optional package, also for a checkout of this project.

    >>> how_to_install("torch", "models")
    "pip install 'training-dynamics[models]' (in a checkout: pip install -e '.[models]')"
    """
    if extra is None:
        return f"pip install {package}"
    return f"pip install 'training-dynamics[{extra}]' (in a checkout: pip install -e '.[{extra}]')"


def own_version() -> str:
    """Return the version of this package as it is installed; empty if it is not."""
    try:
        return importlib.metadata.version("training-dynamics")
    except importlib.metadata.PackageNotFoundError:
        return ""
