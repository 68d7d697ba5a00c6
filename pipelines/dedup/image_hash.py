"""Perceptual hashes: what a picture looks like in 64 bits, and more exactly in 256.

    picture -> grey, shorter side 256 px -> means over 64 x 64 and 32 x 32 -> DCT -> pHash, detail

**pHash** is the DCT hash of Zauner (2010, "Implementation and Benchmarking of Perceptual Image Hash Functions"): of the
two-dimensional DCT-II of 32 x 32 means, the coefficients of frequencies 1 to 8 both ways; a bit is set where a
coefficient lies above their median. **detail** is the same with frequencies 1 to 16 of 64 x 64 means, the layout of PDQ
(Facebook 2019, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm"). The short one is looked up
(`hamming.py`), the long one tells apart what it takes for equal: pages of text, above all. To the bit:

    grey      (19595 R + 38470 G + 7471 B + 32768) >> 16, as Pillow's "L"
    means     Pillow's BOX filter, 8 bits
    cosines   C[u, x] = round(2^14 cos(pi (2 x + 1) u / 2 n)) of n means; coefficients C M C^T, whole numbers
    bits      by rows, the first is the lowest; set where 2 c[k] is more than the sum of the two middle coefficients

So that every processor gives the same bits of the same pixels. `NO_HASH` stands for a picture that shows too little for
its bits to mean something. A mirrored or turned picture has another hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

VERSION = 1

SIDE_PX = 256
"""Of the shorter side of what is hashed."""

WORDS = 4
"""Of 64 bits, in a `detail`."""

NO_HASH = 0
"""No picture has it: as many bits are set as not, but for ties."""

LEAST_DETAIL = 0.2
"""In levels of 255: half of the coefficients must be stronger than a wave of this amplitude. Grain of 5 levels gives
0.04, of 162 photos, charts and scans the faintest percentile has 0.37."""


class Hash(NamedTuple):
    phash: int
    detail: tuple[int, ...]
    """`WORDS` numbers."""


NOTHING = Hash(NO_HASH, (0,) * WORDS)


def _cosines(means: int, frequencies: int) -> np.ndarray:
    """Whole numbers; products stay below 2^53, so that floats hold them exactly in any order of summation."""
    angles = np.pi / (2 * means) * np.outer(np.arange(1, frequencies + 1), 2 * np.arange(means) + 1)
    return np.round(2**14 * np.cos(angles))


_SHORT, _LONG = _cosines(32, 8), _cosines(64, 16)
_WAVE = 2.0**28 * 32 * 32 / 4
"""The coefficient of a wave of amplitude 1."""


def hash_of(grey: Image.Image, box: tuple[int, int, int, int] | None = None) -> Hash:
    """Of a grey picture, or of a `box` (left, top, right, bottom) of it; `NOTHING` where there is too little to see."""
    strengths = _strengths(grey, box, _SHORT)
    if np.median(np.abs(strengths)) < LEAST_DETAIL * _WAVE:
        return NOTHING
    return Hash(_bits(strengths)[0], tuple(_bits(_strengths(grey, box, _LONG))))


def grey_of(rgb: np.ndarray) -> Image.Image:
    return Image.fromarray(rgb).convert("L")


def _strengths(grey: Image.Image, box: tuple[int, int, int, int] | None, cosines: np.ndarray) -> np.ndarray:
    count = cosines.shape[1]
    means = np.asarray(grey.resize((count, count), Image.Resampling.BOX, box), np.float64)
    return (cosines @ means @ cosines.T).ravel()


def _bits(strengths: np.ndarray) -> list[int]:
    ordered = np.sort(strengths)
    middle = len(ordered) // 2
    above = 2 * strengths > ordered[middle - 1] + ordered[middle]
    return np.packbits(above, bitorder="little").view("<u8").tolist()


CROPS = 1308


def crops(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of the picture's own shape: 95, 90 ... 50 % of its sides, and from one to the
    next about 5 % of its own: as much as a hash allows for. `CROPS` of them."""
    for percent in range(95, 49, -5):
        steps = round((100 - percent) * 20 / percent)
        wide, high = width * percent // 100, height * percent // 100
        for down in range(steps + 1):
            for across in range(steps + 1):
                left, top = (width - wide) * across // steps, (height - high) * down // steps
                yield left, top, left + wide, top + high


def key_times_us(frame_times_us: tuple[int, ...], count: int) -> list[int]:
    """Times of the frames that are shown in the middle of `count` equal stretches; fewer frames may repeat."""
    if not frame_times_us:
        return []
    wanted = [(2 * i + 1) * frame_times_us[-1] / (2 * count) for i in range(count)]
    places = np.searchsorted(frame_times_us, wanted, side="right") - 1
    return [frame_times_us[place] for place in places.tolist()]
