"""Filesystems whose servers create an object only where none exists, in one request, which serves as the swap.

Base class of S3 (`files/s3.py`) and GCS (`files/gcs.py`), and fsspec's files in memory. A server may ignore the
condition and overwrite. Therefore each process tries it out before its first swap.
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
"""HTTP statuses below 500 after which a retry may help."""


class CreateOnlyFiles(RemoteFiles):
    """Files of an object store: a request writes an object whole or not at all, and there are no folders."""

    _checked = False
    """Whether this object has tried out the swap."""

    def check_swap(self) -> None:
        if self.lock is not None or self._checked:
            return
        probe = f"aside/{uuid.uuid4().hex}.probe"
        first, second = self._create(probe, b"first"), self._create(probe, b"second")
        self.delete(probe)
        if not first or second:
            raise StoreError(
                f"this server ignores {self.primitive} and overwrites: commits would get lost",
                where=self.url,
                fix="use a server with conditional writes, or name a lock (docs/stores.md)",
            )
        self._checked = True

    def _swap(self, path: str, data: bytes) -> bool:
        self.check_swap()
        return self._create(path, data)

    def _create(self, path: str, data: bytes) -> bool:
        """Create an object; return whether `path` holds `data` now.

        Where the answer to a successful try was lost, the next try finds the object, with our bytes.
        """
        try:
            self._request(path, lambda seconds: self._put_new(seconds, path, data), len(data))
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
        """Create an object, in one try. Raises FileExistsError."""
        self._call(seconds, "pipe_file", self._path(path), data, mode="create")

    def _put(self, path: str, data: bytes) -> None:
        self._request(path, lambda seconds: self._call(seconds, "pipe_file", self._path(path), data), len(data))

    def _is_uploaded(self, path: str, size: int) -> bool:
        """As in the base class; a small object is sent again, which costs less than asking for its size."""
        return size > SMALL_BYTES and super()._is_uploaded(path, size)

    def _send(self, temporary: Path, path: str, size: int) -> None:
        self._request(path, lambda seconds: self._call(seconds, "put_file", str(temporary), self._path(path)), size)


class MemoryFiles(CreateOnlyFiles):
    """Files in the memory of this process, by fsspec; a lock makes them thread-safe."""

    primitive = "process"
    cached = False
    _call_lock: ClassVar = threading.RLock()

    def _call(self, seconds: float, name: str, *arguments: Any, **options: Any) -> Any:
        with self._call_lock:
            return super()._call(seconds, name, *arguments, **options)
