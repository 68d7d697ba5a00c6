"""Seeded changes of pictures at load time: another view (crop, turn) and other colours, with the shapes on them.

Before this `loader/loader.py` has a medium's bytes and its place in the global batch; after it patches are cut. A plan
fixes sizes, grids and slots, so a view always ends in the planned size. What is drawn is a function of (seed, global
batch, row, first slot) alone: not of ranks, threads or time, nor of what was forgotten beside it. All frames of a clip
are changed alike.

Text is tokenised long before and can't be changed here, so what it says has to stay true. Whoever switches this on
names the sources of which that holds, and a medium beside *facts* keeps its view, because any of them (a count, a
place, a box, an answer) may be false of a part of the picture; beside the fact `colour` it keeps its hue, too. What is
known as coordinates outside the text (`records.Shape`) moves with the pixels: `GlobalBatch.shapes`.
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
"""Raised when the same settings would give other pixels or shapes."""

_BITS = 16
_DRAWN = 2**52
_LUMA = (0.213, 0.715, 0.072)
"""Of red, green and blue: SVG's `feColorMatrix`, whose `saturate` and `hueRotate` these are. Both keep luma."""


@schema
class Augmentation:
    """The key `augment` of a stage."""

    sources: tuple[str, ...]
    """Sources of the mixture whose texts stay true of a changed picture. Media of others are left as they are."""
    seed: int = 0
    least_area: float = 1.0
    """The smallest share of a picture that a view shows; its sides keep their ratio."""
    turn_degrees: float = 0.0
    """Views are turned by up to so much either way, and shrink until no corner looks beyond the picture."""
    brightness: float = 0.0
    """0.2: all values are multiplied by 0.8 to 1.2. So with the next two."""
    contrast: float = 0.0
    """Of distances from mid-grey."""
    saturation: float = 0.0
    hue_degrees: float = 0.0
    facts_kept: tuple[str, ...] = ()
    """Names of facts that stay true all the same, or that whoever reads the batches moves in the text."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty: name those whose texts stay true of a changed picture")
        if not 0 < self.least_area <= 1 or not 0 <= self.turn_degrees <= 45 or not 0 <= self.hue_degrees <= 180:
            raise ValueError("least_area lies in (0, 1], turn_degrees in [0, 45], hue_degrees in [0, 180]")
        if not all(0 <= share < 1 for share in (self.brightness, self.contrast, self.saturation)):
            raise ValueError("brightness, contrast and saturation lie in [0, 1)")

    @property
    def moves(self) -> bool:
        return self.least_area < 1 or self.turn_degrees > 0

    @property
    def digest(self) -> str:
        return digest("augmentation", str(VERSION), canonical_json(dataclasses.asdict(self)))


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of a picture, perhaps turned, all of it inside."""

    width_px: int
    height_px: int
    centre: tuple[float, float]
    degrees: float = 0.0
    """Clockwise on the screen, as x goes right and y down: what is seen turns the other way."""

    def cut(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (height_px, width_px, 3) uint8."""
        x, y = self.centre
        if not self.degrees:
            left, top = round(x - self.width_px / 2), round(y - self.height_px / 2)
            return rgb[top : top + self.height_px, left : left + self.width_px]
        cos, sin = _cos_sin(self.degrees)
        half_width, half_height = self.width_px / 2, self.height_px / 2
        back = (cos, -sin, x - cos * half_width + sin * half_height, sin, cos, y - sin * half_width - cos * half_height)
        picture = Image.fromarray(np.ascontiguousarray(rgb))
        size = (self.width_px, self.height_px)
        return np.asarray(picture.transform(size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC))

    def affine(self, size_px: Size) -> Affine:
        """From the picture's coordinates to those of this view after resizing."""
        cos, sin = _cos_sin(self.degrees)
        x, y = self.centre
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
    """In units of 2^-16."""
    offset: int

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> the same."""
        wide = np.moveaxis(rgb.astype(np.int32), -1, 0)
        out = np.empty_like(rgb)
        for channel, weights in enumerate(self.matrix):
            total = sum(weight * plane for weight, plane in zip(weights, wide, strict=True))
            out[..., channel] = np.clip((total + self.offset) >> _BITS, 0, 255)
        return out


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """What is drawn for one medium. The plain one only resizes."""

    crop: Crop | None = None
    colour: ColorMatrix | None = None

    def apply(self, rgb: np.ndarray, size_px: Size) -> np.ndarray:
        """(H, W, 3) uint8, as decoded -> (height, width, 3) uint8 of the planned `size_px`."""
        made = resize(rgb if self.crop is None else self.crop.cut(rgb), *size_px)
        return made if self.colour is None else self.colour.apply(made)

    def move_shapes(self, shapes: Sequence[Shape], original_px: Size, size_px: Size) -> tuple[VisibleShape, ...]:
        """`shapes` in pixels of what `applied` returns."""
        by = scaling(original_px, size_px) if self.crop is None else self.crop.affine(size_px)
        return move_shapes(shapes, by, size_px)


RESIZE_ONLY = ImageTransform()


def draw_transform(
    settings: Augmentation, place: tuple[int, int, int], size_px: Size, told: Sequence[str] = ()
) -> ImageTransform:
    """The change of one medium.

    Args:
        place: global batch, row in it, first slot in the row.
        size_px: of the upright original.
        told: names of the facts in the text beside it.
    """
    key = digest("augment", str(settings.seed), *map(str, place))

    def uniform(name: str) -> float:
        """In [0, 1): each name has its own, so that switching one change on leaves the others as they were."""
        return int(digest(key, name)[:13], 16) / _DRAWN

    def around(name: str, reach: float) -> float:
        return (2 * uniform(name) - 1) * reach

    telling = set(told) - set(settings.facts_kept)
    view = None
    if settings.moves and not telling:
        share = settings.least_area + (1 - settings.least_area) * uniform("area")
        degrees = around("turn", settings.turn_degrees)
        view = _view(size_px, share, degrees, (uniform("across"), uniform("down")))
    hued = "colour" not in telling
    brightness = 1 + around("brightness", settings.brightness)
    contrast = 1 + around("contrast", settings.contrast)
    saturation = 1 + around("saturation", settings.saturation) if hued else 1.0
    hue = around("hue", settings.hue_degrees) if hued else 0.0
    plain = (brightness, contrast, saturation, hue) == (1, 1, 1, 0)
    return ImageTransform(view, None if plain else _colour(brightness, contrast, saturation, hue))


def _view(size_px: Size, share: float, degrees: float, at: tuple[float, float]) -> Crop:
    """`at`: where in the room that is left its centre lies, (0, 0) at the upper left."""
    width, height = size_px
    cos, sin = map(abs, _cos_sin(degrees))
    side = math.sqrt(share)
    side *= min(1.0, width / (side * (width * cos + height * sin)), height / (side * (width * sin + height * cos)))
    seen = (max(1, int(width * side)), max(1, int(height * side)))
    if not degrees:
        corner = [int(place * (whole - part + 1)) for place, whole, part in zip(at, size_px, seen, strict=True)]
        return Crop(*seen, (corner[0] + seen[0] / 2, corner[1] + seen[1] / 2))
    covered = (seen[0] * cos + seen[1] * sin, seen[0] * sin + seen[1] * cos)
    x, y = (part / 2 + place * max(0.0, whole - part) for place, whole, part in zip(at, size_px, covered, strict=True))
    return Crop(*seen, (round(x, 6), round(y, 6)), round(degrees, 6))


def _cos_sin(degrees: float) -> tuple[float, float]:
    """Rounded, because the last bit differs between C libraries."""
    return round(math.cos(math.radians(degrees)), 12), round(math.sin(math.radians(degrees)), 12)


def _colour(brightness: float, contrast: float, saturation: float, hue: float) -> ColorMatrix:
    """First hue and saturation, then brightness, then contrast around 127.5."""
    cos, sin = _cos_sin(hue)
    luma = np.tile(_LUMA, (3, 1))
    turned = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    hues = luma + cos * (np.eye(3) - luma) + sin * turned
    both = (luma + saturation * (np.eye(3) - luma)) @ hues * (brightness * contrast)
    matrix = np.rint(both * (1 << _BITS)).astype(int).tolist()
    offset = round(127.5 * (1 - contrast) * (1 << _BITS)) + (1 << (_BITS - 1))
    return ColorMatrix(tuple((r, g, b) for r, g, b in matrix), offset)
