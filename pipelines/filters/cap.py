"""The node `cap`: keeps documents up to a share of the whole, e.g. synthetic captions.

documents or view -> cap -> view, before `tokenize`. A mixture's weight decides how often a source is seen as long as
the other sources last; `cap` decides how much of it exists at all, for every plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Literal

import numpy as np

from manifests.load import schema
from manifests.records import digest
from pipelines.node import (
    Attempt,
    Inputs,
    Mistake,
    Node,
    Survey,
    UnitTask,
    ViewNode,
    single_unit,
    units_below,
    with_columns,
    write_decisions,
)
from stores.store import Snapshot, UnitWriter

REASON = "over_share"


@schema
class Cap(ViewNode):
    """Keep documents of `input` up to a share of the sum of `input` and `beside`.

    Documents are kept in the order of a hash of their ids, so that a larger share keeps all that a smaller one kept.
    Reads the index only. One unit.
    """

    SIDE_INPUTS = ("beside",)

    kind: Literal["cap"]
    beside: tuple[str, ...]
    """Names of the nodes with documents that are not capped."""
    share: float
    """Upper bound of the share of `input`, from 0 up to, but without, 1."""
    by: Literal["documents", "characters", "images"] = "documents"
    """Unit of the share."""
    domains: tuple[str, ...] = ()
    """Domains of the documents that count on both sides, and that may be dropped; empty: all."""
    seed: int = 0
    """Part of the hash: another seed keeps other documents."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share is {self.share}, expected 0 up to, but without, 1")
        if not self.beside:
            raise ValueError("beside names no node")

    def check(self, name: str, nodes: Mapping[str, Node]) -> Iterator[Mistake]:
        if self.input in self.beside:
            yield Mistake(("beside",), f"{self.input} is in its own `beside`", "name nodes that are not capped")

    def survey(self, name: str, inputs: Inputs) -> Survey:
        snapshot = inputs[self.input].snapshot
        units = with_columns(snapshot, units_below(snapshot))
        return Survey((single_unit(units),), {"beside": [inputs[node].digest for node in self.beside]})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        snapshot = task.inputs[self.input].snapshot
        share = Fraction(str(self.share))
        others = sum(int(self._sizes(task.inputs[node].snapshot).sum()) for node in self.beside)
        sizes = self._sizes(snapshot)
        ids = snapshot.table(["id"])["id"].to_pylist()
        counted = np.flatnonzero(sizes)
        order = sorted(counted.tolist(), key=lambda row: digest("cap", str(self.seed), ids[row]))
        within = np.cumsum(sizes[order]) <= int(share * others / (1 - share))
        over = np.zeros(len(sizes), bool)
        over[np.array(order, np.int64)[~within]] = True
        for ref in snapshot.shards:
            dropped = over[ref.first : ref.first + ref.records]
            write_decisions(writer, attempt, ref, [REASON if drop else None for drop in dropped])

    def _sizes(self, snapshot: Snapshot) -> np.ndarray:
        """Return (documents,) int64 sizes in units of `by`; 0 for documents that are dropped already or don't count."""
        table = snapshot.table(["keep", "domain", *([] if self.by == "documents" else [self.by])])
        counts = np.array(table["keep"].to_pylist(), bool)
        if self.domains:
            counts &= np.isin(np.array(table["domain"].to_pylist(), object), self.domains)
        size = 1 if self.by == "documents" else table[self.by].to_numpy().astype(np.int64)
        return np.where(counts, size, 0)
