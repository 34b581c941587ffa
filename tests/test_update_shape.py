"""Updates are compared only with those of the same base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from analyses import runs, support, update_shape

RUNS = Path(__file__).parent / "data" / "runs"


@pytest.fixture
def of_two_bases(tmp_path: Path) -> Path:
    """SFT and RLVR of one base as seed 0, and of another base as seed 1, with the same updates."""
    for name in ("sft-0", "rlvr-0"):
        for seed in (0, 1):
            folder = tmp_path / name.replace("0", str(seed))
            shutil.copytree(RUNS / name, folder)
            document = json.loads((folder / "run.json").read_text())
            document |= {"seed": seed, "checksums": document.get("checksums", {}) | {"base": f"base {seed}"}}
            (folder / "run.json").write_text(json.dumps(document))
            if seed:
                for file in (folder / "checkpoints").rglob("model.safetensors"):
                    shift = np.random.default_rng(0)
                    moved = {
                        name: (value + shift.normal(0, 0.05, value.shape)).astype(value.dtype) for name, value in load_file(file).items()
                    }
                    save_file(moved, file)
    return tmp_path


def test_pairs_are_of_one_base(of_two_bases: Path) -> None:
    table = update_shape.measure(runs.find([of_two_bases]))
    pairs = table[table["part"] == "pair"].set_index("seed")
    assert sorted(pairs.index) == [0, 1]  # not the four pairs of other bases, whose cosine would be that of the difference of the bases
    assert (pairs["label"] == "sft and rlvr").all()
    assert pairs["cosine"].iloc[0] == pytest.approx(pairs["cosine"].iloc[1], abs=0.05)


def test_bases_without_a_checksum_are_compared_by_their_weights(of_two_bases: Path) -> None:
    for file in of_two_bases.glob("*/run.json"):
        document = json.loads(file.read_text())
        del document["checksums"]
        file.write_text(json.dumps(document))
    groups = update_shape.by_base(runs.find([of_two_bases]))
    assert sorted([run.seed for run in group] for group in groups) == [[0, 0], [1, 1]]


def test_runs_without_a_pair_still_have_spectra(of_two_bases: Path) -> None:
    for name in ("rlvr-0", "sft-1"):
        shutil.rmtree(of_two_bases / name)
    table = update_shape.measure(runs.find([of_two_bases]))
    assert set(table["part"]) == {"spectrum"}
    assert "no updates are compared" in update_shape.caption(table)
    assert len(update_shape.figure(table).get_axes()) == len(update_shape.PANELS)
    assert pd.notna(table["value"]).all()


def test_support_reads_every_base_of_a_seed_also_without_checksums(of_two_bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a checksum is not taken for one from the base of another run of its seed."""
    for name, seed in (("sft-0", 1), ("rlvr-1", 0)):
        shutil.rmtree(of_two_bases / name)
        file = of_two_bases / name.replace(name[-1], str(seed)) / "run.json"
        document = json.loads(file.read_text())
        del document["checksums"]
        file.write_text(json.dumps(document | {"seed": 0}))
    read: list[str] = []
    monkeypatch.setattr(support, "_expected_answers", lambda run: read.append(run.method) or [])
    monkeypatch.setattr(support, "_answers", lambda run, solved: [])
    support.measure(runs.find([of_two_bases]))
    assert sorted(read) == ["rlvr", "sft"]
