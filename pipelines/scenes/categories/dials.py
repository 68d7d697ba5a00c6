"""The category `dial`: clocks, gauges, thermometers and seven-segment displays, and the value each shows.

Every time and value belongs to one split (`in_split`), so that a model can't answer held-out scenes from memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    FORMATS,
    XY,
    Canvas,
    Rgb,
    add_grain,
    encode_image,
    jittered_color,
    pick_typeface,
    shade,
    tint,
)
from pipelines.scenes.elements.entities import COLORS
from pipelines.scenes.elements.fact_text import fact, fill_template
from pipelines.scenes.elements.objects import rounded
from pipelines.scenes.elements.questions import Question, exact_form, number_form, question_scene
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

DESCRIPTIONS = {
    "clock": Pool("wording", ("The clock shows {value}.", "It is {value} by this clock."), ("Clock: {value}.",)),
    "gauge": Pool("wording", ("The gauge reads {value}.", "The needle points to {value}."), ("Gauge: {value}.",)),
    "thermometer": Pool(
        "wording", ("The thermometer shows {value} degrees.", "It is {value} degrees."), ("Thermometer: {value}.",)
    ),
    "display": Pool("wording", ("The display shows {value}.", "The display reads {value}."), ("Display: {value}.",)),
}
QUESTIONS = {
    "clock": Pool("wording", ("What time does the clock show?", "What time is it?"), ("Read the clock.",)),
    "gauge": Pool("wording", ("What does the gauge read?", "Where does the needle point?"), ("Read the gauge.",)),
    "thermometer": Pool(
        "wording",
        ("How many degrees does the thermometer show?", "What is the temperature?"),
        ("Read the thermometer.",),
    ),
    "display": Pool(
        "wording", ("Which number is on the display?", "What does the display show?"), ("Read the display.",)
    ),
}

_Drawing = tuple[Canvas, str, Json, dict[str, Json]]
"""(canvas, value as text, answer form, annotations)"""


def dial(rng: SceneRng) -> Scene:
    """Draw one dial; the text states its value or asks for it."""
    kind = rng.weighted_choice({"clock": 0.35, "gauge": 0.25, "thermometer": 0.15, "display": 0.25})
    side = round(math.exp(rng.uniform(math.log(90), math.log(260))))
    canvas, value, form, notes = _KINDS[kind](rng, side)
    file = encode_image(rng, add_grain(rng, canvas.finish()), FORMATS)
    notes = {"dial": kind, "value": value} | notes
    if rng.chance(0.5):
        return Scene((file, fill_template(rng.pick(DESCRIPTIONS[kind]), value=fact("value", value))), notes)
    return question_scene(
        rng, file, [Question(f"read_{kind}", rng.pick(QUESTIONS[kind]), fact("value", value), form)], notes
    )


def clock_face(rng: SceneRng, side: int, hour: int, minute: int) -> tuple[Canvas, dict[str, Json]]:
    """Draw a clock of `side` x `side` pixels; `hour` is 1 to 12, and the hour hand moves with the minutes.

    Returns:
        (canvas, annotations)
    """
    dark = rng.chance(0.3)
    background, face_rgb = tint(rng, not dark), tint(rng, dark)
    ink = tint(rng, not dark)
    typeface = pick_typeface(rng)
    canvas = Canvas(side, side, background)
    x = y = side / 2
    radius = 0.46 * side
    edge_rgb = jittered_color(rng, rng.choice(tuple(COLORS))) if rng.chance(0.6) else shade(ink, 0.2)
    canvas.circle(x, y, radius, edge_rgb)
    canvas.circle(x, y, 0.92 * radius, face_rgb)
    numerals = rng.choice(("all", "quarters", "none"))
    for i in range(60):
        if i % 5 == 0:
            canvas.line((_polar(x, y, 0.8 * radius, 6 * i), _polar(x, y, 0.9 * radius, 6 * i)), ink, 0.016 * side)
        elif numerals == "none":
            canvas.line((_polar(x, y, 0.86 * radius, 6 * i), _polar(x, y, 0.9 * radius, 6 * i)), ink, 0.006 * side)
    for i in range(1, 13):
        if numerals == "all" or (numerals == "quarters" and i % 3 == 0):
            canvas.text(_polar(x, y, 0.66 * radius, 30 * i), str(i), typeface.face, 0.09 * side, ink)
    hand = jittered_color(rng, rng.choice(("red", "blue", "green", "purple"))) if rng.chance(0.4) else ink
    hour_degrees, minute_degrees = 30 * (hour % 12) + minute / 2, 6.0 * minute
    _draw_hand(canvas, x, y, 0.48 * radius, hour_degrees, hand, 0.05 * side)
    _draw_hand(canvas, x, y, 0.8 * radius, minute_degrees, hand, 0.026 * side)
    canvas.circle(x, y, 0.035 * side, hand)
    hands = {"hour": round(hour_degrees, 1), "minute": minute_degrees, "rgb": list(hand)}
    notes: dict[str, Json] = {"degrees": hands, "center": [x, y], "radius": round(radius, 1)}
    return canvas, notes if numerals == "none" else notes | {"font": typeface.face}


def clock_time(rng: SceneRng) -> tuple[int, int]:
    """Draw an (hour, minute) of this split; seven in ten at a multiple of five minutes."""
    return rng.draw_in_split(
        lambda: (rng.integer(1, 12), 5 * rng.integer(0, 11) if rng.chance(0.7) else rng.integer(0, 59)),
        lambda time: ["clock", *time],
    )


def _clock(rng: SceneRng, side: int) -> _Drawing:
    hour, minute = clock_time(rng)
    canvas, notes = clock_face(rng, side, hour, minute)
    value = f"{hour}:{minute:02d}"
    return canvas, value, exact_form(value, f"{hour:02d}:{minute:02d}"), notes


def _gauge(rng: SceneRng, side: int) -> _Drawing:
    """A scale over 240 degrees with ten steps; the needle points to a step or halfway between two."""
    top = rng.choice((10, 20, 100, 200))
    half_steps = rng.draw_in_split(lambda: rng.integer(0, 20), lambda halves: ["gauge", top, halves])
    value = half_steps * top // 20 if top > 10 else half_steps / 2
    dark = rng.chance(0.5)
    face_rgb, ink, typeface = tint(rng, dark), tint(rng, not dark), pick_typeface(rng)
    canvas = Canvas(side, side, tint(rng, not dark))
    x = y = side / 2
    radius = 0.46 * side
    canvas.circle(x, y, radius, face_rgb, ink, 0.015 * side)
    rgb = jittered_color(rng, rng.choice(("red", "orange", "cyan", "green")))
    canvas.arc(x, y, 0.93 * radius, 90 + 30, 90 + 330, ink, 0.012 * side)
    for i in range(11):
        degrees = 24 * i - 120
        canvas.line((_polar(x, y, 0.82 * radius, degrees), _polar(x, y, 0.93 * radius, degrees)), ink, 0.014 * side)
        if i % 2 == 0:
            canvas.text(_polar(x, y, 0.66 * radius, degrees), str(top * i // 10), typeface.face, 0.085 * side, ink)
    needle = 12 * half_steps - 120
    _draw_hand(canvas, x, y, 0.78 * radius, needle, rgb, 0.035 * side)
    canvas.circle(x, y, 0.05 * side, rgb)
    notes: dict[str, Json] = {"top": top, "degrees": {"needle": needle, "rgb": list(rgb)}, "center": [x, y],
                              "radius": round(radius, 1), "font": typeface.face}  # fmt: skip
    return canvas, f"{value:g}", number_form(value, top / 40), notes


def _thermometer(rng: SceneRng, side: int) -> _Drawing:
    """A thermometer from -20 to 40 degrees."""
    low, high = -20, 40
    value = rng.draw_in_split(lambda: rng.integer(low, high), lambda degrees: ["thermometer", degrees])
    typeface, ink = pick_typeface(rng), tint(rng, dark=True)
    paper = tint(rng, dark=False)
    width, height = round(side * 0.62), side
    canvas = Canvas(width, height, paper)
    rgb = jittered_color(rng, rng.choice(("red", "blue")))
    x, thickness, bulb = 0.36 * width, 0.13 * width, 0.14 * width
    top, bottom = 0.08 * height, 0.80 * height

    def y(degrees: float) -> float:
        return bottom - (bottom - top) * (degrees - low) / (high - low)

    canvas.box((x - 0.75 * thickness, top - 0.02 * height, x + 0.75 * thickness, bottom), shade(ink, 0.4))
    canvas.circle(x, bottom + bulb, bulb, rgb)
    canvas.box((x - thickness / 2, top, x + thickness / 2, bottom + bulb), paper)
    canvas.box((x - thickness / 2, y(value), x + thickness / 2, bottom + bulb), rgb)
    for degrees in range(low, high + 1, 10):
        canvas.line(((x + thickness, y(degrees)), (x + 1.8 * thickness, y(degrees))), ink, 0.012 * width)
        canvas.text((x + 2.2 * thickness, y(degrees)), str(degrees), typeface.face, 0.15 * width, ink, "lm")
    notes: dict[str, Json] = {
        "column": {"x": round(x, 1), "y": round(y(value), 1), "rgb": list(rgb)},
        "scale": {"low": low, "high": high, "y_of_low": round(y(low), 1), "y_of_high": round(y(high), 1)},
        "font": typeface.face,
    }
    return canvas, str(value), number_form(value, 2), notes


SEGMENTS = {
    "0": "abcdef", "1": "bc", "2": "abdeg", "3": "abcdg", "4": "bcfg", "5": "acdfg", "6": "acdefg", "7": "abc",
    "8": "abcdefg", "9": "abcdfg",
}  # fmt: skip
"""Digit -> lit segments of a seven-segment display: `a` on top, clockwise to `f`, `g` in the middle."""
_STROKES = {
    "a": ((0, 0), (1, 0)), "b": ((1, 0), (1, 1)), "c": ((1, 1), (1, 2)), "d": ((0, 2), (1, 2)), "e": ((0, 1), (0, 2)),
    "f": ((0, 0), (0, 1)), "g": ((0, 1), (1, 1)),
}  # fmt: skip


def _display(rng: SceneRng, side: int) -> _Drawing:
    digits = rng.draw_in_split(
        lambda: str(rng.integer(*rng.choice(((0, 9), (10, 99), (100, 999))))), lambda shown: ["display", shown]
    )
    dark = rng.chance(0.7)
    background = tint(rng, dark)
    on = jittered_color(rng, rng.choice(("red", "green", "cyan", "orange"))) if dark else tint(rng, dark=True)
    off = shade(background, 0.05 if dark else -0.05)
    width, height = round(side * (0.35 + 0.45 * len(digits))), side
    canvas = Canvas(width, height, background)
    wide, tall, thickness = 0.26 * side, 0.30 * side, 0.075 * side
    left, top = (width - (0.43 * side * (len(digits) - 1) + wide)) / 2, (height - 2 * tall) / 2
    boxes = []
    for i, digit in enumerate(digits):
        x = left + 0.43 * side * i
        for lit in (False, True):
            for segment, ends in _STROKES.items():
                if (segment in SEGMENTS[digit]) == lit:
                    (u0, v0), (u1, v1) = [(x + u * wide, top + v * tall) for u, v in ends]
                    trim = 0.55 * thickness
                    ends_px = ((u0 + trim, v0), (u1 - trim, v1)) if v0 == v1 else ((u0, v0 + trim), (u1, v1 - trim))
                    canvas.line(ends_px, on if lit else off, thickness)
        boxes.append(
            rounded((x - thickness / 2, top - thickness / 2, x + wide + thickness / 2, top + 2 * tall + thickness / 2))
        )
    return canvas, digits, number_form(int(digits)), {"digit_boxes": boxes, "rgb": list(on)}


_KINDS: dict[str, Callable[[SceneRng, int], _Drawing]] = {
    "clock": _clock,
    "gauge": _gauge,
    "thermometer": _thermometer,
    "display": _display,
}


def _polar(x: float, y: float, radius: float, degrees: float) -> XY:
    """The point at `radius` from (x, y) in the direction `degrees`, clockwise from the top."""
    return x + radius * math.sin(math.radians(degrees)), y - radius * math.cos(math.radians(degrees))


def _draw_hand(canvas: Canvas, x: float, y: float, length: float, degrees: float, rgb: Rgb, thickness: float) -> None:
    """Draw a hand that tapers to its tip and has a short tail."""
    tip, tail = _polar(x, y, length, degrees), _polar(x, y, 0.18 * length, degrees + 180)
    across = math.radians(degrees)
    u, v = math.cos(across) * thickness / 2, math.sin(across) * thickness / 2
    thin = 0.45
    canvas.polygon(
        (
            (tail[0] - u, tail[1] - v), (tip[0] - u * thin, tip[1] - v * thin),
            (tip[0] + u * thin, tip[1] + v * thin), (tail[0] + u, tail[1] + v),
        ),
        rgb,
    )  # fmt: skip
