"""Drawing with Pillow: colors, antialiased shapes, backdrops, a canvas for line art, film grain, image encoding.

The categories decide the content of a picture and call this module; the result is an `EncodedMedia`. Its bytes are a
function of the arguments, the state of the `SceneRng` and the Pillow version.

A user waits while thousands of pictures are drawn, so two things are done for speed. Shapes are supersampled in their
own bounding box, not over the whole picture. Film grain is cut from tiles that are made once: drawing it for every
pixel of every picture took eight times as long.
"""

from __future__ import annotations

import colorsys
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from pipelines.scenes.elements.entities import BACKDROPS, CAPITALS_ONLY, COLORS, FONT_FACES, FONT_FAMILIES, font
from pipelines.scenes.elements.split import SceneRng

XY = tuple[float, float]
"""A point (x, y); y grows downwards."""
Rgb = tuple[int, int, int]
"""(red, green, blue), 0 to 255."""

SUPERSAMPLE = 4
"""Factor per axis by which shapes and canvases are drawn larger before they are reduced."""
GRAIN_TILE_PX = 512
GRAIN_LEVELS = (2.0, 4.0, 7.0, 11.0)
"""Standard deviations of the grain, in levels of 0 to 255."""
LONGEST_SIDE_PX = 448


@dataclass(frozen=True)
class EncodedMedia:
    """An image or video file in memory, with the size at which viewers show it."""

    payload: bytes
    format: str
    """File extension without the dot."""
    width_px: int
    height_px: int


# ---------------------------------------------------------------------------------------------- colors


def jittered_color(rng: SceneRng, color: str) -> Rgb:
    """A random color that goes by this name."""
    hue = COLORS[color]
    return _rgb(
        hue.degrees + rng.uniform(-hue.spread, hue.spread),
        rng.uniform(*hue.saturation),
        rng.uniform(*hue.value),
    )


def tint(rng: SceneRng, dark: bool) -> Rgb:
    """A random near-gray for backdrops, paper and ink, too pale to pass for a named color."""
    value = rng.uniform(0.08, 0.26) if dark else rng.uniform(0.82, 0.98)
    return _rgb(rng.uniform(0, 360), rng.uniform(0, 0.10), value)


def shade(rgb: Rgb, by: float) -> Rgb:
    """Make a color lighter (`by` > 0) or darker, by a fraction of 255 per channel."""
    red, green, blue = (min(255, max(0, round(channel + 255 * by))) for channel in rgb)
    return red, green, blue


def _rgb(degrees: float, saturation: float, value: float) -> Rgb:
    red, green, blue = colorsys.hsv_to_rgb(degrees % 360 / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


# ---------------------------------------------------------------------------------------------- shapes


def outline(shape: str, x: float, y: float, radius: float, rotation_degrees: float = 0.0) -> tuple[XY, ...]:
    """Corners in pixels of a shape inside the circle of `radius` around (x, y), rotated clockwise.

    A circle has 48 corners. Every shape contains (x, y).
    """
    sine, cosine = math.sin(math.radians(rotation_degrees)), math.cos(math.radians(rotation_degrees))
    return tuple(
        (x + radius * (cosine * u - sine * v), y + radius * (sine * u + cosine * v)) for u, v in _UNIT_OUTLINES[shape]
    )


def _regular(corners: int, inner: float = 1.0) -> tuple[XY, ...]:
    """A regular polygon in the unit circle, first corner on top; every second corner lies at the radius `inner`."""
    angles = [2 * math.pi * i / corners for i in range(corners)]
    radii = [inner if i % 2 else 1.0 for i in range(corners)]
    return tuple((r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True))


def _heart() -> tuple[XY, ...]:
    angles = [2 * math.pi * i / 40 for i in range(40)]
    curve = [(16 * math.sin(a) ** 3, -13 * math.cos(a) + 5 * math.cos(2 * a) + 2 * math.cos(3 * a) + math.cos(4 * a))
             for a in angles]  # fmt: skip
    return tuple((u / 17.5, v / 17.5) for u, v in curve)


_ARM = 0.33
"""Half the width of an arm of the cross."""
_REACH = math.sqrt(1 - _ARM**2)
_HALF = math.sqrt(0.5)
_UNIT_OUTLINES: dict[str, tuple[XY, ...]] = {
    "circle": _regular(48),
    "square": ((-_HALF, -_HALF), (_HALF, -_HALF), (_HALF, _HALF), (-_HALF, _HALF)),
    "triangle": _regular(3),
    "star": _regular(10, inner=0.42),
    "cross": tuple(
        (u, v)
        for u, v in (
            (-_ARM, -_REACH), (_ARM, -_REACH), (_ARM, -_ARM), (_REACH, -_ARM), (_REACH, _ARM), (_ARM, _ARM),
            (_ARM, _REACH), (-_ARM, _REACH), (-_ARM, _ARM), (-_REACH, _ARM), (-_REACH, -_ARM), (-_ARM, -_ARM),
        )
    ),
    "heart": _heart(),
    "hexagon": _regular(6),
    "arrow": ((-0.95, -0.25), (0.1, -0.25), (0.1, -0.62), (1.0, 0.0), (0.1, 0.62), (0.1, 0.25), (-0.95, 0.25)),
}  # fmt: skip


def bounding_box(corners: Sequence[XY]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom)"""
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def antialiased_mask(corners: Sequence[XY]) -> tuple[Image.Image, tuple[int, int]]:
    """Antialiased mask of a polygon (mode "L"), and the position of its top left pixel in the picture."""
    left, top, right, bottom = bounding_box(corners)
    x, y = math.floor(left), math.floor(top)
    size = ((math.ceil(right) - x + 1) * SUPERSAMPLE, (math.ceil(bottom) - y + 1) * SUPERSAMPLE)
    mask = Image.new("L", size)
    # Pillow takes coordinates as pixel centers, hence the half pixel.
    fine = [((u - x) * SUPERSAMPLE - 0.5, (v - y) * SUPERSAMPLE - 0.5) for u, v in corners]
    ImageDraw.Draw(mask).polygon(fine, fill=255)
    return mask.reduce(SUPERSAMPLE), (x, y)


def paint_polygon(image: Image.Image, corners: Sequence[XY], rgb: Rgb) -> None:
    """Fill a polygon of the picture with one color, antialiased."""
    mask, corner = antialiased_mask(corners)
    image.paste(rgb, corner, mask)


# ---------------------------------------------------------------------------------------------- backdrops


def picture_size(rng: SceneRng, shortest_px: int = 84, longest_px: int = LONGEST_SIDE_PX) -> tuple[int, int]:
    """Random (width, height) in pixels.

    Small sizes are more frequent. Six in ten are square, as pictures of feeds often are, the others reach 2:1.
    """
    short = round(math.exp(rng.uniform(math.log(shortest_px), math.log(longest_px * 0.75))))
    aspect = 1.0 if rng.chance(0.6) else rng.uniform(1.0, 2.0)
    long = min(longest_px, round(short * aspect))
    return (long, short) if rng.chance(0.6) else (short, long)


@dataclass(frozen=True)
class Backdrop:
    """A background picture, and its facts that captions mention."""

    image: Image.Image
    dark: bool
    kind: str
    """One of `BACKDROPS`."""


def backdrop(rng: SceneRng, width: int, height: int) -> Backdrop:
    """Draw two tints in a pattern, and a few faint scratches and specks as distractors."""
    dark = rng.chance(0.2)
    kind = rng.pick(BACKDROPS)
    ground = tint(rng, dark)
    image = Image.new("RGB", (width, height), ground)
    if kind != "plain":
        image.paste(
            shade(ground, rng.choice((-1, 1)) * rng.uniform(0.04, 0.09)), (0, 0), _pattern(rng, kind, width, height)
        )
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integer(0, 8)):
        rgb = shade(ground, rng.choice((-1, 1)) * rng.uniform(0.05, 0.12))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if rng.chance(0.5):
            pen.line((x, y, x + rng.uniform(-0.3, 0.3) * width, y + rng.uniform(-0.3, 0.3) * height), rgb, 1)
        else:
            pen.ellipse((x, y, x + rng.uniform(1, 4), y + rng.uniform(1, 4)), rgb)
    return Backdrop(image, dark, kind)


def _pattern(rng: SceneRng, kind: str, width: int, height: int) -> Image.Image:
    """Mask (mode "L") of the second tint."""
    size = (width, height)
    step = rng.uniform(0.06, 0.16) * min(size)
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    match kind:
        case "gradient":
            direction = rng.choice(("up", "down", "left", "right"))
            ramp = Image.linear_gradient("L")
            if direction in ("left", "right"):
                ramp = ramp.transpose(Image.Transpose.ROTATE_90)
            if direction in ("up", "left"):
                ramp = ImageChops.invert(ramp)
            return ramp.resize(size, Image.Resampling.BILINEAR)
        case "clouded":
            cols, rows = rng.integer(3, 7), rng.integer(3, 7)
            cells = bytes(rng.integer(0, 255) for _ in range(cols * rows))
            return Image.frombytes("L", (cols, rows), cells).resize(size, Image.Resampling.BICUBIC)
        case "striped":
            lean = rng.uniform(-1, 1) * height
            for i in range(int((width + abs(lean)) / step) + 1):
                if i % 2:
                    x = i * step - max(lean, 0)
                    pen.polygon(((x, 0), (x + step, 0), (x + step + lean, height), (x + lean, height)), 255)
        case "dotted":
            step, dot = max(step, 8.0), rng.uniform(0.15, 0.3)
            for i in range(int(width / step) + 1):
                for j in range(int(height / step) + 1):
                    x, y = (i + j % 2 / 2) * step, j * step
                    pen.ellipse((x - dot * step, y - dot * step, x + dot * step, y + dot * step), 255)
        case "checked":
            cols, rows = max(2, round(width / step / 1.5)), max(2, round(height / step / 1.5))
            cells = bytes(255 * ((i + j) % 2) for j in range(rows) for i in range(cols))
            return Image.frombytes("L", (cols, rows), cells).resize(size, Image.Resampling.NEAREST)
        case "ringed":
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            for i in range(int((width + height) / step), 0, -1):
                pen.ellipse((x - i * step, y - i * step, x + i * step, y + i * step), 255 * (i % 2))
    return mask


# ---------------------------------------------------------------------------------------------- canvas for line art


class Canvas:
    """Antialiased drawing area for charts, dials, mazes, figures and text.

    It is drawn `SUPERSAMPLE` times larger and reduced by `finish`. All coordinates are in final pixels.
    """

    def __init__(self, width: int, height: int, background: Rgb) -> None:
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width * SUPERSAMPLE, height * SUPERSAMPLE), background)
        self._pen = ImageDraw.Draw(self.image)

    def line(self, points: Sequence[XY], rgb: Rgb, thickness: float) -> None:
        fine = [(x * SUPERSAMPLE, y * SUPERSAMPLE) for x, y in points]
        self._pen.line(fine, rgb, max(1, round(thickness * SUPERSAMPLE)), joint="curve")

    def polygon(self, points: Sequence[XY], rgb: Rgb) -> None:
        self._pen.polygon([(x * SUPERSAMPLE - 0.5, y * SUPERSAMPLE - 0.5) for x, y in points], rgb)

    def box(self, box: tuple[float, float, float, float], rgb: Rgb) -> None:
        """Fill the box (left, top, right, bottom); right and bottom are exclusive."""
        left, top, right, bottom = (round(side * SUPERSAMPLE) for side in box)
        self._pen.rectangle((left, top, right - 1, bottom - 1), rgb)

    def circle(
        self, x: float, y: float, radius: float, rgb: Rgb | None, edge: Rgb | None = None, thickness: float = 0
    ) -> None:
        """Fill a circle, and draw its edge in another color if one is given."""
        box = tuple(side * SUPERSAMPLE for side in (x - radius, y - radius, x + radius, y + radius))
        self._pen.ellipse(box, rgb, edge, round(thickness * SUPERSAMPLE))

    def wedge(self, x: float, y: float, radius: float, start: float, stop: float, rgb: Rgb) -> None:
        """Fill a slice of a circle; `start` and `stop` in degrees, clockwise from three o'clock."""
        box = tuple(side * SUPERSAMPLE for side in (x - radius, y - radius, x + radius, y + radius))
        self._pen.pieslice(box, start, stop, rgb)

    def arc(self, x: float, y: float, radius: float, start: float, stop: float, rgb: Rgb, thickness: float) -> None:
        """Draw part of a circle's edge; `start` and `stop` as in `wedge`."""
        box = tuple(side * SUPERSAMPLE for side in (x - radius, y - radius, x + radius, y + radius))
        self._pen.arc(box, start, stop, rgb, round(thickness * SUPERSAMPLE))

    def text(self, at: XY, text: str, face: str, size: float, rgb: Rgb, anchor: str = "mm") -> tuple[float, ...]:
        """Print a text and return the box of its ink, (left, top, right, bottom).

        Args:
            at: the anchor point.
            size: font size in pixels.
            anchor: as in Pillow: "mm" centers the text on `at`, "ls" starts the baseline there.
        """
        fine = (at[0] * SUPERSAMPLE, at[1] * SUPERSAMPLE)
        sized = font(face, round(size * SUPERSAMPLE))
        self._pen.text(fine, text, rgb, sized, anchor)
        return tuple(side / SUPERSAMPLE for side in self._pen.textbbox(fine, text, sized, anchor))

    def finish(self) -> Image.Image:
        """The picture in its final size."""
        return self.image.reduce(SUPERSAMPLE)


def text_width(text: str, face: str, size: float) -> float:
    """Width of a printed text on a canvas, in final pixels."""
    return font(face, round(size * SUPERSAMPLE)).getlength(text) / SUPERSAMPLE


def fitting_size(text: str, face: str, size: float, width: float) -> float:
    """The largest font size up to `size` at which `text` is at most `width` wide."""
    return size * min(1.0, width / max(1.0, text_width(text, face, size)))


@dataclass(frozen=True)
class Typeface:
    """Font family and face in which the text of one scene is set."""

    family: str
    face: str

    def displayed(self, text: str) -> str:
        """The text as this family shows it: in capitals if it has no other letters."""
        return text.upper() if self.family in CAPITALS_ONLY else text


def pick_typeface(rng: SceneRng) -> Typeface:
    """A random face of a family that this split may show."""
    family = rng.pick(FONT_FAMILIES)
    return Typeface(family, rng.choice(FONT_FACES[family]))


# ---------------------------------------------------------------------------------------------- files


def add_grain(rng: SceneRng, image: Image.Image) -> Image.Image:
    """Add film grain of a random strength, or none in one case of five."""
    level = rng.integer(-1, len(GRAIN_LEVELS) - 1)
    if level < 0:
        return image
    width, height = image.size
    x, y = rng.integer(0, GRAIN_TILE_PX - width), rng.integer(0, GRAIN_TILE_PX - height)
    tile = _grain_tiles()[level].crop((x, y, x + width, y + height))
    return ImageChops.add(image, tile, 1, -128)


@functools.cache
def _grain_tiles() -> tuple[Image.Image, ...]:
    # numpy promises that `RandomState` gives equal numbers in every version.
    normal = np.random.RandomState(2507).standard_normal((GRAIN_TILE_PX, GRAIN_TILE_PX, 3))
    return tuple(
        Image.fromarray(np.clip(np.rint(128 + level * normal), 0, 255).astype(np.uint8)) for level in GRAIN_LEVELS
    )


FORMATS = {"jpg": 0.78, "png": 0.06, "webp": 0.16}
"""Share of each image format."""


def encode_image(rng: SceneRng, image: Image.Image, formats: dict[str, float] | None = None) -> EncodedMedia:
    """Encode a picture as JPEG, PNG or WebP with ordinary settings; one JPEG in 25 is rotated, with an EXIF tag."""
    extension = rng.weighted_choice(formats or FORMATS)
    width, height = image.size
    out = io.BytesIO()
    match extension:
        case "jpg":
            exif = Image.Exif()
            if rng.chance(0.04):
                exif[0x0112] = 6  # orientation: viewers rotate the picture 90 degrees clockwise
                image = image.transpose(Image.Transpose.ROTATE_90)
            subsampling = rng.choice((0, 2))
            image.save(out, "JPEG", quality=rng.integer(70, 95), subsampling=subsampling, exif=exif)
        case "png":
            image.save(out, "PNG", compress_level=1)
        case "webp":
            image.save(out, "WEBP", quality=rng.integer(70, 95), method=0)
        case _:
            raise ValueError(f"no image format {extension!r}, expected jpg, png or webp")
    return EncodedMedia(out.getvalue(), extension, width, height)
