"""Files that fsspec reaches: every answer's length checked, neighbouring ranges in one request, uploads whole or again.

What differs between filesystems stands in `files/create_only.py`, `files/s3.py` and `files/gcs.py`; how requests are
paced and repeated in `files/retry.py`. A filesystem known only to fsspec has no swap: its stores are committed to where
`store.json` names a lock (`files/swap_lock.py`), and read in any case.
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
from stores.files.ranges import Span, cut, spans

LATE_S = 2.0
"""How long to wait for a file that must be there, and is said not to be: an answer may be older than the file."""
PATIENCE_S = 10.0
"""Waits that were in vain end once they took so long together: then files are missing, not late."""
SMALL_BYTES = 1 << 20
"""Uploads up to this size wait for `sync` and then go side by side; larger ones go at once."""
MODIFIED = ("LastModified", "mtime", "updated", "last_modified", "modified", "created")
MUST_EXIST = re.compile(r"(?:.*/)?(?:store\.json|roots/\d{6,}\.json|[0-9a-f]{64}\.[^/]*)")
"""Paths that are read only after something said that they are there, if only the user: `store.json`, roots and
content-named files."""

T = TypeVar("T")


FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that say what is so, not that something went wrong on the way."""


class TruncatedAnswer(OSError):
    """Fewer bytes came than the file has there."""


class RemoteFiles:
    primitive = NO_SWAP
    """What this filesystem swaps by itself."""
    at_once = 8
    cached = True
    """Whether a cache on this machine is asked, where there is one (`files/disk_cache.py`)."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.lock: SwapDecider | None = None
        self._process = 0
        self._patience_s = PATIENCE_S
        self._waiting: list[tuple[Path, str]] = []
        self._kept_as = ""
        """The name of what is kept on this machine; none is known yet at ""."""
        _ = self.filesystem  # a wrong URL is told here

    @property
    def swap_by(self) -> str:
        return "lock" if self.lock is not None else self.primitive

    @property
    def filesystem(self) -> Any:
        """One per process: what a fork copies of a client can't be used."""
        if self._process != os.getpid():
            self._filesystem, self._root = self._connect()
            self._process = os.getpid()
        return self._filesystem

    # ------------------------------------------------------------ reading

    def read(self, path: str) -> bytes:
        def read() -> bytes:
            return self._read(path, must_exist=_must_exist(path))

        cache = self._cache(path)
        return cache.read(self._kept_as, path, read) if cache is not None else read()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self.read_ranges(path, [(offset, length)])[0]

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        data = self.read_range(path, offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_ranges(self, path: str, ranges: Sequence[Span]) -> list[bytes]:
        cache = self._cache(path)
        if cache is None:
            return self._read_ranges(path, ranges)
        return cache.read_ranges(self._kept_as, path, ranges, lambda missing: self._read_ranges(path, missing))

    def uncached(self) -> Files:
        fresh = type(self)(self.url)
        fresh.lock, fresh.cached = self.lock, False
        return fresh

    def _cache(self, path: str) -> DiskCache | None:
        """Where pieces of this file may be kept. What was kept before something was forgotten is never read again."""
        cache = disk_cache.process_cache() if self.cached and disk_cache.CONTENT_NAMED.fullmatch(path) else None
        if cache is not None and not self._kept_as:
            folder = f"{posixpath.dirname(self.url)}/{deny_lists.FOLDER}"
            forgotten = deny_lists.newest(type(self)(folder)) if "://" in folder else 0
            name = disk_cache.store_name(self.url, forgotten)
            if forgotten:
                cache.drop(self.url, but=name)
            self._kept_as = name
        return cache

    def _read_ranges(self, path: str, ranges: Sequence[Span]) -> list[bytes]:
        def read(span: Span) -> tuple[int, bytes]:
            data = self._ask(path, lambda seconds: self._get(seconds, path, *span), span[1])
            return span[0], data

        found = self._patiently(lambda: self._requests.together(read, spans(ranges)), _must_exist(path))
        return [cut(found, offset, length) for offset, length in ranges]

    def exists(self, path: str) -> bool:
        return not self.missing([path])

    def missing(self, paths: Collection[str], *, must_exist: bool = False) -> set[str]:
        missing = list(paths)
        waited, pause = 0.0, 0.1
        while True:
            sizes = self._requests.together(self._size_of, missing)
            missing = [path for path, size in zip(missing, sizes, strict=True) if size is None]
            if not missing or not must_exist or waited >= self._late_s:
                self._patience_s -= waited if missing else 0
                return set(missing)
            time.sleep(pause)
            waited, pause = waited + pause, pause * 2

    def listing(self, folder: str) -> Iterator[FileInfo]:
        where = self._path(folder).rstrip("/")
        found: Mapping[str, Any] = self._ask(folder, lambda seconds: self._call(seconds, "find", where, detail=True))
        for path, told in sorted(found.items()):
            inside = self.filesystem._strip_protocol(path).removeprefix(f"{self._root}/")
            yield FileInfo(inside, told["size"], self._modified_s(inside, told))

    def glob(self, pattern: str) -> list[tuple[str, int]]:
        found = self._ask(pattern, lambda seconds: self._call(seconds, "glob", self._path(pattern), detail=True))
        begin = len(self._root) + 1
        some = ((self.filesystem._strip_protocol(path), told) for path, told in found.items())
        found = sorted((path[begin:], told["size"]) for path, told in some if told["type"] == "file")
        unsized = next((path for path, size in found if size is None), None)
        if unsized is not None:
            raise StoreError("this server does not say how long a file is", where=f"{self.url}/{unsized}")
        return found

    def folders(self) -> list[str]:
        try:
            found = self._ask("", lambda seconds: self._call(seconds, "ls", self._root, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(posixpath.basename(told["name"].rstrip("/")) for told in found if told["type"] == "directory")

    # ------------------------------------------------------------ writing

    def delete(self, path: str) -> None:
        if self.lock is not None:
            self.lock.release(path)
        with suppress(FileNotFoundError):
            self._ask(path, lambda seconds: self._call(seconds, "rm_file", self._path(path)))

    def touch(self, path: str) -> None:
        self._put(path, b"")

    def temporary_path(self) -> Path:
        return Path(gettempdir()) / f"millrace-{uuid.uuid4().hex}"

    def publish(self, aside: Path, path: str) -> None:
        self._waiting.append((aside, path))
        if aside.stat().st_size > SMALL_BYTES:
            self._upload(self._waiting.pop())

    def sync(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._requests.together(self._upload, waiting)

    def swap(self, path: str, data: bytes) -> bool:
        if self.lock is None:
            return self._swap(path, data)
        if self.exists(path):
            return self.read(path) == data
        decided = self.lock.decide(path, data)
        self._put(path, decided)
        return decided == data

    def check_swap(self) -> None:
        """Nothing to prove where a lock decides, and `swap` says it where nothing does."""

    def _swap(self, path: str, data: bytes) -> bool:
        raise StoreError(
            f"commits to {self.url.partition('://')[0]}:// can't be made safely: it has no compare-and-swap",
            where=self.url,
            fix="name a lock in store.json (docs/stores.md), or commit elsewhere and copy the finished store",
        )

    def _upload(self, waiting: tuple[Path, str]) -> None:
        aside, path = waiting
        size = aside.stat().st_size
        if not self._is_there(path, size):
            self._send(aside, path, size)
        aside.unlink()

    def _is_there(self, path: str, size: int) -> bool:
        """Where uploads are not atomic, a torn one under a content name has another size."""
        return self._size_of(path) == size

    def _send(self, aside: Path, path: str, size: int) -> None:
        def send(seconds: float) -> None:
            self._call(seconds, "put_file", str(aside), self._path(path))
            arrived = self._size(seconds, path)
            if arrived != size:
                raise TruncatedAnswer(f"{arrived} of {size} bytes arrived")

        self._make_folder(path)
        self._ask(path, send, size)

    def _put(self, path: str, data: bytes) -> None:
        """Whole or not at all where this filesystem renames; what was there before is replaced."""
        aside = self._path(f"aside/{uuid.uuid4().hex}")

        def put(seconds: float) -> None:
            self._call(seconds, "pipe_file", aside, data)
            self.filesystem.mv(aside, self._path(path))

        self._make_folder("aside/")
        self._make_folder(path)
        self._ask(path, put, len(data))

    def _make_folder(self, path: str) -> None:
        folder = posixpath.dirname(self._path(path))
        self._ask(path, lambda seconds: self._call(seconds, "makedirs", folder, exist_ok=True))

    # ------------------------------------------------------------ one request

    @property
    def _requests(self) -> retry.Requests:
        return retry.process_requests()

    def _connect(self) -> tuple[Any, str]:
        """(the filesystem, the path there)."""
        return fsspec.core.url_to_fs(self.url)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _ask(self, path: str, ask: Callable[[float], T], size: int = 0) -> T:
        """Raises FileNotFoundError or FileExistsError, which mean something here, and StoreError for the rest."""
        where = f"{self.url}/{path}".rstrip("/")
        try:
            return self._requests.run(ask, where=where, passes=self._passes, size=size)
        except (FileNotFoundError, FileExistsError, NotADirectoryError):
            raise
        except PermissionError as error:
            fix = "check the credentials, and that they allow to list: else what is missing can't be told from what is"
            raise StoreError(f"not allowed: {error}", where=where, fix=f"{fix} forbidden") from error
        except self._errors() as error:
            raise StoreError(str(error) or type(error).__name__, where=where, fix="check the URL") from error

    def _call(self, seconds: float, name: str, *arguments: Any, **options: Any) -> Any:
        """A method of the filesystem, cut off after so many seconds where it can be: filesystems that are not
        asynchronous have time limits of their own."""
        filesystem = self.filesystem
        if filesystem.async_impl:
            return sync(filesystem.loop, getattr(filesystem, f"_{name}"), *arguments, timeout=seconds, **options)
        return getattr(filesystem, name)(*arguments, **options)

    def _errors(self) -> tuple[type[Exception], ...]:
        """What this filesystem raises where something goes wrong."""
        return (OSError, EOFError)

    def _passes(self, error: Exception) -> bool:
        """Whether trying again may help."""
        return isinstance(error, self._errors()) and not isinstance(error, FINAL)

    def _get(self, seconds: float, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """From `offset` on; fewer than `length` bytes where the file ends before."""
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
        """None where there is no such file. Never out of a cache of listings."""
        self.filesystem.invalidate_cache()
        try:
            told = self._call(seconds, "info", self._path(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return told["size"] if told["type"] == "file" else None

    def _size_of(self, path: str) -> int | None:
        return self._ask(path, lambda seconds: self._size(seconds, path))

    def _modified_s(self, path: str, told: Mapping[str, Any]) -> float:
        modified = next((told[name] for name in MODIFIED if told.get(name)), None)
        if isinstance(modified, str):
            modified = datetime.fromisoformat(modified)
        if modified is None:
            raise StoreError("this filesystem does not tell how old a file is", where=f"{self.url}/{path}")
        return modified.timestamp() if isinstance(modified, datetime) else float(modified)

    # ------------------------------------------------------------ late answers

    @property
    def _late_s(self) -> float:
        return min(LATE_S, max(0.0, self._patience_s))

    def _read(self, path: str, *, must_exist: bool) -> bytes:
        return self._patiently(lambda: self._ask(path, lambda seconds: self._get(seconds, path)), must_exist)

    def _patiently(self, read: Callable[[], T], must_exist: bool) -> T:
        """Ask again for a while for what must be there, before it is missing."""
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
