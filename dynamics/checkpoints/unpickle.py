"""A restricted unpickler that builds plain containers and inert stand-ins, and refuses every name that is not on its allowlist.

A pickle is a program that names functions and calls them. Here each function or class must be on the allowlist, and is
replaced by a stand-in that only records its arguments; any other name is an error. This is stricter than
``torch.load(weights_only=True)``, which calls torch's own functions.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Storage:
    """A storage that a pickle refers to: its key in the archive, its dtype and its number of elements."""

    key: str
    dtype: str
    size: int


# The standard library's Python unpickler; the C version allocates as much memory as a hostile file requests.
class Unpickler(pickle._Unpickler):
    """Build plain containers and ``Node``s; any other name in the pickle raises an ``InputError``."""

    def __init__(self, stream: Any, where: str, allowed: frozenset[str], storages: dict[str, Storage]):
        super().__init__(stream)
        self.where, self.allowed, self.storages = where, allowed, storages
        self.seen: dict[str, Any] = {}

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
            return set
        # A pickle can set attributes on a class that it names. New classes for each file keep files from affecting each other.
        if path in DICTS:
            return type("Dict", (dict,), {"__init__": _fill, "__setstate__": lambda _self, _state: None})
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


def _fill(self: dict[Any, Any], *args: Any) -> None:
    """Fill a dict from the arguments of ``OrderedDict([(key, value), ...])``. The factory of a ``defaultdict``, a Node, is ignored."""
    if args and isinstance(args[0], list | dict):
        self.update(args[0])


def unpickle(stream: Any, where: str, allowed: frozenset[str] = ALLOWED, storages: dict[str, Storage] | None = None) -> Any:
    """Read the next pickle of a stream, and add the storages it refers to to ``storages``. A damaged pickle raises an ``InputError``."""
    try:
        return Unpickler(stream, where, allowed, {} if storages is None else storages).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can fail at any opcode, with any exception
        description = f"{type(error).__name__}: {printable(error, 80)}"
        raise InputError(f"{where}: its pickle is damaged ({description}); fetch the file again") from None
