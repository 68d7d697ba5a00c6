"""Rows partitioned by hash: in memory up to a budget, then in files of a scratch folder.

Half of an external sort. Each partition is small enough to be sorted in memory, and the partitions follow each other in
the order of the hashes. The number of partitions, and whether they are in memory or in files, does not change that
order.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from manifests.errors import StoreError
from manifests.files import LockHeld, held_file

GIB = 1 << 30
PREFIX = "millrace-scratch-"
YOUNG_S = 60
"""A younger folder may be about to be locked by its owner."""

NAME_MEMORY_BYTES = 1 << 30
"""Memory budget of one `RowsByName`."""
NAME_PARTITIONS = 256
BATCH_ROWS = 1 << 14
"""Rows that `RowsByName` collects before it deals them to partitions."""


class Scratch:
    """Memory budget shared by some `Partitions`, and the folder that they spill to when it is used up.

    The folder is removed when the context ends, or with the process. The folder of a killed process is removed by the
    next process that makes its own next to it.
    """

    def __init__(self, memory_bytes: int = 4 * GIB, folder: str | Path | None = None) -> None:
        """
        Args:
            folder: parent of the scratch folder, on a local disk; by default the machine's folder for temporary files.
        """
        self.memory_bytes = memory_bytes
        self._parent = folder
        self._folder: Path | None = None
        self._remove: weakref.finalize | None = None
        self._held_bytes = 0
        self._partitions: list[Partitions] = []
        self.file_bytes = 0
        """Bytes written to files so far."""

    def register(self, partitions: Partitions) -> None:
        """Let `partitions` share this budget."""
        self._partitions.append(partitions)

    def unregister(self, partitions: Partitions) -> None:
        """Take `partitions` off this budget."""
        self._partitions.remove(partitions)

    def account(self, size: int) -> None:
        """Record that partitions hold `size` bytes more (less if negative); spill everything over the budget."""
        self._held_bytes += size
        if self._held_bytes > self.memory_bytes:
            for partitions in self._partitions:
                self.file_bytes += partitions.spill(self._scratch_folder())
            self._held_bytes = 0

    def _scratch_folder(self) -> Path:
        if self._folder is None:
            parent = Path(self._parent or tempfile.gettempdir())
            lock = ExitStack()
            try:
                remove_abandoned(parent)
                self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
                lock.enter_context(held_file(self._folder / "lock"))
            except OSError as error:
                message = f"no scratch files here: {error.strerror}"
                fix = "name a folder on a local disk as `scratch`, or allow more memory"
                raise StoreError(message, where=str(error.filename), fix=fix) from None
            self._remove = weakref.finalize(self, _remove, self._folder, lock)
        return self._folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._remove is not None:
            self._remove()


def _remove(folder: Path, lock: ExitStack) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def remove_abandoned(parent: Path) -> None:
    """Remove the scratch folders of killed processes in `parent`."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, LockHeld):
            if time.time() - folder.stat().st_mtime > YOUNG_S:
                with held_file(folder / "lock"):
                    shutil.rmtree(folder, ignore_errors=True)


class Partitions:
    """Rows of one dtype in partitions; each partition keeps the order in which its rows were added."""

    def __init__(self, scratch: Scratch, name: str, count: int, kind: np.dtype[Any]) -> None:
        """
        Args:
            name: prefix of the files, unique within `scratch`.
            count: number of partitions.
            kind: dtype of a row.
        """
        self._scratch, self._name, self._kind = scratch, name, kind
        self._parts: list[list[np.ndarray]] = [[] for _ in range(count)]
        self._files: dict[int, Path] = {}
        scratch.register(self)

    def __len__(self) -> int:
        return len(self._parts)

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """Return the partition of each hash, in the order of the hashes: (N,) uint64 -> (N,) uint16."""
        return ((hashes >> np.uint64(32)) * np.uint64(len(self)) >> np.uint64(32)).astype(np.uint16)

    def add(self, rows: np.ndarray, numbers: np.ndarray) -> None:
        """Add each of `rows`, (N,), to the partition with its number in `numbers`, (N,)."""
        if len(self) == 1:
            self._parts[0].append(rows)
        else:
            sorted_ = rows[np.argsort(numbers, kind="stable")]
            ends = np.cumsum(np.bincount(numbers, minlength=len(self))).tolist()
            for number, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                if start < stop:
                    self._parts[number].append(sorted_[start:stop])
        self._scratch.account(rows.nbytes)

    def read(self, number: int) -> np.ndarray:
        """Return the rows of one partition, (N,)."""
        parts = self._parts[number]
        if number in self._files:
            parts = [np.fromfile(self._files[number], self._kind), *parts]
        return np.concatenate(parts) if parts else np.zeros(0, self._kind)

    def drop(self, number: int) -> None:
        """Free the memory and the file of one partition."""
        if number in self._files:
            self._files.pop(number).unlink()
        parts, self._parts[number] = self._parts[number], []
        self._scratch.account(-sum(part.nbytes for part in parts))

    def replace(self, number: int, rows: np.ndarray) -> None:
        """Replace the rows of one partition."""
        self.drop(number)
        self._parts[number].append(rows)
        self._scratch.account(rows.nbytes)

    def close(self) -> None:
        """Free the memory and files of all partitions."""
        for number in range(len(self)):
            self.drop(number)
        self._scratch.unregister(self)

    def spill(self, folder: Path) -> int:
        """Move all rows in memory to files in `folder`; return the bytes written.

        Raises:
            StoreError: the files can't be written.
        """
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


class RowsByName:
    """Rows keyed by names of hex digits, of which the first 32 count; all rows of a name are in one partition.

    The rows of a previous `RowsByName` are read before its own. `packing/proof.py` counts with it what memory can't
    hold.
    """

    def __init__(self, kind: np.dtype[Any], previous: RowsByName | None = None) -> None:
        """
        Args:
            kind: structured dtype of a row: `name`, two words; other columns; optionally `earlier`, true in the rows of
                `previous`.
        """
        self._kind, self._previous = kind, previous
        self._columns = list(kind.fields or ())
        self._parts = Partitions(Scratch(NAME_MEMORY_BYTES), "rows", NAME_PARTITIONS, kind)
        self._waiting: list[tuple[Any, ...]] = []

    def add(self, name: str, *row: int) -> None:
        """Add one row; `row` gives the columns after `name`, in their order."""
        self._waiting.append((name, *row))
        if len(self._waiting) >= BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Deal the collected rows to partitions; call it before `read`."""
        names, *columns = zip(*self._waiting, strict=True) if self._waiting else ((),)
        rows = np.zeros(len(names), self._kind)
        rows["name"] = np.frombuffer(bytes.fromhex("".join(name[:32] for name in names)), ">u8").reshape(-1, 2)
        for column, values in zip(self._columns[1:], columns, strict=False):
            rows[column] = values
        self._parts.add(rows, self._parts.of(rows["name"][:, 0]))
        self._waiting.clear()

    def read(self, number: int) -> np.ndarray:
        """Return the rows of one partition, (N,): those of `previous`, then its own in the order of adding."""
        rows = self._parts.read(number)
        if self._previous is None:
            return rows
        earlier = self._previous.read(number)
        if "earlier" in self._columns:
            earlier["earlier"] = True
        return np.concatenate([earlier, rows])
