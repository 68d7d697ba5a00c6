"""The categories `question` (counting, comparing, naming, locating) and `grounding` (boxes, points, polygons).

Both ask about pictures of things (`pipelines/scenes/elements/objects.py`). The answers are computed from the things.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipelines.scenes.elements.draw import XY, bounding_box
from pipelines.scenes.elements.entities import COLORS, PAIRS, SHAPES
from pipelines.scenes.elements.fact_text import FactText, fact
from pipelines.scenes.elements.objects import ObjectPicture, draw_objects, object_notes, position_phrase, rounded
from pipelines.scenes.elements.questions import (
    Question,
    box_form,
    exact_form,
    number_form,
    point_form,
    polygon_form,
    question_scene,
)
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

COUNTS = {2: 0.2, 3: 0.3, 4: 0.25, 5: 0.15, 6: 0.1}
"""Number of things in a picture -> weight."""

QUESTIONS = {
    "count_all": Pool(
        "wording",
        ("How many objects are there?", "How many shapes does the picture show?"),
        ("What is the number of objects here?",),
    ),
    "count_color": Pool(
        "wording",
        ("How many {color} objects are there?", "How many of the shapes are {color}?"),
        ("What is the number of {color} shapes?",),
    ),
    "count_shape": Pool(
        "wording",
        ("How many shapes of the kind {shape} are there?", "Count the objects that are a {shape}. How many are there?"),
        ("How often does the shape {shape} occur?",),
    ),
    "color_of": Pool(
        "wording",
        ("What color is the {shape}?", "Which color does the {shape} have?"),
        ("Name the color of the {shape}.",),
    ),
    "shape_of": Pool(
        "wording",
        ("What shape is the {color} object?", "Which shape is {color}?"),
        ("Name the shape of the {color} thing.",),
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


def question(rng: SceneRng) -> Scene:
    """Draw two to six different things and ask one to three questions about them."""
    picture = draw_objects(rng, PAIRS, COUNTS, distinct=True)
    text = _ask(rng, picture, _OBJECT_QUESTIONS, rng.integer(1, 3))
    return question_scene(rng, picture.file, text, {"things": object_notes(picture.things)})


def grounding(rng: SceneRng) -> Scene:
    """Draw two to six different things and ask for one or two positions: box, point or polygon."""
    picture = draw_objects(rng, PAIRS, COUNTS, distinct=True)
    text = _ask(rng, picture, _GROUNDING_QUESTIONS, rng.integer(1, 2))
    return question_scene(rng, picture.file, text, {"things": object_notes(picture.things, with_polygons=True)})


QuestionMaker = Callable[[SceneRng, ObjectPicture], Question | None]
"""Returns None for a picture about which its question has no clear answer."""


def _ask(rng: SceneRng, picture: ObjectPicture, makers: Sequence[QuestionMaker], count: int) -> list[Question]:
    """Up to `count` questions of different kinds, in random order."""
    questions = [maker(rng, picture) for maker in rng.sample(makers, len(makers))]
    return [question for question in questions if question is not None][:count]


def _count_all(rng: SceneRng, picture: ObjectPicture) -> Question:
    count = len(picture.things)
    return Question("count_all", rng.pick(QUESTIONS["count_all"]), fact("count", count), number_form(count))


def _count_color(rng: SceneRng, picture: ObjectPicture) -> Question:
    color = rng.choice(picture.things).color if rng.chance(0.8) else rng.choice(tuple(COLORS))
    count = sum(thing.color == color for thing in picture.things)
    text = rng.pick(QUESTIONS["count_color"]).format(color=color)
    return Question("count_color", text, fact("count", count), number_form(count))


def _count_shape(rng: SceneRng, picture: ObjectPicture) -> Question:
    shape = rng.choice(picture.things).shape if rng.chance(0.8) else rng.choice(SHAPES)
    count = sum(thing.shape == shape for thing in picture.things)
    text = _correct_articles(rng.pick(QUESTIONS["count_shape"]).format(shape=shape))
    return Question("count_shape", text, fact("count", count), number_form(count))


def _color_of(rng: SceneRng, picture: ObjectPicture) -> Question | None:
    shapes = [thing.shape for thing in picture.things]
    single = [thing for thing in picture.things if shapes.count(thing.shape) == 1]
    if not single:
        return None
    thing = rng.choice(single)
    text = rng.pick(QUESTIONS["color_of"]).format(shape=thing.shape)
    return Question("color_of", text, fact("color", thing.color), exact_form(thing.color))


def _shape_of(rng: SceneRng, picture: ObjectPicture) -> Question | None:
    colors = [thing.color for thing in picture.things]
    single = [thing for thing in picture.things if colors.count(thing.color) == 1]
    if not single:
        return None
    thing = rng.choice(single)
    text = rng.pick(QUESTIONS["shape_of"]).format(color=thing.color)
    return Question("shape_of", text, fact("shape", thing.shape), exact_form(thing.shape))


def _place_of(rng: SceneRng, picture: ObjectPicture) -> Question:
    thing = rng.choice(picture.things)
    place = position_phrase(thing, picture.size)
    text = rng.pick(QUESTIONS["place_of"]).format(thing=thing.name)
    return Question("place_of", text, fact("place", place), exact_form(place))


def _larger(rng: SceneRng, picture: ObjectPicture) -> Question | None:
    order = ("small", "medium", "large")
    thing, other = rng.sample(picture.things, 2)
    if thing.size == other.size:
        return None
    larger = max(thing, other, key=lambda thing: order.index(thing.size))
    text = rng.pick(QUESTIONS["larger"]).format(thing=thing.name, other=other.name)
    return Question("larger", text, larger.name_facts, exact_form(larger.name, f"the {larger.name}"))


def _outermost(rng: SceneRng, picture: ObjectPicture) -> Question:
    side = rng.choice(("left", "right"))
    thing = picture.things[0 if side == "left" else -1]
    text = rng.pick(QUESTIONS["outermost"]).format(side=side)
    return Question("outermost", text, thing.name_facts, exact_form(thing.name, f"the {thing.name}"))


def _side_of(rng: SceneRng, picture: ObjectPicture) -> Question:
    thing, other = rng.sample(picture.things, 2)
    side = "left" if thing.x < other.x else "right"
    text = rng.pick(QUESTIONS["side_of"]).format(thing=thing.name, other=other.name)
    return Question("side_of", text, FactText(side), exact_form(side))


def _exists(rng: SceneRng, picture: ObjectPicture) -> Question:
    names = [thing.name for thing in picture.things]
    color, shape = rng.choice(PAIRS.train)
    name = rng.choice(names) if rng.chance(0.5) else f"{color} {shape}"
    text = _correct_articles(rng.pick(QUESTIONS["exists"]).format(thing=name))
    answer = "yes" if name in names else "no"
    return Question("exists", text, FactText(answer), exact_form(answer))


def _box_of(rng: SceneRng, picture: ObjectPicture) -> Question:
    thing = rng.choice(picture.things)
    left, top, right, bottom = bounding_box(thing.corners)
    (left, top), (right, bottom) = fractions(((left, top), (right, bottom)), picture.size)
    box = (left, top, right, bottom)
    text = rng.pick(QUESTIONS["box_of"]).format(thing=thing.name)
    return Question("box_of", text, FactText("[" + ", ".join(f"{side:.3f}" for side in box) + "]"), box_form(box))


def _point_of(rng: SceneRng, picture: ObjectPicture) -> Question:
    thing = rng.choice(picture.things)
    (point,) = fractions([(thing.x, thing.y)], picture.size)
    text = rng.pick(QUESTIONS["point_of"]).format(thing=thing.name)
    return Question("point_of", text, FactText(_coordinates(point)), point_form(fractions(thing.corners, picture.size)))


def _polygon_of(rng: SceneRng, picture: ObjectPicture) -> Question:
    thing = rng.choice(picture.things)
    corners = fractions(thing.corners, picture.size)
    outline = corners[:: max(1, len(corners) // 12)]
    text = rng.pick(QUESTIONS["polygon_of"]).format(thing=thing.name)
    return Question(
        "polygon_of", text, FactText("[" + ", ".join(map(_coordinates, outline)) + "]"), polygon_form(corners)
    )


_OBJECT_QUESTIONS: tuple[QuestionMaker, ...] = (
    _count_all, _count_color, _count_shape, _color_of, _shape_of, _place_of, _larger, _outermost, _side_of, _exists,
)  # fmt: skip
_GROUNDING_QUESTIONS: tuple[QuestionMaker, ...] = (_box_of, _point_of, _polygon_of)


def fractions(points: Sequence[XY], size: tuple[int, int]) -> list[list[float]]:
    """Convert pixels to fractions of width and height, rounded to thousandths."""
    return [rounded((x / size[0], y / size[1]), 3) for x, y in points]


def _coordinates(point: Sequence[float]) -> str:
    return f"({point[0]:.3f}, {point[1]:.3f})"


def _correct_articles(text: str) -> str:
    """Replace `a` before a vowel by `an`: the templates write `a` everywhere."""
    words = text.split(" ")
    for i in range(len(words) - 1):
        if words[i] == "a" and words[i + 1][0] in "aeiou":
            words[i] = "an"
    return " ".join(words)
