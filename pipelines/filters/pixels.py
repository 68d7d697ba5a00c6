"""Filters that look at pixels of images: blur, emptiness, pages of text, animation.

All of them measure the same small picture, its shorter side 256 px, so that numbers mean the same at any size and a
picture is decoded once for all ops of a node. A document with several images is dropped only when none of them passes.

Sources: the variance of the Laplacian as a measure of focus is that of Pech-Pacheco et al. 2000; limits are ours, at
this size. What was measured: docs/visual.md.
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
from stores.media import image as pictures

SIDE_PX = 256
KEPT_BYTES = 32 << 20
"""Of small pictures, for the next op that looks at the same document."""


@schema
class BlurredImage(Measured):
    """Every image is out of focus: the variance of its Laplacian, in squared levels of 255, is below `min_focus`."""

    READS_MEDIA = True
    LIMITS = (Limit("focus", "below", "min_focus", "blurred_image"),)
    kind: Literal["blurred_image"]
    min_focus: float = 10.0

    def measure(self, document: Document) -> Mapping[str, float]:
        return of_best("focus", document, max, lambda image: focus(grey_of(image)))


@schema
class LowEntropy(Measured):
    """The levels of grey of every image say next to nothing: the entropy of their histogram is below `min_bits`."""

    READS_MEDIA = True
    LIMITS = (Limit("bits", "below", "min_bits", "low_entropy"),)
    kind: Literal["low_entropy"]
    min_bits: float = 0.5

    def measure(self, document: Document) -> Mapping[str, float]:
        return of_best("bits", document, max, lambda image: entropy(grey_of(image)))


@schema
class TextOnlyImage(Measured):
    """Every image is a page of text, by a heuristic: of its tiles that are not empty, many look like writing.

    A tile of 16 x 16 px does where a third of its pixels have the page's background, and a tenth differ strongly from
    their neighbour. A page with a picture has tiles of another kind. For captions; not for domains that are about text.
    """

    READS_MEDIA = True
    LIMITS = (Limit("writing", "above", "max_writing", "text_only_image"),)
    kind: Literal["text_only_image"]
    max_writing: float = 0.4
    """Share of the tiles that look like writing."""

    def measure(self, document: Document) -> Mapping[str, float]:
        return of_best("writing", document, min, lambda image: writing(grey_of(image)))


@schema
class AnimatedImage(Measured):
    """Every image has more than `max_frames` frames, of which a model sees the first only."""

    READS_MEDIA = True
    LIMITS = (Limit("frames", "above", "max_frames", "animated_image"),)
    kind: Literal["animated_image"]
    max_frames: int = 1

    def measure(self, document: Document) -> Mapping[str, float]:
        return of_best("frames", document, min, lambda image: pictures.frames(payload_of(image)))


def of_best(
    name: str,
    document: Document,
    best: Callable[[list[float]], float],
    of: Callable[[Media], float],
    kind: str = "image",
) -> Mapping[str, float]:
    """The score of the medium of that kind which comes off best; none where there is none."""
    values = [of(medium) for medium in document.media if medium.kind == kind]
    return {name: best(values)} if values else {}


def focus(grey: np.ndarray) -> float:
    """Variance of the Laplacian of (H, W) uint8; 0 where there is no inner pixel."""
    if min(grey.shape) < 3:
        return 0.0
    level = grey.astype(np.int16)
    inner = level[1:-1, 1:-1]
    laplacian = level[:-2, 1:-1] + level[2:, 1:-1] + level[1:-1, :-2] + level[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def entropy(grey: np.ndarray) -> float:
    """Bits a pixel of the histogram of 256 levels."""
    counts = np.bincount(grey.ravel(), minlength=256)
    shares = counts[counts > 0] / grey.size
    return float(-(shares * np.log2(shares)).sum())


TILE_PX, ALIKE, STRONG = 16, 24, 32


def writing(grey: np.ndarray) -> float:
    """Share of the tiles that look like writing, of those that are not empty; 0 where all are."""
    rows, columns = (side // TILE_PX for side in grey.shape)
    if not rows * columns:
        return 0.0
    level = grey[: rows * TILE_PX, : columns * TILE_PX].astype(np.int16)
    background = int(np.convolve(np.bincount(grey.ravel(), minlength=256), np.ones(9), "same").argmax())
    plain = _by_tile(np.abs(level - background) < ALIKE)
    edges = _by_tile(np.abs(np.diff(level, axis=1, append=level[:, -1:])) >= STRONG)
    full = plain < 0.98
    return float((full & (plain >= 1 / 3) & (edges >= 0.1)).sum() / max(1, full.sum()))


def _by_tile(true: np.ndarray) -> np.ndarray:
    """Share of pixels in each tile."""
    rows, columns = (side // TILE_PX for side in true.shape)
    return true.reshape(rows, TILE_PX, columns, TILE_PX).mean(axis=(1, 3))


def rgb_of(image: Media) -> np.ndarray:
    """(H, W, 3) uint8, upright, the shorter side at most 256 px. Raises RecordError for bytes that do not decode."""
    return recent(("rgb", image.digest), lambda: pictures.reduced_rgb(payload_of(image), SIDE_PX))


def grey_of(image: Media) -> np.ndarray:
    """(H, W) uint8 of the same, as Pillow's "L"."""
    return recent(("grey", image.digest), lambda: grey_levels(rgb_of(image)))


def grey_levels(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("L"))


def payload_of(medium: Media) -> bytes:
    if medium.payload is None:
        raise RecordError("no_payload", f"{medium.kind} {medium.digest} was not read")
    return medium.payload


_KEPT: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()


def recent(key: tuple[str, str], make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` gives, made once for all ops of a filter, which look at a document one after the other.

    Args:
        key: what it is, and the digest of the medium that it is made of.
    """
    made = _KEPT.pop(key, None)
    _KEPT[key] = made = make() if made is None else made
    while len(_KEPT) > 1 and sum(array.nbytes for array in _KEPT.values()) > KEPT_BYTES:
        _KEPT.popitem(last=False)
    return made
