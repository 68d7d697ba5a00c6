"""`ingest_store`: documents of a store of another run, or of a view of it.

A corpus is curated once and read by many runs. Dropped documents are not taken. Media come with their bytes, and the
columns of views come as columns of the documents (`build/materialize.py`). Ids, sources and lineage stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import FORGOTTEN
from pipelines.build.materialize import kept_documents, same_units
from pipelines.node import DOCUMENTS, Attempt, DocumentsNode, Inputs, Survey, Unit, UnitTask
from stores.snapshot import open_snapshot
from stores.store import Snapshot, Store, UnitWriter


@schema
class IngestStore(DocumentsNode):
    """Copy the newest complete snapshot of a store of documents or of a view, or the snapshot of a given number.

    The units are those of that store: a change there concerns its own units alone. The store may be deleted later.
    """

    READS: ClassVar[frozenset[str]] = frozenset()
    PLACES: ClassVar[frozenset[str]] = frozenset({"store", "snapshot"})

    kind: Literal["ingest_store"]
    store: str
    """Path or URL, e.g. `runs/quickstart/text`."""
    snapshot: int = 0
    """Number of the snapshot, as `millrace store log` prints it; 0 for the newest."""

    def survey(self, name: str, inputs: Inputs) -> Survey:
        store = Store.open(self.store)
        snapshot = store.snapshot(self.snapshot) if self.snapshot else store.head()
        where = f"{name}.store, {self.store}"
        if snapshot is None or not snapshot.complete:
            fix = "finish the run that makes it, or name an earlier snapshot"
            raise ManifestError("the snapshot of this store is not complete", where=where, fix=fix)
        if snapshot.kind not in DOCUMENTS:
            fix = f"name a store of {' or a '.join(sorted(DOCUMENTS))}"
            raise ManifestError(f"this is a store of {snapshot.kind}", where=where, fix=fix)
        return Survey(tuple(_located_units(snapshot)))

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        url, number, data = task.unit.data
        for document, columns in kept_documents(open_snapshot(url, number), data):
            if document.source != FORGOTTEN:
                attempt.store(document.locator, document, columns)


def _located_units(snapshot: Snapshot) -> Iterator[Unit]:
    """Units of a snapshot, with its URL and number for the worker."""
    for unit in same_units(snapshot):
        yield replace(unit, data=(snapshot.url, snapshot.number, unit.data))
