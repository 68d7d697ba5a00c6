"""Text with marked facts: character ranges that hold a color, a count, a time or an answer.

Categories compose texts from `FactText`. `pipelines/scenes/write.py` writes the ranges to the annotation line, ingest
makes a `records.Fact` of each, and the visual grounding test measures the loss on exactly those tokens.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class FactText:
    """A text and its facts. `+` concatenates and moves the ranges."""

    text: str = ""
    facts: tuple[tuple[str, int, int], ...] = ()
    """(name, start, stop) in characters of `text`, stop exclusive."""

    def __add__(self, other: FactText | str) -> FactText:
        if isinstance(other, str):
            return FactText(self.text + other, self.facts)
        moved = tuple((name, start + len(self.text), stop + len(self.text)) for name, start, stop in other.facts)
        return FactText(self.text + other.text, self.facts + moved)


def fact(name: str, text: str | int) -> FactText:
    """Return `text` with one fact that covers all of it."""
    return FactText(str(text), ((name, 0, len(str(text))),))


def fill_template(template: str, **fields: FactText | str | int) -> FactText:
    """Fill a template as `str.format` does, and keep the facts: `fill_template("{n} dots", n=fact("count", 3))`."""
    filled = FactText()
    for literal, field, _, _ in string.Formatter().parse(template):
        filled += literal
        if field is not None:
            value = fields[field]
            filled += value if isinstance(value, FactText) else str(value)
    return filled


def join_texts(separator: str, items: Sequence[FactText | str], last: str | None = None) -> FactText:
    """Join items with `separator`; `last`, if given, is the separator before the last item, as in "a, b and c"."""
    joined = FactText()
    for i, item in enumerate(items):
        if i:
            joined += separator if last is None or i < len(items) - 1 else last
        joined += item
    return joined


def capitalize(text: FactText) -> FactText:
    """Make the first letter a capital; the facts stay."""
    return FactText(text.text[:1].upper() + text.text[1:], text.facts)


def with_article(text: FactText) -> FactText:
    """Put `a` or `an` in front."""
    return FactText("an " if text.text[:1].lower() in "aeiou" else "a ") + text


def plural(count: int, singular: str, irregular: str | None = None) -> str:
    """Return the singular for a count of 1, else the plural: `irregular`, or the singular with an `s`."""
    return singular if count == 1 else irregular or singular + "s"
