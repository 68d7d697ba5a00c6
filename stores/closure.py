"""What else holds what is to be forgotten? From names to the ids of all records that must go.

`forget.py` asks. Everything here reads, nothing writes. Indexes answer for documents and samples; of packs the lines
are read, because a pack has no id.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import pyarrow as pa

from manifests.records import FORGOTTEN, record_id
from stores import blank, index
from stores.filesystem import Files
from stores.reading import ShardIndex, read_whole
from stores.roots import Receipt
from stores.snapshot import Snapshot
from stores.store import Store
from stores.tombstones import LINKED, Named, What

COLUMNS: dict[What, tuple[str, ...]] = {"ids": ("id",), "sources": ("source",), "places": ("locator", "origin")}
RECORDS = ("documents", "samples")


def snapshots(store: Store) -> list[Snapshot]:
    """All that there are, the newest last."""
    numbers = sorted(
        int(name) for info in store.files.listing("roots") if (name := info.path[6:].removesuffix(".json")).isdigit()
    )
    return [store.snapshot(number) for number in numbers]


def indexes(some: Iterable[Snapshot]) -> Iterator[tuple[Files, ShardIndex]]:
    """Of every shard that these snapshots of one store reach, once."""
    seen: set[tuple[str, ...]] = set()
    for snapshot in some:
        for receipt in snapshot.receipts:
            for entry in receipt.shards:
                key = (entry.tar, *entry.files.values())
                if key not in seen:
                    seen.add(key)
                    yield snapshot.files, snapshot.reader.index(entry)


def matches(known: ShardIndex, named: Named) -> Iterator[tuple[int, What, str]]:
    """(row, what, name) of everything in a shard of documents or samples that is named."""
    for what, columns in COLUMNS.items():
        for column in columns:
            if column in known.core.column_names:
                yield from _found(known.core.select([column]), column, what, named)
    if known.media is not None:
        rows = known.media.column("record").to_pylist()
        for at, what, name in _found(known.media.select(["digest"]), "digest", "media", named):
            yield rows[at], what, name


def _found(table: pa.Table, column: str, what: What, named: Named) -> Iterator[tuple[int, What, str]]:
    values = index.in_hex(table).column(column).to_pylist()
    wanted = {value for value in set(values) if value and named(what, value)}
    if wanted:
        yield from ((row, what, value) for row, value in enumerate(values) if value in wanted)


def ids(known: ShardIndex) -> list[str]:
    return [name.hex() for name in known.core.column("id").to_pylist()]


def closure(stores: Sequence[Store], named: Named) -> tuple[set[str], set[tuple[What, str]]]:
    """Ids of all records that must go, and the names that were found somewhere."""
    gone: set[str] = set()
    found: set[tuple[What, str]] = set()
    links: defaultdict[str, set[str]] = defaultdict(set)
    """id -> ids that go with it"""
    for store in stores:
        some = snapshots(store)
        if store.kind in RECORDS:
            for files, known in indexes(some):
                of_rows = ids(known)
                for row, what, name in matches(known, named):
                    gone.add(of_rows[row])
                    found.add((what, name))
                if store.kind == "documents":
                    _follow_parents(files, known, links)
        elif store.kind == "packs":
            for files, known in indexes(some):
                for sample, what, name in _in_packs(files, known, named):
                    gone.add(sample)
                    found.add((what, name))
        elif store.kind == "view" and some:
            _follow_duplicates(some[-1], links)
        for receipt in (receipt for snapshot in some for receipt in snapshot.receipts):
            found |= set(_in_quarantine(store, receipt, named))
    waiting = list(gone)
    while waiting:
        for other in links[waiting.pop()] - gone:
            gone.add(other)
            waiting.append(other)
    return gone, found


def _follow_parents(files: Files, known: ShardIndex, links: defaultdict[str, set[str]]) -> None:
    """Either all records of a shard were made from others or none was (`layout.signature`): the first one tells."""
    sources = known.core.column("source").to_pylist()
    rows = [row for row, source in enumerate(sources) if source != FORGOTTEN]
    if not rows or not blank.line_of(files, known, rows[0])["parents"]:
        return
    for row in rows:
        line = blank.line_of(files, known, row)
        for parent in line["parents"]:
            links[parent].add(line["id"])


def _follow_duplicates(view: Snapshot, links: defaultdict[str, set[str]]) -> None:
    """What says and shows the same goes together: one copy left would be nothing forgotten."""
    entries = [entry for receipt in view.receipts for entry in receipt.shards]
    if not entries or "duplicate_of" not in view.reader.table("columns", entries[0].files["columns"]).column_names:
        return
    table = view.table(["id", "duplicate_of"])
    for name, other in zip(table["id"].to_pylist(), table["duplicate_of"].to_pylist(), strict=True):
        if other is not None:
            links[name].add(other)
            links[other].add(name)


def _in_packs(files: Files, known: ShardIndex, named: Named) -> Iterator[tuple[str, What, str]]:
    """(sample, what, name) of segments; documents and samples of packs that were copied here may be elsewhere."""
    for row in range(known.core.num_rows):
        line = blank.line_of(files, known, row)
        for segment, one in zip(blank.homes(line), line["media"], strict=True):
            if named("media", one["digest"]):
                yield line["segments"][segment][0], "media", one["digest"]
        yield from ((name, "ids", name) for name, *_ in line["segments"] if named("ids", name))


def quarantine_lines(files: Files, receipt: Receipt) -> list[dict[str, str]]:
    if receipt.quarantine is None:
        return []
    data = read_whole(files, f"quarantine/{receipt.quarantine}.jsonl", receipt.quarantine)
    return [json.loads(line) for line in data.splitlines()]


def _in_quarantine(store: Store, receipt: Receipt, named: Named) -> Iterator[tuple[What, str]]:
    """What was set aside has no record, but a name: where it stood, and the id that it would have had."""
    of_this = partial(record_id, store.name)
    for told in quarantine_lines(store.files, receipt):
        for place in {told["locator"], *told["locator"].split(LINKED)} - {""}:
            if named("places", place):
                yield "places", place
            if named("ids", of_this(place)):
                yield "ids", of_this(place)
