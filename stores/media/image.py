"""Encoded pictures: what they are, whether all of one decodes, and its pixels exactly as the released model saw them.

Before: ingest has the bytes of a file. After: `records.Media` with a true format and upright size; later the same
bytes become patches in packing. Pixels are Pillow's, as in the released processor: EXIF orientation applied, then
`convert("RGB")`. What that means for pictures that are not plain RGB:

    palette, grey, 1 bit, CMYK, LAB, YCbCr   Pillow's own conversion; colour profiles are not applied
    alpha                                    cut off, the colour below it stays (it is not blended onto anything)
    16-bit grey                              the high byte, as Pillow does for 16-bit RGB. The one deviation: released
                                             code clips such pictures to 255, that is to a white page
    32-bit integer, float                    their range is not declared: clipped to 0..255, as released
    animated (GIF, PNG, WebP), several pages the first frame

Everything here runs on bytes from strangers. Bytes, pixels and JPEG scans are limited before any pixel is decoded.
Decoders are native code, so ingest calls `check` through `stores.media.sandbox` (0.1 ms of CPU a picture more than
without: benchmarks/LOG.md); once a store holds the bytes, their digest says that they decoded before, and readers call
`decode_rgb` directly.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from manifests.errors import RecordError
from stores.media import codecs

FORMATS = {
    "JPEG": "jpg",
    "MPO": "jpg",  # a JPEG with more pictures behind it; Pillow's JPEG reader finds out
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "AVIF": "avif",
    "BMP": "bmp",
    "TIFF": "tif",
    "JPEG2000": "jp2",
    "PPM": "ppm",
    "ICO": "ico",
    "TGA": "tga",
    "PCX": "pcx",
    "SGI": "sgi",
    "PSD": "psd",
    "DDS": "dds",
    "QOI": "qoi",
}
"""Pillow's names -> file endings of `Media.format`. A closed list: some of Pillow's other readers start programs."""

_READERS = [name for name in FORMATS if name != "MPO"]

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the picture upright; 1 and anything unknown leave it."""

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: np.transpose(np.rot90(pixels, 2)),
    8: np.rot90,
}
"""The same for arrays."""

_EXIF_ORIENTATION = 0x0112

_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow's readers raise on broken files: each format has its own habits, several of them on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """How much one picture may cost. Memory while decoding is at most about 12 bytes per pixel."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 89_478_485
    """Pillow's own alarm level for decompression bombs (a quarter of a GiB of RGB)."""
    max_scans: int = 100
    """Passes of a progressive JPEG. Encoders make about 10; thousands turn a small file into minutes of work."""


LIMITS = ImageLimits()

warnings.filterwarnings("ignore", module=r"PIL\..*")  # about sizes, which we limit, and metadata, which we leave alone


class Picture(NamedTuple):
    """What a picture is, upright."""

    format: str
    width_px: int
    height_px: int


def probe(payload: bytes, limits: ImageLimits = LIMITS) -> Picture:
    """Format and upright size, from the header (a PNG may hold its orientation at the end, and is read to there).

    Does not promise that the pixels decode: that is `check`. Raises RecordError with reason `empty_file`,
    `too_many_bytes`, `unknown_format`, `too_many_pixels`, `too_many_scans` or, for headers that lie,
    `truncated_image` or `broken_image`.
    """
    image = _open(payload, limits)
    width, height = image.size
    on_its_side = _orientation(image) >= 5
    return Picture(FORMATS[str(image.format)], *((height, width) if on_its_side else (width, height)))


def check(payload: bytes, limits: ImageLimits = LIMITS) -> Picture:
    """Decode everything and say what it is; raises RecordError as `probe` does. For files that nobody vouches for."""
    image = _loaded(_open(payload, limits))
    rgb = _upright_rgb(image)
    return Picture(FORMATS[str(image.format)], *rgb.size)


class PixelMemory:
    """Memory for one picture at a time, kept from one to the next: fresh pages cost a third of what decoding does."""

    MAX_BYTES = 96 * 2**20
    """33 megapixels. Of larger pictures nothing is kept."""

    def __init__(self) -> None:
        self._kept = np.empty(0, np.uint8)

    def pixels(self, width_px: int, height_px: int) -> np.ndarray:
        """(height_px, width_px, 3) uint8 of any values, until the next call."""
        size = width_px * height_px * 3
        if size > self.MAX_BYTES:
            return np.empty((height_px, width_px, 3), np.uint8)
        if size > len(self._kept):
            self._kept = np.empty(size, np.uint8)
        return self._kept[:size].reshape(height_px, width_px, 3)


def decode_rgb(payload: bytes, limits: ImageLimits = LIMITS, memory: PixelMemory | None = None) -> np.ndarray:
    """(H, W, 3) uint8, upright; with `memory` valid until its next use. Raises RecordError as `check` does."""
    return _decoded(_open(payload, limits), payload, memory or PixelMemory())


def decode_by_pillow(payload: bytes, limits: ImageLimits = LIMITS) -> np.ndarray:
    """`decode_rgb` with nothing but Pillow, the slow way: what `media/codecs.py` must give, too."""
    return np.asarray(_upright_rgb(_loaded(_open(payload, limits))))


def reduced_rgb(payload: bytes, side_px: int, limits: ImageLimits = LIMITS) -> np.ndarray:
    """`small_rgb` of what is encoded, upright: for measuring and comparing, never for training.

    Of a JPEG only the frequencies are decoded that show at this size. Raises RecordError as `check` does.
    """
    image, memory = _open(payload, limits), PixelMemory()
    rgb, _ = _reduced(image, payload, (side_px, side_px), memory)
    return small_rgb(_decoded(image, payload, memory) if rgb is None else _turned(rgb, image), side_px)


def decode_near(
    payload: bytes, width_px: int, height_px: int, limits: ImageLimits = LIMITS, memory: PixelMemory | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels close to those of `decode_rgb` and `resize`, (height_px, width_px, 3) uint8, and the true (width, height).

    A JPEG that is two, four or eight times as large both ways is decoded at a half, a quarter or an eighth and resized
    from there. All others are exact. With `memory` valid until its next use. Raises RecordError as `check` does.
    """
    image, memory = _open(payload, limits), memory or PixelMemory()
    on_its_side = image.format in ("JPEG", "MPO") and _orientation(image) >= 5
    lying = (height_px, width_px) if on_its_side else (width_px, height_px)
    rgb, factor = _reduced(image, payload, lying, memory)
    if rgb is None:
        rgb = _decoded(image, payload, memory)
        return resize(rgb, width_px, height_px), (rgb.shape[1], rgb.shape[0])
    from stores.media.resample import bicubic

    width, height = image.size
    rgb = _turned(bicubic(rgb, *lying, (width / factor, height / factor)), image)
    return rgb, (height, width) if on_its_side else (width, height)


def _reduced(
    image: Image.Image, payload: bytes, least: tuple[int, int], memory: PixelMemory
) -> tuple[np.ndarray | None, int]:
    """A JPEG as it lies, at the smallest part of its size that is at least `least` (width, height), and which part."""
    width, height = image.size
    factor = max((f for f in (2, 4, 8) if width >= f * least[0] and height >= f * least[1]), default=1)
    if factor == 1 or image.format not in ("JPEG", "MPO") or not codecs.handles(image):
        return None, 1
    rgb = memory.pixels(-(-width // factor), -(-height // factor))
    return (rgb, factor) if codecs.decode_reduced(payload, rgb) else (None, 1)


def _decoded(image: Image.Image, payload: bytes, memory: PixelMemory) -> np.ndarray:
    rgb = memory.pixels(*image.size) if codecs.handles(image) else None
    if rgb is None or not codecs.decode_into(image, payload, rgb):
        return np.asarray(_upright_rgb(_loaded(image)))
    return _turned(rgb, image)


def frames(payload: bytes, limits: ImageLimits = LIMITS) -> int:
    """Of an animation, or pages; 1 for other pictures, a JPEG with more behind it included. Raises RecordError."""
    image = _open(payload, limits)
    try:
        return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except _DECODER_ERRORS as error:
        raise _broken(error) from error


def small_rgb(rgb: np.ndarray, side_px: int) -> np.ndarray:
    """The picture by its means, the shorter side `side_px`, the longer one at most 8 times that; never larger."""
    height, width = rgb.shape[:2]
    scale = side_px / min(height, width)
    if scale >= 1 and max(height, width) <= 8 * side_px:
        return rgb
    size = [min(max(1, round(side * min(scale, 1))), 8 * side_px) for side in (width, height)]
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))


def _turned(rgb: np.ndarray, image: Image.Image) -> np.ndarray:
    """Upright pixels of what `image` was opened from. It is not loaded: what else it says stood before its pixels."""
    turn = _TURNS.get(_orientation(image, Image.Image.getexif))
    if turn is None:
        return rgb
    pixels = np.ascontiguousarray(turn(rgb.view("V3")[..., 0]))  # whole pixels are copied faster than their bytes
    return pixels.view(np.uint8).reshape(*pixels.shape, 3)


def resize(rgb: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (height_px, width_px, 3) uint8 with Pillow's antialiased bicubic, the released kernel."""
    if rgb.shape[:2] == (height_px, width_px):
        return rgb
    from stores.media.resample import bicubic  # costs time and memory that nobody pays whose pictures fit

    return bicubic(rgb, width_px, height_px)


def _open(payload: bytes, limits: ImageLimits) -> Image.Image:
    if not payload:
        raise RecordError("empty_file", "the file has no bytes")
    if len(payload) > limits.max_bytes:
        raise RecordError("too_many_bytes", f"{len(payload):,} bytes, at most {limits.max_bytes:,} are decoded")
    try:
        image = Image.open(io.BytesIO(payload), formats=_READERS)
    except Image.UnidentifiedImageError:
        raise RecordError("unknown_format", "not a picture in any accepted format") from None
    except _DECODER_ERRORS as error:
        raise _broken(error) from error
    width, height = image.size
    if width < 1 or height < 1:
        raise RecordError("broken_image", f"{width} x {height} px is not a picture")
    if width * height > limits.max_pixels:
        limit = f"at most {limits.max_pixels:,} pixels are decoded"
        raise RecordError("too_many_pixels", f"{width} x {height} px, {limit}")
    scans = payload.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0  # never inside compressed data
    if scans > limits.max_scans:
        raise RecordError("too_many_scans", f"a JPEG of {scans:,} scans, at most {limits.max_scans} are decoded")
    return image


def _loaded(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except _DECODER_ERRORS as error:
        raise _broken(error) from error
    return image


def _orientation(image: Image.Image, exif: Callable[[Any], Image.Exif] = lambda image: image.getexif()) -> int:
    """EXIF orientation 1..8; 1 too if there is none, or none that can be read."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself, and has their upright size from the start
    try:
        orientation = exif(image).get(_EXIF_ORIENTATION)
    except _DECODER_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) and orientation in UPRIGHT else 1


def _upright_rgb(image: Image.Image) -> Image.Image:
    try:
        method = UPRIGHT.get(_orientation(image))
        upright = image if method is None else image.transpose(method)
        if upright.mode.startswith("I;16"):
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return upright if upright.mode == "RGB" else upright.convert("RGB")
    except _DECODER_ERRORS as error:
        raise _broken(error) from error


def _broken(error: BaseException) -> RecordError:
    """The reason code for what a decoder said."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, Image.DecompressionBombError):
        return RecordError("too_many_pixels", said)
    cut = any(word in said.lower() for word in ("truncated", "not enough", "unexpected end"))
    return RecordError("truncated_image" if cut or isinstance(error, EOFError) else "broken_image", said)
