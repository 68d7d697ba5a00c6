"""The node `dedup_exact`: drops documents with the same text and the same media as another document.

documents or view -> dedup_exact -> view, between the filters and `tokenize`. Text is compared with runs of white space
counted as one space, media by the digest of their encoded bytes, in order. Of each group of equal documents the one
with the smallest id stays. Therefore neither the order of units nor the cut into shards matters, a second pass over the
survivors drops nothing, and no group loses its last member.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.load import schema
from manifests.records import Document, Text, digest
from pipelines.node import Attempt, Inputs, Survey, UnitTask, ViewNode, single_unit, units_below, write_decisions
from stores.store import UnitWriter

VERSION = 1
"""Raised when `content_key` or `decide` would give another result."""
REASON = "exact_duplicate"

KEYS = pa.schema([("id", pa.string()), ("key", pa.binary(32))])
DECISIONS = pa.schema([("keep", pa.bool_()), ("reason", pa.string()), ("duplicate_of", pa.string())])


@schema
class DedupExact(ViewNode):
    """Keep the document with the smallest id of each group with equal content.

    One unit, because every record is compared with every other: a killed run begins it again.
    """

    kind: Literal["dedup_exact"]

    def survey(self, name: str, inputs: Inputs) -> Survey:
        units = units_below(inputs[self.input].snapshot)
        return Survey((single_unit(units),), {"exact": VERSION})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        snapshot = task.inputs[self.input].snapshot
        tables = [keys(snapshot.records(ref.first, ref.first + ref.records)) for ref in snapshot.shards]
        for ref, decisions in zip(snapshot.shards, decide(tables), strict=True):
            reasons: list[str | None] = [None] * ref.records
            duplicate_of: list[str | None] = [None] * ref.records
            kept = snapshot.kept(ref.first, ref.first + ref.records) - ref.first
            for row, decision in zip(kept.tolist(), decisions.to_pylist(), strict=True):
                reasons[row], duplicate_of[row] = decision["reason"], decision["duplicate_of"]
            write_decisions(writer, attempt, ref, reasons, columns={"duplicate_of": duplicate_of})


def keys(documents: Iterable[Document]) -> pa.Table:
    """Return a table `KEYS`, one row per document. Give only kept documents: a dropped one must not displace others."""
    rows = [(document.id, content_key(document)) for document in documents]
    return pa.table({"id": [row[0] for row in rows], "key": [row[1] for row in rows]}, schema=KEYS)


def content_key(document: Document) -> bytes:
    """Return 32 bytes, equal for documents with equal content."""
    content: list[str] = []
    for is_text, parts in groupby(document.parts, lambda part: isinstance(part, Text)):
        if is_text:
            words = " ".join(part.text for part in parts if isinstance(part, Text)).split()
            content += ["text", " ".join(words)] if words else []
        else:
            content += [word for part in parts if not isinstance(part, Text) for word in ("media", part.digest)]
    return bytes.fromhex(digest("exact", *content))


def decide(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Return a table `DECISIONS` for each table `KEYS`, row by row; `duplicate_of` is the id of the survivor."""
    everything = pa.concat_tables([KEYS.empty_table(), *tables]).combine_chunks()
    ids = everything["id"]
    groups = pc.dictionary_encode(everything["key"]).combine_chunks()
    group = groups.indices.to_numpy() if len(everything) else np.zeros(0, np.int32)
    order = pc.sort_indices(
        pa.table({"group": group, "id": ids}), sort_keys=[("group", "ascending"), ("id", "ascending")]
    ).to_numpy()
    first_of_group = np.ones(len(order), bool)
    first_of_group[1:] = np.diff(group[order]) != 0
    survivor = order[first_of_group][group]
    keep = survivor == np.arange(len(order))
    dropped = pa.array(~keep)
    decisions = pa.table(
        {
            "keep": keep,
            "reason": pc.if_else(dropped, REASON, pa.scalar(None, pa.string())),
            "duplicate_of": pc.if_else(dropped, ids.take(pa.array(survivor)), pa.scalar(None, pa.string())),
        },
        schema=DECISIONS,
    )
    starts = np.cumsum([0, *map(len, tables)])
    return [decisions.slice(start, len(table)) for start, table in zip(starts[:-1].tolist(), tables, strict=True)]
