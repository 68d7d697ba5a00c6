"""One at a time: a run, or what must not disturb one, holds the folder that its stores lie in.

A local folder has a file `lock`, which the kernel frees with its holder. Elsewhere the highest number holds:

    lock/000007.json     create-only: who it is
    lock/000007.alive    as new as the last sign of life, by the clock of the filesystem
    lock/000007.free     it went

A holder that died on this machine is known to be dead at once, one elsewhere after `GRACE_S`. Commits are safe without
any of this: what it saves is work done twice, and `forget` pulling away what a run reads.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from manifests.errors import StoreError
from manifests.records import Json, canonical_json
from stores import leases
from stores.files.open import Files, LocalFiles

FOLDER = "lock"
BEAT_S = 15.0
GRACE_S = 120.0
"""Without a sign of life for so long, a holder on another machine is taken for dead."""
FIX = "wait for it or stop it, then run the same command again"


@contextmanager
def alone(files: Files) -> Iterator[None]:
    """Hold a folder of stores. Raises StoreError while somebody else does."""
    with held_file(files.root / FOLDER) if isinstance(files, LocalFiles) else _claimed(files):
        yield


@contextmanager
def held_file(path: Path) -> Iterator[None]:
    """Hold a file that the kernel frees with its holder. Raises StoreError while somebody else does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip()
            who = f" (process {holder})" if holder else ""
            raise StoreError(f"another run is at work here{who}", where=str(path.parent), fix=FIX) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def _claimed(files: Files) -> Iterator[None]:
    mine = _claim(files)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with suppress(StoreError):  # the next beat may get through
                files.touch(_path(mine, "alive"))

    heart = threading.Thread(target=beat, name="alive", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with suppress(StoreError):  # then it is taken for dead later
            files.touch(_path(mine, "free"))


def _claim(files: Files) -> int:
    """Our number, once it is the highest. Who was second, or slept while others came and went, sees a higher one."""
    while True:
        known = _claims(files)
        top = max(known, default=0)
        if top:
            _refuse_living(files, top, known[top])
        if not files.swap(_path(top + 1, "json"), canonical_json(_me()).encode()):
            continue
        files.touch(_path(top + 1, "alive"))
        if max(_claims(files)) == top + 1:
            for number in (number for number in known if number < top):
                for what in sorted(known[number]):
                    files.delete(_path(number, what))
            return top + 1


def _claims(files: Files) -> dict[int, dict[str, float]]:
    """Number -> what there is of it, and when that was made or touched."""
    found: dict[int, dict[str, float]] = {}
    for info in files.listing(FOLDER):
        number, _, what = info.path.rpartition("/")[2].partition(".")
        if number.isdigit():
            found.setdefault(int(number), {})[what] = info.modified_s
    return found


def _refuse_living(files: Files, number: int, there: dict[str, float]) -> None:
    if "free" in there:
        return
    silent_s = leases.now_s(files) - max(there.values())
    try:
        told = json.loads(files.read(_path(number, "json")))
    except (ValueError, FileNotFoundError):
        told = {}
    if silent_s >= GRACE_S or _is_dead(told):
        return
    who = f"process {told.get('process')} on {told.get('host')}, last heard of {max(0, silent_s):.0f} s ago"
    fix = f"{FIX}; one that died on another machine is passed over after {GRACE_S:.0f} s"
    raise StoreError(f"another run is at work here ({who})", where=files.url, fix=fix)


def _me() -> dict[str, Json]:
    return {"host": socket.gethostname(), "kernel": _kernel(), "process": os.getpid(), "born": _born(os.getpid())}


def _is_dead(told: dict[str, Json]) -> bool:
    """Whether it is known to be. Numbers of processes mean something under the same kernel, in the same container."""
    return told.get("kernel") == _kernel() and _born(told["process"]) != told["born"]


def _kernel() -> str:
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


def _born(process: int) -> str | None:
    """When a process was started, in ticks since the machine was; None where it has ended."""
    try:
        told = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if told[0] == "Z" else told[19]


def _path(number: int, what: str) -> str:
    return f"{FOLDER}/{number:06d}.{what}"
