"""Order of texts and images in the JSON of an interleaved sample: the forms of OBELICS, MINT, MMC4 and plain lists.

Used by the interleaved layout of `layouts.py`. Every image must be a member of its own. The pages
of a multi-page TIFF, as in the PDF part of MINT, have no names, so that such a sample goes to quarantine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from manifests.records import Json
from pipelines.ingest.formats.suffixes import MEDIA_FIELDS
from pipelines.ingest.tars.field_map import value_at
from pipelines.ingest.tars.members import medium_kind

INTERLEAVED = (("texts", "images"), ("text_list", "image_info"))
"""(texts, images): parallel lists of OBELICS and MINT, with null where the other list has the item; lists of MMC4."""
SEQUENCES = ("sequence", "content", "items", "interleaved")
"""Fields with one list of texts and images."""

OrderedItem = tuple[Literal["text", "image"], str]
"""A text, or the name of an image."""


def is_interleaved(record: Json) -> bool:
    """Whether a sample's JSON has one of these forms."""
    return isinstance(record, list) or (
        isinstance(record, dict)
        and (
            any(
                isinstance(record.get(texts), list) and isinstance(record.get(images), list)
                for texts, images in INTERLEAVED
            )
            or any(isinstance(record.get(name), list) for name in SEQUENCES)
        )
    )


def read_order(record: Json) -> Iterator[OrderedItem]:
    """Yield texts and names of images in reading order; nothing where the JSON has no list of a known form."""
    if isinstance(record, dict) and isinstance(record.get("text_list"), list):
        yield from _mmc4(record)
        return
    if isinstance(record, dict) and isinstance(record.get("texts"), list) and isinstance(record.get("images"), list):
        for at in range(max(len(record["texts"]), len(record["images"]))):
            if isinstance(name := value_at(record["images"], [str(at)]), str) and name:
                yield "image", name
            if isinstance(text := value_at(record["texts"], [str(at)]), str) and text:
                yield "text", text
        return
    items = record if isinstance(record, list) else []
    if isinstance(record, dict):
        items = next((record[name] for name in SEQUENCES if isinstance(record.get(name), list)), [])
    for item in items:
        if isinstance(item, str):
            yield ("image", item) if medium_kind(item) else ("text", item)
        elif isinstance(item, dict):
            name = next((item[key] for key in MEDIA_FIELDS if isinstance(item.get(key), str) and item[key]), None)
            if name is not None:
                yield "image", name
            if isinstance(item.get("text"), str) and item["text"]:
                yield "text", item["text"]


def _mmc4(record: Mapping[str, Json]) -> Iterator[OrderedItem]:
    """Yield each image before the text that it matches."""
    before: dict[int, list[str]] = {}
    for image in record["image_info"] if isinstance(record.get("image_info"), list) else []:
        if isinstance(image, dict) and isinstance(name := image.get("image_name"), str):
            index = image.get("matched_text_index")
            before.setdefault(index if isinstance(index, int) else 0, []).append(name)
    for index, text in enumerate(record["text_list"]):
        yield from (("image", name) for name in before.get(index, []))
        if isinstance(text, str) and text:
            yield "text", text
