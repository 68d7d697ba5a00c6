"""Writer of tars with deterministic bytes; it hashes while it writes.

`layout.py` decides the members. Headers are POSIX ustar with fixed owner, mode and time, so that the same records give
the same file. The payload offset of a member is known as soon as it is added, so that readers never scan a tar.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from blake3 import blake3

RECORD = 512
"""Record size of tars in bytes: a header is one record, payloads are padded to whole records."""

BUFFER_BYTES = 1 << 20
"""Bytes that are hashed and written at once. For writes from 2 MiB on, the kernel takes huge pages. On a virtual
machine that had to fetch them first, this took ten times as long (benchmarks/LOG.md)."""

AHEAD_BUFFERS = 6
"""Number of buffers that may wait for the disk."""

MAX_MEMBER_BYTES = 8**11 - 1
"""8 GiB: the largest number that the size field of a ustar header can hold."""


def header(name: str, size: int) -> bytes:
    """Return the 512 byte header of a regular file. Raises ValueError for a name or size that ustar can't hold."""
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= 100 or not 0 <= size <= MAX_MEMBER_BYTES:
        raise ValueError(f"no ustar header for {name!r} with {size} bytes")
    digits = b"%011o" % size
    checked = b"%06o\0 " % (_SUM + sum(encoded) + sum(digits))
    return b"".join((encoded.ljust(100, b"\0"), _BEFORE_SIZE, digits, _AFTER_SIZE, checked, _AFTER_CHECKSUM))


_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2
"""Mode, owner and group."""
_AFTER_SIZE = b"\0" + b"00000000000\0"
"""End of the size field, and modification time."""
_AFTER_CHECKSUM = (b"0" + b"\0" * 100 + b"ustar\x0000").ljust(RECORD - 156, b"\0")
"""Type (regular file), no link target, and the rest of the header."""
_SUM = sum(_BEFORE_SIZE + _AFTER_SIZE + b" " * 8 + _AFTER_CHECKSUM)
"""Sum of all constant bytes; the checksum field counts as blanks."""


def payload_size(block: bytes) -> int | None:
    """Return the length of the payload after a header; None if `block` is no header that `header` wrote."""
    try:
        size = int(block[124:135], 8)
        name = block[:100].rstrip(b"\0").decode("ascii")
        return size if block == header(name, size) else None
    except ValueError:
        return None


def naming_hash(path: str) -> Any:
    """Return a new hash object for the digest that names the file `path` of a store: BLAKE3 for shards, SHA-256 for all
    other files, which are small.

    Both are cryptographic. BLAKE3 takes half the time of SHA-256, even on processors with instructions for SHA-256.
    """
    return blake3() if path.startswith("shards/") else sha256()


class Lane:
    """A thread that hashes and writes the buffers of all shards of a unit while the unit encodes its next records.

    The first full buffer starts it. Buffers are reused: fresh memory costs more than a copy into old memory.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting: deque[Future[None]] = deque()
        self._free: list[memoryview] = []

    def buffer(self) -> memoryview:
        """Return a buffer of BUFFER_BYTES, new or reused."""
        return self._free.pop() if self._free else memoryview(bytearray(BUFFER_BYTES))

    def put(self, write: Callable[[memoryview], None], buffer: memoryview) -> None:
        """Queue `write(buffer)`. Waits while AHEAD_BUFFERS are queued. Raises the exception of an earlier write."""
        while len(self._waiting) >= AHEAD_BUFFERS:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._work, write, buffer))

    def drain(self) -> None:
        """Wait for all queued writes. Raises the exception of one that failed."""
        while self._waiting:
            self._waiting.popleft().result()

    def give_back(self, buffer: memoryview) -> None:
        """Make a buffer available again."""
        self._free.append(buffer)

    def close(self) -> None:
        """Stop the thread; queued writes are dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _work(self, write: Callable[[memoryview], None], buffer: memoryview) -> None:
        write(buffer)
        self.give_back(buffer)


class ShardFile:
    """A tar that grows in a local file. The file is opened for each write, so that a unit may fill hundreds of tars at
    once."""

    def __init__(self, path: Path, lane: Lane) -> None:
        self.path = path
        self.size = 0
        self._lane = lane
        self._buffer = lane.buffer()
        self._filled = 0
        self._hash = naming_hash("shards/")

    def add(self, name: str, *payload: bytes | bytearray | memoryview) -> int:
        """Append one member, whose payload may come in pieces. Returns the offset of the payload."""
        size = sum([len(piece) for piece in payload])
        self._append(header(name, size))
        offset = self.size
        for piece in payload:
            self._append(piece)
        self._append(bytes(-size % RECORD))
        return offset

    def close(self) -> str:
        """Write the end mark (two empty records) and return the BLAKE3 digest of the whole file."""
        self._append(bytes(2 * RECORD))
        self._lane.drain()
        self._write(self._buffer[: self._filled])
        self._lane.give_back(self._buffer)
        return self._hash.hexdigest()

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        size = len(data)
        self.size += size
        while size > (room := BUFFER_BYTES - self._filled):
            self._buffer[self._filled :] = data[:room]
            self._lane.put(self._write, self._buffer)
            self._buffer, self._filled = self._lane.buffer(), 0
            data, size = memoryview(data)[room:], size - room
        self._buffer[self._filled : self._filled + size] = data
        self._filled += size

    def _write(self, data: memoryview) -> None:
        """Hash and write a buffer in one call each: after every call that releases the interpreter lock, the thread has
        to wait for it."""
        self._hash.update(data)
        with self.path.open("ab", buffering=0) as out:
            while len(data):
                data = data[out.write(data) :]
