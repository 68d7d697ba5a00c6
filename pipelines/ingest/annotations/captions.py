"""Captions of images and videos: from a file of the same name, or from the name of a file or folder.

`ingest/readers/media_files.py` calls `read_caption` for the files that `ingest/pairing.py` found. Such a file holds a
caption, labels (`labels.py`), or the table that a chart shows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Literal

from manifests.errors import RecordError
from pipelines.ingest.annotations import labels
from pipelines.ingest.annotations.fields import NO_RIGHTS, RecordRights, find_text, record_domain, record_rights
from pipelines.ingest.annotations.labels import Labels
from pipelines.ingest.formats.file import FolderFile, read_file
from pipelines.ingest.formats.rows import parse_json
from pipelines.ingest.formats.text import decode_text

MOST_CAPTION_BYTES = 4 << 20

Fallback = Literal["folder_name", "file_name", "none"]


@dataclass(frozen=True)
class MediumCaption:
    """Content of a caption file."""

    text: str
    rights: RecordRights = NO_RIGHTS
    labels: Labels | None = None
    """Labels of the medium. Their text replaces `text`."""
    domain: str = "caption"


def read_caption(base: Path, file: FolderFile, text_fields: Sequence[str]) -> MediumCaption:
    """Read a file that has the name of an image or video.

    Args:
        base: the ingested folder.
        text_fields: fields of a JSON record that are its text; empty for the rules of `fields.py`.
    Raises:
        RecordError: the file holds neither a caption nor labels that can be read.
    """
    data = read_file(base, file, MOST_CAPTION_BYTES)
    match file.suffix:
        case ".csv" if is_table(file):
            return MediumCaption(_markdown_table(decode_text(data)[0]), domain="knowledge")
        case ".json":
            record = parse_json(data)
            if (label := labels.of_row(record)) is not None:
                return MediumCaption("", record_rights(record), label)
            words = find_text(record, text_fields).text.strip()
            return MediumCaption(words, record_rights(record), domain=record_domain(record) or "caption")
    label = labels.of_file(file.path, data)
    return MediumCaption(decode_text(data)[0].strip()) if label is None else MediumCaption("", labels=label)


def is_table(file: FolderFile) -> bool:
    """Whether a CSV file is the table that the chart of its name shows, as in ChartQA: it is in a folder `tables`."""
    return PurePosixPath(file.path).parent.name == "tables"


def _markdown_table(content: str) -> str:
    """CSV as a table in Markdown. Raises RecordError: `bad_table`, `no_text`."""
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
    """Return (words, the name that they are from).

    They are the words of the wanted name without numbers. If it has none, those of the other name; if neither has any,
    ("", "none").
    """
    pure = PurePosixPath(path)
    names: dict[Fallback, str] = {"folder_name": pure.parent.name, "file_name": pure.stem}
    for origin in sorted(names, key=lambda name: name != fallback) if fallback != "none" else ():
        if words := re.findall(r"[^\W\d_]{2,}", names[origin]):
            return " ".join(words), origin
    return "", "none"
