"""Small generated checkpoints, writers for each format, and checks that several tests share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dynamics.checkpoints import Checkpoint
from dynamics.errors import InputError
from dynamics.io.folders import exclusive, save_folder
from dynamics.report.section import Doubt
from dynamics.sparsity import STEPS

SAFETENSORS_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "uint8": "U8",
    "bool": "BOOL",
}


def bf16(values: np.ndarray) -> np.ndarray:
    """Convert floats to bf16 bit patterns by truncation, which suffices for test values."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def reasons(checkpoint: Checkpoint) -> dict[str, str]:
    """Map the ignored entries of a checkpoint to the reasons."""
    return {entry.name: entry.reason for entry in checkpoint.ignored}


def wide(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_safetensors(path: Path, tensors: dict[str, np.ndarray | tuple[str, np.ndarray]], pad: int = 0) -> Path:
    """Write a safetensors file; a value may be (dtype code, array of its bits)."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset, blobs = 0, []
    for name, value in tensors.items():
        code, array = value if isinstance(value, tuple) else (SAFETENSORS_CODES[value.dtype.name], value)
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": code, "shape": list(np.shape(array)), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    return path


def assert_same(tensor, reference, seed=0):
    """Compare shape, dtype and the bits of the whole tensor and of random ranges."""
    assert (tensor.shape, f"torch.{tensor.dtype}") == (tuple(reference.shape), str(reference.dtype))
    import torch

    bits = reference.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    rng, width = np.random.default_rng(seed), tensor.storage.itemsize
    for start, stop in [(0, tensor.numel), *(sorted(rng.integers(0, tensor.numel + 1, 2).tolist()) for _ in range(20))]:
        assert tensor.stored(start, stop).tobytes() == bits[start * width : stop * width], (tensor.name, start, stop)


def ends_well(read, path):
    """Check that everything including tensor values can be read, or that an ``InputError`` of one line gives the reason."""
    try:
        for tensor in getattr(read(path), "tensors", {}).values():
            tensor.values()
    except InputError as error:
        return "\n" not in str(error)
    return True


def check_row(result, expected, ulp=True):
    """Compare a row with the plain reference."""
    assert result.numel == expected["numel"]
    assert result.changed == expected["changed"]
    assert result.nonfinite == expected["nonfinite"]
    for key in ("base_norm", "update_norm", "relative_update", "max_abs_update"):
        assert getattr(result, key) == pytest.approx(expected[key], rel=1e-9, nan_ok=True), key
    assert result.cosine == pytest.approx(expected["cosine"], abs=1e-9, nan_ok=True)
    if ulp:
        assert result.ulp == histogram(expected["steps"])


def histogram(steps: np.ndarray) -> dict[str, int]:
    """Compute the histogram bin by bin from the labels."""
    counts = {}
    for label in STEPS:
        low, _, high = label.partition("-")
        counts[label] = int(np.sum((steps >= int(low)) & (steps <= int(high or low))))
    assert sum(counts.values()) == steps.size
    return counts


def tidy(p, n, seed=0, model=None, **extra):
    """Make a table of ``n`` samples of problems that are solved with probabilities ``p``."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"problem": np.repeat([f"p{i}" for i in range(len(p))], n), "correct": rng.random(len(p) * n) < np.repeat(p, n)})
    if model:
        frame.insert(0, "model", model)
    return frame.assign(**extra)


def browser() -> str | None:
    """Find a browser that runs headless."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def dumped(page, folder, *flags):
    """Return the page in a browser after its scripts have run."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        *flags,
    ]
    command = [browser(), *flags, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def made_once(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """Return a folder for the whole test run, which the first worker of pytest-xdist that needs it fills while the others wait."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # that all workers share
    with exclusive(root / f"{name}.lock", lambda: None):
        if not (root / name).exists():
            save_folder(root / name, fill)
    return root / name


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a number of bytes, with the same errors as of a full disk but for their name.

    Modules that are imported meanwhile are not cached: Python would leave half a file.
    """
    import resource

    before, caches = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        sys.dont_write_bytecode = caches


def check_read_or_refused(read, path, where):
    """Check that a file is read, or refused in one line; ``where`` names the case."""
    message = ""
    try:
        read(path)
    except InputError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(where) from error
    assert len(message) < 2000, where
    assert "\n" not in message, where


def doubt_texts(doubts: Iterable[Doubt]) -> list[str]:
    """Return the texts of the doubts of a section."""
    return [doubt.text for doubt in doubts]
