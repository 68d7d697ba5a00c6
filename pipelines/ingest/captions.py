"""What the file beside a picture or clip says about it: plain text, JSON, or XML that says what is where."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pipelines.ingest import fields, lines, markup, text
from pipelines.ingest.files import File, read
from pipelines.ingest.shapes import Annotated

MOST_CAPTION_BYTES = 4 << 20

Fallback = Literal["folder_name", "file_name", "none"]


@dataclass(frozen=True)
class Caption:
    text: str
    rights: fields.Rights = fields.NOTHING_SAID
    annotated: Annotated | None = None
    """Says it instead of `text`."""


def beside(base: Path, file: File, text_fields: Sequence[str]) -> Caption:
    """The caption that a sibling file holds. Raises RecordError where it holds none that can be read."""
    data = read(base, file, MOST_CAPTION_BYTES)
    match file.suffix:
        case ".xml":
            return Caption("", annotated=markup.annotated(data))
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
