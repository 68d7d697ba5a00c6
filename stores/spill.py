"""Rows dealt to partitions by a hash: in memory as long as there is enough of it, then in files of a scratch folder.

Half of an external sort: a partition is small enough to be sorted in memory, and partitions follow each other as the
hashes do. How many there are, and whether they lie in memory or in files, has no influence on that order.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from manifests.errors import StoreError

GIB = 1 << 30
PREFIX = "millrace-scratch-"
YOUNG_S = 60
"""A folder that is younger may be about to be locked."""


class Scratch:
    """Memory that some `Partitions` share, and the folder to which all they hold goes when it is full. As a context the
    folder is gone at its end, else at the end of the process at the latest; that of a killed process when the next
    one makes its own beside it."""

    def __init__(self, memory_bytes: int = 4 * GIB, folder: str | Path | None = None) -> None:
        """
        Args:
            folder: on a local disk; a folder of its own is made in it. By default where this machine has its temporary
                files.
        """
        self.memory_bytes = memory_bytes
        self._parent = folder
        self._folder: Path | None = None
        self._remove: weakref.finalize | None = None
        self._lock: IO[bytes] | None = None
        self._held = 0
        self._partitions: list[Partitions] = []
        self.file_bytes = 0
        """Written so far."""

    def joined(self, some: Partitions) -> None:
        self._partitions.append(some)

    def took(self, size: int) -> None:
        """Partitions hold so many bytes more, or less."""
        self._held += size
        if self._held > self.memory_bytes:
            for some in self._partitions:
                self.file_bytes += some.to_files(self._place())
            self._held = 0

    def left(self, some: Partitions) -> None:
        self._partitions.remove(some)

    def _place(self) -> Path:
        if self._folder is None:
            parent = Path(self._parent or tempfile.gettempdir())
            try:
                remove_left(parent)
                self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
                self._lock = _locked(self._folder)
            except OSError as error:
                where, fix = str(error.filename), "name a folder on a local disk as `scratch`, or allow more memory"
                told = f"no scratch files here: {error.strerror}"
                raise StoreError(told, where=where, fix=fix) from None
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._remove is not None:
            self._remove()


def remove_left(parent: Path) -> None:
    """Remove the scratch folders of processes that were killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > YOUNG_S and (lock := _locked(folder)):
                shutil.rmtree(folder, ignore_errors=True)
                lock.close()


def _locked(folder: Path) -> IO[bytes] | None:
    """Held as long as it is open; None where a living process holds it."""
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


class Partitions:
    """Rows of one type, in the order in which they were added within each partition."""

    def __init__(self, scratch: Scratch, name: str, count: int, kind: np.dtype[Any]) -> None:
        """
        Args:
            name: not that of others of the same `scratch`.
        """
        self._scratch, self._name, self._kind = scratch, name, kind
        self._parts: list[list[np.ndarray]] = [[] for _ in range(count)]
        self._files: dict[int, Path] = {}
        scratch.joined(self)

    def __len__(self) -> int:
        return len(self._parts)

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """(N,): the partition of each (N,) uint64; higher ones for higher hashes."""
        return ((hashes >> np.uint64(32)) * np.uint64(len(self)) >> np.uint64(32)).astype(np.uint16)

    def add(self, rows: np.ndarray, numbers: np.ndarray) -> None:
        """Each of `rows` to the partition of its number."""
        if len(self) == 1:
            self._parts[0].append(rows)
        else:
            sorted_ = rows[np.argsort(numbers, kind="stable")]
            ends = np.cumsum(np.bincount(numbers, minlength=len(self))).tolist()
            for number, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                if start < stop:
                    self._parts[number].append(sorted_[start:stop])
        self._scratch.took(rows.nbytes)

    def read(self, number: int) -> np.ndarray:
        parts = self._parts[number]
        if number in self._files:
            parts = [np.fromfile(self._files[number], self._kind), *parts]
        return np.concatenate(parts) if parts else np.zeros(0, self._kind)

    def drop(self, number: int) -> None:
        """Nobody reads that one again."""
        if number in self._files:
            self._files.pop(number).unlink()
        parts, self._parts[number] = self._parts[number], []
        self._scratch.took(-sum(part.nbytes for part in parts))

    def replace(self, number: int, rows: np.ndarray) -> None:
        self.drop(number)
        self._parts[number].append(rows)
        self._scratch.took(rows.nbytes)

    def close(self) -> None:
        """Nobody reads any of them again."""
        for number in range(len(self)):
            self.drop(number)
        self._scratch.left(self)

    def to_files(self, folder: Path) -> int:
        """Bytes written: all that is held in memory."""
        written = 0
        for number, parts in enumerate(self._parts):
            if not parts:
                continue
            path = self._files.setdefault(number, folder / f"{self._name}.{number:05d}")
            rows = np.concatenate(parts)
            try:
                with path.open("ab") as out:
                    rows.tofile(out)
            except OSError as error:
                fix = "make room there, name another folder as `scratch`, or allow more memory"
                raise StoreError(f"scratch files can't be written: {error}", where=str(folder), fix=fix) from None
            written += rows.nbytes
            self._parts[number] = []
        return written
