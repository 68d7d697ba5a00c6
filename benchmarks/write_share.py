"""Which share of writing goes into index, digests, checksums and commit?

    MILLRACE_TEST_DATA=FOLDER python -m benchmarks.write_share

Ours of `write_rows` and `write_images` against itself with those taken out: the same tar, synced, under no content
name, with neither checksums nor an index, and never committed. In this process, in turns.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from unittest.mock import patch

import pyarrow as pa

from benchmarks import write_images, write_rows
from benchmarks.measure import Result, paired, save

NO_HASH = SimpleNamespace(update=lambda data: None, hexdigest=lambda: "0" * 64)


def main() -> None:
    tasks = {
        "rows": write_rows.ours(write_rows.token_ids("rows")),
        "documents": write_rows.ours(write_rows.token_ids("documents")),
        "photos": write_images.ours(write_images.pictures()),
    }
    details: dict[str, dict[str, float]] = {}
    for workload, write in tasks.items():
        turns = {"with": functools.partial(into_new_folder, write), "without": functools.partial(plainly, write)}
        found = {}
        for said, clock in (("CPU", time.process_time), ("wall", time.perf_counter)):
            took = paired(turns, 7, clock)
            found[said] = round(1 - took["without"] / took["with"], 3)
        details[workload] = found
        print(f"{workload:12} share of CPU {found['CPU']:.1%}, of wall {found['wall']:.1%}")
    worst = max(found["wall"] for found in details.values())
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


def into_new_folder(write: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        write(folder)


def plainly(write: Callable[[str], None]) -> None:
    empty = pa.table({})
    with ExitStack() as stack:
        for target, replacement in {
            "stores.shard.naming_hash": lambda path: NO_HASH,
            "stores.layout.checksum": lambda part: 0,
            "stores.layout.ShardBuilder.finish": lambda self: (self.file.close(), {"core": empty}),
            "stores.writer.UnitWriter._store": lambda self, tables: {},
            "stores.writer.shard_counts": lambda core: {},
            "stores.store.Store.commit": lambda self, receipts, **told: None,
        }.items():
            stack.enter_context(patch(target, replacement))
        into_new_folder(write)


if __name__ == "__main__":
    main()
