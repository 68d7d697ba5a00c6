"""What must never come back: the list that ingest asks before it stores a record, and `forget/command.py` obeys.

    FOLDER/forgotten/000001.json    create-only, one per `millrace store forget`; FOLDER holds the stores of a run

A list names nothing: it holds SHA-256 digests of ids, names of sources, places (locators, URLs, origins) and media. Who
has a name can ask whether it is on the list; who has the list learns no name. It is the one thing of a run that must be
kept when everything else is deleted and made again.
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
"""Stands between a document and its figure in the locator of a figure that was set aside."""

NameKind = Literal["ids", "sources", "places", "media"]

NameMatcher = Callable[[NameKind, str], bool]
"""Whether something is to be forgotten."""


def tombstone(what: NameKind, name: str) -> str:
    """64 hex digits. A list of another kind of names has another digest for the same name."""
    return digest("forgotten", what, name)


@dataclass(frozen=True)
class Tombstones:
    ids: frozenset[str] = field(default=frozenset())
    sources: frozenset[str] = field(default=frozenset())
    places: frozenset[str] = field(default=frozenset())
    """Locators, URLs and origins."""
    media: frozenset[str] = field(default=frozenset())

    def __bool__(self) -> bool:
        return bool(self.ids or self.sources or self.places or self.media)

    def __or__(self, other: Tombstones) -> Tombstones:
        return Tombstones(
            self.ids | other.ids, self.sources | other.sources, self.places | other.places, self.media | other.media
        )

    def has_name(self, what: NameKind, name: str) -> bool:
        """An empty name says nothing, and is on no list."""
        known = getattr(self, what)
        return bool(known) and bool(name) and tombstone(what, name) in known

    def has_place(self, source: str, locator: str) -> bool:
        """Whether a record is named by where it stands, before anything of it is read."""
        if not self:
            return False
        parts = (locator, *locator.split(LINK)) if LINK in locator else (locator,)
        return self.has_name("sources", source) or any(
            self.has_name("places", part) or self.has_name("ids", record_id(source, part)) for part in parts
        )

    def has_document(self, document: Document) -> bool:
        """Whether a document, or anything it shows or was made from, is named."""
        return bool(self) and (
            self.has_name("ids", document.id)
            or self.has_name("sources", document.source)
            or any(self.has_name("places", place) for place in (document.locator, document.origin))
            or any(self.has_name("media", medium.digest) for medium in document.media)
            or any(self.has_name("ids", parent) for parent in document.parents)
        )


NO_TOMBSTONES = Tombstones()


def tombstones_of(named: Mapping[NameKind, Iterable[str]]) -> Tombstones:
    """Tombstones of names in plain words."""
    return Tombstones(**{what: frozenset(tombstone(what, name) for name in names) for what, names in named.items()})


def union(some: Iterable[Tombstones]) -> Tombstones:
    return reduce(or_, some, NO_TOMBSTONES)


def read_all(folder: str) -> dict[int, Tombstones]:
    """All lists of a folder of stores by number, from 1. Raises StoreError for a file that is none."""
    files = open_files(f"{folder}/{FOLDER}")
    found: dict[int, Tombstones] = {}
    while True:
        number = len(found) + 1
        path = list_path(number)
        try:
            told = json.loads(files.read(path))
            found[number] = Tombstones(**{what: frozenset(told[what]) for what in get_args(NameKind)})
        except (FileNotFoundError, NotADirectoryError):
            return found
        except (ValueError, KeyError, TypeError):
            fix = "restore it from a copy: what it names would come back"
            raise StoreError("this list of the forgotten is damaged", where=f"{files.url}/{path}", fix=fix) from None


def read(folder: str) -> Tombstones:
    """Everything that is forgotten in a folder of stores."""
    return union(read_all(folder).values())


def publish_list(folder: str, stones: Tombstones) -> int:
    """Publish a list durably; its number. Nobody takes it back."""
    files = open_files(f"{folder}/{FOLDER}")
    data = canonical_json({what: sorted(names) for what, names in asdict(stones).items()}).encode()
    number = len(read_all(folder)) + 1
    while not files.swap(list_path(number), data):
        number += 1
    return number
