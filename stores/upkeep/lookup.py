"""The look-up of a snapshot is made, made again and swept; `lookup/find.py` reads it.

Made when a node has committed all its units, after `forget` and by `repair`; never by a commit, which it would slow
down. Shards that no run covers yet become a run; where runs of about the same size pile up they are merged. So there
are few of them, and what is there already is written again only as often as the store grows fourfold.
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
LEASE = "the look-up"
SAME_SIZE = 4
"""So many runs of one size are merged; a size is up to four times the one below."""
SMALL = 1 << 16
"""Entries: runs up to this one are all of one size."""
AT_ONCE = 8 << 20
"""Entries that wait in memory; beyond, they are put aside as runs before all are merged."""

NONE = np.zeros(0, np.uint64)


@dataclass
class _Group:
    """What becomes, or stays, one run."""

    sources: list[tuple[EntrySource, np.ndarray]] = field(default_factory=list)
    """With the shards of which each is not believed any more."""
    entries: int = 0
    rewrite: bool = False

    def __add__(self, other: _Group) -> _Group:
        return _Group([*self.sources, *other.sources], self.entries + other.entries, rewrite=True)

    @property
    def size(self) -> int:
        return max(0, (self.entries - 1) // SMALL).bit_length() // 2


def build(snapshot: Snapshot, *, purge: bool = False) -> None:
    """Make the look-up of `snapshot`, unless it is there.

    Args:
        purge: leave nothing in it of shards that are gone, rather than wait for the next merge.
    Raises:
        StoreError: an index file is damaged, or this filesystem can't be written to.
    """
    if snapshot.kind not in KINDS:
        return
    files, number = snapshot.files, snapshot.number
    lists = tuple(entry.digest for entry in snapshot.root.lists)
    own = _sound(files, number)
    if own is not None and own.lists == lists and not purge:
        return
    lease = leases.Lease(files, LEASE)
    lease.renew()
    spill = files.temporary_path()
    try:
        try:
            runs = _runs(snapshot, own or read_newest_before(files, number) or LookupManifest(), purge, spill, lease)
        except StoreError:  # what was made earlier is damaged, and worth nothing then
            runs = _runs(snapshot, LookupManifest(), purge, spill, lease)
        files.sync()
        if gone := files.missing([run_path(run.digest) for run in runs], must_exist=True):
            fix = "run the same command again"  # garbage was collected that was found here at first
            raise StoreError("was deleted while the look-up was made", where=f"{files.url}/{min(gone)}", fix=fix)
        path, data = manifest_path(number), manifest_bytes(LookupManifest(lists, tuple(runs)))
        if not files.swap(path, data):
            files.delete(path)
            files.swap(path, data)
    finally:
        shutil.rmtree(spill, ignore_errors=True)
        leases.release_units(files, [LEASE])


def _sound(files: Files, number: int) -> LookupManifest | None:
    with suppress(StoreError):
        return read_manifest(files, number)
    return None


def rebuild_purged(snapshot: Snapshot) -> None:
    """Where there is a look-up, make that of `snapshot` without anything that is gone, and delete every other one:
    older ones may name what was forgotten."""
    files = snapshot.files
    there = [info.path for info in files.listing(FOLDER)]
    if not there:
        return
    build(snapshot, purge=True)
    for path in set(there) - lookup_paths(files, snapshot.number):
        files.delete(path)


def repair_lookup(snapshot: Snapshot) -> bool:
    """Make what is missing of the look-up or damaged; whether anything was."""
    damaged = [damage.where.removeprefix(f"{snapshot.name}/") for damage in lookup_damages(snapshot)]
    if snapshot.kind not in KINDS or not damaged and read_manifest(snapshot.files, snapshot.number) is not None:
        return False
    # Runs that no sound list names may be damaged, too; under such a name the same bytes would not be written again.
    runs = [info.path for info in snapshot.files.listing(FOLDER) if info.path.endswith(".run")]
    torn = [path for path in runs if hash_file(snapshot.files, path) != posixpath.basename(path).removesuffix(".run")]
    for path in {*damaged, *torn, manifest_path(snapshot.number)}:
        snapshot.files.delete(path)
    build(snapshot)
    return True


def _runs(snapshot: Snapshot, before: LookupManifest, purge: bool, spill: Path, lease: leases.Lease) -> list[RunEntry]:
    """Runs for all that `snapshot` has: those of `before` as far as they do, merged where many are of one size."""
    changed = list(_changed(snapshot, before))
    now = _covers(changed)
    known = [NONE]
    groups = []
    for run in (RunFile(snapshot.files, told) for told in before.runs):
        covers = run.covers
        known.append(_pairs(covers))
        replaced = np.isin(covers["shard"], now["shard"]) & ~np.isin(_pairs(covers), _pairs(now))
        dead = replaced | ~np.isin(covers["shard"], snapshot.lists.directory.prefixes)
        if dead.all():
            continue
        worn = bool(replaced.any()) or (purge and bool(dead.any())) or 2 * int(dead.sum()) > len(covers)
        sources: list[tuple[EntrySource, np.ndarray]] = [(run, covers["shard"][dead])]
        groups.append(_Group(sources, len(run), worn))
    _, first = np.unique(_pairs(now), return_index=True)
    new = [changed[place] for place in np.sort(first[~np.isin(_pairs(now)[first], np.concatenate(known))]).tolist()]
    if new:
        groups.append(_Group([], rewrite=True))
        for source in _fresh(snapshot, new, spill, lease):
            groups[-1].sources.append((source, NONE))
            groups[-1].entries += len(source)
    done = []
    for group in _merged(groups):
        lease.renew()
        source, _ = group.sources[0]
        if isinstance(source, RunFile) and not group.rewrite:
            done.append(source.entry)
        else:
            done.append(write_run(snapshot.files, group.sources))
    return done


def _changed(snapshot: Snapshot, before: LookupManifest) -> Iterator[ShardEntry]:
    """Shards in lists that were not there before."""
    lists, old = snapshot.lists, set(before.lists)
    for number, entry in enumerate(snapshot.root.lists):
        if entry.digest not in old:
            for unit in lists.units_of(number):
                yield from lists.receipt(unit).shards


def _covers(entries: Sequence[ShardEntry]) -> np.ndarray:
    told = [(int(entry.shard[:16], 16), int(entry.tables[:16], 16)) for entry in entries]
    return np.array(told, COVER)


def _pairs(covers: np.ndarray) -> np.ndarray:
    """(S,) uint64: one number for a shard and its tables, different for others but for accidents."""
    return covers["shard"] + np.uint64(3) * covers["tables"]


def _fresh(snapshot: Snapshot, new: Sequence[ShardEntry], spill: Path, lease: leases.Lease) -> Iterator[EntrySource]:
    """The names in these shards."""
    local = LocalFiles(spill)
    parts, waiting, first = [np.zeros(0, ENTRY)], 0, 0
    for number, entry in enumerate(new, 1):
        lease.renew()
        parts.append(index_entries(snapshot.reader.index(entry)))
        waiting += len(parts[-1])
        if waiting >= AT_ONCE or number == len(new):
            source = NewEntries(np.concatenate(parts), _covers(new[first:number]))
            if number < len(new) or first:
                told = write_run(local, [(source, NONE)])
                local.sync()
                yield RunFile(local, told)
            else:
                yield source
            parts, waiting, first = [np.zeros(0, ENTRY)], 0, number


def _merged(groups: Sequence[_Group]) -> list[_Group]:
    """What is merged with what."""
    by_size: defaultdict[int, list[_Group]] = defaultdict(list)
    for group in groups:
        by_size[group.size].append(group)
    while many := next((some for some in by_size.values() if len(some) >= SAME_SIZE), None):
        group = reduce(add, many)
        many.clear()
        by_size[group.size].append(group)
    return [group for some in by_size.values() for group in some]
