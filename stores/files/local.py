"""Files of a store in a local folder: `Files` by system calls, the swap by a hard link."""

from __future__ import annotations

import os
import stat
import threading
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from manifests.errors import StoreError
from stores.files.protocol import FileInfo, Files, SwapDecider

OPEN_FILES = 128
"""Shards that one process holds open for reading; far below the usual limit of 1,024."""


class LocalFiles:
    lock: SwapDecider | None = None
    at_once = 1

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = os.path.normpath(self.root)
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._unsettled: list[tuple[Path, Path]] = []

    @property
    def swap_by(self) -> str:
        return "link" if self.lock is None else "lock"

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        # pread rather than mmap: equally fast out of the page cache, and a truncated file is short instead of a SIGBUS.
        file = self._opened(path)
        return os.pread(file.descriptor, length, offset)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        file = self._opened(path)
        done = 0
        while done < len(buffer):  # one call gives 2 GiB at the most
            read = os.preadv(file.descriptor, [buffer[done:]], offset + done)
            if not read:
                break
            done += read
        return done

    def _opened(self, path: str) -> _OpenFile:
        with self._lock:
            file = self._open.get(path)
            if file is None:
                file = self._open[path] = _OpenFile(self.root / path)
                if len(self._open) > OPEN_FILES:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
        return file

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.read_range(path, offset, length) for offset, length in ranges]

    def uncached(self) -> Files:
        fresh = LocalFiles(self.root)
        fresh.lock = self.lock
        return fresh

    def exists(self, path: str) -> bool:
        return (self.root / path).exists()

    def missing(self, paths: Collection[str], *, must_exist: bool = False) -> set[str]:
        return {path for path in paths if not self.exists(path)}

    def listing(self, folder: str) -> Iterator[FileInfo]:
        for path in sorted((self.root / folder).rglob("*")):
            with suppress(FileNotFoundError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    yield FileInfo(path.relative_to(self.root).as_posix(), status.st_size, status.st_mtime)

    def glob(self, pattern: str) -> list[tuple[str, int]]:
        found = [path for path in self.root.glob(pattern) if path.is_file()]
        return sorted((path.relative_to(self.root).as_posix(), path.stat().st_size) for path in found)

    def folders(self) -> list[str]:
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir()) if self.root.is_dir() else []

    def delete(self, path: str) -> None:
        if self.lock is not None:
            self.lock.release(path)
        with self._lock:
            self._open.pop(path, None)
        (self.root / path).unlink(missing_ok=True)

    def touch(self, path: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).touch()

    def temporary_path(self) -> Path:
        folder = self.root / "aside"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    def publish(self, aside: Path, path: str) -> None:
        self._unsettled.append((aside, self.root / path))

    def swap(self, path: str, data: bytes) -> bool:
        if self.lock is not None and not self.exists(path):
            self._create(path, self.lock.decide(path, data))
            return self.read(path) == data
        return self._create(path, data) or self.read(path) == data

    def check_swap(self) -> None:
        """A hard link is never made over a file."""

    def _create(self, path: str, data: bytes) -> bool:
        aside = self.temporary_path()
        aside.write_bytes(data)
        fsync_path(aside)
        made = _link(aside, self.root / path)
        aside.unlink()
        fsync_path((self.root / path).parent)
        return made

    def sync(self) -> None:
        # First all contents, then all names, then the folders: half as many journal commits as file by file.
        waiting, self._unsettled = self._unsettled, []
        for aside, _ in waiting:
            fsync_path(aside)
        for aside, target in waiting:
            if not _link(aside, target) and target.stat().st_size != aside.stat().st_size:
                os.replace(aside, target)  # what lay there was torn after it was made: its name says so
            else:
                aside.unlink()
        for folder in sorted({target.parent for _, target in waiting}):
            fsync_path(folder)


class _OpenFile:
    """A descriptor that closes once nobody reads from it any more, also when it was put out of the cache meanwhile."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.descriptor)


def fsync_path(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(aside: Path, target: Path) -> bool:
    """Whether `target` is now `aside`; False where it existed. Atomic, and never overwrites."""
    while True:
        try:
            os.link(aside, target)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:
            if not aside.exists():
                raise
            target.parent.mkdir(parents=True, exist_ok=True)  # another worker may be first
            fsync_path(target.parent.parent)
        except OSError as error:
            raise StoreError(
                f"no hard links here ({error.strerror}), so commits can't be made safely",
                where=str(target),
                fix="put the store on a local filesystem such as ext4, xfs or btrfs",
            ) from error
