"""One unit in a worker: the node's `work`, the store's writer, and the quarantine of bad records.

An engine calls `run_unit` with a task from `execute.py`; the result holds a receipt, which `execute.py` commits. Only
`Attempts` catches errors of records.
"""

from __future__ import annotations

import posixpath
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa

from manifests.errors import MillraceError, RecordError
from manifests.records import Document, Json
from pipelines.dag.results import RecordCounts
from pipelines.dag.usage import Usage, UsageMeter
from pipelines.node import StoreNode, UnitTask
from stores import tombstones
from stores.store import Receipt, Store, UnitWriter
from stores.tombstones import Tombstones

P = ParamSpec("P")
R = TypeVar("R")

FORGOTTEN_REASON = "forgotten"
NOT_DAMAGE = frozenset({"unsupported_format", "unknown_format", FORGOTTEN_REASON})
"""Quarantine reasons that don't stop a run: a kind of file, or a request to forget, rather than damage."""
MAX_DETAILS = 20
"""Tracebacks kept per unit."""


class TooManyBad(MillraceError):
    """Many bad records follow one another: the data or the manifest is wrong, rather than a record."""


@dataclass(frozen=True)
class StoreTask:
    """Arguments of `run_unit`, picklable."""

    node: StoreNode
    url: str
    """URL of the store that is written."""
    stored_as: str
    """Name under which the unit is committed."""
    task: UnitTask
    in_a_row: int
    share: float
    """Tolerance of the manifest."""


@dataclass(frozen=True)
class Outcome:
    """Result of one unit."""

    receipt: Receipt
    counts: RecordCounts
    good: int
    """Attempts that succeeded."""
    bad: int
    """Damaged records; reasons in `NOT_DAMAGE` don't count."""
    bad_at_end: int
    """Damaged records after the last good one."""
    meta: Mapping[str, Json]
    """Entries for the snapshot's meta."""
    details: tuple[str, ...]
    """Tracebacks of unexpected errors, for the run log."""
    seconds: float
    """Wall-clock time in the worker."""
    parts: Mapping[str, tuple[int, float]]
    """Records and seconds by part of the node, such as ops of a filter."""
    usage: Usage


def run_unit(unit: StoreTask, lethal: frozenset[int], mark: Callable[[int], None]) -> Outcome:
    """Do one unit. A `WorkFunction` of engines.

    Args:
        lethal: ordinals of records that killed workers; they are quarantined untried.
        mark: called with the ordinal of each record before it is tried.
    """
    start = time.monotonic()
    meter = UsageMeter()
    writer = Store.open(unit.url).writer(unit.stored_as)
    attempt = Attempts(writer, unit, lethal, mark, tombstones.read(posixpath.dirname(unit.url)))
    meta = unit.node.work(unit.task, writer, attempt)
    receipt = writer.finish()
    kept = receipt.counts.get("kept", receipt.counts.get("records", 0))
    return Outcome(
        receipt,
        RecordCounts(kept, attempt.dropped, attempt.quarantined, attempt.noted),
        attempt.good,
        attempt.bad,
        attempt.bad_in_a_row,
        meta or {},
        tuple(attempt.details),
        time.monotonic() - start,
        attempt.parts,
        meter.own(children=True),
    )


class Attempts:
    """`pipelines.node.Attempt` for one unit."""

    def __init__(
        self,
        writer: UnitWriter,
        unit: StoreTask,
        lethal: frozenset[int],
        mark: Callable[[int], None],
        forgotten: Tombstones = tombstones.NO_TOMBSTONES,
    ) -> None:
        self._writer, self._unit, self._lethal, self._mark = writer, unit, lethal, mark
        self._forgotten = forgotten if forgotten else None
        self._ordinal = -1
        self.good = self.bad = self.bad_in_a_row = 0
        self.dropped: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self.quarantined: Counter[str] = Counter()
        self.details: list[str] = []
        self.parts: dict[str, tuple[int, float]] = {}

    def __call__(self, locator: str, make: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R | None:
        self._ordinal += 1
        if self._forgotten is not None and self._forgotten.has_place(self._unit.task.node, locator):
            self._quarantine("", FORGOTTEN_REASON, "")
            return None
        if self._ordinal in self._lethal:
            self._quarantine(locator, "killed_worker", "two worker processes died while they tried this record")
            return None
        self._mark(self._ordinal)
        try:
            made = make(*arguments, **named)
        except RecordError as error:
            self._quarantine(locator, error.reason, error.message)
        except MillraceError:
            raise
        except Exception as error:
            # Other people's data causes errors that nobody foresaw. They cost one record; the traceback is kept.
            if len(self.details) < MAX_DETAILS:
                self.details.append(f"{locator}\n{traceback.format_exc()}")
            self._quarantine(locator, "unexpected_error", f"{type(error).__name__}: {error}")
        else:
            self.good, self.bad_in_a_row = self.good + 1, 0
            return made
        return None

    def store(self, locator: str, record: Any, columns: pa.Table | None = None) -> None:
        if self._forgotten is not None and isinstance(record, Document) and self._forgotten.has_document(record):
            self._quarantine("", FORGOTTEN_REASON, "")
            return
        try:
            self._writer.add(record, columns)
        except RecordError as error:
            self._quarantine(locator, error.reason, error.message)

    def drop(self, reason: str) -> None:
        self.dropped[reason] += 1

    def took(self, part: str, records: int, seconds: float) -> None:
        before = self.parts.get(part, (0, 0.0))
        self.parts[part] = (before[0] + records, before[1] + seconds)

    def note(self, reason: str) -> None:
        self.noted[reason] += 1

    def _quarantine(self, locator: str, reason: str, message: str) -> None:
        self._writer.quarantine(locator, reason, message)
        self.quarantined[reason] += 1
        if reason in NOT_DAMAGE:
            return
        self.bad, self.bad_in_a_row = self.bad + 1, self.bad_in_a_row + 1
        if too_many(self._unit.in_a_row, self._unit.share, self.bad_in_a_row, self.bad, self.good):
            frequent = ", ".join(f"{reason} {count}" for reason, count in self.quarantined.most_common(3))
            raise TooManyBad(
                f"{self.bad_in_a_row} records in a row can't be used ({frequent}); the last one: {reason}: {message}",
                where=f"{self._unit.task.node}, {locator}",
                fix="repair or exclude the bad files, or raise `tolerance` at the top of the manifest",
            )


def too_many(in_a_row: int, share: float, bad_in_a_row: int, bad: int, good: int) -> bool:
    """Return whether bad records exceed both limits of the manifest's tolerance."""
    return bad_in_a_row >= in_a_row and bad > share * (bad + good)
