"""Ops for the pixels of images: blur, entropy, pages of text, animation; and the decoded pictures that ops share.

All ops measure the same small picture, its shorter side 256 px, so that a number means the same at any size and a
picture is decoded once for all ops of a node. A document with several images is dropped only if none of them passes.

Sources: the variance of the Laplacian as a measure of focus is that of Pech-Pacheco et al. 2000; limits are ours, at
this size. Measurements: docs/visual.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from PIL import Image

from manifests.errors import RecordError
from manifests.load import schema
from manifests.records import Document, Media
from pipelines.filters.op import Limit, Measured
from stores.media.image import frames, reduced_rgb

SIDE_PX = 256
"""Shorter side of the picture that is measured; smaller pictures are not enlarged."""
CACHE_BYTES = 32 << 20
"""Memory for small pictures that the next op of the same document reads again."""


@schema
class BlurredImage(Measured):
    """Every image is out of focus: the variance of its Laplacian, in squared levels of 255, is below `min_focus`."""

    READS_MEDIA = True
    LIMITS = (Limit("focus", "below", "min_focus", "blurred_image"),)
    kind: Literal["blurred_image"]
    min_focus: float = 10.0

    def measure(self, document: Document) -> Mapping[str, float]:
        return best_score("focus", document, max, lambda image: focus(gray_of(image)))


@schema
class LowEntropy(Measured):
    """The histogram of gray levels of every image has an entropy below `min_bits` per pixel: it shows next to
    nothing."""

    READS_MEDIA = True
    LIMITS = (Limit("bits", "below", "min_bits", "low_entropy"),)
    kind: Literal["low_entropy"]
    min_bits: float = 0.5

    def measure(self, document: Document) -> Mapping[str, float]:
        return best_score("bits", document, max, lambda image: entropy(gray_of(image)))


@schema
class TextOnlyImage(Measured):
    """Every image is a page of text, by a heuristic: many of its non-empty tiles look like writing.

    A tile of 16 x 16 px looks like writing if a third of its pixels have the color of the page's background, and a
    tenth differ strongly from their neighbor. For captions; not for domains that are about text.
    """

    READS_MEDIA = True
    LIMITS = (Limit("writing", "above", "max_writing", "text_only_image"),)
    kind: Literal["text_only_image"]
    max_writing: float = 0.4
    """Share of non-empty tiles that look like writing."""

    def measure(self, document: Document) -> Mapping[str, float]:
        return best_score("writing", document, min, lambda image: writing(gray_of(image)))


@schema
class AnimatedImage(Measured):
    """Every image has more than `max_frames` frames; a model sees only the first."""

    READS_MEDIA = True
    LIMITS = (Limit("frames", "above", "max_frames", "animated_image"),)
    kind: Literal["animated_image"]
    max_frames: int = 1

    def measure(self, document: Document) -> Mapping[str, float]:
        return best_score("frames", document, min, lambda image: frames(payload_of(image)))


def best_score(
    name: str,
    document: Document,
    best: Callable[[list[float]], float],
    score: Callable[[Media], float],
    kind: str = "image",
) -> Mapping[str, float]:
    """Return {name: score} of the document's medium with the best score; {} if it has no medium of this kind.

    Args:
        best: `max` if high scores are good, `min` if low ones are.
    """
    values = [score(medium) for medium in document.media if medium.kind == kind]
    return {name: best(values)} if values else {}


def focus(gray: np.ndarray) -> float:
    """Return the variance of the Laplacian of (H, W) uint8; 0 without inner pixels."""
    if min(gray.shape) < 3:
        return 0.0
    level = gray.astype(np.int16)
    inner = level[1:-1, 1:-1]
    laplacian = level[:-2, 1:-1] + level[2:, 1:-1] + level[1:-1, :-2] + level[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def entropy(gray: np.ndarray) -> float:
    """Return the entropy of the histogram of 256 levels, in bits per pixel."""
    counts = np.bincount(gray.ravel(), minlength=256)
    shares = counts[counts > 0] / gray.size
    return float(-(shares * np.log2(shares)).sum())


TILE_PX = 16
NEAR_LEVELS, EDGE_LEVELS = 24, 32
"""Levels of 255: a pixel this near to the background belongs to it; a difference this large is an edge."""


def writing(gray: np.ndarray) -> float:
    """Return the share of non-empty tiles of (H, W) uint8 that look like writing; 0 if all are empty."""
    rows, columns = (side // TILE_PX for side in gray.shape)
    if not rows * columns:
        return 0.0
    level = gray[: rows * TILE_PX, : columns * TILE_PX].astype(np.int16)
    background = int(np.convolve(np.bincount(gray.ravel(), minlength=256), np.ones(9), "same").argmax())
    plain = _by_tile(np.abs(level - background) < NEAR_LEVELS)
    edges = _by_tile(np.abs(np.diff(level, axis=1, append=level[:, -1:])) >= EDGE_LEVELS)
    full = plain < 0.98
    return float((full & (plain >= 1 / 3) & (edges >= 0.1)).sum() / max(1, full.sum()))


def _by_tile(mask: np.ndarray) -> np.ndarray:
    """Return the share of true pixels in each tile."""
    rows, columns = (side // TILE_PX for side in mask.shape)
    return mask.reshape(rows, TILE_PX, columns, TILE_PX).mean(axis=(1, 3))


def rgb_of(image: Media) -> np.ndarray:
    """Return (H, W, 3) uint8, upright, the shorter side at most 256 px.

    Raises:
        RecordError: the image does not decode.
    """
    return cached(("rgb", image.digest), lambda: reduced_rgb(payload_of(image), SIDE_PX))


def gray_of(image: Media) -> np.ndarray:
    """Return (H, W) uint8 gray levels of `rgb_of`, as Pillow's "L"."""
    return cached(("gray", image.digest), lambda: gray_levels(rgb_of(image)))


def gray_levels(rgb: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) uint8 to (H, W) uint8."""
    return np.asarray(Image.fromarray(rgb).convert("L"))


def payload_of(medium: Media) -> bytes:
    """Return the encoded bytes of a medium.

    Raises:
        RecordError: they were not loaded.
    """
    if medium.payload is None:
        raise RecordError("no_payload", f"{medium.kind} {medium.digest} was not read")
    return medium.payload


_CACHE: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
"""Least recently used first."""


def cached(key: tuple[str, str], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array of `key`, computed once for all ops of a filter, which read a document one after the other.

    Args:
        key: name of the array, and digest of the medium that it is computed from.
    """
    array = _CACHE.pop(key, None)
    _CACHE[key] = array = compute() if array is None else array
    while len(_CACHE) > 1 and sum(each.nbytes for each in _CACHE.values()) > CACHE_BYTES:
        _CACHE.popitem(last=False)
    return array
