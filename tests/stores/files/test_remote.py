"""Stores on the network: the same content root as local ones, a swap with one winner, and checked answers."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from manifests.errors import StoreError
from stores.files.open import open_files
from stores.files.protocol import publish_bytes
from stores.store import Store
from stores.upkeep.verify import verify
from tests.servers.faulty import Faulty
from tests.stores.test_commit import RACER, ROOT, receipt, work


class Plain(LocalFileSystem):
    """Filesystem known to fsspec only: no swap."""

    protocol = "plain"


fsspec.register_implementation("plain", Plain, clobber=True)


def test_a_remote_store_has_the_content_root_of_a_local_one(remote_url: str, tmp_path: Path) -> None:
    local, remote = work(str(tmp_path / "docs")), work(f"{remote_url}/docs")
    assert remote.content_root == local.content_root and remote.counts == local.counts and verify(remote) == []
    assert list(remote.records()) == list(local.records()) and remote.table() == local.table()
    assert work(f"{remote_url}/docs").number == remote.number
    assert {info.path for info in remote.files.listing("")} >= {"store.json", "roots/000001.json"}
    assert remote.files.folders() == ["index", "lists", "quarantine", "roots", "shards"]


def test_of_many_swaps_of_one_path_exactly_one_succeeds(remote_url: str) -> None:
    barrier = Barrier(6)
    racers = [open_files(remote_url) for _ in range(6)]
    for files in racers:
        files.check_swap()

    def create(round_: int, racer: int) -> bool:
        files = racers[racer]
        barrier.wait()
        return files.swap(f"roots/{round_:06}.json", b"%d" % racer)

    with ThreadPoolExecutor(6) as pool:
        for round_ in range(15):
            won = list(pool.map(create, [round_] * 6, range(6)))
            assert won.count(True) == 1
            assert open_files(remote_url).read(f"roots/{round_:06}.json") == b"%d" % won.index(True)


def test_racing_committers_of_several_processes_lose_nothing(bucket: tuple[Faulty, str]) -> None:
    store = Store.create(f"{bucket[1]}/docs", "documents", "docs")
    units = [f"{racer}{i}" for i in range(2) for racer in "xyz"]
    racers = []
    for racer in "xyz":
        mine = ",".join(unit for unit in units if unit[0] == racer)
        command = [sys.executable, "-c", RACER, store.url, mine, ",".join(units)]
        racers.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for process in racers:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in racers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(100) for process in racers] == [0, 0, 0]
    head = Store.open(store.url).head()
    assert head is not None and set(head.units) == set(units) and head.number == len(units)
    assert verify(head) == []


def test_finding_the_head_takes_few_requests_and_no_listing(bucket: tuple[Faulty, str]) -> None:
    server, url = bucket
    for stop in range(1, 8):
        store = Store.open_or_create(url, "documents", "docs")
        units = [f"u{number}" for number in range(stop)]
        store.commit([receipt(store, units[-1])], node="node", units=units)
    server.reset()
    head = Store.open(url).head()
    assert head is not None and head.number == 7 and len(head.units) == 7
    paths = [request.path for request in server.seen if request.method in ("GET", "HEAD")]
    assert len(paths) < 25 and all("/roots/" in path or "/lists/" in path or "store.json" in path for path in paths)


def test_a_repeated_swap_succeeds_again(remote_url: str) -> None:
    files = open_files(remote_url)
    assert files.swap("roots/000001.json", b"ours") and files.swap("roots/000001.json", b"ours")
    assert not files.swap("roots/000001.json", b"theirs") and files.read("roots/000001.json") == b"ours"


def test_a_server_that_ignores_conditions_is_refused(bucket: tuple[Faulty, str]) -> None:
    server, url = bucket
    server.rule = lambda request: "unconditional"
    with pytest.raises(StoreError, match=r"this server ignores (If-None-Match|generation)"):
        Store.create(url, "documents", "docs")
    server.reset()
    store = Store.create(url, "documents", "docs")
    server.rule = lambda request: "unconditional"
    with pytest.raises(StoreError, match=r"this server ignores (If-None-Match|generation)"):
        work(store.url)
    server.reset()
    assert Store.open(url).head() is None


def test_without_a_swap_commits_are_refused(tmp_path: Path) -> None:
    store = Store.create(f"plain://{tmp_path}/docs", "documents", "docs")
    assert store.meta["swap"] == "none"
    with pytest.raises(StoreError, match=r"it has no compare-and-swap\n  fix: name a lock"):
        work(store.url)
    assert store.head() is None


def test_a_missing_bucket_is_named_in_the_error(bucket: tuple[Faulty, str]) -> None:
    nowhere = f"{bucket[1].partition('://')[0]}://no-such-bucket"
    with pytest.raises(StoreError, match="there is no store here"):
        Store.open(f"{nowhere}/docs")
    with pytest.raises(StoreError, match="make the bucket first"):
        Store.create(f"{nowhere}/docs", "documents", "docs")
    with pytest.raises(StoreError, match="make the bucket first"):
        list(open_files(nowhere).listing("lock"))


def test_denied_requests_fail_without_retries(bucket: tuple[Faulty, str]) -> None:
    server, url = bucket
    store = Store.create(url, "documents", "docs")
    server.rule = lambda request: "denied"
    for action in (store.head, lambda: Store.open(url), lambda: work(url), lambda: list(store.files.listing("roots"))):
        with pytest.raises(StoreError, match="not allowed"):
            action()


@pytest.mark.parametrize(
    ("url", "message"),
    [("s3://", "names no bucket"), ("gs:///", "no bucket"), ("ftp://127.0.0.1:9/docs", "refused")],
)
def test_a_url_that_can_not_be_opened_is_an_error(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        open_files(url)


def test_published_files_can_be_listed_read_and_deleted(remote_url: str) -> None:
    files = open_files(remote_url)
    for number in range(3):
        publish_bytes(files, b"%d" % number * 1000, f"shards/{number}.tar")
    files.sync()
    assert [info.size for info in files.listing("shards")] == [1000] * 3
    assert files.read_ranges("shards/1.tar", [(0, 2), (998, 5), (1000, 5), (500, 0)]) == [b"11", b"11", b"", b""]
    files.delete("shards/1.tar")
    files.delete("shards/1.tar")
    assert files.missing(["shards/0.tar", "shards/1.tar"]) == {"shards/1.tar"}
