"""Digests of both sides of a comparison are those of the checkpoints alone, and no byte is read twice for them."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from helpers import bf16, write_safetensors

from dynamics.checkpoints import digest, open_checkpoint
from dynamics.checkpoints.files import File
from dynamics.io.json import to_json
from dynamics.sparsity import compare, series, series_dict
from dynamics.sparsity.__main__ import cli


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    base = {
        "model.embed_tokens.weight": rng.normal(size=(600, 1000)).astype(np.float32),  # over one chunk of a comparison
        "model.layers.0.mlp.up_proj.weight": bf16(rng.normal(size=(64, 48))),
        "model.norm.weight": np.ones(16, np.float16),
        "model.rotary.inv_freq": np.ones(8, np.float32),
        "only.base.weight": np.ones(3),
        "empty.weight": np.zeros((0, 2), np.float32),
    }
    tuned = base | {
        "model.embed_tokens.weight": base["model.embed_tokens.weight"].astype(np.float64) + 1e-3,  # 8 bytes: other chunks than 4 would have
        "model.norm.weight": -np.ones(16, np.float16),
    }
    del tuned["only.base.weight"]
    paths = []
    for name, tensors in (("base", base), ("tuned", tuned)):
        coded = {key: ("BF16", array) if array.dtype == np.uint16 else array for key, array in tensors.items()}
        paths.append(str(write_safetensors(tmp_path / f"{name}.safetensors", coded)))
    return paths


def alone(path):
    return digest(open_checkpoint(path))


def test_the_digests_are_those_of_the_checkpoints_alone(files):
    plain, hashed = compare(*files), compare(*files, digest=True, threads=2)
    assert hashed.digests == {"base": alone(files[0]), "tuned": alone(files[1])}
    assert hashed.digests["base"] != hashed.digests["tuned"]
    document = hashed.to_dict()
    assert (document["base"].pop("digest"), document["tuned"].pop("digest")) == tuple(map(alone, files))
    assert to_json(document) == to_json(plain.to_dict())


def test_no_byte_of_a_tensor_is_read_twice(files, monkeypatch):
    read = Counter()
    into = File.read_into

    def counted(self, offset, buffer):
        read.update((self.identity, offset + place) for place in range(0, buffer.nbytes, 16))
        return into(self, offset, buffer)

    monkeypatch.setattr(File, "read_into", counted)
    hashed = compare(*files, digest=True)
    assert max(read.values()) == 1
    assert hashed.digests == {"base": alone(files[0]), "tuned": alone(files[1])}


def test_tensors_compared_in_parts_are_hashed_as_they_are_stored(tmp_path):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(rows, 8)).astype(np.float32) for rows in (8, 4, 4))
    name = "model.layers.0.self_attn"
    base = {f"{name}.{kind}_proj.weight": part for kind, part in zip("qkv", (q, k, v), strict=True)}
    tuned = {f"{name}.qkv_proj.weight": np.concatenate([q, k, v]) + 1}
    comparison = compare(base, tuned, digest=True)
    assert len(comparison.rows) == 3
    assert comparison.digests == {"base": digest(open_checkpoint(base)), "tuned": digest(open_checkpoint(tuned))}


def test_a_file_against_itself_and_a_series(files):
    assert len(set(compare(files[0], files[0], digest=True).digests.values())) == 1
    steps = series_dict(series([files[0], files[1], files[0]], digest=True))["series"]
    assert len(steps) == 4
    assert [step["digests"] for step in steps] == [{"base": alone(step["from"]), "tuned": alone(step["to"])} for step in steps]


def test_of_an_adapter_its_own_tensors_count(tmp_path):
    base = {"model.layers.0.self_attn.q_proj.weight": np.eye(8, dtype=np.float32)}
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{prefix}.lora_A.weight": np.ones((2, 8), np.float32), f"{prefix}.lora_B.weight": np.ones((8, 2), np.float32)}
    write_safetensors(tmp_path / "adapter_model.safetensors", factors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}))
    comparison = compare(base, tmp_path, digest=True)
    assert comparison.digests["tuned"] == digest(open_checkpoint(factors)) == digest(open_checkpoint(tmp_path))
    assert comparison.digests["base"] == digest(open_checkpoint(base))


def test_overlap_has_them_from_one_pass_too(files, tmp_path, monkeypatch, capsys):
    from dynamics.overlap import compare as overlaps
    from dynamics.overlap.__main__ import cli as overlap_cli

    plain = overlaps(files[0], [files[1], files[0]]).to_dict()
    read = Counter()
    into = File.read_into

    def counted(self, offset, buffer):
        read.update((self.identity, offset + place) for place in range(0, buffer.nbytes, 16))
        return into(self, offset, buffer)

    monkeypatch.setattr(File, "read_into", counted)
    document = overlaps(files[0], [files[1], files[0]], digest=True).to_dict()
    values = {place: count for place, count in read.items() if place[1] > 4096}  # headers are read once more
    assert max(values.values()) == 1
    monkeypatch.undo()
    expected = {"base": alone(files[0]), "tuned": [alone(files[1]), alone(files[0])]}
    assert document.pop("digests") == expected
    assert to_json(document) == to_json(plain)
    assert overlap_cli([files[0], files[1], files[0], "--hash", "--json", str(tmp_path / "o.json"), "--allow-partial"]) == 0
    assert json.loads((tmp_path / "o.json").read_text())["digests"] == expected
    assert alone(files[1]) in capsys.readouterr().out


def test_the_command_writes_them_everywhere(files, tmp_path, capsys):
    page, report = tmp_path / "page.html", tmp_path / "report.json"
    assert cli([*files, "--hash", "--json", str(report), "--html", str(page), "--allow-partial"]) == 0
    shown = capsys.readouterr().out
    document = json.loads(report.read_text())
    for side, path in zip(("base", "tuned"), files, strict=True):
        assert document[side]["digest"] == alone(path)
        assert alone(path) in shown
        assert alone(path) in page.read_text()
    assert cli([*files, "--hash", "--part", "1/2", "--json", str(tmp_path / "part.json")]) == 2
    assert "--hash: a part does not read whole checkpoints" in capsys.readouterr().err
