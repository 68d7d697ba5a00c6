"""What a sample of a foreign tar means: which members are its media, where its text stands, in which order.

`tar_samples.py` -> here -> `stores.adopted.Adopted`, a document by reference. Layouts:

    conversation  KEY.json holds one (`conversations.py`), with the media that it names or that are there
    webdataset    KEY.jpg (or .0.jpg, .1.jpg ..., or a video), its text in KEY.txt, .text, .caption, .md, .json, .cls
    img2dataset   KEY.jpg, KEY.txt and KEY.json with url, caption, status: the URL is the origin
    interleaved   KEY.json is, or has, a list that gives the order of texts and names of images
    fields        whatever else: a map says where media, text and rights stand

Where none is named, the first samples of a tar tell: what they have, the others must have, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from manifests.errors import RecordError
from manifests.load import schema
from manifests.records import Document, Json, Media, record_id
from pipelines.ingest import conversations, fields, lines, media
from pipelines.ingest.fields import Rights
from pipelines.ingest.tar_samples import Sample, medium_kind, split
from stores.adopted import Adopted, Note, Piece, Recipe, follow, in_this_tar
from stores.foreign import Member

Layout = Literal["auto", "webdataset", "img2dataset", "interleaved", "energon"]

WHOLE_TEXTS = ("txt", "text", "caption", "md")
INTERLEAVED = (("texts", "images"), ("text_list", "image_info"))
"""Fields of parallel lists with a gap where the other one goes on, as in OBELICS and MINT; and those of MMC4."""
SEQUENCES = ("sequence", "content", "items", "interleaved")

MOST_LOOKS = 32
"""How often all words of a conversation may be gone through to find where its messages stand."""
MOST_RECIPE_CHARACTERS = 1 << 20

_ACCESS = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])*)")


@schema
class Fields:
    """Where things stand in a sample: an ending (`jpg`), a value in a JSON member (`json[conversations][0][value]`),
    or several of these, of which the first that is there counts: `jpg,png,webp`. The way in which Energon says it."""

    media: tuple[str, ...] = ()
    """In order, each one medium; those that a sample lacks are passed over. None given: all that it has."""
    text: tuple[str, ...] = ()
    """Joined by line feeds. None given: the usual rules."""
    licence: str = ""
    origin: str = ""
    consent: str = ""

    def places(self) -> list[str]:
        """All that are named."""
        named = [*self.media, *self.text, self.licence, self.origin, self.consent]
        return [place for some in named if some for place in _options(some)]

    @property
    def endings(self) -> frozenset[str]:
        return frozenset(_access(place)[0] for place in self.places())


def is_place(place: str) -> bool:
    return _ACCESS.fullmatch(place) is not None


@dataclass(frozen=True)
class Rules:
    """What the node says about all its tars."""

    source: str
    text_domain: str
    layout: Layout
    fields: Fields
    rights: Rights


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
    if rules.layout not in ("auto", "energon"):
        return Expected(rules.layout, shown)
    kinds = [_kind(sample) for sample in sound]
    return Expected(max(["webdataset", "img2dataset", "interleaved"], key=kinds.count), shown)


def _kind(sample: Sample) -> Layout:
    try:
        record = _json(sample)
    except RecordError:
        return "webdataset"
    if _interleaved(record):
        return "interleaved"
    if isinstance(record, dict) and "status" in record and "url" in record:
        return "img2dataset"
    return "webdataset"


def adopted(sample: Sample, locator: str, expected: Expected, rules: Rules) -> Adopted:
    """The document of a sample, every medium checked.

    Raises RecordError: what is wrong with the sample, reasons of the decoders, of JSON and of `Normalise`, and
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
    elif conversations.holds_one(record):
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
    return media.video(member.payload) if is_video else media.image(member.payload)


def _media(sample: Sample, wanted: Fields) -> list[Member]:
    """Members that are media: those named, or all, numbered endings by their numbers."""
    if wanted.media:
        endings = [next((one for one in _options(some) if one in sample.members), "") for some in wanted.media]
        return [sample.members[ending] for ending in endings if ending]
    endings = [ending for ending in sample.members if medium_kind(ending)]
    return [sample.members[ending] for ending in sorted(endings, key=_by_number)]


def _by_number(ending: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", ending) if part]


def _json(sample: Sample, ending: str = "json") -> Json:
    member = sample.members.get(ending)
    return None if member is None or member.payload is None else lines.parse(member.payload)


def _rights(sample: Sample, record: Json, wanted: Fields) -> Rights:
    named: dict[str, Json] = {}
    for name in ("licence", "origin", "consent"):
        for place in _options(getattr(wanted, name)) if getattr(wanted, name) else ():
            ending, path = _access(place)
            found = _at(_json(sample, ending), path) if path else _text_of(sample, ending)
            named[name] = found if named.get(name) is None else named[name]
    return fields.rights(named).or_else(fields.rights(record))


def _text_of(sample: Sample, ending: str) -> str | None:
    member = sample.members.get(ending)
    return None if member is None or member.payload is None else member.payload.decode("utf-8", "replace").strip()


def _options(some: str) -> list[str]:
    return [one.strip() for one in some.split(",")]


def _access(place: str) -> tuple[str, list[str]]:
    """`json[a][0]` -> ("json", ["a", "0"])."""
    found = _ACCESS.fullmatch(place)
    assert found is not None, place  # the survey looked
    return found[1].lower(), re.findall(r"\[([^\[\]]+)\]", found[2])


def _at(value: Json, path: Sequence[str]) -> Json:
    """None where nothing is there."""
    for key in path:
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (LookupError, TypeError, ValueError):
            return None
    return value


# ------------------------------------------------------------ recipes


def _captioned(sample: Sample, record: Json, shown: int) -> tuple[Recipe, list[Member]]:
    """Media, then the text of the first member that has any."""
    ending = next((name for name in WHOLE_TEXTS if _text_of(sample, name)), None)
    parts: list[int | tuple[Piece, ...]] = list(range(shown))
    if ending is None and isinstance(record, dict) and fields.has_text(record):
        pieces, answer = _located(record, 0)
        marked = shown > 0 and any("<image>" in str(v) or "<video>" in str(v) for _, v in _leaves(record))
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
        found = next(filter(None, (_piece(sample, place, texts) for place in _options(some))), None)
        if found is None:
            raise RecordError("no_text_field", f"nothing at {some!r}; there are {', '.join(sample.members)}")
        pieces += ["\n", *found] if pieces else found
    return Recipe((*range(shown), tuple(pieces)), marked=shown > 0), texts


def _piece(sample: Sample, place: str, texts: list[Member]) -> list[Piece] | None:
    """Pieces for one place, whose member is added to `texts`; a list of values is joined by line feeds."""
    ending, path = _access(place)
    member = sample.members.get(ending)
    if member is None or member.payload is None:
        return None
    if member not in texts:
        texts.append(member)
    number = texts.index(member)
    if not path:
        return [("m", number)]
    value = _at(_json(sample, ending), path)
    keys = _keys(_json(sample, ending), path)
    if isinstance(value, list):
        words = [at for at, item in enumerate(value) if isinstance(item, str | int | float)]
        pieces: list[Piece] = [piece for at in words for piece in ("\n", ("m", number, *keys, at))]
        return pieces[1:] or None
    return [("m", number, *keys)] if isinstance(value, str | int | float) else None


def _keys(value: Json, path: Sequence[str]) -> list[str | int]:
    """`path` with numbers where it goes into lists."""
    keys: list[str | int] = []
    for key in path:
        keys.append(int(key) if isinstance(value, list) and key.lstrip("-").isdecimal() else key)
        value = _at(value, [key])
    return keys


def _notes(record: Json, number: int) -> dict[str, Note]:
    """The few short fields that say where a record is from."""
    notes: dict[str, Note] = {name: ("m", number, name) for name in fields.kept_notes(record)}
    if isinstance(record, dict) and isinstance(record.get("sha256"), str):
        notes["original_sha256"] = ("m", number, "sha256")  # of what was downloaded, before it was made smaller
    return notes


def _located(record: Json, number: int) -> tuple[tuple[Piece, ...], tuple[int, int] | None]:
    """Which values make the text that `fields.find` finds, and what stands between them.

    The values are numbered by marks, and the marks are looked for in what the rules make of such a record: so these
    are written down once. Raises RecordError where a value is changed on its way.
    """
    found = fields.find(record)
    leaves = list(_leaves(record))
    marked = fields.find(_with_marks(record, iter(range(len(leaves)))))
    pieces: list[Piece] = []
    begins: list[int] = []
    at = 0
    for part in re.split("(\ue000[0-9]+\ue001)", marked.text):
        if not part:
            continue
        begins.append(at)
        at += len(part)
        pieces.append(("m", number, *leaves[int(part[1:-1])][0]) if part[0] == "\ue000" else part)
    values = dict(leaves)
    told = "".join(piece if isinstance(piece, str) else str(values[tuple(piece[2:])]) for piece in pieces)
    if told != found.text:
        raise RecordError("no_text_field", "its text can't be found again among the values of its JSON; see `fields`")
    if marked.answer is None:
        return tuple(pieces), None
    return tuple(pieces), (begins.index(marked.answer[0]), len(pieces))


def _leaves(value: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Json]]:
    """(path, value) of everything in JSON that could be text."""
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inside, (*path, key))
    elif _is_word(value):
        yield path, value


def _with_marks(value: Json, numbers: Iterator[int]) -> Json:
    if isinstance(value, dict):
        return {key: _with_marks(inside, numbers) for key, inside in value.items()}
    if isinstance(value, list):
        return [_with_marks(inside, numbers) for inside in value]
    return f"\ue000{next(numbers)}\ue001" if _is_word(value) else value


def _is_word(value: Json) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


def _talk(sample: Sample, record: Json, found: list[Member]) -> tuple[Recipe, list[Member]]:
    """A conversation: its words are stretches of values in the JSON, its notes say who says them."""
    names = list(dict.fromkeys([*fields.references(record), *conversations.references(record)]))
    if found and not names:  # the tar says by itself which media belong to it
        names = [member.name for member in found]
        record = record | {"images": names}
    homes = dict(zip(names, _places(names, sample, found), strict=True))

    def load(target: str) -> Media:
        if target not in homes:
            raise RecordError("missing_media", f"{target[:60]!r} is no member of the sample")
        return Media(str(homes[target].offset), "image", "", 1, 1)

    talk = conversations.read(record, load)
    words = _Words(_json(sample))
    by_offset = {str(member.offset): member for member in found}
    found[:] = [by_offset[part.digest] for part in talk.parts if isinstance(part, Media)]
    ordinals = iter(range(len(found)))
    parts = [next(ordinals) if isinstance(part, Media) else (words.piece(part.text),) for part in talk.parts]
    notes = _notes(_json(sample), 0) | {name: {"is": told} for name, told in talk.notes.items()}
    return Recipe(tuple(parts), notes=notes), [sample.members["json"]]


class _Words:
    """Finds stretches of text among the values of JSON, in reading order where they are in it."""

    def __init__(self, record: Json) -> None:
        self._leaves = [(path, value) for path, value in _leaves(record) if isinstance(value, str)]
        self._arguments = {json.dumps(value, ensure_ascii=False): path for path, value in _arguments(record)}
        self._leaf = self._at = 0
        self._patience = MOST_LOOKS * sum(len(value) + 1 for _, value in self._leaves)

    def piece(self, words: str) -> Piece:
        """Raises RecordError where no value has them."""
        if words in self._arguments:
            return ("json", 0, *self._arguments[words])
        for leaf in [*range(self._leaf, len(self._leaves)), *range(self._leaf)]:
            path, value = self._leaves[leaf]
            at = value.find(words, self._at if leaf == self._leaf else 0)
            if at >= 0:
                self._leaf, self._at = leaf, at + len(words)
                return ("m", 0, *path) if words == value else ("cut", at, at + len(words), 0, *path)
            self._patience -= len(value) + 1
            if self._patience < 0:
                break
        raise RecordError("no_text_field", "its words can't be found again among the values of its JSON")


def _arguments(value: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Json]]:
    """(path, value) of the arguments of calls that are JSON themselves, rather than text."""
    for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
        if key in ("arguments", "parameters") and isinstance(inside, dict | list):
            yield (*path, key), inside
        elif isinstance(inside, dict | list):
            yield from _arguments(inside, (*path, key))


# ------------------------------------------------------------ interleaved


def _interleaved(record: Json) -> bool:
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


def _in_order(sample: Sample, record: Json, found: list[Member]) -> tuple[Recipe, list[Member]]:
    """Texts and media as the JSON orders them. Media that it does not name are left out."""
    items = list(_items(record))
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


Item = tuple[Literal["text", "image"], Json]
"""The path of a text, or the name of an image."""


def _items(record: Json) -> Iterator[Item]:
    if isinstance(record, dict) and isinstance(record.get("text_list"), list):
        yield from _mmc4(record)
        return
    if isinstance(record, dict) and isinstance(record.get("texts"), list) and isinstance(record.get("images"), list):
        for at in range(max(len(record["texts"]), len(record["images"]))):
            if isinstance(name := _at(record["images"], [str(at)]), str) and name:
                yield "image", name
            if isinstance(text := _at(record["texts"], [str(at)]), str) and text:
                yield "text", ("texts", at)
        return
    path: tuple[str, ...] = ()
    if isinstance(record, dict):
        path = next(((name,) for name in SEQUENCES if isinstance(record.get(name), list)), ())
    for at, item in enumerate(_at(record, path) if path or isinstance(record, list) else []):
        if isinstance(item, str):
            yield ("image", item) if medium_kind(item) else ("text", (*path, at))
        elif isinstance(item, dict):
            name = next((item[key] for key in fields.MEDIA if isinstance(item.get(key), str) and item[key]), None)
            if name is not None:
                yield "image", name
            if isinstance(item.get("text"), str) and item["text"]:
                yield "text", (*path, at, "text")


def _mmc4(record: Mapping[str, Json]) -> Iterator[Item]:
    """Each image stands before the text that it matches."""
    before: dict[int, list[str]] = {}
    for told in record["image_info"] if isinstance(record.get("image_info"), list) else []:
        if isinstance(told, dict) and isinstance(name := told.get("image_name"), str):
            at = told.get("matched_text_index")
            before.setdefault(at if isinstance(at, int) else 0, []).append(name)
    for at, text in enumerate(record["text_list"]):
        yield from (("image", name) for name in before.get(at, []))
        if isinstance(text, str) and text:
            yield "text", ("text_list", at)


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
