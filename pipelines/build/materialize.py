"""The node `materialize`: a documents store of its own from the kept documents of a view.

documents or view -> `materialize` -> filter ... `tokenize`. Records keep ids, sources and lineage; media
come with their bytes, and columns of views stay with their records. Dropped, quarantined and forgotten records stay
behind; the new store doesn't need the old one. `edits/transform.py` reads documents in the same way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import tee
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from manifests.load import schema
from manifests.records import FORGOTTEN, Document, digest
from pipelines.node import Attempt, DocumentsNode, Inputs, Survey, Unit, UnitTask, units_below, with_columns
from stores.prefetch import prefetch
from stores.store import ShardRef, Snapshot, UnitWriter
from stores.writer import SHARD_BYTES

DECISION = ("keep", "reason")
"""Columns that don't come along: all remaining records are kept."""


@schema
class Materialize(DocumentsNode):
    """Copy the kept records of a view, or all records of a documents store, into a new store.

    By default it has the units of its input, so that a change there affects no other unit. With `compact` it fills
    shards, however small the pieces of the input are: a unit is the content of one shard, and documents that are added
    at the end change only the last units. Documents with different members don't share a shard; documents with equal
    members stay in order.
    """

    PASSES_COLUMNS = True
    RENAMED_KINDS: ClassVar[Mapping[str, str]] = {
        "materialise": "materialize",
        "compact": "write `kind: materialize` with `compact: true`",
    }

    kind: Literal["materialize"]
    input: str
    """Node with the documents."""
    compact: bool = False
    """Fill shards instead of keeping the units of the input."""
    shard_bytes: int = SHARD_BYTES
    """Size of a full shard, in bytes."""

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise ValueError(f"shard_bytes is {self.shard_bytes}, expected at least 1")

    def survey(self, name: str, inputs: Inputs) -> Survey:
        snapshot = inputs[self.input].snapshot
        if self.compact:
            return Survey(tuple(_full_shards(snapshot, self.shard_bytes)))
        return Survey(tuple(same_units(snapshot)))

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        # A compact unit is meant to be one shard; twice the size leaves room for errors of the estimate.
        writer.shard_bytes = self.shard_bytes * (2 if self.compact else 1)
        for document, columns in kept_documents(task.inputs[self.input].snapshot, task.unit.data):
            if document.source != FORGOTTEN:
                attempt.store(document.locator, document, columns)


def same_units(snapshot: Snapshot) -> Iterator[Unit]:
    """Yield the units of the input, with their ranges of ordinals as data; for `kept_documents`."""
    for unit in with_columns(snapshot, units_below(snapshot)):
        yield replace(unit, data=(range(unit.data.start, unit.data.stop),))


def _full_shards(snapshot: Snapshot, shard_bytes: int) -> list[Unit]:
    """Return units that fill one shard each, in the order of their first records.

    Sizes are those in the index, from when the records were written: forgetting moves no record to another unit.
    """
    filled: defaultdict[str, int] = defaultdict(int)
    """Bytes so far, by members of the documents."""
    ranges: defaultdict[str, list[range]] = defaultdict(list)
    content: defaultdict[str, list[str | bytes]] = defaultdict(list)
    sizes: defaultdict[str, int] = defaultdict(int)
    all_ends = prefetch(lambda ref: _kept_ends(snapshot, ref), snapshot.shards, snapshot.at_once)
    for ref, (rows, ends) in zip(snapshot.shards, all_ends, strict=True):
        if not len(rows):
            continue
        members = snapshot.base.entry(ref.shard).alike or "any"
        begins = filled[members] + np.concatenate([[0], ends[:-1]])
        filled[members] += int(ends[-1])
        shards = begins // shard_bytes
        for number in np.unique(shards).tolist():
            chosen, name = rows[shards == number], f"{members}-{number:06d}"
            sizes[name] += int(np.diff(ends, prepend=0)[shards == number].sum())
            ranges[name].append(range(ref.first + int(chosen[0]), ref.first + int(chosen[-1]) + 1))
            content[name] += [ref.shard, *snapshot.index_digests(ref), chosen.astype("<i8").tobytes()]
    return [Unit(name, digest(*content[name]), tuple(parts), sizes[name]) for name, parts in ranges.items()]


def _kept_ends(snapshot: Snapshot, ref: ShardRef) -> tuple[np.ndarray, np.ndarray]:
    """Return the kept rows of a shard, (n,) int64, and the bytes up to the end of each.

    If all rows are kept, they count as equally long: then the index isn't read, and only the place of a cut is slightly
    off.
    """
    rows = snapshot.kept(ref.first, ref.first + ref.records) - ref.first
    if len(rows) == ref.records:
        return rows, (rows + 1) * snapshot.base.entry(ref.shard).read_bytes // ref.records
    return rows, np.cumsum(snapshot.record_bytes(ref)[rows])


def kept_documents(snapshot: Snapshot, ranges: Sequence[range]) -> Iterator[tuple[Document, pa.Table | None]]:
    """Yield the kept documents of ranges of ordinals, with the bytes of their media, and the row of their columns."""
    kept = (ordinal for part in ranges for ordinal in snapshot.kept(part.start, part.stop).tolist())
    ordinals, same_ordinals = tee(kept)
    columns: pa.Table | None = None
    shard = range(0)
    for ordinal, document in zip(ordinals, snapshot.documents(same_ordinals), strict=True):
        if ordinal not in shard:
            ref = snapshot.shard_of(ordinal)
            shard = range(ref.first, ref.first + ref.records)
            table = snapshot.extra_columns(ref)
            names = [name for name in table.column_names if name not in DECISION]
            columns = table.select(names) if names else None
        yield document, columns.slice(ordinal - shard.start, 1) if columns is not None else None
