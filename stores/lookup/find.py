"""Which records have this id, come from this URL, show this medium? Answered without a scan: the look-up of a snapshot.

    lookup/NNNNNN.json   of snapshot NNNNNN: the lists that are covered, and the runs that cover them
    lookup/DIGEST.run    where records lie, by the hash of a name (`lookup/run_file.py`)

All of it is derived: it says where to look, and what the index says there counts. So it may be deleted, may be behind
and may name shards that are gone, and no answer is wrong; what it does not cover is scanned. `upkeep/lookup.py` makes
it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
import pyarrow as pa
import xxhash

from manifests.errors import StoreError
from manifests.records import FORGOTTEN, canonical_json, digest
from stores.commits.lists import Lists
from stores.commits.roots import Root
from stores.files.protocol import Files
from stores.lookup.run_file import ENTRY, Run, RunEntry, run_path
from stores.prefetch import prefetch
from stores.shards import index
from stores.shards.reader import ShardIndex, ShardReader

FOLDER = "lookup"
VERSION = 1
"""Of runs and of what is hashed."""

By = Literal["id", "url", "digest"]

CORE: dict[By, tuple[str, ...]] = {"id": ("id",), "url": ("locator", "origin")}
"""Columns of the core table that say a name; `digest` is one of the media table."""
FEW = 16
"""Rows that are looked at one by one; beyond, all rows of a shard at once cost less."""
MEDIA = ("record", "digest")
SEEDS: dict[By, int] = {"id": 1, "url": 2, "digest": 3}
BYTES: dict[By, int] = {"id": 16, "digest": 32}
"""Of names that records give in hex digits."""


@dataclass(frozen=True)
class Covered:
    """What was made for a snapshot."""

    lists: tuple[str, ...] = ()
    runs: tuple[RunEntry, ...] = ()


class Lookup:
    """Finds records of one snapshot of a store; not of a view, which asks that of its base."""

    def __init__(self, files: Files, root: Root, lists: Lists, reader: ShardReader) -> None:
        self._files, self._root, self._lists, self._reader = files, root, lists, reader
        self.trouble: StoreError | None = None
        """What is wrong with the look-up; questions are then answered by scanning."""

    def rows(self, by: By, name: str) -> list[tuple[int, int]]:
        """(place of the shard, row in it) of every record with that name, in store order."""
        value = raw(by, name)
        if not value:
            return []
        found: set[tuple[int, int]] = set()
        for prefix, rows in self._candidates(hasher(by)(value)).items():
            for place in self._lists.directory.beginning_with(prefix):
                found |= {(place, row) for row in confirmed(self._index(place), rows, by, value)}
        scanned = self.scanned
        tables = prefetch(lambda place: rows_with(self._index(place), by, value), scanned, self._files.at_once)
        for place, there in zip(scanned, tables, strict=True):
            found |= {(place, row) for row in there.tolist()}
        return sorted(found)

    @property
    def scanned(self) -> Sequence[int]:
        """Places of shards that no run covers: every question reads their index."""
        uncovered = self._uncovered
        return uncovered if self.trouble is None else range(len(self._lists.directory.records))

    def _candidates(self, name: int) -> dict[int, set[int]]:
        """How a shard's digest begins -> rows, as the runs say it. Some may be gone, or have another name of the
        same hash, hardly ever."""
        runs = self._runs
        found: defaultdict[int, set[int]] = defaultdict(set)
        try:
            for entries in prefetch(lambda run: run.find(name), runs, min(self._files.at_once, len(runs))):
                for _, shard, row in entries.tolist():
                    found[shard].add(row)
        except StoreError as error:
            self.trouble = error
            return {}
        return found

    @cached_property
    def _covered(self) -> Covered:
        """By the look-up of this snapshot, else by that of the newest one before it."""
        number = self._root.number
        try:
            return read(self._files, number) or newest_before(self._files, number) or Covered()
        except StoreError as error:
            self.trouble = error
            return Covered()

    @cached_property
    def _runs(self) -> list[Run]:
        return [Run(self._files, told) for told in self._covered.runs]

    @cached_property
    def _uncovered(self) -> list[int]:
        covered, directory = set(self._covered.lists), self._lists.directory
        units = [self._lists.units_of(i) for i, one in enumerate(self._root.lists) if one.digest not in covered]
        shards = [range(directory.first_shard(some.start), directory.first_shard(some.stop)) for some in units]
        return [place for some in shards for place in some]

    def _index(self, place: int) -> ShardIndex:
        return self._reader.index(self._lists.shard(place)[1])


def manifest_path(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def paths(files: Files, number: int) -> set[str]:
    """Files of the look-up of a snapshot, whether they are there or not."""
    try:
        runs = (read(files, number) or Covered()).runs
    except StoreError:
        runs = ()
    return {manifest_path(number), *(run_path(run.digest) for run in runs)}


def read(files: Files, number: int) -> Covered | None:
    """What was made for that snapshot; None where nothing was. Raises StoreError where it is damaged."""
    path = manifest_path(number)
    try:
        told = json.loads(files.read(path))
        body = told["lookup"]
        if told["digest"] != digest("lookup", canonical_json(body)):
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        where, fix = f"{files.url}/{path}", "`millrace store repair` makes it again"
        raise StoreError("what says which look-up there is, is damaged", where=where, fix=fix) from None
    if body["version"] != VERSION:
        return None
    return Covered(tuple(body["lists"]), tuple(RunEntry(**run) for run in body["runs"]))


def manifest_bytes(covered: Covered) -> bytes:
    body = {"version": VERSION, **asdict(covered)}
    return canonical_json({"lookup": body, "digest": digest("lookup", canonical_json(body))}).encode()


def newest_before(files: Files, number: int) -> Covered | None:
    """The look-up of the newest snapshot below `number` that has one."""
    names = (info.path.rpartition("/")[2].removesuffix(".json") for info in files.listing(FOLDER))
    made = [int(name) for name in names if name.isdigit() and int(name) < number]
    return read(files, max(made)) if made else None


def raw(by: By, name: str) -> bytes:
    """A name as the index holds it; empty for what can be no name, which nothing has."""
    try:
        value = bytes.fromhex(name) if by in BYTES else name.encode()
    except ValueError:
        return b""
    return value if by not in BYTES or (len(value), value.hex()) == (BYTES[by], name) else b""


def hasher(by: By) -> Callable[[bytes], int]:
    """Of names as the index holds them, 64 bits."""
    return partial(xxhash.xxh3_64_intdigest, seed=SEEDS[by])


def entries_of(known: ShardIndex) -> np.ndarray:
    """(n,) ENTRY: every name of every record of a shard. What was forgotten has none."""
    parts = []
    for by in SEEDS:
        for rows, column in _names(known, by):
            values = column.cast(pa.large_binary()).to_pylist()
            part = np.zeros(len(values), ENTRY)
            part["hash"] = np.fromiter(map(hasher(by), values), np.uint64, len(values))
            part["row"] = rows
            parts.append(part)
    entries = np.concatenate([np.zeros(0, ENTRY), *parts])
    entries["shard"] = int(known.shard[:16], 16)
    return entries


def confirmed(known: ShardIndex, rows: Set[int], by: By, value: bytes) -> Iterable[int]:
    """Those of `rows` whose record has that name, as the index says it."""
    if len(rows) > FEW:
        return rows & set(rows_with(known, by, value).tolist())
    return [row for row in rows if has_name(known, row, by, value)]


def has_name(known: ShardIndex, row: int, by: By, value: bytes) -> bool:
    """Whether the index says that the record in that row, if there is one, has that name."""
    if row >= known.entry.records:
        return False
    if by == "digest":
        media = known.columns("media", MEDIA)
        if media is None:
            return False
        first, stop = np.searchsorted(index.numbers(media.column("record")), [row, row + 1]).tolist()
        return any(media.column("digest")[place].as_py() == value for place in range(first, stop))
    core = known.columns("core", ["source", *CORE[by]])
    assert core is not None
    there = core.column_names
    if "source" in there and core.column("source")[row].as_py() == FORGOTTEN:
        return False
    name = value if by in BYTES else value.decode()
    return any(core.column(column)[row].as_py() == name for column in CORE[by] if column in there)


def rows_with(known: ShardIndex, by: By, value: bytes) -> np.ndarray:
    """(n,) int64, ascending: rows of the records of a shard that have that name."""
    import pyarrow.compute as pc  # 8 MB that those who only read records do without

    found = [np.zeros(0, np.int64)]
    for rows, column in _names(known, by):
        wanted = pa.scalar(value if by in BYTES else value.decode(), column.type)
        found.append(rows[pc.equal(column, wanted).to_numpy()])
    return np.unique(np.concatenate(found))


def _names(known: ShardIndex, by: By) -> Iterator[tuple[np.ndarray, pa.ChunkedArray]]:
    """Columns of names, and the row that has each. Empty names and those of forgotten records are left out."""
    import pyarrow.compute as pc

    if by == "digest":
        media = known.columns("media", MEDIA)
        if media is not None:
            yield media.column("record").to_numpy(), media.column("digest")
        return
    core = known.columns("core", ["source", *CORE[by]])
    assert core is not None
    there = np.ones(core.num_rows, bool)
    if "source" in core.column_names:
        there = pc.not_equal(core.column("source").cast(pa.string()), FORGOTTEN).to_numpy()
    for name in CORE[by]:
        if name in core.column_names:
            column = core.column(name)
            rows = np.flatnonzero(there & (pc.binary_length(column).to_numpy() > 0))
            yield rows, column.take(pa.array(rows))
