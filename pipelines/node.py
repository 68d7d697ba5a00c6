"""Node classes of a DAG: their bases, and the values that pass between a node and the run.

A node class is a frozen dataclass made with `manifests.load.schema`; its fields are its keys in YAML. It reads finished
products and makes one. A `ViewNode` decides about documents, a `DocumentsNode` makes documents, any other `StoreNode`
makes a store of another kind, a `FolderNode` makes ordinary files. A node neither skips, retries, counts, catches nor
commits: `dag/execute.py` does. `catalogue.py` lists all kinds. A whole view node:

    @schema
    class DropShort(ViewNode):
        \"\"\"Drop documents with fewer than `min_characters` characters, as `short`.\"\"\"

        kind: Literal["drop_short"]
        min_characters: int = 100

        def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
            snapshot = task.inputs[self.input].snapshot
            for shard in task.unit.data.shards:
                lengths = snapshot.base.columns(shard, ["characters"])["characters"].to_pylist()
                reasons = [None if length >= self.min_characters else "short" for length in lengths]
                write_decisions(writer, attempt, shard, reasons)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, ParamSpec, Protocol, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from manifests.fields import KeyPath
from manifests.load import schema
from manifests.records import Json, digest
from pipelines.previous import PreviousView
from stores.prefetch import prefetch
from stores.store import ShardRef, Snapshot, Store, StoreKind, UnitWriter

P = ParamSpec("P")
R = TypeVar("R")

ProductKind = StoreKind | Literal["folder"]
ColumnValues: TypeAlias = Sequence[Any] | np.ndarray | pa.Array
"""One column in row order."""

DOCUMENTS = frozenset({"documents", "view"})
"""Kinds of stores that hold documents."""


@dataclass(frozen=True)
class Product:
    """A finished node as its readers see it: small, picklable, enough to open it in any process."""

    node: str
    kind: ProductKind
    place: str
    """URL of the store, or path of the folder."""
    digest: str
    """Digest of the content; of a view it covers the base and all views below. Identities downstream depend on it."""
    number: int = 0
    """Number of the snapshot; 0 for folders."""

    @property
    def snapshot(self) -> Snapshot:
        return _open(self.place, self.number)

    @property
    def folder(self) -> Path:
        return Path(self.place)


@lru_cache(maxsize=64)
def _open(url: str, number: int) -> Snapshot:
    return Store.open(url).snapshot(number)


Inputs = Mapping[str, Product]
"""Finished products by node name."""


@dataclass(frozen=True)
class Unit:
    """A piece of a node's work: skipped, retried and committed as a whole."""

    name: str
    """Unique in its node."""
    digest: str
    """Digest of everything this unit alone reads. Equal digest, version, parameters and facts: equal records."""
    data: Any = None
    """Further arguments for the worker, picklable. They must follow from what `digest` covers."""
    size_bytes: int = 0
    """Bytes that the unit reads; 0 if not known."""
    records: int = 0
    """Records that the unit reads, for progress within it; 0 if not known."""


@dataclass(frozen=True)
class Survey:
    """Units and facts that a node collects from its inputs before any work."""

    units: tuple[Unit, ...]
    """In store order."""
    facts: Json = None
    """Further values that all units depend on: library versions, the tokenizer's digest."""


@dataclass(frozen=True)
class UnitRange:
    """Records of one unit in a documents or samples store, or in a view over one."""

    start: int
    stop: int
    """First ordinal in the snapshot, and the one after the last."""
    shards: tuple[ShardRef, ...]


def units_below(snapshot: Snapshot) -> tuple[Unit, ...]:
    """One unit per unit of the input, with its `UnitRange` as data; equal digests if the same records are kept."""
    ranges: dict[str, UnitRange] = {}
    for ref in snapshot.shards:
        before = ranges.get(ref.unit, UnitRange(ref.first, ref.first, ()))
        ranges[ref.unit] = UnitRange(before.start, ref.first + ref.records, (*before.shards, ref))
    units = []
    all_kept = prefetch(lambda span: snapshot.kept(span.start, span.stop), ranges.values(), snapshot.at_once)
    for (name, span), ordinals in zip(ranges.items(), all_kept, strict=True):
        kept = ordinals - span.start
        content = digest(*(ref.shard for ref in span.shards), kept.astype("<i8").tobytes())
        size_bytes = sum(snapshot.base.entry(ref.shard).read_bytes for ref in span.shards)
        units.append(Unit(name.rpartition(".")[0] or name, content, span, size_bytes, len(kept)))
    return tuple(units)


def single_unit(units: Iterable[Unit]) -> Unit:
    """Return one unit that stands for all of `units`, for nodes that compare every record with every other."""
    return Unit("all", digest(*(unit.digest for unit in units)))


def with_columns(snapshot: Snapshot, units: Iterable[Unit]) -> Iterator[Unit]:
    """Units of `units_below` whose digests also cover the input's columns: for nodes that read columns."""
    for unit in units:
        columns = (index for ref in unit.data.shards for index in snapshot.index_digests(ref))
        yield replace(unit, digest=digest(unit.digest, *columns))


def write_decisions(
    writer: UnitWriter,
    attempt: Attempt,
    shard: ShardRef,
    reasons: Sequence[str | None],
    scores: Sequence[float | None] | None = None,
    columns: Mapping[str, ColumnValues] | None = None,
) -> None:
    """Write a view's decisions about all records of one shard of its base, in row order, and count the drops.

    Args:
        reasons: (records,) why a record is dropped; None keeps it, or leaves an earlier decision as it is.
        scores: (records,) the number that was compared with a limit, None where there is none. No column without it.
        columns: further columns by name, (records,) each.
    """
    verdicts: dict[str, ColumnValues] = {"keep": [reason is None for reason in reasons], "reason": reasons}
    if scores is not None:
        verdicts["score"] = scores
    writer.columns(shard.shard, verdicts | dict(columns or {}))
    for reason in reasons:
        if reason is not None:
            attempt.drop(reason)


@dataclass(frozen=True)
class UnitTask:
    """Arguments of a node's `work` or `make`: one unit and the products that the node reads. Picklable."""

    node: str
    """Name of the node."""
    unit: Unit
    inputs: Inputs
    previous: PreviousView | None = None
    """For view nodes: measurements of an earlier run. They save work and decide nothing."""


class Attempt(Protocol):
    """Quarantine and counters of one unit, as a node's `work` sees them; made by `dag/unit.py`."""

    def __call__(self, locator: str, make: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R | None:
        """Return `make(*arguments)`; None if it failed and the record is in quarantine under `locator`."""

    def store(self, locator: str, record: Any, columns: pa.Table | None = None) -> None:
        """Write a finished record, with one row of further columns. A record that the store can't hold goes to
        quarantine."""

    def drop(self, reason: str) -> None:
        """Count a record that a view drops."""

    def took(self, part: str, records: int, seconds: float) -> None:
        """Add records and seconds of one part of the node, such as an op of a filter, for the run log."""

    def note(self, reason: str) -> None:
        """Count something that cost no record, e.g. a link to an image that is missing."""


@dataclass(frozen=True)
class Mistake:
    """Something in a manifest that can't work, found before any work starts."""

    place: KeyPath
    """Keys from the node to the value: ("ops", 1, "domains")."""
    message: str
    fix: str


@schema
class NodeBase:
    """Defaults of all node classes."""

    READS: ClassVar[frozenset[str]] = DOCUMENTS
    """Kinds of products it can read."""
    VERSION: ClassVar[int] = 1
    """Raise it when the same inputs would give other records."""
    PLACES: ClassVar[frozenset[str]] = frozenset()
    """Fields that are no part of the identity: paths and limits of memory. The survey covers what a path points to."""
    SIDE_INPUTS: ClassVar[tuple[str, ...]] = ()
    """Other fields than `input` and `inputs` that name nodes: a name, several, or None."""
    PASSES_COLUMNS: ClassVar[bool] = False
    """Columns that earlier nodes added to the documents of `input` stay with its product."""
    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Former key -> present key, or a sentence; for the error about an unknown key."""
    RENAMED_KINDS: ClassVar[Mapping[str, str]] = {}
    """Former kind -> present kind, or a sentence; for the error about an unknown kind."""

    def reads(self) -> tuple[str, ...]:
        """Names of the nodes it reads: `input` or `inputs` first, then the side inputs."""
        names: list[str] = []
        for field in ("input", "inputs", *self.SIDE_INPUTS):
            value = getattr(self, field, None)
            names += [value] if isinstance(value, str) else value or ()
        return tuple(dict.fromkeys(names))

    def survey(self, name: str, inputs: Inputs) -> Survey:
        """Look at the inputs and cut the work into units. `name` is the node's, for messages."""
        raise NotImplementedError

    def check(self, name: str, nodes: Mapping[str, Node]) -> Iterator[Mistake]:
        """Mistakes that a schema can't find, such as an input of a kind that writes no hashes.

        Args:
            name: of this node in `nodes`, all nodes of the manifest.
        """
        return iter(())

    def missing(self, elsewhere: bool) -> Iterator[Mistake]:
        """Files, programs and keys that the node names and this machine doesn't have.

        Args:
            elsewhere: a cluster does the work, which may have keys that this machine doesn't.
        """
        return iter(())

    def number_columns(self, name: str) -> Iterator[str]:
        """Columns of numbers that the node adds to documents. `name` is the node's, the first part of theirs."""
        return iter(())


@schema
class StoreNode(NodeBase):
    """Base of nodes that make a store, unit by unit in worker processes."""

    PRODUCT: ClassVar[StoreKind]
    kind: str

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json] | None:
        """Write one unit. Runs in a worker process and depends on nothing but its arguments.

        Returns entries for the snapshot's `meta`, if any: every unit that returns some returns the same.
        """
        raise NotImplementedError


@schema
class ViewNode(StoreNode):
    """Base of nodes that decide about the documents of `input` and add columns; nothing is copied. One unit per unit of
    the input; a node that compares all documents overrides `survey` with one `single_unit`."""

    PRODUCT: ClassVar[StoreKind] = "view"
    PASSES_COLUMNS: ClassVar[bool] = True

    input: str
    """Node with the documents."""

    def survey(self, name: str, inputs: Inputs) -> Survey:
        return Survey(units_below(inputs[self.input].snapshot))


@schema
class DocumentsNode(StoreNode):
    """Base of nodes that make documents: of raw files, then without `input`, or of other documents."""

    PRODUCT: ClassVar[StoreKind] = "documents"


@dataclass(frozen=True)
class OutputFolder:
    """Folder of a folder node's files."""

    run: Path
    """Folder of the whole run, e.g. runs/quickstart: lists of files are relative to it."""
    node: str

    @property
    def folder(self) -> Path:
        return self.run / self.node


@schema
class FolderNode(NodeBase):
    """Base of nodes that make ordinary files."""

    PRODUCT: ClassVar[Literal["folder"]] = "folder"
    EXCLUSIVE: ClassVar[bool] = False
    """Made by one child process that uses the terminal itself; no worker runs meanwhile."""
    kind: str

    def make(self, task: UnitTask, place: OutputFolder) -> list[str]:
        """Make one unit's files; returns the paths of those that are its content, relative to `place.run`.

        May be killed and called again at any time: it overwrites or continues, but never trusts half a file.
        """
        raise NotImplementedError


Node = StoreNode | FolderNode


def name_node(kind: str, nodes: Mapping[str, Node]) -> str:
    """Return the advice to name a node of a kind, with the names of those in the manifest; for `Mistake.fix`."""
    names = [name for name, node in nodes.items() if node.kind == kind]
    return f"name a node of kind {kind}" + (f": {', '.join(names)}" if names else "")
