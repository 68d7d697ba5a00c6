"""Reader of web crawls (WARC, ARC): one document per page.

`formats/warc.py` finds the records, `formats/html.py` extracts the text of pages in a sandbox. The URL of a page is the
origin of its document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from manifests.errors import RecordError
from manifests.records import Document, Json, Text
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.formats import html, warc
from pipelines.ingest.readers.context import FolderItem, ReadContext, encoding_note

PAGES_TOGETHER, MOST_BYTES_TOGETHER = 16, 4 << 20
"""Limits of one call of the sandbox: pages, and bytes."""


def documents(item: FolderItem, context: ReadContext) -> Iterator[Document]:
    """Yield the pages of one piece of an archive. Records of other kinds are counted and passed over."""
    assert item.file is not None and item.piece is not None
    path, compressed = context.path(item.file), item.file.suffix.endswith(".gz")
    waiting: list[tuple[str, html.CrawlRecord]] = []
    for place, record in warc.read_records(path, compressed, item.piece):
        if isinstance(record, str):
            context.attempt.note(record)
        elif isinstance(record, RecordError):
            context.refuse(item.locator + place, record.reason, record.message)
        else:
            waiting.append((item.locator + place, record))
        if len(waiting) >= PAGES_TOGETHER or sum(len(record.block) for _, record in waiting) > MOST_BYTES_TOGETHER:
            yield from _pages(waiting, context)
            waiting = []
    yield from _pages(waiting, context)


def _pages(records: Sequence[tuple[str, html.CrawlRecord]], context: ReadContext) -> Iterator[Document]:
    pages = html.extract_pages([record for _, record in records], context.rules.html_extractor)
    for (locator, record), page in zip(records, pages, strict=True):
        if isinstance(page, html.PageText) and page.passed_over:
            context.attempt.note(page.passed_over)
        else:
            yield from context.attempt_document(locator, _page_document, locator, record, page, context)


def _page_document(
    locator: str, record: html.CrawlRecord, page: html.PageText | RecordError, context: ReadContext
) -> Document:
    if isinstance(page, RecordError):
        raise page
    notes: dict[str, Json] = {"date": record.date, "content_type": page.content_type, **encoding_note(page.encoding)}
    notes |= {"title": page.title} if page.title else {}
    return context.document(locator, "web", [Text(page.words)], (), notes, RecordRights(origin=record.url))
