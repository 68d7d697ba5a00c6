"""What every room's tests share: folders, a server that speaks S3, and one repeatable way to draw examples."""

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
    """The folder of real data sets; tests that need it are skipped where there is none."""
    folder = os.environ.get("MILLRACE_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: MILLRACE_TEST_DATA names no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def quick_folder() -> Iterator[Path]:
    """In memory where the system has such a folder: properties write hundreds of stores, and every file is synced."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def _chat() -> Iterator[Chat]:
    with chat_server() as chat:
        yield chat


@pytest.fixture
def chat(_chat: Chat) -> Iterator[Chat]:
    """A model's endpoint on loopback that has answered nothing so far."""
    _chat.reset()
    yield _chat
    _chat.let_go.set()


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
    """The way to the bucket `mill`, without a fault so far. This process and its children go there."""
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
    """The same in front of a server that speaks as Google's storage does."""
    _gcs_proxy.reset()
    with google.reached_at(_gcs_proxy.port):
        yield _gcs_proxy
    _gcs_proxy.reset()
