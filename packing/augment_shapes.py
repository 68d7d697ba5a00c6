"""Points, boxes and polygons on a picture that is resized, cropped or turned: where they are then, what is seen.

`augment.py` and `loader/loader.py` stand before this. Coordinates are continuous: (0, 0) is the outer corner of the
first pixel, its centre lies at (0.5, 0.5), and a picture of W x H px ends at (W, H).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from manifests.records import Point, Shape

Size = tuple[int, int]
"""(width, height) in pixels."""

TINY_PX2 = 1e-9
"""Parts of less area than this are rounding."""


@dataclass(frozen=True, slots=True)
class Affine:
    """x' = a x + b y + c, y' = d x + e y + f."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def __call__(self, point: Point) -> Point:
        x, y = point
        return (self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f)


def scaling(source: Size, target: Size) -> Affine:
    """Of a picture that is resized as a whole."""
    return Affine(target[0] / source[0], 0.0, 0.0, 0.0, target[1] / source[1], 0.0)


@dataclass(frozen=True, slots=True)
class VisibleShape:
    """A shape in pixels of the picture that the model is given."""

    shape: Shape
    visible: float
    """Share of its area that is inside, above 0. Of a polygon that falls into parts each has its own."""


def move_shapes(shapes: Sequence[Shape], by: Callable[[Point], Point], size_px: Size) -> tuple[VisibleShape, ...]:
    """`shapes` after `by`, which keeps lines straight, cut off at the edges of a picture of `size_px`. What lies
    outside is left out.

    A box becomes the tight box around what is inside of it. A polygon stays simple: one that an edge cuts into parts
    becomes several of the same name.
    """
    return tuple(seen for shape in shapes for seen in _moved(shape, by, size_px))


def _moved(shape: Shape, by: Callable[[Point], Point], size_px: Size) -> Iterator[VisibleShape]:
    width, height = size_px
    if shape.kind == "point":
        x, y = by(shape.corners[0])
        if 0 <= x <= width and 0 <= y <= height:
            yield VisibleShape(Shape("point", shape.name, ((x, y),)), 1.0)
        return
    corners = shape.corners
    if shape.kind == "box":
        (left, top), (right, bottom) = corners
        corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    whole = [by(corner) for corner in corners]
    total = abs(area(whole))
    if total < TINY_PX2:
        return
    for part in clip_polygon(whole, size_px):
        if shape.kind == "box":
            xs, ys = zip(*part, strict=True)
            kept: tuple[Point, ...] = ((min(xs), min(ys)), (max(xs), max(ys)))
        else:
            kept = tuple(part)
        yield VisibleShape(Shape(shape.kind, shape.name, kept), min(1.0, abs(area(part)) / total))


def area(corners: Sequence[Point]) -> float:
    """Signed, by the shoelace formula."""
    turned = [*corners[1:], corners[0]]
    return sum(x * v - u * y for (x, y), (u, v) in zip(corners, turned, strict=True)) / 2


def clip_polygon(corners: Sequence[Point], size_px: Size) -> list[list[Point]]:
    """What of a simple polygon lies inside the picture, as simple polygons."""
    width, height = size_px
    parts = [list(corners)]
    for axis, edge, sign in ((0, 0.0, 1), (1, 0.0, 1), (0, float(width), -1), (1, float(height), -1)):
        parts = [kept for part in parts for kept in _half(part, axis, edge, sign)]
    return [part for part in parts if abs(area(part)) >= TINY_PX2]


def _half(corners: list[Point], axis: int, edge: float, sign: int) -> list[list[Point]]:
    """The parts of a simple polygon on one side of a line along the other axis.

    The outline is cut into runs on the right side. Sorted along the line, its crossings bound the polygon's inside in
    pairs, so each run goes on, along the line, with the run that begins at the other crossing of its pair.
    """
    inside = [sign * (corner[axis] - edge) >= 0 for corner in corners]
    if all(inside) or not any(inside):
        return [corners] if all(inside) else []
    first = next(i for i in range(len(corners)) if not inside[i])
    order = [*range(first, len(corners)), *range(first + 1)]
    runs: list[list[Point]] = []
    for here, there in pairwise(order):
        if inside[here] != inside[there]:
            crossing = _crossing(corners[here], corners[there], axis, edge)
            if inside[there]:
                runs.append([crossing])
            else:
                runs[-1].append(crossing)
        if inside[there]:
            runs[-1].append(corners[there])
    along = sorted((run[end][1 - axis], i, end) for i, run in enumerate(runs) for end in (0, -1))
    follower: dict[int, int] = {}
    for (_, i, end), (_, j, _) in zip(along[::2], along[1::2], strict=True):
        follower |= {i: j} if end == -1 else {j: i}
    parts = []
    left = set(range(len(runs)))
    while left:
        at, part = min(left), []
        while at in left:
            left.remove(at)
            part += runs[at]
            at = follower.get(at, at)
        parts.append(part)
    return parts


def _crossing(one: Point, other: Point, axis: int, edge: float) -> Point:
    share = (edge - one[axis]) / (other[axis] - one[axis])
    along = one[1 - axis] + share * (other[1 - axis] - one[1 - axis])
    return (edge, along) if axis == 0 else (along, edge)
