"""Reader of plain text and code: one document per file, several for a large file.

Encodings are the business of `formats/text.py`. A compressed file is read whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from manifests.errors import RecordError
from manifests.records import Document, Text
from pipelines.ingest.formats.file import FolderFile, read_file
from pipelines.ingest.formats.rows import read_unpacked
from pipelines.ingest.formats.suffixes import COMPRESSIONS
from pipelines.ingest.formats.text import decode_text
from pipelines.ingest.readers.context import FolderItem, ReadContext, encoding_note

MOST_TEXT_BYTES = 64 << 20


def documents(item: FolderItem, context: ReadContext) -> Sequence[Document]:
    """Return the document of one piece of a text file. Its locator ends in `#OFFSET` where the piece is not the first.

    The domain is `code` for the reader `code`, otherwise `text_domain` of the rules.
    """
    locator = item.locator + (f"#{item.piece.start}" if item.piece and item.piece.start else "")
    return context.attempt_document(locator, _document, item, context, locator)


def _document(item: FolderItem, context: ReadContext, locator: str) -> Document:
    """Raises RecordError: `no_text`, `too_large`, and the reasons of `decode_text` and `read_unpacked`."""
    assert item.file is not None
    text, encoding = decode_text(_bytes(item, context, item.file))
    if not text.strip():
        raise RecordError("no_text", "nothing but white space")
    domain = "code" if item.reader == "code" else context.rules.text_domain
    return context.document(locator, domain, [Text(text)], notes=encoding_note(encoding))


def _bytes(item: FolderItem, context: ReadContext, file: FolderFile) -> bytes:
    """Bytes of the whole file, of one piece of it, or of its uncompressed content."""
    if file.suffix.endswith(COMPRESSIONS):
        assert item.piece is not None
        return read_unpacked(context.path(file), file.suffix, item.piece)
    if item.piece is None or len(file.pieces) == 1:
        return read_file(context.base, file, MOST_TEXT_BYTES)
    if item.piece.stop - item.piece.start > MOST_TEXT_BYTES:
        raise RecordError("too_large", f"{item.piece.stop - item.piece.start} bytes without a line end")
    with context.path(file).open("rb") as opened:
        opened.seek(item.piece.start)
        return opened.read(item.piece.stop - item.piece.start)
