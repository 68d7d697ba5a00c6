"""Plan of the requests that read some byte ranges of a file: close ranges in one request, long ranges in several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GAP_BYTES = 128 << 10
"""Largest gap between two ranges that is read and discarded: on the network it costs about as much as another request.
"""
MOST_BYTES = 8 << 20
"""Most bytes of one request; longer ranges are read in parts, in parallel."""

ByteRange = tuple[int, int]
"""(offset, length) in bytes."""


def merge_ranges(ranges: Iterable[ByteRange], gap: int = GAP_BYTES, most: int = MOST_BYTES) -> list[ByteRange]:
    """Return ascending requests that cover all `ranges`, each at most `most` bytes long."""
    runs: list[list[int]] = []
    for offset, length in sorted(ranges):
        if length == 0:
            continue
        if runs and offset - runs[-1][1] <= gap:
            runs[-1][1] = max(runs[-1][1], offset + length)
        else:
            runs.append([offset, offset + length])
    return [(at, min(most, stop - at)) for start, stop in runs for at in range(start, stop, most)]


def cut(parts: Sequence[tuple[int, bytes]], offset: int, length: int) -> bytes:
    """Return one range out of `parts`, ascending (offset, bytes); shorter where the file ends earlier."""
    if len(parts) == 1 and parts[0][0] == offset and len(parts[0][1]) <= length:
        return parts[0][1]
    data = bytearray()
    for at, part in parts:
        if at < offset + length and at + len(part) > offset:
            data += memoryview(part)[max(0, offset - at) : offset + length - at]
    return bytes(data)
