"""The nodes that move payload: `materialise` and `compact` make a documents store of what a view keeps.

documents or view -> materialise, compact -> filter ... `tokenise`. Records keep ids, sources and lineage, media come
with their bytes, and what views say of a record stands in columns beside it. What views dropped and what was set aside
stays behind; the new store reads without the old one. Of a forgotten record there is nothing to move.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
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

VERDICT = ("keep", "reason")
"""Columns that say why a record was dropped; of those that are left they say nothing."""


@schema
class Materialise(DocumentsNode):
    """What a view keeps, or all of a documents store, as a store of its own.

    `materialise` has the units of what it reads, so that a change there moves no unit but its own. `compact` makes full
    shards, however small the pieces are that it reads: a unit is what fills one shard, and what is added at the end
    changes the last units only. Documents whose members differ don't share a shard; those that do stay in their order.
    """

    PASSES_COLUMNS: ClassVar[bool] = True

    kind: Literal["materialise", "compact"]
    input: str
    """Node with the documents."""
    shard_bytes: int = SHARD_BYTES
    """A shard is full that has so many."""

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise ValueError(f"shard_bytes is {self.shard_bytes}, expected at least 1")

    def survey(self, name: str, inputs: Inputs) -> Survey:
        snapshot = inputs[self.input].snapshot
        if self.kind == "compact":
            return Survey(tuple(_full_shards(snapshot, self.shard_bytes)))
        return Survey(tuple(same_units(snapshot)))

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        # A unit of `compact` is one shard, a little under or over: only a gross mistake in its size is cut.
        writer.shard_bytes = self.shard_bytes * (2 if self.kind == "compact" else 1)
        for document, beside in kept_documents(task.inputs[self.input].snapshot, task.unit.data):
            if document.source != FORGOTTEN:
                attempt.store(document.locator, document, beside)


def same_units(snapshot: Snapshot) -> Iterator[Unit]:
    """Those of what is read."""
    for unit in with_columns(snapshot, units_below(snapshot)):
        yield replace(unit, data=(range(unit.data.start, unit.data.stop),))


def _full_shards(snapshot: Snapshot, shard_bytes: int) -> list[Unit]:
    """Units that fill one shard each, in the order of their first records.

    Decided by sizes as they stood in the index when the records were written: forgetting moves no record to another.
    """
    filled: defaultdict[str, int] = defaultdict(int)
    pieces: defaultdict[str, list[range]] = defaultdict(list)
    content: defaultdict[str, list[str | bytes]] = defaultdict(list)
    sizes: defaultdict[str, int] = defaultdict(int)
    measured = prefetch(lambda ref: _measured(snapshot, ref), snapshot.shards, snapshot.at_once)
    for ref, (rows, ends) in zip(snapshot.shards, measured, strict=True):
        if not len(rows):
            continue
        alike = snapshot.base.entry(ref.shard).alike or "any"
        begins = filled[alike] + np.concatenate([[0], ends[:-1]])
        filled[alike] += int(ends[-1])
        shards = begins // shard_bytes
        for number in np.unique(shards).tolist():
            some, name = rows[shards == number], f"{alike}-{number:06d}"
            sizes[name] += int(np.diff(ends, prepend=0)[shards == number].sum())
            pieces[name].append(range(ref.first + int(some[0]), ref.first + int(some[-1]) + 1))
            content[name] += [ref.shard, *snapshot.index_digests(ref), some.astype("<i8").tobytes()]
    return [Unit(name, digest(*content[name]), tuple(some), sizes[name]) for name, some in pieces.items()]


def _measured(snapshot: Snapshot, ref: ShardRef) -> tuple[np.ndarray, np.ndarray]:
    """(rows that are kept, bytes up to the end of each). Where all are, they are taken for equally long: the shard's
    size is known without its index, and only where it is cut can that be a little wrong."""
    rows = snapshot.kept(ref.first, ref.first + ref.records) - ref.first
    if len(rows) == ref.records:
        return rows, (rows + 1) * snapshot.base.entry(ref.shard).read_bytes // ref.records
    return rows, np.cumsum(snapshot.record_bytes(ref)[rows])


def kept_documents(snapshot: Snapshot, pieces: Sequence[range]) -> Iterator[tuple[Document, pa.Table | None]]:
    """Kept documents with their media, and the row of what is said of each beside its facts."""
    kept = (ordinal for piece in pieces for ordinal in snapshot.kept(piece.start, piece.stop).tolist())
    ordinals, again = tee(kept)
    said: pa.Table | None = None
    here = range(0)
    for ordinal, document in zip(ordinals, snapshot.documents(again), strict=True):
        if ordinal not in here:
            ref = snapshot.shard_of(ordinal)
            here = range(ref.first, ref.first + ref.records)
            table = snapshot.extra_columns(ref)
            names = [name for name in table.column_names if name not in VERDICT]
            said = table.select(names) if names else None
        yield document, said.slice(ordinal - here.start, 1) if said is not None else None
