"""A template whose children say random things: the process that the host's side of the sandbox is tested against."""

from __future__ import annotations

import os
import random
import socket
import struct
import sys
import threading

CONTENTS = (b"", b"1", b"[1]", b"nded", b"\x00", b"\xff", b" ")


def message(data: bytes) -> bytes:
    """Prefix a length."""
    return struct.pack("<I", len(data)) + data


def said(seed: int, number: int) -> tuple[random.Random, list[bytes]]:
    """Draw the parts that a child writes; most are messages, some are anything."""
    rng = random.Random(f"{seed} {number}")
    if rng.random() < 0.4:  # as a program that answers
        return rng, [message(b"V" + rng.choice(CONTENTS)) for _ in range(rng.randrange(4))]
    parts = []
    for _ in range(rng.randrange(4)):
        kind = rng.choice((b"V", b"V", b"V", b"E", b"E", b"D", b"X", b""))
        whole = message(kind + rng.choice(CONTENTS) * (rng.random() < 0.7))
        length = struct.pack("<I", rng.choice((0, 1, 65535, 65536, 65537, 2**31, 2**32 - 1)))
        parts.append(rng.choice((whole, whole, whole, whole, length, rng.randbytes(rng.randrange(9)), whole[: rng.randrange(9)])))
    return rng, parts


def child(seed: int, number: int, request: int, result: int, null: int) -> None:
    """Read the request, and write what was drawn, in random pieces."""
    rng, parts = said(seed, number)
    try:
        data = os.read(request, 1 << 16)
        os.write(result, message(b"R"))
        for part in parts:
            while data and part:
                part = part[os.write(result, part[: rng.choice((1, 3, 4, 5, 1 << 16))]) :]
            if rng.random() < 0.8:
                data = os.read(request, 1 << 16)
            elif rng.random() < 0.1:
                break
    except OSError:  # the other side has closed
        pass
    for descriptor in (request, result, null):
        os.close(descriptor)


def main(seed: int) -> None:
    """Obey the socket as ``dynamics.train.sandbox.confined`` does, with threads for children."""
    with socket.socket(fileno=os.dup(0)) as control:
        control.sendall(message(b"Cnone"))
        while True:
            header, descriptors, _, _ = socket.recv_fds(control, 9, 3)
            if not header:
                os._exit(0)
            kind, number, _ = struct.unpack("<cII", header)
            if kind == b"F":
                threading.Thread(target=child, args=(seed, number, *descriptors), daemon=True).start()
            elif kind == b"E":
                control.sendall(message(struct.pack("<Ii", number, 0)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
