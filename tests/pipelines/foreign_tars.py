"""Foreign tars for tests, and the store that adopts them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manifests.records import Document, Json, Text
from pipelines.dag.graph import unit_names
from pipelines.dag.unit import StoreTask, run_unit
from pipelines.ingest.tars.adopt import IngestTars
from pipelines.node import UnitTask
from stores.store import Snapshot, Store
from tests.pipelines import small_data

Sample = Mapping[str, bytes]


def write(path: Path, samples: Mapping[str, Sample]) -> Path:
    """Write a tar as users of `webdataset` make them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def adopt(store: str, tars: str | Sequence[str], order: Any = sorted, **options: Any) -> Snapshot:
    """Adopt tars into a store `own`. `order` decides the order in which its units are made."""
    tars = tars if isinstance(tars, str) else tuple(tars)
    node = IngestTars(kind="ingest_tars", tars=tars, **options)
    units = unit_names("own", node, node.survey("own", {}))
    made = Store.open_or_create(store, "documents", "own")
    receipts = []
    for name in order(units):
        task = StoreTask(node, store, name, UnitTask("own", units[name], {}), 10**9, 1.0)
        receipts.append(run_unit(task, frozenset(), lambda ordinal: None).receipt)
    return made.commit(receipts, node="node", units=list(units))


def by_key(snapshot: Snapshot) -> dict[str, Document]:
    """Documents by their key in the tar."""
    return {document.locator.partition("#")[2]: document for document in snapshot.records()}


def quarantine_reasons(snapshot: Snapshot) -> dict[str, str]:
    """Reason of each quarantined sample by its key, of other damages by their locator."""
    return {
        row["locator"].partition("#")[2] or row["locator"]: row["reason"] for row in snapshot.quarantined().to_pylist()
    }


def as_json(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def shape(document: Document) -> list[str]:
    return [part.text if isinstance(part, Text) else part.format for part in document.parts]


JPEG, PNG = small_data.image(1, "jpeg"), small_data.image(2)
