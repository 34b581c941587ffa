"""Attacks on the sandbox and their required outcomes, with the standard library only, so that any interpreter can run them."""

from __future__ import annotations

import sys

from dynamics.train.sandbox import Outcome, Sandbox

CTYPES = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
#: (description, program, words at least one of which must be in the error; or the only permitted value)
ATTACKS: list[tuple[str, str, object]] = [
    ("read a file", "def f(x):\n    return open('/etc/passwd').read()", "PermissionError"),
    ("read through os", "import os\ndef f(x):\n    return os.open('/etc/hostname', 0)", "PermissionError"),
    ("list a directory", "import os\ndef f(x):\n    return os.listdir('/')", "PermissionError"),
    ("write a file", "def f(x):\n    open('/tmp/dynamics-attack', 'w').write('x')", "PermissionError"),
    ("write into /dev/shm", "def f(x):\n    open('/dev/shm/dynamics-attack', 'w').write('x')", "PermissionError"),
    ("remove a file", "import os\ndef f(x):\n    os.unlink(x)", "PermissionError"),
    ("change a mode", "import os\ndef f(x):\n    os.chmod(x, 0)", "PermissionError"),
    ("environment", "import os\ndef f(x):\n    return [k for k in os.environ if k not in ('PYTHONHASHSEED', 'LC_CTYPE')]", []),
    ("environment of the parent", "import os\ndef f(x):\n    return open(f'/proc/{os.getppid()}/environ').read()", "PermissionError"),
    ("own memory map", "def f(x):\n    return open('/proc/self/maps').read()", "PermissionError"),
    ("TCP", "import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', 22))", "PermissionError OSError ImportError gaierror"),
    ("UDP", "import socket\ndef f(x):\n    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "PermissionError ImportError"),
    ("Unix socket", "import socket\ndef f(x):\n    socket.socketpair()", "PermissionError ImportError"),
    ("DNS", "import socket\ndef f(x):\n    return socket.getaddrinfo('example.com', 80)", "gaierror OSError ImportError"),
    ("fork", "import os\ndef f(x):\n    return os.fork()", "PermissionError BlockingIOError"),
    ("fork by ctypes", CTYPES + "def f(x):\n    return libc.fork()", -1),
    ("fork by number", CTYPES + "def f(x):\n    return [libc.syscall(n) for n in (56, 57, 58, 435)]", [-1, -1, -1, -1]),
    ("a program", "import os\ndef f(x):\n    os.execv('/bin/sh', ['sh', '-c', 'echo'])", "PermissionError"),
    ("a shell", "import os\ndef f(x):\n    return os.system('true') == 0", False),
    ("subprocess", "import subprocess\ndef f(x):\n    subprocess.run(['true'])", "PermissionError Error"),
    ("threads", "import threading\ndef f(x):\n    for _ in range(10**6):\n        threading.Thread(target=print).start()", "RuntimeError"),
    ("memory", "def f(x):\n    return len(bytearray(10**10))", "memory"),
    ("memory, slowly", "def f(x):\n    a = []\n    while True:\n        a.append(' ' * 10**6 + str(len(a)))", "memory timeout"),
    ("time", "def f(x):\n    while True:\n        pass", "timeout"),
    ("time in C", "def f(x):\n    return sum(range(10**14))", "timeout"),
    ("time in a regular expression", "import re\ndef f(x):\n    re.match('(a+)+$', 'a' * 60 + 'b')", "timeout"),
    ("a power", "def f(x):\n    return len(str(9 ** 9 ** 9))", "timeout memory ValueError"),
    ("no end of sleep", "import time\ndef f(x):\n    time.sleep(10**6)", "timeout"),
    (
        "signals that are ignored",
        "import signal\ndef f(x):\n    for s in range(1, 32):\n        try: signal.signal(s, signal.SIG_IGN)\n"
        "        except (OSError, ValueError): pass\n    while True: pass",
        "timeout",
    ),
    (
        "a handler of the limit",
        "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        "timeout",
    ),
    ("a flood on stdout", "def f(x):\n    for _ in range(10**4):\n        print('x' * 10**4)\n    return 1", 1),
    ("a flood of a result", "def f(x):\n    return 'x' * 10**7", "too long"),
    ("a long result", "def f(x):\n    return 'x' * 5000", "too long"),
    (
        "a flood into every descriptor",
        "import os\ndef f(x):\n    for d in range(3, 32):\n        try:\n            while True: os.write(d, b'x' * 65536)\n"
        "        except OSError: pass\n    return 1",
        "long timeout",
    ),
    ("leaving", "import os\ndef f(x):\n    os._exit(0)", "without a result"),
    ("leaving early", "import os\nos._exit(7)", "without a result"),
    ("sys.exit", "import sys\ndef f(x):\n    sys.exit(0)", "SystemExit"),
    ("a crash", "import ctypes\ndef f(x):\n    ctypes.string_at(0)", "signal"),
    ("killing the parent", "import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGKILL)", "PermissionError"),
    ("killing all", "import os, signal\ndef f(x):\n    os.kill(-1, signal.SIGKILL)", "PermissionError"),
    ("limits of others", CTYPES + "import os\ndef f(x):\n    return libc.prlimit(os.getppid(), 0, None, None)", -1),
    ("its own limits", "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "Error"),
    ("ptrace", CTYPES + "import os\ndef f(x):\n    return libc.ptrace(16, os.getppid(), 0, 0)", -1),
    ("memory of others", CTYPES + "import os\ndef f(x):\n    return libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0)", -1),
    ("a signal by fcntl", "import fcntl, os\ndef f(x):\n    fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", "PermissionError"),
    ("a mount", CTYPES + "def f(x):\n    return libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)", -1),
    ("another root", CTYPES + "def f(x):\n    return libc.chroot(b'/tmp')", -1),
    (
        "io_uring, bpf, memfd, userfaultfd",
        CTYPES + "def f(x):\n    return [libc.syscall(n, 0, 0, 0) for n in (425, 321, 319, 323)]",
        [-1] * 4,
    ),
    (
        "a walk through subclasses",
        "def f(x):\n    for c in ().__class__.__base__.__subclasses__():\n        if c.__name__ == '_wrap_close':\n"
        "            return c.__init__.__globals__['system']('true') == 0",
        False,
    ),
    ("equal to all", "class E:\n    __eq__ = lambda a, b: True\n    __hash__ = None\ndef f(x):\n    return E()", "not a literal"),
    ("a number that shows another", "class E(int):\n    __repr__ = lambda a: '41'\ndef f(x):\n    return E(3)", 41),
    (
        "code as a representation",
        "class E:\n    __repr__ = lambda a: '__import__(\"os\").getpid()'\ndef f(x):\n    return E()",
        "not a literal",
    ),
    ("patched repr", "import builtins\nbuiltins.repr = lambda a: '[[1], 2]'\ndef f(x):\n    return 5", "forged"),
    (
        "a forged result for more calls",
        "import os\nfor d in range(3, 32):\n    try: os.write(d, b'V[1, 2, 3]')\n    except OSError: pass\nos._exit(0)",
        "forged",
    ),
    (
        "a forged result of its own",
        "import os\nfor d in range(3, 32):\n    try: os.write(d, b'V[7]')\n    except OSError: pass\nos._exit(0)",
        7,
    ),
    ("a huge integer", "def f(x):\n    return 10 ** 5000", "Error long"),
    ("infinity", "def f(x):\n    return float('inf')", "not a literal"),
    ("infinity as a literal", "class E:\n    __repr__ = lambda a: '1e999'\ndef f(x):\n    return E()", "not a literal"),
    ("deep recursion", "def f(x):\n    return f(x)", "RecursionError"),
    ("deep recursion in C", "import sys\nsys.setrecursionlimit(10**9)\ndef f(x):\n    return f(x)", "signal memory timeout RecursionError"),
    ("a deep result", "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a", "Error memory literal"),
    ("a deep program", "def f(x):\n    return " + "(" * 5000 + ")" * 5000, "Error memory"),
    ("a circular result", "def f(x):\n    a = []\n    a.append(a)\n    return a", []),
    ("surrogates in a result", "def f(x):\n    return '\\ud800'", "\ud800"),
    ("surrogates in the program", "def f(x):\n    return '\ud800'", "Error"),
    ("a null in the program", "def f(x):\n    return '\0'", "Error"),
    ("an exception that cannot be shown", "class E(Exception):\n    __str__ = lambda a: a.x\ndef f(x):\n    raise E", "cannot be shown"),
    ("no such function", "def g(x):\n    return 1", "KeyError"),
    ("changing its name", "f = 5", "TypeError"),
]


def judged(sandbox: Sandbox, program: str, expected: object, argument: object) -> str:
    """Return an empty string if the attack was contained."""
    outcome = sandbox.run(program, [(argument,)], timeout=0.7)
    if outcome.error == "timeout" and "timeout" not in str(expected):  # a busy machine
        outcome = sandbox.run(program, [(argument,)], timeout=10)
    if isinstance(expected, str) and expected != "\ud800":
        fine = outcome.values is None and any(word in (outcome.error or "") for word in expected.split())
    elif program.endswith("return a") and expected == []:  # Ellipsis inside is not a literal; an empty list would also be harmless
        fine = outcome.values is None
    else:
        fine = outcome.values == [expected]
    after = sandbox.run("def f(x):\n    return sorted([x, 1, len('ab')])", [(3,)], timeout=10)
    if after != Outcome([[1, 2, 3]], None):
        return f"the next program gave {after}"
    return "" if fine else f"gave {outcome}"


def main() -> None:
    with Sandbox(1) as sandbox:
        bad = [
            f"{what}: {message}" for what, program, expected in ATTACKS if (message := judged(sandbox, program, expected, "/etc/hostname"))
        ]
    print("\n".join(bad))
    print(f"{len(ATTACKS) - len(bad)} contained")


if __name__ == "__main__":
    sys.exit(main())
