"""The engine `ray`: one Ray task per unit, named after it in Ray's dashboard.

A task says when it begins, so that the driver can tell a unit that takes long from one that waits for a CPU. Actors
that hold every CPU of a cluster would let all units wait for ever: then one unit at a time asks for none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: Ray looks at it then
import ray
from ray.exceptions import RayError, RayTaskError

from pipelines.engines.child import WorkerError
from pipelines.engines.cluster import ClusterEngine, WorkerLost, code_digest, unreachable, work_here
from pipelines.engines.engine import EngineSettings, Flight

OBJECT_STORE_BYTES = 80 << 20
"""Next to the least that Ray takes: nothing large of ours lies there, and left alone it takes a third of the memory."""
TOKEN = "; where it asks for its token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here as on its nodes"
BEGUN = b""
HURRY_S = 0.2
"""How long to wait for a CPU once it is known that others hold them all."""


def unit(body: bytes, name: str, code: str) -> Iterator[bytes]:
    yield BEGUN
    yield work_here(body, name, code)


@dataclass
class _Sent:
    node: str
    flight: Flight[Any]
    free: bool
    """It asks for no CPU."""
    begun: bool = False


class RayEngine(ClusterEngine):
    def __init__(self, settings: EngineSettings, workers: int, say: Callable[[str], None]) -> None:
        super().__init__(settings, workers, say)
        self._sent: dict[Any, _Sent] = {}
        self._starved = self._connected = False

    def _connect(self) -> int:
        if not self._connected:
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
            address = self.settings.address
            try:
                if address is not None:
                    ray.init(address, **quiet)
                else:
                    ray.init(
                        "local",
                        num_cpus=self.workers,
                        num_gpus=0,
                        include_dashboard=self.settings.dashboard,
                        dashboard_host="127.0.0.1",
                        object_store_memory=OBJECT_STORE_BYTES,
                        **quiet,
                    )
            except (ConnectionError, RayError, RuntimeError) as error:
                raise unreachable("Ray", address, error, TOKEN if address else "") from None
            self._connected = True
        return int(ray.cluster_resources().get("CPU", 0))

    def _submit(self, node: str, flight: Flight[Any], free: bool = False) -> None:
        name = flight.submission.name
        task = ray.remote(unit).options(
            name=name,
            num_cpus=0 if free else self.settings.cpus_per_unit,
            num_returns="streaming",
            max_retries=0,  # counted in cluster.py
        )
        self._sent[task.remote(flight.job.body, name, code_digest())] = _Sent(node, flight, free)

    def _landed(self) -> tuple[Flight[Any], bytes | WorkerLost]:
        while True:
            waiting = not any(sent.begun or sent.free for sent in self._sent.values())
            patience_s = HURRY_S if self._starved else self.settings.starved_s
            ready, _ = ray.wait(list(self._sent), timeout=patience_s if waiting else None)
            if not ready:
                if ray.available_resources().get("CPU", 0) < self.settings.cpus_per_unit:
                    self._send_without_cpu()
                continue
            said = _said(ready[0])
            if isinstance(said, bytes) and said == BEGUN:
                self._sent[ready[0]].begun = True
                self._starved = self._starved and self._sent[ready[0]].free
                continue
            return self._sent.pop(ready[0]).flight, said

    def _send_without_cpu(self) -> None:
        """No unit has begun: others hold every CPU, perhaps for good."""
        if not self._starved:
            self.say("others hold every CPU of the Ray cluster; going on with one unit at a time, which asks for none")
        self._starved = True
        handle, sent = next(iter(self._sent.items()))
        del self._sent[handle]
        ray.cancel(handle)
        self._submit(sent.node, sent.flight, free=True)

    def _cancel_all(self) -> None:
        while self._sent:
            handle, _ = self._sent.popitem()
            if ray.is_initialized():
                ray.cancel(handle, force=True)

    def close(self) -> None:
        self._cancel_all()
        if self._connected:
            ray.shutdown()
        self._connected = False


def _said(handle: Any) -> bytes | WorkerLost:
    try:
        return ray.get(next(handle))
    except RayTaskError as error:  # of a task before any code of ours ran, or a worker without our code
        fix = "install the same millrace and its libraries on every machine of the cluster"
        raise WorkerError(str(error.cause), where="in a Ray worker", fix=fix, details=str(error)) from None
    except (RayError, StopIteration) as error:
        words = str(error).partition("\n")[0]
        return WorkerLost(f"{type(error).__name__}: {words}")
