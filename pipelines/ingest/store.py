"""`ingest_store`: documents of a store that another run made, or of a view of it, become documents of this one.

Curated once, read by many runs: what was dropped there stays behind, media come with their bytes, and what views said
of a document stands in columns beside it. Ids, sources and lineage stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import FORGOTTEN
from pipelines.build.materialize import kept_documents, same_units
from pipelines.node import DOCUMENTS, Attempt, Inputs, Survey, Unit, UnitTask
from stores.snapshot import open_snapshot
from stores.store import Snapshot, Store, StoreKind, UnitWriter


@schema
class IngestStore:
    """The newest whole snapshot of a store of documents or a view, or the one that is named. It has the units of that
    store: what changes there moves no unit but its own, and the store may go away afterwards."""

    PRODUCT: ClassVar[StoreKind] = "documents"
    READS: ClassVar[frozenset[str]] = frozenset()
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset({"store", "snapshot"})

    kind: Literal["ingest_store"]
    store: str
    """Path or URL, e.g. `runs/quickstart/text`."""
    snapshot: int = 0
    """Its number, as `millrace store log` tells it; 0: the newest."""

    def reads(self) -> tuple[str, ...]:
        return ()

    def survey(self, name: str, inputs: Inputs) -> Survey:
        store = Store.open(self.store)
        found = store.snapshot(self.snapshot) if self.snapshot else store.head()
        if found is None or not found.complete:
            fix = "finish the run that makes it, or name an earlier snapshot"
            raise ManifestError("this store is not whole", where=f"{name}.store, {self.store}", fix=fix)
        if found.kind not in DOCUMENTS:
            fix = f"name a store of {' or a '.join(sorted(DOCUMENTS))}"
            raise ManifestError(f"this is a store of {found.kind}", where=f"{name}.store, {self.store}", fix=fix)
        return Survey(tuple(_with_place(found)))

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        url, number, pieces = task.unit.data
        for document, beside in kept_documents(open_snapshot(url, number), pieces):
            if document.source != FORGOTTEN:
                attempt.store(document.locator, document, beside)


def _with_place(snapshot: Snapshot) -> Iterator[Unit]:
    for unit in same_units(snapshot):
        yield replace(unit, data=(snapshot.url, snapshot.number, unit.data))
