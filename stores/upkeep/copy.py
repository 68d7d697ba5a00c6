"""Copies of stores on any filesystem, and from a copy back: `millrace store copy` and `repair --from`.

Objects have content names: one that is there is not copied again, so a copy that was stopped goes on. A root comes
last, by compare-and-swap. Every object is compared with its name on the way.
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
    """`snapshot`, with equal content root, as the newest of the store at `url`, which is made where there is none.

    Its parents stay where they are; where a copy of one lies beside the new store, that is named as the parent.

    Raises:
        StoreError: another store is there, a byte of this one changed, or this is a view and what it looks at was not
            copied before.
    """
    target = open_files(url)
    root = replace(snapshot.root, parents=tuple(_parents_beside(snapshot, target)))
    if not target.exists("store.json"):
        meta = read_meta(snapshot.files)
        Store.create(url, meta["kind"], meta["name"])
    store = Store.open(url)
    if store.kind != snapshot.kind:
        raise StoreError(f"this is a store of {store.kind}, not of {snapshot.kind}", where=url, fix="choose another")
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
    if (gone := min(target.missing(wanted, must_exist=True), default=None)) is not None:
        fix = "run the same command again"  # garbage was collected that was found here at first
        raise StoreError("was deleted while the others were copied", where=f"{url}/{gone}", fix=fix)
    certificate = certificates.certificate_path(snapshot)
    if snapshot.files.exists(certificate):
        target.swap(certificate, snapshot.files.read(certificate))
    if head is None or _says(head.root) != _says(root):
        head = store.snapshot(publish_root(target, root, head))
    _copy_lookup(snapshot, head)
    lease.release()
    return head


def _parents_beside(snapshot: Snapshot, target: Files) -> Iterator[Parent]:
    for number, parent in enumerate(snapshot.parents):
        beside = f"{posixpath.dirname(target.url)}/{posixpath.basename(parent.url)}"
        try:
            yield snapshot.open_parent(replace(parent, url=beside)).as_parent
        except StoreError:
            if snapshot.kind == "view" and not number:
                raise StoreError(
                    f"a view can't be read without what it looks at, and no copy of {parent.url} is at {beside}",
                    where=snapshot.url,
                    fix=f"copy that first: millrace store copy {parent.url} {beside}; or make a store of what the view "
                    "keeps (`kind: materialise`)",
                ) from None
            yield parent


def _copy_lookup(source: Snapshot, target: Snapshot) -> None:
    """One that is damaged stays behind: it can be made again."""
    with suppress(StoreError):
        covered = find.read_manifest(source.files, source.number)
        if covered is None:
            return
        for run in covered.runs:
            if not target.files.exists(run_path(run.digest)):
                take(source.files, target.files, run_path(run.digest))
        target.files.sync()
        target.files.swap(find.manifest_path(target.number), find.manifest_bytes(covered))


def take(source: Files, target: Files, path: str) -> None:
    """Copy one object. Raises StoreError where it is missing or not what its name says; nothing is left then."""
    aside: Path = target.temporary_path()
    state = naming_hash(path)
    with aside.open("wb") as out:
        for chunk in chunks(source, path):
            state.update(chunk)
            out.write(chunk)
    named = path.rpartition("/")[2].split(".")[0]
    if state.hexdigest() != named:
        aside.unlink()
        where = f"{source.url}/{path}"
        raise StoreError("its bytes are not those that were committed", where=where, fix="repair that store first")
    target.publish(aside, path)


def chunks(files: Files, path: str) -> Iterator[bytes]:
    """A file in pieces. Raises StoreError where there is none."""
    at = 0
    try:
        while chunk := files.read_range(path, at, CHUNK_BYTES):
            yield chunk
            at += len(chunk)
    except FileNotFoundError:
        where = f"{files.url}/{path}"
        raise StoreError("a file of this snapshot is missing", where=where, fix="take it from a copy") from None


def _says(root: Root) -> Root:
    return replace(root, number=0, previous=None)
