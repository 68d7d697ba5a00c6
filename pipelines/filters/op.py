"""What an op of a filter is. Most measure something and compare it with a limit; both are kept, so that a limit can be
moved later without measuring again.

An op is a frozen dataclass made with `manifests.load.schema`; its fields are its parameters in YAML. `apply` is pure.
Ops concern only the `domains` they are given (none given: all), because a rule made for web pages would throw away
captions and code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from manifests.records import Document, Drop


class Op(Protocol):
    VERSION: ClassVar[int]
    """Raised when the same document and parameters would give another verdict or other numbers."""
    READS_MEDIA: ClassVar[bool]
    kind: str
    domains: tuple[str, ...]

    def apply(self, document: Document) -> Document | Drop: ...


@dataclass(frozen=True, slots=True)
class Limit:
    """What is compared with what."""

    score: str
    """Name of a number that `measure` gives."""
    drops: Literal["below", "above"]
    parameter: str
    """Of the op: the field that holds the limit."""
    reason: str

    def forbids(self, value: float, at: float) -> bool:
        return value < at if self.drops == "below" else value > at


@dataclass(frozen=True, slots=True)
class Choice:
    """Which words are let through."""

    label: str
    """Name of a word that `measure` gives."""
    parameter: str
    """Of the op: the field that holds the words; none there: any."""
    reason: str


class Measured:
    """Base of ops that measure. NaN passes every limit, and what has no label every choice."""

    __slots__ = ()
    LIMITS: ClassVar[tuple[Limit, ...]]
    """The first that is broken says why, behind the choices."""
    CHOICES: ClassVar[tuple[Choice, ...]] = ()
    LIBRARIES: ClassVar[tuple[str, ...]] = ()
    """Those whose version decides what is measured."""
    PLACES: ClassVar[frozenset[str]] = frozenset()
    """Parameters that name files; what lies there decides, not where."""
    domains: tuple[str, ...]

    def measure(self, document: Document) -> Mapping[str, float | str]:
        """Numbers by name, and labels of `CHOICES`; none where there is nothing to measure.

        Raises RecordError for what can't be read.
        """
        raise NotImplementedError

    def named_files(self) -> tuple[str, ...]:
        """Paths and URLs behind `PLACES`: their digests are part of the node's identity."""
        return ()

    def judge(self, scores: Mapping[str, float | str]) -> Drop | None:
        for choice in self.CHOICES:
            allowed = getattr(self, choice.parameter)
            if allowed and choice.label in scores and scores[choice.label] not in allowed:
                return Drop(choice.reason)
        for limit in self.LIMITS:
            value = scores.get(limit.score)
            if isinstance(value, (int, float)) and limit.forbids(value, getattr(self, limit.parameter)):
                return Drop(limit.reason, value)
        return None

    def apply(self, document: Document) -> Document | Drop:
        if not concerns(self.domains, document):
            return document
        return self.judge(self.measure(document)) or document


def concerns(domains: tuple[str, ...], document: Document) -> bool:
    return not domains or document.domain in domains


def column(node: str, op: str, score: str) -> str:
    """Name of the column in which a filter keeps what an op measured."""
    return f"{node}.{op}.{score}"
