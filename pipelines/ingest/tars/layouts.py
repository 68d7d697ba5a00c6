"""What a sample of a foreign tar means: which members are its media, where its text stands, in which order.

`ingest/tars/samples.py` -> here -> `stores.shards.adopted.Adopted`, a document by reference. Layouts:

    conversation  KEY.json holds one (`ingest/annotations/conversations.py`), with the media that it names or that are
    there webdataset    KEY.jpg (or .0.jpg, .1.jpg ..., or a video), its text in KEY.txt, .text, .caption, .md, .json,
    .cls img2dataset   KEY.jpg, KEY.txt and KEY.json with url, caption, status: the URL is the origin
    interleaved   KEY.json is, or has, a list that gives the order of texts and names of images
    fields        whatever else: a map says where media, text and rights stand

Where none is named, the first samples of a tar tell: what they have, the others must have, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from manifests.errors import RecordError
from manifests.records import Document, Json, Media, record_id
from pipelines.ingest.annotations import conversations, fields
from pipelines.ingest.annotations.fields import RecordRights
from pipelines.ingest.formats import media, rows
from pipelines.ingest.tars.field_map import Fields, access, exact_path, options, value_at
from pipelines.ingest.tars.members import Sample, medium_kind, split
from pipelines.ingest.tars.orders import in_order, interleaved
from pipelines.ingest.tars.words import Words, located, values_of
from stores.shards.adopted import Adopted, Note, Piece, Recipe, follow, in_this_tar
from stores.shards.scan_tar import Member

Layout = Literal["auto", "webdataset", "img2dataset", "interleaved"]

WHOLE_TEXTS = ("txt", "text", "caption", "md")
MOST_RECIPE_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Rules:
    """What the node says about all its tars."""

    source: str
    text_domain: str
    layout: Layout
    fields: Fields
    rights: RecordRights


@dataclass(frozen=True)
class Expected:
    """What the first samples of a tar showed."""

    layout: Layout
    media: bool


def judge(samples: Sequence[Sample], rules: Rules) -> Expected:
    """From the first samples of a tar."""
    sound = [sample for sample in samples if sample.problem is None]
    with_media = sum(any(map(medium_kind, sample.members)) for sample in sound)
    shown = 2 * with_media >= max(1, len(sound))
    if rules.layout != "auto":
        return Expected(rules.layout, shown)
    kinds = [_kind(sample) for sample in sound]
    return Expected(max(["webdataset", "img2dataset", "interleaved"], key=kinds.count), shown)


def _kind(sample: Sample) -> Layout:
    try:
        record = _json(sample)
    except RecordError:
        return "webdataset"
    if interleaved(record):
        return "interleaved"
    if isinstance(record, dict) and "status" in record and "url" in record:
        return "img2dataset"
    return "webdataset"


def adopted(sample: Sample, locator: str, expected: Expected, rules: Rules) -> Adopted:
    """The document of a sample, every medium checked.

    Raises RecordError: what is wrong with the sample, reasons of the decoders, of JSON and of `normalize`, and
    `no_text`, `no_text_field`, `no_media`, `missing_media`, `not_downloaded`.
    """
    if sample.problem is not None:
        raise RecordError(*sample.problem)
    record = _json(sample)
    if expected.layout == "img2dataset" and isinstance(record, dict) and record.get("status", "success") != "success":
        raise RecordError("not_downloaded", f"{record.get('status')}: {record.get('error_message')}"[:500])
    found = _media(sample, rules.fields)
    if expected.media and expected.layout != "interleaved" and not found:
        raise RecordError("no_media", f"only {', '.join(sample.members) or 'no members'}, others here have media")
    if rules.fields.text:
        recipe, texts = _named(sample, record, rules.fields, len(found))
    elif conversations.holds_conversation(record):
        recipe, texts = _talk(sample, record, found)
    elif expected.layout == "interleaved":
        recipe, texts = _in_order(sample, record, found)
    else:
        recipe, texts = _captioned(sample, record, len(found))
    written = str(recipe)
    if len(written) > MOST_RECIPE_CHARACTERS:
        raise RecordError("too_many_parts", f"{len(recipe.parts)} parts")
    checked = {member.offset: in_this_tar(_checked(member), member.offset) for member in found}
    shown = [checked[member.offset] for member in found]
    blank = Document(record_id(rules.source, locator), rules.source, locator, "", ())
    document = follow(written, [member.payload or b"" for member in texts], blank, shown)
    if not any(document.text.split()):
        raise RecordError("no_text", "nothing but white space")
    said = {name: getattr(document, name) for name in ("id", "source", "locator", "parts", "facts", "notes")}
    return Adopted(
        **said,
        **asdict(_rights(sample, record, rules.fields).or_else(rules.rights)),
        domain=_domain(document, recipe, rules),
        recipe=written,
        members=tuple((member.offset, member.size) for member in texts),
    )


def _domain(document: Document, recipe: Recipe, rules: Rules) -> str:
    if "tools" in document.notes or any("calls" in told for told in document.notes.get("messages", ())):
        return "agent"
    if any(medium.kind == "video" for medium in document.media):
        return "video"
    if not document.media:
        return rules.text_domain
    texts = sum(not isinstance(part, int) for part in recipe.parts)
    return "interleaved" if texts > 1 or "messages" in document.notes else "caption"


def _checked(member: Member) -> Media:
    assert member.payload is not None
    keyed = split(member.name)
    is_video = keyed is not None and medium_kind(keyed[1]) == "video"
    return media.make_video(member.payload) if is_video else media.make_image(member.payload)


def _media(sample: Sample, wanted: Fields) -> list[Member]:
    """Members that are media: those named, or all, numbered endings by their numbers."""
    if wanted.media:
        endings = [next((one for one in options(some) if one in sample.members), "") for some in wanted.media]
        return [sample.members[ending] for ending in endings if ending]
    endings = [ending for ending in sample.members if medium_kind(ending)]
    return [sample.members[ending] for ending in sorted(endings, key=_by_number)]


def _by_number(ending: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", ending) if part]


def _json(sample: Sample, ending: str = "json") -> Json:
    member = sample.members.get(ending)
    return None if member is None or member.payload is None else rows.parse_json(member.payload)


def _rights(sample: Sample, record: Json, wanted: Fields) -> RecordRights:
    named: dict[str, Json] = {}
    for name in ("licence", "origin", "consent"):
        for place in options(getattr(wanted, name)) if getattr(wanted, name) else ():
            ending, path = access(place)
            found = value_at(_json(sample, ending), path) if path else _text_of(sample, ending)
            named[name] = found if named.get(name) is None else named[name]
    return fields.record_rights(named).or_else(fields.record_rights(record))


def _text_of(sample: Sample, ending: str) -> str | None:
    member = sample.members.get(ending)
    return None if member is None or member.payload is None else member.payload.decode("utf-8", "replace").strip()


def _captioned(sample: Sample, record: Json, shown: int) -> tuple[Recipe, list[Member]]:
    """Media, then the text of the first member that has any."""
    ending = next((name for name in WHOLE_TEXTS if _text_of(sample, name)), None)
    parts: list[int | tuple[Piece, ...]] = list(range(shown))
    if ending is None and isinstance(record, dict) and fields.has_text(record):
        pieces, answer = located(record, 0)
        marked = shown > 0 and any("<image>" in str(v) or "<video>" in str(v) for _, v in values_of(record))
        recipe = Recipe((*parts, pieces), None if shown else answer, marked, _notes(record, 0))
        return recipe, [sample.members["json"]]
    if ending is None and "cls" in sample.members:
        ending = "cls"
    if ending is None:
        there = ", ".join(sample.members) or "nothing"
        raise RecordError("no_text", f"no text in any of its members: {there}; see `fields`")
    texts = [sample.members[ending]]
    notes: dict[str, Note] = {}
    if record is not None:
        notes = _notes(record, len(texts))
        texts += [sample.members["json"]] if notes else []
    if "cls" in sample.members and ending != "cls":
        notes["class"] = ("m", len(texts))
        texts.append(sample.members["cls"])
    return Recipe((*parts, (("m", 0),)), notes=notes), texts


def _named(sample: Sample, record: Json, wanted: Fields, shown: int) -> tuple[Recipe, list[Member]]:
    """Media, then what the map says is text."""
    texts: list[Member] = []
    pieces: list[Piece] = []
    for some in wanted.text:
        found = next(filter(None, (_piece(sample, place, texts) for place in options(some))), None)
        if found is None:
            raise RecordError("no_text_field", f"nothing at {some!r}; there are {', '.join(sample.members)}")
        pieces += ["\n", *found] if pieces else found
    return Recipe((*range(shown), tuple(pieces)), marked=shown > 0), texts


def _piece(sample: Sample, place: str, texts: list[Member]) -> list[Piece] | None:
    """Pieces for one place, whose member is added to `texts`; a list of values is joined by line feeds."""
    ending, path = access(place)
    member = sample.members.get(ending)
    if member is None or member.payload is None:
        return None
    if member not in texts:
        texts.append(member)
    number = texts.index(member)
    if not path:
        return [("m", number)]
    value = value_at(_json(sample, ending), path)
    exact = exact_path(_json(sample, ending), path)
    if isinstance(value, list):
        words = [at for at, item in enumerate(value) if isinstance(item, str | int | float)]
        pieces: list[Piece] = [piece for at in words for piece in ("\n", ("m", number, *exact, at))]
        return pieces[1:] or None
    return [("m", number, *exact)] if isinstance(value, str | int | float) else None


def _notes(record: Json, number: int) -> dict[str, Note]:
    """The few short fields that say where a record is from."""
    notes: dict[str, Note] = {name: ("m", number, name) for name in fields.kept_notes(record)}
    if isinstance(record, dict) and isinstance(record.get("sha256"), str):
        notes["original_sha256"] = ("m", number, "sha256")  # of what was downloaded, before it was made smaller
    return notes


def _talk(sample: Sample, record: Json, found: list[Member]) -> tuple[Recipe, list[Member]]:
    """A conversation: its words are stretches of values in the JSON, its notes say who says them."""
    names = list(dict.fromkeys([*fields.media_references(record), *conversations.conversation_media(record)]))
    if found and not names:  # the tar says by itself which media belong to it
        names = [member.name for member in found]
        record = record | {"images": names}
    homes = dict(zip(names, _places(names, sample, found), strict=True))

    def load(target: str) -> Media:
        if target not in homes:
            raise RecordError("missing_media", f"{target[:60]!r} is no member of the sample")
        return Media(str(homes[target].offset), "image", "", 1, 1)

    talk = conversations.read_conversation(record, load)
    words = Words(_json(sample))
    by_offset = {str(member.offset): member for member in found}
    found[:] = [by_offset[part.digest] for part in talk.parts if isinstance(part, Media)]
    ordinals = iter(range(len(found)))
    parts = [next(ordinals) if isinstance(part, Media) else (words.piece(part.text),) for part in talk.parts]
    notes = _notes(_json(sample), 0) | {name: {"is": told} for name, told in talk.notes.items()}
    return Recipe(tuple(parts), notes=notes), [sample.members["json"]]


def _in_order(sample: Sample, record: Json, found: list[Member]) -> tuple[Recipe, list[Member]]:
    """Texts and media as the JSON orders them. Media that it does not name are left out."""
    items = list(in_order(record))
    if not items:
        raise RecordError("no_text_field", "no list of texts and images in its JSON; see `fields`")
    names = [name for what, name in items if what == "image"]
    places = _places(names, sample, found)
    parts: list[int | tuple[Piece, ...]] = []
    shown: list[Member] = []
    for what, told in items:
        if what == "text":
            parts.append((("m", 0, *told),))
        else:
            parts.append(len(shown))
            shown.append(places.pop(0))
    found[:] = shown
    return Recipe(tuple(parts), notes=_notes(record, 0)), [sample.members["json"]]


def _places(names: Sequence[str], sample: Sample, found: Sequence[Member]) -> list[Member]:
    """The member that each name means: by its file name or ending; or else, where there are equally many, by order."""
    by_name = {member.name.rpartition("/")[2]: member for member in found}
    by_name |= {ending: member for ending, member in sample.members.items() if member in found}
    known = [by_name.get(name.rpartition("/")[2], by_name.get(name.lower())) for name in names]
    if all(member is not None for member in known):
        return [member for member in known if member is not None]
    if len(names) == len(found) and not any(known):
        return list(found)
    missing = next(name for name, member in zip(names, known, strict=True) if member is None)
    raise RecordError("missing_media", f"{missing[:200]!r} is not among {', '.join(sample.members)}")
