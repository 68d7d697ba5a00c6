"""Nodes that decide without copying: `filter` writes columns over the documents that it looks at.

documents -> filter -> dedup (`dedup/nodes.py`) -> `tokenise` (`build/samples.py`). A view has for every record whether
it is kept and, if not, why: a stable reason and the number that was compared. Ops are in `pipelines/filters`; to add
one, write its class there and add its line to `OPS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

import numpy as np
import pydantic

from manifests.load import schema
from manifests.records import FORGOTTEN, Document, Drop, Json
from pipelines.external_files import file_digest
from pipelines.filters import (
    blocklist,
    caption_rules,
    code_math,
    language,
    media_rules,
    pixels,
    quality,
    reuse,
    rights,
    text_rules,
    video_rules,
)
from pipelines.filters.op import Measured, Op, column, concerns
from pipelines.filters.reuse import MEDIA_LIBRARIES, Known, Said
from pipelines.node import DOCUMENTS, Attempt, Inputs, Survey, Task, units_below
from stores.store import Snapshot, StoreKind, UnitWriter

OPS: dict[str, type] = {
    "too_short": text_rules.TooShort,
    "too_long": text_rules.TooLong,
    "repeated_lines": text_rules.RepeatedLines,
    "repeated_characters": text_rules.RepeatedCharacters,
    "few_letters": text_rules.FewLetters,
    "garbled": text_rules.Garbled,
    "gopher_quality": quality.GopherQuality,
    "gopher_repetition": quality.GopherRepetition,
    "fineweb": quality.FineWeb,
    "c4": quality.C4,
    "language": language.Language,
    "blocked": blocklist.Blocked,
    "code_quality": code_math.CodeQuality,
    "math_content": code_math.MathContent,
    "no_text": media_rules.NoText,
    "image_too_small": media_rules.ImageTooSmall,
    "extreme_aspect": media_rules.ExtremeAspect,
    "flat_image": media_rules.FlatImage,
    "blurred_image": pixels.BlurredImage,
    "low_entropy": pixels.LowEntropy,
    "text_only_image": pixels.TextOnlyImage,
    "animated_image": pixels.AnimatedImage,
    "caption_length": caption_rules.CaptionLength,
    "boilerplate_caption": caption_rules.BoilerplateCaption,
    "video_too_short": media_rules.VideoTooShort,
    "video_too_long": video_rules.VideoTooLong,
    "broken_timestamps": video_rules.BrokenTimestamps,
    "static_video": video_rules.StaticVideo,
    "cut_heavy": video_rules.CutHeavy,
    "rights": rights.Rights,
}


if TYPE_CHECKING:
    AnyOp = Op
else:
    AnyOp = Annotated[Union[tuple(OPS.values())], pydantic.Field(discriminator="kind")]  # noqa: UP007


@schema
class Filter:
    """Ops side by side; the first that drops a document says why.

    Every op looks at every document that reaches the node, also where an earlier one dropped it, and what it measured
    becomes the column `NODE.OP.SCORE`: so a limit can be moved afterwards (`millrace inspect VIEW --what-if`). Put what
    is dear to measure into a filter of its own behind the others: it sees only what they kept.
    """

    PRODUCT: ClassVar[StoreKind] = "view"
    READS: ClassVar[frozenset[str]] = DOCUMENTS
    VERSION: ClassVar[int] = 2
    PLACES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["filter"]
    input: str
    ops: tuple[AnyOp, ...]

    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def survey(self, name: str, inputs: Inputs) -> Survey:
        facts: dict[str, Json] = {"ops": [[op.kind, op.VERSION] for op in self.ops]}
        if any(op.READS_MEDIA for op in self.ops):
            facts |= {library: version(library) for library in MEDIA_LIBRARIES}
        measured = [op for op in self.ops if isinstance(op, Measured)]
        facts |= {library: version(library) for op in measured for library in op.LIBRARIES}
        if files := [[op.kind, file_digest(path, name)] for op in measured for path in op.named_files()]:
            facts["files"] = files
        return Survey(units_below(inputs[self.input].snapshot), facts)

    def work(self, task: Task, writer: UnitWriter, attempt: Attempt) -> Mapping[str, Json]:
        snapshot = task.inputs[self.input].snapshot
        clock: Clock = {op.kind: [0, 0.0] for op in self.ops}
        alike = reuse.measured_alike(self.ops, task.earlier)
        for shard in task.unit.data.shards:
            said = reuse.Told(task, self.ops, alike, snapshot, shard)
            columns = _Columns(task.node, self.ops, shard.records)
            for ordinal in snapshot.kept(shard.first, shard.first + shard.records).tolist():
                row = ordinal - shard.first
                known = said.of(row)
                if len(known) == len(self.ops):  # nothing is left that could fail
                    verdict, scores = self._judge(None, known, snapshot, clock)
                    if verdict is not None:
                        attempt.drop(verdict.reason)
                else:
                    verdict, scores = self._looked_at(snapshot.record(ordinal), known, snapshot, attempt, clock)
                columns.add(row, verdict, scores)
            writer.columns(shard.shard, columns.by_name)
        for kind, (records, seconds) in clock.items():
            attempt.took(kind, records, seconds)
        return {"ops": [_told(task.node, op) for op in self.ops]}

    def _looked_at(
        self, document: Document, known: Known, snapshot: Snapshot, attempt: Attempt, clock: Clock
    ) -> tuple[Drop | None, list[Said]]:
        """An op that fails on a document drops it, too: a view has no other place for it."""
        if document.source == FORGOTTEN:
            attempt.drop("forgotten")
            return Drop("forgotten"), []
        judged = attempt(document.locator, self._judge, document, known, snapshot, clock)
        verdict, scores = judged or (Drop("unusable"), [])
        if verdict is not None:
            attempt.drop(verdict.reason)
        return verdict, scores

    def _judge(
        self, document: Document | None, known: Known, snapshot: Snapshot, clock: Clock
    ) -> tuple[Drop | None, list[Said]]:
        """`document` is needed for ops that `known` does not speak of."""
        filled: Document | None = None
        first: Drop | None = None
        scores: list[Said] = []
        for place, op in enumerate(self.ops):
            if place in known:
                said = known[place]
                scores.append(said)
                first = first or reuse.judged(op, said)
                continue
            assert document is not None
            if not concerns(op.domains, document):
                scores.append(None)
                continue
            if op.READS_MEDIA and filled is None:
                filled = snapshot.filled(document)
            began = perf_counter()
            looked_at = filled if op.READS_MEDIA and filled is not None else document
            if isinstance(op, Measured):
                measured = op.measure(looked_at)
                scores.append(measured)
                judged: Document | Drop | None = op.judge(measured)
            else:
                judged = op.apply(looked_at)
                scores.append(judged.reason if isinstance(judged, Drop) else None)
            if isinstance(judged, Drop):
                first = first or judged
            clock[op.kind][0] += 1
            clock[op.kind][1] += perf_counter() - began
        return first, scores


Clock = dict[str, list[Any]]
"""Documents looked at and seconds by kind of op. What ops share, such as a decoded picture, the first one pays."""


class _Columns:
    """Those of one shard. Ops of one kind measure the same numbers, so they share their columns."""

    def __init__(self, node: str, ops: Sequence[Op], records: int) -> None:
        self._node, self._ops, self._records = node, ops, records
        self.by_name: dict[str, Any] = {"keep": [True] * records, "reason": [None] * records, "score": [None] * records}
        for op in ops:
            for limit in op.LIMITS if isinstance(op, Measured) else ():
                self.by_name[column(node, op.kind, limit.score)] = np.full(records, np.nan)
            for choice in op.CHOICES if isinstance(op, Measured) else ():
                self.by_name[column(node, op.kind, choice.label)] = [None] * records
            if not isinstance(op, Measured):
                self.by_name[column(node, op.kind, "reason")] = [None] * records

    def add(self, row: int, verdict: Drop | None, scores: list[Said]) -> None:
        if verdict is not None:
            self.by_name["keep"][row], self.by_name["reason"][row] = False, verdict.reason
            self.by_name["score"][row] = verdict.score
        for op, said in zip(self._ops, scores, strict=False):
            if isinstance(said, str):
                self.by_name[column(self._node, op.kind, "reason")][row] = said
            else:
                for name, value in (said or {}).items():
                    self.by_name[column(self._node, op.kind, name)][row] = value


def _told(node: str, op: Op) -> dict[str, Json]:
    """What `inspect` needs to decide again with other limits."""
    limits = [
        {
            "column": column(node, op.kind, limit.score),
            "drops": limit.drops,
            "parameter": limit.parameter,
            "at": getattr(op, limit.parameter),
            "reason": limit.reason,
        }
        for limit in (op.LIMITS if isinstance(op, Measured) else ())
    ]
    found: dict[str, Json] = {"kind": op.kind, "domains": list(op.domains), "limits": limits}
    if not isinstance(op, Measured):
        return found | {"column": column(node, op.kind, "reason")}
    choices = [
        {
            "column": column(node, op.kind, choice.label),
            "parameter": choice.parameter,
            "among": list(getattr(op, choice.parameter)),
            "reason": choice.reason,
        }
        for choice in op.CHOICES
    ]
    return found | {"choices": choices} if choices else found
