"""Which nodes are finished? What stores and receipts say about it, for `dag/execute.py` and for a dry run.

Nothing here writes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.compute as pc

from manifests.records import digest
from pipelines.dag.destination import Out
from pipelines.dag.progress import Tally
from pipelines.dag.receipts import FolderReceipt, Receipts
from pipelines.node import Inputs, Node, Product
from stores.files.open import open_files
from stores.store import Parent, Snapshot, Store


def finished(out: Out, name: str, node: Node, inputs: Inputs, identity: str) -> tuple[Product, Tally] | None:
    """The product of a node, if it was finished under this identity."""
    if node.PRODUCT == "folder":
        receipt = Receipts(out.folder).finished(name, identity)
        return folder_product(out.folder, name, receipt) if receipt else None
    head = store_head(out, name)
    if head is None or not head.complete or head.node != identity or head.parents != parents(node, inputs):
        return None
    return store_product(name, node, inputs, head)


def store_head(out: Out, name: str) -> Snapshot | None:
    place = out.store(name)
    return Store.open(place).head() if open_files(place).exists("store.json") else None


def parents(node: Node, inputs: Inputs) -> tuple[Parent, ...]:
    """The snapshots that a store is made from. One that was made again has another number and the same content: then
    nothing is worked out anew, but the store must name the new ones."""
    return tuple(inputs[name].snapshot.as_parent for name in node.reads() if inputs[name].kind != "folder")


def folder_product(run: Path, name: str, receipt: FolderReceipt) -> tuple[Product, Tally]:
    return Product(name, "folder", str((run / name).absolute()), receipt.digest), Tally(kept=len(receipt.files))


def store_product(name: str, node: Node, inputs: Inputs, snapshot: Snapshot) -> tuple[Product, Tally]:
    content = snapshot.content_root
    if node.PRODUCT == "view":  # its root speaks of its own columns only
        content = digest("view", content, inputs[node.reads()[0]].digest)
    product = Product(name, node.PRODUCT, snapshot.url, content, snapshot.number)
    quarantined = Counter(snapshot.quarantined().column("reason").to_pylist())
    if node.PRODUCT != "view":
        return product, Tally(snapshot.counts["records"], quarantined=quarantined)
    before = inputs[node.reads()[0]].snapshot
    dropped = _reasons(snapshot) - (_reasons(before) if before.kind == "view" else Counter())
    return product, Tally(len(snapshot.kept()), dropped, quarantined)


def _reasons(view: Snapshot) -> Counter[str]:
    columns = view.table(["keep", "reason"])
    return Counter(columns.filter(pc.invert(columns.column("keep"))).column("reason").to_pylist())
