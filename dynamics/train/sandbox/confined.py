"""The confined side of the sandbox: a process that gives up its privileges, then forks a child for every program or answer.

``dynamics.train.sandbox.template`` starts it with an empty environment; it uses the standard library only, and little of it, because every
page of memory makes forking a child, and its end, slower. This process, the template, never sees a program: it gets the two ends of pipes
through its standard input, a Unix socket, and hands them to a new child. The child reads its request from the one and writes its results to
the other, so it finds nothing of other programs in its memory, and can forge nothing but its own results.

A child that runs a program has no access to files: the modules of the standard library are in the memory of the template. Children that
run the judge of a library may read the folders that the library needs.

Messages of the socket: a letter, a number of the child and a length, and that many bytes. F: fork, with three descriptors. E: wait as many
milliseconds as the length says, end the child, and reply with its status. P: prepare the judge. Messages of the pipes: a length, and that
many bytes. The first message of a child is R: it is confined, and the program begins. Whatever comes before it is a failure of the sandbox.
"""

from __future__ import annotations

import _socket as socket
import contextlib
import ctypes
import fcntl
import gc
import importlib.machinery
import io
import marshal
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

#: modules imported in advance; a program that imports another one loads it from memory. Without _ast each call of compile would make it
WARM = "math cmath itertools collections functools operator re string heapq bisect typing _ast"
#: modules in shared libraries, which cannot be loaded once files are out of reach; systems differ in which are built in. Each makes forking
#: slower, so those are left out that are of no use here or have a substitute: hashlib does without _hashlib if the others are there
SHARED_LIBRARIES = (
    "_bisect _blake2 _csv _ctypes _datetime _decimal _heapq _json _md5 _opcode _posixsubprocess _random _sha1 _sha2 _sha256 _sha3 _sha512 "
    "_statistics _struct array binascii cmath fcntl math resource select unicodedata zlib"
)
#: folders of the standard library that programs do not import from
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "pydoc_data"}
#: limit of the size of all results in bytes; larger results are an error, and are never truncated
MAX_RESULT = 1 << 16
#: recursion limit that a program starts with
RECURSION = 1000

#: what importlib.util has of byte code, without what it imports
_bytecode: Any = sys.modules["_frozen_importlib_external"]
#: a pair of numbers of a system call: on x86_64 and on aarch64; None if an architecture lacks the call
Numbers = tuple["int | None", "int | None"]
#: system calls that a program may make; none of them takes a path
CALLS: dict[str, Numbers] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "dup": (32, 23),
    "nanosleep": (35, 101),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "sigaltstack": (131, 132),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
#: further calls of children that may read folders
READING: dict[str, Numbers] = {
    "getpid": (39, 172),
    "gettid": (186, 178),
    "stat": (4, None),
    "lstat": (6, None),
    "pread64": (17, 67),
    "access": (21, None),
    "uname": (63, 160),
    "getcwd": (79, 17),
    "readlink": (89, None),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "getdents64": (217, 61),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "statx": (332, 291),
    "faccessat2": (439, 439),
}
#: further calls of the template; its children lose them
FORKING: dict[str, Numbers] = {
    "dup2": (33, None),
    "sendto": (44, 206),
    "recvmsg": (47, 212),
    "clone": (56, 220),
    "fork": (57, None),
    "wait4": (61, 260),
    "kill": (62, 129),
    "setsid": (112, 157),
    "prctl": (157, 167),
    "set_robust_list": (273, 99),
    "dup3": (292, 24),
    "prlimit64": (302, 261),
    "seccomp": (317, 277),
    "rseq": (334, 293),
}
#: calls of which only some values of an argument are allowed: their numbers, the argument, the values
LIMITED: tuple[tuple[Numbers, int, tuple[int, ...]], ...] = (
    ((72, 25), 1, (0, 1, 2, 3, 1030)),  # fcntl: copy a descriptor, read its flags; not: send signals, change flags that others share
    ((28, 233), 2, (4, 8, 14, 15)),  # madvise: give memory back, huge pages; not: poison, page out or merge memory
    ((202, 98), 1, (128, 129, 137, 393)),  # futex: wait and wake within the process; not: on memory that is shared with other processes
    ((204, 123), 0, (0,)),  # sched_getaffinity, clock_gettime, clock_getres, clock_nanosleep: of this process; not: of others
    ((23, None), 0, (0,)),  # select, pselect6: without descriptors, to sleep
    ((270, 72), 0, (0,)),
    *(((number, other), 0, tuple(range(8))) for number, other in ((228, 113), (229, 114), (230, 115))),
)
#: opening files, for reading only: the flags that must not be set (write, create, truncate, append, temporary)
OPENAT, WRITING = (257, 56), 0x3 | 0x40 | 0x200 | 0x400 | 0x400000
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CAPSET = (126, 91)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 22, 24, 38, 47
#: user and group that a process of root becomes
NOBODY = 65534


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def seccomp_filter(calls: dict[str, Numbers], refusal: int) -> Any:
    """Build a seccomp filter: ``calls`` are allowed, other calls fail with the error ``refusal``, foreign architectures are killed.

    If ``calls`` has those of ``READING``, files can be opened for reading.
    """
    which, arch = _MACHINES[os.uname().machine]
    numbers = sorted(pair[which] for pair in calls.values() if pair[which] is not None)  # type: ignore[type-var]
    load, equal, at_least, any_bit, result = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, deny, kill = 0x7FFF0000, 0x00050000 | refusal, 0x80000000
    code: list[tuple[int, int, int, int | None]] = [
        (load, 0, 0, 4),
        (equal, 1, 0, arch),
        (result, 0, 0, kill),
        (load, 0, 0, 0),
        (at_least, 0, 1, 0x40000000),
        (result, 0, 0, kill),
    ]
    for number in numbers:
        code += [(equal, 0, 1, number), (result, 0, 0, allow)]
    for pair, argument, values in LIMITED:
        if pair[which] is None:
            continue
        checks: list[tuple[int, int, int, int | None]] = [(load, 0, 0, 16 + 8 * argument)]
        for value in values:
            checks += [(equal, 0, 1, value), (result, 0, 0, allow)]
        code += [(equal, 0, len(checks) + 1, pair[which]), *checks, (result, 0, 0, deny)]
    if "getdents64" in calls:
        code += [(equal, 0, 3, OPENAT[which]), (load, 0, 0, 16 + 8 * 2), (any_bit, 1, 0, WRITING), (result, 0, 0, allow)]
    code.append((result, 0, 0, deny))
    text = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    memory = ctypes.create_string_buffer(text, len(text))
    return _FilterProgram(len(code), ctypes.addressof(memory)), memory


def install_filter(libc: Any, filter_: Any) -> None:
    """Restrict this process to the system calls that ``seccomp_filter`` allows."""
    _checked(libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(filter_[0]), 0, 0), "seccomp")


def _checked(value: int, what: str) -> int:
    if value < 0:
        raise OSError(ctypes.get_errno(), what)
    return value


def drop_privileges(libc: Any, readable: list[str]) -> None:
    """Give up all capabilities for good; a process of root that reads no files becomes a user without rights."""
    which, _ = _MACHINES[os.uname().machine]
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    capability = 0
    while libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) >= 0:  # fails without capabilities, and after the last one
        capability += 1
    if os.geteuid() == 0 and not readable:
        with contextlib.suppress(OSError):  # without CAP_SETUID, or in a namespace that knows no other user
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    _checked(libc.syscall(_CAPSET[which], header, sets), "capset")
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def landlock(libc: Any, readable: list[str]) -> int:
    """Allow only reading beneath ``readable``; deny TCP, and signals and sockets to the outside if the kernel supports that.

    Return the version of the kernel's Landlock ABI.
    """
    version = int(libc.syscall(444, None, ctypes.c_size_t(0), 1))
    if version < 1:
        raise OSError("this kernel has no Landlock")
    filesystem = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    rules = _Ruleset(filesystem, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _checked(libc.syscall(444, ctypes.byref(rules), ctypes.c_size_t(size), 0), "landlock_create_ruleset")
    for path in readable:
        if not os.path.exists(path):
            continue
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        beneath = _Beneath(4 | (8 if os.path.isdir(path) else 0), parent)
        _checked(libc.syscall(445, ruleset, 1, ctypes.byref(beneath), 0), "landlock_add_rule")
        os.close(parent)
    _checked(libc.syscall(446, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)
    return version


def confine(libc: Any, readable: list[str], landlock_required: bool, refusal: int) -> str:
    """Drop all privileges except computing, forking and reading ``readable``; return a description of the confinement."""
    if os.uname().machine not in _MACHINES:
        raise OSError(f"no table of system calls for {os.uname().machine}")
    drop_privileges(libc, readable)
    parts = []
    try:
        parts.append(f"Landlock ABI {landlock(libc, readable)}")
    except OSError:
        if landlock_required:
            raise
    install_filter(libc, seccomp_filter(CALLS | FORKING | (READING if readable else {}), refusal))
    return ", ".join([*parts, "seccomp"])


class Library:
    """The modules of the standard library, in memory; an importer for processes without access to files."""

    def __init__(self) -> None:
        self._modules: dict[str, tuple[str, bool, bool, int, int]] = {}  # file, whether it is a package and byte code, begin, end
        content = io.BytesIO()
        root = os.path.dirname(os.__file__)
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name.isidentifier() and name not in LEFT_OUT and not name.startswith("__")]
            package = os.path.relpath(folder, root).replace(os.sep, ".").lstrip(".")
            for file in files:
                stem, suffix = os.path.splitext(file)
                if suffix == ".py" and "." not in stem:
                    is_package = stem == "__init__"
                    name = package if is_package else f"{package}.{stem}" if package else stem
                    path = os.path.join(folder, file)
                    with contextlib.suppress(OSError):
                        begin, is_code = content.tell(), _add_code(content, path)
                        self._modules[name] = (path, is_package, is_code, begin, content.tell())
        self._content = _shared(content.getbuffer())

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """Find a module by its full name."""
        del path, target
        found = self._modules.get(name)
        return None if found is None else importlib.machinery.ModuleSpec(name, self, origin=found[0], is_package=found[1])  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> None:
        """Leave making the module to Python."""

    def exec_module(self, module: Any) -> None:
        """Run the code of a module."""
        path, _, is_code, begin, end = self._modules[module.__name__]
        content = self._content[begin:end]
        exec(marshal.loads(content) if is_code else compile(content, path, "exec", dont_inherit=True), module.__dict__)


def _add_code(content: io.BytesIO, path: str) -> bool:
    """Append the byte code of a module if it is up to date, else its source; tell whether it is byte code."""
    status = os.stat(path)
    with contextlib.suppress(OSError, NotImplementedError), open(_bytecode.cache_from_source(path), "rb") as file:
        magic, flags, seconds, size = struct.unpack("<4sIII", file.read(16))
        if magic == _bytecode.MAGIC_NUMBER and not flags and (seconds, size) == (int(status.st_mtime), status.st_size):
            content.write(file.read())
            return True
    with open(path, "rb") as file:
        content.write(file.read())
    return False


def _shared(content: memoryview) -> Any:
    """Put bytes into memory that forking need not copy and that nobody can change; an array of ctypes, of which a slice is bytes."""
    size = len(content)
    if not hasattr(os, "memfd_create"):
        return bytes(content)
    descriptor = os.memfd_create("library", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(descriptor, 1033, 1 | 2 | 4 | 8)  # F_ADD_SEALS: no further seals, no shrinking, no growing, no writing
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        address = libc.mmap(None, size, 1, 1, descriptor, 0)  # Python's mmap would keep the descriptor, whose position children share
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        return (ctypes.c_char * size).from_address(address)
    finally:
        os.close(descriptor)


def import_from_memory() -> None:
    """Load the modules that need files, and import all others from memory from now on."""
    for name in SHARED_LIBRARIES.split():
        with contextlib.suppress(ImportError):
            __import__(name)
    if not {"_sha2", "_sha256"} & set(sys.modules):  # a Python that has the functions of hashlib from OpenSSL only
        with contextlib.suppress(ImportError):
            __import__("_hashlib")
    library = Library()
    sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, library]
    sys.path[:] = []
    sys.path_hooks[:] = []
    sys.path_importer_cache.clear()
    for name in WARM.split():
        __import__(name)


def read_message(descriptor: int) -> bytes | None:
    """Read a message; None at the end."""
    header = _read(descriptor, 4)
    return None if header is None else _read(descriptor, struct.unpack("<I", header)[0])


def _read(descriptor: int, count: int) -> bytes | None:
    parts = []
    while count:
        part = os.read(descriptor, min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def write_message(descriptor: int, data: bytes) -> None:
    """Write a message."""
    view = memoryview(struct.pack("<I", len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit of this process, which may be lower already."""
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def run_program(head: dict[str, Any], request: int, result: int) -> None:
    """Define a program, and call its function with the arguments of each request, which come one after the other."""
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(head["source"], "<program>", "exec"), namespace)
    function = namespace[head["entry"]]
    while (arguments := read_message(request)) is not None:
        report = b"V" + repr(function(*marshal.loads(arguments))).encode("utf-8", "surrogatepass")
        write_message(result, report[: MAX_RESULT + 1])
    write_message(result, b"D")


def run_judge(judge: Callable[[Any], Any], request: int, result: int) -> None:
    """Judge the answers that come as requests."""
    import json
    import pickle

    while (text := read_message(request)) is not None:
        write_message(result, b"V" + json.dumps(judge(pickle.loads(text))).encode()[:MAX_RESULT])


def failure(error: BaseException) -> bytes:
    """Describe an exception, whose class and text the program may have written."""
    if isinstance(error, MemoryError):
        return b"Ememory"
    if isinstance(error, RecursionError):
        return b"ERecursionError"
    try:
        return f"E{type(error).__name__}: {error}"[:300].encode("utf-8", "replace")
    except BaseException:
        return b"Ean exception that cannot be shown"


class Template:
    """The process that forks the children."""

    def __init__(self, settings: dict[str, Any], control: socket.socket):
        self.settings = settings
        self.control = control
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.filter: Any = None
        self.judge: dict[str, Any] = {}
        self.children: dict[int, int] = {}
        self.spacers: list[bytes] = []
        self.cpu = 0

    def start(self) -> str:
        """Import what children need, and give up all privileges; return a description of the confinement."""
        sys.setrecursionlimit(RECURSION)
        script, readable = self.settings["judge"], self.settings["readable"]
        if script:
            import json  # noqa: F401  for the children, as pickle
            import pickle  # noqa: F401

            sys.path[:] = self.settings["path"]
            with open(script, "rb") as file:
                source = file.read()
        else:
            import_from_memory()
        confinement = "nothing"
        if sys.platform == "linux":
            try:  # if memory runs out, the kernel kills this process instead of the training process
                with open("/proc/self/oom_score_adj", "w") as file:
                    file.write("1000")
            except OSError:
                pass
            if self.settings["confined"]:
                refusal = self.settings["refusal"]
                self.filter = seccomp_filter(CALLS | (READING if readable else {}), refusal)
                confinement = confine(self.libc, readable, self.settings["landlock"], refusal)
        elif self.settings["confined"]:
            confinement = "sandbox-exec"
        if script:
            self.judge["__name__"] = "judge"
            exec(compile(source, script, "exec"), self.judge)
        # without randomised addresses of the kernel, a program that depends on addresses would seem deterministic
        self.spacers = [bytes(2 * size) for size in os.urandom(1 + int.from_bytes(os.urandom(2), "little") % 512)]
        gc.collect()
        if sys.platform == "linux" and hasattr(self.libc, "malloc_trim"):
            self.libc.malloc_trim(0)
        gc.freeze()
        return confinement

    def limit_children(self) -> None:
        """Set the limits that children inherit."""
        for kind, most in ((resource.RLIMIT_AS, self.settings["memory"]), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
            limit(kind, most, most)
        limit(resource.RLIMIT_NOFILE, 64, 64)
        limit(resource.RLIMIT_MEMLOCK, 0, 0)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        self.cpu = sys.maxsize if most == resource.RLIM_INFINITY else most

    def serve(self) -> None:
        """Obey the socket until its other side is closed."""
        self.limit_children()
        while True:
            header, descriptors = self._receive()
            kind, number, size = struct.unpack("<cII", header)
            if kind == b"F":
                self._fork(number, descriptors)
            elif kind == b"E":
                self.send(struct.pack("<Ii", number, self._end(self.children.pop(number, 0), size / 1000)))
            elif kind == b"P":
                self.send(self._prepare(_read(self.control.fileno(), size) or b""))

    def send(self, data: bytes) -> None:
        """Send a reply."""
        self.control.sendall(struct.pack("<I", len(data)) + data)

    def _receive(self) -> tuple[bytes, list[int]]:
        header, found = b"", b""
        while len(header) < 9:
            part, ancillary, _, _ = self.control.recvmsg(9 - len(header), socket.CMSG_SPACE(3 * 4))
            if not part:
                self._leave()
            header += part
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    found += data
        return header, [number for (number,) in struct.iter_unpack("i", found[: len(found) // 4 * 4])]

    def _leave(self) -> None:
        """End all children and this process, since nobody waits for results."""
        for pid in self.children.values():
            self._end(pid)
        os._exit(0)

    def _fork(self, number: int, descriptors: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError:  # the other side finds the end of the pipe
            pid = -1
        if pid == 0:
            self._child(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self.children[number] = pid

    def _end(self, pid: int, patience: float = 0) -> int:
        """Kill a child and all that it may have started.

        Return the number of the signal that ended it within ``patience`` seconds; 0 if it ended by itself, or only now.
        """
        if pid <= 0:
            return 0
        ended, status = 0, 0
        deadline = time.monotonic() + patience if patience else 0
        while deadline and not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                time.sleep(0.001)
        if not ended:
            try:
                os.killpg(pid, signal.SIGKILL)
            except OSError:  # it has not made its group yet
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return os.WTERMSIG(status) if ended and os.WIFSIGNALED(status) else 0

    def _child(self, request: int, result: int, null: int) -> None:
        """Run one request in a new process; never returns."""
        try:
            self.control.close()
            self.children.clear()
            os.setsid()
            if sys.platform == "linux":
                self.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.close(null)
            content = read_message(request)
            if content is None:  # the request was withdrawn
                os._exit(0)
            head = marshal.loads(content)
            resource.setrlimit(resource.RLIMIT_CPU, (min(head["seconds"], self.cpu), min(head["seconds"] + 1, self.cpu)))
            if self.filter is not None:
                install_filter(self.libc, self.filter)
            write_message(result, b"R")
            if self.judge:
                run_judge(self.judge["judge"], request, result)
            else:
                run_program(head, request, result)
        except BaseException as error:
            with contextlib.suppress(BaseException):
                write_message(result, failure(error))
        finally:
            os._exit(0)

    def _prepare(self, data: bytes) -> bytes:
        import json
        import pickle

        try:
            value = self.judge["prepare"](*pickle.loads(data))
            gc.collect()
            gc.freeze()
            return b"V" + json.dumps(value).encode()
        except Exception as error:
            return failure(error)


def main(arguments: str) -> None:
    """Start the template, report its confinement, and serve; ``arguments`` are the settings, marshalled, as hexadecimal digits."""
    settings = marshal.loads(bytes.fromhex(arguments))
    for name in ("PWD", "LD_BIND_NOW", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME"):  # nothing for programs
        os.environ.pop(name, None)
    for number in (signal.SIGCHLD, signal.SIGXCPU, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # may be ignored or blocked by a launcher
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    template = Template(settings, socket.socket(fileno=os.dup(0)))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    try:
        greeting = b"C" + template.start().encode()
    except (OSError, KeyError) as error:
        greeting = b"U" + (str(error) or type(error).__name__).encode("utf-8", "replace")
    except Exception as error:
        greeting = failure(error)
    template.send(greeting)
    if greeting[:1] == b"C":
        template.serve()
