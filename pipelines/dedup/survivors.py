"""The survivor of each cluster of duplicates, and the columns that name it.

`dedup_minhash` and `dedup_images` find clusters of documents; both choose one document of each cluster here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from manifests.errors import ManifestError
from pipelines.node import Attempt, ColumnValues, Mistake, Node, write_decisions
from stores.store import Snapshot, UnitWriter

BASE_COLUMNS = ("characters", "images", "videos")
"""Columns of numbers that every documents store has."""


def check_prefer(prefer: str, below: str, nodes: Mapping[str, Node]) -> Iterator[Mistake]:
    """Yield a mistake if documents from the node `below` can't have a column of numbers `prefer`."""
    columns = [*BASE_COLUMNS, *_number_columns(below, nodes)]
    if prefer and prefer not in columns:
        message = f"{prefer!r} is no column of numbers here"
        yield Mistake(("prefer",), message, f"one of {', '.join(columns)}")


def _number_columns(name: str, nodes: Mapping[str, Node]) -> Iterator[str]:
    """Yield the columns of numbers that a node and the nodes before it add to documents."""
    node = nodes.get(name)
    if node is None:
        return
    yield from node.number_columns(name)
    if node.PASSES_COLUMNS:
        yield from _number_columns(node.reads()[0], nodes)


def choose_survivors(snapshot: Snapshot, clusters: np.ndarray, prefer: str) -> tuple[np.ndarray, np.ndarray]:
    """Choose the document that stays of each cluster.

    Args:
        clusters: (documents,) int64, equal for documents of one cluster.
        prefer: name of a column of numbers: the document with the largest number stays. Of equal numbers, and without
            a column (""), the document with the smallest id stays.

    Returns:
        (documents,) int64 each: place of the survivor of the document's cluster, and size of the cluster.

    Raises:
        ManifestError: `prefer` is no column of numbers.
    """
    table = snapshot.table(["id", "keep", *([prefer] if prefer else [])])
    ids = np.frombuffer(b"".join(map(bytes.fromhex, table["id"].to_pylist())), ">u8").reshape(-1, 2)
    sort_by = [ids[:, 1], ids[:, 0]]
    if prefer:
        if not pa.types.is_integer(kind := table[prefer].type) and not pa.types.is_floating(kind):
            fix = "let `prefer` name a score, or `characters`"
            raise ManifestError(f"{prefer} is no column of numbers", where=snapshot.name, fix=fix)
        values = table[prefer].to_numpy().astype(np.float64)
        sort_by.append(-np.where(np.isnan(values), -np.inf, values))
    order = np.lexsort([*sort_by, clusters])
    first_of_cluster = np.ones(len(order), bool)
    first_of_cluster[1:] = np.diff(clusters[order]) != 0
    number = np.cumsum(first_of_cluster) - 1
    survivor, size = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    survivor[order] = order[first_of_cluster][number]
    size[order] = np.bincount(number)[number] if len(order) else 0
    return survivor, size


def write_duplicates(
    writer: UnitWriter,
    attempt: Attempt,
    snapshot: Snapshot,
    survivor: np.ndarray,
    reason: str,
    columns: Mapping[str, np.ndarray],
) -> None:
    """Write all decisions about a snapshot's documents, and a column `duplicate_of` with the id of the survivor.

    Args:
        survivor: (documents,) int64, places from `choose_survivors`; -1 for documents that are not compared.
        reason: code of documents that are not their own survivor.
        columns: further columns by name, (documents,) each.
    """
    ids = pa.chunked_array(snapshot.table(["id"])["id"])
    for ref in snapshot.shards:
        shard = slice(ref.first, ref.first + ref.records)
        duplicates = np.flatnonzero((survivor[shard] >= 0) & (survivor[shard] != np.arange(ref.first, shard.stop)))
        survivor_ids = ids.take(pa.array(survivor[shard][duplicates])).to_pylist()
        reasons: list[str | None] = [None] * ref.records
        duplicate_of: list[str | None] = [None] * ref.records
        for row, survivor_id in zip(duplicates.tolist(), survivor_ids, strict=True):
            reasons[row], duplicate_of[row] = reason, survivor_id
        further: dict[str, ColumnValues] = {name: values[shard] for name, values in columns.items()}
        write_decisions(writer, attempt, ref, reasons, columns={"duplicate_of": duplicate_of} | further)
