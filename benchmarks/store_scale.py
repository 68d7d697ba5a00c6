"""How long do open, row lookup and name lookup take in a store of 100,000 shards and 10^9 records?

    python -m benchmarks.store_scale [--quick]

The large store is partly fabricated. Real: root, lists and directory, as commits of 100,000 units of 10,000 records
each write them; the index files of 64 shards, whose ids, URLs and digests of media are looked up; 16 more index files,
which all other shards share, so that every row lookup reads a real file. The lookup index is one run file of 2 GB: the
entries of the 64 shards, merged with 10^8 entries of random hashes over all shards; a complete one would have 4 * 10^9.
There are no tars.

A new process runs each kind of lookup in turn: 1,000 times on a folder, 250 times on a server that answers reads as S3
does, 50 ms late. Every lookup reads the index of its shard anew.

The comparison with Energon uses a smaller store: 100,000 real documents in 100 real tars, which both read by id.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pyarrow as pa

from benchmarks.measure import Result, save
from benchmarks.peers import run_in
from manifests.records import Document, Text, record_id
from stores.commits.roots import Receipt
from stores.files.local import LocalFiles
from stores.files.protocol import publish_bytes
from stores.lookup.find import LookupManifest, manifest_bytes, manifest_path, read_manifest
from stores.lookup.run_file import COVER, ENTRY, HASHES, RunFile, write_run
from stores.shards import index, reader
from stores.shards.entry import ShardEntry
from stores.store import Store
from stores.upkeep import lookup as lookup_upkeep

QUESTION = "Opening a store of 100,000 shards and 10^9 records, over the limit of 2 seconds:"
BAR = 1.0
OPEN_S, OPEN_MB = 2.0, 300
LATE_S = 0.05

SHARDS, ROWS, REAL, SHARED = 100_000, 10_000, 64, 16
"""Shards, rows of each, shards with an index of their own, index files that the others share."""
FILL = 100_000_000
"""Entries of random hashes in the lookup index."""
LOOKUPS, LOOKUPS_LATE = 1000, 250
"""Lookups of each kind, on a folder and on the late server."""
UNITS, PER_UNIT = 100, 1000
"""Size of the store that both we and Energon read."""


# ---------------------------------------------------------------------- the large store


def locator(shard: int, row: int) -> str:
    """URL of a record, which is its locator and origin."""
    return f"https://crawl.example/{shard:06d}/page-{row:05d}.html"


def picture(shard: int, row: int) -> bytes:
    """Digest of a record's picture."""
    return sha256(b"picture %d %d" % (shard, row)).digest()


def tables(shard: int, rows: int) -> dict[str, pa.Table]:
    """Index tables of a shard of documents with one picture each, as the writer makes them."""
    rng = np.random.default_rng(shard)
    urls = [locator(shard, row) for row in range(rows)]
    ids = [bytes.fromhex(record_id("crawl", url)) for url in urls]
    sizes = rng.integers(400, 3000, rows)
    pictures = rng.integers(20_000, 300_000, rows)
    word = lambda text: index.constant(text, rows)  # noqa: E731
    ones, zeros = np.ones(rows, np.int32), np.zeros(rows, np.int32)
    at = np.cumsum(sizes + pictures) - sizes
    core = {
        "id": pa.array(ids, pa.binary(16)),
        "source": word("crawl"),
        "domain": word("web"),
        "locator": urls,
        "characters": sizes,
        "images": ones,
        "videos": zeros,
        "license": word(""),
        "origin": urls,
        "consent": word(""),
        "line.at": at,
        "line.bytes": sizes,
        "line.xxh3": rng.integers(0, 2**64, rows, np.uint64),
    }
    media = {
        "record": np.arange(rows),
        "place": np.full(rows, -1),
        "digest": pa.array([picture(shard, row) for row in range(rows)], pa.binary(32)),
        "kind": word("image"),
        "format": word("jpg"),
        "width_px": rng.integers(200, 4000, rows).astype(np.int32),
        "height_px": rng.integers(200, 4000, rows).astype(np.int32),
        "frame_times_us": pa.array([[]] * rows, pa.list_(pa.int64())),
        "container_fps": pa.nulls(rows, pa.float64()),
        "shard": pa.nulls(rows, pa.binary(32)),
        "offset": at + sizes,
        "length": pictures,
    }
    return {"core": pa.table(core), "media": pa.table(media)}


def entry_of(files: LocalFiles, shard: int, rows: int) -> ShardEntry:
    """Publish the index of a shard. Returns the shard's entry."""
    shard_tables = tables(shard, rows)
    names = {}
    for name, table in shard_tables.items():
        data = index.to_parquet(table)
        names[name] = sha256(data).hexdigest()
        publish_bytes(files, data, index.path(name, names[name]))
    counts = {"records": rows, "images": rows}
    return ShardEntry(name_of(shard), 256 << 20, rows, index.logical_digest(shard_tables), names, counts)


def name_of(shard: int) -> str:
    """Content name of a shard that has no tar."""
    return sha256(b"shard %d" % shard).hexdigest()


class Filler:
    """A run of evenly distributed random entries, which no lookup asks for. It has the interface of `RunFile`."""

    def __init__(self, entries: int, shards: np.ndarray, rows: int) -> None:
        self.entries, self.shards, self.rows = entries, shards, rows
        self.covers = np.zeros(len(shards), COVER)
        self.covers["shard"] = shards

    def __len__(self) -> int:
        return self.entries

    def between(self, first: int, stop: int) -> np.ndarray:
        count = self.entries * (stop - first) // HASHES
        rng = np.random.default_rng(first >> 32)
        entries = np.zeros(count, ENTRY)
        entries["hash"] = np.sort(rng.integers(first, stop - 1, count, np.uint64, endpoint=True))
        entries["shard"] = self.shards[rng.integers(0, len(self.shards), count)]
        entries["row"] = rng.integers(0, self.rows, count)
        return entries


def make_large(folder: Path, shards: int, rows: int, fill: int) -> tuple[dict[str, Any], list[int]]:
    """Make the large store. Returns its sizes and costs, and the shards with an index of their own."""
    own = list(range(0, shards, shards // REAL))[:REAL]
    part = Store.create(str(folder / "part"), "documents", "part")
    files = LocalFiles(folder / "whole")
    real = {shard: entry_of(files, shard, rows) for shard in own}
    shared = [entry_of(files, shards + number, rows) for number in range(SHARED)]
    files.sync()
    (folder / "part" / "index").symlink_to(folder / "whole" / "index")
    receipts = [Receipt(f"unit-{shard:06d}", (entry,)) for shard, entry in real.items()]
    commit_fabricated(part, receipts)
    head = part.head()
    assert head is not None
    began, cpu = time.monotonic(), time.process_time()
    lookup_upkeep.build(head)
    built = {"entries_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu}

    whole = Store.create(str(folder / "whole"), "documents", "whole")
    entries = []
    for shard in range(shards):
        like = shared[shard % SHARED]
        entries.append(
            real.get(shard) or ShardEntry(name_of(shard), like.bytes, rows, like.index, like.files, like.counts)
        )
    began = time.monotonic()
    commit_fabricated(whole, [Receipt(f"unit-{shard:06d}", (entry,)) for shard, entry in enumerate(entries)])
    commit_s = time.monotonic() - began
    others = np.array([int(entry.shard[:16], 16) for i, entry in enumerate(entries) if i not in real], np.uint64)
    head = whole.head()
    assert head is not None
    built_lookup = read_manifest(part.files, 1)
    assert built_lookup is not None
    none = np.zeros(0, np.uint64)
    sources = [(RunFile(part.files, entry), none) for entry in built_lookup.runs]
    run = write_run(files, [*sources, (Filler(fill, others, rows), none)])
    files.sync()
    lists = tuple(entry.digest for entry in head.root.lists)
    files.swap(manifest_path(head.number), manifest_bytes(LookupManifest(lists, (run,))))
    names = sum(entry.entries for entry in built_lookup.runs)
    details = {
        "shards": shards,
        "records": head.counts["records"],
        "look-up entries": run.entries,
        "look-up bytes": Path(folder, "whole", "lookup", f"{run.digest}.run").stat().st_size,
        "commit of all units at once, s": round(commit_s, 1),
        "making the look-up, CPU us per name": round(built["cpu_s"] / names * 1e6, 2),
        "names per record": names / (len(own) * rows),
    }
    return details, own


def commit_fabricated(store: Store, receipts: list[Receipt]) -> None:
    """Commit units whose tars do not exist."""
    store._check_files = lambda _: None  # type: ignore[method-assign]
    store.commit(receipts, node="bench", units=[receipt.unit for receipt in receipts])


# ---------------------------------------------------------------------- lookups


Count = Callable[[], tuple[int, int]]
"""() -> (requests, bytes) so far."""


def counting(url: str) -> Count:
    """Counter of reads: of this process's file reads if `url` is a folder, else the server's own counter."""
    if "://" in url:
        counted_at = f"{os.environ['AWS_ENDPOINT_URL']}{SENT}"
        return lambda: tuple(json.loads(urlopen(counted_at).read()))
    sent = [0, 0]

    def counted(read: Callable[..., bytes]) -> Callable[..., bytes]:
        def reads(files: LocalFiles, *arguments: Any) -> bytes:
            data = read(files, *arguments)
            sent[0], sent[1] = sent[0] + 1, sent[1] + len(data)
            return data

        return reads

    for name in ("read", "read_range"):
        setattr(LocalFiles, name, counted(getattr(LocalFiles, name)))
    return lambda: (sent[0], sent[1])


def look_up(url: str, repetitions: int, own: list[int], rows: int) -> dict[str, Any]:
    """Open the store and run every kind of lookup `repetitions` times. Run it in a new process."""
    count = counting(url)
    reader.INDEX_BYTES = 1  # no cache: among 100,000 shards the next name is rarely in the same shard
    before_mb = rss_mb()
    began = time.monotonic()
    head = Store.open(url).head()
    assert head is not None
    total = head.counts["records"]
    head.locate(total // 2)
    opened = {"s": time.monotonic() - began, "MB": rss_mb() - before_mb, "MB with libraries": rss_mb()}
    rng = random.Random(1)
    picked = [(rng.choice(own), rng.randrange(rows)) for _ in range(repetitions)]
    ordinals = [rng.randrange(total) for _ in range(repetitions)]
    lookups: dict[str, list[Callable[[], Any]]] = {
        "row by ordinal": [lambda i=i: head.row(i)["id"] for i in ordinals],  # type: ignore[misc]
        "id": [lambda s=s, r=r: head.find("id", record_id("crawl", locator(s, r))) for s, r in picked],  # type: ignore[misc]
        "url": [lambda s=s, r=r: head.find("url", locator(s, r)) for s, r in picked],  # type: ignore[misc]
        "digest": [lambda s=s, r=r: head.find("digest", picture(s, r).hex()) for s, r in picked],  # type: ignore[misc]
    }
    figures: dict[str, Any] = {"open": opened}
    for name, calls in lookups.items():
        (requests, size), cpu = count(), time.process_time()
        seconds = []
        for call, (shard, row) in zip(calls, picked, strict=True):
            began = time.monotonic()
            answer = call()
            seconds.append(time.monotonic() - began)
            if name != "row by ordinal":
                assert [location.ordinal for location in answer] == [shard * rows + row], (name, shard, row, answer)
        after, cpu = count(), time.process_time() - cpu
        figures[name] = {
            "median_ms": round(statistics.median(seconds) * 1e3, 2),
            "p99_ms": round(sorted(seconds)[int(len(seconds) * 0.99)] * 1e3, 2),
            "cpu_ms": round(cpu / repetitions * 1e3, 2),
            "requests": round((after[0] - requests) / repetitions, 2),
            "KB": round((after[1] - size) / repetitions / 1e3, 1),
        }
    figures["MB at the end"] = rss_mb()
    return figures


def rss_mb() -> float:
    """Resident memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


SENT = "/-/sent"
"""Path at which the server returns its counter: (requests, bytes) sent so far."""
NOTHING_LISTED = b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
ACCESS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def late_server(folder: Path) -> Iterator[str]:
    """Server that answers reads as S3 does, with a folder as bucket: GET with ranges and HEAD, each `LATE_S` late."""
    sent = [0, 0]
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, -1

        def answer(self) -> None:
            if self.path == SENT:
                return self.send(200, json.dumps(sent).encode(), {}, counts=False)
            time.sleep(LATE_S)
            path, _, query = self.path.partition("?")
            file = folder / path.lstrip("/").partition("/")[2]
            if "list-type" in query or path.count("/") < 2:
                return self.send(200, NOTHING_LISTED, {})
            if not file.is_file():
                return self.send(404, b"<Error><Code>NoSuchKey</Code></Error>", {})
            size = file.stat().st_size
            bounds = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
            start, stop = int(bounds[0]), min(size, int(bounds[1] or size - 1) + 1)
            if self.command == "HEAD":
                return self.send(
                    200, b"", {"Content-Length": str(size), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
                )
            with file.open("rb") as opened:
                opened.seek(start)
                data = opened.read(stop - start)
            ranged = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if "Range" in self.headers else {}
            return self.send(206 if ranged else 200, data, ranged)

        do_GET = do_HEAD = answer

        def send(self, status: int, data: bytes, headers: Mapping[str, str], counts: bool = True) -> None:
            if counts:
                with lock:
                    sent[0], sent[1] = sent[0] + 1, sent[1] + len(data)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data)), "ETag": '"0"'} | dict(headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else data)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# ---------------------------------------------------------------------- comparison with Energon


def make_documents(folder: Path, units: int, per_unit: int) -> list[str]:
    """Write a store of real documents with one tar per unit. Returns their ids."""
    store = Store.create(str(folder), "documents", "documents")
    receipts, ids = [], []
    for unit in range(units):
        writer = store.writer(f"unit-{unit:03d}")
        for row in range(per_unit):
            url = locator(unit, row)
            text = f"Page {row} of {unit}. " * 20
            writer.add(Document(record_id("crawl", url), "crawl", url, "web", (Text(text),), origin=url))
            ids.append(record_id("crawl", url))
        receipts.append(writer.finish())
    lookup_upkeep.build(store.commit(receipts, node="bench", units=[receipt.unit for receipt in receipts]))
    return ids


def timed(read: Callable[[str], Any], ids: list[str]) -> dict[str, float]:
    """Lookups per CPU second and per second, after 50 to warm up."""
    for name in ids[:50]:
        read(name)
    began, cpu = time.monotonic(), time.process_time()
    for name in ids[50:]:
        read(name)
    count = len(ids) - 50
    return {"cpu": count / (time.process_time() - cpu), "wall": count / (time.monotonic() - began)}


def by_ours(folder: str, ids: list[str]) -> dict[str, float]:
    began, before_mb = time.monotonic(), rss_mb()
    head = Store.open(folder).head()
    assert head is not None and head.find("id", ids[0])
    opened = {"open_ms": (time.monotonic() - began) * 1e3, "open_MB": rss_mb() - before_mb}

    def read(name: str) -> None:
        (place,) = head.find("id", name)
        assert head.record(place.ordinal).id == name

    return opened | timed(read, ids)


def by_energon(folder: str, ids: list[str]) -> dict[str, float]:
    from megatron.energon.cache.file_store import WebdatasetFileStore
    from megatron.energon.epathlib import EPath

    began, before_mb = time.monotonic(), rss_mb()
    files = WebdatasetFileStore(EPath(folder))
    files[f"{ids[0]}.json"]
    opened = {"open_ms": (time.monotonic() - began) * 1e3, "open_MB": rss_mb() - before_mb}

    def read(name: str) -> None:
        data, _ = files[f"{name}.json"]
        assert json.loads(data)["id"] == name

    return opened | timed(read, ids)


READERS = {"ours": (None, by_ours), "energon": ("lightning", by_energon)}


def compare_with_energon(folder: Path, units: int, per_unit: int, turns: int) -> dict[str, Any]:
    ids = make_documents(folder, units, per_unit)
    run_in("lightning", "benchmarks.energon", str(folder / "shards"))
    chosen = random.Random(2).sample(ids, min(LOOKUPS, len(ids)))
    (folder / "ids.json").write_text(json.dumps(chosen))
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in READERS}
    for _ in range(turns):
        for name, (environment, _) in READERS.items():
            path = folder if name == "ours" else folder / "shards"
            rounds[name].append(
                run_in(environment, "benchmarks.store_scale", "--read", name, str(path), str(folder / "ids.json"))
            )
    lookup = sum(path.stat().st_size for path in (folder / "lookup").iterdir())
    tables = sum(path.stat().st_size for path in (folder / "index").iterdir())
    energon = sum(path.stat().st_size for path in (folder / "shards" / ".nv-meta").rglob("*") if path.is_file())
    return {
        name: {key: round(statistics.median(turn[key] for turn in turns_of), 1) for key in turns_of[0]}
        for name, turns_of in rounds.items()
    } | {
        "bytes per record": {
            "our look-up": round(lookup / len(ids), 1),
            "our index": round(tables / len(ids), 1),
            "energon's index": round(energon / len(ids), 1),
        },
        "spread": {name: sorted(round(turn["cpu"]) for turn in turns_of) for name, turns_of in rounds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: a thousandth of the size, no result")
    parser.add_argument("--look-up", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.look_up:
        print(json.dumps(look_up(options.look_up[0], *json.loads(options.look_up[1]))))
        return
    if options.read:
        name, folder, ids_file = options.read
        print(json.dumps(READERS[name][1](folder, json.loads(Path(ids_file).read_text()))))
        return
    shards, rows, fill, lookups = (200, 500, 100_000, 50) if options.quick else (SHARDS, ROWS, FILL, LOOKUPS)
    with tempfile.TemporaryDirectory(dir=Path.home() / ".cache") as scratch:
        folder = Path(scratch)
        comparison = compare_with_energon(
            folder / "documents", 4 if options.quick else UNITS, PER_UNIT, 1 if options.quick else 5
        )
        print(json.dumps(comparison, indent=1))
        large, own = make_large(folder, shards, rows, fill)
        print(json.dumps(large, indent=1))
        local = run_in(
            None, "benchmarks.store_scale", "--look-up", str(folder / "whole"), json.dumps([lookups, own, rows])
        )
        with late_server(folder) as endpoint:
            os.environ.update(ACCESS | {"AWS_ENDPOINT_URL": endpoint})
            few = json.dumps([min(lookups, LOOKUPS_LATE), own, rows])
            remote = run_in(None, "benchmarks.store_scale", "--look-up", "s3://mill/whole", few)
    for name, figures in {"a folder": local, "as from S3, 50 ms late": remote}.items():
        print(name)
        for lookup, answer in figures.items():
            print(f"  {lookup:18}", json.dumps(answer))
    open_s, open_mb = local["open"]["s"], local["open"]["MB with libraries"]
    print(f"open: {open_s:.3f} s, {open_mb:.0f} MB with libraries; bar {OPEN_S} s, {OPEN_MB} MB")
    ratio = comparison["ours"]["cpu"] / comparison["energon"]["cpu"]
    print(f"records by id per CPU second over Energon's: {ratio:.2f}")
    result = Result(
        question=QUESTION,
        unit="opens per second, from a folder",
        ours=1 / open_s,
        peers={"limit": 1 / OPEN_S},
        bar=BAR,
        libraries=("numpy", "pyarrow", "xxhash", "s3fs"),
        details={
            "memory is below 300 MB": open_mb < OPEN_MB,
            "records by id per CPU second over Energon's": round(ratio, 2),
        }
        | {"large store": large, "a folder": local, "as from S3, 50 ms late": remote, "beside Energon": comparison},
    )
    if not options.quick:
        save("store_scale", result)


if __name__ == "__main__":
    main()
