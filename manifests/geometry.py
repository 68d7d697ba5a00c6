"""From pixels to patches to slots, and from seconds to frames to chunks: pure functions, written once.

Tokenization, packing and model all read these. Source: the released Kimi K2.5 image and video processors (spec facts
in docs/model.md); where the release leaves a choice it is named in the docstring.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

PATCH_PX = 14
CHANNELS = 3
MERGE = 2
"""2x2 patches become one vision token (a slot)."""
CHUNK_FRAMES = 4
"""Up to four consecutive sampled frames share one set of slots (temporal pooling)."""
MAX_SIDE_PATCHES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """How large media may be in one plan. The defaults are the release's; smaller ones make media fit smaller packs."""

    max_image_patches: int = 16384
    max_frame_patches: int = 4096
    max_video_frames: int | None = None
    sample_fps: float = 2.0
    frames: Literal["released", "by_time"] = "released"
    """`released`: evenly over the frames' numbers, frame i told to be at i / rate of the container. `by_time`: what is
    shown every 1 / sample_fps seconds, told when it is shown. They differ where frames come at a variable rate."""

    def __post_init__(self) -> None:
        if min(self.max_image_patches, self.max_frame_patches) < MERGE**2:
            raise ValueError(f"limits of patches are {MERGE**2} or more: one slot takes so many")
        if self.max_video_frames is not None and self.max_video_frames < 1:
            raise ValueError("max_video_frames is 1 or more")
        if not self.sample_fps > 0:
            raise ValueError("sample_fps is more than 0")
        if self.frames not in ("released", "by_time"):
            raise ValueError(f"frames is {self.frames}, expected released or by_time")


RELEASED_LIMITS = MediaLimits()


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a picture of some size ends up."""

    width_px: int
    height_px: int
    """Size after resizing; right and bottom are then padded with zeros to the grid."""
    rows: int
    cols: int
    """Patches down and across, both even."""

    @property
    def slots(self) -> int:
        return self.rows * self.cols // (MERGE * MERGE)

    @property
    def patches(self) -> int:
        return self.rows * self.cols


def fit(width_px: int, height_px: int, max_patches: int) -> Fit:
    """The released `navit_resize` rule: shrink (never enlarge) under the patch limit, then pad to multiples of 28 px.

    Padding may overshoot `max_patches` slightly, as in the release. Raises ValueError for sizes below 1 px.
    """
    if width_px < 1 or height_px < 1 or max_patches < 1:
        raise ValueError(f"no grid for {width_px} x {height_px} px under {max_patches} patches")
    side_px = MAX_SIDE_PATCHES * PATCH_PX
    by_area = math.sqrt(max_patches / (max(1.0, width_px // PATCH_PX) * max(1.0, height_px // PATCH_PX)))
    scale = min(1.0, by_area, side_px / width_px, side_px / height_px)
    width = min(max(1, int(width_px * scale)), side_px)
    height = min(max(1, int(height_px * scale)), side_px)
    unit = PATCH_PX * MERGE
    return Fit(width, height, -(-height // unit) * MERGE, -(-width // unit) * MERGE)


def choose_frames(
    frame_times_us: tuple[int, ...], limits: MediaLimits = RELEASED_LIMITS, container_fps: float | None = None
) -> tuple[int, ...]:
    """Ordinals of the frames that stand for a video: the released rule from a *true* frame count.

    fps = min(sample_fps, native); n = max(round(N * fps / native), 1), capped; round(linspace(0, N - 1, n)).
    The native rate is the container's, whatever the frames do. Where it tells none, it is N frames over the time they
    cover (the last frame is taken to last as long as the mean gap). Rounding is half-to-even, as numpy's. Times are
    whole microseconds, so a count that is a half at the exact rate (18 frames at 24 per second) comes out beside it by
    them: 5 decimals are kept.
    """
    count = len(frame_times_us)
    if count == 0:
        raise ValueError("a video without frames")
    if limits.frames == "by_time":
        return _shown_at_intervals(frame_times_us, limits)
    if container_fps is not None:
        exact = count * min(limits.sample_fps, container_fps) / container_fps
    else:
        span_us = frame_times_us[-1] - frame_times_us[0]
        native_fps = (count - 1) * 1e6 / span_us if span_us > 0 else limits.sample_fps
        exact = round(count * min(limits.sample_fps, native_fps) / native_fps, 5)
    chosen = max(round(exact), 1)
    if limits.max_video_frames is not None:
        chosen = min(chosen, limits.max_video_frames)
    if chosen == 1:
        return (0,)
    step = (count - 1) / (chosen - 1)
    return tuple(round(i * step) for i in range(chosen))


def _shown_at_intervals(frame_times_us: tuple[int, ...], limits: MediaLimits) -> tuple[int, ...]:
    """Ordinals of the frames on show at 0, 1 / sample_fps, 2 / sample_fps ... seconds after the first, each once; where
    that are more than allowed, at as many times as are, evenly from the first frame to the last."""
    span_us = frame_times_us[-1] - frame_times_us[0]
    times = int(span_us * limits.sample_fps // 1_000_000) + 1
    step_us = 1_000_000 / limits.sample_fps
    if limits.max_video_frames is not None and times > limits.max_video_frames:
        times = limits.max_video_frames
        step_us = span_us / max(1, times - 1)
    wanted = (frame_times_us[0] + round(k * step_us) for k in range(times))
    return tuple(dict.fromkeys(bisect_right(frame_times_us, time_us) - 1 for time_us in wanted))


def chunks(frames: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Consecutive groups of up to four frames; the last may be shorter and is still one chunk."""
    return tuple(frames[i : i + CHUNK_FRAMES] for i in range(0, len(frames), CHUNK_FRAMES))


def frame_time_s(
    frame: int,
    frame_times_us: tuple[int, ...],
    limits: MediaLimits = RELEASED_LIMITS,
    container_fps: float | None = None,
) -> float:
    """What the model reads as the time of a frame: as in the release its number over the container's rate, where there
    is one; `by_time` the time at which it is shown."""
    if limits.frames == "by_time" or container_fps is None:
        return frame_times_us[frame] / 1e6
    return frame / container_fps


def timestamp(seconds: float) -> str:
    """`hh:mm:ss.fff`, the release's timestamp mode.

    Milliseconds are cut off a float, as in the release: where a float is a hair too small, one is lost (4.35 s reads
    00:00:04.349). The model has been trained on such times.
    """
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{int(seconds % 1 * 1000):03d}"
