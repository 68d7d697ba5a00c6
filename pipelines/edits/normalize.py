"""Unicode normal form for every text of a document, with its facts moved along.

Every ingest node calls `normalize` on each document that it makes, so that all later nodes read clean text.
The rules for characters are in `manifests/unicode_form.py`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import accumulate, pairwise

from manifests.errors import RecordError
from manifests.records import Document, Part, Text
from manifests.unicode_form import clean

VERSION = 1
"""Raised when the same document would come out differently; part of the identity of every ingest node."""


def normalize(document: Document) -> Document:
    """Return the document in Unicode NFC, with `\\n` line ends and no control or invisible characters.

    Raises:
        RecordError: `lone_surrogate`; `combining_marks` for more than 30 in a row; `bad_fact` for a fact that begins
            or ends inside characters that become one, lies outside its text or covers no visible character.
    """
    parts = tuple(Text(clean(part.text)) if isinstance(part, Text) else part for part in document.parts)
    if parts == document.parts:
        return document
    ends: defaultdict[int, set[int]] = defaultdict(set)
    for fact in document.facts:
        ends[fact.part] |= {fact.start, fact.stop}
    moved = {part: _moved_offsets(document, parts, part, offsets) for part, offsets in ends.items()}
    facts = [replace(f, start=moved[f.part][f.start], stop=moved[f.part][f.stop]) for f in document.facts]
    if any(fact.start >= fact.stop for fact in facts):
        raise RecordError("bad_fact", "a fact covers no visible character")
    return replace(document, parts=parts, facts=tuple(facts))


def _moved_offsets(document: Document, parts: tuple[Part, ...], index: int, offsets: set[int]) -> dict[int, int]:
    """Return old offset -> new offset for `offsets` into text part `index`; `parts` holds the cleaned parts.

    The text between neighboring offsets is cleaned piece by piece. If the pieces join to the cleaned text, every offset
    is a border in both texts, and the lengths of the pieces give the new offsets.
    """
    old, new = (p[index] if 0 <= index < len(parts) else None for p in (document.parts, parts))
    if not isinstance(old, Text) or not isinstance(new, Text):
        raise RecordError("bad_fact", f"a fact points at part {index}, which is no text")
    borders = sorted({0, *offsets, len(old.text)})
    if borders[0] < 0 or borders[-1] > len(old.text):
        raise RecordError("bad_fact", f"a fact lies outside its text of {len(old.text)} characters")
    pieces = [clean(old.text[start:stop]) for start, stop in pairwise(borders)]
    if "".join(pieces) != new.text:
        raise RecordError("bad_fact", "a fact begins or ends inside characters that become one")
    lengths = [0, *(len(piece) for piece in pieces)]
    return dict(zip(borders, accumulate(lengths), strict=True))
