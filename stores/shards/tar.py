"""One shard: an ordinary tar with deterministic bytes, written front to back while its digest grows.

`shards/layout.py` says what its members are. Headers are POSIX ustar with fixed owner, mode and time, so that the same
records give the same file; every member's payload offset is known when it is added, so that readers never scan.
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
"""Tar's unit: headers are one, payloads are padded to whole ones."""

BUFFER_BYTES = 1 << 20
"""What is hashed and written at once. From 2 MiB on the kernel takes huge pages for what one call writes, and where
those have to be fetched first, as on virtual machines, that took ten times as long (benchmarks/LOG.md)."""

AHEAD_BUFFERS = 6
"""That may wait for the disk."""

MAX_MEMBER_BYTES = 8**11 - 1
"""8 GiB: what the size field of a ustar header can say."""


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a regular file. Raises ValueError for what ustar can't hold."""
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= 100 or not 0 <= size <= MAX_MEMBER_BYTES:
        raise ValueError(f"no ustar header for {name!r} with {size} bytes")
    digits = b"%011o" % size
    checked = b"%06o\0 " % (_SUM + sum(encoded) + sum(digits))
    return b"".join((encoded.ljust(100, b"\0"), _BEFORE_SIZE, digits, _AFTER_SIZE, checked, _AFTER_CHECKSUM))


_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2
"""Mode, owner and group."""
_AFTER_SIZE = b"\0" + b"00000000000\0"
"""Its end, and the time."""
_AFTER_CHECKSUM = (b"0" + b"\0" * 100 + b"ustar\x0000").ljust(RECORD - 156, b"\0")
"""A regular file, no link."""
_SUM = sum(_BEFORE_SIZE + _AFTER_SIZE + b" " * 8 + _AFTER_CHECKSUM)
"""Of all bytes that are always the same; the checksum counts itself as blanks."""


def payload_size(block: bytes) -> int | None:
    """How long the payload after a header is; None where `block` is no header, or not as it was written."""
    try:
        size = int(block[124:135], 8)
        name = block[:100].rstrip(b"\0").decode("ascii")
        return size if block == header(name, size) else None
    except ValueError:
        return None


def naming_hash(path: str) -> Any:
    """The state of the digest that names the file `path` of a store: BLAKE3 for shards, SHA-256 for all that is small.

    Both are cryptographic. BLAKE3 costs half as much as SHA-256 even where the processor has instructions for that.
    """
    return blake3() if path.startswith("shards/") else sha256()


class Lane:
    """A thread that hashes and writes what the shards of a unit hand to it, while the unit goes on to its next record.

    It is started by the first full buffer. Buffers are used again: fresh memory costs more than copying into old.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting: deque[Future[None]] = deque()
        self._free: list[memoryview] = []

    def buffer(self) -> memoryview:
        return self._free.pop() if self._free else memoryview(bytearray(BUFFER_BYTES))

    def put(self, write: Callable[[memoryview], None], buffer: memoryview) -> None:
        """`write(buffer)` after what was put before. Waits while too much is waiting; raises what earlier work did."""
        while len(self._waiting) >= AHEAD_BUFFERS:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._work, write, buffer))

    def drain(self) -> None:
        """Wait for all of it. Raises what it raised."""
        while self._waiting:
            self._waiting.popleft().result()

    def give_back(self, buffer: memoryview) -> None:
        self._free.append(buffer)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _work(self, write: Callable[[memoryview], None], buffer: memoryview) -> None:
        write(buffer)
        self.give_back(buffer)


class ShardFile:
    """A tar that grows in a local file aside; it holds no file open, so that a unit may fill hundreds at once."""

    def __init__(self, path: Path, lane: Lane) -> None:
        self.path = path
        self.size = 0
        self._lane = lane
        self._buffer = lane.buffer()
        self._filled = 0
        self._hash = naming_hash("shards/")

    def add(self, name: str, *payload: bytes | bytearray | memoryview) -> int:
        """Append one member, whose payload may come in pieces, and return the offset of its first byte."""
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
        """All of it at once: each call that leaves the interpreter's lock alone has to wait for it afterwards."""
        self._hash.update(data)
        with self.path.open("ab", buffering=0) as out:
            while len(data):
                data = data[out.write(data) :]
