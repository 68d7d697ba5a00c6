"""A long text in pieces of about equal length, cut where it pauses and never inside a formula."""

from __future__ import annotations

import re
from itertools import pairwise

PAUSES = tuple(re.compile(mark) for mark in (r"\n\s*\n", r"\n", r"[.!?]\s+|[。！？]", r"\s"))
"""The best first."""
FORMULA = re.compile(
    r"\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)|\\begin\{(\w+\*?)\}.*?\\end\{\1\}|\$(?=\S)[^$\n]*?(?<=\S)\$(?!\d)", re.DOTALL
)
"""As TeX and Markdown write them; `$5 and $10` is none."""


def count(characters: int, most: int) -> int:
    """How many chunks a text has: known from its length alone, so that a budget needs no text."""
    return -(-characters // most)


def chunks(text: str, pieces: int) -> list[str]:
    """So many pieces of about equal length that are the text again when joined."""
    even = len(text) / max(pieces, 1)
    formulas = [match.span() for match in FORMULA.finditer(text)] if pieces > 1 else []
    cuts = [0, *(_cut(text, round(even * i), int(even / 4), formulas) for i in range(1, pieces)), len(text)]
    return [text[start:stop] for start, stop in pairwise(cuts)] if pieces else []


def _cut(text: str, at: int, reach: int, formulas: list[tuple[int, int]]) -> int:
    for pause in PAUSES:
        places = [match.end() for match in pause.finditer(text, at - reach, at + reach)]
        places = [place for place in places if not any(start < place < stop for start, stop in formulas)]
        if places:
            return min(places, key=lambda place: (abs(place - at), place))
    return at


def formulas(text: str) -> list[str]:
    """Without blanks, which mean nothing in them."""
    return ["".join(match.group().split()) for match in FORMULA.finditer(text)]
