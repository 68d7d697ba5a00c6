"""What the file beside a picture or clip says about it: a caption, labels, or the table that a chart shows."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Literal

from manifests.errors import RecordError
from pipelines.ingest.annotations import fields, labels
from pipelines.ingest.annotations.labels import Labels
from pipelines.ingest.formats import rows, text
from pipelines.ingest.formats.file import FolderFile, read_file

MOST_CAPTION_BYTES = 4 << 20

Fallback = Literal["folder_name", "file_name", "none"]


@dataclass(frozen=True)
class MediumCaption:
    text: str
    rights: fields.RecordRights = fields.NO_RIGHTS
    labels: Labels | None = None
    """Say it instead of `text`."""
    domain: str = "caption"


def read_caption(base: Path, file: FolderFile, text_fields: Sequence[str]) -> MediumCaption:
    """The caption that a sibling file holds. Raises RecordError where it holds none that can be read."""
    data = read_file(base, file, MOST_CAPTION_BYTES)
    match file.suffix:
        case ".csv" if is_table(file):
            return MediumCaption(_table(text.decode_text(data)[0]), domain="knowledge")
        case ".json":
            record = rows.parse_json(data)
            if (told := labels.of_row(record)) is not None:
                return MediumCaption("", fields.record_rights(record), told)
            domain = fields.record_domain(record) or "caption"
            return MediumCaption(
                fields.find_text(record, text_fields).text.strip(), fields.record_rights(record), domain=domain
            )
    told = labels.of_file(file.path, data)
    return MediumCaption(text.decode_text(data)[0].strip()) if told is None else MediumCaption("", labels=told)


def is_table(file: FolderFile) -> bool:
    """Whether a CSV file that has a picture's name is the table that this picture shows, as ChartQA has it."""
    return PurePosixPath(file.path).parent.name == "tables"


def _table(content: str) -> str:
    """CSV as a table of Markdown. Raises RecordError: `bad_table`, `no_text`."""
    try:
        rows = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in csv.reader(StringIO(content))]
    except csv.Error as error:
        raise RecordError("bad_table", str(error)) from None
    rows = [row for row in rows if any(row)]
    if not rows:
        raise RecordError("no_text", "a table without cells")
    if len({len(row) for row in rows}) > 1:
        raise RecordError("bad_table", "rows of different lengths")
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def caption_from_name(path: str, fallback: Fallback) -> tuple[str, Fallback]:
    """(words, which name they are from): words of the wanted name without numbers, or of the other if it has none."""
    pure = PurePosixPath(path)
    names: dict[Fallback, str] = {"folder_name": pure.parent.name, "file_name": pure.stem}
    for origin in sorted(names, key=lambda name: name != fallback) if fallback != "none" else ():
        if words := re.findall(r"[^\W\d_]{2,}", names[origin]):
            return " ".join(words), origin
    return "", "none"
