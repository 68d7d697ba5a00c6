"""Protocol that a store needs of a filesystem, implemented for local folders and for every filesystem fsspec reaches.

Paths are relative to the store (`shards/DIGEST.tar`). Content-named files are create-only: a writer writes them under a
temporary name, makes them durable and renames them in one step, so a file that has its name is whole. One operation
needs more than that: the swap, which creates a file only where none exists. Local folders swap with a hard link
(`files/local.py`), S3 with `If-None-Match`, GCS with a generation number (`files/s3.py`, `files/gcs.py`). A filesystem
without any of these swaps through a lock (`files/swap_lock.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

NO_SWAP = "none"
"""`Files.swap_by` of a filesystem without a swap."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Path, size and time of one file."""

    path: str
    """Relative to the store."""
    size: int
    """Bytes."""
    modified_s: float
    """Seconds since 1970 by the clock of the filesystem: comparable with another file's time, not with local time."""


class SwapDecider(Protocol):
    """Place where swaps are decided for a filesystem that can't swap; implemented by `files/swap_lock.py`."""

    def decide(self, path: str, data: bytes) -> bytes:
        """Return the bytes that `path` shall hold: `data`, unless another committer decided first."""

    def release(self, path: str) -> None:
        """Forget the decision about `path`, because the file is deleted."""


class Files(Protocol):
    """Files of one store."""

    url: str
    """Absolute, so that it names the same place from every working directory."""
    lock: SwapDecider | None
    """Place where swaps are decided; None where this filesystem decides them."""
    at_once: int
    """Number of parallel reads that is faster than reading one by one; 1 where threads would only add cost."""

    @property
    def swap_by(self) -> str:
        """Primitive behind `swap`, as `store.json` records it; `NO_SWAP` if there is none."""

    def read(self, path: str) -> bytes:
        """Return the whole file. Raises FileNotFoundError."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, or fewer where the file ends earlier. Raises FileNotFoundError."""

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer`; return the number of bytes read, fewer where the file ends earlier.

        Raises FileNotFoundError.
        """

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read several (offset, length) ranges of one file, in few requests."""

    def uncached(self) -> Files:
        """Return a handle to the same place that bypasses the disk cache; for `verify`, `repair` and `copy`."""

    def exists(self, path: str) -> bool:
        """Tell whether a file exists."""

    def missing(self, paths: Collection[str], *, must_exist: bool = False) -> set[str]:
        """Return those of `paths` that don't exist, checked in parallel.

        Args:
            must_exist: another process saw the files. Check absent ones again for a while, because on the network an
                answer may be older than a file.
        """

    def listing(self, folder: str) -> Iterator[FileInfo]:
        """List all files below `folder`, sorted by path; none if the folder is missing.

        Slow on the network: used for maintenance, never for reading.
        """

    def glob(self, pattern: str) -> list[tuple[str, int]]:
        """Return (path, size) of files that match: `*` and `?` inside a name, `**` over folders, `[...]` for a set."""

    def folders(self) -> list[str]:
        """Return the names of the folders directly below."""

    def delete(self, path: str) -> None:
        """Delete a file; no error where it does not exist."""

    def touch(self, path: str) -> None:
        """Create an empty file, or set the time of an existing one to now, by the clock of the filesystem."""

    def temporary_path(self) -> Path:
        """Return a new local path to write to before `publish`; files of killed writers there do no harm."""

    def publish(self, temporary: Path, path: str) -> None:
        """Rename the local file `temporary` to its content name, at the latest in the next `sync`.

        A file that has the name already holds the same bytes.
        """

    def swap(self, path: str, data: bytes) -> bool:
        """Create `path` with `data` only where no file exists, whole or not at all; durable on return.

        Returns:
            Whether `path` holds exactly `data` now; False if another process was first. So a swap whose answer was lost
            can be repeated with the same result.
        """

    def check_swap(self) -> None:
        """Check that the swap refuses to overwrite; cheap. Raises StoreError."""

    def sync(self) -> None:
        """Make everything published so far durable."""


def publish_bytes(files: Files, data: bytes, path: str) -> None:
    """Publish `data` under the content name `path`; durable after the next `files.sync()`."""
    temporary = files.temporary_path()
    temporary.write_bytes(data)
    files.publish(temporary, path)
