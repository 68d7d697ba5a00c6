"""Faults of networks and servers under a store on S3 or GCS: the result equals an undisturbed run, or is an error.

Real servers run behind a proxy that injects the faults (`tests/servers/`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from manifests.errors import StoreError
from stores import leases
from stores.files.open import open_files
from stores.files.s3 import PART_BYTES
from stores.store import Snapshot, Store
from stores.upkeep.copy import copy
from stores.upkeep.gc import collect_garbage
from stores.upkeep.log import find_snapshot, tag
from stores.upkeep.repair import repair
from stores.upkeep.verify import hash_file, verify
from tests.servers import gcs as google
from tests.servers import s3 as amazon
from tests.servers.faulty import Fault, Faulty, Request, faulty
from tests.stores.test_commit import ROOT, documents, receipt, work

UNITS = ("a", "b")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return work(str(tmp_path_factory.mktemp("here") / "docs"), UNITS)


@pytest.fixture
def server(bucket: tuple[Faulty, str]) -> Faulty:
    return bucket[0]


@pytest.fixture
def url(bucket: tuple[Faulty, str]) -> str:
    return bucket[1]


def is_equal(snapshot: Snapshot, undisturbed: Snapshot) -> bool:
    return (
        snapshot.content_root == undisturbed.content_root
        and verify(snapshot) == []
        and list(snapshot.records()) == list(undisturbed.records())
    )


# ---------------------------------------------------------------------- faulty answers


@pytest.mark.parametrize("fault", ["503", "reset", "lost", "torn", "short", "stale", "slow"])
def test_one_failure_of_each_kind_of_request_changes_nothing(
    fault: Fault, server: Faulty, url: str, undisturbed: Snapshot
) -> None:
    reads_only = fault in ("torn", "short", "stale", "slow")

    def rule(request: Request) -> Fault | None:
        if fault == "503" and "/leases/" in request.path:
            return None  # each of them costs a pause
        fails = request.again == 0 and (request.method in ("GET", "HEAD") or not reads_only)
        return fault if fails and not (fault in ("torn", "short") and request.method == "HEAD") else None

    server.rule = rule
    assert is_equal(work(url, UNITS), undisturbed)
    head = Store.open(url).head()
    assert head is not None and is_equal(head, undisturbed)
    assert server.done[fault] > 5


def test_a_stalled_request_is_cut_off_and_retried(
    server: Faulty, url: str, undisturbed: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_DEADLINE_S", "4")
    server.rule = lambda request: "stall" if request.again == 0 and "/roots/" in request.path else None
    began = time.monotonic()
    assert is_equal(work(url, UNITS), undisturbed)
    assert server.done["stall"] > 1 and time.monotonic() - began < 20


def test_a_slow_answer_is_cut_off_and_retried(
    server: Faulty, url: str, undisturbed: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_DEADLINE_S", "4")
    head = work(url, UNITS)
    server.piece_delay_s = 0.5  # a body takes four seconds, a try one at the most
    server.rule = lambda request: "slow" if request.again == 0 and "/shards/" in request.path else None
    began = time.monotonic()
    assert is_equal(Store.open(url).snapshot(head.number), undisturbed)
    assert server.done["slow"] > 1 and time.monotonic() - began < 20


def test_a_swap_whose_answer_was_lost_counts_only_for_its_sender(server: Faulty, url: str) -> None:
    store = Store.create(url, "documents", "docs")
    server.rule = lambda request: "lost" if request.method in ("PUT", "POST") and not request.again else None
    assert store.commit([receipt(store, "a")], node="node", units=UNITS, complete=False).number == 1
    other = Store.open(url)
    assert other.commit([receipt(other, "b")], node="node", units=UNITS).number == 2
    server.reset()
    assert [Store.open(url).snapshot(number).units for number in (1, 2)] == [("a",), ("a", "b")]


def test_a_server_that_is_down_costs_only_the_deadline(
    server: Faulty, url: str, undisturbed: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(url, "documents", "docs")
    done = store.commit([receipt(store, "a")], node="node", units=UNITS, complete=False)
    monkeypatch.setenv("MILLRACE_DEADLINE_S", "1")
    server.rule = lambda request: "503"
    for action in (store.head, lambda: done.record(0), lambda: work(url, UNITS)):
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"no good answer after \d+ tries in \d s"):
            action()
        assert time.monotonic() - began < 5
    server.reset()
    assert is_equal(work(url, UNITS), undisturbed)


class Shaky(LocalFileSystem):
    """Filesystem that truncates the first answers, and can deny that a file exists."""

    protocol = "shaky"
    cut = 0
    denied = 0

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        data = super().cat_file(path, start, end, **options)
        if self.cut:
            Shaky.cut -= 1
            return data[: len(data) // 2]
        return data

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        if self.denied:
            Shaky.denied -= 1
            raise FileNotFoundError(path)
        return super().info(path, **options)


fsspec.register_implementation("shaky", Shaky, clobber=True)


@pytest.mark.parametrize("denied", [0, 1])
def test_a_truncated_answer_is_refused_even_if_the_size_is_unknown(denied: int, tmp_path: Path) -> None:
    path = f"lists/{'0' * 64}.json"
    (tmp_path / "lists").mkdir()
    (tmp_path / path).write_bytes(b"0123456789")
    files = open_files(f"shaky://{tmp_path}")
    for read in (lambda: files.read(path), lambda: files.read_range(path, 0, 10)):
        Shaky.cut, Shaky.denied = 1, denied
        assert read() == b"0123456789"


# ---------------------------------------------------------------------- kills

NURSERY = """
import os, sys
from stores.files import s3
from tests.stores.test_commit import work
s3.PART_BYTES = int(sys.argv[1])
while url := os.read(0, 1000).decode():
    child = os.fork()
    if child == 0:
        try:
            os.write(1, b"%d\\n" % os.getpid())
            os.read(0, 1000)
            work(url, ("a",))
            os._exit(0)
        finally:
            os._exit(1)
    os.write(1, b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


class Nursery:
    """Process with all imports done; its forked children do the work and are killed."""

    def __init__(self, part_bytes: int = PART_BYTES) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(part_bytes)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def begin(self, url: str) -> int:
        self._send(url)
        return self._receive()

    def go(self) -> int:
        """Let the child work; return its exit code."""
        self._send("go")
        return self._receive()

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode())

    def _receive(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.fixture
def nursery(server: Faulty) -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.process.communicate()


@pytest.mark.parametrize(("bucket", "when"), [("s3", "before"), ("s3", "after"), ("gcs", "after")], indirect=["bucket"])
def test_a_writer_killed_around_any_request_leaves_the_previous_root_or_the_next(
    when: str, server: Faulty, url: str, nursery: Nursery, tmp_path: Path
) -> None:
    expected = work(str(tmp_path / "docs"), ("a",))
    moment, numbers = 0, []
    while True:
        moment += 1
        store_url = f"{url}{moment}"
        server.reset()
        child = nursery.begin(store_url)

        def kill(number: int, child: int = child, moment: int = moment) -> None:
            if number == moment:
                os.kill(child, signal.SIGKILL)
                if when == "before":
                    raise ConnectionError("the client was killed")

        setattr(server, when, kill)
        exit_code = nursery.go()
        server.reset()
        head = Store.open(store_url).head() if open_files(store_url).exists("store.json") else None
        numbers.append(head.number if head is not None else 0)
        assert head is None or verify(head) == []
        again = work(store_url, ("a",))
        assert again.content_root == expected.content_root and verify(again) == []
        if exit_code == 0:
            break
        assert exit_code == -signal.SIGKILL
    assert moment > 8 and numbers == sorted(numbers) and set(numbers) == {0, 1, 2}


def test_a_writer_killed_between_parts_of_an_upload_leaves_no_readable_object(s3: Faulty, tmp_path: Path) -> None:
    expected = work(str(tmp_path / "docs"), ("a",))
    nursery = Nursery(part_bytes=600)
    try:
        nursery.begin(f"s3://mill/{uuid.uuid4().hex}")
        assert nursery.go() == 0
        changes = [request for request in s3.seen if request.method in ("PUT", "POST", "DELETE")]
        sends = [number for number, request in enumerate(changes, 1) if "/shards/" in request.path]
        assert len(sends) > 4 and changes[sends[0] - 1].method == changes[sends[-1] - 1].method == "POST"
        for moment in [*sends[:2], sends[len(sends) // 2], sends[-1]]:
            url = f"s3://mill/{uuid.uuid4().hex}"
            s3.reset()
            child = nursery.begin(url)

            def kill(number: int, child: int = child, moment: int = moment) -> None:
                if number == moment:
                    os.kill(child, signal.SIGKILL)
                    raise ConnectionError("the client was killed")

            s3.before = kill
            assert nursery.go() == -signal.SIGKILL
            s3.reset()
            files, head = open_files(url), Store.open(url).head()
            assert all(hash_file(files, info.path) in info.path for info in files.listing("shards") if info.size)
            assert head is None or verify(head) == []
            again = work(url, ("a",))
            assert again.content_root == expected.content_root and verify(again) == []
    finally:
        nursery.process.communicate()


# ---------------------------------------------------------------------- maintenance


@pytest.mark.parametrize(("scheme", "skew_s"), [("s3", -7200), ("s3", 7200), ("gs", 7200)])
def test_gc_uses_the_clock_of_the_server(scheme: str, skew_s: int) -> None:
    server = amazon if scheme == "s3" else google
    start = amazon.s3_server if scheme == "s3" else google.gcs_server
    with start(skew_s) as port, faulty(port) as proxy, server.reached_at(proxy.port):
        store = Store.create(f"{scheme}://mill/{uuid.uuid4().hex}", "documents", "docs")
        writer = store.writer("a")
        for document in documents("a"):
            writer.add(document)
        done = writer.finish()
        assert leases.count_living(store.files, 60, leases.now_s(store.files)) == 1
        assert (collected := collect_garbage(store, keep_last=1)).files == [] and collected.writers == 1
        head = store.commit([done], node="node", units=["a"])
        receipt(store, "b")  # never committed
        time.sleep(1.1)  # S3 reports whole seconds
        assert {info.path.split("/")[0] for info in collect_garbage(store, grace_s=1).files} >= {"shards", "index"}
        assert verify(head) == [] and [document.source for document in head.records()] == ["a"] * 3


def test_damage_of_a_remote_store_is_named_and_repaired_from_a_copy(url: str, undisturbed: Snapshot) -> None:
    snapshot = copy(undisturbed, url)
    store = Store.open(url)
    tag(store, "good", snapshot)
    assert find_snapshot(store, "good").content_root == undisturbed.content_root
    shard = f"shards/{snapshot.shards[0].shard}.tar"
    data = bytearray(store.files.read(shard))
    data[600] ^= 1
    store.files.filesystem.pipe_file(f"{url}/{shard}", bytes(data))  # type: ignore[attr-defined]
    assert [damage for damage in verify(snapshot) if snapshot.shards[0].shard[:12] in damage.where]
    repaired = repair(store, undisturbed.files)
    assert repaired.restored == [shard] and is_equal(repaired.snapshot, undisturbed)


def test_a_large_file_is_uploaded_in_parts_that_are_retried_one_by_one(server: Faulty, url: str) -> None:
    files = open_files(url)
    temporary = files.temporary_path()
    data = os.urandom(1 << 20) * 40
    temporary.write_bytes(data)
    server.rule = lambda request: "503" if request.method in ("PUT", "POST") and request.again in (0, 2) else None
    files.publish(temporary, f"shards/{'0' * 64}.tar")
    files.sync()
    assert sum(request.method in ("PUT", "POST") for request in server.seen) > 4 and server.done["503"] > 1
    assert files.read(f"shards/{'0' * 64}.tar") == data and not temporary.exists()


# ---------------------------------------------------------------------- a swap lock, where the filesystem has no swap


class Swapless(LocalFileSystem):
    protocol = "swapless"


fsspec.register_implementation("swapless", Swapless, clobber=True)


def test_committers_that_share_a_lock_lose_nothing(tmp_path: Path) -> None:
    url = f"swapless://{tmp_path}/docs"
    store = Store.create(url, "documents", "docs", lock=str(tmp_path / "lock"))
    assert store.meta["swap"] == "lock"
    units = [f"{racer}{i}" for i in range(4) for racer in "xyz"]

    def race(racer: str) -> None:
        mine = Store.open(url)
        for unit in units:
            if unit[0] == racer:
                mine.commit([receipt(mine, unit)], node="node", units=units, complete=False)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(race, "xyz"))
    head = store.commit([], node="node", units=units)
    assert set(head.units) == set(units) and verify(head) == []
    assert head.number >= len(units)


def test_the_decision_of_a_dead_committer_is_written_by_the_next_one(tmp_path: Path) -> None:
    url = f"swapless://{tmp_path}/docs"
    store = Store.create(url, "documents", "docs", lock=str(tmp_path / "lock"))
    dead = Store.open(url).files
    assert dead.lock.decide("roots/000001.json", b"theirs") == b"theirs"  # type: ignore[attr-defined]
    assert not store.files.swap("roots/000001.json", b"ours")
    assert store.files.read("roots/000001.json") == b"theirs"


def test_two_stores_can_not_share_a_lock(tmp_path: Path) -> None:
    one, two = (
        Store.create(f"swapless://{tmp_path}/{name}", "documents", name, lock=str(tmp_path / "lock"))
        for name in ("one", "two")
    )
    assert one.commit([receipt(one, "a")], node="node", units=["a"]).number == 1
    with pytest.raises(StoreError, match="this is the lock of another store"):
        two.commit([receipt(two, "a")], node="node", units=["a"])
