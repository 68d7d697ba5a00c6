"""Leases of writers: one empty file per unit that is being written, as new as its writer's last heartbeat.

`writer.py` renews the lease of its unit, the commit of the unit releases it, and `upkeep/gc.py` deletes nothing while
any lease is alive. Everything else that writes files no root reaches yet takes a lease as well: copies, repairs,
`forget`, the lookup index, commits without a new unit. Ages are differences between times of the filesystem, so that
the clocks of machines don't matter.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

from manifests.records import digest
from stores.files.protocol import Files

RENEW_S = 60.0
GRACE_S = 3600.0
"""A writer counts as dead after this long without a heartbeat. If it lives after all, its commit is refused and its
unit written again."""


class Lease:
    """Lease of one unit's writer. There is no file before the first `renew`."""

    def __init__(self, files: Files, unit: str) -> None:
        self._files, self._path = files, _path(unit)
        self._renewed_s: float | None = None

    def renew(self) -> None:
        """Give a heartbeat. Cheap: touches the file once per minute."""
        now = time.monotonic()
        if self._renewed_s is None or now - self._renewed_s >= RENEW_S:
            self._files.touch(self._path)
            self._renewed_s = now

    def release(self) -> None:
        """Delete the file of the lease."""
        if self._renewed_s is not None:
            self._files.delete(self._path)
            self._renewed_s = None


def unique_lease(files: Files, purpose: str) -> Lease:
    """Return a lease for work that belongs to no unit, such as a copy; several may run at once."""
    return Lease(files, f"{purpose} {uuid.uuid4().hex}")


def release_units(files: Files, units: Iterable[str]) -> None:
    """Delete the leases of units by name, whoever took them."""
    for unit in units:
        files.delete(_path(unit))


def now_s(files: Files) -> float:
    """Return the current time by the clock of the filesystem, seconds since 1970."""
    probe = f"leases/{uuid.uuid4().hex}.probe"
    files.touch(probe)
    try:
        return next(info.modified_s for info in files.listing("leases") if info.path == probe)
    finally:
        files.delete(probe)


def count_living(files: Files, grace_s: float, now: float) -> int:
    """Return the number of leases with a heartbeat in the last `grace_s` seconds before `now`."""
    return sum(info.path.endswith(".unit") and now - info.modified_s < grace_s for info in files.listing("leases"))


def _path(unit: str) -> str:
    return f"leases/{digest('lease', unit)[:32]}.unit"
