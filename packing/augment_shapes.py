"""Points, boxes and polygons on an image that is resized, cropped or turned: their new coordinates and visible share.

`augment.py` calls it at load time and `pipelines/synthesis/augment.py` offline. Coordinates are continuous: (0, 0) is
the outer corner of the first pixel, the center of that pixel is (0.5, 0.5), and an image of W x H px ends at (W, H).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from manifests.records import Point, Shape

Size = tuple[int, int]
"""(width, height) in pixels."""

TINY_PX2 = 1e-9
"""Smaller areas are rounding errors."""


@dataclass(frozen=True, slots=True)
class Affine:
    """Affine map of points: x' = a x + b y + c, y' = d x + e y + f."""

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
    """Return the map of an image that is resized as a whole."""
    return Affine(target[0] / source[0], 0.0, 0.0, 0.0, target[1] / source[1], 0.0)


@dataclass(frozen=True, slots=True)
class VisibleShape:
    """A shape, or a part of one, in pixels of the image that the model is given."""

    shape: Shape
    visible: float
    """Share of the original area that is inside the image, above 0. Each part of a divided polygon has its own."""


def move_shapes(shapes: Sequence[Shape], by: Callable[[Point], Point], size_px: Size) -> tuple[VisibleShape, ...]:
    """Map shapes and clip them at the edges of an image.

    Args:
        by: map of points that keeps lines straight.
        size_px: size of the mapped image.
    Returns:
        the shapes that are at least partly visible. A box becomes the tight box around its visible part. A polygon
        stays simple: if an edge divides it, each part becomes a polygon of the same name.
    """
    return tuple(visible for shape in shapes for visible in _move_shape(shape, by, size_px))


def _move_shape(shape: Shape, by: Callable[[Point], Point], size_px: Size) -> Iterator[VisibleShape]:
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
    outline = [by(corner) for corner in corners]
    total = abs(area(outline))
    if total < TINY_PX2:
        return
    for part in clip_polygon(outline, size_px):
        if shape.kind == "box":
            xs, ys = zip(*part, strict=True)
            part_corners: tuple[Point, ...] = ((min(xs), min(ys)), (max(xs), max(ys)))
        else:
            part_corners = tuple(part)
        yield VisibleShape(Shape(shape.kind, shape.name, part_corners), min(1.0, abs(area(part)) / total))


def area(corners: Sequence[Point]) -> float:
    """Return the signed area of a polygon, by the shoelace formula."""
    following = [*corners[1:], corners[0]]
    return sum(x * v - u * y for (x, y), (u, v) in zip(corners, following, strict=True)) / 2


def clip_polygon(corners: Sequence[Point], size_px: Size) -> list[list[Point]]:
    """Return the part of a simple polygon that is inside an image, as simple polygons."""
    width, height = size_px
    parts = [list(corners)]
    for axis, edge, sign in ((0, 0.0, 1), (1, 0.0, 1), (0, float(width), -1), (1, float(height), -1)):
        parts = [half for part in parts for half in _half(part, axis, edge, sign)]
    return [part for part in parts if abs(area(part)) >= TINY_PX2]


def _half(corners: list[Point], axis: int, edge: float, sign: int) -> list[list[Point]]:
    """Return the parts of a simple polygon on one side of a line.

    The outline is cut into runs of corners on that side. Sorted along the line, its crossings bound the inside of the
    polygon in pairs, so each run continues, along the line, with the run that begins at the other crossing of its pair.

    Args:
        axis: coordinate that is constant on the line, 0 for x and 1 for y; `edge` is its value.
        sign: 1 for the side with larger coordinates, -1 for the other one.
    """
    inside = [sign * (corner[axis] - edge) >= 0 for corner in corners]
    if all(inside) or not any(inside):
        return [corners] if all(inside) else []
    first = next(i for i in range(len(corners)) if not inside[i])
    order = [*range(first, len(corners)), *range(first + 1)]
    runs: list[list[Point]] = []
    for this, following in pairwise(order):
        if inside[this] != inside[following]:
            crossing = _crossing(corners[this], corners[following], axis, edge)
            if inside[following]:
                runs.append([crossing])
            else:
                runs[-1].append(crossing)
        if inside[following]:
            runs[-1].append(corners[following])
    along = sorted((run[end][1 - axis], i, end) for i, run in enumerate(runs) for end in (0, -1))
    successor: dict[int, int] = {}
    for (_, i, end), (_, j, _) in zip(along[::2], along[1::2], strict=True):
        successor |= {i: j} if end == -1 else {j: i}
    parts = []
    left = set(range(len(runs)))
    while left:
        run, part = min(left), []
        while run in left:
            left.remove(run)
            part += runs[run]
            run = successor.get(run, run)
        parts.append(part)
    return parts


def _crossing(one: Point, other: Point, axis: int, edge: float) -> Point:
    """Return the point at which the segment between two points crosses a line."""
    share = (edge - one[axis]) / (other[axis] - one[axis])
    along = one[1 - axis] + share * (other[1 - axis] - one[1 - axis])
    return (edge, along) if axis == 0 else (along, edge)
