"""Edits of a text, and how a document with facts takes them.

An op of a `transform` node (`edits/repair.py`, `edits/pii.py`) returns edits instead of a new text. Therefore facts
move along with the text, every change is counted by reason, and no op handles parts or media.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from manifests.load import schema
from manifests.records import Document, Fact, Part, Text


@dataclass(frozen=True, slots=True)
class TextEdit:
    """A replacement of the characters from `start` up to `stop` of one text part."""

    start: int
    stop: int
    """Exclusive."""
    text: str
    """Replacement; "" deletes."""
    reason: str
    """One of the op's `REASONS`."""


@schema
class Editor:
    """Base of the ops of a `transform` node: a function of one text and the fields."""

    VERSION: ClassVar[int] = 1
    """Raised when the same text and parameters would give other edits."""
    LIBRARIES: ClassVar[tuple[str, ...]] = ()
    """Packages whose version changes the edits; part of the node's identity."""
    REASONS: ClassVar[tuple[str, ...]]
    """Reasons of edits, each counted in a column `NODE.OP.REASON`."""

    kind: str
    domains: tuple[str, ...] = ()
    """Domains of the documents that are edited; empty: all."""

    def edits(self, text: str) -> Sequence[TextEdit]:
        """Return the edits of one text in order, without overlap."""
        raise NotImplementedError


class FactInTheWay(Exception):
    """An edit would change characters that a fact covers."""


def edited(document: Document, editor: Editor) -> tuple[Document, Counter[str]]:
    """Return the document with all edits of one op, and the number of edits by reason.

    Raises:
        FactInTheWay: a fact covers a character that would change.
    """
    parts: list[Part] = []
    facts: list[Fact] = []
    counts: Counter[str] = Counter()
    for index, part in enumerate(document.parts):
        part_facts = [fact for fact in document.facts if fact.part == index]
        edits = editor.edits(part.text) if isinstance(part, Text) else ()
        if isinstance(part, Text) and edits:
            counts.update(edit.reason for edit in edits)
            facts += _moved(part_facts, edits)
            part = Text(_applied(part.text, edits))
        else:
            facts += part_facts
        parts.append(part)
    return (replace(document, parts=tuple(parts), facts=tuple(facts)), counts) if counts else (document, counts)


def _applied(text: str, edits: Iterable[TextEdit]) -> str:
    pieces, at = [], 0
    for edit in edits:
        pieces += [text[at : edit.start], edit.text]
        at = edit.stop
    return "".join([*pieces, text[at:]])


def _moved(facts: Sequence[Fact], edits: Sequence[TextEdit]) -> list[Fact]:
    """Return the facts of one part at their offsets after the edits."""
    moved = []
    for fact in facts:
        shift = 0
        for edit in edits:
            if edit.start >= fact.stop:
                break
            if edit.stop > fact.start:
                raise FactInTheWay
            shift += len(edit.text) - (edit.stop - edit.start)
        moved.append(replace(fact, start=fact.start + shift, stop=fact.stop + shift))
    return moved
