"""Writer of stores/media/probe_media/, the small pictures and clips for fingerprints of decoders.

    python -m tests.stores.media.probe_files

Encoders change between versions, so the files are in the repository and are not rebuilt. New files mean new
fingerprints: all existing certificates are refused then, and the golden values in tests/packing/loader/test_certify.py
change.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.stores.media.test_codecs import filtered_png

FOLDER = Path(__file__).parents[3] / "stores" / "media" / "probe_media"
SIDES = {"width": 61, "height": 43}
"""Odd sizes, no multiple of any codec's block."""


def scene(width: int, height: int, shift: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: soft waves of three colors, a hard edge and some grain."""
    down, across = np.indices((height, width))
    waves = [128 + 100 * np.sin((across * (1 + c) + down * (3 - c) + 4 * shift) / 9) for c in range(3)]
    rgb = np.stack(waves, axis=-1)
    rgb[height // 3 : height // 2, (width // 4 + 2 * shift) % width :] = (250, 20, 40)
    grain = np.random.default_rng(1).integers(-12, 13, rgb.shape)
    return np.clip(rgb + grain, 0, 255).astype(np.uint8)


def picture(form: str, mode: str = "RGB", **options: object) -> bytes:
    """The scene as an encoded picture."""
    out = io.BytesIO()
    drawn = Image.fromarray(scene(**SIDES))
    converted = drawn.quantize(40) if mode == "P" else drawn.convert(mode)
    converted.save(out, form, **options)
    return out.getvalue()


def clip(form: str, codec: str, frames: int = 9, **options: str) -> bytes:
    """A clip of the scene in motion, 64 x 48 px."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as sink:
        stream = sink.add_stream(codec, rate=Fraction(25), options={"threads": "1"} | options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(scene(64, 48, number), format="rgb24")))
        sink.mux(stream.encode())
    return out.getvalue()


def main() -> None:
    """Write all files."""
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "baseline_420.jpg": picture("JPEG", quality=80),
        "baseline_444.jpg": picture("JPEG", quality=90, subsampling=0),
        "progressive_422.jpg": picture("JPEG", quality=75, subsampling=1, progressive=True),
        "gray.jpg": picture("JPEG", "L", quality=70),
        "cmyk.jpg": picture("JPEG", "CMYK", quality=80),
        "turned.jpg": picture("JPEG", quality=85, exif=exif),
        "palette.png": picture("PNG", "P"),
        "alpha.png": picture("PNG", "RGBA"),
        "filters.png": filtered_png(Image.fromarray(scene(**SIDES)), np.random.default_rng(0)),
        "lossy.webp": picture("WEBP", quality=70),
        "lossy.avif": picture("AVIF", quality=60),
        "h264.mp4": clip("mp4", "libx264", crf="24", bf="2"),
        "vp9.webm": clip("webm", "libvpx-vp9", crf="34"),
    }
    FOLDER.mkdir(exist_ok=True)
    for name, payload in files.items():
        (FOLDER / name).write_bytes(payload)
        print(f"{name}: {len(payload)} bytes")


if __name__ == "__main__":
    main()
