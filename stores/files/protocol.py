"""The protocol that a store needs of a filesystem.

Paths are relative to the store (`shards/DIGEST.tar`). Content-named files are create-only: a writer writes them aside,
makes them durable and gives them their name in one step, so a file that has its name is whole. One operation needs more
than that: the swap, which creates a file only where none is. Local folders swap by a hard link (`files/local.py`), S3
by `If-None-Match`, GCS by generation (`files/s3.py`, `files/gcs.py`); a filesystem without any of these swaps through
a lock (`files/swap_lock.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

NO_SWAP = "none"


@dataclass(frozen=True, slots=True)
class FileInfo:
    path: str
    """Relative to the store."""
    size: int
    modified_s: float
    """Since 1970, by the clock of the filesystem; compare it with another file's, never with the local clock."""


class SwapDecider(Protocol):
    """`files/swap_lock.py`."""

    def decide(self, path: str, data: bytes) -> bytes: ...

    def release(self, path: str) -> None: ...


class Files(Protocol):
    """What a store needs of a filesystem."""

    url: str
    """Absolute: names the same place from every working directory."""
    lock: SwapDecider | None
    """Where swaps are decided, if not here."""
    at_once: int
    """So many reads side by side are quicker than one after the other; 1 where threads would only cost."""

    @property
    def swap_by(self) -> str:
        """The primitive behind `swap`, as `store.json` records it; "none" where there is none."""

    def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Fewer bytes than asked for where the file ends before. Raises FileNotFoundError."""

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer`; how many bytes there were, fewer where the file ends before. Raises FileNotFoundError."""

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """`read_range` for several (offset, length) of one file, in few requests."""

    def uncached(self) -> Files:
        """The same place opened anew and read from where it lies: for who looks whether files are still whole."""

    def exists(self, path: str) -> bool: ...

    def missing(self, paths: Collection[str], *, must_exist: bool = False) -> set[str]:
        """Those of `paths` that are not there, asked side by side. What is `must_exist` by somebody who saw it is asked
        for again for a while: on the network an answer may be older than a file."""

    def listing(self, folder: str) -> Iterator[FileInfo]:
        """All files below `folder`, by path; none where it is missing. Slow: for upkeep, never for reading."""

    def glob(self, pattern: str) -> list[tuple[str, int]]:
        """(path, size) of the files that fit: `*` and `?` inside a name, `**` over folders, `[...]` one of these."""

    def folders(self) -> list[str]:
        """Names of the folders right below."""

    def delete(self, path: str) -> None:
        """Deleting what is not there is no error."""

    def touch(self, path: str) -> None:
        """Make an empty file, or one that is there look as new as now, by the clock of the filesystem."""

    def temporary_path(self) -> Path:
        """A new local file name to write to before `publish`. What a killed writer leaves there is in nobody's way."""

    def publish(self, aside: Path, path: str) -> None:
        """Give the file `aside` its content name, by the next `sync` at the latest; where the name exists already,
        the two are the same bytes."""

    def swap(self, path: str, data: bytes) -> bool:
        """Create `path` with `data` where nothing is, whole or not at all, durable when it returns.

        Whether `path` holds exactly `data` now: False where somebody else was first. So a swap whose answer was lost is
        done again with the same result.
        """

    def check_swap(self) -> None:
        """Raises StoreError where the swap is not what it should be. Cheap."""

    def sync(self) -> None:
        """Make everything published so far durable."""


def publish_bytes(files: Files, data: bytes, path: str) -> None:
    aside = files.temporary_path()
    aside.write_bytes(data)
    files.publish(aside, path)
