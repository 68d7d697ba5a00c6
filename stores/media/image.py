"""Encoded images: format and upright size, a full decoding check, and pixels exactly as the released model saw them.

Ingest calls `check` on the bytes of a file and stores format and size in `records.Media`; packing decodes the same
bytes to patches. Pixels are Pillow's, as in the released processor: EXIF orientation applied, then `convert("RGB")`.
For images that are not plain RGB that means:

    palette, gray, 1 bit, CMYK, LAB, YCbCr   Pillow's own conversion; color profiles are not applied
    alpha                                    cut off; the color below it stays, unblended
    16-bit gray                              the high byte, as Pillow does for 16-bit RGB. The one deviation: released
                                             code clips such images to 255, which gives a white page
    32-bit integer, float                    range is not declared: clipped to 0..255, as released
    animated (GIF, PNG, WebP), several pages the first frame

The bytes are untrusted. Their number, pixels and JPEG scans are limited before any pixel is decoded. Decoders are
native code, so ingest calls `check` through `stores.media.sandbox` (0.1 ms more CPU per image: benchmarks/LOG.md).
Bytes in a store have been checked, and their digest proves it, so readers call `decode_rgb` directly.
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
    "MPO": "jpg",  # a JPEG followed by more images, which Pillow's JPEG reader notices
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
"""Pillow's format name -> `Media.format`. A closed list: some of Pillow's other readers start programs."""

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
"""EXIF orientation -> transposition that turns the image upright; 1 and unknown values leave it."""

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: np.transpose(np.rot90(pixels, 2)),
    8: np.rot90,
}
"""EXIF orientation -> the same transposition of an array."""

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
"""Exceptions that Pillow's readers raise on broken files; they differ by format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """Limits on one image. Decoding takes at most about 12 bytes of memory per pixel."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 89_478_485
    """Pillow's limit for decompression bombs (a quarter of a GiB of RGB)."""
    max_scans: int = 100
    """Scans of a progressive JPEG. Encoders write about 10; thousands turn a small file into minutes of work."""


LIMITS = ImageLimits()

warnings.filterwarnings(
    "ignore", module=r"PIL\..*"
)  # about sizes, which are limited here, and metadata, which is not read


class ImageInfo(NamedTuple):
    """Format and upright size of an image."""

    format: str
    width_px: int
    height_px: int


def probe(payload: bytes, limits: ImageLimits = LIMITS) -> ImageInfo:
    """Read format and upright size from the header. A PNG may hold its orientation at its end and is read to there.

    The pixels may still fail to decode; `check` decodes them.

    Raises:
        RecordError: `empty_file`, `too_many_bytes`, `unknown_format`, `too_many_pixels`, `too_many_scans`, or
            `truncated_image` or `broken_image` for a wrong header.
    """
    image = _open(payload, limits)
    width, height = image.size
    transposed = _orientation(image) >= 5
    return ImageInfo(FORMATS[str(image.format)], *((height, width) if transposed else (width, height)))


def check(payload: bytes, limits: ImageLimits = LIMITS) -> ImageInfo:
    """Decode an untrusted image completely; return its format and size. Raises RecordError as `probe` does."""
    image = _loaded(_open(payload, limits))
    rgb = _upright_rgb(image)
    return ImageInfo(FORMATS[str(image.format)], *rgb.size)


class PixelMemory:
    """Reusable buffer for the pixels of one image at a time: fresh pages cost a third of the time of decoding."""

    MAX_BYTES = 96 * 2**20
    """33 megapixels. Buffers of larger images are not kept."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def pixels(self, width_px: int, height_px: int) -> np.ndarray:
        """Return (height_px, width_px, 3) uint8, uninitialized and valid until the next call."""
        size = width_px * height_px * 3
        if size > self.MAX_BYTES:
            return np.empty((height_px, width_px, 3), np.uint8)
        if size > len(self._buffer):
            self._buffer = np.empty(size, np.uint8)
        return self._buffer[:size].reshape(height_px, width_px, 3)


def decode_rgb(payload: bytes, limits: ImageLimits = LIMITS, memory: PixelMemory | None = None) -> np.ndarray:
    """Decode to upright (H, W, 3) uint8; with `memory` valid until its next use. Raises RecordError as `check` does."""
    return _decoded(_open(payload, limits), payload, memory or PixelMemory())


def decode_by_pillow(payload: bytes, limits: ImageLimits = LIMITS) -> np.ndarray:
    """Decode by Pillow alone: the slow reference of `decode_rgb` and `media/codecs.py`."""
    return np.asarray(_upright_rgb(_loaded(_open(payload, limits))))


def reduced_rgb(payload: bytes, side_px: int, limits: ImageLimits = LIMITS) -> np.ndarray:
    """Decode to the size of `small_rgb`, upright: for filters and hashes, never for training.

    Of a JPEG only the frequencies visible at this size are decoded. Raises RecordError as `check` does.
    """
    image, memory = _open(payload, limits), PixelMemory()
    rgb, _ = _reduced(image, payload, (side_px, side_px), memory)
    return small_rgb(_decoded(image, payload, memory) if rgb is None else _turned(rgb, image), side_px)


def decode_near(
    payload: bytes, width_px: int, height_px: int, limits: ImageLimits = LIMITS, memory: PixelMemory | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode to a size approximately; return (height_px, width_px, 3) uint8 and the true (width, height).

    A JPEG at least two, four or eight times as large in both directions is decoded at a half, a quarter or an eighth
    and resized from there. All others equal `decode_rgb` and `resize`. With `memory` valid until its next use. Raises
    RecordError as `check` does.
    """
    image, memory = _open(payload, limits), memory or PixelMemory()
    transposed = image.format in ("JPEG", "MPO") and _orientation(image) >= 5
    stored_size = (height_px, width_px) if transposed else (width_px, height_px)
    rgb, factor = _reduced(image, payload, stored_size, memory)
    if rgb is None:
        rgb = _decoded(image, payload, memory)
        return resize(rgb, width_px, height_px), (rgb.shape[1], rgb.shape[0])
    from stores.media.resample import bicubic

    width, height = image.size
    rgb = _turned(bicubic(rgb, *stored_size, (width / factor, height / factor)), image)
    return rgb, (height, width) if transposed else (width, height)


def _reduced(
    image: Image.Image, payload: bytes, least: tuple[int, int], memory: PixelMemory
) -> tuple[np.ndarray | None, int]:
    """Decode a JPEG, not upright, at the smallest part of its size that is at least `least` (width, height).

    Returns the pixels and the divisor of the size (2, 4 or 8), or (None, 1) if it has to be decoded in full.
    """
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
    """Return the number of frames of an animation or of pages; 1 for other images. Raises RecordError."""
    image = _open(payload, limits)
    try:
        return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except _DECODER_ERRORS as error:
        raise _broken(error) from error


def small_rgb(rgb: np.ndarray, side_px: int) -> np.ndarray:
    """Shrink an image by box means: shorter side `side_px`, longer side at most 8 times that; never enlarge."""
    height, width = rgb.shape[:2]
    scale = side_px / min(height, width)
    if scale >= 1 and max(height, width) <= 8 * side_px:
        return rgb
    size = [min(max(1, round(side * min(scale, 1))), 8 * side_px) for side in (width, height)]
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))


def _turned(rgb: np.ndarray, image: Image.Image) -> np.ndarray:
    """Turn decoded pixels upright by the orientation that `image`, not loaded, declares before its pixels."""
    turn = _TURNS.get(_orientation(image, Image.Image.getexif))
    if turn is None:
        return rgb
    pixels = np.ascontiguousarray(turn(rgb.view("V3")[..., 0]))  # copying whole pixels is faster than copying bytes
    return pixels.view(np.uint8).reshape(*pixels.shape, 3)


def resize(rgb: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """Resize (H, W, 3) uint8 to (height_px, width_px, 3) with Pillow's antialiased bicubic, the released kernel."""
    if rgb.shape[:2] == (height_px, width_px):
        return rgb
    from stores.media.resample import bicubic  # numba is loaded only where an image has to be resized

    return bicubic(rgb, width_px, height_px)


def _open(payload: bytes, limits: ImageLimits) -> Image.Image:
    if not payload:
        raise RecordError("empty_file", "the file has no bytes")
    if len(payload) > limits.max_bytes:
        raise RecordError("too_many_bytes", f"{len(payload):,} bytes, at most {limits.max_bytes:,} are decoded")
    try:
        image = Image.open(io.BytesIO(payload), formats=_READERS)
    except Image.UnidentifiedImageError:
        raise RecordError("unknown_format", "not an image in any accepted format") from None
    except _DECODER_ERRORS as error:
        raise _broken(error) from error
    width, height = image.size
    if width < 1 or height < 1:
        raise RecordError("broken_image", f"{width} x {height} px is not an image")
    if width * height > limits.max_pixels:
        limit = f"at most {limits.max_pixels:,} pixels are decoded"
        raise RecordError("too_many_pixels", f"{width} x {height} px, {limit}")
    scans = (
        payload.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    )  # this marker never occurs inside compressed data
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
    """Return the EXIF orientation 1..8; 1 if there is none or it can't be read."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself and reports their upright size
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
    """Map a decoder's exception to a reason code."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, Image.DecompressionBombError):
        return RecordError("too_many_pixels", message)
    cut = any(word in message.lower() for word in ("truncated", "not enough", "unexpected end"))
    return RecordError("truncated_image" if cut or isinstance(error, EOFError) else "broken_image", message)
