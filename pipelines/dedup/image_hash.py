"""Perceptual hashes of pictures: 64 bits to look up, and 256 bits to compare.

    picture -> gray, shorter side 256 px -> means over 64 x 64 and 32 x 32 -> DCT -> pHash, detail

**pHash** is the DCT hash of Zauner (2010, "Implementation and Benchmarking of Perceptual Image Hash Functions"): of the
two-dimensional DCT-II of 32 x 32 means, the coefficients of frequencies 1 to 8 both ways; a bit is set if a coefficient
is above their median. **detail** is the same with frequencies 1 to 16 of 64 x 64 means, the layout of PDQ (Facebook
2019, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm"). The pHash is looked up
(`dedup/hamming.py`); the detail separates pictures with equal pHash, above all pages of text. To the bit:

    gray      (19595 R + 38470 G + 7471 B + 32768) >> 16, as Pillow's "L"
    means     Pillow's BOX filter, 8 bits
    cosines   C[u, x] = round(2^14 cos(pi (2 x + 1) u / 2 n)) of n means; coefficients C M C^T, whole numbers
    bits      by rows, the first is the lowest; set if 2 c[k] is more than the sum of the two middle coefficients

Whole numbers give the same bits of the same pixels on every processor. `NO_HASH` stands for a picture that shows too
little for its bits to mean something. A mirrored or turned picture has another hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

VERSION = 1
"""Raised when the same pixels would give other bits."""

SIDE_PX = 256
"""Shorter side of the picture that is hashed."""

WORDS = 4
"""Words of 64 bits in a `detail`."""

NO_HASH = 0
"""Not the hash of any picture: as many bits are set as not, except for ties."""

LEAST_DETAIL = 0.2
"""Amplitude in levels of 255: half of the coefficients must be stronger than a wave of it. Grain of 5 levels gives
0.04; of 162 photos, charts and scans the faintest percentile has 0.37."""


class Hash(NamedTuple):
    phash: int
    detail: tuple[int, ...]
    """`WORDS` numbers of 64 bits."""


NOTHING = Hash(NO_HASH, (0,) * WORDS)


def _cosines(means: int, frequencies: int) -> np.ndarray:
    """Return (frequencies, means) float64 whole numbers. Products stay below 2^53, so that floats hold them exactly in
    any order of summation."""
    angles = np.pi / (2 * means) * np.outer(np.arange(1, frequencies + 1), 2 * np.arange(means) + 1)
    return np.round(2**14 * np.cos(angles))


_SHORT, _LONG = _cosines(32, 8), _cosines(64, 16)
_WAVE = 2.0**28 * 32 * 32 / 4
"""Coefficient of a wave of amplitude 1."""


def hash_of(gray: Image.Image, box: tuple[int, int, int, int] | None = None) -> Hash:
    """Hash a gray picture, or its part inside `box` (left, top, right, bottom); `NOTHING` if it shows too little."""
    strengths = _strengths(gray, box, _SHORT)
    if np.median(np.abs(strengths)) < LEAST_DETAIL * _WAVE:
        return NOTHING
    return Hash(_bits(strengths)[0], tuple(_bits(_strengths(gray, box, _LONG))))


def gray_of(rgb: np.ndarray) -> Image.Image:
    """Convert (H, W, 3) uint8 to gray."""
    return Image.fromarray(rgb).convert("L")


def _strengths(gray: Image.Image, box: tuple[int, int, int, int] | None, cosines: np.ndarray) -> np.ndarray:
    """Return the (frequencies ** 2,) DCT coefficients, by rows."""
    count = cosines.shape[1]
    means = np.asarray(gray.resize((count, count), Image.Resampling.BOX, box), np.float64)
    return (cosines @ means @ cosines.T).ravel()


def _bits(strengths: np.ndarray) -> list[int]:
    """Return one bit per coefficient, set above the median, as words of 64 bits."""
    ordered = np.sort(strengths)
    middle = len(ordered) // 2
    above = 2 * strengths > ordered[middle - 1] + ordered[middle]
    return np.packbits(above, bitorder="little").view("<u8").tolist()


CROPS = 1308
"""Number of boxes that `crops` yields."""


def crops(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes (left, top, right, bottom) of the picture's own shape: 95, 90 ... 50 % of its sides. Neighboring
    boxes are 5 % of their own side apart, which a hash tolerates."""
    for percent in range(95, 49, -5):
        steps = round((100 - percent) * 20 / percent)
        wide, high = width * percent // 100, height * percent // 100
        for down in range(steps + 1):
            for across in range(steps + 1):
                left, top = (width - wide) * across // steps, (height - high) * down // steps
                yield left, top, left + wide, top + high


def key_times_us(frame_times_us: tuple[int, ...], count: int) -> list[int]:
    """Return times of the frames shown in the middle of `count` equal intervals; with fewer frames some repeat."""
    if not frame_times_us:
        return []
    wanted = [(2 * i + 1) * frame_times_us[-1] / (2 * count) for i in range(count)]
    places = np.searchsorted(frame_times_us, wanted, side="right") - 1
    return [frame_times_us[place] for place in places.tolist()]
