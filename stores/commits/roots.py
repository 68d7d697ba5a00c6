"""What a store publishes: roots, the lists they point to, and the entries in those. JSON with one byte form.

A root is immutable and numbered; the newest is the head. It names list objects by digest, a list names about a thousand
shards (`commits/lists.py`), so that a commit rewrites only what it changes. Nothing here touches a filesystem.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import shake_256

from manifests.errors import StoreError
from manifests.records import Json, canonical_json, digest
from stores.files.urls import absolute_url, relative_url
from stores.shards import index
from stores.shards.entry import ShardEntry

SCHEMA = 6
"""Form of the files of a store; programs read no other."""

CONTENT_VERSION = 5
"""Enters content roots. Raised only where equal work must get another content root."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A finished unit: what was written for it. Small and picklable; nothing is visible before it is committed."""

    unit: str
    shards: tuple[ShardEntry, ...]
    quarantine: str | None = None
    """SHA-256 of the file of records set aside."""
    quarantined: int = 0

    @property
    def counts(self) -> dict[str, int]:
        return add_counts([*(shard.counts for shard in self.shards), {"quarantined": self.quarantined}])


@dataclass(frozen=True, slots=True)
class Parent:
    """A snapshot that another one was made from."""

    url: str
    """Absolute here; relative where possible in the stored root, so that stores can be moved together."""
    number: int
    content_root: str


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A list object as a root names it."""

    digest: str
    units: int
    counts: Mapping[str, int]
    """As in the root, of the units of this list."""

    @property
    def shards(self) -> int:
        return self.counts["shards"]


@dataclass(frozen=True, slots=True)
class Root:
    """An immutable state of a store."""

    kind: str
    node: str
    """Identity of the node that made it."""
    complete: bool
    content_root: str = ""
    content: str = ""
    """What the content root is taken of (`Content`)."""
    lists: tuple[ListEntry, ...] = ()
    directory: str = ""
    """SHA-256 of the directory over all lists."""
    counts: Mapping[str, int] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    meta: Mapping[str, Json] = field(default_factory=dict)
    number: int = 0
    """From 1."""
    previous: str | None = None
    """SHA-256 of the root before."""


def unit_paths(receipt: Receipt, kind: str) -> set[str]:
    """Files in its own store that a unit consists of."""
    found = {f"quarantine/{receipt.quarantine}.jsonl"} if receipt.quarantine else set()
    for entry in receipt.shards:
        found |= {index.path(name, digest) for name, digest in entry.files.items()}
        found |= {f"shards/{entry.tar}.tar"} if kind != "view" else set()
    return found


def add_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return dict(sorted(total.items()))


def store_counts(receipts: Sequence[Receipt]) -> dict[str, int]:
    """What a root says of all units together."""
    shards = [entry for receipt in receipts for entry in receipt.shards]
    sizes = {"records": 0, "quarantined": 0, "shards": len(shards), "bytes": sum(entry.bytes for entry in shards)}
    return add_counts([sizes, *(receipt.counts for receipt in receipts)])


class ContentHash:
    """What a store holds, as a number: per shard its unit, tar and logical index, in no order. No times, numbers,
    parents or parquet versions: equal work gives equal content on any number of workers. Forgetting leaves it as it is:
    it says what was made, and everything downstream was made from that.

    A product of hashes modulo a prime (MuHash; Bellare and Micciancio, 1997, with the prime that Bitcoin Core uses), so
    that a commit multiplies by what comes and divides by what goes instead of reading everything else again.
    """

    PRIME = 2**3072 - 1103717

    def __init__(self, state: str = "") -> None:
        self._has, self._lacks = int(state, 16) if state else 1, 1

    def add(self, unit: Receipt) -> None:
        for shard in unit.shards:
            self._has = self._has * self._number(unit, shard) % self.PRIME

    def remove(self, unit: Receipt) -> None:
        for shard in unit.shards:
            self._lacks = self._lacks * self._number(unit, shard) % self.PRIME

    def __str__(self) -> str:
        return f"{self._has * pow(self._lacks, -1, self.PRIME) % self.PRIME:x}"

    def _number(self, unit: Receipt, shard: ShardEntry) -> int:
        told = digest(unit.unit, shard.shard, shard.index)
        return int.from_bytes(shake_256(told.encode()).digest(384), "little")


def content_root(kind: str, content: str) -> str:
    """What must be equal between worker counts, restarts and machines."""
    return digest("content", kind, str(CONTENT_VERSION), content)


def root_bytes(root: Root, url: str) -> bytes:
    """The file of a root in the store at `url`. It carries a digest of itself."""
    parents = [asdict(replace(parent, url=relative_url(parent.url, url))) for parent in root.parents]
    data = {**asdict(replace(root, parents=())), "parents": parents, "schema": SCHEMA}
    return canonical_json(data | {"digest": digest("root", canonical_json(data))}).encode()


def read_root(data: bytes, url: str, where: str) -> Root:
    """The inverse of `root_bytes`. Raises StoreError for anything else."""
    try:
        told = json.loads(data)
        claimed = told.pop("digest")
        schema = told.pop("schema")
        whole = claimed == digest("root", canonical_json({**told, "schema": schema}))
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise StoreError("this root is damaged", where=where, fix="restore the file from a copy of the store")
    if schema != SCHEMA:
        raise StoreError(f"the root has schema {schema}, this program reads {SCHEMA}", where=where)
    parents = tuple(Parent(**{**parent, "url": absolute_url(parent["url"], url)}) for parent in told["parents"])
    return Root(**{**told, "parents": parents, "lists": tuple(ListEntry(**entry) for entry in told["lists"])})
