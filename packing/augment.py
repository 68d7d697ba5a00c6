"""Seeded augmentation of images at load time: crop, turn and color, with the shapes on them.

`loader/global_batch.py` draws a transform for each medium, `navit.py` applies it between decoding and patches, and
`pipelines/synthesis/augment.py` uses the same transforms offline. A plan fixes sizes, grids and slots, so every crop is
resized to the planned size. A transform depends on (seed, global batch, row, first slot) alone: not on ranks, threads,
time, or records that were forgotten. All frames of a clip get the same transform.

Text is tokenized earlier and can't change here, so it has to stay true of the transformed image. The user names the
sources for which that holds. If the sample's text has facts (a count, a place, a box, an answer), its media are not
cropped, because the fact may be false of a part of the image; with the fact `color` they keep their hue as well.
Coordinates that are not in the text (`records.Shape`) move with the pixels: `GlobalBatch.shapes`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from manifests.load import schema
from manifests.records import Shape, canonical_json, digest
from packing.augment_shapes import Affine, Size, VisibleShape, move_shapes, scaling
from stores.media.image import resize

VERSION = 1
"""Raise it when equal settings would give other pixels or shapes."""

_FRACTION_BITS = 16
"""Color matrices are fixed-point numbers with so many bits behind the point."""
_DRAW_RANGE = 2**52
_LUMA = (0.213, 0.715, 0.072)
"""Weights of red, green and blue in SVG's `feColorMatrix`, whose `saturate` and `hueRotate` are used here. Both keep
luma."""


@schema
class Augmentation:
    """Settings of the key `augment` of a training stage."""

    sources: tuple[str, ...]
    """Sources of the mixture whose texts stay true of a transformed image. Media of other sources are not changed."""
    seed: int = 0
    least_area: float = 1.0
    """Smallest share of the image area that a crop shows; its aspect ratio stays."""
    turn_degrees: float = 0.0
    """Crops are turned by up to this angle either way, and shrink until no corner is outside the image."""
    brightness: float = 0.0
    """0.2: all values are multiplied by 0.8 to 1.2."""
    contrast: float = 0.0
    """0.2: distances from mid-gray are multiplied by 0.8 to 1.2."""
    saturation: float = 0.0
    """0.2: saturation is multiplied by 0.8 to 1.2."""
    hue_degrees: float = 0.0
    """Hues are rotated by up to this angle either way."""
    facts_kept: tuple[str, ...] = ()
    """Names of facts that stay true of a crop, or that the trainer moves in the text itself."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty: name the sources whose texts stay true of a transformed image")
        if not 0 < self.least_area <= 1 or not 0 <= self.turn_degrees <= 45 or not 0 <= self.hue_degrees <= 180:
            raise ValueError("expected least_area in (0, 1], turn_degrees in [0, 45] and hue_degrees in [0, 180]")
        if not all(0 <= share < 1 for share in (self.brightness, self.contrast, self.saturation)):
            raise ValueError("expected brightness, contrast and saturation in [0, 1)")

    @property
    def crops(self) -> bool:
        """Whether images are cropped or turned."""
        return self.least_area < 1 or self.turn_degrees > 0

    @property
    def digest(self) -> str:
        """Digest of the settings and of `VERSION`."""
        return digest("augmentation", str(VERSION), canonical_json(dataclasses.asdict(self)))


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle inside an image, possibly turned."""

    width_px: int
    height_px: int
    center: tuple[float, float]
    degrees: float = 0.0
    """Angle of the rectangle, clockwise on the screen (x to the right, y down); its content turns the other way."""

    def cut(self, rgb: np.ndarray) -> np.ndarray:
        """Cut the crop out of an image: (H, W, 3) uint8 -> (height_px, width_px, 3) uint8."""
        x, y = self.center
        if not self.degrees:
            left, top = round(x - self.width_px / 2), round(y - self.height_px / 2)
            return rgb[top : top + self.height_px, left : left + self.width_px]
        cos, sin = _cos_sin(self.degrees)
        half_width, half_height = self.width_px / 2, self.height_px / 2
        to_image = (
            *(cos, -sin, x - cos * half_width + sin * half_height),
            *(sin, cos, y - sin * half_width - cos * half_height),
        )
        image = Image.fromarray(np.ascontiguousarray(rgb))
        size = (self.width_px, self.height_px)
        return np.asarray(image.transform(size, Image.Transform.AFFINE, to_image, Image.Resampling.BICUBIC))

    def affine(self, size_px: Size) -> Affine:
        """Return the map from image coordinates to those of this crop after resizing to `size_px`."""
        cos, sin = _cos_sin(self.degrees)
        x, y = self.center
        across, down = size_px[0] / self.width_px, size_px[1] / self.height_px
        return Affine(
            across * cos,
            across * sin,
            across * (self.width_px / 2 - cos * x - sin * y),
            -down * sin,
            down * cos,
            down * (self.height_px / 2 + sin * x - cos * y),
        )


@dataclass(frozen=True, slots=True)
class ColorMatrix:
    """rgb -> matrix rgb + offset in integers, so that every machine gives the same bits."""

    matrix: tuple[tuple[int, int, int], ...]
    """3 x 3, in units of 2^-16."""
    offset: int

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """Return a recolored (H, W, 3) uint8 image."""
        planes = np.moveaxis(rgb.astype(np.int32), -1, 0)
        out = np.empty_like(rgb)
        for channel, weights in enumerate(self.matrix):
            total = sum(weight * plane for weight, plane in zip(weights, planes, strict=True))
            out[..., channel] = np.clip((total + self.offset) >> _FRACTION_BITS, 0, 255)
        return out


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """Transform of one medium: an optional crop, resizing, an optional color matrix."""

    crop: Crop | None = None
    color: ColorMatrix | None = None

    def apply(self, rgb: np.ndarray, size_px: Size) -> np.ndarray:
        """Transform a decoded (H, W, 3) uint8 image to (height, width, 3) uint8 of the planned `size_px`."""
        resized = resize(rgb if self.crop is None else self.crop.cut(rgb), *size_px)
        return resized if self.color is None else self.color.apply(resized)

    def move_shapes(self, shapes: Sequence[Shape], original_px: Size, size_px: Size) -> tuple[VisibleShape, ...]:
        """Return `shapes` in pixels of the image that `apply` returns."""
        by = scaling(original_px, size_px) if self.crop is None else self.crop.affine(size_px)
        return move_shapes(shapes, by, size_px)


RESIZE_ONLY = ImageTransform()


def draw_transform(
    settings: Augmentation, place: tuple[int, int, int], size_px: Size, fact_names: Sequence[str] = ()
) -> ImageTransform:
    """Draw the transform of one medium.

    Args:
        place: global batch, row in it, first slot in the row.
        size_px: size of the upright original.
        fact_names: names of the facts in the text of its sample.
    """
    key = digest("augment", str(settings.seed), *map(str, place))

    def uniform(name: str) -> float:
        """Draw from [0, 1). Each name has its own number, so one setting does not change the draws of another."""
        return int(digest(key, name)[:13], 16) / _DRAW_RANGE

    def around(name: str, reach: float) -> float:
        """Draw from [-reach, reach)."""
        return (2 * uniform(name) - 1) * reach

    limiting_facts = set(fact_names) - set(settings.facts_kept)
    crop = None
    if settings.crops and not limiting_facts:
        share = settings.least_area + (1 - settings.least_area) * uniform("area")
        degrees = around("turn", settings.turn_degrees)
        crop = _crop(size_px, share, degrees, (uniform("across"), uniform("down")))
    hue_is_free = "color" not in limiting_facts
    brightness = 1 + around("brightness", settings.brightness)
    contrast = 1 + around("contrast", settings.contrast)
    saturation = 1 + around("saturation", settings.saturation) if hue_is_free else 1.0
    hue = around("hue", settings.hue_degrees) if hue_is_free else 0.0
    unchanged = (brightness, contrast, saturation, hue) == (1, 1, 1, 0)
    return ImageTransform(crop, None if unchanged else _color_matrix(brightness, contrast, saturation, hue))


def _crop(size_px: Size, share: float, degrees: float, at: tuple[float, float]) -> Crop:
    """Return a crop of `share` of the area; `at` in [0, 1)^2 places its center in the free room, from the upper left.

    A turned crop is shrunk until it is inside the image.
    """
    width, height = size_px
    cos, sin = map(abs, _cos_sin(degrees))
    side = math.sqrt(share)
    side *= min(1.0, width / (side * (width * cos + height * sin)), height / (side * (width * sin + height * cos)))
    crop_px = (max(1, int(width * side)), max(1, int(height * side)))
    if not degrees:
        corner = [int(place * (whole - part + 1)) for place, whole, part in zip(at, size_px, crop_px, strict=True)]
        return Crop(*crop_px, (corner[0] + crop_px[0] / 2, corner[1] + crop_px[1] / 2))
    covered = (crop_px[0] * cos + crop_px[1] * sin, crop_px[0] * sin + crop_px[1] * cos)
    x, y = (part / 2 + place * max(0.0, whole - part) for place, whole, part in zip(at, size_px, covered, strict=True))
    return Crop(*crop_px, (round(x, 6), round(y, 6)), round(degrees, 6))


def _cos_sin(degrees: float) -> tuple[float, float]:
    """Return cosine and sine, rounded because the last bit differs between C libraries."""
    return round(math.cos(math.radians(degrees)), 12), round(math.sin(math.radians(degrees)), 12)


def _color_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> ColorMatrix:
    """Combine hue and saturation, then brightness, then contrast around 127.5 into one matrix."""
    cos, sin = _cos_sin(hue)
    luma = np.tile(_LUMA, (3, 1))
    turned = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    hues = luma + cos * (np.eye(3) - luma) + sin * turned
    product = (luma + saturation * (np.eye(3) - luma)) @ hues * (brightness * contrast)
    matrix = np.rint(product * (1 << _FRACTION_BITS)).astype(int).tolist()
    offset = round(127.5 * (1 - contrast) * (1 << _FRACTION_BITS)) + (1 << (_FRACTION_BITS - 1))
    return ColorMatrix(tuple((r, g, b) for r, g, b in matrix), offset)
