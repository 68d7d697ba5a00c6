"""Table of the file formats that `ingest_folder` reads, and the call of the reader of an item.

`pairing.py` turns a folder into items, the readers (`readers/`) turn items into documents, `folder.py` stores these. A
new format is one module in `readers/` with a function `documents(item, context)`, and one line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.records import Document
from pipelines.ingest.formats import suffixes
from pipelines.ingest.formats.file import FolderFile
from pipelines.ingest.readers import crawl_files, media_files, page_files, pdf_files, row_files, text_files
from pipelines.ingest.readers.context import FolderItem, ReadContext

References = Callable[[Path, FolderFile, Sequence[str]], Iterable[str]]


@dataclass(frozen=True)
class FormatReader:
    """A group of file formats and the function that reads them."""

    name: str
    """Part of the digest of every item: a renamed reader reads its files again."""
    suffixes: tuple[str, ...]
    documents: Callable[[FolderItem, ReadContext], Iterable[Document]]
    references: References | None = None
    """Function (folder, file, `text_fields`) -> targets of the media that a file refers to. Such media belong to the
    file, and are no records of their own."""
    searches: bool = False
    """Whether a medium that is not at its target is searched in the whole folder, by the end of its path."""


_ROWS = (*suffixes.JSONS, *suffixes.TRAJECTORIES, *suffixes.DELIMITED, *suffixes.COLUMNAR)

READERS = (
    FormatReader("text", suffixes.TEXTS, text_files.documents),
    FormatReader("code", suffixes.CODES, text_files.documents),
    FormatReader("markdown", suffixes.MARKDOWNS, page_files.markdown_documents, page_files.markdown_references),
    FormatReader("page", suffixes.HTMLS, page_files.html_documents, page_files.html_references),
    FormatReader("pdf", suffixes.PDFS, pdf_files.documents),
    FormatReader("rows", _ROWS, row_files.documents, row_files.media_references, searches=True),
    FormatReader("archive", suffixes.CRAWLS, crawl_files.documents),
    FormatReader("image", suffixes.IMAGES, media_files.documents),
    FormatReader("video", suffixes.VIDEOS, media_files.documents),
    FormatReader("annotated", (), media_files.annotated_documents),
)
"""All readers. `pairing.py` assigns `annotated` to the images that a COCO file lists."""

BY_NAME = {reader.name: reader for reader in READERS}
BY_SUFFIX = {suffix: reader for reader in READERS for suffix in reader.suffixes}


def documents(item: FolderItem, context: ReadContext) -> Iterable[Document]:
    """Return the documents of one item in reading order. Bad records go to quarantine (`context.attempt`).

    Raises:
        StoreError: a file has changed since the survey.
    """
    if item.file is None or item.reader == "refused":
        context.refuse(item.locator, *item.refusal)
        return ()
    return BY_NAME[item.reader].documents(item, context)
