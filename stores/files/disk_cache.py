"""Bounded disk cache on this machine for files that were read from stores on the network.

    MILLRACE_CACHE=/scratch/millrace     all processes may share one folder; they must name the same size
    MILLRACE_CACHE_GIB=100               total size; default 50

    millrace-256/17/STORE.2-OBJECT-000012     checksum and bytes of one piece of a file; STORE and OBJECT are digests
                                              of URL and path, 2 is the number of deny lists when it was cached

Only content-named files are cached, since they never change, in pieces of one mebibyte. No process holds a lock, keeps
a count or an index, so no killed process blocks another. Pieces are spread over slots (folders). A process that adds a
piece first makes room in the piece's slot: it deletes the pieces used longest ago, and what killed processes left
half-written. A piece that is deleted during a read is still read whole, a changed piece is fetched again, and where the
disk can't be written, reads bypass the cache.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import xxhash

from manifests.errors import ManifestError
from manifests.records import digest
from stores.cache import Cache
from stores.files.ranges import ByteRange, cut

logger = logging.getLogger(__name__)

FOLDER, SIZE = "MILLRACE_CACHE", "MILLRACE_CACHE_GIB"
"""Environment variables: folder, and size in GiB."""
DEFAULT_GIB = 50.0

PIECE_BYTES = 1 << 20
"""Also fetched for a single small record: a tenth of a second more on a slow line."""
SLOT_BYTES, SLOTS = 64 << 20, 256
"""Smallest size of a slot, and most slots: making room reads one folder only."""
CHECK_BYTES = 16
HOT_BYTES = 32 << 20
"""Checked pieces that this process keeps in memory."""

CONTENT_NAMED = re.compile(r"(?:.*/)?[0-9a-f]{64}\.[^/]*")

Fetch = Callable[[Sequence[ByteRange]], list[bytes]]
"""Reads ranges of one file from its store."""


class DiskCache:
    """Cache in a folder that other processes may use at the same time. Threads may share one object."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        slots = max(1, min(SLOTS, max_bytes // SLOT_BYTES))
        self.folder = folder / f"millrace-{slots}"
        self._slots, self._slot_bytes = slots, max_bytes // slots
        self._hot: Cache[bytes] = Cache(HOT_BYTES, len)
        self._off = False
        for other in folder.glob("millrace-*"):  # of another size: no process would keep it within bounds
            if other != self.folder and other.name.removeprefix("millrace-").isdigit():
                shutil.rmtree(other, ignore_errors=True)

    def read(self, store: str, path: str, fetch: Callable[[], bytes]) -> bytes:
        """Read a whole file.

        Args:
            store: name from `store_name`.
            path: path in the store.
            fetch: reads the file from its store on a miss.
        """
        name = f"{_object(store, path)}-whole"
        data = self._cached(name)
        if data is None:
            data = fetch()
            self._add(name, data)
        return data

    def read_ranges(self, store: str, path: str, ranges: Sequence[ByteRange], fetch: Fetch) -> list[bytes]:
        """Read ranges of a file, as `Files.read_ranges` does; arguments as in `read`."""
        wanted = (
            range(offset // PIECE_BYTES, -(-(offset + length) // PIECE_BYTES)) for offset, length in ranges if length
        )
        names = {number: f"{_object(store, path)}-{number:06d}" for numbers in wanted for number in numbers}
        pieces = {number: self._cached(names[number]) for number in sorted(names)}
        missing = [number for number, data in pieces.items() if data is None]
        if missing:
            fetched = fetch([(number * PIECE_BYTES, PIECE_BYTES) for number in missing])
            for number, data in zip(missing, fetched, strict=True):
                pieces[number] = data
                self._add(names[number], data)
        parts = [(number * PIECE_BYTES, data) for number, data in pieces.items() if data is not None]
        return [cut(parts, offset, length) for offset, length in ranges]

    def drop(self, url: str, but: str = "") -> None:
        """Delete the pieces of the store at `url`, except those under the store name `but`."""
        self._hot = Cache(HOT_BYTES, len)
        for path in self.folder.glob(f"*/{_store(url)}.*"):
            if not but or not path.name.startswith(f"{but}-"):
                path.unlink(missing_ok=True)

    def _cached(self, name: str) -> bytes | None:
        """Return a piece; None on a miss."""
        try:
            return self._hot.get(name, lambda: self._load(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._turn_off(error)
            return None

    def _load(self, name: str) -> bytes:
        """Read a piece from the disk. Raises FileNotFoundError if it is absent or changed; a changed one is deleted."""
        if self._off:
            raise FileNotFoundError(name)
        path = self._path(name)
        content = path.read_bytes()
        data = content[CHECK_BYTES:]
        if xxhash.xxh3_128_digest(data) != content[:CHECK_BYTES]:
            path.unlink(missing_ok=True)
            raise FileNotFoundError(name)
        os.utime(path)  # the time of the last use
        return data

    def _add(self, name: str, data: bytes) -> None:
        path, size = self._path(name), CHECK_BYTES + len(data)
        if self._off or not data or size > self._slot_bytes:
            return
        temporary = path.with_name(f"{uuid.uuid4().hex}.aside")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(path.parent, size)
            with temporary.open("xb") as out:
                out.write(xxhash.xxh3_128_digest(data))
                out.write(data)
            temporary.rename(path)
        except FileNotFoundError:  # another process deleted it to make room
            pass
        except OSError as error:
            self._turn_off(error)
            with suppress(OSError):
                temporary.unlink()

    def _make_room(self, slot: Path, size: int) -> None:
        """Delete files of a slot, the one used longest ago first, until `size` bytes more fit."""
        files = []
        for entry in os.scandir(slot):
            with suppress(FileNotFoundError):
                status = entry.stat()
                files.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        if total + size <= self._slot_bytes:
            return
        for _, freed, path in sorted(files):
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= freed
            if total + size <= self._slot_bytes:
                return

    def _turn_off(self, error: OSError) -> None:
        if not self._off:
            self._off = True
            logger.warning("the cache at %s is off: %s", self.folder.parent, error.strerror or error)

    def _path(self, name: str) -> Path:
        slot = int(digest(name)[:8], 16) % self._slots
        return self.folder / f"{slot:02x}" / name


def process_cache() -> DiskCache | None:
    """Return the cache that the environment names; None if it names none.

    Raises:
        ManifestError: the size is not a number above 0.
    """
    folder = os.environ.get(FOLDER, "")
    return _cache_of(os.getpid(), folder, os.environ.get(SIZE, str(DEFAULT_GIB))) if folder else None


@cache
def _cache_of(process: int, folder: str, size: str) -> DiskCache:
    """Return one object per process id, folder and size."""
    try:
        gib = float(size)
    except ValueError:
        gib = 0.0
    if not 0 < gib < float("inf"):
        raise ManifestError(
            f"expected a number above 0, got {size!r}", where=SIZE, fix="set one, or unset the variable"
        )
    return DiskCache(Path(folder).expanduser(), int(gib * 2**30))


def store_name(url: str, forgotten: int) -> str:
    """Return the name under which a store is cached.

    Args:
        forgotten: number of the newest deny list next to the store, so that `forget` invalidates older pieces.
    """
    return f"{_store(url)}.{forgotten}"


def _store(url: str) -> str:
    return digest("store", url)[:16]


def _object(store: str, path: str) -> str:
    return f"{store}-{digest('object', path)[:32]}"
