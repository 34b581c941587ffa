"""Speed and memory of `dynamics.sparsity`, as ratios against named peers in the same run.

    python benchmarks/sparsity.py [--gib 1] [--rounds 7] [--folder DIR] [--published]

Two bf16 checkpoints of the given size are written, kept in the page cache, and compared in turn by

floor       counting `a != b` on the mapped bytes of both files, same threads: the cost of reading and one comparison
report      `dynamics.sparsity.compare`: every measure of the report
reading     `preadv` of both files into reused buffers, same threads: the floor for identical files
halves      the floor of a float32 base against bf16: the upper halves of its values are compared
adapter     a LoRA adapter of rank 16 against its base, beside the report of the dense pair, which has as many changed weights
digests     the report with the digests of both sides, beside the report without, and beside sha256 of both files
published   the logic of the script of arXiv 2505.11711: load both with safetensors, concatenate the differences, `isclose`

Rounds alternate between the contestants, so that noise of the machine affects all of them. The ratio is that of the medians; the best
ratio of a round and that of the smallest CPU times are printed beside it. Memory is the peak of anonymous memory (RssAnon) of the whole
command in a fresh process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from dynamics.io.threads import cores
from dynamics.sparsity import compare

TENSORS = 64
FLOOR_CHUNK = 1 << 18


def write_pair(folder: Path, gib: float) -> dict[str, Path]:
    """Write base, sparse (10% of the weights changed), dense (all changed), copy (same bytes) and link (same file)."""
    rng = np.random.default_rng(0)
    numel = int(gib * 2**30) // 2 // TENSORS // 1024 * 1024
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(TENSORS)]
    kinds = ("base", "sparse", "dense", "copy")
    paths = {kind: _begun(folder / f"{kind}.safetensors", names, "BF16", (numel // 1024, 1024), 2) for kind in kinds}
    for _ in range(TENSORS):
        base = (rng.normal(0, 0.02, numel).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        moved = base + rng.integers(1, 5, numel).astype(np.uint16)
        sparse = np.where(rng.random(numel) < 0.1, moved, base)
        for name, values in (("base", base), ("sparse", sparse), ("dense", moved), ("copy", base)):
            with open(paths[name], "ab") as file:
                file.write(values.tobytes())
    paths["link"] = folder / "link.safetensors"
    paths["link"].unlink(missing_ok=True)
    os.link(paths["base"], paths["link"])
    return paths


def write_others(folder: Path, gib: float) -> dict[str, Path]:
    """Write a float32 pair, a float16 pair and a LoRA adapter of the base of ``write_pair``."""
    rng = np.random.default_rng(1)
    numel = int(gib * 2**30) // 2 // TENSORS // 1024 * 1024
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(TENSORS)]
    paths = {}
    for dtype, code in ((np.float32, "F32"), (np.float16, "F16")):
        for side in ("base", "tuned"):
            paths[f"{code} {side}"] = _begun(
                folder / f"{code}_{side}.safetensors", names, code, (numel // 1024, 1024), np.dtype(dtype).itemsize
            )
        for _ in names:
            base = rng.normal(0, 0.02, numel).astype(np.float32)
            tuned = base + rng.normal(0, 1e-4, numel).astype(np.float32)
            for side, values in (("base", base), ("tuned", tuned)):
                with open(paths[f"{code} {side}"], "ab") as file:
                    file.write(values.astype(dtype).tobytes())
    paths["adapter"] = folder / "adapter"
    paths["adapter"].mkdir()
    (paths["adapter"] / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16, "lora_alpha": 16, "bias": "none"}))
    factors = {}
    for name in names:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        factors[f"{module}.lora_A.weight"] = rng.normal(0, 0.02, (16, 1024)).astype(np.float32)
        factors[f"{module}.lora_B.weight"] = rng.normal(0, 0.02, (numel // 1024, 16)).astype(np.float32)
    header, end = {}, 0
    for name, values in factors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    (paths["adapter"] / "adapter_model.safetensors").write_bytes(_head(header) + b"".join(values.tobytes() for values in factors.values()))
    return paths


def _begun(path: Path, names: list[str], code: str, shape: tuple[int, int], width: int) -> Path:
    size = shape[0] * shape[1] * width
    header = {name: {"dtype": code, "shape": list(shape), "data_offsets": [size * i, size * (i + 1)]} for i, name in enumerate(names)}
    path.write_bytes(_head(header))
    return path


def _head(header: dict) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def floor(base: Path, tuned: Path, threads: int, dtype: type = np.uint16) -> int:
    a, b = (np.memmap(path, dtype, "r") for path in (base, tuned))
    return _count(a, b, threads)


def floor_of_halves(base: Path, tuned: Path, threads: int) -> int:
    """Count the bf16 values that differ from the upper halves of the float32 ones."""
    a, b = (np.memmap(path, np.uint16, "r") for path in (base, tuned))
    numel = min(a.size // 2, b.size)
    return _count(a[1::2][:numel], b[:numel], threads)


def _count(a: np.ndarray, b: np.ndarray, threads: int) -> int:
    spans = range(0, a.size, FLOOR_CHUNK)
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda i: np.count_nonzero(a[i : i + FLOOR_CHUNK] != b[i : i + FLOOR_CHUNK]), spans))


def reading(base: Path, tuned: Path, threads: int, chunk: int = 1 << 20) -> None:
    local = threading.local()
    files = [os.open(path, os.O_RDONLY) for path in (base, tuned)]

    def read(offset: int) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(chunk)
        for file in files:
            os.preadv(file, [local.buffer], offset)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(0, base.stat().st_size, chunk)))
    for file in files:
        os.close(file)


def sha256_of_files(*paths: Path, threads: int) -> list[str]:
    """Hash files as ``sha256sum`` does."""

    def of_file(path: Path) -> str:
        found = hashlib.sha256()
        with open(path, "rb") as file:
            while data := file.read(1 << 18):
                found.update(data)
        return found.hexdigest()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(of_file, paths))


def published(base: Path, tuned: Path) -> float:
    """Do the arithmetic of check_sparsity.py with `safe_open` (the script itself loads by transformers, which is slower)."""
    import torch
    from safetensors import safe_open

    with safe_open(base, "pt") as a, safe_open(tuned, "pt") as b:
        deltas = [(b.get_tensor(name) - a.get_tensor(name)).flatten() for name in a.keys()]  # noqa: SIM118
    delta = torch.cat(deltas)
    (delta == 0).sum().item() / delta.numel()
    return torch.isclose(delta, torch.zeros_like(delta), atol=1e-5).sum().item() / delta.numel()


def timed(function, *arguments) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def race(name: str, peer_name: str, peer, ours, rounds: int) -> None:
    peer(), ours()  # warm up caches and compile
    times, cpus = [], []
    for _ in range(rounds):
        started = time.process_time()
        of_peer, between = timed(peer), time.process_time()
        times.append((of_peer, timed(ours)))
        cpus.append((between - started, time.process_time() - between))
    cpu = min(mine for _, mine in cpus) / min(peers for peers, _ in cpus)
    peers, mine = ([pair[i] for pair in times] for i in (0, 1))
    ratio = statistics.median(mine) / statistics.median(peers)
    best = min(mine) / min(peers)
    print(
        f"{name:<28} {peer_name} {statistics.median(peers):6.3f} s   report {statistics.median(mine):6.3f} s   "
        f"ratio {ratio:5.2f}   best against best {best:5.2f}   by CPU time {cpu:5.2f}",
        flush=True,
    )


def peak_anonymous(arguments: list[str]) -> tuple[float, float]:
    """Return (MB, seconds) of the command in a fresh process."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "dynamics.sparsity", *arguments], stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    peak = max(peak, int(line.split()[1]))
        except OSError:
            break
        time.sleep(0.002)
    assert process.wait() == 0
    return peak * 1024 / 1e6, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0, help="size of one checkpoint")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--folder", type=Path, help="where to put the checkpoints (default: a temporary folder)")
    parser.add_argument("--published", action="store_true", help="also time the published script's logic; needs torch, memory 11x the size")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        paths = write_pair(Path(temporary), options.gib)
        base, threads = paths["base"], options.threads
        print(f"2 x {options.gib:g} GiB bf16, {threads} threads, {options.rounds} rounds, medians")
        for kind in ("sparse", "dense"):
            tuned = paths[kind]
            race(kind, "floor", lambda t=tuned: floor(base, t, threads), lambda t=tuned: compare(base, t, threads=threads), options.rounds)
        for kind in ("copy", "link"):
            tuned = paths[kind]
            race(
                f"identical ({kind})",
                "reading",
                lambda t=tuned: reading(base, t, threads),
                lambda t=tuned: compare(base, t, threads=threads),
                options.rounds,
            )
        sparse = paths["sparse"]
        plain, hashed = (partial(compare, base, sparse, threads=threads, digest=digest) for digest in (False, True))
        race("sparse, with digests", "plain", plain, hashed, options.rounds)
        race("sparse, with digests", "sha256", lambda: sha256_of_files(base, sparse, threads=threads), hashed, options.rounds)
        others = write_others(Path(temporary), options.gib)
        for name, a, b, peer in (
            ("float32", others["F32 base"], others["F32 tuned"], lambda a, b: floor(a, b, threads, np.uint32)),
            ("float32 against bf16", others["F32 base"], paths["base"], lambda a, b: floor_of_halves(a, b, threads)),
            ("float16", others["F16 base"], others["F16 tuned"], lambda a, b: floor(a, b, threads)),
        ):
            race(name, "floor", partial(peer, a, b), partial(compare, a, b, threads=threads), options.rounds)
        dense, adapter = (partial(compare, base, other, threads=threads) for other in (paths["dense"], others["adapter"]))
        race("LoRA adapter", "dense", dense, adapter, options.rounds)
        for kind in ("sparse", "dense"):
            memory, seconds = peak_anonymous([str(base), str(paths[kind]), "--json", "-", "--threads", str(threads)])
            print(f"{kind + ', whole command':<28} {seconds:.2f} s, peak anonymous memory {memory:.0f} MB", flush=True)
        if options.published:
            ours = min(timed(lambda: compare(base, paths["sparse"], threads=threads)) for _ in range(3))
            theirs = timed(published, base, paths["sparse"])
            print(f"{'sparse':<28} published script's logic {theirs:.1f} s   report {ours:.3f} s   {theirs / ours:.0f} x faster")


if __name__ == "__main__":
    main()
