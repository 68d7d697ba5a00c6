"""Documents whose bytes lie in tars of other people: an index of ours, and nothing of theirs.

    members of a sample -> pipelines/ingest/tars/layouts.py -> Adopted -> `AdoptedTar` -> index, ShardEntry with a `url`
    index row -> `rebuilt` -> the same Document, its text read from the tar by ranges

A record of ours has a line in its tar. Here the index keeps a **recipe** instead: where the members lie that have the
text, and which stretches of them become which parts. Text is not stored beside the index, because a copy of every
caption would be what adopting is meant to avoid, and a corpus of text would be copied whole; the line that the recipe
gives is compared with the checksum of the one that it gave when the tar was adopted, so that a changed tar, or
another recipe, is never read as data.

A recipe is structure only, and most records of a tar share one:

    {"parts": [0, [["m", 0], "\\n", ["m", 1, "answer", "text"]]], "answer": [2, 3], "marked": false, "notes": {...}}

A part is the ordinal of a medium, or a list of pieces:

    TEXT                              that stands between others
    ["m", 0]                          all of member 0
    ["m", 1, KEY, ...]                a value inside its JSON; ["json", 1, KEY, ...] the same written as JSON again
    ["cut", START, STOP, 1, KEY ...]  characters of a value

`answer` counts pieces of part 0. Where `marked`, `<image>` and `<video>` in the text say where media stand, if there
are as many marks as media. A note is a piece, or {"is": VALUE}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from manifests.errors import RecordError
from manifests.records import FORGOTTEN, Document, Fact, Json, Location, Media, Part, Text, canonical_json, digest
from manifests.unicode_form import clean
from stores.shards import index
from stores.shards.kinds import KINDS, to_line
from stores.shards.layout import checksum

MEMBERS = pa.schema(
    [
        ("recipe", index.NAMES),
        ("at", pa.list_(pa.int64())),  # of the members that have text, by their number in the recipe
        ("bytes", pa.list_(pa.int64())),
        ("xxh3", pa.uint64()),  # of the line that the recipe gives
    ]
)
"""The table `members` of an adopted tar: one row per record."""

BLANK = ("id", "source", "locator", "domain", "licence", "origin", "consent")
"""Columns of the core table that stand in a document as they are."""

SHORT = 4096
"""Recipes up to here are kept as they were read: thousands of records follow the same."""

MARK = re.compile(r"<(?:image|video)>\n?")

Piece = str | Sequence[Any]
Note = Piece | Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Recipe:
    parts: tuple[int | tuple[Piece, ...], ...]
    answer: tuple[int, int] | None = None
    marked: bool = False
    notes: Mapping[str, Note] = field(default_factory=dict)

    def __str__(self) -> str:
        told = {"parts": self.parts, "answer": self.answer, "marked": self.marked, "notes": dict(self.notes)}
        return canonical_json(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted(Document):
    """A document that stays where it is."""

    recipe: str
    members: tuple[tuple[int, int], ...]
    """(offset, length) in the tar of those that have text; media have a `Location` with the shard left empty."""


def follow(recipe: str, members: Sequence[bytes], blank: Document, media: Sequence[Media]) -> Document:
    """`blank` with parts, facts and notes from the members' bytes.

    Raises RecordError for what is no text: `bad_encoding`, `bad_json`, and the reasons of `clean`.
    """
    told = _read(recipe) if len(recipe) <= SHORT else json.loads(recipe)
    opened: dict[int, Json] = {}

    def value(piece: Json) -> Json:
        if isinstance(piece, str):
            return piece
        if isinstance(piece, dict):
            return piece["is"]
        if piece[0] == "cut":
            _, start, stop, *place = piece
            return clean(str(inside(place))[start:stop])
        if piece[0] == "json":
            return clean(json.dumps(inside(piece[1:]), ensure_ascii=False))
        if not piece[2:]:
            return clean(_utf8(members[piece[1]]).strip())
        found = inside(piece[1:])
        return clean(found) if isinstance(found, str) else found

    def inside(place: Json) -> Json:
        number, *path = place
        if number not in opened:
            opened[number] = _json(members[number])
        found = opened[number]
        try:
            for key in path:
                found = found[key]
        except (LookupError, TypeError):
            raise RecordError("bad_json", f"nothing at {path}") from None
        return found

    parts: list[Part] = []
    facts: tuple[Fact, ...] = ()
    for number, part in enumerate(told["parts"]):
        if isinstance(part, int):
            parts.append(media[part])
            continue
        pieces = [str(value(piece)) for piece in part]
        if told["answer"] and not number:
            start, stop = (len("".join(pieces[:at])) for at in told["answer"])
            facts = (Fact("answer", 0, start, stop),) if start < stop else ()
        parts.append(Text("".join(pieces)))
    if told["marked"]:
        parts = _placed(parts, media)
    notes = {name: value(piece) for name, piece in told["notes"].items()}
    return replace(blank, parts=tuple(parts), facts=facts, notes=notes)


def _placed(parts: Sequence[Part], media: Sequence[Media]) -> list[Part]:
    """Media where the text has marks, or else before it."""
    text = "".join(part.text for part in parts if isinstance(part, Text))
    pieces = MARK.split(text)
    if len(pieces) != len(media) + 1:
        words = MARK.sub("", text)
        return [*media, *([Text(words)] if words else [])]
    placed: list[Part] = []
    for piece, medium in zip(pieces, [*media, None], strict=True):
        placed += [Text(piece)] if piece else []
        placed += [medium] if medium else []
    return placed


@lru_cache(1024)
def _read(recipe: str) -> Mapping[str, Json]:
    return json.loads(recipe)


def _utf8(member: bytes) -> str:
    try:
        return member.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError("bad_encoding", f"not UTF-8 at offset {error.start}") from None


def _json(member: bytes) -> Json:
    try:
        return json.loads(_utf8(member))
    except (ValueError, RecursionError) as error:
        raise RecordError("bad_json", str(error)) from None


class AdoptedTar:
    """The index of one foreign tar, record by record."""

    def __init__(self) -> None:
        self._facts: list[list[Any]] = [[] for _ in KINDS["documents"].FACTS]
        self._media: list[dict[str, Any]] = []
        self._members: list[dict[str, Any]] = []

    def add(self, document: Adopted) -> None:
        """Raises RecordError for a document that JSON can't hold."""
        encoded = KINDS["documents"].encode(document)
        line = checksum(to_line(encoded.line))
        for media in encoded.media:
            assert media.location is not None
            place = (None, media.location.offset, media.location.length)
            self._media.append(index.media_row(len(self._members), media, -1, place, None))
        for column, fact in zip(self._facts, encoded.facts, strict=True):
            column.append(fact)
        at, sizes = ([member[which] for member in document.members] for which in (0, 1))
        self._members.append({"recipe": document.recipe, "at": at, "bytes": sizes, "xxh3": line})

    def finish(self) -> dict[str, pa.Table]:
        tables = {
            "core": index.table_of_columns(self._facts, KINDS["documents"].FACTS),
            "members": index.table_of(self._members, MEMBERS),
        }
        if self._media:
            tables["media"] = index.table_of(self._media, index.MEDIA)
        return tables


def forgotten(members: pa.Table, names: Mapping[int, str]) -> pa.Table:
    """The table without what it says of these rows, of which only the ids are left."""
    rows = members.to_pylist()
    for row, name in names.items():
        line = to_line(KINDS["documents"].encode(Document(name, FORGOTTEN, "", "", ())).line)
        rows[row] = {"recipe": str(Recipe(())), "at": [], "bytes": [], "xxh3": checksum(line)}
    return index.table_of(rows, MEMBERS)


def shard_name(tar: str, tables: str) -> str:
    """By which a store knows an adopted tar, of its digest and that of its tables: two nodes, or two names, may adopt
    equal bytes as other records."""
    return digest("adopted", tar, tables)


def rebuilt(
    core: pa.Table, members: pa.Table, row: int, media: Sequence[Media], parts: Sequence[bytes]
) -> Document | None:
    """The document of a row, None where its bytes are no longer those that were adopted.

    Args:
        parts: the bytes that lie where `members` says.
    """
    facts = {name: core.column(name)[row].as_py() for name in BLANK}
    told = {name: members.column(name)[row].as_py() for name in ("recipe", "xxh3")}
    blank = Document(facts.pop("id").hex(), parts=(), **facts)
    try:
        document = follow(told["recipe"], parts, blank, media)
        line = to_line(KINDS["documents"].encode(document).line)
    except RecordError:
        return None
    return document if checksum(line) == told["xxh3"] else None


def in_this_tar(media: Media, offset: int) -> Media:
    """A medium that was just read, without its bytes."""
    assert media.payload is not None
    return replace(media, payload=None, location=Location("", offset, len(media.payload)))
