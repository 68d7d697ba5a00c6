"""The category `clip`: short H.264 videos of moving things, and events whose frame is known.

The annotations give the center of every thing in every frame, so that tests find each event in the decoded pixels.
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
from pipelines.scenes.elements.draw import EncodedMedia, add_grain, backdrop, jittered_color
from pipelines.scenes.elements.entities import PAIRS, SIMPLE_PAIRS
from pipelines.scenes.elements.fact_text import FactText, fact, fill_template, join_texts, plural
from pipelines.scenes.elements.objects import Thing, arrange_in_split, note_reserved_pair, paint_object
from pipelines.scenes.elements.questions import Question, exact_form, number_form, write_questions
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

RATES = (Fraction(8), Fraction(10), Fraction(12), Fraction(25, 2), Fraction(15), Fraction(15000, 1001))
"""Frames per second."""
SECONDS = (2.0, 4.0)
"""Shortest and longest duration."""
EVENT_KINDS = ("appears", "disappears", "turns", "starts", "stops")

Center = tuple[int, int]
"""(x, y) in pixels."""


@dataclass(frozen=True)
class ClipEvent:
    """A change of one thing at a known frame."""

    kind: str
    """One of `EVENT_KINDS`."""
    frame: int
    """The first frame that shows it."""
    color: str = ""
    """The new color of a thing that `turns`; empty for all other events."""


@dataclass(frozen=True)
class Actor:
    """A thing with its path through the clip."""

    thing: Thing
    after: Thing
    """The thing from its event on: in another color if it `turns`, else unchanged."""
    event: ClipEvent | None
    centers: tuple[Center | None, ...]
    """Center in every frame; None while the thing is invisible."""

    def at(self, frame: int) -> Thing:
        """The thing as this frame shows it."""
        return self.after if self.event is not None and frame >= self.event.frame else self.thing


def clip(rng: SceneRng) -> Scene:
    """Draw a clip; the text describes it or asks about its events."""
    rate = rng.choice(RATES)
    frames = round(float(rate) * rng.uniform(*SECONDS))
    width, height = 2 * rng.integer(48, 112), 2 * rng.integer(48, 80)
    actors = _place_actors(rng, width, height, frames, rate)
    payload = encode_video(_draw_frames(rng, actors, width, height, frames), rate)
    text, questions = _text(rng, actors, rate, frames)
    notes: dict[str, Json] = {
        "frames": frames,
        "frames_per_second": f"{rate.numerator}/{rate.denominator}",
        "actors": [
            {"color": actor.thing.color, "shape": actor.thing.shape, "radius": round(actor.thing.radius, 1),
             "rgb": list(actor.thing.rgb), "centers": actor.centers}
            for actor in actors
        ],
        "events": [
            {"kind": actor.event.kind, "actor": i, "frame": actor.event.frame,
             "time_us": int(actor.event.frame * 1_000_000 / rate)}
            | ({"color": actor.event.color, "rgb": list(actor.after.rgb)} if actor.event.color else {})
            for i, actor in enumerate(actors) if actor.event
        ],
    }  # fmt: skip
    if questions:
        notes["questions"] = questions
    return Scene((EncodedMedia(payload, "mp4", width, height), text), notes)


# ---------------------------------------------------------------------------------------------- movement and events


def _place_actors(rng: SceneRng, width: int, height: int, frames: int, rate: Fraction) -> list[Actor]:
    """Draw one to three actors that never touch, of which at least one has an event."""
    count = rng.weighted_choice({1: 0.3, 2: 0.45, 3: 0.25})
    while True:
        things = arrange_in_split(rng, width, height, SIMPLE_PAIRS, count, distinct=True)
        with_event = rng.integer(1, count)
        actors = [
            _actor(rng, replace(thing, outlined=False), things, i < with_event, (width, height), frames, rate)
            for i, thing in enumerate(rng.sample(things, count))
        ]
        if not any(_touch(actor, other) for i, actor in enumerate(actors) for other in actors[:i]):
            note_reserved_pair(rng, things)
            return actors


def _actor(
    rng: SceneRng,
    thing: Thing,
    things: Sequence[Thing],
    has_event: bool,
    size: tuple[int, int],
    frames: int,
    rate: Fraction,
) -> Actor:
    """Give a thing a path and, if `has_event`, an event between 20 % and 80 % of the clip.

    Args:
        things: all things of the clip; a thing that turns takes a color that makes it equal to none of them.
        size: (width, height) in pixels.
        frames: length of the clip.
        rate: frames per second.
    """
    kind = rng.choice(EVENT_KINDS) if has_event else ""
    event_frame = round(frames * rng.uniform(0.2, 0.8)) if has_event else frames
    moves = rng.chance(0.6)
    moves_before, moves_after = {"starts": (False, True), "stops": (True, False)}.get(kind, (moves, moves))
    speed = min(size) * rng.uniform(0.25, 0.6) / float(rate)
    direction = math.radians(rng.uniform(0, 360))
    step = (speed * math.cos(direction), speed * math.sin(direction))
    x, y = thing.x, thing.y
    centers: list[Center | None] = []
    for frame in range(frames):
        hidden = (kind == "appears" and frame < event_frame) or (kind == "disappears" and frame >= event_frame)
        centers.append(None if hidden else (round(x), round(y)))
        if moves_after if frame + 1 >= event_frame else moves_before:
            x, step_x = _bounce(x, step[0], thing.radius, size[0])
            y, step_y = _bounce(y, step[1], thing.radius, size[1])
            step = (step_x, step_y)
    after, color = thing, ""
    if kind == "turns":
        used = {other.name for other in things}
        color = rng.choice([c for c, s in PAIRS.train if s == thing.shape and f"{c} {s}" not in used])
        after = replace(thing, color=color, rgb=jittered_color(rng, color))
    return Actor(thing, after, ClipEvent(kind, event_frame, color) if has_event else None, tuple(centers))


def _bounce(at: float, step: float, radius: float, length: int) -> tuple[float, float]:
    """Next (position, step) on one axis; the step changes its sign at the edges."""
    after = at + step
    if not radius < after < length - radius:
        return at - step if radius < at - step < length - radius else at, -step
    return after, step


def _touch(actor: Actor, other: Actor) -> bool:
    """Return whether two actors touch in any frame."""
    reach = actor.thing.radius + other.thing.radius + 2
    return any(
        a is not None and b is not None and math.dist(a, b) < reach
        for a, b in zip(actor.centers, other.centers, strict=True)
    )


# ---------------------------------------------------------------------------------------------- video


def _draw_frames(rng: SceneRng, actors: Sequence[Actor], width: int, height: int, frames: int) -> list[Image.Image]:
    background = backdrop(rng, width, height)
    # The grain is the same in every frame: moving grain makes files large and carries no information.
    background_image = add_grain(rng, background.image)
    images = []
    for frame in range(frames):
        image = background_image.copy()
        for actor in actors:
            center = actor.centers[frame]
            if center is not None:
                paint_object(image, replace(actor.at(frame), x=center[0], y=center[1]), background.dark)
        images.append(image)
    return images


def encode_video(images: Sequence[Image.Image], rate: Fraction) -> bytes:
    """Encode pictures of equal size as an MP4 file with one H.264 track; equal pictures give equal bytes.

    Therefore x264 runs in one thread and without its macroblock tree, whose AVX-512 code reads uninitialized memory for
    pictures as small as these (measured with av 18.1.0).
    """
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        options = {"preset": "veryfast", "crf": "20", "g": "24", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    return out.getvalue()


# ---------------------------------------------------------------------------------------------- text

DESCRIPTIONS = Pool(
    "wording",
    train=(
        "{count} {objects} {take} part: {list}. {events}",
        "The clip lasts {seconds} seconds and shows {count} {objects}: {list}. {events}",
    ),
    reserved=("In a film of {seconds} seconds {count} {objects} can be seen: {list}. {events}",),
)
EVENT_SENTENCES = Pool(
    "wording", ("At {time} s the {what}.", "After {time} s the {what}."), ("It takes {time} s until the {what}.",)
)
EVENT_VERBS = {"appears": "appears", "disappears": "disappears", "starts": "starts to move", "stops": "stops moving"}
WHEN_QUESTIONS = Pool(
    "wording",
    ("At which second does the {what}?", "After how many seconds does the {what}?"),
    ("How long does it take until you see the {what}?",),
)
EVENT_INFINITIVES = {"appears": "appear", "disappears": "disappear", "starts": "start to move", "stops": "stop moving"}
COLOR_QUESTIONS = Pool(
    "wording",
    ("Which color does the {thing} turn into?", "What color does the {thing} become?"),
    ("Name the new color of the {thing}.",),
)
TIME_TOLERANCE_S = 0.3
"""Allowed error of an answered time."""


def _text(rng: SceneRng, actors: Sequence[Actor], rate: Fraction, frames: int) -> tuple[FactText, list[Json]]:
    """A description of the clip without annotations, or questions about its events with theirs."""
    with_event = sorted((a for a in actors if a.event), key=lambda a: a.event.frame if a.event else 0)
    if rng.chance(0.5):
        questions = [_question(rng, actor, rate) for actor in with_event]
        return write_questions(rng, questions)
    template = rng.pick(EVENT_SENTENCES)
    events = [fill_template(template, time=fact("time", _seconds(a, rate)), what=_event_phrase(a)) for a in with_event]
    count = len(actors)
    description = fill_template(
        rng.pick(DESCRIPTIONS),
        count=fact("count", count),
        objects=plural(count, "object"),
        take=plural(count, "takes", "take"),
        seconds=f"{frames / float(rate):.1f}",
        list=join_texts(", ", [actor.thing.name_facts for actor in sorted(actors, key=lambda a: a.thing.x)]),
        events=join_texts(" ", events),
    )
    return description, []


def _event_phrase(actor: Actor) -> FactText:
    """`red circle starts to move`, `red circle turns blue`."""
    assert actor.event is not None
    name = FactText(actor.thing.name + " ")
    return name + (
        FactText("turns ") + fact("color", actor.event.color) if actor.event.color else EVENT_VERBS[actor.event.kind]
    )


def _question(rng: SceneRng, actor: Actor, rate: Fraction) -> Question:
    assert actor.event is not None
    if actor.event.color:
        text = rng.pick(COLOR_QUESTIONS).format(thing=actor.thing.name)
        return Question("becomes", text, fact("color", actor.event.color), exact_form(actor.event.color))
    seconds = _seconds(actor, rate)
    text = rng.pick(WHEN_QUESTIONS).format(what=f"{actor.thing.name} {EVENT_INFINITIVES[actor.event.kind]}")
    return Question("when", text, fact("time", seconds), number_form(float(seconds), TIME_TOLERANCE_S))


def _seconds(actor: Actor, rate: Fraction) -> str:
    """Time of the actor's event, with one decimal."""
    assert actor.event is not None
    return f"{actor.event.frame / float(rate):.1f}"
