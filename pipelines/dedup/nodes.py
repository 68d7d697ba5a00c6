"""Nodes that drop duplicates: `dedup_exact`, and `minhash` with `dedup_minhash` for near ones.

Views over documents, between the filters and `tokenise`. What is dear, looking into every document, is done unit by
unit and kept as columns; what compares all with all reads columns only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json, digest
from pipelines.dedup import exact
from pipelines.filters.op import concerns
from pipelines.node import DOCUMENTS, Attempt, Inputs, Survey, Task, Unit, units_below, with_columns
from stores.store import ShardRef, Snapshot, StoreKind, UnitWriter

BLOCK = 512
"""Documents whose keys are made together."""


@schema
class DedupExact:
    """Documents that say and show the same: the one with the smallest id stays.

    One unit, because every record is compared with every other: killed, it begins again.
    """

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["dedup_exact"]
    input: str

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        units = units_below(inputs[self.input].snapshot)
        return Survey((everything(units),), {"exact": exact.VERSION})

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> None:
        snapshot = task.inputs[self.input].snapshot
        tables = [exact.keys(snapshot.records(ref.first, ref.first + ref.records)) for ref in snapshot.shards]
        for ref, decisions in zip(snapshot.shards, exact.decide(tables), strict=True):
            columns = {name: decisions.column(name).to_pylist() for name in decisions.column_names}
            writer.columns(ref.shard, _over_all(snapshot, ref, columns))
            for reason in columns["reason"]:
                if reason is not None:
                    attempt.drop(reason)


@schema
class MinHash:
    """Keys by which `dedup_minhash` finds near duplicates, as columns `NODE.band_00` and so on. Drops nothing.

    With the numbers below two texts of which three quarters of all shingles are common are found with a probability of
    77 %, of which nine tenths with more than 99.9 %. Documents with media are left alone: their texts may be alike and
    their pictures not.
    """

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 2
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["minhash"]
    input: str
    words: int = 5
    """Of a shingle."""
    bands: int = 14
    rows: int = 8
    """Hashes of a band: more rows make a band harder to share."""
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("words", "bands", "rows"):
            if not 1 <= getattr(self, name) <= 1024:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 to 1024")

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        from pipelines.dedup import minhash

        return Survey(units_below(inputs[self.input].snapshot), {"minhash": minhash.VERSION})

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        from pipelines.dedup import minhash  # compiles, and costs the memory of numba

        snapshot = task.inputs[self.input].snapshot
        names = [f"{task.node}.band_{band:02d}" for band in range(self.bands)]
        for ref in task.unit.data.shards:
            keys = np.full((ref.records, self.bands), minhash.NO_KEY)
            kept = snapshot.kept(ref.first, ref.first + ref.records)
            for start in range(0, len(kept), BLOCK):
                some = kept[start : start + BLOCK]
                texts = [self._text(snapshot.record(ordinal)) for ordinal in some.tolist()]
                keys[some - ref.first] = minhash.keys_of(texts, self.words, self.bands, self.rows)
            columns: dict[str, Any] = {name: np.ascontiguousarray(keys[:, i]) for i, name in enumerate(names)}
            said = {"keep": np.ones(ref.records, bool), "reason": [None] * ref.records}
            writer.columns(ref.shard, said | columns)
        return {"bands": names}

    def _text(self, document: Document) -> str:
        looked_at = document.source != FORGOTTEN and not document.media and concerns(self.domains, document)
        return document.text if looked_at else ""


@schema
class DedupMinHash:
    """Of every cluster of near duplicates one document stays. Reads what a `minhash` node wrote, no text.

    Clusters are transitive. The result depends on neither the order of the documents nor how they are spread over
    shards; a second pass over the survivors changes nothing. One unit, as every record is compared with every other.
    """

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = frozenset({"view"})
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["dedup_minhash"]
    input: str
    prefer: str = ""
    """A column of numbers, e.g. `characters` or `NODE.OP.SCORE`: the document with the largest stays; of equal ones, or
    without a column, the one with the smallest id."""
    max_memory_mb: int = 2048
    """For keys that are compared together; smaller means more passes. Beside it 60 bytes a document are held."""

    def __post_init__(self) -> None:
        if self.max_memory_mb < 1:
            raise ValueError(f"max_memory_mb is {self.max_memory_mb}, expected at least 1")

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        from pipelines.dedup import minhash

        snapshot = inputs[self.input].snapshot
        return Survey((everything(with_columns(snapshot, units_below(snapshot))),), {"minhash": minhash.VERSION})

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> None:
        from pipelines.dedup import minhash

        snapshot = task.inputs[self.input].snapshot
        names = snapshot.meta.get("bands")
        if names is None:
            fix = "let a node of kind minhash stand between"
            raise ManifestError(f"{self.input} has no keys to compare", where=task.node, fix=fix)
        total = sum(ref.records for ref in snapshot.shards)
        budget = self.max_memory_mb << 20
        found = minhash.clusters(_bands(snapshot, names, total, budget // 2), total, budget // 2)
        survivor, size = survivors(snapshot, found, self.prefer)
        for ref, columns in decisions(snapshot, survivor, NEAR, attempt):
            here = size[ref.first : ref.first + ref.records]
            writer.columns(ref.shard, columns | {f"{task.node}.cluster_size": here})


NEAR = "near_duplicate"


def _bands(snapshot: Snapshot, names: Sequence[str], total: int, budget: int) -> Iterator[list[np.ndarray]]:
    """The keys of each band, shard by shard; as many bands are read together as fit the budget."""
    together = max(1, min(len(names), budget // max(1, 8 * total)))
    for start in range(0, len(names), together):
        some = names[start : start + together]
        pieces: dict[str, list[np.ndarray]] = {name: [] for name in some}
        for _, table in snapshot.tables([*some, "keep"]):
            dropped = ~table["keep"].to_numpy()
            for name in some:
                keys = table[name].to_numpy().copy()
                keys[dropped] = 0  # a document that was dropped must not displace others
                pieces[name].append(keys)
        for name in some:
            yield pieces.pop(name)


def survivors(snapshot: Snapshot, clusters: np.ndarray, prefer: str) -> tuple[np.ndarray, np.ndarray]:
    """(documents,) int64 each: the place of the one that stays of each document's cluster, and the cluster's size."""
    table = snapshot.table(["id", "keep", *([prefer] if prefer else [])])
    names = np.frombuffer(b"".join(map(bytes.fromhex, table["id"].to_pylist())), ">u8").reshape(-1, 2)
    sort_by = [names[:, 1], names[:, 0]]
    if prefer:
        if not pa.types.is_integer(kind := table[prefer].type) and not pa.types.is_floating(kind):
            fix = "let `prefer` name a score, or `characters`"
            raise ManifestError(f"{prefer} is no column of numbers", where=snapshot.name, fix=fix)
        values = table[prefer].to_numpy().astype(np.float64)
        sort_by.append(-np.where(np.isnan(values), -np.inf, values))
    order = np.lexsort([*sort_by, clusters])
    leads = np.ones(len(order), bool)
    leads[1:] = np.diff(clusters[order]) != 0
    group = np.cumsum(leads) - 1
    survivor, size = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    survivor[order] = order[leads][group]
    size[order] = np.bincount(group)[group] if len(order) else 0
    return survivor, size


def decisions(
    snapshot: Snapshot, survivor: np.ndarray, reason: str, attempt: Attempt
) -> Iterator[tuple[ShardRef, dict[str, Any]]]:
    """Shard by shard the columns that say who lost to whom; `survivor` is (documents,) places."""
    ids = pa.chunked_array(snapshot.table(["id"])["id"])
    for ref in snapshot.shards:
        here = np.arange(ref.first, ref.first + ref.records)
        lost = survivor[here] != here
        winners = ids.take(pa.array(survivor[here][lost])).to_pylist()
        reasons: list[str | None] = [None] * ref.records
        duplicate_of: list[str | None] = [None] * ref.records
        for row, winner in zip(np.flatnonzero(lost).tolist(), winners, strict=True):
            reasons[row], duplicate_of[row] = reason, winner
            attempt.drop(reason)
        yield ref, {"keep": ~lost, "reason": reasons, "duplicate_of": duplicate_of}


def everything(units: Iterable[Unit]) -> Unit:
    return Unit("all", digest(*(unit.digest for unit in units)))


def _over_all(snapshot: Snapshot, ref: ShardRef, kept: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Columns for all records of a shard from those of its kept ones; what was dropped before is not decided again."""
    columns: dict[str, list[Any]] = {name: [name == "keep" or None] * ref.records for name in kept}
    for row, ordinal in enumerate(snapshot.kept(ref.first, ref.first + ref.records).tolist()):
        for name, values in kept.items():
            columns[name][ordinal - ref.first] = values[row]
    return columns
