"""Ops that look at text: one that cleans it, and filters with a reason and the number that was compared.

Between ingest, where `Normalise` runs, and dedup. What an op is stands in `filters/op.py`; filters look at
`document.text`.

Sources: the repetition and letter rules are those of MassiveText (Rae et al. 2021, "Gopher", appendix A.1.1, Table A1);
the others are rules of thumb, marked as ours. Lengths are counted in characters, so that languages without spaces
between words are treated alike.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import ClassVar, Literal

from manifests.errors import RecordError
from manifests.load import schema
from manifests.records import Document, Drop, Part, Text
from manifests.unicode_form import clean
from pipelines.filters.op import Limit, Measured

_RUN = re.compile(r"(\S)\1{9,}")
_LETTER = re.compile(r"[^\W\d_]")
_STRANGE = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufdd0-\ufdef\ufffd-\uffff\U000f0000-\U0010ffff]")


@schema
class Normalise:
    """Unicode NFC, `\\n` line ends, no control or invisible characters; facts move along.

    Raises RecordError: `lone_surrogate`; `combining_marks` for more than 30 in a row; `bad_fact` for a fact that begins
    or ends inside what becomes one character, lies outside its text or covers nothing visible.
    """

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    kind: Literal["normalise"]

    def apply(self, document: Document) -> Document | Drop:
        parts = tuple(Text(clean(part.text)) if isinstance(part, Text) else part for part in document.parts)
        if parts == document.parts:
            return document
        ends: defaultdict[int, set[int]] = defaultdict(set)
        for fact in document.facts:
            ends[fact.part] |= {fact.start, fact.stop}
        moved = {part: _moved(document, parts, part, places) for part, places in ends.items()}
        facts = [replace(f, start=moved[f.part][f.start], stop=moved[f.part][f.stop]) for f in document.facts]
        if any(fact.start >= fact.stop for fact in facts):
            raise RecordError("bad_fact", "a fact covers no visible character")
        return replace(document, parts=parts, facts=tuple(facts))


def _moved(document: Document, parts: tuple[Part, ...], index: int, places: set[int]) -> dict[int, int]:
    """Old offset -> new offset for `places` of text part `index`, whose cleaned version is in `parts`.

    The text is cleaned once more in the pieces between the places: where these join to the cleaned whole, each place is
    a border in both, and the lengths of the pieces say where it went.
    """
    old, new = (p[index] if 0 <= index < len(parts) else None for p in (document.parts, parts))
    if not isinstance(old, Text) or not isinstance(new, Text):
        raise RecordError("bad_fact", f"a fact points at part {index}, which is no text")
    borders = sorted({0, *places, len(old.text)})
    if borders[0] < 0 or borders[-1] > len(old.text):
        raise RecordError("bad_fact", f"a fact lies outside its text of {len(old.text)} characters")
    pieces = [clean(old.text[start:stop]) for start, stop in pairwise(borders)]
    if "".join(pieces) != new.text:
        raise RecordError("bad_fact", "a fact begins or ends inside what becomes one character")
    lengths = [0, *(len(piece) for piece in pieces)]
    return dict(zip(borders, accumulate(lengths), strict=True))


@schema
class TooShort(Measured):
    """Fewer than `min_characters` characters that are not white space. Ours (Gopher drops fewer than 50 words)."""

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    LIMITS = (Limit("visible_characters", "below", "min_characters", "too_short"),)
    kind: Literal["too_short"]
    min_characters: int = 100
    domains: tuple[str, ...] = ()

    def measure(self, document: Document) -> Mapping[str, float]:
        return {"visible_characters": sum(map(len, document.text.split()))}


@schema
class TooLong(Measured):
    """More than `max_characters` characters. Ours, bounds the cost of a document (Gopher drops over 100,000 words)."""

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    LIMITS = (Limit("characters", "above", "max_characters", "too_long"),)
    kind: Literal["too_long"]
    max_characters: int = 10_000_000
    domains: tuple[str, ...] = ()

    def measure(self, document: Document) -> Mapping[str, float]:
        return {"characters": len(document.text)}


@schema
class RepeatedLines(Measured):
    """Too much of the text are lines that occurred before, counted in lines or in characters. Limits: Gopher, Table A1.

    Empty lines do not count. That the first occurrence is not a duplicate is our reading.
    """

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    LIMITS = (
        Limit("lines", "above", "max_line_fraction", "repeated_lines"),
        Limit("characters", "above", "max_character_fraction", "repeated_lines"),
    )
    kind: Literal["repeated_lines"]
    max_line_fraction: float = 0.30
    max_character_fraction: float = 0.20
    domains: tuple[str, ...] = ()

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
    """Too much of the text are runs of one and the same character, like rulers and padding. Ours.

    Only runs of ten and more characters count, so that indentation in prose and `!!!` pass.
    """

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    LIMITS = (Limit("fraction", "above", "max_fraction", "repeated_characters"),)
    kind: Literal["repeated_characters"]
    max_fraction: float = 0.20
    domains: tuple[str, ...] = ()

    def measure(self, document: Document) -> Mapping[str, float]:
        text = document.text
        return {"fraction": sum(run.end() - run.start() for run in _RUN.finditer(text)) / len(text)} if text else {}


@schema
class FewLetters(Measured):
    """Too few words hold a letter. Limit: Gopher, 80% of words contain an alphabetic character. Not for tables."""

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    LIMITS = (Limit("fraction", "below", "min_fraction", "few_letters"),)
    kind: Literal["few_letters"]
    min_fraction: float = 0.80
    domains: tuple[str, ...] = ()

    def measure(self, document: Document) -> Mapping[str, float]:
        words = document.text.split()
        return {"fraction": sum(_LETTER.search(word) is not None for word in words) / len(words)} if words else {}


@schema
class Garbled(Measured):
    """Binary data or broken encodings read as text: control, private-use and non-characters, U+FFFD. Ours."""

    VERSION: ClassVar[int] = 1
    READS_MEDIA: ClassVar[bool] = False
    LIMITS = (Limit("fraction", "above", "max_fraction", "garbled"),)
    kind: Literal["garbled"]
    max_fraction: float = 0.005
    domains: tuple[str, ...] = ()

    def measure(self, document: Document) -> Mapping[str, float]:
        text = document.text
        return {"fraction": len(_STRANGE.findall(text)) / len(text)} if text else {}
