"""Make own/sft, own/rlvr and own/selfplay, runs of this project's training from a small base.

python tests/data/runs/make_own.py [OUT]

Needs training-dynamics[models,tasks]; made with torch 2.13.0 and transformers 5.23.0. The base has the tokenizer of the embedded model.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dynamics.train import tiny
from dynamics.train.__main__ import main
from dynamics.train.tiny import Recipe

SHARED = (
    "--model base --preset tiny --steps 4 --save-every 2 --eval-problems 4 --eval-samples 2 --eval-temperatures 1 --threads 1 "
    "--max-new-tokens 8 --probe-every 2 --learning-rate 1e-3 --max-tokens-per-microbatch 640"
)
RUNS = {
    "sft": "--num-problems 16 --batch-size 4",
    "rlvr": "--num-problems 8 --prompts-per-step 2 --group-size 4 --kl-coef 0.01 --task induction",
    "selfplay": "--prompts-per-step 2 --group-size 2 --max-proposal-tokens 16 --num-seed-tasks 4",
}


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    """Change the working directory, so that no file names a path of this machine."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def make(out: Path) -> None:
    """Train, and leave out the states for resuming."""
    with tempfile.TemporaryDirectory() as scratch, _inside(scratch):
        model, tokenizer = tiny.make(Recipe(hidden=8, layers=2, heads=2, intermediate=16, steps=30, threads=1))
        model.save_pretrained("base")
        tokenizer.save_pretrained("base")
        for method, options in RUNS.items():
            status = main([method, *SHARED.split(), *options.split(), "--out", f"own/{method}"])
            if status:
                raise SystemExit(status)
            shutil.rmtree(f"own/{method}/state")
            shutil.rmtree(out / f"own/{method}", ignore_errors=True)
            shutil.copytree(f"own/{method}", out / f"own/{method}")


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(__file__)).resolve())
