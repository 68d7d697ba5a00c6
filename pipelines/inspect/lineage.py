"""What was made of a record: rephrasings, renders, augmented copies, and those that were set aside instead.

A node that makes new records of others names the parent in their locators, `PARENT` or `PARENT/VARIANT`; so the index
tells, and no record is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import Json
from stores.store import Snapshot

ID_DIGITS = 32


def children(node: str, documents: Snapshot, ids: Collection[str]) -> list[tuple[str, dict[str, Json]]]:
    """What lies in this store and was made of these records, each with its parent."""
    if not documents.parents:  # what was read from raw files was made of no record
        return []
    among, found = pa.array(sorted(ids), pa.string()), []
    for _, table, _ in documents.facts(("id", "locator"), ()):
        begins = pc.utf8_slice_codeunits(table["locator"], 0, ID_DIGITS)
        for row in table.filter(pc.is_in(begins, value_set=among)).to_pylist():
            parent, _, variant = row["locator"].partition("/")
            if parent in ids:
                found.append((parent, {"node": node, "id": row["id"].hex(), "variant": variant}))
    return found


def set_aside(stores: Mapping[str, Snapshot], name: str, ids: Collection[str]) -> Iterator[dict[str, Json]]:
    """What is quarantined under this name, and what should have been made of the records with these ids."""
    for node, snapshot in stores.items():
        if snapshot.counts.get("quarantined"):
            for row in snapshot.quarantined().to_pylist():
                locator = row["locator"]
                if locator == name or locator.startswith(f"{name}#") or locator.partition("/")[0] in ids:
                    yield {"node": node} | row
