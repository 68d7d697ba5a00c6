"""Printed text on an image, with its places: rows of lines or words, ALTO, hOCR, lists of outlined lines.

`labels.py` calls these functions. The text of a document is the transcription. Every line or word with a place is a
fact `text`, and its shape is in the notes, named by its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from xml.etree.ElementTree import Element

from manifests.errors import RecordError
from manifests.records import Json, Media, Point, Shape
from pipelines.ingest.annotations.shapes import (
    MOST_INSTANCES,
    LabelText,
    box,
    fit_shape,
    numbers,
    polygon,
    shape_notes,
)
from pipelines.ingest.formats.text import check_text, decode_text, printable

PIECES = (("lines", "\n"), ("words", " "))
"""(field of a row with printed lines or words, separator between them in the text)."""
PLACES = ("box", "bbox", "polygon", "points")
"""Fields with the place of a line or word."""

_HOCR_LINES = frozenset({"ocr_line", "ocr_header", "ocr_textfloat", "ocr_caption"})
_OUTLINED = re.compile(r"((?:-?\d{1,6},){7}-?\d{1,6}),(.*)")
_TAG = re.compile(r"<([^<>]{0,2000})>")
_ATTRIBUTE = re.compile(
    r"\b(?P<name>class|title)\s{0,9}=\s{0,9}(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s\"'>]+))"
)
_BBOX = re.compile(r"\bbbox\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})\s+(-?\d{1,9})")


@dataclass(frozen=True)
class PrintedPiece:
    """A printed line or word."""

    text: str
    corners: tuple[Point, ...] = ()
    """Two corners of a box or the corners of a polygon; empty if the place is unknown."""


@dataclass(frozen=True)
class PrintedPage:
    """The printed text of one image."""

    pieces: tuple[PrintedPiece, ...]
    between: str = "\n"
    """Separator of the pieces in the text."""
    size: tuple[float, float] | None = None
    """(width, height) in the unit of the corners. None: the corners are in pixels of the image."""


def print_text(page: PrintedPage, medium: Media) -> LabelText:
    """Return the transcription of an image.

    Raises RecordError: `no_text`, `bad_annotation`, `shape_outside`, `crossing_polygon`, `too_many_shapes`.
    """
    size = (medium.width_px, medium.height_px)
    scale = (size[0] / page.size[0], size[1] / page.size[1]) if page.size else (1.0, 1.0)
    if len(page.pieces) > MOST_INSTANCES:
        raise RecordError("too_many_shapes", f"{len(page.pieces)} lines or words, the limit is {MOST_INSTANCES}")
    facts: list[tuple[str, int, int]] = []
    shapes: list[Shape] = []
    at = 0
    for piece in page.pieces:
        if piece.corners:
            corners = [(x * scale[0], y * scale[1]) for x, y in piece.corners]
            shape = box(piece.text, *corners[0], *corners[1]) if len(corners) == 2 else polygon(piece.text, corners)
            shapes.append(fit_shape(shape, size))
            facts.append(("text", at, at + len(piece.text)))
        at += len(piece.text) + len(page.between)
    return LabelText(page.between.join(piece.text for piece in page.pieces), tuple(facts), shape_notes(shapes))


def _page(pieces: Iterator[PrintedPiece], between: str = "\n", size: tuple[float, float] | None = None) -> PrintedPage:
    """Page of the pieces that have text. Raises RecordError `no_text`."""
    kept = tuple(piece for piece in pieces if piece.text)
    if not kept:
        raise RecordError("no_text", "no printed text")
    return PrintedPage(kept, between, size if size and min(size) > 0 else None)


def _words(value: Json) -> str:
    if not isinstance(value, str):
        raise RecordError("bad_annotation", f"{printable(repr(value)[:80])} where text was expected")
    return " ".join(check_text(value).split())


# ------------------------------------------------------------------------------------------------------------- rows


def in_row(row: Json) -> bool:
    """Whether a row of JSON holds printed lines or words."""
    return isinstance(row, dict) and _row_pieces(row) is not None


def of_row(row: dict[str, Json]) -> PrintedPage:
    """Read `{"lines": [{"text": "TOTAL 4.20", "box": [10, 20, 90, 40]}]}`, in pixels.

    `words` are joined by blanks instead of line ends. A place may also be a `polygon` of [x, y]. Raises RecordError:
    `no_text`, `bad_annotation`.
    """
    pieces_and_separator = _row_pieces(row)
    assert pieces_and_separator is not None, "in_row(row) is true"
    pieces, between = pieces_and_separator
    return _page((PrintedPiece(_words(piece["text"]), _corners(piece)) for piece in pieces), between)


def _row_pieces(row: dict[str, Json]) -> tuple[list[dict[str, Json]], str] | None:
    for name, between in PIECES:
        pieces = row.get(name)
        if isinstance(pieces, list) and pieces and all(isinstance(piece, dict) and "text" in piece for piece in pieces):
            return pieces, between
    return None


def _corners(piece: dict[str, Json]) -> tuple[Point, ...]:
    """Corners of a line or word of a row: [left, top, right, bottom], [x, y, x, y, ...] or [[x, y], ...]."""
    place = next((piece[name] for name in PLACES if piece.get(name) is not None), None)
    if place is None:
        return ()
    if isinstance(place, list) and place and isinstance(place[0], list):
        pairs = [numbers(corner, 2) for corner in place]
        return _more_than_two(tuple((x, y) for x, y in pairs))
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
    """Read ALTO XML of any version: `TextLine` with `String`. Raises RecordError: `no_text`, `bad_annotation`."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
    pages = list(root.iter("Page"))
    if len(pages) != 1:
        raise RecordError("bad_annotation", f"{len(pages)} pages for one image")
    return _page(_alto_lines(pages[0]), size=(_attribute(pages[0], "WIDTH", "0"), _attribute(pages[0], "HEIGHT", "0")))


def _alto_lines(page: Element) -> Iterator[PrintedPiece]:
    for line in page.iter("TextLine"):
        words = _words(" ".join(word.get("CONTENT", "") for word in line.iter("String")))
        left, top, width, height = (_attribute(line, name) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))
        yield PrintedPiece(words, ((left, top), (left + width, top + height)))


def _attribute(element: Element, name: str, default: str = "nan") -> float:
    """Number in an attribute. Raises RecordError `bad_annotation`."""
    try:
        return numbers([float(element.get(name, default))], 1)[0]
    except ValueError:
        raise RecordError("bad_annotation", f"{name} of a {element.tag} is no number") from None


def outlined(data: bytes) -> PrintedPage:
    """Read a list of outlined lines, as in ICDAR: per line eight numbers (x and y of four corners) and the text.

    Raises RecordError: `no_text`, `bad_annotation`, and the reasons of `decode_text`.
    """
    return _page(map(_outlined_line, filter(str.strip, decode_text(data)[0].split("\n"))))


def _outlined_line(line: str) -> PrintedPiece:
    match = _OUTLINED.fullmatch(line.strip())
    if match is None:
        raise RecordError("bad_annotation", f"no four corners and a text: {printable(line[:80])}")
    flat = list(map(float, match[1].split(",")))
    return PrintedPiece(_words(match[2]), tuple(zip(flat[::2], flat[1::2], strict=True)))


def hocr(data: bytes) -> PrintedPage:
    """Read hOCR, the HTML of Tesseract and others.

    Lines are not nested, so words belong to the last line that was opened. Raises RecordError: `no_text`, and the
    reasons of `decode_text`.
    """
    size: tuple[float, float] | None = None
    lines: list[tuple[tuple[Point, ...], list[str]]] = []
    pieces = _TAG.split(decode_text(data)[0])
    for words, tag in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        if lines and words.strip():
            lines[-1][1].append(unescape(words))
        attributes = {
            match["name"]: match["double"] or match["single"] or match["bare"] or ""
            for match in _ATTRIBUTE.finditer(tag)
        }
        place = _BBOX.search(attributes.get("title", ""))
        left, top, right, bottom = map(float, place.groups()) if place else (0.0,) * 4
        classes = attributes.get("class", "").split()
        if "ocr_page" in classes and place:
            size = (right - left, bottom - top)
        elif _HOCR_LINES.intersection(classes):
            lines.append((((left, top), (right, bottom)) if place else (), []))
    return _page((PrintedPiece(_words(" ".join(words)), corners) for corners, words in lines), size=size)
