"""A checkpoint on the Hugging Face Hub, by id: ``org/name`` or ``org/name@revision``."""

from __future__ import annotations

import re
from pathlib import Path

from dynamics.errors import InputError, printable
from dynamics.extras import optional_import
from dynamics.io.paths import suggest_path

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?$")
HUB_NAME = re.compile(r"^([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*$")
WANTED = ["*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json"]
PICKLED = ["*.bin", "*.bin.index.json"]
PATIENCE = 20.0  # timeout of the only online request for metadata, in seconds, so that a missing network is reported soon


def is_hub_id(text: str) -> bool:
    """Tell whether a text has the form ``org/name`` or ``org/name@revision``."""
    return bool(HUB_ID.match(text))


def is_hub_name(text: str) -> bool:
    """Tell whether a text has the form ``name`` or ``org/name`` of a Hub model, as transformers accepts it."""
    return bool(HUB_NAME.match(text))


def check_available(name: str) -> None:
    """Check that a Hub model is in the cache or, by one request for metadata, on the Hub. Without huggingface_hub, nothing is checked."""
    try:
        from huggingface_hub import HfApi, try_to_load_from_cache
    except ImportError:
        return
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=PATIENCE)
    except Exception as error:
        raise InputError(_reason(name, error)) from None


def download(hub_id: str) -> Path:
    """Return the local folder of a Hub model, downloading it if it is not in the cache; safetensors files are preferred."""
    try:
        with optional_import("reading it from the Hugging Face Hub"):
            from huggingface_hub import HfApi, snapshot_download
            from huggingface_hub.errors import LocalEntryNotFoundError
    except InputError as error:
        raise InputError(f"{printable(hub_id)}: no such file or folder; {error}{suggest_path(hub_id)}") from None
    name, _, revision = hub_id.partition("@")
    try:
        info = HfApi().model_info(name, revision=revision or None, timeout=PATIENCE)
        safe = any(file.rfilename.endswith(".safetensors") for file in info.siblings or ())
        patterns = WANTED if safe else WANTED + PICKLED
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except Exception as online:
        try:
            return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        except LocalEntryNotFoundError:
            pass
        raise InputError(_reason(hub_id, online)) from None


def _reason(hub_id: str, error: Exception) -> str:
    """Explain why a Hub model is not available, and suggest an existing path with a similar name."""
    kind = type(error).__name__
    reason = f"and the Hugging Face Hub cannot be reached ({kind}): this machine is offline, and the model is not in the cache"
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError", "HFValidationError"):
        reason = f"and the Hub refuses it ({kind}); check the id, or log in with `hf auth login`"
    return f"{printable(hub_id)}: no such file or folder, {reason}{suggest_path(hub_id)}"
