"""Labels of a picture or clip, beyond a caption: what is where, what is written where, what happens when.

`ingest/annotations/shapes.py`, `ingest/annotations/ocr.py` and `ingest/annotations/events.py` know one sort each; here
is which of them a row or a file is, and what domain its document is of. `ingest/documents.py` makes the document.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from manifests.errors import RecordError
from manifests.records import Json, Media, ShapeKind
from pipelines.ingest.annotations import events, ocr, shapes, xml
from pipelines.ingest.annotations.events import TimedEvent
from pipelines.ingest.annotations.ocr import PrintedPage
from pipelines.ingest.annotations.shapes import AnnotatedImage, LabelText

Labels = AnnotatedImage | PrintedPage | tuple[TimedEvent, ...]


def in_row(row: Json) -> bool:
    return shapes.in_row(row) or ocr.in_row(row) or events.in_row(row)


def of_row(row: Json) -> Labels | None:
    """Raises RecordError where they are of a known sort and broken."""
    for one in (shapes, ocr, events):
        if one.in_row(row):
            return one.of_row(row)
    return None


def of_file(path: str, data: bytes) -> Labels | None:
    """Of a file beside a medium; None for endings of other files. Raises RecordError."""
    match PurePosixPath(path).suffix.lower():
        case ".xml":
            return xml.labels(data)
        case ".hocr":
            return ocr.hocr(data)
        case ".srt" | ".vtt":
            return events.subtitles(data)
        case ".csv":
            return ocr.outlined(data)
    return None


def label_text(labels: Labels, medium: Media, kinds: Sequence[ShapeKind]) -> tuple[LabelText, dict[str, Json], str]:
    """(text, notes, domain). Raises RecordError where labels and medium don't fit."""
    if isinstance(labels, tuple):
        told, happened = events.events_text(labels, medium)
        return told, {"events": happened}, "video"
    if medium.kind != "image":
        raise RecordError("bad_annotation", "shapes lie on pictures, not on clips")
    if isinstance(labels, PrintedPage):
        told, domain = ocr.print_text(labels, medium), "ocr"
    else:
        told, domain = shapes.shapes_text(labels, medium, kinds), "perception"
    return told, {"shapes": list(told.shapes)}, domain
