"""Tests of the decoders that bypass Pillow: the same pixels as Pillow, and the same reasons to refuse a file."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from manifests.errors import RecordError
from stores.media import codecs, image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True, scope="module")
def small_pngs_too() -> Iterator[None]:
    """Let small PNGs bypass Pillow as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codecs, "PNG_MIN_PIXELS", 1)
        yield


def picture(random: np.random.Generator) -> Image.Image:
    """A random picture of up to 120 px per side: noise or smooth."""
    width, height = random.integers(1, 121, 2).tolist()
    if random.random() < 0.5:
        return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
    few = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
    return few.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(random: np.random.Generator) -> bytes:
    """Gray, RGB or CMYK; baseline or progressive; any subsampling; with and without restart markers and orientation."""
    shown, quality = picture(random), int(random.integers(1, 101))
    if random.random() < 0.2:
        subsampling = str(random.choice(["411", "440"]))
        return simplejpeg.encode_jpeg(np.array(shown), quality, "RGB", subsampling)
    options: dict[str, object] = {"quality": quality, "progressive": bool(random.integers(2))}
    match random.integers(6):
        case 0:
            shown = shown.convert("L")
        case 1:
            shown = shown.convert("CMYK")
        case 2:
            options["keep_rgb"] = True
        case _:
            options["subsampling"] = str(random.choice(["4:4:4", "4:2:2", "4:2:0"]))
    if random.random() < 0.3:
        options["restart_marker_blocks"] = int(random.integers(1, 9))
    return saved(shown, "JPEG", exif=oriented(random), **options)


def webp(random: np.random.Generator) -> bytes:
    """Lossless or lossy, with and without alpha and orientation, some animated."""
    shown = picture(random)
    if random.random() < 0.4:
        shown.putalpha(Image.fromarray(random.integers(0, 2, shown.size[::-1], np.uint8) * 255))
    options = {"lossless": bool(random.integers(2)), "exact": bool(random.integers(2)), "exif": oriented(random)}
    if random.random() < 0.1:
        options |= {"save_all": True, "append_images": [shown.transpose(Image.Transpose.ROTATE_180)]}
    return saved(shown, "WEBP", quality=int(random.integers(0, 101)), method=int(random.integers(0, 3)), **options)


def png(random: np.random.Generator) -> bytes:
    """All filters, one or many chunks of pixels; some with a palette, with orientation, or animated."""
    shown = picture(random)
    if random.random() < 0.3:
        shown.putalpha(Image.fromarray(random.integers(0, 256, shown.size[::-1], np.uint8)))
    mode = str(random.choice(["", "", "", "L", "LA", "P", "1"]))
    if mode:
        shown = shown.convert(mode)
    options: dict[str, object] = {"exif": oriented(random)} if random.random() < 0.4 else {}
    if random.random() < 0.1:
        options |= {"save_all": True, "append_images": [shown.transpose(Image.Transpose.ROTATE_180)]}
    payload = saved(shown, "PNG", compress_level=int(random.integers(0, 10)), **options)
    if random.random() < 0.5 and shown.mode in ("RGB", "RGBA", "L", "LA") and "save_all" not in options:
        payload = filtered_png(shown, random)
    return payload


def filtered_png(shown: Image.Image, random: np.random.Generator) -> bytes:
    """PNG with a random filter for each line, which Pillow's writer never produces."""
    samples = np.asarray(shown).reshape(shown.height, shown.width, -1)
    height, width, channels = samples.shape
    wide = np.zeros((height + 1, width + 1, channels), np.int16)
    wide[1:, 1:] = samples
    left, above, before = wide[1:, :-1], wide[:-1, 1:], wide[:-1, :-1]
    distances = np.abs(np.stack([left, above, before]) - (left + above - before))
    nearest = np.take_along_axis(np.stack([left, above, before]), distances.argmin(0)[None], 0)[0]
    guesses = np.stack([np.zeros_like(left), left, above, (left + above) // 2, nearest])
    filters = random.integers(0, 5, height)
    lines = (samples - guesses[filters, np.arange(height)]).astype(np.uint8).reshape(height, -1)
    body = zlib.compress(np.hstack([filters[:, None].astype(np.uint8), lines]).tobytes(), int(random.integers(0, 10)))
    cuts = [0, *sorted(random.integers(0, len(body) + 1, random.integers(0, 4)).tolist()), len(body)]
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    chunks = [(b"IHDR", header), *((b"IDAT", body[i:j]) for i, j in pairwise(cuts)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def oriented(random: np.random.Generator) -> Image.Exif:
    """EXIF data, some with a random orientation."""
    exif = Image.Exif()
    if random.random() < 0.4:
        exif[0x0112] = int(random.integers(1, 9))
    return exif


def saved(shown: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    shown.save(out, form, **options)
    return out.getvalue()


def damaged(payload: bytes, random: np.random.Generator) -> bytes:
    """Truncate a file, append to it, or change a few bytes."""
    match random.integers(4):
        case 0:
            return payload[: random.integers(1, len(payload))]
        case 1:
            return payload + payload[: random.integers(1, len(payload))]
        case _:
            changed = bytearray(payload)
            within = len(payload) if random.random() < 0.5 else min(len(payload), 700)  # headers
            for at in random.integers(0, within, random.integers(1, 5)):
                changed[at] = random.integers(256)
            return bytes(changed)


def verdict(payload: bytes) -> str:
    """Result of Pillow alone: `ok`, or the reason to refuse the file."""
    try:
        image.check(payload)
    except RecordError as error:
        return error.reason
    return "ok"


def compare(payload: bytes) -> str:
    """Check `decode_rgb` against Pillow alone. Returns `ok`, the common reason of refusal, or `16 bit`."""
    expected = verdict(payload)
    if expected != "ok":
        with pytest.raises(RecordError) as caught:
            image.decode_rgb(payload)
        assert caught.value.reason == expected
        return expected
    upright = Image.open(io.BytesIO(payload))
    if upright.mode.startswith("I;16"):
        return "16 bit"  # the one deviation: test_image.py
    with suppress(SyntaxError):  # damaged EXIF: the picture is not rotated
        upright = ImageOps.exif_transpose(upright)
    assert np.array_equal(image.decode_rgb(payload), np.asarray(upright.convert("RGB")))
    return "ok"


def bypasses_pillow(payload: bytes) -> bool:
    """Whether a decoder of `codecs` decodes the file."""
    opened = Image.open(io.BytesIO(payload))
    rgb = np.empty((opened.height, opened.width, 3), np.uint8)
    return codecs.handles(opened) and codecs.decode_into(opened, payload, rgb)


@given(seeds)
@settings(max_examples=400)
def test_jpeg_pixels_equal_those_of_pillow(seed: int) -> None:
    assert compare(jpeg(np.random.default_rng(seed))) == "ok"


@given(seeds)
@settings(max_examples=200)
def test_webp_pixels_equal_those_of_pillow(seed: int) -> None:
    assert compare(webp(np.random.default_rng(seed))) == "ok"


@given(seeds)
@settings(max_examples=400)
def test_png_pixels_equal_those_of_pillow(seed: int) -> None:
    assert compare(png(np.random.default_rng(seed))) == "ok"


def test_a_png_of_many_pieces_has_the_pixels_of_pillow() -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (500, 700, 4), np.uint8))  # 1.4 MB, inflated in pieces of 1 MiB
    flat = Image.new("RGB", (1500, 1200), (1, 2, 3))  # one piece of input gives many
    for shown in (noise, flat):
        assert compare(filtered_png(shown, random)) == "ok" and bypasses_pillow(filtered_png(shown, random))


@pytest.mark.parametrize("after", [False, True])
def test_a_png_with_orientation_before_or_after_its_pixels_is_upright(after: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = saved(picture(np.random.default_rng(0)), "PNG", exif=exif)
    if after:
        at = payload.index(b"eXIf") - 4
        stop = at + 12 + int.from_bytes(payload[at : at + 4])
        payload = payload[:at] + payload[stop:-12] + payload[at:stop] + payload[-12:]
    assert compare(payload) == "ok" and bypasses_pillow(payload) != after


@pytest.mark.parametrize("make", [jpeg, webp, png])
def test_damaged_files_have_the_verdict_and_the_pixels_of_pillow(make) -> None:
    random = np.random.default_rng(0)
    seen = Counter(compare(damaged(make(random), random)) for _ in range(600))
    assert seen["ok"] > 50 and sum(seen.values()) - seen["ok"] > 100, seen


def test_common_formats_bypass_pillow() -> None:
    """Without this, the tests above would compare Pillow with itself."""
    random = np.random.default_rng(0)
    shown = picture(random)
    for form, options in [
        ("JPEG", {"subsampling": "4:2:0"}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
    ]:
        assert bypasses_pillow(saved(shown, form, **options)), (form, options)
    assert bypasses_pillow(saved(shown.convert("L"), "JPEG"))
    for mode in ("RGB", "RGBA", "L", "LA"):
        assert bypasses_pillow(saved(shown.convert(mode), "PNG"))
    assert not bypasses_pillow(saved(shown.convert("CMYK"), "JPEG"))
    assert not bypasses_pillow(saved(shown, "WEBP", save_all=True, append_images=[shown.rotate(180)]))


def test_decoding_a_png_does_not_import_numba() -> None:
    code = """
import io, sys
import numpy as np
from PIL import Image
from stores.media import image
for side in (511, 512):
    out = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(out, "PNG")
    image.decode_rgb(out.getvalue())
    print("numba" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_real_files_have_the_verdict_and_the_pixels_of_pillow(test_data: Path) -> None:
    seen: Counter[str] = Counter()
    for file in sorted(test_data.glob("images_*/**/*")) + sorted(test_data.glob("dreambooth_photos/**/*.jpg")):
        if file.suffix.lower() in (".jpg", ".jpeg", ".jfif", ".mpo", ".webp", ".png"):
            seen[compare(file.read_bytes())] += 1
    assert seen["ok"] > 90 and sum(seen.values()) > seen["ok"], seen


def test_memory_is_reused_except_for_pictures_that_are_too_large() -> None:
    memory = image.PixelMemory()
    first = memory.pixels(30, 20)
    assert np.shares_memory(first, memory.pixels(20, 30)) and first.shape == (20, 30, 3)
    large = memory.pixels(8000, 5000)
    assert not np.shares_memory(large, memory.pixels(30, 20)) and large.shape == (5000, 8000, 3)


def test_a_second_picture_in_the_same_memory_is_decoded_in_full() -> None:
    memory = image.PixelMemory()
    for seed in range(20):
        payload = jpeg(np.random.default_rng(seed))
        assert np.array_equal(image.decode_rgb(payload, memory=memory), image.decode_rgb(payload))
