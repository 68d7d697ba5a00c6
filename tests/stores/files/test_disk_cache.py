"""The cache of what lies elsewhere: nothing read differs, it stays within bounds, and nobody's death stops anybody."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError
from manifests.records import Document, Media, Text, record_id
from stores.cache import Cache
from stores.files import disk_cache
from stores.files.disk_cache import DiskCache
from stores.files.open import open_files
from stores.files.protocol import Files, publish_bytes
from stores.files.ranges import Span
from stores.forget.forget import forget
from stores.snapshot import Snapshot
from stores.store import Store
from stores.upkeep.verify import verify
from tests.servers.faulty import Faulty
from tests.stores.forget.traces import traces

ROOT = Path(__file__).parents[3]
GIB = 2**30


@pytest.fixture
def cached(s3: Faulty, quick_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache that this process and its children now have."""
    folder = quick_folder / uuid.uuid4().hex
    monkeypatch.setenv("MILLRACE_CACHE", str(folder))
    monkeypatch.setenv("MILLRACE_CACHE_GIB", str((8 << 20) / GIB))
    return folder


@pytest.fixture
def url(s3: Faulty) -> str:
    return f"s3://mill/{uuid.uuid4().hex}"


def put(files: Files, size: int, seed: int = 0) -> tuple[str, bytes]:
    data = random.Random(seed).randbytes(size)
    path = f"shards/{sha256(data).hexdigest()}.tar"
    publish_bytes(files, data, path)
    files.sync()
    return path, data


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


spans = st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 700)), min_size=1, max_size=4)


@given(
    data=st.binary(max_size=1000), asked=st.lists(spans, max_size=12), room=st.integers(1, 1500), seed=st.integers(0, 9)
)
@settings(max_examples=60)
def test_what_is_read_is_what_lies_there_within_the_bounds(
    quick_folder: Path, data: bytes, asked: list[list[Span]], room: int, seed: int
) -> None:
    folder, dice = quick_folder / uuid.uuid4().hex, random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_cache, "PIECE_BYTES", 64)
        patch.setattr(disk_cache, "SLOT_BYTES", 200)
        cache = DiskCache(folder, room)

        def fetch(missing: Sequence[Span]) -> list[bytes]:
            assert not any(offset % 64 for offset, _ in missing)
            return [data[offset : offset + length] for offset, length in missing]

        for some in asked:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            if files and dice.random() < 0.5:  # a bit flips, or a file ends early
                path = dice.choice(files)
                lies = bytearray(path.read_bytes())
                lies[dice.randrange(len(lies))] ^= 1 << dice.randrange(8)
                path.write_bytes(lies if dice.random() < 0.7 else lies[: len(lies) // 2])
                cache = DiskCache(folder, room)
            assert cache.read_ranges("s", "p", some, fetch) == [data[at : at + length] for at, length in some]
            assert cache.read("s", "whole", lambda: data) == data
            assert held(folder) <= room


def test_what_was_read_once_is_not_asked_for_again_by_anybody(cached: Path, s3: Faulty, url: str) -> None:
    path, data = put(open_files(url), 3 << 20)
    assert open_files(url).read_range(path, 100, 2_000_000) == data[100:2_000_100]
    before = len(s3.seen)
    program = "import sys; from stores.files.open import open_files; files = open_files(sys.argv[1]);"
    program += "sys.stdout.buffer.write(files.read_ranges(sys.argv[2], [(5, 9), (1_500_000, 50)])[1])"
    told = subprocess.run([sys.executable, "-c", program, url, path], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert told.stdout == data[1_500_000:1_500_050]
    asked = [request.path for request in s3.seen[before:]]
    assert len(asked) == 1 and asked[0].endswith("/forgotten/000001.json")  # was something forgotten? nothing else


def test_who_reads_again_takes_another_room_than_who_was_read_long_ago(cached: Path, s3: Faulty, url: str) -> None:
    files = open_files(url)
    paths = [put(files, 1 << 20, seed)[0] for seed in range(10)]
    for path in paths[:6]:
        files.read_range(path, 0, 10)
        time.sleep(0.002)
    fresh = open_files(url)
    disk_cache._of.cache_clear()  # without what this process has checked already
    fresh.read_range(paths[0], 0, 10)
    for path in paths[6:9]:
        fresh.read_range(path, 0, 10)
    names = {path.name.split("-")[1] for path in cached.rglob("*.0-*")}
    objects = [disk_cache._object("x", path).split("-")[1] for path in paths]
    assert objects[0] in names and objects[1] not in names and objects[8] in names
    assert held(cached) <= 8 << 20


READER = """
import random, sys
from stores.files import disk_cache
from stores.files.open import open_files
disk_cache.HOT_BYTES = 1
files, dice = open_files(sys.argv[1]), random.Random(sys.argv[2])
paths = sys.argv[4:]
for _ in range(int(sys.argv[3])):
    path, at = dice.choice(paths), dice.randrange(2_000_000)
    data = files.read_range(path, at, 50_000)
    assert len(data) == min(50_000, 2_000_000 - at) and set(data) == {paths.index(path)}, (path, at)
"""


def test_processes_that_share_it_and_are_killed_leave_nothing_wrong_and_nothing_behind(cached: Path, url: str) -> None:
    files = open_files(url)
    paths = []
    for number in range(8):  # 16 MiB, twice as much as fits
        data = bytes([number]) * 2_000_000
        paths.append(f"shards/{sha256(data).hexdigest()}.tar")
        publish_bytes(files, data, paths[-1])
    files.sync()

    def start(seed: int, reads: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", READER, url, str(seed), str(reads), *paths], cwd=ROOT)

    doomed = [start(seed, 100_000) for seed in range(2)]
    while held(cached) < 4 << 20:
        time.sleep(0.01)
    left = Path(next(cached.glob("*/*")), "0123.aside")
    left.write_bytes(bytes(1000))  # of one killed before; the oldest
    os.utime(left, (1, 1))
    for process in doomed:
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    others = [start(seed, 120) for seed in (7, 8)]
    assert [process.wait() for process in others] == [0, 0]
    assert not left.exists() and held(cached) <= (8 << 20) + (2 << 20)


THREADS = """
import os, sys, threading
from stores.files import disk_cache
from tests.stores.files.test_disk_cache import read_with_threads
print("ready", flush=True)
read_with_threads(sys.argv[1], int(sys.argv[2]), 10**6)
"""


def read_with_threads(folder: str, seed: int, reads: int) -> None:
    """Sixteen threads in one cache of eight pieces, of which a quarter goes under their hands."""
    cache, size = DiskCache(Path(folder), 8 << 20), 3 << 20
    content = [bytes([number]) * size for number in range(8)]

    def fetcher(number: int) -> disk_cache.Fetch:
        return lambda missing: [content[number][at : at + length] for at, length in missing]

    def read(thread: int) -> None:
        dice = random.Random(f"{seed} {thread}")
        for _ in range(reads):
            number, at = dice.randrange(8), dice.randrange(size)
            cache._hot = Cache(1, len)  # every piece from the disk
            (data,) = cache.read_ranges("s", f"p{number}", [(at, 2000)], fetcher(number))
            assert data == content[number][at : at + 2000]
            if dice.random() < 0.02:
                cache.drop("another store")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(read, range(16)))


def test_many_threads_beside_a_process_that_is_killed_read_what_is_there_and_end(
    quick_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = quick_folder / uuid.uuid4().hex
    doomed = subprocess.Popen([sys.executable, "-c", THREADS, str(folder), "1"], cwd=ROOT, stdout=subprocess.PIPE)
    assert doomed.stdout is not None and doomed.stdout.readline() == b"ready\n"
    descriptors = len(os.listdir("/proc/self/fd"))
    read_with_threads(str(folder), 2, 20)
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    read_with_threads(str(folder), 3, 20)
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1  # that of the pipe
    assert held(folder) <= (8 + 16 + 16) << 20
    cache = DiskCache(folder, 8 << 20)  # alone, it brings all of it back within the bounds
    for number in range(16):
        cache.read("s", f"w{number}", lambda: bytes(1 << 19))
    assert held(folder) <= 8 << 20
    assert not list(folder.rglob("*.aside")) and "is off" not in caplog.text


def test_where_nothing_can_be_written_it_is_off_and_says_so_once(cached: Path, url: str) -> None:
    path, data = put(open_files(url), 3 << 20)
    program = """
import resource, signal, sys
from stores.files.open import open_files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
files = open_files(sys.argv[1])
for at in (0, 1 << 20, 2 << 20):
    sys.stdout.buffer.write(files.read_range(sys.argv[2], at, 1 << 20))
"""
    told = subprocess.run([sys.executable, "-c", program, url, path], cwd=ROOT, capture_output=True, check=True)
    assert told.stdout == data
    assert told.stderr.decode() == f"the cache at {cached} is off: File too large\n"
    assert held(cached) == 0


def test_a_size_that_is_none_is_refused(cached: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_CACHE_GIB", "much")
    with pytest.raises(ManifestError, match="no number above 0"):
        open_files(url).read("shards/" + "0" * 64 + ".tar")


def documents(url: str) -> tuple[Snapshot, bytes]:
    payload = random.Random(1).randbytes(5000)
    store = Store.create(f"{url}/documents", "documents", "documents")
    writer = store.writer("u")
    for name in ("canary", "other"):
        media = Media(sha256(payload).hexdigest(), "image", "png", 4, 4, payload=payload)
        parts = (Text(f"a {name} sings"), *([media] if name == "canary" else []))
        writer.add(Document(record_id("documents", name), "documents", name, "web", parts))
    return store.commit([writer.finish()], node="n", units=["u"]), payload


def test_what_is_forgotten_is_in_no_cache_of_this_machine_nor_read_from_one_of_another(
    cached: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, payload = documents(url)
    needles = [b"a canary sings", payload]
    elsewhere = cached.with_name(cached.name + "-other")
    for folder in (elsewhere, cached):
        monkeypatch.setenv("MILLRACE_CACHE", str(folder))
        assert len(list(Store.open(snapshot.url).snapshot(1).documents(range(2)))) == 2
        assert traces(folder, needles)
    nothing = frozenset[str]()
    places = frozenset({"canary"})
    forget(url, {"ids": nothing, "sources": nothing, "places": places, "media": nothing})  # type: ignore[arg-type]
    assert not traces(cached, needles)
    monkeypatch.setenv("MILLRACE_CACHE", str(elsewhere))
    assert traces(elsewhere, needles)
    head = Store.open(snapshot.url).head()
    assert head is not None and [one.locator for one in head.records()] == ["", "other"]
    assert not traces(elsewhere, needles)


def test_verify_reads_what_lies_there_and_not_what_is_kept(cached: Path, url: str) -> None:
    snapshot, _ = documents(url)
    list(snapshot.documents(range(2)))
    path = f"shards/{snapshot.shards[0].shard}.tar"
    files: Any = open_files(snapshot.url)
    tar = bytearray(files.uncached().read(path))
    tar[700] ^= 1
    files._put(path, bytes(tar))
    assert [one.id for one in snapshot.records()] and verify(snapshot)
