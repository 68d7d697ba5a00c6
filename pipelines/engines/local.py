"""The engine `local`: worker processes on this machine, each with one unit at a time.

`pipelines/run.py` gives tasks in, results come out in whatever order they finish. Workers are fresh interpreters
(spawned, so nothing is inherited by accident), ignore Ctrl-C, and die with the process that started them, however that
ends. A worker that dies by itself (the kernel ended it for memory, a decoder crashed) costs its unit another try; when
two workers died at the same record, that record is passed over and set aside; a few such records fail the unit.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from manifests.errors import MillraceError, RecordError
from pipelines.tether import die_with_parent

T = TypeVar("T")
R = TypeVar("R")

Work = Callable[[T, frozenset[int], Callable[[int], None]], R]
"""work(task, records to pass over, tell(ordinal of the record being tried)) -> result. Module level, so picklable."""

MOST_LETHAL = 8
"""Records of one unit that may kill their worker; more of them look like a broken machine rather than bad records."""

NO_RECORD = -1


class WorkerError(MillraceError):
    """A unit failed in its worker. `details` is the worker's traceback, for the run log."""

    def __init__(self, message: str, *, where: str = "", fix: str = "", details: str = "") -> None:
        super().__init__(message, where=where, fix=fix)
        self.details = details


@dataclass
class _Job(Generic[T]):
    task: T
    lethal: set[int] = field(default_factory=set)
    died_at: list[int] = field(default_factory=list)


class LocalEngine:
    """A pool of `workers` processes, started when first needed. With 0 workers units run in this process."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[_Worker] = []
        self._busy: dict[Any, tuple[_Worker, _Job[Any]]] = {}

    def run(self, work: Work[T, R], tasks: Iterable[T], describe: Callable[[T], str]) -> Iterator[tuple[T, R]]:
        """Yield (task, result) as they finish. The first error ends all workers and is raised here.

        Tasks are drawn only when a worker is free, so `tasks` may be a long generator.
        """
        if self.workers == 0:
            for task in tasks:
                yield task, work(task, frozenset(), lambda ordinal: None)
            return
        waiting: deque[_Job[T]] = deque()
        source = iter(tasks)
        busy = self._busy
        try:
            while True:
                while len(busy) < self.workers:
                    job = waiting.popleft() if waiting else next((_Job(task) for task in source), None)
                    if job is None:
                        break
                    worker = self._idle.pop() if self._idle else _Worker(self._context)
                    busy[worker.pipe] = (worker, job)
                    worker.start(work, job)
                if not busy:
                    return
                for pipe in wait(list(busy)):
                    worker, job = busy.pop(pipe)
                    try:
                        result, error = worker.result()
                    except (EOFError, ConnectionError):
                        _count_death(job, worker, describe(job.task))
                        waiting.appendleft(job)
                        continue
                    self._idle.append(worker)
                    if error is not None:
                        kind, message, details = error
                        raise kind(message, **details)
                    yield job.task, result
        finally:
            self._end_busy()

    def close(self) -> None:
        """End every worker. Units in flight are lost; nothing of them was visible."""
        self._end_busy()
        while self._idle:
            self._idle.pop().end()

    def _end_busy(self) -> None:
        while self._busy:
            worker, _ = self._busy.popitem()[1]
            worker.end()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _count_death(job: _Job[T], worker: _Worker, name: str) -> None:
    """Decide what a dead worker means for its job; raises WorkerError when trying again makes no sense."""
    at = worker.at.value
    code = worker.end()
    how = f"signal {-code} ({signal.Signals(-code).name})" if code is not None and code < 0 else f"exit code {code}"
    memory = "; signal 9 mostly means that memory ran out" if code == -signal.SIGKILL else ""
    if at in job.died_at and at != NO_RECORD:
        job.lethal.add(at)
        job.died_at.clear()
        if len(job.lethal) <= MOST_LETHAL:
            return
        raise WorkerError(
            f"{len(job.lethal)} records of this unit ended their worker, the last one by {how}{memory}",
            where=name,
            fix="look at these records, or run with fewer --workers to leave more memory to each",
        )
    job.died_at.append(at)
    if len(job.died_at) > 2:
        raise WorkerError(f"its worker died {len(job.died_at)} times, at last by {how}{memory}", where=name)


_Failure = tuple[type[MillraceError], str, dict[str, str]]
"""Class, message and keywords of an error: exceptions with keyword arguments don't travel through a pipe."""


class _Worker:
    def __init__(self, context: multiprocessing.context.SpawnContext) -> None:
        self.pipe, theirs = context.Pipe()
        self.at: Any = context.Value(ctypes.c_longlong, NO_RECORD, lock=False)
        """Ordinal of the record being tried, in shared memory: it outlives the worker."""
        self._process = context.Process(target=_serve, args=(theirs, self.at, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def start(self, work: Work[T, R], job: _Job[T]) -> None:
        self.at.value = NO_RECORD
        with contextlib.suppress(BrokenPipeError):  # it died while idle: whoever waits for the result will notice
            self.pipe.send((work, job.task, frozenset(job.lethal)))

    def result(self) -> tuple[Any, _Failure | None]:
        return self.pipe.recv()

    def end(self) -> int | None:
        self._process.kill()
        self._process.join()
        self.pipe.close()
        return self._process.exitcode


def _serve(pipe: Connection, at: Any, parent: int) -> None:
    """A worker's life: one task after the other until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    die_with_parent(parent)

    def tell(ordinal: int) -> None:
        at.value = ordinal

    while True:
        try:
            work, task, lethal = pipe.recv()
        except (EOFError, OSError):
            return
        answer: tuple[Any, _Failure | None]
        try:
            answer = (work(task, lethal, tell), None)
        except BaseException as error:
            answer = (None, _failure(error))
        pipe.send(answer)


def _failure(error: BaseException) -> _Failure:
    """What is meant for the user travels as it is; a mistake of ours, or a full disk, with its traceback."""
    if isinstance(error, MillraceError) and not isinstance(error, RecordError):
        return type(error), error.message, {"where": error.where, "fix": error.fix}
    return WorkerError, f"{type(error).__name__}: {error}", {"where": "in a worker", "details": traceback.format_exc()}
