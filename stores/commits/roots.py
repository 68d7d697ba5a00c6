"""Roots of a store and the records that they consist of, in canonical JSON.

A root is immutable and numbered; the newest one is the head. It names lists by digest, and a list names about a
thousand shards (`commits/lists.py`), so that a commit rewrites only the lists that it changes. This module touches no
filesystem; `commit.py` publishes roots, `snapshot.py` opens them.
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
    """Result of a finished unit: its shards and quarantine. Small and picklable; invisible until it is committed."""

    unit: str
    shards: tuple[ShardEntry, ...]
    quarantine: str | None = None
    """SHA-256 of the file with the quarantined records."""
    quarantined: int = 0
    """Number of quarantined records."""

    @property
    def counts(self) -> dict[str, int]:
        """Sums over the shards, and `quarantined`."""
        return add_counts([*(shard.counts for shard in self.shards), {"quarantined": self.quarantined}])


@dataclass(frozen=True, slots=True)
class Parent:
    """Reference to a snapshot that another one was made from."""

    url: str
    """Absolute here; relative where possible in the stored root, so that stores can be moved together."""
    number: int
    """Number of the root."""
    content_root: str


@dataclass(frozen=True, slots=True)
class ListEntry:
    """Entry of a list in a root."""

    digest: str
    """SHA-256 of the list."""
    units: int
    """Number of units."""
    counts: Mapping[str, int]
    """Sums over the units of this list, as `Root.counts`."""

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self.counts["shards"]


@dataclass(frozen=True, slots=True)
class Root:
    """Immutable state of a store."""

    kind: str
    """Kind of the store."""
    node: str
    """Identity of the node that made it."""
    complete: bool
    """Whether all units are in."""
    content_root: str = ""
    content: str = ""
    """Text form of the `ContentHash` over all shards; `content_root` is a digest of it."""
    lists: tuple[ListEntry, ...] = ()
    directory: str = ""
    """SHA-256 of the directory over all lists."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Sums over all shards: records, shards, bytes, quarantined, and the facts that count something."""
    parents: tuple[Parent, ...] = ()
    meta: Mapping[str, Json] = field(default_factory=dict)
    number: int = 0
    """From 1."""
    previous: str | None = None
    """SHA-256 of the previous root's file."""


def unit_paths(receipt: Receipt, kind: str) -> set[str]:
    """Return the paths of a unit's files in a store of this kind: tars, index tables, quarantine."""
    paths = {f"quarantine/{receipt.quarantine}.jsonl"} if receipt.quarantine else set()
    for entry in receipt.shards:
        paths |= {index.path(name, digest) for name, digest in entry.files.items()}
        paths |= {f"shards/{entry.tar}.tar"} if kind != "view" else set()
    return paths


def add_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sum counts by name, sorted by name."""
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(sorted(total.items()))


def store_counts(receipts: Sequence[Receipt]) -> dict[str, int]:
    """Return the counts of a root with these units."""
    shards = [entry for receipt in receipts for entry in receipt.shards]
    sizes = {"records": 0, "quarantined": 0, "shards": len(shards), "bytes": sum(entry.bytes for entry in shards)}
    return add_counts([sizes, *(receipt.counts for receipt in receipts)])


class ContentHash:
    """Hash of the content of a store: of each shard's unit, tar digest and logical index digest, without an order.

    Times, numbers, parents and parquet versions don't enter it, so equal work gives equal content on any number of
    workers. `forget` does not change it: it identifies the records as they were made, since later stores were made from
    those.

    It is a product of hashes modulo a prime (MuHash; Bellare and Micciancio, 1997, with the prime of Bitcoin Core). So
    a commit multiplies by the new shards and divides by the removed ones, and need not read the others.
    """

    PRIME = 2**3072 - 1103717

    def __init__(self, state: str = "") -> None:
        """
        Args:
            state: text form of another hash to go on from; empty for an empty store.
        """
        self._numerator, self._denominator = int(state, 16) if state else 1, 1

    def add(self, unit: Receipt) -> None:
        """Add the shards of a unit."""
        for shard in unit.shards:
            self._numerator = self._numerator * self._number(unit, shard) % self.PRIME

    def remove(self, unit: Receipt) -> None:
        """Remove the shards of a unit."""
        for shard in unit.shards:
            self._denominator = self._denominator * self._number(unit, shard) % self.PRIME

    def __str__(self) -> str:
        return f"{self._numerator * pow(self._denominator, -1, self.PRIME) % self.PRIME:x}"

    def _number(self, unit: Receipt, shard: ShardEntry) -> int:
        """Return the 3072-bit hash of one shard."""
        seed = digest(unit.unit, shard.shard, shard.index)
        return int.from_bytes(shake_256(seed.encode()).digest(384), "little")


def content_root(kind: str, content: str) -> str:
    """Return the content root: equal between worker counts, restarts and machines.

    Args:
        content: text form of the `ContentHash`.
    """
    return digest("content", kind, str(CONTENT_VERSION), content)


def root_bytes(root: Root, url: str) -> bytes:
    """Return the file of a root in the store at `url`; it contains a digest of itself."""
    parents = [asdict(replace(parent, url=relative_url(parent.url, url))) for parent in root.parents]
    data = {**asdict(replace(root, parents=())), "parents": parents, "schema": SCHEMA}
    return canonical_json(data | {"digest": digest("root", canonical_json(data))}).encode()


def read_root(data: bytes, url: str, where: str) -> Root:
    """Read the file that `root_bytes` wrote.

    Args:
        url: URL of the store.
        where: URL of the file, for the error.
    Raises:
        StoreError: the file is damaged or has another schema.
    """
    try:
        fields = json.loads(data)
        claimed = fields.pop("digest")
        schema = fields.pop("schema")
        whole = claimed == digest("root", canonical_json({**fields, "schema": schema}))
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise StoreError("this root is damaged", where=where, fix="restore the file from a copy of the store")
    if schema != SCHEMA:
        message = f"the root has schema {schema}, this program reads {SCHEMA}"
        raise StoreError(message, where=where, fix="make the store again, or use the version that made it")
    parents = tuple(Parent(**{**parent, "url": absolute_url(parent["url"], url)}) for parent in fields["parents"])
    return Root(**{**fields, "parents": parents, "lists": tuple(ListEntry(**entry) for entry in fields["lists"])})
