"""The engine `ray`: one Ray task per unit, with the unit's name in Ray's dashboard.

A task first yields BEGUN, so that the driver can tell a unit that takes long from one that waits for a CPU. Actors that
hold every CPU of a cluster would make all units wait for ever; then one unit at a time runs without asking for a CPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it when it is imported
import ray
from ray.exceptions import RayError, RayTaskError

from pipelines.engines.child import WorkerError
from pipelines.engines.cluster import ClusterEngine, WorkerLost, code_digest, run_in_child, unreachable
from pipelines.engines.engine import EngineSettings, Flight

OBJECT_STORE_BYTES = 80 << 20
"""Near the least that Ray accepts: our tasks are small, and by default Ray takes a third of the memory."""
TOKEN_HINT = "; if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here as on its nodes"
BEGUN = b""
STARVED_AGAIN_S = 0.2
"""`starved_s` once it is known that others hold every CPU."""


def unit(body: bytes, name: str, code: str) -> Iterator[bytes]:
    """The Ray task: yield BEGUN, then the answer of the unit."""
    yield BEGUN
    yield run_in_child(body, name, code)


@dataclass
class _Sent:
    """A unit under way."""

    node: str
    flight: Flight[Any]
    free: bool
    """It asks for no CPU."""
    begun: bool = False


class RayEngine(ClusterEngine):
    def __init__(self, settings: EngineSettings, workers: int, say: Callable[[str], None]) -> None:
        super().__init__(settings, workers, say)
        self._sent: dict[Any, _Sent] = {}
        """Units under way, by the handle of their Ray task."""
        self._starved = self._connected = False
        self._alive_s = 0.0
        """Last time at which a unit was known to run, or all units were new."""

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
                raise unreachable("Ray", address, error, TOKEN_HINT if address else "") from None
            self._connected = True
        return int(ray.cluster_resources().get("CPU", 0))

    def _submit(self, node: str, flight: Flight[Any], free: bool = False) -> None:
        name = flight.submission.name
        task = ray.remote(unit).options(
            name=name,
            num_cpus=0 if free else self.settings.cpus_per_unit,
            num_returns="streaming",
            max_retries=0,  # cluster.py counts and retries
        )
        if not self._sent:
            self._alive_s = time.monotonic()
        self._sent[task.remote(flight.job.body, name, code_digest())] = _Sent(node, flight, free)

    def _landed(self, timeout_s: float) -> tuple[Flight[Any], bytes | WorkerLost] | None:
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            waiting = not any(sent.begun or sent.free for sent in self._sent.values())
            if not waiting:
                self._alive_s = time.monotonic()
            starved_s = STARVED_AGAIN_S if self._starved else self.settings.starved_s
            patience_s = max(0.0, self._alive_s + starved_s - time.monotonic())
            ready, _ = ray.wait(list(self._sent), timeout=min(left_s, patience_s) if waiting else left_s)
            if not ready:
                if waiting and time.monotonic() >= self._alive_s + starved_s:
                    self._alive_s = time.monotonic()
                    if ray.available_resources().get("CPU", 0) < self.settings.cpus_per_unit:
                        self._send_without_cpu()
                continue
            self._alive_s = time.monotonic()
            answer = _next_answer(ready[0])
            if isinstance(answer, bytes) and answer == BEGUN:
                self._sent[ready[0]].begun = True
                self._starved = self._starved and self._sent[ready[0]].free
                continue
            return self._sent.pop(ready[0]).flight, answer
        return None

    def _send_without_cpu(self) -> None:
        """Submit the oldest unit again, without a CPU: none has begun, as others hold every CPU, perhaps for ever."""
        if not self._starved:
            self.say("others hold every CPU of the Ray cluster; one unit at a time now runs without asking for a CPU")
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


def _next_answer(handle: Any) -> bytes | WorkerLost:
    """Return what a Ray task yielded next. Raises WorkerError if the worker can't run our code."""
    try:
        return ray.get(next(handle))
    except RayTaskError as error:
        fix = "install the same millrace and its libraries on every machine of the cluster"
        raise WorkerError(str(error.cause), where="in a Ray worker", fix=fix, details=str(error)) from None
    except (RayError, StopIteration) as error:
        first_line = str(error).partition("\n")[0]
        return WorkerLost(f"{type(error).__name__}: {first_line}")
