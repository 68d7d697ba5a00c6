"""Reader of PDF files: each page as an image followed by its text layer.

`formats/pdf_child.py` draws the pages in a sandbox of its own. A long file becomes several documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import sha256

from manifests.errors import RecordError
from manifests.records import Document, Json, Media, Part, Text
from pipelines.ingest.readers.context import MOST_MEDIA_BYTES, FolderItem, ReadContext
from stores.media.sandbox import Sandbox

MOST_PDF_BYTES = 512 << 20
MOST_PAGE_CPU_S = 30
"""CPU seconds for one page; most take 0.1 s."""


def documents(item: FolderItem, context: ReadContext) -> Iterator[Document]:
    """Yield one document per `pdf_pages` pages. Of a longer file, the locator ends in `#FIRST_PAGE`, from 1."""
    assert item.file is not None
    path = str(context.path(item.file))
    info = context.attempt(item.locator, pdf_info, path, item.file.size)
    if info is None:
        return
    count, title = info
    step = context.rules.pdf_pages
    for first in range(0, count, step):
        numbers = range(first, min(count, first + step))
        locator = item.locator + (f"#{first + 1}" if count > step else "")
        yield from context.attempt_document(locator, _pages_document, locator, path, numbers, title, context)


def _pages_document(locator: str, path: str, numbers: range, title: str, context: ReadContext) -> Document:
    """A damaged page is left out. Raises RecordError `bad_pdf` where no page can be drawn."""
    parts: list[Part] = []
    left_out: list[list[Json]] = []
    held = 0
    for number in numbers:
        try:
            image, words = draw_page(path, number, context.rules.pdf_dpi)
        except RecordError as error:  # the other pages may be good
            left_out.append([number + 1, error.reason])
            continue
        held += len(image.payload or b"")
        if held > MOST_MEDIA_BYTES:
            left_out.append([number + 1, "too_many_bytes"])
            continue
        parts += [image, Text(words)] if words.strip() else [image]
    if not parts:
        raise RecordError("bad_pdf", f"none of its pages can be drawn ({left_out[0][1]})")
    notes: dict[str, Json] = {"pages": [numbers.start + 1, numbers.stop]}
    notes |= {"title": title} if title else {}
    notes |= {"pages_left_out": left_out} if left_out else {}
    return context.document(locator, "ocr", parts, (), notes)


@cache
def _child() -> Sandbox:
    """The sandbox of this process. It is not the one for media, because a page may not take as long as a video."""
    return Sandbox(memory_bytes=2 << 30, cpu_s=MOST_PAGE_CPU_S)


def pdf_info(path: str, size: int) -> tuple[int, str]:
    """(number of pages, title) of a file of `size` bytes. Raises RecordError: `too_large`, and the reasons of
    `pdf_child.document_info`."""
    if size > MOST_PDF_BYTES:
        raise RecordError("too_large", f"{size} bytes, the limit is {MOST_PDF_BYTES}")
    pages, title = _child().call("pipelines.ingest.formats.pdf_child:document_info", path)
    return pages, title


def draw_page(path: str, number: int, dpi: int) -> tuple[Media, str]:
    """(image, text layer) of a page, counted from 0. Raises RecordError: the reasons of `pdf_child.draw_page`."""
    png, width_px, height_px, words = _child().call("pipelines.ingest.formats.pdf_child:draw_page", path, number, dpi)
    return Media(sha256(png).hexdigest(), "image", "png", width_px, height_px, payload=png), words
