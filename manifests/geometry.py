"""Arithmetic from pixels to patches to slots, and from seconds to frames to chunks, as pure functions.

Tokenization, packing and model use it. Source: the released Kimi K2.5 image and video processors (facts in
docs/model.md); docstrings name the points that the release leaves open.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

PATCH_PX = 14
CHANNELS = 3
MERGE = 2
"""Side of the square of patches that become one vision token (a slot): 2 x 2."""
CHUNK_FRAMES = 4
"""Largest number of consecutive sampled frames that share one set of slots (temporal pooling)."""
MAX_SIDE_PATCHES = 512
"""Bound on each side of the grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """Size limits of media in one plan. The defaults are the release's; smaller limits make media fit smaller packs."""

    max_image_patches: int = 16384
    """Patches of one image."""
    max_frame_patches: int = 4096
    """Patches of one video frame."""
    max_video_frames: int | None = None
    """Chosen frames of one video; None for no limit."""
    sample_fps: float = 2.0
    """Frames to choose per second."""
    frames: Literal["released", "by_time"] = "released"
    """Rule of choice. `released`: evenly by frame number; the model reads i / (rate of the container) as the time of
    frame i. `by_time`: the frames shown every 1 / sample_fps seconds, with the times at which they are shown. The rules
    differ for videos of variable rate."""

    def __post_init__(self) -> None:
        if min(self.max_image_patches, self.max_frame_patches) < MERGE**2:
            raise ValueError(f"expected limits of at least {MERGE**2} patches, the size of one slot")
        if self.max_video_frames is not None and self.max_video_frames < 1:
            raise ValueError(f"expected max_video_frames of at least 1, got {self.max_video_frames}")
        if not self.sample_fps > 0:
            raise ValueError(f"expected sample_fps above 0, got {self.sample_fps}")
        if self.frames not in ("released", "by_time"):
            raise ValueError(f"frames is {self.frames}, expected released or by_time")


RELEASED_LIMITS = MediaLimits()


@dataclass(frozen=True, slots=True)
class Fit:
    """Size and grid of an image after resizing."""

    width_px: int
    height_px: int
    """Height after resizing; right and bottom are then padded with zeros to the grid."""
    rows: int
    """Patches down, even."""
    cols: int
    """Patches across, even."""

    @property
    def slots(self) -> int:
        """Vision tokens."""
        return self.rows * self.cols // (MERGE * MERGE)

    @property
    def patches(self) -> int:
        """Patches of the grid, padding included."""
        return self.rows * self.cols


def fit(width_px: int, height_px: int, max_patches: int) -> Fit:
    """Fit an image under a patch limit by the released `navit_resize` rule.

    It shrinks, never enlarges, and then pads to multiples of 28 px. Padding may exceed `max_patches` slightly, as in
    the release.

    Raises:
        ValueError: a size or the limit is below 1.
    """
    if width_px < 1 or height_px < 1 or max_patches < 1:
        raise ValueError(
            f"expected at least 1 x 1 px and 1 patch, got {width_px} x {height_px} px, {max_patches} patches"
        )
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
    """Choose the frames of a video: the released rule, from the number of frames that decode.

    fps = min(sample_fps, native); n = max(round(N * fps / native), 1), capped; round(linspace(0, N - 1, n)).
    The native rate is the one that the container declares. Without one it is N frames over the time that they cover
    (the last frame counts as long as the mean gap). Rounding is half-to-even, as numpy's. Times are whole microseconds,
    so a count that is exactly a half at the true rate (18 frames at 24 per second) comes out slightly off; it is
    therefore first rounded to 5 decimals.

    Returns:
        frame numbers, ascending.
    """
    count = len(frame_times_us)
    if count == 0:
        raise ValueError("expected at least one frame, got none")
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
    """Choose the frames shown 0, 1 / sample_fps, 2 / sample_fps ... seconds after the first, each once.

    If that gives more than `max_video_frames`, the times are spread evenly from the first frame to the last.
    """
    span_us = frame_times_us[-1] - frame_times_us[0]
    times = int(span_us * limits.sample_fps // 1_000_000) + 1
    step_us = 1_000_000 / limits.sample_fps
    if limits.max_video_frames is not None and times > limits.max_video_frames:
        times = limits.max_video_frames
        step_us = span_us / max(1, times - 1)
    wanted = (frame_times_us[0] + round(k * step_us) for k in range(times))
    return tuple(dict.fromkeys(bisect_right(frame_times_us, time_us) - 1 for time_us in wanted))


def chunks(frames: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Group consecutive frames by four; the last chunk may be shorter."""
    return tuple(frames[i : i + CHUNK_FRAMES] for i in range(0, len(frames), CHUNK_FRAMES))


def frame_time_s(
    frame: int,
    frame_times_us: tuple[int, ...],
    limits: MediaLimits = RELEASED_LIMITS,
    container_fps: float | None = None,
) -> float:
    """Return the time of a frame as the model reads it.

    As in the release, it is the frame number over the container's rate. With `by_time`, or without such a rate, it is
    the time at which the frame is shown."""
    if limits.frames == "by_time" or container_fps is None:
        return frame_times_us[frame] / 1e6
    return frame / container_fps


def timestamp(seconds: float) -> str:
    """Format a time as `hh:mm:ss.fff`, the release's timestamp mode.

    Milliseconds are truncated from a float, as in the release, so one may be lost to rounding (4.35 s reads
    00:00:04.349). The released model was trained on such times.
    """
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{int(seconds % 1 * 1000):03d}"
