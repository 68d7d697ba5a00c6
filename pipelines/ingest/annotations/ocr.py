"""Pictures of print with what it says and where: rows of lines or words, ALTO, hOCR, lists of outlined lines.

`ingest/documents.py` calls `of_row` and `tell`, `captions.py` the rest. The text of a document is the transcription,
each piece of it that has a place is a fact `text`, and its shape stands in the notes under the words themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from xml.etree.ElementTree import Element

from manifests.errors import RecordError
from manifests.records import Json, Media, Point, Shape
from pipelines.ingest.annotations.shapes import MOST_INSTANCES, LabelText, box, fitted, noted, numbers, polygon
from pipelines.ingest.formats import text

PIECES = (("lines", "\n"), ("words", " "))
"""Fields of a row with its print, and what stands between its pieces."""
PLACES = ("box", "bbox", "polygon", "points")

_HOCR_LINES = frozenset({"ocr_line", "ocr_header", "ocr_textfloat", "ocr_caption"})
_OUTLINED = re.compile(r"((?:-?\d{1,6},){7}-?\d{1,6}),(.*)")
_TAG = re.compile(r"<([^<>]{0,2000})>")
_ATTRIBUTE = re.compile(
    r"\b(?P<name>class|title)\s{0,9}=\s{0,9}(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s\"'>]+))"
)
_BBOX = re.compile(r"\bbbox\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})")


@dataclass(frozen=True)
class PrintedPiece:
    """A line or word of print."""

    text: str
    corners: tuple[Point, ...] = ()
    """Of its box two, of its polygon more; none where its place is not known."""


@dataclass(frozen=True)
class PrintedPage:
    pieces: tuple[PrintedPiece, ...]
    between: str = "\n"
    size: tuple[float, float] | None = None
    """(width, height) in the unit of the corners, where that is not the pixel of the picture."""


def print_text(page: PrintedPage, medium: Media) -> LabelText:
    """Raises RecordError: `no_text`, `bad_annotation`, `shape_outside`, `crossing_polygon`, `too_many_shapes`."""
    size = (medium.width_px, medium.height_px)
    scale = (size[0] / page.size[0], size[1] / page.size[1]) if page.size else (1.0, 1.0)
    if len(page.pieces) > MOST_INSTANCES:
        raise RecordError("too_many_shapes", f"{len(page.pieces)} pieces of print, the limit is {MOST_INSTANCES}")
    facts: list[tuple[str, int, int]] = []
    shapes: list[Shape] = []
    at = 0
    for piece in page.pieces:
        if piece.corners:
            corners = [(x * scale[0], y * scale[1]) for x, y in piece.corners]
            shape = box(piece.text, *corners[0], *corners[1]) if len(corners) == 2 else polygon(piece.text, corners)
            shapes.append(fitted(shape, size))
            facts.append(("text", at, at + len(piece.text)))
        at += len(piece.text) + len(page.between)
    return LabelText(page.between.join(piece.text for piece in page.pieces), tuple(facts), noted(shapes))


def _page(pieces: Iterator[PrintedPiece], between: str = "\n", size: tuple[float, float] | None = None) -> PrintedPage:
    found = tuple(piece for piece in pieces if piece.text)
    if not found:
        raise RecordError("no_text", "no print that says anything")
    return PrintedPage(found, between, size if size and min(size) > 0 else None)


def _words(value: Json) -> str:
    if not isinstance(value, str):
        raise RecordError("bad_annotation", f"{text.printable(repr(value)[:80])} where text was expected")
    return " ".join(text.check_text(value).split())


# ------------------------------------------------------------------------------------------------------------- rows


def in_row(row: Json) -> bool:
    return isinstance(row, dict) and _pieces(row) is not None


def of_row(row: dict[str, Json]) -> PrintedPage:
    """`{"lines": [{"text": "TOTAL 4.20", "box": [10, 20, 90, 40]}]}`, in pixels; `words` are joined by blanks, and a
    place may be a `polygon` of [x, y]. Raises RecordError: `no_text`, `bad_annotation`."""
    found = _pieces(row)
    assert found is not None, "in_row was asked"
    return _page((PrintedPiece(_words(one["text"]), _corners(one)) for one in found[0]), found[1])


def _pieces(row: dict[str, Json]) -> tuple[list[dict[str, Json]], str] | None:
    for name, between in PIECES:
        told = row.get(name)
        if isinstance(told, list) and told and all(isinstance(one, dict) and "text" in one for one in told):
            return told, between
    return None


def _corners(piece: dict[str, Json]) -> tuple[Point, ...]:
    place = next((piece[name] for name in PLACES if piece.get(name) is not None), None)
    if place is None:
        return ()
    if isinstance(place, list) and place and isinstance(place[0], list):
        found = [numbers(corner, 2) for corner in place]
        return _more_than_two(tuple((x, y) for x, y in found))
    flat = numbers(place)
    if len(flat) == 4:
        return ((flat[0], flat[1]), (flat[2], flat[3]))
    return _more_than_two(tuple(zip(flat[::2], flat[1::2], strict=False)) if len(flat) % 2 == 0 else ())


def _more_than_two(corners: tuple[Point, ...]) -> tuple[Point, ...]:
    if len(corners) < 3:
        raise RecordError("bad_annotation", "a place is a box of four numbers or a polygon of three corners or more")
    return corners


# ------------------------------------------------------------------------------------------------ files of OCR engines


def alto(root: Element) -> PrintedPage:
    """ALTO XML of any version: `TextLine` with `String`. Raises RecordError: `no_text`, `bad_annotation`."""
    for one in root.iter():
        one.tag = one.tag.rpartition("}")[2] if isinstance(one.tag, str) else ""
    pages = list(root.iter("Page"))
    if len(pages) != 1:
        raise RecordError("bad_annotation", f"{len(pages)} pages beside one picture")
    return _page(_alto_lines(pages[0]), size=(_attribute(pages[0], "WIDTH", "0"), _attribute(pages[0], "HEIGHT", "0")))


def _alto_lines(page: Element) -> Iterator[PrintedPiece]:
    for line in page.iter("TextLine"):
        words = _words(" ".join(word.get("CONTENT", "") for word in line.iter("String")))
        left, top, width, height = (_attribute(line, name) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))
        yield PrintedPiece(words, ((left, top), (left + width, top + height)))


def _attribute(one: Element, name: str, otherwise: str = "nan") -> float:
    try:
        return numbers([float(one.get(name, otherwise))], 1)[0]
    except ValueError:
        raise RecordError("bad_annotation", f"{name} of a {one.tag} is no number") from None


def outlined(data: bytes) -> PrintedPage:
    """A line per line of print, eight numbers and the text: x and y of four corners, as at ICDAR. Raises RecordError:
    `no_text`, `bad_annotation`, and those of `text.decode`."""
    return _page(map(_outlined, filter(str.strip, text.decode_text(data)[0].split("\n"))))


def _outlined(line: str) -> PrintedPiece:
    found = _OUTLINED.fullmatch(line.strip())
    if found is None:
        raise RecordError("bad_annotation", f"no four corners and a text: {text.printable(line[:80])}")
    flat = list(map(float, found[1].split(",")))
    return PrintedPiece(_words(found[2]), tuple(zip(flat[::2], flat[1::2], strict=True)))


def hocr(data: bytes) -> PrintedPage:
    """hOCR, the HTML of Tesseract and others: words below the last line that was opened, as lines don't lie inside each
    other. Raises RecordError: `no_text`, and those of `text.decode`."""
    size: tuple[float, float] | None = None
    lines: list[tuple[tuple[Point, ...], list[str]]] = []
    pieces = _TAG.split(text.decode_text(data)[0])
    for said, tag in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        if lines and said.strip():
            lines[-1][1].append(unescape(said))
        known = {one["name"]: one["double"] or one["single"] or one["bare"] or "" for one in _ATTRIBUTE.finditer(tag)}
        place = _BBOX.search(known.get("title", ""))
        left, top, right, bottom = map(float, place.groups()) if place else (0.0,) * 4
        classes = known.get("class", "").split()
        if "ocr_page" in classes and place:
            size = (right - left, bottom - top)
        elif _HOCR_LINES.intersection(classes):
            lines.append((((left, top), (right, bottom)) if place else (), []))
    return _page((PrintedPiece(_words(" ".join(words)), corners) for corners, words in lines), size=size)
