"""Speed and memory of `dynamics.sparsity`, as ratios against named peers in the same run.

    python benchmarks/sparsity.py [--gib 1] [--rounds 7] [--folder DIR] [--published]

Two bf16 checkpoints of the given size are written, kept in the page cache, and compared in turn by

floor       counting `a != b` on the mapped bytes of both files, same threads: the cost of reading and one comparison
report      `dynamics.sparsity.compare`: every measure of the report
reading     `preadv` of both files into reused buffers, same threads: the floor for identical files
published   the logic of the script of arXiv 2505.11711: load both with safetensors, concatenate the differences, `isclose`

Rounds alternate between the contestants, so that noise of the machine affects all of them; the ratio is that of the medians, and the best
ratio of a round is printed beside it. Memory is the peak of anonymous memory (RssAnon) of the whole command in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
    shape = [numel // 1024, 1024]
    header = {
        f"model.layers.{i}.mlp.up_proj.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [2 * numel * i, 2 * numel * (i + 1)]}
        for i in range(TENSORS)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    paths = {name: folder / f"{name}.safetensors" for name in ("base", "sparse", "dense", "copy")}
    for path in paths.values():
        path.write_bytes(len(text).to_bytes(8, "little") + text)
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


def floor(base: Path, tuned: Path, threads: int) -> int:
    a, b = (np.memmap(path, np.uint16, "r") for path in (base, tuned))
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
    times = [(timed(peer), timed(ours)) for _ in range(rounds)]
    peers, mine = ([pair[i] for pair in times] for i in (0, 1))
    ratio = statistics.median(mine) / statistics.median(peers)
    best = min(mine) / min(peers)
    print(
        f"{name:<28} {peer_name} {statistics.median(peers):6.3f} s   report {statistics.median(mine):6.3f} s   "
        f"ratio {ratio:5.2f}   best against best {best:5.2f}",
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
        for kind in ("sparse", "dense"):
            memory, seconds = peak_anonymous([str(base), str(paths[kind]), "--json", "-", "--threads", str(threads)])
            print(f"{kind + ', whole command':<28} {seconds:.2f} s, peak anonymous memory {memory:.0f} MB", flush=True)
        if options.published:
            ours = min(timed(lambda: compare(base, paths["sparse"], threads=threads)) for _ in range(3))
            theirs = timed(published, base, paths["sparse"])
            print(f"{'sparse':<28} published script's logic {theirs:.1f} s   report {ours:.3f} s   {theirs / ours:.0f} x faster")


if __name__ == "__main__":
    main()
