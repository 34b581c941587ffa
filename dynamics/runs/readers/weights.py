"""The checkpoints in a run directory, and which of them are complete. Only names, sizes and headers are read."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from pathlib import Path

from dynamics.errors import InputError, printable
from dynamics.io.side_files import read_bytes, read_json
from dynamics.runs.view import SavedCheckpoint

#: suffixes of files of weights
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".distcp")
#: files of torch that hold no weights of the model
NO_WEIGHTS = re.compile(
    r"(optim|optimizer|extra_state|scheduler|random_states|rng_state|scaler|training_args|dataloader|data\.pt|progress)"
)
NUMBERED = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})(\.[a-z]+)$")
RANK = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt$")
#: end of a note on a checkpoint that is left out
WRITING = "; it may still be being written"
#: bytes of a header of safetensors, of the end of a ZIP archive, and number of entries of a folder that are listed
HEADER, ZIP_END, ENTRIES = 100_000_000, 66_000, 100_000


def numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """List the sub-folders whose names match a pattern, the first group of which is a number, by this number."""
    compiled = re.compile(pattern)
    pairs = []
    for entry in entries(folder):
        match = compiled.fullmatch(entry.name)
        if match and len(match[1]) < 19 and entry.is_dir():
            pairs.append((int(match[1]), entry))
    return sorted(pairs)


def entries(folder: Path) -> list[Path]:
    """List what is in a folder, by name; nothing if it cannot be listed."""
    try:
        with_names = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError:
        return []
    return with_names[:ENTRIES]


def complete(candidates: Iterable[tuple[int | None, Path, bool]], notes: list[str]) -> list[SavedCheckpoint]:
    """Return the checkpoints that are complete; each other one becomes a note.

    Parameters
    ----------
    candidates : step, folder, and whether it is an adapter, in order.
    notes : receives the line of each that is left out.
    """
    saved = []
    for step, path, adapter in candidates:
        if reason := fault(path):
            notes.append(f"{printable(path)}: checkpoint left out: {reason}{WRITING}")
        else:
            saved.append(SavedCheckpoint(step, path, adapter))
    return saved


def fault(folder: Path) -> str:
    """Say why the weights in a folder are not complete; empty if nothing shows it."""
    files = {entry.name: entry for entry in entries(folder) if entry.is_file()}
    weights = {name: path for name, path in files.items() if name.endswith(SUFFIXES) and not NO_WEIGHTS.match(name)}
    if not weights:
        nested = [child for child in entries(folder) if child.is_dir() and _holds_weights(child)]
        if not nested:
            return "it holds no weights"
        return next(filter(None, map(fault, nested)), "")
    return _missing(folder, files, weights) or next(filter(None, map(_damage, weights.values())), "")


def _holds_weights(folder: Path) -> bool:
    return any(entry.name.endswith(SUFFIXES) and not NO_WEIGHTS.match(entry.name) for entry in entries(folder))


def _missing(folder: Path, files: dict[str, Path], weights: dict[str, Path]) -> str:
    """Say which file is missing, of those that others name."""
    if any(name.endswith(".distcp") for name in weights) and ".metadata" not in files:
        return "it has no .metadata, which is written last"
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if index in files:
            try:
                named = read_json(folder / index).get("weight_map")
            except InputError:
                return f"{index} cannot be read"
            shards = {shard for shard in named.values() if isinstance(shard, str)} if isinstance(named, dict) else set()
            if absent := sorted(shards - files.keys()):
                return f"{printable(absent[0])} is missing"
    for name in weights:
        if absent_shard := _absent(name, weights):
            return f"{printable(absent_shard)} is missing"
    return ""


def _absent(name: str, weights: dict[str, Path]) -> str:
    """Name the first file that is missing of a series of shards, or of the files of the ranks."""
    if match := RANK.fullmatch(name):
        ranks = {int(other[2]) for other in map(RANK.fullmatch, weights) if other and other[1] == match[1]}
        absent = next((rank for rank in range(min(int(match[1]), ENTRIES)) if rank not in ranks), None)
        return "" if absent is None else f"model_world_size_{match[1]}_rank_{absent}.pt"
    if match := NUMBERED.fullmatch(name):
        stem, _, count, suffix = match.groups()
        names = (f"{stem}-{number:0{len(count)}d}-of-{count}{suffix}" for number in range(1, min(int(count), ENTRIES) + 1))
        return next((other for other in names if other not in weights), "")
    return ""


def _damage(path: Path) -> str:
    """Say how a file is cut short, from its header and its size."""
    try:
        size = path.stat().st_size
        if not size:
            return f"{printable(path.name)} is empty"
        if path.suffix == ".safetensors":
            return _cut_safetensors(path, size)
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return ""
            file.seek(max(0, size - ZIP_END))
            return "" if b"PK\x05\x06" in file.read(ZIP_END) else f"{printable(path.name)} is cut short"
    except OSError as error:
        return f"{printable(path.name)}: {error.strerror or error}"


def _cut_safetensors(path: Path, size: int) -> str:
    """Compare the size of a file of safetensors with the end of its last tensor."""
    cut = f"{printable(path.name)} is cut short"
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else HEADER + 1
        if length > HEADER or 8 + length > size:
            return cut
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return cut if 8 + length + max(ends, default=0) > size else ""
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return f"{printable(path.name)} has no header of safetensors"


def base_of_adapter(folder: Path) -> str | None:
    """Return the base that the settings of an adapter name."""
    try:
        name = read_json(folder / "adapter_config.json", limit=1_000_000).get("base_model_name_or_path")
    except InputError:
        return None
    return printable(name, 4096) if isinstance(name, str) and name.strip() else None


def base_of_config(folder: Path) -> str | None:
    """Return the path or id that ``config.json`` was loaded from, which transformers before version 5 recorded."""
    try:
        name = read_json(folder / "config.json").get("_name_or_path")
    except InputError:
        return None
    return printable(name, 4096) if isinstance(name, str) and name.strip() else None


def read_pointer_number(path: Path) -> int | None:
    """Return the whole number that a small file holds, such as ``latest_checkpointed_iteration.txt``; None if it holds none."""
    try:
        text = read_bytes(path, 100).strip()
    except InputError:
        return None
    return int(text) if text.isdigit() and len(text) < 19 else None


def local_base(name: str, folder: Path | None) -> str:
    """Return the path of a base that a setting names relative to the folder a trainer was started in, if it is there; else the name."""
    if folder is None or "\0" in name or Path(name).is_absolute():
        return name
    return str(folder / name) if (folder / name).is_dir() else name


def shown(path: Path, folder: Path) -> str:
    """Return a path as messages name it: relative to the folder of the run if it is in it."""
    absolute = path.absolute()
    return printable(absolute.relative_to(folder.absolute()) if absolute.is_relative_to(folder.absolute()) else path)
