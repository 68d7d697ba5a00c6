"""How many samples per second does the planner order, and with how much memory?

    python -m benchmarks.plan_scale [SAMPLES] [FOLDER] [MEMORY_GIB]

35 sources in separate stores. Each has a real index (Parquet, as stores write it) over shards without content, because
planning reads no payload. Lengths are log-normal; mean and deviation (see SOURCES) were fitted to the texts of the test
data and to the Python documentation. A third of the sources has pictures, each of which occurs in two samples. The
planner runs in a new process: indexes -> pieces -> order -> packs -> blocks in a plan store. MEMORY_GIB limits its
memory for pieces. At 10^7 samples and below, every block is read back and checked. The stores stay in FOLDER. Above
10^7 samples, ids and digests are counters, which Parquet compresses well: with random ones the index of 10^9 samples
takes 35 GB.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.measure import Result, save
from manifests.schedule import MILLION, Curve, VisionShare
from packing.mixture import Mixture, Source
from packing.plan.planner import PlanInputs, Planner, in_threads
from packing.plan.supply import read_supplies
from stores.commits.roots import Receipt
from stores.files.protocol import publish_bytes
from stores.shards import index
from stores.shards.entry import ShardEntry
from stores.shards.kinds import KINDS
from stores.spill import GIB, Scratch
from stores.store import Snapshot, Store
from tokenization.vocabulary import Vocabulary

SHARD_SAMPLES = 250_000
CHECKED_SAMPLES = 10**7
"""Largest number of samples with random ids and digests and with a check of the plan."""
LONGEST_TOKENS = 300_000
SPLIT_TOKENS = 500
"""Distance of the split points of a long document."""
SOURCES = [
    *((f"lines {i}", 5.0, 0.71, False) for i in range(15)),  # JSON lines and pages of the test data
    *((f"documents {i}", 4.8, 1.86, False) for i in range(6)),  # the Python documentation, prose
    *((f"code {i}", 7.74, 1.44, False) for i in range(2)),  # the Python library
    *((f"captions {i}", 2.86, 0.32, True) for i in range(12)),
]
"""(name, mean and standard deviation of ln(tokens), whether each sample has a picture)."""
HUGE = 0.2
"""Share of all samples in the first text source, and in the first picture source; the others share the rest."""


def sizes(samples: int) -> list[int]:
    """Samples of each source."""
    rest = (samples - 2 * int(samples * HUGE)) // (len(SOURCES) - 2)
    firsts = {"lines 0", "captions 0"}
    return [int(samples * HUGE) if name in firsts else rest for name, *_ in SOURCES]


def make(folder: Path, samples: int, vocabulary: Vocabulary) -> None:
    """Write the stores of all sources that are missing in `folder`."""
    for number, ((name, mean, deviation, pictures), count) in enumerate(zip(SOURCES, sizes(samples), strict=True)):
        place = folder / name.replace(" ", "_")
        if (place / "roots").exists():
            continue
        store = Store.create(str(place), "samples", name)
        receipts = []
        for first in range(0, count, SHARD_SAMPLES):
            rows = min(SHARD_SAMPLES, count - first)
            random = np.random.default_rng([number, first])
            counted = first if samples > CHECKED_SAMPLES else None
            tables = tables_of(random, name, rows, mean, deviation, pictures, counted)
            shard = b"no content %d %d" % (number, first)
            publish_bytes(store.files, shard, f"shards/{sha256(shard).hexdigest()}.tar")
            files = {}
            for table, rows_of in tables.items():
                data = index.to_parquet(rows_of)
                files[table] = sha256(data).hexdigest()
                publish_bytes(store.files, data, index.path(table, files[table]))
            entry = ShardEntry(
                sha256(shard).hexdigest(), len(shard), rows, sha256(shard).hexdigest(), files, {"records": rows}
            )
            receipts.append(Receipt(f"{first:012d}", (entry,)))
        store.files.sync()
        meta = {"vocabulary": vocabulary.digest, "vocabulary_file": "tiny"}
        store.commit(receipts, node="benchmark", units=[receipt.unit for receipt in receipts], meta=meta)


def tables_of(
    random: np.random.Generator,
    name: str,
    rows: int,
    mean: float,
    deviation: float,
    pictures: bool,
    counted: int | None,
) -> dict[str, pa.Table]:
    """Index tables of a shard. Ids and digests are random, or count from `counted` if it is not None."""
    tokens = np.exp(random.normal(mean, deviation, rows)).clip(1, LONGEST_TOKENS).astype(np.int64)
    tokens += 6 if pictures else 0  # the media placeholder and its delimiters
    cuts = np.where(tokens > 4096, tokens // SPLIT_TOKENS, 0)
    offsets = np.concatenate([[0], np.cumsum(cuts)])
    splits = (np.arange(offsets[-1]) - np.repeat(offsets[:-1], cuts) + 1) * SPLIT_TOKENS
    ids = words_of(random, counted, np.arange(rows), 16)
    columns = {
        "id": pa.Array.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(ids.tobytes())]),
        "source": index.constant(name, rows),
        "domain": index.constant("caption" if pictures else "knowledge", rows),
        "tokens": pa.array(tokens),
        "loss_tokens": pa.array(tokens),
        "images": pa.array(np.full(rows, pictures, np.int32)),
        "videos": pa.array(np.zeros(rows, np.int32)),
        "splits": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(splits)),
        "whole": pa.array(np.zeros(rows, bool)),
    }
    facts = KINDS["samples"].FACTS
    tables = {"core": pa.table([columns[name] for name in facts.names], facts)}
    if pictures:
        shared = words_of(random, counted, random.permutation(rows) // 2, 32)
        medium = {
            "record": pa.array(np.arange(rows)),
            "place": pa.array(np.full(rows, 3)),
            "digest": pa.Array.from_buffers(pa.binary(32), rows, [None, pa.py_buffer(shared.tobytes())]),
            "kind": index.constant("image", rows),
            "format": index.constant("jpeg", rows),
            "width_px": pa.array(random.integers(8, 32, rows).astype(np.int32) * 28),
            "height_px": pa.array(random.integers(8, 32, rows).astype(np.int32) * 28),
            "frame_times_us": pa.array([[]] * rows, pa.list_(pa.int64())),
            "offset": pa.array(np.zeros(rows, np.int64)),
            "length": pa.array(np.full(rows, 40_000)),
        }
        absent = {field.name: pa.nulls(rows, field.type) for field in index.MEDIA if field.name not in medium}
        tables["media"] = pa.table([(medium | absent)[name] for name in index.MEDIA.names], index.MEDIA)
    return tables


def words_of(random: np.random.Generator, counted: int | None, numbers: np.ndarray, size: int) -> np.ndarray:
    """(N, size) uint8 names, equal where `numbers` are equal."""
    if counted is None:
        return random.integers(0, 256, (numbers.max() + 1, size), np.uint8)[numbers]
    words = np.zeros((len(numbers), size // 8), np.uint64)
    words[:, 0] = counted + numbers
    return words.view(np.uint8)


def mixture() -> Mixture:
    """Mixture with equal weights, so that the plan uses every source, and with a vision share that changes midway."""
    sources = tuple(Source(name=name, input="", weight=1.0, max_epochs=1) for name, *_ in SOURCES)
    return Mixture(
        sources=sources,
        max_pack_tokens=4096,
        global_batch_packs=64,
        vision_share=VisionShare(piecewise=((0, 0.2), (2_000_000, 0.3), (10_000_000, 0.3), (10_000_000, 0.25))),
    )


def plan(folder: Path, samples: int, memory_gib: float = 4.0) -> dict[str, float]:
    """Plan the stores of `folder`. Runs in a new process. Returns the sizes, seconds and memory of the run."""
    vocabulary, mixed = Vocabulary.load("tiny"), mixture()
    start = time.process_time(), time.perf_counter()
    stores = {source.name: Store.open(str(folder / source.name.replace(" ", "_"))).head() for source in mixed.sources}
    with tempfile.TemporaryDirectory(dir=folder) as temporary, Scratch(int(memory_gib * GIB), temporary) as scratch:
        sources = read_supplies(mixed, stores, vocabulary, scratch)
        read = time.process_time(), time.perf_counter()
        planner = Planner(PlanInputs(mixed, sources, vocabulary.digest), scratch, in_threads)
        store = Store.create(temporary + "/plan", "plan", "plan")
        writer = store.writer("plan")
        segments = 0
        for block in planner:
            segments += len(block.arrays["length"])
            writer.add(block)
        planned = store.commit([writer.finish()], node="benchmark", units=["plan"], meta=planner.meta)
        taken = time.process_time() - start[0], time.perf_counter() - start[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = sum(file.stat().st_size for file in Path(temporary, "plan").rglob("*") if file.is_file())
        if samples <= CHECKED_SAMPLES:
            check(planned, mixed, [source.pieces for source in sources])
    return {
        "samples": samples,
        "pieces": sum(source.pieces for source in sources),
        "segments planned": segments,
        "packs": planner.meta["packs"],
        "tokens": planner.meta["tokens"],
        "fill": round(planner.meta["fill"], 4),
        "largest error, slots": planner.meta["largest_error_slots"],
        "one pack, slots": planner.meta["one_pack_slots"],
        "cpu s": round(taken[0], 1),
        "cpu s reading indexes": round(read[0] - start[0], 1),
        "wall s reading indexes": round(read[1] - start[1], 1),
        "wall s": round(taken[1], 1),
        "memory GiB for pieces": memory_gib,
        "files for pieces MiB": round(scratch.file_bytes / 2**20),
        "peak MiB": round(peak),
        "plan MiB": round(size / 2**20),
    }


def check(plan: Snapshot, mixed: Mixture, pieces: list[int]) -> None:
    """Recount a plan from its store.

    No piece may occur twice and no pack may exceed its limit. After every pack the number of vision slots may differ
    from the schedule by at most the slots of one pack.
    """
    seen: list[list[np.ndarray]] = [[] for _ in pieces]
    lengths, slots = [], []
    for block in plan.records():
        arrays = block.arrays
        for source in np.unique(arrays["source"]).tolist():
            mine = arrays["source"] == source
            ordinals = arrays["ordinal"][mine].astype(np.int64)  # blocks use the smallest type that fits
            seen[source].append(ordinals * (LONGEST_TOKENS + 1) + arrays["start"][mine])
        for name, sums in (("length", lengths), ("slots", slots)):
            sums.append(np.add.reduceat(arrays[name], arrays["pack_offsets"][:-1], dtype=np.int64))
    for parts, count in zip(seen, pieces, strict=True):
        together = np.sort(np.concatenate(parts) if parts else np.zeros(0, np.int64))
        assert (np.diff(together) > 0).all() and len(together) <= count
    tokens, held = np.concatenate(lengths), np.concatenate(slots)
    assert tokens.min() > 0 and tokens.max() <= mixed.max_pack_tokens
    until, given = np.cumsum(tokens), np.cumsum(held)
    assert (int(until[-1]), int(given[-1])) == (plan.meta["tokens"], plan.meta["slots"])
    curve = Curve.of(plan.meta["schedule"])
    most = np.maximum(np.maximum.accumulate(held), int(curve.highest * mixed.max_pack_tokens))
    level = until >= curve.starts[-1]  # here the share is a whole number of millionths; before, it is a fraction
    wanted = int(curve.slots_until(curve.starts[-1]) * MILLION) + curve.last[-1] * (until[level] - curve.starts[-1])
    assert (np.abs(given[level] * MILLION - wanted) <= most[level] * MILLION).all()
    for pack in np.flatnonzero(~level).tolist():
        assert abs(int(given[pack]) - curve.slots_until(int(until[pack]))) <= most[pack]


def main() -> None:
    given = dict(enumerate(sys.argv[1:]))
    samples, memory_gib = int(float(given.get(0, 10**6))), float(given.get(2, 4.0))
    parent = Path(given.get(1, tempfile.gettempdir()))
    folder = parent / f"plan_scale_{samples}"
    if given.get(3) == "child":
        print(json.dumps(plan(folder, samples, memory_gib)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, samples, Vocabulary.load("tiny"))
    command = [sys.executable, "-m", "benchmarks.plan_scale", str(samples), str(parent), str(memory_gib), "child"]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    for name, value in figures.items():
        print(f"{name:24} {value:,}")
    save(
        "plan_scale",
        Result(
            question="Samples per CPU second from indexes to plan, over the rate of 10^9 samples in ten CPU hours:",
            unit="samples per CPU second",
            ours=samples / figures["cpu s"],
            peers={"needed for 10^9 samples in ten CPU hours": 10**9 / 36_000},
            bar=1.0,
            libraries=("numpy", "numba", "pyarrow"),
            details=figures,
        ),
    )


if __name__ == "__main__":
    main()
