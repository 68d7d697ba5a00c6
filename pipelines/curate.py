"""Nodes that decide without copying: `filter` and `dedup_exact` write columns over the documents they look at.

documents -> filter -> dedup_exact -> `tokenise` (`build.py`). A view has for every record whether it is kept and, if
not, why: a stable reason and the number that was compared. Ops are in `pipelines/ops`, keys of duplicates in
`pipelines/dedup`; to add an op, write its class there and add its line to `OPS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Union

import pydantic

from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Drop, Json, Media, digest
from pipelines.dedup import exact
from pipelines.node import Attempt, Inputs, Survey, Task, Unit, units_below
from pipelines.ops import media, rights, text
from stores.store import ShardRef, Snapshot, StoreKind, UnitWriter

OPS: dict[str, type] = {
    "too_short": text.TooShort,
    "too_long": text.TooLong,
    "repeated_lines": text.RepeatedLines,
    "repeated_characters": text.RepeatedCharacters,
    "few_letters": text.FewLetters,
    "garbled": text.Garbled,
    "no_text": media.NoText,
    "image_too_small": media.ImageTooSmall,
    "extreme_aspect": media.ExtremeAspect,
    "flat_image": media.FlatImage,
    "video_too_short": media.VideoTooShort,
    "rights": rights.Rights,
}


class Op(Protocol):
    VERSION: ClassVar[int]
    READS_MEDIA: ClassVar[bool]
    kind: str

    def apply(self, document: Document) -> Document | Drop: ...


if TYPE_CHECKING:
    AnyOp = Op
else:
    AnyOp = Annotated[Union[tuple(OPS.values())], pydantic.Field(discriminator="kind")]  # noqa: UP007

DOCUMENTS = frozenset({"documents", "view"})


@schema
class Filter:
    """Ops one after the other; the first that drops a document says why."""

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["filter"]
    input: str
    ops: tuple[AnyOp, ...]

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts: dict[str, Json] = {"ops": [[op.kind, op.VERSION] for op in self.ops]}
        if any(op.READS_MEDIA for op in self.ops):
            facts["pillow"] = version("pillow")
        return Survey(units_below(inputs[self.input].snapshot), facts)

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> None:
        snapshot = task.inputs[self.input].snapshot
        for shard in task.unit.data.shards:
            kept = set(snapshot.kept(shard.first, shard.first + shard.records).tolist())
            verdicts = [
                self._verdict(snapshot.record(ordinal), snapshot, attempt) if ordinal in kept else None
                for ordinal in range(shard.first, shard.first + shard.records)
            ]
            columns: dict[str, list[Any]] = {
                "keep": [verdict is None for verdict in verdicts],
                "reason": [verdict.reason if verdict else None for verdict in verdicts],
                "score": [verdict.score if verdict else None for verdict in verdicts],
            }
            writer.columns(shard.shard, columns)

    def _verdict(self, document: Document, snapshot: Snapshot, attempt: Attempt) -> Drop | None:
        """An op that fails on a document drops it, too: a view has no other place for it."""
        if document.source == FORGOTTEN:
            attempt.drop("forgotten")
            return Drop("forgotten")
        verdict = attempt(document.locator, self._judge, document, snapshot) or Drop("unusable")
        if not isinstance(verdict, Drop):
            return None
        attempt.drop(verdict.reason)
        return verdict

    def _judge(self, document: Document, snapshot: Snapshot) -> Document | Drop:
        filled: Document | None = None
        for op in self.ops:
            if op.READS_MEDIA and filled is None:
                filled = _with_payloads(document, snapshot)
            judged = op.apply(filled if op.READS_MEDIA and filled is not None else document)
            if isinstance(judged, Drop):
                return judged
        return document


def _with_payloads(document: Document, snapshot: Snapshot) -> Document:
    parts = (
        replace(part, payload=snapshot.read(part.location)) if isinstance(part, Media) and part.location else part
        for part in document.parts
    )
    return replace(document, parts=tuple(parts))


@schema
class DedupExact:
    """Documents that say and show the same: the one with the smallest id stays.

    One unit, because every record is compared with every other: killed, it begins again.
    """

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["dedup_exact"]
    input: str

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        below = units_below(inputs[self.input].snapshot)
        everything = digest(*(unit.digest for unit in below))
        return Survey((Unit("all", everything),), {"exact": exact.VERSION})

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> None:
        snapshot = task.inputs[self.input].snapshot
        tables = [exact.keys(snapshot.records(ref.first, ref.first + ref.records)) for ref in snapshot.shards]
        for ref, decisions in zip(snapshot.shards, exact.decide(tables), strict=True):
            columns = {name: decisions.column(name).to_pylist() for name in decisions.column_names}
            writer.columns(ref.shard, _over_all(snapshot, ref, columns))
            for reason in columns["reason"]:
                if reason is not None:
                    attempt.drop(reason)


def _over_all(snapshot: Snapshot, ref: ShardRef, kept: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Columns for all records of a shard from those of its kept ones; what was dropped before is not decided again."""
    columns: dict[str, list[Any]] = {name: [name == "keep" or None] * ref.records for name in kept}
    for row, ordinal in enumerate(snapshot.kept(ref.first, ref.first + ref.records).tolist()):
        for name, values in kept.items():
            columns[name][ordinal - ref.first] = values[row]
    return columns
