"""The survivor of each cluster of duplicates, and the columns that name it.

`dedup_minhash` and `dedup_images` find clusters of documents; both choose one document of each cluster here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.errors import ManifestError
from pipelines.node import Attempt
from stores.store import ShardRef, Snapshot


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


def duplicate_columns(
    snapshot: Snapshot, survivor: np.ndarray, reason: str, attempt: Attempt
) -> Iterator[tuple[ShardRef, dict[str, Any]]]:
    """Yield each shard with its columns `keep`, `reason` and `duplicate_of`, and count the drops.

    Args:
        survivor: (documents,) int64, places from `choose_survivors`.
        reason: code of documents that are not their own survivor.
    """
    ids = pa.chunked_array(snapshot.table(["id"])["id"])
    for ref in snapshot.shards:
        places = np.arange(ref.first, ref.first + ref.records)
        dropped = survivor[places] != places
        survivor_ids = ids.take(pa.array(survivor[places][dropped])).to_pylist()
        reasons: list[str | None] = [None] * ref.records
        duplicate_of: list[str | None] = [None] * ref.records
        for row, survivor_id in zip(np.flatnonzero(dropped).tolist(), survivor_ids, strict=True):
            reasons[row], duplicate_of[row] = reason, survivor_id
            attempt.drop(reason)
        yield ref, {"keep": ~dropped, "reason": reasons, "duplicate_of": duplicate_of}
