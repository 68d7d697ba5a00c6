"""List of the files under a folder, with digests, and with the pieces into which a large file is cut.

The first step of `ingest_folder`, in the parent process. It reads names and bytes and parses no format; `pairing.py`
then groups the files. Links that lead out of the folder, pipes and devices are refused by name, so that a folder from a
stranger gives access to nothing else on this machine.
"""

from __future__ import annotations

import codecs
import fnmatch
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.errors import ManifestError, RecordError
from pipelines.ingest.formats import gzip_members
from pipelines.ingest.formats.file import FilePiece, FolderFile, printable_path, resolve_inside
from pipelines.ingest.formats.suffixes import CUT_AT_RECORDS

PIECE_BYTES = 16 << 20
"""Least size of a piece. A text file is cut at the next line end, a compressed archive of a crawl at the next gzip
member with a record, so that one large file keeps all workers busy."""

WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
"""Byte-order marks of encodings in which a line end has more than one byte. Such files are never cut."""

NEVER_DATA = frozenset({"__pycache__", "__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class RefusedFile:
    """A name under the folder that is never opened."""

    path: str
    reason: str
    message: str

    @property
    def locator(self) -> str:
        """The path as printable text."""
        return printable_path(self.path)


def walk_folder(root: Path, exclude: Sequence[str], cut: frozenset[str]) -> tuple[list[FolderFile], list[RefusedFile]]:
    """Return the files under `root` and the refused names, each sorted by path. Hidden files are skipped.

    Args:
        root: a folder, or a single file.
        exclude: patterns of relative paths (`*` also matches `/`) that are skipped.
        cut: suffixes of files that may be cut at line ends.
    Raises:
        ManifestError: there is nothing at `root`.
    """
    if not root.exists():
        raise ManifestError("no such file or folder", where=str(root), fix="give the path of your data")
    files: list[FolderFile] = []
    refused: list[RefusedFile] = []
    names = [root.name] if root.is_file() else list(_names(root, refused))
    base = root.parent if root.is_file() else root
    for name in sorted(names):
        if any(fnmatch.fnmatch(name, pattern) for pattern in exclude):
            continue
        try:
            files.append(_look(base, name, cut))
        except OSError as error:
            refused.append(RefusedFile(name, "unreadable", error.strerror or str(error)))
        except RecordError as error:
            refused.append(RefusedFile(name, error.reason, error.message))
    return files, sorted(refused, key=lambda file: file.path)


def _names(root: Path, refused: list[RefusedFile]) -> Iterator[str]:
    """Relative paths of everything that may be a file, in any order; folders of any depth."""
    folders = [""]
    while folders:
        below = folders.pop()
        try:
            entries = list(os.scandir(root / below))
        except OSError as error:
            refused.append(RefusedFile(below, "unreadable", error.strerror or str(error)))
            continue
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.name.startswith(".") or entry.name in NEVER_DATA:
                continue
            try:
                linked = entry.is_symlink() and entry.is_dir()
            except OSError as error:  # a link to itself
                refused.append(RefusedFile(name, "unreadable", error.strerror or str(error)))
                continue
            if linked:
                refused.append(RefusedFile(name, "symlinked_folder", "a link to a folder is not followed"))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(name)
            else:
                yield name


def _look(base: Path, name: str, cut: frozenset[str]) -> FolderFile:
    """Read a file for its digests and pieces. Raises RecordError: `symlink_outside`, `not_a_file`; OSError."""
    path = resolve_inside(base, name)
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise RecordError("not_a_file", "a pipe, socket or device")
    lower = name.lower()
    if lower.endswith(tuple(CUT_AT_RECORDS)):
        pieces = _pieces(path, PIECE_BYTES, gzip_members.first_record)
    elif lower.endswith(tuple(cut)) and _has_one_byte_line_ends(path):
        pieces = _pieces(path, PIECE_BYTES)
    else:
        pieces = _pieces(path, state.st_size + 1)
    return FolderFile(name, state.st_size, state.st_mtime_ns, tuple(pieces))


def _has_one_byte_line_ends(path: Path) -> bool:
    with path.open("rb") as file:
        return not file.read(4).startswith(WIDE_MARKS)


def _after_line(block: bytes) -> int:
    return block.find(b"\n") + 1 or -1


def _pieces(path: Path, piece_bytes: int, cut: Callable[[bytes], int] = _after_line) -> Iterator[FilePiece]:
    """Cut a file at the first possible place at or behind every `piece_bytes`. An empty file is one empty piece.

    Args:
        cut: function that returns the first offset in a block at which a piece may begin, -1 for none.
    """
    start = position = 0
    line = first_line = 1
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            end = -1
            if position + len(block) - start >= piece_bytes:
                first = max(0, start + piece_bytes - 1 - position)
                end = cut(block[first:] if first else block)
                end = first + end if end >= 0 else -1
            head = block[:end] if end >= 0 else block
            state.update(head)
            line += head.count(b"\n")
            position += len(head)
            if end >= 0:
                yield FilePiece(start, position, first_line, state.hexdigest())
                start, first_line, state = position, line, hashlib.sha256()
                file.seek(position)
    if position > start or start == 0:
        yield FilePiece(start, position, first_line, state.hexdigest())
