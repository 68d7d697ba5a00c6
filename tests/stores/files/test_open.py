"""Workers that write into a new local store at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from stores.files.open import open_files
from stores.files.protocol import publish_bytes

WORKERS = 4


def test_all_workers_may_write_the_first_objects_of_a_store_at_once(tmp_path: Path) -> None:
    """Each worker finds the folder of shards missing and makes it; the others must accept that."""
    barrier = Barrier(WORKERS)

    def write(round_: int, worker: int) -> None:
        files = open_files(str(tmp_path / str(round_)))
        barrier.wait()
        publish_bytes(files, b"%d" % worker, f"shards/{worker}.tar")
        files.sync()

    with ThreadPoolExecutor(WORKERS) as pool:
        for round_ in range(150):
            list(pool.map(write, [round_] * WORKERS, range(WORKERS)))
            for worker in range(WORKERS):
                assert (tmp_path / str(round_) / f"shards/{worker}.tar").read_bytes() == b"%d" % worker


def test_a_deleted_temporary_file_is_an_error_not_an_endless_loop(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    temporary = files.temporary_path()
    temporary.write_bytes(b"content")
    files.publish(temporary, "shards/x.tar")
    temporary.unlink()
    with pytest.raises(FileNotFoundError):
        files.sync()
