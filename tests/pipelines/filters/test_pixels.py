"""Ops for pixels, captions and videos, on encoded files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from manifests.records import Document, Drop, Media, Part, Text, digest, record_id
from pipelines.filters import pixels
from pipelines.filters.caption_rules import BoilerplateCaption, CaptionLength
from pipelines.filters.op import Op
from pipelines.filters.pixels import AnimatedImage, BlurredImage, LowEntropy, TextOnlyImage
from pipelines.filters.video_rules import BrokenTimestamps, VideoDuration, VideoMotion
from stores.media.video import frame_times_us
from tests.pipelines.drawn_pictures import clip, encoded, photo


def document(*parts: Part) -> Document:
    return Document(record_id("t", "1"), "t", "1", "caption", parts)


def image(picture: Image.Image, format: str = "JPEG", **options: object) -> Media:
    payload = encoded(picture, format, **options)
    return Media(digest(payload), "image", format.lower(), *picture.size, payload=payload)


def video(path: Path, frames: list[Image.Image]) -> Media:
    clip(path, frames)
    payload = path.read_bytes()
    return Media(digest(payload), "video", "mp4", *frames[0].size, frame_times_us(payload), payload=payload)


def page(lines: int = 24) -> Image.Image:
    drawn = Image.new("RGB", (600, 800), (250, 248, 240))
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(22)
    for line in range(lines):
        pen.text(
            (40, 40 + 30 * line), f"The miller ground {line} sacks of wheat that day, and slept.", (30, 30, 30), font
        )
    return drawn


def reason(op: Op, *parts: Part) -> str | None:
    verdict = op.apply(document(*parts))
    return verdict.reason if isinstance(verdict, Drop) else None


BLUR, FEW, PAGE = (
    BlurredImage(kind="blurred_image"),
    LowEntropy(kind="low_entropy"),
    TextOnlyImage(kind="text_only_image"),
)


@pytest.mark.parametrize("size", [(200, 150), (900, 700)])
def test_a_blurred_picture_is_dropped_and_a_sharp_one_kept_at_any_size(size: tuple[int, int]) -> None:
    sharp = photo(1, size)
    soft = sharp.filter(ImageFilter.GaussianBlur(size[0] / 50))
    assert reason(BLUR, image(sharp)) is None
    assert reason(BLUR, image(soft)) == "blurred_image"
    assert reason(BLUR, image(soft), image(sharp)) is None, "one sharp picture keeps the document"
    assert reason(BLUR, Text("no picture")) is None


def test_focus_and_entropy_equal_their_definitions() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (9, 7)).astype(np.uint8)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    laplacian = [(gray[y : y + 3, x : x + 3] * kernel).sum() for y in range(7) for x in range(5)]
    assert pixels.focus(gray) == pytest.approx(np.var(laplacian))
    assert pixels.entropy(np.repeat(np.arange(8, dtype=np.uint8), 5).reshape(8, 5)) == 3


def test_a_nearly_empty_picture_has_low_entropy() -> None:
    dot = Image.new("RGB", (300, 300), "white")
    ImageDraw.Draw(dot).rectangle((10, 10, 30, 30), "black")
    assert reason(FEW, image(dot, "PNG")) == "low_entropy"
    assert reason(FEW, image(photo(2))) is None


def test_a_page_of_text_is_text_only_and_a_page_with_a_photograph_is_not() -> None:
    illustrated = page(6)
    illustrated.paste(photo(3, (520, 480)), (40, 260))
    assert reason(PAGE, image(page())) == "text_only_image"
    assert reason(PAGE, image(illustrated)) is None
    assert not any(reason(PAGE, image(photo(seed))) for seed in range(8))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_an_animation_has_more_than_one_frame(format: str) -> None:
    op = AnimatedImage(kind="animated_image")
    frames = [photo(seed, (40, 30)) for seed in range(3)]
    moving = image(frames[0], format, save_all=True, append_images=frames[1:])
    assert op.measure(document(moving)) == {"frames": 3} and reason(op, moving) == "animated_image"
    assert reason(op, image(frames[0], format)) is None


def test_ops_of_one_filter_decode_a_picture_once(monkeypatch: pytest.MonkeyPatch) -> None:
    two_pictures = document(image(photo(77)), image(photo(78)))
    first = [op.measure(two_pictures) for op in (BLUR, FEW, PAGE)]
    monkeypatch.setattr(pixels, "reduced_rgb", None)  # a second decoding would fail
    assert [op.measure(two_pictures) for op in (BLUR, FEW, PAGE)] == first
    with pytest.raises(TypeError):
        BLUR.measure(document(image(photo(79))))


def test_the_picture_cache_stays_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "CACHE_BYTES", 100)
    for name in "abc":
        pixels.cached(("of", name), lambda: np.zeros(60, np.uint8))
    assert list(pixels._CACHE) == [("of", "c")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("IMG_20391.jpg", "boilerplate_caption"),
        ("Photo by Jane Doe. All rights reserved", "boilerplate_caption"),
        ("Click here to enlarge the picture", "boilerplate_caption"),
        ("mill mill mill mill mill mill mill wheel", "repeated_caption"),
        ("A mill by the river in autumn, photo 12", None),
        ("The copyright page of an old book about water wheels and how they were built in the valley", None),
        ("风车在河边", None),
    ],
)
def test_boilerplate_and_repeated_captions_are_dropped(text: str, wanted: str | None) -> None:
    op = BoilerplateCaption(kind="boilerplate_caption")
    picture = Media(digest("p"), "image", "png", 9, 9)
    assert reason(op, picture, Text(text)) == wanted
    assert reason(op, Text(text)) is None, "a text without a picture is no caption"


def test_short_and_long_captions_are_dropped() -> None:
    op = CaptionLength(kind="caption_length", max_characters=20)
    picture = Media(digest("p"), "image", "png", 9, 9)
    reasons = [reason(op, picture, Text(text)) for text in ("a b c", "a mill", "x" * 21)]
    assert reasons == ["caption_too_short", None, "caption_too_long"]


def test_static_and_cut_heavy_videos_are_dropped_and_moving_ones_kept(tmp_path: Path) -> None:
    wide = photo(5, (320, 96))
    moving = video(tmp_path / "a.mp4", [wide.crop((8 * i, 0, 8 * i + 128, 96)) for i in range(20)])
    still = video(tmp_path / "b.mp4", [photo(6, (128, 96))] * 20)
    colors = [Image.new("RGB", (128, 96), (250, 250, 250) if i // 3 % 2 else (10, 10, 10)) for i in range(20)]
    chopped = video(tmp_path / "c.mp4", colors)
    motion = VideoMotion(kind="video_motion")
    assert [reason(motion, each) for each in (moving, still, chopped)] == [None, "static_video", "cut_heavy"]
    assert [motion.measure(document(each))["cuts_per_minute"] for each in (moving, still)] == [0, 0]
    assert motion.measure(document(chopped))["change"] > motion.min_change
    assert reason(motion, still, moving) is None and reason(motion, Text("none")) is None


def test_duration_and_gaps_are_measured_from_frame_times() -> None:
    def times(*seconds: float) -> Media:
        return Media(digest(str(seconds)), "video", "mp4", 9, 9, tuple(round(s * 1e6) for s in seconds))

    long = VideoDuration(kind="video_duration", max_duration_s=20)
    holes = BrokenTimestamps(kind="broken_timestamps")
    assert reason(long, times(0, 10, 20)) == "video_too_long" and reason(long, times(0, 1)) is None
    assert holes.measure(document(times(0, 1, 12.5, 13))) == {"gap_s": 11.5}
    assert reason(holes, times(0, 1, 12.5)) == "broken_timestamps" and reason(holes, times(0, 9, 18)) is None
