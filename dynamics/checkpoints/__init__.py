"""Open checkpoints of many formats as lazy tensors with their stored dtypes.

>>> import numpy as np
>>> open_checkpoint({"w": np.zeros((2, 3), np.float32)}).tensors["w"].shape
(2, 3)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.checkpoints import parameter_names
from dynamics.checkpoints.quantised import dequantise
from dynamics.checkpoints.tensor import LONGEST_NAME, Checkpoint, Ignored, Skip, Tensor, from_array
from dynamics.errors import InputError, printable
from dynamics.io.locations import Location, location
from dynamics.io.paths import no_such_path

if TYPE_CHECKING:
    from dynamics.io.threads import Progress

__all__ = ["Checkpoint", "Ignored", "Skip", "Source", "Tensor", "digest", "from_array", "open_base", "open_checkpoint"]

#: a path, a Hub id, a mapping from names to tensors or arrays, or an open checkpoint
Source = str | os.PathLike[str] | Mapping[str, Any] | Checkpoint

#: a number in a name that is that of no layer
SURROGATE = re.compile("[\ud800-\udfff]")
LONG_NUMBER = re.compile(r"\d{19}")


def open_checkpoint(source: Source) -> Checkpoint:
    """Open a checkpoint. Headers are read and checked; values are not read.

    Parameters
    ----------
    source : a ``.safetensors``, ``.bin``, ``.pt``, ``.pth``, ``.gguf``, ``.npy`` or ``.npz`` file; a folder of ``.npy`` files; a Hugging
        Face folder, sharded or not; a torch distributed checkpoint, also of Megatron; a folder of verl / FSDP rank shards, of DeepSpeed,
        or of Meta's or Mistral's ``consolidated`` files; a PEFT LoRA folder; a Hub id, ``org/name@revision``; a URL of any of these in
        an object store, ``s3://bucket/folder``; or a mapping from names to tensors or arrays.

    Raises
    ------
    InputError : the checkpoint cannot be read; the message gives the reason. Code in a checkpoint is never executed.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        from dynamics.checkpoints.memory import read_mapping

        held = read_mapping(source)
        return replace(dequantise(held), stored=held)
    if not os.fspath(source):
        raise InputError("a checkpoint's path is empty")
    path = location(source if isinstance(source, (str, Path)) else os.fspath(source))
    try:
        exists = path.exists()
    except OSError as error:
        raise InputError(f"{printable(source)}: {error.strerror or error}") from None
    except InputError:
        raise
    except ValueError:
        raise InputError(f"{printable(source)}: is not a path") from None
    if not exists:
        if isinstance(path, Path):
            return _from_hub(str(source))
        raise InputError(f"{printable(path)}: no such object or folder")
    return _opened(path)


def _opened(path: Location) -> Checkpoint:
    try:
        checkpoint = _read(path)
        if not checkpoint.tensors and checkpoint.adapter is None:
            raise InputError(f"{printable(path)}: holds no tensors")
        _check_names(checkpoint)
        checkpoint = replace(checkpoint, ignored=tuple(map(_printable, checkpoint.ignored)))
        return replace(_merged(dequantise(checkpoint), path), stored=checkpoint.stored or checkpoint)
    except OSError as error:  # a folder that may not be entered, or was deleted meanwhile
        raise InputError(f"{printable(error.filename or path)}: {error.strerror or error}") from None
    except MemoryError:
        raise InputError(f"{printable(path)}: takes more memory than this machine has to spare; if it should not, fetch it again") from None


def _printable(entry: Ignored) -> Ignored:
    """Make what a stranger's file says of an entry safe to print and to write."""
    if entry.name.isprintable() and entry.reason.isprintable() and len(entry.name) <= LONGEST_NAME:
        return entry
    return replace(entry, name=printable(entry.name, LONGEST_NAME), reason=printable(entry.reason, LONGEST_NAME))


def _check_names(checkpoint: Checkpoint) -> None:
    """Refuse names that no model has: what compares and prints names takes them to be short."""
    for name in checkpoint.tensors:
        if len(name) > LONGEST_NAME:
            raise InputError(f"{printable(checkpoint.path)}: has a tensor whose name has {len(name)} characters ({printable(name, 40)})")
        if not name.isascii() and SURROGATE.search(name):
            raise InputError(f"{printable(checkpoint.path)}: has a tensor whose name is not valid Unicode ({printable(name, 40)})")
        if LONG_NUMBER.search(name):
            raise InputError(
                f"{printable(checkpoint.path)}: has a tensor with a number of over 18 digits in its name ({printable(name, 40)})"
            )


def open_base(source: Source, name: str = "BASE") -> Checkpoint:
    """Open a checkpoint that others are compared with; an adapter is refused.

    Parameters
    ----------
    source : see ``open_checkpoint``.
    name : of the argument that gives the base, for the message.
    """
    checkpoint = open_checkpoint(source)
    if checkpoint.adapter is not None:
        what = "is a LoRA adapter, which has no weights of its own; name the model it belongs to"
        raise InputError(f"{printable(checkpoint.path)}: {what} as {name}")
    return checkpoint


def digest(checkpoint: Checkpoint, threads: int | None = None, progress: Progress | None = None) -> str:
    """Read a checkpoint and return the digest of its weights, such as ``weights/1:0a1b...``; see ``digests``.

    It is of all tensors as they are stored, codes and scales of quantised weights and buffers too; of an adapter, of its own. The readers
    of GGUF, of DeepSpeed and of tensor-parallel ranks convert or put together what they read: then it is of what they give. Equal digests
    mean equal weights. Different ones need not mean different models: names are part of them, a tied head that is stored twice is another
    set of names than one that is stored once, and -0.0 is not 0.0.

    Parameters
    ----------
    checkpoint : what ``open_checkpoint`` returns.
    threads : number of threads; one per core if None.
    progress : called with (elements done, all elements).

    Raises
    ------
    InputError : a file cannot be read; or an adapter was applied to a base, so that the last bits of weights depend on the machine.

    Examples
    --------
    >>> import numpy as np
    >>> digest(open_checkpoint({"w": np.zeros(2, np.float32)}))[:18]
    'weights/1:fe85fde7'
    """
    from dynamics.checkpoints.digests import as_stored, digest_of, hash_tensors

    tensors = as_stored(checkpoint)
    return digest_of(tensors, dict(zip(tensors, hash_tensors(tensors.values(), threads, progress), strict=True)))


def _merged(checkpoint: Checkpoint, path: Location) -> Checkpoint:
    """Apply the factors of an adapter that lie among the weights of a whole model, as sharded checkpoints of a PEFT model have them.

    Their scaling is in ``adapter_config.json``. Where there is none, the checkpoint is returned as it is.
    """
    if not any(parameter_names.ADAPTED.search(name) for name in checkpoint.tensors):
        return checkpoint
    folder = path if path.is_dir() else path.parent
    for inner in (folder, folder / "lora_adapter", folder / "actor" / "lora_adapter"):
        if (config := inner / "adapter_config.json").exists():
            from dynamics.checkpoints.adapter import merge_own_factors
            from dynamics.io.side_files import read_json

            return merge_own_factors(checkpoint, read_json(config, unique=True))
    return checkpoint


def _from_hub(text: str) -> Checkpoint:
    from dynamics.checkpoints.hub import download, is_hub_id

    if not is_hub_id(text):
        raise InputError(no_such_path(text))
    return replace(_opened(download(text)), path=text)


def _read(path: Location) -> Checkpoint:
    if path.is_dir():
        from dynamics.checkpoints.folder import read_folder

        return read_folder(path)
    if path.name in ("adapter_model.safetensors", "adapter_model.bin") and (path.parent / "adapter_config.json").exists():
        from dynamics.checkpoints.adapter import read_adapter

        return read_adapter(path.parent)
    if path.suffix == ".safetensors":
        from dynamics.checkpoints.safetensors import read_safetensors

        return read_safetensors(path)
    if path.suffix == ".gguf":
        from dynamics.checkpoints.gguf import read_gguf

        return read_gguf(path)
    if path.suffix in (".npy", ".npz"):
        from dynamics.checkpoints.arrays import read_npy, read_npz

        return read_npy(path) if path.suffix == ".npy" else read_npz(path)
    if path.suffix in (".bin", ".pt", ".pth"):
        from dynamics.checkpoints.folder import refuse_part
        from dynamics.checkpoints.pickled import read_pickled
        from dynamics.checkpoints.tensor_parallel import check_alone

        refuse_part(path)
        checkpoint = read_pickled(path)
        check_alone(path, checkpoint)
        return checkpoint
    if path.suffix == ".distcp":
        raise InputError(f"{printable(path)}: is one rank's part of a distributed checkpoint; name the folder it lies in")
    if path.suffix == ".json":
        raise InputError(f"{printable(path)}: is a JSON file; name the folder it lies in")
    raise InputError(f"{printable(path)}: unknown kind of file; expected .safetensors, .bin, .pt, .pth, .gguf, .npy, .npz or a folder")
