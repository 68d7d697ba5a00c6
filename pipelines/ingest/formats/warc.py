"""Archives of crawls, WARC and ARC, to records: where each begins, and what was taken from the web.

`ingest/documents.py` makes documents of them. Only the frame of a record is read here, its length and its first
headers; what is inside is parsed in a child process (`ingest/formats/html_child.py`). A tear in a gzip member, or a
header that makes no sense, costs one
record: reading goes on at the next place that looks like the start of one. Every bound is in bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from manifests.errors import RecordError
from pipelines.ingest.formats import gzip_members, text
from pipelines.ingest.formats.file import FilePiece
from pipelines.ingest.formats.html import CrawlRecord

MOST_RECORD_BYTES = 16 << 20
MOST_HEADER_BYTES = 64 << 10
MOST_GZIP_RATIO, FREE_GZIP_BYTES = 200, 16 << 20
"""Of one gzip member, which mostly is one page: HTML packs 3 to 20 times."""
_BLOCK_BYTES = 1 << 18
_PACKED_BYTES = 1 << 15
"""Read at a time: what lies behind the end of a member is read again."""
_LONGEST_LINE_BYTES = 4096
_HEADER_LINE = re.compile(rb"\n")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_KINDS = ("warcinfo", "request", "metadata", "revisit", "continuation")


Record = tuple[str, CrawlRecord | str | RecordError]
"""Where it stands inside its file; and what it is, or why nobody wants it, or what is wrong with it."""


def records(path: Path, packed: bool, piece: FilePiece) -> Iterator[Record]:
    """The records of one piece of an archive, in order. Places are offsets of gzip members or of plain bytes; a second
    record of one member has its offset there behind a `+`."""
    with path.open("rb") as file:
        file.seek(piece.start)
        stream = _Stream((_unpacked if packed else _plain)(file, piece.start, piece.stop), packed)
        found, at = True, ""
        while found:
            try:
                at = ""
                found = stream.skip_line_ends()
                if found:
                    at = stream.place()
                    yield at, _record(stream)
            except RecordError as error:
                yield at or stream.place(), error
                found = yield from _go_on(stream)


def _go_on(stream: _Stream) -> Generator[Record, None, bool]:
    """Pass over what makes no sense, to the next record. Returns whether there is one; tears on the way are told."""
    while True:
        try:
            return stream.find(gzip_members.NEXT)
        except RecordError as error:
            yield stream.place(), error


def _record(stream: _Stream) -> CrawlRecord | str | RecordError:
    """Raises RecordError where it is unclear what follows."""
    head = stream.take_through(_HEADER_LINE, MOST_HEADER_BYTES)
    arc = gzip_members.ARC.fullmatch(head)
    if arc is None and gzip_members.WARC.fullmatch(head) is None:
        raise RecordError("bad_record", "neither a WARC nor an ARC record begins here")
    fields = {} if arc else _fields(stream.take_through(_HEADER_END, MOST_HEADER_BYTES))
    length = (arc["length"].decode() if arc else fields.get("content-length", "")).strip()
    if not re.fullmatch("[0-9]{1,15}", length):
        raise RecordError("bad_record", f"its length is {text.printable(length[:50])!r}")
    wanted = "" if arc else _unwanted(fields)
    if wanted or int(length) > MOST_RECORD_BYTES:
        if stream.drop(int(length)) < int(length):
            raise RecordError("truncated_archive", "the file ends inside this record")
        stream.settle()
        return wanted or RecordError("too_large", f"{length} bytes, the limit is {MOST_RECORD_BYTES}")
    block = stream.take(int(length))
    if len(block) < int(length):
        raise RecordError(
            "truncated_archive", f"the file ends {int(length) - len(block)} bytes before this record does"
        )
    stream.settle()
    if arc:
        url, date, kind = (text.printable(arc[name].decode("utf-8", "replace")) for name in ("url", "date", "type"))
        if url.startswith("filedesc:"):
            return "archive_warcinfo"
        if url.startswith("dns:"):
            return "archive_dns"
        is_http = block.startswith(b"HTTP/")
        return CrawlRecord(url, date, is_http, kind, block)
    url = fields.get("warc-target-uri", "").strip("<> ")
    kind = fields.get("content-type", "").lower()
    is_http = kind.startswith("application/http")
    return CrawlRecord(url, fields.get("warc-date", "").strip(), is_http, kind.partition(";")[0].strip(), block)


def _unwanted(fields: dict[str, str]) -> str:
    kind = fields.get("warc-type", "").strip().lower()
    if fields.get("warc-target-uri", "").strip("<> ").startswith("dns:"):
        return "archive_dns"
    if kind in ("response", "resource", "conversion"):
        return ""
    return f"archive_{kind}" if kind in _KINDS else "archive_other"


def _fields(head: bytes) -> dict[str, str]:
    """Headers of a record; the first of a name counts, and lines that go on are put together."""
    lines = re.sub(rb"\r?\n[ \t]+", b" ", head).decode("utf-8", "replace").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), text.printable(value.strip()))
    return found


# ---------------------------------------------------------------------- bytes

_Block = tuple[int | None, bytes] | RecordError
"""(offset in the file of the gzip member that begins here, or None, bytes); no bytes and no offset where a member has
ended well; or what tore the stream here."""


def _plain(file: BinaryIO, start: int, stop: int) -> Iterator[_Block]:
    first: int | None = start
    left = stop - start
    while left > 0 and (block := file.read(min(_BLOCK_BYTES, left))):
        yield first, block
        first, left = None, left - len(block)


def _unpacked(file: BinaryIO, start: int, stop: int) -> Iterator[_Block]:
    """The content of gzip members one after the other. One that is damaged ends in an error, and the next follows."""
    at: int | None = start
    while at is not None and at < stop:
        file.seek(at)
        end = yield from _member(file, at, stop)
        at = end if end is not None else gzip_members.find(file, at + 1, stop)


def _member(file: BinaryIO, at: int, stop: int) -> Generator[_Block, None, int | None]:
    """Yields the blocks of one member and returns where it ends, None where nobody knows."""
    state = zlib.decompressobj(31)
    taken = given = 0
    packed = b""
    yield at, b""
    while not state.eof:
        if not packed:
            packed = file.read(min(_PACKED_BYTES, stop - at - taken))
            taken += len(packed)
            if not packed:
                yield RecordError("truncated_archive", f"the file ends inside the gzip member at {at}")
                return stop
        try:
            block = state.decompress(packed, _BLOCK_BYTES)
        except zlib.error as error:
            yield RecordError("damaged_gzip", f"{error}, in the gzip member at {at}")
            return None
        packed = state.unconsumed_tail
        given += len(block)
        if given > max(FREE_GZIP_BYTES, taken * MOST_GZIP_RATIO):
            yield RecordError("decompression_bomb", f"the gzip member at {at} unpacks to more than {given} bytes")
            return None
        if block:
            yield None, block
    yield None, b""
    end = at + taken - len(state.unused_data)
    file.seek(end)
    padding = file.read(1)
    while padding == b"\0" and end < stop:  # some tools fill up to the block of a tape
        end += 1
        padding = file.read(1)
    return end


class _Stream:
    """Unpacked bytes with a memory of where they come from. A tear is raised once; what follows it can be read."""

    def __init__(self, blocks: Iterator[_Block], packed: bool) -> None:
        self._blocks, self._packed = blocks, packed
        self._held = bytearray()
        self._at = 0  # of the first byte held, in all that was unpacked
        self._members: list[tuple[int, int]] = []  # (place in all that was unpacked, offset in the file)
        self._ended = False
        self._torn: RecordError | None = None
        self._fresh = False  # what is held stands behind a tear, not behind a line

    def place(self) -> str:
        while len(self._members) > 1 and self._members[1][0] <= self._at:
            del self._members[0]
        begun, offset = self._members[0] if self._members else (0, 0)
        inside = self._at - begun
        return f"#{offset}+{inside}" if inside and self._packed else f"#{offset + inside}"

    def _more(self) -> bool:
        """Hold one block more. False at the end; raises RecordError at a tear, where what is held is given up."""
        torn, self._torn = self._torn, None
        block = torn or next(self._blocks, None)
        if block is None:
            return False
        if isinstance(block, RecordError):
            self._pass(len(self._held))
            self._fresh = True
            raise block
        offset, data = block
        if offset is not None:
            self._members.append((self._at + len(self._held), offset))
        self._ended = offset is None and not data
        self._held += data
        return True

    def settle(self) -> None:
        """Read on to where a gzip member says whether its bytes are right, if it ends here. A missing end is told
        later: what was read is whole."""
        try:
            while len(self._held) <= len(b"\r\n\r\n") and self._packed and not self._ended and self._more():
                pass
        except RecordError as error:
            if error.reason != "truncated_archive":
                raise
            self._torn = error

    def skip_line_ends(self) -> bool:
        """False at the end of everything."""
        while True:
            left = self._held.lstrip(b"\r\n")
            self._pass(len(self._held) - len(left))
            if self._held:
                return True
            if not self._more():
                return False

    def take_through(self, end: re.Pattern[bytes], most: int) -> bytes:
        """Through the first match. Raises RecordError where there is none in `most` bytes."""
        while (match := end.search(self._held, 0, most)) is None:
            if len(self._held) >= most or not self._more():
                raise RecordError("bad_record", "its header does not end")
        return self.take(match.end())

    def take(self, count: int) -> bytes:
        """At most `count` bytes, fewer only at the end."""
        while len(self._held) < count and self._more():
            pass
        taken = bytes(memoryview(self._held)[:count])
        self._pass(len(taken))
        return taken

    def drop(self, count: int) -> int:
        """Pass over so many bytes and return how many there were."""
        passed = 0
        while passed < count and (self._held or self._more()):
            step = min(count - passed, len(self._held))
            self._pass(step)
            passed += step
        return passed

    def find(self, start: re.Pattern[bytes]) -> bool:
        """Pass over everything before the next match. False where there is none."""
        while True:
            if self._fresh and self._held:
                self._fresh = False
                if gzip_members.START.match(self._held):
                    return True
            if match := start.search(self._held):
                self._pass(match.start())
                return True
            self._pass(max(0, len(self._held) - _LONGEST_LINE_BYTES))
            if not self._more():
                return False

    def _pass(self, count: int) -> None:
        del self._held[:count]
        self._at += count
