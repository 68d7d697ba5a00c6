"""Points, boxes and polygons on an image in one form, with their text.

`coco.py`, `xml.py` (Pascal VOC) and rows with a list `shapes` become an `AnnotatedImage`. `shapes_text` fits it to its
image and writes one line per name, with the number of instances:

    2 red blood cell: [0.019, 0.121, 0.242, 0.436], [0.425, 0.200, 0.661, 0.508]
    1 person: [0.100, 0.080, 0.520, 0.990] nose (0.310, 0.150)

Coordinates in the text are fractions of width and height, as in `scenes`. Each number of instances is a fact `count`,
each shape a fact of its kind. The notes hold `shapes` with corners in pixels; samples and packs carry them along. A
corner that is further outside the image than a rounding error refuses the image.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from manifests.errors import RecordError
from manifests.records import Fact, Json, Media, Point, Shape, ShapeKind
from pipelines.ingest.formats.text import check_text, printable

MOST_INSTANCES = 10_000
MOST_CORNERS = 1_000
MOST_NAME_CHARACTERS = 1_000
"""A name may be a sentence that refers to one thing."""
SLACK = 0.01
"""Share of a side by which a corner may be outside; one pixel is always allowed. It is moved onto the edge."""


@dataclass(frozen=True)
class Instance:
    """One thing on an image: a name and its shapes. Named parts, such as `nose`, are points."""

    name: str
    shapes: tuple[Shape, ...]
    several: bool = False
    """The shapes show a crowd. Nothing of this name is counted on the image."""


@dataclass(frozen=True)
class AnnotatedImage:
    """Annotation of one image."""

    instances: tuple[Instance, ...]
    size_px: tuple[int, int] | None = None
    """(width, height) of the image according to the annotation, if given."""
    counted: bool = True
    """Names are kinds of things, so instances are counted. Otherwise each name refers to a single thing."""
    left_out: tuple[str, ...] = ()
    """A reason for each part of the annotation that was left out, e.g. `crossing_polygon`."""


@dataclass(frozen=True)
class LabelText:
    """Labels as text."""

    text: str
    facts: tuple[tuple[str, int, int], ...]
    """(name, start, stop) in characters of `text`."""
    shapes: tuple[Json, ...]
    """The entries of `notes.shapes`."""


def shapes_text(annotated: AnnotatedImage, medium: Media, kinds: Sequence[ShapeKind]) -> LabelText:
    """Return the text of an annotated image.

    Args:
        kinds: kinds of shapes that the text spells out.
    Raises:
        RecordError: `wrong_size`, `shape_outside`, `too_many_shapes`.
    """
    size = (medium.width_px, medium.height_px)
    if annotated.size_px not in (None, size):
        raise RecordError("wrong_size", f"annotated at {annotated.size_px} px, upright it has {size} px")
    if len(annotated.instances) > MOST_INSTANCES:
        raise RecordError("too_many_shapes", f"{len(annotated.instances)} instances, the limit is {MOST_INSTANCES}")
    instances = [
        replace(instance, shapes=tuple(fit_shape(shape, size) for shape in instance.shapes))
        for instance in annotated.instances
    ]
    words = _FactText()
    for name, number in _counts(instances):
        alike = [instance for instance in instances if instance.name == name]
        if words.text:
            words.add("\n")
        if annotated.counted and not any(instance.several for instance in alike):
            words.add(str(number), "count")
            words.add(" ")
        words.add(name)
        between = ": "
        for instance in alike:
            for shape in (shape for shape in instance.shapes if shape.kind in kinds):
                words.add(between + ("" if shape.name == name else f"{shape.name.removeprefix(name).strip()} "))
                words.add(_coordinates(shape, size), shape.kind)
                between = " "
            between = ": " if between == ": " else ", "
    shapes = [shape for instance in instances for shape in instance.shapes]
    return LabelText(words.text, tuple(words.facts), shape_notes(shapes))


def shape_notes(shapes: Sequence[Shape]) -> tuple[Json, ...]:
    """Return the entries of `notes.shapes` for the only medium of a document."""
    return tuple(
        {"media": 0, "kind": shape.kind, "name": shape.name, "corners": [list(corner) for corner in shape.corners]}
        for shape in shapes
    )


def text_facts(label_text: LabelText, part: int) -> tuple[Fact, ...]:
    """Return the facts of a text that becomes part `part` of a document."""
    return tuple(Fact(name, part, start, stop) for name, start, stop in label_text.facts)


def _counts(instances: Sequence[Instance]) -> list[tuple[str, int]]:
    """(name, number of instances), frequent names first."""
    return sorted(Counter(instance.name for instance in instances).items(), key=lambda pair: (-pair[1], pair[0]))


class _FactText:
    """Text that grows, with facts about its pieces."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self.facts: list[tuple[str, int, int]] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def add(self, words: str, fact: str = "") -> None:
        """Append words; with a fact of this name if one is given."""
        if fact:
            self.facts.append((fact, self._length, self._length + len(words)))
        self._pieces.append(words)
        self._length += len(words)


def _coordinates(shape: Shape, size: tuple[int, int]) -> str:
    """Corners as text, in fractions of width and height."""
    fractions = [(x / size[0], y / size[1]) for x, y in shape.corners]
    match shape.kind:
        case "box":
            (left, top), (right, bottom) = fractions
            return f"[{left:.3f}, {top:.3f}, {right:.3f}, {bottom:.3f}]"
        case "point":
            return f"({fractions[0][0]:.3f}, {fractions[0][1]:.3f})"
        case "polygon":
            return "[" + ", ".join(f"({x:.3f}, {y:.3f})" for x, y in fractions) + "]"


# ------------------------------------------------------------------------------------------------- checks of raw values


def name_of(value: Json) -> str:
    """Return a name with single blanks. Raises RecordError `bad_annotation` for any other value."""
    words = " ".join(check_text(value).split()) if isinstance(value, str) else ""
    if not words or len(words) > MOST_NAME_CHARACTERS:
        raise RecordError("bad_annotation", f"{printable(repr(value)[:80])} where a name was expected")
    return words


def numbers(value: Json, count: int | None = None) -> list[float]:
    """Return a list of finite numbers, `count` of them if given. Raises RecordError `bad_annotation`."""
    if isinstance(value, list) and (count is None or len(value) == count):
        try:
            floats = [float(item) for item in value if isinstance(item, int | float) and not isinstance(item, bool)]
        except OverflowError:
            floats = []
        if len(floats) == len(value) and all(map(math.isfinite, floats)):
            return floats
    expected = "numbers" if count is None else f"{count} numbers"
    raise RecordError("bad_annotation", f"{printable(repr(value)[:80])} where {expected} were expected")


def box(name: str, left: float, top: float, right: float, bottom: float) -> Shape:
    """Return a box, with coordinates in pixels. Raises RecordError `bad_annotation` for an empty one."""
    if not (left < right and top < bottom):
        raise RecordError("bad_annotation", f"the box {[left, top, right, bottom]} of {name!r} is empty")
    return Shape("box", name, ((left, top), (right, bottom)))


def polygon(name: str, corners: Sequence[Point]) -> Shape:
    """Return a polygon without repeated corners. Raises RecordError: `bad_annotation`, `crossing_polygon`."""
    kept = [corner for corner, after in pairwise([*corners, corners[0]]) if corner != after] if corners else []
    if not 3 <= len(kept) <= MOST_CORNERS:
        raise RecordError("bad_annotation", f"a polygon of {len(kept)} corners around {name!r}")
    if _crosses(np.array(kept)):
        raise RecordError("crossing_polygon", f"the edges of the polygon around {name!r} cross")
    return Shape("polygon", name, tuple(kept))


def _crosses(corners: np.ndarray) -> bool:
    """Whether two edges of a closed outline, (n, 2), cross. Edges that only touch don't."""
    starts, stops = corners, np.roll(corners, -1, axis=0)
    sides = _sides(starts, stops, starts) * _sides(starts, stops, stops) < 0
    return bool(np.any(sides & sides.T))


def _sides(starts: np.ndarray, stops: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(edges, points) sign of the side of an edge on which a point is."""
    along, aside = (stops - starts)[:, None], points[None] - starts[:, None]
    return np.sign(along[..., 0] * aside[..., 1] - along[..., 1] * aside[..., 0])


def fit_shape(shape: Shape, size: tuple[int, int]) -> Shape:
    """Return a shape with corners that are slightly outside an image moved to its edge.

    Args:
        size: (width, height) of the image in pixels.
    Raises:
        RecordError: `shape_outside`; `bad_annotation` for a box that becomes empty.
    """
    corners = tuple((_within(x, size[0]), _within(y, size[1])) for x, y in shape.corners)
    if None in [value for corner in corners for value in corner]:
        raise RecordError("shape_outside", f"{shape.kind} {shape.name!r} is not on an image of {size} px")
    inside = tuple((x, y) for x, y in corners if x is not None and y is not None)
    return box(shape.name, *inside[0], *inside[1]) if shape.kind == "box" else replace(shape, corners=inside)


def _within(value: float, side: int) -> float | None:
    """The coordinate, moved into [0, side] if it is slightly outside; None if it is further outside."""
    slack = max(1.0, SLACK * side)
    return min(max(value, 0.0), float(side)) if -slack <= value <= side + slack else None


# -------------------------------------------------------------------------------------------------- rows of our own


def in_row(row: Json) -> bool:
    """Whether a row of JSON holds a list `shapes` in the form of `notes.shapes`."""
    shapes = row.get("shapes") if isinstance(row, dict) else None
    return isinstance(shapes, list) and all(isinstance(shape, dict) and "name" in shape for shape in shapes)


def of_row(row: dict[str, Json]) -> AnnotatedImage:
    """Read `{"shapes": [{"kind": "box", "name": "red circle", "corners": [[20, 45], [102, 126]]}]}`, in pixels.

    With `{"counted": false}` in the row, names refer to single things. Raises RecordError: `bad_annotation`,
    `crossing_polygon`.
    """
    instances = tuple(_instances(row["shapes"]))
    return AnnotatedImage(instances, counted=row.get("counted", True) is not False)


def _instances(shapes: Sequence[Json]) -> Iterator[Instance]:
    for shape in shapes:
        name, kind = name_of(shape["name"]), shape.get("kind")
        corners = shape.get("corners")
        points = [tuple(numbers(corner, 2)) for corner in corners] if isinstance(corners, list) else []
        yield Instance(name, (_shape(kind, name, [(x, y) for x, y in points]),))


def _shape(kind: Json, name: str, corners: Sequence[Point]) -> Shape:
    match kind, len(corners):
        case "point", 1:
            return Shape("point", name, (corners[0],))
        case "box", 2:
            return box(name, *corners[0], *corners[1])
        case "polygon", _:
            return polygon(name, corners)
    raise RecordError("bad_annotation", f"{printable(repr(kind)[:40])} {name!r} of {len(corners)} corners")
