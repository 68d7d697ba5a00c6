"""One worker process, which does one unit at a time. Every engine runs units in such a child.

The child is a fresh interpreter and inherits nothing by accident. It ignores Ctrl-C and dies with the thread that
started it. If it is killed (out of memory, crash of a decoder), the parent still knows the record under way: the child
writes the record's ordinal into memory that both processes share.

Task and result travel as pickles between driver and child. A Ray or Dask worker in between passes the bytes on and
never unpickles them.
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

WorkFunction = Callable[[T, frozenset[int], Callable[[int], None]], R]
"""work(task, ordinals of records to skip, mark) -> result. It calls mark(ordinal) before it tries a record. Defined at
module level, so that it can be pickled."""

MAX_LETHAL = 8
"""Records of one unit that may kill their worker; more of them look like a broken machine rather than bad records."""
MAX_DEATHS = 3
"""Workers that may die in one unit if no two of them die at the same record."""

NO_RECORD = -1

_BEGIN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from pipelines.engines.child import serve; serve()"


class WorkerError(MillraceError):
    """A unit failed in its worker. `details` is the worker's traceback, for the run log."""

    def __init__(self, message: str, *, where: str = "", fix: str = "", details: str = "") -> None:
        super().__init__(message, where=where, fix=fix)
        self.details = details


@dataclass
class Job:
    """A submitted unit and the deaths of its workers."""

    body: bytes
    """Pickle of (work, task)."""
    lethal: set[int] = field(default_factory=set)
    """Ordinals of records that killed two workers; the next worker skips them."""
    died_at: list[int] = field(default_factory=list)
    """Ordinals of the records at which workers died once."""

    def count_death(self, at: int, code: int | None, name: str) -> None:
        """Record that a worker died at record `at` with exit code `code` (negative: killed by that signal).

        Raises:
            WorkerError: another try makes no sense.
        """
        how = f"signal {-code} ({signal.Signals(-code).name})" if code is not None and code < 0 else f"exit code {code}"
        memory = "; signal 9 mostly means that memory ran out" if code == -signal.SIGKILL else ""
        if at in self.died_at and at != NO_RECORD:
            self.lethal.add(at)
            self.died_at.clear()
            if len(self.lethal) <= MAX_LETHAL:
                return
            raise WorkerError(
                f"{len(self.lethal)} records of this unit killed their worker, the last one by {how}{memory}",
                where=name,
                fix="look at these records, or run with fewer --workers to leave more memory to each",
            )
        self.died_at.append(at)
        if len(self.died_at) >= MAX_DEATHS:
            fix = "look at the memory of this machine, or run with fewer --workers"
            raise WorkerError(
                f"its worker died {len(self.died_at)} times, the last time by {how}{memory}", where=name, fix=fix
            )


class Child:
    """A running worker process, seen from its parent."""

    def __init__(self) -> None:
        self.pipe, theirs = Pipe()
        memory = os.memfd_create("record under way")
        os.truncate(memory, 8)
        self._ordinal = mmap.mmap(memory, 8)
        inherited = (theirs.fileno(), memory)
        command = [sys.executable, "-c", _BEGIN, json.dumps(sys.path), *map(str, inherited), str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=inherited)
        theirs.close()
        os.close(memory)

    def start(self, job: Job) -> None:
        """Send a job to the idle child."""
        _mark(self._ordinal, NO_RECORD)
        with contextlib.suppress(BrokenPipeError):  # it died while idle: `answer` will raise EOFError
            self.pipe.send((job.body, frozenset(job.lethal)))

    def answer(self) -> bytes:
        """Wait for the result, to be read with `opened`. Raises EOFError or ConnectionError if the process died."""
        return self.pipe.recv_bytes()

    def ordinal(self) -> int:
        """Return the ordinal of the record under way; NO_RECORD before the first one."""
        return int.from_bytes(self._ordinal[:8], "little", signed=True)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> tuple[int, int]:
        """Kill the process; returns the ordinal of the record under way, and the exit code."""
        self.kill()
        self._process.wait()
        self.pipe.close()
        ordinal = self.ordinal()
        self._ordinal.close()
        return ordinal, self._process.returncode


def opened(answer: bytes) -> Any:
    """Unpickle a child's answer; returns the result, or raises the error that the child met."""
    result, error = pickle.loads(answer)
    if error is not None:
        kind, message, details = error
        raise kind(message, **details)
    return result


def failed(error: BaseException) -> bytes:
    """Return an answer that makes `opened` raise `error`. Errors meant for the user travel as they are, any other one
    as a WorkerError with its traceback."""
    # Class, message and keywords apart: pickle can't rebuild exceptions with keyword arguments.
    if isinstance(error, MillraceError) and not isinstance(error, RecordError):
        keywords = {"where": error.where, "fix": error.fix}
        if isinstance(error, WorkerError):
            keywords["details"] = error.details
        return pickle.dumps((None, (type(error), error.message, keywords)))
    keywords = {"where": "in a worker", "details": traceback.format_exc()}
    return pickle.dumps((None, (WorkerError, f"{type(error).__name__}: {error}", keywords)))


def _mark(memory: mmap.mmap, ordinal: int) -> None:
    memory[:8] = ordinal.to_bytes(8, "little", signed=True)


def serve() -> None:
    """Main function of the child: do one job after the other until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    pipe_fd, memory_fd, parent = map(int, sys.argv[2:])
    die_with_parent(parent)
    pipe, memory = Connection(pipe_fd), mmap.mmap(memory_fd, 8)
    while True:
        try:
            body, lethal = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            work, task = pickle.loads(body)
            answer = pickle.dumps((work(task, lethal, lambda ordinal: _mark(memory, ordinal)), None))
        except BaseException as error:
            answer = failed(error)
        pipe.send_bytes(answer)
