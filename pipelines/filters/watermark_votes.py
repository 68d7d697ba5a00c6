"""Marks that stand at the same place of many pictures, learned from these pictures: no model, no template given.

    picture -> grey, shorter side 256 px -> windows at corners, edges and centre -> votes -> sums over a source -> score

Where a mark is drawn, edges have the same sign in every picture; elsewhere signs are as good as random (the idea of
Dekel et al. 2017, "On the Effectiveness of Visible Watermarks", with signs in place of gradients). A **vote** is
1 or -1 where a pixel is lighter or darker than its surroundings by more than `STEP` levels, else 0. A pixel belongs to
the mark of a source where the votes of all *other* pictures agree too well for chance; the **score** of a picture is
how well its own votes agree with those, in standard deviations if `ALIKE` neighbouring pixels vote as one.
"""

from __future__ import annotations

import numpy as np

VERSION = 1

SIDE_PX = 256
WIDTH_PX, HEIGHT_PX = 96, 32
"""Of a window."""
WINDOWS = 7
AROUND_PX = 4
"""The surroundings of a pixel reach so far."""
STEP = 2.0
SURE = 4
"""Standard deviations of the sum of random votes, at which a pixel belongs to a mark."""
LEAST_SHARE = 0.3
"""And the excess of one sign, of the number of pictures."""
LEAST_PIXELS = 32
"""A mark of fewer is none."""
ALIKE = 6
WORDS = WINDOWS * WIDTH_PX * HEIGHT_PX // 64
"""Of 64 bits, for votes of one sign."""


def votes(grey: np.ndarray) -> np.ndarray:
    """(2 * WORDS,) uint64 of (H, W) uint8: the pixels that vote 1, then those that vote -1."""
    level = grey.astype(np.float32)
    apart = level - _means(level)
    found = np.zeros((2, WINDOWS, HEIGHT_PX, WIDTH_PX), bool)
    for window, part in enumerate(_windows(apart)):
        high, wide = part.shape
        found[0, window, :high, :wide] = part > STEP
        found[1, window, :high, :wide] = part < -STEP
    return np.packbits(found.ravel(), bitorder="little").view(np.uint64)


def _windows(level: np.ndarray) -> list[np.ndarray]:
    """Corners by rows, the middle of the upper and of the lower edge, the centre; parts of what is smaller."""
    height, width = level.shape
    high, wide = min(HEIGHT_PX, height), min(WIDTH_PX, width)
    top, middle, bottom = (
        slice(0, high),
        slice((height - high) // 2, (height + high) // 2),
        slice(height - high, height),
    )
    left, centre, right = slice(0, wide), slice((width - wide) // 2, (width + wide) // 2), slice(width - wide, width)
    places = (
        (top, left),
        (top, right),
        (bottom, left),
        (bottom, right),
        (top, centre),
        (bottom, centre),
        (middle, centre),
    )
    return [level[place] for place in places]


def _means(level: np.ndarray) -> np.ndarray:
    """Of the square around each pixel; pixels of the edge go on outside."""
    for _ in range(2):
        padded = np.pad(level, ((AROUND_PX + 1, AROUND_PX), (0, 0)), mode="edge")
        sums = np.cumsum(padded, axis=0, dtype=np.float64)
        side = 2 * AROUND_PX + 1
        level = ((sums[side:] - sums[:-side]) / side).T
    return level


def unpacked(words: np.ndarray) -> np.ndarray:
    """(n, WINDOWS, pixels) int8 of (n, 2 * WORDS) uint64."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    light, dark = bits.reshape(len(words), 2, WINDOWS, -1).transpose(1, 0, 2, 3).view(np.int8)
    return light - dark


def score(own: np.ndarray, sums: np.ndarray, counts: np.ndarray, pictures: int) -> float:
    """Of the best window; NaN where the other pictures have no mark.

    Args:
        own: (WINDOWS, pixels) votes of the picture.
        sums, counts: (WINDOWS, pixels) of all votes of its source, and how many are not 0; its own are in them.
        pictures: of the source.
    """
    others = sums - own
    voted = counts - np.abs(own)
    marked = (others * others >= SURE**2 * voted) & (np.abs(others) >= LEAST_SHARE * (pictures - 1)) & (voted > 0)
    pixels = marked.sum(axis=1)
    agreeing = (np.sign(others) * own * marked).sum(axis=1)
    found = [
        int(a) / float(np.sqrt(ALIKE * int(n))) for a, n in zip(agreeing, pixels, strict=True) if n >= LEAST_PIXELS
    ]
    return max(found, default=np.nan)
