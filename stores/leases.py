"""Who is writing right now? One empty file per unit, as new as its writer's last sign of life.

`writer.py` renews it, the commit of the unit gives it up, and `upkeep/gc.py` takes no garbage while one is alive. So
does everybody else who writes what no root reaches yet: copies, repairs, `forget`, the look-up, commits without a new
unit. Ages are differences between times that the filesystem gave, so clocks of machines don't matter.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

from manifests.records import digest
from stores.files.protocol import Files

RENEW_S = 60.0
GRACE_S = 3600.0
"""Without a sign of life for so long, a writer is taken for dead. Should it live, its commit is refused and its unit
written again."""


class Lease:
    """Of one unit's writer. Nothing is on disk before the first `renew`."""

    def __init__(self, files: Files, unit: str) -> None:
        self._files, self._path = files, _path(unit)
        self._renewed: float | None = None

    def renew(self) -> None:
        """Cheap; touches the file once a minute."""
        now = time.monotonic()
        if self._renewed is None or now - self._renewed >= RENEW_S:
            self._files.touch(self._path)
            self._renewed = now

    def release(self) -> None:
        if self._renewed is not None:
            self._files.delete(self._path)
            self._renewed = None


def unique_lease(files: Files, what: str) -> Lease:
    """Of work that is no unit's, and may be done by several at once."""
    return Lease(files, f"{what} {uuid.uuid4().hex}")


def release_units(files: Files, units: Iterable[str]) -> None:
    for unit in units:
        files.delete(_path(unit))


def now_s(files: Files) -> float:
    """By the clock of the filesystem."""
    probe = f"leases/{uuid.uuid4().hex}.probe"
    files.touch(probe)
    try:
        return next(info.modified_s for info in files.listing("leases") if info.path == probe)
    finally:
        files.delete(probe)


def count_living(files: Files, grace_s: float, now: float) -> int:
    """How many writers gave a sign of life within `grace_s`."""
    return sum(info.path.endswith(".unit") and now - info.modified_s < grace_s for info in files.listing("leases"))


def _path(unit: str) -> str:
    return f"leases/{digest('lease', unit)[:32]}.unit"
