"""The process pool: any order, first error, deadly records, and nobody left behind."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from manifests.errors import StoreError
from pipelines.engines.local import LocalEngine, WorkerError

WORK = """
import os, signal, time
from manifests.errors import StoreError

def double(task, lethal, tell):
    time.sleep(0.02 * (task % 3))
    return 2 * task

def fail_at_three(task, lethal, tell):
    if task == 3:
        raise StoreError("three is broken", where="here", fix="leave it out")
    return task

def mistake(task, lethal, tell):
    return [][task]

def die_at_record_two(task, lethal, tell):
    done = []
    for record in range(5):
        if record in lethal:
            continue
        tell(record)
        if record == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(record)
    return done

def die_once(task, lethal, tell):
    tell(7)
    try:
        open(task, "x").close()
    except FileExistsError:
        return sorted(lethal)
    os.kill(os.getpid(), signal.SIGSEGV)

def die_everywhere(task, lethal, tell):
    for record in range(1000):
        if record not in lethal:
            tell(record)
            os.kill(os.getpid(), signal.SIGKILL)

def die_without_a_record(task, lethal, tell):
    os._exit(5)

def note_pid_and_wait(task, lethal, tell):
    with open(os.path.join(task, str(os.getpid())), "w"):
        time.sleep(600)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that worker processes can import: they get our `sys.path`."""
    (tmp_path / "work_of_this_test.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("work_of_this_test")
    del sys.modules["work_of_this_test"]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_task_is_answered_once(work: ModuleType, workers: int) -> None:
    with LocalEngine(workers) as engine:
        assert sorted(engine.run(work.double, range(9), str)) == [(i, 2 * i) for i in range(9)]
        assert list(engine.run(work.double, [], str)) == []


def test_the_first_error_stops_the_run_with_the_workers_words(work: ModuleType) -> None:
    with LocalEngine(2) as engine:
        with pytest.raises(StoreError, match="three is broken") as caught:
            list(engine.run(work.fail_at_three, range(100), str))
        assert caught.value.where == "here" and caught.value.fix == "leave it out"
        assert sorted(engine.run(work.double, [1], str)) == [(1, 2)]


def test_a_mistake_of_ours_arrives_with_its_traceback(work: ModuleType) -> None:
    with LocalEngine(1) as engine, pytest.raises(WorkerError, match="IndexError") as caught:
        list(engine.run(work.mistake, [4], str))
    assert "return [][task]" in caught.value.details


def test_a_record_that_kills_its_worker_twice_is_passed_over(work: ModuleType) -> None:
    with LocalEngine(2) as engine:
        assert sorted(engine.run(work.die_at_record_two, ["a", "b"], str)) == [("a", [0, 1, 3, 4]), ("b", [0, 1, 3, 4])]


def test_a_worker_that_dies_once_costs_nothing(work: ModuleType, tmp_path: Path) -> None:
    with LocalEngine(1) as engine:
        assert list(engine.run(work.die_once, [str(tmp_path / "died")], str)) == [(str(tmp_path / "died"), [])]


def test_a_unit_full_of_deadly_records_fails_instead_of_going_on_for_ever(work: ModuleType) -> None:
    with LocalEngine(1) as engine, pytest.raises(WorkerError, match="9 records of this unit") as caught:
        list(engine.run(work.die_everywhere, [1], lambda task: f"unit {task}"))
    assert caught.value.where == "unit 1" and "memory" in str(caught.value)


def test_a_worker_that_dies_outside_of_records_fails_its_unit(work: ModuleType) -> None:
    with LocalEngine(1) as engine, pytest.raises(WorkerError, match="died 3 times, at last by exit code 5"):
        list(engine.run(work.die_without_a_record, [1], str))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(work: ModuleType, tmp_path: Path, how: signal.Signals) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import work_of_this_test as work\n"
        "from pipelines.engines.local import LocalEngine\n"
        "if __name__ == '__main__':\n"
        "    with LocalEngine(2) as engine:\n"
        f"        list(engine.run(work.note_pid_and_wait, [{str(pids)!r}] * 5, str))\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.DEVNULL
    )
    _until(lambda: len(list(pids.iterdir())) == 2)
    parent.send_signal(how)
    start = time.monotonic()
    parent.wait(20)
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
