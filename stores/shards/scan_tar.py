"""Scanner of foreign tars: the byte range of every whole member, and every damage.

Reads a tar once from front to back, by ranges, and hashes it; feeds `pipelines/ingest/tars/members.py`. Nothing in the
file is trusted: headers are checked and bounded, and payloads are kept only if the caller wants them. Our own shards
are written by `tar.py` and never scanned.

Ustar, old tar, GNU and PAX names are understood. After a damaged header the scan continues at the next whole one; if
the file ends early, all members before the end are kept.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal

from blake3 import blake3

from manifests.errors import StoreError
from stores.files.protocol import Files
from stores.shards.tar import RECORD

CHUNK_BYTES = 8 << 20
"""Bytes of one read: few requests, little memory."""

MOST_NAME_BYTES = 64 << 10
"""Limit on the GNU and PAX headers before one member."""

MemberType = Literal["file", "link", "special", "sparse", "folder"]

_TYPES: dict[bytes, MemberType] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.LNKTYPE: "link",
    tarfile.SYMTYPE: "link",
    tarfile.DIRTYPE: "folder",
    tarfile.GNUTYPE_SPARSE: "sparse",
}
_EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
"""Types without payload, even if their size field is not 0."""
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a foreign tar."""

    name: str
    """Name in the tar; bytes that are not UTF-8 are surrogates."""
    type: MemberType
    offset: int
    """Offset of the first payload byte."""
    size: int
    payload: bytes | None = None
    """The payload, if the caller wanted it."""


@dataclass(frozen=True, slots=True)
class TarDamage:
    """A damage of a foreign tar. A sample next to it may have lost members."""

    offset: int
    reason: str
    """not_a_tar, damaged_header, torn_tar or empty_tar."""
    message: str
    name: str = ""
    """Name of the member that the end of the file cuts off, if known."""


class TarScan:
    """One pass over a tar. Iterate to get members and damages in order."""

    def __init__(self, files: Files, path: str, wanted: Callable[[str, int], bool]) -> None:
        """`wanted(name, size)` decides whether the payload of a member is kept."""
        self._files, self._path, self._wanted = files, path, wanted
        self._hash = blake3()
        self._chunk = memoryview(b"")
        self._offset = 0
        """Offset of the next byte."""
        self.size = 0
        """Size of the file, set at the end of the pass."""
        self.digest = ""
        """BLAKE3 of the file, set at the end of the pass."""
        self.bytes_after_end = False
        """Whether anything but zeros follows the end mark, as in concatenated tars; every reader of tars stops
        there."""

    def __iter__(self) -> Iterator[Member | TarDamage]:
        yield from self._members()
        self._drain()
        self.digest, self.size = self._hash.hexdigest(), self._offset

    # ------------------------------------------------------------ bytes

    def _more(self) -> bool:
        """Return whether there is a next byte; read the next chunk if needed."""
        if not self._chunk:
            data = self._files.read_range(self._path, self._offset, CHUNK_BYTES)
            self._hash.update(data)
            self._chunk = memoryview(data)
        return bool(self._chunk)

    def _take(self, length: int) -> bytes:
        """Return the next bytes, fewer if the file ends."""
        parts = []
        while length and self._more():
            part = self._chunk[:length]
            self._chunk = self._chunk[len(part) :]
            self._offset += len(part)
            length -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self, length: int) -> int:
        """Skip bytes. Returns their number, less than `length` if the file ends."""
        left = length
        while left and self._more():
            part = min(left, len(self._chunk))
            self._chunk = self._chunk[part:]
            self._offset += part
            left -= part
        return length - left

    def _drain(self) -> None:
        while self._more():
            self.bytes_after_end = self.bytes_after_end or any(self._chunk)
            self._skip(len(self._chunk))

    # ------------------------------------------------------------ headers

    def _members(self) -> Iterator[Member | TarDamage]:
        extension: dict[str, str] = {}
        """`path`, `size` and `sparse` from GNU and PAX headers before the member."""
        members = 0
        while True:
            offset = self._offset
            block = self._take(RECORD)
            if len(block) < RECORD:
                yield self._early_end(offset, len(block), members)
                return
            if not any(block):
                if not members:
                    yield TarDamage(offset, "empty_tar", "an end mark and no member")
                return
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                if header.size < 0:
                    raise tarfile.HeaderError("a negative size")
                if header.type in (*_PAX, tarfile.XGLTYPE, *_LONG):
                    fields = self._extension(header)
                    extension |= {} if header.type == tarfile.XGLTYPE else fields
                    continue
                size = int(extension.get("size", header.size))
                if size < 0:
                    raise tarfile.HeaderError("a negative size")
            except (tarfile.HeaderError, ValueError) as error:
                extension = {}
                goes_on = self._next_header()
                if not goes_on and not members:
                    yield TarDamage(offset, "not_a_tar", f"no tar header at byte {offset} or after it ({error})")
                    return
                rest = f"the scan continues at byte {self._offset}" if goes_on else "no whole header follows"
                yield TarDamage(offset, "damaged_header", f"damaged tar header at byte {offset} ({error}); {rest}")
                if not goes_on:
                    return
                members += 1
                continue
            members += 1
            name, sparse = extension.get("path", header.name), "sparse" in extension
            extension = {}
            if not (yield from self._member(header, block, name, size, sparse)):
                return

    def _member(
        self, header: tarfile.TarInfo, block: bytes, name: str, size: int, sparse: bool
    ) -> Generator[Member | TarDamage, None, bool]:
        """Yield the member after a header, or a damage. Returns whether the file goes on."""
        type: MemberType = "sparse" if sparse else _TYPES.get(header.type, "special")
        if header.type == tarfile.GNUTYPE_SPARSE:
            more = block[482]
            while more and len(extra := self._take(RECORD)) == RECORD:  # further records of the map of holes
                more = extra[504]
        size = 0 if header.type in _EMPTY else size
        offset, payload = self._offset, None
        if type == "file" and self._wanted(name, size):
            payload = self._take(size)
            length = len(payload)
        else:
            length = self._skip(size)
        if length < size:
            end = f"the file ends at byte {self._offset}, inside {_printable(name)}"
            yield TarDamage(offset, "torn_tar", f"{end}, which has {size} bytes from byte {offset} on", name)
            return False
        yield Member(name, type, offset, size, payload)
        self._skip(-size % RECORD)
        return True

    def _extension(self, header: tarfile.TarInfo) -> dict[str, str]:
        """Return `path`, `size` and `sparse` from a GNU or PAX header, as far as it has them."""
        if header.size > MOST_NAME_BYTES:
            raise tarfile.HeaderError(f"an extended header of {header.size} bytes, the limit is {MOST_NAME_BYTES}")
        data = self._take(header.size)
        self._skip(-header.size % RECORD)
        if header.type == tarfile.GNUTYPE_LONGLINK:
            return {}
        if header.type == tarfile.GNUTYPE_LONGNAME:
            return {"path": data.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
        fields: dict[str, str] = {}
        while data:
            length = data.partition(b" ")[0]
            stop = int(length) if length.isdigit() else 0
            key, mark, value = data[len(length) + 1 : stop - 1].partition(b"=")
            if not mark or stop > len(data) or data[stop - 1 : stop] != b"\n":
                raise tarfile.HeaderError("a damaged PAX header")
            name = key.decode("utf-8", "replace")
            if name in ("path", "size"):
                fields[name] = value.decode("utf-8", "surrogateescape")
            elif name.startswith("GNU.sparse"):
                fields["sparse"] = ""
            data = data[stop:]
        return fields

    def _next_header(self) -> bool:
        """Skip to the next whole header. Returns False if there is none, or none with the magic word of ustar: an old
        tar is lost from a damage on."""
        while self._more():
            ahead = bytes(self._chunk[:RECORD])
            if len(ahead) < RECORD:
                ahead = self._peek()
            if ahead[257:262] == b"ustar":
                try:
                    tarfile.TarInfo.frombuf(ahead, "utf-8", "surrogateescape")
                    return True
                except tarfile.HeaderError:
                    pass
            self._skip(RECORD)
        return False

    def _peek(self) -> bytes:
        """Return the next 512 bytes if they span two chunks."""
        data = self._files.read_range(self._path, self._offset + len(self._chunk), CHUNK_BYTES)
        self._hash.update(data)
        self._chunk = memoryview(bytes(self._chunk) + data)
        return bytes(self._chunk[:RECORD])

    def _early_end(self, offset: int, length: int, members: int) -> TarDamage:
        """Return the damage of a file that ends `length` bytes after `offset`, where a header should be."""
        if not offset and not length:
            return TarDamage(0, "empty_tar", "0 bytes")
        if not members:
            return TarDamage(0, "not_a_tar", f"{length} bytes that are no tar header")
        return TarDamage(offset, "torn_tar", f"the file ends at byte {offset + length} without the end mark of tars")


def _printable(name: str) -> str:
    return name[:200].encode("utf-8", "backslashreplace").decode()


WINDOWS, WINDOW_BYTES = 4, 16 << 10
"""Number and size of the parts of a tar that its fingerprint covers."""


def fingerprint(files: Files, path: str, size: int) -> tuple[bytes, str]:
    """Return (first bytes, digest of the size and of a few windows) without reading the whole file.

    The digest recognizes a tar that was replaced, on every filesystem. A change between the windows is found when the
    media are read and compared with their digests.

    Raises:
        StoreError: the file does not have `size` bytes any more.
    """
    starts = sorted({max(0, (size - WINDOW_BYTES) * part // (WINDOWS - 1)) for part in range(WINDOWS)})
    windows = files.read_ranges(path, [(start, min(WINDOW_BYTES, size - start)) for start in starts]) if size else []
    hashed = blake3(str(size).encode())
    for start, window in zip(starts, windows, strict=False):
        if len(window) != min(WINDOW_BYTES, size - start):
            fix = "run again when no program writes to it"
            raise StoreError("the tar changed while the run read it", where=f"{files.url}/{path}", fix=fix)
        hashed.update(window)
    return windows[0] if windows else b"", hashed.hexdigest()
