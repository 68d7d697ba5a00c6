"""Clusters that misbehave: CPUs held by others, workers that vanish, join late, or come back.

The Dask workers here have a folder each and share nothing but a store on an S3 server.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from distributed import Client

from manifests.errors import MillraceError
from pipelines.dag.run import main as millrace_run
from pipelines.dag.unit import StoreTask
from pipelines.engines.child import WorkerError, opened
from pipelines.engines.choose import open_engine
from pipelines.engines.cluster import run_in_child
from pipelines.engines.engine import Engine, EngineSettings, Submission
from pipelines.node import Unit, UnitTask
from stores.store import Store
from tests.servers.loopback import free_port
from tests.servers.s3 import BUCKET, reached_at, s3_server

ROOT = Path(__file__).parents[3]

WORK = """
import os, pickle, signal, time
from dataclasses import dataclass
from pathlib import Path
from manifests.records import Document, Text, record_id
from pipelines.dag.unit import run_unit

def double(task, lethal, mark):
    return 2 * task

def lose_the_worker_once(task, lethal, mark):
    try:
        open(task, "x").close()
    except FileExistsError:
        return "done"
    os.kill(os.getppid(), signal.SIGKILL)

def lose_the_worker(task, lethal, mark):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)

@dataclass(frozen=True)
class Held:
    '''Its records say which folder they were made in; it waits where that folder says so.'''
    def work(self, task, writer, attempt):
        Path("begun").touch()
        while Path("hold").exists():
            time.sleep(0.05)
        for i in range(3):
            name = f"{task.unit.name}#{i}"
            text = f"made in {Path.cwd().name}"
            attempt.store(name, Document(record_id("n", name), "n", name, "web", (Text(text),)))

def keep_the_receipt(unit, lethal, mark):
    outcome = run_unit(unit, lethal, mark)
    Path("receipt").write_bytes(pickle.dumps(outcome.receipt))
    return outcome
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("work")
    (folder / "work_of_the_cluster.py").write_text(WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
        yield importlib.import_module("work_of_the_cluster")
    del sys.modules["work_of_the_cluster"]


def run(engine: Engine, work: Callable[..., Any], tasks: list[Any]) -> list[Any]:
    return list(engine.run("node", work, [Submission(f"node, unit {task}", task) for task in tasks]))


# ---------------------------------------------------------------------- Ray


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def ray_engine(work: ModuleType, messages: list[str]) -> Iterator[Engine]:
    with open_engine(EngineSettings(kind="ray", starved_s=3.0), 2, messages.append) as engine:
        yield engine


def test_a_ray_worker_that_vanishes_costs_its_unit_another_try(
    ray_engine: Engine, work: ModuleType, tmp_path: Path
) -> None:
    lost = str(tmp_path / "lost")
    assert run(ray_engine, work.lose_the_worker_once, [lost]) == [(lost, "done")]


def test_a_unit_whose_ray_workers_all_vanish_is_named(ray_engine: Engine, work: ModuleType) -> None:
    with pytest.raises(WorkerError, match="its worker vanished 3 times") as caught:
        run(ray_engine, work.lose_the_worker, [7])
    assert caught.value.where == "node, unit 7"
    assert run(ray_engine, work.double, [1]) == [(1, 2)]


@pytest.mark.timeout(60)
def test_units_run_although_actors_hold_every_cpu_of_ray(
    ray_engine: Engine, work: ModuleType, messages: list[str]
) -> None:
    import ray

    class Holder:
        def here(self) -> bool:
            return True

    messages.clear()  # workers that had to be started anew may have looked like it
    assert run(ray_engine, work.double, [0]) == [(0, 0)] and not messages
    holders = [ray.remote(Holder).options(num_cpus=1).remote() for _ in range(2)]
    assert ray.get([holder.here.remote() for holder in holders]) == [True, True]
    assert sorted(run(ray_engine, work.double, list(range(6)))) == [(i, 2 * i) for i in range(6)]
    assert len(messages) == 1 and "others hold every CPU" in messages[0]
    for holder in holders:
        ray.kill(holder)


# ---------------------------------------------------------------------- Dask, over machines that share only a bucket


class Machines:
    """A scheduler and workers as processes; each worker has a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start_scheduler(self) -> None:
        port = self.address.rpartition(":")[2]
        self._start("scheduler", "dask_scheduler", "--host", "127.0.0.1", "--port", port, "--dashboard-address", ":0")

    def start_worker(self, name: str, hold: bool = False) -> Path:
        here = self.folder / name
        here.mkdir()
        if hold:
            (here / "hold").touch()
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name, "--local-directory", str(here))
        self._start(name, "dask_worker", self.address, *options)
        return here

    def _start(self, name: str, module: str, *options: str) -> None:
        here = self.folder / name
        here.mkdir(exist_ok=True)
        environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s"}
        command = [sys.executable, "-m", f"distributed.cli.{module}", *options]
        with (here / "log").open("wb") as log:
            self.processes[name] = subprocess.Popen(command, cwd=here, env=environment, stdout=log, stderr=log)

    def send(self, name: str, what: signal.Signals) -> None:
        self.processes[name].send_signal(what)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def machines(work: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Machines with the address of an S3 server in their environment."""
    with s3_server() as port, reached_at(port):
        machines = Machines(tmp_path_factory.mktemp("machines"))
        machines.start_scheduler()
        yield machines
        machines.end()


@pytest.mark.timeout(120)
def test_late_killed_and_returning_workers_lose_and_double_nothing(machines: Machines, work: ModuleType) -> None:
    units = [f"unit-{i}" for i in range(6)]
    store = Store.create(f"s3://{BUCKET}/run/documents", "documents", "n")
    tasks = [StoreTask(work.Held(), store.url, unit, UnitTask("n", Unit(unit, unit), {}), 100, 0.5) for unit in units]
    zombie, killed = machines.start_worker("zombie", hold=True), machines.start_worker("killed", hold=True)
    settings = EngineSettings(kind="dask", address=machines.address, in_flight_units=4)

    def drive() -> list[Any]:
        with open_engine(settings, 2, print) as engine:
            return run(engine, work.keep_the_receipt, tasks)

    driver = ThreadPoolExecutor(1).submit(drive)
    until(lambda: (zombie / "begun").exists() and (killed / "begun").exists())
    with Client(machines.address, set_as_default=False) as client:  # as its dashboard does
        keys = client.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler.tasks])
    assert {key[0] for key in keys} == {"node"} and {key[1].partition(" StoreTask")[0] for key in keys} == {
        "node, unit"
    }
    machines.send("killed", signal.SIGKILL)
    machines.send("zombie", signal.SIGSTOP)  # the scheduler takes it for dead and gives its unit away
    late = machines.start_worker("late")
    outcomes = driver.result(60)
    snapshot = store.commit([outcome.receipt for _, outcome in outcomes], node="x", units=units)
    assert sorted(document.locator for document in snapshot.records()) == [f"{u}#{i}" for u in units for i in range(3)]
    assert {document.text for document in snapshot.records()} == {f"made in {late.name}"}

    (zombie / "hold").unlink()
    machines.send("zombie", signal.SIGCONT)
    until(lambda: (zombie / "receipt").exists())
    receipt = pickle.loads((zombie / "receipt").read_bytes())
    again = store.commit([receipt], node="x", units=units)
    assert receipt.unit in units and (again.number, again.content_root) == (snapshot.number, snapshot.content_root)
    assert {document.text for document in again.records()} == {f"made in {late.name}"}


DAG = """
name: elsewhere
nodes:
  documents: {kind: ingest_stdlib, text_bytes: 100_000, code_bytes: 100_000}
  filtered: {kind: filter, input: documents, ops: [{kind: text_length, min_characters: 400}]}
  samples: {kind: tokenize, inputs: [filtered]}
  page: {kind: report, inputs: [samples]}
"""


def test_a_run_on_machines_that_share_only_a_bucket_ends_as_on_one_machine(machines: Machines, tmp_path: Path) -> None:
    dag = tmp_path / "dag.yaml"
    dag.write_text(DAG)
    machines.start_worker("alone")
    address = f"engine.address={machines.address}"
    url, here, calm = f"s3://{BUCKET}/whole", tmp_path / "here", tmp_path / "calm"
    options = ["--engine", "dask", "--set", address, "--out", url, "--local", str(here)]
    assert millrace_run([str(dag), *options]) == 0
    assert millrace_run([str(dag), "--out", str(calm), "--workers", "0"]) == 0
    for name in ("documents", "filtered", "samples"):
        far, near = Store.open(f"{url}/{name}").head(), Store.open(str(calm / name)).head()
        assert far is not None and near is not None and far.content_root == near.content_root
    assert (here / "report.html").is_file() and not (here / "documents").exists()
    assert list((machines.folder / "alone").glob("**/*.tar")) == []


def test_a_worker_with_other_code_is_refused() -> None:
    with pytest.raises(MillraceError, match="other code than the run") as caught:
        opened(run_in_child(b"", "node, unit 1", "0" * 64))
    assert "node, unit 1" in caught.value.where


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
