"""Filters that look at videos: nothing moves, nothing but cuts, too long, holes in time.

A document with several videos is dropped only when none of them passes. What moves is measured on frames a quarter of a
second apart, in grey and 64 px small; they are decoded once for all ops of a node. Limits are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from manifests.load import schema
from manifests.records import Document, Media
from pipelines.filters.media_rules import duration_s
from pipelines.filters.op import Limit, Measured
from pipelines.filters.pixels import grey_levels, of_best, payload_of, recent
from stores.media.image import small_rgb
from stores.media.video import frames_at

SIDE_PX, APART_US = 64, 250_000
MOST_FRAMES = 2400
"""Ten minutes of a video; the rest is not looked at."""


@schema
class StaticVideo(Measured):
    """In no video anything moves: neighbouring frames nowhere differ by `min_change` levels of 255 on average."""

    READS_MEDIA = True
    LIMITS = (Limit("change", "below", "min_change", "static_video"),)
    kind: Literal["static_video"]
    min_change: float = 1.0

    def measure(self, document: Document) -> Mapping[str, float]:
        return of_best("change", document, max, lambda video: float(changes(video).max(initial=0)), "video")


@schema
class CutHeavy(Measured):
    """Every video is cut more than `max_cuts_per_minute` times: neighbouring frames differ by 40 levels on average."""

    READS_MEDIA = True
    CUT: ClassVar[float] = 40.0
    LIMITS = (Limit("cuts_per_minute", "above", "max_cuts_per_minute", "cut_heavy"),)
    kind: Literal["cut_heavy"]
    max_cuts_per_minute: float = 60.0

    def measure(self, document: Document) -> Mapping[str, float]:
        return of_best("cuts_per_minute", document, min, self._rate, "video")

    def _rate(self, video: Media) -> float:
        found = changes(video)
        cuts = int((found >= self.CUT).sum())
        return cuts * 60e6 / (APART_US * max(1, len(found)))


@schema
class VideoTooLong(Measured):
    """Every video lasts longer than `max_duration_s`. Bounds what decoding one costs."""

    LIMITS = (Limit("duration_s", "above", "max_duration_s", "video_too_long"),)
    kind: Literal["video_too_long"]
    max_duration_s: float = 3600.0

    def measure(self, document: Document) -> Mapping[str, float]:
        return of_best("duration_s", document, min, duration_s, "video")


@schema
class BrokenTimestamps(Measured):
    """Every video has a hole: for longer than `max_gap_s` no frame is shown."""

    LIMITS = (Limit("gap_s", "above", "max_gap_s", "broken_timestamps"),)
    kind: Literal["broken_timestamps"]
    max_gap_s: float = 10.0
    """More than screen recordings have, which show a frame when something changes."""

    def measure(self, document: Document) -> Mapping[str, float]:
        return of_best("gap_s", document, min, longest_gap_s, "video")


def longest_gap_s(video: Media) -> float:
    return max((b - a for a, b in pairwise(video.frame_times_us)), default=0) / 1e6


def changes(video: Media) -> np.ndarray:
    """(n - 1,) mean difference between neighbours of n frames, in levels of 255."""

    def made() -> np.ndarray:
        wanted: list[int] = []
        for time_us in video.frame_times_us:
            if not wanted or time_us - wanted[-1] >= APART_US:
                wanted.append(time_us)
        some = wanted[:MOST_FRAMES]
        frames = frames_at(payload_of(video), some, each=lambda rgb: grey_levels(small_rgb(rgb, SIDE_PX)))
        return np.array([np.abs(a.astype(np.int16) - b).mean() for a, b in pairwise(frames)])

    return recent(("changes", video.digest), made)
