"""Items of a folder to documents: plain text and code, rows, Markdown with media, pictures and clips.

Between `pairing.py`, which says what belongs together, and the writer of the documents store. Every step that looks
inside a file is called through `attempt`, the one place that sets records aside; nothing here catches for that purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from manifests.errors import RecordError
from manifests.records import Document, Fact, Json, Media, Part, ShapeKind, Text, record_id
from pipelines.edits.normalize import normalize
from pipelines.ingest import walk
from pipelines.ingest.annotations import captions, coco, conversations, fields, labels, problems, shapes
from pipelines.ingest.annotations.labels import Labels
from pipelines.ingest.formats import html, markdown, media, text, warc
from pipelines.ingest.formats import rows as lines
from pipelines.ingest.formats.captured import Captured
from pipelines.ingest.pairing import MOST_MARKDOWN_BYTES, Item, is_medium
from pipelines.ingest.suffixes import PACKINGS
from pipelines.ingest.walk import File
from pipelines.node import Attempt

MOST_TEXT_BYTES = 64 << 20
MOST_MEDIA_BYTES = 256 << 20
"""Of one document, which stands in memory as a whole."""
PAGES_TOGETHER, MOST_BYTES_TOGETHER = 16, 4 << 20
"""Of an archive that go to the child process in one call."""
JUDGED_ROWS = 20
"""Where none of a file's first rows has text, the file is of some other kind and is set aside as one."""


@dataclass(frozen=True)
class Rules:
    """The parameters of `ingest_folder` that say how files are read; see there."""

    text_domain: str
    text_fields: tuple[str, ...]
    caption_fallback: captions.Fallback
    shapes_in_text: tuple[ShapeKind, ...]
    rights: fields.Rights
    """Of records that say nothing themselves."""
    html_extractor: html.Extractor = "resiliparse"
    pdf_dpi: int = 144
    pdf_pages: int = 16


@dataclass(frozen=True)
class Reader:
    base: Path
    source: str
    rules: Rules
    attempt: Attempt

    def documents(self, item: Item) -> Iterator[Document]:
        """All documents of one item, in reading order. Raises StoreError for a file that changes meanwhile."""
        if item.file is None or item.reader == "refused":
            self.attempt(item.locator, refuse, *item.refusal)
            return
        walk.check(self.base, item.file)
        match item.reader:
            case "rows":
                yield from self._rows(item, item.file)
            case "markdown" | "page":
                yield from self._markdown(item, item.file)
            case "annotated":
                yield from _one(self.attempt(item.locator, self._annotated, item, item.file))
            case "pdf":
                yield from self._pdf(item, item.file)
            case "archive":
                yield from self._archive(item, item.file)
            case "image" | "video":
                yield from _one(self.attempt(item.locator, self._medium, item, item.file))
            case _:
                at = f"#{item.piece.start}" if item.piece and item.piece.start else ""
                yield from _one(self.attempt(item.locator + at, self._text, item, item.file, item.locator + at))

    def _document(
        self,
        locator: str,
        domain: str,
        parts: Sequence[Part],
        facts: Sequence[Fact],
        notes: Mapping[str, Json],
        rights: fields.Rights = fields.NOTHING_SAID,
    ) -> Document:
        """Every document is made here: identity, rights, then `normalize`."""
        identity = record_id(self.source, locator)
        known = asdict(rights.or_else(self.rules.rights))
        made = Document(identity, self.source, locator, domain, tuple(parts), tuple(facts), dict(notes), **known)
        return normalize(made)

    def _text(self, item: Item, file: File, locator: str) -> Document:
        content, encoding = text.decode(_bytes(self.base, item, file))
        if not content.strip():
            raise RecordError("no_text", "nothing but white space")
        domain = "code" if item.reader == "code" else self.rules.text_domain
        return self._document(locator, domain, [Text(content)], [], _encoding(encoding))

    def _medium(self, item: Item, file: File) -> Document:
        medium = media.load(self.base, file)
        problems = []
        for sibling in item.captions:
            try:
                caption = captions.beside(self.base, sibling, self.rules.text_fields)
            except RecordError as error:  # another sibling may do; the picture is refused if none does
                problems.append(f"{sibling.locator}: {error.reason}")
                continue
            return self._captioned(item.locator, medium, caption, sibling.locator)
        if problems:
            raise RecordError("bad_caption", "; ".join(problems))
        words, origin = captions.from_name(file.locator, self.rules.caption_fallback)
        return self._captioned(item.locator, medium, captions.Caption(words), origin)

    def _captioned(self, locator: str, medium: Media, caption: captions.Caption, origin: str) -> Document:
        notes = {"caption_from": origin}
        if caption.labels is not None:
            return self._labelled(locator, medium, caption.labels, notes, caption.rights)
        domain = "video" if medium.kind == "video" else caption.domain
        return self._document(locator, domain, _shown(medium, caption.text), [], notes, caption.rights)

    def _annotated(self, item: Item, file: File) -> Document:
        """A picture of which a file about many pictures tells."""
        read = coco.read(item.told)
        medium = media.load(self.base, file)
        notes: dict[str, Json] = {"file_name": file.locator}
        if read.annotated is not None:
            for reason in read.annotated.left_out:
                self.attempt.note(reason)
            return self._labelled(item.locator, medium, read.annotated, notes, read.rights)
        return self._document(item.locator, "caption", _shown(medium, "\n".join(read.captions)), [], notes, read.rights)

    def _labelled(
        self,
        locator: str,
        medium: Media,
        told_of: Labels,
        notes: Mapping[str, Json],
        rights: fields.Rights,
        row: Json = None,
    ) -> Document:
        """A medium and what its labels say as text; where they stand in a row that has a text, that is its text."""
        told, known, domain = labels.tell(told_of, medium, self.rules.shapes_in_text)
        facts = shapes.located(told, 1)
        words = told.text
        if row is not None and fields.has_text(row, self.rules.text_fields):
            found = fields.find(row, self.rules.text_fields)
            words, facts = found.text, (Fact("answer", 1, *found.answer),) if found.answer else ()
        domain = fields.domain(row) or domain
        return self._document(locator, domain, _shown(medium, words), facts, {**notes, **known}, rights)

    def _rows(self, item: Item, file: File) -> Iterator[Document]:
        assert item.piece is not None
        rows = lines.rows(walk.inside(self.base, file.path), file.suffix, item.piece)
        head = list(islice(rows, JUDGED_ROWS))
        if not head and item.piece.start == 0:
            self.attempt(item.locator, refuse, "no_text", "no rows")
        if head and all(self._foreign(parse) for _, parse in head):
            self.attempt(item.locator, refuse, "no_text_field", self._fields(head[0][1]()))
            return
        for at, parse in chain(head, rows):
            locator = item.locator + at
            yield from _one(self.attempt(locator, self._row, item, file, locator, parse))

    def _foreign(self, parse: Callable[[], Json]) -> bool:
        """A row that is whole, but has no text that we know of."""
        try:
            row = fields.asked(parse())
        except RecordError:
            return False
        known = labels.in_row(row) or conversations.holds_one(row)
        return not (known or fields.has_text(row, self.rules.text_fields))

    def _fields(self, row: Json) -> str:
        names = ", ".join(sorted(row)[:12]) if isinstance(row, dict) else type(row).__name__
        return f"no text among the fields of its first rows ({text.printable(names)}); see text_fields"

    def _row(self, item: Item, file: File, locator: str, parse: Callable[[], Json]) -> Document:
        row = fields.asked(parse())
        if not self.rules.text_fields and conversations.holds_one(row):
            return self._conversation(item, file, locator, row)
        loaded = [self._referenced(item, file, target) for target in fields.references(row)]
        notes, rights = fields.kept_notes(row) | problems.checkable(row), fields.rights(row)
        told_of = labels.of_row(row) if loaded else None
        if told_of is not None:
            if len(loaded) != 1:
                raise RecordError("bad_annotation", f"labels of {len(loaded)} pictures or clips")
            return self._labelled(locator, loaded[0], told_of, notes, rights, row)
        found = fields.find(row, self.rules.text_fields)
        answer = found.answer
        if answer and "answer" in notes:
            answer = problems.locate(notes["answer"], found.text, answer[0]) or answer
        if not loaded:
            facts = [Fact("answer", 0, *answer)] if answer else []
            domain = "code" if isinstance(row, dict) and "canonical_solution" in row else self.rules.text_domain
            domain = fields.domain(row) or domain
            return self._document(locator, domain, [Text(found.text)], facts, notes, rights)
        parts = _place(found.text, loaded)
        facts = [Fact("answer", len(parts) - 1, *answer)] if answer and parts[-1] == Text(found.text) else []
        asked = isinstance(row, dict) and "question" in row and answer
        domain = "video" if any(medium.kind == "video" for medium in loaded) else "knowledge" if asked else "caption"
        domain = fields.domain(row) or domain
        return self._document(locator, domain, parts, facts, notes, rights)

    def _conversation(self, item: Item, file: File, locator: str, row: dict[str, Json]) -> Document:
        talk = conversations.read(row, partial(self._referenced, item, file))
        notes = fields.kept_notes(row) | fields.kept_notes(row.get("info")) | problems.checkable(row)
        last = len(talk.parts) - 1
        said = talk.parts[last] if talk.messages[-1].role == "assistant" else None
        place = problems.locate(notes.get("answer"), said.text) if isinstance(said, Text) else None
        facts = [Fact("answer", last, *place)] if place else []
        kinds = {part.kind for part in talk.parts if isinstance(part, Media)}
        if talk.tools or any(message.calls for message in talk.messages):
            domain = "agent"
        else:
            domain = "video" if "video" in kinds else "interleaved" if kinds else self.rules.text_domain
        domain = fields.domain(row) or domain
        return self._document(locator, domain, talk.parts, facts, notes | talk.notes, fields.rights(row))

    def _referenced(self, item: Item, file: File, target: str) -> Media:
        """A medium that a row names or holds. The row's text is about it, so without it there is no record."""
        if target.startswith("data:"):
            return media.image(conversations.data_uri(target))
        known = (item.media or {}).get(markdown.resolve(target, file.path))
        if known is None or not is_medium(known):
            raise RecordError("missing_media", f"{text.printable(target[:200])} is no picture or clip of the folder")
        return media.load(self.base, known)

    def _markdown(self, item: Item, file: File) -> Iterator[Document]:
        """A document arrives without the media that are missing; each damaged one is set aside under its own name."""
        how = self._read_page if item.reader == "page" else self._read_markdown
        read = self.attempt(item.locator, how, file)
        if read is None:
            return
        content, encoding = read
        left_out: list[list[str]] = []
        loaded: dict[str, Media | None] = {}
        for link in content.links:
            if link.target not in loaded:
                loaded[link.target] = self._figure(item, file, link.target, loaded, left_out)
        notes: dict[str, Json] = {**_encoding(encoding)}
        notes |= {"title": content.title} if content.title else {}
        notes |= {"media_left_out": left_out} if left_out else {}
        domain = "web" if item.reader == "page" else self.rules.text_domain
        yield from _one(self.attempt(item.locator, self._interleaved, item.locator, content, loaded, notes, domain))

    def _read_markdown(self, file: File) -> tuple[markdown.Interleaved, str]:
        content, encoding = text.decode(walk.read(self.base, file, MOST_MARKDOWN_BYTES))
        if not content.strip():
            raise RecordError("no_text", "nothing but white space")
        return markdown.read(content), encoding

    def _read_page(self, file: File) -> tuple[markdown.Interleaved, str]:
        return html.read(walk.read(self.base, file, MOST_MARKDOWN_BYTES), self.rules.html_extractor)

    def _archive(self, item: Item, file: File) -> Iterator[Document]:
        """What else a crawler writes down, and what is no text, is counted and passed over."""
        assert item.piece is not None
        path, packed = walk.inside(self.base, file.path), file.suffix.endswith(".gz")
        waiting: list[tuple[str, Captured]] = []
        for at, record in warc.records(path, packed, item.piece):
            if isinstance(record, str):
                self.attempt.note(record)
            elif isinstance(record, RecordError):
                self.attempt(item.locator + at, refuse, record.reason, record.message)
            else:
                waiting.append((item.locator + at, record))
            if len(waiting) >= PAGES_TOGETHER or sum(len(one.block) for _, one in waiting) > MOST_BYTES_TOGETHER:
                yield from self._captured(waiting)
                waiting = []
        yield from self._captured(waiting)

    def _captured(self, records: Sequence[tuple[str, Captured]]) -> Iterator[Document]:
        read = html.captured([record for _, record in records], self.rules.html_extractor)
        for (locator, record), found in zip(records, read, strict=True):
            if isinstance(found, html.Text) and found.passed_over:
                self.attempt.note(found.passed_over)
            else:
                yield from _one(self.attempt(locator, self._page, locator, record, found))

    def _page(self, locator: str, record: Captured, found: html.Text | RecordError) -> Document:
        if isinstance(found, RecordError):
            raise found
        notes: dict[str, Json] = {"date": record.date, "content_type": found.content_type, **_encoding(found.encoding)}
        notes |= {"title": found.title} if found.title else {}
        return self._document(locator, "web", [Text(found.words)], [], notes, fields.Rights(origin=record.url))

    def _pdf(self, item: Item, file: File) -> Iterator[Document]:
        path = str(walk.inside(self.base, file.path))
        looked = self.attempt(item.locator, media.look_at_pdf, path, file.size)
        if looked is None:
            return
        count, title = looked
        for first in range(0, count, self.rules.pdf_pages):
            numbers = range(first, min(count, first + self.rules.pdf_pages))
            locator = item.locator + (f"#{first + 1}" if count > self.rules.pdf_pages else "")
            yield from _one(self.attempt(locator, self._pdf_pages, locator, path, numbers, title))

    def _pdf_pages(self, locator: str, path: str, numbers: range, title: str) -> Document:
        """Each page as a picture with its text behind it. One that is damaged is left out."""
        parts: list[Part] = []
        left_out: list[list[Json]] = []
        held = 0
        for number in numbers:
            try:
                picture, words = media.pdf_page(path, number, self.rules.pdf_dpi)
            except RecordError as error:  # other pages may do; the document is refused if none does
                left_out.append([number + 1, error.reason])
                continue
            held += len(picture.payload or b"")
            if held > MOST_MEDIA_BYTES:
                left_out.append([number + 1, "too_many_bytes"])
                continue
            parts += [picture, Text(words)] if words.strip() else [picture]
        if not parts:
            raise RecordError("bad_pdf", f"none of its pages can be drawn ({left_out[0][1]})")
        notes: dict[str, Json] = {"pages": [numbers.start + 1, numbers.stop]}
        notes |= {"title": title} if title else {}
        notes |= {"pages_left_out": left_out} if left_out else {}
        return self._document(locator, "ocr", parts, [], notes)

    def _figure(
        self, item: Item, file: File, target: str, loaded: Mapping[str, Media | None], left_out: list[list[str]]
    ) -> Media | None:
        shown = text.printable(target[:200])
        try:
            path = markdown.resolve(target, file.path)
        except RecordError as error:
            left_out.append([shown, error.reason])
            self.attempt.note(error.reason)
            return None
        figure = (item.media or {}).get(path)
        if figure is None or not is_medium(figure):
            reason = "missing_media" if figure is None else "unsupported_format"
            left_out.append([shown, reason])
            self.attempt.note(reason)
            return None
        held = sum(len(medium.payload or b"") for medium in loaded.values() if medium)
        if held + figure.size > MOST_MEDIA_BYTES:
            left_out.append([shown, "too_many_bytes"])
            self.attempt.note("too_many_bytes")
            return None
        medium = self.attempt(f"{item.locator} -> {figure.locator}", media.load, self.base, figure)
        if medium is None:
            left_out.append([shown, "damaged_media"])
        return medium

    def _interleaved(
        self,
        locator: str,
        content: markdown.Interleaved,
        loaded: Mapping[str, Media | None],
        notes: Mapping[str, Json],
        text_domain: str,
    ) -> Document:
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
        seen = [part for part in parts if isinstance(part, Media)]
        domain = "interleaved" if seen else text_domain
        return self._document(locator, domain, parts, [], notes)


def refuse(reason: str, message: str) -> None:
    raise RecordError(reason, message)


def _one(document: Document | None) -> Iterator[Document]:
    if document is not None:
        yield document


def _bytes(base: Path, item: Item, file: File) -> bytes:
    """The bytes of a text item: the file, one piece of it, or what it unpacks to."""
    if file.suffix.endswith(PACKINGS):
        assert item.piece is not None
        return lines.whole(walk.inside(base, file.path), file.suffix, item.piece)
    if item.piece is None or len(file.pieces) == 1:
        return walk.read(base, file, MOST_TEXT_BYTES)
    if item.piece.stop - item.piece.start > MOST_TEXT_BYTES:
        raise RecordError("too_large", f"{item.piece.stop - item.piece.start} bytes without a line end")
    with walk.inside(base, file.path).open("rb") as opened:
        opened.seek(item.piece.start)
        return opened.read(item.piece.stop - item.piece.start)


def _shown(medium: Media, words: str) -> list[Part]:
    return [medium, Text(words)] if words else [medium]


def _encoding(name: str) -> dict[str, Json]:
    return {} if name == "utf-8" else {"encoding": name}


def _place(words: str, loaded: Sequence[Media]) -> list[Part]:
    """Media at their markers where there are as many markers as media, otherwise before the text."""
    pieces = conversations.MARKER.split(words)
    if len(pieces) != len(loaded) + 1:
        return [*loaded, Text(conversations.MARKER.sub("", words))]
    parts: list[Part] = []
    for piece, medium in zip(pieces, [*loaded, None], strict=True):
        parts += [Text(piece)] if piece else []
        parts += [medium] if medium else []
    return parts
