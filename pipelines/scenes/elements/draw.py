"""Drawing: tinted backdrops, antialiased shapes, sheets for line art, film grain, and files in ordinary formats.

Makers beside this file decide what is on a picture and call down here; what comes out is a `File`. Everything is
Pillow, so that the bytes are a function of the arguments and of the Pillow version.

Cost decides two things, since thousands of pictures are drawn in front of a waiting person. Shapes are
supersampled alone, in their own box, not the whole picture. Grain comes from a bank of ready tiles: drawing it per
pixel and picture took eight times as long.
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

from pipelines.scenes.elements.entities import BACKDROPS, COLOURS, FACES, FAMILIES, ONLY_CAPITALS, font
from pipelines.scenes.elements.split import Dice

Point = tuple[float, float]
Rgb = tuple[int, int, int]

FINE = 4
"""Supersampling of shapes and sheets, per axis."""
GRAIN_TILE_PX = 512
GRAIN_LEVELS = (2.0, 4.0, 7.0, 11.0)
"""Standard deviations of the grain, in levels of 255."""
LONGEST_SIDE_PX = 448


@dataclass(frozen=True)
class File:
    """An encoded medium with its true upright size."""

    payload: bytes
    format: str
    """File ending without a dot."""
    width_px: int
    height_px: int


# ---------------------------------------------------------------------------------------------- colours


def jittered(dice: Dice, colour: str) -> Rgb:
    """One of the many colours that go by this name."""
    hue = COLOURS[colour]
    return _rgb(
        hue.degrees + dice.uniform(-hue.wander, hue.wander),
        dice.uniform(*hue.saturation),
        dice.uniform(*hue.value),
    )


def tint(dice: Dice, dark: bool) -> Rgb:
    """A near-grey for backdrops and paper, never mistaken for one of the colours."""
    value = dice.uniform(0.08, 0.26) if dark else dice.uniform(0.82, 0.98)
    return _rgb(dice.uniform(0, 360), dice.uniform(0, 0.10), value)


def shade(rgb: Rgb, by: float) -> Rgb:
    """Lighter (`by` > 0) or darker, by a share of 255."""
    red, green, blue = (min(255, max(0, round(channel + 255 * by))) for channel in rgb)
    return red, green, blue


def _rgb(degrees: float, saturation: float, value: float) -> Rgb:
    red, green, blue = colorsys.hsv_to_rgb(degrees % 360 / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


# ---------------------------------------------------------------------------------------------- shapes


def outline(shape: str, x: float, y: float, radius: float, turn: float = 0.0) -> tuple[Point, ...]:
    """Corners of a shape inside the circle of `radius` around (x, y), in pixels; `turn` in degrees, clockwise.

    A circle has 48 corners. Every shape contains (x, y).
    """
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    return tuple(
        (x + radius * (cosine * u - sine * v), y + radius * (sine * u + cosine * v)) for u, v in _UNIT_OUTLINES[shape]
    )


def _regular(corners: int, inner: float = 1.0) -> tuple[Point, ...]:
    """The first corner points up; `inner` < 1 pulls every second one in."""
    turns = [2 * math.pi * i / corners for i in range(corners)]
    radii = [inner if i % 2 else 1.0 for i in range(corners)]
    return tuple((r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, turns, strict=True))


def _heart() -> tuple[Point, ...]:
    turns = [2 * math.pi * i / 40 for i in range(40)]
    curve = [(16 * math.sin(a) ** 3, -13 * math.cos(a) + 5 * math.cos(2 * a) + 2 * math.cos(3 * a) + math.cos(4 * a))
             for a in turns]  # fmt: skip
    return tuple((u / 17.5, v / 17.5) for u, v in curve)


_ARM = 0.33
"""Half the width of the arms of a cross."""
_REACH = math.sqrt(1 - _ARM**2)
_HALF = math.sqrt(0.5)
_UNIT_OUTLINES: dict[str, tuple[Point, ...]] = {
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


def bounds(corners: Sequence[Point]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom)"""
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def stamp(corners: Sequence[Point]) -> tuple[Image.Image, tuple[int, int]]:
    """An antialiased mask ("L") of a polygon, and where its top left pixel goes."""
    left, top, right, bottom = bounds(corners)
    x, y = math.floor(left), math.floor(top)
    size = ((math.ceil(right) - x + 1) * FINE, (math.ceil(bottom) - y + 1) * FINE)
    mask = Image.new("L", size)
    fine = [((u - x) * FINE - 0.5, (v - y) * FINE - 0.5) for u, v in corners]  # Pillow's points are pixel centres
    ImageDraw.Draw(mask).polygon(fine, fill=255)
    return mask.reduce(FINE), (x, y)


def paint(image: Image.Image, corners: Sequence[Point], rgb: Rgb) -> None:
    mask, corner = stamp(corners)
    image.paste(rgb, corner, mask)


# ---------------------------------------------------------------------------------------------- backdrops


def picture_size(dice: Dice, shortest_px: int = 84, longest_px: int = LONGEST_SIDE_PX) -> tuple[int, int]:
    """(width, height): small ones more often; six in ten are square, as feeds of pictures are, the others up to 2:1."""
    short = round(math.exp(dice.uniform(math.log(shortest_px), math.log(longest_px * 0.75))))
    aspect = 1.0 if dice.chance(0.6) else dice.uniform(1.0, 2.0)
    long = min(longest_px, round(short * aspect))
    return (long, short) if dice.chance(0.6) else (short, long)


@dataclass(frozen=True)
class Backdrop:
    image: Image.Image
    dark: bool
    kind: str


def backdrop(dice: Dice, width: int, height: int) -> Backdrop:
    """Two tints in a pattern, and a few faint scratches and specks that mean nothing."""
    dark = dice.chance(0.2)
    kind = dice.pick(BACKDROPS)
    ground = tint(dice, dark)
    image = Image.new("RGB", (width, height), ground)
    if kind != "plain":
        image.paste(
            shade(ground, dice.choice((-1, 1)) * dice.uniform(0.04, 0.09)), (0, 0), _pattern(dice, kind, width, height)
        )
    pen = ImageDraw.Draw(image)
    for _ in range(dice.whole(0, 8)):
        rgb = shade(ground, dice.choice((-1, 1)) * dice.uniform(0.05, 0.12))
        x, y = dice.uniform(0, width), dice.uniform(0, height)
        if dice.chance(0.5):
            pen.line((x, y, x + dice.uniform(-0.3, 0.3) * width, y + dice.uniform(-0.3, 0.3) * height), rgb, 1)
        else:
            pen.ellipse((x, y, x + dice.uniform(1, 4), y + dice.uniform(1, 4)), rgb)
    return Backdrop(image, dark, kind)


def _pattern(dice: Dice, kind: str, width: int, height: int) -> Image.Image:
    """Where the second tint shows, "L"."""
    size = (width, height)
    step = dice.uniform(0.06, 0.16) * min(size)
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    match kind:
        case "gradient":
            way = dice.choice(("up", "down", "left", "right"))
            ramp = Image.linear_gradient("L")
            if way in ("left", "right"):
                ramp = ramp.transpose(Image.Transpose.ROTATE_90)
            if way in ("up", "left"):
                ramp = ImageChops.invert(ramp)
            return ramp.resize(size, Image.Resampling.BILINEAR)
        case "clouded":
            cols, rows = dice.whole(3, 7), dice.whole(3, 7)
            cells = bytes(dice.whole(0, 255) for _ in range(cols * rows))
            return Image.frombytes("L", (cols, rows), cells).resize(size, Image.Resampling.BICUBIC)
        case "striped":
            lean = dice.uniform(-1, 1) * height
            for i in range(int((width + abs(lean)) / step) + 1):
                if i % 2:
                    x = i * step - max(lean, 0)
                    pen.polygon(((x, 0), (x + step, 0), (x + step + lean, height), (x + lean, height)), 255)
        case "dotted":
            step, dot = max(step, 8.0), dice.uniform(0.15, 0.3)
            for i in range(int(width / step) + 1):
                for j in range(int(height / step) + 1):
                    x, y = (i + j % 2 / 2) * step, j * step
                    pen.ellipse((x - dot * step, y - dot * step, x + dot * step, y + dot * step), 255)
        case "checked":
            cols, rows = max(2, round(width / step / 1.5)), max(2, round(height / step / 1.5))
            cells = bytes(255 * ((i + j) % 2) for j in range(rows) for i in range(cols))
            return Image.frombytes("L", (cols, rows), cells).resize(size, Image.Resampling.NEAREST)
        case "ringed":
            x, y = dice.uniform(0, width), dice.uniform(0, height)
            for i in range(int((width + height) / step), 0, -1):
                pen.ellipse((x - i * step, y - i * step, x + i * step, y + i * step), 255 * (i % 2))
    return mask


# ---------------------------------------------------------------------------------------------- sheets of line art


class Sheet:
    """Paper for charts, dials, mazes, figures and print: drawn `FINE` times larger, coordinates in final pixels."""

    def __init__(self, width: int, height: int, paper: Rgb) -> None:
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width * FINE, height * FINE), paper)
        self._pen = ImageDraw.Draw(self.image)

    def line(self, points: Sequence[Point], rgb: Rgb, thick: float) -> None:
        self._pen.line([(x * FINE, y * FINE) for x, y in points], rgb, max(1, round(thick * FINE)), joint="curve")

    def polygon(self, points: Sequence[Point], rgb: Rgb) -> None:
        self._pen.polygon([(x * FINE - 0.5, y * FINE - 0.5) for x, y in points], rgb)

    def box(self, box: tuple[float, float, float, float], rgb: Rgb) -> None:
        """Filled; right and bottom are exclusive."""
        left, top, right, bottom = (round(side * FINE) for side in box)
        self._pen.rectangle((left, top, right - 1, bottom - 1), rgb)

    def circle(
        self, x: float, y: float, radius: float, rgb: Rgb | None, rim: Rgb | None = None, thick: float = 0
    ) -> None:
        box = tuple(side * FINE for side in (x - radius, y - radius, x + radius, y + radius))
        self._pen.ellipse(box, rgb, rim, round(thick * FINE))

    def wedge(self, x: float, y: float, radius: float, start: float, stop: float, rgb: Rgb) -> None:
        """A slice of a circle, degrees clockwise from three o'clock."""
        box = tuple(side * FINE for side in (x - radius, y - radius, x + radius, y + radius))
        self._pen.pieslice(box, start, stop, rgb)

    def arc(self, x: float, y: float, radius: float, start: float, stop: float, rgb: Rgb, thick: float) -> None:
        box = tuple(side * FINE for side in (x - radius, y - radius, x + radius, y + radius))
        self._pen.arc(box, start, stop, rgb, round(thick * FINE))

    def text(self, at: Point, text: str, face: str, size: float, rgb: Rgb, anchor: str = "mm") -> tuple[float, ...]:
        """Print, and say where the ink is. `anchor` as Pillow's: "mm" centres on `at`, "ls" starts a line there."""
        fine = (at[0] * FINE, at[1] * FINE)
        type_ = font(face, round(size * FINE))
        self._pen.text(fine, text, rgb, type_, anchor)
        return tuple(side / FINE for side in self._pen.textbbox(fine, text, type_, anchor))

    def finish(self) -> Image.Image:
        return self.image.reduce(FINE)


def text_width(text: str, face: str, size: float) -> float:
    """Advance width in final pixels of `text` on a sheet."""
    return font(face, round(size * FINE)).getlength(text) / FINE


def fitting_size(text: str, face: str, size: float, width: float) -> float:
    """The largest size up to `size` at which `text` is no wider than `width`."""
    return size * min(1.0, width / max(1.0, text_width(text, face, size)))


@dataclass(frozen=True)
class Print:
    """What a scene's text is set in."""

    family: str
    face: str

    def spelt(self, text: str) -> str:
        """As the family can show it: some have capitals only."""
        return text.upper() if self.family in ONLY_CAPITALS else text


def typeface(dice: Dice) -> Print:
    family = dice.pick(FAMILIES)
    return Print(family, dice.choice(FACES[family]))


# ---------------------------------------------------------------------------------------------- files


def grainy(dice: Dice, image: Image.Image) -> Image.Image:
    """With film grain of one of four strengths, or none."""
    level = dice.whole(-1, len(GRAIN_LEVELS) - 1)
    if level < 0:
        return image
    width, height = image.size
    x, y = dice.whole(0, GRAIN_TILE_PX - width), dice.whole(0, GRAIN_TILE_PX - height)
    tile = _grain()[level].crop((x, y, x + width, y + height))
    return ImageChops.add(image, tile, 1, -128)


@functools.cache
def _grain() -> tuple[Image.Image, ...]:
    normal = np.random.RandomState(2507).standard_normal((GRAIN_TILE_PX, GRAIN_TILE_PX, 3))  # frozen by numpy's policy
    return tuple(
        Image.fromarray(np.clip(np.rint(128 + level * normal), 0, 255).astype(np.uint8)) for level in GRAIN_LEVELS
    )


FORMATS = {"jpg": 0.78, "png": 0.06, "webp": 0.16}


def encode(dice: Dice, image: Image.Image, formats: dict[str, float] | None = None) -> File:
    """A JPEG, PNG or WebP file with ordinary settings; some JPEGs lie on their side and say so in EXIF."""
    ending = dice.weighted(formats or FORMATS)
    width, height = image.size
    out = io.BytesIO()
    match ending:
        case "jpg":
            exif = Image.Exif()
            if dice.chance(0.04):
                exif[0x0112] = 6  # "turn me clockwise"
                image = image.transpose(Image.Transpose.ROTATE_90)
            subsampling = dice.choice((0, 2))
            image.save(out, "JPEG", quality=dice.whole(70, 95), subsampling=subsampling, exif=exif)
        case "png":
            image.save(out, "PNG", compress_level=1)
        case "webp":
            image.save(out, "WEBP", quality=dice.whole(70, 95), method=0)
        case _:
            raise ValueError(f"no such format: {ending}")
    return File(out.getvalue(), ending, width, height)
