"""How fast are token records written, with index, digests and commit, compared with the writers of other formats?

    python -m benchmarks.write_rows [--quick]

Two workloads of 128 MiB of uint32 ids in memory: rows of 4,096 ids, and documents with the lengths of web pages. Ours
is a store of samples: identity, source, domain and loss runs of every record besides its ids, and an index. The peers
write ids alone, with their defaults. All writes end durable: ours by its commit, the peers by an fsync of every file
and folder at the end. LitData's writer is called in this process, so that it need not start workers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.contest import make_durable, serve
from benchmarks.writers import compare_writers

BYTES = 128 << 20
ROW_TOKENS = 4096
WORKLOADS = ("rows", "documents")
QUESTION = "Writing token records, durable, with index, digests and commit, over the fastest other writer of ids:"
LITDATA_CHUNK = "64MB"


def lengths(workload: str) -> list[int]:
    """Lengths of the records, in tokens."""
    if workload == "rows":
        return [ROW_TOKENS] * (BYTES // 4 // ROW_TOKENS)
    drawn = np.exp(np.random.default_rng(1).normal(6.5, 1.1, 1 << 17)).astype(int).clip(16, 65536)
    return drawn[: int(np.searchsorted(np.cumsum(drawn), BYTES // 4))].tolist()


def token_ids(workload: str) -> list[np.ndarray]:
    """Zipf-distributed ids, (T,) uint32 each. Every array has its own memory, as after a tokenizer."""
    random = np.random.default_rng(2)
    return [(random.zipf(1.3, count) % 163840).astype(np.uint32) for count in lengths(workload)]


def ours(ids: Sequence[np.ndarray]) -> Callable[[str], None]:
    """Task of ours: write all records to a folder. The peers below have the same form."""
    from manifests.records import Sample, record_id
    from stores.store import Store

    records = [
        Sample(record_id("web", f"{i}"), "web", "web", row, np.array([[1, len(row)]])) for i, row in enumerate(ids)
    ]

    def write(folder: str) -> None:
        store = Store.create(f"{folder}/store", "samples", "written")
        writer = store.writer("all")
        for record in records:
            writer.add(record)
        store.commit([writer.finish()], node="bench", units=["all"])

    return write


def webdataset(ids: Sequence[np.ndarray]) -> Callable[[str], None]:
    from webdataset import ShardWriter

    def write(folder: str) -> None:
        with ShardWriter(f"{folder}/%06d.tar", maxsize=256 << 20, verbose=0) as sink:
            for i, row in enumerate(ids):
                sink.write({"__key__": f"{i:09}", "ids.bin": row.tobytes()})
        make_durable(Path(folder))

    return write


def mds(ids: Sequence[np.ndarray]) -> Callable[[str], None]:
    from streaming import MDSWriter

    same = len({len(row) for row in ids}) == 1
    columns = {"ids": f"ndarray:uint32:{ROW_TOKENS}" if same else "ndarray:uint32"}

    def write(folder: str) -> None:
        with MDSWriter(out=folder, columns=columns, exist_ok=True) as sink:
            for row in ids:
                sink.write({"ids": row})
        make_durable(Path(folder))

    return write


def litdata(ids: Sequence[np.ndarray]) -> Callable[[str], None]:
    from litdata.streaming.item_loader import TokensLoader
    from litdata.streaming.writer import BinaryWriter

    def write(folder: str) -> None:
        sink = BinaryWriter(folder, chunk_bytes=LITDATA_CHUNK, item_loader=TokensLoader())
        for i, row in enumerate(ids):
            sink[i] = row
        sink.done()
        sink.merge(1)
        make_durable(Path(folder))

    return write


WRITERS = {
    "ours": (None, ours),
    "webdataset": ("webdataset", webdataset),
    "mds": ("mds", mds),
    "litdata": ("lightning", litdata),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: one repetition, no result")
    parser.add_argument("--serve", choices=WRITERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        tasks = {workload: WRITERS[options.serve][1](token_ids(workload)) for workload in WORKLOADS}
        serve(lambda folder, workload: tasks[workload](folder))
        return
    compare_writers("write_rows", QUESTION, WRITERS, WORKLOADS, dict.fromkeys(WORKLOADS, BYTES / 1e6), options.quick)


if __name__ == "__main__":
    main()
