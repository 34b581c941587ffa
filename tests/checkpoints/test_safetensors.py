"""The safetensors reader: agreement with the library, and untrusted headers."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from helpers import reasons, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.safetensors import read_safetensors
from dynamics.errors import InputError


def container(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_reads_what_the_library_writes(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    kinds = [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    ]
    kinds += ["uint16", "uint32", "uint64"]
    tensors = {kind: torch.arange(30).reshape(2, 3, 5).to(getattr(torch, kind)) for kind in kinds}
    tensors["scalar"], tensors["empty"] = torch.tensor(3.0), torch.zeros(0, 4)
    library.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    read = read_safetensors(tmp_path / "x.safetensors").tensors
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].shape == tuple(tensor.shape)
        assert read[name].dtype == str(tensor.dtype).removeprefix("torch.")
        assert np.array_equal(read[name].values(), tensor.double().numpy().ravel())
        if tensor.numel() > 4:
            assert np.array_equal(read[name].values(3, 17), tensor.double().numpy().ravel()[3:17])
            assert np.array_equal(read[name].rows(1, 2).values(), tensor[1:2].double().numpy().ravel())
            assert np.array_equal(read[name].item(1).values(), tensor[1].double().numpy().ravel())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "too short"),
        (b"1234", "too short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (container({}, length=2**63), "over the format's limit"),
        (b"hello, checkpoint", "is a text file, not a safetensors file; it begins with 'hello, checkpoint'"),
        (b'{"error": "no access"}\n', "is a text file, not a safetensors file"),
        ("\ufeff<!DOCTYPE html>\n<p>Zugriff für Gäste verweigert".encode(), "is a text file.* begins with '<!DOCTYPE html>'"),
        (b"hello, \x00heckpoint", "over the format's limit"),
        (container({}, length=1000), "truncated"),
        (container(b"{nope"), "not valid JSON"),
        (container(b"\xff\xfe"), "not valid JSON"),
        (container(b"[1]"), "not an object"),
        (container(b"[" * 200_000), "nested too deeply"),
        (container(b'{"a": 1, "a": 2}'), "stands twice"),
        (container({"a": 3}), "needs dtype"),
        (container({"a": entry("F31")}, bytes(8)), "unknown dtype F31"),
        (container({"a": entry(["F32"])}, bytes(8)), "unknown dtype"),
        (container({"a": entry(shape=(-2,))}, bytes(8)), "whole numbers"),
        (container({"a": entry(shape=(True,))}, bytes(8)), "whole numbers"),
        (container({"a": entry(shape=(2.0,))}, bytes(8)), "whole numbers"),
        (container({"a": entry(shape=(2**40, 2**40), offsets=(0, 8))}, bytes(8)), "more elements than any file"),
        (container({"a": entry(offsets=(0, 7))}, bytes(8)), "takes 8 bytes"),
        (container({"a": entry(offsets=(8, 0))}, bytes(8)), "takes 8 bytes"),
        (container({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "overlaps"),
        (container({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "hole"),
        (container({"a": entry(), "b": entry(offsets=(8, 16))}, bytes(12)), "truncated"),
        (container({"a": entry(offsets=(2**61, 2**61 + 8))}, bytes(8)), "hole"),
        (container({"a": entry()}, bytes(9)), "no header entry names"),
        (container(b'{"\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', bytes(8)), "not valid Unicode"),
        (container({}), "holds no tensors"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, content, says):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert "bad.safetensors" in str(caught.value)


def test_dtypes_without_plain_values_are_named_not_refused(tmp_path):
    values = {"a": np.zeros(2, np.float32), "b": ("C64", np.zeros(3, np.complex64)), "c": ("F8_E8M0", np.zeros(3, np.uint8))}
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "x.safetensors", values))
    assert list(checkpoint.tensors) == ["a"]
    assert reasons(checkpoint) == {"b": "dtype C64 has no comparison here", "c": "float8_e8m0fnu holds scales, not weights"}


def test_a_file_that_shrinks_after_it_was_opened_is_an_error_and_no_crash(tmp_path):
    path = write_safetensors(tmp_path / "x.safetensors", {"a": np.zeros(1 << 20, np.float32)})
    tensor = open_checkpoint(path).tensors["a"]
    with open(path, "r+b") as file:
        file.truncate(1 << 20)
    with pytest.raises(InputError, match="shrank while it was read"):
        tensor.values(500_000, 600_000)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "BOOL", "XX"]) | json_values,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | json_values,
    },
)


def one_line(error):
    assert "\n" not in str(error)


def opens_or_refuses(path):
    """Check that any bytes give tensors within the file or an InputError of one line."""
    try:
        checkpoint = open_checkpoint(path)
    except InputError as error:
        one_line(error)
        return
    for tensor in checkpoint.tensors.values():
        assert tensor.stored().size == tensor.numel


@settings(max_examples=300, deadline=None)
@given(header=st.dictionaries(st.text(max_size=8), entries | json_values, max_size=5), size=st.integers(0, 64))
def test_no_header_breaks_the_reader(tmp_path_factory, header, size):
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    path.write_bytes(container(json.dumps(header).encode(), bytes(size)))
    opens_or_refuses(path)


@settings(max_examples=300, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6), cut=st.integers(0, 500))
def test_no_damage_to_a_good_file_breaks_the_reader(tmp_path_factory, edits, cut):
    folder = tmp_path_factory.mktemp("fuzz")
    path = write_safetensors(folder / "x.safetensors", {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(5, dtype=np.uint8)})
    content = bytearray(path.read_bytes())
    for place, value in edits:
        content[place % len(content)] = value
    path.write_bytes(bytes(content[: max(0, len(content) - cut)] if cut < 250 else content))
    opens_or_refuses(path)
