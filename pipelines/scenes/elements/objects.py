"""Pictures of coloured things on a backdrop: where things lie, how they are painted, what they are called.

Captions, questions, stories and clips all start from the `Thing`s made here. Things never touch, are at least a tenth
of the shorter side in radius (so that they survive shrinking to 112 px), and their order from left to right is never
in doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    Backdrop,
    File,
    Point,
    Rgb,
    backdrop,
    bounds,
    encode,
    grainy,
    jittered,
    outline,
    paint,
    picture_size,
    shade,
)
from pipelines.scenes.elements.entities import RESERVED_PAIRS, Pair
from pipelines.scenes.elements.fact_text import Words, fact
from pipelines.scenes.elements.split import Dice, Pool

SIZES = {"small": (0.10, 0.13), "medium": (0.15, 0.19), "large": (0.22, 0.32)}
"""Radius over the shorter side. The gaps keep the words honest."""
SIZES_BY_COUNT = {
    1: {"small": 0.15, "medium": 0.7, "large": 0.15},
    2: {"small": 0.15, "medium": 0.7, "large": 0.15},
    3: {"small": 0.2, "medium": 0.7, "large": 0.1},
    4: {"small": 0.5, "medium": 0.5},
    5: {"small": 0.85, "medium": 0.15},
    6: {"small": 1.0},
}
"""Mostly one size up to three things: were single things drawn large, the coloured area would say nothing of the count,
and a small model would need many more pictures before it counts."""
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
"""How far a shape may be turned either way; little for those that become another word when turned."""
CELLS = 8
"""Layouts are told apart on a grid of so many cells each way."""


@dataclass(frozen=True)
class Thing:
    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    """Of the circle around it, in pixels."""
    turn: float
    rgb: Rgb
    rim: bool
    """Edged with its own colour, darker on light ground and lighter on dark."""

    @property
    def corners(self) -> tuple[Point, ...]:
        return outline(self.shape, self.x, self.y, self.radius, self.turn)

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def told(self) -> Words:
        """Its name with both attributes as facts."""
        return fact("colour", self.colour) + " " + fact("shape", self.shape)


@dataclass(frozen=True)
class View:
    """A painted picture and what is on it, from left to right."""

    file: File
    things: tuple[Thing, ...]
    backdrop: Backdrop

    @property
    def size(self) -> tuple[int, int]:
        return self.file.width_px, self.file.height_px


def view(dice: Dice, pairs: Pool[Pair], counts: dict[int, float], distinct: bool = False) -> View:
    """A picture of some things whose layout belongs to this split. `distinct`: no two of the same colour and shape."""
    width, height = picture_size(dice)
    count = dice.weighted(counts)
    things = lay_out(dice, width, height, pairs, count, distinct)
    note_reserved(dice, things)
    return show(dice, things, backdrop(dice, width, height))


def show(dice: Dice, things: Sequence[Thing], ground: Backdrop) -> View:
    """Paint things onto a copy of a backdrop."""
    image = ground.image.copy()
    for thing in things:
        put(image, thing, ground.dark)
    return View(encode(dice, grainy(dice, image)), tuple(things), ground)


def lay_out(dice: Dice, width: int, height: int, pairs: Pool[Pair], count: int, distinct: bool) -> tuple[Thing, ...]:
    """Things in places that belong to this split, from left to right."""
    return dice.until_ours(
        lambda: arrange(dice, width, height, draw_pairs(dice, pairs, count, distinct)),
        lambda things: layout(things, width, height),
    )


def note_reserved(dice: Dice, things: Sequence[Thing]) -> None:
    """Remember that a scene shows a reserved pair; called once its things are settled."""
    if any((thing.colour, thing.shape) in RESERVED_PAIRS for thing in things):
        dice.reserved.add("pair")


def draw_pairs(dice: Dice, pairs: Pool[Pair], count: int, distinct: bool) -> list[Pair]:
    """Colours and shapes for `count` things, at most one reserved pair among them: a held-out picture tests one new
    thing at a time."""
    chosen = [dice.choice(pairs.reserved if dice.takes_reserved(pairs) else pairs.train)]
    while len(chosen) < count:
        pair = dice.choice(pairs.train)
        if not (distinct and pair in chosen):
            chosen.append(pair)
    return dice.sample(chosen, count)


def arrange(dice: Dice, width: int, height: int, pairs: Sequence[Pair]) -> tuple[Thing, ...]:
    """Find room for all, without touching and with a clear order from left to right."""
    side = min(width, height)
    crowding = 1.0
    while True:
        placed: list[Thing] = []
        for colour, shape in pairs:
            size = dice.weighted(SIZES_BY_COUNT[len(pairs)]) if crowding > 0.5 else "small"
            thing = _try_to_place(dice, width, height, side, placed, colour, shape, size)
            if thing is None:
                break
            placed.append(thing)
        else:
            return tuple(sorted(placed, key=lambda thing: thing.x))
        crowding *= 0.9  # after a few failures everything becomes small, and then it fits


def _try_to_place(
    dice: Dice, width: int, height: int, side: int, placed: list[Thing], colour: str, shape: str, size: str
) -> Thing | None:
    radius = dice.uniform(*SIZES[size]) * side
    margin = radius * 1.04 + 1
    for _ in range(20):
        x, y = dice.uniform(margin, width - margin), dice.uniform(margin, height - margin)
        if all(
            math.hypot(x - other.x, y - other.y) > radius + other.radius + 0.03 * side
            and abs(x - other.x) > 0.06 * width
            for other in placed
        ):
            turn = dice.uniform(-1, 1) * TURN_DEGREES[shape]
            return Thing(colour, shape, size, x, y, radius, turn, jittered(dice, colour), dice.chance(0.25))
    return None


def layout(things: Sequence[Thing], width: int, height: int) -> Json:
    """What decides the split of a picture: which things lie in which of 8 x 8 cells."""
    return [
        [thing.colour, thing.shape, int(thing.x / width * CELLS), int(thing.y / height * CELLS)] for thing in things
    ]


def put(image: Image.Image, thing: Thing, dark: bool) -> None:
    if thing.rim:
        paint(image, thing.corners, shade(thing.rgb, 0.25 if dark else -0.25))
        paint(image, outline(thing.shape, thing.x, thing.y, thing.radius * 0.86, thing.turn), thing.rgb)
    else:
        paint(image, thing.corners, thing.rgb)


def place_words(thing: Thing, size: tuple[int, int]) -> str:
    """`at the top left`, `in the middle`: thirds of the picture, by the centre of the thing."""
    across = ("left", "", "right")[min(2, int(thing.x / size[0] * 3))]
    down = ("top", "", "bottom")[min(2, int(thing.y / size[1] * 3))]
    if across and down:
        return f"at the {down} {across}"
    if across:
        return f"on the {across}"
    return f"at the {down}" if down else "in the middle"


def describe(things: Sequence[Thing], with_polygons: bool = False) -> list[Json]:
    """The notes on things: pixels of the upright picture, rounded to tenths."""
    return [
        {
            "colour": thing.colour,
            "shape": thing.shape,
            "size": thing.size,
            "point": rounded((thing.x, thing.y)),
            "box": rounded(bounds(thing.corners)),
            "rgb": list(thing.rgb),
        }
        | ({"polygon": [rounded(corner) for corner in thing.corners]} if with_polygons else {})
        for thing in things
    ]


def rounded(numbers: Sequence[float], digits: int = 1) -> list[float]:
    return [round(number, digits) for number in numbers]
