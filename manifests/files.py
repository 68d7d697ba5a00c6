"""Atomic writer of local files, and lock files, for every room that keeps files of its own.

Stores have their own protocol (`stores/files/`), because they may be on object storage.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.5
"""Seconds between two attempts to take a lock."""


def write_whole(path: Path, data: str | bytes) -> None:
    """Replace `path` by `data` in one step; readers and power cuts find the old content or the new one.

    The file and its folder are synced before this returns. Text is written as UTF-8. The folder must exist.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as out:
            out.write(data.encode("utf-8") if isinstance(data, str) else data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class LockHeld(Exception):
    """Another process holds the lock file; `holder` is its process id in decimal, or empty where it is not known."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def held_file(path: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, made where it is missing, and write this process's id into it.

    The kernel frees the lock with the process, however that ends.

    Args:
        on_wait: called once with the holder's process id; then wait for the lock. None raises at once.
    Raises:
        LockHeld: another process holds the lock, and `on_wait` is None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        waiting = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip()
                if on_wait is None:
                    raise LockHeld(holder) from None
                if not waiting:
                    on_wait(holder)
                waiting = True
                time.sleep(POLL_S)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
