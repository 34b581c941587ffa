"""The host's side of a template: the confined process that forks a child for every request (``dynamics.train.sandbox.confined``)."""

from __future__ import annotations

import array
import builtins
import contextlib
import errno
import json
import marshal
import math
import os
import pickle
import select
import signal as signals
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from dynamics.errors import printable
from dynamics.train.sandbox.backends import Backend, SandboxUnavailable, Unconfined, refusal

#: writing to a socket whose other end is closed is an error, and no signal
_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)
#: what a Python needs to find its libraries
_LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
_SCRIPT = Path(__file__).with_name("confined.py")
#: limit of the size of all results of a child in bytes, as in ``confined``
MAX_RESULT = 1 << 16
#: seconds for a template to start, and for it to reply once a child is to end
_START, _REPLY = 60.0, 10.0
#: seconds for which a child that cannot be started is started again
_PATIENCE = 10.0
_DAY = 86_400.0
#: bytes of a reply of a template
_MAX_REPLY = 1 << 20
#: milliseconds in which a child that closed its pipe is gone, unless it stays on purpose
_LAST_BREATH = 200
#: seconds beyond the time limit after which the kernel ends a child whose host is gone
_GRACE = 2


class _TemplateDied(Exception):
    pass


class Child:
    """A child that waits for its request, with this process's ends of its socket and its pipe."""

    def __init__(self, number: int, request: socket.socket, result: int):
        self.number, self.request, self.result = number, request, result

    def close(self) -> None:
        """Close both."""
        self.request.close()
        result, self.result = self.result, -1
        if result >= 0:
            os.close(result)


class Template:
    """A confined process that forks a child for every request; restarted when it has died.

    Parameters
    ----------
    backend : what surrounds the process.
    seed : hash seed.
    memory : maximum address space of a child in bytes.
    judge : script with the functions ``prepare`` and ``judge`` that children call; None for children that run programs.
    readable : files and folders that the judge may read.
    path : folders to import from, for a judge.
    refused : error number of system calls that are not allowed.
    """

    def __init__(
        self,
        backend: Backend,
        seed: int,
        memory: int,
        judge: Path | None = None,
        readable: Sequence[str] = (),
        path: Sequence[str] = (),
        refused: int = errno.EPERM,
    ):
        self.backend = backend
        self.lock = threading.Lock()
        self.confinement = ""
        self._settings: dict[str, Any] = {
            "confined": backend.confined,
            "landlock": backend.landlock,
            "memory": memory,
            "judge": None if judge is None else str(judge),
            "readable": list(readable),
            "path": list(path),
            "refusal": refused,
        }
        self._environment = {"PYTHONHASHSEED": str(seed), "LD_BIND_NOW": "1"}  # else each child looks the same symbols up
        self._environment |= {name: os.environ[name] for name in _LIBRARY_PATHS if name in os.environ}
        if judge is not None:  # threads of libraries do not survive forking
            self._environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._prepared: list[tuple[str, Any]] = []
        self._next: Child | None = None
        self._ending: Child | None = None
        self._number = 0
        self._owner = os.getpid()
        self._closed = False

    def start(self) -> None:
        """Start the process.

        Raises
        ------
        SandboxUnavailable : it cannot be confined here, or its judge cannot be imported.
        """
        folders = [str(_SCRIPT.parent), *filter(None, [self._settings["judge"]]), *self._settings["readable"]]
        flags = ["-s", "-S", "-P", "-B"] if sys.version_info >= (3, 11) else ["-s", "-S", "-B"]
        SourceFileLoader(_SCRIPT.stem, str(_SCRIPT)).get_code(_SCRIPT.stem)  # writes its byte code, as an import does, if it can
        start = f"import sys; sys.path.insert(0, {str(_SCRIPT.parent)!r}); import confined; del sys.path[0]; confined.main(sys.argv[1])"
        python = [sys.executable, *flags, "-c", start, marshal.dumps(self._settings).hex()]
        if not sys.executable:
            raise SandboxUnavailable("this Python does not know the path of its program, which the sandbox starts; set sys.executable")
        command = self.backend.command(python, folders, self._environment)
        here, there = socket.socketpair()
        self._control = here
        said = ""
        try:
            with there, tempfile.TemporaryFile() as errors:
                self._process = subprocess.Popen(
                    command,
                    stdin=there.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    env=self._environment,
                    cwd="/",
                    start_new_session=True,
                )
                there.close()
                try:
                    greeting = self._receive(_START)
                finally:
                    errors.seek(0)
                    said = errors.read(1 << 16).decode("utf-8", "replace").strip().rpartition("\n")[2]
                if greeting[:1] not in (b"C", b"U", b"E"):
                    raise _TemplateDied("not a greeting")
        except (OSError, _TemplateDied) as error:
            self.stop()
            raise SandboxUnavailable(f"the sandbox did not start ({printable(said or error, 300)})") from None
        except BaseException:  # such as KeyboardInterrupt
            self.stop()
            raise
        text = printable(greeting[1:].decode("utf-8", "replace"), 300)
        if greeting[:1] != b"C":
            self.stop()
            if greeting[:1] == b"E":
                raise SandboxUnavailable(text)
            raise SandboxUnavailable(refusal(f"programs that a model wrote cannot be confined here ({text})"))
        self.confinement = ", ".join(filter(None, [self.backend.name, text]))
        if isinstance(self.backend, Unconfined):
            self.confinement = self.backend.name
        try:
            for data in self._prepared:
                self._prepare(data)
        except (OSError, _TemplateDied, ValueError) as error:
            self.stop()
            raise SandboxUnavailable(f"the sandbox did not start again as before ({printable(error, 300)})") from None

    def close(self) -> None:
        """End the process and its children for good."""
        self._closed = True
        self.stop()

    def stop(self) -> None:
        """End the process and its children; the next call starts it again."""
        child, self._next, self._ending = self._next, None, None
        control, self._control = self._control, None
        process, self._process = self._process, None
        if child is not None:
            child.close()
        if control is not None:
            control.close()
        if process is not None and self._owner == os.getpid():
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()

    def prepare(self, key: str, config: Any) -> Any:
        """Call ``prepare(key, config)`` of the judge in the process that later children are forked from; return its result.

        Raises
        ------
        ValueError : it failed; the text says how.
        """
        self._leave_parent()
        with self.lock:
            try:
                value = self._prepare_anew((key, config))
            except (OSError, _TemplateDied):
                try:
                    value = self._prepare_anew((key, config))
                except (OSError, _TemplateDied) as died:
                    raise SandboxUnavailable(f"the sandbox died while it prepared a judge ({died})") from None
            self._prepared.append((key, config))
            return value

    def _prepare_anew(self, data: tuple[str, Any]) -> Any:
        try:
            self._ensure()
            self._ended()
            self._drop_next()  # it does not know what is prepared now
            return self._prepare(data)
        except ValueError:  # said by the judge
            raise
        except BaseException:
            self.stop()
            raise

    def prepare_later(self, key: str, config: Any) -> None:
        """Like ``prepare``, but when the process starts if it has not."""
        self._leave_parent()
        with self.lock:
            if self._process is None:
                self._prepared.append((key, config))
                return
        self.prepare(key, config)

    def _prepare(self, data: tuple[str, Any]) -> Any:
        content = pickle.dumps(data)
        assert self._control is not None
        self._control.sendall(struct.pack("<cII", b"P", 0, len(content)) + content, _FLAGS)
        reply = self._receive(_START)
        if reply[:1] != b"V":
            raise ValueError(printable(reply[1:].decode("utf-8", "replace"), 300))
        return json.loads(reply[1:])

    def exchange(
        self, head: dict[str, Any], requests: Sequence[bytes], timeout: float, cpu: int | None = None
    ) -> tuple[list[bytes] | None, str]:
        """Send requests to a new child, each once the one before is answered.

        Parameters
        ----------
        head : what the child reads first.
        requests : sent one by one; if there are none, the child is asked to end.
        timeout : seconds for all requests.
        cpu : seconds of processor time for all requests; a little more than ``timeout`` if None.

        Returns
        -------
        results : of the requests, as many as there are; None after an error.
        error : short reason; empty without an error.
        """
        self._leave_parent()
        timeout = min(timeout, _DAY)
        first = marshal.dumps(head | {"seconds": math.ceil(timeout) + _GRACE if cpu is None else cpu})
        with self.lock:
            begin, begun, failure = time.monotonic(), 0, ""
            while begun < 2:
                talk = Conversation(first, requests, timeout)
                try:
                    signal = self._talk(talk)
                except (OSError, _TemplateDied) as died:
                    self.stop()
                    begun, failure = begun + talk.begun, str(died)
                except BaseException:  # such as KeyboardInterrupt
                    self.stop()
                    raise
                else:
                    if talk.begun and signal == signals.SIGKILL and not begun:  # by the kernel, as when memory runs out
                        begun += 1
                        continue
                    if talk.begun:
                        return talk.outcome(signal)
                    failure = talk.end[1:] if talk.end and talk.end[0] == "E" else "no process can be started"
                    self._drop_next()
                if not talk.begun:
                    if time.monotonic() - begin > _PATIENCE:
                        what = f"the sandbox has not worked for {_PATIENCE:.0f} seconds ({printable(failure, 200)})"
                        raise SandboxUnavailable(f"{what}; see the limits of this machine")
                    time.sleep(0.05)
        return None, "the executor died"

    def _leave_parent(self) -> None:
        """In a fork of the process that started this, leave its template alone, and start another one."""
        if self._owner != os.getpid():
            self.lock = threading.Lock()
            self.stop()
            self._owner = os.getpid()

    def _talk(self, talk: Conversation) -> int:
        """Have a conversation with a new child; return the number of the signal that ended it, 0 for none."""
        self._ensure()
        self._ended()  # so that no two children are at work
        child = self._next or self._fork()
        self._next = None
        try:
            talk.run(child)
            self._end(child, _LAST_BREATH if talk.end == _ENDED else 0)
        finally:
            child.close()
        signal = self._ended() if talk.end == _ENDED else 0
        self._next = self._fork()  # in advance; not while a child works, since both would copy more of their memory
        return signal

    def _drop_next(self) -> None:
        child, self._next = self._next, None
        if child is not None:
            self._ended()
            self._end(child)
            self._ended()

    def _ensure(self) -> None:
        """Start the process unless it runs; one that worked before and died is not refused but tried again."""
        if self._closed:
            raise RuntimeError("the sandbox is closed")
        if self._process is None or self._control is None:
            worked = bool(self.confinement)
            try:
                self.start()
            except SandboxUnavailable as error:
                if worked:
                    raise _TemplateDied(f"it died and did not start again: {str(error).partition(';')[0]}") from None
                raise

    def _fork(self) -> Child:
        assert self._control is not None
        self._number = (self._number + 1) & 0xFFFFFFFF
        descriptors = array.array("i")
        request, asked = socket.socketpair()  # writing to a pipe can end this process by SIGPIPE
        try:
            descriptors.append(asked.detach())
            result, answered = os.pipe()
            try:
                descriptors.append(answered)
                descriptors.append(os.open(os.devnull, os.O_RDWR))
                message = struct.pack("<cII", b"F", self._number, 0)
                self._control.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)], _FLAGS)
            except BaseException:
                os.close(result)
                raise
        except BaseException:
            request.close()
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return Child(self._number, request, result)

    def _end(self, child: Child, patience: int = 0) -> None:
        """Ask for the end of a child, ``patience`` milliseconds from now; ``_ended`` waits for it."""
        child.close()
        assert self._control is not None
        self._control.sendall(struct.pack("<cII", b"E", child.number, patience), _FLAGS)
        self._ending = child

    def _ended(self) -> int:
        """Wait until the child that is to end is gone; return the number of the signal that ended it, 0 for none."""
        if self._ending is None:
            return 0
        reply = self._receive(_REPLY)
        if reply[:4] != struct.pack("<I", self._ending.number) or len(reply) != 8:
            raise _TemplateDied("not the status of the child")
        (signal,) = struct.unpack("<i", reply[4:])
        self._ending = None
        return int(signal)

    def _receive(self, seconds: float) -> bytes:
        """Receive a reply; nothing comes after it that was not asked for."""
        assert self._control is not None
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        content, size = bytearray(), 4
        while len(content) < size:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _TemplateDied("no answer in time")
            part = self._control.recv(1 << 16)
            if not part:
                raise _TemplateDied("no answer")
            content += part
            if len(content) >= 4:
                size = 4 + struct.unpack_from("<I", content)[0]
                if size > _MAX_REPLY or len(content) > size:
                    raise _TemplateDied("a reply that is too long")
        return bytes(content[4:])


#: ends of a conversation
_COMPLETE, _ENDED = "complete", "ended"


class Conversation:
    """Sends requests to a child one by one, and reads its results; a program may write anything into the pipe of its results.

    Attributes
    ----------
    results : of the requests so far.
    begun : whether the program, or the judge, has begun; nothing that comes before is its doing.
    end : why the conversation is over, None while it goes on.
    """

    def __init__(self, head: bytes, requests: Sequence[bytes], timeout: float):
        self.results: list[bytes] = []
        self.begun = False
        self.end: str | None = None
        self._requests, self._timeout = requests, timeout
        self._pending = memoryview(_message(head) + (_message(requests[0]) if requests else b""))
        self._buffer, self._received = b"", 0
        self._waiting = False
        self._poll = select.poll()

    def run(self, child: Child) -> None:
        """Talk to a child until the end."""
        self._child = child
        self._poll.register(child.result, select.POLLIN)
        self._deadline = time.monotonic() + _PATIENCE
        self._write()
        while self.end is None:
            left = max(0.0, self._deadline - time.monotonic())  # what is there already counts, however late this process looks
            ready = [descriptor for descriptor, _ in self._poll.poll(left * 1000)]
            if not ready:
                self.end = "timeout"
            elif self._child.result in ready:
                self._read()
            else:
                self._write()

    def outcome(self, signal: int) -> tuple[list[bytes] | None, str]:
        """Return a result for each request, or None and the reason; ``signal`` ended the child."""
        if self.end == _COMPLETE and len(self.results) == len(self._requests):
            return self.results, ""
        if self.end == _ENDED:
            if signal == signals.SIGXCPU:
                return None, "timeout"
            if signal == signals.SIGKILL:
                return None, "killed by the system"
            return None, f"signal {signal}" if signal else "ended without a result"
        error = self.end or ""
        return None, _exception(error[1:]) if error[:1] == "E" else error

    def _write(self) -> None:
        """Send what can be sent now; wait for the rest in ``run``."""
        try:
            self._pending = self._pending[self._child.request.send(self._pending, _FLAGS | socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):  # the child has ended; what it said is still to be read
            self._pending = memoryview(b"")
        if self._pending and not self._waiting:
            self._poll.register(self._child.request, select.POLLOUT)
        elif self._waiting and not self._pending:
            self._poll.unregister(self._child.request)
        self._waiting = bool(self._pending)
        if not self._pending and not self._requests:
            self._child.request.close()

    def _read(self) -> None:
        part = os.read(self._child.result, 1 << 16)
        self._buffer += part
        self._received += len(part)
        if not part:
            self.end = _ENDED
        elif self._received > MAX_RESULT + 4 * len(self._requests) + 10:
            self.end = "output too long"
        else:
            self._parse()

    def _parse(self) -> None:
        """Take the messages that are complete: one for each request that was sent, after the one that the program begins."""
        while self.end is None and len(self._buffer) >= 4:
            (size,) = struct.unpack("<I", self._buffer[:4])
            if size > MAX_RESULT:
                self.end = "output too long"
            if len(self._buffer) < 4 + size:
                return
            message, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
            if not self.begun and message == b"R":
                self.begun = True
                self._deadline = time.monotonic() + self._timeout
            else:
                self._take(message[:1], message[1:])
                if self._buffer and self.end in (None, _COMPLETE):  # nobody has asked for more
                    self.end = "forged"

    def _take(self, kind: bytes, content: bytes) -> None:
        if kind == b"E":
            self.end = "E" + content.decode("utf-8", "replace")
        elif kind == b"D" and not self._requests:
            self.end = _COMPLETE
        elif kind != b"V" or not self.begun or self._pending or not self._requests:  # a result of a request that was not sent
            self.end = "forged"
        else:
            self.results.append(content)
            if len(self.results) == len(self._requests):
                self.end = _COMPLETE
            else:
                self._pending = memoryview(_message(self._requests[len(self.results)]))
                self._write()


def _exception(text: str) -> str:
    """Word an exception, whose text a program may have written, so that it resembles no other reason."""
    name = text.partition(":")[0]
    known = getattr(builtins, name, None) if name.isidentifier() else None
    is_builtin = isinstance(known, type) and issubclass(known, BaseException)
    return text if is_builtin or text == "memory" else f"exception: {text}"


def _message(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data
