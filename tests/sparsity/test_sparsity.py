"""Invariants of the comparison, its documents, and the command."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import bf16, check_row, wide, write_safetensors
from reference import measure

import dynamics
from dynamics.checkpoints.tensor import FITS_BFLOAT16, STORAGE, decode
from dynamics.errors import InputError
from dynamics.sparsity import RULES, STEPS, compare, compare_all, row, series, series_dict, table
from dynamics.sparsity.__main__ import cli
from dynamics.sparsity.accumulate import DiffStats, accumulate_arrays, accumulate_pairs
from dynamics.sparsity.definitions import mukherjee_threshold
from dynamics.sparsity.masks import changed


def run(*arguments, **settings):
    command = [sys.executable, "-m", "dynamics.sparsity", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **settings)


def whole(tensors):
    return np.concatenate([value.ravel() for value in tensors.values()])


# laws


def test_every_row_is_the_plain_reference(pair):
    base, tuned = pair
    comparison = compare(base, tuned)
    check_row(comparison.total, measure(whole(base), whole(tuned)))
    for part in comparison.rows:
        check_row(part, measure(base[part.name], tuned[part.name]))
    for part in comparison.layers:
        names = [name for name in base if name.startswith(part.name + ".") or (part.name == "(no layer)" and "layers" not in name)]
        check_row(part, measure(*(whole({name: side[name] for name in names}) for side in (base, tuned))))


def test_parts_add_up_to_the_whole(pair):
    comparison = compare(*pair)
    for rows in (comparison.layers, comparison.modules, comparison.rows):
        assert sum(part.numel for part in rows) == comparison.total.numel
        for rule in RULES:
            assert sum(part.changed[rule] for part in rows) == comparison.total.changed[rule]
        for step in STEPS:
            assert sum(part.ulp[step] for part in rows) == comparison.total.ulp[step]
        assert sum(part.update_norm**2 for part in rows) == pytest.approx(comparison.total.update_norm**2, rel=1e-12)
    assert comparison.total.sparsity["exact"] == 1 - comparison.total.changed["exact"] / comparison.total.numel


def numbers(comparison):
    return [part.to_dict() for part in (comparison.total, *comparison.layers, *comparison.modules, *comparison.rows)]


def test_format_and_sharding_do_not_move_any_number(pair, tmp_path):
    base, tuned = pair
    expected = numbers(compare(base, tuned))
    write_safetensors(tmp_path / "base.safetensors", base)
    write_safetensors(tmp_path / "padded.safetensors", tuned, pad=3)  # values at addresses no dtype is aligned to
    (tmp_path / "sharded").mkdir()
    items = list(tuned.items())
    for number, start in enumerate(range(0, len(items), 11), 1):
        count = -(-len(items) // 11)
        write_safetensors(tmp_path / "sharded" / f"model-{number:05d}-of-{count:05d}.safetensors", dict(items[start : start + 11]))
    assert numbers(compare(tmp_path / "base.safetensors", tmp_path / "padded.safetensors")) == expected
    assert numbers(compare(tmp_path / "base.safetensors", tmp_path / "sharded")) == expected


def test_torch_files_and_state_dicts_give_the_same_numbers(pair, tmp_path):
    torch = pytest.importorskip("torch")
    base, tuned = pair
    expected = numbers(compare(base, tuned))
    state = {name: torch.from_numpy(value) for name, value in tuned.items()}
    assert numbers(compare(base, state)) == expected
    for name, document in (
        ("a.pt", state),
        ("b.bin", {"module": state}),
        ("c.pth", {"model": {f"_orig_mod.{n}": v for n, v in state.items()}}),
    ):
        torch.save(document, tmp_path / name)
        assert numbers(compare(base, tmp_path / name)) == expected


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_move_any_number(pair, threads):
    assert numbers(compare(*pair, threads=threads)) == numbers(compare(*pair, threads=1))


def test_chunk_size_moves_no_count_and_no_norm_beyond_the_last_digits(rng):
    from dynamics.checkpoints.matching import match

    base = {"w": rng.normal(0, 0.02, (300, 211)).astype(np.float32)}
    tuned = {"w": base["w"] + rng.normal(0, 1e-5, base["w"].shape).astype(np.float32)}
    matched = match(*map(dynamics.checkpoints.open_checkpoint, (base, tuned)))
    rows = [row("w", accumulate_pairs(matched.pairs, chunk=chunk)[0]) for chunk in (1, 1 << 15, 100_000, 1 << 21)]
    for part in rows[1:]:
        assert (part.changed, part.ulp, part.max_abs_update) == (rows[0].changed, rows[0].ulp, rows[0].max_abs_update)
        for key in ("base_norm", "update_norm", "cosine", "relative_update"):
            assert getattr(part, key) == pytest.approx(getattr(rows[0], key), rel=1e-13)


def test_symmetry(pair):
    forward, backward = compare(*pair).total, compare(*reversed(pair)).total
    assert (forward.changed, forward.ulp, forward.max_abs_update) == (backward.changed, backward.ulp, backward.max_abs_update)
    assert forward.update_norm == pytest.approx(backward.update_norm, rel=1e-15)
    assert forward.cosine_distance == pytest.approx(backward.cosine_distance, rel=1e-9)


def test_a_checkpoint_against_itself(pair):
    for other in (pair[0], {name: value.copy() for name, value in pair[0].items()}):
        total = compare(pair[0], other).total
        assert set(total.changed.values()) == {0}
        assert set(total.sparsity.values()) == {1.0}
        assert (total.update_norm, total.cosine_distance, total.max_abs_update) == (0, 0, 0)
        assert total.base_norm == pytest.approx(np.linalg.norm(whole(pair[0]).astype(float)), rel=1e-12)


def test_a_hard_link_is_read_once_and_reports_the_same(pair, tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", pair[0])
    os.link(path, tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(path.read_bytes())
    assert numbers(compare(path, tmp_path / "b.safetensors")) == numbers(compare(path, tmp_path / "c.safetensors"))


def test_tallies_add(pair):
    from dynamics.checkpoints.matching import match

    stats_of_pairs = accumulate_pairs(match(*map(dynamics.checkpoints.open_checkpoint, pair)).pairs)
    merged = DiffStats()
    for stats in stats_of_pairs:
        merged += stats
    assert row("total", merged) == compare(*pair).total


def test_a_series_is_its_pairs(pair, rng):
    base, first = pair
    second = {name: value + np.float32(1e-5) for name, value in first.items()}
    steps = series([base, first, second], like="mukherjee")
    expected = [("first", base, first), ("first", base, second), ("previous", base, first), ("previous", first, second)]
    assert [step.against for step in steps] == [against for against, _, _ in expected]
    for step, (_, start, end) in zip(steps, expected, strict=True):
        assert numbers(step.comparison) == numbers(compare(start, end))
        assert step.comparison.like == compare(start, end, like="mukherjee").like
    document = series_dict(steps)
    assert document["total"] == compare(base, second).total.to_dict()
    assert [entry["against"] for entry in document["series"]] == ["first", "first", "previous", "previous"]


def test_a_series_reads_each_file_once(tmp_path, rng, monkeypatch):
    from safetensors.numpy import save_file

    from dynamics.checkpoints.files import File

    paths, weights = [], {"w": rng.normal(size=(300, 200)).astype(np.float32), "tied": np.zeros(0, np.float32)}
    for step in range(4):
        paths.append(tmp_path / f"step-{step}.safetensors")
        save_file(weights, paths[-1])
        weights = {name: value + np.float32(0.01) for name, value in weights.items()}
    counted = dict.fromkeys(paths, 0)
    read = File.read_into

    def count(self, offset, buffer):
        counted[self.path] += buffer.nbytes
        read(self, offset, buffer)

    monkeypatch.setattr(File, "read_into", count)
    assert len(series(paths)) == 6
    assert all(size < 1.1 * weights["w"].nbytes for size in counted.values())  # with the header


@pytest.mark.parametrize("dtype", sorted(FITS_BFLOAT16))
def test_dtypes_of_one_byte_are_compared_as_their_values(dtype):
    """Every pair of bytes: in bfloat16, which holds all of their values, as in float32."""
    first, second = (side.reshape(-1) for side in np.meshgrid(*2 * [np.arange(256, dtype=np.uint8).view(STORAGE[dtype])]))
    narrow, wide = changed(first, dtype, second, dtype), changed(decode(first, dtype), "float32", decode(second, dtype), "float32")
    assert np.array_equal(narrow, wide)
    stats = accumulate_arrays(first, dtype, second, dtype)
    expected = accumulate_arrays(decode(first, dtype), "float32", decode(second, dtype), "float32")
    assert np.array_equal(stats.counts, expected.counts)
    assert np.array_equal(stats.ulp_bins, expected.ulp_bins)
    assert stats.sums == pytest.approx(expected.sums, rel=1e-12)
    assert stats.peak == expected.peak


# the papers' numbers


def published(a, b):
    """Compute what the script of arXiv 2505.11711 does: load as bfloat16, subtract, isclose to zero."""
    import torch

    delta = torch.from_numpy(b).bfloat16() - torch.from_numpy(a).bfloat16()
    return int(torch.isclose(delta, torch.zeros_like(delta), atol=1e-5).sum())


def test_like_mukherjee_is_the_published_script_s_count(rng):
    pytest.importorskip("torch")
    a = (rng.normal(0, 1, 200_000) * np.exp2(rng.integers(-14, -4, 200_000))).astype(np.float32)
    b = a + rng.normal(0, 2e-5, a.size).astype(np.float32)
    b[:50_000] = wide(bf16(a[:50_000])) + rng.integers(160, 176, 50_000).astype(np.float32) * np.float32(2.0**-24)
    for x, y in ((a, b), (wide(bf16(a)), wide(bf16(b)))):
        like = compare({"w": x}, {"w": y}, like="mukherjee").like
        assert x.size - like["changed"] == published(x, y)
        assert like["sparsity"] == 1 - like["changed"] / x.size
    stored = {name: dynamics.checkpoints.from_array("w", bf16(value), "bfloat16") for name, value in (("a", a), ("b", b))}
    assert compare({"w": stored["a"]}, {"w": stored["b"]}, like="mukherjee").like == like


def test_the_threshold_of_the_published_script_is_between_bf16_values():
    assert mukherjee_threshold(1e-5) == 168.5 * 2.0**-24
    assert mukherjee_threshold(1.007e-5) < 169.5 * 2.0**-24  # 169 is odd: a tie rounds away from it


def test_like_path_not_taken_is_inequality_of_bf16_values(pair):
    comparison = compare(*pair, like="path-not-taken")
    assert comparison.like["changed"] == comparison.total.changed["bf16"]
    base, tuned = (wide(bf16(whole(side))) for side in pair)
    assert measure(base, tuned)["changed"]["rtol"] == measure(base, tuned)["changed"]["exact"]


# words


def test_the_report_says_what_the_dtypes_do(pair):
    base, tuned = pair
    stored = {name: dynamics.checkpoints.from_array(name, bf16(value).reshape(value.shape), "bfloat16") for name, value in base.items()}
    assert "both sides store float32" in compare(base, tuned).notes[0]
    assert "both sides store bfloat16" in compare(stored, stored).notes[0]
    assert compare(stored, stored).notes[0].endswith("at least 2^-8 of the larger")  # `atol` hides nothing
    assert "compare with a paper only in the dtype that it used" in compare(base, tuned).notes[0]
    mixed = compare(stored, base)
    assert "two files cannot tell which" in mixed.notes[0]
    assert mixed.total.changed["exact"] > 0.9 * mixed.total.numel


# documents


def test_the_document_has_the_schema(pair):
    document = compare(*pair).to_dict()
    assert document["schema"] == "dynamics.sparsity/1"
    assert {"base", "tuned", "total", "layers", "modules", "tensors", "skipped"} <= document.keys()
    assert document["base"].keys() == {"path", "format", "dtypes"}
    keys = {
        "name",
        "numel",
        "changed",
        "sparsity",
        "ulp",
        "base_norm",
        "update_norm",
        "relative_update",
        "cosine",
        "max_abs_update",
        "nonfinite",
    }
    for part in ("layers", "modules", "tensors"):
        assert all(keys <= entry.keys() for entry in document[part])
    assert all({"shape", "dtype_base", "dtype_tuned"} <= entry.keys() for entry in document["tensors"])
    assert [entry["name"] for entry in document["layers"]] == ["(no layer)", *(f"model.layers.{n}" for n in range(12))]


def test_frames(pair):
    comparison = compare(*pair)
    assert comparison.tensors["numel"].sum() == comparison.total.numel
    assert comparison.grid["changed_bf16"].sum() == comparison.total.changed["bf16"]
    levels = table(comparison)["level"].value_counts()
    assert levels.to_dict() == {"tensor": 51, "layer": 13, "module": 6, "total": 1}


# the command


@pytest.fixture
def files(pair, tmp_path):
    paths = [tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "later.safetensors"]
    base, tuned = pair
    for path, tensors in zip(paths, (base, tuned, {n: v + np.float32(1e-4) for n, v in tuned.items()}), strict=True):
        write_safetensors(path, tensors)
    return paths


def test_json_on_standard_output_is_the_document(files):
    done = run(*files[:2], "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(compare(*files[:2]).to_dict()))


def test_the_older_name_of_an_option_still_works(files, capsys):
    printed = []
    for option in ("--paper", "--like"):
        assert cli([*map(str, files[:2]), option, "mukherjee", "--json", "-"]) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert printed[0]["like"]["paper"].startswith("Mukherjee")


def test_every_output_at_once(files, tmp_path):
    outputs = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "html")}
    figure = tmp_path / "out.svg"
    options = [part for kind, path in outputs.items() for part in (f"--{kind}", path)]
    done = run(*files, "--paper", "mukherjee", *options, "--figure", figure)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"wrote {path}" for path in (*outputs.values(), figure)]
    document = json.loads(outputs["json"].read_text())
    assert len(document["series"]) == 4
    rows = list(csv.DictReader(outputs["csv"].open()))
    assert {entry["level"] for entry in rows} == {"total", "layer", "module", "tensor", "step"}
    assert outputs["html"].read_text().startswith("<!DOCTYPE html>")
    assert "<svg" in figure.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(path.name for path in files), *(path.name for path in outputs.values()), "out.svg"]
    )
    assert "arXiv 2505.11711" in done.stdout.split("exact")[0]


def test_json_says_null_and_never_nan(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"w": np.zeros(4, np.float32)})
    write_safetensors(tmp_path / "b.safetensors", {"w": np.array([np.nan, np.inf, 1, 0], np.float32)})
    done = run(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--json", "-")
    total = json.loads(done.stdout, parse_constant=pytest.fail)["total"]
    assert (total["cosine"], total["relative_update"], total["nonfinite"]) == (None, None, 2)


def bad_missing(folder):
    return "nowhere", "good.safetensors"


def bad_empty(folder):
    (folder / "empty").mkdir()
    return "empty", "good.safetensors"


def bad_truncated(folder):
    (folder / "cut.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:-5])
    return "good.safetensors", "cut.safetensors"


def bad_pointer(folder):
    (folder / "p.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return "good.safetensors", "p.safetensors"


def bad_architecture(folder):
    write_safetensors(folder / "other.safetensors", {"other": np.zeros(3, np.float32)})
    return "good.safetensors", "other.safetensors"


def bad_shape(folder):
    write_safetensors(folder / "other.safetensors", {"w": np.zeros((4, 3), np.float32)})
    return "good.safetensors", "other.safetensors"


def bad_pickle(folder):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {folder}/ran",)

    (folder / "evil.pt").write_bytes(pickle.dumps({"w": Evil()}))
    return "good.safetensors", "evil.pt"


def bad_names(folder):
    write_safetensors(folder / "o.safetensors", {"\x1b[31m[red]evil\n[/red]": np.zeros(3, np.float32)})
    return "good.safetensors", "o.safetensors"


def bad_suffix(folder):
    return "good.safetensors", "good.safetensors", "--figure", "x.bmp"


def bad_target(folder):
    return "good.safetensors", "good.safetensors", "--html", "no/such/folder/x.html"


def bad_threshold(folder):
    return "good.safetensors", "good.safetensors", "--rtol", "-1"


def bad_threads(folder):
    return "good.safetensors", "good.safetensors", "--threads", "0"


def bad_option(folder):
    return "good.safetensors", "good.safetensors", "--paper", "folklore"


def bad_arguments(folder):
    return ("good.safetensors",)


def bad_path(folder):
    return "", "good.safetensors"


def bad_pipe(folder):
    os.mkfifo(folder / "pipe.safetensors")
    return "good.safetensors", "pipe.safetensors"


def bad_loop(folder):
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    return "good.safetensors", "loop.safetensors"


def bad_device(folder):
    return "good.safetensors", "good.safetensors", "--json", "/dev/null"


BAD = [value for name, value in list(globals().items()) if name.startswith("bad_")]


@pytest.mark.parametrize("make", BAD)
def test_bad_input_is_one_line_and_status_2(tmp_path, make, monkeypatch, capsys):
    if make is bad_pickle:
        pytest.importorskip("torch")
    write_safetensors(tmp_path / "good.safetensors", {"w": np.zeros((2, 3), np.float32)})
    monkeypatch.chdir(tmp_path)
    arguments = make(tmp_path)
    status = cli([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert printed.err.splitlines()[-1].isprintable()
    assert len(printed.err.splitlines()) == 1, printed.err
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line(files):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dynamics.sparsity", *map(str, files[:2]), "--json", "-"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_shrinks_while_it_is_compared_is_one_line(tmp_path, rng):
    paths = [write_safetensors(tmp_path / f"{name}.safetensors", {"w": rng.normal(size=3_000_000)}) for name in "ab"]
    shrink = (
        "import sys; import dynamics.sparsity.accumulate as t; old = t.Tally.add\n"
        "def add(*a):\n    open(sys.argv[2], 'r+b').truncate(100_000); return old(*a)\n"
        "t.Tally.add = add\n"
        "from dynamics.sparsity.__main__ import cli; sys.exit(cli(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", shrink, *map(str, paths), "--threads", "1"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "b.safetensors: shrank while it was read" in done.stderr


def test_ctrl_c_leaves_nothing_half_written(tmp_path, rng):
    path = tmp_path / "big.safetensors"
    write_safetensors(path, {"w": rng.normal(size=3_000_000)})
    slow = (
        "import signal, sys, time; import dynamics.sparsity.accumulate as t; old = t.Tally.add\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it\n"
        "def add(*a):\n    time.sleep(0.5); return old(*a)\n"
        "t.Tally.add = add\n"
        "from dynamics.sparsity.__main__ import cli; print('ready', flush=True); sys.exit(cli(sys.argv[1:]))"
    )
    other = tmp_path / "other.safetensors"
    other.write_bytes(path.read_bytes())
    arguments = [sys.executable, "-c", slow, str(path), str(other), "--json", str(tmp_path / "out.json"), "--threads", "1"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.safetensors", "other.safetensors"]


def test_a_library_call_raises_one_exception_class(pair):
    with pytest.raises(InputError):
        compare(pair[0], {"nothing": 1})
    with pytest.raises(InputError, match="there are mukherjee, path-not-taken"):
        compare(*pair, like="folklore")
    assert dynamics.InputError is InputError


# start-up


def test_import_is_light():
    code = "import sys, dynamics; print([m for m in ('torch', 'numpy', 'pandas', 'matplotlib', 'numba') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom dynamics.sparsity.__main__ import cli\n"
        "try: cli(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'numba', 'rich', 'jinja2') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()[-1] == "[]"


def test_a_safetensors_comparison_imports_no_torch(files):
    code = "import sys\nfrom dynamics.sparsity.__main__ import cli\ncli(sys.argv[1:])\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, files[:2])], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_the_command_is_listed():
    done = subprocess.run([sys.executable, "-m", "dynamics"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "sparsity" in done.stdout
    done = subprocess.run([sys.executable, "-m", "dynamics", "nonsense"], capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_several_checkpoints_are_compared_in_one_pass(pair, rng):
    base, tuned = pair
    others = [
        tuned,
        {name: value * np.float32(1.01) for name, value in base.items()},
        {name: value.astype(np.float64) for name, value in tuned.items()},
    ]
    checkpoint = dynamics.checkpoints.open_checkpoint(base)
    reads = []

    def counted(tensor):
        def read(start, stop, out):
            reads.append((tensor.name, start))
            return tensor.read(start, stop, out)

        return dataclasses.replace(tensor, read=read)

    watched = dataclasses.replace(checkpoint, tensors={name: counted(tensor) for name, tensor in checkpoint.tensors.items()})
    together = compare_all(watched, others[:2])
    layers = [entry for entry in reads if ".layers." in entry[0]]  # that of others is also read to see whether embedding and head are tied
    assert len(layers) == len(set(layers)) == sum(".layers." in name for name in base)
    alone = [compare(base, other) for other in others]
    assert [comparison.to_dict() for comparison in compare_all(base, others)] == [comparison.to_dict() for comparison in alone]
    assert [comparison.total for comparison in together] == [comparison.total for comparison in alone[:2]]
