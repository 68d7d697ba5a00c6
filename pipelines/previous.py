"""Columns that a view's node measured in an earlier run, so that changed limits re-decide without measuring again.

`dag/execute.py` finds the node's last complete snapshot and sends it to workers with each task, as a `PreviousView`;
`measured` returns the columns of one shard and a mask of the rows that are still valid. A node compares parameters and
library versions itself before it uses them. Records and content roots are the same with and without a previous view.
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

PREVIOUS_NUMBER = "earlier"
"""Key in the meta of incomplete snapshots: number of the last complete snapshot."""

NOT_LIMITS = ("unusable", "forgotten")
"""Drop reasons that don't depend on a limit; such records are looked at again."""


@dataclass(frozen=True)
class PreviousView:
    """Address of a node's last complete view; small and picklable."""

    url: str
    number: int
    """Number of the snapshot."""
    made_of_now: Mapping[str, Json]
    """`dag.graph.made_of` of the node as it runs now."""

    @classmethod
    def of(cls, store: Store, head: Snapshot | None, made_of: Mapping[str, Json]) -> PreviousView | None:
        if store.kind != "view" or head is None:
            return None
        number = head.number if head.complete else head.meta.get(PREVIOUS_NUMBER)
        return cls(store.url, number, made_of) if isinstance(number, int) else None

    def made_of_then(self) -> Mapping[str, Json] | None:
        """`made_of` of the previous snapshot; None if another kind or version of node made it."""
        view = self._view()
        then = view.meta.get("made_of", {}) if view is not None else {}
        same_code = all(then.get(name) == self.made_of_now[name] for name in ("kind", "version"))
        return then if same_code else None

    def measured(self, snapshot: Snapshot, shard: ShardRef) -> MeasuredRows | None:
        """Previous measurements of one shard of `snapshot`, the node's present input; None if there are none."""
        view = self._view()
        if view is None:
            return None
        try:
            columns = view.columns(shard)
            was_input = view.viewed.columns(shard, ["keep"]).column("keep").to_numpy()
            base = snapshot.base.columns(shard, ["source", "domain"])
        except (StoreError, KeyError):  # a new shard, or one that was deleted while this node ran
            return None
        look_again = np.isin(np.array(columns.column("reason").to_pylist(), object), NOT_LIMITS)
        forgotten = np.array([source == FORGOTTEN for source in base.column("source").to_pylist()], bool)
        return MeasuredRows(columns, base.column("domain").to_pylist(), was_input & ~look_again & ~forgotten)

    def _view(self) -> ViewSnapshot | None:
        return _opened(self.url, self.number)


@dataclass(frozen=True)
class MeasuredRows:
    """Previous columns of one shard, in row order."""

    columns: pa.Table
    domains: Sequence[str]
    valid: np.ndarray
    """(records,) bool: rows that were measured without an error."""


@lru_cache(maxsize=16)
def _opened(url: str, number: int) -> ViewSnapshot | None:
    """Cached per process, because every shard asks for it."""
    try:
        view = open_snapshot(url, number)
    except StoreError:  # the snapshot has expired
        return None
    return view if isinstance(view, ViewSnapshot) else None
