"""What people see of a run: a bar on a terminal, a line now and then elsewhere, and the table at the end.

Counts committed work, never submitted work. Everything here is talk, on stderr; nothing reads it back.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from manifests.records import Json

PAPER_WIDTH = 140
"""Characters of a line where there is no terminal to ask."""
QUIET_S = 10.0
"""Without a terminal, a line at most this often."""


@dataclass
class Tally:
    """What became of the records of some units."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.kept += other.kept
        self.dropped += other.dropped
        self.quarantined += other.quarantined
        self.noted += other.noted

    @property
    def seen(self) -> int:
        return self.kept + self.dropped.total() + self.quarantined.total()


@dataclass
class Work:
    """What was done in this run for one node, of what there is of it."""

    records: int = 0
    parts: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Ops of a filter: records looked at, and seconds in workers."""

    def add(self, records: int, parts: Mapping[str, tuple[int, float]]) -> None:
        self.records += records
        for name, (seen, seconds) in parts.items():
            before = self.parts.get(name, (0, 0.0))
            self.parts[name] = (before[0] + seen, before[1] + seconds)


@dataclass(frozen=True)
class Result:
    """One node at the end of a run."""

    node: str
    kind: str
    identity: str
    digest: str
    tally: Tally
    seconds: float
    skipped: bool
    bytes: int
    tokens: int
    work: Work

    @property
    def rate(self) -> float:
        """Records of this run a second, by the clock, with everything that comes with them."""
        return self.work.records / max(self.seconds, 1e-3)

    def as_json(self) -> dict[str, Json]:
        tally = self.tally
        return {
            "node": self.node,
            "kind": self.kind,
            "identity": self.identity,
            "digest": self.digest,
            "records": tally.seen,
            "kept": tally.kept,
            "dropped": dict(sorted(tally.dropped.items())),
            "quarantined": dict(sorted(tally.quarantined.items())),
            "bytes": self.bytes,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "worked": self.work.records,
            "parts": {name: [seen, round(seconds, 6)] for name, (seen, seconds) in self.work.parts.items()},
            "skipped": self.skipped,
        }


class Meter:
    """Progress of one node."""

    def __init__(self, show: Show, units: int, done: int) -> None:
        self.tally = Tally()
        self.units, self.done = units, done
        self._show, self._start = show, time.monotonic()

    def committed(self, units: int, tally: Tally) -> None:
        self.done += units
        self.tally.add(tally)
        self._show.update(self)

    def text(self) -> str:
        rate = self.tally.seen / max(time.monotonic() - self._start, 1e-9)
        return f"{self.done:,} of {self.units:,} units, {spoken(self.tally)}, {rate:,.0f} a second"


class Show:
    """Where progress goes. The time that remains assumes that units take equally long."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._node = ""
        self._said = 0.0

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def node(self, name: str, units: int, done: int) -> Iterator[Meter]:
        meter = Meter(self, units, done)
        self._node, self._said = name, time.monotonic()
        if not self.console.is_terminal:
            yield meter
            return
        columns = (TextColumn(f"{name:<16}"), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as self._bar:
            self._task = self._bar.add_task(name, total=units, completed=done, text=meter.text())
            yield meter
        self._bar = None

    def update(self, meter: Meter) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=meter.done, text=meter.text())
        elif time.monotonic() - self._said >= QUIET_S:
            self._said = time.monotonic()
            self.say(f"{self._node}: {meter.text()}")


def table(results: Sequence[Result]) -> None:
    """The end of a run, on stdout: what every node took in, kept, dropped and set aside."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    numbers = ("in", "kept", "tokens", "MB", "seconds", "a second")
    for title in ("node", "in", "kept", "dropped", "quarantined", "tokens", "MB", "seconds", "a second", "digest"):
        grid.add_column(title, overflow="fold", justify="right" if title in numbers else "left")
    for one in results:
        tally = one.tally
        spent = ("committed", "") if one.skipped else (f"{one.seconds:.1f}", f"{one.rate:,.0f}")
        counted = (f"{tally.seen:,}", f"{tally.kept:,}") if tally.seen else ("", "")
        size = (f"{one.tokens:,}" if one.tokens else "", f"{one.bytes / 1e6:,.1f}" if one.bytes else "")
        reasons = (_reasons(tally.dropped), _reasons(tally.quarantined))
        grid.add_row(one.node, *counted, *reasons, *size, *spent, one.digest[:8])
    Console(width=None if sys.stdout.isatty() else PAPER_WIDTH).print(grid)


def spoken(tally: Tally) -> str:
    """Counts in words; what is zero is not said."""
    words = [f"{tally.kept:,} kept"]
    words += [f"dropped {_reasons(tally.dropped)}"] if tally.dropped.total() else []
    words += [f"quarantined {_reasons(tally.quarantined)}"] if tally.quarantined else []
    words += [f"noted {_reasons(tally.noted)}"] if tally.noted else []
    return "; ".join(words)


def _reasons(counts: Mapping[str, int]) -> str:
    ordered = sorted(
        ((reason, count) for reason, count in counts.items() if count), key=lambda pair: (-pair[1], pair[0])
    )
    shown = ", ".join(f"{reason} {count:,}" for reason, count in ordered[:4])
    return f"{shown}, {len(ordered) - 4} more" if len(ordered) > 4 else shown
