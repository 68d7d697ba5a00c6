"""Where in packed bytes does a record of a crawl begin? Archives are mostly packed one record a gzip member.

`ingest/walk.py` cuts long archives there, and `ingest/formats/warc.py` goes on there behind what is damaged. Three
bytes mark a gzip member, and by chance stand once in 16 MiB: a place counts where they unpack to the first line of a
record.
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
ARC = re.compile(_LINE)
START = re.compile(rb"WARC/[01]\.\d{1,3}\r?\n|" + _LINE)
NEXT = re.compile(rb"(?<=\n)(?:WARC/[01]\.\d{1,3}\r?\n|" + _LINE + rb")")

_MAGIC = b"\x1f\x8b\x08"
_PEEK_BYTES = 4096
_BLOCK_BYTES = 1 << 18
_TRIES = 64
"""Places in one block that are looked into before it counts as one without."""


def cut(block: bytes) -> int:
    """The first place in a block of packed bytes where a gzip member with a record begins, -1 for none."""
    at = -1
    for _ in range(_TRIES):
        at = block.find(_MAGIC, at + 1)
        if at < 0 or len(block) - at < _PEEK_BYTES:
            return -1
        if _begins_record(block[at : at + _PEEK_BYTES]):
            return at
    return -1


def _begins_record(packed: bytes) -> bool:
    try:
        return START.match(zlib.decompressobj(31).decompress(packed, _PEEK_BYTES)) is not None
    except zlib.error:
        return False


def find(file: BinaryIO, start: int, stop: int) -> int | None:
    """Where the next member begins that holds the start of a record."""
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
