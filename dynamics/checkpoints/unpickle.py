"""A restricted unpickler that builds plain containers and inert stand-ins, and refuses every name that is not on its allowlist.

A pickle is a program that names functions and calls them. Here each function or class must be on the allowlist, and is
replaced by a stand-in that only records its arguments; any other name is an error. This is stricter than
``torch.load(weights_only=True)``, which calls torch's own functions.

A pickle of a few bytes can also ask for any amount of memory and time: by the number of its opcodes, by copies of long lists, or by keys
that take for ever to hash. So each opcode is charged with the memory that it may take, against a part of what the machine has.
"""

from __future__ import annotations

import contextlib
import gc
import io
import pickle
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dynamics.checkpoints.tensor import STORAGE
from dynamics.errors import InputError, printable

#: bytes per element of each torch dtype that a record may name; dtypes outside ``STORAGE`` are reported but not read
WIDTHS = {name: dtype.itemsize for name, dtype in STORAGE.items()} | {
    "complex32": 4, "complex64": 8, "complex128": 16, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1, "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1, "bits8": 1, "bits16": 2,
    **{f"{kind}{bits}": 1 for kind in ("int", "uint") for bits in range(1, 8)},
}  # fmt: skip
#: storage class -> dtype
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "UntypedStorage": "uint8", "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}  # fmt: skip
DICTS = frozenset(["collections.OrderedDict", "collections.defaultdict", "collections.Counter"])

REBUILD = "torch._utils._rebuild_"
#: tensors whose values are not a single strided block
UNREADABLE = {
    f"{REBUILD}sparse_tensor": "a sparse tensor",
    f"{REBUILD}qtensor": "a quantized tensor",
    f"{REBUILD}nested_tensor": "a nested tensor",
    "torch.nested._internal.nested_tensor._rebuild_njt": "a nested tensor",
    f"{REBUILD}meta_tensor_no_storage": "a tensor on the meta device, which has no values",
    f"{REBUILD}wrapper_subclass": "a tensor subclass",
    f"{REBUILD}device_tensor_from_numpy": "a tensor stored as a numpy array",
}
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
#: records whose first argument is another record
WRAPPERS = frozenset(f"{REBUILD}{kind}" for kind in ("parameter", "parameter_with_state", "device_tensor_from_cpu_tensor"))
PLAIN = frozenset(f"{REBUILD}tensor{version}" for version in ("", "_v2", "_v3"))

#: all other names that a checkpoint may contain; each becomes an inert stand-in
INERT = frozenset(
    [*UNREADABLE, *WRAPPERS, *PLAIN, SUBCLASS]
    + [f"torch.per_{kind}" for kind in ("tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric")]
    + ["torch.per_channel_affine_float_qparams", "torch.serialization._get_layout", "torch.device", "torch.Tensor"]
    + ["torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.nested._internal.nested_tensor.NestedTensor"]
    + [f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")]
    + ["builtins.list", "builtins.int", "builtins.float", "builtins.range", "builtins.xrange", "collections.Counter"]
    + ["builtins.complex", "builtins.bytearray", "builtins.slice", "_codecs.encode", "_io.BytesIO", "argparse.Namespace"]
    + [f"numpy.{core}.multiarray.{kind}" for core in ("core", "_core") for kind in ("scalar", "_reconstruct")]
    + ["numpy.dtype", "numpy.ndarray", "pathlib.PosixPath", "pathlib._local.PosixPath", "torch._dynamo.decorators._DimRange"]
)
DTENSOR = frozenset(
    f"torch.distributed.{module}"
    for module in ["device_mesh.DeviceMesh", "_tensor.device_mesh.DeviceMesh", "_mesh_layout._MeshLayout"]
    + ["_mesh_layout._FlatLayout", "_pycute.layout.Layout", "_tensor.DTensor", "tensor.DTensor", "tensor._api.DTensor"]
    + ["_tensor.api.DTensor"]
    + [
        f"{package}.{name}"
        for package in ("tensor._dtensor_spec", "_tensor._dtensor_spec", "_tensor.placement_types", "tensor.placement_types")
        for name in ("DTensorSpec", "TensorMeta", "ShardOrderEntry", "Shard", "Replicate", "Partial", "_Partial", "_StridedShard")
    ]
)
ALLOWED = INERT | DTENSOR
#: a rank's part of a tensor of FSDP1; the pickle gets the last class with ``getattr``
SHARDED_TENSOR = frozenset(
    f"torch.distributed.{name}"
    for name in [
        "_shard.sharded_tensor.api.ShardedTensor",
        "_shard.sharded_tensor.api.ShardedTensor.ProcessGroupState",
        "_shard.sharded_tensor.metadata.ShardedTensorMetadata",
        "_shard.sharded_tensor.metadata.TensorProperties",
        "_shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
        "_shard.sharded_tensor.shard.Shard",
        "_shard.metadata.ShardMetadata",
        "_shard.sharding_spec.api.EnumerableShardingSpec",
        "_shard.sharding_spec.chunk_sharding_spec.ChunkShardingSpec",
        "_shard.sharding_spec._internals.ShardMetadata",
        "remote_device._remote_device",
    ]
)


#: memory for the objects of a pickle, in bytes, if it is not known how much the machine has
MEMORY = 3 << 29
#: bytes that an opcode may take beside those of the file; the most of what one can be seen to take, or more
COSTS = [64] * 256
for _opcodes, _bytes in {
    pickle.MEMOIZE + pickle.BINPUT + pickle.LONG_BINPUT + pickle.PUT: 128,
    pickle.MARK + pickle.EMPTY_LIST + pickle.EMPTY_DICT + pickle.LIST: 96,
    pickle.EMPTY_SET + pickle.FROZENSET + pickle.ADDITEMS + pickle.DICT + pickle.SETITEM + pickle.SETITEMS: 256,
    pickle.REDUCE + pickle.NEWOBJ + pickle.NEWOBJ_EX + pickle.OBJ + pickle.INST + pickle.BUILD: 256,
}.items():
    for _opcode in _opcodes:
        COSTS[_opcode] = _bytes
#: bytes of memory for a byte of text in the file
PER_BYTE = 4
#: size of a pickle that is held in memory as a whole
WHOLE = 1 << 26
#: bytes of a whole number; digits of one in text
LONGEST = 256
#: size of a key: of its text, of its whole number, of its tuple
KEY_TEXT, KEY_NUMBER, KEY_ITEMS = 1 << 16, 1 << 60, 64


class Node:
    """A stand-in for a function or class of a pickle: its path, the arguments of the call, and the state."""

    __slots__ = ("args", "state")
    path = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_kwargs: Any) -> Node:
        """Record the arguments of a call."""
        node = object.__new__(cls)
        node.args, node.state = args, None
        return node

    def __setstate__(self, state: Any) -> None:
        """Record the state."""
        self.state = state


class Damaged(ValueError):
    """What is wrong with a pickle; the message completes "it ..."."""


@dataclass(frozen=True)
class Storage:
    """A storage that a pickle refers to: its key in the archive, its dtype and its number of elements."""

    key: str
    dtype: str
    size: int


#: The standard library's module with its Python unpickler; the C version allocates as much memory as a hostile file requests.
PYTHON: Any = pickle


class Unpickler(PYTHON._Unpickler):  # type: ignore[misc]
    """Build plain containers and ``Node``s within a budget of memory; any other name in the pickle raises an ``InputError``."""

    def __init__(self, stream: Any, where: str, allowed: frozenset[str], storages: dict[str, Storage], budget: int):
        super().__init__(stream)
        self.where, self.allowed, self.storages, self.left = where, allowed, storages, budget
        self.seen: dict[str, Any] = {}
        if not isinstance(stream, io.BytesIO):
            self._stream = stream
            self._file_read, self._file_readline = self._read, self._readline

    def load(self) -> Any:
        """Read one pickle, and charge each opcode."""
        self._unframer = PYTHON._Unframer(self._file_read, self._file_readline)
        self.read, self.readinto, self.readline = self._unframer.read, self._unframer.readinto, self._unframer.readline
        self.metastack: list[Any] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        read, dispatch = self.read, self.dispatch
        try:
            while key := read(1):
                self.left -= COSTS[key[0]]
                if self.left < 0:
                    self.charge(0)
                dispatch[key[0]](self)
        except PYTHON._Stop as stop:
            return stop.value
        raise EOFError

    def charge(self, count: int) -> None:
        """Take bytes from the budget."""
        self.left -= count
        if self.left < 0:
            raise Damaged("would take more memory than this machine has to spare")

    def _read(self, count: int) -> bytes:
        """Read from a stream of which it is not known how much of it is the pickle."""
        self.charge(PER_BYTE * count)
        data: bytes = self._stream.read(count)
        return data

    def _readline(self) -> bytes:
        line: bytes = self._stream.readline(KEY_TEXT)
        self.charge(PER_BYTE * len(line))
        return line

    def load_call(self) -> None:
        """Call a stand-in with its arguments (REDUCE), which are copied."""
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def load_new(self) -> None:
        """Make an instance of a stand-in without its ``__init__`` (NEWOBJ)."""
        arguments = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], arguments)

    def load_new_with_names(self) -> None:
        """Make an instance of a stand-in, whose arguments by name are not needed (NEWOBJ_EX)."""
        self.stack.pop()
        self.load_new()

    def load_object(self) -> None:
        """Call the stand-in that follows the mark (OBJ)."""
        owner, *arguments = self.pop_mark()
        self.append(self._call(owner, tuple(arguments)))

    def load_instance(self) -> None:
        """Call the stand-in that is named in the opcode (INST)."""
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        arguments = self.pop_mark()
        self.append(self._call(self.find_class(module, name), tuple(arguments)))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not callable(function) or type(arguments) is not tuple:
            raise Damaged("calls what is no function")
        self._charge_copies(arguments)
        return function(*arguments)

    def _new(self, owner: Any, arguments: Any) -> Any:
        if not isinstance(owner, type) or type(arguments) is not tuple:
            raise Damaged("makes an instance of what is no class")
        self._charge_copies(arguments)
        return owner.__new__(owner, *arguments)

    def _charge_copies(self, arguments: tuple[Any, ...]) -> None:
        """Charge for the copy of arguments, and of the container that the first one may be."""
        self.charge(16 * len(arguments))
        if arguments and isinstance(arguments[0], (list, tuple, dict, set)):
            self.charge(128 * len(arguments[0]))

    def load_state(self) -> None:
        """Give a stand-in its state (BUILD). Nothing else has one: a pickle could set attributes of classes, and of storages."""
        state = self.stack.pop()
        owner = self.stack[-1]
        if isinstance(owner, Node):
            owner.state = state
        elif not isinstance(owner, dict):
            raise Damaged("gives a state to what has none")

    def load_item(self) -> None:
        """Add an item to a dictionary (SETITEM)."""
        value, key = self.stack.pop(), self.stack.pop()
        self._dictionary()[_key(key)] = value

    def load_items(self) -> None:
        """Add items to a dictionary (SETITEMS)."""
        items = self.pop_mark()
        self._dictionary().update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def load_dictionary(self) -> None:
        """Make a dictionary of items (DICT)."""
        items = self.pop_mark()
        self.append(dict(zip(map(_key, items[::2]), items[1::2], strict=True)))

    def _dictionary(self) -> dict[Any, Any]:
        if not isinstance(self.stack[-1], dict):
            raise Damaged("adds items to what is no dictionary")
        return self.stack[-1]

    def load_members(self) -> None:
        """Add members to a set (ADDITEMS)."""
        items = self.pop_mark()
        if not isinstance(self.stack[-1], set):
            raise Damaged("adds members to what is no set")
        self.stack[-1].update(map(_key, items))

    def load_frozen(self) -> None:
        """Make a set of members (FROZENSET)."""
        items = self.pop_mark()  # this changes what ``append`` appends to
        self.append(set(map(_key, items)))

    def load_number(self) -> None:
        """Read a whole number of many bytes (LONG4)."""
        (count,) = struct.unpack("<i", self.read(4))
        if not 0 <= count <= LONGEST:
            raise Damaged(f"holds a whole number of {count} bytes")
        self.append(int.from_bytes(self.read(count), "little", signed=True))

    def load_digits(self) -> None:
        """Read a whole number in text (INT, LONG)."""
        digits = self.readline()[:-1]
        if len(digits) > LONGEST:
            raise Damaged(f"holds a whole number of {len(digits)} digits")
        self.append(digits == b"01" if digits in (b"00", b"01") else int(digits.removesuffix(b"L")))

    def load_byte_array(self) -> None:
        """Read a bytearray (BYTEARRAY8); memory is taken for the bytes that are there, not for as many as it says."""
        (count,) = struct.unpack("<Q", self.read(8))
        data = self.read(count)
        if len(data) < count:
            raise Damaged("ends within a value")
        self.append(bytearray(data))

    dispatch = PYTHON._Unpickler.dispatch | {
        opcode[0]: handler
        for opcode, handler in {
            pickle.REDUCE: load_call, pickle.NEWOBJ: load_new, pickle.NEWOBJ_EX: load_new_with_names, pickle.OBJ: load_object,
            pickle.INST: load_instance, pickle.BUILD: load_state, pickle.SETITEM: load_item, pickle.SETITEMS: load_items,
            pickle.DICT: load_dictionary, pickle.ADDITEMS: load_members, pickle.FROZENSET: load_frozen, pickle.LONG4: load_number,
            pickle.LONG: load_digits, pickle.INT: load_digits, pickle.BYTEARRAY8: load_byte_array,
        }.items()
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name instead of importing it."""
        path = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if path not in self.seen:
            self.seen[path] = self._stand_in(path)
        return self.seen[path]

    def _stand_in(self, path: str) -> Any:
        parent, _, name = path.rpartition(".")
        if parent == "torch" and name in WIDTHS:
            return name
        if parent in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if path == "torch.Size":
            return tuple
        if path in ("builtins.set", "builtins.frozenset"):
            return _set
        if path in DICTS:
            return Dict
        if path == "builtins.getattr" and self.allowed >= SHARDED_TENSOR:
            return self._class_in_class
        if path in self.allowed:
            return type(name, (Node,), {"path": path, "__slots__": ()})
        if "ShardedTensor" in name:
            raise InputError(
                f"{self.where}: holds a ShardedTensor, one rank's part of a tensor; name the folder with the files of all ranks"
            )
        raise InputError(
            f"{self.where}: its pickle wants {printable(path, 80)}, which is not on the list of harmless names; nothing was run; "
            "save only the state_dict, or convert the file to safetensors where you trust it"
        )

    def _class_in_class(self, owner: Any, name: Any) -> Any:
        """Return the stand-in for a class inside a class, which a pickle asks for as ``getattr(owner, name)``."""
        if not (isinstance(owner, type) and issubclass(owner, Node) and isinstance(name, str)):
            raise InputError(f"{self.where}: its pickle wants {printable(name, 80)} of something that is no class; nothing was run")
        return self.find_class(*f"{owner.path}.{name}".rsplit(".", 1))

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage with this persistent id."""
        kind, dtype, key, _, size, *view = pid
        known = isinstance(kind, str) and isinstance(dtype, str) and kind == "storage" and dtype in WIDTHS
        if not known or not isinstance(key, str | int) or type(size) is not int or size < 0 or any(view):
            raise InputError(f"{self.where}: its pickle refers to an object outside itself that is not a storage")
        return self.storages.setdefault(str(key), Storage(str(key), dtype, size))


class Dict(dict[Any, Any]):
    """A dictionary from the arguments of ``OrderedDict([(key, value), ...])``; the factory of a ``defaultdict``, a Node, is ignored."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        items = args[0] if args else ()
        if isinstance(items, dict):
            self.update(items)
        elif isinstance(items, list):
            for key, value in items:
                self[_key(key)] = value


def _set(*args: Any) -> set[Any]:
    items = args[0] if args else ()
    if not isinstance(items, (list, tuple, set)):
        raise Damaged("makes a set of what is no list")
    return set(map(_key, items))


def _key(value: Any) -> Any:
    """Check a key of a dictionary or a member of a set: to hash or compare a nested tuple can take for ever."""
    if type(value) is tuple:
        if len(value) > KEY_ITEMS:
            raise Damaged(f"has a key of {len(value)} parts")
        for part in value:
            _single_key(part)
    else:
        _single_key(value)
    return value


def _single_key(value: Any) -> None:
    if type(value) in (str, bytes):
        if len(value) > KEY_TEXT:
            raise Damaged(f"has a key of {len(value)} characters")
    elif type(value) is int:
        if abs(value) > KEY_NUMBER:
            raise Damaged("has a key that is a huge number")
    elif not (value is None or type(value) in (bool, float) or isinstance(value, (Node, Storage, type))):
        raise Damaged(f"has a {type(value).__name__} in a key")


@lru_cache(maxsize=1)
def memory() -> int:
    """Return the bytes of memory that a pickle may take: half of what the machine has free, or of what this process is allowed."""
    limit = MEMORY
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(line for line in lines if line.startswith("MemAvailable:"))
        limit = max(limit, int(free.split()[1]) * 512)
    with contextlib.suppress(ImportError):
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
        if allowed != resource.RLIM_INFINITY:
            limit = min(limit, allowed // 2)
    return limit


def plain(value: object) -> str:
    """Describe a value of a pickle for a message; of containers the kind only, because their text can be endless."""
    if value is None or isinstance(value, (str, int, float)):
        return printable(value, 60)
    return f"a {type(value).__name__}"


def unpickle(stream: Any, where: str, allowed: frozenset[str] = ALLOWED, storages: dict[str, Storage] | None = None) -> Any:
    """Read the next pickle of a stream, and add the storages it refers to to ``storages``. A damaged pickle raises an ``InputError``."""
    budget = memory()
    if isinstance(stream, io.BytesIO):
        budget -= PER_BYTE * len(stream.getbuffer())
    collects = gc.isenabled()
    gc.disable()  # it would look for garbage among millions of new objects, again and again
    try:
        return Unpickler(stream, where, allowed, {} if storages is None else storages, budget).load()
    except InputError:
        raise
    except Damaged as error:
        raise InputError(f"{where}: its pickle is damaged: it {error}; fetch the file again") from None
    except Exception as error:  # a damaged pickle can fail at any opcode, with any exception
        description = f"{type(error).__name__}: {printable(error, 80)}"
        raise InputError(f"{where}: its pickle is damaged ({description}); fetch the file again") from None
    finally:
        if collects:
            gc.enable()
