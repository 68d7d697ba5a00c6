"""One shard: an ordinary tar with deterministic bytes, written front to back while its digest grows.

`layout.py` says what its members are. Headers are POSIX ustar with fixed owner, mode and time, so that the same records
give the same file; every member's payload offset is known when it is added, so that readers never scan.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

RECORD = 512
"""Tar's unit: headers are one, payloads are padded to whole ones."""

BUFFER_BYTES = 1 << 20
MAX_MEMBER_BYTES = 8**11 - 1
"""8 GiB: what the size field of a ustar header can say."""


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a regular file. Raises ValueError for what ustar can't hold."""
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= 100 or not 0 <= size <= MAX_MEMBER_BYTES:
        raise ValueError(f"no ustar header for {name!r} with {size} bytes")
    fields = (
        encoded.ljust(100, b"\0"),
        b"0000644\0",  # mode
        b"0000000\0" * 2,  # owner, group
        b"%011o\0" % size,
        b"00000000000\0",  # time
        b" " * 8,  # the checksum, counted as blanks
        b"0",  # a regular file
        b"\0" * 100,  # no link
        b"ustar\x0000",
    )
    block = b"".join(fields).ljust(RECORD, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def payload_size(block: bytes) -> int | None:
    """How long the payload after a header is; None where `block` is no header, or not as it was written."""
    try:
        size = int(block[124:135], 8)
        name = block[:100].rstrip(b"\0").decode("ascii")
        return size if block == header(name, size) else None
    except ValueError:
        return None


def padding(size: int) -> bytes:
    return b"\0" * (-size % RECORD)


class ShardFile:
    """A tar that grows in a local file aside; it holds no file open, so that a unit may fill hundreds at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._buffer = bytearray()
        self._hash = hashlib.sha256()

    def add(self, name: str, payload: bytes | bytearray) -> int:
        """Append one member and return the offset of its payload's first byte."""
        self._append(header(name, len(payload)))
        offset = self.size
        self._append(payload)
        self._append(padding(len(payload)))
        return offset

    def close(self) -> str:
        """Write the end mark (two empty records) and return the SHA-256 of the whole file."""
        self._append(b"\0" * (2 * RECORD))
        self._flush()
        return self._hash.hexdigest()

    def _append(self, data: bytes | bytearray) -> None:
        self._hash.update(data)
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        with self.path.open("ab") as out:
            out.write(self._buffer)
        self._buffer.clear()
