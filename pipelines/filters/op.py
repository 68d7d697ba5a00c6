"""Base classes of the ops of a `filter` node.

An op is a frozen dataclass made with `manifests.load.schema`; its fields are its parameters in YAML. Most ops derive
from `Measured`: `measure` returns numbers, `LIMITS` compares them with parameters. Numbers and verdicts are both stored
(`filters/filter.py`), so that a limit can be moved later without measuring again (`filters/reuse.py`). An op with a
rule that is no number derives from `Op` and writes `decide`.
To add an op, write its class and add one line to `OPS` (`filters/filter.py`); CONTRIBUTING.md shows one in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from manifests.load import schema
from manifests.records import Document, Drop


@dataclass(frozen=True, slots=True)
class Limit:
    """A comparison of one score with one parameter of the op."""

    score: str
    """Name of a number in the result of `measure`."""
    drops: Literal["below", "above"]
    parameter: str
    """Name of the field of the op that holds the limit."""
    reason: str
    """Stable code that is stored with the dropped document."""

    def forbids(self, value: float, limit: float) -> bool:
        return value < limit if self.drops == "below" else value > limit


@dataclass(frozen=True, slots=True)
class Choice:
    """A comparison of one label with the list of accepted labels."""

    label: str
    """Name of a word in the result of `measure`."""
    parameter: str
    """Name of the field of the op that lists the accepted words; an empty list accepts all."""
    reason: str
    """Stable code that is stored with the dropped document."""


@schema
class Op:
    """A rule that keeps or drops one document at a time. `decide` is a pure function of the document and the fields."""

    VERSION: ClassVar[int] = 1
    """Raised when the same document and parameters would give another verdict or other numbers."""
    READS_MEDIA: ClassVar[bool] = False
    """True if the op reads bytes of pictures or videos; `filter` loads them only then."""
    PLACES: ClassVar[frozenset[str]] = frozenset()
    """Parameters that name files: the contents of the files are part of the identity, their paths are not."""

    RENAMED_KINDS: ClassVar[Mapping[str, str]] = {}
    """Former kind -> advice; for the error about an unknown kind (`manifests/load.py`)."""

    kind: str
    domains: tuple[str, ...] = ()
    """Domains of the documents that the op reads; empty: all. Rules for web pages would drop captions and code."""

    def decide(self, document: Document) -> Drop | None:
        """Return why the document is dropped, None if it stays. `domains` was checked before.

        Raises:
            RecordError: the document can't be read.
        """
        raise NotImplementedError

    def apply(self, document: Document) -> Document | Drop:
        """Return the document itself if it stays or is outside `domains`, else the reason."""
        if not concerns(self.domains, document):
            return document
        return self.decide(document) or document


class Measured(Op):
    """Base of ops that compare numbers and labels. NaN passes every limit, a missing label passes every choice."""

    LIMITS: ClassVar[tuple[Limit, ...]]
    """Compared in order; the first limit that is broken gives the reason."""
    CHOICES: ClassVar[tuple[Choice, ...]] = ()
    """Compared before `LIMITS`."""
    LIBRARIES: ClassVar[tuple[str, ...]] = ()
    """Packages whose version changes the numbers; part of the node's identity."""

    def measure(self, document: Document) -> Mapping[str, float | str]:
        """Return numbers by the names in `LIMITS` and labels by the names in `CHOICES`; empty if nothing applies.

        Raises:
            RecordError: the document can't be read.
        """
        raise NotImplementedError

    def external_files(self) -> tuple[str, ...]:
        """Paths and URLs of the parameters in `PLACES`; their digests are part of the node's identity."""
        return ()

    def judge(self, scores: Mapping[str, float | str]) -> Drop | None:
        """Compare the result of `measure` with the parameters."""
        for choice in self.CHOICES:
            accepted = getattr(self, choice.parameter)
            if accepted and choice.label in scores and scores[choice.label] not in accepted:
                return Drop(choice.reason)
        for limit in self.LIMITS:
            value = scores.get(limit.score)
            if isinstance(value, (int, float)) and limit.forbids(value, getattr(self, limit.parameter)):
                return Drop(limit.reason, value)
        return None

    def decide(self, document: Document) -> Drop | None:
        return self.judge(self.measure(document))


def concerns(domains: tuple[str, ...], document: Document) -> bool:
    """Return whether a node or op with these `domains` reads the document; no domains: every document."""
    return not domains or document.domain in domains


def column(node: str, op: str, score: str) -> str:
    """Return the name of the column in which a filter stores one score of an op."""
    return f"{node}.{op}.{score}"
