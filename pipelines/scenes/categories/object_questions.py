"""The categories `question` (counting, comparing, naming, placing) and `grounding` (boxes, points, polygons).

Both ask about pictures of things (`pipelines/scenes/elements/objects.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipelines.scenes.elements.draw import Point, bounds
from pipelines.scenes.elements.entities import COLOURS, PAIRS, SHAPES
from pipelines.scenes.elements.fact_text import Words, fact
from pipelines.scenes.elements.objects import View, describe, place_words, rounded, view
from pipelines.scenes.elements.questions import (
    Question,
    asked_about,
    box_form,
    exact,
    number,
    point_form,
    polygon_form,
)
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

COUNTS = {2: 0.2, 3: 0.3, 4: 0.25, 5: 0.15, 6: 0.1}

ASK = {
    "count_all": Pool(
        "wording",
        ("How many objects are there?", "How many shapes does the picture show?"),
        ("What is the number of objects here?",),
    ),
    "count_colour": Pool(
        "wording",
        ("How many {colour} objects are there?", "How many of the shapes are {colour}?"),
        ("What is the number of {colour} shapes?",),
    ),
    "count_shape": Pool(
        "wording",
        ("How many shapes of the kind {shape} are there?", "Count the objects that are a {shape}. How many are there?"),
        ("How often does the shape {shape} occur?",),
    ),
    "colour_of": Pool(
        "wording",
        ("What colour is the {shape}?", "Which colour does the {shape} have?"),
        ("Name the colour of the {shape}.",),
    ),
    "shape_of": Pool(
        "wording",
        ("What shape is the {colour} object?", "Which shape is {colour}?"),
        ("Name the shape of the {colour} thing.",),
    ),
    "place_of": Pool(
        "wording",
        ("Where is the {thing}?", "In which part of the picture is the {thing}?"),
        ("Say where the {thing} lies.",),
    ),
    "larger": Pool(
        "wording",
        ("Which is larger, the {thing} or the {other}?", "Which of the two is bigger: the {thing} or the {other}?"),
        ("Compare the {thing} with the {other}. Which takes more room?",),
    ),
    "outermost": Pool(
        "wording",
        ("Which object is furthest to the {side}?", "Name the object nearest to the {side} edge."),
        ("Going all the way to the {side}, which object comes last?",),
    ),
    "side_of": Pool(
        "wording",
        (
            "Is the {thing} to the left or to the right of the {other}?",
            "On which side of the {other} is the {thing}, left or right?",
        ),
        ("Seen from the {other}, does the {thing} lie left or right?",),
    ),
    "exists": Pool(
        "wording", ("Is there a {thing}?", "Does the picture show a {thing}?"), ("Can a {thing} be found here?",)
    ),
    "box_of": Pool(
        "wording",
        ("Give the bounding box of the {thing}.", "Draw a box around the {thing}."),
        ("Which rectangle just holds the {thing}?",),
    ),
    "point_of": Pool(
        "wording", ("Point at the {thing}.", "Give a point on the {thing}."), ("Put your finger on the {thing}.",)
    ),
    "polygon_of": Pool(
        "wording",
        ("Outline the {thing} with a polygon.", "Trace the contour of the {thing}."),
        ("Cut out the {thing}: list the corners of its edge.",),
    ),
}


def question(dice: Dice) -> Scene:
    seen = view(dice, PAIRS, COUNTS, distinct=True)
    asked = _some(dice, seen, _ABOUT_THINGS, dice.whole(1, 3))
    return asked_about(dice, seen.file, asked, {"things": describe(seen.things)})


def grounding(dice: Dice) -> Scene:
    seen = view(dice, PAIRS, COUNTS, distinct=True)
    asked = _some(dice, seen, _ABOUT_PLACES, dice.whole(1, 2))
    return asked_about(dice, seen.file, asked, {"things": describe(seen.things, with_polygons=True)})


Asker = Callable[[Dice, View], Question | None]


def _some(dice: Dice, seen: View, askers: Sequence[Asker], count: int) -> list[Question]:
    """The first few of the kinds, in random order, that make sense for this picture."""
    questions = [made for asker in dice.sample(askers, len(askers)) if (made := asker(dice, seen)) is not None]
    return questions[:count]


def _count_all(dice: Dice, seen: View) -> Question:
    count = len(seen.things)
    return Question("count_all", dice.pick(ASK["count_all"]), fact("count", count), number(count))


def _count_colour(dice: Dice, seen: View) -> Question:
    colour = dice.choice(seen.things).colour if dice.chance(0.8) else dice.choice(tuple(COLOURS))
    count = sum(thing.colour == colour for thing in seen.things)
    asked = dice.pick(ASK["count_colour"]).format(colour=colour)
    return Question("count_colour", asked, fact("count", count), number(count))


def _count_shape(dice: Dice, seen: View) -> Question:
    shape = dice.choice(seen.things).shape if dice.chance(0.8) else dice.choice(SHAPES)
    count = sum(thing.shape == shape for thing in seen.things)
    asked = _a_or_an(dice.pick(ASK["count_shape"]).format(shape=shape))
    return Question("count_shape", asked, fact("count", count), number(count))


def _colour_of(dice: Dice, seen: View) -> Question | None:
    shapes = [thing.shape for thing in seen.things]
    single = [thing for thing in seen.things if shapes.count(thing.shape) == 1]
    if not single:
        return None
    thing = dice.choice(single)
    asked = dice.pick(ASK["colour_of"]).format(shape=thing.shape)
    return Question("colour_of", asked, fact("colour", thing.colour), exact(thing.colour))


def _shape_of(dice: Dice, seen: View) -> Question | None:
    colours = [thing.colour for thing in seen.things]
    single = [thing for thing in seen.things if colours.count(thing.colour) == 1]
    if not single:
        return None
    thing = dice.choice(single)
    asked = dice.pick(ASK["shape_of"]).format(colour=thing.colour)
    return Question("shape_of", asked, fact("shape", thing.shape), exact(thing.shape))


def _place_of(dice: Dice, seen: View) -> Question:
    thing = dice.choice(seen.things)
    place = place_words(thing, seen.size)
    asked = dice.pick(ASK["place_of"]).format(thing=thing.name)
    return Question("place_of", asked, fact("place", place), exact(place))


def _larger(dice: Dice, seen: View) -> Question | None:
    order = ("small", "medium", "large")
    one, other = dice.sample(seen.things, 2)
    if one.size == other.size:
        return None
    larger = max(one, other, key=lambda thing: order.index(thing.size))
    asked = dice.pick(ASK["larger"]).format(thing=one.name, other=other.name)
    return Question("larger", asked, larger.told, exact(larger.name, f"the {larger.name}"))


def _outermost(dice: Dice, seen: View) -> Question:
    side = dice.choice(("left", "right"))
    thing = seen.things[0 if side == "left" else -1]
    asked = dice.pick(ASK["outermost"]).format(side=side)
    return Question("outermost", asked, thing.told, exact(thing.name, f"the {thing.name}"))


def _side_of(dice: Dice, seen: View) -> Question:
    one, other = dice.sample(seen.things, 2)
    side = "left" if one.x < other.x else "right"
    asked = dice.pick(ASK["side_of"]).format(thing=one.name, other=other.name)
    return Question("side_of", asked, Words(side), exact(side))


def _exists(dice: Dice, seen: View) -> Question:
    names = [thing.name for thing in seen.things]
    colour, shape = dice.choice(PAIRS.train)
    name = dice.choice(names) if dice.chance(0.5) else f"{colour} {shape}"
    asked = _a_or_an(dice.pick(ASK["exists"]).format(thing=name))
    answer = "yes" if name in names else "no"
    return Question("exists", asked, Words(answer), exact(answer))


def _box_of(dice: Dice, seen: View) -> Question:
    thing = dice.choice(seen.things)
    left, top, right, bottom = bounds(thing.corners)
    (left, top), (right, bottom) = fractions(((left, top), (right, bottom)), seen.size)
    box = (left, top, right, bottom)
    asked = dice.pick(ASK["box_of"]).format(thing=thing.name)
    return Question("box_of", asked, Words("[" + ", ".join(f"{side:.3f}" for side in box) + "]"), box_form(box))


def _point_of(dice: Dice, seen: View) -> Question:
    thing = dice.choice(seen.things)
    (point,) = fractions([(thing.x, thing.y)], seen.size)
    asked = dice.pick(ASK["point_of"]).format(thing=thing.name)
    return Question("point_of", asked, Words(_shown(point)), point_form(fractions(thing.corners, seen.size)))


def _polygon_of(dice: Dice, seen: View) -> Question:
    thing = dice.choice(seen.things)
    corners = fractions(thing.corners, seen.size)
    few = corners[:: max(1, len(corners) // 12)]
    asked = dice.pick(ASK["polygon_of"]).format(thing=thing.name)
    return Question("polygon_of", asked, Words("[" + ", ".join(map(_shown, few)) + "]"), polygon_form(corners))


_ABOUT_THINGS: tuple[Asker, ...] = (
    _count_all, _count_colour, _count_shape, _colour_of, _shape_of, _place_of, _larger, _outermost, _side_of, _exists,
)  # fmt: skip
_ABOUT_PLACES: tuple[Asker, ...] = (_box_of, _point_of, _polygon_of)


def fractions(points: Sequence[Point], size: tuple[int, int]) -> list[list[float]]:
    """Pixels -> fractions of width and height, in thousandths."""
    return [rounded((x / size[0], y / size[1]), 3) for x, y in points]


def _shown(point: Sequence[float]) -> str:
    return f"({point[0]:.3f}, {point[1]:.3f})"


def _a_or_an(text: str) -> str:
    """`a orange circle` -> `an orange circle`: templates say `a`."""
    words = text.split(" ")
    for i in range(len(words) - 1):
        if words[i] == "a" and words[i + 1][0] in "aeiou":
            words[i] = "an"
    return " ".join(words)
