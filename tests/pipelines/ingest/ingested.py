"""Helpers for tests of ingest: run a node in this process, read its documents and its quarantine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from manifests.records import Document
from pipelines.dag.graph import unit_names
from pipelines.dag.unit import StoreTask, run_unit
from pipelines.ingest.folder import IngestFolder
from pipelines.ingest.repository import IngestRepository
from pipelines.node import UnitTask
from stores.store import Snapshot, Store


def ingest(data: Path, store: Path, **options: Any) -> Snapshot:
    """Ingest the folder `data` with `ingest_folder`; `options` are its keys."""
    return ingest_counted(data, store, **options)[0]


def ingest_counted(data: Path, store: Path, **options: Any) -> tuple[Snapshot, Counter[str]]:
    """(snapshot, number of notes by reason)."""
    return ingest_node(IngestFolder(kind="ingest_folder", path=str(data), **options), store)


def ingest_node(node: IngestFolder | IngestRepository, store: Path) -> tuple[Snapshot, Counter[str]]:
    """(snapshot, number of notes by reason)."""
    units = unit_names("own", node, node.survey("own", {}))
    opened = Store.open_or_create(str(store), "documents", "own")
    receipts = []
    noted: Counter[str] = Counter()
    for name, unit in units.items():
        task = StoreTask(node, str(store), name, UnitTask("own", unit, {}), 10**9, 1.0)
        outcome = run_unit(task, frozenset(), lambda ordinal: None)
        receipts.append(outcome.receipt)
        noted.update(outcome.counts.noted)
    return opened.commit(receipts, node="node", units=list(units)), noted


def documents(snapshot: Snapshot) -> dict[str, Document]:
    """Locator -> document."""
    return {document.locator: document for document in snapshot.records()}


def quarantined(snapshot: Snapshot) -> dict[str, str]:
    """Locator -> reason."""
    return {row["locator"]: row["reason"] for row in snapshot.quarantined().to_pylist()}


def fact_words(document: Document) -> list[tuple[str, str]]:
    """(name, text) of each fact."""
    words = [getattr(part, "text", "") for part in document.parts]
    return [(fact.name, words[fact.part][fact.start : fact.stop]) for fact in document.facts]
