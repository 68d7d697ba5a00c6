"""Pictures of colored things on a backdrop: placing them, painting them, naming them.

Captions, questions, stories and clips use the `Thing`s made here. Things never touch; their radius is at least a tenth
of the shorter side, so that they stay visible at 112 px; and no two have nearly the same x, so that their order from
left to right is clear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    XY,
    Backdrop,
    EncodedMedia,
    Rgb,
    add_grain,
    backdrop,
    bounding_box,
    encode_image,
    jittered_color,
    outline,
    paint_polygon,
    picture_size,
    shade,
)
from pipelines.scenes.elements.entities import RESERVED_PAIRS, ColorShape
from pipelines.scenes.elements.fact_text import FactText, fact
from pipelines.scenes.elements.split import Pool, SceneRng

SIZES = {"small": (0.10, 0.13), "medium": (0.15, 0.19), "large": (0.22, 0.32)}
"""Radius over the shorter side of the picture, (lowest, highest). The gaps keep the size words unambiguous."""
SIZES_BY_COUNT = {
    1: {"small": 0.15, "medium": 0.7, "large": 0.15},
    2: {"small": 0.15, "medium": 0.7, "large": 0.15},
    3: {"small": 0.2, "medium": 0.7, "large": 0.1},
    4: {"small": 0.5, "medium": 0.5},
    5: {"small": 0.85, "medium": 0.15},
    6: {"small": 1.0},
}
"""Number of things in the picture -> weight of each size.

Up to three things are mostly of one size, so that the colored area grows with the count: with large single things a
small model needs many more pictures before it learns to count."""
TURN_DEGREES = {
    "circle": 0,
    "square": 12,
    "triangle": 20,
    "star": 36,
    "cross": 15,
    "heart": 15,
    "hexagon": 30,
    "arrow": 180,
}
"""Largest rotation of a shape in either direction; small for shapes that a rotation turns into another word."""
CELLS = 8
"""Cells per axis of the grid on which two layouts are compared."""


@dataclass(frozen=True)
class Thing:
    """A colored shape on a picture; positions in pixels."""

    color: str
    shape: str
    size: str
    """One of `SIZES`."""
    x: float
    y: float
    radius: float
    """Radius of the circle around the shape."""
    rotation_degrees: float
    rgb: Rgb
    outlined: bool
    """Drawn with an outline in its own color, darker on a light backdrop and lighter on a dark one."""

    @property
    def corners(self) -> tuple[XY, ...]:
        return outline(self.shape, self.x, self.y, self.radius, self.rotation_degrees)

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def name_facts(self) -> FactText:
        """The name, in which color and shape are facts."""
        return fact("color", self.color) + " " + fact("shape", self.shape)


@dataclass(frozen=True)
class ObjectPicture:
    """A picture of things, encoded."""

    file: EncodedMedia
    things: tuple[Thing, ...]
    """From left to right."""
    backdrop: Backdrop

    @property
    def size(self) -> tuple[int, int]:
        return self.file.width_px, self.file.height_px


def draw_objects(
    rng: SceneRng, pairs: Pool[ColorShape], counts: dict[int, float], distinct: bool = False
) -> ObjectPicture:
    """Draw a picture of things whose layout belongs to this split.

    Args:
        counts: number of things -> weight.
        distinct: no two things share both color and shape.
    """
    width, height = picture_size(rng)
    count = rng.weighted_choice(counts)
    things = arrange_in_split(rng, width, height, pairs, count, distinct)
    note_reserved_pair(rng, things)
    return paint_objects(rng, things, backdrop(rng, width, height))


def paint_objects(rng: SceneRng, things: Sequence[Thing], background: Backdrop) -> ObjectPicture:
    """Paint things on a copy of a backdrop, add grain and encode."""
    image = background.image.copy()
    for thing in things:
        paint_object(image, thing, background.dark)
    return ObjectPicture(encode_image(rng, add_grain(rng, image)), tuple(things), background)


def arrange_in_split(
    rng: SceneRng, width: int, height: int, pairs: Pool[ColorShape], count: int, distinct: bool
) -> tuple[Thing, ...]:
    """Pick and place things until their layout belongs to this split; the result is sorted from left to right."""
    return rng.draw_in_split(
        lambda: arrange(rng, width, height, pick_pairs(rng, pairs, count, distinct)),
        lambda things: layout_key(things, width, height),
    )


def note_reserved_pair(rng: SceneRng, things: Sequence[Thing]) -> None:
    """Record in `rng.reserved_pools` that the scene shows a reserved pair, after its things are final."""
    if any((thing.color, thing.shape) in RESERVED_PAIRS for thing in things):
        rng.reserved_pools.add("pair")


def pick_pairs(rng: SceneRng, pairs: Pool[ColorShape], count: int, distinct: bool) -> list[ColorShape]:
    """Colors and shapes of `count` things, with one reserved pair at most: a held-out picture tests one new pair."""
    chosen = [rng.choice(pairs.reserved if rng.draws_reserved(pairs) else pairs.train)]
    while len(chosen) < count:
        pair = rng.choice(pairs.train)
        if not (distinct and pair in chosen):
            chosen.append(pair)
    return rng.sample(chosen, count)


def arrange(rng: SceneRng, width: int, height: int, pairs: Sequence[ColorShape]) -> tuple[Thing, ...]:
    """Place all things at random, without contact and with a clear order from left to right."""
    side = min(width, height)
    crowding = 1.0
    while True:
        placed: list[Thing] = []
        for color, shape in pairs:
            size = rng.weighted_choice(SIZES_BY_COUNT[len(pairs)]) if crowding > 0.5 else "small"
            thing = _try_to_place(rng, width, height, side, placed, color, shape, size)
            if thing is None:
                break
            placed.append(thing)
        else:
            return tuple(sorted(placed, key=lambda thing: thing.x))
        crowding *= 0.9  # after seven failures all things become small, so that they fit


def _try_to_place(
    rng: SceneRng, width: int, height: int, side: int, placed: list[Thing], color: str, shape: str, size: str
) -> Thing | None:
    """Try 20 positions; None if each lies too close to a thing that is placed already."""
    radius = rng.uniform(*SIZES[size]) * side
    margin = radius * 1.04 + 1
    for _ in range(20):
        x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
        if all(
            math.hypot(x - other.x, y - other.y) > radius + other.radius + 0.03 * side
            and abs(x - other.x) > 0.06 * width
            for other in placed
        ):
            rotation_degrees = rng.uniform(-1, 1) * TURN_DEGREES[shape]
            return Thing(
                color, shape, size, x, y, radius, rotation_degrees, jittered_color(rng, color), rng.chance(0.25)
            )
    return None


def layout_key(things: Sequence[Thing], width: int, height: int) -> Json:
    """Content that decides the split of a picture: [color, shape, column, row] of each thing on the 8 x 8 grid."""
    return [[thing.color, thing.shape, int(thing.x / width * CELLS), int(thing.y / height * CELLS)] for thing in things]


def paint_object(image: Image.Image, thing: Thing, dark: bool) -> None:
    """Paint one thing on a picture; `dark` is the backdrop's, and decides the color of the outline."""
    if thing.outlined:
        paint_polygon(image, thing.corners, shade(thing.rgb, 0.25 if dark else -0.25))
        paint_polygon(
            image, outline(thing.shape, thing.x, thing.y, thing.radius * 0.86, thing.rotation_degrees), thing.rgb
        )
    else:
        paint_polygon(image, thing.corners, thing.rgb)


def position_phrase(thing: Thing, size: tuple[int, int]) -> str:
    """Phrase for the third of the picture that holds the thing's center: `at the top left`, `in the middle`."""
    across = ("left", "", "right")[min(2, int(thing.x / size[0] * 3))]
    down = ("top", "", "bottom")[min(2, int(thing.y / size[1] * 3))]
    if across and down:
        return f"at the {down} {across}"
    if across:
        return f"on the {across}"
    return f"at the {down}" if down else "in the middle"


def object_notes(things: Sequence[Thing], with_polygons: bool = False) -> list[Json]:
    """Annotations of things, in pixels of the upright picture, rounded to tenths."""
    return [
        {
            "color": thing.color,
            "shape": thing.shape,
            "size": thing.size,
            "point": rounded((thing.x, thing.y)),
            "box": rounded(bounding_box(thing.corners)),
            "rgb": list(thing.rgb),
        }
        | ({"polygon": [rounded(corner) for corner in thing.corners]} if with_polygons else {})
        for thing in things
    ]


def rounded(numbers: Sequence[float], digits: int = 1) -> list[float]:
    """Round each number for the annotations."""
    return [round(number, digits) for number in numbers]
