"""The category `story`: documents that interleave text with several pictures it refers to.

steps    a picture grows by one thing per step; each step is described before it is shown
change   before and after: one thing was removed, added or recolored
album    numbered pictures, then a question that only one of them answers
day      a person's day: a clock before each event, and a picture of the things seen
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from manifests.records import Json
from pipelines.scenes.categories.dials import clock_face, clock_time
from pipelines.scenes.elements.draw import (
    EncodedMedia,
    add_grain,
    backdrop,
    encode_image,
    jittered_color,
    picture_size,
)
from pipelines.scenes.elements.entities import NAMES, PAIRS, PLACES, SIMPLE_PAIRS
from pipelines.scenes.elements.fact_text import FactText, capitalize, fact, fill_template, join_texts, with_article
from pipelines.scenes.elements.objects import (
    Thing,
    arrange_in_split,
    draw_objects,
    note_reserved_pair,
    object_notes,
    paint_objects,
)
from pipelines.scenes.elements.questions import Question, exact_form, write_questions
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

LONGEST_SIDE_PX = 256
"""Pictures of one document share a context, so they are smaller than those of other categories."""

STEP_SENTENCES = Pool(
    "wording",
    train=(
        ("Step 1: start with {thing}.", "Step {n}: add {thing} to the {side} of the {other}."),
        ("1. Draw {thing}.", "{n}. Draw {thing} {side} of the {other}."),
    ),
    reserved=(("First of all comes {thing}.", "Next, number {n}: {thing}, {side} of the {other}."),),
)
"""(template of the first step, template of the others)"""
CHANGE_SENTENCES = {
    "gone": Pool("wording", ("The {thing} is gone.", "The {thing} has disappeared."), ("No {thing} is left.",)),
    "come": Pool("wording", ("{Thing} has been added.", "{Thing} is new."), ("{Thing} has joined the others.",)),
    "recolored": Pool(
        "wording",
        ("The {old} has turned {color}.", "The {old} is now {color}."),
        ("From now on the {old} is {color}.",),
    ),
}
WHICH_QUESTIONS = Pool(
    "wording",
    ("Which picture shows {thing}?", "In which picture is there {thing}?"),
    ("Give the number of the picture with {thing}.",),
)


def story(rng: SceneRng) -> Scene:
    """Write one story of a random kind."""
    return _KINDS[rng.choice(tuple(_KINDS))](rng)


def _things(rng: SceneRng, count: int) -> tuple[tuple[Thing, ...], tuple[int, int]]:
    """`count` different things in a layout of this split, and the (width, height) of their picture."""
    size = picture_size(rng, longest_px=LONGEST_SIDE_PX)
    things = arrange_in_split(rng, *size, PAIRS, count, distinct=True)
    note_reserved_pair(rng, things)
    return things, size


def _steps(rng: SceneRng) -> Scene:
    things, size = _things(rng, rng.integer(2, 4))
    background = backdrop(rng, *size)
    order = rng.sample(things, len(things))
    first, following = rng.pick(STEP_SENTENCES)
    parts: list[EncodedMedia | FactText] = []
    for i, thing in enumerate(order):
        if i == 0:
            text = fill_template(first, thing=with_article(thing.name_facts))
        else:
            other = order[i - 1]
            side = "left" if thing.x < other.x else "right"
            text = fill_template(following, n=i + 1, thing=with_article(thing.name_facts), side=side, other=other.name)
        parts += [text, paint_objects(rng, order[: i + 1], background).file]
    return Scene(tuple(parts), {"story": "steps", "things": object_notes(order)})


def _change(rng: SceneRng) -> Scene:
    things, size = _things(rng, rng.integer(2, 4))
    background = backdrop(rng, *size)
    kind = rng.choice(tuple(CHANGE_SENTENCES))
    changed = rng.choice(things)
    rest = tuple(thing for thing in things if thing is not changed)
    match kind:
        case "gone":
            before, after = things, rest
            text = fill_template(rng.pick(CHANGE_SENTENCES[kind]), thing=changed.name_facts)
        case "come":
            before, after = rest, things
            text = fill_template(rng.pick(CHANGE_SENTENCES[kind]), Thing=capitalize(with_article(changed.name_facts)))
        case _:
            names = {thing.name for thing in things}
            free = [c for c, shape in PAIRS.train if shape == changed.shape and f"{c} {shape}" not in names]
            color = rng.choice(free)
            new = replace(changed, color=color, rgb=jittered_color(rng, color))
            before, after = things, tuple(new if thing is changed else thing for thing in things)
            text = fill_template(rng.pick(CHANGE_SENTENCES[kind]), old=changed.name, color=fact("color", color))
    parts: tuple[EncodedMedia | FactText, ...] = (
        FactText("Before: ") + join_texts(", ", [thing.name_facts for thing in before]) + ".",
        paint_objects(rng, before, background).file,
        FactText("After: ") + text,
        paint_objects(rng, after, background).file,
    )
    notes = {"story": "change", "change": kind, "before": object_notes(before), "after": object_notes(after)}
    return Scene(parts, notes)


def _album(rng: SceneRng) -> Scene:
    count = rng.integer(2, 4)
    pictures = [draw_objects(rng, SIMPLE_PAIRS, {1: 0.3, 2: 0.4, 3: 0.3}, distinct=True) for _ in range(count)]
    parts: list[EncodedMedia | FactText] = []
    for i, picture in enumerate(pictures):
        text = fill_template(
            "Picture {n}: {list}.", n=i + 1, list=join_texts(", ", [thing.name_facts for thing in picture.things])
        )
        parts += [picture.file, text]
    notes: dict[str, Json] = {"story": "album", "things": [object_notes(picture.things) for picture in pictures]}
    names = [thing.name for picture in pictures for thing in picture.things]
    single = [
        (i, thing) for i, picture in enumerate(pictures) for thing in picture.things if names.count(thing.name) == 1
    ]
    if single:
        i, thing = rng.choice(single)
        phrase = rng.pick(WHICH_QUESTIONS).format(thing=with_article(FactText(thing.name)).text)
        form = exact_form(str(i + 1), f"picture {i + 1}")
        text, notes["questions"] = write_questions(rng, [Question("which_picture", phrase, fact("value", i + 1), form)])
        parts.append(text)
    return Scene(tuple(parts), notes)


DAY_OPENINGS = Pool(
    "wording",
    train=("{name} spent the day in {place}.", "This is how {name}'s day in {place} went."),
    reserved=("A day of {name}'s in {place}:",),
)
EVENT_SENTENCES = Pool(
    "wording",
    train=("At {time} {name} saw this: {list}.", "It was {time} when {name} drew {list}."),
    reserved=("By {time} {name} had come upon {list}.",),
)


def _day(rng: SceneRng) -> Scene:
    name, place = rng.pick(NAMES), rng.pick(PLACES)
    template = rng.pick(EVENT_SENTENCES)
    parts: list[EncodedMedia | FactText] = [FactText(rng.pick(DAY_OPENINGS).format(name=name, place=place))]
    events = []
    for _ in range(rng.integer(2, 3)):
        hour, minute = clock_time(rng)
        canvas, _ = clock_face(rng, rng.integer(90, 160), hour, minute)
        things, size = _things(rng, rng.integer(1, 3))
        time = f"{hour}:{minute:02d}"
        parts += [
            encode_image(rng, add_grain(rng, canvas.finish())),
            fill_template(
                template,
                time=fact("value", time),
                name=name,
                list=join_texts(", ", [with_article(t.name_facts) for t in things], " and "),
            ),
            paint_objects(rng, things, backdrop(rng, *size)).file,
        ]
        events.append({"time": time, "things": object_notes(things)})
    return Scene(tuple(parts), {"story": "day", "name": name, "events": events})


_KINDS: dict[str, Callable[[SceneRng], Scene]] = {"steps": _steps, "change": _change, "album": _album, "day": _day}
