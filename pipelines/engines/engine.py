"""What an engine is, how a manifest asks for one, and how much of a node's work is under way at a time."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from manifests.load import schema
from pipelines.engines.child import Job, Work

T = TypeVar("T")
R = TypeVar("R")

EngineKind = Literal["local", "ray", "dask"]
BYTES_PER_CPU = 2 << 30
"""In flight, where nothing is said."""


@schema
class EngineSettings:
    """`engine:` at the top of a data manifest: where units are worked on. It decides nothing about what they become."""

    kind: EngineKind = "local"
    """Processes of this machine, tasks of Ray, or of Dask (distributed)."""
    address: str | None = None
    """Of a running cluster, e.g. `10.0.0.7:6379` for Ray, `tcp://10.0.0.7:8786` for Dask. Without one, a cluster of
    `--workers` processes lives as long as the run. `local` has no use for it."""
    dashboard: bool = False
    """Of an embedded cluster, on loopback."""
    in_flight_units: int | None = None
    """Units handed out and not back yet; without it, two for every processor of the cluster."""
    in_flight_bytes: int | None = None
    """What these units will read, as far as it is known before; without it, 2 GiB for every processor. One unit always
    flies, however large."""
    cpus_per_unit: float = 1.0
    """What a unit asks Ray for."""
    starved_s: float = 20.0
    """When for so long no unit has begun, because others hold every CPU of the Ray cluster, one at a time goes ahead
    without asking for any."""

    def __post_init__(self) -> None:
        for name in ("in_flight_units", "in_flight_bytes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if self.cpus_per_unit < 0 or self.starved_s < 0:
            raise ValueError("cpus_per_unit and starved_s are at least 0")


class Engine(Protocol):
    elsewhere: bool
    """Whether workers may be on other machines, without this one's folders."""

    def run(self, node: str, work: Work[T, R], submissions: Iterable[Submission[T]]) -> Iterator[tuple[T, R]]:
        """Yield (data, result) as they finish. The first error ends all work and is raised here.

        Submissions are drawn only when there is room for one more, so they may come from a long generator. `node` is
        what people see in a dashboard.
        """

    def close(self) -> None:
        """End all workers that this engine started. Units in flight are lost; nothing of them was visible."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Submission(Generic[T]):
    """What an engine knows of a unit."""

    name: str
    """In messages."""
    data: T
    size_bytes: int = 0
    """Of what it reads; 0 where nobody knows."""


@dataclass
class Flight(Generic[T]):
    """A unit that is under way, or must go again."""

    submission: Submission[T]
    job: Job
    lost: int = 0
    """Workers of a cluster that vanished with it."""


class Window(Generic[T]):
    """Draws submissions while there is room for them."""

    def __init__(
        self, work: Work[T, R], submissions: Iterable[Submission[T]], most_units: int, most_bytes: int
    ) -> None:
        self._work, self._submissions = work, iter(submissions)
        self._waiting: deque[Flight[T]] = deque()
        self.most_units, self.most_bytes = most_units, most_bytes
        self.units = self._bytes = 0
        """Under way now."""

    def __iter__(self) -> Iterator[Flight[T]]:
        """Those that may start now."""
        while self.units < self.most_units and (flight := self._next()) is not None:
            if self.units and self._bytes + flight.submission.size_bytes > self.most_bytes:
                self._waiting.appendleft(flight)
                return
            self.units += 1
            self._bytes += flight.submission.size_bytes
            yield flight

    def _next(self) -> Flight[T] | None:
        if self._waiting:
            return self._waiting.popleft()
        new = next(self._submissions, None)
        return None if new is None else Flight(new, Job(pickle.dumps((self._work, new.data))))

    def landed(self, flight: Flight[T]) -> None:
        self.units -= 1
        self._bytes -= flight.submission.size_bytes

    def again(self, flight: Flight[T]) -> None:
        """It came back without an answer and goes first."""
        self.landed(flight)
        self._waiting.appendleft(flight)
