"""The engine `dask`: one task of Dask's scheduler per unit, grouped by node in its dashboard.

An embedded cluster is threads of this process, each with its own child: units are done in child processes anyway, and
Dask worker processes on top would cost seconds and memory. If a worker vanishes, Dask's scheduler moves its units to
another one, as often as its setting `allowed-failures` permits.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, KilledWorker, LocalCluster

from manifests.errors import MillraceError
from pipelines.engines.child import WorkerError
from pipelines.engines.cluster import ClusterEngine, WorkerLost, code_digest, no_units_here, run_in_child, unreachable
from pipelines.engines.engine import EngineSettings, Flight

CONNECT_S = 10
"""Time in which the scheduler must answer."""


class DaskEngine(ClusterEngine):
    def __init__(self, settings: EngineSettings, workers: int, say: Callable[[str], None]) -> None:
        super().__init__(settings, workers, say)
        self._cluster: LocalCluster | None = None
        self._client: Client | None = None
        self._sent: dict[Any, tuple[Future, Flight[Any]]] = {}
        """Units under way, by the key of their Dask task."""
        self._ended: SimpleQueue[Any] = SimpleQueue()
        """Keys of tasks that have ended."""

    def _connect(self) -> int:
        if self._client is None:
            if self.settings.address is None:
                self._cluster = LocalCluster(
                    n_workers=1,
                    threads_per_worker=self.workers,
                    processes=False,
                    protocol="inproc://",
                    dashboard_address="127.0.0.1:8787" if self.settings.dashboard else "127.0.0.1:0",
                    worker_dashboard_address="127.0.0.1:0",
                    silence_logs=logging.ERROR,
                )
            try:
                self._client = Client(self._cluster or self.settings.address, timeout=CONNECT_S, set_as_default=False)
            except (OSError, ValueError) as error:
                raise unreachable("Dask", self.settings.address, error) from None
        return sum(self._client.nthreads().values())

    def _submit(self, node: str, flight: Flight[Any]) -> None:
        assert self._client is not None
        name = flight.submission.name
        key = (node, name, uuid.uuid4().hex)  # the dashboard groups tasks by the first element
        future = self._client.submit(run_in_child, flight.job.body, name, code_digest(), key=key, pure=False, retries=0)
        self._sent[key] = (future, flight)
        future.add_done_callback(lambda future: self._ended.put(future.key))

    def _landed(self, timeout_s: float) -> tuple[Flight[Any], bytes | WorkerLost] | None:
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                key = self._ended.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except Empty:
                return None
            if key in self._sent:  # else it was canceled
                break
        future, flight = self._sent.pop(key)
        if future.status == "finished":
            return flight, future.result()
        if future.status == "error":
            raise _worker_error(future.exception(), flight.submission.name)
        raise MillraceError(
            "the Dask scheduler has stopped",
            where=self.settings.address or "embedded",
            fix="start it again, then run the same command; what was committed stays",
        )

    def _cancel_all(self) -> None:
        if self._client is not None and self._sent:
            self._client.cancel([future for future, _ in self._sent.values()])
        self._sent.clear()

    def close(self) -> None:
        self._cancel_all()
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            with no_units_here():  # else the cluster waits for the units under way
                self._cluster.close()
        self._client = self._cluster = None


def _worker_error(error: BaseException, name: str) -> WorkerError:
    """Return the error of a Dask task that failed outside `run_in_child`, which itself returns every failure."""
    if isinstance(error, KilledWorker):
        fix = "look at the memory and the logs of these machines, then run again; what was committed stays"
        return WorkerError(f"its workers vanished, the last one: {error.last_worker.address}", where=name, fix=fix)
    # This came before any code of ours ran: the worker can't import it.
    fix = "install the same millrace and its libraries on every machine of the cluster"
    return WorkerError(f"{type(error).__name__}: {error}", where=f"{name}, in a Dask worker", fix=fix)
