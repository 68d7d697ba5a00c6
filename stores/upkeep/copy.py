"""Copies of snapshots on any filesystem: `millrace store copy`, and `repair --from` in the other direction.

Objects have content names, so an existing one is not copied again and a stopped copy goes on. The root comes last, by
compare-and-swap. Every object is compared with the digest in its name.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from manifests.errors import StoreError
from stores import leases
from stores.commit import publish_root
from stores.commits.head import read_meta
from stores.commits.roots import Parent, Root
from stores.files.open import open_files
from stores.files.protocol import Files
from stores.lookup import find
from stores.lookup.run_file import run_path
from stores.shards.tar import naming_hash
from stores.snapshot import Snapshot
from stores.store import Store
from stores.upkeep import certificates
from stores.upkeep.log import object_paths
from stores.upkeep.verify import OnProgress

CHUNK_BYTES = 8 << 20


def copy(snapshot: Snapshot, url: str, on_progress: OnProgress = lambda done, total: None) -> Snapshot:
    """Copy a snapshot to the store at `url`, where it becomes the newest one, with an equal content root.

    The store is created if there is none. Parents are not copied; if there is a copy of one next to the new store, the
    new snapshot refers to that.

    Raises:
        StoreError: another store is at `url`, a byte of the snapshot changed, or the snapshot is a view whose viewed
            snapshot was not copied before.
    """
    target = open_files(url)
    root = replace(snapshot.root, parents=tuple(_copied_parents(snapshot, target)))
    if not target.exists("store.json"):
        meta = read_meta(snapshot.files)
        Store.create(url, meta["kind"], meta["name"])
    store = Store.open(url)
    if store.kind != snapshot.kind:
        raise StoreError(
            f"this is a store of {store.kind}, not of {snapshot.kind}", where=url, fix="choose another place"
        )
    head = store.head()
    lease = leases.unique_lease(target, "a copy")
    source = snapshot.files.uncached()
    wanted = sorted(object_paths(snapshot), key=lambda path: path.startswith("lists/"))
    for done, path in enumerate(wanted):
        lease.renew()
        if not target.exists(path):
            take(source, target, path)
        on_progress(done + 1, len(wanted))
    target.sync()
    if (deleted := min(target.missing(wanted, must_exist=True), default=None)) is not None:
        fix = "run the same command again"  # a garbage collection deleted an object that was there before the copy
        raise StoreError("this object was deleted during the copy", where=f"{url}/{deleted}", fix=fix)
    certificate = certificates.certificate_path(snapshot)
    if snapshot.files.exists(certificate):
        target.swap(certificate, snapshot.files.read(certificate))
    if head is None or _without_number(head.root) != _without_number(root):
        head = store.snapshot(publish_root(target, root, head))
    _copy_lookup(snapshot, head)
    lease.release()
    return head


def _copied_parents(snapshot: Snapshot, target: Files) -> Iterator[Parent]:
    """Yield the parents of a snapshot, each one's copy next to `target` if there is one."""
    for number, parent in enumerate(snapshot.parents):
        copied = f"{posixpath.dirname(target.url)}/{posixpath.basename(parent.url)}"
        try:
            yield snapshot.open_parent(replace(parent, url=copied)).as_parent
        except StoreError:
            if snapshot.kind == "view" and not number:
                raise StoreError(
                    f"a view can't be read without its base, and there is no copy of {parent.url} at {copied}",
                    where=snapshot.url,
                    fix=f"copy that first: millrace store copy {parent.url} {copied}; or make a store of the records "
                    "that the view keeps (`kind: materialize`)",
                ) from None
            yield parent


def _copy_lookup(source: Snapshot, target: Snapshot) -> None:
    """Copy the lookup index, unless it is damaged: it can be rebuilt."""
    with suppress(StoreError):
        manifest = find.read_manifest(source.files, source.number)
        if manifest is None:
            return
        for run in manifest.runs:
            if not target.files.exists(run_path(run.digest)):
                take(source.files, target.files, run_path(run.digest))
        target.files.sync()
        target.files.swap(find.manifest_path(target.number), find.manifest_bytes(manifest))


def take(source: Files, target: Files, path: str) -> None:
    """Copy one object.

    Raises:
        StoreError: it is missing, or does not have the digest in its name; nothing is left in `target` then.
    """
    temporary: Path = target.temporary_path()
    state = naming_hash(path)
    with temporary.open("wb") as out:
        for chunk in chunks(source, path):
            state.update(chunk)
            out.write(chunk)
    named = path.rpartition("/")[2].split(".")[0]
    if state.hexdigest() != named:
        temporary.unlink()
        where = f"{source.url}/{path}"
        raise StoreError("its bytes are not those that were committed", where=where, fix="repair that store first")
    target.publish(temporary, path)


def chunks(files: Files, path: str) -> Iterator[bytes]:
    """Yield a file in chunks. Raises StoreError if it is missing."""
    at = 0
    try:
        while chunk := files.read_range(path, at, CHUNK_BYTES):
            yield chunk
            at += len(chunk)
    except FileNotFoundError:
        where = f"{files.url}/{path}"
        raise StoreError("a file of this snapshot is missing", where=where, fix="restore it from a copy") from None


def _without_number(root: Root) -> Root:
    """Return a root without its place in the history of the store."""
    return replace(root, number=0, previous=None)
