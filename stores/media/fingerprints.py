"""What decodes pixels here: libraries by name and version, and a fingerprint of what they really do.

A fingerprint is taken of the pixels that the functions of `media/image.py` and `media/video.py` make of the files in
`probe_media/`. So a library that was swapped below its version number is noticed, and one that has another number and
equal pixels is known to be harmless. `packing/loader/certificate.py` asks at the start of a run; it takes some
milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
from PIL import features

from manifests.errors import RecordError
from manifests.records import digest
from stores.media import image, png, video

FOLDER = Path(__file__).with_name("probe_media")

TIMES_US = tuple(range(0, 360_000, 40_000))
"""Of all frames of the clips."""

WIDTHS = (61, 30, 97)
"""Of the resized probe: as it is, smaller and larger, odd and even."""

HALF_QUARTER_EIGHTH_PX = (20, 10, 1)
"""What probes of 61 x 43 px are asked for, to be decoded at these parts of their size."""


@dataclass(frozen=True, slots=True)
class Component:
    """Something that decides bytes."""

    version: str
    """Name and number. Says nothing about bytes."""
    fingerprint: str
    """Equal fingerprints, equal bytes, as far as the probes tell."""


def decoders() -> dict[str, Component]:
    """Decoders by what they read, and the resize kernel."""
    pillow = f"Pillow {version('pillow')}"
    turbo = features.version_feature("libjpeg_turbo")
    libraries = {"JPEG": f"libjpeg-turbo {turbo}, simplejpeg {version('simplejpeg')}"}
    libraries |= {name: f"{lib} {features.version(lib)}" for name, lib in (("WebP", "webp"), ("AVIF", "avif"))}
    libraries["PNG"] = f"zlib {features.version('zlib')}"
    found = {
        f"{name} decoder": Component(f"{pillow}, {library}", _pictures(f"*.{ending}"))
        for (name, library), ending in zip(libraries.items(), ("jpg", "webp", "avif", "png"), strict=True)
    }
    small = found["PNG decoder"]
    found["PNG decoder"] = Component(small.version, digest("png", small.fingerprint, _unfiltered()))
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    found["video decoder"] = Component(f"{video.DEFAULT_DECODER} {av.__version__}, libavcodec {codec}", _clips())
    found["resize kernel"] = Component(f"numba {version('numba')}", _resized())
    return found


def reduced() -> Component:
    """What is decoded at a part of its size (`image.decode_near`)."""
    files = [file.read_bytes() for file in sorted(FOLDER.glob("*.jpg"))]
    small = [image.decode_near(file, side, side)[0] for file in files for side in HALF_QUARTER_EIGHTH_PX]
    return Component(f"simplejpeg {version('simplejpeg')}", _hashed(small))


def _pictures(pattern: str) -> str:
    return digest("pictures", *map(_picture, sorted(FOLDER.glob(pattern))))


def _picture(file: Path) -> str:
    try:
        return _hashed([image.decode_rgb(file.read_bytes())])
    except RecordError as error:
        return error.reason


def _unfiltered() -> str:
    """The same by what reads large ones, `media/png.py`."""
    made = []
    for file in sorted(FOLDER.glob("*.png")):
        payload = file.read_bytes()
        _, width, height = image.probe(payload)
        rgb = np.zeros((height, width, 3), np.uint8)
        if png.decode_into(payload, rgb):
            made.append(rgb)
    return _hashed(made)


def _clips() -> str:
    return digest("clips", *(_clip(file) for ending in ("mp4", "webm") for file in sorted(FOLDER.glob(f"*.{ending}"))))


def _clip(file: Path) -> str:
    try:
        return _hashed(video.frames_at(file.read_bytes(), TIMES_US))
    except RecordError as error:
        return error.reason


def _resized() -> str:
    rgb = pattern()
    return _hashed(image.resize(rgb, width, height) for width in WIDTHS for height in (43, 20, 70))


def pattern() -> np.ndarray:
    """(43, 61, 3) uint8 by whole numbers alone, with soft and hard edges."""
    down, across, colour = np.indices((43, 61, 3))
    return ((across * across * (colour + 2) + down * 37 * (3 - colour) + across * down * 5) // 7 % 256).astype(np.uint8)


def _hashed(arrays: Iterable[np.ndarray]) -> str:
    return digest(*(part for array in arrays for part in (str(array.shape), np.ascontiguousarray(array).tobytes())))
