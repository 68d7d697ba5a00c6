"""Filters that look at images and videos: size, shape, emptiness, and whether there is a word to go with them.

Same form as `text.py`. A document with several media is dropped only when none of them passes: an icon does not cost a
page its photographs. Sizes and frame times are known from ingest; an op that must see pixels says `READS_MEDIA`, and
the runner then fills in the payloads.

Sources: rules of thumb, ours. OBELICS (Laurencon et al. 2023) keeps sides of at least 150 px and aspects up to 2; that
suits web photographs, while charts, pages and icons of a native-resolution model reach further.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from manifests.errors import RecordError
from manifests.load import schema
from manifests.records import Document, Drop, Media
from pipelines.ops.text import concerns
from stores.image import decode_rgb


@schema
class NoText:
    """Media without a word: nothing to predict from them."""

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    kind: Literal["no_text"]
    domains: tuple[str, ...] = ()

    def apply(self, document: Document) -> Document | Drop:
        silent = bool(document.media) and not document.text.strip()
        return Drop("no_text") if silent and concerns(self.domains, document) else document


@schema
class ImageTooSmall:
    """The shorter side of every image is below `min_side_px`. The default is a slot: less is mostly padding."""

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    kind: Literal["image_too_small"]
    min_side_px: int = 28
    domains: tuple[str, ...] = ()

    def apply(self, document: Document) -> Document | Drop:
        sides = [min(image.width_px, image.height_px) for image in images(document)]
        too_small = bool(sides) and max(sides) < self.min_side_px
        return Drop("image_too_small", max(sides)) if too_small and concerns(self.domains, document) else document


@schema
class ExtremeAspect:
    """The longer side of every image is more than `max_aspect` times the shorter one."""

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    kind: Literal["extreme_aspect"]
    max_aspect: float = 10.0
    domains: tuple[str, ...] = ()

    def apply(self, document: Document) -> Document | Drop:
        aspects = [max(i.width_px, i.height_px) / min(i.width_px, i.height_px) for i in images(document)]
        extreme = bool(aspects) and min(aspects) > self.max_aspect
        return Drop("extreme_aspect", min(aspects)) if extreme and concerns(self.domains, document) else document


@schema
class FlatImage:
    """Every image shows one colour: in no channel do two pixels differ by more than `max_spread` levels of 255.

    Raises RecordError for bytes that do not decode.
    """

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = True
    kind: Literal["flat_image"]
    max_spread: int = 8
    """Room for the noise that JPEG adds to a single colour."""
    domains: tuple[str, ...] = ()

    def apply(self, document: Document) -> Document | Drop:
        if not images(document) or not concerns(self.domains, document):
            return document
        widest = 0
        for image in images(document):
            widest = max(widest, spread(image))
            if widest > self.max_spread:
                return document
        return Drop("flat_image", widest)


@schema
class VideoTooShort:
    """Every video is below `min_frames` or `min_duration_s`. One without any frame drops the document: `no_frames`."""

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    kind: Literal["video_too_short"]
    min_frames: int = 2
    min_duration_s: float = 0.5
    domains: tuple[str, ...] = ()

    def apply(self, document: Document) -> Document | Drop:
        videos = [media for media in document.media if media.kind == "video"]
        if not videos or not concerns(self.domains, document):
            return document
        if not all(video.frame_times_us for video in videos):
            return Drop("no_frames", 0)
        lasting = [duration_s(video) for video in videos if len(video.frame_times_us) >= self.min_frames]
        if lasting and max(lasting) >= self.min_duration_s:
            return document
        return Drop("video_too_short", max(map(duration_s, videos)))


def images(document: Document) -> list[Media]:
    return [media for media in document.media if media.kind == "image"]


def spread(image: Media) -> int:
    """Largest difference between two pixels of one channel, in levels of 255."""
    if image.payload is None:
        raise RecordError("no_payload", f"image {image.digest} was not read")
    rgb = decode_rgb(image.payload)
    low, high = rgb.min(axis=(0, 1)).astype(int), rgb.max(axis=(0, 1)).astype(int)
    return int((high - low).max())


def duration_s(video: Media) -> float:
    """From the first frame to the end of the last, which lasts as long as the mean gap."""
    times = video.frame_times_us
    gaps = len(times) - 1
    return (times[-1] - times[0]) * (1 + 1 / gaps) / 1e6 if gaps > 0 else 0.0
