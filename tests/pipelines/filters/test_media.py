"""Ops for images and videos, on media as ingest writes them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from manifests.errors import RecordError
from manifests.records import Document, Drop, Media, Part, Text, digest, record_id
from pipelines.filters.media_rules import ExtremeAspect, FlatImage, ImageTooSmall, NoText
from pipelines.filters.video_rules import VideoDuration, VideoMotion


def document(*parts: Part, domain: str = "caption") -> Document:
    return Document(record_id("t", "1"), "t", "1", domain, parts)


def picture(pixels: np.ndarray, kind: str = "PNG") -> Media:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    payload = out.getvalue()
    height, width = pixels.shape[:2]
    return Media(digest(payload), "image", kind.lower(), width, height, payload=payload)


def image(width: int, height: int) -> Media:
    return Media(digest(f"{width} {height}"), "image", "png", width, height)


def video(*times_us: int) -> Media:
    return Media(digest(str(times_us)), "video", "mp4", 64, 64, times_us)


def test_media_without_text_are_dropped():
    op = NoText(kind="no_text")
    assert op.apply(document(image(64, 64), Text(" \n"))) == Drop("no_text")
    assert isinstance(op.apply(document(image(64, 64), Text("a cup"))), Document)
    assert isinstance(op.apply(document(Text(""))), Document)
    assert isinstance(NoText(kind="no_text", domains=("ocr",)).apply(document(image(64, 64))), Document)


def test_a_small_image_is_dropped_but_an_icon_next_to_a_photograph_is_not():
    op = ImageTooSmall(kind="image_too_small")
    assert op.apply(document(image(500, 27))) == Drop("image_too_small", 27)
    assert isinstance(op.apply(document(image(16, 16), image(640, 480))), Document)
    assert isinstance(op.apply(document(Text("no image at all"))), Document)


def test_an_extreme_aspect_is_dropped_in_both_orientations():
    op = ExtremeAspect(kind="extreme_aspect", max_aspect=4)
    assert op.apply(document(image(500, 100))) == Drop("extreme_aspect", 5.0)
    assert op.apply(document(image(100, 500))) == Drop("extreme_aspect", 5.0)
    assert isinstance(op.apply(document(image(400, 100))), Document)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_one_color_is_flat_in_any_format_and_a_faint_drawing_is_not(kind):
    op = FlatImage(kind="flat_image")
    pixels = np.full((60, 80, 3), (200, 30, 90), np.uint8)
    dropped = op.apply(document(picture(pixels, kind)))
    assert isinstance(dropped, Drop) and dropped.reason == "flat_image"
    pixels[20:30, 20:30] += 20
    assert isinstance(op.apply(document(picture(pixels, kind))), Document)


def test_one_picture_with_content_keeps_the_document():
    flat = picture(np.zeros((30, 30, 3), np.uint8))
    full = picture(np.arange(2700, dtype=np.uint8).reshape(30, 30, 3))
    assert isinstance(FlatImage(kind="flat_image").apply(document(flat, full)), Document)
    assert FlatImage(kind="flat_image").apply(document(flat, flat)) == Drop("flat_image", 0)


def test_pixels_that_do_not_decode_raise_a_record_error():
    broken = Media(digest("b"), "image", "png", 9, 9, payload=b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(RecordError):
        FlatImage(kind="flat_image").apply(document(broken))


def test_only_ops_that_decode_read_media():
    assert [op.READS_MEDIA for op in (NoText, ImageTooSmall, ExtremeAspect, FlatImage, VideoDuration, VideoMotion)] == [
        False, False, False, True, False, True,
    ]  # fmt: skip


def test_a_video_with_few_frames_or_a_short_duration_is_dropped():
    op = VideoDuration(kind="video_duration", min_frames=3, min_duration_s=0.1)
    assert op.apply(document(video(0, 40_000))) == Drop("video_too_short", 2)
    assert op.apply(document(video(0, 20_000, 40_000))) == Drop("video_too_short", 0.06)
    assert isinstance(op.apply(document(video(0, 40_000, 80_000))), Document)  # the last frame also lasts 40 ms
    assert op.apply(document(video(0, 40_000, 80_000), video())) == Drop("no_frames", 0)
    assert isinstance(op.apply(document(image(9, 9))), Document)
