"""Pillow's pixels without its copies: libjpeg-turbo, libwebp and zlib spoken to directly, for pictures they surely
agree on.

`image.decode_rgb` stands before this. Pillow decodes into pixels of 4 bytes, hands them over in pieces of 64 KiB and
joins these; for WebP it keeps two canvases of an animation besides. Here the same libraries with the same settings
(exact DCT, smooth upsampling of colour; for PNG `media/png.py`) write 3 bytes per pixel into the caller's memory. All
let go of the interpreter's lock.

Only Pillow says no: whatever these do not decode without so much as a warning is left to it, with its verdict and its
reason. So they are asked after Pillow has read the header and the limits are checked.
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
"""By format, Pillow's names of what is read here."""

PNG_PIXELS = 1 << 18
"""Smaller ones are Pillow's: they save a millisecond each, and `media/png.py` costs a process half a second and 110
MB."""


def knows(image: Image.Image) -> bool:
    """Whether `decode_into` is worth a try."""
    small = image.format == "PNG" and image.width * image.height < PNG_PIXELS
    return image.mode in _MODES.get(image.format or "", ()) and not small


def decode_into(image: Image.Image, payload: bytes, rgb: np.ndarray) -> bool:
    """Fill `rgb`, (H, W, 3) uint8 of the picture's size, or say that Pillow has to.

    Args:
        image: what Pillow opened, not loaded yet, and `knows`.
        payload: the bytes that it was opened from.
    """
    if image.format == "PNG":
        from stores.media import png  # costs time and memory that nobody pays who has no PNG

        return png.decode_into(payload, rgb)
    return _webp(payload, rgb) if image.format == "WEBP" else _jpeg(payload, rgb)


def _jpeg(payload: bytes, rgb: np.ndarray) -> bool:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(payload)
        if (height, width) != rgb.shape[:2] or colours not in ("YCbCr", "Gray", "RGB"):
            return False
        simplejpeg.decode_jpeg(payload, "RGB", buffer=rgb)
    except (ValueError, KeyError):  # broken, or nothing it has a name for; warnings too
        return False
    return True


def decode_reduced(payload: bytes, rgb: np.ndarray) -> bool:
    """Fill `rgb` with a JPEG by its low frequencies alone, or say that Pillow has to: nearly the means over blocks.

    Args:
        rgb: (H, W, 3) uint8 of a half, a quarter or an eighth of the picture's size, rounded up. Not turned upright.
    """
    least_height, least_width, _ = rgb.shape
    try:
        _, _, colours, _ = simplejpeg.decode_jpeg_header(payload)
        if colours not in ("YCbCr", "Gray", "RGB"):
            return False
        least = {"min_height": least_height, "min_width": least_width, "min_factor": 2}
        return simplejpeg.decode_jpeg(payload, "RGB", buffer=rgb, **least).shape == rgb.shape
    except (ValueError, KeyError):
        return False


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
    """The chunks that hold the one picture, without what stands behind: a damaged picture must not be read on into it.

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
    """The libwebp that Pillow is linked with, if its functions can be reached."""
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
