"""The category `caption`: a picture of one to five things and its description.

Most captions are short and of one form: the count, then color and shape from left to right. With this form a small
model learns to see within thousands of pictures instead of millions. Longer captions describe the same in sentences,
with positions and sizes.
"""

from __future__ import annotations

from pipelines.scenes.elements.entities import SIMPLE_PAIRS
from pipelines.scenes.elements.fact_text import (
    NUMBER_WORDS,
    FactText,
    capitalize,
    fact,
    fill_template,
    join_texts,
    plural,
    with_article,
)
from pipelines.scenes.elements.objects import ObjectPicture, draw_objects, object_notes, position_phrase
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

COUNTS = {1: 0.26, 2: 0.30, 3: 0.30, 4: 0.09, 5: 0.05}
"""Number of things in a picture -> weight."""
LENGTHS = {"short": 0.80, "medium": 0.13, "long": 0.07}
"""Share of each form of caption."""

SHORT = Pool("wording", train=("{count} {objects}: {list}.",), reserved=("{count} {objects} in all: {list}.",))
MEDIUM = Pool(
    "wording",
    train=(
        "There are {count} objects: {row}.",
        "{count} objects can be seen: {row}.",
        "Here are {count} objects, from left to right {row}.",
    ),
    reserved=("Counting gives {count} objects. Going from left to right one meets {row}.",),
)
MEDIUM_SINGLE = Pool(
    "wording",
    train=("There is {count} object: {row}.", "{count} object can be seen: {row}."),
    reserved=("Counting gives {count} object. It is {row}.",),
)
LONG = Pool(
    "wording",
    train=(
        "{Number} {objects} on a {ground} background. {places}",
        "The picture shows {number} {objects}. {places} The background is {ground}.",
    ),
    reserved=("Against a {ground} backdrop one finds {number} {objects}. {places}",),
)


def caption(rng: SceneRng) -> Scene:
    """Draw one to five things and describe them in one of three lengths."""
    picture = draw_objects(rng, SIMPLE_PAIRS, COUNTS)
    length = rng.weighted_choice(LENGTHS)
    match length:
        case "short":
            text = _short(rng, picture)
        case "medium":
            text = _medium(rng, picture)
        case _:
            text = _long(rng, picture)
    notes = {"length": length, "things": object_notes(picture.things), "backdrop": _backdrop_phrase(picture)}
    return Scene((picture.file, text), notes)


def _short(rng: SceneRng, picture: ObjectPicture) -> FactText:
    count = len(picture.things)
    return fill_template(
        rng.pick(SHORT),
        count=fact("count", count),
        objects=plural(count, "object"),
        list=join_texts(", ", [thing.name_facts for thing in picture.things]),
    )


def _medium(rng: SceneRng, picture: ObjectPicture) -> FactText:
    count = len(picture.things)
    return fill_template(
        rng.pick(MEDIUM_SINGLE if count == 1 else MEDIUM),
        count=fact("count", count),
        row=join_texts(", ", [with_article(thing.name_facts) for thing in picture.things], last=" and "),
    )


def _long(rng: SceneRng, picture: ObjectPicture) -> FactText:
    count = len(picture.things)
    number = fact("count", NUMBER_WORDS[count])
    places = [
        fill_template(
            "{size} {thing} is {place}.",
            size="A " + thing.size,
            thing=thing.name_facts,
            place=fact("place", position_phrase(thing, picture.size)),
        )
        for thing in picture.things
    ]
    return fill_template(
        rng.pick(LONG),
        number=number,
        Number=capitalize(number),
        objects=plural(count, "object"),
        places=join_texts(" ", places),
        ground=_backdrop_phrase(picture),
    )


def _backdrop_phrase(picture: ObjectPicture) -> str:
    return f"{'dark' if picture.backdrop.dark else 'light'} {picture.backdrop.kind}"
