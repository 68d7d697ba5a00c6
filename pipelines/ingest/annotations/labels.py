"""Labels of an image or video: shapes, printed text with its places, or timed events.

`shapes.py`, `ocr.py` and `events.py` each know one sort. This module finds the sort of a row or file, and turns labels
into text, notes and a domain. The readers (`ingest/readers/`) make the document.
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
    """Whether a row holds labels of some sort."""
    return shapes.in_row(row) or ocr.in_row(row) or events.in_row(row)


def of_row(row: Json) -> Labels | None:
    """Return the labels of a row, None if it has none. Raises RecordError for labels that are wrong."""
    for sort in (shapes, ocr, events):
        if sort.in_row(row):
            return sort.of_row(row)
    return None


def of_file(path: str, data: bytes) -> Labels | None:
    """Return the labels in a file of a medium's name, None if its suffix is not one of labels. Raises RecordError."""
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
    """Return (text, notes, domain) of a medium with labels.

    Args:
        kinds: kinds of shapes that the text spells out.
    Raises:
        RecordError: the labels do not fit the medium: `bad_annotation`, `wrong_size`, `shape_outside`, `event_outside`,
            or there are too many.
    """
    if isinstance(labels, tuple):
        text, event_notes = events.events_text(labels, medium)
        return text, {"events": event_notes}, "video"
    if medium.kind != "image":
        raise RecordError("bad_annotation", "shapes on a video, expected an image")
    if isinstance(labels, PrintedPage):
        text, domain = ocr.print_text(labels, medium), "ocr"
    else:
        text, domain = shapes.shapes_text(labels, medium, kinds), "perception"
    return text, {"shapes": list(text.shapes)}, domain
