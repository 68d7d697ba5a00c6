"""What a view measured when its node last ran: with other limits it is decided again, and nothing is measured twice.

The node's own last whole snapshot -> `Earlier`, with the task -> `known`, the columns of one shard and the rows for
which they hold. A node compares by itself whether it would measure the same; what comes out is the same either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from manifests.errors import StoreError
from manifests.records import FORGOTTEN, Json
from stores.snapshot import ViewSnapshot, open_snapshot
from stores.store import ShardRef, Snapshot, Store

NUMBER = "earlier"
"""In the meta of snapshots that are not whole yet: number of the last whole one."""

TRIED_AGAIN = ("unusable", "forgotten")
"""Reasons that are no matter of limits."""


@dataclass(frozen=True)
class Earlier:
    """Small and picklable, as a task is."""

    url: str
    number: int
    made_of: Mapping[str, Json]
    """`dag.made_of` the node, now."""

    @classmethod
    def of(cls, store: Store, head: Snapshot | None, made_of: Mapping[str, Json]) -> Earlier | None:
        if store.kind != "view" or head is None:
            return None
        number = head.number if head.complete else head.meta.get(NUMBER)
        return cls(store.url, number, made_of) if isinstance(number, int) else None

    def was_made_of(self) -> Mapping[str, Json] | None:
        """The same of then, if the same kind and version of node made it."""
        view = self._view()
        then = view.meta.get("made_of", {}) if view is not None else {}
        alike = all(then.get(name) == self.made_of[name] for name in ("kind", "version"))
        return then if alike else None

    def known(self, snapshot: Snapshot, shard: ShardRef) -> Known | None:
        """What was measured of the records of one shard of `snapshot`, which the node looks at now."""
        view = self._view()
        if view is None:
            return None
        try:
            columns = view.columns(shard)
            reached = view.over.columns(shard, ["keep"]).column("keep").to_numpy()
            facts = snapshot.base.columns(shard, ["source", "domain"])
        except (StoreError, KeyError):  # another shard, or it went while this node ran
            return None
        again = np.isin(np.array(columns.column("reason").to_pylist(), object), TRIED_AGAIN)
        forgotten = np.array([source == FORGOTTEN for source in facts.column("source").to_pylist()], bool)
        return Known(columns, facts.column("domain").to_pylist(), reached & ~again & ~forgotten)

    def _view(self) -> ViewSnapshot | None:
        return _opened(self.url, self.number)


@dataclass(frozen=True)
class Known:
    columns: pa.Table
    domains: Sequence[str]
    holds: np.ndarray
    """(records,) bool: rows that were looked at, and gave no trouble."""


@lru_cache(maxsize=16)
def _opened(url: str, number: int) -> ViewSnapshot | None:
    """Once in a process: it is asked for every shard."""
    try:
        view = open_snapshot(url, number)
    except StoreError:  # it has expired
        return None
    return view if isinstance(view, ViewSnapshot) else None
