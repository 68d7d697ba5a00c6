"""Sentences that remember which of their characters are facts.

Makers put texts together out of `Words`; `pipelines/scenes/write.py` writes the ranges beside the text, ingest makes
`records.Fact` of them, and the seeing test measures the loss on exactly those tokens.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Words:
    text: str = ""
    facts: tuple[tuple[str, int, int], ...] = ()
    """(name, start, stop) in characters of `text`."""

    def __add__(self, other: Words | str) -> Words:
        if isinstance(other, str):
            return Words(self.text + other, self.facts)
        moved = tuple((name, start + len(self.text), stop + len(self.text)) for name, start, stop in other.facts)
        return Words(self.text + other.text, self.facts + moved)


def fact(name: str, text: str | int) -> Words:
    """`text`, all of which is a fact of this name."""
    return Words(str(text), ((name, 0, len(str(text))),))


def fill(template: str, **fields: Words | str | int) -> Words:
    """`fill("{count} objects", count=fact("count", 3))`: as `str.format`, keeping facts."""
    words = Words()
    for literal, field, _, _ in string.Formatter().parse(template):
        words += literal
        if field is not None:
            value = fields[field]
            words += value if isinstance(value, Words) else str(value)
    return words


def join(separator: str, items: Sequence[Words | str], last: str | None = None) -> Words:
    """Items with `separator` between them, and `last` before the last one: a, b and c."""
    words = Words()
    for i, item in enumerate(items):
        if i:
            words += separator if last is None or i < len(items) - 1 else last
        words += item
    return words


def capital(words: Words) -> Words:
    """With a capital first letter; ranges stay."""
    return Words(words.text[:1].upper() + words.text[1:], words.facts)


def article(words: Words) -> Words:
    """With `a` or `an` in front."""
    return Words("an " if words.text[:1].lower() in "aeiou" else "a ") + words


def plural(count: int, one: str, many: str | None = None) -> str:
    return one if count == 1 else many or one + "s"
