"""One file of an ingested folder: path, size, digest, and reads that are bounded and stay inside the folder.

`ingest/walk.py` makes a `FolderFile` of every file that it lists. The readers get at the bytes through `read_file` and
`resolve_inside` alone: a link that leads out of the folder is refused, and a file that changes during a run stops it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from manifests.errors import RecordError, StoreError
from pipelines.ingest.formats.suffixes import COMPRESSIONS, IMAGES, VIDEOS


@dataclass(frozen=True)
class FilePiece:
    """A byte range of a file. A large file has several, so that several workers can read it; others have one."""

    start: int
    stop: int
    first_line: int
    """Line number of the first line, from 1."""
    sha256: str


@dataclass(frozen=True)
class FolderFile:
    """A file as the survey saw it."""

    path: str
    """Relative to the folder, with `/`. Bytes that are not UTF-8 are surrogates, as Python decodes file names."""
    size: int
    """In bytes."""
    mtime_ns: int
    """Modification time in nanoseconds. It detects a change during the run and is no part of any identity."""
    pieces: tuple[FilePiece, ...]

    @cached_property
    def locator(self) -> str:
        """The path as printable text."""
        return printable_path(self.path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes; of a file in several pieces, SHA-256 of the digests of its pieces."""
        if len(self.pieces) == 1:
            return self.pieces[0].sha256
        return hashlib.sha256("".join(piece.sha256 for piece in self.pieces).encode()).hexdigest()

    @cached_property
    def suffix(self) -> str:
        """Suffix in lower case. The suffix of a compression stays with the one before it: `.jsonl.gz`."""
        path = PurePosixPath(self.path.lower())
        return "".join(path.suffixes[-2:]) if path.suffix in COMPRESSIONS else path.suffix

    @cached_property
    def is_medium(self) -> bool:
        """Whether the suffix is one of an image or a video."""
        return self.suffix in IMAGES or self.suffix in VIDEOS


def printable_path(path: str) -> str:
    """Spell out the bytes of a path that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def resolve_inside(base: Path, name: str) -> Path:
    """Return the real path of `name` under `base`. Raises RecordError `symlink_outside` if links lead out of `base`."""
    real = Path(os.path.realpath(base / name))
    if not real.is_relative_to(os.path.realpath(base)):
        raise RecordError("symlink_outside", "leads out of the folder")
    return real


def read_file(base: Path, file: FolderFile, limit_bytes: int) -> bytes:
    """Return all bytes of a file.

    Raises:
        RecordError: `too_large` above the limit.
        StoreError: the file has changed since the survey.
    """
    if file.size > limit_bytes:
        raise RecordError("too_large", f"{file.size} bytes, the limit is {limit_bytes}")
    check_unchanged(base, file)
    data = resolve_inside(base, file.path).read_bytes()
    if len(data) != file.size:
        raise _changed(file)
    return data


def check_unchanged(base: Path, file: FolderFile) -> None:
    """Compare size and modification time with the survey. Raises StoreError if they differ."""
    try:
        state = (base / file.path).stat()
    except FileNotFoundError:
        raise _changed(file) from None
    if (state.st_size, state.st_mtime_ns) != (file.size, file.mtime_ns):
        raise _changed(file)


def _changed(file: FolderFile) -> StoreError:
    return StoreError("changed while the run was reading it", where=file.locator, fix="run again")
