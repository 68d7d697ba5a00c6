"""Fixtures of all rooms: folders, servers on loopback, and a repeatable hypothesis profile."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import gcs as google
from tests.servers.chat import Chat, chat_server
from tests.servers.faulty import Faulty, faulty
from tests.servers.s3 import reached_at, s3_server

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,  # the machine may be busy
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real data sets. Tests that need it are skipped without it."""
    folder = os.environ.get("MILLRACE_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: MILLRACE_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def quick_folder() -> Iterator[Path]:
    """Temporary folder, in memory if possible: property tests write hundreds of stores and sync every file."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def _chat() -> Iterator[Chat]:
    with chat_server() as chat:
        yield chat


@pytest.fixture
def chat(_chat: Chat) -> Iterator[Chat]:
    """Chat endpoint on loopback with default settings and no requests so far."""
    _chat.reset()
    yield _chat
    _chat.release.set()


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(scope="session")
def _proxy(s3_port: int) -> Iterator[Faulty]:
    with faulty(s3_port) as proxy:
        yield proxy


@pytest.fixture
def s3(_proxy: Faulty) -> Iterator[Faulty]:
    """Proxy to an S3 server with the bucket `mill`, no fault set. This process and its children use it."""
    _proxy.reset()
    with reached_at(_proxy.port):
        yield _proxy
    _proxy.reset()


@pytest.fixture(scope="session")
def _gcs_proxy() -> Iterator[Faulty]:
    with google.gcs_server() as port, faulty(port) as proxy:
        yield proxy


@pytest.fixture
def gcs(_gcs_proxy: Faulty) -> Iterator[Faulty]:
    """Proxy to a Google Cloud Storage server with the bucket `mill`, no fault set, as `s3`."""
    _gcs_proxy.reset()
    with google.reached_at(_gcs_proxy.port):
        yield _gcs_proxy
    _gcs_proxy.reset()
