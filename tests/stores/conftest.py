"""Small stores of every kind, with real bytes in real folders."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from stores.store import Snapshot, Store

Make = Callable[..., Snapshot]


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


@pytest.fixture(params=["memory", "s3"])
def remote_url(request: pytest.FixtureRequest) -> str:
    """A folder of its own, on a filesystem that is not this machine's."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return f"{'s3://mill' if request.param == 's3' else 'memory:/'}/{uuid.uuid4().hex}"
