"""Where a store's bytes lie: a local folder, or anything that fsspec can reach.

Everything above speaks of paths relative to the store (`shards/DIGEST.tar`). Content-named files are create-only: they
are written aside, made durable and then given their name in one step, so a file that has its name is whole. The one
thing that needs more is the swap, creating a file only where none is: local folders do it with a hard link, S3 by
`If-None-Match`, GCS by generation (`files/s3.py`, `files/gcs.py`), and what can't has it done elsewhere
(`files/swap_lock.py`).
"""

from __future__ import annotations

import os
import posixpath
import stat
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from manifests.errors import StoreError

NO_SWAP = "none"
BUCKETS = ("s3", "s3a", "gs", "gcs")
"""Schemes whose paths begin with a bucket."""
OPEN_FILES = 128
"""Shards that one process holds open for reading; far below the usual limit of 1,024."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    path: str
    """Relative to the store."""
    size: int
    modified_s: float
    """Since 1970, by the clock of the filesystem; compare it with another file's, never with the local clock."""


class Decides(Protocol):
    """`files/swap_lock.py`."""

    def decide(self, path: str, data: bytes) -> bytes: ...

    def release(self, path: str) -> None: ...


class Files(Protocol):
    """What a store needs of a filesystem."""

    url: str
    """Absolute: names the same place from every working directory."""
    lock: Decides | None
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

    def absent(self, paths: Collection[str], *, promised: bool = False) -> set[str]:
        """Those of `paths` that are not there, asked side by side. What is `promised` by somebody who saw it is asked
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

    def aside(self) -> Path:
        """A new local file name to write to before `publish`. What a killed writer leaves there is in nobody's way."""

    def publish(self, aside: Path, path: str) -> None:
        """Give the file `aside` its content name, by the next `settle` at the latest; where the name exists already,
        the two are the same bytes."""

    def swap(self, path: str, data: bytes) -> bool:
        """Create `path` with `data` where nothing is, whole or not at all, durable when it returns.

        Whether `path` holds exactly `data` now: False where somebody else was first. So a swap whose answer was lost is
        done again with the same result.
        """

    def prove_swap(self) -> None:
        """Raises StoreError where the swap is not what it should be. Cheap."""

    def settle(self) -> None:
        """Make everything published so far durable."""


def open_files(url: str) -> Files:
    """Raises StoreError where fsspec does not know the protocol, lacks a library for it, or reaches nobody."""
    scheme, mark, path = url.partition("://")
    if not mark:
        return LocalFiles(Path(url))
    if scheme in ("file", "local"):
        return LocalFiles(Path(path))
    if scheme in BUCKETS and not path.strip("/"):
        raise StoreError("no bucket is named", where=url, fix=f"write {scheme}://BUCKET/FOLDER")
    try:
        return _remote(scheme)(url)
    except ImportError as error:
        extra = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}.get(scheme)
        fix = f"pip install 'millrace[{extra}]'" if extra else "install what fsspec asks for"
        raise StoreError(f"a library is missing: {error}", where=url, fix=fix) from None
    except ValueError as error:
        raise StoreError(str(error), where=url, fix="use a local path or a URL that fsspec knows") from None
    except OSError as error:  # of protocols that connect at once
        raise StoreError(str(error) or type(error).__name__, where=url, fix="check the URL") from error


def _remote(scheme: str) -> Callable[[str], Files]:
    """Libraries for the network are loaded when a URL asks for them."""
    match scheme:
        case "s3" | "s3a":
            from stores.files.s3 import S3Files

            return S3Files
        case "gs" | "gcs":
            from stores.files.gcs import GCSFiles

            return GCSFiles
        case "memory":
            from stores.files.create_only import MemoryFiles

            return MemoryFiles
        case _:
            from stores.files.remote import RemoteFiles

            return RemoteFiles


def publish_bytes(files: Files, data: bytes, path: str) -> None:
    aside = files.aside()
    aside.write_bytes(data)
    files.publish(aside, path)


def top_of(url: str) -> tuple[str, str]:
    """(URL of the filesystem: `/`, a bucket or a server; path below it)."""
    scheme, mark, path = url.rpartition("://")
    if not mark:
        return "/", path.lstrip("/")
    top, _, below = path.lstrip("/").partition("/")
    return f"{scheme}://{top}", below


def relative_url(url: str, base: str) -> str:
    """`url` as seen from the folder `base`, where both are on one filesystem: such links survive a move."""
    scheme, _, path = url.rpartition("://")
    base_scheme, _, base_path = base.rpartition("://")
    if scheme != base_scheme or scheme and path.split("/")[0] != base_path.split("/")[0]:
        return url
    return posixpath.relpath(path, base_path)


def absolute_url(url: str, base: str) -> str:
    """The inverse of `relative_url`."""
    if "://" in url or url.startswith("/"):
        return url
    scheme, mark, path = base.rpartition("://")
    return scheme + mark + posixpath.normpath(posixpath.join(path, url))


class LocalFiles:
    lock: Decides | None = None
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

    def absent(self, paths: Collection[str], *, promised: bool = False) -> set[str]:
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

    def aside(self) -> Path:
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

    def prove_swap(self) -> None:
        """A hard link is never made over a file."""

    def _create(self, path: str, data: bytes) -> bool:
        aside = self.aside()
        aside.write_bytes(data)
        fsync_path(aside)
        made = _link(aside, self.root / path)
        aside.unlink()
        fsync_path((self.root / path).parent)
        return made

    def settle(self) -> None:
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
