"""The category `geometry`: figures drawn to scale, with one number to find out.

Which figure occurs in which split is dealt by `belongs` over the numbers that make it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from manifests.records import Json
from pipelines.scenes.elements.draw import (
    Point,
    Rgb,
    Sheet,
    encode,
    grainy,
    jittered,
    picture_size,
    shade,
    tint,
    typeface,
)
from pipelines.scenes.elements.entities import COLOURS
from pipelines.scenes.elements.fact_text import Words, fact
from pipelines.scenes.elements.objects import rounded
from pipelines.scenes.elements.questions import Question, asked_about, exact, number
from pipelines.scenes.elements.scene import Scene
from pipelines.scenes.elements.split import Dice, Pool

FORMATS = {"png": 0.4, "jpg": 0.4, "webp": 0.2}

FIGURE = {
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
    answer: Words
    form: Json
    notes: dict[str, Json]


@dataclass
class _Paper:
    """Sheet, face and colours of a figure; lengths in shares of the shorter side."""

    sheet: Sheet
    face: str
    ink: Rgb
    mark: Rgb
    faint: Rgb

    @property
    def unit(self) -> float:
        return min(self.sheet.width, self.sheet.height)

    def label(self, at: Point, text: str) -> None:
        self.sheet.text(at, text, self.face, 0.085 * self.unit, self.ink)


def geometry(dice: Dice) -> Scene:
    kind = dice.choice(tuple(FIGURE))
    dark = dice.chance(0.2)
    ground = tint(dice, dark)
    paper = _Paper(
        Sheet(*picture_size(dice, shortest_px=110), ground),
        typeface(dice).face,
        tint(dice, not dark),
        jittered(dice, dice.choice(tuple(COLOURS))),
        shade(ground, 0.12 if dark else -0.12),
    )
    figure = _FIGURES[kind](dice, paper)
    file = encode(dice, grainy(dice, paper.sheet.finish()), FORMATS)
    asked = Question(kind, dice.pick(FIGURE[kind]), figure.answer, figure.form)
    return asked_about(dice, file, [asked], {"figure": kind, "font": paper.face} | figure.notes)


def _third_angle(dice: Dice, paper: _Paper) -> _Figure:
    def propose() -> tuple[int, int]:
        while True:
            first, second = 5 * dice.whole(6, 18), 5 * dice.whole(6, 18)
            if 30 <= 180 - first - second <= 110:
                return first, second

    first, second = dice.until_ours(propose, lambda angles: ["triangle", *angles])
    third = 180 - first - second
    # Law of sines with a base of 1; the first angle sits at the left end.
    side = math.sin(math.radians(second)) / math.sin(math.radians(third))
    corners = [(0.0, 0.0), (1.0, 0.0), (side * math.cos(math.radians(first)), -side * math.sin(math.radians(first)))]
    corners = _fit(corners, paper.sheet, 0.12)
    paper.sheet.line([*corners, corners[0], corners[1]], paper.ink, 0.014 * paper.unit)
    middle = (sum(x for x, _ in corners) / 3, sum(y for _, y in corners) / 3)
    for (x, y), text in zip(corners, (f"{first}°", f"{second}°", "?"), strict=True):
        paper.label((x + 0.36 * (middle[0] - x), y + 0.36 * (middle[1] - y)), text)
    return _Figure(fact("value", third), number(third), {"corners": [rounded(corner) for corner in corners]})


def _angle(dice: Dice, paper: _Paper) -> _Figure:
    degrees, start = dice.until_ours(
        lambda: (5 * dice.whole(3, 33), dice.whole(0, 359)), lambda angle: ["angle", *angle]
    )
    arms = [
        (math.cos(math.radians(a)), -math.sin(math.radians(a))) for a in (start, start + degrees, start + degrees / 2)
    ]
    tip, one, other, inner = _fit([(0.0, 0.0), *arms[:2], (0.35 * arms[2][0], 0.35 * arms[2][1])], paper.sheet, 0.12)
    radius = math.hypot(inner[0] - tip[0], inner[1] - tip[1]) * 0.75
    paper.sheet.arc(*tip, radius, -start - degrees, -start, paper.mark, 0.02 * paper.unit)
    paper.sheet.line((one, tip, other), paper.ink, 0.018 * paper.unit)
    notes: dict[str, Json] = {"corners": [rounded(point) for point in (one, tip, other)]}
    return _Figure(fact("value", degrees), number(degrees, 5), notes)


def _rectangle(dice: Dice, paper: _Paper, of: str) -> _Figure:
    wide, high = dice.until_ours(
        lambda: (dice.whole(2, 12), dice.whole(2, 12)), lambda sides: ["rectangle", of, *sides]
    )
    corners = _fit([(0.0, 0.0), (float(wide), 0.0), (float(wide), float(high)), (0.0, float(high))], paper.sheet, 0.2)
    paper.sheet.polygon(corners, paper.mark)
    paper.sheet.line([*corners, corners[0], corners[1]], paper.ink, 0.012 * paper.unit)
    (left, top), (right, bottom) = corners[0], corners[2]
    paper.label(((left + right) / 2, top - 0.08 * paper.unit), str(wide))
    paper.label((left - 0.08 * paper.unit, (top + bottom) / 2), str(high))
    value = wide * high if of == "area" else 2 * (wide + high)
    return _Figure(
        fact("value", value), number(value), {"box": rounded((left, top, right, bottom)), "sides": [wide, high]}
    )


_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29), (9, 40, 41))


def _hypotenuse(dice: Dice, paper: _Paper) -> _Figure:
    def propose() -> tuple[int, int, int]:
        a, b, c = dice.choice(_TRIPLES[:5])
        times = dice.whole(1, max(1, 40 // c))
        a, b = (a, b) if dice.chance(0.5) else (b, a)
        return a * times, b * times, c * times

    high, wide, long = dice.until_ours(propose, lambda sides: ["hypotenuse", *sides])
    corners = _fit([(0.0, 0.0), (0.0, float(high)), (float(wide), float(high))], paper.sheet, 0.2)
    paper.sheet.polygon(corners, paper.mark)
    paper.sheet.line([*corners, corners[0], corners[1]], paper.ink, 0.012 * paper.unit)
    (x, top), (_, bottom), (right, _) = corners
    paper.label((x - 0.09 * paper.unit, (top + bottom) / 2), str(high))
    paper.label(((x + right) / 2, bottom + 0.09 * paper.unit), str(wide))
    paper.label(((x + right) / 2 + 0.07 * paper.unit, (top + bottom) / 2 - 0.07 * paper.unit), "?")
    notes: dict[str, Json] = {"corners": [rounded(corner) for corner in corners], "sides": [high, wide]}
    return _Figure(fact("value", long), number(long), notes)


def _grid(paper: _Paper, columns: int, rows: int) -> tuple[float, Point]:
    """Draw a grid; (pixels per square, its bottom left corner)."""
    sheet = paper.sheet
    step = 0.8 * min(sheet.width / columns, sheet.height / rows)
    left, bottom = (sheet.width - columns * step) / 2, (sheet.height + rows * step) / 2
    for i in range(columns + 1):
        sheet.line(((left + i * step, bottom), (left + i * step, bottom - rows * step)), paper.faint, 1)
    for j in range(rows + 1):
        sheet.line(((left, bottom - j * step), (left + columns * step, bottom - j * step)), paper.faint, 1)
    return step, (left, bottom)


def _grid_area(dice: Dice, paper: _Paper) -> _Figure:
    """A quadrilateral or triangle with corners on the grid; its area by the shoelace formula is never below 2."""

    def propose() -> list[tuple[int, int]]:
        spokes = [(x, y) for x in range(9) for y in range(7) if (x, y) != (4, 3)]
        while True:
            ring = sorted(dice.sample(spokes, dice.whole(3, 4)), key=lambda p: math.atan2(p[1] - 3, p[0] - 4))
            convex = all(_turns_left(ring[i - 2], ring[i - 1], ring[i]) for i in range(len(ring)))
            if convex and _twice_area(ring) >= 4:
                return ring

    corners = dice.until_ours(propose, lambda ring: ["grid_area", ring])
    step, (left, bottom) = _grid(paper, 8, 6)
    points = [(left + x * step, bottom - y * step) for x, y in corners]
    paper.sheet.polygon(points, paper.mark)
    paper.sheet.line([*points, points[0], points[1]], paper.ink, 0.012 * paper.unit)
    area = _twice_area(corners) / 2
    notes: dict[str, Json] = {"grid_corners": corners, "corners": [rounded(point) for point in points]}
    return _Figure(fact("value", f"{area:g}"), number(area), notes)


def _twice_area(corners: list[tuple[int, int]]) -> int:
    pairs = zip(corners, [*corners[1:], corners[0]], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs))


def _turns_left(a: Point, b: Point, c: Point) -> bool:
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0]) > 0


def _coordinates(dice: Dice, paper: _Paper) -> _Figure:
    size = 8
    x, y = dice.until_ours(lambda: (dice.whole(0, size), dice.whole(0, size)), lambda at: ["coordinates", *at])
    step, (left, bottom) = _grid(paper, size, size)
    paper.sheet.line(((left, bottom - size * step), (left, bottom), (left + size * step, bottom)), paper.ink, 1.5)
    for i in range(0, size + 1, 2):
        paper.sheet.text(
            (left + i * step, bottom + 0.05 * paper.unit), str(i), paper.face, 0.07 * paper.unit, paper.ink
        )
        paper.sheet.text(
            (left - 0.05 * paper.unit, bottom - i * step), str(i), paper.face, 0.07 * paper.unit, paper.ink
        )
    at = (left + x * step, bottom - y * step)
    paper.sheet.circle(*at, 0.03 * paper.unit, paper.mark)
    answer = Words("(") + fact("value", x) + ", " + fact("value", y) + ")"
    notes: dict[str, Json] = {"point": rounded(at), "rgb": list(paper.mark)}
    return _Figure(answer, exact(f"({x}, {y})", f"({x},{y})", f"{x}, {y}"), notes)


def _crossings(dice: Dice, paper: _Paper) -> _Figure:
    """Straight lines on a raster of 12 x 12 points; no crossing lies close to an end or to another crossing."""

    def propose() -> list[tuple[Point, Point]]:
        raster = [(x / 11, y / 11) for x in range(12) for y in range(12)]
        while True:
            ends = dice.sample(raster, 2 * dice.whole(2, 4))
            lines = list(zip(ends[::2], ends[1::2], strict=True))
            if all(math.dist(*line) > 0.45 for line in lines) and _clear(lines):
                return lines

    lines = dice.until_ours(propose, lambda lines: ["crossings", [[rounded(end, 3) for end in line] for line in lines]])
    count = len(_meetings(lines))
    width, height = paper.sheet.width, paper.sheet.height
    for line in lines:
        points = [(width * (0.1 + 0.8 * x), height * (0.1 + 0.8 * y)) for x, y in line]
        paper.sheet.line(points, paper.ink, 0.018 * paper.unit)
    return _Figure(fact("count", count), number(count), {"lines": [[rounded(p, 3) for p in line] for line in lines]})


def _meetings(lines: list[tuple[Point, Point]]) -> list[tuple[float, float, Point]]:
    """(share along the one line, along the other, where) for each pair that crosses."""
    found = []
    for i, (a, b) in enumerate(lines):
        for c, d in lines[:i]:
            across = (b[0] - a[0]) * (d[1] - c[1]) - (b[1] - a[1]) * (d[0] - c[0])
            if abs(across) > 1e-9:
                s = ((c[0] - a[0]) * (d[1] - c[1]) - (c[1] - a[1]) * (d[0] - c[0])) / across
                t = ((c[0] - a[0]) * (b[1] - a[1]) - (c[1] - a[1]) * (b[0] - a[0])) / across
                if 0 <= s <= 1 and 0 <= t <= 1:
                    found.append((s, t, (a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1]))))
    return found


def _clear(lines: list[tuple[Point, Point]]) -> bool:
    """Whether every crossing can be seen, and no end almost touches another line."""
    places = [at for s, t, at in _meetings(lines) if 0.1 < s < 0.9 and 0.1 < t < 0.9]
    if len(places) < len(_meetings(lines)):
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


def _distance(point: Point, line: tuple[Point, Point]) -> float:
    (ax, ay), (bx, by) = line
    along = ((point[0] - ax) * (bx - ax) + (point[1] - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
    along = min(1.0, max(0.0, along))
    return math.dist(point, (ax + along * (bx - ax), ay + along * (by - ay)))


_FIGURES: dict[str, Callable[[Dice, _Paper], _Figure]] = {
    "third_angle": _third_angle,
    "angle": _angle,
    "rectangle_area": lambda dice, paper: _rectangle(dice, paper, "area"),
    "rectangle_perimeter": lambda dice, paper: _rectangle(dice, paper, "perimeter"),
    "hypotenuse": _hypotenuse,
    "grid_area": _grid_area,
    "coordinates": _coordinates,
    "crossings": _crossings,
}


def _fit(corners: list[Point], sheet: Sheet, margin: float) -> list[Point]:
    """Scale and move points into the sheet, leaving `margin` of its shorter side; y grows downwards."""
    edge = margin * min(sheet.width, sheet.height)
    xs, ys = zip(*corners, strict=True)
    wide, high = max(max(xs) - min(xs), 1e-9), max(max(ys) - min(ys), 1e-9)
    scale = min((sheet.width - 2 * edge) / wide, (sheet.height - 2 * edge) / high)
    left, top = (sheet.width - scale * wide) / 2, (sheet.height - scale * high) / 2
    return [(left + scale * (x - min(xs)), top + scale * (y - min(ys))) for x, y in corners]
