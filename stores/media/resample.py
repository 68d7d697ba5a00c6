"""Antialiased bicubic resampling, equal to Pillow's to the bit and about five times as fast.

`image.resize` calls it. Pillow weighs pixels with 22-bit fixed-point numbers and rounds to 8 bits after each of two
passes; the same numbers in the same order give the same bytes. Found by experiment with Pillow 13.0 and compared in
tests: rows are resampled before columns, unless the height shrinks by more than twice as many pixels as the width
(Pillow before 13 always began with rows, which gives other bytes for such tall images).

Both passes add whole runs of neighboring samples with equal weights, which compilers turn into vector instructions. For
the pass along rows, 16 rows are transposed, so that their bytes of one column fill one vector register. Bytes are
transposed in blocks of 8 x 8, as eight 64-bit words. The image between the passes is never stored: a ring of rows, as
many as one result row needs, stays in the cache (benchmarks/LOG.md).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import njit, types

from manifests.jit import BYTES_2D, READ_BYTES_2D, compiled

_BITS = 22
_HALF = 1 << (_BITS - 1)
_SUPPORT = 2.0
"""Radius of the bicubic filter, in pixels of the smaller of both images."""
_ROWS = 16
"""Rows transposed together."""
_LANES = 3 * _ROWS
_TAPS = 4
"""Weights applied at a time."""
_BLOCK = 512
"""Samples of a line summed at a time."""

_STARTS = types.Array(types.int32, 1, "C", readonly=True)
_WEIGHTS = types.Array(types.int32, 2, "C", readonly=True)
_PASSES = (READ_BYTES_2D, _STARTS, _WEIGHTS, _STARTS, _WEIGHTS, BYTES_2D)


def bicubic(rgb: np.ndarray, width_px: int, height_px: int, extent: tuple[float, float] | None = None) -> np.ndarray:
    """Resize (H, W, 3) uint8 to (height_px, width_px, 3) uint8.

    Args:
        extent: (width, height) from the upper left that the image covers; less than its size if the last pixels are
            only partly inside.
    """
    height, width, _ = rgb.shape
    across, down = extent or (float(width), float(height))
    rows = np.ascontiguousarray(rgb).reshape(height, -1)
    out = np.empty((height_px, width_px * 3), np.uint8)
    columns_first = height_px < height and height - height_px > 2 * (width - width_px)
    resample = _columns_then_rows if columns_first else _rows_then_columns
    resample(rows, *weights(width, width_px, across), *weights(height, height_px, down), out)
    return out.reshape(height_px, width_px, 3)


@lru_cache(64)
def weights(source: int, target: int, extent: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute the run of source pixels and their weights for each of `target` pixels, which cover `extent` of them.

    Returns:
        first source pixels (target,) int32, and weights (target, K) int32 in units of 2^-22, K a multiple of 4, zero
        behind a run. Sums are taken in Pillow's order, as float64.
    """
    scale = extent / target
    stretch = max(scale, 1.0)
    reach = _SUPPORT * stretch
    centers = (np.arange(target) + 0.5) * scale
    first = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    stop = np.minimum((centers + reach + 0.5).astype(np.int64), source)
    taps = -(-(math.ceil(reach) * 2 + 1) // _TAPS) * _TAPS
    places = np.arange(taps) + first[:, None]
    x = np.abs((places - centers[:, None] + 0.5) * (1.0 / stretch))
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    shares = np.where(places < stop[:, None], np.where(x < 1, near, np.where(x < 2, far, 0.0)), 0.0)
    total = np.zeros(target)
    for tap in range(taps):
        total += shares[:, tap]
    shares /= total[:, None]
    fixed = np.trunc(shares * (1 << _BITS) + np.where(shares < 0, -0.5, 0.5)).astype(np.int32)
    used = int(np.flatnonzero(fixed.any(axis=0))[-1]) + 1
    return first.astype(np.int32), np.ascontiguousarray(fixed[:, : -(-used // _TAPS) * _TAPS])


_ODD_BYTES, _ODD_PAIRS, _ODD_HALVES = (
    np.uint64(mask) for mask in (0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF)
)
_BYTE, _PAIR, _HALVES = np.uint64(8), np.uint64(16), np.uint64(32)


@njit(forceinline=True)
def _exchange(a, b, mask, shift):
    """Swap the part of `a` outside `mask` with the part of `b` inside it."""
    return (a & mask) | ((b & mask) << shift), ((a >> shift) & mask) | (b & ~mask)


@njit(forceinline=True)
def _transpose_block(a0, a1, a2, a3, a4, a5, a6, a7):
    """Transpose 8 words of 8 bytes: byte i of word j becomes byte j of word i."""
    b0, b1 = _exchange(a0, a1, _ODD_BYTES, _BYTE)
    b2, b3 = _exchange(a2, a3, _ODD_BYTES, _BYTE)
    b4, b5 = _exchange(a4, a5, _ODD_BYTES, _BYTE)
    b6, b7 = _exchange(a6, a7, _ODD_BYTES, _BYTE)
    c0, c2 = _exchange(b0, b2, _ODD_PAIRS, _PAIR)
    c1, c3 = _exchange(b1, b3, _ODD_PAIRS, _PAIR)
    c4, c6 = _exchange(b4, b6, _ODD_PAIRS, _PAIR)
    c5, c7 = _exchange(b5, b7, _ODD_PAIRS, _PAIR)
    d0, d4 = _exchange(c0, c4, _ODD_HALVES, _HALVES)
    d1, d5 = _exchange(c1, c5, _ODD_HALVES, _HALVES)
    d2, d6 = _exchange(c2, c6, _ODD_HALVES, _HALVES)
    d3, d7 = _exchange(c3, c7, _ODD_HALVES, _HALVES)
    return d0, d1, d2, d3, d4, d5, d6, d7


@njit
def _transpose_rows(strip, transposed):
    """Transpose words of 16 rows (16, n) to bytes column by column (8 n, 2)."""
    for half in range(2):
        top = 8 * half
        for i in range(strip.shape[1]):
            a0, a1, a2, a3 = strip[top, i], strip[top + 1, i], strip[top + 2, i], strip[top + 3, i]
            a4, a5, a6, a7 = strip[top + 4, i], strip[top + 5, i], strip[top + 6, i], strip[top + 7, i]
            b0, b1, b2, b3, b4, b5, b6, b7 = _transpose_block(a0, a1, a2, a3, a4, a5, a6, a7)
            j = 8 * i
            transposed[j, half], transposed[j + 1, half], transposed[j + 2, half], transposed[j + 3, half] = (
                b0,
                b1,
                b2,
                b3,
            )
            transposed[j + 4, half], transposed[j + 5, half], transposed[j + 6, half], transposed[j + 7, half] = (
                b4,
                b5,
                b6,
                b7,
            )


@njit
def _untranspose_rows(transposed, strip):
    """Invert `_transpose_rows`."""
    for half in range(2):
        top = 8 * half
        for i in range(strip.shape[1]):
            j = 8 * i
            a0, a1, a2, a3 = (
                transposed[j, half],
                transposed[j + 1, half],
                transposed[j + 2, half],
                transposed[j + 3, half],
            )
            a4, a5, a6, a7 = (
                transposed[j + 4, half],
                transposed[j + 5, half],
                transposed[j + 6, half],
                transposed[j + 7, half],
            )
            b0, b1, b2, b3, b4, b5, b6, b7 = _transpose_block(a0, a1, a2, a3, a4, a5, a6, a7)
            strip[top, i], strip[top + 1, i], strip[top + 2, i], strip[top + 3, i] = b0, b1, b2, b3
            strip[top + 4, i], strip[top + 5, i], strip[top + 6, i], strip[top + 7, i] = b4, b5, b6, b7


@njit
def _resample_rows(transposed, first, weights, done, sums):
    """Resample 16 transposed rows; the bytes of column x begin at 48 x, in source and result."""
    width, taps = weights.shape
    for x in range(width):
        at = first[x] * _LANES
        sums[:] = _HALF
        for tap in range(0, taps, _TAPS):
            w0, w1, w2, w3 = weights[x, tap], weights[x, tap + 1], weights[x, tap + 2], weights[x, tap + 3]
            p = transposed[at + tap * _LANES : at + (tap + _TAPS) * _LANES]
            for i in range(_LANES):
                sums[i] += (
                    w0 * np.int32(p[i])
                    + w1 * np.int32(p[i + _LANES])
                    + w2 * np.int32(p[i + 2 * _LANES])
                    + w3 * np.int32(p[i + 3 * _LANES])
                )
        pixel = done[x * _LANES : (x + 1) * _LANES]
        for i in range(_LANES):
            pixel[i] = np.uint8(min(max(sums[i] >> _BITS, 0), 255))


@njit
def _resample_column(lines, first, weights, out, sums):
    """Compute one result line from the lines of `lines` from `first` on, which may be a ring."""
    depth = lines.shape[0]
    samples = out.shape[0]
    for start in range(0, samples, _BLOCK):
        stop = min(start + _BLOCK, samples)
        sums[:] = _HALF
        for tap in range(0, weights.shape[0], _TAPS):
            w0, w1, w2, w3 = weights[tap], weights[tap + 1], weights[tap + 2], weights[tap + 3]
            p0 = lines[(first + tap) % depth, start:stop]
            p1 = lines[(first + tap + 1) % depth, start:stop]
            p2 = lines[(first + tap + 2) % depth, start:stop]
            p3 = lines[(first + tap + 3) % depth, start:stop]
            for i in range(stop - start):
                sums[i] += w0 * np.int32(p0[i]) + w1 * np.int32(p1[i]) + w2 * np.int32(p2[i]) + w3 * np.int32(p3[i])
        part = out[start:stop]
        for i in range(stop - start):
            part[i] = np.uint8(min(max(sums[i] >> _BITS, 0), 255))


@njit
def _buffers(samples, taps, width):
    """Allocate 16 rows of the source, the same transposed, and 16 transposed rows of the result.

    Behind the last column there are zeros, which weights of 0 reach.
    """
    strip = np.zeros((_ROWS, (samples + 7) // 8 * 8), np.uint8)
    transposed = np.zeros((strip.shape[1] + 3 * taps) * _ROWS, np.uint8)
    done = np.zeros((width * 3 + 7) // 8 * 8 * _ROWS, np.uint8)
    return strip, transposed, done


@compiled(*_PASSES)
def _rows_then_columns(rows, first_x, weights_x, first_y, weights_y, out):
    """Resample rows (H, 3 W), then columns, into `out` (target height, 3 target width)."""
    height, samples = rows.shape
    width, taps_x = weights_x.shape
    target, taps_y = weights_y.shape
    strip, transposed, done = _buffers(samples, taps_x, width)
    ring = np.zeros(((taps_y + 2 * _ROWS - 1) // _ROWS * _ROWS, len(done) // _ROWS), np.uint8)
    depth = len(ring)
    sums_x, sums_y = np.empty(_LANES, np.int32), np.empty(_BLOCK, np.int32)
    top = 0
    for y in range(target):
        while top < min(first_y[y] + taps_y, height):
            count = min(_ROWS, height - top)
            for row in range(count):
                for i in range(samples):
                    strip[row, i] = rows[top + row, i]
            _transpose_rows(strip.view(np.uint64), transposed.view(np.uint64).reshape(-1, 2))
            _resample_rows(transposed, first_x, weights_x, done, sums_x)
            _untranspose_rows(
                done.view(np.uint64).reshape(-1, 2), ring[top % depth : top % depth + _ROWS].view(np.uint64)
            )
            top += count
        _resample_column(ring, first_y[y], weights_y[y], out[y], sums_y)


@compiled(*_PASSES)
def _columns_then_rows(rows, first_x, weights_x, first_y, weights_y, out):
    """Resample columns of (H, 3 W), then rows, into `out` (target height, 3 target width)."""
    samples = rows.shape[1]
    width, taps_x = weights_x.shape
    target = len(first_y)
    strip, transposed, done = _buffers(samples, taps_x, width)
    result = np.zeros((_ROWS, len(done) // _ROWS), np.uint8)
    sums_x, sums_y = np.empty(_LANES, np.int32), np.empty(_BLOCK, np.int32)
    for top in range(0, target, _ROWS):
        count = min(_ROWS, target - top)
        for row in range(count):
            _resample_column(rows, first_y[top + row], weights_y[top + row], strip[row, :samples], sums_y)
        _transpose_rows(strip.view(np.uint64), transposed.view(np.uint64).reshape(-1, 2))
        _resample_rows(transposed, first_x, weights_x, done, sums_x)
        _untranspose_rows(done.view(np.uint64).reshape(-1, 2), result.view(np.uint64))
        for row in range(count):
            for i in range(width * 3):
                out[top + row, i] = result[row, i]
