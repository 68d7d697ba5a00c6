"""Ops that filter text by length, repetition, letters and broken encodings.

They read `document.text`, all text parts of a document. Sources: the repetition and letter rules are those of
MassiveText (Rae et al. 2021, "Gopher", appendix A.1.1, Table A1); limits marked "ours" are rules of thumb. Lengths are
in characters, so that languages without spaces between words are treated alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from manifests.load import schema
from manifests.records import Document
from pipelines.filters.op import Limit, Measured

_RUN = re.compile(r"(\S)\1{9,}")
_LETTER = re.compile(r"[^\W\d_]")
_STRANGE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufdd0-\ufdef\ufffd-\uffff\U000f0000-\U0010ffff]")


@schema
class TextLength(Measured):
    """Too few or too many characters, white space not counted. Limits: ours (Gopher drops below 50 and above 100,000
    words); the upper one bounds the cost of a document."""

    LIMITS = (
        Limit("characters", "below", "min_characters", "too_short"),
        Limit("characters", "above", "max_characters", "too_long"),
    )
    RENAMED_KINDS: ClassVar[Mapping[str, str]] = {
        "too_short": "write text_length, with min_characters as before; max_characters is its other limit",
        "too_long": "write text_length, with max_characters as before and min_characters: 0 to keep short texts",
    }
    kind: Literal["text_length"]
    min_characters: int = 100
    max_characters: int = 10_000_000

    def measure(self, document: Document) -> Mapping[str, float]:
        return {"characters": sum(map(len, document.text.split()))}


@schema
class RepeatedLines(Measured):
    """Too many lines repeat an earlier line, counted in lines or in characters. Limits: Gopher, Table A1.

    Empty lines do not count. The first occurrence of a line is no duplicate (our reading).
    """

    LIMITS = (
        Limit("lines", "above", "max_line_fraction", "repeated_lines"),
        Limit("characters", "above", "max_character_fraction", "repeated_lines"),
    )
    kind: Literal["repeated_lines"]
    max_line_fraction: float = 0.30
    max_character_fraction: float = 0.20

    def measure(self, document: Document) -> Mapping[str, float]:
        lines = [line for line in map(str.strip, document.text.splitlines()) if line]
        if not lines:
            return {}
        seen: set[str] = set()
        repeats = repeated_characters = 0
        for line in lines:
            if line in seen:
                repeats += 1
                repeated_characters += len(line)
            seen.add(line)
        return {"lines": repeats / len(lines), "characters": repeated_characters / sum(map(len, lines))}


@schema
class RepeatedCharacters(Measured):
    """Too much of the text is runs of one character, such as rulers and padding. Ours.

    Runs of ten and more characters count, so that indentation in prose and `!!!` pass.
    """

    LIMITS = (Limit("fraction", "above", "max_fraction", "repeated_characters"),)
    kind: Literal["repeated_characters"]
    max_fraction: float = 0.20

    def measure(self, document: Document) -> Mapping[str, float]:
        text = document.text
        return {"fraction": sum(run.end() - run.start() for run in _RUN.finditer(text)) / len(text)} if text else {}


@schema
class FewLetters(Measured):
    """Too few words contain a letter. Limit: Gopher, 80% of words contain an alphabetic character. Not for tables."""

    LIMITS = (Limit("fraction", "below", "min_fraction", "few_letters"),)
    kind: Literal["few_letters"]
    min_fraction: float = 0.80

    def measure(self, document: Document) -> Mapping[str, float]:
        words = document.text.split()
        return {"fraction": sum(_LETTER.search(word) is not None for word in words) / len(words)} if words else {}


@schema
class Garbled(Measured):
    """Binary data or broken encodings read as text: control, private-use and non-characters, U+FFFD. Ours."""

    LIMITS = (Limit("fraction", "above", "max_fraction", "garbled"),)
    kind: Literal["garbled"]
    max_fraction: float = 0.005

    def measure(self, document: Document) -> Mapping[str, float]:
        text = document.text
        return {"fraction": len(_STRANGE.findall(text)) / len(text)} if text else {}
