"""The node `transform`: writes a documents store in which every text went through the node's ops.

documents or view -> transform -> documents, before filters and `tokenize`. An edited document keeps id, source,
locator, lineage and media; columns `NODE.OP.REASON` count its edits. Each op reads the result of the op before it. To
add an op, write a class with `edits` (`edits/edit.py`) and add its line to `EDITORS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Literal, Union

import pyarrow as pa
import pydantic

from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Json
from pipelines.build.materialize import kept_documents, same_units
from pipelines.edits import pii, repair
from pipelines.edits.edit import Editor, FactInTheWay, edited
from pipelines.filters.op import concerns
from pipelines.node import Attempt, DocumentsNode, Inputs, Survey, UnitTask
from stores.store import UnitWriter

EDITORS: dict[str, type[Editor]] = {
    "repair_unicode": repair.RepairUnicode,
    "mask_private": pii.MaskPrivate,
    "c4_lines": repair.C4Lines,
}
"""`kind:` of an op in a manifest -> its class."""

if TYPE_CHECKING:
    AnyEditor = Editor
else:
    AnyEditor = Annotated[Union[tuple(EDITORS.values())], pydantic.Field(discriminator="kind")]  # noqa: UP007

NOTHING_LEFT = "nothing_left"


@schema
class Transform(DocumentsNode):
    """Apply the edits of all ops to every document.

    If an edit would change characters that a fact covers, the op skips the document, counted as `fact_in_the_way`. A
    document without text and media after the edits is dropped as `nothing_left`.
    """

    PASSES_COLUMNS = True

    kind: Literal["transform"]
    input: str
    """Node with the documents."""
    ops: tuple[AnyEditor, ...]
    """Edits, in the order in which they are applied."""

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts: dict[str, Json] = {"ops": [[op.kind, op.VERSION] for op in self.ops]}
        facts |= {library: version(library) for op in self.ops for library in op.LIBRARIES}
        return Survey(tuple(same_units(inputs[self.input].snapshot)), facts)

    def number_columns(self, name: str) -> Iterator[str]:
        for op in self.ops:
            yield from (f"{name}.{op.kind}.{reason}" for reason in op.REASONS)

    def work(self, task: UnitTask, writer: UnitWriter, attempt: Attempt) -> None:
        for document, columns in kept_documents(task.inputs[self.input].snapshot, task.unit.data):
            if document.source == FORGOTTEN:
                continue
            made = attempt(document.locator, self._edited, document, attempt)
            if made is None:
                continue
            changed, counts = made
            if not changed.media and not changed.text.strip():
                attempt.drop(NOTHING_LEFT)
                continue
            attempt.store(document.locator, changed, _with_counts(columns, self._columns(task.node, counts)))

    def _edited(self, document: Document, attempt: Attempt) -> tuple[Document, dict[str, Counter[str]]]:
        """Return the document after all ops, and the number of edits by op and reason."""
        counts: dict[str, Counter[str]] = {}
        for op in self.ops:
            if not concerns(op.domains, document):
                continue
            try:
                document, op_counts = edited(document, op)
            except FactInTheWay:
                attempt.note("fact_in_the_way")
            else:
                counts.setdefault(op.kind, Counter()).update(op_counts)
        return document, counts

    def _columns(self, node: str, counts: dict[str, Counter[str]]) -> dict[str, int | None]:
        """Return the count columns of one document; None for an op that did not edit it."""
        return {
            f"{node}.{op.kind}.{reason}": counts[op.kind][reason] if op.kind in counts else None
            for op in self.ops
            for reason in op.REASONS
        }


def _with_counts(columns: pa.Table | None, counts: dict[str, int | None]) -> pa.Table:
    """Return one row of `columns` with the counts added; a column of the same name, from another run, is replaced."""
    added = {name: pa.array([count], pa.int32()) for name, count in counts.items()}
    existing = {} if columns is None else dict(zip(columns.column_names, columns.columns, strict=True))
    return pa.table(existing | added)
