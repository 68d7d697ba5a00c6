"""What happened to a store: its snapshots, the names they were given, and what differs between two of them."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256

from manifests.errors import ManifestError, StoreError
from manifests.records import Json, canonical_json
from stores.commits.head import root_path
from stores.commits.lists import list_paths
from stores.commits.roots import unit_paths
from stores.files.protocol import Files
from stores.snapshot import Snapshot
from stores.store import Store

NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")


def commit_times(files: Files) -> dict[int, float]:
    """Number of every snapshot that is there, ascending, and when it was committed: seconds since 1970."""
    found = {}
    for info in files.listing("roots"):
        name = info.path.rpartition("/")[2].removesuffix(".json")
        if name.isdigit():
            found[int(name)] = info.modified_s
    return dict(sorted(found.items()))


def expired_path(number: int) -> str:
    """A file that says that a snapshot expired: what it reached may be gone."""
    return root_path(number).removesuffix(".json") + ".expired"


def object_paths(snapshot: Snapshot) -> set[str]:
    """Paths of all that a snapshot reaches in its own store, as far as its lists are there."""
    found = list_paths(snapshot.root)
    if not all(snapshot.files.exists(path) for path in found):
        return found
    for receipt in snapshot.receipts:
        found |= unit_paths(receipt, snapshot.kind)
    return found


def log(store: Store) -> Iterator[dict[str, Json]]:
    """One map per snapshot, newest first."""
    names: dict[int, list[str]] = {}
    for name, told in tags(store.files).items():
        names.setdefault(told["number"], []).append(name)
    for number, committed_s in reversed(commit_times(store.files).items()):
        snapshot = store.snapshot(number)
        yield {
            "snapshot": number,
            "committed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(committed_s)),
            "content_root": snapshot.content_root,
            "node": snapshot.node,
            "complete": snapshot.complete,
            "counts": shown_counts(snapshot),
            "parents": [f"{parent.url}@{parent.number}" for parent in snapshot.parents],
            "tags": names.get(number, []),
            "expired": store.files.exists(expired_path(number)),
        }


def shown_counts(snapshot: Snapshot) -> dict[str, int]:
    """Of a view, what it drops itself: what it keeps of it all is asked of what it looks at."""
    found = dict(snapshot.counts)
    if snapshot.kind == "view":
        found["dropped_here"] = found["records"] - found.pop("kept", found["records"])
    return found


def find_snapshot(store: Store, name: str) -> Snapshot:
    """The snapshot that `head`, a number or a tag names. Raises ManifestError where there is none."""
    known = tags(store.files)
    if name == "head":
        head = store.head()
        if head is None:
            raise StoreError("nothing was committed here yet", where=store.url, fix="run the node that fills it")
        return head
    if name.isdigit():
        return store.snapshot(int(name))
    if name not in known:
        there = ", ".join(known) or "none"
        raise ManifestError(f"there is no tag {name!r}", where=store.url, fix=f"head, a number, or a tag: {there}")
    snapshot = store.snapshot(known[name]["number"])
    if _digest(store.files, snapshot.number) != known[name]["root"]:
        raise StoreError(f"snapshot {snapshot.number} is not the one that was tagged {name!r}", where=store.url)
    return snapshot


def tags(files: Files) -> dict[str, Json]:
    """Name -> {number, content_root, root}, by name."""
    found = {}
    for info in files.listing("tags"):
        name = info.path.rpartition("/")[2].removesuffix(".json")
        try:
            told = json.loads(files.read(info.path))
            found[name] = {"number": int(told["number"]), "content_root": told["content_root"], "root": told["root"]}
        except (ValueError, KeyError, TypeError):
            fix = "delete the file and tag again"
            raise StoreError("this tag is damaged", where=f"{files.url}/{info.path}", fix=fix) from None
    return found


def tag(store: Store, name: str, snapshot: Snapshot, *, move: bool = False) -> None:
    """Give a snapshot a name. It and what it needs are kept as long as it has one.

    Raises ManifestError for a name that another snapshot has, unless `move` is said, or that can't be used.
    """
    if not NAME.fullmatch(name) or name == "head":
        fix = "begin with a letter, go on with letters, digits and . _ -"
        raise ManifestError(f"{name!r} can't be a tag", where=store.url, fix=fix)
    told = {
        "number": snapshot.number,
        "content_root": snapshot.content_root,
        "root": _digest(store.files, snapshot.number),
    }
    path, data = f"tags/{name}.json", canonical_json(told).encode()
    if move:
        store.files.delete(path)
    if not store.files.swap(path, data):
        number = tags(store.files)[name]["number"]
        fix = "choose another name, or say --move"
        raise ManifestError(f"snapshot {number} has the tag {name!r} already", where=store.url, fix=fix)


def untag(store: Store, name: str) -> None:
    if name not in tags(store.files):
        raise ManifestError(f"there is no tag {name!r}", where=store.url, fix="`millrace store tag STORE` lists them")
    store.files.delete(f"tags/{name}.json")


def diff(old: Snapshot, new: Snapshot) -> dict[str, Json]:
    """What `new` has and `old` has not, and the other way round: units, shards, records by id, columns, drops."""
    found: dict[str, Json] = {"equal": old.content_root == new.content_root}
    sides = {"added": (new, old), "removed": (old, new)}
    found["units"] = {side: sorted(set(one.units) - set(other.units)) for side, (one, other) in sides.items()}
    found["shards"] = {side: len(_shards(one) - _shards(other)) for side, (one, other) in sides.items()}
    found["records"] = {side: one.counts["records"] - other.counts["records"] for side, (one, other) in sides.items()}
    found["records"] = {"before": old.counts["records"], "after": new.counts["records"]}
    before, after = _ids(old), _ids(new)
    if before is not None and after is not None:
        found["ids"] = {"added": sorted(set(after) - set(before)), "removed": sorted(set(before) - set(after))}
        both = set(before) & set(after)
        found["kept"] = {
            "now": sorted(one for one in both if after[one] and not before[one]),
            "no more": sorted(one for one in both if before[one] and not after[one]),
        }
    names = {side: _columns(one) - _columns(other) for side, (one, other) in sides.items()}
    found["columns"] = {side: sorted(some) for side, some in names.items()}
    return found


def _shards(snapshot: Snapshot) -> Counter[tuple[str, str]]:
    return Counter((entry.tar, entry.tables) for receipt in snapshot.receipts for entry in receipt.shards)


def _ids(snapshot: Snapshot) -> dict[str, bool] | None:
    """Whether each record is kept, by id; None for kinds whose records have none."""
    if "id" not in _columns(snapshot):
        return None
    table = snapshot.table(["id", "keep"])
    return dict(zip(table["id"].to_pylist(), table["keep"].to_pylist(), strict=True))


def _columns(snapshot: Snapshot) -> set[str]:
    return set(snapshot.table().column_names)


def _digest(files: Files, number: int) -> str:
    return sha256(files.read(root_path(number))).hexdigest()
