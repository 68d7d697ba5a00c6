"""Counts and costs of a node: what became of its records, what this run did, and what that took.

Workers fill in `RecordCounts` and `Usage` per unit (`unit.py`), `execute.py` adds them up to a `NodeResult`, and
`progress.py`, `summary.py` and the run log show them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from manifests.records import Json
from pipelines.dag.usage import PROCESS, Usage

REASONS_SHOWN = 4


@dataclass
class RecordCounts:
    """Records by what became of them; for folders, `kept` counts files."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    """Problems that cost no record. All three count by reason."""

    def add(self, other: RecordCounts) -> None:
        self.kept += other.kept
        self.dropped += other.dropped
        self.quarantined += other.quarantined
        self.noted += other.noted

    @property
    def seen(self) -> int:
        return self.kept + self.dropped.total() + self.quarantined.total()

    def losses(self) -> str:
        """Return dropped and quarantined records and notes by reason, "" if there are none."""
        groups = {"dropped": self.dropped, "quarantined": self.quarantined, "noted": self.noted}
        return "; ".join(f"{word} {by_reason(counts)}" for word, counts in groups.items() if counts.total())


def by_reason(counts: Mapping[str, int]) -> str:
    """Return "reason count" pairs, most frequent first, for example "too_short 12, garbled 3"."""
    ordered = sorted(((reason, count) for reason, count in counts.items() if count), key=lambda p: (-p[1], p[0]))
    shown = ", ".join(f"{reason} {count:,}" for reason, count in ordered[:REASONS_SHOWN])
    return f"{shown}, {len(ordered) - REASONS_SHOWN} more" if len(ordered) > REASONS_SHOWN else shown


@dataclass
class NodeWork:
    """Work of this run for one node; units committed by earlier runs don't count."""

    records: int = 0
    parts: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Ops of a filter by kind: records looked at, and seconds in workers."""
    usage: Usage = field(default_factory=Usage)
    """Usage of all processes: CPU time summed up, memory of the largest one."""

    def add(self, records: int, parts: Mapping[str, tuple[int, float]], usage: Usage) -> None:
        """Add one unit. CPU time of a unit that ran in this process is left to the measurement of this process."""
        self.records += records
        for name, (seen, seconds) in parts.items():
            before = self.parts.get(name, (0, 0.0))
            self.parts[name] = (before[0] + seen, before[1] + seconds)
        self.usage = self.usage.plus(Usage(0.0, usage.peak_bytes) if usage.process == PROCESS else usage)


@dataclass(frozen=True)
class NodeResult:
    """One node at the end of a run."""

    node: str
    kind: str
    identity: str
    digest: str
    product: str
    """Kind of its store, or `folder`."""
    counts: RecordCounts
    seconds: float
    """Wall-clock time in this run."""
    skipped: bool
    """Committed before; nothing was done."""
    bytes: int
    tokens: int
    work: NodeWork

    @property
    def rate(self) -> float:
        """Records per second of wall-clock time."""
        return self.work.records / max(self.seconds, 1e-3)

    def as_json(self) -> dict[str, Json]:
        """Return the row for `--json` and for the run log."""
        return {
            "node": self.node,
            "kind": self.kind,
            "identity": self.identity,
            "digest": self.digest,
            "records": self.counts.seen,
            "kept": self.counts.kept,
            "dropped": dict(sorted(self.counts.dropped.items())),
            "quarantined": dict(sorted(self.counts.quarantined.items())),
            "bytes": self.bytes,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "cpu_seconds": round(self.work.usage.cpu_s, 3),
            "peak_bytes": self.work.usage.peak_bytes,
            "worked": self.work.records,
            "parts": {name: [seen, round(seconds, 6)] for name, (seen, seconds) in self.work.parts.items()},
            "skipped": self.skipped,
        }
