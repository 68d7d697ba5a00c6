"""Points, boxes and polygons on a picture in one normal form, whatever they were annotated in.

`ingest/annotations/coco.py`, `ingest/annotations/xml.py` (VOC) and rows with a list `shapes` make `Annotated` of what
they read. Here it is fitted to its picture and told as text, one line per name with the number of its instances:

    2 red blood cell: [0.019, 0.121, 0.242, 0.436], [0.425, 0.200, 0.661, 0.508]
    1 person: [0.100, 0.080, 0.520, 0.990] nose (0.310, 0.150)

Coordinates in the text are fractions of width and height, as in `scenes`; each number of instances is a fact `count`,
each shape one of its kind. The notes hold `shapes`, in pixels as they were annotated, which samples and packs carry
along. A shape whose corner lies outside the picture by more than a rounding costs its picture the record.
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
from pipelines.ingest.formats import text

MOST_INSTANCES = 10_000
MOST_CORNERS = 1_000
MOST_NAME_CHARACTERS = 1_000
"""A name may be a sentence that refers to one thing."""
SLACK = 0.01
"""Share of a side, or one pixel, by which a corner may lie outside: it is moved onto the edge."""


@dataclass(frozen=True)
class Instance:
    """One thing on a picture: a name, and where it is. Parts that have names of their own are points."""

    name: str
    shapes: tuple[Shape, ...]
    several: bool = False
    """A crowd: how many there are is not known, so nothing of this name is counted."""


@dataclass(frozen=True)
class AnnotatedImage:
    instances: tuple[Instance, ...]
    size_px: tuple[int, int] | None = None
    """(width, height) of the picture as its annotators saw it, where they say so."""
    counted: bool = True
    """Names stand for kinds of things; otherwise each refers to a single one."""
    left_out: tuple[str, ...] = ()
    """Reasons why parts of the annotation are not here, e.g. `crossing_polygon`."""


@dataclass(frozen=True)
class LabelText:
    text: str
    facts: tuple[tuple[str, int, int], ...]
    """(name, start, stop) in characters of `text`."""
    shapes: tuple[Json, ...]
    """As they stand in `notes.shapes`."""


def shapes_text(annotated: AnnotatedImage, medium: Media, kinds: Sequence[ShapeKind]) -> LabelText:
    """The text of an annotated picture, with shapes of these kinds.

    Raises RecordError: `wrong_size`, `shape_outside`, `too_many_shapes`.
    """
    size = (medium.width_px, medium.height_px)
    if annotated.size_px not in (None, size):
        raise RecordError("wrong_size", f"annotated at {annotated.size_px} px, upright it has {size} px")
    if len(annotated.instances) > MOST_INSTANCES:
        raise RecordError("too_many_shapes", f"{len(annotated.instances)} instances, the limit is {MOST_INSTANCES}")
    instances = [replace(one, shapes=tuple(fitted(shape, size) for shape in one.shapes)) for one in annotated.instances]
    words = _Words()
    for name, number in _numbers(instances):
        alike = [one for one in instances if one.name == name]
        if words.text:
            words.add("\n")
        if annotated.counted and not any(one.several for one in alike):
            words.add(str(number), "count")
            words.add(" ")
        words.add(name)
        between = ": "
        for one in alike:
            for shape in (shape for shape in one.shapes if shape.kind in kinds):
                words.add(between + ("" if shape.name == name else f"{shape.name.removeprefix(name).strip()} "))
                words.add(_spelt(shape, size), shape.kind)
                between = " "
            between = ": " if between == ": " else ", "
    return LabelText(words.text, tuple(words.facts), noted([shape for one in instances for shape in one.shapes]))


def noted(shapes: Sequence[Shape]) -> tuple[Json, ...]:
    """On the only medium of a document."""
    return tuple(
        {"media": 0, "kind": shape.kind, "name": shape.name, "corners": [list(corner) for corner in shape.corners]}
        for shape in shapes
    )


def _numbers(instances: Sequence[Instance]) -> list[tuple[str, int]]:
    """Names with how many there are, frequent ones first."""
    return sorted(Counter(one.name for one in instances).items(), key=lambda pair: (-pair[1], pair[0]))


class _Words:
    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self.facts: list[tuple[str, int, int]] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def add(self, words: str, fact: str = "") -> None:
        if fact:
            self.facts.append((fact, self._length, self._length + len(words)))
        self._pieces.append(words)
        self._length += len(words)


def _spelt(shape: Shape, size: tuple[int, int]) -> str:
    fractions = [(x / size[0], y / size[1]) for x, y in shape.corners]
    match shape.kind:
        case "box":
            (left, top), (right, bottom) = fractions
            return f"[{left:.3f}, {top:.3f}, {right:.3f}, {bottom:.3f}]"
        case "point":
            return f"({fractions[0][0]:.3f}, {fractions[0][1]:.3f})"
        case "polygon":
            return "[" + ", ".join(f"({x:.3f}, {y:.3f})" for x, y in fractions) + "]"


# ------------------------------------------------------------------------------------------------------ of strangers


def name_of(value: Json) -> str:
    """Raises RecordError `bad_annotation` for what is no name."""
    words = " ".join(text.check_text(value).split()) if isinstance(value, str) else ""
    if not words or len(words) > MOST_NAME_CHARACTERS:
        raise RecordError("bad_annotation", f"{text.printable(repr(value)[:80])} names no thing")
    return words


def numbers(value: Json, count: int | None = None) -> list[float]:
    """A list of finite numbers. Raises RecordError `bad_annotation`."""
    if isinstance(value, list) and (count is None or len(value) == count):
        try:
            found = [float(one) for one in value if isinstance(one, int | float) and not isinstance(one, bool)]
        except OverflowError:
            found = []
        if len(found) == len(value) and all(map(math.isfinite, found)):
            return found
    expected = "numbers" if count is None else f"{count} numbers"
    raise RecordError("bad_annotation", f"{text.printable(repr(value)[:80])} where {expected} were expected")


def box(name: str, left: float, top: float, right: float, bottom: float) -> Shape:
    """Raises RecordError `bad_annotation` where nothing is inside."""
    if not (left < right and top < bottom):
        raise RecordError("bad_annotation", f"the box {[left, top, right, bottom]} of {name!r} holds nothing")
    return Shape("box", name, ((left, top), (right, bottom)))


def polygon(name: str, corners: Sequence[Point]) -> Shape:
    """Raises RecordError: `bad_annotation`, `crossing_polygon`."""
    kept = [corner for corner, after in pairwise([*corners, corners[0]]) if corner != after] if corners else []
    if not 3 <= len(kept) <= MOST_CORNERS:
        raise RecordError("bad_annotation", f"a polygon of {len(kept)} corners around {name!r}")
    if _crosses(np.array(kept)):
        raise RecordError("crossing_polygon", f"the edges of the polygon around {name!r} cross")
    return Shape("polygon", name, tuple(kept))


def _crosses(corners: np.ndarray) -> bool:
    """Whether two edges of a closed outline cross; those that only touch don't."""
    starts, stops = corners, np.roll(corners, -1, axis=0)
    sides = _sides(starts, stops, starts) * _sides(starts, stops, stops) < 0
    return bool(np.any(sides & sides.T))


def _sides(starts: np.ndarray, stops: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(edges, points): the sign of the turn from an edge to a point."""
    along, aside = (stops - starts)[:, None], points[None] - starts[:, None]
    return np.sign(along[..., 0] * aside[..., 1] - along[..., 1] * aside[..., 0])


def fitted(shape: Shape, size: tuple[int, int]) -> Shape:
    """With corners that lie slightly outside on the edge. Raises RecordError `shape_outside`."""
    corners = tuple((_within(x, size[0]), _within(y, size[1])) for x, y in shape.corners)
    if None in [value for corner in corners for value in corner]:
        raise RecordError("shape_outside", f"{shape.kind} {shape.name!r} is not on a picture of {size} px")
    inside = tuple((x, y) for x, y in corners if x is not None and y is not None)
    return box(shape.name, *inside[0], *inside[1]) if shape.kind == "box" else replace(shape, corners=inside)


def _within(value: float, side: int) -> float | None:
    slack = max(1.0, SLACK * side)
    return min(max(value, 0.0), float(side)) if -slack <= value <= side + slack else None


# -------------------------------------------------------------------------------------------------- rows of our own


def in_row(row: Json) -> bool:
    """Whether a row of JSON lists shapes in our own form, that of `notes.shapes`."""
    told = row.get("shapes") if isinstance(row, dict) else None
    return isinstance(told, list) and all(isinstance(one, dict) and "name" in one for one in told)


def of_row(row: dict[str, Json]) -> AnnotatedImage:
    """`{"shapes": [{"kind": "box", "name": "red circle", "corners": [[20, 45], [102, 126]]}]}`, in pixels.

    `{"counted": false}` beside them says that names refer to single things. Raises RecordError `bad_annotation`.
    """
    instances = tuple(_instances(row["shapes"]))
    return AnnotatedImage(instances, counted=row.get("counted", True) is not False)


def _instances(told: Sequence[Json]) -> Iterator[Instance]:
    for one in told:
        name, kind = name_of(one["name"]), one.get("kind")
        corners = one.get("corners")
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
    raise RecordError("bad_annotation", f"{text.printable(repr(kind)[:40])} {name!r} of {len(corners)} corners")


def text_facts(told: LabelText, part: int) -> tuple[Fact, ...]:
    return tuple(Fact(name, part, start, stop) for name, start, stop in told.facts)
