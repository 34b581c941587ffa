"""Checkpoints that were made to do harm are refused in one line, in bounded memory and time."""

from __future__ import annotations

import datetime
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from checkpoints import hostile
from checkpoints.hostile import ATTACKS, LONG
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.checkpoints import conversion, open_checkpoint
from dynamics.checkpoints.module_patterns import Patterns, Steps, UnsupportedError
from dynamics.errors import InputError, printable

TESTS = Path(__file__).parents[1]
#: attacks of which each takes an instant, one of each kind
QUICK = [
    "a sparse npy of a huge shape", "an npy with an endless header", "an npy of brackets",
    "a tensor wrapped in itself", "a dtype of doubled lists", "a key of doubled pairs", "a set of doubled pairs", "a number of megabytes",
    "a number of five thousand digits", "a number that overflows", "a storage that is changed", "a class that is changed",
    "one value a billion times", "a record without arguments", "an archive with an endless list", "an old pickle with an endless text",
    "metadata with a name of doubled pairs", "metadata of a huge shape", "metadata that names a pipe",
    "a sparse gguf with an endless vocabulary", "a sparse gguf with an endless text", "experts without end",
    "gguf tensors that lie on one another", "a name of five thousand digits", "a layer with a huge number", "a header of brackets",
    "a pattern that repeats", "a pattern that looks back", "an alpha of 401 digits", "an alpha that is true", "an adapter of rank zero",
    "a method that is a list", "a flag of text", "a pipe named config.json", "a pipe named model.safetensors", "a device as config.json",
    "a sparse config", "pointers that are pipes", "a pointer to the parent", "an index with a zero byte",
]  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_an_attack_is_refused(name, tmp_path):
    with pytest.raises(InputError) as caught:
        open_checkpoint(ATTACKS[name](tmp_path))
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 500


@pytest.mark.slow
def test_all_attacks_with_little_memory(tmp_path):
    """The time only catches what does not end; the address space is that of ``hostile.MEMORY``."""
    command = [sys.executable, hostile.__file__, str(tmp_path), *ATTACKS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "DYNAMICS_PROGRESS": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=True)
    results = {result["attack"]: result for result in map(json.loads, done.stdout.splitlines())}
    assert results.keys() == ATTACKS.keys() >= LONG
    for name, result in results.items():
        assert result["status"] == 2, (name, result)
        lines = [line for line in result["error"].splitlines() if not line.startswith("comparing: ")]
        assert len(lines) == 1, (name, result)
        assert "error: " in lines[0], (name, result)
        assert "internal error" not in lines[0], (name, result)
        assert result["seconds"] < 300, (name, result)


PARTS = st.sampled_from(["a", "b", "1", ".", r"\.", r"\d", "[ab]", "[^a]", "(a|b)", "(?:ab|a)", "^", "$", r"\b", r"\w", "(a", "|"])
QUANTIFIERS = st.sampled_from(["", "", "*", "+", "?", "{2}", "{0,2}", "*?"])


@settings(max_examples=50)
@given(st.lists(st.tuples(PARTS, QUANTIFIERS), max_size=5), st.text("ab.12", max_size=8))
def test_patterns_match_as_in_peft(parts, module):
    pattern = "".join(map("".join, parts))
    try:
        expected = bool(re.match(rf"(.*\.)?({pattern})$", module))
    except re.error:
        expected = module.endswith(pattern)
    assert (Patterns([pattern]).first(module, Steps()) is not None) == expected


def test_patterns_that_python_would_never_finish():
    for pattern in ("(a|a)*b", "(a+)+b", "(.*a){20}b"):
        assert Patterns([pattern]).first("a" * 60, Steps()) is None
    with pytest.raises(UnsupportedError, match="too long to match"):
        Patterns(["((a?){50}){3}b"]).first("a" * 200, Steps(1000))


@settings(max_examples=50)
@given(st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=6), st.text("ab.", max_size=8))
def test_the_first_of_many_names_counts(patterns, module):
    expected = next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), None)
    assert Patterns(patterns).first(module, Steps()) == expected


def test_every_module_of_a_mixture_of_experts_may_have_its_rank():
    names = [f"model.layers.{layer}.mlp.experts.{expert}.up_proj" for layer in range(48) for expert in range(128)]
    patterns, steps = Patterns(names), Steps()
    assert all(patterns.first(f"base.{name}", steps) == name for name in names)
    assert steps.left > 0


def test_strangers_names_are_printed_in_bounded_time():
    assert printable(10**5000) == "a int too large to print"
    assert printable("x" * 10_000_000, 5) == "xxxx…"
    assert printable("\ud800\n", 20) == "\\xd800\\x0a"


def test_a_configuration_names_no_code(monkeypatch):
    """A kernel on the Hub would be fetched and run; a backbone would be fetched."""
    config = {
        "model_type": "llama", "attn_implementation": "org/kernel", "_attn_implementation": "org/kernel", "auto_map": {"A": "x--y.Z"},
        "text_config": {"experts_implementation": "org/kernel", "hidden_size": 4}, "layers": [{"use_kernels": True}],
    }  # fmt: skip
    assert conversion._without_code(config) == {"model_type": "llama", "text_config": {"hidden_size": 4}, "layers": [{}]}
    for named in ({"backbone": "org/name"}, {"vision_config": {"use_pretrained_backbone": True}}, {"model_type": "timm_wrapper"}):
        with pytest.raises(conversion.UnsupportedError, match="names another model"):
            conversion._without_code(named)


def test_objects_of_ordinary_pickles_are_read(tmp_path):
    """What other programs put beside weights: states of random numbers, sets, nested tuples, large numbers."""
    torch = pytest.importorskip("torch")
    state = {
        "date": datetime.datetime(2026, 11, 27, tzinfo=datetime.timezone.utc), "took": datetime.timedelta(1), "of": range(3),
        "counts": Counter("aab"), "lists": defaultdict(list, a=[1]), "w": torch.arange(4.0), "seed": 2**127, "names": {"a", "b"},
        "shapes": {("a", 1): (1, (2, 3))}, "frozen": frozenset([1]), "none": None, "bytes": b"x" * 70_000,
        "more": frozenset({("a", 2), None}), "deep": [[[[]]]], "rng": torch.get_rng_state(),
    }  # fmt: skip
    torch.save(state, tmp_path / "w.pt")
    assert open_checkpoint(tmp_path / "w.pt").tensors["w"].values().tolist() == [0, 1, 2, 3]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        torch.save(state, tmp_path / "w.pt", pickle_protocol=max(protocol, 2))
        assert open_checkpoint(tmp_path / "w.pt").tensors["w"].shape == (4,)


@pytest.mark.parametrize("text", ["s3://[bucket/x", "https://[::1", "file://[a]b/c", "hf://a]b"])
def test_addresses_that_are_none(text):
    with pytest.raises(InputError) as caught:
        open_checkpoint(text)
    assert str(caught.value).isprintable()
