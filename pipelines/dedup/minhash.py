"""The nodes `minhash` and `dedup_minhash`: near duplicates of text.

documents or view -> minhash -> dedup_minhash -> view, between the filters and `tokenize`. `minhash` reads every text,
unit by unit, and writes keys as columns; `dedup_minhash` compares the keys of all documents and reads no text. The
method and its sources are in `dedup/minhash_loops.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from manifests.errors import ManifestError
from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json
from pipelines.dedup.survivors import check_prefer, choose_survivors, write_duplicates
from pipelines.filters.op import concerns
from pipelines.node import (
    Attempt,
    Inputs,
    Mistake,
    Node,
    Survey,
    UnitTask,
    ViewNode,
    name_node,
    single_unit,
    units_below,
    with_columns,
    write_decisions,
)
from stores.store import Snapshot, UnitWriter

BLOCK = 512
"""Documents whose keys are computed in one call."""
REASON = "near_duplicate"


@schema
class MinHash(ViewNode):
    """MinHash keys of every text, as columns `NODE.band_00` and so on. Drops nothing.

    With the default numbers two texts that share three quarters of their shingles are found with a probability of
    77 %, texts that share nine tenths with more than 99.9 %. Documents with media get no keys: two of them may have
    like texts and different pictures.
    """

    VERSION = 2

    kind: Literal["minhash"]
    words: int = 5
    """Words of one shingle."""
    bands: int = 14
    """Keys of a document; two documents are near duplicates if they share one."""
    rows: int = 8
    """Hashes in one band; with more rows, fewer documents share a band."""
    domains: tuple[str, ...] = ()
    """Domains of the documents that get keys; empty: all."""

    def __post_init__(self) -> None:
        for name in ("words", "bands", "rows"):
            if not 1 <= getattr(self, name) <= 1024:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 to 1024")

    def survey(self, name: str, inputs: Inputs) -> Survey:
        from pipelines.dedup import minhash_loops

        return Survey(units_below(inputs[self.input].snapshot), {"minhash": minhash_loops.VERSION})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        from pipelines.dedup import minhash_loops  # compiles, and costs the memory of numba

        snapshot = task.inputs[self.input].snapshot
        names = [f"{task.node}.band_{band:02d}" for band in range(self.bands)]
        for ref in task.unit.data.shards:
            keys = np.full((ref.records, self.bands), minhash_loops.NO_KEY)
            kept = snapshot.kept(ref.first, ref.first + ref.records)
            for start in range(0, len(kept), BLOCK):
                block = kept[start : start + BLOCK]
                texts = [self._text(snapshot.record(ordinal)) for ordinal in block.tolist()]
                keys[block - ref.first] = minhash_loops.keys_of(texts, self.words, self.bands, self.rows)
            columns = {name: np.ascontiguousarray(keys[:, i]) for i, name in enumerate(names)}
            write_decisions(writer, attempt, ref, [None] * ref.records, columns=columns)
        return {"bands": names}

    def _text(self, document: Document) -> str:
        """Return the text to compare; "" for a document that gets no keys."""
        compared = document.source != FORGOTTEN and not document.media and concerns(self.domains, document)
        return document.text if compared else ""


@schema
class DedupMinHash(ViewNode):
    """Keep one document of each cluster of near duplicates. Reads the keys of a `minhash` node, no text.

    Clusters are transitive. The result depends on neither the order of the documents nor the cut into shards; a second
    pass over the survivors drops nothing. One unit, because every record is compared with every other.
    """

    READS = frozenset({"view"})

    kind: Literal["dedup_minhash"]
    prefer: str = ""
    """Column of numbers, e.g. `characters` or `NODE.OP.SCORE`: the document with the largest number stays. Of equal
    numbers, and without a column, the document with the smallest id stays."""
    max_memory_mb: int = 2048
    """Memory for keys that are compared together; less means more passes. 60 bytes per document come on top."""

    def __post_init__(self) -> None:
        if self.max_memory_mb < 1:
            raise ValueError(f"max_memory_mb is {self.max_memory_mb}, expected at least 1")

    def check(self, name: str, nodes: Mapping[str, Node]) -> Iterator[Mistake]:
        kind = nodes[self.input].kind
        if kind != "minhash":
            yield Mistake(("input",), f"{self.input} ({kind}) writes no keys to compare", name_node("minhash", nodes))
        yield from check_prefer(self.prefer, self.input, nodes)

    def number_columns(self, name: str) -> Iterator[str]:
        yield f"{name}.cluster_size"

    def survey(self, name: str, inputs: Inputs) -> Survey:
        from pipelines.dedup import minhash_loops

        snapshot = inputs[self.input].snapshot
        units = with_columns(snapshot, units_below(snapshot))
        return Survey((single_unit(units),), {"minhash": minhash_loops.VERSION})

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        from pipelines.dedup import minhash_loops

        snapshot = task.inputs[self.input].snapshot
        names = snapshot.meta.get("bands")
        if names is None:
            fix = "put a node of kind minhash between"
            raise ManifestError(f"{self.input} has no keys to compare", where=task.node, fix=fix)
        total = sum(ref.records for ref in snapshot.shards)
        budget = self.max_memory_mb << 20
        clusters = minhash_loops.clusters(_bands(snapshot, names, total, budget // 2), total, budget // 2)
        survivor, size = choose_survivors(snapshot, clusters, self.prefer)
        write_duplicates(writer, attempt, snapshot, survivor, REASON, {f"{task.node}.cluster_size": size})


def _bands(snapshot: Snapshot, names: Sequence[str], total: int, budget: int) -> Iterator[list[np.ndarray]]:
    """Yield the keys of each band, shard by shard; as many bands are read together as fit `budget` bytes."""
    together = max(1, min(len(names), budget // max(1, 8 * total)))
    for start in range(0, len(names), together):
        group = names[start : start + together]
        pieces: dict[str, list[np.ndarray]] = {name: [] for name in group}
        for _, table in snapshot.tables([*group, "keep"]):
            dropped = ~table["keep"].to_numpy()
            for name in group:
                keys = table[name].to_numpy().copy()
                keys[dropped] = 0  # a document that was dropped must not displace others
                pieces[name].append(keys)
        for name in group:
            yield pieces.pop(name)
