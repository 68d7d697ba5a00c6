"""The engine `local`: worker processes on this machine, each with one unit at a time.

`pipelines/dag/execute.py` gives units in, results come out in whatever order they finish. A worker that dies by itself
costs its unit another try; when two workers died at the same record, that record is passed over and set aside; a few
such records fail the unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any, TypeVar

from pipelines.engines.child import Child, Work, opened
from pipelines.engines.engine import BYTES_PER_CPU, Flight, Submission, Window

T = TypeVar("T")
R = TypeVar("R")


class LocalEngine:
    """A pool of `workers` processes, started when first needed. With 0 workers units run in this process."""

    elsewhere = False

    def __init__(self, workers: int, in_flight_bytes: int | None = None) -> None:
        self.workers, self._in_flight_bytes = workers, in_flight_bytes or workers * BYTES_PER_CPU
        self._idle: list[Child] = []
        self._busy: dict[Any, tuple[Child, Flight[Any]]] = {}

    def run(self, node: str, work: Work[T, R], submissions: Iterable[Submission[T]]) -> Iterator[tuple[T, R]]:
        """As `Engine.run`."""
        if self.workers == 0:
            for one in submissions:
                yield one.data, work(one.data, frozenset(), lambda ordinal: None)
            return
        window = Window(work, submissions, self.workers, self._in_flight_bytes)
        busy = self._busy
        try:
            while True:
                for flight in window:
                    child = self._idle.pop() if self._idle else Child()
                    busy[child.pipe] = (child, flight)
                    child.start(flight.job)
                if not busy:
                    return
                for pipe in wait(list(busy)):
                    child, flight = busy.pop(pipe)
                    try:
                        answer = child.answer()
                    except (EOFError, ConnectionError):
                        flight.job.count_death(*child.end(), flight.submission.name)
                        window.again(flight)
                        continue
                    self._idle.append(child)
                    window.landed(flight)
                    yield flight.submission.data, opened(answer)
        finally:
            self._end_busy()

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
