"""What an op of a `transform` is: it says which stretches of a text become what, and why.

Because an op names stretches instead of giving a new text, facts move along, every change can be counted, and no op has
to know of parts or media.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from manifests.records import Document, Fact, Part, Text


@dataclass(frozen=True, slots=True)
class Edit:
    start: int
    """In characters of one text part; `stop` is exclusive."""
    stop: int
    text: str
    """What stands there afterwards."""
    reason: str
    """One of the op's `REASONS`."""


class Editor(Protocol):
    VERSION: ClassVar[int]
    """Raised when the same text and parameters would give other edits."""
    LIBRARIES: ClassVar[tuple[str, ...]]
    """Those whose version decides what is edited."""
    REASONS: ClassVar[tuple[str, ...]]
    kind: str
    domains: tuple[str, ...]

    def edits(self, text: str) -> Sequence[Edit]:
        """In order, without overlap."""


class FactInTheWay(Exception):
    """An edit would change what a fact covers."""


def edited(document: Document, editor: Editor) -> tuple[Document, Counter[str]]:
    """The document with all edits, and how many there were by reason.

    Raises FactInTheWay where a fact covers a character that would change.
    """
    parts: list[Part] = []
    facts: list[Fact] = []
    counts: Counter[str] = Counter()
    for index, part in enumerate(document.parts):
        told = [fact for fact in document.facts if fact.part == index]
        edits = editor.edits(part.text) if isinstance(part, Text) else ()
        if isinstance(part, Text) and edits:
            counts.update(edit.reason for edit in edits)
            facts += _moved(told, edits)
            part = Text(_applied(part.text, edits))
        else:
            facts += told
        parts.append(part)
    return (replace(document, parts=tuple(parts), facts=tuple(facts)), counts) if counts else (document, counts)


def _applied(text: str, edits: Iterable[Edit]) -> str:
    pieces, at = [], 0
    for edit in edits:
        pieces += [text[at : edit.start], edit.text]
        at = edit.stop
    return "".join([*pieces, text[at:]])


def _moved(facts: Sequence[Fact], edits: Sequence[Edit]) -> list[Fact]:
    moved = []
    for fact in facts:
        by = 0
        for edit in edits:
            if edit.start >= fact.stop:
                break
            if edit.stop > fact.start:
                raise FactInTheWay
            by += len(edit.text) - (edit.stop - edit.start)
        moved.append(replace(fact, start=fact.start + by, stop=fact.stop + by))
    return moved
