"""The engine `local`: worker processes on this machine, each with one unit at a time.

A worker that dies costs its unit another try. If two workers die at the same record, that record is skipped and
quarantined; a few such records fail the unit (`child.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any, TypeVar

from pipelines.engines.child import Child, WorkFunction, opened
from pipelines.engines.engine import (
    BYTES_PER_CPU,
    POLL_S,
    Flight,
    InFlightWindow,
    OnWait,
    Submission,
    ignore_wait,
    under_way,
)

T = TypeVar("T")
R = TypeVar("R")


class LocalEngine:
    """A pool of `workers` processes, started when first needed. With 0 workers, units run in this process."""

    elsewhere = False

    def __init__(self, workers: int, in_flight_bytes: int | None = None) -> None:
        self.workers, self._in_flight_bytes = workers, in_flight_bytes or workers * BYTES_PER_CPU
        self._idle: list[Child] = []
        self._busy: dict[Any, tuple[Child, Flight[Any]]] = {}
        """By the pipe to the child."""

    def run(
        self, node: str, work: WorkFunction[T, R], submissions: Iterable[Submission[T]], on_wait: OnWait = ignore_wait
    ) -> Iterator[tuple[T, R]]:
        """As `Engine.run`."""
        if self.workers == 0:
            for submission in submissions:
                result = work(submission.task, frozenset(), _marking(submission.records, on_wait))
                on_wait(0.0, 0)
                yield submission.task, result
            return
        window = InFlightWindow(work, submissions, self.workers, self._in_flight_bytes)
        busy = self._busy
        try:
            while True:
                for flight in window:
                    child = self._idle.pop() if self._idle else Child()
                    busy[child.pipe] = (child, flight)
                    child.start(flight.job)
                if not busy:
                    return
                ready = wait(list(busy), POLL_S)
                if not ready:
                    on_wait(*self._under_way())
                for pipe in ready:
                    child, flight = busy.pop(pipe)
                    try:
                        answer = child.answer()
                    except (EOFError, ConnectionError):
                        flight.job.count_death(*child.end(), flight.submission.name)
                        window.again(flight)
                        continue
                    self._idle.append(child)
                    window.landed(flight)
                    on_wait(*self._under_way())
                    yield flight.submission.task, opened(answer)
        finally:
            self._end_busy()

    def _under_way(self) -> tuple[float, int]:
        return under_way((child.ordinal(), flight.submission.records) for child, flight in self._busy.values())

    def close(self) -> None:
        """End every worker. Units in flight are lost; nothing of them was visible."""
        self._end_busy()
        while self._idle:
            self._idle.pop().end()

    def _end_busy(self) -> None:
        while self._busy:
            child, _ = self._busy.popitem()[1]
            child.end()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _marking(records: int, on_wait: OnWait) -> Callable[[int], None]:
    """Return the `mark` of a unit that runs in this process: it calls `on_wait` about once a second."""
    last_s = time.monotonic()

    def mark(ordinal: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= POLL_S:
            last_s = time.monotonic()
            on_wait(*under_way([(ordinal, records)]))

    return mark
