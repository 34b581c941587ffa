"""Parts that are merged give what one process gives, in every field and byte of every output; what does not belong together is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import bf16, write_safetensors

from dynamics.cluster import parts
from dynamics.errors import InputError
from dynamics.overlap.__main__ import cli as overlap
from dynamics.sparsity.__main__ import cli as sparsity

DATA = Path(__file__).parents[1] / "data"
OUTPUTS = ("json", "csv", "html", "figure")


def outputs(folder: Path, kinds=OUTPUTS) -> list[str]:
    folder.mkdir(exist_ok=True)
    return [text for kind in kinds for text in (f"--{kind}", str(folder / f"out.{'png' if kind == 'figure' else kind}"))]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def split(command, arguments, folder: Path, count: int) -> list[str]:
    files = [str(folder / f"part-{number}.json") for number in range(1, count + 1)]
    for number, file in enumerate(files, 1):
        assert command([*map(str, arguments), "--part", f"{number}/{count}", "--json", file]) == 0
    return files


def same(command, arguments, tmp_path: Path, capsys, count: int = 3, kinds=OUTPUTS, shown=(), status: int = 0) -> None:
    """Compare all outputs of one process with those of merged parts."""
    assert command([*map(str, arguments), *shown, *outputs(tmp_path / "one", kinds)]) == status
    screen = capsys.readouterr().out
    files = split(command, arguments, tmp_path, count)
    capsys.readouterr()
    assert command(["--merge", *files[::-1], *shown, *outputs(tmp_path / "merged", kinds)]) == status
    assert capsys.readouterr().out == screen
    assert contents(tmp_path / "merged") == contents(tmp_path / "one")


def saved(tmp_path: Path, base, tuned) -> list[Path]:
    return [write_safetensors(tmp_path / f"{name}.safetensors", side) for name, side in (("base", base), ("tuned", tuned))]


def test_parts_are_dealt_by_bytes_and_always_alike():
    sizes = np.random.default_rng(0).integers(1, 10**9, 500).tolist()
    dealt = parts.deal(sizes, 7)
    assert dealt == parts.deal(list(sizes), 7)
    assert sorted(unit for part in dealt for unit in part) == list(range(500))
    loads = [sum(sizes[unit] for unit in part) for part in dealt]
    assert max(loads) - min(loads) <= max(sizes) / 100  # by number of tensors it would be a tenth of all
    assert parts.deal([10, 1, 1, 1], 2) == [[0], [1, 2, 3]]
    assert parts.deal([3], 3) == [[0], [], []]


def test_merged_parts_of_two_files_are_the_whole(pair, tmp_path, capsys):
    same(sparsity, saved(tmp_path, *pair), tmp_path, capsys)


def test_more_parts_than_tensors(tmp_path, capsys):
    values = np.linspace(-1, 1, 30, dtype=np.float32).reshape(5, 6)
    same(sparsity, saved(tmp_path, {"w": values}, {"w": values * 1.001}), tmp_path, capsys, 4, ("json", "csv"))


def test_odd_tensors_and_other_names(pair, tmp_path, capsys):
    """Different dtypes, NaN and infinity, huge sums, empty and scalar tensors, names that one side lacks, a tied head."""
    base, tuned = (dict(side) for side in pair)
    tuned["model.layers.1.mlp.up_proj.weight"] = ("BF16", bf16(tuned["model.layers.1.mlp.up_proj.weight"]))
    base["model.layers.2.mlp.up_proj.weight"] = base["model.layers.2.mlp.up_proj.weight"].astype(np.float64) * 1e200
    base["model.layers.3.mlp.up_proj.weight"][0, :3] = np.nan, np.inf, -np.inf
    base["model.empty.weight"] = tuned["model.empty.weight"] = np.zeros((0, 4), np.float32)
    base["model.scalar"], tuned["model.scalar"] = np.float32(1), np.float32(2)
    base["model.only_here.weight"] = np.ones((40, 40), np.float32)
    tuned["value_head.weight"] = np.ones((1, 24), np.float32)
    del tuned["lm_head.weight"]
    with np.errstate(over="ignore"):
        same(sparsity, saved(tmp_path, base, tuned), tmp_path, capsys, 5, ("json", "csv"), status=3)


def test_sharded_files_and_thresholds(pair, tmp_path, capsys):
    base, tuned = pair
    (tmp_path / "sharded").mkdir()
    items = list(tuned.items())
    for number in (1, 2):
        write_safetensors(tmp_path / "sharded" / f"model-{number:05d}-of-00002.safetensors", dict(items[number - 1 :: 2]))
    file = write_safetensors(tmp_path / "base.safetensors", base)
    same(sparsity, [file, tmp_path / "sharded", "--rtol", "0.01", "--paper", "mukherjee"], tmp_path, capsys, 2)


def test_a_series(pair, tmp_path, capsys):
    base, tuned = pair
    files = []
    for step in (0, 1, 2, 10):
        mixed = {name: value if step < 10 else tuned[name] for name, value in base.items()}
        if step:
            mixed["model.norm.weight"] = tuned["model.norm.weight"]
        files.append(write_safetensors(tmp_path / f"step_{step}.safetensors", mixed))
    same(sparsity, files, tmp_path, capsys, 3)


@pytest.mark.parametrize(
    ("base", "tuned"),
    [("adapters/base/llama", "adapters/plain"), ("adapters/base/llama", "adapters/dora"), ("quantised/nf4_base", "quantised/nf4_tuned")],
)
def test_adapters_and_quantised_weights(base, tuned, tmp_path, capsys):
    same(sparsity, [DATA / base, DATA / tuned], tmp_path, capsys, 2, ("json", "csv"))


def test_a_tied_head(tmp_path, capsys):
    rng = np.random.default_rng(2)
    embedding = rng.normal(size=(32, 8)).astype(np.float32)
    for name, tensors in (
        ("base", {"model.embed_tokens.weight": embedding}),
        ("tuned", {"model.embed_tokens.weight": embedding * 2, "lm_head.weight": embedding * 2}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
        write_safetensors(tmp_path / name / "model.safetensors", tensors)
    same(sparsity, [tmp_path / "base", tmp_path / "tuned"], tmp_path, capsys, 2, ("json", "csv"))


def test_parts_of_an_overlap(pair, tmp_path, capsys):
    """Of two updates with other dtypes and names, and of a series of three with an adapter's command line for showing it."""
    base, tuned = (dict(side) for side in pair)
    other = {name: value - np.float32(1e-4) * (value > 0) for name, value in base.items() if "layers.3" not in name}
    other["model.layers.1.mlp.up_proj.weight"] = ("BF16", bf16(other["model.layers.1.mlp.up_proj.weight"]))
    files = [*saved(tmp_path, base, tuned), write_safetensors(tmp_path / "other.safetensors", other)]
    same(overlap, files, tmp_path, capsys, 3, status=3)
    third = write_safetensors(tmp_path / "third.safetensors", {name: value * np.float32(1.01) for name, value in base.items()})
    files = [files[0], files[1], third, files[1]]
    (tmp_path / "more").mkdir()
    assert overlap([*map(str, files), "--series", *outputs(tmp_path / "one", ("json", "html"))]) == 0
    parts_of = split(overlap, files, tmp_path / "more", 2)
    assert overlap(["--merge", *parts_of, "--series", *outputs(tmp_path / "merged", ("json", "html"))]) == 0
    for kind in ("json", "html"):
        assert (tmp_path / "one" / f"out.{kind}").read_bytes() == (tmp_path / "merged" / f"out.{kind}").read_bytes()


def test_parts_of_an_overlap_of_adapters(tmp_path, capsys):
    same(overlap, [DATA / "adapters" / name for name in ("base/llama", "plain", "dora")], tmp_path, capsys, 2, ("json",))


@pytest.mark.parametrize("method", ["full", "approx"])
def test_parts_of_spectra(method, tmp_path, capsys):
    pytest.importorskip("torch")
    from dynamics.spectra.__main__ import cli as spectra

    arguments = [
        DATA / "adapters" / "base" / "llama",
        DATA / "adapters" / "plain",
        "--method",
        method,
        "--subspace",
        "4",
        "--only",
        "layers",
    ]
    same(spectra, arguments, tmp_path, capsys, 2, ("json", "csv", "html") if method == "full" else ("json",))


@pytest.fixture(scope="module")
def two_parts(tmp_path_factory) -> Path:
    """Two files with ten tensors, and their two parts."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(1)
    base = {f"model.layers.{layer}.mlp.up_proj.weight": rng.normal(size=(8, 8)).astype(np.float32) for layer in range(10)}
    files = saved(folder, base, {name: value + np.float32(1e-4) for name, value in base.items()})
    split(sparsity, files, folder, 2)
    return folder


def refused(files, capsys, command=sparsity) -> str:
    assert command(["--merge", *map(str, files)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def other_parts(folder: Path, tmp_path: Path, arguments=(), change=None) -> list[str]:
    """Make the two parts again, in another folder, with other options or files."""
    files = [shutil.copy(folder / f"{name}.safetensors", tmp_path) for name in ("base", "tuned")]
    if change is not None:
        change(*map(Path, files))
    return split(sparsity, [*files, *arguments], tmp_path, 2)


def test_missing_and_doubled_parts_are_refused(two_parts, tmp_path, capsys):
    one, two = (str(two_parts / f"part-{number}.json") for number in (1, 2))
    assert "1 part of 2 missing: 2/2" in refused([one], capsys)
    assert "is part 2/2, as" in refused([one, two, two], capsys)
    three = split(sparsity, [two_parts / "base.safetensors", two_parts / "tuned.safetensors"], tmp_path, 3)
    capsys.readouterr()
    assert "is one of 3 parts" in refused([one, three[1]], capsys)


def test_parts_of_another_comparison_are_refused(two_parts, tmp_path, capsys):
    one = two_parts / "part-1.json"

    def changed_values(_, tuned: Path) -> None:
        content = bytearray(tuned.read_bytes())
        content[-1000] ^= 1
        tuned.write_bytes(content)

    def changed_dtype(_, tuned: Path) -> None:
        write_safetensors(tuned, {f"model.layers.{layer}.mlp.up_proj.weight": np.ones((8, 8), np.float16) for layer in range(10)})

    for name, arguments, change, expected in (
        ("rtol", ["--rtol", "0.5"], None, "made with rtol 0.5, not 0.001"),
        ("values", [], changed_values, "same names, shapes and dtypes, but other values"),
        ("dtype", [], changed_dtype, "float16 8x8 there, float32 8x8 here"),
    ):
        (tmp_path / name).mkdir()
        _, two = other_parts(two_parts, tmp_path / name, arguments, change)
        capsys.readouterr()
        line = refused([one, two], capsys)
        assert expected in line
        assert str(two) in line or "part-2.json" in line


def test_the_same_files_elsewhere_belong_together(two_parts, tmp_path, capsys):
    _, two = other_parts(two_parts, tmp_path)
    assert sparsity(["--merge", str(two_parts / "part-1.json"), two]) == 0


def test_damaged_parts_are_refused(two_parts, tmp_path, capsys):
    one, text = two_parts / "part-1.json", (two_parts / "part-2.json").read_text()
    document = json.loads(text)
    tally = json.loads(text)
    tally["tallies"][0]["counts"][0] += 1
    version = document | {"schema": "dynamics.sparsity.part/2"}
    overlap = document | {"schema": "dynamics.overlap.part/1"}
    for content, expected in (
        (text[: len(text) // 2], "not a JSON document"),
        ("", "is empty"),
        ("[]", "is not a part"),
        (json.dumps({"schema": "dynamics.sparsity/1"}), "is not a part"),
        (json.dumps(tally), "is damaged"),
        (json.dumps({"schema": document["schema"]}), "is damaged"),
        (json.dumps(document | {"units": "x"}), "is damaged"),
        (json.dumps(version), "version 2 of the format"),
        (json.dumps(overlap), "is a part of dynamics.overlap, not of dynamics.sparsity"),
    ):
        (tmp_path / "other.json").write_text(content)
        line = refused([one, tmp_path / "other.json"], capsys)
        assert expected in line
        assert "other.json" in line


def test_a_forged_tally_is_one_line(two_parts, tmp_path, capsys):
    """A part with a right checksum and wrong content, as only a program makes it."""
    import msgspec

    part = parts.read("dynamics.sparsity", str(two_parts / "part-2.json"))
    for forged in ({}, [], {"counts": 3}, part.tallies[0] | {"counts": [1]}, part.tallies[0] | {"counts": [2**80] * 6}):
        wrong = msgspec.structs.replace(part, tallies=[forged, *part.tallies[1:]])
        wrong = msgspec.structs.replace(wrong, sha256=parts._digest(wrong))
        (tmp_path / "forged.json").write_bytes(parts.encode(wrong))
        assert "make it again" in refused([two_parts / "part-1.json", tmp_path / "forged.json"], capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: BASE, TUNED"),
        (["a"], "the following arguments are required: TUNED"),
        (["a", "b", "--part", "0/2", "--json", "p.json"], "numbered from 1 to N"),
        (["a", "b", "--part", "3/2", "--json", "p.json"], "numbered from 1 to N"),
        (["a", "b", "--part", "half", "--json", "p.json"], "write I/N"),
        (["a", "b", "--part", "1/2"], "--part needs --json FILE"),
        (["a", "b", "--part", "1/2", "--json", "p.json", "--figure", "f.png"], "give it to --merge"),
        (["--merge", "p.json", "--rtol", "0.1"], "argument --rtol: is of no use with --merge"),
        (["a", "b", "--merge", "p.json"], "in place of checkpoints"),
        (["--part", "1/2", "--merge", "p.json"], "argument --part: is of no use with --merge"),
        (["--merge", "nowhere.json"], "nowhere.json"),
    ],
)
def test_options_that_make_no_sense_are_one_line(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sparsity(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_a_merged_comparison_holds_no_weights(two_parts):
    from dynamics.sparsity.parts import result

    comparison, _ = result(*parts.merge("dynamics.sparsity", [str(two_parts / f"part-{number}.json") for number in (1, 2)]))
    with pytest.raises(InputError, match="holds no weights"):
        next(iter(comparison.base.tensors.values())).stored()
