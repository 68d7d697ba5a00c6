"""Detection of watermarks at the same place of many pictures, from these pictures alone: no model, no template.

    picture -> gray, shorter side 256 px -> windows at corners, edges and center -> votes -> sums over a source -> score

Edges of a mark have the same sign in every picture; elsewhere signs are nearly random (the idea of Dekel et al. 2017,
"On the Effectiveness of Visible Watermarks", with signs instead of gradients). A **vote** is 1 or -1 if a pixel is
lighter or darker than its surroundings by more than `STEP` levels, else 0. A pixel belongs to the mark of a source if
the votes of all *other* pictures agree too well for chance. The **score** of a picture is the agreement of its own
votes with these, in standard deviations, if `CORRELATED` neighboring pixels vote as one. The nodes are in
`filters/watermarks.py`.
"""

from __future__ import annotations

import numpy as np

VERSION = 1
"""Raised when the same pixels would give other votes or scores."""

SIDE_PX = 256
"""Shorter side of the picture."""
WIDTH_PX, HEIGHT_PX = 96, 32
"""Size of a window."""
WINDOWS = 7
AROUND_PX = 4
"""Reach of the surroundings of a pixel."""
STEP = 2.0
"""In levels of 255."""
SURE = 4
"""A pixel of a mark has a sum of votes of at least this many standard deviations of random votes ..."""
LEAST_SHARE = 0.3
"""... and of at least this share of the number of pictures."""
LEAST_PIXELS = 32
"""Smallest mark."""
CORRELATED = 6
WORDS = WINDOWS * WIDTH_PX * HEIGHT_PX // 64
"""Words of 64 bits that hold the votes of one sign."""


def votes(gray: np.ndarray) -> np.ndarray:
    """Return (2 * WORDS,) uint64 for (H, W) uint8: bits of the pixels that vote 1, then of those that vote -1."""
    level = gray.astype(np.float32)
    difference = level - _means(level)
    bits = np.zeros((2, WINDOWS, HEIGHT_PX, WIDTH_PX), bool)
    for window, part in enumerate(_windows(difference)):
        high, wide = part.shape
        bits[0, window, :high, :wide] = part > STEP
        bits[1, window, :high, :wide] = part < -STEP
    return np.packbits(bits.ravel(), bitorder="little").view(np.uint64)


def _windows(level: np.ndarray) -> list[np.ndarray]:
    """Return the windows: corners by rows, middles of the upper and lower edge, center; smaller if the picture is."""
    height, width = level.shape
    high, wide = min(HEIGHT_PX, height), min(WIDTH_PX, width)
    top, middle, bottom = (
        slice(0, high),
        slice((height - high) // 2, (height + high) // 2),
        slice(height - high, height),
    )
    left, center, right = slice(0, wide), slice((width - wide) // 2, (width + wide) // 2), slice(width - wide, width)
    corners = ((top, left), (top, right), (bottom, left), (bottom, right))
    places = (*corners, (top, center), (bottom, center), (middle, center))
    return [level[place] for place in places]


def _means(level: np.ndarray) -> np.ndarray:
    """Return the mean of the square around each pixel; the picture is padded with its edge."""
    for _ in range(2):
        padded = np.pad(level, ((AROUND_PX + 1, AROUND_PX), (0, 0)), mode="edge")
        sums = np.cumsum(padded, axis=0, dtype=np.float64)
        side = 2 * AROUND_PX + 1
        level = ((sums[side:] - sums[:-side]) / side).T
    return level


def unpacked(words: np.ndarray) -> np.ndarray:
    """Return votes as (n, WINDOWS, pixels) int8, from (n, 2 * WORDS) uint64."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    light, dark = bits.reshape(len(words), 2, WINDOWS, -1).transpose(1, 0, 2, 3).view(np.int8)
    return light - dark


def score(own: np.ndarray, sums: np.ndarray, counts: np.ndarray, pictures: int) -> float:
    """Return the score of the best window; NaN if the other pictures have no mark.

    Args:
        own: (WINDOWS, pixels) votes of the picture.
        sums: (WINDOWS, pixels) sums of all votes of its source, its own included.
        counts: (WINDOWS, pixels) number of votes that are not 0, its own included.
        pictures: number of pictures of the source.
    """
    others = sums - own
    voted = counts - np.abs(own)
    marked = (others * others >= SURE**2 * voted) & (np.abs(others) >= LEAST_SHARE * (pictures - 1)) & (voted > 0)
    pixels = marked.sum(axis=1)
    agreeing = (np.sign(others) * own * marked).sum(axis=1)
    scores = [
        int(a) / float(np.sqrt(CORRELATED * int(n))) for a, n in zip(agreeing, pixels, strict=True) if n >= LEAST_PIXELS
    ]
    return max(scores, default=np.nan)
