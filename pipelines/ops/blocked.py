"""Lists of words and of sites that nobody wants in the corpus. The lists are the user's; none is shipped.

A word is compared without case and without the marks around it; several words in a row make one entry. In scripts
without spaces an entry is found wherever its characters stand (as C4 does for Chinese, Japanese and Thai).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar, Literal
from urllib.parse import urlsplit

import numpy as np

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import Document
from pipelines.ops.op import Limit, Measured
from pipelines.ops.quality import read

MAX_HOST_CHARACTERS = 253
_POWER = np.uint64(0xD6E8FEB86659FD93)


@schema
class Blocked(Measured):
    """Documents with words of a list (C4 drops at the first one), or whose `origin` is a URL of a listed site."""

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    LIBRARIES = ("regex",)
    LIMITS = (
        Limit("site", "above", "NONE", "blocked_site"),
        Limit("words", "above", "max_words", "blocked_words"),
    )
    NONE: ClassVar[int] = 0
    kind: Literal["blocked"]
    words: tuple[str, ...] = ()
    max_words: int = 0
    """How many occurrences are let through."""
    sites: tuple[str, ...] = ()
    """Host names; what lies below one is meant, too."""
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.words or self.sites):
            raise ManifestError("an op of kind blocked blocks nothing", where="blocked", fix="give words or sites")
        for word in self.words:
            if not any(map(str.isalnum, word)):
                raise ManifestError(f"{word!r} has no letter or digit", where="blocked.words", fix="take it out")

    def measure(self, document: Document) -> Mapping[str, float]:
        found: dict[str, float] = {}
        host = _host(document.origin)
        if host and self.sites:
            labels = host.split(".")
            blocked = _sites(self.sites)
            found["site"] = any(".".join(labels[place:]) in blocked for place in range(len(labels)))
        if self.words:
            cores = read(document).cores
            found["words"] = sum(
                int(np.isin(_rows_of(cores, size), wanted).sum()) for size, wanted in _entries(self.words).items()
            )
        return found


def _host(origin: str) -> str:
    """ "" where it names none, or one that is longer than RFC 1035 allows."""
    try:
        host = (urlsplit(origin).hostname or "").rstrip(".")
    except ValueError:
        return ""
    return host if len(host) <= MAX_HOST_CHARACTERS else ""


@lru_cache(maxsize=16)
def _sites(sites: tuple[str, ...]) -> frozenset[str]:
    return frozenset(site.casefold().strip(".") for site in sites)


@lru_cache(maxsize=16)
def _entries(words: tuple[str, ...]) -> dict[int, np.ndarray]:
    """Hashes of the entries, by how many words they have."""
    from pipelines.ops import reading

    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for entry in words:
        cores = reading.read(entry).cores
        by_size[len(cores)].append(int(_rows_of(cores, len(cores))[0]))
    return {size: np.array(hashes, np.uint64) for size, hashes in by_size.items()}


def _rows_of(cores: np.ndarray, size: int) -> np.ndarray:
    """One hash for every `size` words in a row."""
    rows = max(0, len(cores) - size + 1)
    state = np.zeros(rows, np.uint64)
    for place in range(size):
        state = state * _POWER + cores[place : place + rows]
    return state
