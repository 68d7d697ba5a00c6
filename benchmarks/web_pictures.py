"""Seeded pictures like the web's: sizes, formats, subsampling, orientation and color modes in fixed shares.

The content comes from real photos if MILLRACE_TEST_DATA names the folder of test data, else from drawn scenes:
gradients, shapes and grain. A photo is enlarged by at most half. A larger picture is tiled with photos, so that bytes
per pixel stay those of photos.

Sizes are log-normal, 80 % of them below 3.2 megapixels, where the released limit does not resize. The other shares
are our choice, listed in `FORMS`: no crawl that counts all of them was available.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

MEDIAN_MEGAPIXELS = 0.8
SPREAD = np.log(3.2 / MEDIAN_MEGAPIXELS) / 0.8416
"""Standard deviation of ln(size); puts the 80th percentile of sizes at 3.2 megapixels."""
LARGEST_MEGAPIXELS = 24.0
SMALLEST_MEGAPIXELS = 0.02

_ORIENTATION = 0x0112


def _jpeg(**options: object) -> Callable[[Image.Image, np.random.Generator], bytes]:
    def encode(picture: Image.Image, random: np.random.Generator) -> bytes:
        return _saved(picture, "JPEG", quality=int(random.integers(70, 93)), **options)

    return encode


def _oriented(picture: Image.Image, random: np.random.Generator) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = int(random.choice([3, 6, 8]))
    return _saved(picture, "JPEG", quality=88, exif=exif)


def _sixteen_bit(picture: Image.Image, random: np.random.Generator) -> bytes:
    gray = np.asarray(picture.convert("L"), np.uint16)
    return _saved(Image.fromarray(gray << 8 | random.integers(0, 256, gray.shape, np.uint16)), "PNG")


def _with_alpha(picture: Image.Image, random: np.random.Generator) -> bytes:
    picture = picture.convert("RGBA")
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).ellipse((0, 0, *picture.size), fill=255)
    picture.putalpha(mask)
    return _saved(picture, "PNG")


FORMS: dict[str, tuple[float, Callable[[Image.Image, np.random.Generator], bytes]]] = {
    "jpeg 4:2:0": (0.42, _jpeg(subsampling="4:2:0")),
    "jpeg 4:4:4": (0.08, _jpeg(subsampling="4:4:4")),
    "jpeg 4:2:2": (0.04, _jpeg(subsampling="4:2:2", restart_marker_rows=4)),
    "jpeg progressive": (0.18, _jpeg(subsampling="4:2:0", progressive=True)),
    "jpeg on its side": (0.05, _oriented),
    "jpeg gray": (0.02, lambda picture, random: _saved(picture.convert("L"), "JPEG", quality=85)),
    "jpeg cmyk": (0.01, lambda picture, random: _saved(picture.convert("CMYK"), "JPEG", quality=90)),
    "png": (0.05, lambda picture, random: _saved(picture, "PNG")),
    "png with alpha": (0.02, _with_alpha),
    "png palette": (0.03, lambda picture, random: _saved(picture.quantize(256), "PNG")),
    "png 16 bit": (0.01, _sixteen_bit),
    "webp": (0.08, lambda picture, random: _saved(picture, "WEBP", quality=80, method=2)),
    "gif": (0.01, lambda picture, random: _saved(picture.quantize(128), "GIF")),
}
"""Name -> (share of pictures, encoder)."""


def pictures(count: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """`count` pictures in random order, as (name of the form, encoded bytes). Every form has its share."""
    random = np.random.default_rng(seed)
    photos = _photos(random)
    shares = np.array([share for share, _ in FORMS.values()])
    wanted = np.floor(np.arange(1, count + 1) / count * 1e9).astype(int)
    bounds = np.cumsum(shares / shares.sum() * 1e9).astype(int)
    names = [list(FORMS)[i] for i in np.searchsorted(bounds, wanted - 1, side="right").clip(max=len(FORMS) - 1)]
    # Sizes at even quantiles, so that few pictures have the distribution of many.
    quantiles = (random.permutation(count) + 0.5) / count
    encoded = []
    for name, quantile in zip(names, quantiles, strict=True):
        picture = _picture(photos, float(quantile), random)
        encoded.append((name, FORMS[name][1](picture, random)))
    return [encoded[i] for i in random.permutation(count)]


def _picture(photos: list[Image.Image], quantile: float, random: np.random.Generator) -> Image.Image:
    """A picture whose size is at `quantile` of the distribution, tiled with photos."""
    megapixels = MEDIAN_MEGAPIXELS * np.exp(SPREAD * NormalDist().inv_cdf(quantile))
    megapixels = float(np.clip(megapixels, SMALLEST_MEGAPIXELS, LARGEST_MEGAPIXELS))
    aspect = float(random.choice([1.5, 4 / 3, 1.0, 16 / 9, 2 / 3, 3 / 4])) * float(np.exp(random.normal(0, 0.1)))
    width = max(16, round((megapixels * 1e6 * aspect) ** 0.5))
    height = max(16, round(megapixels * 1e6 / width))
    canvas = Image.new("RGB", (width, height))
    y = 0
    while y < height:
        x, tallest = 0, height
        while x < width:
            photo = photos[random.integers(len(photos))]
            scale = min(1.5, max(width / photo.width, height / photo.height))
            photo = photo.resize((round(photo.width * scale) + 1, round(photo.height * scale) + 1), Image.LANCZOS)
            canvas.paste(photo, (x, y))
            x += photo.width
            tallest = min(tallest, photo.height)
        y += tallest
    return canvas


def _photos(random: np.random.Generator) -> list[Image.Image]:
    """Real photos, or drawn scenes without test data."""
    folder = os.environ.get("MILLRACE_TEST_DATA")
    files = sorted((Path(folder) / "dreambooth_photos").rglob("*.jpg")) if folder else []
    photos = [Image.open(file).convert("RGB") for file in files]
    return photos or [_drawn(random) for _ in range(12)]


def _drawn(random: np.random.Generator) -> Image.Image:
    """A drawn scene: gradients, ellipses and grain."""
    width, height = random.integers(600, 1400, 2).tolist()
    corners = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
    drawn = corners.resize((width, height), Image.BICUBIC)
    pen = ImageDraw.Draw(drawn)
    for _ in range(40):
        x, y, size = random.integers(0, width), random.integers(0, height), random.integers(8, 300)
        pen.ellipse((x, y, x + size, y + size), fill=tuple(random.integers(0, 256, 3).tolist()))
    drawn = drawn.filter(ImageFilter.GaussianBlur(1.2))
    grain = random.normal(0, 5, (height, width, 3))
    return Image.fromarray((np.asarray(drawn) + grain).clip(0, 255).astype(np.uint8))


def _saved(picture: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()
