"""Builds, merges and cleans the lookup index of a snapshot, which `lookup/find.py` reads.

The index is built when a node has committed all its units, after `forget`, and by `repair`; never by a commit, which
that would slow down. Shards that no run file covers yet become a new run file. Four run files of about the same size
are merged into one. So there are few run files, and an entry is written again only when the store has grown fourfold.
"""

from __future__ import annotations

import posixpath
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from manifests.errors import StoreError
from stores import leases
from stores.files.local import LocalFiles
from stores.files.protocol import Files
from stores.lookup.find import (
    FOLDER,
    LookupManifest,
    index_entries,
    lookup_paths,
    manifest_bytes,
    manifest_path,
    read_manifest,
    read_newest_before,
)
from stores.lookup.run_file import COVER, ENTRY, EntrySource, NewEntries, RunEntry, RunFile, run_path, write_run
from stores.shards.entry import ShardEntry
from stores.snapshot import Snapshot
from stores.upkeep.verify import hash_file, lookup_damages

KINDS = ("documents", "samples", "packs")
LEASE = "lookup index"
SAME_SIZE = 4
"""Number of run files of one size class that are merged; a class reaches up to four times the class below."""
SMALL = 1 << 16
"""Entries up to which run files are all in the smallest size class."""
AT_ONCE = 8 << 20
"""Entries held in memory; more are spilled to local run files before they are merged."""

NONE = np.zeros(0, np.uint64)


@dataclass
class _Group:
    """Sources of one run file of the new index."""

    sources: list[tuple[EntrySource, np.ndarray]] = field(default_factory=list)
    """Sources, each with the shards whose entries in it are outdated: (S,) uint64 prefixes."""
    entries: int = 0
    """Number of entries, outdated ones included."""
    rewrite: bool = False
    """Whether the run file must be written; else its only source stays as it is."""

    def __add__(self, other: _Group) -> _Group:
        return _Group([*self.sources, *other.sources], self.entries + other.entries, rewrite=True)

    @property
    def size(self) -> int:
        """Size class."""
        return max(0, (self.entries - 1) // SMALL).bit_length() // 2


def build(snapshot: Snapshot, *, purge: bool = False) -> None:
    """Build the lookup index of a snapshot, unless there is one.

    Args:
        purge: remove the entries of deleted shards now, rather than in the next merge.
    Raises:
        StoreError: an index table is damaged, or the filesystem can't be written to.
    """
    if snapshot.kind not in KINDS:
        return
    files, number = snapshot.files, snapshot.number
    lists = tuple(entry.digest for entry in snapshot.root.lists)
    own = _read_undamaged(files, number)
    if own is not None and own.lists == lists and not purge:
        return
    lease = leases.Lease(files, LEASE)
    lease.renew()
    spill = files.temporary_path()
    try:
        try:
            runs = _runs(snapshot, own or read_newest_before(files, number) or LookupManifest(), purge, spill, lease)
        except StoreError:  # the earlier index is damaged: start from nothing
            runs = _runs(snapshot, LookupManifest(), purge, spill, lease)
        files.sync()
        if deleted := files.missing([run_path(run.digest) for run in runs], must_exist=True):
            where = f"{files.url}/{min(deleted)}"
            fix = "run the same command again"  # a garbage collection deleted a run file that was there at first
            raise StoreError("this file was deleted while the lookup index was built", where=where, fix=fix)
        path, data = manifest_path(number), manifest_bytes(LookupManifest(lists, tuple(runs)))
        if not files.swap(path, data):
            files.delete(path)
            files.swap(path, data)
    finally:
        shutil.rmtree(spill, ignore_errors=True)
        leases.release_units(files, [LEASE])


def _read_undamaged(files: Files, number: int) -> LookupManifest | None:
    with suppress(StoreError):
        return read_manifest(files, number)
    return None


def rebuild_purged(snapshot: Snapshot) -> None:
    """Rebuild an existing lookup index without entries of deleted shards, and delete all older ones.

    Older indexes may contain names of forgotten records.
    """
    files = snapshot.files
    existing = [info.path for info in files.listing(FOLDER)]
    if not existing:
        return
    build(snapshot, purge=True)
    for path in set(existing) - lookup_paths(files, snapshot.number):
        files.delete(path)


def repair_lookup(snapshot: Snapshot) -> bool:
    """Rebuild the lookup index if it is missing or damaged; return whether it was."""
    damaged = [damage.where.removeprefix(f"{snapshot.name}/") for damage in lookup_damages(snapshot)]
    if snapshot.kind not in KINDS or not damaged and read_manifest(snapshot.files, snapshot.number) is not None:
        return False
    # Also delete damaged run files that no manifest names: an existing file of that name would not be written again.
    runs = [info.path for info in snapshot.files.listing(FOLDER) if info.path.endswith(".run")]
    damaged += [
        path for path in runs if hash_file(snapshot.files, path) != posixpath.basename(path).removesuffix(".run")
    ]
    for path in {*damaged, manifest_path(snapshot.number)}:
        snapshot.files.delete(path)
    build(snapshot)
    return True


def _runs(snapshot: Snapshot, before: LookupManifest, purge: bool, spill: Path, lease: leases.Lease) -> list[RunEntry]:
    """Return run files for all of `snapshot`: those of `before` that still hold, new ones, and merged ones."""
    changed = list(_changed_shards(snapshot, before))
    current = _covers(changed)
    covered = [NONE]
    groups = []
    for run in (RunFile(snapshot.files, entry) for entry in before.runs):
        covers = run.covers
        covered.append(_pairs(covers))
        replaced = np.isin(covers["shard"], current["shard"]) & ~np.isin(_pairs(covers), _pairs(current))
        outdated = replaced | ~np.isin(covers["shard"], snapshot.lists.directory.prefixes)
        if outdated.all():
            continue
        mostly_outdated = 2 * int(outdated.sum()) > len(covers)
        rewrite = bool(replaced.any()) or (purge and bool(outdated.any())) or mostly_outdated
        sources: list[tuple[EntrySource, np.ndarray]] = [(run, covers["shard"][outdated])]
        groups.append(_Group(sources, len(run), rewrite))
    _, first = np.unique(_pairs(current), return_index=True)
    new = [
        changed[number] for number in np.sort(first[~np.isin(_pairs(current)[first], np.concatenate(covered))]).tolist()
    ]
    if new:
        groups.append(_Group([], rewrite=True))
        for source in _new_entries(snapshot, new, spill, lease):
            groups[-1].sources.append((source, NONE))
            groups[-1].entries += len(source)
    runs = []
    for group in _merged(groups):
        lease.renew()
        source, _ = group.sources[0]
        if isinstance(source, RunFile) and not group.rewrite:
            runs.append(source.entry)
        else:
            runs.append(write_run(snapshot.files, group.sources))
    return runs


def _changed_shards(snapshot: Snapshot, before: LookupManifest) -> Iterator[ShardEntry]:
    """Yield the shards in lists that the earlier index did not know."""
    lists, old = snapshot.lists, set(before.lists)
    for number, entry in enumerate(snapshot.root.lists):
        if entry.digest not in old:
            for unit in lists.units_of(number):
                yield from lists.receipt(unit).shards


def _covers(entries: Sequence[ShardEntry]) -> np.ndarray:
    """Return the shards with their index tables, (S,) `COVER`: prefixes of both digests."""
    return np.array([(int(entry.shard[:16], 16), int(entry.tables[:16], 16)) for entry in entries], COVER)


def _pairs(covers: np.ndarray) -> np.ndarray:
    """Return one number for each shard with its tables, (S,) uint64, equal only by a hash collision."""
    return covers["shard"] + np.uint64(3) * covers["tables"]


def _new_entries(
    snapshot: Snapshot, new: Sequence[ShardEntry], spill: Path, lease: leases.Lease
) -> Iterator[EntrySource]:
    """Yield the entries of shards, in local run files if they are many."""
    local = LocalFiles(spill)
    parts, waiting, first = [np.zeros(0, ENTRY)], 0, 0
    for number, entry in enumerate(new, 1):
        lease.renew()
        parts.append(index_entries(snapshot.reader.index(entry)))
        waiting += len(parts[-1])
        if waiting >= AT_ONCE or number == len(new):
            source = NewEntries(np.concatenate(parts), _covers(new[first:number]))
            if number < len(new) or first:
                run = write_run(local, [(source, NONE)])
                local.sync()
                yield RunFile(local, run)
            else:
                yield source
            parts, waiting, first = [np.zeros(0, ENTRY)], 0, number


def _merged(groups: Sequence[_Group]) -> list[_Group]:
    """Merge groups while a size class has `SAME_SIZE` of them."""
    by_size: defaultdict[int, list[_Group]] = defaultdict(list)
    for group in groups:
        by_size[group.size].append(group)
    while full := next((of_size for of_size in by_size.values() if len(of_size) >= SAME_SIZE), None):
        group = reduce(add, full)
        full.clear()
        by_size[group.size].append(group)
    return [group for of_size in by_size.values() for group in of_size]
