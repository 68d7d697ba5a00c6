"""Garbage: snapshots that expired, and files that no snapshot reaches. `millrace store gc`.

What stays: the newest snapshot, tagged ones, those that the policy keeps, those that a store beside this one was made
from, and all that they reach. Of an expired snapshot the root stays as well, a kilobyte that says what there was:
numbers have no gaps, so that the newest is found without listing.

While a writer is alive (`leases.py`) no file is taken, whoever it belongs to. The order of steps makes races harmless:
files are listed first, then leases are looked at, then what is reachable is found; a unit that is committed in between
is reachable by then, one that is begun afterwards has a lease, which is looked at again before each deletion; and a
commit is refused where a file of its units is gone.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field

from manifests.errors import StoreError
from manifests.records import Json
from stores import leases
from stores.commits.head import read_meta
from stores.commits.lists import list_paths
from stores.files.open import open_files
from stores.files.protocol import FileInfo, Files
from stores.lookup import find
from stores.store import Store
from stores.upkeep import certificates
from stores.upkeep.log import commit_times, expired_path, object_paths, tags

FOLDERS = ("shards", "index", "quarantine", "lists", certificates.FOLDER, find.FOLDER)
DAY_S = 86_400.0


@dataclass
class GarbageResult:
    expired: list[int] = field(default_factory=list)
    """Snapshots."""
    kept: dict[int, str] = field(default_factory=dict)
    """Why each of the others stays."""
    files: list[FileInfo] = field(default_factory=list)
    """Deleted, or to be deleted in a dry run."""
    writers: int = 0
    """Alive; if any is, files stay."""

    def as_json(self) -> dict[str, Json]:
        return {
            "expired": self.expired,
            "kept": {str(number): why for number, why in self.kept.items()},
            "files": len(self.files),
            "bytes": sum(info.size for info in self.files),
            "writers": self.writers,
        }


def collect_garbage(
    store: Store,
    *,
    keep_last: int | None = None,
    keep_days: float | None = None,
    grace_s: float = leases.GRACE_S,
    dry_run: bool = False,
) -> GarbageResult:
    """
    Args:
        keep_last: so many of the newest snapshots stay.
        keep_days: those committed within so many days stay. With neither, none expires.
        grace_s: after so long without a sign of life a writer is taken for dead.
    """
    files = store.files
    now = leases.now_s(files)
    found = GarbageResult()
    there = [info for folder in FOLDERS for info in files.listing(folder)]
    aside = [info for info in files.listing("aside") if now - info.modified_s >= grace_s]
    found.writers = leases.count_living(files, grace_s, now)
    aside = [] if found.writers else aside  # a unit may take longer than what it put aside first
    found.kept = _kept(store, now, keep_last, keep_days)
    found.expired = [number for number in live(store) if number not in found.kept]
    reached = {path for number in found.kept for path in _objects(store, number)}
    unreached = [] if found.writers else [info for info in there if info.path not in reached]
    found.files = doomed = [*unreached, *aside]
    if dry_run:
        return found
    for number in found.expired:
        files.touch(expired_path(number))
    for done, info in enumerate(doomed):
        if leases.count_living(files, grace_s, now):
            found.writers, found.files = 1, doomed[:done]
            break
        files.delete(info.path)
    for info in files.listing("leases"):
        if now - info.modified_s >= grace_s:
            files.delete(info.path)
    return found


def live(store: Store) -> dict[int, float]:
    """Number of each snapshot that has not expired, and when it was committed."""
    return {
        number: then
        for number, then in commit_times(store.files).items()
        if not store.files.exists(expired_path(number))
    }


def _kept(store: Store, now: float, keep_last: int | None, keep_days: float | None) -> dict[int, str]:
    """Number of each snapshot that stays, and why."""
    committed = live(store)
    if not committed:
        return {}
    if keep_last is None and keep_days is None:
        return dict.fromkeys(committed, "no policy")
    kept = {max(commit_times(store.files)): "newest"}
    for name, told in tags(store.files).items():
        if told["number"] in committed:
            kept.setdefault(told["number"], f"tag {name}")
    for url, number in _parents_named_beside(store.files):
        if number in committed:
            kept.setdefault(number, f"{posixpath.basename(url)} was made from it")
    for number in sorted(committed, reverse=True)[: keep_last or 0]:
        kept.setdefault(number, f"one of the last {keep_last}")
    for number, then in committed.items():
        if keep_days is not None and now - then < keep_days * DAY_S:
            kept.setdefault(number, f"within {keep_days:g} days")
    return dict(sorted(kept.items()))


def _parents_named_beside(files: Files) -> Iterator[tuple[str, int]]:
    """(URL of a store in the same folder, number of our snapshot that one of its snapshots was made from)."""
    above = open_files(posixpath.dirname(files.url))
    for name in above.folders():
        beside = open_files(f"{above.url}/{name}")
        if beside.url == files.url or not beside.exists("store.json"):
            continue
        other = Store(beside, read_meta(beside))
        for number in commit_times(beside):
            for parent in other.snapshot(number).parents:
                if parent.url == files.url:
                    yield beside.url, parent.number


def _objects(store: Store, number: int) -> set[str]:
    snapshot = store.snapshot(number)
    found = object_paths(snapshot) | {certificates.certificate_path(snapshot)} | find.lookup_paths(store.files, number)
    missing = sorted(path for path in list_paths(snapshot.root) if not store.files.exists(path))
    if missing:
        raise StoreError(
            f"snapshot {number} has lost a list, so nobody knows what it reaches; nothing was deleted",
            where=f"{store.url}/{missing[0]}",
            fix="`millrace store repair` it from a copy, or let it expire",
        )
    return found
