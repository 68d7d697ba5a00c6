"""Real images and clips against the released processors: grids, slots, frames and pixels.

`transformers`' processors need torchvision, which does not load with this torch. The expected values come from
their `navit_resize`, compiled alone, and from torch's antialiased bicubic kernel on bytes, which torchvision's resize
calls.
"""

from __future__ import annotations

import io
import re
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from manifests.errors import RecordError
from manifests.geometry import RELEASED_LIMITS, MediaLimits, choose_frames
from manifests.records import Media, digest
from packing.navit import expand, lay_out, patches_of
from stores.media import image, video
from tests.manifests.test_geometry import of_transformers
from tests.packing.test_navit import document, tiny
from tokenization.encode import encode

PICTURES = ("coco_panoptic_sample", "receipts_sroie", "tabmwp_table_images", "easyocr_examples", "dreambooth_photos")
SMALL = MediaLimits(max_image_patches=256, max_frame_patches=256)


def pictures(folder: Path) -> list[Path]:
    """A few images of each set."""
    endings = {".jpg", ".jpeg", ".png", ".webp"}
    sets = [sorted(file for file in (folder / name).rglob("*") if file.suffix.lower() in endings) for name in PICTURES]
    return [file for files in sets for file in files[:: max(1, len(files) // 6)]]


def as_medium(payload: bytes) -> Media:
    info = image.check(payload)
    return Media(digest(payload), "image", info.format, info.width_px, info.height_px)


def container_rate(payload: bytes) -> Fraction:
    """Frames per second that the container declares; the released processor divides by them."""
    with av.open(io.BytesIO(payload)) as file:
        rate = file.streams.best("video").average_rate
    assert rate is not None
    return Fraction(rate)


def as_clip(payload: bytes) -> Media:
    return Media(digest(payload), "video", *video.check(payload))


def released_frames(count: int, rate: float) -> list[int]:
    wanted = max(round(count * min(2.0, rate) / rate), 1)
    return np.round(np.linspace(0, count - 1, wanted)).astype(int).tolist()


def released_time(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}"


@pytest.mark.parametrize("limits", [RELEASED_LIMITS, SMALL], ids=["released limits", "256 patches"])
def test_images_get_the_grids_and_pixels_of_the_released_processor(test_data: Path, limits: MediaLimits) -> None:
    torch = pytest.importorskip("torch")
    navit_resize = of_transformers("image_processing_kimi_k25.py", "navit_resize")
    resized = 0
    tall = set()
    files = pictures(test_data)
    assert len(files) > 15
    for file in files:
        payload = file.read_bytes()
        (packed,) = expand(encode(document(as_medium(payload)), tiny), limits, tiny).media
        pixels = image.decode_rgb(payload)
        size, padded = navit_resize(*pixels.shape[:2], 14, 2, limits.max_image_patches, 512)
        rows, cols = padded[0] // 14, padded[1] // 14
        assert packed.items[0].grid == (1, rows, cols) and lay_out(packed.media, limits).slots == rows * cols // 4
        canvas = np.zeros((*padded, 3), np.int16)
        planes = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        if size != pixels.shape[:2]:
            planes = torch.nn.functional.interpolate(planes, size, mode="bicubic", antialias=True)
            resized += 1
        canvas[: size[0], : size[1]] = planes[0].permute(1, 2, 0).numpy()
        theirs = canvas.reshape(rows, 14, cols, 14, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 14, 14)
        (ours,) = patches_of(packed, payload)
        if np.abs(ours - theirs).max() > 2:
            # Pillow 13 resamples columns first if the height shrinks by more than twice what the width does; torch and
            # Pillow before 13 begin with rows. In that order the same kernel agrees here as well.
            assert pixels.shape[0] - size[0] > 2 * (pixels.shape[1] - size[1]), file.name
            rows_first = np.zeros((*padded, 3), np.int16)
            rows_first[: size[0], : size[1]] = by_rows_first(pixels, *size)
            assert np.abs(rows_first - canvas).max() <= 2, file.name
            tall.add(file.name)
    assert limits is RELEASED_LIMITS or resized > 30
    assert len(tall) == (0 if limits is RELEASED_LIMITS else 3), tall


def by_rows_first(pixels: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Resize with Pillow's kernel along rows, then along columns."""
    wide = image.resize(pixels, width_px, pixels.shape[0])
    return image.resize(wide, width_px, height_px)


def test_clips_get_the_frames_times_and_grids_of_the_released_processor(test_data: Path) -> None:
    """The clips include steady and variable rates, odd sizes, rotation and 10-bit pixels."""
    navit_resize = of_transformers("video_processing_kimi_k25.py", "navit_resize")
    clips = 0
    rates = set()
    for file in sorted(test_data.glob("video_*/**/*")):
        payload = file.read_bytes() if file.is_file() else b""
        if video.container(payload) is None or len(payload) > 2_000_000:
            continue
        try:
            medium = as_clip(payload)
        except RecordError:
            continue
        frames = len(medium.frame_times_us)
        if frames < 2:
            continue  # a single frame has no rate
        rate = container_rate(payload)
        rates.add(rate)
        chosen = released_frames(frames, float(rate))
        _, padded = navit_resize(medium.height_px, medium.width_px, 14, 2, 4096, 512)
        expanded = expand(encode(document(medium), tiny), RELEASED_LIMITS, tiny)
        (packed,) = expanded.media
        chunks = [chosen[i : i + 4] for i in range(0, len(chosen), 4)]
        assert [list(item.frames) for item in packed.items] == chunks, file.name
        grids = [(len(chunk), padded[0] // 14, padded[1] // 14) for chunk in chunks]
        assert [item.grid for item in packed.items] == grids, file.name
        each = padded[0] * padded[1] // 28**2
        assert np.count_nonzero(expanded.ids == tiny.media_pad_id) == each * len(chunks), file.name
        text = tiny.decode(expanded.ids[expanded.ids != tiny.media_pad_id])
        times = [released_time(chunk[0] / float(rate)) for chunk in chunks]
        assert re.findall(r"(\S{12})<.media_begin.>video", text) == times, file.name
        clips += 1
    assert clips > 20 and len(rates) > 5


@pytest.mark.parametrize("fps", [Fraction(30), Fraction(30_000, 1001), Fraction(1, 2)])
def test_an_hour_of_video_is_capped_by_the_limits_and_fits_a_pack(fps: Fraction) -> None:
    times_us = tuple(round(i * 1_000_000 / fps) for i in range(int(3600 * fps)))
    hour = Media(digest("hour"), "video", "mp4", 1920, 1080, times_us)
    frames = sum(map(len, lay_out(hour, RELEASED_LIMITS).chunks))
    assert frames == min(7200, len(times_us))
    fits = MediaLimits(max_image_patches=4096, max_frame_patches=256, max_video_frames=96)
    expanded = expand(encode(document(hour), tiny), fits, tiny)
    assert sum(map(len, lay_out(hour, fits).chunks)) == 96
    assert len(expanded.ids) < 2500
    last = expanded.media[0].items[-1].frames[0]
    assert 3300 < times_us[last] / 1e6 < 3600


def test_a_clip_of_variable_rate_is_sampled_by_the_rate_of_its_container_as_in_the_release(test_data: Path) -> None:
    """FFmpeg takes that rate from the order of decoding: 13.9 per second for these 63 frames, which are shown at 12.6.
    Their own mean rate would give ten frames instead of nine. The model reads i / rate as the time of frame i, which
    differs from the time at which it is shown; `by_time` chooses and gives the times at which frames are shown."""
    payload = (test_data / "video_derived_vfr" / "flower_vfr_noaudio.mp4").read_bytes()
    medium = as_clip(payload)
    times_us, rate = medium.frame_times_us, medium.container_fps
    gaps = np.diff(times_us)
    assert gaps.max() > 2 * gaps.min() and rate is not None and rate == float(container_rate(payload))
    chosen = released_frames(63, rate)
    layout = lay_out(medium, RELEASED_LIMITS)
    assert sum(layout.chunks, ()) == tuple(chosen) and len(chosen) == 9
    assert len(choose_frames(times_us)) == 10
    assert layout.times_s == tuple(chunk[0] / rate for chunk in layout.chunks)
    assert max(abs(times_us[chunk[0]] / 1e6 - chunk[0] / rate) for chunk in layout.chunks) > 0.2
    by_time = lay_out(medium, MediaLimits(frames="by_time"))
    shown = [times_us[frame] for frame in sum(by_time.chunks, ())]
    assert all(time <= 500_000 * k for k, time in enumerate(shown)) and sum(by_time.chunks, ()) != tuple(chosen)
    assert by_time.times_s == tuple(times_us[chunk[0]] / 1e6 for chunk in by_time.chunks)
