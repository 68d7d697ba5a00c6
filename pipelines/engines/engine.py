"""Protocol of engines, their settings in a manifest, and the window of units in flight.

`dag/execute.py` submits the units of a node; `choose.py` opens the engine that the manifest asks for; `local.py`,
`ray.py` and `dask.py` implement the protocol.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from manifests.load import schema
from pipelines.engines.child import Job, WorkFunction

T = TypeVar("T")
R = TypeVar("R")

EngineKind = Literal["local", "ray", "dask"]
BYTES_PER_CPU = 2 << 30
"""Default of `in_flight_bytes`, per processor."""
POLL_S = 1.0
"""Time between two looks at the units under way."""

OnWait = Callable[[float, int], None]
"""on_wait(units, records): finished part of the units under way, and their records so far. Called about once a second
while units are under way, also when nothing has changed."""


def ignore_wait(units: float, records: int) -> None:
    """The default `on_wait`: show nothing."""


@schema
class EngineSettings:
    """`engine:` at the top of a data manifest: where units are worked on. Results don't depend on it."""

    kind: EngineKind = "local"
    """Processes on this machine, tasks of Ray, or tasks of Dask (distributed)."""
    address: str | None = None
    """Address of a running cluster, e.g. `10.0.0.7:6379` for Ray, `tcp://10.0.0.7:8786` for Dask. Without one, a
    cluster of `--workers` processes runs as long as the command. Not used by `local`."""
    dashboard: bool = False
    """Serve the dashboard of an embedded cluster, on loopback."""
    in_flight_units: int | None = None
    """Units submitted and not finished; by default two per processor of the cluster."""
    in_flight_bytes: int | None = None
    """Bytes that these units will read, as far as known; by default 2 GiB per processor. One unit is always allowed,
    however large."""
    cpus_per_unit: float = 1.0
    """Processors that a unit asks Ray for."""
    starved_s: float = 20.0
    """If no unit has begun for this long because others hold every CPU of the Ray cluster, one unit at a time runs
    without asking for a CPU."""

    def __post_init__(self) -> None:
        for name in ("in_flight_units", "in_flight_bytes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if self.cpus_per_unit < 0 or self.starved_s < 0:
            raise ValueError("cpus_per_unit and starved_s are at least 0")


class Engine(Protocol):
    elsewhere: bool
    """True if workers may be on other machines, which don't see this one's folders."""

    def run(
        self, node: str, work: WorkFunction[T, R], submissions: Iterable[Submission[T]], on_wait: OnWait = ignore_wait
    ) -> Iterator[tuple[T, R]]:
        """Yield (task, result) of each submission in the order in which they finish.

        The first error ends all work and is raised here. Submissions are drawn only when there is room for one more,
        so they may come from a long generator.

        Args:
            node: name that a dashboard shows.
        """

    def close(self) -> None:
        """End all workers that this engine started. Units in flight are lost; nothing of them was visible."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Submission(Generic[T]):
    """One unit for an engine."""

    name: str
    """For messages and dashboards."""
    task: T
    size_bytes: int = 0
    """Bytes that it reads; 0 if not known."""
    records: int = 0
    """Records that it reads; 0 if not known."""


@dataclass
class Flight(Generic[T]):
    """A unit that is under way or waits for another try."""

    submission: Submission[T]
    job: Job
    lost: int = 0
    """Workers of a cluster that vanished with it."""


class InFlightWindow(Generic[T]):
    """Draws submissions while the units under way leave room for one more."""

    def __init__(
        self, work: WorkFunction[T, R], submissions: Iterable[Submission[T]], max_units: int, max_bytes: int
    ) -> None:
        self._work, self._submissions = work, iter(submissions)
        self._again: deque[Flight[T]] = deque()
        self.max_units, self.max_bytes = max_units, max_bytes
        self.units = self._bytes = 0
        """Units under way, and bytes that they read."""

    def __iter__(self) -> Iterator[Flight[T]]:
        """Yield the units that may start now."""
        while self.units < self.max_units and (flight := self._next()) is not None:
            if self.units and self._bytes + flight.submission.size_bytes > self.max_bytes:
                self._again.appendleft(flight)
                return
            self.units += 1
            self._bytes += flight.submission.size_bytes
            yield flight

    def _next(self) -> Flight[T] | None:
        if self._again:
            return self._again.popleft()
        submission = next(self._submissions, None)
        return None if submission is None else Flight(submission, Job(pickle.dumps((self._work, submission.task))))

    def landed(self, flight: Flight[T]) -> None:
        """Note that a unit is no longer under way."""
        self.units -= 1
        self._bytes -= flight.submission.size_bytes

    def again(self, flight: Flight[T]) -> None:
        """Put a unit back that came without a result; it is the next to start."""
        self.landed(flight)
        self._again.appendleft(flight)


def under_way(marks: Iterable[tuple[int, int]]) -> tuple[float, int]:
    """Arguments of `on_wait`: finished part of the units under way, and their records so far.

    Args:
        marks: for each unit the ordinal of the record under way (-1: none yet), and its records (0: not known).
    """
    units, records = 0.0, 0
    for ordinal, total in marks:
        tried = ordinal + 1
        records += tried
        units += min(1.0, tried / total) if total else 0.0
    return units, records
