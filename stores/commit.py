"""The next root of a store, and the lists and directory that it names.

Lists are cut where the names of units say so: a unit that comes or goes changes its own list and leaves every other one
as it is. So a commit reads and writes what it changes, and the directory, however large the store is.
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
"""About as many shards are in a list; at most four times as many, unless one unit has more."""

NextUnit = int | Receipt
"""A unit that stays, by its place in the snapshot before, or one that is new or changed."""


def publish_lists(files: Files, root: Root, head: Snapshot | None, wanted: Sequence[NextUnit]) -> Root:
    """`root` with these units in this order, their lists published. Those that stay as in `head` are not touched."""
    before = head.lists.directory if head is not None else Directory.of([])
    entries: list[ListEntry] = []
    parts: list[Directory] = []
    for start, stop in _cuts(wanted, before):
        some = wanted[start:stop]
        kept = _kept(some, head)
        if kept is not None:
            entries.append(kept)
            parts.append(before.part(range(some[0], some[-1] + 1)))  # type: ignore[arg-type, operator]
            continue
        receipts = _receipts(some, head)
        data = list_bytes(receipts)
        entries.append(ListEntry(sha256(data).hexdigest(), len(receipts), store_counts(receipts)))
        publish_bytes(files, data, list_path(entries[-1].digest))
        parts.append(Directory.of(receipts))
    data = Directory.joined(parts).to_bytes()
    directory = sha256(data).hexdigest()
    if head is None or directory != head.root.directory:
        publish_bytes(files, data, directory_path(directory))
    content = _content(wanted, head)
    return replace(
        root,
        content_root=content_root(root.kind, content),
        content=content,
        lists=tuple(entries),
        directory=directory,
        counts=add_counts([store_counts([]), *(entry.counts for entry in entries)]),
    )


def swap_root(files: Files, root: Root, head: Snapshot | None) -> int | None:
    """Publish `root` as the one after `head`; its number, or None where somebody else was first."""
    number, previous = 1, None
    if head is not None:
        number, previous = head.number + 1, sha256(files.read(root_path(head.number))).hexdigest()
    data = root_bytes(replace(root, number=number, previous=previous), files.url)
    return number if files.swap(root_path(number), data) else None


def publish_root(files: Files, root: Root, head: Snapshot | None) -> int:
    """Settle what `root` names and swap it in; its number. Raises StoreError where somebody else was first."""
    files.sync()
    number = swap_root(files, root, head)
    if number is None:
        raise StoreError("somebody else committed here meanwhile", where=files.url, fix="run the same command again")
    return number


def _cuts(wanted: Sequence[NextUnit], before: Directory) -> Iterator[tuple[int, int]]:
    """Where lists begin and end. It depends on what is in them alone, not on what came when."""
    new = Directory.of([one for one in wanted if isinstance(one, Receipt)])
    arrived = start = shards = 0
    for stop, one in enumerate(wanted, 1):
        if isinstance(one, Receipt):
            key, span = new.key(arrived), int(new.spans[arrived])
            arrived += 1
        else:
            key, span = before.key(one), int(before.spans[one])
        shards += span or 1
        chosen = int.from_bytes(key[:8], "little") % LIST_SHARDS < (span or 1)
        if chosen or shards >= 4 * LIST_SHARDS or stop == len(wanted):
            yield start, stop
            start, shards = stop, 0


def _kept(some: Sequence[NextUnit], head: Snapshot | None) -> ListEntry | None:
    """The list of `head` with exactly these units, if there is one."""
    if head is None or not isinstance(some[0], int):
        return None
    number = head.lists.list_of(some[0])
    return head.root.lists[number] if list(some) == list(head.lists.units_of(number)) else None


def _receipts(some: Sequence[NextUnit], head: Snapshot | None) -> list[Receipt]:
    found = []
    for one in some:
        if isinstance(one, int):
            assert head is not None
            one = head.receipts[one]
        found.append(one)
    return found


def _content(wanted: Sequence[NextUnit], head: Snapshot | None) -> str:
    content = ContentHash(head.root.content if head is not None else "")
    if head is not None:
        goes = np.ones(len(head.receipts), bool)
        goes[[one for one in wanted if isinstance(one, int)]] = False
        for place in np.flatnonzero(goes).tolist():
            content.remove(head.receipts[place])
    for one in wanted:
        if isinstance(one, Receipt):
            content.add(one)
    return str(content)
