"""Ops for videos: duration, motion and cuts, gaps between frames.

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
from pipelines.filters.op import Limit, Measured
from pipelines.filters.pixels import best_score, cached, gray_levels, payload_of
from stores.media.image import small_rgb
from stores.media.video import frames_at

SIDE_PX, APART_US = 64, 250_000
"""Shorter side and distance in time of the frames that are compared."""
MOST_FRAMES = 2400
"""Number of frames that are compared: the first ten minutes of a video."""


@schema
class VideoDuration(Measured):
    """No video has `min_frames` or lasts `min_duration_s`, or all last longer than `max_duration_s`; `no_frames` if any
    video has none. The upper limit bounds the cost of decoding."""

    LIMITS = (
        Limit("fewest_frames", "below", "ANY", "no_frames"),
        Limit("frames", "below", "min_frames", "video_too_short"),
        Limit("longest_s", "below", "min_duration_s", "video_too_short"),
        Limit("shortest_s", "above", "max_duration_s", "video_too_long"),
    )
    ANY: ClassVar[int] = 1
    """Fixed limit: every video must have a frame."""
    RENAMED_KINDS: ClassVar[Mapping[str, str]] = {
        "video_too_short": "write video_duration, with min_frames and min_duration_s as before",
        "video_too_long": "write video_duration, with max_duration_s as before, min_frames: 0 and min_duration_s: 0",
    }
    kind: Literal["video_duration"]
    min_frames: int = 2
    min_duration_s: float = 0.5
    max_duration_s: float = 3600.0

    def measure(self, document: Document) -> Mapping[str, float]:
        videos = [medium for medium in document.media if medium.kind == "video"]
        if not videos:
            return {}
        frames = [len(video.frame_times_us) for video in videos]
        durations = [duration_s(video) for video in videos]
        return {
            "fewest_frames": min(frames),
            "frames": max(frames),
            "longest_s": max(durations),
            "shortest_s": min(durations),
        }


@schema
class VideoMotion(Measured):
    """No video moves, or all have too many cuts.

    A video does not move if no two neighboring frames differ by `min_change` levels of 255 on average; a difference of
    40 levels is a cut.
    """

    READS_MEDIA = True
    LIMITS = (
        Limit("change", "below", "min_change", "static_video"),
        Limit("cuts_per_minute", "above", "max_cuts_per_minute", "cut_heavy"),
    )
    RENAMED_KINDS: ClassVar[Mapping[str, str]] = {
        "static_video": "write video_motion, with min_change as before; max_cuts_per_minute is its other limit",
        "cut_heavy": "write video_motion, with max_cuts_per_minute as before, and min_change: 0 to keep static videos",
    }
    CUT_LEVELS: ClassVar[float] = 40.0
    """Mean difference between two frames that counts as a cut."""
    kind: Literal["video_motion"]
    min_change: float = 1.0
    max_cuts_per_minute: float = 60.0

    def measure(self, document: Document) -> Mapping[str, float]:
        change = best_score("change", document, max, lambda video: float(changes(video).max(initial=0)), "video")
        cuts = best_score("cuts_per_minute", document, min, self._cuts_per_minute, "video")
        return {**change, **cuts}

    def _cuts_per_minute(self, video: Media) -> float:
        differences = changes(video)
        cuts = int((differences >= self.CUT_LEVELS).sum())
        return cuts * 60e6 / (APART_US * max(1, len(differences)))


@schema
class BrokenTimestamps(Measured):
    """Every video has a gap: no new frame for longer than `max_gap_s`."""

    LIMITS = (Limit("gap_s", "above", "max_gap_s", "broken_timestamps"),)
    kind: Literal["broken_timestamps"]
    max_gap_s: float = 10.0
    """In seconds; longer than in screen recordings, which have a frame whenever the picture changes."""

    def measure(self, document: Document) -> Mapping[str, float]:
        return best_score("gap_s", document, min, longest_gap_s, "video")


def duration_s(video: Media) -> float:
    """Return the time from the first frame to the end of the last, which lasts as long as the mean gap."""
    times = video.frame_times_us
    gaps = len(times) - 1
    return (times[-1] - times[0]) * (1 + 1 / gaps) / 1e6 if gaps > 0 else 0.0


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
