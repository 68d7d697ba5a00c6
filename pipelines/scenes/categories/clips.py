"""The category `clip`: short H.264 films of things that move, and events whose frame is known.

Notes hold the centre of every thing in every frame, so that each event can be found again in the decoded pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import av
from PIL import Image

from manifests.records import Json
from pipelines.scenes.elements.draw import File, backdrop, grainy, jittered
from pipelines.scenes.elements.entities import PAIRS, SIMPLE_PAIRS
from pipelines.scenes.elements.fact_text import Words, fact, fill, join, plural
from pipelines.scenes.elements.objects import Thing, lay_out, note_reserved, put
from pipelines.scenes.elements.questions import Question, conversation, exact, number
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

RATES = (Fraction(8), Fraction(10), Fraction(12), Fraction(25, 2), Fraction(15), Fraction(15000, 1001))
"""Frames per second."""
SECONDS = (2.0, 4.0)
KINDS = ("appears", "disappears", "turns", "starts", "stops")

Centre = tuple[int, int]


@dataclass(frozen=True)
class Event:
    kind: str
    frame: int
    """The first frame that shows it."""
    colour: str = ""
    """What a thing turns into; empty for all other events."""


@dataclass(frozen=True)
class Actor:
    """A thing with its way through the clip."""

    thing: Thing
    after: Thing
    """The same from its event on: of another colour if it turns."""
    event: Event | None
    centres: tuple[Centre | None, ...]
    """For every frame; None while it can't be seen."""

    def at(self, frame: int) -> Thing:
        return self.after if self.event is not None and frame >= self.event.frame else self.thing


def clip(dice: Dice) -> Scene:
    rate = dice.choice(RATES)
    frames = round(float(rate) * dice.uniform(*SECONDS))
    width, height = 2 * dice.whole(48, 112), 2 * dice.whole(48, 80)
    actors = _cast(dice, width, height, frames, rate)
    payload = encode(_film(dice, actors, width, height, frames), rate)
    words, questions = _told(dice, actors, rate, frames)
    notes: dict[str, Json] = {
        "frames": frames,
        "frames_per_second": f"{rate.numerator}/{rate.denominator}",
        "actors": [
            {"colour": actor.thing.colour, "shape": actor.thing.shape, "radius": round(actor.thing.radius, 1),
             "rgb": list(actor.thing.rgb), "centres": actor.centres}
            for actor in actors
        ],
        "events": [
            {"kind": actor.event.kind, "actor": i, "frame": actor.event.frame,
             "time_us": int(actor.event.frame * 1_000_000 / rate)}
            | ({"colour": actor.event.colour, "rgb": list(actor.after.rgb)} if actor.event.colour else {})
            for i, actor in enumerate(actors) if actor.event
        ],
    }  # fmt: skip
    if questions:
        notes["questions"] = questions
    return Scene((File(payload, "mp4", width, height), words), notes)


# ---------------------------------------------------------------------------------------------- what happens


def _cast(dice: Dice, width: int, height: int, frames: int, rate: Fraction) -> list[Actor]:
    """Things with ways that never touch, and at least one event."""
    count = dice.weighted({1: 0.3, 2: 0.45, 3: 0.25})
    while True:
        things = lay_out(dice, width, height, SIMPLE_PAIRS, count, distinct=True)
        eventful = dice.whole(1, count)
        actors = [
            _direct(dice, replace(thing, rim=False), things, i < eventful, (width, height), frames, rate)
            for i, thing in enumerate(dice.sample(things, count))
        ]
        if not any(_touch(one, other) for i, one in enumerate(actors) for other in actors[:i]):
            note_reserved(dice, things)
            return actors


def _direct(
    dice: Dice, thing: Thing, cast: Sequence[Thing], eventful: bool, size: tuple[int, int], frames: int, rate: Fraction
) -> Actor:
    """Give a thing a way and, if `eventful`, an event somewhere in the middle of the clip."""
    kind = dice.choice(KINDS) if eventful else ""
    cut = round(frames * dice.uniform(0.2, 0.8)) if eventful else frames
    moves = dice.chance(0.6)
    before, after_cut = {"starts": (False, True), "stops": (True, False)}.get(kind, (moves, moves))
    speed = min(size) * dice.uniform(0.25, 0.6) / float(rate)
    way = math.radians(dice.uniform(0, 360))
    step = (speed * math.cos(way), speed * math.sin(way))
    x, y = thing.x, thing.y
    centres: list[Centre | None] = []
    for frame in range(frames):
        hidden = (kind == "appears" and frame < cut) or (kind == "disappears" and frame >= cut)
        centres.append(None if hidden else (round(x), round(y)))
        if after_cut if frame + 1 >= cut else before:
            x, step_x = _bounce(x, step[0], thing.radius, size[0])
            y, step_y = _bounce(y, step[1], thing.radius, size[1])
            step = (step_x, step_y)
    after, colour = thing, ""
    if kind == "turns":
        taken = {other.name for other in cast}
        colour = dice.choice([c for c, s in PAIRS.train if s == thing.shape and f"{c} {s}" not in taken])
        after = replace(thing, colour=colour, rgb=jittered(dice, colour))
    return Actor(thing, after, Event(kind, cut, colour) if eventful else None, tuple(centres))


def _bounce(at: float, step: float, radius: float, length: int) -> tuple[float, float]:
    """The next place on one axis, turning round at the edges."""
    after = at + step
    if not radius < after < length - radius:
        return at - step if radius < at - step < length - radius else at, -step
    return after, step


def _touch(one: Actor, other: Actor) -> bool:
    reach = one.thing.radius + other.thing.radius + 2
    return any(
        a is not None and b is not None and math.dist(a, b) < reach
        for a, b in zip(one.centres, other.centres, strict=True)
    )


# ---------------------------------------------------------------------------------------------- film


def _film(dice: Dice, actors: Sequence[Actor], width: int, height: int, frames: int) -> list[Image.Image]:
    ground = backdrop(dice, width, height)
    still = grainy(dice, ground.image)  # the grain stands still: moving grain makes files large and says nothing
    film = []
    for frame in range(frames):
        image = still.copy()
        for actor in actors:
            centre = actor.centres[frame]
            if centre is not None:
                put(image, replace(actor.at(frame), x=centre[0], y=centre[1]), ground.dark)
        film.append(image)
    return film


def encode(film: Sequence[Image.Image], rate: Fraction) -> bytes:
    """An MP4 file with one H.264 track. The same film gives the same bytes: one thread, and no macroblock tree, whose
    AVX-512 code reads memory that nobody wrote when pictures are as small as these (seen with av 18.1.0)."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        options = {"preset": "veryfast", "crf": "20", "g": "24", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = film[0].size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in film:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    return out.getvalue()


# ---------------------------------------------------------------------------------------------- words

TELL = Pool(
    "wording",
    train=(
        "{count} {objects} {take} part: {list}. {events}",
        "The clip lasts {seconds} seconds and shows {count} {objects}: {list}. {events}",
    ),
    reserved=("In a film of {seconds} seconds {count} {objects} can be seen: {list}. {events}",),
)
HAPPENS = Pool(
    "wording", ("At {time} s the {what}.", "After {time} s the {what}."), ("It takes {time} s until the {what}.",)
)
DONE = {"appears": "appears", "disappears": "disappears", "starts": "starts to move", "stops": "stops moving"}
WHEN = Pool(
    "wording",
    ("At which second does the {what}?", "After how many seconds does the {what}?"),
    ("How long does it take until you see the {what}?",),
)
DO = {"appears": "appear", "disappears": "disappear", "starts": "start to move", "stops": "stop moving"}
BECOMES = Pool(
    "wording",
    ("Which colour does the {thing} turn into?", "What colour does the {thing} become?"),
    ("Name the new colour of the {thing}.",),
)
TIME_TOLERANCE_S = 0.3


def _told(dice: Dice, actors: Sequence[Actor], rate: Fraction, frames: int) -> tuple[Words, list[Json]]:
    """A description of the clip, or questions about its events with their notes."""
    happened = sorted((a for a in actors if a.event), key=lambda a: a.event.frame if a.event else 0)
    if dice.chance(0.5):
        asked = [_ask(dice, actor, rate) for actor in happened]
        return conversation(dice, asked)
    happens = dice.pick(HAPPENS)
    events = [fill(happens, time=fact("time", _seconds(a, rate)), what=_what(a)) for a in happened]
    count = len(actors)
    told = fill(
        dice.pick(TELL),
        count=fact("count", count),
        objects=plural(count, "object"),
        take=plural(count, "takes", "take"),
        seconds=f"{frames / float(rate):.1f}",
        list=join(", ", [actor.thing.told for actor in sorted(actors, key=lambda a: a.thing.x)]),
        events=join(" ", events),
    )
    return told, []


def _what(actor: Actor) -> Words:
    assert actor.event is not None
    name = Words(actor.thing.name + " ")
    return name + (
        Words("turns ") + fact("colour", actor.event.colour) if actor.event.colour else DONE[actor.event.kind]
    )


def _ask(dice: Dice, actor: Actor, rate: Fraction) -> Question:
    assert actor.event is not None
    if actor.event.colour:
        asked = dice.pick(BECOMES).format(thing=actor.thing.name)
        return Question("becomes", asked, fact("colour", actor.event.colour), exact(actor.event.colour))
    seconds = _seconds(actor, rate)
    asked = dice.pick(WHEN).format(what=f"{actor.thing.name} {DO[actor.event.kind]}")
    return Question("when", asked, fact("time", seconds), number(float(seconds), TIME_TOLERANCE_S))


def _seconds(actor: Actor, rate: Fraction) -> str:
    assert actor.event is not None
    return f"{actor.event.frame / float(rate):.1f}"
