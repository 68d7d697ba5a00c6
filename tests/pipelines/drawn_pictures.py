"""Photo-like pictures, drawn and encoded; each seed gives another picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def photo(seed: int, size: tuple[int, int] = (480, 360)) -> Image.Image:
    """Draw a picture with soft colors, sharp objects and grain."""
    dice = np.random.default_rng(seed)
    drawn = Image.fromarray(dice.integers(0, 256, (5, 6, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(drawn)
    for _ in range(25):
        x, y = (int(dice.integers(0, side)) for side in size)
        wide, high = dice.integers(8, size[0] // 4, 2).tolist()
        pen.ellipse((x, y, x + wide, y + high), fill=tuple(dice.integers(0, 256, 3).tolist()))
    soft = np.asarray(drawn.filter(ImageFilter.GaussianBlur(0.7)), np.float64)
    return Image.fromarray((soft + dice.normal(0, 4, soft.shape)).clip(0, 255).astype(np.uint8))


def encoded(picture: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def cropped(picture: Image.Image, share: float, right: float = 0.5, down: float = 0.5) -> Image.Image:
    """Crop `share` of each side; `right` and `down` place the crop in the rest, 0 to 1."""
    width, height = (round(side * share) for side in picture.size)
    left, top = round((picture.width - width) * right), round((picture.height - height) * down)
    return picture.crop((left, top, left + width, top + height))


def clip(path: Path, frames: Sequence[Image.Image], crf: int = 23, rate: int = 5) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
