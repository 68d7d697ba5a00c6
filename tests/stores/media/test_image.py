"""Tests of picture decoding: real unusual files, generated ones with known pixels, damaged and hostile ones."""

from __future__ import annotations

import csv
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manifests.errors import RecordError
from stores.media import image
from stores.media.sandbox import Sandbox

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's warnings about unusual files

REASONS = {
    "empty_file",
    "too_many_bytes",
    "too_many_pixels",
    "too_many_scans",
    "unknown_format",
    "truncated_image",
    "broken_image",
}
STRICTER_THAN_THE_LABEL = {
    "images_pillow/apng/chunk_no_fctl.png",  # the first frame decodes, the animation after it does not
    "images_pillow/broken_data_stream.png",
    "images_pillow/truncated_end_chunk.png",
}


@pytest.fixture(scope="module")
def child() -> Iterator[Sandbox]:
    with Sandbox(memory_bytes=1 << 30, cpu_s=10, wall_s=60.0) as started:
        yield started


def labeled(test_data: Path, folder: str) -> list[tuple[Path, str]]:
    """(file, label) of the pictures below a folder, from the manifest of the test data."""
    with (test_data / "MANIFEST.csv").open(newline="") as rows:
        return [
            (test_data / row["path"], row["label"])
            for row in csv.DictReader(rows)
            if row["kind"] == "image" and row["path"].startswith(folder)
        ]


def encoded(pixels: np.ndarray, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **options)
    return out.getvalue()


def noise(height: int, width: int, *channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def reason(payload: bytes, limits: image.ImageLimits = image.LIMITS) -> str:
    """Reason for which `check` refuses a file."""
    with pytest.raises(RecordError) as caught:
        image.check(payload, limits)
    return caught.value.reason


def test_every_unusual_file_decodes_or_is_refused_with_a_reason(child: Sandbox, test_data: Path) -> None:
    seen: Counter[str] = Counter()
    wrong = []
    for file, label in labeled(test_data, "images_pillow"):
        payload = file.read_bytes()
        try:
            info = image.ImageInfo(*child.call("stores.media.image:check", payload))
            assert info == image.probe(payload), file
            outcome = "ok"
        except RecordError as error:
            outcome = error.reason
        seen[outcome] += 1
        opens = label in ("ok", "odd_by_design_opens")
        if (opens and outcome != "ok") or (not opens and outcome not in {*REASONS, "ok"}):
            wrong.append((str(file.relative_to(test_data)), label, outcome))
    assert {name for name, _, _ in wrong} <= STRICTER_THAN_THE_LABEL, wrong
    assert seen["ok"] > 500 and seen["too_many_pixels"] >= 4 and seen["truncated_image"] >= 8, seen


def test_pixels_equal_those_of_the_transformers_loader(test_data: Path) -> None:
    """`load_image` feeds the released processors: it applies the EXIF orientation, then converts to RGB."""
    load_image = pytest.importorskip("transformers.image_utils").load_image
    compared = 0
    files = labeled(test_data, "images_pillow")[::3] + labeled(test_data, "video_torchcodec")
    for file, label in files:
        name = str(file.relative_to(test_data))
        if label != "ok" or name in STRICTER_THAN_THE_LABEL or Image.open(file).mode.startswith("I;16"):
            continue
        ours = image.decode_rgb(file.read_bytes())
        assert ours.dtype == np.uint8 and np.array_equal(ours, np.asarray(load_image(str(file)))), name
        compared += 1
    assert compared > 100


ORIENTED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""EXIF orientation -> the array operation that makes a picture upright."""


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_and_size_are_upright(format: str, orientation: int) -> None:
    pixels = noise(20, 32, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"exif": exif} | ({"lossless": True} if format == "WEBP" else {})
    payload = encoded(pixels, format, **options)
    flat = np.asarray(Image.open(io.BytesIO(encoded(pixels, format, **options | {"exif": b""}))).convert("RGB"))
    upright = ORIENTED[orientation](flat)
    rgb = image.decode_rgb(payload)
    assert np.array_equal(rgb, upright)
    assert image.probe(payload) == image.check(payload) == (image.FORMATS[format], rgb.shape[1], rgb.shape[0])


def test_the_eight_orientations_of_one_real_photo_look_alike(test_data: Path) -> None:
    upright = [
        image.decode_rgb((test_data / f"images_pillow/hopper_orientation_{n}.jpg").read_bytes()).astype(int)
        for n in range(2, 9)
    ]
    # Color was subsampled before the rotation, so they are not equal. A wrong rotation differs by 50.
    assert all(np.abs(photo - upright[0]).mean() < 5 for photo in upright)
    assert np.abs(np.fliplr(upright[0]) - upright[0]).mean() > 20


def test_alpha_is_dropped_and_not_blended() -> None:
    pixels = noise(8, 9, 4)
    assert np.array_equal(image.decode_rgb(encoded(pixels, "PNG")), pixels[..., :3])


def test_sixteen_bit_gray_keeps_its_high_byte() -> None:
    gray = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    rgb = image.decode_rgb(encoded(gray, "PNG"))
    assert np.array_equal(rgb, np.repeat((gray >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_an_animation_decodes_to_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (12, 10), color) for color in ("red", "blue", "lime")]
    out = io.BytesIO()
    frames[0].save(out, format, save_all=True, append_images=frames[1:], duration=100)
    red, green, blue = image.decode_rgb(out.getvalue())[5, 5]
    assert red > 240 and green < 15 and blue < 15


def test_a_decompression_bomb_is_refused_without_decoding() -> None:
    side = 60_000
    scanlines = zlib.compressobj()
    data = b"".join([scanlines.compress(bytes((side + 7) // 8 + 1)) for _ in range(side)]) + scanlines.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )
    assert len(bomb) < 10**6
    assert reason(bomb) == "too_many_pixels"


def test_limits_are_exact() -> None:
    payload = encoded(noise(10, 10, 3), "PNG")
    exact = image.ImageLimits(max_pixels=100, max_bytes=len(payload))
    assert image.check(payload, exact) == ("png", 10, 10)
    assert reason(payload, image.ImageLimits(max_pixels=99)) == "too_many_pixels"
    assert reason(payload, image.ImageLimits(max_bytes=len(payload) - 1)) == "too_many_bytes"


def test_an_icon_with_a_false_size_is_measured_by_its_picture() -> None:
    inside = encoded(noise(90, 80, 3), "PNG")
    entry = bytes([16, 16, 0, 0]) + (1).to_bytes(2, "little") + (32).to_bytes(2, "little")
    header = bytes([0, 0, 1, 0, 1, 0]) + entry + len(inside).to_bytes(4, "little") + (22).to_bytes(4, "little")
    assert image.check(header + inside) == ("ico", 80, 90)
    assert reason(header + inside, image.ImageLimits(max_pixels=5000)) == "too_many_pixels"


def test_a_jpeg_with_too_many_scans_is_refused() -> None:
    payload = encoded(noise(64, 64, 3), "JPEG", progressive=True)
    assert image.check(payload) == ("jpg", 64, 64)
    last = payload.rindex(b"\xff\xda")
    again = payload[last:-2]
    assert reason(payload[:-2] + again * 200 + payload[-2:]) == "too_many_scans"


@pytest.mark.parametrize("payload", [b"", b"GIF89a", b"<html>not found</html>", b"\xff\xd8\xff", bytes(5000)])
def test_files_that_are_no_picture_are_refused(payload: bytes) -> None:
    assert reason(payload) in REASONS


ORIGINALS = {
    "JPEG": encoded(noise(48, 40, 3), "JPEG"),
    "PNG": encoded(noise(48, 40, 3), "PNG"),
    "WEBP": encoded(noise(48, 40, 3), "WEBP", lossless=True),
    "GIF": encoded(noise(48, 40), "GIF"),
    "TIFF": encoded(noise(48, 40, 3), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
@given(kept=st.floats(0, 0.95))
@settings(max_examples=20)
def test_a_file_cut_anywhere_is_refused(format: str, kept: float) -> None:
    payload = ORIGINALS[format]
    assert reason(payload[: int(len(payload) * kept)]) in REASONS


@given(format=st.sampled_from(sorted(ORIGINALS)), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255))))
@settings(max_examples=300)
def test_flipped_bytes_decode_or_are_refused_with_a_reason(
    child: Sandbox, format: str, flips: list[tuple[float, int]]
) -> None:
    payload = bytearray(ORIGINALS[format])
    for position, mask in flips:
        payload[int(len(payload) * position**3)] ^= mask  # mostly near the start, where the headers are
    try:
        _, width, height = child.call("stores.media.image:check", payload)
        assert width * height <= image.LIMITS.max_pixels
    except RecordError as error:
        assert error.reason in REASONS, error


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    to=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 99),
)
def test_resize_equals_that_of_the_transformers_pillow_path(
    size: tuple[int, int], to: tuple[int, int], seed: int
) -> None:
    transforms = pytest.importorskip("transformers.image_transforms")
    pixels = noise(*size, 3, seed=seed)
    width, height = to
    resized = image.resize(pixels, width, height)
    last = {"data_format": "channels_last", "input_data_format": "channels_last"}
    theirs = transforms.resize(pixels, (height, width), resample=Image.Resampling.BICUBIC, **last)
    assert resized.shape == (height, width, 3) and resized.dtype == np.uint8
    assert np.array_equal(resized, theirs)
