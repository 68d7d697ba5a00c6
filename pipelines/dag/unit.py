"""One unit in a worker: the node's `work`, the store's writer, and the one place that sets bad records aside.

Called by an engine with a task from `pipelines/dag/run.py`; gives back a receipt, which the committer there
publishes.
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
from pipelines.dag.progress import Tally
from pipelines.node import StoreNode, UnitTask
from stores import tombstones
from stores.store import Receipt, Store, UnitWriter
from stores.tombstones import Tombstones

P = ParamSpec("P")
R = TypeVar("R")

FORGOTTEN_REASON = "forgotten"
NOT_OURS = frozenset({"unsupported_format", "unknown_format", FORGOTTEN_REASON})
"""Reasons that speak of a kind of file, or of somebody's wish, not of damage: they don't stop a run."""
MOST_DETAILS = 20
"""Tracebacks kept per unit."""


class TooManyBad(MillraceError):
    """Bad records follow one another: the data or the manifest is wrong, rather than a record."""


@dataclass(frozen=True)
class StoreTask:
    """Everything a worker needs, picklable."""

    node: StoreNode
    url: str
    """Of the store that is written."""
    stored_as: str
    """Name under which the unit is committed."""
    task: UnitTask
    in_a_row: int
    share: float


@dataclass(frozen=True)
class Outcome:
    receipt: Receipt
    tally: Tally
    good: int
    """Attempts that gave something."""
    bad: int
    """Records set aside, those of foreign formats not counted."""
    row: int
    """Bad ones at the end of the unit without a good one after them."""
    meta: Mapping[str, Json]
    details: tuple[str, ...]
    """Tracebacks of what was not foreseen, for the run log."""
    seconds: float
    """That the worker took, by the clock."""
    parts: Mapping[str, tuple[int, float]]
    """Of the node, where it says so: records looked at, and seconds."""


def run_unit(unit: StoreTask, lethal: frozenset[int], tell: Callable[[int], None]) -> Outcome:
    """Work on one unit.

    Args:
        lethal: ordinals of records at which workers died; they are set aside untried.
        tell: is told the ordinal of the record that is being tried.
    """
    start = time.monotonic()
    writer = Store.open(unit.url).writer(unit.stored_as)
    attempt = Attempts(writer, unit, lethal, tell, tombstones.read(posixpath.dirname(unit.url)))
    meta = unit.node.work(unit.task, writer, attempt)
    receipt = writer.finish()
    counts = receipt.counts
    kept = counts.get("kept", counts.get("records", 0))
    tally = Tally(kept, attempt.dropped, attempt.quarantined, attempt.noted)
    seconds = time.monotonic() - start
    return Outcome(
        receipt,
        tally,
        attempt.good,
        attempt.bad,
        attempt.row,
        meta or {},
        tuple(attempt.details),
        seconds,
        attempt.parts,
    )


class Attempts:
    """`pipelines.node.Attempt` for one unit."""

    def __init__(
        self,
        writer: UnitWriter,
        unit: StoreTask,
        lethal: frozenset[int],
        tell: Callable[[int], None],
        forgotten: Tombstones = tombstones.NO_TOMBSTONES,
    ) -> None:
        self._writer, self._unit, self._lethal, self._tell = writer, unit, lethal, tell
        self._forgotten = forgotten
        self._ordinal = -1
        self.good = self.bad = self.row = 0
        self.dropped: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self.quarantined: Counter[str] = Counter()
        self.details: list[str] = []
        self.parts: dict[str, tuple[int, float]] = {}

    def __call__(self, locator: str, make: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R | None:
        self._ordinal += 1
        if self._forgotten.has_place(self._unit.task.node, locator):
            self._set_aside("", FORGOTTEN_REASON, "")
            return None
        if self._ordinal in self._lethal:
            self._set_aside(locator, "killed_worker", "two worker processes died while they tried this record")
            return None
        self._tell(self._ordinal)
        try:
            made = make(*arguments, **named)
        except RecordError as error:
            self._set_aside(locator, error.reason, error.message)
        except MillraceError:
            raise
        except Exception as error:
            # Readers of other people's data meet what nobody thought of. One record is lost, with its traceback kept.
            if len(self.details) < MOST_DETAILS:
                self.details.append(f"{locator}\n{traceback.format_exc()}")
            self._set_aside(locator, "unexpected_error", f"{type(error).__name__}: {error}")
        else:
            self.good, self.row = self.good + 1, 0
            return made
        return None

    def store(self, locator: str, record: Any, beside: pa.Table | None = None) -> None:
        if isinstance(record, Document) and self._forgotten.has_document(record):
            self._set_aside("", FORGOTTEN_REASON, "")
            return
        try:
            self._writer.add(record, beside)
        except RecordError as error:
            self._set_aside(locator, error.reason, error.message)

    def drop(self, reason: str) -> None:
        self.dropped[reason] += 1

    def took(self, part: str, records: int, seconds: float) -> None:
        before = self.parts.get(part, (0, 0.0))
        self.parts[part] = (before[0] + records, before[1] + seconds)

    def note(self, reason: str) -> None:
        self.noted[reason] += 1

    def _set_aside(self, locator: str, reason: str, message: str) -> None:
        self._writer.quarantine(locator, reason, message)
        self.quarantined[reason] += 1
        if reason in NOT_OURS:
            return
        self.bad, self.row = self.bad + 1, self.row + 1
        if too_many(self._unit.in_a_row, self._unit.share, self.row, self.bad, self.good):
            raise TooManyBad(
                f"{self.row} records in a row can't be used ({_worst(self.quarantined)}); "
                f"the last one: {reason}: {message}",
                where=f"{self._unit.task.node}, {locator}",
                fix="repair or exclude what is wrong, or raise `tolerance` at the top of the manifest",
            )


def too_many(in_a_row: int, share: float, row: int, bad: int, good: int) -> bool:
    return row >= in_a_row and bad > share * (bad + good)


def _worst(quarantined: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in quarantined.most_common(3))
