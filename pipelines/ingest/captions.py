"""What the file beside a picture or clip says about it: plain text, JSON, or Pascal VOC boxes.

Used by `pipelines/ingest/folder.py`. A detection file becomes a sentence with counts ("12 RBC, 1 WBC"), which is text
whose truth can be checked, and its boxes go into the notes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from xml.etree import ElementTree

from manifests.errors import RecordError
from manifests.records import Json
from pipelines.ingest import fields, lines, text
from pipelines.ingest.files import File, read

MOST_CAPTION_BYTES = 1 << 20
MOST_BOXES = 10_000

Fallback = Literal["folder_name", "file_name", "none"]


@dataclass(frozen=True)
class Caption:
    text: str
    facts: tuple[tuple[str, int, int], ...] = ()
    """(name, start, stop) in characters of `text`."""
    notes: tuple[tuple[str, Json], ...] = ()
    domain: str | None = None
    rights: fields.Rights = fields.NOTHING_SAID


def beside(base: Path, file: File, text_fields: Sequence[str]) -> Caption:
    """The caption that a sibling file holds. Raises RecordError where it holds none that can be read."""
    data = read(base, file, MOST_CAPTION_BYTES)
    match file.suffix:
        case ".xml":
            return voc(data)
        case ".json":
            record = lines.parse(data)
            return Caption(fields.find(record, text_fields).text.strip(), rights=fields.rights(record))
        case _:
            return Caption(text.decode(data)[0].strip())


def from_name(path: str, fallback: Fallback) -> tuple[str, Fallback]:
    """(words, which name they are from): words of the wanted name without numbers, or of the other if it has none."""
    pure = PurePosixPath(path)
    names: dict[Fallback, str] = {"folder_name": pure.parent.name, "file_name": pure.stem}
    for origin in sorted(names, key=lambda name: name != fallback) if fallback != "none" else ():
        if words := re.findall(r"[^\W\d_]{2,}", names[origin]):
            return " ".join(words), origin
    return "", "none"


def voc(data: bytes) -> Caption:
    """Pascal VOC: `<object><name>` with `<bndbox>`. Raises RecordError `bad_annotation`.

    Boxes are noted as [name, left, top, right, bottom] in pixels as the file has them (VOC counts from 1).
    """
    content, _ = text.decode(data)
    if "<!DOCTYPE" in content or "<!ENTITY" in content:
        raise RecordError("bad_annotation", "XML that declares entities is not opened")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, RecursionError) as error:
        raise RecordError("bad_annotation", f"not XML: {error}") from None
    if root.tag != "annotation":
        raise RecordError("bad_annotation", f"<{root.tag[:60]}> is not a Pascal VOC annotation")
    objects = root.findall("object")
    if len(objects) > MOST_BOXES:
        raise RecordError("bad_annotation", f"{len(objects)} objects, the limit is {MOST_BOXES}")
    boxes = [_box(one) for one in objects]
    counts = Counter(name for name, *_ in boxes)
    words: list[str] = []
    facts: list[tuple[str, int, int]] = []
    at = 0
    for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        number = str(count)
        facts.append(("count", at, at + len(number)))
        words.append(f"{number} {name}")
        at += len(words[-1]) + len(", ")
    return Caption(", ".join(words), tuple(facts), (("boxes", boxes),), "perception")


def _box(one: ElementTree.Element) -> list[Json]:
    name = (one.findtext("name") or "").strip()
    if not name or len(name) > 200:
        raise RecordError("bad_annotation", "an object without a name")
    try:
        corners = [round(float(one.findtext(f"bndbox/{side}") or "nan")) for side in ("xmin", "ymin", "xmax", "ymax")]
    except (ValueError, OverflowError):
        raise RecordError("bad_annotation", f"the box of {name!r} is no four numbers") from None
    return [name, *corners]
