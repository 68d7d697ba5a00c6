"""Budget of requests to an endpoint, and the documents that fit it.

`endpoints.py` and `synthesis/` use it. Documents are chosen in the order of a hash of their ids, so a larger budget
keeps the documents that a smaller one chose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from manifests.load import schema
from manifests.records import MediaKind, digest
from pipelines.node import Unit, UnitRange, units_below
from stores.store import Snapshot

OVER_BUDGET = "over_budget"
"""Reason under which documents outside the budget are counted."""

RequestCount = Callable[[int, Sequence[MediaKind]], int]
"""Function from a document's number of characters and its media to the most requests that it may need."""


@schema
class RequestBudget:
    """Limit on the requests of a node. Each document counts with as many requests as it could need; retries don't
    count. Documents that don't fit are left out."""

    max_requests: int | None = None
    """Requests; by default no limit."""
    max_answer_tokens: int | None = None
    """Tokens of all answers. Each request counts with the node's `answer_tokens`, however short its answer is."""

    def __post_init__(self) -> None:
        if any(limit is not None and limit < 0 for limit in (self.max_requests, self.max_answer_tokens)):
            raise ValueError("max_requests and max_answer_tokens are at least 0")

    def requests(self, answer_tokens: int) -> int | None:
        """Return the number of requests that fit, None for no limit.

        Args:
            answer_tokens: the most tokens of one answer.
        """
        limits = [self.max_requests, self.max_answer_tokens]
        costs = (1, answer_tokens)
        return min(
            (limit // cost for limit, cost in zip(limits, costs, strict=True) if limit is not None), default=None
        )


@dataclass(frozen=True)
class ChosenDocuments:
    """Documents of one unit that fit the budget; the unit's data."""

    range: UnitRange
    ordinals: np.ndarray | None = None
    """(n,) int64 ordinals of the chosen documents; None: all that are kept."""
    left_out: int = 0
    """Documents over the budget."""

    def kept(self, snapshot: Snapshot) -> list[int]:
        """Return the ordinals of the documents to ask about."""
        if self.ordinals is not None:
            return self.ordinals.tolist()
        return snapshot.kept(self.range.start, self.range.stop).tolist()

    def empty(self) -> ChosenDocuments:
        """Return the same unit without documents."""
        return replace(self, ordinals=np.zeros(0, np.int64), left_out=0)


def chosen_units(
    snapshot: Snapshot, max_requests: int | None, domains: Sequence[str], seed: int, needs: RequestCount
) -> tuple[Unit, ...]:
    """Return the units of the input, each with its `ChosenDocuments` as data.

    Args:
        max_requests: for all units together; None for no limit.
        domains: of the documents that need requests; none given: all.
        seed: of the hash that orders the documents.
        needs: requests per document.
    """
    units = units_below(snapshot)
    if max_requests is None:
        return tuple(replace(unit, data=ChosenDocuments(unit.data)) for unit in units)
    return tuple(_chosen(max_requests, snapshot, units, _requests(snapshot, domains, needs), seed))


def _chosen(
    max_requests: int, snapshot: Snapshot, units: Sequence[Unit], requests: np.ndarray, seed: int
) -> Iterator[Unit]:
    wanted = np.flatnonzero(requests)
    ids = snapshot.table(["id"]).column("id")
    hashes = [digest("budget", str(seed), ids[row].as_py()) for row in wanted.tolist()]
    order = wanted[np.argsort(np.array(hashes, dtype="U64"), kind="stable")]
    fits = np.zeros(len(requests), bool)
    fits[order[np.cumsum(requests[order]) <= max_requests]] = True
    for unit in units:
        rows = slice(unit.data.start, unit.data.stop)
        inside = np.flatnonzero(fits[rows])
        left_out = int(np.count_nonzero(requests[rows])) - len(inside)
        content = digest(unit.digest, inside.astype("<i8").tobytes(), str(left_out))
        chosen = ChosenDocuments(unit.data, inside + unit.data.start, left_out)
        yield replace(unit, digest=content, data=chosen, records=len(inside))


def _requests(snapshot: Snapshot, domains: Sequence[str], needs: RequestCount) -> np.ndarray:
    """Return (records,) int64 requests by ordinal, 0 for documents that are not kept. Reads the index, no text."""
    columns = snapshot.table(["domain", "characters"])
    domain, characters = (columns.column(name).to_pylist() for name in ("domain", "characters"))
    media_table = snapshot.media_table(["record", "kind"])
    media: list[list[MediaKind]] = [[] for _ in domain]
    for record, kind in zip(*(column.to_pylist() for column in media_table.columns), strict=True):
        media[record].append(kind)
    requests = np.zeros(len(domain), np.int64)
    for row in snapshot.kept().tolist():
        if not domains or domain[row] in domains:
            requests[row] = needs(characters[row], media[row])
    return requests
