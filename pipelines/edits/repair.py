"""Ops of a `transform` that mend a text or take lines away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from manifests.load import schema
from manifests.unicode_form import clean
from pipelines.edits.edit import Edit
from pipelines.filters.c4_lines import REASONS, reason_of


@schema
class RepairUnicode:
    """Text that was decoded in the wrong encoding, line by line, as ftfy finds and mends it (Speer 2019).

    Only what is broken: curly quotes, ligatures, wide characters and HTML entities stay as they are.
    """

    VERSION: ClassVar[int] = 1
    LIBRARIES: ClassVar[tuple[str, ...]] = ("ftfy",)
    REASONS: ClassVar[tuple[str, ...]] = ("repaired",)
    kind: Literal["repair_unicode"]
    domains: tuple[str, ...] = ()

    def edits(self, text: str) -> Sequence[Edit]:
        return () if text.isascii() else tuple(_repaired(text))


def _repaired(text: str) -> Iterator[Edit]:
    import ftfy
    from ftfy.badness import is_bad

    config = ftfy.TextFixerConfig(
        unescape_html=False, uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False
    )
    for start, line in _lines(text):
        if not line.isascii() and is_bad(line):  # ftfy asks the same, later
            mended = clean(ftfy.fix_text(line, config))
            if mended != line:
                yield Edit(start, start + len(line), mended, "repaired")


@schema
class C4Lines:
    """Without the lines that C4 removes; the reason says why. What is left of a document may be nothing."""

    VERSION: ClassVar[int] = 1
    LIBRARIES: ClassVar[tuple[str, ...]] = ()
    REASONS: ClassVar[tuple[str, ...]] = REASONS
    kind: Literal["c4_lines"]
    domains: tuple[str, ...] = ()

    def edits(self, text: str) -> Sequence[Edit]:
        found = []
        for start, line in _lines(text):
            reason = reason_of(line)
            if reason is not None:
                found.append(Edit(start, min(len(text), start + len(line) + 1), "", reason))
        return found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Where each line begins, and the line without its end."""
    at = 0
    for line in text.split("\n"):
        yield at, line
        at += len(line) + 1
