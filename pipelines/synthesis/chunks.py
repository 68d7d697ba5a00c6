"""A long text in pieces of about equal length, cut where it pauses and never inside a formula."""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import pairwise
from operator import itemgetter

PAUSES = tuple(re.compile(mark) for mark in (r"\n\s*\n", r"\n", r"[.!?]\s+|[。！？]", r"\s"))
"""The best first."""
FORMULA = re.compile(
    r"\$\$.{1,2000}?\$\$|\\\[.{1,2000}?\\\]|\\\(.{1,2000}?\\\)|\\begin\{(\w{1,20}\*?)\}.{0,2000}?\\end\{\1\}"
    r"|\$(?=\S)[^$\n]{0,2000}?(?<=\S)\$(?!\d)",
    re.DOTALL,
)
"""As TeX and Markdown write them; `$5 and $10` is none. Bounded, because an end that never comes would be looked
for from every beginning."""


def count(characters: int, most: int) -> int:
    """How many chunks a text has: known from its length alone, so that a budget needs no text."""
    return -(-characters // most)


def chunks(text: str, pieces: int) -> list[str]:
    """So many pieces of about equal length that are the text again when joined."""
    even = len(text) / max(pieces, 1)
    spans = [match.span() for match in FORMULA.finditer(text)] if pieces > 1 else []
    cuts = [0, *(_cut(text, round(even * i), int(even / 4), spans) for i in range(1, pieces)), len(text)]
    return [text[start:stop] for start, stop in pairwise(cuts)] if pieces else []


def _cut(text: str, at: int, reach: int, spans: list[tuple[int, int]]) -> int:
    for pause in PAUSES:
        places = [match.end() for match in pause.finditer(text, at - reach, at + reach)]
        places = [place for place in places if not _inside(place, spans)]
        if places:
            return min(places, key=lambda place: (abs(place - at), place))
    return at


def _inside(place: int, spans: list[tuple[int, int]]) -> bool:
    """`spans` ascend and don't overlap."""
    before = bisect_left(spans, place, key=itemgetter(0)) - 1
    return before >= 0 and place < spans[before][1]


def formulas(text: str) -> list[str]:
    """Without blanks, which mean nothing in them."""
    return ["".join(match.group().split()) for match in FORMULA.finditer(text)]
