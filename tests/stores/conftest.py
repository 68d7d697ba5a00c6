"""Fixtures: small stores of every kind in real folders, and places on remote filesystems."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from stores.store import Snapshot, Store
from tests.servers.faulty import Faulty

Make = Callable[..., Snapshot]


@pytest.fixture
def make(quick_folder: Path) -> Make:
    """Return a function (kind, {unit: records}) -> snapshot of a new store."""

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


OBJECT_STORES = {"s3": "s3://mill", "gcs": "gs://mill"}
"""Server fixture -> URL of its bucket."""


@pytest.fixture(params=["memory", *OBJECT_STORES])
def remote_url(request: pytest.FixtureRequest) -> str:
    """URL of a new folder on a remote filesystem, or in memory."""
    if request.param in OBJECT_STORES:
        request.getfixturevalue(request.param)
    return f"{OBJECT_STORES.get(request.param, 'memory:/')}/{uuid.uuid4().hex}"


@pytest.fixture(params=list(OBJECT_STORES))
def bucket(request: pytest.FixtureRequest) -> tuple[Faulty, str]:
    """(proxy in front of the server, URL of a new folder in its bucket)."""
    return request.getfixturevalue(request.param), f"{OBJECT_STORES[request.param]}/{uuid.uuid4().hex}"
