"""Fingerprints of the decoders of this machine: hashes of the pixels they give for the files in `probe_media/`.

A fingerprint notices a library that changed below its version number, and shows that one with another number is
harmless when the pixels are equal. `packing/loader/certificate.py` compares them at the start of a run, which takes
some milliseconds.
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
from stores.media import codecs, image, video

FOLDER = Path(__file__).with_name("probe_media")

TIMES_US = tuple(range(0, 360_000, 40_000))
"""Times of all frames of the probe clips, in microseconds."""

WIDTHS = (61, 30, 97)
"""Widths that the probe pattern is resized to: its own, smaller, larger; odd and even."""

HALF_QUARTER_EIGHTH_PX = (20, 10, 1)
"""Sides asked of JPEG probes of 61 x 43 px, so that they are decoded at a half, a quarter and an eighth."""


@dataclass(frozen=True, slots=True)
class Component:
    """A library that decides the bytes of a batch."""

    version: str
    """Names and version numbers of its libraries, for people."""
    fingerprint: str
    """Hash of its output on the probes; equal fingerprints mean equal bytes, as far as the probes cover them."""


def decoders() -> dict[str, Component]:
    """Return the components by name: one decoder per format, and the resize kernel."""
    pillow = f"Pillow {version('pillow')}"
    turbo = features.version_feature("libjpeg_turbo")
    libraries = {"JPEG": f"libjpeg-turbo {turbo}, simplejpeg {version('simplejpeg')}"}
    libraries |= {name: f"{lib} {features.version(lib)}" for name, lib in (("WebP", "webp"), ("AVIF", "avif"))}
    libraries["PNG"] = f"zlib {features.version('zlib')}, pyspng {version('pyspng')}"
    components = {
        f"{name} decoder": Component(f"{pillow}, {library}", _pictures(f"*.{ending}"))
        for (name, library), ending in zip(libraries.items(), ("jpg", "webp", "avif", "png"), strict=True)
    }
    small = components["PNG decoder"]
    components["PNG decoder"] = Component(small.version, digest("png", small.fingerprint, _large_pngs()))
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    components["video decoder"] = Component(f"{video.DEFAULT_DECODER} {av.__version__}, libavcodec {codec}", _clips())
    components["resize kernel"] = Component(f"numba {version('numba')}", _resized())
    return components


def reduced() -> Component:
    """Return the decoder of JPEGs at a part of their size (`image.decode_near`)."""
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


def _large_pngs() -> str:
    """Hash of the PNG probes as the decoder of large ones gives them."""
    decoded = []
    for file in sorted(FOLDER.glob("*.png")):
        payload = file.read_bytes()
        _, width, height = image.probe(payload)
        rgb = np.zeros((height, width, 3), np.uint8)
        if codecs.decode_png(payload, rgb):
            decoded.append(rgb)
    return _hashed(decoded)


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
    """Return a probe image, (43, 61, 3) uint8, made by integer arithmetic alone, with soft and hard edges."""
    row, column, channel = np.indices((43, 61, 3))
    return ((column * column * (channel + 2) + row * 37 * (3 - channel) + column * row * 5) // 7 % 256).astype(np.uint8)


def _hashed(arrays: Iterable[np.ndarray]) -> str:
    return digest(*(part for array in arrays for part in (str(array.shape), np.ascontiguousarray(array).tobytes())))
