"""Files of numpy are read as numpy itself reads them, and nothing that would need a pickle."""

from __future__ import annotations

import io
import zipfile
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from helpers import reasons

from dynamics.checkpoints import open_checkpoint
from dynamics.errors import InputError
from dynamics.sparsity import compare

RNG = np.random.default_rng(0)
DTYPES = ["<f8", "<f4", "<f2", ">f8", ">f4", ">f2", "<i8", ">i4", "<i2", "|i1", "<u8", ">u4", ">u2", "|u1", "|b1"]


def array(dtype, shape=(6, 4)):
    return (100 * RNG.normal(size=shape)).astype(dtype)


def raw(header, data=b"", version=(1, 0)):
    """Return a file with this header."""
    text = header.encode("latin1")
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text + data


def check(tensor, expected):
    """Compare a tensor, as a whole and in every range of a few elements, with an array of numpy."""
    native = np.ascontiguousarray(expected, expected.dtype.newbyteorder("<")).reshape(-1)
    assert tensor.shape == expected.shape
    assert tensor.dtype == expected.dtype.name
    assert tensor.stored().tobytes() == native.tobytes()
    for start, stop in pairwise(range(0, native.size + 1, 5)):
        assert tensor.stored(start, stop).tobytes() == native[start:stop].tobytes()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_in_both_orders(dtype, order, tmp_path):
    for shape in ((6, 4), (2, 3, 4), (7,), (), (0, 3), (1, 5)):
        expected = np.asarray(array(dtype, shape), order=order)
        np.save(tmp_path / "layer.weight.npy", expected)
        held = np.load(tmp_path / "layer.weight.npy")
        assert held.flags.f_contiguous == expected.flags.f_contiguous
        from dynamics.checkpoints.arrays import read_npy

        check(read_npy(tmp_path / "layer.weight.npy").tensors["layer.weight"], expected)


def test_large_arrays_in_column_order_are_read_in_ranges(tmp_path):
    expected = np.asfortranarray(RNG.normal(size=(700, 900)).astype(np.float32))
    np.save(tmp_path / "w.npy", expected)
    tensor = open_checkpoint(tmp_path / "w.npy").tensors["w"]
    for start, stop in ((0, 630000), (12345, 12346), (899, 90001), (450000, 630000)):
        assert tensor.stored(start, stop).tobytes() == expected.reshape(-1)[start:stop].tobytes()


def test_a_folder_an_archive_and_a_mapping_are_the_same(tmp_path):
    held = {f"model.layers.{n}.mlp.up_proj.weight": np.asarray(array("<f4", (8, 5)), order="CF"[n]) for n in (0, 1)}
    later = {name: values + np.float32(0.5) * (values > 0) for name, values in held.items()}
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, values in held.items():
        np.save(folder / f"{name}.npy", values)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "logs").mkdir()
    np.savez(tmp_path / "weights.npz", **later)
    inside = tmp_path / "inside"
    inside.mkdir()
    np.savez(inside / "weights.npz", **later)
    expected = compare(held, later).to_dict()
    for tuned in (tmp_path / "weights.npz", inside):
        found = compare(folder, tuned).to_dict()
        assert found["total"] == expected["total"]
        assert found["tensors"] == expected["tensors"]
    opened = open_checkpoint(folder)
    assert (opened.format, open_checkpoint(inside).format, opened.config) == ("npy", "npz", {"model_type": "llama"})
    assert reasons(opened) == {"logs/": "folder not read: arrays are taken from the folder that is named"}


def test_what_has_no_plain_values_is_named(tmp_path):
    arrays = {
        "w": array("<f4"),
        "config": np.array({"a": 1}, object),
        "half": np.ones(3, ml_dtypes.bfloat16),
        "wave": np.ones((2, 2), np.complex64),
        "text": np.array(["a", "bc"]),
        "date": np.array(["2020-01-01"], "M8[D]"),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    opened = open_checkpoint(tmp_path / "a.npz")
    assert list(opened.tensors) == ["w"]
    found = reasons(opened)
    assert "which is a pickle" in found["config"]
    assert "raw bytes, as numpy writes bfloat16" in found["half"]
    assert "<c8, which has no comparison" in found["wave"]
    assert found.keys() == arrays.keys() - {"w"}
    assert {entry.name: entry.numel for entry in opened.ignored}["wave"] == 4
    np.save(tmp_path / "o.npy", arrays["config"])
    with pytest.raises(InputError, match="holds no tensors: o is an array of Python objects, which is a pickle"):
        open_checkpoint(tmp_path / "o.npy")


class Trap:
    """Its pickle would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickle_is_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", w=array("<f4"), trap=np.array([Trap(tmp_path / "sprung")], object))
    opened = open_checkpoint(tmp_path / "a.npz")
    opened.tensors["w"].values()
    assert not (tmp_path / "sprung").exists()


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is not a file of numpy"),
        (b"\x93NUMPY\x01", "is not a file of numpy"),
        (b"PK\x03\x04 and so on", "is not a file of numpy"),
        (raw(GOOD, bytes(8), (4, 0)), "version 4.0"),
        (raw(GOOD, bytes(7)), "is cut short: float32 of shape"),
        (raw(GOOD, bytes(9)), "has 1 bytes after the array"),
        (raw(GOOD + " " * 20_000, bytes(8)), "its header claims"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(20), "its header claims 4294967295 bytes"),
        (raw(GOOD.replace("(2,)", "(2, 3")), "has a header that numpy does not write"),
        (raw(GOOD.replace("(2,)", "(2 3,)")), "has a shape that no file holds"),
        (raw(GOOD.replace("(2,)", "(L,)")), "has a shape that no file holds"),
        (raw(GOOD.replace("(2,)", "(-2,)")), "has a header that numpy does not write"),
        (raw(GOOD.replace("(2,)", f"({2**62},)")), "has a shape that no file holds"),
        (raw(GOOD.replace("(2,)", f"({2**40}, {2**40})")), "has a shape that no file holds"),
        (raw(GOOD.replace("(2,)", f"({'9' * 6000},)")), "has a shape that no file holds"),
        (raw(GOOD.replace("(2,)", f"({'1,' * 40})")), "has a shape that no file holds"),
        (raw(GOOD.replace("(2,)", f"{2**40}")), "has a header that numpy does not write"),
        (raw(GOOD.replace("False", "print(1)")), "has a header that numpy does not write"),
        (raw(GOOD.replace("False", "'False'")), "has a header that numpy does not write"),
        (raw(GOOD.replace("'descr'", "'shape'")), "has a header that numpy does not write"),
        (raw(GOOD.replace("}", "} + {}")), "has a header that numpy does not write"),
        (raw("(" * 9000), "has a header that numpy does not write"),
        (raw("{" + "'shape': (), " * 500 + "}"), "has a header that numpy does not write"),
        (raw(GOOD.replace("<f4", "float32")), "has an unknown dtype"),
        (raw(GOOD.replace("<f4", "<f16")), "of dtype <f16, which has no comparison"),
        (raw(GOOD.replace("<f4", "<f999999")), "has no comparison"),
        (raw(GOOD.replace("'<f4'", "[('a', '<f4'), ('b', '<i4')]"), bytes(16)), "has a structured dtype"),
        (raw(GOOD.replace("'<f4'", "[" * 5000)), "has a structured dtype"),
    ],
)
def test_damaged_and_hostile_headers_end_in_one_line(data, what, tmp_path):
    (tmp_path / "w.npy").write_bytes(data)
    with pytest.raises(InputError, match=what) as refused:
        open_checkpoint(tmp_path / "w.npy")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_other_writers_headers_are_read(tmp_path):
    expected = array("<f4", (2, 3))
    for header in (
        '{"shape": (2, 3), "fortran_order": False, "descr": "<f4"}',
        "{ 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 2L , 3L ) , }   \n",
    ):
        for version in ((1, 0), (2, 0), (3, 0)):
            (tmp_path / "w.npy").write_bytes(raw(header, expected.tobytes(), version))
            check(open_checkpoint(tmp_path / "w.npy").tensors["w"], expected)


def npy(values):
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def test_archives_that_numpy_did_not_write_are_refused(tmp_path):
    values = array("<f4")
    np.savez_compressed(tmp_path / "compressed.npz", w=values)
    with pytest.raises(InputError, match=r"is compressed; write the file again with numpy.savez \(not savez_compressed\)"):
        open_checkpoint(tmp_path / "compressed.npz")
    np.savez(tmp_path / "a.npz", w=values)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:-30])
    with pytest.raises(InputError, match="is cut short or damaged"):
        open_checkpoint(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("w.npy", npy(values))
        file.writestr("notes.txt", "x")
    opened = open_checkpoint(tmp_path / "b.npz")
    check(opened.tensors["w"], values)
    assert reasons(opened) == {"notes.txt": "not an array of numpy"}
    with zipfile.ZipFile(tmp_path / "overlap.npz", "w") as file:
        file.writestr("w.npy", npy(values))
        info = file.getinfo("w.npy")
        for number in range(20):
            twin = zipfile.ZipInfo(f"{number}.npy")
            for key in ("header_offset", "CRC", "compress_size", "file_size", "compress_type", "external_attr"):
                setattr(twin, key, getattr(info, key))
            file.filelist.append(twin)
    with pytest.raises(InputError, match="its records overlap"):
        open_checkpoint(tmp_path / "overlap.npz")
    (tmp_path / "w.npy").write_bytes(npy(values))
    with pytest.raises(InputError, match=r"holds 4 \.npz files and 1 \.npy file; name one of them"):
        open_checkpoint(tmp_path)
