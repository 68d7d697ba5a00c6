"""The op `blocked`: documents with blocked words, or from blocked sites. The lists are the user's; none is shipped.

A word is compared without case and surrounding punctuation; several words in a row make one entry. In scripts without
spaces an entry matches anywhere in a text (as in C4 for Chinese, Japanese and Thai). `filters/word_lists.py` reads the
lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import Document
from pipelines.filters.op import Limit, Measured
from pipelines.filters.quality import stats_of


@schema
class Blocked(Measured):
    """Documents with words of a list (C4 drops at the first one), or whose `origin` is on a listed site or URL.

    A list in a file has one entry per line, plain or gzip, at a path or a URL that fsspec knows. If its bytes change,
    the op measures again.
    """

    LIBRARIES = ("regex",)
    PLACES = frozenset({"word_files", "site_files"})
    LIMITS = (
        Limit("site", "above", "NONE", "blocked_site"),
        Limit("words", "above", "max_words", "blocked_words"),
    )
    NONE: ClassVar[int] = 0
    """Fixed limit: one blocked site is too many."""
    kind: Literal["blocked"]
    words: tuple[str, ...] = ()
    """Words and phrases."""
    max_words: int = 0
    """Number of occurrences that a document may have."""
    word_files: tuple[str, ...] = ()
    """Files with one entry per line."""
    sites: tuple[str, ...] = ()
    """Host names, which stand for all hosts below them. An entry with a `/` is an address, which stands for all
    addresses that begin with it."""
    site_files: tuple[str, ...] = ()
    """Files with one site per line."""

    def __post_init__(self) -> None:
        if not (self.words or self.word_files or self.sites or self.site_files):
            fix = "give words, sites, word_files or site_files"
            raise ManifestError("an op of kind blocked blocks nothing", where="blocked", fix=fix)
        for word in self.words:
            if not any(map(str.isalnum, word)):
                raise ManifestError(f"{word!r} has no letter or digit", where="blocked.words", fix="remove it")

    def external_files(self) -> tuple[str, ...]:
        return self.word_files + self.site_files

    def measure(self, document: Document) -> Mapping[str, float]:
        from pipelines.filters import word_lists  # compiles

        scores: dict[str, float] = {}
        if self.sites or self.site_files:
            hashes = word_lists.origin_hashes(document.origin)
            if len(hashes):
                blocked = word_lists.sites(self.sites, self.site_files)
                scores["site"] = bool(word_lists.contained(blocked, hashes).any())
        if self.words or self.word_files:
            cores = stats_of(document).cores
            lists = word_lists.words(self.words, self.word_files)
            scores["words"] = sum(
                int(word_lists.contained(entries, word_lists.phrase_hashes(cores, size)).sum())
                for size, entries in lists.items()
            )
        return scores
