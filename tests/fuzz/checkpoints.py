"""Fuzz the readers of checkpoints: each input is read, or refused with an ``InputError``; anything else is a fault.

``python tests/fuzz/checkpoints.py READER -atheris_runs=1000000 FOLDER`` fuzzes one reader with atheris, which is guided by the coverage of
``dynamics``; ``FOLDER`` keeps the inputs that reach new code. ``tests/data/fuzz/checkpoints/READER`` holds a small set of them, which
``tests/checkpoints/test_fuzz_corpus.py`` replays. ``python tests/fuzz/make_seeds.py`` writes the valid files to start from.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import os
import pickletools
import random
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = Path(__file__).parents[1] / "data" / "fuzz" / "checkpoints"
#: files beside those that are fuzzed
FIXED = SEEDS / "fixed"
#: bytes of an input
LONGEST = 6000
#: tensors of a checkpoint whose first values are read
READ = 6
#: bytes of each storage of a pickled checkpoint
STORAGE = 1024


def folder() -> Path:
    """Return a folder in memory, the same in each call, which is emptied at the end of the process."""
    if not _folders:
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        _folders.append(Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory)))
        import atexit

        atexit.register(shutil.rmtree, _folders[0], ignore_errors=True)
    return _folders[0]


_folders: list[Path] = []


def emptied(name: str) -> Path:
    """Return an empty folder."""
    path = folder() / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def written(name: str, data: bytes) -> Path:
    """Write a file into the folder in memory."""
    path = folder() / name
    path.write_bytes(data)
    return path


@lru_cache(maxsize=2)
def storages(number: int) -> tuple[bytes, bytes, int]:
    """Return the records of an archive without its pickle, its list of records, and their number."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        file.writestr("a/byteorder", b"little")
        for key in range(number):
            file.writestr(f"a/data/{key}", bytes(range(256)) * (STORAGE // 256))
        start = stream.tell()
    whole = stream.getvalue()
    return whole[:start], whole[start : whole.rindex(b"PK\5\6")], number + 1


def archive(data: bytes, number: int = 24) -> bytes:
    """Wrap a pickle in an archive as torch.save writes it, with a few storages. This takes a tenth of the time of zipfile."""
    records, listed, count = storages(number)
    name = b"a/data.pkl"
    sizes = struct.pack("<LLL", 0, len(data), len(data))
    record = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 0, 0, 0) + sizes + struct.pack("<HH", len(name), 0) + name + data
    listed += b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 0, 0, 0) + sizes
    listed += struct.pack("<HHHHHLL", len(name), 0, 0, 0, 0, 0, len(records)) + name
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, count + 1, count + 1, len(listed), len(records) + len(record), 0)
    return records + record + listed + end


def read_values(checkpoint: Any) -> None:
    """Read the first values of a few tensors."""
    for tensor in list(checkpoint.tensors.values())[:READ]:
        count = min(tensor.numel, 200)
        with np.errstate(all="ignore"):
            tensor.values(0, count)
            tensor.values(max(0, tensor.numel - count), tensor.numel)
    str(checkpoint.dtypes)
    _ = checkpoint.ties_head


def opened(path: Path) -> Any:
    """Open a checkpoint and read values of it."""
    from dynamics.checkpoints import open_checkpoint

    checkpoint = open_checkpoint(path)
    read_values(checkpoint)
    return checkpoint


def side_files(data: bytes) -> None:
    """JSON beside weights."""
    from dynamics.io.side_files import parse_json

    value = parse_json(data[1:], "config.json", unique=data[:1] == b"u", surrogates=data[:1] == b"s")
    json.dumps(value)


def read_safetensors(data: bytes) -> None:
    """A whole file, or a header that is completed to a file."""
    if data[:1] == b"h":
        header = data[1:]
        room = 0
        with contextlib.suppress(Exception):
            room = max(int(entry["data_offsets"][1]) for entry in json.loads(header).values() if "data_offsets" in entry)
        data = (
            len(header).to_bytes(8, "little") + header + bytes(range(256)) * 16
            if room > 4096
            else (len(header).to_bytes(8, "little") + header + (bytes(range(256)) * 16)[: max(0, room)])
        )
    else:
        data = data[1:]
    opened(written("a.safetensors", data))


def read_gguf(data: bytes) -> None:
    """A whole file."""
    opened(written("a.gguf", data))


def read_pickled(data: bytes) -> None:
    """A pickle in an archive, or a whole file."""
    opened(written("a.pt", data[1:] if data[:1] in (b"l", b"z") else archive(data, 3)))


def read_arrays(data: bytes) -> None:
    """A file of numpy, or an archive of them."""
    opened(written("a.npz" if data[:1] == b"z" else "a.npy", data[1:]))


def read_dcp(data: bytes) -> None:
    """The pickle ``.metadata`` beside a valid file of values, also of Megatron's."""
    target = emptied("dcp")
    (target / ".metadata").write_bytes(data[1:])
    (target / "__0_0.distcp").write_bytes((FIXED / "values.distcp").read_bytes())
    if data[:1] == b"m":
        (target / "metadata.json").write_bytes(b'{"sharded_backend": "torch_dist"}')
    opened(target)


def read_fsdp(data: bytes) -> None:
    """The pickle of one of two ranks, or of both."""
    target = emptied("fsdp")
    for rank in range(2):
        whole = archive(data[1:]) if data[:1] != b"o" or rank else (FIXED / "rank.pt").read_bytes()
        (target / f"model_world_size_2_rank_{rank}.pt").write_bytes(whole)
    opened(target)


def read_deepspeed(data: bytes) -> None:
    """The pickles of the model and of one rank's optimizer, after one another."""
    target = emptied("deepspeed")
    size = int.from_bytes(data[:2], "little")
    (target / "mp_rank_00_model_states.pt").write_bytes(archive(data[2 : 2 + size]))
    for rank in range(2):
        (target / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(archive(data[2 + size :]))
    opened(target)


def read_tensor_parallel(data: bytes) -> None:
    """``params.json`` and the pickle of both ranks, after one another."""
    target = emptied("consolidated")
    size = int.from_bytes(data[:2], "little")
    (target / "params.json").write_bytes(data[2 : 2 + size])
    for rank in range(2):
        (target / f"consolidated.{rank:02d}.pth").write_bytes(archive(data[2 + size :]))
    opened(target)


def header_and_zeros(shapes: dict[str, tuple[str, tuple[int, ...]]], texts: dict[str, bytes] | None = None) -> bytes:
    """Make a safetensors file of small numbers, or of texts."""
    widths = {"F32": 4, "BF16": 2, "F16": 2, "U8": 1, "I8": 1, "I32": 4, "U32": 4, "F8_E4M3": 1, "I64": 8, "F8_E8M0": 1}
    header, position, parts = {}, 0, []
    for name, (code, shape) in shapes.items():
        size = math.prod(shape) * widths[code]
        values = b"" if code in ("I32", "I64") else SMALL[:size]
        parts.append((texts or {}).get(name) or values + bytes(size - len(values)))
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


SMALL = bytes(index % 63 for index in range(1 << 14))
ADAPTER = header_and_zeros({
    "base_model.model.layers.0.q_proj.lora_A.weight": ("F32", (2, 4)),
    "base_model.model.layers.0.q_proj.lora_B.weight": ("F32", (4, 2)),
    "base_model.model.layers.1.q_proj.lora_A.weight": ("F32", (2, 4)),
    "base_model.model.layers.1.q_proj.lora_B.weight": ("F32", (4, 2)),
    "base_model.model.embed_tokens.token_adapter.trainable_tokens_delta": ("F32", (1, 4)),
    "base_model.model.lm_head.weight": ("F32", (6, 4)),
})  # fmt: skip
BASE = header_and_zeros({
    "layers.0.q_proj.weight": ("F32", (4, 4)), "layers.1.q_proj.weight": ("F32", (4, 4)), "embed_tokens.weight": ("F32", (6, 4)),
})  # fmt: skip


def read_adapter(data: bytes) -> None:
    """``adapter_config.json`` beside valid factors, which are applied to a base."""
    from dynamics.checkpoints import open_checkpoint

    target = emptied("adapter")
    (target / "adapter_config.json").write_bytes(data)
    (target / "adapter_model.safetensors").write_bytes(ADAPTER)
    adapter = open_checkpoint(target).adapter
    base = open_checkpoint(written("base.safetensors", BASE))
    read_values(adapter.apply_to_base(base)[0])


def read_quantised(data: bytes) -> None:
    """A config, and names, dtypes and shapes of tensors, as one JSON object."""
    from dynamics.io.side_files import json_object

    document = json_object(data, "input")
    entries = document.get("tensors")
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    texts: dict[str, bytes] = {}
    codes = ("F32", "BF16", "F16", "U8", "I8", "I32", "U32", "F8_E4M3", "I64", "F8_E8M0")
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if isinstance(entry, list) and entry and entry[0] in codes:
            sizes = tuple(size for size in entry[1:5] if type(size) is int and 0 <= size <= 512)
            shapes[name] = (entry[0], sizes if math.prod(sizes) < 1 << 16 else ())
        elif isinstance(entry, dict):
            texts[name] = json.dumps(entry).encode()
            shapes[name] = ("U8", (len(texts[name]),))
    target = emptied("quantised")
    (target / "config.json").write_text(json.dumps(document.get("config")))
    (target / "model.safetensors").write_bytes(header_and_zeros(shapes, texts))
    opened(target)


def read_folder(data: bytes) -> None:
    """An index and a config, after one another, beside two shards."""
    target = emptied("folder")
    size = int.from_bytes(data[:2], "little")
    (target / "model.safetensors.index.json").write_bytes(data[2 : 2 + size])
    (target / "config.json").write_bytes(data[2 + size :])
    for number in (1, 2):
        name = f"model-{number:05d}-of-00002.safetensors"
        (target / name).write_bytes(header_and_zeros({f"layers.{number}.w": ("F32", (2, 2)), f"b{number}": ("BF16", (3,))}))
    opened(target)


def match(data: bytes) -> None:
    """Names and shapes of two checkpoints, as one JSON object."""
    from dynamics.checkpoints import matching, open_checkpoint
    from dynamics.io.side_files import json_object

    document = json_object(data, "input")
    sides = []
    for side in ("base", "tuned"):
        entries = document.get(side)
        arrays = {}
        for name, shape in list(entries.items())[:40] if isinstance(entries, dict) else ():
            sizes = [size for size in shape[:4] if type(size) is int and 0 <= size <= 16] if isinstance(shape, list) else []
            arrays[name] = np.full(sizes, len(name) % 3, np.float32)
        sides.append(open_checkpoint(arrays))
    matching.match(*sides)


def module_patterns(data: bytes) -> None:
    """A regular expression and the name of a module, in a line each."""
    from dynamics.checkpoints.module_patterns import Patterns, Steps, UnsupportedError

    pattern, _, module = data.decode("utf-8", "replace").partition("\n")
    with contextlib.suppress(UnsupportedError):
        Patterns([pattern]).first(module, Steps(300_000))


def location(data: bytes) -> None:
    """A text that names a checkpoint."""
    from dynamics.checkpoints.hub import is_hub_id, is_hub_name
    from dynamics.io.locations import location, without_secrets
    from dynamics.io.paths import natural_key

    text = data.decode("utf-8", "surrogateescape")
    is_hub_id(text)
    is_hub_name(text)
    natural_key(text)
    without_secrets(text)
    str(location(text))


READERS: dict[str, Callable[[bytes], None]] = {
    reader.__name__: reader
    for reader in (
        side_files, read_safetensors, read_gguf, read_pickled, read_arrays, read_dcp, read_fsdp, read_deepspeed, read_tensor_parallel,
        read_adapter, read_quantised, read_folder, match, module_patterns, location,
    )
}  # fmt: skip
#: bytes before the pickle in an input, of the readers of pickles
PICKLES = {"read_pickled": 0, "read_dcp": 1, "read_fsdp": 1, "read_deepspeed": 2, "read_tensor_parallel": 2}


def check(reader: str, data: bytes) -> bool:
    """Give an input to a reader; return whether it was read, not refused."""
    from dynamics.errors import InputError

    try:
        READERS[reader](data)
    except InputError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            raise AssertionError("a refusal that is not one line") from error
        return False
    return True


def mutated(data: bytes, start: int, seed: int) -> bytes:
    """Change a pickle opcode by opcode: leave out, repeat, swap, replace."""
    rng = random.Random(seed)
    pieces: list[bytes] = []
    position = 0
    body = data[start:]
    with contextlib.suppress(Exception):
        for opcode, _, at in pickletools.genops(body):
            if at > position:
                pieces.append(body[position:at])
                position = at
            if opcode.code == ".":
                break
    pieces.append(body[position:])
    for _ in range(rng.choice((1, 1, 2, 4))):
        index = rng.randrange(len(pieces))
        kind = rng.randrange(5)
        if kind == 0 and len(pieces) > 1:
            del pieces[index]
        elif kind == 1:
            pieces.insert(rng.randrange(len(pieces) + 1), pieces[index])
        elif kind == 2:
            other = rng.randrange(len(pieces))
            pieces[index], pieces[other] = pieces[other], pieces[index]
        elif kind == 3:
            pieces[index] = pieces[rng.randrange(len(pieces))]
        else:
            pieces.insert(index, rng.choice(OPCODES))
    return data[:start] + b"".join(pieces)


OPCODES = [
    b"K\x00", b"K\x02", b"J\xff\xff\xff\xff", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8a\x05\0\0\0\0\1", b"N", b"\x88",
    b"\x89", b")", b"]", b"}", b"(", b"t", b"\x85", b"\x86", b"\x87", b"0", b"1", b"2", b"R", b"b", b"s", b"u", b"a", b"e", b"\x81",
    b"\x8f", b"\x90", b"Q", b"h\x00", b"h\x01", b"h\x05", b"q\x05", b"X\x01\0\0\0w", b"G\x7f\xf8\0\0\0\0\0\0",
    b"ccollections\nOrderedDict\n", b"ctorch\nSize\n", b"ctorch\nfloat32\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nFloatStorage\n", b"c__builtin__\nset\n",
]  # fmt: skip


#: modules whose coverage guides the fuzzing; they import the others
MODULES = (
    "checkpoints.adapter", "checkpoints.deepspeed", "checkpoints.folder", "checkpoints.gguf", "checkpoints.hub", "checkpoints.matching",
    "checkpoints.memory", "checkpoints.module_patterns", "checkpoints.pickled", "checkpoints.tensor_parallel", "io.paths",
    *(f"checkpoints.quantised.{name}" for name in ("awq", "bitsandbytes", "compressed_tensors", "gptq", "mlx", "mxfp4", "nvfp4")),
)  # fmt: skip


def main() -> None:
    """Fuzz the reader that the command line names."""
    import atheris

    reader = sys.argv.pop(1)
    with atheris.instrument_imports(include=["dynamics"]):
        for module in MODULES:
            importlib.import_module(f"dynamics.{module}")

    def custom(data: bytes, most: int, seed: int) -> bytes:
        if seed % 3:
            return mutated(data, PICKLES[reader], seed)[:most]
        return bytes(atheris.Mutate(data, most))

    options = {"custom_mutator": custom} if reader in PICKLES else {}
    seeds = [str(SEEDS / reader)] if (SEEDS / reader).is_dir() else []
    arguments = [sys.argv[0], f"-max_len={LONGEST}", "-rss_limit_mb=3000", "-timeout=60", *sys.argv[1:], *seeds]
    atheris.Setup(arguments, lambda data: check(reader, data) and None, **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
