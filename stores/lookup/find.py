"""Lookup of records by id, URL or media digest, without a scan of the store.

    lookup/NNNNNN.json   manifest of snapshot NNNNNN: the lists that its runs cover, and the runs
    lookup/DIGEST.run    locations of records, sorted by the hash of a name (`run_file.py`)

`upkeep/lookup.py` builds it; `Snapshot.find` asks it. The lookup index is derived data. It only names candidates, which
are then confirmed in the index of their shard. It may be deleted, be out of date or name deleted shards without a wrong
answer, and the shards that it does not cover are scanned.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Literal

import numpy as np
import pyarrow as pa
import xxhash

from manifests.errors import StoreError
from manifests.records import FORGOTTEN, canonical_json, digest
from stores.commits.lists import Lists
from stores.commits.roots import Root
from stores.files.protocol import Files
from stores.lookup.run_file import ENTRY, RunEntry, RunFile, run_path
from stores.prefetch import prefetch
from stores.shards import index
from stores.shards.reader import ShardIndex, ShardReader

FOLDER = "lookup"
VERSION = 1
"""Version of runs and of the hashed names."""

By = Literal["id", "url", "digest"]
"""Type of a name: id of a record, its locator or origin, or SHA-256 of a medium that it shows."""

CORE: dict[By, tuple[str, ...]] = {"id": ("id",), "url": ("locator", "origin")}
"""Columns of the core table that hold names; `digest` is a column of the media table."""
FEW = 16
"""Number of rows up to which they are checked one by one. Beyond, checking all rows of a shard at once costs less."""
MEDIA = ("record", "digest")
SEEDS: dict[By, int] = {"id": 1, "url": 2, "digest": 3}
BYTES: dict[By, int] = {"id": 16, "digest": 32}
"""Length in bytes of names that are hex digits."""


@dataclass(frozen=True)
class LookupManifest:
    """The lookup index of a snapshot."""

    lists: tuple[str, ...] = ()
    """Digests of the covered lists."""
    runs: tuple[RunEntry, ...] = ()


class Lookup:
    """Lookup in one snapshot of a store that holds records; a view uses that of its base."""

    def __init__(self, files: Files, root: Root, lists: Lists, reader: ShardReader) -> None:
        self._files, self._root, self._lists, self._reader = files, root, lists, reader
        self.error: StoreError | None = None
        """Damage of the lookup index, after which every lookup scans the store."""

    def rows(self, by: By, name: str) -> list[tuple[int, int]]:
        """Return (place of the shard, row in it) of every record with that name, in store order."""
        value = encode_name(by, name)
        if not value:
            return []
        matches: set[tuple[int, int]] = set()
        for prefix, rows in self._candidates(name_hash(by)(value)).items():
            for place in self._lists.directory.find_prefix(prefix):
                matches |= {(place, row) for row in confirm_rows(self._index(place), rows, by, value)}
        scanned = self.scanned
        tables = prefetch(lambda place: rows_with(self._index(place), by, value), scanned, self._files.at_once)
        for place, rows_there in zip(scanned, tables, strict=True):
            matches |= {(place, row) for row in rows_there.tolist()}
        return sorted(matches)

    @property
    def scanned(self) -> Sequence[int]:
        """Places of the shards that no run covers. Every lookup reads their index."""
        uncovered = self._uncovered
        return uncovered if self.error is None else range(len(self._lists.directory.records))

    def _candidates(self, hash_value: int) -> dict[int, set[int]]:
        """Return the first 8 bytes of a shard's digest -> rows, from the runs. A row may have been forgotten or,
        rarely, have another name of the same hash."""
        runs = self._runs
        candidates: defaultdict[int, set[int]] = defaultdict(set)
        try:
            for entries in prefetch(lambda run: run.find(hash_value), runs, min(self._files.at_once, len(runs))):
                for _, shard, row in entries.tolist():
                    candidates[shard].add(row)
        except StoreError as error:
            self.error = error
            return {}
        return candidates

    @cached_property
    def _manifest(self) -> LookupManifest:
        """The manifest of this snapshot, or else of the newest one before it."""
        number = self._root.number
        try:
            return read_manifest(self._files, number) or read_newest_before(self._files, number) or LookupManifest()
        except StoreError as error:
            self.error = error
            return LookupManifest()

    @cached_property
    def _runs(self) -> list[RunFile]:
        return [RunFile(self._files, entry) for entry in self._manifest.runs]

    @cached_property
    def _uncovered(self) -> list[int]:
        covered, directory = set(self._manifest.lists), self._lists.directory
        lists = [number for number, entry in enumerate(self._root.lists) if entry.digest not in covered]
        units = map(self._lists.units_of, lists)
        shards = (range(directory.first_shard(part.start), directory.first_shard(part.stop)) for part in units)
        return list(chain.from_iterable(shards))

    def _index(self, place: int) -> ShardIndex:
        return self._reader.index(self._lists.entry_at(place)[1])


def manifest_path(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def lookup_paths(files: Files, number: int) -> set[str]:
    """Return the paths of the lookup index of a snapshot, whether the files exist or not."""
    try:
        runs = (read_manifest(files, number) or LookupManifest()).runs
    except StoreError:
        runs = ()
    return {manifest_path(number), *(run_path(run.digest) for run in runs)}


def read_manifest(files: Files, number: int) -> LookupManifest | None:
    """Return the manifest of a snapshot; None if it has none of this version. Raises StoreError if it is damaged."""
    path = manifest_path(number)
    try:
        data = json.loads(files.read(path))
        body = data["lookup"]
        if data["digest"] != digest("lookup", canonical_json(body)):
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        where, fix = f"{files.url}/{path}", "run `millrace store repair`"
        raise StoreError("the manifest of the lookup index is damaged", where=where, fix=fix) from None
    if body["version"] != VERSION:
        return None
    return LookupManifest(tuple(body["lists"]), tuple(RunEntry(**run) for run in body["runs"]))


def manifest_bytes(manifest: LookupManifest) -> bytes:
    """Return the file of a manifest. It contains its own digest."""
    body = {"version": VERSION, **asdict(manifest)}
    return canonical_json({"lookup": body, "digest": digest("lookup", canonical_json(body))}).encode()


def read_newest_before(files: Files, number: int) -> LookupManifest | None:
    """Return the manifest of the newest snapshot below `number` that has one."""
    names = (info.path.rpartition("/")[2].removesuffix(".json") for info in files.listing(FOLDER))
    made = [int(name) for name in names if name.isdigit() and int(name) < number]
    return read_manifest(files, max(made)) if made else None


def encode_name(by: By, name: str) -> bytes:
    """Return a name as the index holds it; empty if it can't be a name of this type."""
    try:
        value = bytes.fromhex(name) if by in BYTES else name.encode()
    except ValueError:
        return b""
    return value if by not in BYTES or (len(value), value.hex()) == (BYTES[by], name) else b""


def name_hash(by: By) -> Callable[[bytes], int]:
    """Return the hash function, 64 bits, for names as the index holds them."""
    return partial(xxhash.xxh3_64_intdigest, seed=SEEDS[by])


def index_entries(shard: ShardIndex) -> np.ndarray:
    """Return (n,) ENTRY: every name of every record of a shard, except of forgotten records."""
    parts = []
    for by in SEEDS:
        for rows, column in _names(shard, by):
            values = column.cast(pa.large_binary()).to_pylist()
            part = np.zeros(len(values), ENTRY)
            part["hash"] = np.fromiter(map(name_hash(by), values), np.uint64, len(values))
            part["row"] = rows
            parts.append(part)
    entries = np.concatenate([np.zeros(0, ENTRY), *parts])
    entries["shard"] = int(shard.digest[:16], 16)
    return entries


def confirm_rows(shard: ShardIndex, rows: Set[int], by: By, value: bytes) -> Iterable[int]:
    """Return those of `rows` whose record has that name in the index."""
    if len(rows) > FEW:
        return rows & set(rows_with(shard, by, value).tolist())
    return [row for row in rows if has_name(shard, row, by, value)]


def has_name(shard: ShardIndex, row: int, by: By, value: bytes) -> bool:
    """Whether the record in a row, if there is one, has that name in the index."""
    if row >= shard.entry.records:
        return False
    if by == "digest":
        media = shard.columns("media", MEDIA)
        if media is None:
            return False
        first, stop = np.searchsorted(index.numbers(media.column("record")), [row, row + 1]).tolist()
        return any(media.column("digest")[place].as_py() == value for place in range(first, stop))
    core = shard.columns("core", ["source", *CORE[by]])
    assert core is not None
    if "source" in core.column_names and core.column("source")[row].as_py() == FORGOTTEN:
        return False
    name = value if by in BYTES else value.decode()
    return any(core.column(column)[row].as_py() == name for column in CORE[by] if column in core.column_names)


def rows_with(shard: ShardIndex, by: By, value: bytes) -> np.ndarray:
    """Return (n,) int64, ascending: rows of the records of a shard that have that name."""
    import pyarrow.compute as pc  # 8 MB that readers of single records don't need

    matches = [np.zeros(0, np.int64)]
    for rows, column in _names(shard, by):
        wanted = pa.scalar(value if by in BYTES else value.decode(), column.type)
        matches.append(rows[pc.equal(column, wanted).to_numpy()])
    return np.unique(np.concatenate(matches))


def _names(shard: ShardIndex, by: By) -> Iterator[tuple[np.ndarray, pa.ChunkedArray]]:
    """Yield columns of names with the row of each name. Empty names and names of forgotten records are left out."""
    import pyarrow.compute as pc

    if by == "digest":
        media = shard.columns("media", MEDIA)
        if media is not None:
            yield media.column("record").to_numpy(), media.column("digest")
        return
    core = shard.columns("core", ["source", *CORE[by]])
    assert core is not None
    named = np.ones(core.num_rows, bool)
    if "source" in core.column_names:
        named = pc.not_equal(core.column("source").cast(pa.string()), FORGOTTEN).to_numpy()
    for name in CORE[by]:
        if name in core.column_names:
            column = core.column(name)
            rows = np.flatnonzero(named & (pc.binary_length(column).to_numpy() > 0))
            yield rows, column.take(pa.array(rows))
