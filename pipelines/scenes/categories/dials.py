"""The category `dial`: clocks, gauges, thermometers and seven-segment displays, and what they show.

Which time or value occurs in which split is dealt by `belongs`, so that reading a dial can't be remembered.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from manifests.records import Json
from pipelines.scenes.elements.draw import FORMATS, Point, Rgb, Sheet, encode, grainy, jittered, shade, tint, typeface
from pipelines.scenes.elements.entities import COLOURS
from pipelines.scenes.elements.fact_text import fact, fill
from pipelines.scenes.elements.objects import rounded
from pipelines.scenes.elements.questions import Question, asked_about, exact, number
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

TELL = {
    "clock": Pool("wording", ("The clock shows {value}.", "It is {value} by this clock."), ("Clock: {value}.",)),
    "gauge": Pool("wording", ("The gauge reads {value}.", "The needle points to {value}."), ("Gauge: {value}.",)),
    "thermometer": Pool(
        "wording", ("The thermometer shows {value} degrees.", "It is {value} degrees."), ("Thermometer: {value}.",)
    ),
    "display": Pool("wording", ("The display shows {value}.", "The display reads {value}."), ("Display: {value}.",)),
}
ASK = {
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

_Drawn = tuple[Sheet, str, Json, dict[str, Json]]
"""The sheet, the value as told, the form of the answer, the notes."""


def dial(dice: Dice) -> Scene:
    kind = dice.weighted({"clock": 0.35, "gauge": 0.25, "thermometer": 0.15, "display": 0.25})
    side = round(math.exp(dice.uniform(math.log(90), math.log(260))))
    sheet, value, form, notes = _KINDS[kind](dice, side)
    file = encode(dice, grainy(dice, sheet.finish()), FORMATS)
    notes = {"dial": kind, "value": value} | notes
    if dice.chance(0.5):
        return Scene((file, fill(dice.pick(TELL[kind]), value=fact("value", value))), notes)
    return asked_about(dice, file, [Question(f"read_{kind}", dice.pick(ASK[kind]), fact("value", value), form)], notes)


def clock_face(dice: Dice, side: int, hour: int, minute: int) -> tuple[Sheet, dict[str, Json]]:
    """A clock drawn at a time, hour 1 to 12. Its hour hand moves with the minutes."""
    dark = dice.chance(0.3)
    ground, plate = tint(dice, not dark), tint(dice, dark)
    ink = tint(dice, not dark)
    type_ = typeface(dice)
    sheet = Sheet(side, side, ground)
    x = y = side / 2
    radius = 0.46 * side
    rim = jittered(dice, dice.choice(tuple(COLOURS))) if dice.chance(0.6) else shade(ink, 0.2)
    sheet.circle(x, y, radius, rim)
    sheet.circle(x, y, 0.92 * radius, plate)
    numerals = dice.choice(("all", "quarters", "none"))
    for i in range(60):
        if i % 5 == 0:
            sheet.line((_around(x, y, 0.8 * radius, 6 * i), _around(x, y, 0.9 * radius, 6 * i)), ink, 0.016 * side)
        elif numerals == "none":
            sheet.line((_around(x, y, 0.86 * radius, 6 * i), _around(x, y, 0.9 * radius, 6 * i)), ink, 0.006 * side)
    for i in range(1, 13):
        if numerals == "all" or (numerals == "quarters" and i % 3 == 0):
            sheet.text(_around(x, y, 0.66 * radius, 30 * i), str(i), type_.face, 0.09 * side, ink)
    hand = jittered(dice, dice.choice(("red", "blue", "green", "purple"))) if dice.chance(0.4) else ink
    hour_degrees, minute_degrees = 30 * (hour % 12) + minute / 2, 6.0 * minute
    _hand(sheet, x, y, 0.48 * radius, hour_degrees, hand, 0.05 * side)
    _hand(sheet, x, y, 0.8 * radius, minute_degrees, hand, 0.026 * side)
    sheet.circle(x, y, 0.035 * side, hand)
    hands = {"hour": round(hour_degrees, 1), "minute": minute_degrees, "rgb": list(hand)}
    notes: dict[str, Json] = {"degrees": hands, "centre": [x, y], "radius": round(radius, 1)}
    return sheet, notes if numerals == "none" else notes | {"font": type_.face}


def clock_time(dice: Dice) -> tuple[int, int]:
    """(hour, minute) of this split; most often full five minutes."""
    return dice.until_ours(
        lambda: (dice.whole(1, 12), 5 * dice.whole(0, 11) if dice.chance(0.7) else dice.whole(0, 59)),
        lambda time: ["clock", *time],
    )


def _clock(dice: Dice, side: int) -> _Drawn:
    hour, minute = clock_time(dice)
    sheet, notes = clock_face(dice, side, hour, minute)
    value = f"{hour}:{minute:02d}"
    return sheet, value, exact(value, f"{hour:02d}:{minute:02d}"), notes


def _gauge(dice: Dice, side: int) -> _Drawn:
    """A scale over 240 degrees with ten steps; the needle stands at a half or whole step."""
    top = dice.choice((10, 20, 100, 200))
    half_steps = dice.until_ours(lambda: dice.whole(0, 20), lambda halves: ["gauge", top, halves])
    value = half_steps * top // 20 if top > 10 else half_steps / 2
    dark = dice.chance(0.5)
    plate, ink, type_ = tint(dice, dark), tint(dice, not dark), typeface(dice)
    sheet = Sheet(side, side, tint(dice, not dark))
    x = y = side / 2
    radius = 0.46 * side
    sheet.circle(x, y, radius, plate, ink, 0.015 * side)
    rgb = jittered(dice, dice.choice(("red", "orange", "cyan", "green")))
    sheet.arc(x, y, 0.93 * radius, 90 + 30, 90 + 330, ink, 0.012 * side)
    for i in range(11):
        degrees = 24 * i - 120
        sheet.line((_around(x, y, 0.82 * radius, degrees), _around(x, y, 0.93 * radius, degrees)), ink, 0.014 * side)
        if i % 2 == 0:
            sheet.text(_around(x, y, 0.66 * radius, degrees), str(top * i // 10), type_.face, 0.085 * side, ink)
    needle = 12 * half_steps - 120
    _hand(sheet, x, y, 0.78 * radius, needle, rgb, 0.035 * side)
    sheet.circle(x, y, 0.05 * side, rgb)
    notes: dict[str, Json] = {"top": top, "degrees": {"needle": needle, "rgb": list(rgb)}, "centre": [x, y],
                              "radius": round(radius, 1), "font": type_.face}  # fmt: skip
    return sheet, f"{value:g}", number(value, top / 40), notes


def _thermometer(dice: Dice, side: int) -> _Drawn:
    """From -20 to 40 degrees."""
    low, high = -20, 40
    value = dice.until_ours(lambda: dice.whole(low, high), lambda degrees: ["thermometer", degrees])
    type_, ink = typeface(dice), tint(dice, dark=True)
    paper = tint(dice, dark=False)
    width, height = round(side * 0.62), side
    sheet = Sheet(width, height, paper)
    rgb = jittered(dice, dice.choice(("red", "blue")))
    x, thick, bulb = 0.36 * width, 0.13 * width, 0.14 * width
    top, bottom = 0.08 * height, 0.80 * height

    def y(degrees: float) -> float:
        return bottom - (bottom - top) * (degrees - low) / (high - low)

    sheet.box((x - 0.75 * thick, top - 0.02 * height, x + 0.75 * thick, bottom), shade(ink, 0.4))
    sheet.circle(x, bottom + bulb, bulb, rgb)
    sheet.box((x - thick / 2, top, x + thick / 2, bottom + bulb), paper)
    sheet.box((x - thick / 2, y(value), x + thick / 2, bottom + bulb), rgb)
    for degrees in range(low, high + 1, 10):
        sheet.line(((x + thick, y(degrees)), (x + 1.8 * thick, y(degrees))), ink, 0.012 * width)
        sheet.text((x + 2.2 * thick, y(degrees)), str(degrees), type_.face, 0.15 * width, ink, "lm")
    notes: dict[str, Json] = {
        "column": {"x": round(x, 1), "y": round(y(value), 1), "rgb": list(rgb)},
        "scale": {"low": low, "high": high, "y_of_low": round(y(low), 1), "y_of_high": round(y(high), 1)},
        "font": type_.face,
    }
    return sheet, str(value), number(value, 2), notes


SEGMENTS = {
    "0": "abcdef", "1": "bc", "2": "abdeg", "3": "abcdg", "4": "bcfg", "5": "acdfg", "6": "acdefg", "7": "abc",
    "8": "abcdefg", "9": "abcdfg",
}  # fmt: skip
"""Digit -> lit segments of a seven-segment display: a on top, clockwise to f, g in the middle."""
_STROKES = {
    "a": ((0, 0), (1, 0)), "b": ((1, 0), (1, 1)), "c": ((1, 1), (1, 2)), "d": ((0, 2), (1, 2)), "e": ((0, 1), (0, 2)),
    "f": ((0, 0), (0, 1)), "g": ((0, 1), (1, 1)),
}  # fmt: skip


def _display(dice: Dice, side: int) -> _Drawn:
    digits = dice.until_ours(
        lambda: str(dice.whole(*dice.choice(((0, 9), (10, 99), (100, 999))))), lambda shown: ["display", shown]
    )
    dark = dice.chance(0.7)
    ground = tint(dice, dark)
    on = jittered(dice, dice.choice(("red", "green", "cyan", "orange"))) if dark else tint(dice, dark=True)
    off = shade(ground, 0.05 if dark else -0.05)
    width, height = round(side * (0.35 + 0.45 * len(digits))), side
    sheet = Sheet(width, height, ground)
    wide, tall, thick = 0.26 * side, 0.30 * side, 0.075 * side
    left, top = (width - (0.43 * side * (len(digits) - 1) + wide)) / 2, (height - 2 * tall) / 2
    boxes = []
    for i, digit in enumerate(digits):
        x = left + 0.43 * side * i
        for lit in (False, True):
            for segment, ends in _STROKES.items():
                if (segment in SEGMENTS[digit]) == lit:
                    (u0, v0), (u1, v1) = [(x + u * wide, top + v * tall) for u, v in ends]
                    trim = 0.55 * thick
                    ends_px = ((u0 + trim, v0), (u1 - trim, v1)) if v0 == v1 else ((u0, v0 + trim), (u1, v1 - trim))
                    sheet.line(ends_px, on if lit else off, thick)
        boxes.append(rounded((x - thick / 2, top - thick / 2, x + wide + thick / 2, top + 2 * tall + thick / 2)))
    return sheet, digits, number(int(digits)), {"digit_boxes": boxes, "rgb": list(on)}


_KINDS: dict[str, Callable[[Dice, int], _Drawn]] = {
    "clock": _clock,
    "gauge": _gauge,
    "thermometer": _thermometer,
    "display": _display,
}


def _around(x: float, y: float, radius: float, degrees: float) -> Point:
    """`degrees` clockwise from the top, as on a clock."""
    return x + radius * math.sin(math.radians(degrees)), y - radius * math.cos(math.radians(degrees))


def _hand(sheet: Sheet, x: float, y: float, length: float, degrees: float, rgb: Rgb, thick: float) -> None:
    """A tapering hand with a short tail."""
    tip, tail = _around(x, y, length, degrees), _around(x, y, 0.18 * length, degrees + 180)
    across = math.radians(degrees)
    u, v = math.cos(across) * thick / 2, math.sin(across) * thick / 2
    thin = 0.45
    sheet.polygon(
        (
            (tail[0] - u, tail[1] - v), (tip[0] - u * thin, tip[1] - v * thin),
            (tip[0] + u * thin, tip[1] + v * thin), (tail[0] + u, tail[1] + v),
        ),
        rgb,
    )  # fmt: skip
