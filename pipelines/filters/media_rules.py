"""Ops for media without text, and for the size, shape and emptiness of images.

A document with several images is dropped only if none of them passes: an icon does not cost a page its photographs.
Sizes come from the index; only `flat_image` decodes pixels.

Sources: rules of thumb, ours. OBELICS (Laurencon et al. 2023) keeps sides of at least 150 px and aspects up to 2, which
suits web photographs; charts, pages and icons for a native-resolution model need wider limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from PIL import Image

from manifests.load import schema
from manifests.records import Document, Drop, Media
from pipelines.filters.op import Limit, Measured, Op
from pipelines.filters.pixels import rgb_of


@schema
class NoText(Op):
    """Documents with media and no text: there is nothing to predict."""

    kind: Literal["no_text"]

    def decide(self, document: Document) -> Drop | None:
        return Drop("no_text") if document.media and not document.text.strip() else None


@schema
class ImageTooSmall(Measured):
    """The shorter side of every image is below `min_side_px`. The default is the side of one slot, 2 x 2 patches of
    14 px: smaller images are mostly padding."""

    LIMITS = (Limit("side_px", "below", "min_side_px", "image_too_small"),)
    kind: Literal["image_too_small"]
    min_side_px: int = 28

    def measure(self, document: Document) -> Mapping[str, float]:
        sides = [min(image.width_px, image.height_px) for image in images(document)]
        return {"side_px": max(sides)} if sides else {}


@schema
class ExtremeAspect(Measured):
    """The longer side of every image is more than `max_aspect` times the shorter one."""

    LIMITS = (Limit("aspect", "above", "max_aspect", "extreme_aspect"),)
    kind: Literal["extreme_aspect"]
    max_aspect: float = 10.0

    def measure(self, document: Document) -> Mapping[str, float]:
        aspects = [max(i.width_px, i.height_px) / min(i.width_px, i.height_px) for i in images(document)]
        return {"aspect": min(aspects)} if aspects else {}


@schema
class FlatImage(Measured):
    """Every image shows one color: in no channel do two pixels differ by `min_spread` levels of 255 or more.

    Measured at a shorter side of 256 px, as the ops of `filters/pixels.py`.
    """

    VERSION = 3
    READS_MEDIA = True
    LIMITS = (Limit("spread", "below", "min_spread", "flat_image"),)
    kind: Literal["flat_image"]
    min_spread: int = 9
    """In levels of 255; the default tolerates the noise that JPEG adds to a single color."""

    def measure(self, document: Document) -> Mapping[str, float]:
        spreads = [spread(image) for image in images(document)]
        return {"spread": max(spreads)} if spreads else {}


def images(document: Document) -> list[Media]:
    """Return the images of a document."""
    return [media for media in document.media if media.kind == "image"]


def spread(image: Media) -> int:
    """Return the largest difference between two pixels of one channel, in levels of 255."""
    # Pillow takes a tenth of the time of numpy, because channels are interleaved.
    extremes: Any = Image.fromarray(rgb_of(image)).getextrema()
    return max(high - low for low, high in extremes)
