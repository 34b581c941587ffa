"""Samples of untrained models that are kept between runs: the runs of one base ask it the same questions before they train it.

Kept are the sampled tokens, not the verdicts on them: every run decodes and judges them itself. The key of an entry holds everything that
the tokens depend on: weights and configuration of the model, prompts, temperatures, number of samples, limits, seed, dtypes, threads, the
machine, versions, and the code that samples. So what is read is, to the bit, what would be sampled anew; a run with another key samples.
Entries lie in the user's cache folder, in ``evaluations``. They are written whole or not at all, and have checksums. Those that were not
used for longest are deleted when all together exceed ``MOST``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

import dynamics
from dynamics.errors import InputError, printable
from dynamics.io.atomic import replacing
from dynamics.io.cache import bound, user_folder
from dynamics.io.json import encode
from dynamics.io.side_files import json_object, read_bytes
from dynamics.train import evaluate
from dynamics.train.policy import Policy

#: by prompt and sample: token ids, (tokens,) each
Samples = list[list[Int[np.ndarray, " _"]]]
SCHEMA = "dynamics.kept-samples/1"
#: bytes of an entry, which has four for each token and each sample
LARGEST = 100_000_000
#: bytes of all entries together
MOST = 300_000_000
#: names of entries, and how their content begins
NAME, BEGINNING = re.compile(r"base-[0-9a-f-]+\.samples"), f'{{"schema":"{SCHEMA}",'.encode()
#: folders and files of this package whose code decides which tokens are sampled
CODE = ("models.py", "rope.py", "train", "train/samplers")
#: packages beside this one whose version can change the bits
PACKAGES = ("torch", "transformers", "numpy", "numba", "llvmlite")
#: beginnings of the names of environment variables that choose how sums and products are computed
VARIABLES = ("ATEN_", "CUBLAS_", "DNNL_", "MKL_", "NUMBA_CPU", "NUMBA_OPT", "NVIDIA_TF32", "ONEDNN_", "TORCH_ALLOW_TF32")


class Damaged(Exception):
    """An entry cannot be used; the message says why."""


@dataclass(frozen=True)
class Entry:
    """The place of the samples of a model.

    Attributes
    ----------
    key : what the samples depend on, in plain values.
    prompts, samples : number of prompts, and of samples of each.
    """

    key: dict[str, Any]
    prompts: int
    samples: int

    @property
    def path(self) -> Path:
        """The file, in the user's cache folder as it is now."""
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        return user_folder() / "evaluations" / f"base-{digest[:32]}.samples"

    def read(self) -> Samples | None:
        """Return the samples; None if none are kept.

        Raises
        ------
        Damaged : there is a file, but not the one that was written.
        """
        if not os.path.lexists(self.path):
            return None
        try:
            header, newline, body = read_bytes(self.path, LARGEST).partition(b"\n")
            document = json_object(header, "its first line")
        except InputError as error:
            if not os.path.lexists(self.path):  # another run deleted it
                return None
            raise Damaged(str(error).removeprefix(f"{printable(self.path)}: ")) from None
        if not newline or document.get("schema") != SCHEMA or document.get("key") != self.key:
            raise Damaged("its first line is not the one that was written")
        if document.get("sha256") != hashlib.sha256(body).hexdigest():
            raise Damaged("its tokens do not have their checksum")
        kept = _unpacked(body, self.prompts, self.samples)
        with contextlib.suppress(OSError):
            os.utime(self.path)
        return kept

    def write(self, samples: Samples) -> None:
        """Keep samples.

        Raises
        ------
        InputError : they are too many, or the folder cannot be written.
        """
        body = _packed(samples)
        header = encode({"schema": SCHEMA, "key": self.key, "sha256": hashlib.sha256(body).hexdigest()}) + b"\n"
        if len(header) + len(body) > LARGEST:
            raise InputError(f"{printable(self.path)}: would have over {LARGEST:,} bytes")
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{printable(folder)}: cannot be made ({error.strerror or error})") from None
        with replacing(self.path) as temporary:
            temporary.write_bytes(header + body)
        bound(folder, NAME, BEGINNING, MOST, {self.path})


def entry(
    model: Policy,
    weights: str,
    machine: dict[str, str],
    prompts: Sequence[Int[np.ndarray, " _"]],
    temperatures: Sequence[float],
    samples: int,
    seed: int,
    limit: int,
) -> Entry:
    """Make the entry of what ``evaluate.sample`` gives for these arguments on this machine, with the threads that torch has now.

    Parameters
    ----------
    model : the model.
    weights : checksum of its master weights.
    machine : device, processor and instruction set.
    prompts, temperatures, samples, seed, limit : as for ``evaluate.sample``.
    """
    config = model.model.config
    settings = {name: value for name, value in config.to_dict().items() if name not in ("_name_or_path", "transformers_version")}
    key = {
        "weights": weights,
        "other tensors": _checksum(_tensors(model)),
        "model": [type(model.model).__name__, hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()],
        "attention": [str(config._attn_implementation), model.shares],
        "end": model.eos,
        "prompts": _checksum(prompt.astype("<i8").tobytes() + b"\n" for prompt in prompts),
        "temperatures": [float(temperature) for temperature in temperatures],
        "samples": samples,
        "seed": seed,
        "max_new_tokens": limit,
        "dtypes": [model.master, model.compute],
        "threads": torch.get_num_threads(),
        "machine": machine,
        "arithmetic": _arithmetic(model.device),
        "versions": [dynamics.__version__, torch.version.git_version, *map(importlib.metadata.version, PACKAGES)],
        "code": _checksum(file.read_bytes() for file in _code(Path(dynamics.__file__).parent)),
    }
    columns = len(evaluate.columns(temperatures, samples))
    return Entry(json.loads(json.dumps(key)), len(prompts), columns)


def _code(package: Path) -> Iterator[Path]:
    """List the files of the code that samples."""
    for name in CODE:
        yield from sorted((package / name).glob("*.py")) if (package / name).is_dir() else [package / name]


def _tensors(model: Policy) -> Iterator[bytes]:
    """Yield the names and values of parameters that are not trained, and of buffers."""
    for name, value in (*model.model.named_parameters(), *model.model.named_buffers()):
        if name not in model.masters:
            yield f"{name} {value.dtype} {tuple(value.shape)}\n".encode()
            yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _arithmetic(device: torch.device) -> dict[str, Any]:
    """List the settings of this process that can change the last bit of a matrix product."""
    chosen = {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
    backends: Any = torch.backends
    gpu = [torch.version.cuda, backends.cudnn.version()] if device.type == "cuda" else []
    return {"precision": torch.get_float32_matmul_precision(), "gpu": gpu, "environment": chosen}


def _checksum(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _packed(samples: Samples) -> bytes:
    """Pack the lengths of all samples, and then their tokens, as little-endian int32."""
    ids = [sample for group in samples for sample in group]
    return np.concatenate([np.array([len(sample) for sample in ids]), *ids]).astype("<i4").tobytes()


def _unpacked(body: bytes, prompts: int, samples: int) -> Samples:
    count = prompts * samples
    if len(body) % 4 or len(body) < 4 * count:
        raise Damaged("it does not hold that many samples")
    values = np.frombuffer(body, "<i4").astype(np.int64)
    lengths, ids = values[:count], values[count:]
    if (lengths < 0).any() or lengths.sum() != len(ids) or (ids < 0).any():
        raise Damaged("it does not hold that many tokens")
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    return [parts[start : start + samples] for start in range(0, count, samples)]
