"""The category `caption`: a picture of one to five things, and what is on it.

Most captions are short and of one form, count first and then colour and shape from left to right: a small model
learns to see from that within thousands of pictures, not millions. Longer ones say the same in sentences, with places
and sizes.
"""

from __future__ import annotations

from pipelines.scenes.elements.entities import SIMPLE_PAIRS
from pipelines.scenes.elements.fact_text import NUMBERS, Words, article, capital, fact, fill, join, plural
from pipelines.scenes.elements.objects import View, describe, place_words, view
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

COUNTS = {1: 0.26, 2: 0.30, 3: 0.30, 4: 0.09, 5: 0.05}
LENGTHS = {"short": 0.80, "medium": 0.13, "long": 0.07}

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


def caption(dice: Dice) -> Scene:
    seen = view(dice, SIMPLE_PAIRS, COUNTS)
    length = dice.weighted(LENGTHS)
    match length:
        case "short":
            words = _short(dice, seen)
        case "medium":
            words = _medium(dice, seen)
        case _:
            words = _long(dice, seen)
    notes = {"length": length, "things": describe(seen.things), "backdrop": _ground(seen)}
    return Scene((seen.file, words), notes)


def _short(dice: Dice, seen: View) -> Words:
    count = len(seen.things)
    return fill(
        dice.pick(SHORT),
        count=fact("count", count),
        objects=plural(count, "object"),
        list=join(", ", [thing.told for thing in seen.things]),
    )


def _medium(dice: Dice, seen: View) -> Words:
    count = len(seen.things)
    return fill(
        dice.pick(MEDIUM_SINGLE if count == 1 else MEDIUM),
        count=fact("count", count),
        row=join(", ", [article(thing.told) for thing in seen.things], last=" and "),
    )


def _long(dice: Dice, seen: View) -> Words:
    count = len(seen.things)
    number = fact("count", NUMBERS[count])
    places = [
        fill(
            "{size} {thing} is {place}.",
            size="A " + thing.size,
            thing=thing.told,
            place=fact("place", place_words(thing, seen.size)),
        )
        for thing in seen.things
    ]
    return fill(
        dice.pick(LONG),
        number=number,
        Number=capital(number),
        objects=plural(count, "object"),
        places=join(" ", places),
        ground=_ground(seen),
    )


def _ground(seen: View) -> str:
    return f"{'dark' if seen.backdrop.dark else 'light'} {seen.backdrop.kind}"
