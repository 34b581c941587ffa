"""Files of torch.save are read lazily and without torch: values equal those of torch.load, and no code in the files is executed."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from helpers import ends_well, reasons

from dynamics.checkpoints.files import File
from dynamics.checkpoints.pickled import read_pickled
from dynamics.checkpoints.tensor import STORAGE
from dynamics.errors import InputError

torch = pytest.importorskip("torch")


def assert_same(tensor, reference, seed=0):
    """Compare shape, dtype and the bits of the whole tensor and of random ranges."""
    assert (tensor.shape, f"torch.{tensor.dtype}") == (tuple(reference.shape), str(reference.dtype))
    bits = reference.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    rng, width = np.random.default_rng(seed), tensor.storage.itemsize
    ranges = [(0, tensor.numel), (0, 0), *(sorted(rng.integers(0, tensor.numel + 1, 2).tolist()) for _ in range(20))]
    for start, stop in ranges:
        assert tensor.stored(start, stop).tobytes() == bits[start * width : stop * width], (tensor.name, start, stop)


def some(*shape, dtype="float32"):
    random = torch.randint(0, 256, (*shape, getattr(torch, dtype).itemsize), dtype=torch.uint8)
    return (random % 2 if dtype == "bool" else random).view(getattr(torch, dtype)).reshape(shape)


@pytest.fixture
def counted(monkeypatch):
    """Count the bytes read from files so far."""
    total, read_into = [0], File.read_into

    def counting(self, offset, buffer):
        total[0] += buffer.nbytes
        read_into(self, offset, buffer)

    monkeypatch.setattr(File, "read_into", counting)
    return total


@pytest.mark.parametrize("zipped", [True, False])
def test_every_dtype_and_layout_is_read_as_torch_reads_it(tmp_path, zipped):
    torch.manual_seed(0)
    base = some(6, 10)
    state = {f"dtype.{name}": some(3, 5, dtype=name) for name in STORAGE}
    state |= {
        "transposed": base.t(),
        "columns": base[:, 2:7],
        "rows": base[1:4],
        "steps": base[::2, ::3],
        "permuted": some(2, 3, 4, 5).permute(3, 0, 2, 1),
        "expanded": some(1, 7).expand(4, 7),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(some(2, 2)),
    }
    path = tmp_path / "w.pt"
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=zipped)
    read = read_pickled(path)
    assert list(read.tensors) == list(state)
    assert (read.format, read.ignored) == ("torch", ())
    for name, tensor in state.items():
        assert_same(read.tensors[name], tensor)


@pytest.mark.parametrize("zipped", [True, False])
def test_tied_weights_have_one_source_and_others_do_not(tmp_path, zipped):
    weight = some(4, 4)
    torch.save(
        {"a": weight, "b": weight, "c": weight.clone(), "d": weight[1:], "e": weight.t()},
        tmp_path / "w.bin",
        _use_new_zipfile_serialization=zipped,
    )
    tensors = read_pickled(tmp_path / "w.bin").tensors
    assert tensors["a"].source == tensors["b"].source is not None
    assert len({tensors[name].source for name in "acde"}) == 4


def test_a_module_state_dict_keeps_its_metadata_out(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "w.pt")
    assert list(read_pickled(tmp_path / "w.pt").tensors) == list(module.state_dict())


def test_opening_reads_headers_only_and_a_range_reads_only_its_bytes(tmp_path, counted):
    torch.save({"plain": some(1000, 1000), "transposed": some(1000, 1000).t()}, tmp_path / "w.pt")
    tensors = read_pickled(tmp_path / "w.pt").tensors
    assert counted[0] < 50_000
    counted[0] = 0
    tensors["plain"].stored(5000, 6000)
    assert counted[0] == 4000
    counted[0] = 0
    tensors["transposed"].stored(0, 10_000)
    assert counted[0] == 40_000


@pytest.mark.parametrize(
    ("wrap", "left_out"),
    [
        (lambda state: {"model": state, "step": 7}, {"step": "not a tensor"}),
        (
            lambda state: {"state_dict": state, "optimizer": {"state": {0: {"m": state["w"]}}}},
            {"optimizer": "optimizer state, not weights"},
        ),
        (lambda state: {"module": state, "ds_version": "0.1"}, {"ds_version": "not a tensor"}),
        (lambda state: {"model_state_dict": state, "ema": state}, {"ema": "outside model_state_dict, which holds the weights"}),
        (lambda state: {"state": {"model": state, "seed": 1}, "n": 2}, {"seed": "not a tensor", "n": "not a tensor"}),
    ],
)
def test_a_nested_state_dict_is_found_and_the_rest_is_named(tmp_path, wrap, left_out):
    torch.save(wrap({"w": some(2, 2), "b": some(2)}), tmp_path / "w.pt")
    read = read_pickled(tmp_path / "w.pt")
    assert list(read.tensors) == ["w", "b"]
    assert reasons(read) == left_out


def test_deeper_dictionaries_become_dotted_names(tmp_path):
    torch.save({"model": {"language": {"w": some(2)}, "v": some(3)}}, tmp_path / "w.pt")
    assert list(read_pickled(tmp_path / "w.pt").tensors) == ["language.w", "v"]


def test_entries_that_are_no_weights_are_grouped_by_reason(tmp_path):
    torch.save({"w": some(2), **{f"n{i}": i for i in range(1000)}}, tmp_path / "w.pt")
    assert reasons(read_pickled(tmp_path / "w.pt")) == {"n0 and 999 more": "not a tensor"}


@pytest.mark.filterwarnings("ignore")
def test_tensors_it_cannot_read_are_named_and_do_not_spoil_the_others(tmp_path):
    weight = torch.randn(4, 6)
    state = {
        "w": weight,
        "sparse": weight.to_sparse(),
        "csr": weight.to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        "meta": weight.to("meta"),
        "nested": torch.nested.nested_tensor([weight, weight[:2]]),
        "jagged": torch.nested.nested_tensor([weight, weight[:2]], layout=torch.jagged),
        "complex": torch.complex(weight, weight),
        "fnuz": weight.to(torch.float8_e4m3fnuz),
    }
    torch.save(state, tmp_path / "w.pt")
    read = read_pickled(tmp_path / "w.pt")
    assert list(read.tensors) == ["w"]
    assert_same(read.tensors["w"], weight)
    why = reasons(read)
    assert list(why) == list(state)[1:]
    assert "sparse" in why["csr"]
    assert "quantized" in why["quantized"]
    assert "complex64" in why["complex"]


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Evil(os.system, "touch PWNED"), "posix.system"),
        (Evil(eval, "open('PWNED', 'w')"), "builtins.eval"),
        (Evil(getattr, "x", "y"), "builtins.getattr"),
        (Evil(torch.hub.load, "x", "y"), "torch.hub.load"),
        (Evil(io.open, "PWNED", "w"), "io.open"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_never_run_and_the_name_it_wanted_is_told(tmp_path, monkeypatch, value, wanted, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": some(2), "x": value}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=wanted) as caught:
        read_pickled(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["w.pt"]


def zipped_pickle(path, data, records=(), compression=zipfile.ZIP_STORED):
    """Make an archive like torch.save's around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in records:
            archive.writestr(f"archive/{name}", content)


def tensor_record(numel, offset, shape, strides):
    """Make the pickle of ``{"w": tensor}`` with an arbitrary tensor record."""
    storage = object()

    class Pickler(pickle._Pickler):
        def persistent_id(self, item):
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if item is storage else None

    record = Evil(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, OrderedDict())
    stream = io.BytesIO()
    Pickler(stream, 2).dump({"w": record})
    return stream.getvalue()


def test_the_forged_record_of_these_tests_is_read_when_it_is_true(tmp_path):
    zipped_pickle(tmp_path / "w.pt", tensor_record(6, 1, (2, 2), (2, 1)), [("data/0", np.arange(6, dtype="<f4").tobytes())])
    assert read_pickled(tmp_path / "w.pt").tensors["w"].stored().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "record",
    [
        (6, 3, (2, 2), (2, 1)),
        (6, 0, (2, 5), (2, 1)),
        (6, 0, (2**40, 2**40), (2**40, 1)),
        (2**60, 0, (2**60,), (1,)),
        (6, 2**62, (2,), (1,)),
        (6, -1, (2,), (1,)),
        (6, 0, (2,), (-1,)),
        (6, 0, (-2,), (1,)),
        (6, 0, (2**62,), (0,)),
        (6, 0, (2, 2), (1,)),
        (6, 0, ("2",), (1,)),
        (6, 0, 2, 1),
        (6, None, (2,), (1,)),
        (-6, 0, (2,), (1,)),
        (6.0, 0, (2,), (1,)),
    ],
)
def test_a_record_that_reaches_outside_its_storage_is_refused_when_opened(tmp_path, record):
    zipped_pickle(tmp_path / "w.pt", tensor_record(*record), [("data/0", bytes(24))])
    with pytest.raises(InputError):
        read_pickled(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.", "damaged"),  # a text of 2**60 bytes
        (b"\x80\x02(((((", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02]q\x00h\x00a.", "holds a list"),  # contains itself
        (b"\x80\x02ctorch\nSize\n(N}X\x01\x00\x00\x00aK\x01stb.", "damaged"),  # sets an attribute of a class
        (b"\x80\x02K\x01Q.", "damaged"),  # a persistent id that is a number
        (b"\x80\x02\x82\x01.", "damaged"),  # an extension code
        (pickle.dumps([1]), "holds a list"),
    ],
)
def test_hostile_pickles_end_in_one_line(tmp_path, data, message):
    zipped_pickle(tmp_path / "w.pt", data)
    with pytest.raises(InputError, match=message) as caught:
        read_pickled(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_memory_is_taken_for_bytes_that_are_there_only(tmp_path):
    """A bytearray of 24 GB, says the file of 30 bytes; Python's own unpickler makes it before it reads."""
    (tmp_path / "a.pt").write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 24 << 30) + b"few bytes.")
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="its pickle is damaged"):
            read_pickled(tmp_path / "a.pt")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_a_memo_of_four_billion_entries_costs_nothing(tmp_path):
    zipped_pickle(tmp_path / "w.pt", b"\x80\x02}r\xff\xff\xff\xff.")  # the C unpickler would fill 64 GB with zeros
    assert read_pickled(tmp_path / "w.pt").tensors == {}


def test_a_dictionary_within_itself_ends(tmp_path):
    loop = {"w": some(2)}
    loop["again"] = loop
    torch.save(loop, tmp_path / "w.pt")
    assert "w" in read_pickled(tmp_path / "w.pt").tensors


def test_one_file_cannot_change_how_the_next_is_read(tmp_path):
    name = b"ctorch._utils\n_rebuild_tensor_v2\n"
    for attack in (name + b"(N}X\x04\x00\x00\x00pathX\x01\x00\x00\x00xstb.", name + b"}X\x04\x00\x00\x00pathX\x01\x00\x00\x00xsb."):
        zipped_pickle(tmp_path / "evil.pt", b"\x80\x02" + attack)
        with pytest.raises(InputError):
            read_pickled(tmp_path / "evil.pt")
    torch.save({"w": some(2)}, tmp_path / "w.pt")
    assert list(read_pickled(tmp_path / "w.pt").tensors) == ["w"]


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_anywhere_is_an_input_error_or_harmless(tmp_path, zipped):
    torch.save({"w": some(4, 4), "v": some(3).t()}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "w.pt").read_bytes()
    rng = np.random.default_rng(0)
    broken = [whole[:size] for size in {*range(0, len(whole), 13), len(whole) - 1}]
    for data in broken:
        (tmp_path / "x.pt").write_bytes(data)
        with pytest.raises(InputError):
            read_pickled(tmp_path / "x.pt")
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        (tmp_path / "x.pt").write_bytes(data)
        assert ends_well(read_pickled, tmp_path / "x.pt")


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in change(records).items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("change", "compression", "message"),
    [
        (lambda r: {n: b"big" if n.endswith("byteorder") else c for n, c in r.items()}, zipfile.ZIP_STORED, "big-endian"),
        (lambda r: r, zipfile.ZIP_DEFLATED, "compressed"),
        (lambda r: {n: c for n, c in r.items() if not n.endswith("data/0")}, zipfile.ZIP_STORED, "lacks its record"),
        (lambda r: {n: c for n, c in r.items() if not n.endswith("data.pkl")}, zipfile.ZIP_STORED, "not a file of torch.save"),
        (lambda r: {n: c[:-1] if n.endswith("data/0") else c for n, c in r.items()}, zipfile.ZIP_STORED, "claims 16 float32"),
        (lambda r: {**r, "w/constants.pkl": b""}, zipfile.ZIP_STORED, "TorchScript"),
        (lambda r: {}, zipfile.ZIP_STORED, "not a file of torch.save"),
    ],
)
def test_archives_that_only_look_right_are_refused(tmp_path, change, compression, message):
    torch.save({"w": some(4, 4)}, tmp_path / "w.pt")
    rewrite(tmp_path / "w.pt", change, compression)
    with pytest.raises(InputError, match=message):
        read_pickled(tmp_path / "w.pt")


def test_a_rewritten_archive_without_padding_is_read(tmp_path):
    weight = some(4, 4)
    torch.save({"w": weight}, tmp_path / "w.pt")
    rewrite(tmp_path / "w.pt", lambda records: records)
    assert_same(read_pickled(tmp_path / "w.pt").tensors["w"], weight)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}, "optimizer state"),
        ({"model": {"_flat_param": torch.zeros(9)}}, "flat parameter"),
        ({"module": {"a.weight": torch.zeros(0), "b.weight": torch.zeros(0), "freq": torch.zeros(2)}}, "placeholders, as DeepSpeed ZeRO-3"),
        ([torch.zeros(2)], "holds a list"),
        (torch.zeros(2), "holds one tensor"),
        ({"a": {"b": torch.zeros(1)}, "a.b": torch.zeros(1)}, "two entries"),
    ],
)
def test_files_that_hold_no_usable_weights_say_what_they_are(tmp_path, value, message):
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(InputError, match=message):
        read_pickled(tmp_path / "w.pt")


def test_what_is_no_file_of_torch_is_refused(tmp_path):
    (tmp_path / "empty.pt").touch()
    (tmp_path / "garbage.pt").write_bytes(b"hello, this is not a checkpoint")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "folder.pt").mkdir()
    for name, message in {"empty": "empty", "garbage": "not a file of torch", "plain": "is a pickle", "folder": "regular file"}.items():
        with pytest.raises(InputError, match=message):
            read_pickled(tmp_path / f"{name}.pt")
    with pytest.raises(InputError, match="No such file"):
        read_pickled(tmp_path / "absent.pt")


def test_a_file_that_shrinks_after_opening_is_an_input_error(tmp_path):
    torch.save({"w": some(1000)}, tmp_path / "w.pt")
    tensor = read_pickled(tmp_path / "w.pt").tensors["w"]
    os.truncate(tmp_path / "w.pt", 100)
    with pytest.raises(InputError, match="shrank"):
        tensor.values()
