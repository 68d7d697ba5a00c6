"""Workers that write into a fresh store at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from stores.files.open import open_files
from stores.files.protocol import publish_bytes

WORKERS = 4


def test_the_first_objects_of_a_store_may_come_from_all_workers_at_once(tmp_path: Path) -> None:
    """Each finds the folder of shards missing and makes it; none may mind that another was first."""
    together = Barrier(WORKERS)

    def write(round_: int, worker: int) -> None:
        files = open_files(str(tmp_path / str(round_)))
        together.wait()
        publish_bytes(files, b"%d" % worker, f"shards/{worker}.tar")
        files.sync()

    with ThreadPoolExecutor(WORKERS) as pool:
        for round_ in range(150):
            list(pool.map(write, [round_] * WORKERS, range(WORKERS)))
            for worker in range(WORKERS):
                assert (tmp_path / str(round_) / f"shards/{worker}.tar").read_bytes() == b"%d" % worker


def test_a_file_aside_that_somebody_took_away_is_an_error_not_an_endless_wait(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    aside = files.temporary_path()
    aside.write_bytes(b"content")
    files.publish(aside, "shards/x.tar")
    aside.unlink()
    with pytest.raises(FileNotFoundError):
        files.sync()
