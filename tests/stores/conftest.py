"""Small stores of every kind, with real bytes in real folders."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stores.store import Snapshot, Store
from tests.servers.faulty import Faulty, faulty
from tests.servers.s3 import ACCESS, s3_server

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


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(scope="session")
def _proxy(s3_port: int) -> Iterator[Faulty]:
    with faulty(s3_port) as proxy:
        yield proxy


@pytest.fixture
def s3(_proxy: Faulty, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """The way to the bucket `mill`, without a fault so far. This process and its children go there."""
    for name, value in (ACCESS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{_proxy.port}"}).items():
        monkeypatch.setenv(name, value)
    _proxy.reset()
    yield _proxy
    _proxy.reset()


@pytest.fixture(params=["memory", "s3"])
def remote_url(request: pytest.FixtureRequest) -> str:
    """A folder of its own, on a filesystem that is not this machine's."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return f"{'s3://mill' if request.param == 's3' else 'memory:/'}/{uuid.uuid4().hex}"
