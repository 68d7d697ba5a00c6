"""Reader of Markdown and HTML: one document per file, text and media in reading order.

`formats/markdown.py` and `formats/html.py` parse the text and find the links to media.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from manifests.errors import RecordError
from manifests.records import Document, Json, Media, Part, Text
from pipelines.ingest.formats import html, markdown
from pipelines.ingest.formats.file import FolderFile, read_file
from pipelines.ingest.formats.media import load_media
from pipelines.ingest.formats.text import decode_text, printable
from pipelines.ingest.readers.context import MOST_MEDIA_BYTES, FolderItem, ReadContext, encoding_note

MOST_PAGE_BYTES = 16 << 20


def markdown_documents(item: FolderItem, context: ReadContext) -> Iterator[Document]:
    """Yield the document of a Markdown file. Its domain is `interleaved` with media, otherwise `text_domain`."""
    return _documents(item, context, _read_markdown, context.rules.text_domain)


def html_documents(item: FolderItem, context: ReadContext) -> Iterator[Document]:
    """Yield the document of an HTML file. Its domain is `interleaved` with media, otherwise `web`."""
    return _documents(item, context, _read_html, "web")


def markdown_references(base: Path, file: FolderFile, text_fields: Sequence[str]) -> Iterator[str]:
    """Yield the targets of the media links of a Markdown file. Raises RecordError."""
    content = decode_text(read_file(base, file, MOST_PAGE_BYTES))[0]
    return (link.target for link in markdown.read_markdown(content).links)


def html_references(base: Path, file: FolderFile, text_fields: Sequence[str]) -> Iterator[str]:
    """Yield the targets of the images of an HTML file. Raises RecordError."""
    return iter(html.image_targets(read_file(base, file, MOST_PAGE_BYTES)))


_ReadPage = Callable[[FolderFile, ReadContext], tuple[markdown.InterleavedText, str]]


def _documents(item: FolderItem, context: ReadContext, read: _ReadPage, text_domain: str) -> Iterator[Document]:
    """A missing medium is left out of the document and noted. A damaged one is also put into quarantine."""
    assert item.file is not None
    content_and_encoding = context.attempt(item.locator, read, item.file, context)
    if content_and_encoding is None:
        return
    content, encoding = content_and_encoding
    left_out: list[list[str]] = []
    loaded: dict[str, Media | None] = {}
    for link in content.links:
        if link.target not in loaded:
            loaded[link.target] = _load(item, context, link.target, loaded, left_out)
    notes: dict[str, Json] = encoding_note(encoding)
    notes |= {"title": content.title} if content.title else {}
    notes |= {"media_left_out": left_out} if left_out else {}
    yield from context.attempt_document(
        item.locator, _interleaved, item.locator, content, loaded, notes, text_domain, context
    )


def _read_markdown(file: FolderFile, context: ReadContext) -> tuple[markdown.InterleavedText, str]:
    """(content, encoding). Raises RecordError: `no_text`, `too_large`, and the reasons of `decode_text`."""
    content, encoding = decode_text(read_file(context.base, file, MOST_PAGE_BYTES))
    if not content.strip():
        raise RecordError("no_text", "nothing but white space")
    return markdown.read_markdown(content), encoding


def _read_html(file: FolderFile, context: ReadContext) -> tuple[markdown.InterleavedText, str]:
    """(content, encoding). Raises RecordError: `too_large`, and the reasons of `read_html`."""
    return html.read_html(read_file(context.base, file, MOST_PAGE_BYTES), context.rules.html_extractor)


def _load(
    item: FolderItem,
    context: ReadContext,
    target: str,
    loaded: Mapping[str, Media | None],
    left_out: list[list[str]],
) -> Media | None:
    """Load the medium of a link. Where that is impossible, add (target, reason) to `left_out` and return None."""
    assert item.file is not None
    try:
        path = markdown.resolve_target(target, item.file.path)
        file = (item.media or {}).get(path)
        if file is None:
            raise RecordError("missing_media")
        if not file.is_medium:
            raise RecordError("unsupported_format")
        held = sum(len(medium.payload or b"") for medium in loaded.values() if medium)
        if held + file.size > MOST_MEDIA_BYTES:
            raise RecordError("too_many_bytes")
    except RecordError as error:
        left_out.append([printable(target[:200]), error.reason])
        context.attempt.note(error.reason)
        return None
    medium = context.attempt(f"{item.locator} -> {file.locator}", load_media, context.base, file)
    if medium is None:
        left_out.append([printable(target[:200]), "damaged_media"])
    return medium


def _interleaved(
    locator: str,
    content: markdown.InterleavedText,
    loaded: Mapping[str, Media | None],
    notes: Mapping[str, Json],
    text_domain: str,
    context: ReadContext,
) -> Document:
    """Media at the places of their links. The alternative text follows its medium, and replaces a missing one."""
    parts: list[Part] = []
    words = ""
    for piece in content.pieces:
        if isinstance(piece, str):
            words += piece
            continue
        medium = loaded[piece.target]
        if medium is not None:
            parts += [Text(words)] if words else []
            parts.append(medium)
            words = ""
        words += piece.alt
    parts += [Text(words)] if words else []
    has_media = any(isinstance(part, Media) for part in parts)
    return context.document(locator, "interleaved" if has_media else text_domain, parts, (), notes)
