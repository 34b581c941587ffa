"""Documents parse to the values that were written, with null for NaN and infinite numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.errors import InputError
from dynamics.io.json import decode, encode, read_document, to_json

#: text with halves of surrogate pairs, which UTF-8 cannot hold
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT, lambda part: st.lists(part, max_size=4) | st.dictionaries(TEXT, part, max_size=4)
)


def refuse(constant):
    pytest.fail(f"{constant} is no JSON")


@given(DOCUMENTS)
def test_what_is_written_is_what_is_read(document):
    line = encode(document)
    assert b"\n" not in line
    line.decode("utf-8")
    for text in (line, to_json(document).encode("utf-8")):
        assert json.loads(text, parse_constant=refuse) == document
        assert decode(text) == document


@given(DOCUMENTS)
def test_python_writes_what_is_read(document):
    for ascii_only in (True, False):
        assert decode(json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")) == document


def test_documents_say_null_for_what_is_not_a_number():
    for text in ("x", "\ud83c"):
        document = to_json({"a": [math.nan, math.inf, -math.inf, 1.5, (2,)], "b": np.float32("nan"), 3: text})
        assert json.loads(document, parse_constant=refuse) == {"a": [None, None, None, 1.5, [2]], "b": None, "3": text}


def test_numpy_scalars_are_numbers():
    for text in ("x", "\ud83c"):
        values = [np.int64(3), np.float64(0.1), np.float32(0.5), np.bool_(True), np.str_(text), np.uint8(255)]
        assert json.loads(encode(values)) == [3, 0.1, 0.5, True, text, 255]
    with pytest.raises(TypeError, match="cannot be written"):
        encode({"a": object()})


def test_documents_are_indented_and_end_with_a_newline():
    document = {"a": [], "b": {}, "c": [1, {"x": 2.5}], "d": "é"}
    assert to_json(document) == json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def test_nan_of_other_programs_is_read():
    values = decode(b'{"a": NaN, "b": [Infinity, -Infinity], "c": 1e999}')
    assert math.isnan(values["a"])
    assert values["b"] == [math.inf, -math.inf]
    assert values["c"] == math.inf


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"  ", "is empty"),
        (b"{", "not a JSON document"),
        (b"[1]", "expected structure"),
        (b'{"a": "\xe9"}', "not UTF-8 text at byte 7"),
        (b'{"a":' * 100_000, "not a JSON document"),
    ],
)
def test_a_document_that_cannot_be_read_is_refused(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        read_document(path, dict[str, object])
    assert message in str(caught.value)
    path.write_bytes(b'\xef\xbb\xbf{"a": NaN}')
    assert math.isnan(read_document(path, dict[str, float])["a"])
