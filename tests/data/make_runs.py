"""Record the small base model that tests train, and runs of the preset ``quick`` for the tests of the analyses.

    python tests/data/make_runs.py FOLDER        # writes FOLDER/base and FOLDER/runs; tests read those beside this file

The runs are those of ``python -m analyses comparison --preset quick``, made by the same code with the same options, but the embedded model
is replaced by a smaller model, so that all checkpoints together stay under 2 MB.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from analyses import launch
from dynamics.train import tiny

#: some of its samples are correct, so that RLVR changes it
BASE = tiny.Recipe(steps=200, hidden=64, layers=2, intermediate=128, threads=1)
SMALLER = tiny.Recipe(steps=400, hidden=32, layers=2, intermediate=64, threads=1)


def write_model(recipe: tiny.Recipe, folder: Path) -> None:
    model, tokenizer = tiny.make(recipe)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(target: Path) -> None:
    write_model(BASE, target / "base")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DYNAMICS_CACHE"] = cache
        write_model(SMALLER, tiny.folder())
        launch.train("quick", target / "runs")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
