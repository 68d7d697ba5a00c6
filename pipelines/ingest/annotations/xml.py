"""XML files of labels: Pascal VOC (objects with boxes) and ALTO (printed text).

`labels.py` calls `labels` for the XML file of an image's name. The files come from strangers: a file that declares
entities is refused before it is parsed, so that nothing in it can expand, and `captions.py` limits its size.
"""

from __future__ import annotations

from xml.etree import ElementTree

from manifests.errors import RecordError
from pipelines.ingest.annotations import ocr
from pipelines.ingest.annotations.shapes import MOST_INSTANCES, AnnotatedImage, Instance, box, name_of
from pipelines.ingest.formats.text import decode_text, printable


def labels(data: bytes) -> AnnotatedImage | ocr.PrintedPage:
    """Read Pascal VOC or ALTO. Raises RecordError: `bad_annotation`, `no_text`, and the reasons of `decode_text`."""
    root = _root(data)
    match root.tag.rpartition("}")[2]:
        case "annotation":
            return voc(root)
        case "alto":
            return ocr.alto(root)
    raise RecordError("bad_annotation", f"<{printable(root.tag[:60])}> is neither Pascal VOC nor ALTO")


def _root(data: bytes) -> ElementTree.Element:
    """Root element of a file. Raises RecordError `bad_annotation`."""
    content, _ = decode_text(data)
    if "<!DOCTYPE" in content or "<!ENTITY" in content:
        raise RecordError("bad_annotation", "XML that declares entities is not opened")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, RecursionError) as error:
        raise RecordError("bad_annotation", f"not XML: {error}") from None


def voc(annotation: ElementTree.Element) -> AnnotatedImage:
    """Read Pascal VOC: `<object><name>` with `<bndbox>`. Raises RecordError `bad_annotation`.

    Boxes count pixels from 1 and give the first and the last pixel. The box 1, 1, 1, 1 is one pixel large.
    """
    objects = annotation.findall("object")
    if len(objects) > MOST_INSTANCES:
        raise RecordError("bad_annotation", f"{len(objects)} objects, the limit is {MOST_INSTANCES}")
    width, height = (_number(annotation, f"size/{side}") for side in ("width", "height"))
    size = (round(width), round(height)) if width > 0 and height > 0 else None
    return AnnotatedImage(tuple(map(_object, objects)), size)


def _object(element: ElementTree.Element) -> Instance:
    name = name_of(element.findtext("name"))
    left, top, right, bottom = (_number(element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    return Instance(name, (box(name, left - 1, top - 1, right, bottom),))


def _number(element: ElementTree.Element, path: str) -> float:
    """Number below an element; 0 for a size that is not given. Raises RecordError `bad_annotation`, also for NaN."""
    written = element.findtext(path)
    if written is None and path.startswith("size/"):
        return 0.0
    try:
        value = float(written or "nan")
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise RecordError("bad_annotation", f"{path} is {printable(repr(written)[:40])}")
    return value
