"""Pillow's pixels of a PNG without its memory: inflated a piece at a time, and unfiltered into the caller's.

`codecs.decode_into` stands before this. Pillow keeps 4 bytes a pixel, converts them to others, and hands these over in
pieces that are joined: three times the picture in fresh pages, which cost more than inflating it. Alpha is never
unfiltered, because it is cut off. Read are pictures of 8 bits a sample that are not interlaced, have no palette and
nothing behind their pixels; all others are Pillow's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numba import njit, types

from manifests.jit import BYTES_2D, compiled

_SIGNATURE_BYTES = 8
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Colour type -> samples per pixel."""
_PIECE_BYTES = 1 << 20
"""Inflated at a time: small enough to stay in the cache, and few enough pieces for waiting between them."""
_FED_BYTES = 1 << 18

_READ_BYTES = types.Array(types.uint8, 1, "C", readonly=True)


def decode_into(payload: bytes, rgb: np.ndarray) -> bool:
    """Fill `rgb`, (H, W, 3) uint8 of the picture's size, or say that Pillow has to."""
    found = _chunks(payload)
    if found is None:
        return False
    header, compressed = found
    height, width, _ = rgb.shape
    channels = _CHANNELS.get(header[9], 0)
    if header != _header(width, height, header[9]) or not channels:
        return False
    line_bytes = 1 + width * channels
    lines = np.empty(_PIECE_BYTES + line_bytes, np.uint8)
    into = rgb.reshape(height, -1)
    held = done = 0
    try:
        for piece in _inflated(compressed):
            lines[held : held + len(piece)] = np.frombuffer(piece, np.uint8)
            held += len(piece)
            count = held // line_bytes
            if done + count > height or not _unfilter(lines, count, channels, done, into):
                return False
            done += count
            lines[: held - count * line_bytes] = lines[count * line_bytes : held]
            held -= count * line_bytes
    except (zlib.error, EOFError):
        return False
    return done == height and not held


def _chunks(payload: bytes) -> tuple[bytes, bytes] | None:
    """The body of IHDR and those of all IDAT together; None where there is an animation, or more behind the pixels."""
    at, header, found = _SIGNATURE_BYTES, b"", []
    while len(start := payload[at : at + 8]) == 8:
        length, name = int.from_bytes(start[:4]), start[4:]
        if name == b"IHDR":
            header = payload[at + 8 : at + 8 + length]
        elif name == b"IDAT":
            found.append(memoryview(payload)[at + 8 : at + 8 + length])
        elif name == b"IEND":
            return header, b"".join(found)
        elif name in (b"acTL", b"fcTL") or found:
            break
        at += 12 + length
    return None


def _header(width: int, height: int, colour: int) -> bytes:
    """IHDR: 8 bits, the one way of compressing and filtering that there is, not interlaced."""
    return width.to_bytes(4) + height.to_bytes(4) + bytes([8, colour, 0, 0, 0])


def _inflated(compressed: bytes) -> Iterator[bytes]:
    """In pieces. Raises EOFError where it ends early or late, zlib.error where it or its checksum is wrong."""
    inflate = zlib.decompressobj()
    for at in range(0, len(compressed), _FED_BYTES):
        fed: bytes | memoryview = memoryview(compressed)[at : at + _FED_BYTES]
        while fed:
            yield inflate.decompress(fed, _PIECE_BYTES)
            fed = inflate.unconsumed_tail
    while piece := inflate.decompress(b"", _PIECE_BYTES):
        yield piece
    if not inflate.eof or inflate.unused_data:
        raise EOFError


@njit(forceinline=True)
def _nearest(left, above, before):
    """Of left, above and above left (`before`) the one nearest to left + above - before, in doubt the first of them.

    The standard compares three distances; this is the same without branches, which nothing could predict.
    """
    turn = 3 * before - (left + above)
    low, high = min(left, above), max(left, above)
    return high if turn <= low else low if turn >= high else before


@compiled(_READ_BYTES, types.int64, types.int64, types.int64, BYTES_2D, returns=types.boolean)
def _unfilter(lines, count, channels, top, rgb):
    """`count` lines, each a filter's number and its samples, into the rows of `rgb` from `top` on.

    False where there is no such filter. Filters: left, above, their mean, and whichever of left, above and above left
    is nearest to left + above - above left (PNG, third edition, section 9).
    """
    samples = rgb.shape[1]
    width = samples // 3
    green, blue = (1, 2) if channels >= 3 else (0, 0)
    nothing = np.zeros(samples, np.uint8)
    for row in range(count):
        at = row * (1 + width * channels)
        filtered = lines[at + 1 : at + 1 + width * channels]
        above = rgb[top + row - 1] if top + row else nothing
        out = rgb[top + row]
        kind = lines[at]
        if kind == 0:
            for x in range(width):
                i, j = x * channels, 3 * x
                out[j], out[j + 1], out[j + 2] = filtered[i], filtered[i + green], filtered[i + blue]
        elif kind == 2:
            for x in range(width):
                i, j = x * channels, 3 * x
                out[j] = filtered[i] + above[j]
                out[j + 1] = filtered[i + green] + above[j + 1]
                out[j + 2] = filtered[i + blue] + above[j + 2]
        elif kind == 1 or kind == 3:
            r = g = b = np.int32(0)
            for x in range(width):
                i, j = x * channels, 3 * x
                if kind == 3:
                    r = (r + np.int32(above[j])) >> 1
                    g = (g + np.int32(above[j + 1])) >> 1
                    b = (b + np.int32(above[j + 2])) >> 1
                r = (r + np.int32(filtered[i])) & 255
                g = (g + np.int32(filtered[i + green])) & 255
                b = (b + np.int32(filtered[i + blue])) & 255
                out[j], out[j + 1], out[j + 2] = r, g, b
        elif kind == 4:
            r = g = b = np.int32(0)
            r_before = g_before = b_before = np.int32(0)
            for x in range(width):
                i, j = x * channels, 3 * x
                r_above, g_above, b_above = np.int32(above[j]), np.int32(above[j + 1]), np.int32(above[j + 2])
                r = (_nearest(r, r_above, r_before) + np.int32(filtered[i])) & 255
                g = (_nearest(g, g_above, g_before) + np.int32(filtered[i + green])) & 255
                b = (_nearest(b, b_above, b_before) + np.int32(filtered[i + blue])) & 255
                out[j], out[j + 1], out[j + 2] = r, g, b
                r_before, g_before, b_before = r_above, g_above, b_above
        else:
            return False
    return True
