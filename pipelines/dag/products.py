"""Finished products of a run's nodes, and the receipts of those that are folders.

A store knows itself what is committed. For a folder, `receipts/NODE.json` says so: it lists the product's files and is
written when all of them are safe; `receipts/NODE.parts/` lists finished units until then. `execute.py` and
`dry_run.py` ask `finished` whether a node can be skipped; only `execute.py` writes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import file_digest
from pathlib import Path

import pyarrow.compute as pc

from manifests.errors import StoreError
from manifests.files import write_whole
from manifests.records import Json, canonical_json, digest
from pipelines.dag.destination import Destination
from pipelines.dag.results import RecordCounts
from pipelines.node import Inputs, Node, Product
from stores.files.open import open_files
from stores.store import Parent, Snapshot, Store


def finished(
    out: Destination, name: str, node: Node, inputs: Inputs, identity: str
) -> tuple[Product, RecordCounts] | None:
    """Return the product of a node if it was finished under this identity, else None."""
    if node.PRODUCT == "folder":
        receipt = FolderReceipts(out.folder).finished(name, identity)
        return folder_product(out.folder, name, receipt) if receipt else None
    head = store_head(out, name)
    if head is None or not head.complete or head.node != identity or head.parents != parents(node, inputs):
        return None
    return store_product(name, node, inputs, head)


def store_head(out: Destination, name: str) -> Snapshot | None:
    """Return the newest snapshot of a node's store; None if nothing is committed."""
    url = out.store(name)
    return Store.open(url).head() if open_files(url).exists("store.json") else None


def parents(node: Node, inputs: Inputs) -> tuple[Parent, ...]:
    """Return the snapshots that a node's store is made from, in the order in which the node reads them.

    They are compared apart from the identity: an input that was lost and made again has another snapshot number and the
    same content. Then no unit is done anew, but the store has to name the new snapshot.
    """
    return tuple(inputs[name].snapshot.as_parent for name in node.reads() if inputs[name].kind != "folder")


def folder_product(run: Path, name: str, receipt: FolderReceipt) -> tuple[Product, RecordCounts]:
    product = Product(name, "folder", str((run / name).absolute()), receipt.digest)
    return product, RecordCounts(kept=len(receipt.files))


def store_product(name: str, node: Node, inputs: Inputs, snapshot: Snapshot) -> tuple[Product, RecordCounts]:
    """Return a committed snapshot as a product. Counts of a view are those of its own drops, not of views below."""
    content = snapshot.content_root
    if node.PRODUCT == "view":  # its content root covers its own columns only
        content = digest("view", content, inputs[node.reads()[0]].digest)
    product = Product(name, node.PRODUCT, snapshot.url, content, snapshot.number)
    quarantined = Counter(snapshot.quarantined().column("reason").to_pylist())
    if node.PRODUCT != "view":
        return product, RecordCounts(snapshot.counts["records"], quarantined=quarantined)
    before = inputs[node.reads()[0]].snapshot
    dropped = _dropped(snapshot) - (_dropped(before) if before.kind == "view" else Counter())
    return product, RecordCounts(len(snapshot.kept()), dropped, quarantined)


def _dropped(view: Snapshot) -> Counter[str]:
    columns = view.table(["keep", "reason"])
    return Counter(columns.filter(pc.invert(columns.column("keep"))).column("reason").to_pylist())


@dataclass(frozen=True)
class ProductFile:
    path: str
    """Relative to the run's folder."""
    size: int
    sha256: str


@dataclass(frozen=True)
class FolderReceipt:
    """Content of a folder product, or of one unit of it."""

    identity: str
    """Identity of the node that made the files."""
    files: tuple[ProductFile, ...]
    """Sorted by path."""
    made_of: dict[str, Json] = field(default_factory=dict)
    """`graph.made_of`, for a dry run; not covered by the digest."""

    @property
    def digest(self) -> str:
        return digest("folder", *(canonical_json(asdict(file)) for file in self.files))


def product_files(run: Path, paths: Sequence[str]) -> list[ProductFile]:
    """Return size and digest of files that a node has just made, sorted by path.

    Raises:
        StoreError: a file is missing.
    """
    files = []
    for path in sorted(paths):
        try:
            with (run / path).open("rb") as file:
                content = file_digest(file, "sha256").hexdigest()
                files.append(ProductFile(path, os.fstat(file.fileno()).st_size, content))
        except OSError as error:
            message = f"a file that was just made can't be read: {error.strerror}"
            raise StoreError(message, where=path, fix="run again; check the disk") from None
    return files


class FolderReceipts:
    """The receipts of one run's folders."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.folder = run / "receipts"

    def finished(self, node: str, identity: str) -> FolderReceipt | None:
        """Return the receipt if the node was finished under this identity and its files are still there."""
        receipt = self.last(node)
        if receipt is None or receipt.identity != identity:
            return None
        for file in receipt.files:
            path = self.run / file.path
            if not path.is_file() or path.stat().st_size != file.size:
                return None
        return receipt

    def last(self, node: str) -> FolderReceipt | None:
        """Return the receipt of the product that was finished last, under any identity."""
        return self._read(self.folder / f"{node}.json")

    def begin(self, node: str, identity: str) -> dict[str, FolderReceipt]:
        """Make room for a product: keep parts of this identity, move an older product out of the way.

        Returns:
            The finished parts, by name of their unit.
        """
        if self._identity_of_parts(node) == identity:
            return self.parts(node, identity)
        parts = self.folder / f"{node}.parts"
        shutil.rmtree(parts, ignore_errors=True)
        (self.folder / f"{node}.json").unlink(missing_ok=True)
        self._set_aside(node)
        parts.mkdir(parents=True)
        write_whole(parts / "identity", identity)
        return {}

    def parts(self, node: str, identity: str) -> dict[str, FolderReceipt]:
        """Return the finished units of an unfinished product, by name."""
        if self._identity_of_parts(node) != identity:
            return {}
        receipts = {file.stem: self._read(file) for file in (self.folder / f"{node}.parts").glob("*.json")}
        return {name: receipt for name, receipt in receipts.items() if receipt is not None}

    def _identity_of_parts(self, node: str) -> str | None:
        file = self.folder / f"{node}.parts" / "identity"
        return file.read_text() if file.is_file() else None

    def add_part(self, node: str, name: str, receipt: FolderReceipt) -> None:
        write_whole(self.folder / f"{node}.parts" / f"{name}.json", canonical_json(asdict(receipt)))

    def finish(self, node: str, receipt: FolderReceipt) -> None:
        write_whole(self.folder / f"{node}.json", canonical_json(asdict(receipt)))
        shutil.rmtree(self.folder / f"{node}.parts")

    def _set_aside(self, node: str) -> None:
        """Rename an older product instead of deleting it: weights may have taken days."""
        old = self.run / node
        if not old.exists():
            return
        number = 1
        while (kept := self.run / "replaced" / f"{node}-{number}").exists():
            number += 1
        kept.parent.mkdir(exist_ok=True)
        old.rename(kept)

    def _read(self, file: Path) -> FolderReceipt | None:
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            files = tuple(ProductFile(**entry) for entry in data["files"])
            return FolderReceipt(data["identity"], files, data.get("made_of", {}))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise StoreError("is not a receipt", where=str(file), fix="delete it; the node is then run again") from None
