"""Lists of words and sites with millions of entries: sorted hashes of eight bytes, cached in every worker.

An entry of a list of sites is a host, which stands for all hosts below it, or an address, which stands for all
addresses that begin with it and go on with `/`, `?` or nothing. `http://`, `*.` and case are ignored, a line may be one
of a hosts file, and `#` begins a comment. An entry of a list of words is a line. Hashes of 64 bits are compared: of
10^9 addresses compared with 10^7 entries, less than one is confused with another. Used by `filters/blocklist.py`.
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
from pipelines.external_files import file_state, open_external
from pipelines.filters.text_stats import text_stats

MAX_HOST_CHARACTERS = 253
"""RFC 1035."""
MOST_PARTS = 64
"""Number of prefixes of an address that are looked up."""
BLOCK_BYTES = 8 << 20
LONGEST_LINE = 1 << 16
"""In bytes; a file with a longer line is no list."""
_COMMENT = re.compile(rb"#[^\n]*")
_SCHEME = re.compile(rb"\bhttps?://")
_PART = re.compile(r"[/?]")
_POWER = np.uint64(0xD6E8FEB86659FD93)


def contained(entries: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return (n,) bool: which of `hashes` are in the sorted `entries`."""
    if not len(entries):
        return np.zeros(len(hashes), bool)
    places = np.minimum(np.searchsorted(entries, hashes), len(entries) - 1)
    return entries[places] == hashes


def sites(entries: Sequence[str], files: Sequence[str]) -> np.ndarray:
    """Return the sorted uint64 hashes of all sites in a manifest and in files.

    Raises:
        ManifestError: a file is no list.
        StoreError: a file can't be read.
    """
    return _sites(tuple(entries), tuple(files), tuple(map(file_state, files)))


def origin_hashes(origin: str) -> np.ndarray:
    """Return uint64 hashes of all entries that would match this URL; empty if its host is not valid by RFC 1035."""
    try:
        parts = urlsplit(origin)
        host = (parts.hostname or "").strip(".")
    except ValueError:
        return np.zeros(0, np.uint64)
    if not host or len(host) > MAX_HOST_CHARACTERS:
        return np.zeros(0, np.uint64)
    entries: list[str] = []
    for spelling in _spellings(host):
        labels = spelling.split(".")
        entries += [".".join(labels[place:]) for place in range(len(labels))]
        rest = parts.path + (f"?{parts.query}" if parts.query else "")
        ends = [match.start() for match in _PART.finditer(rest)][1:MOST_PARTS]
        prefixes = [rest[:end].rstrip("/") for end in (*ends, len(rest))]
        hosts = {spelling, spelling.removeprefix("www.")}
        entries += [name + prefix.lower() for name in hosts for prefix in prefixes if prefix]
    return np.array([_hash(entry.encode("utf-8", "replace")) for entry in entries], np.uint64)


def _spellings(host: str) -> set[str]:
    """Return an international host name in Unicode and in ASCII, because lists have either."""
    spellings = {host}
    try:
        spellings.add(host.encode("ascii").decode("idna") if host.isascii() else host.encode("idna").decode())
    except UnicodeError:
        """It has no other spelling."""
    return spellings


def _hash(entry: bytes) -> int:
    return xxhash.xxh3_64_intdigest(entry)


@lru_cache(maxsize=16)
def _sites(entries: tuple[str, ...], files: tuple[str, ...], states: tuple[str, ...]) -> np.ndarray:
    in_manifest = "\n".join(entries).casefold().encode()
    in_files = (block for path in files for block in _blocks(path))
    return np.unique(np.concatenate([_site_hashes(block) for block in (in_manifest, *in_files)]))


def _site_hashes(block: bytes) -> np.ndarray:
    """Hash the entries in some whole lines. The IP address in a line of a hosts file becomes an entry that matches no
    page."""
    plain = _SCHEME.sub(b"", _COMMENT.sub(b"", block).lower())
    stripped = (word.lstrip(b"*.").rstrip(b"./") for word in plain.split())
    return np.fromiter((_hash(entry) for entry in stripped if entry), np.uint64)


def _blocks(path: str) -> Iterator[bytes]:
    """Yield whole lines of a plain or gzip file, in blocks of some MB."""
    try:
        with open_external(path) as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            opened = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
            rest = b""
            while block := opened.read(BLOCK_BYTES):
                block, mark, new = (rest + block).rpartition(b"\n")
                rest = new
                if len(rest) > LONGEST_LINE:
                    fix = "give a list, one entry per line"
                    raise ManifestError("a line has more than 64 KiB", where=path, fix=fix)
                yield block + mark
            yield rest
    except (OSError, EOFError) as error:
        raise StoreError(f"can't be read: {error}", where=path, fix="check the file, also where workers run") from None


def words(entries: Sequence[str], files: Sequence[str]) -> dict[int, np.ndarray]:
    """Return sorted uint64 hashes of all entries by their number of words. Lines without a letter or digit are ignored.

    Raises:
        ManifestError: a file is no list.
        StoreError: a file can't be read.
    """
    return _words(tuple(entries), tuple(files), tuple(map(file_state, files)))


@lru_cache(maxsize=16)
def _words(entries: tuple[str, ...], files: tuple[str, ...], states: tuple[str, ...]) -> dict[int, np.ndarray]:
    by_size: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    in_files = (block.decode("utf-8", "replace").splitlines() for path in files for block in _blocks(path))
    for lines in (entries, *in_files):
        for size, hashes in _phrases_by_size(lines).items():
            by_size[size].append(hashes)
    return {size: np.unique(np.concatenate(pieces)) for size, pieces in by_size.items()}


def _phrases_by_size(entries: Iterable[str]) -> dict[int, np.ndarray]:
    """Return uint64 hashes of entries by their number of words."""
    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for entry in entries:
        cores = text_stats(entry).cores
        if cores.any():
            by_size[len(cores)].append(int(phrase_hashes(cores, len(cores))[0]))
    return {size: np.array(hashes, np.uint64) for size, hashes in by_size.items()}


def phrase_hashes(cores: np.ndarray, size: int) -> np.ndarray:
    """Return uint64 hashes of all runs of `size` words, from `TextStats.cores`."""
    count = max(0, len(cores) - size + 1)
    hashes = np.zeros(count, np.uint64)
    for place in range(size):
        hashes = hashes * _POWER + cores[place : place + count]
    return hashes
