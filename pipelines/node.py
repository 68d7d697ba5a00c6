"""What a node of a DAG is: two small protocols and the values that cross them.

A node class is a frozen dataclass made with `manifests.load.schema`: its fields are its parameters in YAML. It reads
finished products and makes one. A `StoreNode` makes a store out of units that are worked on side by side; a
`FolderNode` makes ordinary files. Neither skips, retries, counts, catches or commits: `pipelines/dag/run.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, ParamSpec, Protocol, TypeVar

import pyarrow as pa

from manifests.records import Json, digest
from pipelines.previous import Earlier
from stores.prefetch import ahead
from stores.store import ShardRef, Snapshot, Store, StoreKind, UnitWriter

P = ParamSpec("P")
R = TypeVar("R")

ProductKind = StoreKind | Literal["folder"]

DOCUMENTS = frozenset({"documents", "view"})
"""What curation reads."""


@dataclass(frozen=True)
class Product:
    """A finished node as its readers see it: small, picklable, enough to open it in any process."""

    node: str
    kind: ProductKind
    place: str
    """URL of the store, or path of the folder."""
    digest: str
    """Of the content, that of a view with all that it looks at: what identities downstream are made of."""
    number: int = 0
    """Of the snapshot; 0 for folders."""

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
    """The piece of work that is skipped, retried and committed."""

    name: str
    """Unique in its node."""
    digest: str
    """Of everything this unit alone reads. Equal digest, version, parameters and facts: equal records."""
    data: Any = None
    """Whatever else the worker needs to know, picklable; decides nothing that `digest` does not."""
    size_bytes: int = 0
    """Of what it reads; 0 where that is not known."""


@dataclass(frozen=True)
class Survey:
    """What a node finds when it looks at its inputs, before any work."""

    units: tuple[Unit, ...]
    """In store order."""
    facts: Json = None
    """What decides the content of all units beside parameters and inputs: library versions, the tokenizer's digest."""


@dataclass(frozen=True)
class Stretch:
    """The records of one unit in a documents or samples store, or in a view over one."""

    start: int
    stop: int
    """Ordinals in the snapshot."""
    shards: tuple[ShardRef, ...]


def units_below(snapshot: Snapshot) -> tuple[Unit, ...]:
    """One unit for each unit of what is read, with its `Stretch`; equal digests where the same records are kept."""
    stretches: dict[str, Stretch] = {}
    for ref in snapshot.shards:
        known = stretches.get(ref.unit, Stretch(ref.first, ref.first, ()))
        stretches[ref.unit] = Stretch(known.start, ref.first + ref.records, (*known.shards, ref))
    units = []
    kepts = ahead(lambda stretch: snapshot.kept(stretch.start, stretch.stop), stretches.values(), snapshot.at_once)
    for (name, stretch), ordinals in zip(stretches.items(), kepts, strict=True):
        kept = ordinals - stretch.start
        content = digest(*(ref.shard for ref in stretch.shards), kept.astype("<i8").tobytes())
        size_bytes = sum(snapshot.base.entry(ref.shard).bytes for ref in stretch.shards)
        units.append(Unit(name.rpartition(".")[0] or name, content, stretch, size_bytes))
    return tuple(units)


def single_unit(units: Iterable[Unit]) -> Unit:
    """Return one unit that stands for all of `units`, for nodes that compare every record with every other."""
    return Unit("all", digest(*(unit.digest for unit in units)))


def with_columns(snapshot: Snapshot, units: Iterable[Unit]) -> Iterator[Unit]:
    """Units of `units_below`, for nodes that read columns: what these say counts, too."""
    for unit in units:
        said = (one for ref in unit.data.shards for one in snapshot.indexes(ref))
        yield replace(unit, digest=digest(unit.digest, *said))


@dataclass(frozen=True)
class Task:
    """One unit on its way to a worker."""

    node: str
    unit: Unit
    inputs: Inputs
    earlier: Earlier | None = None
    """What the node measured last, for those that measure: it saves work, and decides nothing."""


class Attempt(Protocol):
    """The one place that sets a bad record aside, as a node's `work` sees it."""

    def __call__(self, locator: str, make: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R | None:
        """`make(*arguments)`, or None once the record is in quarantine under `locator`."""

    def store(self, locator: str, record: Any, beside: pa.Table | None = None) -> None:
        """Write a record that was made, with a row of what is known beside it; it is set aside, too, where the store
        can't hold it."""

    def drop(self, reason: str) -> None:
        """Count a record that a view drops."""

    def took(self, part: str, records: int, seconds: float) -> None:
        """Say for the run log what a part of the node, an op of a filter, spent on how many records."""

    def note(self, reason: str) -> None:
        """Count something that cost no record, e.g. a link to an image that is not there."""


class StoreNode(Protocol):
    kind: str
    PRODUCT: ClassVar[StoreKind]
    READS: ClassVar[frozenset[str]]
    """Kinds of products it can read."""
    VERSION: ClassVar[int]
    """Raised when the same inputs would give other records."""
    PLACES: ClassVar[frozenset[str]]
    """Parameters that say where things lie; what lies there is in the survey, so they are no part of identity."""

    def reads(self) -> tuple[str, ...]:
        """Names of the nodes it reads; a view names first what it looks at."""

    def survey(self, name: str, inputs: Inputs) -> Survey: ...

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json] | None:
        """Write one unit. Runs in a worker process; a function of its arguments and nothing else.

        Returns what the snapshot's `meta` shall say, if anything: every unit that returns something says the same.
        """


@dataclass(frozen=True)
class Place:
    """Where a folder node puts its files."""

    run: Path
    """The whole run, e.g. runs/quickstart: lists of files are relative to it."""
    node: str

    @property
    def folder(self) -> Path:
        return self.run / self.node


class FolderNode(Protocol):
    kind: str
    PRODUCT: ClassVar[Literal["folder"]]
    READS: ClassVar[frozenset[str]]
    VERSION: ClassVar[int]
    PLACES: ClassVar[frozenset[str]]
    ALONE: ClassVar[bool]
    """Made by one child process that speaks to the terminal itself, rather than by workers."""

    def reads(self) -> tuple[str, ...]: ...

    def survey(self, name: str, inputs: Inputs) -> Survey: ...

    def make(self, task: Task, place: Place) -> list[str]:
        """Make one unit's files; the paths of those that are its content, relative to `place.run`.

        May be killed and called again at any time: it overwrites, or goes on, but never trusts half a file.
        """


Node = StoreNode | FolderNode
