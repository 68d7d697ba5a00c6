"""Files of a store in a local folder: system calls for reading, a hard link for the swap."""

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
    """`Files` of a local folder. Thread-safe for reading."""

    lock: SwapDecider | None = None
    at_once = 1

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = os.path.normpath(self.root)
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._unsynced: list[tuple[Path, Path]] = []
        """(temporary file, final path) of everything published since the last `sync`."""

    @property
    def swap_by(self) -> str:
        return "link" if self.lock is None else "lock"

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        # pread rather than mmap: equally fast out of the page cache, and a truncated file is short instead of a SIGBUS.
        file = self._open_file(path)
        return os.pread(file.descriptor, length, offset)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        file = self._open_file(path)
        done = 0
        while done < len(buffer):  # one call reads 2 GiB at most
            read = os.preadv(file.descriptor, [buffer[done:]], offset + done)
            if not read:
                break
            done += read
        return done

    def _open_file(self, path: str) -> _OpenFile:
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
        files = LocalFiles(self.root)
        files.lock = self.lock
        return files

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
        paths = [path for path in self.root.glob(pattern) if path.is_file()]
        return sorted((path.relative_to(self.root).as_posix(), path.stat().st_size) for path in paths)

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

    def publish(self, temporary: Path, path: str) -> None:
        self._unsynced.append((temporary, self.root / path))

    def swap(self, path: str, data: bytes) -> bool:
        if self.lock is not None and not self.exists(path):
            self._create(path, self.lock.decide(path, data))
            return self.read(path) == data
        return self._create(path, data) or self.read(path) == data

    def check_swap(self) -> None:
        """Nothing to check: a hard link never overwrites a file."""

    def _create(self, path: str, data: bytes) -> bool:
        """Create `path` durably; return False where it exists."""
        temporary = self.temporary_path()
        temporary.write_bytes(data)
        fsync_path(temporary)
        created = _link(temporary, self.root / path)
        temporary.unlink()
        fsync_path((self.root / path).parent)
        return created

    def sync(self) -> None:
        # First all contents, then all names, then the folders: half as many journal commits as file by file.
        waiting, self._unsynced = self._unsynced, []
        for temporary, _ in waiting:
            fsync_path(temporary)
        for temporary, target in waiting:
            if not _link(temporary, target) and target.stat().st_size != temporary.stat().st_size:
                os.replace(temporary, target)  # equal names mean equal bytes, so the file there was truncated later
            else:
                temporary.unlink()
        for folder in sorted({target.parent for _, target in waiting}):
            fsync_path(folder)


class _OpenFile:
    """File descriptor that closes with its last user, even after it was evicted from the table of open files."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.descriptor)


def fsync_path(path: Path) -> None:
    """Sync a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(temporary: Path, target: Path) -> bool:
    """Give `temporary` the name `target` as well, atomically; return False where `target` exists."""
    while True:
        try:
            os.link(temporary, target)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:
            if not temporary.exists():
                raise
            target.parent.mkdir(parents=True, exist_ok=True)  # another worker may create it first
            fsync_path(target.parent.parent)
        except OSError as error:
            raise StoreError(
                f"this filesystem can't make hard links ({error.strerror}), so commits would not be safe",
                where=str(target),
                fix="put the store on a local filesystem such as ext4, xfs or btrfs",
            ) from error
