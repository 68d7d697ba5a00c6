"""Garbage collection: expire snapshots and delete files that no snapshot reaches. `millrace store gc`.

Kept are the newest snapshot, tagged ones, those that the policy keeps, those that a store in the same folder was made
from, and every file that these reach. An expired snapshot keeps its root, about a kilobyte: root numbers have no gaps,
so that the newest is found without a listing.

While any writer is alive (`leases.py`), no file is deleted. The order of steps makes races harmless: list the files,
then check the leases, then find the reachable files. A unit that was committed in between is reachable by then. A unit
that is begun later has a lease, and leases are checked again before each deletion. A commit is refused if a file of its
units is missing.
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
    """Result of a garbage collection, or of its dry run."""

    expired: list[int] = field(default_factory=list)
    """Numbers of the snapshots that expire."""
    kept: dict[int, str] = field(default_factory=dict)
    """Number of each kept snapshot -> reason."""
    files: list[FileInfo] = field(default_factory=list)
    """Files that are deleted."""
    writers: int = 0
    """Number of living writers; if there are any, no file is deleted."""

    def as_json(self) -> dict[str, Json]:
        """Return JSON values for the command line."""
        return {
            "expired": self.expired,
            "kept": {str(number): reason for number, reason in self.kept.items()},
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
    """Expire snapshots by the policy, and delete the files that no other snapshot reaches.

    Args:
        keep_last: number of newest snapshots to keep.
        keep_days: keep snapshots committed within this many days. With neither policy, none expires.
        grace_s: a writer counts as dead after this long without a heartbeat.
        dry_run: change nothing.
    Raises:
        StoreError: a kept snapshot has lost a list, so that its files are unknown.
    """
    files = store.files
    now = leases.now_s(files)
    result = GarbageResult()
    listed = [info for folder in FOLDERS for info in files.listing(folder)]
    temporary = [info for info in files.listing("aside") if now - info.modified_s >= grace_s]
    result.writers = leases.count_living(files, grace_s, now)
    temporary = [] if result.writers else temporary  # a unit may take longer than the age of its first temporary file
    result.kept = _kept(store, now, keep_last, keep_days)
    result.expired = [number for number in live_snapshots(store) if number not in result.kept]
    reached = {path for number in result.kept for path in _reachable(store, number)}
    unreached = [] if result.writers else [info for info in listed if info.path not in reached]
    result.files = doomed = [*unreached, *temporary]
    if dry_run:
        return result
    for number in result.expired:
        files.touch(expired_path(number))
    for done, info in enumerate(doomed):
        if leases.count_living(files, grace_s, now):
            result.writers, result.files = 1, doomed[:done]
            break
        files.delete(info.path)
    for info in files.listing("leases"):
        if now - info.modified_s >= grace_s:
            files.delete(info.path)
    return result


def live_snapshots(store: Store) -> dict[int, float]:
    """Return the snapshots that have not expired: number -> time of commit, seconds since 1970."""
    return {
        number: time_s
        for number, time_s in commit_times(store.files).items()
        if not store.files.exists(expired_path(number))
    }


def _kept(store: Store, now: float, keep_last: int | None, keep_days: float | None) -> dict[int, str]:
    """Return the kept snapshots: number -> reason."""
    committed = live_snapshots(store)
    if not committed:
        return {}
    if keep_last is None and keep_days is None:
        return dict.fromkeys(committed, "no policy was given")
    kept = {max(commit_times(store.files)): "newest"}
    for name, tagged in tags(store.files).items():
        if tagged["number"] in committed:
            kept.setdefault(tagged["number"], f"tag {name}")
    for url, number in _referenced_snapshots(store.files):
        if number in committed:
            kept.setdefault(number, f"{posixpath.basename(url)} was made from it")
    for number in sorted(committed, reverse=True)[: keep_last or 0]:
        kept.setdefault(number, f"one of the last {keep_last}")
    for number, time_s in committed.items():
        if keep_days is not None and now - time_s < keep_days * DAY_S:
            kept.setdefault(number, f"within {keep_days:g} days")
    return dict(sorted(kept.items()))


def _referenced_snapshots(files: Files) -> Iterator[tuple[str, int]]:
    """Yield (URL of a store in the same folder, number of a snapshot here that it was made from)."""
    folder = open_files(posixpath.dirname(files.url))
    for name in folder.folders():
        other_files = open_files(f"{folder.url}/{name}")
        if other_files.url == files.url or not other_files.exists("store.json"):
            continue
        other = Store(other_files, read_meta(other_files))
        for number in commit_times(other_files):
            for parent in other.snapshot(number).parents:
                if parent.url == files.url:
                    yield other_files.url, parent.number


def _reachable(store: Store, number: int) -> set[str]:
    """Return the paths of all files of a snapshot. Raises StoreError if a list is missing."""
    snapshot = store.snapshot(number)
    paths = object_paths(snapshot) | {certificates.certificate_path(snapshot)} | find.lookup_paths(store.files, number)
    missing = sorted(path for path in list_paths(snapshot.root) if not store.files.exists(path))
    if missing:
        raise StoreError(
            f"snapshot {number} has lost a list, so its files are unknown; nothing was deleted",
            where=f"{store.url}/{missing[0]}",
            fix="`millrace store repair` it from a copy, or let it expire",
        )
    return paths
