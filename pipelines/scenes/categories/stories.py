"""The category `story`: documents in which text and several pictures take turns and need each other.

steps    a picture is built up thing by thing, each step told before it is shown
change   before and after: one thing left, came, or took another colour
album    numbered pictures, then a question that only one of them answers
day      somebody's day: a clock before each event, and what was seen
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from manifests.records import Json
from pipelines.scenes.categories.dials import clock_face, clock_time
from pipelines.scenes.elements.draw import File, backdrop, encode, grainy, jittered, picture_size
from pipelines.scenes.elements.entities import NAMES, PAIRS, PLACES, SIMPLE_PAIRS
from pipelines.scenes.elements.fact_text import Words, article, capital, fact, fill, join
from pipelines.scenes.elements.objects import Thing, describe, lay_out, note_reserved, show, view
from pipelines.scenes.elements.questions import Question, conversation, exact
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

TALLEST_PX = 256
"""Pictures of one document share a context, so they are smaller than single ones."""

STEPS = Pool(
    "wording",
    train=(
        ("Step 1: start with {thing}.", "Step {n}: add {thing} to the {side} of the {other}."),
        ("1. Draw {thing}.", "{n}. Draw {thing} {side} of the {other}."),
    ),
    reserved=(("First of all comes {thing}.", "Next, number {n}: {thing}, {side} of the {other}."),),
)
"""(the first step, every other one)"""
CHANGED = {
    "gone": Pool("wording", ("The {thing} is gone.", "The {thing} has disappeared."), ("No {thing} is left.",)),
    "come": Pool("wording", ("{Thing} has been added.", "{Thing} is new."), ("{Thing} has joined the others.",)),
    "recoloured": Pool(
        "wording",
        ("The {old} has turned {colour}.", "The {old} is now {colour}."),
        ("From now on the {old} is {colour}.",),
    ),
}
WHICH = Pool(
    "wording",
    ("Which picture shows {thing}?", "In which picture is there {thing}?"),
    ("Give the number of the picture with {thing}.",),
)


def story(dice: Dice) -> Scene:
    return _KINDS[dice.choice(tuple(_KINDS))](dice)


def _scenery(dice: Dice, count: int) -> tuple[tuple[Thing, ...], tuple[int, int]]:
    """Things that all differ in colour and shape, laid out as this split may have them."""
    size = picture_size(dice, longest_px=TALLEST_PX)
    things = lay_out(dice, *size, PAIRS, count, distinct=True)
    note_reserved(dice, things)
    return things, size


def _steps(dice: Dice) -> Scene:
    things, size = _scenery(dice, dice.whole(2, 4))
    ground = backdrop(dice, *size)
    order = dice.sample(things, len(things))
    first, following = dice.pick(STEPS)
    parts: list[File | Words] = []
    for i, thing in enumerate(order):
        if i == 0:
            told = fill(first, thing=article(thing.told))
        else:
            other = order[i - 1]
            side = "left" if thing.x < other.x else "right"
            told = fill(following, n=i + 1, thing=article(thing.told), side=side, other=other.name)
        parts += [told, show(dice, order[: i + 1], ground).file]
    return Scene(tuple(parts), {"story": "steps", "things": describe(order)})


def _change(dice: Dice) -> Scene:
    things, size = _scenery(dice, dice.whole(2, 4))
    ground = backdrop(dice, *size)
    kind = dice.choice(tuple(CHANGED))
    changed = dice.choice(things)
    rest = tuple(thing for thing in things if thing is not changed)
    match kind:
        case "gone":
            before, after = things, rest
            told = fill(dice.pick(CHANGED[kind]), thing=changed.told)
        case "come":
            before, after = rest, things
            told = fill(dice.pick(CHANGED[kind]), Thing=capital(article(changed.told)))
        case _:
            names = {thing.name for thing in things}
            free = [c for c, shape in PAIRS.train if shape == changed.shape and f"{c} {shape}" not in names]
            colour = dice.choice(free)
            new = replace(changed, colour=colour, rgb=jittered(dice, colour))
            before, after = things, tuple(new if thing is changed else thing for thing in things)
            told = fill(dice.pick(CHANGED[kind]), old=changed.name, colour=fact("colour", colour))
    parts: tuple[File | Words, ...] = (
        Words("Before: ") + join(", ", [thing.told for thing in before]) + ".",
        show(dice, before, ground).file,
        Words("After: ") + told,
        show(dice, after, ground).file,
    )
    notes = {"story": "change", "change": kind, "before": describe(before), "after": describe(after)}
    return Scene(parts, notes)


def _album(dice: Dice) -> Scene:
    count = dice.whole(2, 4)
    views = [view(dice, SIMPLE_PAIRS, {1: 0.3, 2: 0.4, 3: 0.3}, distinct=True) for _ in range(count)]
    parts: list[File | Words] = []
    for i, seen in enumerate(views):
        told = fill("Picture {n}: {list}.", n=i + 1, list=join(", ", [thing.told for thing in seen.things]))
        parts += [seen.file, told]
    notes: dict[str, Json] = {"story": "album", "things": [describe(seen.things) for seen in views]}
    names = [thing.name for seen in views for thing in seen.things]
    single = [(i, thing) for i, seen in enumerate(views) for thing in seen.things if names.count(thing.name) == 1]
    if single:
        i, thing = dice.choice(single)
        phrase = dice.pick(WHICH).format(thing=article(Words(thing.name)).text)
        form = exact(str(i + 1), f"picture {i + 1}")
        words, notes["questions"] = conversation(dice, [Question("which_picture", phrase, fact("value", i + 1), form)])
        parts.append(words)
    return Scene(tuple(parts), notes)


DAY = Pool(
    "wording",
    train=("{name} spent the day in {place}.", "This is how {name}'s day in {place} went."),
    reserved=("A day of {name}'s in {place}:",),
)
SAW = Pool(
    "wording",
    train=("At {time} {name} saw this: {list}.", "It was {time} when {name} drew {list}."),
    reserved=("By {time} {name} had come upon {list}.",),
)


def _day(dice: Dice) -> Scene:
    name, place = dice.pick(NAMES), dice.pick(PLACES)
    saw = dice.pick(SAW)
    parts: list[File | Words] = [Words(dice.pick(DAY).format(name=name, place=place))]
    events = []
    for _ in range(dice.whole(2, 3)):
        hour, minute = clock_time(dice)
        sheet, _ = clock_face(dice, dice.whole(90, 160), hour, minute)
        things, size = _scenery(dice, dice.whole(1, 3))
        time = f"{hour}:{minute:02d}"
        parts += [
            encode(dice, grainy(dice, sheet.finish())),
            fill(saw, time=fact("value", time), name=name, list=join(", ", [article(t.told) for t in things], " and ")),
            show(dice, things, backdrop(dice, *size)).file,
        ]
        events.append({"time": time, "things": describe(things)})
    return Scene(tuple(parts), {"story": "day", "name": name, "events": events})


_KINDS: dict[str, Callable[[Dice], Scene]] = {"steps": _steps, "change": _change, "album": _album, "day": _day}
