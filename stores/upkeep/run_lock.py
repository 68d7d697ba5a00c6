"""Exclusive lock on the place of a run, and the link from a run's local folder to stores at a URL.

`millrace run` and `forget` hold the lock. In a local folder it is the file `lock`, which the kernel unlocks when its
holder ends. At a URL the claim with the highest number holds:

    lock/000007.json     create-only: host and process of the claimant
    lock/000007.alive    touched every `BEAT_S`; its age by the clock of the filesystem tells whether the holder lives
    lock/000007.free     the holder released the lock

A holder that died on this machine is recognized at once, one on another machine after `GRACE_S`. Commits are safe
without this lock. It saves double work, and keeps `forget` from deleting what a run reads.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from manifests.errors import ManifestError, StoreError
from manifests.files import LockHeld, held_file, write_whole
from manifests.records import Json, canonical_json
from stores import leases
from stores.files.local import LocalFiles
from stores.files.protocol import Files

URL_FILE = "stores.url"
FOLDER = "lock"
BEAT_S = 15.0
GRACE_S = 120.0
"""A holder on another machine counts as dead after this long without a heartbeat."""
FIX = "wait for it or stop it, then run the same command again"


def stores_url(folder: str | Path) -> str:
    """Return where the stores of a run are: the URL in its file `stores.url`, else `folder` itself."""
    if "://" in str(folder):
        return str(folder)
    file = Path(folder) / URL_FILE
    return file.read_text(encoding="utf-8").strip() if file.is_file() else str(folder)


def record_stores_url(folder: Path, url: str) -> None:
    """Record in `folder` that the stores of its run are at `url`, which may be the folder itself.

    Raises:
        ManifestError: the folder belongs to a run with its stores at another place.
    """
    recorded = stores_url(folder)
    own = str(folder)
    if recorded == own and url != own and next(folder.glob("*/store.json"), None) is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / URL_FILE, f"{url}\n")
    elif recorded != url:
        fix = "give --out as before, or another folder; for stores at a URL, another --local"
        raise ManifestError(f"this is the folder of a run with its stores at {recorded}", where=own, fix=fix)


@contextmanager
def run_lock(files: Files) -> Iterator[None]:
    """Hold the place of a run.

    Raises:
        StoreError: another process holds it.
    """
    with file_lock(files.root / FOLDER) if isinstance(files, LocalFiles) else _claimed(files):
        yield


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock file of a local run.

    Raises:
        StoreError: another process holds it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(held_file(path))
        except LockHeld as error:
            holder = f" (process {error.holder})" if error.holder else ""
            raise StoreError(f"another run is at work here{holder}", where=str(path.parent), fix=FIX) from None
        yield


@contextmanager
def _claimed(files: Files) -> Iterator[None]:
    number = _claim(files)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with suppress(StoreError):  # the next beat may succeed
                files.touch(_path(number, "alive"))

    heart = threading.Thread(target=beat, name="run-lock", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with suppress(StoreError):  # the claim then ends after GRACE_S
            files.touch(_path(number, "free"))


def _claim(files: Files) -> int:
    """Return the number of our claim once it is the highest.

    A claimant that came second, or slept while others came and went, sees a higher number and starts again.
    """
    while True:
        claims = _claims(files)
        top = max(claims, default=0)
        if top:
            _refuse_living(files, top, claims[top])
        if not files.swap(_path(top + 1, "json"), canonical_json(_identity()).encode()):
            continue
        files.touch(_path(top + 1, "alive"))
        if max(_claims(files)) == top + 1:
            for number in (number for number in claims if number < top):
                for suffix in sorted(claims[number]):
                    files.delete(_path(number, suffix))
            return top + 1


def _claims(files: Files) -> dict[int, dict[str, float]]:
    """Return the files of each claim: number -> suffix -> time of change in seconds since 1970."""
    claims: dict[int, dict[str, float]] = {}
    for info in files.listing(FOLDER):
        number, _, suffix = info.path.rpartition("/")[2].partition(".")
        if number.isdigit():
            claims.setdefault(int(number), {})[suffix] = info.modified_s
    return claims


def _refuse_living(files: Files, number: int, times: dict[str, float]) -> None:
    """Raise StoreError where the claimant may still be alive; `times` as in `_claims`."""
    if "free" in times:
        return
    silent_s = leases.now_s(files) - max(times.values())
    try:
        holder = json.loads(files.read(_path(number, "json")))
    except (ValueError, FileNotFoundError):
        holder = {}
    if silent_s >= GRACE_S or _is_dead(holder):
        return
    who = f"process {holder.get('process')} on {holder.get('host')}, last heartbeat {max(0, silent_s):.0f} s ago"
    fix = f"{FIX}; if it died on another machine, its lock ends {GRACE_S:.0f} s after the last heartbeat"
    raise StoreError(f"another run is at work here ({who})", where=files.url, fix=fix)


def _identity() -> dict[str, Json]:
    """Return what identifies this process: host, kernel and process namespace, process id, start time."""
    return {"host": socket.gethostname(), "kernel": _kernel(), "process": os.getpid(), "born": _start_time(os.getpid())}


def _is_dead(holder: dict[str, Json]) -> bool:
    """Tell whether a holder has certainly ended; known only under the same kernel, in the same container."""
    return holder.get("kernel") == _kernel() and _start_time(holder["process"]) != holder["born"]


def _kernel() -> str:
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


def _start_time(process: int) -> str | None:
    """Return the start time of a process in clock ticks since boot; None where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _path(number: int, suffix: str) -> str:
    return f"{FOLDER}/{number:06d}.{suffix}"
