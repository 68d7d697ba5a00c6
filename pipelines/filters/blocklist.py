"""Lists of words and of sites that nobody wants in the corpus. The lists are the user's; none is shipped
(`filters/word_lists.py`).

A word is compared without case and without the marks around it; several words in a row make one entry. In scripts
without spaces an entry is found wherever its characters stand (as C4 does for Chinese, Japanese and Thai).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import Document
from pipelines.filters.op import Limit, Measured
from pipelines.filters.quality import read


@schema
class Blocked(Measured):
    """Documents with words of a list (C4 drops at the first one), or whose `origin` is a listed site or URL.

    Lists in files have an entry a line, also packed by gzip; paths, or URLs that fsspec knows. Changed bytes measure
    again.
    """

    LIBRARIES = ("regex",)
    PLACES = frozenset({"word_files", "site_files"})
    LIMITS = (
        Limit("site", "above", "NONE", "blocked_site"),
        Limit("words", "above", "max_words", "blocked_words"),
    )
    NONE: ClassVar[int] = 0
    kind: Literal["blocked"]
    words: tuple[str, ...] = ()
    max_words: int = 0
    """How many occurrences are let through."""
    word_files: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    """Host names; what lies below one is meant, too. With a `/` in it an entry is an address, and what lies behind."""
    site_files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.words or self.word_files or self.sites or self.site_files):
            fix = "give words, sites, word_files or site_files"
            raise ManifestError("an op of kind blocked blocks nothing", where="blocked", fix=fix)
        for word in self.words:
            if not any(map(str.isalnum, word)):
                raise ManifestError(f"{word!r} has no letter or digit", where="blocked.words", fix="take it out")

    def external_files(self) -> tuple[str, ...]:
        return self.word_files + self.site_files

    def measure(self, document: Document) -> Mapping[str, float]:
        from pipelines.filters import word_lists  # compiles

        found: dict[str, float] = {}
        if self.sites or self.site_files:
            asked = word_lists.named(document.origin)
            if len(asked):
                found["site"] = bool(word_lists.holds(word_lists.sites(self.sites, self.site_files), asked).any())
        if self.words or self.word_files:
            cores = read(document).cores
            known = word_lists.words(self.words, self.word_files)
            found["words"] = sum(
                int(word_lists.holds(some, word_lists.rows_of(cores, size)).sum()) for size, some in known.items()
            )
        return found
