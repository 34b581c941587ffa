"""One pass over the files of a report: each file is read once, and every number is the one that the measure gives alone."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import bf16, write_safetensors
from report_helpers import SHAPES, read, weights, write_checkpoint, write_run

from dynamics import overlap, spectra
from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.matching import match
from dynamics.report import Options, Report, assembly, matrices, one_pass, pairs, report
from dynamics.report.updates import base_of
from dynamics.runs import Run, SavedCheckpoint
from dynamics.sparsity.accumulate import accumulate_pairs

pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _only_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no sections but those on weights."""
    monkeypatch.setattr(assembly, "SECTIONS", ("weights", "directions", "overlap"))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often the weights of each file are read, as read bytes divided by the bytes of all weights: file -> times."""
    times: Counter[str] = Counter()
    preadv, lock = os.preadv, threading.Lock()

    def counted(file, buffers, offset):
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        start = 8 + int.from_bytes(os.pread(file, 8, 0), "little")
        count = preadv(file, buffers, offset)
        with lock:
            if offset >= start:
                times[path.parent.name] += count / (path.stat().st_size - start)  # type: ignore[assignment]
        return count

    monkeypatch.setattr(os, "preadv", counted)
    return times


def run_of(folder: Path, seed: int = 1, steps: tuple[int, ...] = (10, 20), prefix: str = "") -> Run:
    run = read(write_run(folder, seed, steps))
    assert run is not None
    for saved in run.checkpoints:  # a name of its own, for the counts
        saved.path.rename(saved.path.with_name(f"{prefix}{saved.step}"))
    return dataclasses.replace(run, checkpoints=[SavedCheckpoint(step, folder / f"{prefix}{step}") for step in steps])


def made(runs: list[Run], **options: object) -> Report:
    return report(runs, Options(model_passes=False, **options))  # type: ignore[arg-type]


def numbers(of: Report) -> dict[str, object]:
    return {
        section.key: [[finding.text for finding in section.findings], *(t.frame.to_csv() for t in section.tables)]
        for section in of.sections
    }


def alone(monkeypatch: pytest.MonkeyPatch, runs: list[Run]) -> dict[str, object]:
    """The numbers of the sections if each measures for itself."""
    with monkeypatch.context() as context:
        context.setattr(one_pass, "take", lambda runs, options: None)
        return numbers(made(runs))


def as_bf16(checkpoint: Path) -> None:
    tensors = {name: tensor.values().reshape(tensor.shape) for name, tensor in open_checkpoint(checkpoint).tensors.items()}
    write_safetensors(checkpoint / "model.safetensors", {name: ("BF16", bf16(values)) for name, values in tensors.items()})


def test_each_file_is_read_once(tmp_path: Path, loaded: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run_of(tmp_path / name, seed, prefix=name) for name, seed in (("a", 1), ("b", 2))]
    as_bf16(tmp_path / "b" / "b10")
    as_bf16(tmp_path / "b" / "b20")
    loaded.clear()
    together = numbers(made(runs))
    assert loaded == dict.fromkeys(("base", "a10", "a20", "b10", "b20"), pytest.approx(1))
    assert together == alone(monkeypatch, runs)
    assert loaded["base"] == pytest.approx(1 + 5, abs=0.1)  # by two measures of each run, of which one needs no vectors, and by the overlap


def test_new_checkpoints_cost_only_themselves_and_the_base(tmp_path: Path, loaded: Counter[str]) -> None:
    run = run_of(tmp_path / "a", prefix="a")
    made([run], cache=tmp_path / "cache")
    write_checkpoint(tmp_path / "a" / "a30", weights(1, 0.03))
    run = dataclasses.replace(run, checkpoints=[*run.checkpoints, SavedCheckpoint(30, tmp_path / "a" / "a30")])
    loaded.clear()
    first = made([run], cache=tmp_path / "cache")
    assert loaded == {"base": pytest.approx(1), "a30": pytest.approx(1)}
    assert numbers(made([run], cache=tmp_path / "cache")) == numbers(first) == numbers(made([run]))
    loaded.clear()
    made([run], cache=tmp_path / "cache")
    assert not loaded


def test_of_several_runs_those_that_did_not_go_on_are_read_for_the_overlap_only(tmp_path: Path, loaded: Counter[str]) -> None:
    runs = [run_of(tmp_path / name, seed, prefix=name) for name, seed in (("a", 1), ("b", 2))]
    made(runs, cache=tmp_path / "cache")
    write_checkpoint(tmp_path / "a" / "a30", weights(1, 0.03))
    runs[0] = dataclasses.replace(runs[0], checkpoints=[*runs[0].checkpoints, SavedCheckpoint(30, tmp_path / "a" / "a30")])
    loaded.clear()
    again = made(runs, cache=tmp_path / "cache")
    assert loaded == dict.fromkeys(("base", "a30", "b20"), pytest.approx(1))
    assert numbers(again) == numbers(made(runs))


def write_adapter(folder: Path, seed: int) -> Path:
    """Write an adapter of rank 2 of the matrices in layers."""
    rng, factors = np.random.default_rng(seed), {}
    for name, shape in SHAPES.items():
        if "q_proj" in name:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            for side, size in (("A", (2, shape[1])), ("B", (shape[0], 2))):
                factors[f"{module}.lora_{side}.weight"] = rng.normal(size=size).astype(np.float32)
    folder.mkdir(parents=True)
    write_safetensors(folder / "adapter_model.safetensors", factors)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}))
    return folder


def test_adapters_do_not_read_the_base_again(tmp_path: Path, loaded: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "a", prefix="a")
    saved = [SavedCheckpoint(step, write_adapter(tmp_path / "b" / str(step), step), adapter=True) for step in (1, 2)]
    runs = [run, Run(tmp_path / "b", "by hand", base=str(tmp_path / "base"), checkpoints=saved)]
    together = numbers(made(runs))
    assert loaded["base"] == pytest.approx(1)
    assert loaded["a20"] == pytest.approx(1)
    assert together == alone(monkeypatch, runs)
    sections = {section.key: section for section in made(runs).sections}
    assert sections["overlap"].findings
    of_matrices = sections["directions"].tables[1].frame.set_index(["run", "name"])["rank"]
    assert of_matrices["b"][[name for name in SHAPES if "q_proj" in name]].tolist() == [2, 2]


def test_copies_of_a_base_are_compared_once(tmp_path: Path, loaded: Counter[str]) -> None:
    runs = [run_of(tmp_path / name, seed, prefix=name) for name, seed in (("a", 1), ("b", 2))]
    shutil.copytree(tmp_path / "base", tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "base")
    loaded.clear()
    copied = made([runs[0], dataclasses.replace(runs[1], base=str(tmp_path / "copy"))], cache=tmp_path / "cache")
    assert loaded["copy"] == pytest.approx(2)  # compared with the base, and with the run's checkpoints
    assert loaded["base"] == pytest.approx(2)  # the same; the overlap is counted beside the comparison
    loaded.clear()
    linked = made([runs[0], dataclasses.replace(runs[1], base=str(tmp_path / "link"))])
    assert loaded == dict.fromkeys(("base", "a10", "a20", "b10", "b20"), pytest.approx(1))
    assert numbers(linked)["overlap"] == numbers(copied)["overlap"]
    loaded.clear()
    made([runs[0], dataclasses.replace(runs[1], base=str(tmp_path / "copy"))], cache=tmp_path / "cache")
    assert not loaded


def test_a_checkpoint_that_cannot_be_compared_does_not_cost_the_others(tmp_path: Path, loaded: Counter[str]) -> None:
    run = run_of(tmp_path / "a", steps=(10, 20, 30), prefix="a")
    write_safetensors(tmp_path / "a" / "a20" / "model.safetensors", {"another": np.ones((3, 3), np.float32)})
    loaded.clear()
    of = made([run])
    assert loaded == dict.fromkeys(("base", "a10", "a30"), pytest.approx(1))
    assert any(line.startswith("a, step 20: ") for line in of.incomplete)
    sections = {section.key: section for section in of.sections}
    assert sections["weights"].tables[0].frame["step"].tolist() == [10, 30]
    assert not sections["directions"].missing


def test_matrices_with_nan_cost_the_directions_only(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a")
    broken = weights(1, 0.02)
    broken["model.layers.0.self_attn.q_proj.weight"][0, 0] = np.nan
    write_checkpoint(run.checkpoints[-1].path, broken)
    sections = {section.key: section for section in made([run]).sections}
    assert "q_proj.weight: contains NaN" in sections["directions"].missing
    assert sections["weights"].tables[0].frame["nonfinite"].tolist() == [0, 1]


def test_progress_of_a_pass_ends_where_it_said(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    made([run_of(tmp_path / "a")], progress=lambda *what: told.append(what))
    (name,) = {name for name, _, _ in told}
    assert name == "measuring the update of a"
    done = [amount for _, amount, _ in told]
    assert done == sorted(done)
    assert len({total for *_, total in told[1:]}) == 1
    assert told[-1][1] == told[-1][2]


def test_chunks_add_up_to_what_the_measures_give_of_whole_tensors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {
        "model.layers.0.mlp.experts.up_proj": (3, 40, 70),
        "model.layers.0.self_attn.q_proj.weight": (90, 100),
        "norm.weight": (9000,),
    }
    base = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    paths = []
    for name, size in (("base", 0.0), ("a", 0.01), ("b", 0.02)):
        tensors = {key: value + size * rng.normal(size=value.shape).astype(np.float32) for key, value in base.items()}
        paths.append(write_checkpoint(tmp_path / name, tensors if name != "b" else tensors | {"norm.weight": base["norm.weight"]}))
    for path in (paths[0], paths[2]):  # of the pairs of one tensor, one is read in longer chunks
        as_bf16(path)
    saved = [SavedCheckpoint(1, path) for path in paths[1:]]
    of, _ = base_of(Run(tmp_path, "by hand", base=str(paths[0])), Options())
    assert of is not None
    wanted = matrices.wanted(of, saved[0], Options())
    decomposed = matrices.Collector(wanted, {}, lambda numel: None)
    aligned = overlap.comparison.align(of.checkpoint, [str(each.path) for each in saved])
    assert pairs.Collector.is_possible(aligned)
    overlaps = pairs.Collector(aligned, [0, 1])
    matched = [match(of.checkpoint, open_checkpoint(each.path)).pairs for each in saved]
    flat = [(number, pair) for number, of_one in enumerate(matched) for pair in of_one]

    def seen(chunk):
        chunk = dataclasses.replace(chunk, tuned=[(flat[index][0], pair, stored) for index, pair, stored in chunk.tuned])
        assert chunk.base.size <= 8192
        steps = [decomposed.see(chunk, pair, stored) for number, pair, stored in chunk.tuned if number == 0]
        steps.append(overlaps.see(chunk))
        return lambda: [step() for step in steps if step is not None]

    together = accumulate_pairs([pair for _, pair in flat], threads=3, chunk=1 << 14, seen=seen, of=range(len(flat)))
    for (_, pair), stats in zip(flat, together, strict=True):
        (by_itself,) = accumulate_pairs([pair], chunk=1 << 14)
        assert all(np.array_equal(value, vars(by_itself)[name]) for name, value in vars(stats).items())
    assert decomposed.spectra is not None
    assert decomposed.spectra.spectra == spectra.compare(paths[0], paths[1], method="approx", k=wanted.k)[0]
    assert [spectrum.shape for spectrum in decomposed.spectra.spectra] == [(40, 70)] * 3 + [(90, 100)]
    expected = overlap.table(overlap.compare(paths[0], paths[1:]))
    pd.testing.assert_frame_equal(pd.DataFrame(overlaps.pairs.rows), expected, rtol=1e-9)
