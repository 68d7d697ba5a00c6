"""Offsets in a compressed crawl archive at which the gzip member of a record begins.

Most archives compress every record as a gzip member of its own. `ingest/walk.py` cuts large archives at such offsets,
and `warc.py` continues there after a damaged member. The three bytes that mark a member occur once in 16 MiB by chance:
an offset counts if the bytes there decompress to the first line of a record.
"""

from __future__ import annotations

import re
import zlib
from typing import BinaryIO

_LINE = (
    rb"(?P<url>[a-z][a-z0-9+.-]*:[^\r\n]{0,2000}?) [0-9a-fA-F.:-]{1,50} (?P<date>\d{12,14}) (?P<type>\S{1,200})"
    rb"(?: [^\r\n]{0,500})? (?P<length>\d{1,15})\r?\n"
)
WARC = re.compile(rb"WARC/[01]\.\d{1,3}\r?\n")
"""First line of a WARC record."""
ARC = re.compile(_LINE)
"""First line of an ARC record."""
START = re.compile(rb"WARC/[01]\.\d{1,3}\r?\n|" + _LINE)
"""First line of a record of either format."""
NEXT = re.compile(rb"(?<=\n)(?:WARC/[01]\.\d{1,3}\r?\n|" + _LINE + rb")")
"""The same, after a line end."""

_MAGIC = b"\x1f\x8b\x08"
_PEEK_BYTES = 4096
_BLOCK_BYTES = 1 << 18
_TRIES = 64
"""Marks per block that are tried by `first_record`."""


def first_record(block: bytes) -> int:
    """Return the first offset in a block of compressed bytes at which a gzip member with a record begins, -1 for
    none."""
    at = -1
    for _ in range(_TRIES):
        at = block.find(_MAGIC, at + 1)
        if at < 0 or len(block) - at < _PEEK_BYTES:
            return -1
        if _begins_record(block[at : at + _PEEK_BYTES]):
            return at
    return -1


def _begins_record(compressed: bytes) -> bool:
    try:
        return START.match(zlib.decompressobj(31).decompress(compressed, _PEEK_BYTES)) is not None
    except zlib.error:
        return False


def next_record(file: BinaryIO, start: int, stop: int) -> int | None:
    """Return the first offset in [start, stop) at which a gzip member with a record begins, None for none."""
    while start < stop:
        file.seek(start)
        block = file.read(min(_BLOCK_BYTES + _PEEK_BYTES, stop - start))
        at = block.find(_MAGIC)
        while 0 <= at < _BLOCK_BYTES:
            if _begins_record(block[at : at + _PEEK_BYTES]):
                return start + at
            at = block.find(_MAGIC, at + 1)
        start += _BLOCK_BYTES
    return None
