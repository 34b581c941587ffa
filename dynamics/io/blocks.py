"""Read objects of a store in blocks, which are kept for a while and fetched ahead of a reader that goes through a file in order.

A request to a store takes tens of milliseconds, however little it asks for. So the bytes between two reads are fetched with them, several
requests run at a time, and two threads that need the same block make one request. The memory of all blocks together is bounded.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

#: bytes of a block of values, and of a block around a small read, as of a header
BLOCK, SMALL = 1 << 22, 1 << 18
#: blocks of either size that are kept, of all files together, and that are fetched ahead
KEPT, AHEAD = 16, 4

#: file, size of its blocks, number of the block
Key = tuple[int, int, int]


class BlockCache:
    """The most recent blocks of all files of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: OrderedDict[Key, Future[bytes]] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None

    def get(self, key: Key, fetch: Callable[[], bytes]) -> Future[bytes]:
        """Return a block, which may still be on its way. A block whose request failed is asked for again."""
        with self._lock:
            future = self._blocks.get(key)
            if future is None or (future.done() and future.exception() is not None):
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(2 * AHEAD, thread_name_prefix="object-store")
                future = self._blocks[key] = self._pool.submit(fetch)
            self._blocks.move_to_end(key)
            for old in list(self._blocks)[:-KEPT]:
                if self._blocks[old].done():
                    del self._blocks[old]
            return future

    def holds(self, key: Key) -> bool:
        """Tell whether a block is kept, or on its way."""
        with self._lock:
            return key in self._blocks


CACHE = BlockCache()
_numbers = itertools.count()


class BlockReader:
    """Reads any part of an object by blocks.

    Parameters
    ----------
    size : of the object, in bytes.
    read : (first byte, last byte + 1) -> the bytes.
    """

    def __init__(self, size: int, read: Callable[[int, int], bytes]):
        self.size = size
        self._read = read
        self._number = next(_numbers)
        self._latest = -1  # block that was read last, of those that were read in order

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill a view with the bytes that start at ``offset``; they must lie within the object."""
        if not len(view):
            return
        width = BLOCK
        if len(view) <= SMALL and not CACHE.holds(self._key(BLOCK, offset // BLOCK)):
            width = SMALL
        first, last = offset // width, (offset + len(view) - 1) // width
        if width == BLOCK:
            if self._latest <= first <= self._latest + AHEAD:  # in order, give or take several threads: more will be needed
                self._fetch_ahead(last)
            self._latest = last
        for number in range(first, last + 1):
            for ahead in range(number + 1, min(number + AHEAD, last) + 1):
                self._block(width, ahead)
            block = self._block(width, number).result()
            begin = max(offset, number * width)
            end = min(offset + len(view), (number + 1) * width)
            view[begin - offset : end - offset] = block[begin - number * width : end - number * width]

    def _fetch_ahead(self, last: int) -> None:
        for number in range(last + 1, last + 1 + AHEAD):
            if number * BLOCK < self.size:
                self._block(BLOCK, number)

    def _block(self, width: int, number: int) -> Future[bytes]:
        start, stop = number * width, min((number + 1) * width, self.size)
        return CACHE.get(self._key(width, number), lambda: self._read(start, stop))

    def _key(self, width: int, number: int) -> Key:
        return self._number, width, number
