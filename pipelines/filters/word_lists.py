"""Lists with millions of entries, from a manifest and from files: eight bytes each, sorted, in every worker.

An entry of a list of sites is a host, which stands for all below it, or an address, which stands for all that begins
like it up to a `/`, `?` or its end. `http://`, `*.` and case don't matter, a line may be one of a hosts file, what
follows `#` is a remark. An entry of a list of words is a line. Compared are hashes of 64 bits: of 10^9 addresses held
against 10^7 entries, less than one is taken for another.
"""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import IO, cast
from urllib.parse import urlsplit

import numpy as np
import xxhash

from manifests.errors import ManifestError, StoreError
from pipelines.external_files import open_named, state
from pipelines.filters import text_stats

MAX_HOST_CHARACTERS = 253
"""RFC 1035."""
MOST_PARTS = 64
"""Of an address, so many of its beginnings are looked up."""
BLOCK_BYTES = 8 << 20
LONGEST_LINE = 1 << 16
"""Bytes; a longer line is no entry of a list."""
_REMARK = re.compile(rb"#[^\n]*")
_SCHEME = re.compile(rb"\bhttps?://")
_PART = re.compile(r"[/?]")
_POWER = np.uint64(0xD6E8FEB86659FD93)


def holds(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(n,) bool, which of `asked` are in the sorted `known`."""
    if not len(known):
        return np.zeros(len(asked), bool)
    places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return known[places] == asked


def sites(entries: Sequence[str], files: Sequence[str]) -> np.ndarray:
    """Sorted hashes of all entries. Raises ManifestError for a file that holds no list."""
    return _sites(tuple(entries), tuple(files), tuple(map(state, files)))


def named(origin: str) -> np.ndarray:
    """Hashes of all entries that would stand for this URL; none where its host is none that RFC 1035 allows."""
    try:
        parts = urlsplit(origin)
        host = (parts.hostname or "").strip(".")
    except ValueError:
        return np.zeros(0, np.uint64)
    if not host or len(host) > MAX_HOST_CHARACTERS:
        return np.zeros(0, np.uint64)
    found: list[str] = []
    for spelling in _spellings(host):
        labels = spelling.split(".")
        found += [".".join(labels[place:]) for place in range(len(labels))]
        rest = parts.path + (f"?{parts.query}" if parts.query else "")
        ends = [match.start() for match in _PART.finditer(rest)][1:MOST_PARTS]
        beginnings = [rest[:end].rstrip("/") for end in (*ends, len(rest))]
        found += [bare + one.lower() for bare in {spelling, spelling.removeprefix("www.")} for one in beginnings if one]
    return np.array([_hash(one.encode("utf-8", "replace")) for one in found], np.uint64)


def _spellings(host: str) -> set[str]:
    """Of an international name in Unicode and in ASCII; lists have either."""
    found = {host}
    try:
        found.add(host.encode("ascii").decode("idna") if host.isascii() else host.encode("idna").decode())
    except UnicodeError:
        """It has no other spelling."""
    return found


def _hash(entry: bytes) -> int:
    return xxhash.xxh3_64_intdigest(entry)


@lru_cache(maxsize=16)
def _sites(entries: tuple[str, ...], files: tuple[str, ...], states: tuple[str, ...]) -> np.ndarray:
    given = "\n".join(entries).casefold().encode()
    pieces = [_hashed(block) for block in (given, *(one for path in files for one in _blocks(path)))]
    return np.unique(np.concatenate(pieces))


def _hashed(block: bytes) -> np.ndarray:
    """Of the entries of some whole lines. The address in a line of a hosts file is one, too: no page has it."""
    plain = _SCHEME.sub(b"", _REMARK.sub(b"", block).lower())
    stripped = (word.lstrip(b"*.").rstrip(b"./") for word in plain.split())
    return np.fromiter((_hash(one) for one in stripped if one), np.uint64)


def _blocks(path: str) -> Iterator[bytes]:
    """Whole lines, some MB at a time; gzip is unpacked."""
    try:
        with open_named(path) as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            opened = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
            rest = b""
            while block := opened.read(BLOCK_BYTES):
                block, mark, new = (rest + block).rpartition(b"\n")
                rest = new
                if len(rest) > LONGEST_LINE:
                    raise ManifestError("a line has more than 64 KiB", where=path, fix="give a list, an entry a line")
                yield block + mark
            yield rest
    except (OSError, EOFError) as error:
        raise StoreError(f"can't be read: {error}", where=path, fix="check the file, also where workers run") from None


def words(entries: Sequence[str], files: Sequence[str]) -> dict[int, np.ndarray]:
    """Sorted hashes of the entries, by how many words they have. Lines without a letter or digit are no entries."""
    return _words(tuple(entries), tuple(files), tuple(map(state, files)))


@lru_cache(maxsize=16)
def _words(entries: tuple[str, ...], files: tuple[str, ...], states: tuple[str, ...]) -> dict[int, np.ndarray]:
    by_size: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for some in (
        entries,
        *(block.decode("utf-8", "replace").splitlines() for path in files for block in _blocks(path)),
    ):
        for size, hashes in _by_size(some).items():
            by_size[size].append(hashes)
    return {size: np.unique(np.concatenate(pieces)) for size, pieces in by_size.items()}


def _by_size(entries: Iterable[str]) -> dict[int, np.ndarray]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    for entry in entries:
        cores = text_stats.read(entry).cores
        if cores.any():
            found[len(cores)].append(int(rows_of(cores, len(cores))[0]))
    return {size: np.array(hashes, np.uint64) for size, hashes in found.items()}


def rows_of(cores: np.ndarray, size: int) -> np.ndarray:
    """One hash for every `size` words in a row."""
    rows = max(0, len(cores) - size + 1)
    hashes = np.zeros(rows, np.uint64)
    for place in range(size):
        hashes = hashes * _POWER + cores[place : place + rows]
    return hashes
