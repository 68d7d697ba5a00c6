"""Files on any filesystem that fsspec reaches: checked lengths, merged ranges, retried requests, atomic uploads.

`files/create_only.py`, `files/s3.py` and `files/gcs.py` hold the differences between filesystems, `files/retry.py` the
pace and the retries. A filesystem known only to fsspec has no swap: its stores can always be read, and are committed to
through the lock that `store.json` names (`files/swap_lock.py`).
"""

from __future__ import annotations

import os
import posixpath
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import sync

from manifests.errors import StoreError
from stores.files import deny_lists, disk_cache, retry
from stores.files.disk_cache import DiskCache
from stores.files.protocol import NO_SWAP, FileInfo, Files, SwapDecider
from stores.files.ranges import ByteRange, cut, merge_ranges

LATE_S = 2.0
"""Time to wait for a file that must exist and is reported missing: an answer may be older than the file."""
PATIENCE_S = 10.0
"""Total of such waits in vain per store; after that, files are missing, not late."""
SMALL_BYTES = 1 << 20
"""Uploads up to this size wait for `sync` and then run in parallel; larger ones start immediately."""
MODIFIED = ("LastModified", "mtime", "updated", "last_modified", "modified", "created")
"""Names of the time of change in the listings of different filesystems."""
MUST_EXIST = re.compile(r"(?:.*/)?(?:store\.json|roots/\d{6,}\.json|[0-9a-f]{64}\.[^/]*)")
"""Paths that are only read because another file, or the user, names them: `store.json`, roots, content-named files."""

T = TypeVar("T")

FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that state a fact, so that a retry can't help."""


class TruncatedAnswer(OSError):
    """The answer has fewer bytes than the file has in that range."""


class RemoteFiles:
    """`Files` over fsspec. Threads may share one object, and a fork may go on with it."""

    primitive = NO_SWAP
    """Primitive that this filesystem swaps with."""
    at_once = 8
    cached = True
    """Whether reads go through the disk cache of this machine, if there is one (`files/disk_cache.py`)."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.lock: SwapDecider | None = None
        self._process = 0
        self._patience_s = PATIENCE_S
        self._waiting: list[tuple[Path, str]] = []
        """(temporary file, path) of uploads that wait for `sync`."""
        self._cache_name = ""
        """Name of this store in the disk cache; empty until it is determined."""
        _ = self.filesystem  # a wrong URL fails here

    @property
    def swap_by(self) -> str:
        return "lock" if self.lock is not None else self.primitive

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem, one per process: a client that a fork copied can't be used."""
        if self._process != os.getpid():
            self._filesystem, self._root = self._connect()
            self._process = os.getpid()
        return self._filesystem

    # ------------------------------------------------------------ reading

    def read(self, path: str) -> bytes:
        def read() -> bytes:
            return self._read(path, must_exist=_must_exist(path))

        cache = self._cache(path)
        return cache.read(self._cache_name, path, read) if cache is not None else read()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self.read_ranges(path, [(offset, length)])[0]

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        data = self.read_range(path, offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_ranges(self, path: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        cache = self._cache(path)
        if cache is None:
            return self._read_ranges(path, ranges)
        return cache.read_ranges(self._cache_name, path, ranges, lambda missing: self._read_ranges(path, missing))

    def uncached(self) -> Files:
        files = type(self)(self.url)
        files.lock, files.cached = self.lock, False
        return files

    def _cache(self, path: str) -> DiskCache | None:
        """Return the disk cache for a content-named file.

        The store's name in the cache contains the number of the newest deny list. So nothing that was cached before a
        record was forgotten is read again.
        """
        cache = disk_cache.process_cache() if self.cached and disk_cache.CONTENT_NAMED.fullmatch(path) else None
        if cache is not None and not self._cache_name:
            folder = f"{posixpath.dirname(self.url)}/{deny_lists.FOLDER}"
            forgotten = deny_lists.newest(type(self)(folder)) if "://" in folder else 0
            name = disk_cache.store_name(self.url, forgotten)
            if forgotten:
                cache.drop(self.url, but=name)
            self._cache_name = name
        return cache

    def _read_ranges(self, path: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        def read(span: ByteRange) -> tuple[int, bytes]:
            data = self._request(path, lambda seconds: self._get(seconds, path, *span), span[1])
            return span[0], data

        parts = self._retry_missing(lambda: self._requests.map(read, merge_ranges(ranges)), _must_exist(path))
        return [cut(parts, offset, length) for offset, length in ranges]

    def exists(self, path: str) -> bool:
        return not self.missing([path])

    def missing(self, paths: Collection[str], *, must_exist: bool = False) -> set[str]:
        missing = list(paths)
        waited, pause = 0.0, 0.1
        while True:
            sizes = self._requests.map(self._size_of, missing)
            missing = [path for path, size in zip(missing, sizes, strict=True) if size is None]
            if not missing or not must_exist or waited >= self._late_s:
                self._patience_s -= waited if missing else 0
                return set(missing)
            time.sleep(pause)
            waited, pause = waited + pause, pause * 2

    def listing(self, folder: str) -> Iterator[FileInfo]:
        top = self._path(folder).rstrip("/")
        listed: Mapping[str, Any] = self._request(folder, lambda seconds: self._call(seconds, "find", top, detail=True))
        for path, info in sorted(listed.items()):
            inside = self.filesystem._strip_protocol(path).removeprefix(f"{self._root}/")
            yield FileInfo(inside, info["size"], self._modified_s(inside, info))

    def glob(self, pattern: str) -> list[tuple[str, int]]:
        matches = self._request(pattern, lambda seconds: self._call(seconds, "glob", self._path(pattern), detail=True))
        begin = len(self._root) + 1
        infos = ((self.filesystem._strip_protocol(path), info) for path, info in matches.items())
        sizes = sorted((path[begin:], info["size"]) for path, info in infos if info["type"] == "file")
        unsized = next((path for path, size in sizes if size is None), None)
        if unsized is not None:
            where, fix = f"{self.url}/{unsized}", "copy the files to a local folder or an object store"
            raise StoreError("this server does not report the size of the file", where=where, fix=fix)
        return sizes

    def folders(self) -> list[str]:
        try:
            infos = self._request("", lambda seconds: self._call(seconds, "ls", self._root, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(posixpath.basename(info["name"].rstrip("/")) for info in infos if info["type"] == "directory")

    # ------------------------------------------------------------ writing

    def delete(self, path: str) -> None:
        if self.lock is not None:
            self.lock.release(path)
        with suppress(FileNotFoundError):
            self._request(path, lambda seconds: self._call(seconds, "rm_file", self._path(path)))

    def touch(self, path: str) -> None:
        self._put(path, b"")

    def temporary_path(self) -> Path:
        return Path(gettempdir()) / f"millrace-{uuid.uuid4().hex}"

    def publish(self, temporary: Path, path: str) -> None:
        self._waiting.append((temporary, path))
        if temporary.stat().st_size > SMALL_BYTES:
            self._upload(self._waiting.pop())

    def sync(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._requests.map(self._upload, waiting)

    def swap(self, path: str, data: bytes) -> bool:
        if self.lock is None:
            return self._swap(path, data)
        if self.exists(path):
            return self.read(path) == data
        decided = self.lock.decide(path, data)
        self._put(path, decided)
        return decided == data

    def check_swap(self) -> None:
        """Nothing to check: a lock decides, or `swap` raises."""

    def _swap(self, path: str, data: bytes) -> bool:
        """Swap without a lock. Raises StoreError where this filesystem can't."""
        raise StoreError(
            f"commits to {self.url.partition('://')[0]}:// can't be made safely: it has no compare-and-swap",
            where=self.url,
            fix="name a lock in store.json (docs/stores.md), or commit to another place and copy the finished store",
        )

    def _upload(self, waiting: tuple[Path, str]) -> None:
        temporary, path = waiting
        size = temporary.stat().st_size
        if not self._is_uploaded(path, size):
            self._send(temporary, path, size)
        temporary.unlink()

    def _is_uploaded(self, path: str, size: int) -> bool:
        """Tell whether a file is there whole: where uploads are not atomic, a partial one has another size."""
        return self._size_of(path) == size

    def _send(self, temporary: Path, path: str, size: int) -> None:
        def send(seconds: float) -> None:
            self._call(seconds, "put_file", str(temporary), self._path(path))
            arrived = self._size(seconds, path)
            if arrived != size:
                raise TruncatedAnswer(f"{arrived} of {size} bytes arrived")

        self._make_folder(path)
        self._request(path, send, size)

    def _put(self, path: str, data: bytes) -> None:
        """Write or replace a file, in one step where this filesystem can rename."""
        temporary = self._path(f"aside/{uuid.uuid4().hex}")

        def put(seconds: float) -> None:
            self._call(seconds, "pipe_file", temporary, data)
            self.filesystem.mv(temporary, self._path(path))

        self._make_folder("aside/")
        self._make_folder(path)
        self._request(path, put, len(data))

    def _make_folder(self, path: str) -> None:
        folder = posixpath.dirname(self._path(path))
        self._request(path, lambda seconds: self._call(seconds, "makedirs", folder, exist_ok=True))

    # ------------------------------------------------------------ one request

    @property
    def _requests(self) -> retry.Requests:
        return retry.process_requests()

    def _connect(self) -> tuple[Any, str]:
        """Return (fsspec filesystem, path of the store in it)."""
        return fsspec.core.url_to_fs(self.url)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _request(self, path: str, attempt: Callable[[float], T], size: int = 0) -> T:
        """Run one request with retries, and turn its errors into ours.

        Raises:
            FileNotFoundError, FileExistsError, NotADirectoryError: unchanged, because callers handle them.
            StoreError: any other error.
        """
        where = f"{self.url}/{path}".rstrip("/")
        try:
            return self._requests.run(attempt, where=where, is_transient=self._is_transient, size=size)
        except (FileNotFoundError, FileExistsError, NotADirectoryError):
            raise
        except PermissionError as error:
            fix = "check the credentials, and that they allow listing: else a missing file looks like a forbidden one"
            raise StoreError(f"not allowed: {error}", where=where, fix=fix) from error
        except self._errors() as error:
            raise StoreError(str(error) or type(error).__name__, where=where, fix="check the URL") from error

    def _call(self, seconds: float, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the filesystem, with a time limit of `seconds` where it is asynchronous.

        Other filesystems have time limits of their own.
        """
        filesystem = self.filesystem
        if filesystem.async_impl:
            return sync(filesystem.loop, getattr(filesystem, f"_{name}"), *arguments, timeout=seconds, **options)
        return getattr(filesystem, name)(*arguments, **options)

    def _errors(self) -> tuple[type[Exception], ...]:
        """Return the exceptions that this filesystem raises for failed requests."""
        return (OSError, EOFError)

    def _is_transient(self, error: Exception) -> bool:
        """Tell whether a retry may help."""
        return isinstance(error, self._errors()) and not isinstance(error, FINAL)

    def _get(self, seconds: float, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `offset` on, or fewer where the file ends earlier; all without `length`."""
        if length is not None:
            try:
                data = self._call(seconds, "cat_file", self._path(path), start=offset, end=offset + length)
            except self._errors():
                if (size := self._size(seconds, path)) is not None and size <= offset:
                    return b""
                raise
            if len(data) == length:
                return data
        else:
            data = self._call(seconds, "cat_file", self._path(path))
        size = self._size(seconds, path)
        if size is None:
            raise FileNotFoundError(path)  # deleted meanwhile, or an answer older than the file
        expected = size if length is None else max(0, min(length, size - offset))
        if len(data) < expected:
            raise TruncatedAnswer(f"{len(data)} of {expected} bytes came")
        return data

    def _size(self, seconds: float, path: str) -> int | None:
        """Return the size of a file, None if there is none; never from a cache of listings."""
        self.filesystem.invalidate_cache()
        try:
            info = self._call(seconds, "info", self._path(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return info["size"] if info["type"] == "file" else None

    def _size_of(self, path: str) -> int | None:
        return self._request(path, lambda seconds: self._size(seconds, path))

    def _modified_s(self, path: str, info: Mapping[str, Any]) -> float:
        """Return the time of change in a listing, seconds since 1970."""
        modified = next((info[name] for name in MODIFIED if info.get(name)), None)
        if isinstance(modified, str):
            modified = datetime.fromisoformat(modified)
        if modified is None:
            fix = "keep the store on a local disk, S3 or GCS"
            raise StoreError("this filesystem does not report the age of the file", where=f"{self.url}/{path}", fix=fix)
        return modified.timestamp() if isinstance(modified, datetime) else float(modified)

    # ------------------------------------------------------------ late answers

    @property
    def _late_s(self) -> float:
        return min(LATE_S, max(0.0, self._patience_s))

    def _read(self, path: str, *, must_exist: bool) -> bytes:
        return self._retry_missing(lambda: self._request(path, lambda seconds: self._get(seconds, path)), must_exist)

    def _retry_missing(self, read: Callable[[], T], must_exist: bool) -> T:
        """Run `read`; where the file must exist and is reported missing, try again for up to `LATE_S`."""
        waited, pause = 0.0, 0.1
        while True:
            try:
                return read()
            except FileNotFoundError:
                if not must_exist or waited >= self._late_s:
                    self._patience_s -= waited
                    raise
            time.sleep(pause)
            waited, pause = waited + pause, pause * 2


def _must_exist(path: str) -> bool:
    return MUST_EXIST.fullmatch(path) is not None
