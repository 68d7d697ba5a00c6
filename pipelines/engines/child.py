"""One worker process and the unit it is at. Every engine works on units in such a child.

A fresh interpreter, so that nothing is inherited by accident. It ignores Ctrl-C and dies with the thread that started
it, however that ends. When it dies by itself (the kernel ended it for memory, a decoder crashed), whoever started it
still knows the record that was being tried: its ordinal lies in memory that both see.

The bodies of tasks and answers are pickles that only the child and the driver open: a Ray or Dask worker in between
passes bytes on and needs none of the libraries.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from manifests.errors import MillraceError, RecordError
from pipelines.engines.tether import die_with_parent

T = TypeVar("T")
R = TypeVar("R")

Work = Callable[[T, frozenset[int], Callable[[int], None]], R]
"""work(task, records to pass over, tell(ordinal of the record being tried)) -> result. Module level, so picklable."""

MOST_LETHAL = 8
"""Records of one unit that may kill their worker; more of them look like a broken machine rather than bad records."""
MOST_DEATHS = 3
"""Workers that may die over one unit without two of them at the same record."""

NO_RECORD = -1

_BEGIN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from pipelines.engines.child import serve; serve()"


class WorkerError(MillraceError):
    """A unit failed in its worker. `details` is the worker's traceback, for the run log."""

    def __init__(self, message: str, *, where: str = "", fix: str = "", details: str = "") -> None:
        super().__init__(message, where=where, fix=fix)
        self.details = details


@dataclass
class Job:
    """A unit on its way, and what its workers died of."""

    body: bytes
    """Pickle of (work, task)."""
    lethal: set[int] = field(default_factory=set)
    died_at: list[int] = field(default_factory=list)

    def count_death(self, at: int, code: int | None, name: str) -> None:
        """Decide what a dead worker means; raises WorkerError when trying again makes no sense."""
        how = f"signal {-code} ({signal.Signals(-code).name})" if code is not None and code < 0 else f"exit code {code}"
        memory = "; signal 9 mostly means that memory ran out" if code == -signal.SIGKILL else ""
        if at in self.died_at and at != NO_RECORD:
            self.lethal.add(at)
            self.died_at.clear()
            if len(self.lethal) <= MOST_LETHAL:
                return
            raise WorkerError(
                f"{len(self.lethal)} records of this unit ended their worker, the last one by {how}{memory}",
                where=name,
                fix="look at these records, or run with fewer --workers to leave more memory to each",
            )
        self.died_at.append(at)
        if len(self.died_at) >= MOST_DEATHS:
            raise WorkerError(f"its worker died {len(self.died_at)} times, at last by {how}{memory}", where=name)


class Child:
    def __init__(self) -> None:
        self.pipe, theirs = Pipe()
        memory = os.memfd_create("record being tried")
        os.truncate(memory, 8)
        self._at = mmap.mmap(memory, 8)
        inherited = (theirs.fileno(), memory)
        command = [sys.executable, "-c", _BEGIN, json.dumps(sys.path), *map(str, inherited), str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=inherited)
        theirs.close()
        os.close(memory)

    def start(self, job: Job) -> None:
        _mark(self._at, NO_RECORD)
        with contextlib.suppress(BrokenPipeError):  # it died while idle: whoever waits for the answer will notice
            self.pipe.send((job.body, frozenset(job.lethal)))

    def answer(self) -> bytes:
        """For `opened`. Raises EOFError or ConnectionError when the process died."""
        return self.pipe.recv_bytes()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> tuple[int, int]:
        """The record it was at, and its exit code."""
        self.kill()
        self._process.wait()
        self.pipe.close()
        with self._at:
            return int.from_bytes(self._at[:8], "little", signed=True), self._process.returncode


def opened(answer: bytes) -> Any:
    """The result in a child's answer; raises the error that is there instead."""
    result, error = pickle.loads(answer)
    if error is not None:
        kind, message, details = error
        raise kind(message, **details)
    return result


def failed(error: BaseException) -> bytes:
    """An answer that says what went wrong. What is meant for the user travels as it is; a mistake of ours, or a full
    disk, with its traceback."""
    # Class, message and keywords: exceptions with keyword arguments don't travel through a pipe.
    if isinstance(error, MillraceError) and not isinstance(error, RecordError):
        words = {"where": error.where, "fix": error.fix}
        if isinstance(error, WorkerError):
            words["details"] = error.details
        return pickle.dumps((None, (type(error), error.message, words)))
    words = {"where": "in a worker", "details": traceback.format_exc()}
    return pickle.dumps((None, (WorkerError, f"{type(error).__name__}: {error}", words)))


def _mark(at: mmap.mmap, ordinal: int) -> None:
    at[:8] = ordinal.to_bytes(8, "little", signed=True)


def serve() -> None:
    """A child's life: one task after the other until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    pipe_fd, memory, parent = map(int, sys.argv[2:])
    die_with_parent(parent)
    pipe, at = Connection(pipe_fd), mmap.mmap(memory, 8)
    while True:
        try:
            body, lethal = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            work, task = pickle.loads(body)
            answer = pickle.dumps((work(task, lethal, lambda ordinal: _mark(at, ordinal)), None))
        except BaseException as error:
            answer = failed(error)
        pipe.send_bytes(answer)
