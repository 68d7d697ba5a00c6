"""The category `geometry`: figures drawn to scale, with a question whose answer is one number.

The numbers that define a figure decide its split (`in_split`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    XY,
    Canvas,
    Rgb,
    add_grain,
    encode_image,
    jittered_color,
    pick_typeface,
    picture_size,
    shade,
    tint,
)
from pipelines.scenes.elements.entities import COLORS
from pipelines.scenes.elements.fact_text import FactText, fact
from pipelines.scenes.elements.objects import rounded
from pipelines.scenes.elements.questions import Question, exact_form, number_form, question_scene
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Pool, SceneRng

FORMATS = {"png": 0.4, "jpg": 0.4, "webp": 0.2}

QUESTIONS = {
    "third_angle": Pool(
        "wording",
        ("How many degrees is the angle marked with a question mark?", "Find the missing angle of the triangle."),
        ("Two angles of the triangle are given. How large is the third?",),
    ),
    "angle": Pool(
        "wording", ("How many degrees is the angle between the two lines?", "Estimate the angle in degrees."),
        ("By how many degrees do the lines open?",),
    ),
    "rectangle_area": Pool(
        "wording", ("What is the area of the rectangle?", "How large is the rectangle's area?"), ("Find the area.",)
    ),
    "rectangle_perimeter": Pool(
        "wording", ("What is the perimeter of the rectangle?", "How long is the way around the rectangle?"),
        ("Find the length of the boundary.",),
    ),
    "hypotenuse": Pool(
        "wording", ("How long is the side marked with a question mark?", "Find the triangle's longest side."),
        ("Apply the theorem of Pythagoras to find the missing side.",),
    ),
    "grid_area": Pool(
        "wording", ("How many grid squares does the figure cover?", "What is the area of the figure in grid squares?"),
        ("Count the figure's area in squares.",),
    ),
    "coordinates": Pool(
        "wording", ("What are the coordinates of the point?", "Where on the grid is the point? Give x and y."),
        ("Read off the point as a pair of numbers.",),
    ),
    "crossings": Pool(
        "wording", ("How many times do the lines cross?", "Count the points where two lines cross."),
        ("In how many points do lines meet?",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Figure:
    """Answer, answer form and annotations of a drawn figure."""

    answer: FactText
    form: Json
    notes: dict[str, Json]


@dataclass
class _Pen:
    """Canvas, font face and colors of a figure."""

    canvas: Canvas
    face: str
    ink: Rgb
    mark: Rgb
    faint: Rgb

    @property
    def unit(self) -> float:
        """Shorter side in pixels; lengths of a figure are fractions of it."""
        return min(self.canvas.width, self.canvas.height)

    def label(self, at: XY, text: str) -> None:
        self.canvas.text(at, text, self.face, 0.085 * self.unit, self.ink)


def geometry(rng: SceneRng) -> Scene:
    """Draw one figure and ask its question."""
    kind = rng.choice(tuple(QUESTIONS))
    dark = rng.chance(0.2)
    background = tint(rng, dark)
    pen = _Pen(
        Canvas(*picture_size(rng, shortest_px=110), background),
        pick_typeface(rng).face,
        tint(rng, not dark),
        jittered_color(rng, rng.choice(tuple(COLORS))),
        shade(background, 0.12 if dark else -0.12),
    )
    figure = _FIGURES[kind](rng, pen)
    file = encode_image(rng, add_grain(rng, pen.canvas.finish()), FORMATS)
    question = Question(kind, rng.pick(QUESTIONS[kind]), figure.answer, figure.form)
    return question_scene(rng, file, [question], {"figure": kind, "font": pen.face} | figure.notes)


def _third_angle(rng: SceneRng, pen: _Pen) -> _Figure:
    def propose() -> tuple[int, int]:
        while True:
            first, second = 5 * rng.integer(6, 18), 5 * rng.integer(6, 18)
            if 30 <= 180 - first - second <= 110:
                return first, second

    first, second = rng.draw_in_split(propose, lambda angles: ["triangle", *angles])
    third = 180 - first - second
    # Law of sines with a base of 1; the first angle sits at the left end.
    side = math.sin(math.radians(second)) / math.sin(math.radians(third))
    corners = [(0.0, 0.0), (1.0, 0.0), (side * math.cos(math.radians(first)), -side * math.sin(math.radians(first)))]
    corners = _fit(corners, pen.canvas, 0.12)
    pen.canvas.line([*corners, corners[0], corners[1]], pen.ink, 0.014 * pen.unit)
    middle = (sum(x for x, _ in corners) / 3, sum(y for _, y in corners) / 3)
    for (x, y), text in zip(corners, (f"{first}°", f"{second}°", "?"), strict=True):
        pen.label((x + 0.36 * (middle[0] - x), y + 0.36 * (middle[1] - y)), text)
    return _Figure(fact("value", third), number_form(third), {"corners": [rounded(corner) for corner in corners]})


def _angle(rng: SceneRng, pen: _Pen) -> _Figure:
    degrees, start = rng.draw_in_split(
        lambda: (5 * rng.integer(3, 33), rng.integer(0, 359)), lambda angle: ["angle", *angle]
    )
    arms = [
        (math.cos(math.radians(a)), -math.sin(math.radians(a))) for a in (start, start + degrees, start + degrees / 2)
    ]
    tip, one, other, inner = _fit([(0.0, 0.0), *arms[:2], (0.35 * arms[2][0], 0.35 * arms[2][1])], pen.canvas, 0.12)
    radius = math.hypot(inner[0] - tip[0], inner[1] - tip[1]) * 0.75
    pen.canvas.arc(*tip, radius, -start - degrees, -start, pen.mark, 0.02 * pen.unit)
    pen.canvas.line((one, tip, other), pen.ink, 0.018 * pen.unit)
    notes: dict[str, Json] = {"corners": [rounded(point) for point in (one, tip, other)]}
    return _Figure(fact("value", degrees), number_form(degrees, 5), notes)


def _rectangle(rng: SceneRng, pen: _Pen, of: str) -> _Figure:
    wide, high = rng.draw_in_split(
        lambda: (rng.integer(2, 12), rng.integer(2, 12)), lambda sides: ["rectangle", of, *sides]
    )
    corners = _fit([(0.0, 0.0), (float(wide), 0.0), (float(wide), float(high)), (0.0, float(high))], pen.canvas, 0.2)
    pen.canvas.polygon(corners, pen.mark)
    pen.canvas.line([*corners, corners[0], corners[1]], pen.ink, 0.012 * pen.unit)
    (left, top), (right, bottom) = corners[0], corners[2]
    pen.label(((left + right) / 2, top - 0.08 * pen.unit), str(wide))
    pen.label((left - 0.08 * pen.unit, (top + bottom) / 2), str(high))
    value = wide * high if of == "area" else 2 * (wide + high)
    return _Figure(
        fact("value", value), number_form(value), {"box": rounded((left, top, right, bottom)), "sides": [wide, high]}
    )


_PYTHAGOREAN_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29), (9, 40, 41))


def _hypotenuse(rng: SceneRng, pen: _Pen) -> _Figure:
    def propose() -> tuple[int, int, int]:
        a, b, c = rng.choice(_PYTHAGOREAN_TRIPLES[:5])
        times = rng.integer(1, max(1, 40 // c))
        a, b = (a, b) if rng.chance(0.5) else (b, a)
        return a * times, b * times, c * times

    high, wide, long = rng.draw_in_split(propose, lambda sides: ["hypotenuse", *sides])
    corners = _fit([(0.0, 0.0), (0.0, float(high)), (float(wide), float(high))], pen.canvas, 0.2)
    pen.canvas.polygon(corners, pen.mark)
    pen.canvas.line([*corners, corners[0], corners[1]], pen.ink, 0.012 * pen.unit)
    (x, top), (_, bottom), (right, _) = corners
    pen.label((x - 0.09 * pen.unit, (top + bottom) / 2), str(high))
    pen.label(((x + right) / 2, bottom + 0.09 * pen.unit), str(wide))
    pen.label(((x + right) / 2 + 0.07 * pen.unit, (top + bottom) / 2 - 0.07 * pen.unit), "?")
    notes: dict[str, Json] = {"corners": [rounded(corner) for corner in corners], "sides": [high, wide]}
    return _Figure(fact("value", long), number_form(long), notes)


def _grid(pen: _Pen, columns: int, rows: int) -> tuple[float, XY]:
    """Draw a grid; return (pixels per square, bottom left corner)."""
    canvas = pen.canvas
    step = 0.8 * min(canvas.width / columns, canvas.height / rows)
    left, bottom = (canvas.width - columns * step) / 2, (canvas.height + rows * step) / 2
    for i in range(columns + 1):
        canvas.line(((left + i * step, bottom), (left + i * step, bottom - rows * step)), pen.faint, 1)
    for j in range(rows + 1):
        canvas.line(((left, bottom - j * step), (left + columns * step, bottom - j * step)), pen.faint, 1)
    return step, (left, bottom)


def _grid_area(rng: SceneRng, pen: _Pen) -> _Figure:
    """A convex quadrilateral or triangle with corners on the grid and an area of at least 2 squares."""

    def propose() -> list[tuple[int, int]]:
        spokes = [(x, y) for x in range(9) for y in range(7) if (x, y) != (4, 3)]
        while True:
            ring = sorted(rng.sample(spokes, rng.integer(3, 4)), key=lambda p: math.atan2(p[1] - 3, p[0] - 4))
            convex = all(_turns_left(ring[i - 2], ring[i - 1], ring[i]) for i in range(len(ring)))
            if convex and _twice_area(ring) >= 4:
                return ring

    corners = rng.draw_in_split(propose, lambda ring: ["grid_area", ring])
    step, (left, bottom) = _grid(pen, 8, 6)
    points = [(left + x * step, bottom - y * step) for x, y in corners]
    pen.canvas.polygon(points, pen.mark)
    pen.canvas.line([*points, points[0], points[1]], pen.ink, 0.012 * pen.unit)
    area = _twice_area(corners) / 2
    notes: dict[str, Json] = {"grid_corners": corners, "corners": [rounded(point) for point in points]}
    return _Figure(fact("value", f"{area:g}"), number_form(area), notes)


def _twice_area(corners: list[tuple[int, int]]) -> int:
    pairs = zip(corners, [*corners[1:], corners[0]], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs))


def _turns_left(a: XY, b: XY, c: XY) -> bool:
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0]) > 0


def _coordinates(rng: SceneRng, pen: _Pen) -> _Figure:
    size = 8
    x, y = rng.draw_in_split(lambda: (rng.integer(0, size), rng.integer(0, size)), lambda at: ["coordinates", *at])
    step, (left, bottom) = _grid(pen, size, size)
    pen.canvas.line(((left, bottom - size * step), (left, bottom), (left + size * step, bottom)), pen.ink, 1.5)
    for i in range(0, size + 1, 2):
        pen.canvas.text(
            (left + i * step, bottom + 0.05 * pen.unit),
            str(i),
            pen.face,
            0.07 * pen.unit,
            pen.ink,
        )
        pen.canvas.text(
            (left - 0.05 * pen.unit, bottom - i * step),
            str(i),
            pen.face,
            0.07 * pen.unit,
            pen.ink,
        )
    at = (left + x * step, bottom - y * step)
    pen.canvas.circle(*at, 0.03 * pen.unit, pen.mark)
    answer = FactText("(") + fact("value", x) + ", " + fact("value", y) + ")"
    notes: dict[str, Json] = {"point": rounded(at), "rgb": list(pen.mark)}
    return _Figure(answer, exact_form(f"({x}, {y})", f"({x},{y})", f"{x}, {y}"), notes)


def _crossings(rng: SceneRng, pen: _Pen) -> _Figure:
    """Two to four lines between points of a 12 x 12 grid; no crossing is close to an end or to another crossing."""

    def propose() -> list[tuple[XY, XY]]:
        raster = [(x / 11, y / 11) for x in range(12) for y in range(12)]
        while True:
            ends = rng.sample(raster, 2 * rng.integer(2, 4))
            lines = list(zip(ends[::2], ends[1::2], strict=True))
            if all(math.dist(*line) > 0.45 for line in lines) and _unambiguous(lines):
                return lines

    lines = rng.draw_in_split(
        propose, lambda lines: ["crossings", [[rounded(end, 3) for end in line] for line in lines]]
    )
    count = len(_crossing_points(lines))
    width, height = pen.canvas.width, pen.canvas.height
    for line in lines:
        points = [(width * (0.1 + 0.8 * x), height * (0.1 + 0.8 * y)) for x, y in line]
        pen.canvas.line(points, pen.ink, 0.018 * pen.unit)
    return _Figure(
        fact("count", count), number_form(count), {"lines": [[rounded(p, 3) for p in line] for line in lines]}
    )


def _crossing_points(lines: list[tuple[XY, XY]]) -> list[tuple[float, float, XY]]:
    """(position along one line, position along the other, point) of each crossing; positions from 0 to 1."""
    crossings = []
    for i, (a, b) in enumerate(lines):
        for c, d in lines[:i]:
            across = (b[0] - a[0]) * (d[1] - c[1]) - (b[1] - a[1]) * (d[0] - c[0])
            if abs(across) > 1e-9:
                s = ((c[0] - a[0]) * (d[1] - c[1]) - (c[1] - a[1]) * (d[0] - c[0])) / across
                t = ((c[0] - a[0]) * (b[1] - a[1]) - (c[1] - a[1]) * (b[0] - a[0])) / across
                if 0 <= s <= 1 and 0 <= t <= 1:
                    crossings.append((s, t, (a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1]))))
    return crossings


def _unambiguous(lines: list[tuple[XY, XY]]) -> bool:
    """Return whether the crossings can be counted: each is visible, and no end almost touches another line."""
    places = [at for s, t, at in _crossing_points(lines) if 0.1 < s < 0.9 and 0.1 < t < 0.9]
    if len(places) < len(_crossing_points(lines)):
        return False
    if any(math.dist(a, b) < 0.12 for i, a in enumerate(places) for b in places[:i]):
        return False
    return all(
        _distance(end, other) > 0.08
        for i, line in enumerate(lines)
        for j, other in enumerate(lines)
        if i != j
        for end in line
    )


def _distance(point: XY, line: tuple[XY, XY]) -> float:
    (ax, ay), (bx, by) = line
    along = ((point[0] - ax) * (bx - ax) + (point[1] - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
    along = min(1.0, max(0.0, along))
    return math.dist(point, (ax + along * (bx - ax), ay + along * (by - ay)))


_FIGURES: dict[str, Callable[[SceneRng, _Pen], _Figure]] = {
    "third_angle": _third_angle,
    "angle": _angle,
    "rectangle_area": lambda rng, pen: _rectangle(rng, pen, "area"),
    "rectangle_perimeter": lambda rng, pen: _rectangle(rng, pen, "perimeter"),
    "hypotenuse": _hypotenuse,
    "grid_area": _grid_area,
    "coordinates": _coordinates,
    "crossings": _crossings,
}


def _fit(corners: list[XY], canvas: Canvas, margin: float) -> list[XY]:
    """Scale and move points to fill the canvas, except a margin, a fraction of the shorter side; y grows downwards."""
    edge = margin * min(canvas.width, canvas.height)
    xs, ys = zip(*corners, strict=True)
    wide, high = max(max(xs) - min(xs), 1e-9), max(max(ys) - min(ys), 1e-9)
    scale = min((canvas.width - 2 * edge) / wide, (canvas.height - 2 * edge) / high)
    left, top = (canvas.width - scale * wide) / 2, (canvas.height - scale * high) / 2
    return [(left + scale * (x - min(xs)), top + scale * (y - min(ys))) for x, y in corners]
