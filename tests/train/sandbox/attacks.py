"""Attacks on the sandbox and their required outcomes, with the standard library only, so that any interpreter can run them."""

from __future__ import annotations

import sys

from dynamics.train.sandbox import Outcome, Sandbox

# ruff: noqa: E501
CTYPES = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
#: writes into every descriptor, as whole messages or not
FORGE = """import os, struct
def write(data):
    for d in range(3, 64):
        try: os.write(d, data)
        except OSError: pass
def forge(*messages):
    write(b''.join(struct.pack('<I', len(m)) + m for m in messages))
"""
#: finds the memory that holds the standard library
LIBRARY = (
    CTYPES
    + """import sys
def address():
    return ctypes.addressof(next(finder for finder in sys.meta_path if hasattr(finder, '_content'))._content)
"""
)
#: mov eax, 20 (getpid of the 32-bit interface); int 0x80; ret
MACHINE_CODE = (
    CTYPES
    + """def f(x):
    libc.mmap.restype = ctypes.c_void_p
    page = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_size_t(0))
    ctypes.memmove(page, bytes.fromhex('b814000000cd80c3'), 8)
    return ctypes.CFUNCTYPE(ctypes.c_int)(page)()
"""
)
#: calls that the filter must refuse: what they are, and the call
REFUSED = [
    ("fork", "libc.fork()"),
    ("vfork, clone, clone3 by number", "[libc.syscall(n, 0, 0, 0, 0, 0) for n in (57, 58, 56, 435)]"),
    ("limits", "libc.prlimit(0, 0, None, None)"),
    ("ptrace", "libc.ptrace(16, 1, 0, 0)"),
    ("memory of others", "libc.process_vm_readv(1, None, 0, None, 0, 0)"),
    ("a mount", "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)"),
    ("another root", "libc.chroot(b'/tmp')"),
    ("another folder", "libc.chdir(b'/')"),
    ("io_uring, bpf, memfd, userfaultfd", "[libc.syscall(n, 0, 0, 0) for n in (425, 321, 319, 323)]"),
    ("opening", "[libc.open(b'/etc/passwd', 0), libc.openat(-100, b'/etc/passwd', 0), libc.syscall(437, -100, b'/etc/passwd', 0, 24)]"),
    (
        "a file's existence",
        "[libc.access(b'/etc/passwd', 0), libc.syscall(4, b'/etc', buffer), libc.syscall(332, -100, b'/etc', 0, 0, buffer)]",
    ),
    ("a link", "[libc.readlink(b'/proc/self/exe', buffer, 99), libc.readlinkat(-100, b'/etc/mtab', buffer, 99)]"),
    ("times of files", "[libc.syscall(280, -100, b'/etc/passwd', 0, 0), libc.syscall(132, b'/etc/passwd', 0)]"),
    ("sockets", "[libc.socket(d, 1, 0) for d in (1, 2, 10, 16, 40)] + [libc.socketpair(1, 1, 0, buffer)]"),
    ("sending and receiving", "[libc.sendmsg(d, buffer, 0) for d in range(5)] + [libc.recvmsg(d, buffer, 0) for d in range(5)]"),
    ("shared memory, semaphores and queues", "[libc.syscall(n, 7, 1, 0o1666) for n in (29, 64, 68, 240)]"),
    ("keys of the kernel", "[libc.syscall(n, b'user', b'x', b'y', 1, -3) for n in (248, 249, 250)]"),
    ("signals", "[libc.kill(1, 0), libc.kill(-1, 0), libc.syscall(200, 1, 0), libc.syscall(234, 1, 1, 0)]"),
    ("descriptors of other processes", "[libc.syscall(434, 1, 0), libc.syscall(438, 1, 0, 0), libc.syscall(424, 1, 0, 0, 0)]"),
    ("flags of a shared descriptor", "[libc.fcntl(d, 4, 0o4000) for d in range(5)]"),
    ("owner of a descriptor", "[libc.fcntl(d, c, 1) for d in range(5) for c in (8, 10, 1024, 1025, 1026, 1033)]"),
    ("memory that is poisoned, merged or paged out", "[libc.madvise(page(), 4096, a) for a in (100, 101, 12, 20, 21, 3, 9, 22, 23)]"),
    ("madvise of another process", "libc.syscall(440, 1, 0, 0, 0, 0)"),
    ("which pages are in memory", "[libc.mincore(page(), 4096, buffer), libc.syscall(451, 0, 0, 0, 0)]"),
    ("capabilities", "[libc.syscall(126, buffer, buffer), libc.syscall(125, buffer, buffer)]"),
    ("another user", "[libc.setuid(0), libc.setgid(0), libc.setresuid(0, 0, 0), libc.setgroups(0, None)]"),
    ("process control", "[libc.prctl(n, 1, 0, 0, 0) for n in (4, 15, 22, 23, 24, 36, 38, 47)]"),
    (
        "futexes that other processes see",
        "[libc.syscall(202, page(), operation, 1, 0, 0, 0) for operation in (0, 1, 3, 4, 9, 10, 256, 265)]",
    ),
    ("clocks of other processes", "[libc.syscall(n, (~pid << 3) | 2, buffer) for n in (228, 229) for pid in (0, 1, 2)]"),
    ("sleeping by the clock of another process", "libc.syscall(230, (~1 << 3) | 2, 0, buffer, 0)"),
    ("processors of other processes", "[libc.syscall(204, pid, 8, buffer) for pid in (1, 2)]"),
    ("namespaces", "[libc.unshare(0x10000000), libc.setns(3, 0)]"),
    (
        "its number, the parent, names and load of the machine",
        "[libc.syscall(39), libc.syscall(186), libc.syscall(110), libc.uname(buffer), libc.sysinfo(buffer), libc.getcwd(buffer, 99)]",
    ),
    (
        "priorities and processors",
        "[libc.setpriority(0, 0, 5), libc.getpriority(0, 1), libc.sched_setaffinity(0, 8, buffer), libc.nice(1)]",
    ),
    ("usage of others", "[libc.getrusage(0, buffer), libc.syscall(100, buffer)]"),
    (
        "performance counters and the kernel's log",
        "[libc.syscall(298, buffer, 0, -1, -1, 0), libc.syscall(103, 3, buffer, 9), libc.syscall(175, 0, 0, 0)]",
    ),
    ("alarms and timers", "[libc.setitimer(0, buffer, None), libc.alarm(1), libc.syscall(222, 0, 0, buffer), libc.syscall(283, 0, 0)]"),
    (
        "events and watches",
        "[libc.syscall(n, 0, 0, 0, 0) for n in (284, 290, 253, 294, 254, 291, 300, 7)] + [libc.syscall(n, 5, buffer, 0, 0, 0, 0) for n in (23, 270)]",
    ),
    ("terminals and queues of pipes", "[libc.ioctl(d, c, buffer) for d in range(5) for c in (0x541B, 0x5401, 0x5412)]"),
    ("moving data between descriptors", "[libc.syscall(n, 1, 0, 0, 9, 0, 0) for n in (40, 275, 276, 278, 326)]"),
    (
        "new pipes and folders",
        "[libc.pipe(buffer), libc.mkdir(b'/tmp/dynamics-attack', 511), libc.syscall(86, b'/etc', b'/tmp/x'), libc.syscall(95, 0)]",
    ),
    ("sessions and groups", "[libc.setsid(), libc.setpgid(0, 0), libc.getsid(0), libc.getpgid(0)]"),
]
#: defines libc so that it keeps the error number of each call
CALL = (
    CTYPES
    + """raw, errors, buffer = libc, [], ctypes.create_string_buffer(4096)
class Watched:
    def __getattr__(self, name):
        def call(*arguments):
            ctypes.set_errno(0)
            result = getattr(raw, name)(*arguments)
            errors.append(ctypes.get_errno())
            return result
        return call
libc = Watched()
def page():
    raw.mmap.restype = ctypes.c_void_p
    return ctypes.c_void_p(raw.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_size_t(0)))
"""
)
#: error number of refused calls in the tests; the kernel returns it for the keys of revoked certificates only
MARKER = 128
#: every system call that is not allowed, by its number; the kernel lets uretprobe and uprobe (335, 336) pass every filter, and ends a
#: process that calls them without need
ALL_CALLS = (
    CALL
    + """def f(allowed):
    for number in range(600):
        if number not in allowed and number not in (335, 336):
            libc.syscall(number, 0, 0, 0, 0, 0, 0)
    return sorted(set(errors)), len(errors)
"""
)


#: looks for a word, given by its letters, in the memory, the frames and the objects of its process
SEARCH = """import ctypes, gc, sys
def f(letters):
    half, rest = ''.join(letters[:5]).encode(), [ord(letter) for letter in letters[5:]]
    found = set()
    things = gc.get_objects()
    pages = {id(thing) & -4096 for thing in things} | {id(part) & -4096 for thing in things for part in gc.get_referents(thing)}
    for page in sorted(pages):
        content = ctypes.string_at(page, 4096)
        place = content.find(half)
        while place >= 0:
            if [*content[place + 5 : place + 5 + len(rest)]] == rest:
                found.add('memory')
            place = content.find(half, place + 1)
    word = ''.join(letters)
    frame = sys._getframe(1)
    while frame is not None:
        if any(word in repr(value) for value in [*frame.f_locals.values(), *frame.f_globals.values()]):
            found.add('frame')
        frame = frame.f_back
    for thing in things:
        if isinstance(thing, (dict, list, tuple, set)) and word in repr(thing):
            found.add('object')
    return sorted(found)
"""
#: leaves a mark in every way that was thought of, and reads all of them
MAILBOX = (
    CTYPES
    + """import fcntl, os, sys
def attempt(function):
    try: return function()
    except BaseException as error: return type(error).__name__
def f(leave):
    if leave:
        for d in range(8):
            attempt(lambda: fcntl.fcntl(d, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND))
            attempt(lambda: fcntl.fcntl(d, fcntl.F_SETFD, 0))
            attempt(lambda: fcntl.fcntl(d, fcntl.F_SETSIG, 40))
            attempt(lambda: fcntl.fcntl(d, fcntl.F_SETPIPE_SZ, 1 << 18) if hasattr(fcntl, 'F_SETPIPE_SZ') else 0)
            attempt(lambda: os.lseek(d, 12345, 0))
        attempt(lambda: os.write(0, b'mark'))
        attempt(lambda: os.umask(0o777))
        attempt(lambda: os.chdir('/tmp'))
        attempt(lambda: os.nice(3))
        attempt(lambda: os.environ.update(mark='1'))
        attempt(lambda: libc.setenv(b'mark', b'1', 1))
        attempt(lambda: os.sched_setaffinity(0, {0}))
        attempt(lambda: setattr(sys, 'mark', 1))
        attempt(lambda: open('/dev/shm/mark', 'w'))
        attempt(lambda: libc.shmget(4711, 100, 0o1666))
        attempt(lambda: libc.syscall(248, b'user', b'mark', b'1', 1, -3))
        attempt(lambda: os.utime('/etc/passwd'))
        attempt(lambda: open(os.__file__).read())
    seen = []
    for d in range(3):
        seen += [attempt(lambda: fcntl.fcntl(d, fcntl.F_GETFL)), attempt(lambda: fcntl.fcntl(d, fcntl.F_GETFD)), attempt(lambda: os.lseek(d, 0, 1))]
    seen += [attempt(lambda: libc.shmget(4711, 100, 0)), attempt(lambda: sorted(os.sched_getaffinity(0))), hasattr(sys, 'mark')]
    seen += ['mark' in os.environ, attempt(lambda: os.umask(0)), attempt(os.getcwd), attempt(lambda: os.nice(0))]
    libc.getenv.restype = ctypes.c_char_p
    seen += [libc.getenv(b'mark') is None, attempt(lambda: os.stat('/etc/passwd').st_atime), attempt(lambda: os.listdir('/dev/shm'))]
    return seen
"""
)


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
    ("its own limits", "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "Error"),
    ("a signal by fcntl", "import fcntl, os\ndef f(x):\n    fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", "PermissionError"),
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
    ("patched repr", "import builtins\nbuiltins.repr = lambda a: '[[1], 2]'\ndef f(x):\n    return 5", [[1], 2]),
    ("forged results for more calls", FORGE + "forge(b'V1', b'V2', b'V3')\nos._exit(0)", "forged"),
    ("a forged result of its own", FORGE + "forge(b'V7')\nos._exit(0)", 7),
    ("a forged list of results", FORGE + "forge(b'V[1, 2')\nos._exit(0)", "not a literal"),
    ("a forged end", FORGE + "forge(b'D')\nos._exit(0)", "forged"),
    ("a forged error without a text", FORGE + "forge(b'E')\nos._exit(0)", "exception:"),
    ("an exception that passes for a time-out", "E = type('timeout', (Exception,), {})\ndef f(x):\n    raise E", "exception:"),
    ("an exception without a name", "E = type(':', (Exception,), {})\ndef f(x):\n    raise E", "exception:"),
    ("a forged error of a blank", FORGE + "forge(b'E ')\nos._exit(0)", "exception"),
    ("a forged error of a zero byte", FORGE + "forge(b'E\\0')\nos._exit(0)", "\\x00"),
    ("a message of an unknown kind", FORGE + "forge(b'X1')\nos._exit(0)", "forged"),
    ("an empty message", FORGE + "forge(b'')\nos._exit(0)", "forged"),
    ("a message of four gigabytes", FORGE + "write(b'\\xff' * 4)\nos._exit(0)", "too long"),
    ("a message that is cut short", FORGE + "write(b'\\5\\0\\0\\0V')\nos._exit(0)", "without a result"),
    ("a message that never ends", FORGE + "write(b'\\5\\0\\0\\0V')\nwhile True: pass", "timeout"),
    ("a message in drops", FORGE + "import time\nwrite(b'\\xff\\1\\0\\0')\nwhile True:\n    write(b'V')\n    time.sleep(0.05)", "timeout"),
    ("a forged error", FORGE + "forge(b'E\\x1b[2J\\nfine')\nos._exit(0)", "\\x1b[2J\\x0afine"),
    ("a result that is not text", FORGE + "forge(b'V\\xff\\xfe')\nos._exit(0)", "not text"),
    (
        "closing the pipe of results",
        "import os\ndef f(x):\n    os.closerange(3, 64)\n    while True: pass",
        "without a result Error timeout",
    ),
    (
        "reading the request again",
        "import os\ndef f(x):\n    for d in range(3, 64):\n        try: return os.read(d, 9)\n        except OSError: pass",
        "timeout",
    ),
    ("a huge integer", "def f(x):\n    return 10 ** 5000", "Error long"),
    ("infinity", "def f(x):\n    return float('inf')", "not a literal"),
    ("infinity as a literal", "class E:\n    __repr__ = lambda a: '1e999'\ndef f(x):\n    return E()", "not a literal"),
    ("deep recursion", "def f(x):\n    return f(x)", "RecursionError"),
    ("deep recursion in C", "import sys\nsys.setrecursionlimit(10**9)\ndef f(x):\n    return f(x)", "signal memory timeout RecursionError"),
    ("a deep result", "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a", "Error memory literal"),
    ("a deep program", "def f(x):\n    return " + "(" * 5000 + ")" * 5000, "Error memory"),
    ("a circular result", "def f(x):\n    a = []\n    a.append(a)\n    return a", []),
    ("a file in /proc by number", "import os\ndef f(x):\n    return open(f'/proc/{os.getpid()}/status').read()", "PermissionError"),
    ("the parent in /proc by number", "def f(x):\n    return [open(f'/proc/{n}/cmdline').read() for n in range(1, 99)]", "PermissionError"),
    ("a link in /proc", "import os\ndef f(x):\n    return os.readlink('/proc/self/exe')", "PermissionError"),
    ("a link outside", "import os\ndef f(x):\n    return os.readlink('/etc/mtab')", "PermissionError"),
    ("whether a file exists", "import os\ndef f(x):\n    return os.path.exists('/etc/passwd')", False),
    ("times of a file", "import os\ndef f(x):\n    return os.stat(os.__file__ or '/').st_atime", "PermissionError"),
    ("access to a file", "import os\ndef f(x):\n    return os.access('/etc/passwd', os.R_OK)", False),
    ("the standard library's files", "import os\ndef f(x):\n    return open(os.__file__ or '/usr/lib/os.py').read()", "Error"),
    ("installed packages", "def f(x):\n    import numpy", "ModuleNotFoundError"),
    (
        "packages of the base",
        "import sys\ndef f(x):\n    sys.path.append(sys.base_prefix + '/site-packages')\n    import pip",
        "ModuleNotFoundError",
    ),
    ("files of the base", "import os, sys\ndef f(x):\n    return os.listdir(sys.base_prefix)", "PermissionError"),
    (
        "another importer",
        "import importlib.machinery as m\ndef f(x):\n    return m.PathFinder.find_spec('json', ['/usr/lib']) is None",
        True,
    ),
    ("a compiled module", "import importlib.machinery as m\ndef f(x):\n    m.ExtensionFileLoader('y', x).create_module(None)", "Error"),
    ("a shared library", "import ctypes\ndef f(x):\n    ctypes.CDLL('libm.so.6')\n    ctypes.CDLL('libutil.so.1')", "OSError"),
    (
        "a class name with control characters",
        "E = type('\\x1b]0;title\\x07\\n', (Exception,), {})\ndef f(x):\n    raise E('\\x1b[2J\\r\\nok')",
        "\\x1b]0;title\\x07\\x0a:",
    ),
    ("a long error", "def f(x):\n    raise ValueError('y' * 10**6)", "ValueError"),
    ("an error that is a signal", "import signal, os\ndef f(x):\n    signal.raise_signal(signal.SIGKILL)", "Error result signal"),
    ("an alarm", "import signal\ndef f(x):\n    return signal.setitimer(signal.ITIMER_REAL, 0.01)", "itimer_error"),
    ("a trace of the host's frames", "import sys\ndef f(x):\n    sys.settrace(lambda *a: 1 / 0)\n    return 3", "ZeroDivisionError 3"),
    (
        "code in machine language that calls by the 32-bit interface",
        MACHINE_CODE,
        "signal Error",
    ),
    ("writing into the library", LIBRARY + "def f(x):\n    ctypes.memset(address(), 0, 8)", "signal"),
    ("making the library writable", LIBRARY + "def f(x):\n    return libc.mprotect(ctypes.c_void_p(address() & ~4095), 4096, 3)", -1),
    ("importers that are gone", "import sys\nsys.meta_path.clear()\nsys.modules.clear()\ndef f(x):\n    return 1", 1),
    ("no builtins", "import builtins\nfor n in dir(builtins):\n    delattr(builtins, n)\n", "Error cannot result"),
    (
        "descriptors",
        "import os\ndef f(x):\n    n = 0\n    for d in range(64):\n        try: os.get_inheritable(d); n += 1\n        except OSError: pass\n    return n",
        5,
    ),
    ("a name of the function that is no name", "def g(x):\n    return globals()\nf = g", "long literal"),
    ("an integer in hexadecimal", "class E:\n    __repr__ = lambda a: '0x' + 'f' * 20000\ndef f(x):\n    return E()", "long literal"),
    ("a complex number that overflows", "def f(x):\n    return complex(1.7e308, 1.7e308)", complex(1.7e308, 1.7e308)),
    (
        "complex numbers of equal hash",
        "class E:\n    __repr__ = lambda a: '{' + ','.join(f'{-1000003 * i}+{i}j' for i in range(1, 60)) + '}'\ndef f(x):\n    return len(repr(E()))",
        809,
    ),
    (
        "numbers of equal hash",
        "class E:\n    __repr__ = lambda a: '{' + ','.join(str((2**61 - 1) * i) for i in range(2800)) + '}'\ndef f(x):\n    return E()",
        "too long",
    ),
    ("surrogates in a result", "def f(x):\n    return '\\ud800'", "\ud800"),
    ("surrogates in the program", "def f(x):\n    return '\ud800'", "Error"),
    ("a null in the program", "def f(x):\n    return '\0'", "Error"),
    ("an exception that cannot be shown", "class E(Exception):\n    __str__ = lambda a: a.x\ndef f(x):\n    raise E", "cannot be shown"),
    ("no such function", "def g(x):\n    return 1", "KeyError"),
    ("changing its name", "f = 5", "TypeError"),
]


def judged(sandbox: Sandbox, program: str, expected: object, argument: object) -> str:
    """Return an empty string if the attack was contained."""
    outcome = sandbox.run(program, [(argument,)], timeout=0.25 if "timeout" in str(expected) else 10)
    if isinstance(expected, str) and expected != "\ud800":
        if not (outcome.error or "").isprintable():
            return f"an error with control characters: {outcome}"
        fine = outcome.values is None and any(word in (outcome.error or "") for word in expected.split())
    elif program.endswith("return a") and expected == []:  # Ellipsis inside is not a literal; an empty list would also be harmless
        fine = outcome.values is None
    else:
        fine = outcome.values == [expected]
    after = sandbox.run("def f(x):\n    return sorted([x, 1, len('ab')])", [(3,)], timeout=10)
    if after != Outcome([[1, 2, 3]], None):
        return f"the next program gave {after}"
    return "" if fine else f"gave {outcome}"


def not_refused(sandbox: Sandbox, calls: str) -> str:
    """Return an empty string if the filter refused all of the calls; a call that the kernel refused does not count."""
    outcome = sandbox.run(f"{CALL}def f(x):\n    {calls}\n    return errors", [(0,)], timeout=10)
    return "" if outcome.values and outcome.values[0] and set(outcome.values[0]) == {MARKER} else f"gave {outcome}"


def main() -> None:
    with Sandbox(1) as sandbox:
        bad = [
            f"{what}: {message}" for what, program, expected in ATTACKS if (message := judged(sandbox, program, expected, "/etc/hostname"))
        ]
    with Sandbox(1, refused=MARKER) as sandbox:
        bad += [f"{what}: {message}" for what, calls in REFUSED if (message := not_refused(sandbox, calls))]
    print("\n".join(bad))
    print(f"{len(ATTACKS) + len(REFUSED) - len(bad)} contained")


if __name__ == "__main__":
    sys.exit(main())
