"""Deny lists of forgotten records: ingest checks them before it stores a record, and `forget` deletes by them.

    FOLDER/forgotten/000001.json    create-only, one per `millrace store forget`; FOLDER holds the stores of a run

A list contains no names. It holds SHA-256 digests of ids, sources, places (locators, URLs, origins) and media. With a
name one can look it up; from the list no name can be read. The lists are the one part of a run to keep when all else is
deleted and made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import or_
from typing import Literal, get_args

from manifests.errors import StoreError
from manifests.records import Document, canonical_json, digest, record_id
from stores.files.deny_lists import FOLDER, list_path
from stores.files.open import open_files

LINK = " -> "
"""Separator in the locator of a quarantined figure: document, then figure."""

NameKind = Literal["ids", "sources", "places", "media"]

NameMatcher = Callable[[NameKind, str], bool]
"""Tells whether a name is to be forgotten."""


def tombstone(kind: NameKind, name: str) -> str:
    """Return the digest of a name, 64 hex digits; the kind enters it."""
    return digest("forgotten", kind, name)


@dataclass(frozen=True)
class Tombstones:
    """Digests of forgotten names, by kind."""

    ids: frozenset[str] = field(default=frozenset())
    sources: frozenset[str] = field(default=frozenset())
    places: frozenset[str] = field(default=frozenset())
    """Locators, URLs and origins."""
    media: frozenset[str] = field(default=frozenset())
    """SHA-256 digests of media."""

    def __bool__(self) -> bool:
        return bool(self.ids or self.sources or self.places or self.media)

    def __or__(self, other: Tombstones) -> Tombstones:
        return Tombstones(
            self.ids | other.ids, self.sources | other.sources, self.places | other.places, self.media | other.media
        )

    def has_name(self, kind: NameKind, name: str) -> bool:
        """Tell whether a name is on the list; an empty name never is."""
        digests = getattr(self, kind)
        return bool(digests) and bool(name) and tombstone(kind, name) in digests

    def has_place(self, source: str, locator: str) -> bool:
        """Tell whether the record at a place is on the list, by source, locator or id; reads nothing of the record."""
        if not self:
            return False
        parts = (locator, *locator.split(LINK)) if LINK in locator else (locator,)
        return self.has_name("sources", source) or any(
            self.has_name("places", part) or self.has_name("ids", record_id(source, part)) for part in parts
        )

    def has_document(self, document: Document) -> bool:
        """Tell whether a document, one of its media or one of its parents is on the list."""
        return bool(self) and (
            self.has_name("ids", document.id)
            or self.has_name("sources", document.source)
            or any(self.has_name("places", place) for place in (document.locator, document.origin))
            or any(self.has_name("media", medium.digest) for medium in document.media)
            or any(self.has_name("ids", parent) for parent in document.parents)
        )


NO_TOMBSTONES = Tombstones()


def tombstones_of(names: Mapping[NameKind, Iterable[str]]) -> Tombstones:
    """Return the tombstones of plain names."""
    return Tombstones(**{kind: frozenset(tombstone(kind, name) for name in of_kind) for kind, of_kind in names.items()})


def union(lists: Iterable[Tombstones]) -> Tombstones:
    """Return all tombstones of several lists."""
    return reduce(or_, lists, NO_TOMBSTONES)


def read_all(folder: str) -> dict[int, Tombstones]:
    """Read all deny lists of a folder of stores, by number from 1.

    Raises:
        StoreError: a list is damaged.
    """
    files = open_files(f"{folder}/{FOLDER}")
    lists: dict[int, Tombstones] = {}
    while True:
        number = len(lists) + 1
        path = list_path(number)
        try:
            digests = json.loads(files.read(path))
            lists[number] = Tombstones(**{kind: frozenset(digests[kind]) for kind in get_args(NameKind)})
        except (FileNotFoundError, NotADirectoryError):
            return lists
        except (ValueError, KeyError, TypeError):
            fix = "restore it from a copy: without it, forgotten records would come back"
            raise StoreError("this deny list is damaged", where=f"{files.url}/{path}", fix=fix) from None


def read(folder: str) -> Tombstones:
    """Return all tombstones of a folder of stores."""
    return union(read_all(folder).values())


def publish_list(folder: str, tombstones: Tombstones) -> int:
    """Publish a deny list durably and for good; return its number."""
    files = open_files(f"{folder}/{FOLDER}")
    data = canonical_json({kind: sorted(digests) for kind, digests in asdict(tombstones).items()}).encode()
    number = len(read_all(folder)) + 1
    while not files.swap(list_path(number), data):
        number += 1
    return number
