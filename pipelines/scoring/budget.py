"""How much an endpoint is asked at most, and about whom: a larger budget keeps what a smaller one chose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from manifests.load import schema
from manifests.records import MediaKind, digest
from pipelines.node import Unit, UnitRange, units_below
from stores.store import Snapshot

OVER_BUDGET = "over_budget"
"""What a document that was left out is counted as."""

Needs = Callable[[int, Sequence[MediaKind]], int]
"""Requests at most for a document of so many characters and these media."""


@schema
class RequestBudget:
    """The most that is asked for. Who does not fit is left out: documents come in the order of a hash of their ids,
    each counted with as many requests as it could need. Retries are not counted."""

    max_requests: int | None = None
    max_answer_tokens: int | None = None
    """Every request counts with the node's `answer_tokens`, however short its answer is."""

    def __post_init__(self) -> None:
        if any(limit is not None and limit < 0 for limit in (self.max_requests, self.max_answer_tokens)):
            raise ValueError("max_requests and max_answer_tokens are at least 0")

    def requests(self, answer_tokens: int) -> int | None:
        """That fit; None where there is no limit."""
        limits = [self.max_requests, self.max_answer_tokens]
        each = (1, answer_tokens)
        return min((most // cost for most, cost in zip(limits, each, strict=True) if most is not None), default=None)


@dataclass(frozen=True)
class ChosenDocuments:
    """Of one unit."""

    stretch: UnitRange
    ordinals: np.ndarray | None = None
    """Of the documents that fit the budget; None: all."""
    left_out: int = 0

    def kept(self, snapshot: Snapshot) -> list[int]:
        """Ordinals of those to be asked about."""
        if self.ordinals is not None:
            return self.ordinals.tolist()
        return snapshot.kept(self.stretch.start, self.stretch.stop).tolist()

    def empty(self) -> ChosenDocuments:
        """Return the same unit without documents."""
        return replace(self, ordinals=np.zeros(0, np.int64), left_out=0)


def chosen_units(
    snapshot: Snapshot, most: int | None, domains: Sequence[str], seed: int, needs: Needs
) -> tuple[Unit, ...]:
    """Those below, each with the `Chosen` that fit into `most` requests."""
    units = units_below(snapshot)
    if most is None:
        return tuple(replace(unit, data=ChosenDocuments(unit.data)) for unit in units)
    return tuple(_within(most, snapshot, units, _needed(snapshot, domains, needs), seed))


def _within(most: int, snapshot: Snapshot, units: Sequence[Unit], needed: np.ndarray, seed: int) -> Iterator[Unit]:
    wanted = np.flatnonzero(needed)
    ids = snapshot.table(["id"]).column("id")
    hashes = [digest("budget", str(seed), ids[row].as_py()) for row in wanted.tolist()]
    order = wanted[np.argsort(np.array(hashes, dtype="U64"), kind="stable")]
    fits = np.zeros(len(needed), bool)
    fits[order[np.cumsum(needed[order]) <= most]] = True
    for unit in units:
        here = slice(unit.data.start, unit.data.stop)
        inside = np.flatnonzero(fits[here])
        left_out = int(np.count_nonzero(needed[here])) - len(inside)
        content = digest(unit.digest, inside.astype("<i8").tobytes(), str(left_out))
        yield replace(unit, digest=content, data=ChosenDocuments(unit.data, inside + unit.data.start, left_out))


def _needed(snapshot: Snapshot, domains: Sequence[str], needs: Needs) -> np.ndarray:
    """Requests by ordinal, 0 for what is not kept: from the index, no text is read."""
    columns = snapshot.table(["domain", "characters"])
    domain, characters = (columns.column(name).to_pylist() for name in ("domain", "characters"))
    media = snapshot.media_table(["record", "kind"])
    shown: list[list[MediaKind]] = [[] for _ in domain]
    for record, kind in zip(*(column.to_pylist() for column in media.columns), strict=True):
        shown[record].append(kind)
    needed = np.zeros(len(domain), np.int64)
    for row in snapshot.kept().tolist():
        if not domains or domain[row] in domains:
            needed[row] = needs(characters[row], shown[row])
    return needed
