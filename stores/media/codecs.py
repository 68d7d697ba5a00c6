"""Exact decoders without Pillow's copies: libjpeg-turbo, libwebp and libspng write straight into the caller's memory.

`image.decode_rgb` calls this after Pillow has read the header and the limits are checked. Pillow decodes into pixels of
4 bytes, copies them out in pieces of 64 KiB and joins these; for WebP it also keeps two canvases of an animation. The
decoders here are called with Pillow's settings (exact DCT, smooth chroma upsampling), give the same pixels, and release
the interpreter's lock.

Pillow alone rejects an image: whatever a decoder here does not decode without a warning is decoded by Pillow, whose
error becomes the reason. `tests/stores/media/test_codecs.py` compares the two.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import simplejpeg
from PIL import Image

_MODES = {
    "JPEG": ("RGB", "L"),
    "MPO": ("RGB", "L"),
    "WEBP": ("RGB", "RGBA"),
    "PNG": ("RGB", "RGBA", "L", "LA"),
}
"""Image format -> Pillow's modes that are decoded here."""

PNG_MIN_PIXELS = 1 << 18
"""Smaller ones go to Pillow: less than a millisecond is to be saved."""
_SPNG_FMT_RGB8 = 4
_PNG_SIGNATURE_BYTES = 8


def handles(image: Image.Image) -> bool:
    """Return whether `decode_into` is worth a try for an opened, unloaded image."""
    small = image.format == "PNG" and image.width * image.height < PNG_MIN_PIXELS
    return image.mode in _MODES.get(image.format or "", ()) and not small


def decode_into(image: Image.Image, payload: bytes, rgb: np.ndarray) -> bool:
    """Fill `rgb`, (H, W, 3) uint8 of the image's size. Returns False where Pillow has to decode it.

    Args:
        image: the image as Pillow opened it, not loaded yet; `handles(image)` holds.
        payload: the encoded bytes that it was opened from.
    """
    decode = {"PNG": decode_png, "WEBP": _webp}.get(image.format or "", _jpeg)
    return decode(payload, rgb)


def _jpeg(payload: bytes, rgb: np.ndarray) -> bool:
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(payload)
        if (height, width) != rgb.shape[:2] or colors not in ("YCbCr", "Gray", "RGB"):
            return False
        simplejpeg.decode_jpeg(payload, "RGB", buffer=rgb)
    except (ValueError, KeyError):  # broken or of an unknown kind; a warning counts as broken
        return False
    return True


def decode_reduced(payload: bytes, rgb: np.ndarray) -> bool:
    """Fill `rgb` with a JPEG decoded from its low DCT frequencies: nearly the means over blocks of pixels.

    Args:
        rgb: (H, W, 3) uint8, a half, a quarter or an eighth of the image's size, rounded up; not rotated upright.
    Returns:
        False where Pillow has to decode it.
    """
    min_height, min_width, _ = rgb.shape
    try:
        _, _, colors, _ = simplejpeg.decode_jpeg_header(payload)
        if colors not in ("YCbCr", "Gray", "RGB"):
            return False
        size = {"min_height": min_height, "min_width": min_width, "min_factor": 2}
        return simplejpeg.decode_jpeg(payload, "RGB", buffer=rgb, **size).shape == rgb.shape
    except (ValueError, KeyError):
        return False


def decode_png(payload: bytes, rgb: np.ndarray) -> bool:
    """Decode a PNG of 8 bits a sample; alpha is cut off. Checksums of critical chunks are compared."""
    spng = _spng()
    if spng is None or not _ends_after_pixels(payload):
        return False
    context = spng.spng_ctx_new(0)
    try:
        header = _SpngHeader()
        spng.spng_set_png_buffer(context, payload, len(payload))
        if spng.spng_get_ihdr(context, ctypes.byref(header)) != 0:
            return False
        if (header.height, header.width) != rgb.shape[:2] or header.bit_depth != 8:
            return False
        return spng.spng_decode_image(context, rgb.ctypes.data, rgb.nbytes, _SPNG_FMT_RGB8, 0) == 0
    finally:
        spng.spng_ctx_free(context)


def _ends_after_pixels(payload: bytes) -> bool:
    """Return whether IEND follows the IDAT chunks at once: no animation, no orientation behind the pixels."""
    at, pixels = _PNG_SIGNATURE_BYTES, False
    while len(start := payload[at : at + 8]) == 8:
        name = start[4:]
        if name == b"IEND":
            return pixels
        if name in (b"acTL", b"fcTL") or (pixels and name != b"IDAT"):
            return False
        pixels = pixels or name == b"IDAT"
        at += 12 + int.from_bytes(start[:4])
    return False


class _SpngHeader(ctypes.Structure):
    """`struct spng_ihdr` of libspng 0.7."""

    _fields_ = (
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("bit_depth", ctypes.c_uint8),
        ("color_type", ctypes.c_uint8),
        ("compression_method", ctypes.c_uint8),
        ("filter_method", ctypes.c_uint8),
        ("interlace_method", ctypes.c_uint8),
    )


@cache
def _spng() -> ctypes.CDLL | None:
    """Return the libspng inside `pyspng`, or None where its functions can't be reached.

    `pyspng.load` itself holds the interpreter's lock, returns a new array and ignores checksums of pixels.
    """
    try:
        from pyspng import _pyspng_c

        library = ctypes.CDLL(_pyspng_c.__file__)
        library.spng_ctx_new.argtypes = [ctypes.c_int]
        library.spng_ctx_new.restype = ctypes.c_void_p
        library.spng_ctx_free.argtypes = [ctypes.c_void_p]
        library.spng_ctx_free.restype = None
        library.spng_set_png_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        library.spng_get_ihdr.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        library.spng_decode_image.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
        ]
    except (ImportError, OSError, AttributeError):
        return None
    return library


def _webp(payload: bytes, rgb: np.ndarray) -> bool:
    decode, still = _webp_decoder(), _webp_still(payload)
    width, height = ctypes.c_int(), ctypes.c_int()
    if not decode or not decode.WebPGetInfo(still, len(still), ctypes.byref(width), ctypes.byref(height)):
        return False
    if (height.value, width.value) != rgb.shape[:2]:
        return False
    to = rgb.ctypes.data
    return decode.WebPDecodeRGBInto(still, len(still), to, rgb.nbytes, width.value * 3) == to


def _webp_still(payload: bytes) -> bytes:
    """Return the chunks of a still image without those behind them, so that a damaged one isn't read beyond its end.

    Empty for an animation.
    """
    at, start = 12, 0
    while len(header := payload[at : at + 8]) == 8:
        name, end = header[:4], at + 8 + int.from_bytes(header[4:], "little")
        if name in (b"VP8 ", b"VP8L"):
            return payload[start or at : end]
        if name == b"ANIM":
            break
        start = at if name == b"ALPH" else 0
        at = end + end % 2
    return b""


@cache
def _webp_decoder() -> ctypes.CDLL | None:
    """Return the libwebp that Pillow is linked with, or None where its functions can't be reached."""
    try:
        from PIL import _webp

        library = ctypes.CDLL(_webp.__file__)
        library.WebPGetInfo.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]
        library.WebPDecodeRGBInto.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
        ]
        library.WebPDecodeRGBInto.restype = ctypes.c_void_p
    except (ImportError, OSError, AttributeError):
        return None
    return library
