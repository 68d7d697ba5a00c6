"""Disk cache: reads stay correct, the size stays within bounds, and killed processes block no others."""

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
from stores.files.ranges import ByteRange
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
    """Folder of the disk cache of this process and its children."""
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


def total_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


spans = st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 700)), min_size=1, max_size=4)


@given(
    data=st.binary(max_size=1000), reads=st.lists(spans, max_size=12), room=st.integers(1, 1500), seed=st.integers(0, 9)
)
@settings(max_examples=60)
def test_reads_are_correct_and_the_cache_stays_within_bounds(
    quick_folder: Path, data: bytes, reads: list[list[ByteRange]], room: int, seed: int
) -> None:
    folder, dice = quick_folder / uuid.uuid4().hex, random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_cache, "PIECE_BYTES", 64)
        patch.setattr(disk_cache, "SLOT_BYTES", 200)
        cache = DiskCache(folder, room)

        def fetch(missing: Sequence[ByteRange]) -> list[bytes]:
            assert not any(offset % 64 for offset, _ in missing)
            return [data[offset : offset + length] for offset, length in missing]

        for ranges in reads:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            if files and dice.random() < 0.5:  # a bit flips, or a file ends early
                path = dice.choice(files)
                changed = bytearray(path.read_bytes())
                changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
                path.write_bytes(changed if dice.random() < 0.7 else changed[: len(changed) // 2])
                cache = DiskCache(folder, room)
            assert cache.read_ranges("s", "p", ranges, fetch) == [data[at : at + length] for at, length in ranges]
            assert cache.read("s", "whole", lambda: data) == data
            assert total_bytes(folder) <= room


def test_cached_pieces_are_not_requested_again_by_any_process(cached: Path, s3: Faulty, url: str) -> None:
    path, data = put(open_files(url), 3 << 20)
    assert open_files(url).read_range(path, 100, 2_000_000) == data[100:2_000_100]
    before = len(s3.seen)
    program = "import sys; from stores.files.open import open_files; files = open_files(sys.argv[1]);"
    program += "sys.stdout.buffer.write(files.read_ranges(sys.argv[2], [(5, 9), (1_500_000, 50)])[1])"
    result = subprocess.run([sys.executable, "-c", program, url, path], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert result.stdout == data[1_500_000:1_500_050]
    paths = [request.path for request in s3.seen[before:]]
    assert len(paths) == 1 and paths[0].endswith("/forgotten/000001.json")  # the deny lists are counted, no more


def test_the_least_recently_used_pieces_are_evicted_first(cached: Path, s3: Faulty, url: str) -> None:
    files = open_files(url)
    paths = [put(files, 1 << 20, seed)[0] for seed in range(10)]
    for path in paths[:6]:
        files.read_range(path, 0, 10)
        time.sleep(0.002)
    fresh = open_files(url)
    disk_cache._cache_of.cache_clear()  # without the pieces in memory
    fresh.read_range(paths[0], 0, 10)
    for path in paths[6:9]:
        fresh.read_range(path, 0, 10)
    names = {path.name.split("-")[1] for path in cached.rglob("*.0-*")}
    objects = [disk_cache._object("x", path).split("-")[1] for path in paths]
    assert objects[0] in names and objects[1] not in names and objects[8] in names
    assert total_bytes(cached) <= 8 << 20


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


def test_killed_processes_that_share_a_cache_leave_neither_damage_nor_files(cached: Path, url: str) -> None:
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
    while total_bytes(cached) < 4 << 20:
        time.sleep(0.01)
    left = Path(next(cached.glob("*/*")), "0123.aside")
    left.write_bytes(bytes(1000))  # from a killed process; the oldest file
    os.utime(left, (1, 1))
    for process in doomed:
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    others = [start(seed, 120) for seed in (7, 8)]
    assert [process.wait() for process in others] == [0, 0]
    assert not left.exists() and total_bytes(cached) <= (8 << 20) + (2 << 20)


THREADS = """
import os, sys, threading
from stores.files import disk_cache
from tests.stores.files.test_disk_cache import read_with_threads
print("ready", flush=True)
read_with_threads(sys.argv[1], int(sys.argv[2]), 10**6)
"""


def read_with_threads(folder: str, seed: int, reads: int) -> None:
    """Read with sixteen threads through one cache of eight pieces; a quarter of them is evicted meanwhile."""
    cache, size = DiskCache(Path(folder), 8 << 20), 3 << 20
    content = [bytes([number]) * size for number in range(8)]

    def fetcher(number: int) -> disk_cache.Fetch:
        return lambda missing: [content[number][at : at + length] for at, length in missing]

    def read(thread: int) -> None:
        dice = random.Random(f"{seed} {thread}")
        for _ in range(reads):
            number, at = dice.randrange(8), dice.randrange(size)
            cache._hot = Cache(1, len)  # read every piece from the disk
            (data,) = cache.read_ranges("s", f"p{number}", [(at, 2000)], fetcher(number))
            assert data == content[number][at : at + 2000]
            if dice.random() < 0.02:
                cache.drop("another store")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(read, range(16)))


def test_many_threads_read_correctly_while_another_process_is_killed(
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
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1  # the descriptor of the pipe
    assert total_bytes(folder) <= (8 + 16 + 16) << 20
    cache = DiskCache(folder, 8 << 20)  # without other processes it comes back within the bounds
    for number in range(16):
        cache.read("s", f"w{number}", lambda: bytes(1 << 19))
    assert total_bytes(folder) <= 8 << 20
    assert not list(folder.rglob("*.aside")) and "is off" not in caplog.text


def test_on_a_full_disk_the_cache_turns_off_with_one_warning(cached: Path, url: str) -> None:
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
    result = subprocess.run([sys.executable, "-c", program, url, path], cwd=ROOT, capture_output=True, check=True)
    assert result.stdout == data
    assert result.stderr.decode() == f"the cache at {cached} is off: File too large\n"
    assert total_bytes(cached) == 0


def test_a_size_that_is_not_a_positive_number_is_refused(
    cached: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_CACHE_GIB", "much")
    with pytest.raises(ManifestError, match="expected a number above 0"):
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


def test_forgotten_bytes_leave_this_cache_and_are_never_read_from_another(
    cached: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, payload = documents(url)
    needles = [b"a canary sings", payload]
    other = cached.with_name(cached.name + "-other")
    for folder in (other, cached):
        monkeypatch.setenv("MILLRACE_CACHE", str(folder))
        assert len(list(Store.open(snapshot.url).snapshot(1).documents(range(2)))) == 2
        assert traces(folder, needles)
    nothing = frozenset[str]()
    places = frozenset({"canary"})
    forget(url, {"ids": nothing, "sources": nothing, "places": places, "media": nothing})  # type: ignore[arg-type]
    assert not traces(cached, needles)
    monkeypatch.setenv("MILLRACE_CACHE", str(other))
    assert traces(other, needles)
    head = Store.open(snapshot.url).head()
    assert head is not None and [record.locator for record in head.records()] == ["", "other"]
    assert not traces(other, needles)


def test_verify_bypasses_the_cache(cached: Path, url: str) -> None:
    snapshot, _ = documents(url)
    list(snapshot.documents(range(2)))
    path = f"shards/{snapshot.shards[0].shard}.tar"
    files: Any = open_files(snapshot.url)
    tar = bytearray(files.uncached().read(path))
    tar[700] ^= 1
    files._put(path, bytes(tar))
    assert [record.id for record in snapshot.records()] and verify(snapshot)
