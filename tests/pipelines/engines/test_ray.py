"""A Ray cluster given by its address: nodes of `ray start`, each with its own folder, that join and vanish."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from tests.pipelines.engines.test_cluster import ROOT, until
from tests.servers.loopback import free_port

WORK = """
import json, os, sys, time
from pathlib import Path

def where(task, lethal, mark):
    here = Path(os.environ["MACHINE"])
    (here / "begun").touch()
    while (here / "hold").exists():
        time.sleep(0.05)
    return here.name, Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().strip("\\0")

if __name__ == "__main__":
    from pipelines.engines.choose import open_engine
    from pipelines.engines.engine import EngineSettings, Submission
    from work_of_ray import where
    with open_engine(EngineSettings(kind="ray", address=sys.argv[1]), 1, print) as engine:
        print(json.dumps(sorted(engine.run("node", where, [Submission(f"node, unit {i}", i) for i in range(4)]))))
"""


class Nodes:
    """Nodes of a Ray cluster. Ray opens their ports on all interfaces and admits clients with the token only."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"{get_node_ip_address()}:{self.port}"  # which Ray takes, whatever it is told
        self.short = tempfile.mkdtemp(prefix="r")  # names of sockets have 107 bytes at most
        (folder / "work_of_ray.py").write_text(WORK)
        mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex, "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = {**os.environ, **mode, "PYTHONPATH": f"{folder}:{ROOT}"}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *options: str) -> Path:
        here = self.folder / name
        here.mkdir()
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory=80000000"]
        environment = {**self.environment, "MACHINE": str(here)}
        with (here / "log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*command, *options], cwd=here, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        return here

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def answer(self) -> bool:
        with socket.socket() as asked:
            return asked.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    yield nodes
    for name in list(nodes.processes):
        nodes.kill(name)
    shutil.rmtree(nodes.short, ignore_errors=True)


@pytest.mark.timeout(280)
def test_every_unit_is_done_although_nodes_join_late_and_are_killed(nodes: Nodes) -> None:
    nodes.start(
        "head",
        "--head",
        f"--port={nodes.port}",
        "--num-cpus=0",
        "--include-dashboard=false",
        f"--temp-dir={nodes.short}",
    )
    until(nodes.answer)
    killed = nodes.start("killed", f"--address={nodes.address}", "--num-cpus=1")
    (killed / "hold").touch()
    command = [sys.executable, str(nodes.folder / "work_of_ray.py"), nodes.address]
    with subprocess.Popen(command, env=nodes.environment, stdout=subprocess.PIPE, cwd=nodes.folder) as driver:
        until(lambda: (killed / "begun").exists() or driver.poll() is not None)
        nodes.start("late", f"--address={nodes.address}", "--num-cpus=1")
        nodes.kill("killed")
        shown, _ = driver.communicate(timeout=120)
    done = json.loads(shown.splitlines()[-1])
    assert done == [[i, ["late", f"ray::node, unit {i}"]] for i in range(4)]
