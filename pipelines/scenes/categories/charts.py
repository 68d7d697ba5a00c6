"""The category `chart`: bars, lines and pies, the numbers they were drawn from, and questions about them.

Notes hold every value and where it is drawn, so that a value can be measured again from the pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    Print,
    Rgb,
    Sheet,
    encode,
    fitting_size,
    grainy,
    jittered,
    picture_size,
    shade,
    tint,
    typeface,
)
from pipelines.scenes.elements.entities import COLOURS, GOODS, NAMES, PLACES
from pipelines.scenes.elements.fact_text import Words, fact, fill, join
from pipelines.scenes.elements.objects import rounded
from pipelines.scenes.elements.questions import Question, asked_about, exact, number
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

FORMATS = {"jpg": 0.45, "png": 0.4, "webp": 0.15}
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

SUBJECTS: tuple[tuple[Pool[str], Pool[str]], ...] = (
    (
        GOODS,
        Pool("title", ("Sales in {place}", "{name}'s stock", "What {name} ate"), ("{name}'s shopping",), strict=True),
    ),
    (NAMES, Pool("title", ("Votes in {place}", "Points in {place}", "Games won"), ("Laps in {place}",), strict=True)),
    (PLACES, Pool("title", ("{name}'s letters", "Orders by town", "Buses"), ("{name}'s journeys",), strict=True)),
)
"""What bars and rows stand for, and titles that suit it."""
SHARES = Pool(
    "title",
    train=("Sales in {place}", "{name}'s basket", "Market in {place}"),
    reserved=("{name}'s garden", "Harvest near {place}"),
    strict=True,
)
COURSES = Pool(
    "title",
    train=("Visitors in {place}", "Rain in {place}", "Books read by {name}", "Trains from {place}"),
    reserved=("Sunny days in {place}", "Letters to {name}"),
    strict=True,
)
TOLD = Pool(
    "wording",
    train=(
        'A {chart} chart with the title "{title}": {list}.',
        'The {chart} chart "{title}" gives these values: {list}.',
    ),
    reserved=('From the {chart} chart "{title}" one reads {list}.',),
)
VALUE_OF = Pool(
    "wording",
    train=("What is the value for {label}?", "Which value does the chart give for {label}?"),
    reserved=("Read off the value that belongs to {label}.",),
)
EXTREME = Pool(
    "wording",
    train=("Which entry has the {most} value?", "For which label is the value {most}?"),
    reserved=("Name the entry with the {most} value of all.",),
)
DIFFERENCE = Pool(
    "wording",
    train=("By how much does {label} exceed {other}?", "What is {label} minus {other}?"),
    reserved=("How far is {label} above {other}?",),
)


@dataclass(frozen=True)
class Series:
    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    top: int
    """End of the axis, which starts at 0; 100 for a pie."""
    shown: bool
    """Whether the values stand beside the marks; otherwise they must be read off the axis."""


def chart(dice: Dice) -> Scene:
    kind = dice.weighted({"bar": 0.45, "line": 0.25, "pie": 0.3})
    width, height = picture_size(dice, shortest_px=150)
    sheet = Sheet(width, height, tint(dice, dark=False))
    type_ = typeface(dice)
    match kind:
        case "bar":
            series = _counted(dice)
            marks = _draw_bars(dice, sheet, type_, series)
        case "line":
            series = _course(dice)
            marks = _draw_line(dice, sheet, type_, series)
        case _:
            series = _shares(dice)
            marks = _draw_pie(dice, sheet, type_, series)
    file = encode(dice, grainy(dice, sheet.finish()), FORMATS)
    notes: dict[str, Json] = {
        "chart": kind,
        "title": series.title,
        "font": type_.face,
        "values": list(zip(series.labels, series.values, strict=True)),
        "values_shown": series.shown,
    } | marks
    if dice.chance(0.35):
        return Scene((file, _told(dice, kind, series)), notes)
    return asked_about(dice, file, _questions(dice, series), notes)


# ---------------------------------------------------------------------------------------------- numbers


def _counted(dice: Dice) -> Series:
    count = dice.whole(2, 5)
    entities, titles = dice.choice(SUBJECTS)
    top = dice.choice((10, 20, 50, 100))
    labels = tuple(dice.pick_some(entities, count))
    return Series(_title(dice, titles), labels, _values(dice, count, top), top, dice.chance(0.5))


def _course(dice: Dice) -> Series:
    count = dice.whole(4, 7)
    first = dice.whole(0, len(MONTHS) - count)
    top = dice.choice((10, 20, 50, 100))
    return Series(
        _title(dice, COURSES), MONTHS[first : first + count], _values(dice, count, top), top, dice.chance(0.4)
    )


def _shares(dice: Dice) -> Series:
    """Percentages in steps of five, all different so that the largest is never in doubt."""
    count = dice.whole(2, 4)
    while True:
        cuts = sorted(dice.sample(range(2, 19), count - 1))
        values = tuple(5 * (b - a) for a, b in zip([0, *cuts], [*cuts, 20], strict=True))
        if len(set(values)) == count and min(values) >= 10:
            return Series(_title(dice, SHARES), tuple(dice.pick_some(GOODS, count)), values, 100, dice.chance(0.6))


def _values(dice: Dice, count: int, top: int) -> tuple[int, ...]:
    """Different multiples of a tenth of the axis, so that they can be read between the grid lines."""
    return tuple(step * top // 10 for step in dice.sample(range(1, 11), count))


def _title(dice: Dice, titles: Pool[str]) -> str:
    return dice.pick(titles).format(place=dice.pick(PLACES), name=dice.pick(NAMES))


# ---------------------------------------------------------------------------------------------- drawing


@dataclass(frozen=True)
class _Axes:
    """The field of a chart, in pixels."""

    left: float
    top: float
    right: float
    bottom: float
    highest: int

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / self.highest


def _draw_axes(dice: Dice, sheet: Sheet, type_: Print, series: Series, ink: Rgb) -> _Axes:
    """Title, grid with numbers, and a label under each place."""
    unit = min(sheet.width, sheet.height)
    size = 0.075 * unit
    axes = _Axes(0.15 * sheet.width, 0.2 * sheet.height, 0.96 * sheet.width, 0.86 * sheet.height, series.top)
    _head(sheet, type_, series.title, ink)
    for i in range(6):
        value = series.top * i // 5
        y = axes.y(value)
        sheet.line(((axes.left, y), (axes.right, y)), shade(ink, 0.5) if i else ink, 0.6 if i else 1.2)
        sheet.text((axes.left - 0.02 * sheet.width, y), str(value), type_.face, size, ink, "rm")
    room = (axes.right - axes.left) / len(series.labels)
    for i, label in enumerate(series.labels):
        spelt = type_.spelt(label)
        fits = fitting_size(spelt, type_.face, size, room * 0.94)
        sheet.text((axes.left + (i + 0.5) * room, 0.93 * sheet.height), spelt, type_.face, fits, ink)
    return axes


def _head(sheet: Sheet, type_: Print, title: str, ink: Rgb) -> None:
    spelt = type_.spelt(title)
    size = fitting_size(spelt, type_.face, 0.1 * min(sheet.width, sheet.height), 0.9 * sheet.width)
    sheet.text((sheet.width / 2, 0.08 * sheet.height), spelt, type_.face, size, ink)


def _draw_bars(dice: Dice, sheet: Sheet, type_: Print, series: Series) -> dict[str, Json]:
    ink = tint(dice, dark=True)
    axes = _draw_axes(dice, sheet, type_, series, ink)
    count = len(series.labels)
    colours = _colours(dice, count)
    room = (axes.right - axes.left) / count
    wide = room * dice.uniform(0.4, 0.75)
    bars = []
    for i, (label, value) in enumerate(zip(series.labels, series.values, strict=True)):
        x = axes.left + (i + 0.5) * room
        box = (x - wide / 2, axes.y(value), x + wide / 2, axes.bottom)
        sheet.box(box, colours[i])
        if series.shown:
            at = (x, axes.y(value) - 0.01 * sheet.height)
            sheet.text(at, str(value), type_.face, 0.07 * min(sheet.width, sheet.height), ink, "ms")
        bars.append({"label": label, "value": value, "box": rounded(box), "rgb": list(colours[i])})
    return {"bars": bars, "axis": {"top": series.top, "y_of_0": round(axes.y(0), 1), "y_of_top": round(axes.top, 1)}}


def _draw_line(dice: Dice, sheet: Sheet, type_: Print, series: Series) -> dict[str, Json]:
    ink = tint(dice, dark=True)
    axes = _draw_axes(dice, sheet, type_, series, ink)
    rgb = jittered(dice, dice.choice(tuple(COLOURS)))
    room = (axes.right - axes.left) / len(series.labels)
    points = [(axes.left + (i + 0.5) * room, axes.y(value)) for i, value in enumerate(series.values)]
    unit = min(sheet.width, sheet.height)
    sheet.line(points, rgb, 0.015 * unit)
    for (x, y), value in zip(points, series.values, strict=True):
        sheet.circle(x, y, 0.02 * unit, rgb)
        if series.shown:
            sheet.text((x, y - 0.03 * unit), str(value), type_.face, 0.07 * unit, ink, "ms")
    return {
        "line": {"rgb": list(rgb), "points": [rounded(point) for point in points]},
        "axis": {"top": series.top, "y_of_0": round(axes.y(0), 1), "y_of_top": round(axes.top, 1)},
    }


def _draw_pie(dice: Dice, sheet: Sheet, type_: Print, series: Series) -> dict[str, Json]:
    """Slices clockwise from the top; a legend beside or below names the colours."""
    ink = tint(dice, dark=True)
    _head(sheet, type_, series.title, ink)
    width, height = sheet.width, sheet.height
    count = len(series.labels)
    if width > 1.1 * height:
        radius, columns = 0.38 * height, 1
        x, y = 0.05 * width + radius, 0.57 * height
        left, top = x + radius + 0.06 * width, 0.3 * height
    else:
        radius, columns = min(0.25 * height, 0.4 * width), 2
        x, y = width / 2, 0.16 * height + radius
        left, top = 0.08 * width, y + radius + 0.05 * height
    line, room = (0.96 * height - top) / -(-count // columns), (0.97 * width - left) / columns
    size = min(0.085 * min(width, height), 0.8 * line)
    colours = _colours(dice, count, same=False)
    degrees = -90.0
    slices = []
    for i, (label, value) in enumerate(zip(series.labels, series.values, strict=True)):
        end = degrees + 3.6 * value
        sheet.wedge(x, y, radius, degrees, end, colours[i])
        middle = math.radians((degrees + end) / 2)
        inside = (x + 0.62 * radius * math.cos(middle), y + 0.62 * radius * math.sin(middle))
        slices.append({"label": label, "value": value, "degrees": rounded((degrees, end)), "point": rounded(inside),
                       "rgb": list(colours[i])})  # fmt: skip
        key, row = left + i % columns * room, top + (i // columns + 0.5) * line
        sheet.box((key, row - 0.35 * size, key + 0.7 * size, row + 0.35 * size), colours[i])
        spelt = type_.spelt(label) + (f" {value}" if series.shown else "")
        fits = fitting_size(spelt, type_.face, size, room - 1.3 * size)
        sheet.text((key + 1.1 * size, row), spelt, type_.face, fits, ink, "lm")
        degrees = end
    return {"slices": slices, "centre": rounded((x, y)), "radius": round(radius, 1)}


def _colours(dice: Dice, count: int, same: bool | None = None) -> list[Rgb]:
    """All of one colour, or all different."""
    if same is None:
        same = dice.chance(0.5)
    if same:
        return [jittered(dice, dice.choice(tuple(COLOURS)))] * count
    return [jittered(dice, colour) for colour in dice.sample(tuple(COLOURS), count)]


# ---------------------------------------------------------------------------------------------- words


def _told(dice: Dice, kind: str, series: Series) -> Words:
    pairs = [
        Words(f"{label} ") + fact("value", value) for label, value in zip(series.labels, series.values, strict=True)
    ]
    return fill(dice.pick(TOLD), chart=kind, title=series.title, list=join(", ", pairs))


def _questions(dice: Dice, series: Series) -> list[Question]:
    """One to three; what must be estimated from the axis has a tolerance of a quarter of a grid step."""
    tolerance = 0.0 if series.shown else series.top / 20
    by_label = dict(zip(series.labels, series.values, strict=True))
    label, other = dice.sample(series.labels, 2)
    if by_label[label] < by_label[other]:
        label, other = other, label
    most = dice.choice(("highest", "lowest"))
    winner = (max if most == "highest" else min)(series.labels, key=by_label.__getitem__)
    asked = dice.choice(series.labels)
    gap = by_label[label] - by_label[other]
    every = [
        Question("value_of", dice.pick(VALUE_OF).format(label=asked), fact("value", by_label[asked]),
                 number(by_label[asked], tolerance)),
        Question("extreme", dice.pick(EXTREME).format(most=most), fact("text", winner), exact(winner)),
        Question("difference", dice.pick(DIFFERENCE).format(label=label, other=other), fact("value", gap),
                 number(gap, 2 * tolerance)),
    ]  # fmt: skip
    return dice.sample(every, dice.whole(1, 3))
