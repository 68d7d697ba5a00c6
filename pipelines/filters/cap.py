"""The node `cap`: of documents that should stay few, synthetic captions say, no more than a share of the whole.

documents or view -> cap -> `tokenise`. A mixture's weight says how often a source is seen while there is enough of the
others; this says how much of it there is at all, whatever is planned of it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np

from manifests.load import schema
from manifests.records import digest
from pipelines.node import DOCUMENTS, Attempt, Inputs, Survey, UnitTask, single_unit, units_below, with_columns
from stores.store import Snapshot, StoreKind, UnitWriter

OVER_SHARE = "over_share"


@schema
class Cap:
    """Documents of `input` up to a share of what they and those of `beside` are together.

    They come in the order of a hash of their ids, so that a larger share keeps what a smaller one kept. Reads the index
    alone. One unit.
    """

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["cap"]
    input: str
    beside: tuple[str, ...]
    """Nodes with the documents that are not capped."""
    share: float
    by: Literal["documents", "characters", "images"] = "documents"
    """What is counted."""
    domains: tuple[str, ...] = ()
    """Only documents of these domains count, on both sides, and are dropped; none: all."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share is {self.share}, expected 0 up to, but without, 1")
        if not self.beside:
            raise ValueError("beside names no node")

    def reads(self) -> tuple[str, ...]:
        return (self.input, *self.beside)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        snapshot = inputs[self.input].snapshot
        units = with_columns(snapshot, units_below(snapshot))
        return Survey((single_unit(units),), {"beside": [inputs[one].digest for one in self.beside]})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        snapshot = task.inputs[self.input].snapshot
        share = Fraction(str(self.share))
        others = sum(int(self._sizes(task.inputs[one].snapshot).sum()) for one in self.beside)
        sizes = self._sizes(snapshot)
        ids = snapshot.table(["id"])["id"].to_pylist()
        counted = np.flatnonzero(sizes)
        order = sorted(counted.tolist(), key=lambda row: digest("cap", str(self.seed), ids[row]))
        within = np.cumsum(sizes[order]) <= int(share * others / (1 - share))
        over = np.zeros(len(sizes), bool)
        over[np.array(order, np.int64)[~within]] = True
        for ref in snapshot.shards:
            here = over[ref.first : ref.first + ref.records]
            writer.columns(ref.shard, {"keep": ~here, "reason": [OVER_SHARE if one else None for one in here]})
        for _ in range(int(over.sum())):
            attempt.drop(OVER_SHARE)

    def _sizes(self, snapshot: Snapshot) -> np.ndarray:
        """(documents,) int64, 0 of those that are dropped already or don't count."""
        table = snapshot.table(["keep", "domain", *([] if self.by == "documents" else [self.by])])
        counts = np.array(table["keep"].to_pylist(), bool)
        if self.domains:
            counts &= np.isin(np.array(table["domain"].to_pylist(), object), self.domains)
        size = 1 if self.by == "documents" else table[self.by].to_numpy().astype(np.int64)
        return np.where(counts, size, 0)
