"""The engine that a manifest asks for; `ray` and `dask` are imported only here, when they are used."""

from __future__ import annotations

from collections.abc import Callable

from manifests.errors import ManifestError
from manifests.extras import require
from pipelines.engines.engine import Engine, EngineSettings
from pipelines.engines.local import LocalEngine


def open_engine(settings: EngineSettings, workers: int, say: Callable[[str], None]) -> Engine:
    """Return the engine; its workers start when the first unit is submitted.

    Args:
        workers: processes on this machine, for `local` and for embedded clusters.
        say: prints a line for the person at the terminal.
    Raises:
        ManifestError: the engine's library is not installed, or a cluster is to be embedded in 0 processes.
    """
    if settings.kind == "local":
        return LocalEngine(workers, settings.in_flight_bytes)
    if workers == 0 and settings.address is None:
        raise ManifestError("0 workers work in this process, not on a cluster", where="--workers", fix="give 1 or more")
    require(settings.kind, f"the engine {settings.kind}", "engine.kind")
    if settings.kind == "ray":
        from pipelines.engines.ray import RayEngine

        return RayEngine(settings, workers, say)
    from pipelines.engines.dask import DaskEngine

    return DaskEngine(settings, workers, say)
