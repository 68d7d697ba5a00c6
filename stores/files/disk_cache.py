"""A bounded folder of this machine with what was read last from stores on others.

    MILLRACE_CACHE=/scratch/millrace     all processes may share one folder, and name the same size
    MILLRACE_CACHE_GIB=100               of all files together; 50 where nothing is said

    millrace-256/17/STORE.2-OBJECT-000012     checksum and bytes of a piece of a file; STORE and OBJECT are digests of
                                              names, 2 says how often something was forgotten there

Kept are files with content names, which never change, a mebibyte at a time. Nobody holds a lock, counts or refers to
anything, so nobody can die holding it. Pieces are spread over slots; who adds one makes room in its slot before, and
takes what was used longest ago, what killed processes left half written along with the rest. A piece that goes while it
is read is read whole, one that changed is fetched again, and where nothing can be written, it is done without.
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
from stores.files.ranges import Span, cut

logger = logging.getLogger(__name__)

FOLDER, SIZE = "MILLRACE_CACHE", "MILLRACE_CACHE_GIB"
DEFAULT_GIB = 50.0

PIECE_BYTES = 1 << 20
"""What is fetched for a single record, too: a tenth of a second's wait more on a slow line."""
SLOT_BYTES, SLOTS = 64 << 20, 256
"""A slot has at least so many bytes, and there are at most so many of them: to make room is to look at one folder."""
CHECK_BYTES = 16
HOT_BYTES = 32 << 20
"""Of pieces that this process has just checked."""

CONTENT_NAMED = re.compile(r"(?:.*/)?[0-9a-f]{64}\.[^/]*")

Fetch = Callable[[Sequence[Span]], list[bytes]]
"""Asks the store for ranges of one file."""


class DiskCache:
    def __init__(self, folder: Path, max_bytes: int) -> None:
        slots = max(1, min(SLOTS, max_bytes // SLOT_BYTES))
        self.folder = folder / f"millrace-{slots}"
        self._slots, self._slot_bytes = slots, max_bytes // slots
        self._hot: Cache[bytes] = Cache(HOT_BYTES, len)
        self._off = False
        for other in folder.glob("millrace-*"):  # of another size: nobody would keep it within bounds
            if other != self.folder and other.name.removeprefix("millrace-").isdigit():
                shutil.rmtree(other, ignore_errors=True)

    def read(self, store: str, path: str, fetch: Callable[[], bytes]) -> bytes:
        """A whole file of a store, named by `store_name`."""
        name = f"{_object(store, path)}-whole"
        data = self._kept(name)
        if data is None:
            data = fetch()
            self._keep(name, data)
        return data

    def read_ranges(self, store: str, path: str, ranges: Sequence[Span], fetch: Fetch) -> list[bytes]:
        """`Files.read_ranges` of a file of a store."""
        wanted = (
            range(offset // PIECE_BYTES, -(-(offset + length) // PIECE_BYTES)) for offset, length in ranges if length
        )
        names = {number: f"{_object(store, path)}-{number:06d}" for some in wanted for number in some}
        found = {number: self._kept(names[number]) for number in sorted(names)}
        missing = [number for number, data in found.items() if data is None]
        if missing:
            fetched = fetch([(number * PIECE_BYTES, PIECE_BYTES) for number in missing])
            for number, data in zip(missing, fetched, strict=True):
                found[number] = data
                self._keep(names[number], data)
        pieces = [(number * PIECE_BYTES, data) for number, data in found.items() if data is not None]
        return [cut(pieces, offset, length) for offset, length in ranges]

    def drop(self, url: str, but: str = "") -> None:
        """Delete what is kept of a store, except under the name `but`."""
        self._hot = Cache(HOT_BYTES, len)
        for path in self.folder.glob(f"*/{_store(url)}.*"):
            if not but or not path.name.startswith(f"{but}-"):
                path.unlink(missing_ok=True)

    def _kept(self, name: str) -> bytes | None:
        try:
            return self._hot.get(name, lambda: self._load(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(error)
            return None

    def _load(self, name: str) -> bytes:
        """Raises FileNotFoundError where it is not there, or not as it was written, and goes then."""
        if self._off:
            raise FileNotFoundError(name)
        path = self._path(name)
        told = path.read_bytes()
        data = told[CHECK_BYTES:]
        if xxhash.xxh3_128_digest(data) != told[:CHECK_BYTES]:
            path.unlink(missing_ok=True)
            raise FileNotFoundError(name)
        os.utime(path)  # used just now
        return data

    def _keep(self, name: str, data: bytes) -> None:
        path, size = self._path(name), CHECK_BYTES + len(data)
        if self._off or not data or size > self._slot_bytes:
            return
        aside = path.with_name(f"{uuid.uuid4().hex}.aside")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(path.parent, size)
            with aside.open("xb") as out:
                out.write(xxhash.xxh3_128_digest(data))
                out.write(data)
            aside.rename(path)
        except FileNotFoundError:  # another process needed the room
            pass
        except OSError as error:
            self._give_up(error)
            with suppress(OSError):
                aside.unlink()

    def _make_room(self, folder: Path, size: int) -> None:
        there = []
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):
                told = entry.stat()
                there.append((told.st_mtime_ns, told.st_size, entry.path))
        total = sum(size for _, size, _ in there)
        if total + size <= self._slot_bytes:
            return
        for _, freed, path in sorted(there):
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= freed
            if total + size <= self._slot_bytes:
                return

    def _give_up(self, error: OSError) -> None:
        if not self._off:
            self._off = True
            logger.warning("the cache at %s is off: %s", self.folder.parent, error.strerror or error)

    def _path(self, name: str) -> Path:
        slot = int(digest(name)[:8], 16) % self._slots
        return self.folder / f"{slot:02x}" / name


def process_cache() -> DiskCache | None:
    """None where the environment names no folder. Raises ManifestError for a size that is no number above 0."""
    folder = os.environ.get(FOLDER, "")
    return _of(os.getpid(), folder, os.environ.get(SIZE, str(DEFAULT_GIB))) if folder else None


@cache
def _of(process: int, folder: str, size: str) -> DiskCache:
    try:
        gib = float(size)
    except ValueError:
        gib = 0.0
    if not 0 < gib < float("inf"):
        raise ManifestError(f"{size!r} is no number above 0", where=SIZE, fix="set one, or unset it")
    return DiskCache(Path(folder).expanduser(), int(gib * 2**30))


def store_name(url: str, forgotten: int) -> str:
    """What is kept of a store is found under it. `forgotten`: how often something was, where the store lies."""
    return f"{_store(url)}.{forgotten}"


def _store(url: str) -> str:
    return digest("store", url)[:16]


def _object(store: str, path: str) -> str:
    return f"{store}-{digest('object', path)[:32]}"
