"""Which share of the writing time goes into index, digests, checksums and commit?

    MILLRACE_TEST_DATA=FOLDER python -m benchmarks.write_share

Compares our writers of `write_rows.py` and `write_images.py` with themselves without those parts: the same synced tar
without a content name, checksums, index or commit. All run in this process, in turns: once without all parts, and once
without each part alone. That separates arithmetic over all bytes (BLAKE3 of the tar, XXH3 of every part) from our own
code (index, commit).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import SimpleNamespace
from unittest.mock import patch

import pyarrow as pa

from benchmarks import write_images, write_rows
from benchmarks.measure import Result, save

TURNS = 9
NO_HASH = SimpleNamespace(update=lambda data: None, hexdigest=lambda: "0" * 64)
EMPTY = pa.table({})

PARTS: Mapping[str, Mapping[str, object]] = {
    "digest of the tar": {"stores.shards.tar.naming_hash": lambda path: NO_HASH},
    "checksums": {"stores.shards.layout.checksum": lambda part: 0},
    "index": {
        "stores.shards.layout.ShardBuilder.finish": lambda self: (self.file.close(), {"core": EMPTY}),
        "stores.writer.UnitWriter._store": lambda self, tables: {},
        "stores.writer.shard_counts": lambda core: {},
    },
    "commit": {"stores.store.Store.commit": lambda self, receipts, **_: None},
}
"""Name of a part -> {patched function: replacement}."""

Seconds = dict[str, float]
"""Seconds by clock: CPU of this process with all its threads, and wall."""


def main() -> None:
    tasks = {
        "rows": write_rows.ours(write_rows.token_ids("rows")),
        "documents": write_rows.ours(write_rows.token_ids("documents")),
        "photos": write_images.ours(write_images.pictures()),
    }
    without: dict[str, tuple[str, ...]] = {"nothing": (), "all": tuple(PARTS), **{part: (part,) for part in PARTS}}
    details: dict[str, dict[str, dict[str, float]]] = {}
    for workload, write in tasks.items():
        taken: dict[str, list[Seconds]] = {name: [] for name in without}
        for turn in range(TURNS + 1):
            for name in list(without)[:: 1 if turn % 2 else -1]:
                seconds = timed(write, without[name])
                if turn:
                    taken[name].append(seconds)
        details[workload] = {clock: shares(taken, clock) for clock in ("CPU", "wall")}
        print(workload, details[workload])
    worst = max(workload_shares["wall"]["all"] for workload_shares in details.values())
    result = Result(
        question="Wall time of writing without index, digests and commit over the time with them, worst workload:",
        unit="ratio",
        ours=round(1 - worst, 3),
        peers={"without": 1.0},
        bar=0.97,
        libraries=("blake3", "xxhash", "pyarrow"),
        details={"share": details},
    )
    save("write_share", result)


def shares(taken: Mapping[str, list[Seconds]], clock: str) -> dict[str, float]:
    """Share of the full seconds that leaving out each part saves; medians over the turns."""
    whole = [turn[clock] for turn in taken["nothing"]]
    return {
        name: round(statistics.median(1 - turn[clock] / full for turn, full in zip(turns, whole, strict=True)), 3)
        for name, turns in taken.items()
        if name != "nothing"
    }


def timed(write: Callable[[str], None], without: tuple[str, ...]) -> Seconds:
    """Seconds of one write to a temporary folder without some parts."""
    with ExitStack() as stack:
        for part in without:
            for target, replacement in PARTS[part].items():
                stack.enter_context(patch(target, replacement))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="millrace-bench-"))
        cpu, wall = time.process_time(), time.perf_counter()
        write(folder)
        return {"CPU": time.process_time() - cpu, "wall": time.perf_counter() - wall}


if __name__ == "__main__":
    main()
