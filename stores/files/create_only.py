"""Filesystems with a swap of their own: fsspec's memory, and what `files/s3.py` and `files/gcs.py` share with it.

Each creates an object only where none is, in one request that the server decides. A server may not know how and
overwrite: before the first swap of a process that is tried out.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from manifests.errors import StoreError
from stores.files.protocol import FileInfo
from stores.files.remote import SMALL_BYTES, RemoteFiles

TRANSIENT = (408, 409, 429)
"""Statuses below 500 that say: later, perhaps."""


class CreateOnlyFiles(RemoteFiles):
    """One object is one request, whole or not at all, and there are no folders."""

    _proven = False

    def check_swap(self) -> None:
        if self.lock is not None or self._proven:
            return
        probe = f"aside/{uuid.uuid4().hex}.probe"
        first, second = self._create(probe, b"first"), self._create(probe, b"second")
        self.delete(probe)
        if not first or second:
            raise StoreError(
                f"this server does not do what {self.primitive} asks for and overwrites: commits would get lost",
                where=self.url,
                fix="use a server that knows conditional writes, or name a lock (docs/stores.md)",
            )
        self._proven = True

    def _swap(self, path: str, data: bytes) -> bool:
        self.check_swap()
        return self._create(path, data)

    def _create(self, path: str, data: bytes) -> bool:
        """Whether `path` holds `data` now. Where the answer to our own request was lost, what is there is ours."""
        try:
            self._ask(path, lambda seconds: self._put_new(seconds, path, data), len(data))
            return True
        except FileExistsError:
            return self._read(path, must_exist=True) == data
        except FileNotFoundError as error:
            raise self._no_bucket(error) from None

    def listing(self, folder: str) -> Iterator[FileInfo]:
        try:
            yield from super().listing(folder)
        except FileNotFoundError as error:
            raise self._no_bucket(error) from None

    def _no_bucket(self, error: FileNotFoundError) -> StoreError:
        return StoreError(str(error), where=self.url, fix="make the bucket first, or check its name")

    def _put_new(self, seconds: float, path: str, data: bytes) -> None:
        """Raises FileExistsError."""
        self._call(seconds, "pipe_file", self._path(path), data, mode="create")

    def _put(self, path: str, data: bytes) -> None:
        self._ask(path, lambda seconds: self._call(seconds, "pipe_file", self._path(path), data), len(data))

    def _is_there(self, path: str, size: int) -> bool:
        """To send a small one again costs less than to ask."""
        return size > SMALL_BYTES and super()._is_there(path, size)

    def _send(self, aside: Path, path: str, size: int) -> None:
        self._ask(path, lambda seconds: self._call(seconds, "put_file", str(aside), self._path(path)), size)


class MemoryFiles(CreateOnlyFiles):
    """fsspec's files in the memory of this process, which are no more careful of threads than a dictionary is."""

    primitive = "process"
    cached = False
    _one_at_a_time: ClassVar = threading.RLock()

    def _call(self, seconds: float, name: str, *arguments: Any, **options: Any) -> Any:
        with self._one_at_a_time:
            return super()._call(seconds, name, *arguments, **options)
