"""History of a store: its snapshots, their tags, and the difference between two of them.

`millrace store log`, `diff` and `tag`. Tags are files `tags/NAME.json`, expired snapshots have a file
`roots/NUMBER.expired`.
"""

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

TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")
"""Valid names of tags."""


def commit_times(files: Files) -> dict[int, float]:
    """Return number -> time of commit (seconds since 1970) of every snapshot, expired ones too, by number."""
    times = {}
    for info in files.listing("roots"):
        name = info.path.rpartition("/")[2].removesuffix(".json")
        if name.isdigit():
            times[int(name)] = info.modified_s
    return dict(sorted(times.items()))


def expired_path(number: int) -> str:
    """Return the path of the file that marks a snapshot as expired: files of it may be deleted."""
    return root_path(number).removesuffix(".json") + ".expired"


def object_paths(snapshot: Snapshot) -> set[str]:
    """Return the paths of all files of a snapshot in its store; only lists and directory if one of those is missing."""
    paths = list_paths(snapshot.root)
    if not all(snapshot.files.exists(path) for path in paths):
        return paths
    for receipt in snapshot.receipts:
        paths |= unit_paths(receipt, snapshot.kind)
    return paths


def log(store: Store) -> Iterator[dict[str, Json]]:
    """Yield one row of JSON values per snapshot, newest first."""
    names: dict[int, list[str]] = {}
    for name, tagged in tags(store.files).items():
        names.setdefault(tagged["number"], []).append(name)
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
    """Return the counts of a snapshot to display. A view counts its own drops; kept counts come from its base."""
    counts = dict(snapshot.counts)
    if snapshot.kind == "view":
        counts["dropped_here"] = counts["records"] - counts.pop("kept", counts["records"])
    return counts


def find_snapshot(store: Store, name: str) -> Snapshot:
    """Return the snapshot named by `head`, a number or a tag.

    Raises:
        ManifestError: there is no such tag.
        StoreError: there is no such snapshot, or the tag belongs to a store that was lost.
    """
    tagged = tags(store.files)
    if name == "head":
        head = store.head()
        if head is None:
            raise StoreError("this store has no commit yet", where=store.url, fix="run the node that fills it")
        return head
    if name.isdigit():
        return store.snapshot(int(name))
    if name not in tagged:
        existing = ", ".join(tagged) or "none"
        raise ManifestError(f"there is no tag {name!r}", where=store.url, fix=f"head, a number, or a tag: {existing}")
    snapshot = store.snapshot(tagged[name]["number"])
    if _digest(store.files, snapshot.number) != tagged[name]["root"]:
        message = f"snapshot {snapshot.number} is not the one that was tagged {name!r}"
        raise StoreError(message, where=store.url, fix="delete the tag, or put back the store that was tagged")
    return snapshot


def tags(files: Files) -> dict[str, Json]:
    """Return name -> {number, content_root, root} of all tags, by name. Raises StoreError for a damaged tag."""
    tagged = {}
    for info in files.listing("tags"):
        name = info.path.rpartition("/")[2].removesuffix(".json")
        try:
            raw = json.loads(files.read(info.path))
            tagged[name] = {"number": int(raw["number"]), "content_root": raw["content_root"], "root": raw["root"]}
        except (ValueError, KeyError, TypeError):
            fix = "delete the file and tag again"
            raise StoreError("this tag is damaged", where=f"{files.url}/{info.path}", fix=fix) from None
    return tagged


def tag(store: Store, name: str, snapshot: Snapshot, *, move: bool = False) -> None:
    """Give a snapshot a tag; garbage collection keeps a tagged snapshot and all its files.

    Args:
        move: take the tag from the snapshot that has it.
    Raises:
        ManifestError: the name is not valid, or another snapshot has it and `move` is false.
    """
    if not TAG.fullmatch(name) or name == "head":
        fix = "begin with a letter, go on with letters, digits and . _ -"
        raise ManifestError(f"{name!r} can't be a tag", where=store.url, fix=fix)
    content = {
        "number": snapshot.number,
        "content_root": snapshot.content_root,
        "root": _digest(store.files, snapshot.number),
    }
    path, data = f"tags/{name}.json", canonical_json(content).encode()
    if move:
        store.files.delete(path)
    if not store.files.swap(path, data):
        number = tags(store.files)[name]["number"]
        fix = "choose another name, or use --move"
        raise ManifestError(f"snapshot {number} has the tag {name!r} already", where=store.url, fix=fix)


def untag(store: Store, name: str) -> None:
    """Delete a tag. Raises ManifestError if there is none of that name."""
    if name not in tags(store.files):
        raise ManifestError(f"there is no tag {name!r}", where=store.url, fix="`millrace store tag STORE` lists them")
    store.files.delete(f"tags/{name}.json")


def diff(old: Snapshot, new: Snapshot) -> dict[str, Json]:
    """Return the differences of two snapshots as JSON values: units, shards, records by id, drops, columns."""
    result: dict[str, Json] = {"equal": old.content_root == new.content_root}
    sides = {"added": (new, old), "removed": (old, new)}
    result["units"] = {side: sorted(set(have.units) - set(lack.units)) for side, (have, lack) in sides.items()}
    result["shards"] = {side: len(_shards(have) - _shards(lack)) for side, (have, lack) in sides.items()}
    result["records"] = {"before": old.counts["records"], "after": new.counts["records"]}
    before, after = _ids(old), _ids(new)
    if before is not None and after is not None:
        result["ids"] = {"added": sorted(set(after) - set(before)), "removed": sorted(set(before) - set(after))}
        both = set(before) & set(after)
        result["kept"] = {
            "added": sorted(record for record in both if after[record] and not before[record]),
            "removed": sorted(record for record in both if before[record] and not after[record]),
        }
    names = {side: _columns(have) - _columns(lack) for side, (have, lack) in sides.items()}
    result["columns"] = {side: sorted(columns) for side, columns in names.items()}
    return result


def _shards(snapshot: Snapshot) -> Counter[tuple[str, str]]:
    """Return the current (tar digest, index digest) of all shards."""
    return Counter((entry.tar, entry.tables) for receipt in snapshot.receipts for entry in receipt.shards)


def _ids(snapshot: Snapshot) -> dict[str, bool] | None:
    """Return id -> whether the record is kept; None for kinds whose records have no id."""
    if "id" not in _columns(snapshot):
        return None
    table = snapshot.table(["id", "keep"])
    return dict(zip(table["id"].to_pylist(), table["keep"].to_pylist(), strict=True))


def _columns(snapshot: Snapshot) -> set[str]:
    return set(snapshot.table().column_names)


def _digest(files: Files, number: int) -> str:
    """Return the SHA-256 of a root's file."""
    return sha256(files.read(root_path(number))).hexdigest()
