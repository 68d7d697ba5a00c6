"""Records of web crawl archives, WARC and ARC, plain or gzip.

`ingest/readers/crawl_files.py` makes documents of them. Only the frame of a record is read here: its length and its
first headers. The content is parsed in a sandbox (`html_child.py`). A damaged gzip member, or a header that can't be
read, costs one record; reading continues at the next place that looks like the start of a record. All limits are in
bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from manifests.errors import RecordError
from pipelines.ingest.formats.file import FilePiece
from pipelines.ingest.formats.gzip_members import ARC, NEXT, START, WARC, next_record
from pipelines.ingest.formats.html import CrawlRecord
from pipelines.ingest.formats.text import printable

MOST_RECORD_BYTES = 16 << 20
MOST_HEADER_BYTES = 64 << 10
MOST_GZIP_RATIO, FREE_GZIP_BYTES = 200, 16 << 20
"""A gzip member may decompress to 200 times its size, or to 16 MiB. It mostly is one page, and HTML compresses 3 to 20
times."""
_BLOCK_BYTES = 1 << 18
_COMPRESSED_BYTES = 1 << 15
"""Size of one read from a compressed file. Bytes behind the end of a member are read again, so it is small."""
_LONGEST_LINE_BYTES = 4096
_HEADER_LINE = re.compile(rb"\n")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_KINDS = ("warcinfo", "request", "metadata", "revisit", "continuation")


LocatedRecord = tuple[str, CrawlRecord | str | RecordError]
"""(place inside the file, record); instead of a record, the reason why its kind is passed over, or its error."""


def read_records(path: Path, compressed: bool, piece: FilePiece) -> Iterator[LocatedRecord]:
    """Yield the records of one piece of an archive, in order.

    A place is `#OFFSET`, of a gzip member or in a plain file. A second record in one member has `#OFFSET+INSIDE`.
    """
    with path.open("rb") as file:
        file.seek(piece.start)
        stream = _Stream((_decompressed if compressed else _plain)(file, piece.start, piece.stop), compressed)
        more, at = True, ""
        while more:
            try:
                at = ""
                more = stream.skip_line_ends()
                if more:
                    at = stream.place()
                    yield at, _record(stream)
            except RecordError as error:
                yield at or stream.place(), error
                more = yield from _resume(stream)


def _resume(stream: _Stream) -> Generator[LocatedRecord, None, bool]:
    """Skip to the next record after an error. Yields further damage on the way; returns whether there is a record."""
    while True:
        try:
            return stream.find(NEXT)
        except RecordError as error:
            yield stream.place(), error


def _record(stream: _Stream) -> CrawlRecord | str | RecordError:
    """Read one record, or the reason why its kind is passed over.

    An error that does not hide the end of the record is returned. Raises RecordError (`bad_record`, `damaged_gzip`,
    `truncated_archive`) where the next record must be searched.
    """
    head = stream.take_through(_HEADER_LINE, MOST_HEADER_BYTES)
    arc = ARC.fullmatch(head)
    if arc is None and WARC.fullmatch(head) is None:
        raise RecordError("bad_record", "neither a WARC nor an ARC record begins here")
    fields = {} if arc else _fields(stream.take_through(_HEADER_END, MOST_HEADER_BYTES))
    length = (arc["length"].decode() if arc else fields.get("content-length", "")).strip()
    if not re.fullmatch("[0-9]{1,15}", length):
        raise RecordError("bad_record", f"its length is {printable(length[:50])!r}")
    unwanted = "" if arc else _unwanted(fields)
    if unwanted or int(length) > MOST_RECORD_BYTES:
        if stream.drop(int(length)) < int(length):
            raise RecordError("truncated_archive", "the file ends inside this record")
        stream.settle()
        return unwanted or RecordError("too_large", f"{length} bytes, the limit is {MOST_RECORD_BYTES}")
    block = stream.take(int(length))
    if len(block) < int(length):
        raise RecordError(
            "truncated_archive", f"the file ends {int(length) - len(block)} bytes before this record does"
        )
    stream.settle()
    if arc:
        url, date, kind = (printable(arc[name].decode("utf-8", "replace")) for name in ("url", "date", "type"))
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
    """Reason why a WARC record is passed over, by its kind; "" for a page."""
    kind = fields.get("warc-type", "").strip().lower()
    if fields.get("warc-target-uri", "").strip("<> ").startswith("dns:"):
        return "archive_dns"
    if kind in ("response", "resource", "conversion"):
        return ""
    return f"archive_{kind}" if kind in _KINDS else "archive_other"


def _fields(head: bytes) -> dict[str, str]:
    """Headers of a record by lower-case name. Of several with one name, the first; folded lines are joined."""
    lines = re.sub(rb"\r?\n[ \t]+", b" ", head).decode("utf-8", "replace").splitlines()
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), printable(value.strip()))
    return fields


# ---------------------------------------------------------------------- bytes

_Block = tuple[int | None, bytes] | RecordError
"""(offset in the file of the gzip member that begins here, else None; bytes). (None, no bytes) marks the sound end of a
member, a RecordError the damage that ends it."""


def _plain(file: BinaryIO, start: int, stop: int) -> Iterator[_Block]:
    first: int | None = start
    left = stop - start
    while left > 0 and (block := file.read(min(_BLOCK_BYTES, left))):
        yield first, block
        first, left = None, left - len(block)


def _decompressed(file: BinaryIO, start: int, stop: int) -> Iterator[_Block]:
    """Content of all gzip members in order. A damaged member ends with its error, and the next one follows."""
    at: int | None = start
    while at is not None and at < stop:
        file.seek(at)
        end = yield from _member(file, at, stop)
        at = end if end is not None else next_record(file, at + 1, stop)


def _member(file: BinaryIO, at: int, stop: int) -> Generator[_Block, None, int | None]:
    """Yield the blocks of one gzip member. Returns the offset of its end, None if damage hides it."""
    state = zlib.decompressobj(31)
    taken = given = 0
    compressed = b""
    yield at, b""
    while not state.eof:
        if not compressed:
            compressed = file.read(min(_COMPRESSED_BYTES, stop - at - taken))
            taken += len(compressed)
            if not compressed:
                yield RecordError("truncated_archive", f"the file ends inside the gzip member at {at}")
                return stop
        try:
            block = state.decompress(compressed, _BLOCK_BYTES)
        except zlib.error as error:
            yield RecordError("damaged_gzip", f"{error}, in the gzip member at {at}")
            return None
        compressed = state.unconsumed_tail
        given += len(block)
        if given > max(FREE_GZIP_BYTES, taken * MOST_GZIP_RATIO):
            yield RecordError("decompression_bomb", f"the gzip member at {at} decompresses to more than {given} bytes")
            return None
        if block:
            yield None, block
    yield None, b""
    end = at + taken - len(state.unused_data)
    file.seek(end)
    padding = file.read(1)
    while padding == b"\0" and end < stop:  # some tools pad a member to the block of a tape
        end += 1
        padding = file.read(1)
    return end


class _Stream:
    """Decompressed bytes that know their offsets in the file. Damage is raised once; reading may then continue."""

    def __init__(self, blocks: Iterator[_Block], compressed: bool) -> None:
        self._blocks, self._compressed = blocks, compressed
        self._held = bytearray()
        self._at = 0  # position of the first held byte in the decompressed stream
        self._members: list[tuple[int, int]] = []  # (position in the decompressed stream, offset in the file)
        self._ended = False
        self._torn: RecordError | None = None
        self._fresh = False  # the held bytes follow damage, not a line end

    def place(self) -> str:
        while len(self._members) > 1 and self._members[1][0] <= self._at:
            del self._members[0]
        begun, offset = self._members[0] if self._members else (0, 0)
        inside = self._at - begun
        return f"#{offset}+{inside}" if inside and self._compressed else f"#{offset + inside}"

    def _more(self) -> bool:
        """Hold one more block. False at the end. At damage, drop the held bytes and raise RecordError."""
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
        """Read to the checksum of the gzip member, if the member ends here. A missing end is raised later, because the
        record that was read is complete."""
        try:
            while len(self._held) <= len(b"\r\n\r\n") and self._compressed and not self._ended and self._more():
                pass
        except RecordError as error:
            if error.reason != "truncated_archive":
                raise
            self._torn = error

    def skip_line_ends(self) -> bool:
        """Skip line ends. False at the end of the stream."""
        while True:
            left = self._held.lstrip(b"\r\n")
            self._pass(len(self._held) - len(left))
            if self._held:
                return True
            if not self._more():
                return False

    def take_through(self, end: re.Pattern[bytes], most: int) -> bytes:
        """Take the bytes through the first match. Raises RecordError if `most` bytes hold no match."""
        while (match := end.search(self._held, 0, most)) is None:
            if len(self._held) >= most or not self._more():
                raise RecordError("bad_record", "its header does not end")
        return self.take(match.end())

    def take(self, count: int) -> bytes:
        """Take `count` bytes, fewer only at the end of the stream."""
        while len(self._held) < count and self._more():
            pass
        taken = bytes(memoryview(self._held)[:count])
        self._pass(len(taken))
        return taken

    def drop(self, count: int) -> int:
        """Skip `count` bytes and return the number of bytes that there were."""
        passed = 0
        while passed < count and (self._held or self._more()):
            step = min(count - passed, len(self._held))
            self._pass(step)
            passed += step
        return passed

    def find(self, start: re.Pattern[bytes]) -> bool:
        """Skip everything before the next match. False if there is none."""
        while True:
            if self._fresh and self._held:
                self._fresh = False
                if START.match(self._held):
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
