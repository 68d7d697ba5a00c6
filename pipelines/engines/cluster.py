"""What the engines `ray` and `dask` share: units go to workers that may be anywhere, receipts come back.

    driver: Window -> submit(body of a unit) ... answer -> opened -> committed by `dag/execute.py`
    worker: work_here(body) -> a child of this worker's thread does the unit (`child.py`) -> answer

Only descriptions of units and receipts travel; what units read and write lies in stores that every worker reaches by
URL. The unit is done in a child of the worker, as on `local`: a record that kills its process costs itself, on every
engine alike, and the cluster never notices. When a worker vanishes with its machine, the unit goes again, a few times.
Whatever a vanished worker still does when it comes back changes nothing: nobody waits for its receipt.
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
from pipelines.engines.child import Child, Job, Work, WorkerError, failed, opened
from pipelines.engines.engine import BYTES_PER_CPU, EngineSettings, Flight, Submission, Window

T = TypeVar("T")
R = TypeVar("R")

MOST_LOST = 3
"""Workers that may vanish with one unit before it is given up."""
FLIGHTS_PER_CPU = 2
"""One unit is worked on, the next one is there already."""
LOOK_AGAIN_S = 5.0
"""How often the size of the cluster is asked for, at most."""

_own = threading.local()
_children: set[Child] = set()
"""Of all threads of this process."""
_stopping = threading.Event()


def work_here(body: bytes, name: str, code: str) -> bytes:
    """In a worker of a cluster: one unit, in the child of this thread.

    Args:
        code: `code_digest()` of the process that asks.
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
                raise WorkerError("this worker is going down", where=name)
            child = _own_child()
            child.start(job)
            try:
                return child.answer()
            except (EOFError, ConnectionError):
                _own.child = None
                _children.discard(child)
                job.count_death(*child.end(), name)
    except Exception as error:
        return failed(error)


def _own_child() -> Child:
    child: Child | None = getattr(_own, "child", None)
    if child is None:
        child = _own.child = Child()
        _children.add(child)
    return child


@contextmanager
def nobody_works_here() -> Iterator[None]:
    """Units that threads of this process are at end now, and none begins."""
    _stopping.set()
    for child in list(_children):
        child.kill()
    yield
    _children.clear()
    _stopping.clear()


@cache
def code_digest() -> str:
    """Of all that decides what a unit becomes."""
    root = Path(__file__).parents[2]
    rooms = ("manifests", "stores", "tokenization", "packing", "pipelines")
    files = sorted(file for room in rooms for file in (root / room).rglob("*.py"))
    content = sha256(platform.python_version().encode())
    for file in files:
        content.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return content.hexdigest()


class WorkerLost(Exception):
    """The worker of a unit vanished, in words of its cluster."""


class ClusterEngine(ABC):
    def __init__(self, settings: EngineSettings, workers: int, say: Callable[[str], None]) -> None:
        self.settings, self.workers, self.say = settings, workers, say
        self.elsewhere = settings.address is not None

    @abstractmethod
    def _connect(self) -> int:
        """Have a cluster, started or joined, unless there is one; its processors."""

    @abstractmethod
    def _submit(self, node: str, flight: Flight[Any]) -> None: ...

    @abstractmethod
    def _landed(self) -> tuple[Flight[Any], bytes | WorkerLost]:
        """Wait until one of those submitted has ended."""

    @abstractmethod
    def _cancel_all(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """As `Engine.close`."""

    def run(self, node: str, work: Work[T, R], submissions: Iterable[Submission[T]]) -> Iterator[tuple[T, R]]:
        """As `Engine.run`."""
        submissions = iter(submissions)
        first = next(submissions, None)
        if first is None:
            return
        window = Window(work, chain([first], submissions), 0, 0)
        look_again = 0.0
        try:
            while True:
                if time.monotonic() >= look_again:
                    self._fit(window)
                    look_again = time.monotonic() + LOOK_AGAIN_S
                for flight in window:
                    self._submit(node, flight)
                if not window.units:
                    return
                flight, answer = self._landed()
                if isinstance(answer, WorkerLost):
                    _count_loss(flight, answer)
                    window.again(flight)
                    continue
                window.landed(flight)
                yield flight.submission.data, opened(answer)
        finally:
            self._cancel_all()

    def _fit(self, window: Window[Any]) -> None:
        """To the cluster as it is now: workers come and go."""
        cpus = max(self._connect(), 1)
        window.most_units = self.settings.in_flight_units or cpus * FLIGHTS_PER_CPU
        window.most_bytes = self.settings.in_flight_bytes or cpus * BYTES_PER_CPU

    def __enter__(self) -> ClusterEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _count_loss(flight: Flight[Any], loss: WorkerLost) -> None:
    flight.lost += 1
    if flight.lost >= MOST_LOST:
        raise WorkerError(
            f"its worker vanished {flight.lost} times, at last: {loss}",
            where=flight.submission.name,
            fix="look at the memory and the logs of that machine; what was committed stays",
        )


def unreachable(kind: str, address: str | None, error: Exception, more: str = "") -> MillraceError:
    return MillraceError(
        f"no {kind} cluster answers: {type(error).__name__}: {error}",
        where=address or "embedded",
        fix=f"start it, or correct `engine.address`{more}; then run the same command again",
    )
