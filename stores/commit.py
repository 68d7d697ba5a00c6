"""Build the next root of a store, with the lists and the directory that it names, and swap it in.

Lists are cut by the names of units: a unit that comes or goes changes its own list and no other. So a commit reads and
writes the lists that it changes, and the directory, however large the store is. `Store.commit`, `repair` and `forget`
use this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from manifests.errors import StoreError
from stores.commits.directory import Directory
from stores.commits.head import root_path
from stores.commits.lists import directory_path, list_bytes, list_path
from stores.commits.roots import (
    ContentHash,
    ListEntry,
    Receipt,
    Root,
    add_counts,
    content_root,
    root_bytes,
    store_counts,
)
from stores.files.protocol import Files, publish_bytes
from stores.snapshot import Snapshot

LIST_SHARDS = 1000
"""Average number of shards in a list; at most four times as many, unless one unit has more."""

NextUnit = int | Receipt
"""Unit of the next root: the position of an unchanged unit in the previous snapshot, or a receipt."""


def publish_lists(files: Files, root: Root, head: Snapshot | None, units: Sequence[NextUnit]) -> Root:
    """Publish the lists and the directory of `units`; return `root` with them, its counts and its content root.

    Args:
        head: previous snapshot; its unchanged lists are not written again.
        units: all units of the next root, in store order.
    """
    before = head.lists.directory if head is not None else Directory.from_receipts([])
    entries: list[ListEntry] = []
    parts: list[Directory] = []
    for start, stop in _cuts(units, before):
        group = units[start:stop]
        kept = _unchanged_list(group, head)
        if kept is not None:
            entries.append(kept)
            parts.append(before.slice(range(group[0], group[-1] + 1)))  # type: ignore[arg-type, operator]
            continue
        receipts = _receipts(group, head)
        data = list_bytes(receipts)
        entries.append(ListEntry(sha256(data).hexdigest(), len(receipts), store_counts(receipts)))
        publish_bytes(files, data, list_path(entries[-1].digest))
        parts.append(Directory.from_receipts(receipts))
    data = Directory.concatenate(parts).to_bytes()
    directory = sha256(data).hexdigest()
    if head is None or directory != head.root.directory:
        publish_bytes(files, data, directory_path(directory))
    content = _content(units, head)
    return replace(
        root,
        content_root=content_root(root.kind, content),
        content=content,
        lists=tuple(entries),
        directory=directory,
        counts=add_counts([store_counts([]), *(entry.counts for entry in entries)]),
    )


def swap_root(files: Files, root: Root, head: Snapshot | None) -> int | None:
    """Publish `root` as the successor of `head`; return its number, or None if another committer was first."""
    number, previous = 1, None
    if head is not None:
        number, previous = head.number + 1, sha256(files.read(root_path(head.number))).hexdigest()
    data = root_bytes(replace(root, number=number, previous=previous), files.url)
    return number if files.swap(root_path(number), data) else None


def publish_root(files: Files, root: Root, head: Snapshot | None) -> int:
    """Sync the files that `root` names and swap it in; return its number.

    Raises:
        StoreError: another committer was first.
    """
    files.sync()
    number = swap_root(files, root, head)
    if number is None:
        raise StoreError("another commit was made here meanwhile", where=files.url, fix="run the same command again")
    return number


def _cuts(units: Sequence[NextUnit], before: Directory) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of each list. Depends on the units alone, not on the order of commits."""
    new = Directory.from_receipts([unit for unit in units if isinstance(unit, Receipt)])
    arrived = start = shards = 0
    for stop, unit in enumerate(units, 1):
        if isinstance(unit, Receipt):
            key, span = new.key(arrived), int(new.spans[arrived])
            arrived += 1
        else:
            key, span = before.key(unit), int(before.spans[unit])
        shards += span or 1
        chosen = int.from_bytes(key[:8], "little") % LIST_SHARDS < (span or 1)
        if chosen or shards >= 4 * LIST_SHARDS or stop == len(units):
            yield start, stop
            start, shards = stop, 0


def _unchanged_list(group: Sequence[NextUnit], head: Snapshot | None) -> ListEntry | None:
    """Return the list of `head` that has exactly these units, if there is one."""
    if head is None or not isinstance(group[0], int):
        return None
    number = head.lists.list_of(group[0])
    return head.root.lists[number] if list(group) == list(head.lists.units_of(number)) else None


def _receipts(group: Sequence[NextUnit], head: Snapshot | None) -> list[Receipt]:
    receipts = []
    for unit in group:
        if isinstance(unit, int):
            assert head is not None
            unit = head.receipts[unit]
        receipts.append(unit)
    return receipts


def _content(units: Sequence[NextUnit], head: Snapshot | None) -> str:
    """Return the content hash of `units`, from that of `head` and the difference."""
    content = ContentHash(head.root.content if head is not None else "")
    if head is not None:
        removed = np.ones(len(head.receipts), bool)
        removed[[unit for unit in units if isinstance(unit, int)]] = False
        for position in np.flatnonzero(removed).tolist():
            content.remove(head.receipts[position])
    for unit in units:
        if isinstance(unit, Receipt):
            content.add(unit)
    return str(content)
