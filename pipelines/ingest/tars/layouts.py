"""Documents from the samples of a foreign tar: which members are media, where the text is, in which order.

`ingest/tars/members.py` groups members into samples; `ingest/tars/adopt.py` stores the documents made here. Text, facts
and notes become part of the document. A medium is decoded once and checked, then the document keeps its offset and
length in the tar instead of its bytes. Layouts:

    conversation  KEY.json holds a conversation (`ingest/annotations/conversations.py`) over the media that it names, or
                  over all media of the sample where it names none
    webdataset    KEY.jpg (or .0.jpg, .1.jpg ..., or a video), text in KEY.txt, .text, .caption, .md, .json or .cls
    img2dataset   KEY.jpg, KEY.txt and KEY.json with url, caption and status; the URL is the origin
    interleaved   KEY.json is or has a list that gives the order of texts and names of images
    fields        any other form: a field map names media, text and rights (`ingest/tars/field_map.py`)

Where the manifest names no layout, the first samples of a tar decide. If at least half of them have media, a later
sample without media is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Literal

from manifests.errors import RecordError
from manifests.records import Document, Fact, Json, Location, Media, Part, Text
from pipelines.ingest.annotations import conversations, fields
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.formats import media, rows
from pipelines.ingest.readers.context import new_document
from pipelines.ingest.tars.field_map import FieldMap, split_options, split_place, value_at
from pipelines.ingest.tars.members import TarSample, medium_kind, split_name
from pipelines.ingest.tars.orders import is_interleaved, read_order
from stores.shards.layout import ADOPTED
from stores.shards.scan_tar import Member

TarLayout = Literal["auto", "webdataset", "img2dataset", "interleaved"]

WHOLE_TEXTS = ("txt", "text", "caption", "md")
"""Endings of members that are text as a whole, in the order in which they are tried."""
MOST_PARTS = 1 << 16
"""Parts of one document."""


@dataclass(frozen=True)
class TarRules:
    """Parameters of the node that hold for all its tars."""

    source: str
    text_domain: str
    layout: TarLayout
    fields: FieldMap
    rights: RecordRights


@dataclass(frozen=True)
class ExpectedSample:
    """Form of the first samples of a tar."""

    layout: TarLayout
    media: bool
    """Whether samples without media are refused."""


@dataclass(frozen=True)
class _Content:
    """Parts of a document that is being made, with facts and notes about them."""

    parts: Sequence[Part]
    domain: str
    """Domain if the document has images and no video."""
    facts: tuple[Fact, ...] = ()
    notes: Mapping[str, Json] = field(default_factory=dict)


MediaCheck = Callable[[Member], Media]
"""Function that decodes a member and returns its medium, located in the tar and without payload."""


def detect_layout(samples: Sequence[TarSample], rules: TarRules) -> ExpectedSample:
    """Return the form that the first samples of a tar have in common."""
    sound = [sample for sample in samples if sample.problem is None]
    with_media = sum(any(map(medium_kind, sample.members)) for sample in sound)
    has_media = 2 * with_media >= max(1, len(sound))
    if rules.layout != "auto":
        return ExpectedSample(rules.layout, has_media)
    layouts = [_layout(sample) for sample in sound]
    return ExpectedSample(max(["webdataset", "img2dataset", "interleaved"], key=layouts.count), has_media)


def _layout(sample: TarSample) -> TarLayout:
    try:
        record = _json(sample)
    except RecordError:
        return "webdataset"
    if is_interleaved(record):
        return "interleaved"
    if isinstance(record, dict) and "status" in record and "url" in record:
        return "img2dataset"
    return "webdataset"


def document_of(sample: TarSample, locator: str, expected: ExpectedSample, rules: TarRules) -> Document:
    """Return the document of a sample, its media decoded once and located in the adopted tar.

    Raises:
        RecordError: the sample's own problem; the reasons of the media decoders, of JSON, of conversations and of
            `normalize`; `no_text`, `no_text_field`, `no_media`, `missing_media`, `not_downloaded`, `too_many_parts`.
    """
    if sample.problem is not None:
        raise RecordError(*sample.problem)
    record = _json(sample)
    if expected.layout == "img2dataset" and isinstance(record, dict) and record.get("status", "success") != "success":
        raise RecordError("not_downloaded", f"{record.get('status')}: {record.get('error_message')}"[:500])
    members = _media_members(sample, rules.fields)
    if expected.media and expected.layout != "interleaved" and not members:
        raise RecordError("no_media", f"only {', '.join(sample.members) or 'no members'}, others here have media")
    check = lru_cache(None)(_checked)
    if rules.fields.text:
        content = _from_fields(sample, record, rules.fields, list(map(check, members)))
    elif conversations.holds_conversation(record):
        content = _conversation(sample, record, members, check)
    elif expected.layout == "interleaved":
        content = _interleaved(sample, record, members, check)
    else:
        content = _captioned(sample, record, list(map(check, members)))
    if len(content.parts) > MOST_PARTS:
        raise RecordError("too_many_parts", f"{len(content.parts)} parts, the limit is {MOST_PARTS}")
    rights = _rights(sample, record, rules.fields).or_else(rules.rights)
    domain = _domain(content, rules.text_domain)
    document = new_document(rules.source, locator, domain, content.parts, content.facts, content.notes, rights)
    if not any(document.text.split()):
        raise RecordError("no_text", "nothing but white space")
    return document


def _domain(content: _Content, text_domain: str) -> str:
    if "tools" in content.notes or any("calls" in message for message in content.notes.get("messages", ())):
        return "agent"
    kinds = {part.kind for part in content.parts if isinstance(part, Media)}
    return "video" if "video" in kinds else content.domain if kinds else text_domain


def _checked(member: Member) -> Media:
    """Decode a member and return its medium, located in the tar. Raises RecordError with the decoder's reason."""
    assert member.payload is not None
    keyed = split_name(member.name)
    is_video = keyed is not None and medium_kind(keyed[1]) == "video"
    medium = media.make_video(member.payload) if is_video else media.make_image(member.payload)
    return replace(medium, payload=None, location=Location(ADOPTED, member.offset, member.size))


def _media_members(sample: TarSample, wanted: FieldMap) -> list[Member]:
    """Return the members that are media: those that the field map names, or else all, ordered by the numbers in their
    endings."""
    if wanted.media:
        endings = [next((one for one in split_options(names) if one in sample.members), "") for names in wanted.media]
        return [sample.members[ending] for ending in endings if ending]
    endings = [ending for ending in sample.members if medium_kind(ending)]
    return [sample.members[ending] for ending in sorted(endings, key=_by_number)]


def _by_number(ending: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", ending) if part]


def _json(sample: TarSample, ending: str = "json") -> Json:
    member = sample.members.get(ending)
    return None if member is None or member.payload is None else rows.parse_json(member.payload)


def _text(sample: TarSample, ending: str) -> str | None:
    """Return the text of a whole member without white space around it. Raises RecordError `bad_encoding`."""
    member = sample.members.get(ending)
    if member is None or member.payload is None:
        return None
    try:
        return member.payload.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RecordError("bad_encoding", f"not UTF-8 at offset {error.start}") from None


def _rights(sample: TarSample, record: Json, wanted: FieldMap) -> RecordRights:
    """RecordRights that the field map names, else those that the sample's JSON declares."""
    named: dict[str, Json] = {}
    for name in ("license", "origin", "consent"):
        for place in split_options(getattr(wanted, name)) if getattr(wanted, name) else ():
            ending, path = split_place(place)
            value = value_at(_json(sample, ending), path) if path else _text(sample, ending)
            named[name] = value if named.get(name) is None else named[name]
    return fields.record_rights(named).or_else(fields.record_rights(record))


def _captioned(sample: TarSample, record: Json, shown: Sequence[Media]) -> _Content:
    """Make a caption document: media, then the text of the first member that has any."""
    ending = next((name for name in WHOLE_TEXTS if _text(sample, name)), None)
    notes = _notes(record)
    if ending is None and isinstance(record, dict) and fields.has_text(record):
        text = fields.find_text(record)
        facts = (Fact("answer", 0, *text.answer),) if text.answer and not shown else ()
        parts = conversations.place_media(text.text, shown) if shown else [Text(text.text)]
        return _Content(parts, "caption", facts, notes)
    if ending is None and "cls" in sample.members:
        ending = "cls"
    if ending is None:
        members = ", ".join(sample.members) or "none"
        raise RecordError("no_text", f"no text in any of its members ({members}); see `fields`")
    if "cls" in sample.members and ending != "cls":
        notes["class"] = _text(sample, "cls")
    return _Content([*shown, Text(_text(sample, ending) or "")], "caption", notes=notes)


def _from_fields(sample: TarSample, record: Json, wanted: FieldMap, shown: Sequence[Media]) -> _Content:
    """Make a document of the field map: media, then its texts, one per line."""
    texts = []
    for names in wanted.text:
        present = [text for place in split_options(names) if (text := _text_at(sample, place)) is not None]
        if not present:
            raise RecordError("no_text_field", f"nothing at {names!r}; there are {', '.join(sample.members)}")
        texts.append(present[0])
    text = "\n".join(texts)
    return _Content(conversations.place_media(text, shown) if shown else [Text(text)], "caption")


def _text_at(sample: TarSample, place: str) -> str | None:
    """Return the text at one place of the field map, None if there is none. Values of a list are joined by line
    feeds."""
    ending, path = split_place(place)
    if not path:
        return _text(sample, ending)
    value = value_at(_json(sample, ending), path)
    values = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str | int | float)]
    return "\n".join(map(str, values)) if values else None


def _notes(record: Json) -> dict[str, Json]:
    """Return the notes of a document: the few short fields of the sample's JSON about its origin."""
    notes = fields.kept_notes(record)
    if isinstance(record, dict) and isinstance(record.get("sha256"), str):
        notes["original_sha256"] = record["sha256"]  # of the downloaded file, before img2dataset made it smaller
    return notes


def _conversation(sample: TarSample, record: Json, members: Sequence[Member], check: MediaCheck) -> _Content:
    """Make a document of the conversation in the sample's JSON, with the media that its messages show."""
    notes = _notes(record)
    names = list(dict.fromkeys([*fields.media_references(record), *conversations.conversation_media(record)]))
    if members and not names:  # all media of the sample belong to it
        names = [member.name for member in members]
        record = record | {"images": names}
    by_name = dict(zip(names, _named_members(names, sample, members), strict=True))
    conversation = conversations.read_conversation(record, partial(_load, by_name, check))
    return _Content(conversation.parts, "interleaved", notes=notes | conversation.notes)


def _load(by_name: Mapping[str, Member], check: MediaCheck, target: str) -> Media:
    if target not in by_name:
        raise RecordError("missing_media", f"{target[:60]!r} is no member of the sample")
    return check(by_name[target])


def _interleaved(sample: TarSample, record: Json, members: Sequence[Member], check: MediaCheck) -> _Content:
    """Make a document of texts and media in the order of the sample's JSON. Media that it does not name are left
    out."""
    items = list(read_order(record))
    if not items:
        raise RecordError("no_text_field", "no list of texts and images in its JSON; see `fields`")
    named = iter(_named_members([name for kind, name in items if kind == "image"], sample, members))
    parts = [Text(value) if kind == "text" else check(next(named)) for kind, value in items]
    texts = sum(kind == "text" for kind, _ in items)
    return _Content(parts, "interleaved" if texts > 1 else "caption", notes=_notes(record))


def _named_members(names: Sequence[str], sample: TarSample, members: Sequence[Member]) -> list[Member]:
    """Return the member of each name: by file name or ending, or else by order if there are as many names as
    members."""
    by_name = {member.name.rpartition("/")[2]: member for member in members}
    by_name |= {ending: member for ending, member in sample.members.items() if member in members}
    matches = [by_name.get(name.rpartition("/")[2], by_name.get(name.lower())) for name in names]
    if all(member is not None for member in matches):
        return [member for member in matches if member is not None]
    if len(names) == len(members) and not any(matches):
        return list(members)
    missing = next(name for name, member in zip(names, matches, strict=True) if member is None)
    raise RecordError("missing_media", f"{missing[:200]!r} is not among {', '.join(sample.members)}")
