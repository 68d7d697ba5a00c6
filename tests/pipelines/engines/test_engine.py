"""Engines: order of results, first error, deadly records, limits of units in flight, and no process left running."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from manifests.errors import StoreError
from pipelines.engines.child import WorkerError
from pipelines.engines.choose import open_engine
from pipelines.engines.engine import Engine, EngineSettings, InFlightWindow, Submission
from pipelines.engines.local import LocalEngine

ROOT = Path(__file__).parents[3]

WORK = """
import os, signal, time
from manifests.errors import StoreError

def double(task, lethal, mark):
    time.sleep(0.02 * (task % 3))
    return 2 * task

def fail_at_three(task, lethal, mark):
    if task == 3:
        raise StoreError("three is broken", where="here", fix="leave it out")
    return task

def mistake(task, lethal, mark):
    return [][task]

def die_at_record_two(task, lethal, mark):
    done = []
    for record in range(5):
        if record in lethal:
            continue
        mark(record)
        if record == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(record)
    return done

def die_once(task, lethal, mark):
    mark(7)
    try:
        open(task, "x").close()
    except FileExistsError:
        return sorted(lethal)
    os.kill(os.getpid(), signal.SIGSEGV)

def die_everywhere(task, lethal, mark):
    for record in range(1000):
        if record not in lethal:
            mark(record)
            os.kill(os.getpid(), signal.SIGKILL)

def die_without_a_record(task, lethal, mark):
    os._exit(5)

def note_pid_and_wait(task, lethal, mark):
    with open(os.path.join(task, str(os.getpid())), "w"):
        time.sleep(600)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A module that workers of every engine can import."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "work_of_this_test.py").write_text(WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
        yield importlib.import_module("work_of_this_test")
    del sys.modules["work_of_this_test"]


@pytest.fixture(scope="module", params=["local", "ray", "dask"])
def engine(request: pytest.FixtureRequest, work: ModuleType) -> Iterator[Engine]:
    """One engine of each kind for all tests, as a Ray cluster takes seconds to start."""
    with open_engine(EngineSettings(kind=request.param), 2, print) as engine:
        yield engine


def run(engine: Engine, work: Callable[..., Any], tasks: Iterable[Any]) -> list[Any]:
    return list(engine.run("node", work, (Submission(f"node, unit {task}", task) for task in tasks)))


def test_every_task_is_answered_once(engine: Engine, work: ModuleType) -> None:
    assert sorted(run(engine, work.double, range(9))) == [(i, 2 * i) for i in range(9)]
    assert run(engine, work.double, []) == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_workers_changes_nothing(work: ModuleType, workers: int) -> None:
    with LocalEngine(workers) as engine:
        assert sorted(run(engine, work.double, range(9))) == [(i, 2 * i) for i in range(9)]


def test_the_first_error_stops_the_run_with_the_message_of_the_worker(engine: Engine, work: ModuleType) -> None:
    with pytest.raises(StoreError, match="three is broken") as caught:
        run(engine, work.fail_at_three, range(100))
    assert caught.value.where == "here" and caught.value.fix == "leave it out"
    assert run(engine, work.double, [1]) == [(1, 2)]


def test_an_unexpected_error_arrives_with_its_traceback(engine: Engine, work: ModuleType) -> None:
    with pytest.raises(WorkerError, match="IndexError") as caught:
        run(engine, work.mistake, [4])
    assert "return [][task]" in caught.value.details


def test_a_record_that_kills_two_workers_is_skipped(engine: Engine, work: ModuleType) -> None:
    assert sorted(run(engine, work.die_at_record_two, ["a", "b"])) == [("a", [0, 1, 3, 4]), ("b", [0, 1, 3, 4])]


def test_a_worker_that_dies_once_costs_nothing(engine: Engine, work: ModuleType, tmp_path: Path) -> None:
    assert run(engine, work.die_once, [str(tmp_path / "died")]) == [(str(tmp_path / "died"), [])]


def test_a_unit_full_of_deadly_records_fails(work: ModuleType) -> None:
    with LocalEngine(1) as engine, pytest.raises(WorkerError, match="9 records of this unit") as caught:
        run(engine, work.die_everywhere, [1])
    assert caught.value.where == "node, unit 1" and "memory" in str(caught.value)


def test_a_worker_that_dies_outside_of_records_fails_its_unit(engine: Engine, work: ModuleType) -> None:
    with pytest.raises(WorkerError, match="died 3 times, the last time by exit code 5") as caught:
        run(engine, work.die_without_a_record, [1])
    assert caught.value.where == "node, unit 1"


def test_units_in_flight_stay_below_both_limits(work: ModuleType) -> None:
    window = InFlightWindow(work.double, [Submission(str(size), size, size) for size in (5, 4, 2, 30, 1)], 3, 10)
    five, four = window
    assert [five.submission.task, four.submission.task] == [5, 4] and list(window) == []
    window.again(five)
    assert list(window) == [five]
    window.landed(five)
    (two,) = window
    assert two.submission.task == 2
    window.landed(four)
    assert list(window) == []
    window.landed(two)
    (alone,) = window
    assert alone.submission.task == 30
    window.landed(alone)
    assert [one.submission.task for one in window] == [1]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(work: ModuleType, tmp_path: Path, how: signal.Signals) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(str(work.__file__)).parent)!r})\n"
        "import work_of_this_test as work\n"
        "from pipelines.engines.choose import open_engine\n"
        "from pipelines.engines.engine import EngineSettings, Submission\n"
        "from pipelines.engines.local import LocalEngine\n"
        "if __name__ == '__main__':\n"
        "    with LocalEngine(2) as engine:\n"
        f"        list(engine.run('node', work.note_pid_and_wait, [Submission('unit', {str(pids)!r})] * 5))\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    _until(lambda: len(list(pids.iterdir())) == 2)
    parent.send_signal(how)
    start = time.monotonic()
    parent.wait(60)
    workers = [int(file.name) for file in pids.iterdir()]
    _until(lambda: not any(_alive(pid) for pid in workers))
    assert time.monotonic() - start < 5


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _until(true: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
