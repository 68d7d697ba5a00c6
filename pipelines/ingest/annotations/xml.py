"""XML from strangers, beside a picture: Pascal VOC, which says what is where, or ALTO, which says what is written.

Entities are refused before anything is parsed, so that nothing in a file can grow; the size is bounded by the reader.
"""

from __future__ import annotations

from xml.etree import ElementTree

from manifests.errors import RecordError
from pipelines.ingest.annotations import ocr
from pipelines.ingest.annotations.shapes import MOST_INSTANCES, AnnotatedImage, Instance, box, name_of
from pipelines.ingest.formats import text


def labels(data: bytes) -> AnnotatedImage | ocr.PrintedPage:
    """Raises RecordError `bad_annotation` for what is no annotation that we know."""
    found = _root(data)
    match found.tag.rpartition("}")[2]:
        case "annotation":
            return voc(found)
        case "alto":
            return ocr.alto(found)
    raise RecordError("bad_annotation", f"<{text.printable(found.tag[:60])}> is neither Pascal VOC nor ALTO")


def _root(data: bytes) -> ElementTree.Element:
    """Raises RecordError `bad_annotation`."""
    content, _ = text.decode_text(data)
    if "<!DOCTYPE" in content or "<!ENTITY" in content:
        raise RecordError("bad_annotation", "XML that declares entities is not opened")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, RecursionError) as error:
        raise RecordError("bad_annotation", f"not XML: {error}") from None


def voc(annotation: ElementTree.Element) -> AnnotatedImage:
    """Pascal VOC: `<object><name>` with `<bndbox>`. Raises RecordError `bad_annotation`.

    Its boxes count pixels from 1 and name the first and the last one, so that box 1, 1, 1, 1 is one pixel large.
    """
    objects = annotation.findall("object")
    if len(objects) > MOST_INSTANCES:
        raise RecordError("bad_annotation", f"{len(objects)} objects, the limit is {MOST_INSTANCES}")
    width, height = (_number(annotation, f"size/{side}") for side in ("width", "height"))
    size = (round(width), round(height)) if width > 0 and height > 0 else None
    return AnnotatedImage(tuple(map(_object, objects)), size)


def _object(one: ElementTree.Element) -> Instance:
    name = name_of(one.findtext("name"))
    left, top, right, bottom = (_number(one, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    return Instance(name, (box(name, left - 1, top - 1, right, bottom),))


def _number(one: ElementTree.Element, path: str) -> float:
    """0 where nothing is said; NaN and infinity are no numbers."""
    said = one.findtext(path)
    if said is None and path.startswith("size/"):
        return 0.0
    try:
        value = float(said or "nan")
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise RecordError("bad_annotation", f"{path} is {text.printable(repr(said)[:40])}")
    return value
