"""Real pictures and clips against the released processors: grids, slots, frames and pixels.

`transformers`' processors need torchvision, which does not load beside this torch. What they compute is their own
`navit_resize`, compiled alone, and torch's antialiased bicubic kernel on bytes, which torchvision's resize calls.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from manifests.errors import RecordError
from manifests.geometry import RELEASED_LIMITS, MediaLimits, choose_frames
from manifests.records import Media, digest
from packing.navit import expand, lay_out, patches_of
from stores import image, video
from tests.manifests.test_geometry import of_transformers
from tests.packing.test_navit import document, tiny
from tokenization.encode import encode

PICTURES = ("coco_panoptic_sample", "receipts_sroie", "tabmwp_table_images", "easyocr_examples", "dreambooth_photos")
SMALL = MediaLimits(max_image_patches=256, max_frame_patches=256)


def pictures(folder: Path) -> list[Path]:
    """A few of each set."""
    endings = {".jpg", ".jpeg", ".png", ".webp"}
    found = [sorted(file for file in (folder / name).rglob("*") if file.suffix.lower() in endings) for name in PICTURES]
    return [file for files in found for file in files[:: max(1, len(files) // 6)]]


def as_medium(payload: bytes) -> Media:
    seen = image.check(payload)
    return Media(digest(payload), "image", seen.format, seen.width_px, seen.height_px)


def told_rate(payload: bytes) -> Fraction:
    """Frames per second as the container tells them, which is what the released processor divides by."""
    with av.open(io.BytesIO(payload)) as file:
        rate = file.streams.best("video").average_rate
    assert rate is not None
    return Fraction(rate)


@pytest.mark.parametrize("limits", [RELEASED_LIMITS, SMALL], ids=["released limits", "256 patches"])
def test_pictures_get_the_grids_and_pixels_of_the_released_processor(test_data: Path, limits: MediaLimits) -> None:
    torch = pytest.importorskip("torch")
    navit_resize = of_transformers("image_processing_kimi_k25.py", "navit_resize")
    resized = 0
    far = {}  # by picture: the part of its bytes that are more than 2 of 255 apart
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
        if (part := float((np.abs(ours - theirs) > 2).mean())) > 0:
            far[file.name] = part
    assert limits is RELEASED_LIMITS or resized > 30
    # on three white scans of receipts the kernels are up to 14 apart, in less than 2 of 1,000 bytes; why is not known
    assert len(far) <= 3 and all(part < 0.002 for part in far.values()), far


def test_clips_get_the_frames_times_and_grids_of_the_released_processor(test_data: Path) -> None:
    """All that have a steady rate, odd ones, turned ones and 10 bit among them."""
    navit_resize = of_transformers("video_processing_kimi_k25.py", "navit_resize")
    seen = 0
    rates = set()
    for file in sorted(test_data.glob("video_*/**/*")):
        payload = file.read_bytes() if file.is_file() else b""
        if video.container(payload) is None or len(payload) > 2_000_000:
            continue
        try:
            found = video.check(payload)
        except RecordError:
            continue
        times_us = found.frame_times_us
        if len(times_us) < 2:
            continue
        rate = told_rate(payload)
        if abs(float(rate) * times_us[-1] / 1e6 / (len(times_us) - 1) - 1) > 0.002:
            continue  # variable: there is no released answer
        rates.add(rate)
        wanted = max(round(len(times_us) * min(2.0, float(rate)) / float(rate)), 1)
        chosen = np.round(np.linspace(0, len(times_us) - 1, wanted)).astype(int).tolist()
        assert choose_frames(times_us) == tuple(chosen), file.name
        medium = Media(digest(payload), "video", found.format, found.width_px, found.height_px, times_us)
        _, padded = navit_resize(found.height_px, found.width_px, 14, 2, 4096, 512)
        (packed,) = expand(encode(document(medium), tiny), RELEASED_LIMITS, tiny).media
        grids = [(len(chosen[i : i + 4]), padded[0] // 14, padded[1] // 14) for i in range(0, len(chosen), 4)]
        assert [item.grid for item in packed.items] == grids, file.name
        seen += 1
    assert seen > 20 and len(rates) > 5


@pytest.mark.parametrize("fps", [Fraction(30), Fraction(30_000, 1001), Fraction(1, 2)])
def test_an_hour_of_video_is_capped_as_the_limits_say_and_fits_a_pack(fps: Fraction) -> None:
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
