"""Checkpoints made to hang, to exhaust the memory or to break a reader: ``ATTACKS`` maps a name to a function that writes one.

Run as a script with a folder and names of attacks, it gives each to ``dynamics.sparsity`` with little memory, and prints a JSON line.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

#: address space that a command gets
MEMORY = 3 << 30

ATTACKS: dict[str, Callable[[Path], Path]] = {}
#: attacks that need more than a moment
LONG: set[str] = set()

Attack = Callable[[Path], Path]


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__.replace("_", " ")] = function
    return function


def long_attack(function: Attack) -> Attack:
    LONG.add(function.__name__.replace("_", " "))
    return attack(function)


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<I", len(data)) + data


def name(path: str) -> bytes:
    module, _, end = path.rpartition(".")
    return f"c{module}\n{end}\n".encode()


def state(value: bytes) -> bytes:
    """Pickle ``{"w": value}``."""
    return b"\x80\x02}" + text("w") + value + b"s."


STORAGE = b"(" + text("storage") + name("torch.FloatStorage") + text("0") + text("cpu") + b"K\x40tQ"


def tensor(shape: bytes = b"K\x02\x85", strides: bytes = b"K\x01\x85", function: str = "torch._utils._rebuild_tensor_v2") -> bytes:
    return name(function) + b"(" + STORAGE + b"K\x00" + shape + strides + b"\x89" + name("collections.OrderedDict") + b")RtR"


def doubled(levels: int, wrap: bytes = b"\x86") -> bytes:
    """Pickle a pair of the same pair of the same pair ..., whose text has 2 ** levels parts."""
    return b")q\x70" + (b"0h\x70h\x70" + wrap + b"q\x70") * levels


def archive(path: Path, data: bytes, compress: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("a/data.pkl", data)
        file.writestr("a/byteorder", b"little")
        file.writestr("a/data/0", bytes(256))
    return path


def sparse(path: Path, start: bytes, size: int = 1 << 40) -> Path:
    path.write_bytes(start)
    os.truncate(path, size)
    return path


def header(path: Path, text_: bytes, body: bytes = b"") -> Path:
    path.write_bytes(len(text_).to_bytes(8, "little") + text_ + body)
    return path


def weights(path: Path, **shapes: tuple[int, ...]) -> Path:
    entries, position = {}, 0
    for key, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        entries[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    return header(path, json.dumps(entries).encode(), bytes(position))


# numpy


@attack
def a_sparse_npy_of_a_huge_shape(folder: Path) -> Path:
    text_ = b"{'descr': '<f8', 'fortran_order': True, 'shape': (1099511627776, 4194303), }"
    return sparse(folder / "w.npy", b"\x93NUMPY\x01\x00" + len(text_).to_bytes(2, "little") + text_)


@attack
def an_npy_with_an_endless_header(folder: Path) -> Path:
    return sparse(folder / "w.npy", b"\x93NUMPY\x02\x00\xf0\xff\xff\xff{")


@attack
def an_npy_of_brackets(folder: Path) -> Path:
    (folder / "w.npy").write_bytes(b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"{'shape': " + b"(" * 8990)
    return folder / "w.npy"


# pickles


@attack
def a_tensor_wrapped_in_itself(folder: Path) -> Path:
    rebuild = name("torch._tensor._rebuild_from_type_v2")
    arguments = b"(" + rebuild + b"N" + b")" + b"t"
    for _ in range(30):
        arguments = b"(" + rebuild + b"N" + arguments + b"t"
    return archive(folder / "w.pt", state(rebuild + arguments + b"R"))


@attack
def wrappers_without_end(folder: Path) -> Path:
    wrapped = tensor()
    for _ in range(2000):
        wrapped = name("torch._utils._rebuild_parameter") + wrapped + b"\x85R"
    return archive(folder / "w.pt", state(wrapped))


@attack
def a_dtype_of_doubled_pairs(folder: Path) -> Path:
    record = name("torch._utils._rebuild_tensor_v3") + b"(" + STORAGE + b"K\x00K\x02\x85K\x01\x85\x89N" + doubled(60) + b"tR"
    return archive(folder / "w.pt", state(record))


@attack
def a_dtype_of_doubled_lists(folder: Path) -> Path:
    lists = b"]q\x70" + b"0]h\x70ah\x70aq\x70" * 60
    record = name("torch._utils._rebuild_tensor_v3") + b"(" + STORAGE + b"K\x00K\x02\x85K\x01\x85\x89N" + lists + b"tR"
    return archive(folder / "w.pt", state(record))


@attack
def a_key_of_doubled_pairs(folder: Path) -> Path:
    return archive(folder / "w.pt", b"\x80\x02}" + doubled(60) + b"Ns.")


@attack
def a_set_of_doubled_pairs(folder: Path) -> Path:
    return archive(folder / "w.pt", state(name("__builtin__.set") + b"]" + doubled(60) + b"a\x85R"))


@attack
def a_number_of_megabytes(folder: Path) -> Path:
    return archive(folder / "w.pt", state(tensor(shape=number(1 << 96_000_000) + b"\x85")))


@attack
def a_number_of_five_thousand_digits(folder: Path) -> Path:
    return archive(folder / "w.pt", state(tensor(shape=b"L" + b"7" * 5000 + b"L\n\x85")))


@attack
def a_number_that_overflows(folder: Path) -> Path:
    return archive(folder / "w.pt", state(tensor(shape=number(1 << 63) + number(1 << 63) + b"\x86", strides=b"K\x00K\x00\x86")))


@attack
def axes_without_end(folder: Path) -> Path:
    return archive(folder / "w.pt", state(tensor(shape=b"(" + b"K\x01" * 300_000 + b"t", strides=b"(" + b"K\x00" * 300_000 + b"t")))


@long_attack
def copies_of_a_long_list(folder: Path) -> Path:
    long = b"]q\x01(" + b"N" * 500_000 + b"e"
    copies = b"](" + (name("torch.Size") + b"h\x01\x85R") * 100_000 + b"e"
    return archive(folder / "w.pt", b"\x80\x02}" + text("a") + long + b"s" + text("b") + copies + b"s.")


@long_attack
def many_empty_sets(folder: Path) -> Path:
    return archive(folder / "w.pt", b"\x80\x04](" + b"\x8f" * 30_000_000 + b"e.")


@attack
def numbers_with_one_hash(folder: Path) -> Path:
    keys = b"".join(number(index * (2**61 - 1)) + b"N" for index in range(50_000))
    return archive(folder / "w.pt", b"\x80\x02}(" + keys + b"u.")


@attack
def a_storage_that_is_changed(folder: Path) -> Path:
    return archive(folder / "w.pt", state(STORAGE + b"}" + text("size") + number(1 << 70) + b"sb"))


@attack
def a_class_that_is_changed(folder: Path) -> Path:
    return archive(folder / "w.pt", state(name("collections.OrderedDict") + b"}" + text("update") + b"Nsb"))


@attack
def names_that_grow(folder: Path) -> Path:
    key = "k" * 60_000
    inner = b"}(" + b"".join(text(str(index)) + b"N" for index in range(50_000)) + b"u"
    return archive(folder / "w.pt", b"\x80\x02}" + text(key) + inner + b"s.")


@attack
def one_value_a_billion_times(folder: Path) -> Path:
    one = tensor(shape=b"J\x00\x00\x00\x10\x85", strides=b"K\x00\x85")
    entries = b"".join(text(f"w{index}") + one for index in range(1000))
    return archive(folder / "w.pt", b"\x80\x02}(" + entries + b"u.")


@attack
def strides_beyond_the_storage(folder: Path) -> Path:
    return archive(folder / "w.pt", state(tensor(shape=b"K\x02K\x02\x86", strides=b"J\xff\xff\xff\x7fK\x01\x86")))


@attack
def negative_strides(folder: Path) -> Path:
    return archive(folder / "w.pt", state(tensor(strides=b"J\xff\xff\xff\xff\x85")))


@attack
def a_record_without_arguments(folder: Path) -> Path:
    return archive(folder / "w.pt", state(name("torch._utils._rebuild_parameter") + b")R"))


@attack
def a_compressed_archive(folder: Path) -> Path:
    return archive(folder / "w.pt", state(tensor()) + bytes(50_000_000), zipfile.ZIP_DEFLATED)


@attack
def an_archive_with_an_endless_list(folder: Path) -> Path:
    path = archive(folder / "w.pt", state(tensor()))
    data = path.read_bytes()
    end = data.rindex(b"PK\5\6")
    with open(path, "r+b") as file:
        file.truncate(1 << 40)
        file.seek((1 << 40) - 22)
        file.write(data[end : end + 12] + struct.pack("<LLH", 0xFFFFFFF0, 0, 0))
    return path


@attack
def an_old_pickle_with_an_endless_text(folder: Path) -> Path:
    return sparse(folder / "w.pt", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x04\x8d" + struct.pack("<Q", 900 << 30))


@attack
def an_old_pickle_with_an_endless_line(folder: Path) -> Path:
    return sparse(folder / "w.pt", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02S'")


@attack
def an_old_pickle_with_endless_opcodes(folder: Path) -> Path:
    return sparse(folder / "w.pt", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02" + b"]" * 5000 + b"(" * 5000)


# distributed checkpoints


def metadata(entries: bytes, data: bytes = b"}") -> bytes:
    """Pickle the ``.metadata`` of a distributed checkpoint."""
    whole = name("torch.distributed.checkpoint.metadata.Metadata") + b")\x81}"
    return b"\x80\x02" + whole + text("state_dict_metadata") + entries + b"s" + text("storage_data") + data + b"sb."


def entry(shape: bytes, chunks: bytes) -> bytes:
    fields = b"}" + text("properties") + name("torch.distributed.checkpoint.metadata.TensorProperties") + b")\x81}"
    fields += text("dtype") + name("torch.float32") + b"sbs" + text("size") + shape + b"s" + text("chunks") + chunks + b"s"
    return name("torch.distributed.checkpoint.metadata.TensorStorageMetadata") + b")\x81" + fields + b"b"


def chunk(offsets: bytes = b"K\x00\x85", sizes: bytes = b"K\x02\x85") -> bytes:
    fields = b"}" + text("offsets") + offsets + b"s" + text("sizes") + sizes + b"s"
    return name("torch.distributed.checkpoint.metadata.ChunkStorageMetadata") + b")\x81" + fields + b"b"


def index(key: bytes, value: bytes, offset: bytes = b"K\x00\x85") -> bytes:
    first = name("torch.distributed.checkpoint.metadata.MetadataIndex") + b")\x81}" + text("fqn") + key + b"s" + text("offset")
    return first + offset + b"sb" + name("torch.distributed.checkpoint.filesystem._StorageInfo") + b")\x81}" + value + b"b"


def place(path: bytes, offset: bytes = b"K\x00", length: bytes = b"K\x08") -> bytes:
    return text("relative_path") + path + b"s" + text("offset") + offset + b"s" + text("length") + length + b"s"


def distributed(folder: Path, data: bytes) -> Path:
    (folder / ".metadata").write_bytes(data)
    (folder / "__0_0.distcp").write_bytes(bytes(4096))
    return folder


@attack
def sparse_metadata(folder: Path) -> Path:
    sparse(folder / ".metadata", b"\x80\x04]" + b"(" * 1000)
    return folder


@attack
def metadata_with_a_name_of_doubled_pairs(folder: Path) -> Path:
    named = b"}" + index(doubled(60), place(text("__0_0.distcp"))) + b"s"
    return distributed(folder, metadata(b"}" + text("w") + entry(b"K\x02\x85", b"]" + chunk() + b"a") + b"s", named))


@attack
def metadata_with_a_file_of_doubled_pairs(folder: Path) -> Path:
    named = b"}" + index(text("w"), place(doubled(60))) + b"s"
    return distributed(folder, metadata(b"}" + text("w") + entry(b"K\x02\x85", b"]" + chunk() + b"a") + b"s", named))


@attack
def metadata_with_one_list_of_parts_for_all(folder: Path) -> Path:
    parts = b"]q\x05(" + chunk() + b"q\x06" + b"h\x06" * 50_000 + b"e"
    entries = text("w") + entry(b"K\x02\x85", parts) + b"".join(text(f"v{i}") + entry(b"K\x02\x85", b"h\x05") for i in range(500))
    return distributed(folder, metadata(b"}(" + entries + b"u"))


@attack
def metadata_with_parts_that_overlap(folder: Path) -> Path:
    origins = [number(index) + b"\x85" for index in range(2000)]
    parts = b"](" + b"".join(chunk(origin, b"M\xe8\x03\x85") for origin in origins) + b"e"
    named = b"}(" + b"".join(index(text("w"), place(text("__0_0.distcp"), length=number(4000)), origin) for origin in origins) + b"u"
    return distributed(folder, metadata(b"}" + text("w") + entry(b"M\xb8\x0b\x85", parts) + b"s", named))


@attack
def metadata_of_a_huge_shape(folder: Path) -> Path:
    size = number(1 << 61) + number(1 << 61) + b"\x86"
    return distributed(folder, metadata(b"}" + text("w") + entry(size, b"]") + b"s"))


@attack
def metadata_that_names_a_pipe(folder: Path) -> Path:
    named = b"}" + index(text("w"), place(text("x.distcp"))) + b"s"
    os.mkfifo(folder / "x.distcp")
    return distributed(folder, metadata(b"}" + text("w") + entry(b"K\x02\x85", b"]" + chunk() + b"a") + b"s", named))


@attack
def layers_without_end(folder: Path) -> Path:
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    size = b"".join([number(1 << 36), b"K\x01\x86"])
    named = b"}" + index(text("layers.w"), place(text("__0_0.distcp"), length=number(1 << 39)), b"K\x00K\x00\x86") + b"s"
    parts = b"]" + chunk(b"K\x00K\x00\x86", size) + b"a"
    distributed(folder, metadata(b"}" + text("layers.w") + entry(size, parts) + b"s", named))
    os.truncate(folder / "__0_0.distcp", 1 << 40)
    return folder


# GGUF


def gguf(path: Path, fields: int, tensors: int, rest: bytes, size: int = 0) -> Path:
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + rest)
    if size:
        os.truncate(path, size)
    return path


def key(value: str, code: int, rest: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode() + struct.pack("<I", code) + rest


@attack
def a_sparse_gguf_with_endless_tensors(folder: Path) -> Path:
    return gguf(folder / "m.gguf", 0, 1 << 35, b"", 1 << 40)


@attack
def a_sparse_gguf_with_an_endless_vocabulary(folder: Path) -> Path:
    return gguf(folder / "m.gguf", 1, 0, key("tokens", 9, struct.pack("<IQ", 8, 1 << 36)), 1 << 40)


@attack
def a_sparse_gguf_with_an_endless_text(folder: Path) -> Path:
    return gguf(folder / "m.gguf", 1, 0, key("name", 8, struct.pack("<Q", 900 << 30)), 1 << 40)


@attack
def a_sparse_gguf_with_endless_lists(folder: Path) -> Path:
    return gguf(folder / "m.gguf", 1, 0, key("x", 9, struct.pack("<IQ", 9, 1 << 35)), 1 << 40)


@attack
def experts_without_end(folder: Path) -> Path:
    kind = key("general.architecture", 8, struct.pack("<Q", 8) + b"qwen3moe")
    stack = b"blk.0.ffn_up_exps.weight"
    info = struct.pack("<Q", len(stack)) + stack + struct.pack("<IQQIQ", 2, 1, 1 << 38, 24, 0)
    return gguf(folder / "m.gguf", 1, 1, kind + info, 1 << 40)


@attack
def gguf_tensors_that_lie_on_one_another(folder: Path) -> Path:
    infos = b"".join(struct.pack("<Q", 2) + f"{i:02d}".encode() + struct.pack("<IQIQ", 1, 1 << 28, 24, 0) for i in range(90))
    return gguf(folder / "m.gguf", 0, 90, infos, 1 << 29)


# safetensors


@attack
def a_name_of_five_thousand_digits(folder: Path) -> Path:
    return weights(folder / "w.safetensors", **{f"model.layers.{'7' * 5000}.w": (2, 2)})


@attack
def a_layer_with_a_huge_number(folder: Path) -> Path:
    return weights(folder / "w.safetensors", **{f"model.layers.{'7' * 30}.w": (2, 2)})


@attack
def a_name_of_megabytes(folder: Path) -> Path:
    return weights(folder / "w.safetensors", **{"layers.0." * 1_000_000: (2, 2)})


@attack
def a_header_of_axes(folder: Path) -> Path:
    shape = ",".join(["1"] * 300_000)
    return header(folder / "w.safetensors", f'{{"w":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}}}'.encode(), bytes(4))


@attack
def a_header_of_brackets(folder: Path) -> Path:
    return header(folder / "w.safetensors", b"[" * 100_000)


@attack
def a_header_of_many_lists(folder: Path) -> Path:
    return header(folder / "w.safetensors", b'{"w":[' + b"[]," * 30_000_000 + b"1]}")


@attack
def a_header_with_huge_numbers(folder: Path) -> Path:
    digits = "9" * 401
    return header(folder / "w.safetensors", f'{{"w":{{"dtype":"F32","shape":[{digits}],"data_offsets":[0,{digits}]}}}}'.encode())


@attack
def a_header_with_half_a_pair(folder: Path) -> Path:
    return header(folder / "w.safetensors", b'{"\\udfff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4))


# side files


def adapter(folder: Path, **settings: object) -> Path:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4} | settings
    whole = json.dumps(config).replace('"HUGE"', "1" + "0" * 400).replace('"DIGITS"', "1" * 5000).replace('"BEYOND"', "1e400")
    (folder / "adapter_config.json").write_text(whole)
    parts = {"base_model.model.w.lora_A.weight": (2, 2), "base_model.model.w.lora_B.weight": (2, 2)}
    weights(folder / "adapter_model.safetensors", **parts)
    return folder


for _label, _settings in {
    "a pattern that backtracks": {"rank_pattern": {"(a|a)*(b|b|w)*(.*a)*c": 2, "(w+)+": 2, "(.*.*.*.*.*.*.*)x": 1}, "r": 9},
    "a pattern that repeats": {"rank_pattern": {"((w{1,200}){1,200}){1,200}": 2}},
    "a pattern that looks back": {"alpha_pattern": {r"(w)\1": 2}},
    "a pattern of brackets": {"alpha_pattern": {"(" * 5000 + ")" * 5000: 2}},
    "patterns without end": {"alpha_pattern": {f"(.*{i}.*)*x": 2 for i in range(20_000)}},
    "an alpha of 401 digits": {"lora_alpha": "HUGE"},
    "an alpha of 5000 digits": {"lora_alpha": "DIGITS"},
    "an alpha beyond floats": {"lora_alpha": "BEYOND"},
    "an alpha that is no number": {"lora_alpha": float("nan")},
    "an alpha that is infinite": {"lora_alpha": float("inf")},
    "an alpha of text": {"lora_alpha": "4"},
    "an alpha that is true": {"lora_alpha": True},
    "a huge alpha in a pattern": {"alpha_pattern": {"w": 1e300}},
    "a rank of zero": {"r": 0},
    "a negative rank": {"r": -2},
    "a rank that is no number": {"r": float("nan")},
    "a rank that is a list": {"r": [2]},
    "a method that is a list": {"peft_type": ["LORA"]},
    "patterns that are a list": {"rank_pattern": ["w"]},
    "a flag of text": {"use_rslora": "false"},
}.items():
    attack(lambda folder, settings=_settings: adapter(folder, **settings))  # type: ignore[misc]
    ATTACKS[_label] = ATTACKS.pop("<lambda>")


@attack
def an_adapter_of_rank_zero(folder: Path) -> Path:
    adapter(folder, r=0)
    weights(folder / "adapter_model.safetensors", **{"w.lora_A.weight": (0, 2), "w.lora_B.weight": (2, 0)})
    return folder


for _label in ("config.json", "model.safetensors.index.json", "adapter_config.json", "model.safetensors", "params.json", "metadata.json"):

    def _pipe(folder: Path, label: str = _label) -> Path:
        weights(folder / ("consolidated.safetensors" if label == "params.json" else "model.safetensors"), w=(2, 2))
        (folder / label).unlink(missing_ok=True)
        if label == "metadata.json":
            (folder / "model.safetensors").unlink()
        os.mkfifo(folder / label)
        return folder

    ATTACKS[f"a pipe named {_label}"] = _pipe

for _label, _target in {"a device": "/dev/zero", "an endless file of the kernel": "/proc/kmsg", "a loop": "config.json"}.items():

    def _link(folder: Path, target: str = _target) -> Path:
        weights(folder / "model.safetensors", w=(2, 2))
        (folder / "config.json").symlink_to(target)
        return folder

    ATTACKS[f"{_label} as config.json"] = _link

for _label, _start in {
    "a sparse config": b"{}",
    "a sparse config of text": b'{"a": "',
}.items():

    def _sparse(folder: Path, start: bytes = _start) -> Path:
        weights(folder / "model.safetensors", w=(2, 2))
        sparse(folder / "config.json", start)
        return folder

    ATTACKS[_label] = _sparse


@attack
def pointers_that_are_pipes(folder: Path) -> Path:
    os.mkfifo(folder / "latest")
    os.mkfifo(folder / "latest_checkpointed_iteration.txt")
    return folder


@attack
def a_pointer_to_the_parent(folder: Path) -> Path:
    (folder / "latest").write_text("..")
    return folder


@attack
def a_pointer_of_digits(folder: Path) -> Path:
    (folder / "latest_checkpointed_iteration.txt").write_text("9" * 4000)
    return folder


@attack
def folders_that_contain_themselves(folder: Path) -> Path:
    (folder / "actor").symlink_to(folder)
    return folder


@attack
def a_shard_that_is_a_loop(folder: Path) -> Path:
    (folder / "model.safetensors").symlink_to(folder / "model.safetensors")
    return folder


@attack
def an_index_of_brackets(folder: Path) -> Path:
    (folder / "model.safetensors.index.json").write_bytes(b'{"weight_map": ' + b'{"a":' * 100_000)
    return folder


@attack
def an_index_with_a_zero_byte(folder: Path) -> Path:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "a\\u0000b"}}')
    return folder


@attack
def a_config_of_many_classes(folder: Path) -> Path:
    weights(folder / "model.safetensors", w2=(2, 2))
    config = {"model_type": "llama", "num_labels": 10**12, "num_hidden_layers": 1, "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@attack
def a_config_of_many_positions(folder: Path) -> Path:
    weights(folder / "model.safetensors", w2=(2, 2))
    (folder / "config.json").write_text(json.dumps({"model_type": "marian", "max_position_embeddings": 10**9, "d_model": 4}))
    return folder


def limited() -> None:
    """Limit the memory of this process."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def main() -> None:
    """Give each attack to the command, with a base that has a few weights."""
    import contextlib
    import io

    from dynamics.sparsity.__main__ import cli

    limited()
    root = Path(sys.argv[1])
    base = weights(root / "base.safetensors", w=(2, 2))
    for label in sys.argv[2:]:
        target = root / label.replace(" ", "_")
        target.mkdir()
        path = ATTACKS[label](target)
        began = time.monotonic()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli([str(base), str(path)])
        result = {"attack": label, "status": status, "error": err.getvalue(), "seconds": time.monotonic() - began}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
