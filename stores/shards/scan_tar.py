"""A tar that somebody else wrote, read once from front to back: where each of its members lies, and what is wrong.

bytes by range -> `Walk` -> members -> `pipelines/ingest/tars/members.py`. Nothing about the file is trusted: headers
are checked and bounded, payloads are kept only where they are wanted, and the offset of each is that of its bytes in
the file. Our own shards are written by `shards/tar.py` and are never read this way.

Read are ustar, old tar, GNU and PAX names. Where a header is damaged, reading goes on at the next one that is whole;
where the file ends too early, what came before stays.
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
"""Read at once: few requests, and little memory."""

MOST_NAME_BYTES = 64 << 10
"""Of what GNU and PAX headers may say about one member."""

What = Literal["file", "link", "special", "sparse", "folder"]

_WHAT: dict[bytes, What] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.LNKTYPE: "link",
    tarfile.SYMTYPE: "link",
    tarfile.DIRTYPE: "folder",
    tarfile.GNUTYPE_SPARSE: "sparse",
}
_EMPTY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
"""Types that no payload follows, whatever the size field says."""
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    """As the tar has it; bytes that are not UTF-8 are kept as surrogates."""
    what: What
    offset: int
    """Of the first payload byte."""
    size: int
    payload: bytes | None = None
    """Where it was wanted."""


@dataclass(frozen=True, slots=True)
class TarDamage:
    """Something that is not as it should be; a sample that it touches may have lost members."""

    at: int
    reason: str
    """not_a_tar, damaged_header, torn_tar, empty_tar."""
    message: str
    name: str = ""
    """Of the member that it cuts off, where that is known."""


class Walk:
    """One pass over a tar. After it, `digest` names all bytes of the file and `size` says how many there were."""

    def __init__(self, files: Files, path: str, wanted: Callable[[str, int], bool]) -> None:
        """`wanted(name, size)`: whether a member's payload is to be kept."""
        self._files, self._path, self._wanted = files, path, wanted
        self._state = blake3()
        self._chunk = memoryview(b"")
        self._at = 0
        """Offset of the next byte."""
        self.size = 0
        self.digest = ""
        self.bytes_after_end = False
        """Whether anything but zeros follows the end mark, as in tars that were joined: readers of tars stop there."""

    def __iter__(self) -> Iterator[Member | TarDamage]:
        yield from self._members()
        self._drain()
        self.digest, self.size = self._state.hexdigest(), self._at

    # ------------------------------------------------------------ bytes

    def _more(self) -> bool:
        """Whether there is a next byte."""
        if not self._chunk:
            data = self._files.read_range(self._path, self._at, CHUNK_BYTES)
            self._state.update(data)
            self._chunk = memoryview(data)
        return bool(self._chunk)

    def _take(self, length: int) -> bytes:
        """Fewer bytes where the file ends before."""
        parts = []
        while length and self._more():
            part = self._chunk[:length]
            self._chunk = self._chunk[len(part) :]
            self._at += len(part)
            length -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self, length: int) -> int:
        """How many bytes there were."""
        left = length
        while left and self._more():
            part = min(left, len(self._chunk))
            self._chunk = self._chunk[part:]
            self._at += part
            left -= part
        return length - left

    def _drain(self) -> None:
        while self._more():
            self.bytes_after_end = self.bytes_after_end or any(self._chunk)
            self._skip(len(self._chunk))

    # ------------------------------------------------------------ headers

    def _members(self) -> Iterator[Member | TarDamage]:
        said: dict[str, str] = {}
        """What headers before a member say of it: `path`, `size` and whether it is sparse."""
        seen = 0
        while True:
            at = self._at
            block = self._take(RECORD)
            if len(block) < RECORD:
                yield self._ended(at, len(block), seen)
                return
            if not any(block):
                if not seen:
                    yield TarDamage(at, "empty_tar", "an end mark and no member")
                return
            try:
                header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                if header.size < 0:
                    raise tarfile.HeaderError("a negative size")
                if header.type in (*_PAX, tarfile.XGLTYPE, *_LONG):
                    told = self._extension(header)
                    said |= {} if header.type == tarfile.XGLTYPE else told
                    continue
                size = int(said.get("size", header.size))
                if size < 0:
                    raise tarfile.HeaderError("a negative size")
            except (tarfile.HeaderError, ValueError) as error:
                said = {}
                found = self._next_header()
                if not found and not seen:
                    yield TarDamage(at, "not_a_tar", f"no tar header at byte {at} or after it ({error})")
                    return
                rest = f"reading goes on at byte {self._at}" if found else "no whole header follows"
                yield TarDamage(at, "damaged_header", f"the tar header at byte {at} is damaged ({error}); {rest}")
                if not found:
                    return
                seen += 1
                continue
            seen += 1
            name, sparse = said.get("path", header.name), "sparse" in said
            said = {}
            if not (yield from self._member(header, block, name, size, sparse)):
                return

    def _member(
        self, header: tarfile.TarInfo, block: bytes, name: str, size: int, sparse: bool
    ) -> Generator[Member | TarDamage, None, bool]:
        """Whether there is more to read."""
        what: What = "sparse" if sparse else _WHAT.get(header.type, "special")
        if header.type == tarfile.GNUTYPE_SPARSE:
            more = block[482]
            while more and len(extra := self._take(RECORD)) == RECORD:  # the map of its holes goes on
                more = extra[504]
        size = 0 if header.type in _EMPTY else size
        offset, payload = self._at, None
        if what == "file" and self._wanted(name, size):
            payload = self._take(size)
            there = len(payload)
        else:
            there = self._skip(size)
        if there < size:
            ends = f"the file ends at byte {self._at}, inside {_shown(name)}"
            yield TarDamage(offset, "torn_tar", f"{ends}, which has {size} bytes from byte {offset} on", name)
            return False
        yield Member(name, what, offset, size, payload)
        self._skip(-size % RECORD)
        return True

    def _extension(self, header: tarfile.TarInfo) -> dict[str, str]:
        """What a GNU or PAX header says of the member after it."""
        if header.size > MOST_NAME_BYTES:
            raise tarfile.HeaderError(f"{header.size} bytes about one member")
        data = self._take(header.size)
        self._skip(-header.size % RECORD)
        if header.type == tarfile.GNUTYPE_LONGLINK:
            return {}
        if header.type == tarfile.GNUTYPE_LONGNAME:
            return {"path": data.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
        told: dict[str, str] = {}
        while data:
            length = data.partition(b" ")[0]
            stop = int(length) if length.isdigit() else 0
            key, mark, value = data[len(length) + 1 : stop - 1].partition(b"=")
            if not mark or stop > len(data) or data[stop - 1 : stop] != b"\n":
                raise tarfile.HeaderError("a PAX header that is none")
            name = key.decode("utf-8", "replace")
            if name in ("path", "size"):
                told[name] = value.decode("utf-8", "surrogateescape")
            elif name.startswith("GNU.sparse"):
                told["sparse"] = ""
            data = data[stop:]
        return told

    def _next_header(self) -> bool:
        """Go on to the next whole header. Old tars, whose headers have no magic word, are lost from a damage on."""
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
        """The next 512 bytes, over the border of two chunks."""
        data = self._files.read_range(self._path, self._at + len(self._chunk), CHUNK_BYTES)
        self._state.update(data)
        self._chunk = memoryview(bytes(self._chunk) + data)
        return bytes(self._chunk[:RECORD])

    def _ended(self, at: int, length: int, seen: int) -> TarDamage:
        if not at and not length:
            return TarDamage(0, "empty_tar", "0 bytes")
        if not seen:
            return TarDamage(0, "not_a_tar", f"{length} bytes that are no tar header")
        return TarDamage(at, "torn_tar", f"the file ends at byte {at + length} without the end mark of tars")


def _shown(name: str) -> str:
    return name[:200].encode("utf-8", "backslashreplace").decode()


WINDOWS, WINDOW_BYTES = 4, 16 << 10


def fingerprint(files: Files, path: str, size: int) -> tuple[bytes, str]:
    """(the first bytes, a digest of the size and of a few windows), without reading the whole file.

    It tells a tar that was replaced from the one that was adopted, on any filesystem alike; that no other byte of it
    changed is said by the digests of what is read. Raises StoreError where the file is not as long as it was.
    """
    starts = sorted({max(0, (size - WINDOW_BYTES) * part // (WINDOWS - 1)) for part in range(WINDOWS)})
    windows = files.read_ranges(path, [(start, min(WINDOW_BYTES, size - start)) for start in starts]) if size else []
    state = blake3(str(size).encode())
    for start, window in zip(starts, windows, strict=False):
        if len(window) != min(WINDOW_BYTES, size - start):
            fix = "run again once nobody writes to it"
            raise StoreError("the tar changed while it was looked at", where=f"{files.url}/{path}", fix=fix)
        state.update(window)
    return windows[0] if windows else b"", state.hexdigest()
