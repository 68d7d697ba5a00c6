"""Reader of files with one record per row: JSON, JSON lines, CSV, TSV, Parquet, Arrow.

`formats/rows.py` parses the rows. A row becomes a document of text, of text and media, of labels
(`annotations/labels.py`) or of a conversation (`annotations/conversations.py`). `annotations/fields.py` has the rules
for the fields of its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

from manifests.errors import RecordError
from manifests.records import Document, Fact, Json, Media, Text
from pipelines.ingest.annotations import conversations, fields, labels, problems
from pipelines.ingest.formats import markdown
from pipelines.ingest.formats.file import FolderFile
from pipelines.ingest.formats.media import load_media, make_image
from pipelines.ingest.formats.rows import read_rows
from pipelines.ingest.formats.text import printable
from pipelines.ingest.readers.context import FolderItem, ReadContext
from pipelines.ingest.readers.media_files import labeled_document

JUDGED_ROWS = 20
"""If none of the first rows of a file has text, the file is no table of records and is refused as a whole."""


def documents(item: FolderItem, context: ReadContext) -> Iterator[Document]:
    """Yield one document per row of one piece of a file."""
    assert item.file is not None and item.piece is not None
    rows = read_rows(context.path(item.file), item.file.suffix, item.piece)
    head = list(islice(rows, JUDGED_ROWS))
    if not head and item.piece.start == 0:
        context.refuse(item.locator, "no_text", "no rows")
    if head and all(_has_no_text(parse, context) for _, parse in head):
        context.refuse(item.locator, "no_text_field", _describe_fields(head[0][1]()))
        return
    for place, parse in chain(head, rows):
        locator = item.locator + place
        yield from context.attempt_document(locator, _row_document, item, context, locator, parse)


def media_references(base: Path, file: FolderFile, text_fields: Sequence[str]) -> Iterator[str]:
    """Yield the paths of the media that the rows of a file refer to.

    If none of the first rows refers to one, the rest is not read. A file with conversations is read to its end, because
    there a row with media may follow many without.
    """
    seen = referred = conversation_rows = 0
    for piece in file.pieces:
        for _, parse in read_rows(base / file.path, file.suffix, piece):
            seen += 1
            try:
                row = fields.question_and_answer(parse())
            except RecordError:
                continue
            if not text_fields and conversations.holds_conversation(row):
                conversation_rows += 1
                yield from conversations.conversation_media(row)
            elif fields.has_text(row, text_fields) or labels.in_row(row):
                targets = [target for target in fields.media_references(row) if not target.startswith("data:")]
                referred += len(targets)
                yield from targets
            if seen >= JUDGED_ROWS and not referred and not conversation_rows:
                return


def _has_no_text(parse: Callable[[], Json], context: ReadContext) -> bool:
    """Whether a row can be parsed, but has no text, labels or conversation."""
    try:
        row = fields.question_and_answer(parse())
    except RecordError:
        return False
    has_labels = labels.in_row(row) or conversations.holds_conversation(row)
    return not (has_labels or fields.has_text(row, context.rules.text_fields))


def _describe_fields(row: Json) -> str:
    names = ", ".join(sorted(row)[:12]) if isinstance(row, dict) else type(row).__name__
    return f"no text among the fields of its first rows ({printable(names)}); see text_fields"


def _row_document(item: FolderItem, context: ReadContext, locator: str, parse: Callable[[], Json]) -> Document:
    """Raises RecordError: `no_text_field`, `no_text`, `missing_media`, `bad_annotation`, and the reasons of the
    decoders, of the labels and of conversations."""
    row = fields.question_and_answer(parse())
    if not context.rules.text_fields and conversations.holds_conversation(row):
        return _conversation_document(item, context, locator, row)
    loaded = [_load(item, context, target) for target in fields.media_references(row)]
    notes, rights = fields.kept_notes(row) | problems.checkable(row), fields.record_rights(row)
    label = labels.of_row(row) if loaded else None
    if label is not None:
        if len(loaded) != 1:
            raise RecordError("bad_annotation", f"labels for {len(loaded)} images or videos, expected one")
        return labeled_document(locator, loaded[0], label, notes, rights, context, row)
    text = fields.find_text(row, context.rules.text_fields)
    answer = text.answer
    if answer and "answer" in notes:
        answer = problems.locate(notes["answer"], text.text, answer[0]) or answer
    if not loaded:
        facts = [Fact("answer", 0, *answer)] if answer else []
        domain = "code" if isinstance(row, dict) and "canonical_solution" in row else context.rules.text_domain
        domain = fields.record_domain(row) or domain
        return context.document(locator, domain, [Text(text.text)], facts, notes, rights)
    parts = conversations.place_media(text.text, loaded)
    facts = [Fact("answer", len(parts) - 1, *answer)] if answer and parts[-1] == Text(text.text) else []
    is_question = isinstance(row, dict) and "question" in row and answer
    has_video = any(medium.kind == "video" for medium in loaded)
    domain = "video" if has_video else "knowledge" if is_question else "caption"
    domain = fields.record_domain(row) or domain
    return context.document(locator, domain, parts, facts, notes, rights)


def _conversation_document(item: FolderItem, context: ReadContext, locator: str, row: dict[str, Json]) -> Document:
    """Raises RecordError: the reasons of `read_conversation`."""
    conversation = conversations.read_conversation(row, partial(_load, item, context))
    notes = fields.kept_notes(row) | fields.kept_notes(row.get("info")) | problems.checkable(row)
    last = len(conversation.parts) - 1
    reply = conversation.parts[last] if conversation.messages[-1].role == "assistant" else None
    place = problems.locate(notes.get("answer"), reply.text) if isinstance(reply, Text) else None
    facts = [Fact("answer", last, *place)] if place else []
    kinds = {part.kind for part in conversation.parts if isinstance(part, Media)}
    if conversation.tools or any(message.calls for message in conversation.messages):
        domain = "agent"
    else:
        domain = "video" if "video" in kinds else "interleaved" if kinds else context.rules.text_domain
    domain = fields.record_domain(row) or domain
    rights = fields.record_rights(row)
    return context.document(locator, domain, conversation.parts, facts, notes | conversation.notes, rights)


def _load(item: FolderItem, context: ReadContext, target: str) -> Media:
    """Load a medium that a row refers to by path, or holds as a `data:` URI.

    Raises RecordError: `missing_media`, `bad_data_uri`, and the reasons of the decoders. The text of the row is about
    the medium, so a row without it is no record.
    """
    if target.startswith("data:"):
        return make_image(conversations.data_uri(target))
    assert item.file is not None
    file = (item.media or {}).get(markdown.resolve_target(target, item.file.path))
    if file is None or not file.is_medium:
        raise RecordError("missing_media", f"{printable(target[:200])} is no image or video of the folder")
    return load_media(context.base, file)
