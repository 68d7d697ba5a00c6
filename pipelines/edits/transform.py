"""The node that changes text: `transform` makes a documents store of what it reads, with every text edited.

documents or view -> transform -> filter ... `tokenise`. A document that was edited is still the same one: it keeps id,
source, locator and lineage, its media come with their bytes, and columns `NODE.OP.REASON` say how often it was edited.
Ops work in the order in which they stand, each on what the one before it made. To add one, write a class with `edits`
as `pipelines/edits/edit.py` describes and add its line to `EDITORS`.
"""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

import pyarrow as pa
import pydantic

from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json
from pipelines.build.materialize import kept_documents, same_units
from pipelines.edits import pii, repair
from pipelines.edits.edit import Editor, FactInTheWay, edited
from pipelines.filters.op import concerns
from pipelines.node import DOCUMENTS, Attempt, Inputs, Survey, UnitTask
from stores.store import StoreKind, UnitWriter

EDITORS: dict[str, type] = {
    "repair_unicode": repair.RepairUnicode,
    "mask_private": pii.MaskPrivate,
    "c4_lines": repair.C4Lines,
}

if TYPE_CHECKING:
    AnyEditor = Editor
else:
    AnyEditor = Annotated[Union[tuple(EDITORS.values())], pydantic.Field(discriminator="kind")]  # noqa: UP007

NOTHING_LEFT = "nothing_left"


@schema
class Transform:
    """Every document with the edits of all ops.

    An op whose edits would change what a fact of a document covers leaves this document alone, and that is counted as
    `fact_in_the_way`. A document of which no text and no medium is left is dropped, as `nothing_left`.
    """

    PRODUCT: ClassVar[StoreKind] = "documents"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 1
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["transform"]
    input: str
    ops: tuple[AnyEditor, ...]

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts: dict[str, Json] = {"ops": [[op.kind, op.VERSION] for op in self.ops]}
        facts |= {library: version(library) for op in self.ops for library in op.LIBRARIES}
        return Survey(tuple(same_units(inputs[self.input].snapshot)), facts)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        for document, beside in kept_documents(task.inputs[self.input].snapshot, task.unit.data):
            if document.source == FORGOTTEN:
                continue
            made = attempt(document.locator, self._edited, document, attempt)
            if made is None:
                continue
            changed, counts = made
            if not changed.media and not changed.text.strip():
                attempt.drop(NOTHING_LEFT)
                continue
            attempt.store(document.locator, changed, _beside(beside, self._columns(task.node, counts)))

    def _edited(self, document: Document, attempt: Attempt) -> tuple[Document, dict[str, Counter[str]]]:
        counts: dict[str, Counter[str]] = {}
        for op in self.ops:
            if not concerns(op.domains, document):
                continue
            try:
                document, found = edited(document, op)
            except FactInTheWay:
                attempt.note("fact_in_the_way")
            else:
                counts.setdefault(op.kind, Counter()).update(found)
        return document, counts

    def _columns(self, node: str, counts: dict[str, Counter[str]]) -> dict[str, int | None]:
        """Of an op that did not look at the document, nothing is known."""
        return {
            f"{node}.{op.kind}.{reason}": counts[op.kind][reason] if op.kind in counts else None
            for op in self.ops
            for reason in op.REASONS
        }


def _beside(said: pa.Table | None, columns: dict[str, int | None]) -> pa.Table:
    """One row; a column of this name that was there before, from a run elsewhere, is replaced."""
    counts = {name: pa.array([count], pa.int32()) for name, count in columns.items()}
    before = {} if said is None else dict(zip(said.column_names, said.columns, strict=True))
    return pa.table(before | counts)
