"""Common part of the engines `ray` and `dask`: units go to workers on any machine, receipts come back.

    driver: InFlightWindow -> submit(pickled unit) ... answer -> opened -> committed by `dag/execute.py`
    worker: run_in_child(pickled unit) -> a child of this worker's thread does the unit (`child.py`) -> answer

Only descriptions of units and receipts travel; units read and write stores, which every worker reaches by URL. A record
that kills its process kills the child, as with the engine `local`, and the cluster never notices. If a worker vanishes
with its machine, the unit is submitted again, up to MAX_LOST times. A worker that vanished and comes back later does no
harm: nobody waits for its receipt, and a unit is committed once.
"""

from __future__ import annotations

import platform
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from manifests.errors import MillraceError
from pipelines.engines.child import Child, Job, WorkerError, WorkFunction, failed, opened
from pipelines.engines.engine import (
    BYTES_PER_CPU,
    POLL_S,
    EngineSettings,
    Flight,
    InFlightWindow,
    OnWait,
    Submission,
    ignore_wait,
)

T = TypeVar("T")
R = TypeVar("R")

MAX_LOST = 3
"""Workers that may vanish with one unit before the run stops."""
FLIGHTS_PER_CPU = 2
"""One unit is worked on, the next one is there already."""
RESIZE_S = 5.0
"""Shortest time between two questions for the size of the cluster."""

_thread = threading.local()
_children: set[Child] = set()
"""Children of all threads of this process."""
_stopping = threading.Event()


def run_in_child(body: bytes, name: str, code: str) -> bytes:
    """Do one unit in the child of this thread; runs in a worker of the cluster.

    Args:
        body: pickle of (work, task).
        name: of the unit, for messages.
        code: `code_digest()` of the driver.
    Returns:
        An answer for `opened`.
    """
    try:
        if code != code_digest():
            raise MillraceError(
                "this worker has other code than the run, so it might make other records",
                where=f"{name}, on {platform.node()}",
                fix="install the same millrace on every machine of the cluster",
            )
        job = Job(body)
        while True:
            if _stopping.is_set():
                raise WorkerError("this worker is shutting down", where=name)
            child = _own_child()
            child.start(job)
            try:
                return child.answer()
            except (EOFError, ConnectionError):
                _thread.child = None
                _children.discard(child)
                job.count_death(*child.end(), name)
    except Exception as error:
        return failed(error)


def _own_child() -> Child:
    child: Child | None = getattr(_thread, "child", None)
    if child is None:
        child = _thread.child = Child()
        _children.add(child)
    return child


@contextmanager
def no_units_here() -> Iterator[None]:
    """Kill the units that run in threads of this process, and let none begin while the body runs."""
    _stopping.set()
    for child in list(_children):
        child.kill()
    yield
    _children.clear()
    _stopping.clear()


@cache
def code_digest() -> str:
    """SHA-256 of the Python version and of all our code that decides the content of a unit, 64 hex digits."""
    root = Path(__file__).parents[2]
    rooms = ("manifests", "stores", "tokenization", "packing", "pipelines")
    files = sorted(file for room in rooms for file in (root / room).rglob("*.py"))
    content = sha256(platform.python_version().encode())
    for file in files:
        content.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return content.hexdigest()


class WorkerLost(Exception):
    """The worker of a unit vanished; the message is the cluster's."""


class ClusterEngine(ABC):
    """Base of the engines that submit units to a cluster."""

    def __init__(self, settings: EngineSettings, workers: int, say: Callable[[str], None]) -> None:
        """
        Args:
            workers: processors of an embedded cluster, started if the settings name no address.
            say: prints a line for the person at the terminal.
        """
        self.settings, self.workers, self.say = settings, workers, say
        self.elsewhere = settings.address is not None

    @abstractmethod
    def _connect(self) -> int:
        """Start or join the cluster unless that is done; returns its number of processors."""

    @abstractmethod
    def _submit(self, node: str, flight: Flight[Any]) -> None: ...

    @abstractmethod
    def _landed(self, timeout_s: float) -> tuple[Flight[Any], bytes | WorkerLost] | None:
        """Wait until a submitted unit has ended; None if none has after `timeout_s`."""

    @abstractmethod
    def _cancel_all(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """As `Engine.close`."""

    def run(
        self, node: str, work: WorkFunction[T, R], submissions: Iterable[Submission[T]], on_wait: OnWait = ignore_wait
    ) -> Iterator[tuple[T, R]]:
        """As `Engine.run`. The driver doesn't see records under way: `on_wait` gets zeros, as a sign of life."""
        submissions = iter(submissions)
        first = next(submissions, None)
        if first is None:
            return
        window = InFlightWindow(work, chain([first], submissions), 0, 0)
        resize_at = 0.0
        try:
            while True:
                if time.monotonic() >= resize_at:
                    self._resize(window)
                    resize_at = time.monotonic() + RESIZE_S
                for flight in window:
                    self._submit(node, flight)
                if not window.units:
                    return
                landed = self._landed(POLL_S)
                if landed is None:
                    on_wait(0.0, 0)
                    continue
                flight, answer = landed
                if isinstance(answer, WorkerLost):
                    _count_loss(flight, answer)
                    window.again(flight)
                    continue
                window.landed(flight)
                yield flight.submission.task, opened(answer)
        finally:
            self._cancel_all()

    def _resize(self, window: InFlightWindow[Any]) -> None:
        """Fit the window to the present size of the cluster, as workers come and go."""
        cpus = max(self._connect(), 1)
        window.max_units = self.settings.in_flight_units or cpus * FLIGHTS_PER_CPU
        window.max_bytes = self.settings.in_flight_bytes or cpus * BYTES_PER_CPU

    def __enter__(self) -> ClusterEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _count_loss(flight: Flight[Any], loss: WorkerLost) -> None:
    flight.lost += 1
    if flight.lost >= MAX_LOST:
        raise WorkerError(
            f"its worker vanished {flight.lost} times, the last time: {loss}",
            where=flight.submission.name,
            fix="look at the memory and the logs of that machine, then run again; what was committed stays",
        )


def unreachable(kind: str, address: str | None, error: Exception, hint: str = "") -> MillraceError:
    """Return the error for a cluster that doesn't answer. `hint` is added to the fix."""
    return MillraceError(
        f"no {kind} cluster answers: {type(error).__name__}: {error}",
        where=address or "embedded",
        fix=f"start it, or correct `engine.address`{hint}; then run the same command again",
    )
