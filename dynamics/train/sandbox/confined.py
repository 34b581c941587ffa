"""The confined side of the sandbox: a process that drops its privileges, then forks a child for every program.

``dynamics.train.sandbox.host`` starts it as a script, with an empty environment; it uses the standard library only. Requests and answers
pass through its standard input and output, each as a length of 4 bytes and that many bytes of JSON. The only open file of a child that
leads outside is the pipe for its own result, so a program can forge nothing but its own result.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import gc
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import time
from typing import Any

#: modules imported in advance, so that programs can use them without reading files
WARM = (
    "math cmath itertools collections functools operator re string heapq bisect random datetime copy statistics fractions decimal "
    "typing dataclasses enum textwrap json calendar numbers array struct hashlib unicodedata"
)
#: limit of the size of a result in bytes; a larger result is an error, and is never truncated
MAX_RESULT = 1 << 16
#: recursion limit that a program starts with
RECURSION = 1000

# system call -> numbers on x86_64 and aarch64; None if an architecture lacks the call
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "access": (21, None),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "uname": (63, 160),
    "getcwd": (79, 17),
    "readlink": (89, None),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "openat": (257, 56),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "set_robust_list": (273, 99),
    "getrandom": (318, 278),
    "statx": (332, 291),
    "rseq": (334, 293),
    "faccessat2": (439, 439),
}
# further calls that the forking process needs; its children lose them
_FORKING: dict[str, tuple[int | None, int | None]] = {
    "poll": (7, None),
    "ppoll": (271, 73),
    "dup2": (33, None),
    "dup3": (292, 24),
    "clone": (56, 220),
    "fork": (57, None),
    "wait4": (61, 260),
    "kill": (62, 129),
    "setsid": (112, 157),
    "prctl": (157, 167),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "prlimit64": (302, 261),
    "seccomp": (317, 277),
}
_FCNTL = (72, 25)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
#: commands of fcntl that copy a descriptor or access its flags; commands that send signals to other processes are excluded
_FCNTL_ALLOWED = (0, 1, 2, 3, 1030)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_DUMPABLE = 38, 22, 4


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def seccomp_filter(extra: dict[str, tuple[int | None, int | None]]) -> Any:
    """Build a seccomp filter: listed calls and ``extra`` are allowed, other calls fail with EPERM, foreign architectures are killed."""
    which, arch = _MACHINES[platform.machine()]
    numbers = sorted(pair[which] for pair in (_CALLS | extra).values() if pair[which] is not None)  # type: ignore[type-var]
    load, equal, at_least, result = 0x20, 0x15, 0x35, 0x06
    allow, deny, kill = 0x7FFF0000, 0x00050001, 0x80000000
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
    code += [(equal, 1, 0, _FCNTL[which]), (result, 0, 0, deny), (load, 0, 0, 24)]
    for command in _FCNTL_ALLOWED:
        code += [(equal, 0, 1, command), (result, 0, 0, allow)]
    code.append((result, 0, 0, deny))
    text = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    memory = ctypes.create_string_buffer(text, len(text))
    return _FilterProgram(len(code), ctypes.addressof(memory)), memory


def _checked(value: int, what: str) -> int:
    if value < 0:
        raise OSError(ctypes.get_errno(), what)
    return value


def landlock(libc: Any, readable: list[str]) -> int:
    """Allow only reading files beneath ``readable``; deny TCP, and signals and sockets to the outside if the kernel supports that.

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
        if not os.path.isdir(path):
            continue
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        beneath = _Beneath(4 | 8, parent)
        _checked(libc.syscall(445, ruleset, 1, ctypes.byref(beneath), 0), "landlock_add_rule")
        os.close(parent)
    _checked(libc.syscall(446, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)
    return version


def confine(libc: Any) -> str:
    """Drop all privileges except computing, forking and reading the standard library; return a description of the confinement."""
    if platform.machine() not in _MACHINES:
        raise OSError(f"no table of system calls for {platform.machine()}")
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    version = landlock(libc, [os.path.dirname(os.__file__)])
    install_filter(libc, seccomp_filter(_FORKING))
    return f"Landlock ABI {version}, seccomp"


def install_filter(libc: Any, filter_: Any) -> None:
    """Restrict this process to the system calls that ``seccomp_filter`` allows."""
    _checked(libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(filter_[0]), 0, 0), "seccomp")


def run_program(request: dict[str, Any], result: int, null: int, libc: Any, filter_: Any) -> None:
    """Run one program in this process and write its result; never returns."""
    report = b"Eended"
    try:
        os.setsid()
        os.dup2(null, 0), os.dup2(null, 1), os.dup2(null, 2)
        seconds = int(request["timeout"]) + 2
        if request["memory"]:
            resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if filter_ is not None:
            install_filter(libc, filter_)
        inputs = ast.literal_eval(request["inputs"])
        namespace: dict[str, Any] = {"__name__": "program"}
        exec(compile(request["source"], "<program>", "exec"), namespace)
        function = namespace[request["entry"]]
        report = b"V" + repr([function(*arguments) for arguments in inputs]).encode("utf-8", "surrogatepass")
    except MemoryError:
        report = b"Ememory"
    except RecursionError:
        report = b"ERecursionError"
    except BaseException as error:
        try:
            report = f"E{type(error).__name__}: {error}"[:300].encode("utf-8", "replace")
        except BaseException:
            report = b"Ean exception that cannot be shown"
    try:
        view = memoryview(report[: MAX_RESULT + 1])
        while view:
            view = view[os.write(result, view) :]
    finally:
        os._exit(0)


def serve_one(request: dict[str, Any], null: int, libc: Any, filter_: Any) -> dict[str, str]:
    """Fork a child for a request, read its result with a size limit and a deadline, and make sure that the child is gone."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        run_program(request, writing, null, libc, filter_)
    os.close(writing)
    deadline = time.monotonic() + request["timeout"]
    parts, size, error = [], 0, ""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            error = "timeout"
            break
        part = os.read(reading, 1 << 16)
        if not part:
            break
        parts.append(part)
        size += len(part)
        if size > MAX_RESULT:
            error = "output too long"
            break
    os.close(reading)
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    text = b"".join(parts).decode("utf-8", "surrogatepass") if not error else ""
    if not error and not text:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        silent = "ended without a result" if number in (0, signal.SIGKILL) else f"signal {number}"
        error = "timeout" if number == signal.SIGXCPU else silent
    return {"error": error} if error else {"value": text[1:]} if text[0] == "V" else {"error": text[1:]}


def _read(count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = os.read(0, count - len(parts))
        if not part:
            os._exit(0)
        parts += part
    return parts


def _answer(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    view = memoryview(struct.pack("<I", len(data)) + data)
    while view:
        view = view[os.write(1, view) :]


def main(confined: bool) -> None:
    """Drop privileges, report the confinement of this process, and serve requests until the other side closes the pipe."""
    for name in WARM.split():
        __import__(name)
    sys.setrecursionlimit(RECURSION)
    libc = ctypes.CDLL(None, use_errno=True)
    null = os.open(os.devnull, os.O_RDWR)
    confinement, filter_ = "nothing", None
    try:
        if sys.platform == "linux":
            try:  # if memory runs out, the kernel kills this process instead of the training process
                with open("/proc/self/oom_score_adj", "w") as file:
                    file.write("1000")
            except OSError:
                pass
            libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
            if confined:
                filter_ = seccomp_filter({})
                confinement = confine(libc)
        elif confined:
            confinement = "sandbox-exec"
    except (OSError, KeyError) as error:
        _answer({"unavailable": str(error)})
        return
    gc.collect()
    gc.freeze()
    _answer({"confinement": confinement})
    while True:
        (size,) = struct.unpack("<I", _read(4))
        request = json.loads(_read(size))
        try:
            answer = serve_one(request, null, libc, filter_)
        except OSError as error:
            answer = {"error": f"executor: {error}"}
        except ValueError:
            answer = {"error": "not text"}
        _answer(answer)


if __name__ == "__main__":
    main(sys.argv[1] == "confined")
