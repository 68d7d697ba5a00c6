"""Ops for videos: motion, cuts, duration, gaps between frames.

A document with several videos is dropped only if none of them passes. Motion is measured on frames a quarter of a
second apart, in gray, with a shorter side of 64 px; they are decoded once for all ops of a node. Limits are ours.
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
from pipelines.filters.pixels import best_score, cached, gray_levels, payload_of
from stores.media.image import small_rgb
from stores.media.video import frames_at

SIDE_PX, APART_US = 64, 250_000
"""Shorter side and distance in time of the frames that are compared."""
MOST_FRAMES = 2400
"""Number of frames that are compared: the first ten minutes of a video."""


@schema
class StaticVideo(Measured):
    """No video moves: no two neighboring frames differ by `min_change` levels of 255 on average."""

    READS_MEDIA = True
    LIMITS = (Limit("change", "below", "min_change", "static_video"),)
    kind: Literal["static_video"]
    min_change: float = 1.0

    def measure(self, document: Document) -> Mapping[str, float]:
        return best_score("change", document, max, lambda video: float(changes(video).max(initial=0)), "video")


@schema
class CutHeavy(Measured):
    """Every video has more than `max_cuts_per_minute` cuts: neighboring frames that differ by 40 levels on average."""

    READS_MEDIA = True
    CUT: ClassVar[float] = 40.0
    LIMITS = (Limit("cuts_per_minute", "above", "max_cuts_per_minute", "cut_heavy"),)
    kind: Literal["cut_heavy"]
    max_cuts_per_minute: float = 60.0

    def measure(self, document: Document) -> Mapping[str, float]:
        return best_score("cuts_per_minute", document, min, self._rate, "video")

    def _rate(self, video: Media) -> float:
        differences = changes(video)
        cuts = int((differences >= self.CUT).sum())
        return cuts * 60e6 / (APART_US * max(1, len(differences)))


@schema
class VideoTooLong(Measured):
    """Every video lasts longer than `max_duration_s`. Bounds the cost of decoding a video."""

    LIMITS = (Limit("duration_s", "above", "max_duration_s", "video_too_long"),)
    kind: Literal["video_too_long"]
    max_duration_s: float = 3600.0

    def measure(self, document: Document) -> Mapping[str, float]:
        return best_score("duration_s", document, min, duration_s, "video")


@schema
class BrokenTimestamps(Measured):
    """Every video has a gap: no new frame for longer than `max_gap_s`."""

    LIMITS = (Limit("gap_s", "above", "max_gap_s", "broken_timestamps"),)
    kind: Literal["broken_timestamps"]
    max_gap_s: float = 10.0
    """In seconds; longer than in screen recordings, which have a frame whenever the picture changes."""

    def measure(self, document: Document) -> Mapping[str, float]:
        return best_score("gap_s", document, min, longest_gap_s, "video")


def longest_gap_s(video: Media) -> float:
    """Return the longest time between two neighboring frames."""
    return max((b - a for a, b in pairwise(video.frame_times_us)), default=0) / 1e6


def changes(video: Media) -> np.ndarray:
    """Return (n - 1,) float64, the mean difference between neighbors of n frames, in levels of 255."""

    def compute() -> np.ndarray:
        times_us: list[int] = []
        for time_us in video.frame_times_us:
            if not times_us or time_us - times_us[-1] >= APART_US:
                times_us.append(time_us)
        times_us = times_us[:MOST_FRAMES]
        frames = frames_at(payload_of(video), times_us, each=lambda rgb: gray_levels(small_rgb(rgb, SIDE_PX)))
        return np.array([np.abs(a.astype(np.int16) - b).mean() for a, b in pairwise(frames)])

    return cached(("changes", video.digest), compute)
