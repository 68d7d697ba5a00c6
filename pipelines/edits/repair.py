"""Ops of a `transform` node that repair a text or delete lines: `repair_unicode` and `c4_lines`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from manifests.load import schema
from manifests.unicode_form import clean
from pipelines.edits.edit import Editor, TextEdit
from pipelines.filters.c4_lines import REASONS, reason_of


@schema
class RepairUnicode(Editor):
    """Repair text that was decoded in the wrong encoding, line by line, as ftfy detects and fixes it (Speer 2019).

    Only broken text changes: curly quotes, ligatures, wide characters and HTML entities stay.
    """

    LIBRARIES = ("ftfy",)
    REASONS = ("repaired",)
    kind: Literal["repair_unicode"]

    def edits(self, text: str) -> Sequence[TextEdit]:
        return () if text.isascii() else tuple(_repaired(text))


def _repaired(text: str) -> Iterator[TextEdit]:
    import ftfy
    from ftfy.badness import is_bad

    config = ftfy.TextFixerConfig(
        unescape_html=False, uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False
    )
    for start, line in _lines(text):
        if not line.isascii() and is_bad(line):  # fix_text tests the same, but later and slower
            fixed = clean(ftfy.fix_text(line, config))
            if fixed != line:
                yield TextEdit(start, start + len(line), fixed, "repaired")


@schema
class C4Lines(Editor):
    """Delete the lines that C4 deletes (`filters/c4_lines.py`). A document may have no text left."""

    REASONS = REASONS
    kind: Literal["c4_lines"]

    def edits(self, text: str) -> Sequence[TextEdit]:
        deletions = []
        for start, line in _lines(text):
            reason = reason_of(line)
            if reason is not None:
                deletions.append(TextEdit(start, min(len(text), start + len(line) + 1), "", reason))
        return deletions


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the offset of each line, and the line without its line end."""
    at = 0
    for line in text.split("\n"):
        yield at, line
        at += len(line) + 1
