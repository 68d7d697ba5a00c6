"""What a store publishes: roots, the lists they point to, and the entries in those. JSON with one byte form.

A root is immutable and numbered; the newest is the head. It names list objects by digest, a list names about a thousand
shards, so that a commit rewrites only the lists from the first change on. Nothing here touches a filesystem.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256

from manifests.errors import StoreError
from manifests.records import Json, canonical_json, digest
from stores import index
from stores.filesystem import absolute_url, relative_url

SCHEMA = 2
LIST_SHARDS = 1000


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A shard and its index; in a view, a shard of the base and the columns decided for it."""

    shard: str
    """BLAKE3 of the tar as it was made: the name that views, samples and packs know the shard by, for good."""
    bytes: int
    """Of the tar; 0 in a view, which stores none."""
    records: int
    index: str
    """Logical digest of the tables."""
    files: Mapping[str, str]
    """Table name (`core`, `media`, in a view `columns`) -> SHA-256 of its parquet file."""
    counts: Mapping[str, int]
    url: str | None = None
    """Of the tar, where it was adopted and lies outside the store; absolute here, relative in the stored list."""
    blanked: str | None = None
    """BLAKE3 of the tar that lies there now, where records of it were forgotten; every offset is as it was."""
    blanked_index: str | None = None
    """Logical digest of the tables that lie there now, where rows of them were forgotten."""

    @property
    def tar(self) -> str:
        """BLAKE3 of the tar that lies there now; it names the file."""
        return self.blanked or self.shard

    @property
    def tables(self) -> str:
        """Logical digest of the tables that lie there now."""
        return self.blanked_index or self.index


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
    shards: int
    records: int


@dataclass(frozen=True, slots=True)
class Root:
    """An immutable state of a store."""

    kind: str
    node: str
    """Identity of the node that made it."""
    complete: bool
    content_root: str
    lists: tuple[ListEntry, ...]
    counts: Mapping[str, int]
    parents: tuple[Parent, ...] = ()
    meta: Mapping[str, Json] = field(default_factory=dict)
    number: int = 0
    """From 1."""
    previous: str | None = None
    """SHA-256 of the root before."""


def paths(receipt: Receipt, kind: str) -> set[str]:
    """Files in its own store that a unit consists of."""
    found = {f"quarantine/{receipt.quarantine}.jsonl"} if receipt.quarantine else set()
    for entry in receipt.shards:
        found |= {index.path(name, digest) for name, digest in entry.files.items()}
        found |= {f"shards/{entry.tar}.tar"} if kind != "view" and entry.url is None else set()
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


def content_root(kind: str, units: Iterable[Receipt]) -> str:
    """Digest of what a store holds: kind, and per shard its unit, tar and logical index, sorted. No times, numbers,
    parents, orders of arrival or parquet versions: equal work gives equal roots on any number of workers. Forgetting
    leaves it as it is: it says what was made, and everything downstream was made from that."""
    entries = sorted((unit.unit, shard.shard, shard.index) for unit in units for shard in unit.shards)
    return digest("content", kind, str(SCHEMA), *(part for entry in entries for part in entry))


def cut_lists(units: Sequence[Receipt]) -> Iterator[tuple[ListEntry, bytes]]:
    """List objects for `units` in store order; equal beginnings give equal objects."""
    start = shards = 0
    for stop, unit in enumerate(units, 1):
        shards += len(unit.shards) or 1
        if shards >= LIST_SHARDS or stop == len(units):
            part = units[start:stop]
            data = canonical_json({"units": [asdict(receipt) for receipt in part]}).encode()
            entries = [shard for receipt in part for shard in receipt.shards]
            records = sum(entry.records for entry in entries)
            yield ListEntry(sha256(data).hexdigest(), len(part), len(entries), records), data
            start, shards = stop, 0


def read_list(data: bytes) -> list[Receipt]:
    return [receipt_of(unit) for unit in json.loads(data)["units"]]


def receipt_of(data: Mapping[str, Json]) -> Receipt:
    """The inverse of `dataclasses.asdict`."""
    shards = tuple(ShardEntry(**shard) for shard in data["shards"])
    return Receipt(**{**data, "shards": shards})


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
