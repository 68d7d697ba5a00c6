"""What C4 says about single lines: which it removes, and why (Raffel et al. 2020, section 2.2, and their code)."""

from __future__ import annotations

import re
from dataclasses import dataclass

MIN_WORDS = 3
MAX_WORD_CHARACTERS = 1000
REASONS = ("long_word", "no_end_mark", "few_words", "javascript", "policy")
"""Why C4 removes a line."""
_END = (".", "?", "!", '"', "'")
_POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
_LONG_WORD = re.compile(rf"\S{{{MAX_WORD_CHARACTERS + 1}}}")
_SENTENCE = re.compile(r"[.!?]+[\"')\]]*(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    reason: str | None
    """Why C4 removes it; None: it stays."""

    @property
    def sentences(self) -> int:
        """By their ends; a line that C4 keeps has one at least."""
        return max(1, len(_SENTENCE.findall(self.text)))


def judged_lines(text: str) -> list[Line]:
    """Lines that show something, in order."""
    return [Line(line, reason_of(line)) for line in text.split("\n") if line.strip()]


def reason_of(line: str) -> str | None:
    """One of `REASONS`; None for a line that stays, and for one that shows nothing."""
    line = line.strip()
    if not line:
        return None
    if len(line) > MAX_WORD_CHARACTERS and _LONG_WORD.search(line):
        return "long_word"
    if not line.endswith(_END) or line.endswith("..."):
        return "no_end_mark"
    if len(line.split(None, MIN_WORDS - 1)) < MIN_WORDS:
        return "few_words"
    small = line.lower()
    if "javascript" in small:
        return "javascript"
    return "policy" if _POLICY.search(small) else None
