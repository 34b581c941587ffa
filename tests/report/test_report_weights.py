"""The sections on weights: numbers are those of the measures, findings carry their caveats, earlier measurements are used again."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import doubt_texts, write_safetensors
from report_helpers import SHAPES, read, run_of, weights, write_checkpoint

from dynamics import overlap, sparsity
from dynamics.checkpoints.identity import identity
from dynamics.report import Options, cache, matrices
from dynamics.report.labels import run_labels
from dynamics.report.sections import configuration, directions
from dynamics.report.sections import overlap as overlap_section
from dynamics.report.sections import weights as weights_section
from dynamics.report.updates import base_of, spread, updates
from dynamics.runs import Run, SavedCheckpoint, Settings


def test_the_numbers_are_those_of_sparsity(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    section = weights_section.make([run], Options())
    frames = {table.name: table.frame for table in section.tables}
    steps = sparsity.series([tmp_path / "base", *(saved.path for saved in run.checkpoints)])
    totals = [step.comparison.total for step in steps if step.against == "first"]
    over = frames["weights_over_checkpoints"]
    assert over["sparsity_bf16"].tolist() == [total.sparsity["bf16"] for total in totals]
    assert over["relative_update"].tolist() == [total.relative_update for total in totals]
    last = sparsity.compare(tmp_path / "base", run.checkpoints[-1].path)
    assert frames["weights_heat_map"].drop(columns="run").equals(last.grid)
    assert frames["weights_steps"]["weights"].sum() == last.total.numel == sum(np.prod(shape) for shape in SHAPES.values())
    first = section.findings[0]
    assert first.value == totals[-1].sparsity["bf16"]
    assert f"{last.total.numel:,} weights" in first.text
    assert not section.missing
    assert not section.incomplete
    assert section.commands[0].startswith(f"python -m dynamics.sparsity {tmp_path}/base {tmp_path}/run/checkpoint-10 ")


@pytest.mark.parametrize(
    ("base", "tuned", "master", "caveat"),
    [
        ("BF16", "BF16", None, "so this is storage and not the optimizer: updates below about 1/256 of a weight do not show."),
        ("BF16", "BF16", "float32", "and the fp32 masters hold more changes than these files."),
        ("BF16", "BF16", "bfloat16", "the masters are bf16 too, so such updates were also lost in training."),
        ("BF16", "F32", None, "The base is stored in bfloat16, the checkpoint in float32: exact counts rounding as change"),
        ("F32", "F32", None, "Both sides are stored in float32, so bf16 hides small updates that these files do hold"),
    ],
)
def test_a_share_has_the_caveat_of_its_dtypes(base: str, tuned: str, master: str | None, caveat: str, tmp_path: Path) -> None:
    for name, code, seed in (("base", base, 0), ("tuned", tuned, 1)):
        tensors = weights(seed, 0.01 * seed)
        stored = {
            key: (code, value if code == "F32" else (value.view(np.uint32) >> 16).astype(np.uint16)) for key, value in tensors.items()
        }
        (tmp_path / name).mkdir()
        write_safetensors(tmp_path / name / "model.safetensors", stored)
    saved = [SavedCheckpoint(7, tmp_path / "tuned")]
    run = Run(tmp_path, "by hand", base=str(tmp_path / "base"), checkpoints=saved, settings=Settings(master_dtype=master))
    section = weights_section.make([run], Options())
    assert caveat in section.findings[0].text
    assert section.findings[0].text.startswith("At step 7, ")
    assert any("learning rate (which no file says)" in doubt for doubt in doubt_texts(section.doubts))
    assert any("1 checkpoint cannot show it" in doubt for doubt in doubt_texts(section.doubts))


def test_without_a_base_the_first_checkpoint_stands_in(tmp_path: Path) -> None:
    run = dataclasses.replace(run_of(tmp_path / "run"), base=None)
    section = weights_section.make([run], Options())
    assert "is the same as at step 10 (the first checkpoint, as the base is not known) after both" in section.findings[0].text
    assert section.tables[0].frame["step"].tolist() == [20, 30]
    assert any("what changed before it is not counted" in doubt for doubt in doubt_texts(section.doubts))
    assert not section.incomplete  # no file claims that there is a base
    gone = weights_section.make([dataclasses.replace(run, base="models/gone")], Options())
    assert "compared with its first checkpoint, because the base cannot be read: models/gone: no such file or folder" in gone.incomplete[0]
    for name in ("x" * 10_000, "a\0b", "~/\x1b[2J"):  # no paths
        assert "cannot be read" in weights_section.make([dataclasses.replace(run, base=name)], Options()).incomplete[0]
    alone = dataclasses.replace(run, checkpoints=run.checkpoints[:1])
    assert weights_section.make([alone], Options()).missing.endswith("name it with --base")
    assert weights_section.make([dataclasses.replace(run, checkpoints=[])], Options()).missing.endswith(
        "the trainer's save_steps writes them"
    )


def test_an_update_that_the_learning_rate_cannot_explain_is_in_doubt(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    for rate, doubted in ((1e-6, True), (1e-2, False), (None, False)):
        section = weights_section.make([dataclasses.replace(run, settings=Settings(learning_rate=rate))], Options())
        assert any("base, checkpoints and log may not be of one run" in text for text in doubt_texts(section.doubts)) == doubted, rate


def test_sentences_name_what_stands_in_for_the_base(tmp_path: Path) -> None:
    run = dataclasses.replace(run_of(tmp_path / "run"), base=None)
    section = weights_section.make([run], Options())
    assert section.tables[0].title == "Each checkpoint against step 10"
    every = " ".join(finding.text + finding.short for finding in section.findings)
    assert "norm of the base" not in every
    assert "unchanged in bf16 since step 10" in every
    few = weights_section.make([dataclasses.replace(run, checkpoints=run.checkpoints[:2])], Options())
    assert any(text.startswith("When the weights moved: 1 checkpoint after step 10 cannot show it") for text in doubt_texts(few.doubts))


def test_a_relative_base_is_found_beside_the_run(tmp_path: Path) -> None:
    run = dataclasses.replace(run_of(tmp_path / "work" / "run"), base="work/base")
    base, problem = base_of(run, Options())
    assert (base.name if base else None, problem) == (str(tmp_path / "work" / "base"), "")


def test_an_update_of_nothing_says_so(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", steps=(0,))
    section = weights_section.make([run], Options())
    assert "none of the" in section.findings[0].text
    assert section.findings[0].value == 1.0


def test_weights_without_a_finite_value_are_counted(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", steps=(10,))
    broken = weights(1, 0.01)
    broken["model.layers.0.self_attn.q_proj.weight"][0, :3] = np.nan
    write_checkpoint(run.checkpoints[0].path, broken)
    findings = {finding.key: finding for finding in weights_section.make([run], Options()).findings}
    assert findings["nonfinite"].text.startswith("At step 10, 3 weights of 232 are NaN or infinite")


def test_checkpoints_are_spread_evenly_and_stay_chosen() -> None:
    assert spread(range(24)) == list(range(24))
    for count in range(1, 400, 7):
        chosen = spread(range(count))
        assert len(chosen) <= 24
        assert chosen[:1] + chosen[-1:] == [0, count - 1]
        assert set(chosen[:-1]) <= set(range(count))
    before, after = spread(range(100)), spread(range(103))
    assert len(set(before) & set(after)) >= len(before) - 1


def test_several_runs_are_compared_in_one_sentence(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2))]
    section = weights_section.make(runs, Options())
    lead = [finding for finding in section.findings if finding.weight]
    assert len(lead) == 2
    for label, share in zip("ab", section.tables[0].frame.groupby("run")["sparsity_bf16"].last(), strict=True):
        assert f"{label} {100 * share:.2f} %" in lead[0].text
    layers = section.tables[2].frame
    assert layers["run"].tolist() == ["a", "b"] * 3
    assert layers["name"].tolist() == [name for name in layers["name"].unique() for _ in "ab"]
    assert [picture.name for picture in section.pictures if "heat" in picture.name] == ["weights_heat_map_1", "weights_heat_map_2"]
    assert next(finding.key for finding in section.findings if finding.value is not None) == "a.unchanged_bf16"


def test_long_names_of_runs_stay_distinct(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / ("x" * 100 + end), steps=(1,)) for end in "ab"]
    assert [label[:4] for label in run_labels(runs)] == ["1: x", "2: x"]
    assert len(configuration.make([dataclasses.replace(runs[0], method="a"), runs[1]], Options()).tables[0].frame.columns) == 4


def test_overlap_of_runs_of_one_base(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2))]
    section = overlap_section.make(runs, Options())
    expected = overlap.compare(tmp_path / "base", [run.checkpoints[-1].path for run in runs]).total[0]
    assert section.findings[0].value == expected.rules["bf16"].jaccard
    assert f"The cosine of the two updates is {expected.cosine_all:.3f}." in section.findings[0].text
    assert overlap_section.make(runs[:1], Options()).missing.startswith("one run only")
    other = write_checkpoint(tmp_path / "other", weights(5, 0.5))
    mixed = overlap_section.make([runs[0], dataclasses.replace(runs[1], base=str(other))], Options())
    assert "its base is" in mixed.missing
    copy = write_checkpoint(tmp_path / "copy", weights(0))
    same = overlap_section.make([runs[0], dataclasses.replace(runs[1], base=str(copy))], Options())
    assert same.findings[0].value == section.findings[0].value


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path / "a", settings={"learning_rate": 1e-5, "seed": 1}, config={"beta": 0.1, "output_dir": "a", "epochs": 3}),
        run_of(tmp_path / "b", settings={"learning_rate": 1e-6, "seed": 1}, config={"beta": 0.0, "output_dir": "b", "epochs": 3}),
    ]
    section = configuration.make(runs, Options())
    assert section.tables[0].frame["setting"].tolist() == ["learning_rate", "beta"]
    assert section.findings[0].text == "The runs differ in learning rate (1e-05, 1e-06)."
    assert section.doubts == []  # those are of the section on matching
    same = configuration.make([runs[0], dataclasses.replace(runs[0], path=tmp_path / "c")], Options())
    assert "are the same in all runs" in same.findings[0].text


def test_directions_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    section = directions.make([run_of(tmp_path / "run")], Options())
    frame = section.tables[1].frame
    assert sorted(frame["name"]) == sorted(name for name, shape in SHAPES.items() if len(shape) == 2)
    assert frame["rank_1_share"].tolist() == (1 / frame["stable_rank"]).tolist()
    first = section.findings[0]
    assert first.low is not None
    assert first.high is not None
    assert first.low <= first.value <= first.high  # type: ignore[operator]
    assert (frame["stable_rank_low"] <= frame["stable_rank"]).all()
    assert "--method approx --subspace 2 --seed 0" in section.commands[0]


def test_a_large_model_has_a_selection_of_its_layers_decomposed() -> None:
    shapes = {f"model.layers.{layer}.{name}.weight": (100, 100) for layer in range(40) for name in ("q_proj", "k_proj")}
    shapes["model.embed_tokens.weight"] = (5000, 100)
    assert matrices.choose(shapes, 2_000_000, 400_000) == [name for name in shapes if "embed" not in name]
    chosen = matrices.choose(shapes, 200_000, 400_000)
    assert len(chosen) == 20
    assert {"model.layers.0.q_proj.weight", "model.layers.0.k_proj.weight", "model.layers.39.q_proj.weight"} <= set(chosen)
    experts = {f"model.layers.0.mlp.experts.{number}.up_proj.weight": (100, 100) for number in range(500)}
    assert len(matrices.choose(experts, 200_000, 400_000)) <= 20
    assert matrices.choose(experts, 200_000, 9_999) == []


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the checkpoints that are compared, rather than read from the cache."""
    calls: list[str] = []
    compare_all = sparsity.compare_all

    def counted(base, tuned, **more):
        calls.extend(Path(path).name for path in tuned)
        return compare_all(base, tuned, **more)

    monkeypatch.setattr(sparsity, "compare_all", counted)
    return calls


def test_a_second_report_measures_only_what_is_new(tmp_path: Path, compared: list[str]) -> None:
    run, options = run_of(tmp_path / "run"), Options(cache=tmp_path / "cache")
    first = weights_section.make([run], options)
    assert compared == ["checkpoint-10", "checkpoint-20", "checkpoint-30"]
    again = weights_section.make([run], options)
    assert len(compared) == 3
    assert [table.frame.to_csv() for table in again.tables] == [table.frame.to_csv() for table in first.tables]
    assert [finding.text for finding in again.findings] == [finding.text for finding in first.findings]

    write_checkpoint(tmp_path / "run" / "checkpoint-40", weights(1, 0.04))
    write_checkpoint(tmp_path / "run" / "checkpoint-20", weights(3, 0.5))  # the same size and path, written anew
    weights_section.make([read(tmp_path / "run")], options)  # type: ignore[list-item]
    assert compared[3:] == ["checkpoint-20", "checkpoint-40"]
    write_checkpoint(tmp_path / "base", weights(9))
    weights_section.make([run], options)
    assert len(compared) == 8


def test_a_foreign_entry_of_the_cache_is_not_used(tmp_path: Path, compared: list[str]) -> None:
    run, options = run_of(tmp_path / "run", steps=(10,)), Options(cache=tmp_path / "cache")
    base, _ = base_of(run, options)
    assert base is not None
    expected = updates(base, run.checkpoints, options)
    (entry,) = (tmp_path / "cache").iterdir()
    good = entry.read_bytes()
    wrong = json.loads(good)
    wrong["result"]["total"]["numel"] = "many"
    foreign = b'{"schema": "dynamics.report-cache/1", "key": "other", "result": {}}'
    contents = [b"", b"{", b"[]", b"null", b'{"key": 1}', foreign, b"\xff\xfe", b"[" * 100_000, json.dumps(wrong).encode()]
    for content in contents:
        entry.write_bytes(content)
        assert updates(base, run.checkpoints, Options(cache=tmp_path / "cache")) == expected
        assert entry.read_bytes() == good
    assert len(compared) == 1 + len(contents)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", steps=(10,))
    (tmp_path / "file").write_text("")
    assert weights_section.make([run], Options(cache=tmp_path / "file")).tables
    (tmp_path / "cache").mkdir()
    os.mkfifo(tmp_path / "cache" / "pipe")
    assert weights_section.make([run], Options(cache=tmp_path / "cache")).tables


def test_what_a_report_measured_is_not_measured_again_in_it(tmp_path: Path, compared: list[str]) -> None:
    run, options = run_of(tmp_path / "run", steps=(10,)), Options()
    for _ in range(2):
        weights_section.make([run], options)
    assert compared == ["checkpoint-10"]
    weights_section.make([run], Options())
    assert len(compared) == 2


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    used = Options(cache=folder)
    weights_section.make([run_of(tmp_path / "run", steps=(10, 20))], used)
    (first, second) = sorted(folder.iterdir())
    text = first.read_bytes()
    for number, path in enumerate((first, second)):  # those that are in use are the oldest
        os.utime(path, (number, number))
    contents = {
        f"sparsity-{'a' * 32}.json": text,
        f"spectra-{'b' * 32}.json": text,
        f".sparsity-{'c' * 26}-01234567.json": text[:20],  # left by a report that was killed
        f".sparsity-{'d' * 26}-01234567.json": b"",
        f"sparsity-{'e' * 32}.json": b'{"schema": "mine"}' + text,
        "notes.json": text,
        "notes.txt": text,
    }
    for number, (name, content) in enumerate(contents.items(), 100):
        (folder / name).write_bytes(content)
        os.utime(folder / name, (number, number))
    being_written = folder / f".sparsity-{'f' * 26}-01234567.json"
    being_written.write_bytes(b"")
    (folder / f"sparsity-{'0' * 32}.json").symlink_to(first)
    everything = set(folder.iterdir())

    cache.bound(folder, used.store)
    assert set(folder.iterdir()) == everything  # they are few
    sizes = sum(path.stat().st_size for path in (first, second, folder / f"sparsity-{'e' * 32}.json"))
    cache.bound(folder, used.store, sizes + len(text) + 20)
    assert everything - set(folder.iterdir()) == {folder / f"sparsity-{'a' * 32}.json"}  # the one that was used least lately is enough
    cache.bound(folder, used.store, 0)
    assert {path.name for path in everything - set(folder.iterdir())} == {*list(contents)[:4]} - {f".sparsity-{'c' * 26}-01234567.json"}
    cache.bound(folder, Options().store, 0)
    assert {first, second}.isdisjoint(folder.iterdir())
    cache.bound(tmp_path / "none", used.store, 0)
    cache.bound(None, used.store, 0)


def test_reading_an_entry_counts_as_its_use(tmp_path: Path) -> None:
    run, folder = run_of(tmp_path / "run", steps=(10,)), tmp_path / "cache"
    weights_section.make([run], Options(cache=folder))
    (entry,) = folder.iterdir()
    os.utime(entry, (1, 1))
    again = Options(cache=folder)
    weights_section.make([run], again)
    assert entry.stat().st_mtime > 1
    assert again.store.used == {entry}


def test_what_has_no_files_is_not_kept(tmp_path: Path) -> None:
    assert identity(tmp_path / "gone") is None
    (tmp_path / "empty").mkdir()
    assert identity(tmp_path / "empty") is None
