"""Small stores of every kind, with real bytes in real folders."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stores.store import Snapshot, Store

Make = Callable[..., Snapshot]


@pytest.fixture(scope="session")
def quick_folder() -> Iterator[Path]:
    """In memory where the system has such a folder: properties write hundreds of stores, and every file is synced."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def make(quick_folder: Path) -> Make:
    """make(kind, {unit: records}) -> the snapshot of a fresh store."""

    def made(kind: str, units: dict[str, Iterable[Any]], **commit: Any) -> Snapshot:
        store = Store.create(tempfile.mkdtemp(dir=quick_folder), kind, kind)  # type: ignore[arg-type]
        receipts = []
        for unit, records in units.items():
            writer = store.writer(unit)
            for record in records:
                writer.add(record)
            receipts.append(writer.finish())
        return store.commit(receipts, node="node", units=list(units), **commit)

    return made
