"""Lists in JSON that give the order of texts and images, in the forms of OBELICS, MINT and MMC4, and plain ones.

For the interleaved layout of `ingest/tars/layouts.py`. Images are members of their own: several pages of one TIFF, as
in the PDF part of MINT, are not told apart, and such a sample is set aside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from manifests.records import Json
from pipelines.ingest.formats.suffixes import MEDIA_FIELDS
from pipelines.ingest.tars.field_map import value_at
from pipelines.ingest.tars.members import medium_kind

INTERLEAVED = (("texts", "images"), ("text_list", "image_info"))
"""Fields of parallel lists with a gap where the other one goes on, as in OBELICS and MINT; and those of MMC4."""
SEQUENCES = ("sequence", "content", "items", "interleaved")

OrderedItem = tuple[Literal["text", "image"], str]
"""A text, or the name of an image."""


def is_interleaved(record: Json) -> bool:
    """Whether it looks like one of these lists."""
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
    """Each image stands before the text that it matches."""
    before: dict[int, list[str]] = {}
    for told in record["image_info"] if isinstance(record.get("image_info"), list) else []:
        if isinstance(told, dict) and isinstance(name := told.get("image_name"), str):
            at = told.get("matched_text_index")
            before.setdefault(at if isinstance(at, int) else 0, []).append(name)
    for at, text in enumerate(record["text_list"]):
        yield from (("image", name) for name in before.get(at, []))
        if isinstance(text, str) and text:
            yield "text", text
