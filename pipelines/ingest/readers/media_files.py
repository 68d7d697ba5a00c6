"""Reader of images and videos: one document per file, with its caption or its labels.

The caption comes from a file of the same name, from the COCO file that lists the image, or from the name of the file or
its folder (`annotations/captions.py`, `annotations/coco.py`). `annotations/labels.py` turns labels into text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from manifests.errors import RecordError
from manifests.records import Document, Fact, Json, Media, Part, Text
from pipelines.ingest.annotations import captions, coco, fields, labels, shapes
from pipelines.ingest.formats.media import load_media
from pipelines.ingest.readers.context import FolderItem, ReadContext


def documents(item: FolderItem, context: ReadContext) -> Sequence[Document]:
    """Return an image or video with the caption of the first file of `item.captions` that can be read."""
    return context.attempt_document(item.locator, _captioned, item, context)


def annotated_documents(item: FolderItem, context: ReadContext) -> Sequence[Document]:
    """Return an image with the text of `item.annotation`, its part of a COCO file."""
    return context.attempt_document(item.locator, _annotated, item, context)


def _captioned(item: FolderItem, context: ReadContext) -> Document:
    """Raises RecordError: the reasons of `load_media`; `bad_caption` where no caption file can be read."""
    assert item.file is not None
    medium = load_media(context.base, item.file)
    problems = []
    for sibling in item.captions:
        try:
            caption = captions.read_caption(context.base, sibling, context.rules.text_fields)
        except RecordError as error:  # the next file may hold a good caption
            problems.append(f"{sibling.locator}: {error.reason}")
            continue
        return _with_caption(item.locator, medium, caption, sibling.locator, context)
    if problems:
        raise RecordError("bad_caption", "; ".join(problems))
    words, origin = captions.caption_from_name(item.file.locator, context.rules.caption_fallback)
    return _with_caption(item.locator, medium, captions.MediumCaption(words), origin, context)


def _with_caption(
    locator: str, medium: Media, caption: captions.MediumCaption, origin: str, context: ReadContext
) -> Document:
    notes = {"caption_from": origin}
    if caption.labels is not None:
        return labeled_document(locator, medium, caption.labels, notes, caption.rights, context)
    domain = "video" if medium.kind == "video" else caption.domain
    return context.document(locator, domain, _medium_and_text(medium, caption.text), (), notes, caption.rights)


def _annotated(item: FolderItem, context: ReadContext) -> Document:
    """Raises RecordError: the reasons of `coco.read_labels`, `load_media` and `labels.label_text`."""
    assert item.file is not None
    annotation = coco.read_labels(item.annotation)
    medium = load_media(context.base, item.file)
    notes: dict[str, Json] = {"file_name": item.file.locator}
    if annotation.annotated is not None:
        for reason in annotation.annotated.left_out:
            context.attempt.note(reason)
        return labeled_document(item.locator, medium, annotation.annotated, notes, annotation.rights, context)
    parts = _medium_and_text(medium, "\n".join(annotation.captions))
    return context.document(item.locator, "caption", parts, (), notes, annotation.rights)


def labeled_document(
    locator: str,
    medium: Media,
    label: labels.Labels,
    notes: Mapping[str, Json],
    rights: fields.RecordRights,
    context: ReadContext,
    row: Json = None,
) -> Document:
    """Return a document of a medium and the text of its labels.

    Args:
        row: the table row that holds the labels. A row that has text of its own keeps it: the labels then are in the
            notes alone.
    Raises:
        RecordError: the reasons of `labels.label_text`.
    """
    label_text, label_notes, domain = labels.label_text(label, medium, context.rules.shapes_in_text)
    facts = shapes.text_facts(label_text, 1)
    words = label_text.text
    if row is not None and fields.has_text(row, context.rules.text_fields):
        row_text = fields.find_text(row, context.rules.text_fields)
        words, facts = row_text.text, (Fact("answer", 1, *row_text.answer),) if row_text.answer else ()
    domain = fields.record_domain(row) or domain
    return context.document(locator, domain, _medium_and_text(medium, words), facts, {**notes, **label_notes}, rights)


def _medium_and_text(medium: Media, words: str) -> list[Part]:
    return [medium, Text(words)] if words else [medium]
