"""Which requests read these ranges of a file: neighbours in one, and what is long in several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GAP_BYTES = 128 << 10
"""Bytes between two ranges that are read and thrown away rather than asked around: on the network about what the wait
for one more answer costs."""
MOST_BYTES = 8 << 20
"""One request asks for no more: longer ranges are read in pieces, side by side."""

Span = tuple[int, int]
"""(offset, length)"""


def spans(ranges: Iterable[Span], gap: int = GAP_BYTES, most: int = MOST_BYTES) -> list[Span]:
    """Ascending requests that cover all `ranges`, none over `most` bytes."""
    runs: list[list[int]] = []
    for offset, length in sorted(ranges):
        if length == 0:
            continue
        if runs and offset - runs[-1][1] <= gap:
            runs[-1][1] = max(runs[-1][1], offset + length)
        else:
            runs.append([offset, offset + length])
    return [(at, min(most, stop - at)) for start, stop in runs for at in range(start, stop, most)]


def cut(read: Sequence[tuple[int, bytes]], offset: int, length: int) -> bytes:
    """One range out of (offset, bytes) that were read, ascending; shorter where the file ends before."""
    if len(read) == 1 and read[0][0] == offset and len(read[0][1]) <= length:
        return read[0][1]
    found = bytearray()
    for at, data in read:
        if at < offset + length and at + len(data) > offset:
            found += memoryview(data)[max(0, offset - at) : offset + length - at]
    return bytes(found)
