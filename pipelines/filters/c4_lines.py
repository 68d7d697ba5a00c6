"""C4's rules for single lines: the lines that it deletes, and why (Raffel et al. 2020, section 2.2, and their code).

The op `c4` (`filters/quality.py`) counts these lines, the op `c4_lines` (`edits/repair.py`) deletes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MIN_WORDS = 3
MAX_WORD_CHARACTERS = 1000
REASONS = ("long_word", "no_end_mark", "few_words", "javascript", "policy")
"""Why C4 deletes a line."""
_END = (".", "?", "!", '"', "'")
_POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
_LONG_WORD = re.compile(rf"\S{{{MAX_WORD_CHARACTERS + 1}}}")
_SENTENCE = re.compile(r"[.!?]+[\"')\]]*(?:\s|$)")


@dataclass(frozen=True, slots=True)
class JudgedLine:
    text: str
    reason: str | None
    """One of `REASONS`; None for a line that stays."""

    @property
    def sentences(self) -> int:
        """Number of sentences by their end marks, at least one."""
        return max(1, len(_SENTENCE.findall(self.text)))


def judged_lines(text: str) -> list[JudgedLine]:
    """Return the lines of a text that are not blank, in order, with C4's verdicts."""
    return [JudgedLine(line, reason_of(line)) for line in text.split("\n") if line.strip()]


def reason_of(line: str) -> str | None:
    """Return why C4 deletes a line, one of `REASONS`; None for a line that stays and for a blank line."""
    line = line.strip()
    if not line:
        return None
    if len(line) > MAX_WORD_CHARACTERS and _LONG_WORD.search(line):
        return "long_word"
    if not line.endswith(_END) or line.endswith("..."):
        return "no_end_mark"
    if len(line.split(None, MIN_WORDS - 1)) < MIN_WORDS:
        return "few_words"
    lower = line.lower()
    if "javascript" in lower:
        return "javascript"
    return "policy" if _POLICY.search(lower) else None
