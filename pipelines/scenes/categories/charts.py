"""The category `chart`: bar, line and pie charts, their values, and questions about them.

The annotations give every value and its position in the picture, so that tests measure the value in the pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    Canvas,
    Rgb,
    Typeface,
    add_grain,
    encode_image,
    fitting_size,
    jittered_color,
    pick_typeface,
    picture_size,
    shade,
    tint,
)
from pipelines.scenes.elements.entities import COLORS, GOODS, NAMES, PLACES
from pipelines.scenes.elements.fact_text import FactText, fact, fill_template, join_texts
from pipelines.scenes.elements.objects import rounded
from pipelines.scenes.elements.questions import Question, exact_form, number_form, question_scene
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

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
"""(labels of the bars, titles that fit them)"""
PIE_TITLES = Pool(
    "title",
    train=("Sales in {place}", "{name}'s basket", "Market in {place}"),
    reserved=("{name}'s garden", "Harvest near {place}"),
    strict=True,
)
LINE_TITLES = Pool(
    "title",
    train=("Visitors in {place}", "Rain in {place}", "Books read by {name}", "Trains from {place}"),
    reserved=("Sunny days in {place}", "Letters to {name}"),
    strict=True,
)
DESCRIPTIONS = Pool(
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
class ChartData:
    """Title, labels and values of one chart."""

    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    top: int
    """End of the value axis, which starts at 0; 100 for a pie."""
    values_printed: bool
    """The chart prints its values; otherwise a reader estimates them from the axis."""


def chart(rng: SceneRng) -> Scene:
    """Draw a chart; the text describes it or asks one to three questions."""
    kind = rng.weighted_choice({"bar": 0.45, "line": 0.25, "pie": 0.3})
    width, height = picture_size(rng, shortest_px=150)
    canvas = Canvas(width, height, tint(rng, dark=False))
    typeface = pick_typeface(rng)
    match kind:
        case "bar":
            data = _bar_data(rng)
            marks = _draw_bars(rng, canvas, typeface, data)
        case "line":
            data = _line_data(rng)
            marks = _draw_line(rng, canvas, typeface, data)
        case _:
            data = _pie_data(rng)
            marks = _draw_pie(rng, canvas, typeface, data)
    file = encode_image(rng, add_grain(rng, canvas.finish()), FORMATS)
    notes: dict[str, Json] = {
        "chart": kind,
        "title": data.title,
        "font": typeface.face,
        "values": list(zip(data.labels, data.values, strict=True)),
        "values_shown": data.values_printed,
    } | marks
    if rng.chance(0.35):
        return Scene((file, _describe(rng, kind, data)), notes)
    return question_scene(rng, file, _questions(rng, data), notes)


# ---------------------------------------------------------------------------------------------- values


def _bar_data(rng: SceneRng) -> ChartData:
    count = rng.integer(2, 5)
    entities, titles = rng.choice(SUBJECTS)
    top = rng.choice((10, 20, 50, 100))
    labels = tuple(rng.pick_many(entities, count))
    return ChartData(_title(rng, titles), labels, _values(rng, count, top), top, rng.chance(0.5))


def _line_data(rng: SceneRng) -> ChartData:
    count = rng.integer(4, 7)
    first = rng.integer(0, len(MONTHS) - count)
    top = rng.choice((10, 20, 50, 100))
    return ChartData(
        _title(rng, LINE_TITLES), MONTHS[first : first + count], _values(rng, count, top), top, rng.chance(0.4)
    )


def _pie_data(rng: SceneRng) -> ChartData:
    """Percentages in steps of five, all different, so that the largest is unambiguous."""
    count = rng.integer(2, 4)
    while True:
        cuts = sorted(rng.sample(range(2, 19), count - 1))
        values = tuple(5 * (b - a) for a, b in zip([0, *cuts], [*cuts, 20], strict=True))
        if len(set(values)) == count and min(values) >= 10:
            return ChartData(_title(rng, PIE_TITLES), tuple(rng.pick_many(GOODS, count)), values, 100, rng.chance(0.6))


def _values(rng: SceneRng, count: int, top: int) -> tuple[int, ...]:
    """`count` different multiples of a tenth of the axis, which lie on the grid lines or halfway between two."""
    return tuple(step * top // 10 for step in rng.sample(range(1, 11), count))


def _title(rng: SceneRng, titles: Pool[str]) -> str:
    return rng.pick(titles).format(place=rng.pick(PLACES), name=rng.pick(NAMES))


# ---------------------------------------------------------------------------------------------- drawing


@dataclass(frozen=True)
class _Axes:
    """Drawing area of a bar or line chart, in pixels."""

    left: float
    top: float
    right: float
    bottom: float
    highest: int
    """Value at `top`; the value at `bottom` is 0."""

    def y(self, value: float) -> float:
        """Vertical position of a value."""
        return self.bottom - (self.bottom - self.top) * value / self.highest


def _draw_axes(rng: SceneRng, canvas: Canvas, typeface: Typeface, data: ChartData, ink: Rgb) -> _Axes:
    """Draw the title, grid lines with their numbers, and one label per column."""
    unit = min(canvas.width, canvas.height)
    size = 0.075 * unit
    axes = _Axes(0.15 * canvas.width, 0.2 * canvas.height, 0.96 * canvas.width, 0.86 * canvas.height, data.top)
    _draw_title(canvas, typeface, data.title, ink)
    for i in range(6):
        value = data.top * i // 5
        y = axes.y(value)
        canvas.line(((axes.left, y), (axes.right, y)), shade(ink, 0.5) if i else ink, 0.6 if i else 1.2)
        canvas.text((axes.left - 0.02 * canvas.width, y), str(value), typeface.face, size, ink, "rm")
    column_width = (axes.right - axes.left) / len(data.labels)
    for i, label in enumerate(data.labels):
        displayed = typeface.displayed(label)
        fits = fitting_size(displayed, typeface.face, size, column_width * 0.94)
        canvas.text((axes.left + (i + 0.5) * column_width, 0.93 * canvas.height), displayed, typeface.face, fits, ink)
    return axes


def _draw_title(canvas: Canvas, typeface: Typeface, title: str, ink: Rgb) -> None:
    displayed = typeface.displayed(title)
    size = fitting_size(displayed, typeface.face, 0.1 * min(canvas.width, canvas.height), 0.9 * canvas.width)
    canvas.text((canvas.width / 2, 0.08 * canvas.height), displayed, typeface.face, size, ink)


def _draw_bars(rng: SceneRng, canvas: Canvas, typeface: Typeface, data: ChartData) -> dict[str, Json]:
    """Draw axes and bars; return the annotations."""
    ink = tint(rng, dark=True)
    axes = _draw_axes(rng, canvas, typeface, data, ink)
    count = len(data.labels)
    colors = _colors(rng, count)
    column_width = (axes.right - axes.left) / count
    bar_width = column_width * rng.uniform(0.4, 0.75)
    bars = []
    for i, (label, value) in enumerate(zip(data.labels, data.values, strict=True)):
        x = axes.left + (i + 0.5) * column_width
        box = (x - bar_width / 2, axes.y(value), x + bar_width / 2, axes.bottom)
        canvas.box(box, colors[i])
        if data.values_printed:
            at = (x, axes.y(value) - 0.01 * canvas.height)
            canvas.text(at, str(value), typeface.face, 0.07 * min(canvas.width, canvas.height), ink, "ms")
        bars.append({"label": label, "value": value, "box": rounded(box), "rgb": list(colors[i])})
    return {"bars": bars, "axis": {"top": data.top, "y_of_0": round(axes.y(0), 1), "y_of_top": round(axes.top, 1)}}


def _draw_line(rng: SceneRng, canvas: Canvas, typeface: Typeface, data: ChartData) -> dict[str, Json]:
    """Draw axes and a line with dots; return the annotations."""
    ink = tint(rng, dark=True)
    axes = _draw_axes(rng, canvas, typeface, data, ink)
    rgb = jittered_color(rng, rng.choice(tuple(COLORS)))
    column_width = (axes.right - axes.left) / len(data.labels)
    points = [(axes.left + (i + 0.5) * column_width, axes.y(value)) for i, value in enumerate(data.values)]
    unit = min(canvas.width, canvas.height)
    canvas.line(points, rgb, 0.015 * unit)
    for (x, y), value in zip(points, data.values, strict=True):
        canvas.circle(x, y, 0.02 * unit, rgb)
        if data.values_printed:
            canvas.text((x, y - 0.03 * unit), str(value), typeface.face, 0.07 * unit, ink, "ms")
    return {
        "line": {"rgb": list(rgb), "points": [rounded(point) for point in points]},
        "axis": {"top": data.top, "y_of_0": round(axes.y(0), 1), "y_of_top": round(axes.top, 1)},
    }


def _draw_pie(rng: SceneRng, canvas: Canvas, typeface: Typeface, data: ChartData) -> dict[str, Json]:
    """Draw slices clockwise from the top, and a legend to the right or below. Returns the annotations."""
    ink = tint(rng, dark=True)
    _draw_title(canvas, typeface, data.title, ink)
    width, height = canvas.width, canvas.height
    count = len(data.labels)
    if width > 1.1 * height:
        radius, columns = 0.38 * height, 1
        x, y = 0.05 * width + radius, 0.57 * height
        left, top = x + radius + 0.06 * width, 0.3 * height
    else:
        radius, columns = min(0.25 * height, 0.4 * width), 2
        x, y = width / 2, 0.16 * height + radius
        left, top = 0.08 * width, y + radius + 0.05 * height
    line, column_width = (0.96 * height - top) / -(-count // columns), (0.97 * width - left) / columns
    size = min(0.085 * min(width, height), 0.8 * line)
    colors = _colors(rng, count, same=False)
    degrees = -90.0
    slices = []
    for i, (label, value) in enumerate(zip(data.labels, data.values, strict=True)):
        end = degrees + 3.6 * value
        canvas.wedge(x, y, radius, degrees, end, colors[i])
        middle = math.radians((degrees + end) / 2)
        inside = (x + 0.62 * radius * math.cos(middle), y + 0.62 * radius * math.sin(middle))
        slices.append({"label": label, "value": value, "degrees": rounded((degrees, end)), "point": rounded(inside),
                       "rgb": list(colors[i])})  # fmt: skip
        key, row = left + i % columns * column_width, top + (i // columns + 0.5) * line
        canvas.box((key, row - 0.35 * size, key + 0.7 * size, row + 0.35 * size), colors[i])
        displayed = typeface.displayed(label) + (f" {value}" if data.values_printed else "")
        fits = fitting_size(displayed, typeface.face, size, column_width - 1.3 * size)
        canvas.text((key + 1.1 * size, row), displayed, typeface.face, fits, ink, "lm")
        degrees = end
    return {"slices": slices, "center": rounded((x, y)), "radius": round(radius, 1)}


def _colors(rng: SceneRng, count: int, same: bool | None = None) -> list[Rgb]:
    """`count` colors, all equal or all different; None for `same` decides at random."""
    if same is None:
        same = rng.chance(0.5)
    if same:
        return [jittered_color(rng, rng.choice(tuple(COLORS)))] * count
    return [jittered_color(rng, color) for color in rng.sample(tuple(COLORS), count)]


# ---------------------------------------------------------------------------------------------- text


def _describe(rng: SceneRng, kind: str, data: ChartData) -> FactText:
    pairs = [
        FactText(f"{label} ") + fact("value", value) for label, value in zip(data.labels, data.values, strict=True)
    ]
    return fill_template(rng.pick(DESCRIPTIONS), chart=kind, title=data.title, list=join_texts(", ", pairs))


def _questions(rng: SceneRng, data: ChartData) -> list[Question]:
    """One to three questions; an answer that is estimated from the axis may be off by a quarter of a grid step."""
    tolerance = 0.0 if data.values_printed else data.top / 20
    by_label = dict(zip(data.labels, data.values, strict=True))
    label, other = rng.sample(data.labels, 2)
    if by_label[label] < by_label[other]:
        label, other = other, label
    most = rng.choice(("highest", "lowest"))
    winner = (max if most == "highest" else min)(data.labels, key=by_label.__getitem__)
    queried = rng.choice(data.labels)
    gap = by_label[label] - by_label[other]
    candidates = [
        Question("value_of", rng.pick(VALUE_OF).format(label=queried), fact("value", by_label[queried]),
                 number_form(by_label[queried], tolerance)),
        Question("extreme", rng.pick(EXTREME).format(most=most), fact("text", winner), exact_form(winner)),
        Question("difference", rng.pick(DIFFERENCE).format(label=label, other=other), fact("value", gap),
                 number_form(gap, 2 * tolerance)),
    ]  # fmt: skip
    return rng.sample(candidates, rng.integer(1, 3))
